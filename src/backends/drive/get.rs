//! Ranged reads of objects.

use std::ops::Range;

use bytes::Bytes;
use reqwest::{Method, Response, header};

use super::{
    Drive,
    client::{DriveCall, OnUnauthorized, transport_error},
    limits::QuotaCost,
};
use crate::{
    backends::{
        Body, Key,
        body::{BodySource, collect_resuming, exact_body},
        memory::{object_not_found, object_too_short},
    },
    error::{Error, Kind, Result},
};

/// How often a broken connection is resumed within one range.
const MAX_RESUMES: u32 = 3;

impl Drive {
    pub(super) async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let what = format!("get of {key}");
        if range.is_empty() {
            let meta = self.look_up(key, &what).await?.ok_or_else(|| object_not_found(key))?;
            let fits = range.end <= meta.len();
            return if fits {
                Ok(Bytes::new())
            } else {
                Err(object_too_short(key, meta.len(), &range))
            };
        }
        collect_resuming(&range, MAX_RESUMES, |left| self.body_of(key, left, &range)).await
    }

    /// The body of exactly `left`, which is the unread rest of `requested`.
    pub(super) async fn body_of(
        &self,
        key: &Key,
        left: Range<u64>,
        requested: &Range<u64>,
    ) -> Result<Body> {
        let what = format!("get of {key}");
        let mut searched = false;
        loop {
            let id = self.id_of(key, &what).await?.ok_or_else(|| object_not_found(key))?;
            match self.request_range(key, &id, &left, requested).await? {
                Some(answer) => {
                    let body = DriveBody { answer, what };
                    return Ok(exact_body(body, left.end - left.start));
                }
                None if searched => return Err(object_not_found(key)),
                None => {
                    // Another program may have replaced the saved file, so the key is searched once more.
                    searched = true;
                    self.file_ids.forget(key).await;
                }
            }
        }
    }

    /// Requests exactly `left`; `None` when the file does not exist.
    async fn request_range(
        &self,
        key: &Key,
        id: &str,
        left: &Range<u64>,
        requested: &Range<u64>,
    ) -> Result<Option<Response>> {
        let what = format!("get of {key}");
        let url = self.client.url(&format!("drive/v3/files/{id}"), &[("alt", "media")]);
        let call = DriveCall::new(Method::GET, url, &what, QuotaCost::Download)
            .with_transfer(left.end - left.start);
        let range_header = format!("bytes={}-{}", left.start, left.end - 1);
        let with_range =
            |request: reqwest::RequestBuilder| request.header(header::RANGE, &range_header);
        let answer = self.client.exchange(&call, OnUnauthorized::Resend, with_range).await?;
        match answer.status().as_u16() {
            206 => check_range(&answer, key, requested, left)?,
            // The whole object, from a server that answers 200 when the range covers all of it.
            200 if left.start == 0 && answer.content_length() == Some(left.end) => {}
            200 => return Err(invalid_answer(&what, "sent more than the requested range")),
            404 => return Ok(None),
            416 => {
                return Err(object_too_short(key, total(&answer).unwrap_or(left.start), requested));
            }
            _ => return Err(self.client.refusal(&call, answer).await),
        }
        self.client.record_success(QuotaCost::Download);
        Ok(Some(answer))
    }
}

struct DriveBody {
    answer: Response,
    what: String,
}

impl BodySource for DriveBody {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        self.answer.chunk().await.map_err(|e| transport_error(&self.what, e, true))
    }

    fn length_error(&self, detail: &str) -> Error {
        Error::new(Kind::Network, format!("{} on Google Drive", self.what)).because(detail)
    }
}

/// Checks that a 206 answer has exactly the requested range. A shorter object is reported as too short.
fn check_range(
    answer: &Response,
    key: &Key,
    range: &Range<u64>,
    wanted: &Range<u64>,
) -> Result<()> {
    let received = answer.headers().get(header::CONTENT_RANGE).and_then(|v| v.to_str().ok());
    let received = received.and_then(|text| text.strip_prefix("bytes "));
    let object_len = total(answer);
    if object_len.is_some_and(|total| total < wanted.end) {
        return Err(object_too_short(key, object_len.unwrap_or(0), range));
    }
    let expected = format!("{}-{}/", wanted.start, wanted.end - 1);
    match received {
        Some(text) if text.starts_with(&expected) => Ok(()),
        _ => Err(invalid_answer(&format!("get of {key}"), "sent a different range than requested")),
    }
}

/// The length of the whole object, after the `/` of `Content-Range`.
fn total(answer: &Response) -> Option<u64> {
    let text = answer.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    text.rsplit_once('/')?.1.parse().ok()
}

fn invalid_answer(what: &str, detail: &str) -> Error {
    Error::new(Kind::Unavailable, format!("{what}: Google Drive {detail}"))
}
