//! Ranged reads of objects.

use std::ops::Range;

use bytes::Bytes;
use reqwest::{Method, Response, header};

use super::{
    Drive,
    client::{Call, Unsigned, lost},
    limits::Cost,
};
use crate::{
    backends::{
        Body, Key,
        body::{Answer, exactly, gather},
        memory::{missing, too_short},
    },
    error::{Error, Kind, Result},
};

/// How often a broken connection is resumed within one range.
const BREAKS: u32 = 3;

impl Drive {
    pub(super) async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let what = format!("get of {key}");
        if range.is_empty() {
            let meta = self.look_up(key, &what).await?.ok_or_else(|| missing(key))?;
            let fits = range.end <= meta.len();
            return if fits { Ok(Bytes::new()) } else { Err(too_short(key, meta.len(), &range)) };
        }
        gather(&range, BREAKS, |left| self.body_of(key, left, &range)).await
    }

    /// The body of exactly `left`, which is the unread rest of `asked`.
    pub(super) async fn body_of(
        &self,
        key: &Key,
        left: Range<u64>,
        asked: &Range<u64>,
    ) -> Result<Body> {
        let what = format!("get of {key}");
        let mut searched = false;
        loop {
            let id = self.id_of(key, &what).await?.ok_or_else(|| missing(key))?;
            match self.ask(key, &id, &left, asked).await? {
                Some(answer) => {
                    let reading = Reading { answer, what };
                    return Ok(exactly(reading, left.end - left.start));
                }
                None if searched => return Err(missing(key)),
                None => {
                    // Another program may have replaced the noted file, so the key is searched once more.
                    searched = true;
                    self.known.forget(key).await;
                }
            }
        }
    }

    /// Requests exactly `left`; `None` when the file does not exist.
    async fn ask(
        &self,
        key: &Key,
        id: &str,
        left: &Range<u64>,
        asked: &Range<u64>,
    ) -> Result<Option<Response>> {
        let what = format!("get of {key}");
        let url = self.client.url(&format!("drive/v3/files/{id}"), &[("alt", "media")]);
        let call = Call::new(Method::GET, url, &what, Cost::Download).moving(left.end - left.start);
        let named = format!("bytes={}-{}", left.start, left.end - 1);
        let ask = |request: reqwest::RequestBuilder| request.header(header::RANGE, &named);
        let answer = self.client.exchange(&call, Unsigned::SendAgain, ask).await?;
        match answer.status().as_u16() {
            206 => check_range(&answer, key, asked, left)?,
            // The whole object, from a server that answers 200 when the range covers all of it.
            200 if left.start == 0 && answer.content_length() == Some(left.end) => {}
            200 => return Err(odd(&what, "gives more than the range that was asked for")),
            404 => return Ok(None),
            416 => return Err(too_short(key, total(&answer).unwrap_or(left.start), asked)),
            _ => return Err(self.client.refusal(&call, answer).await),
        }
        self.client.accepted(Cost::Download);
        Ok(Some(answer))
    }
}

struct Reading {
    answer: Response,
    what: String,
}

impl Answer for Reading {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        self.answer.chunk().await.map_err(|e| lost(&self.what, e, true))
    }

    fn wrong(&self, how: &str) -> Error {
        Error::new(Kind::Network, format!("{} on Google Drive", self.what)).because(how)
    }
}

/// Checks that a 206 answer has exactly the requested range. A shorter object is reported as too short.
fn check_range(
    answer: &Response,
    key: &Key,
    range: &Range<u64>,
    wanted: &Range<u64>,
) -> Result<()> {
    let given = answer.headers().get(header::CONTENT_RANGE).and_then(|v| v.to_str().ok());
    let given = given.and_then(|text| text.strip_prefix("bytes "));
    let ends = total(answer);
    if ends.is_some_and(|total| total < wanted.end) {
        return Err(too_short(key, ends.unwrap_or(0), range));
    }
    let exact = format!("{}-{}/", wanted.start, wanted.end - 1);
    match given {
        Some(text) if text.starts_with(&exact) => Ok(()),
        _ => Err(odd(&format!("get of {key}"), "gives another range than was asked for")),
    }
}

/// The length of the whole object, after the `/` of `Content-Range`.
fn total(answer: &Response) -> Option<u64> {
    let text = answer.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    text.rsplit_once('/')?.1.parse().ok()
}

fn odd(what: &str, how: &str) -> Error {
    Error::new(Kind::Unavailable, format!("{what}: Google Drive {how}"))
}
