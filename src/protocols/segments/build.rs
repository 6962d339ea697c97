//! Makes a [`SegmentedFile`] of a list of segments: measures them, and decides how the file is read.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio_util::sync::CancellationToken;

use super::{
    client::ListClient,
    content::{Content, HEAD_LEN, Start, recognise},
    ffmpeg::Muxed,
    file::{ListReload, LiveSource, Parts, SegmentedFile},
    measure::{Measured, Measurer},
    measured::{MeasuredFile, MeasuredSegment},
    open::{check_expected, check_start, content_of},
    outcome::Outcome,
    segment::{Label, Measure, Segment, Source},
    tries::with_tries,
};
use crate::{
    error::{Error, Kind, Result},
    protocols::{RemoteFile, Validator},
};

/// Segments that are measured at once.
const MAX_CONCURRENT: usize = 16;

/// The segments of one file, in order.
#[derive(Debug)]
pub(in crate::protocols) struct FilePlan {
    pub(in crate::protocols) segments: Vec<Segment>,
    /// They are fragments of MP4.
    pub(in crate::protocols) is_mp4: bool,
    /// Fetches the list again.
    pub(in crate::protocols) reload: Option<Arc<dyn ListReload>>,
}

/// A file, and what is known of it.
#[derive(Debug)]
pub(in crate::protocols) struct BuiltFile {
    pub(in crate::protocols) file: Arc<SegmentedFile>,
    pub(in crate::protocols) content: Content,
    len: Option<u64>,
    validator: Option<Validator>,
    modified: Option<std::time::SystemTime>,
}

impl BuiltFile {
    /// The description of the file. `list` is the answer with its list.
    pub(in crate::protocols) fn into_remote(self, list: &RemoteFile, name: String) -> RemoteFile {
        RemoteFile {
            requested_url: list.requested_url.clone(),
            len: self.len,
            supports_ranges: self.len.is_some_and(|len| len > 0),
            validator: self.validator,
            modified: self.modified,
            name: Some(name),
            segments: Some(self.file),
            ..RemoteFile::from_url(list.url.clone())
        }
    }
}

/// The result of measuring one segment.
enum Found {
    Measured(Box<MeasuredSegment>, Option<Content>),
    /// The server does not tell its length.
    Unknown,
    /// It is left out, because the server does not have it.
    Skipped,
    /// The list counted one segment too many.
    Absent,
}

impl FilePlan {
    /// Measures the segments.
    ///
    /// # Errors
    /// Errors of segments that are missing, not complete, or no segments. They name the segment.
    pub(in crate::protocols) async fn build(self, client: &Arc<ListClient>) -> Result<BuiltFile> {
        let outcome = Arc::new(Outcome::default());
        let (gaps, segments): (Vec<_>, Vec<_>) =
            self.segments.into_iter().partition(|segment| segment.is_gap);
        gaps.iter().for_each(|gap| outcome.add_gap(&gap.label));
        if !segments.iter().any(Segment::is_media) {
            return Err(Error::new(Kind::NotFound, "the list has no segments"));
        }
        let plan = Self { segments, is_mp4: self.is_mp4, reload: self.reload };
        match plan.measure(client, &outcome).await? {
            Some(measured) => plan.measured_file(client, outcome, measured).await,
            None => plan.ordered_file(client, outcome).await,
        }
    }

    /// Measures all segments; `None` if the server does not tell the length of one of them.
    async fn measure(
        &self,
        client: &Arc<ListClient>,
        outcome: &Arc<Outcome>,
    ) -> Result<Option<Vec<Found>>> {
        let measurer = Measurer::new(client, self.is_mp4);
        let (first, rest) = {
            let index = self.segments.iter().position(Segment::is_media).unwrap_or(0);
            self.segments.split_at(index + 1)
        };
        // The first segment alone, so that a server without lengths gets one request.
        let mut all = Vec::with_capacity(self.segments.len());
        for segment in first {
            all.push(measure_one(&measurer, client, outcome, segment).await?);
        }
        if all.iter().any(|found| matches!(found, Found::Unknown)) {
            return Ok(None);
        }
        let mut others = stream::iter(0..rest.len())
            .map(|index| measure_one(&measurer, client, outcome, &rest[index]))
            .buffered(MAX_CONCURRENT);
        while let Some(found) = others.try_next().await? {
            if matches!(found, Found::Unknown) {
                return Ok(None);
            }
            all.push(found);
        }
        Ok(Some(all))
    }

    async fn measured_file(
        self,
        client: &Arc<ListClient>,
        outcome: Arc<Outcome>,
        all: Vec<Found>,
    ) -> Result<BuiltFile> {
        let mut content = None;
        let mut segments = Vec::with_capacity(all.len());
        let mut absent: HashMap<usize, Label> = HashMap::new();
        for (found, segment) in all.into_iter().zip(&self.segments) {
            match found {
                Found::Measured(found, own) => {
                    // A segment that must exist begins the next period.
                    if let Some(label) = absent.remove(&segment.track)
                        && segment.may_be_absent
                    {
                        return Err(absent_error(label));
                    }
                    if let Some(own) = own {
                        check_expected(own, content, &segment.source)
                            .map_err(|e| e.with_context(segment.label))?;
                        content.get_or_insert(own);
                    }
                    segments.push(*found);
                }
                Found::Absent => _ = absent.entry(segment.track).or_insert(segment.label),
                Found::Skipped | Found::Unknown => {}
            }
        }
        if content.is_none() {
            content = self.read_content(client, &segments).await?;
        }
        let file = MeasuredFile::new(Arc::clone(client), segments, content, self.reload);
        Ok(BuiltFile {
            len: Some(file.len()),
            validator: Some(file.validator()),
            modified: file.modified(),
            content: content.unwrap_or(Content::Other),
            file: Arc::new(SegmentedFile {
                client: Arc::clone(client),
                outcome,
                content,
                parts: Parts::Measured(Arc::new(file)),
            }),
        })
    }

    /// The container of the first media segment, for segments whose first bytes were not read.
    async fn read_content(
        &self,
        client: &Arc<ListClient>,
        segments: &[MeasuredSegment],
    ) -> Result<Option<Content>> {
        let Some(first) = segments.iter().find(|found| found.segment.is_media()) else {
            return Ok(None);
        };
        let MeasuredSegment { segment, measure, .. } = first;
        if !first.is_remote() {
            return Ok(None);
        }
        let head = 0..measure.len.min(HEAD_LEN as u64);
        let content = with_tries(&client.tries, segment.label, || async {
            let bytes = client.read_range(segment, measure, head.clone()).await?;
            match recognise(&bytes) {
                Start::Disguised(_) => Ok(Content::MpegTs),
                start => content_of(start, &segment.source),
            }
        });
        content.await.map(Some)
    }

    async fn ordered_file(
        self,
        client: &Arc<ListClient>,
        outcome: Arc<Outcome>,
    ) -> Result<BuiltFile> {
        if self.segments.iter().any(|segment| segment.patch.is_some()) {
            let text = "the server does not tell the lengths of segments, so audio and video cannot be joined";
            return Err(Error::new(Kind::Unsupported, text));
        }
        let first = self.segments.iter().find(|segment| segment.is_media());
        let content = match first {
            Some(segment) => start_of(client, segment).await?,
            None => None,
        };
        Ok(BuiltFile {
            len: None,
            validator: None,
            modified: None,
            content: content.unwrap_or(Content::Other),
            file: Arc::new(SegmentedFile {
                client: Arc::clone(client),
                outcome,
                content,
                parts: Parts::Ordered(self.segments),
            }),
        })
    }
}

/// The error of a segment that the list may have counted too many, but that another one follows.
pub(super) fn absent_error(label: Label) -> Error {
    Error::new(Kind::NotFound, format!("{label} does not exist"))
}

/// The container of a segment of unknown length.
pub(in crate::protocols) async fn start_of(
    client: &ListClient,
    segment: &Segment,
) -> Result<Option<Content>> {
    with_tries(&client.tries, segment.label, || async {
        let stream = client.open_whole(segment).await?;
        Ok(check_start(stream, None, true, segment).await?.content)
    })
    .await
}

async fn measure_one(
    measurer: &Measurer<'_>,
    client: &ListClient,
    outcome: &Outcome,
    segment: &Segment,
) -> Result<Found> {
    let measured = with_tries(&client.tries, segment.label, || async {
        match measurer.measure(segment).await {
            Err(e) if segment.may_be_absent && e.kind() == Kind::NotFound => Ok(Found::Absent),
            Ok(Some(Measured { measure, content, points, .. })) => {
                let found = MeasuredSegment { segment: segment.clone(), measure, points };
                Ok(Found::Measured(Box::new(found), content))
            }
            Ok(None) => Ok(Found::Unknown),
            Err(e) => Err(e),
        }
    });
    match measured.await {
        Err(e)
            if client.options.skip_missing
                && segment.is_media()
                && matches!(e.kind(), Kind::NotFound | Kind::Corrupt) =>
        {
            outcome.add_skipped(&e);
            Ok(Found::Skipped)
        }
        measured => measured,
    }
}

/// A file to which segments are added while it is read.
pub(in crate::protocols) fn live_file(
    client: &Arc<ListClient>,
    content: Option<Content>,
    source: Arc<dyn LiveSource>,
) -> BuiltFile {
    BuiltFile {
        len: None,
        validator: None,
        modified: None,
        content: content.unwrap_or(Content::Other),
        file: Arc::new(SegmentedFile {
            client: Arc::clone(client),
            outcome: Arc::default(),
            content,
            parts: Parts::Live(source, CancellationToken::new()),
        }),
    }
}

/// One file of audio and video that the program FFmpeg joins while it is read: of MP4 if both are, else of MPEG-TS.
pub(in crate::protocols) fn muxed_file(
    client: &Arc<ListClient>,
    program: PathBuf,
    inputs: Vec<BuiltFile>,
) -> BuiltFile {
    let is_mp4 = inputs.iter().all(|input| input.content == Content::Mp4);
    let content = if is_mp4 { Content::Mp4 } else { Content::MpegTs };
    let inputs = inputs.into_iter().map(|input| input.file).collect();
    BuiltFile {
        len: None,
        validator: None,
        modified: None,
        content,
        file: Arc::new(SegmentedFile {
            client: Arc::clone(client),
            outcome: Arc::default(),
            content: Some(content),
            parts: Parts::Muxed(Muxed::new(program, inputs, is_mp4)),
        }),
    }
}

/// A file whose bytes are known, as those of merged subtitles.
pub(in crate::protocols) fn inline_file(
    client: &Arc<ListClient>,
    outcome: Outcome,
    content: Content,
    bytes: bytes::Bytes,
) -> BuiltFile {
    let len = bytes.len() as u64;
    let segment = Segment::new(Label::Media(0), Source::Inline(bytes));
    let measure = Measure {
        file_len: len,
        fetched: 0..len,
        len,
        supports_ranges: true,
        validator: None,
        modified: None,
    };
    let segments = vec![MeasuredSegment { segment, measure, points: None }];
    let file = MeasuredFile::new(Arc::clone(client), segments, None, None);
    BuiltFile {
        len: Some(len),
        validator: Some(file.validator()),
        modified: None,
        content,
        file: Arc::new(SegmentedFile {
            client: Arc::clone(client),
            outcome: Arc::new(outcome),
            content: None,
            parts: Parts::Measured(Arc::new(file)),
        }),
    }
}
