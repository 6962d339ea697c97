//! Ranged reads. Checks that a wrong range or a cut-off body is never returned as the requested bytes.

use std::{ops::Range, sync::Arc, time::Duration};

use aws_sdk_s3::{operation::get_object::GetObjectOutput, primitives::ByteStream};
use bytes::Bytes;

use super::{
    client::{CALL_TIMEOUT, S3Client},
    errors::{S3Error, S3Op},
    object::from_sdk_len,
};
use crate::{
    backends::{
        Body, Key,
        body::{BodySource, collect_resuming, exact_body},
        endpoint_error::is_html_type,
        memory::{object_not_found, object_too_short},
    },
    error::{Error, Kind, Result},
};

/// How often a body that broke off is resumed before the caller gets the error.
const MAX_RESUMES: u32 = 1;

impl S3Client {
    pub(super) async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        if range.end <= range.start {
            return self.get_empty(key, &range).await;
        }
        collect_resuming(&range, MAX_RESUMES, |left| self.body_of(key, left, &range)).await
    }

    /// HTTP cannot request an empty range. The existence and length of the object are checked all the same.
    async fn get_empty(&self, key: &Key, range: &Range<u64>) -> Result<Bytes> {
        match self.head(key).await? {
            None => Err(object_not_found(key)),
            Some(len) if range.end > len => Err(object_too_short(key, len, range)),
            Some(_) => Ok(Bytes::new()),
        }
    }

    /// The body of exactly `left`, which is the unread rest of `requested`.
    pub(super) async fn body_of(
        &self,
        key: &Key,
        left: Range<u64>,
        requested: &Range<u64>,
    ) -> Result<Body> {
        let request = self
            .sdk
            .get_object()
            .bucket(&self.bucket)
            .key(self.name(key))
            .range(format!("bytes={}-{}", left.start, left.end - 1))
            .send();
        let answer = match self.call(S3Op::Get, key.as_str(), CALL_TIMEOUT, request).await {
            Ok(answer) => answer,
            Err(failure) if failure.is_missing() => return Err(object_not_found(key)),
            Err(failure) if failure.is_out_of_range() => {
                // A HEAD for the length in the message is worth it, because the object is damaged.
                let len = self.head(key).await?.ok_or_else(|| object_not_found(key))?;
                return Err(object_too_short(key, len, requested));
            }
            Err(failure) => return Err(failure.into()),
        };
        if answer.e_tag.is_none() && is_html_type(answer.content_type()) {
            return Err(S3Error::web_page(S3Op::Get, key.as_str(), &self.address).into());
        }
        match ReceivedRange::of(&answer, &left) {
            ReceivedRange::Requested => {
                let (key, address) = (key.as_str().to_owned(), Arc::clone(&self.address));
                let to_error = move |why| S3Error::no_answer(S3Op::Get, &key, &address, why).into();
                Ok(body(answer.body, left.end - left.start, CALL_TIMEOUT, to_error))
            }
            ReceivedRange::Short { len } => Err(object_too_short(key, len, requested)),
            ReceivedRange::Other(what) => {
                let text =
                    format!("requested {left:?} of object {key}, but {} sent {what}", self.address);
                Err(Error::new(Kind::Unsupported, text)
                    .hint("check that proxies between this machine and the storage support range requests"))
            }
        }
    }
}

/// Reads exactly `len` bytes of an answer, with an idle timeout. `to_error` makes the error for an answer that does not
/// fit.
pub(super) fn body(
    stream: ByteStream,
    len: u64,
    idle_timeout: Duration,
    to_error: impl Fn(String) -> Error + Send + Sync + 'static,
) -> Body {
    exact_body(S3Body { stream, idle_timeout, to_error }, len)
}

struct S3Body<F> {
    stream: ByteStream,
    idle_timeout: Duration,
    to_error: F,
}

impl<F: Fn(String) -> Error + Send + Sync + 'static> BodySource for S3Body<F> {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        match tokio::time::timeout(self.idle_timeout, self.stream.next()).await {
            Ok(next) => next.transpose().map_err(|e| (self.to_error)(e.to_string())),
            Err(_) => Err((self.to_error)(format!("stalled for {:?}", self.idle_timeout))),
        }
    }

    fn length_error(&self, detail: &str) -> Error {
        (self.to_error)(detail.to_owned())
    }
}

/// Which bytes an answer contains, by its headers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReceivedRange {
    Requested,
    /// The object ends before the range does.
    Short {
        len: u64,
    },
    Other(String),
}

impl ReceivedRange {
    pub(super) fn of(answer: &GetObjectOutput, requested: &Range<u64>) -> Self {
        let len = answer.content_length.map(|_| from_sdk_len(answer.content_length));
        Self::classify(answer.content_range(), len, requested)
    }

    /// `range` is the `Content-Range` of a partial answer; without it the answer is the whole object.
    fn classify(range: Option<&str>, len: Option<u64>, requested: &Range<u64>) -> Self {
        let Some(text) = range else {
            return match len {
                Some(len) if requested.start == 0 && len == requested.end => Self::Requested,
                Some(len) if len < requested.end => Self::Short { len },
                _ => Self::Other("the whole object".to_owned()),
            };
        };
        let Some((received, total)) = content_range(text) else {
            return Self::Other(format!("the range {text:?}"));
        };
        let total = total.unwrap_or(u64::MAX);
        let len_matches = len.is_none_or(|len| len == received.end - received.start);
        if received == *requested && total >= requested.end && len_matches {
            Self::Requested
        } else if total < requested.end {
            Self::Short { len: total }
        } else {
            Self::Other(format!("the range {text:?}"))
        }
    }
}

/// The length of the whole object, when the answer states it.
pub(super) fn total(answer: &GetObjectOutput) -> Option<u64> {
    content_range(answer.content_range()?)?.1
}

/// Parses `bytes 0-99/1234` into a half-open range and the total length, `None` for `*`.
fn content_range(text: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, end) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?.checked_add(1)?);
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    (first < end).then_some((first..end, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_requested_range_is_accepted() {
        let classify = |range, len, requested| ReceivedRange::classify(range, len, &requested);
        assert_eq!(classify(Some("bytes 5-9/100"), Some(5), 5..10), ReceivedRange::Requested);
        assert_eq!(classify(Some("bytes 5-9/*"), None, 5..10), ReceivedRange::Requested);
        assert_eq!(
            classify(Some("bytes 5-9/10"), Some(5), 5..11),
            ReceivedRange::Short { len: 10 }
        );
        assert_eq!(classify(None, Some(10), 0..10), ReceivedRange::Requested);
        assert_eq!(classify(None, Some(9), 0..10), ReceivedRange::Short { len: 9 });
        for (range, len, requested) in [
            (Some("bytes 4-8/100"), Some(5), 5..10),
            (Some("bytes 5-8/100"), Some(4), 5..10),
            (Some("bytes 5-9/100"), Some(95), 5..10),
            (Some("bytes 9-5/100"), Some(5), 5..10),
            (Some("bytes 0-18446744073709551615/*"), None, 0..10),
            (Some("lines 5-9/100"), Some(5), 5..10),
            (None, Some(11), 0..10),
            (None, Some(10), 5..10),
            (None, None, 0..10),
        ] {
            assert!(
                matches!(classify(range, len, requested), ReceivedRange::Other(_)),
                "{range:?} {len:?}"
            );
        }
    }
}
