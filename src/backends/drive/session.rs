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
    client::{DriveCall, OnUnauthorized, decode_json},
    files::{FIELDS, FileMeta},
    limits::QuotaCost,
};
use crate::{
    backends::{Key, Payload, payload::PayloadBody},
    error::{Error, Kind, Result},
};

/// Every request to a session except the last carries a multiple of this.
pub(super) const PART_MULTIPLE: u64 = 256 << 10;

/// The URI of an upload session. A secret: with it anyone can write the file without signing in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct UploadSession(Url);

impl TryFrom<String> for UploadSession {
    type Error = url::ParseError;

    fn try_from(text: String) -> Result<Self, url::ParseError> {
        Url::parse(&text).map(Self)
    }
}

impl From<UploadSession> for String {
    fn from(session: UploadSession) -> Self {
        session.0.into()
    }
}

impl fmt::Debug for UploadSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session(..)")
    }
}

/// The answer of an upload session.
#[derive(Debug)]
pub(super) enum SessionStatus {
    /// The server has all bytes and has created the file.
    Complete(FileMeta),
    /// The server has this many bytes.
    Partial(u64),
}

impl Drive {
    /// Starts the upload of a file of `len` bytes with the metadata `metadata`.
    ///
    /// # Errors
    /// `AlreadyExists` when a file with the id in `metadata` exists.
    pub(super) async fn start_session(
        &self,
        key: &Key,
        metadata: &Value,
        len: u64,
    ) -> Result<UploadSession> {
        let query = [("uploadType", "resumable"), ("fields", FIELDS)];
        let url = self.client.url("upload/drive/v3/files", &query);
        let call = DriveCall::new(Method::POST, url, format!("put of {key}"), QuotaCost::Create);
        let started = self.client.send(&call, |request| {
            request
                .header("X-Upload-Content-Type", "application/octet-stream")
                .header("X-Upload-Content-Length", len)
                .json(metadata)
        });
        let started = started.await?;
        let location = started.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
        let session = location.and_then(|text| Url::parse(text).ok()).map(UploadSession);
        session.ok_or_else(|| {
            let text =
                format!("put of {key} on Google Drive: the response names no upload session");
            Error::new(Kind::Unavailable, text)
        })
    }

    /// Sends `payload` as the bytes from offset `at` of a file of `total` bytes.
    ///
    /// # Errors
    /// `SessionExpired` when the session is gone; retryable errors, after which [`Drive::session_status`] returns what
    /// arrived.
    pub(super) async fn send_range(
        &self,
        session: &UploadSession,
        key: &Key,
        payload: &Payload,
        at: u64,
        total: u64,
    ) -> Result<SessionStatus> {
        let range = at..at + payload.len();
        let call = DriveCall::new(
            Method::PUT,
            session.0.clone(),
            format!("put of {key}"),
            QuotaCost::UploadSession,
        )
        .with_idle_timeout();
        let prepare = |request: reqwest::RequestBuilder| {
            request
                .header(header::CONTENT_LENGTH, payload.len())
                .header(header::CONTENT_RANGE, content_range(&range, total))
                .body(Body::wrap(PayloadBody::new(payload.clone(), call.idle_timer())))
        };
        let answer = self.client.exchange(&call, OnUnauthorized::Fail, prepare).await?;
        self.parse_session_response(&call, answer, key).await
    }

    /// Queries how many of the `total` bytes the session has.
    ///
    /// # Errors
    /// As [`Drive::send_range`].
    pub(super) async fn session_status(
        &self,
        session: &UploadSession,
        key: &Key,
        total: u64,
    ) -> Result<SessionStatus> {
        let what = format!("status of the upload of {key}");
        let call = DriveCall::new(Method::PUT, session.0.clone(), what, QuotaCost::UploadSession);
        let prepare = |request: reqwest::RequestBuilder| {
            request
                .header(header::CONTENT_LENGTH, 0)
                .header(header::CONTENT_RANGE, format!("bytes */{total}"))
        };
        let answer = self.client.exchange(&call, OnUnauthorized::Resend, prepare).await?;
        self.parse_session_response(&call, answer, key).await
    }

    /// Cancels a session. After any answer except a server error, the session no longer exists. Without an answer
    /// that is unknown, so it is an error.
    pub(super) async fn cancel_session(&self, session: &UploadSession, key: &Key) -> Result<()> {
        let what = format!("abort of the upload of {key}");
        let call =
            DriveCall::new(Method::DELETE, session.0.clone(), what, QuotaCost::UploadSession);
        let prepare = |request: reqwest::RequestBuilder| request.header(header::CONTENT_LENGTH, 0);
        let answer = self.client.exchange(&call, OnUnauthorized::Resend, prepare).await?;
        // 499 is Google's "client closed request", which means success here.
        if answer.status().is_server_error() {
            return Err(self.client.refusal(&call, answer).await);
        }
        Ok(())
    }

    async fn parse_session_response(
        &self,
        call: &DriveCall,
        answer: Response,
        key: &Key,
    ) -> Result<SessionStatus> {
        match answer.status().as_u16() {
            200 | 201 => decode_json(call, answer).await.map(SessionStatus::Complete),
            308 => received(&answer).map(SessionStatus::Partial).ok_or_else(|| {
                let text =
                    format!("put of {key} on Google Drive: the response has an invalid range");
                Error::new(Kind::Unavailable, text)
            }),
            404 | 410 => {
                let text = format!("the upload of {key} to Google Drive no longer exists");
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
pub(super) fn skip_bytes(payload: &Payload, mut skip: u64) -> Payload {
    let mut remaining = Payload::default();
    for buffer in payload.buffers() {
        let len = buffer.len() as u64;
        if skip < len {
            let at = usize::try_from(skip).expect("below the length of a buffer in memory");
            remaining.push(buffer.slice(at..));
        }
        skip = skip.saturating_sub(len);
    }
    remaining
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn content_ranges_are_written_and_parsed_in_googles_form() {
        assert_eq!(content_range(&(0..10), 10), "bytes 0-9/10");
        assert_eq!(content_range(&(5..6), 10), "bytes 5-5/10");
        assert_eq!(content_range(&(0..0), 0), "bytes */0");
        assert_eq!(range_end("bytes=0-42"), Some(43));
        for bad in ["bytes=1-42", "0-42", "bytes=0-", "bytes=0-99999999999999999999"] {
            assert_eq!(range_end(bad), None, "{bad}");
        }
    }

    #[test]
    fn skip_bytes_returns_the_remaining_bytes() {
        let parts = ["abc", "", "defg", "h"].map(|text| Bytes::from_static(text.as_bytes()));
        let payload: Payload = parts.into_iter().collect();
        for skip in 0..=9 {
            let remaining = skip_bytes(&payload, skip as u64);
            assert_eq!(&remaining.to_bytes()[..], &b"abcdefgh"[skip.min(8)..], "{skip}");
        }
    }
}
