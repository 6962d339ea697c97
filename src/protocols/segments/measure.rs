//! Finds the lengths of segments before they are fetched, so that a stream is a file of known length whose ranges can
//! be fetched in any order.
//!
//! One small request for each segment gives its length and its version. Of a clear segment it reads the first bytes,
//! which also show whether the segment is one; of an encrypted segment the last two blocks, whose padding gives the
//! length of the decrypted bytes.

use std::{collections::HashMap, ops::Range, sync::Arc};

use bytes::Bytes;
use tokio::sync::{Mutex, OnceCell};
use url::Url;

use super::{
    client::ListClient,
    content::{Boxes, Content, HEAD_LEN, LONG_HEAD_LEN, Start, incomplete, recognise, walk_boxes},
    open::{content_of, location, report_cut},
    patch::{MAX_FRAGMENTS, MOOF_HEAD_LEN, PatchPoint, TrackPatch, box_header, box_points},
    segment::{Measure, Segment, Source},
};
use crate::{
    error::{Error, Kind, Result},
    protocols::{
        RemoteFile,
        http::{Sample, SamplePart},
    },
};

/// Bytes at the start of a segment of MP4 that contain its first boxes, as a rule all but the samples.
const MP4_HEAD_LEN: usize = 4096;
/// Length of the longest header of a box in bytes.
const BOX_HEADER_LEN: u64 = 16;
/// Boxes of a segment that are looked for beyond its first bytes.
const MAX_BOX_READS: usize = 4;
/// Bytes at the end of an encrypted segment that are needed for its length.
const TAIL_LEN: u64 = 32;

/// A measured segment.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    pub(super) measure: Measure,
    /// The container, where the first bytes were read.
    pub(super) content: Option<Content>,
    /// The first bytes, where they were read.
    head: Bytes,
    /// The changes of a fragment in a file with several tracks.
    pub(super) points: Option<Arc<Vec<PatchPoint>>>,
}

impl Measured {
    fn new(measure: Measure) -> Self {
        Self { measure, content: None, head: Bytes::new(), points: None }
    }
}

/// The files whose ranges are segments, each of which is measured once.
type SharedFiles = Mutex<HashMap<Url, Arc<OnceCell<Option<RemoteFile>>>>>;

/// Measures the segments of one list.
#[derive(Debug)]
pub(super) struct Measurer<'a> {
    client: &'a ListClient,
    /// Bytes to read at the start of a clear segment.
    head_len: usize,
    files: SharedFiles,
}

impl<'a> Measurer<'a> {
    /// `is_mp4` tells that the segments are fragments of MP4.
    pub(super) fn new(client: &'a ListClient, is_mp4: bool) -> Self {
        let head_len = if is_mp4 { MP4_HEAD_LEN } else { HEAD_LEN };
        Self { client, head_len, files: Mutex::default() }
    }

    /// Measures `segment`; `None` if the server does not tell its length.
    ///
    /// # Errors
    /// `NotFound` for a segment that does not exist, `Corrupt` for one that is not complete or no segment at all.
    pub(super) async fn measure(&self, segment: &Segment) -> Result<Option<Measured>> {
        let (url, range) = match &segment.source {
            Source::Inline(bytes) => return Ok(Some(inline(bytes))),
            Source::Remote(url, range) => (url, range),
        };
        let measured = match (&segment.cipher, range) {
            (None, None) => self.clear(segment, url).await?,
            (Some(_), None) => self.encrypted(segment, url).await?,
            (_, Some(range)) => self.range(segment, url, range.clone()).await?,
        };
        let Some(mut found) = measured else { return Ok(None) };
        if !segment.is_media() {
            return Ok(Some(found));
        }
        let content = found.content.unwrap_or(Content::Other);
        if let Some(reason) = incomplete(content, found.measure.len, &found.head) {
            return Err(incomplete_error(segment, reason));
        }
        if let Some(patch) = segment.patch {
            found.points = Some(Arc::new(self.points(segment, &found, patch).await?));
        } else if content == Content::Mp4 {
            self.check_boxes(segment, &found).await?;
        }
        Ok(Some(found))
    }

    /// Checks that the boxes after the first bytes end with the segment. A segment of very many boxes is not checked to
    /// its end.
    async fn check_boxes(&self, segment: &Segment, found: &Measured) -> Result<()> {
        let len = found.measure.len;
        let mut walked = walk_boxes(&found.head, 0, len);
        for _ in 0..MAX_BOX_READS {
            let Boxes::Continue(pos) = walked else { break };
            let part = pos..len.min(pos + BOX_HEADER_LEN);
            let bytes = self.client.read_range(segment, &found.measure, part).await?;
            walked = walk_boxes(&bytes, pos, len);
        }
        match walked {
            Boxes::TooShort => Err(incomplete_error(segment, "its last box ends after it")),
            _ => Ok(()),
        }
    }

    /// The changes of the fragments in `segment`.
    async fn points(
        &self,
        segment: &Segment,
        found: &Measured,
        patch: TrackPatch,
    ) -> Result<Vec<PatchPoint>> {
        let len = found.measure.len;
        let (mut points, mut fragments, mut reads) = (Vec::new(), 0, 0);
        let (mut part_start, mut part) = (0, found.head.clone());
        let mut pos = 0;
        while pos < len {
            let at = usize::try_from(pos - part_start).unwrap_or(usize::MAX);
            let wanted = MOOF_HEAD_LEN.min(len - pos);
            if ((part.len().saturating_sub(at)) as u64) < wanted {
                reads += 1;
                if reads > 4 * MAX_FRAGMENTS || fragments > MAX_FRAGMENTS {
                    let text = "it has too many fragments";
                    return Err(Error::new(Kind::Unsupported, text));
                }
                part = self.client.read_range(segment, &found.measure, pos..pos + wanted).await?;
                part_start = pos;
                continue;
            }
            let header = box_header(&part[at..])?;
            let sequence = patch.first_sequence.saturating_add(fragments);
            points.extend(box_points(&header, &part[at..], pos, patch.track_id, sequence)?);
            fragments += u32::from(&header.name == b"moof");
            pos = if header.len == 0 { len } else { pos.saturating_add(header.len) };
        }
        match pos > len {
            true => Err(incomplete_error(segment, "its last box ends after it")),
            false => Ok(points),
        }
    }

    async fn sample(&self, url: &Url, part: SamplePart) -> Result<Sample> {
        self.client.http_for(url).await?.sample(&self.client.list_url, url, part).await
    }

    async fn clear(&self, segment: &Segment, url: &Url) -> Result<Option<Measured>> {
        let mut sample = self.sample(url, SamplePart::First(self.head_len as u64)).await?;
        let mut start = recognise(&sample.bytes[..sample.bytes.len().min(HEAD_LEN)]);
        if start == Start::Image {
            sample = self.sample(url, SamplePart::First(LONG_HEAD_LEN as u64)).await?;
            start = recognise(&sample.bytes);
        }
        let Sample { remote, bytes } = sample;
        let (cut, content) = match start {
            Start::Disguised(len) => (len, Some(Content::MpegTs)),
            _ if !segment.is_media() || bytes.is_empty() => (0, None),
            start => (0, Some(content_of(start, &segment.source)?)),
        };
        let Some(len) = remote.len else { return Ok(None) };
        if cut > 0 {
            report_cut(segment, cut);
            // What follows the stream in such a file is not known, so its length is not checked.
            let measure = measure_of(&remote, len, cut..len, len - cut);
            return Ok(Some(Measured::new(measure)));
        }
        let measure = measure_of(&remote, len, 0..len, len);
        Ok(Some(Measured { content, head: bytes, ..Measured::new(measure) }))
    }

    async fn encrypted(&self, segment: &Segment, url: &Url) -> Result<Option<Measured>> {
        let Some(cipher) = &segment.cipher else { return Ok(None) };
        let Sample { remote, bytes } = self.sample(url, SamplePart::Last(TAIL_LEN)).await?;
        let Some(len) = remote.len.filter(|_| remote.supports_ranges) else { return Ok(None) };
        let plain = cipher.plain_len(len, &bytes).map_err(|e| with_location(e, segment))?;
        let measure = measure_of(&remote, len, 0..len, plain);
        Ok(Some(Measured::new(measure)))
    }

    async fn range(
        &self,
        segment: &Segment,
        url: &Url,
        range: Range<u64>,
    ) -> Result<Option<Measured>> {
        let cell = Arc::clone(self.files.lock().await.entry(url.clone()).or_default());
        let file = cell.get_or_try_init(|| async {
            let Sample { remote, .. } = self.sample(url, SamplePart::First(1)).await?;
            Ok::<_, Error>(remote.len.is_some().then_some(remote))
        });
        let Some(remote) = file.await? else { return Ok(None) };
        let file_len = remote.len.unwrap_or_default();
        let at = location(&segment.source);
        if range.end > file_len {
            let (end, text) = (range.end, "the list has a range that ends at byte");
            let text = format!("{at}: {text} {end}, and the file has {file_len} bytes");
            return Err(Error::new(Kind::Corrupt, text));
        }
        if !remote.supports_ranges {
            let text = format!(
                "{at}: the segments are ranges of a file, and the server sends only the whole file"
            );
            return Err(Error::new(Kind::Unsupported, text));
        }
        let mut measure = measure_of(remote, file_len, range.clone(), range.end - range.start);
        if let Some(cipher) = &segment.cipher {
            let tail = range.end.saturating_sub(TAIL_LEN).max(range.start)..range.end;
            let http = self.client.http_for(url).await?;
            let bytes = http.read_range(&self.client.list_url, url, tail).await?;
            let len = range.end - range.start;
            measure.len = cipher.plain_len(len, &bytes).map_err(|e| with_location(e, segment))?;
        }
        Ok(Some(Measured::new(measure)))
    }
}

fn incomplete_error(segment: &Segment, reason: &str) -> Error {
    Error::new(Kind::Corrupt, format!("{}: {reason}", location(&segment.source)))
}

fn with_location(error: Error, segment: &Segment) -> Error {
    error.with_context(location(&segment.source))
}

fn measure_of(remote: &RemoteFile, file_len: u64, fetched: Range<u64>, len: u64) -> Measure {
    Measure {
        file_len,
        fetched,
        len,
        supports_ranges: remote.supports_ranges,
        validator: remote.validator.clone(),
        modified: remote.modified,
    }
}

fn inline(bytes: &Bytes) -> Measured {
    let len = bytes.len() as u64;
    let measure = Measure {
        file_len: len,
        fetched: 0..len,
        len,
        supports_ranges: true,
        validator: None,
        modified: None,
    };
    Measured::new(measure)
}
