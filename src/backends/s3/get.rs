//! Ranged reads. Checks that a wrong range or a cut-off body is never returned as the requested bytes.

use std::{ops::Range, sync::Arc, time::Duration};

use aws_sdk_s3::{operation::get_object::GetObjectOutput, primitives::ByteStream};
use bytes::Bytes;

use super::{
    client::{PATIENCE, Wire},
    errors::{Failure, Op},
    object::unsigned,
};
use crate::{
    backends::{
        Body, Key,
        body::{Answer, exactly, gather},
        memory::{missing, too_short},
        unfit::is_page,
    },
    error::{Error, Kind, Result},
};

/// How often a body that broke off is resumed before the caller gets the error.
const RESUMES: u32 = 1;

impl Wire {
    pub(super) async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        if range.end <= range.start {
            return self.get_nothing(key, &range).await;
        }
        gather(&range, RESUMES, |left| self.body_of(key, left, &range)).await
    }

    /// HTTP cannot request an empty range. The existence and length of the object are checked all the same.
    async fn get_nothing(&self, key: &Key, range: &Range<u64>) -> Result<Bytes> {
        match self.head(key).await? {
            None => Err(missing(key)),
            Some(len) if range.end > len => Err(too_short(key, len, range)),
            Some(_) => Ok(Bytes::new()),
        }
    }

    /// The body of exactly `left`, which is the unread rest of `asked`.
    pub(super) async fn body_of(
        &self,
        key: &Key,
        left: Range<u64>,
        asked: &Range<u64>,
    ) -> Result<Body> {
        let request = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(self.name(key))
            .range(format!("bytes={}-{}", left.start, left.end - 1))
            .send();
        let answer = match self.call(Op::Get, key.as_str(), PATIENCE, request).await {
            Ok(answer) => answer,
            Err(failure) if failure.is_missing() => return Err(missing(key)),
            Err(failure) if failure.is_past_the_end() => {
                // A HEAD for the length in the message is worth it, because the object is damaged.
                let len = self.head(key).await?.ok_or_else(|| missing(key))?;
                return Err(too_short(key, len, asked));
            }
            Err(failure) => return Err(failure.into()),
        };
        if answer.e_tag.is_none() && is_page(answer.content_type()) {
            return Err(Failure::page(Op::Get, key.as_str(), &self.place).into());
        }
        match Sent::of(&answer, &left) {
            Sent::Asked => {
                let (key, place) = (key.as_str().to_owned(), Arc::clone(&self.place));
                let cut = move |why| Failure::silence(Op::Get, &key, &place, why).into();
                Ok(body(answer.body, left.end - left.start, PATIENCE, cut))
            }
            Sent::Short { len } => Err(too_short(key, len, asked)),
            Sent::Other(what) => {
                let text =
                    format!("asked for {left:?} of object {key}, {} sent {what}", self.place);
                Err(Error::new(Kind::Unsupported, text)
                    .hint("whatever is between here and the storage must let ranges through"))
            }
        }
    }
}

/// Reads exactly `len` bytes of an answer, with the idle timeout `silence`. `cut` makes the error for an answer that
/// does not fit.
pub(super) fn body(
    stream: ByteStream,
    len: u64,
    silence: Duration,
    cut: impl Fn(String) -> Error + Send + Sync + 'static,
) -> Body {
    exactly(Reading { stream, silence, cut }, len)
}

struct Reading<F> {
    stream: ByteStream,
    silence: Duration,
    cut: F,
}

impl<F: Fn(String) -> Error + Send + Sync + 'static> Answer for Reading<F> {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        match tokio::time::timeout(self.silence, self.stream.next()).await {
            Ok(next) => next.transpose().map_err(|e| (self.cut)(e.to_string())),
            Err(_) => Err((self.cut)(format!("nothing came for {:?}", self.silence))),
        }
    }

    fn wrong(&self, how: &str) -> Error {
        (self.cut)(how.to_owned())
    }
}

/// Which bytes an answer contains, by its headers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Asked,
    /// The object ends before the range does.
    Short {
        len: u64,
    },
    Other(String),
}

impl Sent {
    pub(super) fn of(answer: &GetObjectOutput, asked: &Range<u64>) -> Self {
        let len = answer.content_length.map(|_| unsigned(answer.content_length));
        Self::by(answer.content_range(), len, asked)
    }

    /// `range` is the `Content-Range` of a partial answer; without it the answer is the whole object.
    fn by(range: Option<&str>, len: Option<u64>, asked: &Range<u64>) -> Self {
        let Some(text) = range else {
            return match len {
                Some(len) if asked.start == 0 && len == asked.end => Self::Asked,
                Some(len) if len < asked.end => Self::Short { len },
                _ => Self::Other("the whole object".to_owned()),
            };
        };
        let Some((sent, total)) = content_range(text) else {
            return Self::Other(format!("the range {text:?}"));
        };
        let total = total.unwrap_or(u64::MAX);
        let as_long = len.is_none_or(|len| len == sent.end - sent.start);
        if sent == *asked && total >= asked.end && as_long {
            Self::Asked
        } else if total < asked.end {
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
    fn only_the_range_that_was_asked_for_is_taken() {
        let by = |range, len, asked| Sent::by(range, len, &asked);
        assert_eq!(by(Some("bytes 5-9/100"), Some(5), 5..10), Sent::Asked);
        assert_eq!(by(Some("bytes 5-9/*"), None, 5..10), Sent::Asked);
        assert_eq!(by(Some("bytes 5-9/10"), Some(5), 5..11), Sent::Short { len: 10 });
        assert_eq!(by(None, Some(10), 0..10), Sent::Asked);
        assert_eq!(by(None, Some(9), 0..10), Sent::Short { len: 9 });
        for (range, len, asked) in [
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
            assert!(matches!(by(range, len, asked), Sent::Other(_)), "{range:?} {len:?}");
        }
    }
}
