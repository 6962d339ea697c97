//! Resumable upload sessions: start, send, query the status.
//!
//! A session takes the bytes of one file in order. Only the byte count that the server reports is trusted: bytes that
//! were sent and not confirmed are sent again. Every request except the last carries a multiple of 256 KiB.

use std::{fmt, ops::Range};

use reqwest::{Body, Method, Response, header};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;

use super::{
    Drive,
    client::{Call, Unsigned, decode},
    files::{FIELDS, Meta},
    limits::Cost,
};
use crate::{
    backends::{Key, Payload, payload::PayloadBody},
    error::{Error, Kind, Result},
};

/// Every request to a session except the last carries a multiple of this.
pub(super) const GRAIN: u64 = 256 << 10;

/// The URI of an upload session. A secret: with it anyone can write the file without signing in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Session(Url);

impl TryFrom<String> for Session {
    type Error = url::ParseError;

    fn try_from(text: String) -> Result<Self, url::ParseError> {
        Url::parse(&text).map(Self)
    }
}

impl From<Session> for String {
    fn from(session: Session) -> Self {
        session.0.into()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session(..)")
    }
}

/// The answer of an upload session.
#[derive(Debug)]
pub(super) enum Sent {
    /// The server has all bytes and has created the file.
    Made(Meta),
    /// The server has this many bytes.
    Received(u64),
}

impl Drive {
    /// Starts the upload of a file of `len` bytes with the metadata `description`.
    ///
    /// # Errors
    /// `AlreadyExists` when a file with the id in `description` exists.
    pub(super) async fn start(&self, key: &Key, description: &Value, len: u64) -> Result<Session> {
        let query = [("uploadType", "resumable"), ("fields", FIELDS)];
        let url = self.client.url("upload/drive/v3/files", &query);
        let call = Call::new(Method::POST, url, format!("put of {key}"), Cost::Create);
        let begun = self.client.send(&call, |request| {
            request
                .header("X-Upload-Content-Type", "application/octet-stream")
                .header("X-Upload-Content-Length", len)
                .json(description)
        });
        let begun = begun.await?;
        let location = begun.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
        let session = location.and_then(|text| Url::parse(text).ok()).map(Session);
        session.ok_or_else(|| {
            let text = format!("put of {key} on Google Drive: the server named no session");
            Error::new(Kind::Unavailable, text)
        })
    }

    /// Sends `payload` as the bytes from offset `at` of a file of `total` bytes.
    ///
    /// # Errors
    /// `SessionExpired` when the session is gone; retryable errors, after which [`Drive::status`] returns what
    /// arrived.
    pub(super) async fn send(
        &self,
        session: &Session,
        key: &Key,
        payload: &Payload,
        at: u64,
        total: u64,
    ) -> Result<Sent> {
        let range = at..at + payload.len();
        let call =
            Call::new(Method::PUT, session.0.clone(), format!("put of {key}"), Cost::Session)
                .sending();
        let shape = |request: reqwest::RequestBuilder| {
            request
                .header(header::CONTENT_LENGTH, payload.len())
                .header(header::CONTENT_RANGE, content_range(&range, total))
                .body(Body::wrap(PayloadBody::new(payload.clone(), call.progress())))
        };
        let answer = self.client.exchange(&call, Unsigned::AskFirst, shape).await?;
        self.understand(&call, answer, key).await
    }

    /// Queries how many of the `total` bytes the session has.
    ///
    /// # Errors
    /// As [`Drive::send`].
    pub(super) async fn status(&self, session: &Session, key: &Key, total: u64) -> Result<Sent> {
        let what = format!("state of the upload of {key}");
        let call = Call::new(Method::PUT, session.0.clone(), what, Cost::Session);
        let shape = |request: reqwest::RequestBuilder| {
            request
                .header(header::CONTENT_LENGTH, 0)
                .header(header::CONTENT_RANGE, format!("bytes */{total}"))
        };
        let answer = self.client.exchange(&call, Unsigned::SendAgain, shape).await?;
        self.understand(&call, answer, key).await
    }

    /// Cancels a session. After any answer except a server error, the session no longer exists. Without an answer
    /// that is unknown, so it is an error.
    pub(super) async fn give_up(&self, session: &Session, key: &Key) -> Result<()> {
        let what = format!("end of the upload of {key}");
        let call = Call::new(Method::DELETE, session.0.clone(), what, Cost::Session);
        let shape = |request: reqwest::RequestBuilder| request.header(header::CONTENT_LENGTH, 0);
        let answer = self.client.exchange(&call, Unsigned::SendAgain, shape).await?;
        // 499 is Google's "client closed request", which means success here.
        if answer.status().is_server_error() {
            return Err(self.client.refusal(&call, answer).await);
        }
        Ok(())
    }

    async fn understand(&self, call: &Call, answer: Response, key: &Key) -> Result<Sent> {
        match answer.status().as_u16() {
            200 | 201 => decode(call, answer).await.map(Sent::Made),
            308 => received(&answer).map(Sent::Received).ok_or_else(|| {
                let text = format!("put of {key} on Google Drive: a range that is none");
                Error::new(Kind::Unavailable, text)
            }),
            404 | 410 => {
                let text = format!("the upload of {key} to Google Drive is not there any more");
                Err(Error::new(Kind::SessionExpired, text))
            }
            _ => Err(self.client.refusal(call, answer).await),
        }
    }
}

fn content_range(range: &Range<u64>, total: u64) -> String {
    match range.end.checked_sub(1) {
        Some(last) if !range.is_empty() => format!("bytes {}-{last}/{total}", range.start),
        // An empty file has no byte range; the total tells the server that it is complete.
        _ => format!("bytes */{total}"),
    }
}

/// The number of bytes received according to a 308 answer; 0 when it has no range.
fn received(answer: &Response) -> Option<u64> {
    let Some(range) = answer.headers().get(header::RANGE) else { return Some(0) };
    range_end(range.to_str().ok()?)
}

fn range_end(text: &str) -> Option<u64> {
    text.trim().strip_prefix("bytes=")?.strip_prefix("0-")?.parse::<u64>().ok()?.checked_add(1)
}

/// `payload` without its first `skip` bytes.
pub(super) fn rest_of(payload: &Payload, mut skip: u64) -> Payload {
    let mut rest = Payload::default();
    for part in payload.parts() {
        let len = part.len() as u64;
        if skip < len {
            let at = usize::try_from(skip).expect("below the length of a part in memory");
            rest.push(part.slice(at..));
        }
        skip = skip.saturating_sub(len);
    }
    rest
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn ranges_are_written_and_read_as_google_has_them() {
        assert_eq!(content_range(&(0..10), 10), "bytes 0-9/10");
        assert_eq!(content_range(&(5..6), 10), "bytes 5-5/10");
        assert_eq!(content_range(&(0..0), 0), "bytes */0");
        assert_eq!(range_end("bytes=0-42"), Some(43));
        for bad in ["bytes=1-42", "0-42", "bytes=0-", "bytes=0-99999999999999999999"] {
            assert_eq!(range_end(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_rest_of_a_payload_shares_its_memory() {
        let parts = ["abc", "", "defg", "h"].map(|text| Bytes::from_static(text.as_bytes()));
        let payload: Payload = parts.into_iter().collect();
        for skip in 0..=9 {
            let rest = rest_of(&payload, skip as u64);
            assert_eq!(&rest.joined()[..], &b"abcdefgh"[skip.min(8)..], "{skip}");
        }
    }
}
