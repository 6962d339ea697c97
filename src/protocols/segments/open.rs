//! Opens segments: a range of one whose length is known, or a whole one.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::stream;
use url::Url;

use super::{
    adaptors::{Peeked, decrypting, patching, peek, skipping},
    cipher::{Cipher, Decryptor},
    client::ListClient,
    content::{Content, HEAD_LEN, LONG_HEAD_LEN, Start, recognise},
    patch::PatchPoint,
    segment::{Measure, Segment, Source},
};
use crate::{
    error::{Error, Kind, Result},
    protocols::{ByteStream, Protocol as _, RangeRequest, RemoteFile, display_url, next_bytes},
};

impl ListClient {
    /// Opens `plain`, a range of the decrypted bytes of a measured segment, at `url`.
    pub(super) async fn open_range(
        &self,
        url: &Url,
        segment: &Segment,
        measure: &Measure,
        plain: Range<u64>,
    ) -> Result<ByteStream> {
        let base = measure.fetched.start;
        let Some(cipher) = segment.cipher else {
            return self.open_fetched(url, measure, base + plain.start..base + plain.end).await;
        };
        let len = measure.fetched.end - base;
        let encrypted = Cipher::encrypted_range(&plain, len);
        let range = base + encrypted.start..base + encrypted.end;
        let stream = self.open_fetched(url, measure, range).await?;
        Ok(decrypting(stream, Decryptor::range(cipher, &plain)))
    }

    /// Opens a range of the file at `url`, as it is on the server.
    async fn open_fetched(
        &self,
        url: &Url,
        measure: &Measure,
        range: Range<u64>,
    ) -> Result<ByteStream> {
        let remote = RemoteFile {
            requested_url: self.list_url.clone(),
            len: Some(measure.file_len),
            supports_ranges: measure.supports_ranges,
            validator: measure.validator.clone(),
            modified: measure.modified,
            ..RemoteFile::from_url(url.clone())
        };
        let http = self.http_for(url).await?;
        if measure.supports_ranges {
            return http.open(&remote, range.into()).await;
        }
        let stream = http.open(&remote, (0..range.end).into()).await?;
        Ok(skipping(stream, range.start))
    }

    /// Opens a whole segment of unknown length.
    pub(super) async fn open_whole(&self, segment: &Segment) -> Result<ByteStream> {
        let (url, range) = match &segment.source {
            Source::Inline(bytes) => return Ok(one_part(bytes.clone())),
            Source::Remote(url, range) => (url, range),
        };
        let remote = RemoteFile {
            requested_url: self.list_url.clone(),
            supports_ranges: range.is_some(),
            ..RemoteFile::from_url(url.clone())
        };
        let request = range.clone().map_or(RangeRequest::ALL, RangeRequest::from);
        let stream = self.http_for(url).await?.open(&remote, request).await?;
        Ok(match segment.cipher {
            Some(cipher) => decrypting(stream, Decryptor::whole(cipher)),
            None => stream,
        })
    }

    /// Reads a range of a measured segment into memory.
    pub(super) async fn read_range(
        &self,
        segment: &Segment,
        measure: &Measure,
        plain: Range<u64>,
    ) -> Result<Bytes> {
        let Source::Remote(url, _) = &segment.source else {
            return Err(Error::new(Kind::Internal, "a segment in the list is not fetched"));
        };
        let mut stream = self.open_range(url, segment, measure, plain).await?;
        let mut all = Vec::new();
        while let Some(bytes) = next_bytes(&mut stream).await.transpose()? {
            all.extend_from_slice(&bytes);
        }
        Ok(all.into())
    }
}

pub(super) fn one_part(bytes: Bytes) -> ByteStream {
    Box::pin(stream::iter((!bytes.is_empty()).then_some(Ok(bytes))))
}

/// A segment from its first byte on, whose first bytes are those of its container.
pub(super) struct CheckedStart {
    pub(super) stream: ByteStream,
    pub(super) content: Option<Content>,
}

/// Checks the first bytes of a segment. `expected` is the container of the other segments. An image in front is cut off
/// if `may_cut`; the length of the segment must not be known then.
///
/// # Errors
/// `Corrupt` for bytes that are no part of a stream.
pub(super) async fn check_start(
    stream: ByteStream,
    expected: Option<Content>,
    may_cut: bool,
    segment: &Segment,
) -> Result<CheckedStart> {
    let Peeked { mut head, mut stream, has_failed } = peek(stream, HEAD_LEN).await;
    if has_failed {
        // The reader of the stream gets the error.
        return Ok(CheckedStart { stream, content: None });
    }
    let mut start = recognise(&head);
    if start == Start::Image && may_cut {
        Peeked { head, stream, .. } = peek(stream, LONG_HEAD_LEN).await;
        start = recognise(&head);
    }
    let content = match start {
        Start::Disguised(len) if may_cut => {
            report_cut(segment, len);
            stream = skipping(stream, len);
            Content::MpegTs
        }
        start => content_of(start, &segment.source)?,
    };
    check_expected(content, expected, &segment.source)?;
    Ok(CheckedStart { stream, content: Some(content) })
}

/// The container, from the start of a segment.
pub(super) fn content_of(start: Start, source: &Source) -> Result<Content> {
    let false_error = |what: &str| {
        let text = format!("{}: the server sent {what} instead of the segment", location(source));
        Error::new(Kind::Corrupt, text)
    };
    match start {
        Start::Content(Content::Xml) => Err(false_error("XML")),
        Start::Content(content) => Ok(content),
        Start::False(what) => Err(false_error(what)),
        Start::Disguised(_) | Start::Image => Err(false_error("an image")),
    }
}

/// Refuses a segment whose container is not that of the others. Of unknown containers nothing is expected.
pub(super) fn check_expected(
    content: Content,
    expected: Option<Content>,
    source: &Source,
) -> Result<()> {
    let is_expected = match expected {
        None | Some(Content::Other) => true,
        Some(Content::PackedAudio(_)) => matches!(content, Content::PackedAudio(_)),
        Some(expected) => content == expected,
    };
    match expected {
        Some(expected) if !is_expected => {
            let location = location(source);
            let text = format!(
                "{location}: the content is {content}, and that of the others is {expected}"
            );
            Err(Error::new(Kind::Corrupt, text))
        }
        _ => Ok(()),
    }
}

pub(super) fn report_cut(segment: &Segment, len: u64) {
    tracing::warn!("{}: an image of {len} bytes before the segment is cut off", segment.label);
}

pub(super) fn location(source: &Source) -> String {
    match source {
        Source::Inline(_) => "the list".to_owned(),
        Source::Remote(url, _) => display_url(url),
    }
}

/// The stream of a range of a segment with the changes of [`PatchPoint`]s.
pub(super) fn patched(
    stream: ByteStream,
    start: u64,
    points: Option<Arc<Vec<PatchPoint>>>,
) -> ByteStream {
    match points {
        Some(points) => patching(stream, start, points),
        None => stream,
    }
}
