//! Reads small files whole, and a few bytes at the start or the end of a file: for lists of segments, their keys, and
//! the lengths of segments.
//!
//! These files are named by another file, the list. Therefore each request has two URLs: that of the file, and that of
//! the list, to whose host the user's login and headers may be sent.

use std::{ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use url::Url;

use super::{
    Http,
    body::{ExactRange, RangeOpener},
    client::RequestSpec,
    errors::{response_error, status_error},
    response_head::{FirstOutcome, ResponseHead},
    transport::HttpResponse,
};
use crate::{
    error::{Error, Kind, Result},
    protocols::{
        ByteStream, FetchOptions, OutgoingOptions, Protocol as _, RangeRequest, RemoteFile,
        display_url, next_bytes,
    },
};

/// The part of a file that [`Http::sample`] reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::protocols) enum SamplePart {
    /// This many bytes at the start, or the whole file if it is shorter.
    First(u64),
    /// The same at the end.
    Last(u64),
}

impl SamplePart {
    fn range_in(self, len: u64) -> Range<u64> {
        match self {
            Self::First(count) => 0..count.min(len),
            Self::Last(count) => len.saturating_sub(count)..len,
        }
    }
}

/// A few bytes of a file, and its metadata.
#[derive(Debug)]
pub(in crate::protocols) struct Sample {
    pub(in crate::protocols) remote: RemoteFile,
    /// The bytes. None if the server sends only the whole file and the end was requested.
    pub(in crate::protocols) bytes: Bytes,
}

impl Http {
    /// The same protocol, with the same cookies, for addresses of the public network only.
    ///
    /// # Errors
    /// As [`Http::new`].
    pub(in crate::protocols) fn only_public(&self) -> Result<Self> {
        let options = self.client.options();
        let outgoing = OutgoingOptions { only_public: true, ..options.outgoing.clone() };
        let options = Arc::new(FetchOptions { outgoing, ..options.clone() });
        Ok(Self { client: Arc::new(self.client.with_shared_cookies(options)?) })
    }

    /// Reads the whole file at `url`, of at most `max_len` bytes.
    ///
    /// # Errors
    /// As [`Protocol::probe`](crate::protocols::Protocol::probe); `Unsupported` for a longer file.
    pub(in crate::protocols) async fn read_whole(
        &self,
        requested_url: &Url,
        url: &Url,
        max_len: usize,
    ) -> Result<(RemoteFile, Bytes)> {
        let spec = RequestSpec { requested_url, ..RequestSpec::first(url, None) };
        let (at, response) = self.client.send_following_redirects(spec).await?;
        match ResponseHead::new(&response).interpret_first(requested_url, &at, false) {
            FirstOutcome::File(remote, end) => {
                let stream = self.body_of(&remote, end, response);
                let bytes = collect(stream, max_len, &at).await?;
                Ok((*remote, bytes))
            }
            FirstOutcome::Refused(error) | FirstOutcome::Unclear(error) => Err(error),
        }
    }

    /// Reads `range` of the file at `url`.
    ///
    /// # Errors
    /// As [`Protocol::open`](crate::protocols::Protocol::open).
    pub(in crate::protocols) async fn read_range(
        &self,
        requested_url: &Url,
        url: &Url,
        range: Range<u64>,
    ) -> Result<Bytes> {
        let remote = RemoteFile {
            requested_url: requested_url.clone(),
            supports_ranges: true,
            ..RemoteFile::from_url(url.clone())
        };
        let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let stream = self.open(&remote, range.into()).await?;
        collect(stream, len, url).await
    }

    /// Requests a part of the file at `url`, and reads it.
    ///
    /// # Errors
    /// As [`Protocol::probe`](crate::protocols::Protocol::probe).
    pub(in crate::protocols) async fn sample(
        &self,
        requested_url: &Url,
        url: &Url,
        part: SamplePart,
    ) -> Result<Sample> {
        let spec = match part {
            SamplePart::First(count) => RequestSpec::first(url, Some((0..count).into())),
            SamplePart::Last(count) => {
                RequestSpec { suffix_len: Some(count), ..RequestSpec::first(url, None) }
            }
        };
        let spec = RequestSpec { requested_url, ..spec };
        let (at, response) = self.client.send_following_redirects(spec).await?;
        let (remote, count) =
            ResponseHead::new(&response).interpret_sample(requested_url, &at, part)?;
        let mut body = response.into_body();
        let mut bytes = BytesMut::new();
        while (bytes.len() as u64) < count {
            match body.next().await {
                Some(Ok(part)) => bytes.extend_from_slice(&part),
                Some(Err(failure)) => return Err(response_error(&at, &failure)),
                None if remote.len.is_none() => break,
                None => {
                    let text = format!("{}: the response ended early", display_url(&at));
                    return Err(Error::new(Kind::Network, text));
                }
            }
        }
        bytes.truncate(usize::try_from(count).unwrap_or(usize::MAX));
        Ok(Sample { remote, bytes: bytes.freeze() })
    }

    /// The stream of a response with the whole file, whose first part ends at `end`.
    pub(super) fn body_of(
        &self,
        remote: &RemoteFile,
        end: Option<u64>,
        response: HttpResponse,
    ) -> ByteStream {
        let range = RangeRequest { start: 0, end: remote.len };
        match range.is_empty() {
            true => Box::pin(ExactRange::empty()),
            false => {
                let opener = RangeOpener::new(&self.client, remote);
                Box::pin(ExactRange::new(opener, range, response.into_body(), end))
            }
        }
    }
}

impl ResponseHead<'_> {
    /// Interprets the response to a request for `part`. Returns the file, and how many bytes of the body belong to the
    /// part.
    fn interpret_sample(
        &self,
        requested_url: &Url,
        url: &Url,
        part: SamplePart,
    ) -> Result<(RemoteFile, u64)> {
        self.check_transfer_coding(url)?;
        let (len, count, supports_ranges) = match self.status().as_u16() {
            206 => match self.content_range() {
                Some((sent, Some(total))) if sent == part.range_in(total) => {
                    (Some(total), sent.end - sent.start, true)
                }
                _ => return Err(self.unusable(url, "sent a range that was not requested")),
            },
            200 | 203 if self.is_whole() => {
                let len = self.content_length();
                let count = match part {
                    SamplePart::First(count) => len.map_or(count, |len| len.min(count)),
                    SamplePart::Last(_) => 0,
                };
                (len, count, false)
            }
            200 | 203 => return Err(self.unusable(url, "sent a part as the whole file")),
            // A range request for an empty file cannot be satisfied.
            416 if self.unsatisfied_range_total() == Some(0) => (Some(0), 0, false),
            204 => (Some(0), 0, false),
            _ => return Err(status_error(url, self.status(), self.headers())),
        };
        let remote = RemoteFile {
            requested_url: requested_url.clone(),
            len,
            supports_ranges,
            validator: self.validator(len),
            modified: self.modified(),
            ..RemoteFile::from_url(url.clone())
        };
        Ok((remote, count))
    }
}

async fn collect(mut stream: ByteStream, max_len: usize, url: &Url) -> Result<Bytes> {
    let mut all = BytesMut::new();
    while let Some(bytes) = next_bytes(&mut stream).await.transpose()? {
        if all.len() + bytes.len() > max_len {
            let text = format!("{} has more than {max_len} bytes", display_url(url));
            return Err(Error::new(Kind::Unsupported, text));
        }
        all.extend_from_slice(&bytes);
    }
    Ok(all.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_lies_within_the_file() {
        assert_eq!(SamplePart::First(377).range_in(1000), 0..377);
        assert_eq!(SamplePart::First(377).range_in(16), 0..16);
        assert_eq!(SamplePart::Last(32).range_in(1000), 968..1000);
        assert_eq!(SamplePart::Last(32).range_in(16), 0..16);
    }
}
