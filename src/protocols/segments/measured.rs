//! A file whose segments have known lengths: any range of it can be read, and it has one version.

use std::{collections::HashMap, fmt::Write as _, ops::Range, sync::Arc, time::SystemTime};

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use futures_util::stream;
use parking_lot::RwLock;
use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use super::{
    client::ListClient,
    content::{Content, HEAD_LEN},
    file::ListReload,
    open::{check_start, one_part, patched},
    patch::PatchPoint,
    segment::{Label, Measure, Segment, Source},
    tries::with_tries,
};
use crate::{
    error::{Error, Kind, Result},
    protocols::{ByteStream, RangeRequest, Validator, next_bytes},
};

/// A segment and its length.
#[derive(Debug)]
pub(super) struct MeasuredSegment {
    pub(super) segment: Segment,
    pub(super) measure: Measure,
    pub(super) points: Option<Arc<Vec<PatchPoint>>>,
}

/// A file of segments with known lengths.
#[derive(Debug)]
pub(super) struct MeasuredFile {
    client: Arc<ListClient>,
    segments: Vec<MeasuredSegment>,
    /// Position in the file where each segment ends.
    ends: Vec<u64>,
    /// The container of all media segments.
    content: Option<Content>,
    reload: Option<Arc<dyn ListReload>>,
    urls: RwLock<NewUrls>,
    reloading: Mutex<()>,
}

/// The URLs of a list that was fetched again. `None` until then.
#[derive(Debug, Default)]
struct NewUrls {
    /// How often the list was fetched again.
    generation: u64,
    by_index: Option<Vec<Url>>,
}

impl MeasuredFile {
    pub(super) fn new(
        client: Arc<ListClient>,
        segments: Vec<MeasuredSegment>,
        content: Option<Content>,
        reload: Option<Arc<dyn ListReload>>,
    ) -> Self {
        let mut end: u64 = 0;
        let ends = segments.iter().map(|segment| {
            end = end.saturating_add(segment.measure.len);
            end
        });
        let ends = ends.collect();
        let (urls, reloading) = (RwLock::default(), Mutex::default());
        Self { client, segments, ends, content, reload, urls, reloading }
    }

    pub(super) fn len(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Identifies the version of the whole: a hash over paths, ranges, lengths and versions of all segments. Queries do
    /// not count, because they may hold tokens that change.
    pub(super) fn validator(&self) -> Validator {
        let mut hash = Context::new(&SHA256);
        let mut line = String::new();
        for MeasuredSegment { segment, measure, .. } in &self.segments {
            line.clear();
            match &segment.source {
                Source::Inline(bytes) => hash.update(bytes),
                Source::Remote(url, _) => line.push_str(url.path()),
            }
            let Range { start, end } = measure.fetched;
            let version = measure.validator.as_ref().map(|validator| match validator {
                Validator::ETag(tag) => tag.as_str(),
                Validator::Modified(date, _) => date.as_str(),
            });
            let version = version.unwrap_or_default();
            let written = writeln!(line, " {start} {end} {} {version}", measure.len);
            written.expect("a String takes all text");
            hash.update(line.as_bytes());
        }
        Validator::ETag(format!("\"{}\"", crate::catalog::hex(hash.finish().as_ref())))
    }

    /// The date of the newest segment, if all have dates.
    pub(super) fn modified(&self) -> Option<SystemTime> {
        let remote = self.segments.iter().filter(|found| found.is_remote());
        let dates: Option<Vec<_>> = remote.map(|found| found.measure.modified).collect();
        dates?.into_iter().max()
    }

    /// Opens a range of the file.
    pub(super) async fn open(file: &Arc<Self>, range: RangeRequest) -> Result<ByteStream> {
        let len = file.len();
        let end = range.end.unwrap_or(len);
        if range.start > len || end > len {
            let text = format!("the stream ends after {len} bytes, before the end of the range");
            return Err(Error::new(Kind::Corrupt, text));
        }
        let mut reader = RangeReader { file: Arc::clone(file), pos: range.start, end, next: None };
        let Some(current) = reader.open_next().await? else { return Ok(one_part(Bytes::new())) };
        let state = (reader, Some(current));
        Ok(Box::pin(stream::try_unfold(state, |(mut reader, mut current)| async move {
            while let Some(mut part) = current.take() {
                match part.next().await? {
                    Some(bytes) => return Ok(Some((bytes, (reader, Some(part))))),
                    None => current = reader.open_next().await?,
                }
            }
            Ok(None)
        })))
    }

    /// The segment at `pos`, and the part of it up to `end`.
    fn part_at(&self, pos: u64, end: u64) -> Option<(usize, Range<u64>)> {
        let index = self.ends.partition_point(|segment_end| *segment_end <= pos);
        let segment_end = *self.ends.get(index)?;
        let start = segment_end - self.segments[index].measure.len;
        (pos < end).then(|| (index, pos - start..end.min(segment_end) - start))
    }

    /// Opens a part of one segment. If its URL has expired, the list is fetched again.
    async fn open_part(&self, index: usize, part: Range<u64>) -> Result<ByteStream> {
        let found = &self.segments[index];
        let label = found.segment.label;
        let opened =
            with_tries(&self.client.tries, label, || self.open_or_reload(found, index, &part));
        opened.await?.map_err(|e: Error| e.with_context(label))
    }

    /// One try to open a part of a segment. A failure that the caller repeats is the inner error: the caller knows what
    /// the server's other connections do.
    async fn open_or_reload(
        &self,
        found: &MeasuredSegment,
        index: usize,
        part: &Range<u64>,
    ) -> Result<Result<ByteStream>> {
        let (generation, url) = self.url_of(index);
        let error = match self.try_open(found, url.as_ref(), part).await {
            Err(error) if may_have_expired(&error) => error,
            Err(error) if error.kind().is_retryable() => return Ok(Err(error)),
            opened => return opened.map(Ok),
        };
        let Some(reload) = &self.reload else { return Err(error) };
        if !self.renew_urls(&**reload, generation).await? {
            return Err(error);
        }
        let (_, url) = self.url_of(index);
        self.try_open(found, url.as_ref(), part).await.map(Ok)
    }

    async fn try_open(
        &self,
        found: &MeasuredSegment,
        url: Option<&Url>,
        part: &Range<u64>,
    ) -> Result<ByteStream> {
        let MeasuredSegment { segment, measure, points } = found;
        let url = match (&segment.source, url) {
            (Source::Inline(bytes), _) => {
                let bound = |pos| usize::try_from(pos).unwrap_or(usize::MAX);
                return Ok(one_part(bytes.slice(bound(part.start)..bound(part.end))));
            }
            (Source::Remote(url, _), None) => url,
            (Source::Remote(..), Some(url)) => url,
        };
        let mut stream = self.client.open_range(url, segment, measure, part.clone()).await?;
        // Of a range that ends within the first bytes, too little is known.
        let has_head = part.end - part.start >= measure.len.min(HEAD_LEN as u64);
        if segment.is_media() && part.start == 0 && has_head {
            stream = check_start(stream, self.content, false, segment).await?.stream;
        }
        Ok(patched(stream, part.start, points.clone()))
    }

    /// The current URL of a segment if the list was fetched again, and how often it was.
    fn url_of(&self, index: usize) -> (u64, Option<Url>) {
        let urls = self.urls.read();
        (urls.generation, urls.by_index.as_ref().map(|urls| urls[index].clone()))
    }

    /// Fetches the list again, unless that has happened since `generation`. Whether there are other URLs now.
    async fn renew_urls(&self, reload: &dyn ListReload, generation: u64) -> Result<bool> {
        let _one_at_a_time = self.reloading.lock().await;
        let (now, _) = self.url_of(0);
        if now > generation {
            return Ok(true);
        }
        tracing::info!("a segment cannot be fetched any more: fetching its list again");
        let fresh = reload.reload().await?;
        let Some(urls) = self.match_urls(&fresh) else {
            let text = "the list of segments has changed since the download started";
            return Err(Error::new(Kind::Changed, text));
        };
        let mut current = self.urls.write();
        let is_new = match &current.by_index {
            Some(before) => *before != urls,
            None => self.segments.iter().zip(&urls).any(|(found, url)| {
                matches!(&found.segment.source, Source::Remote(before, _) if before != url)
            }),
        };
        *current = NewUrls { generation: now + 1, by_index: Some(urls) };
        Ok(is_new)
    }

    /// The new URLs of all segments; `None` if a segment is missing from the list.
    fn match_urls(&self, fresh: &[Segment]) -> Option<Vec<Url>> {
        let key = |segment: &Segment| (segment.track, segment.label);
        let by_key: HashMap<_, _> =
            fresh.iter().map(|segment| (key(segment), &segment.source)).collect();
        let url = |found: &MeasuredSegment| match &found.segment.source {
            // It is never requested.
            Source::Inline(_) => Some(self.client.list_url.clone()),
            Source::Remote(_, range) => match by_key.get(&key(&found.segment))? {
                Source::Remote(url, fresh_range) if range == fresh_range => Some(url.clone()),
                _ => None,
            },
        };
        self.segments.iter().map(url).collect()
    }
}

/// Whether an error may mean that the URL of a segment was valid for some time only.
fn may_have_expired(error: &Error) -> bool {
    matches!(error.kind(), Kind::NotFound | Kind::PermissionDenied | Kind::Unauthenticated)
}

impl MeasuredSegment {
    pub(super) fn is_remote(&self) -> bool {
        matches!(self.segment.source, Source::Remote(..))
    }

    pub(super) fn label(&self) -> Label {
        self.segment.label
    }
}

/// Reads a range of a file, segment after segment. While one is read, the next one is opened.
struct RangeReader {
    file: Arc<MeasuredFile>,
    /// Position in the file of the next segment to read.
    pos: u64,
    end: u64,
    /// The next segment, which is being opened.
    next: Option<AbortOnDropHandle<Result<ByteStream>>>,
}

/// A part of a segment that is being read.
struct OpenPart {
    label: Label,
    stream: ByteStream,
    /// Bytes that are still missing.
    left: u64,
}

impl RangeReader {
    async fn open_next(&mut self) -> Result<Option<OpenPart>> {
        let Some((index, part)) = self.file.part_at(self.pos, self.end) else { return Ok(None) };
        let (left, label) = (part.end - part.start, self.file.segments[index].label());
        let opened = match self.next.take() {
            None => self.file.open_part(index, part).await,
            Some(opening) => match opening.await {
                Ok(Ok(stream)) => Ok(stream),
                // The server may serve no further connection while it serves the one before.
                Ok(Err(error)) if error.kind().is_retryable() => {
                    self.file.open_part(index, part).await
                }
                Ok(Err(error)) => Err(error),
                Err(e) => Err(Error::new(Kind::Internal, "opening a segment panicked").because(e)),
            },
        };
        let stream = opened?;
        self.pos += left;
        self.next = self.open_ahead();
        Ok(Some(OpenPart { label, stream, left }))
    }

    /// Starts to open the segment at `pos`, unless only one connection is allowed.
    fn open_ahead(&self) -> Option<AbortOnDropHandle<Result<ByteStream>>> {
        let (index, part) = self.file.part_at(self.pos, self.end)?;
        if self.file.client.options.connections < 2 || !self.file.segments[index].is_remote() {
            return None;
        }
        let file = Arc::clone(&self.file);
        let opening = tokio::spawn(async move { file.open_part(index, part).await });
        Some(AbortOnDropHandle::new(opening))
    }
}

impl OpenPart {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let bytes = next_bytes(&mut self.stream).await.transpose();
        let bytes = bytes.map_err(|e| e.with_context(self.label))?;
        match bytes {
            Some(bytes) => {
                self.left = self.left.saturating_sub(bytes.len() as u64);
                Ok(Some(bytes))
            }
            None if self.left == 0 => Ok(None),
            None => {
                let text = format!("{}: it ended {} bytes early", self.label, self.left);
                Err(Error::new(Kind::Network, text))
            }
        }
    }
}
