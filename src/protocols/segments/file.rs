//! A file made of segments, as [`Protocol::open`](crate::protocols::Protocol::open) reads it.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use tokio_util::sync::CancellationToken;

use super::{
    client::ListClient,
    content::Content,
    ffmpeg::Muxed,
    measured::MeasuredFile,
    ordered::OrderedFetch,
    outcome::{Outcome, StreamSummary},
    segment::Segment,
};
use crate::{
    error::{Error, Kind, Result},
    protocols::{ByteStream, RangeRequest},
};

/// A file made of segments.
pub struct SegmentedFile {
    pub(super) client: Arc<ListClient>,
    pub(super) outcome: Arc<Outcome>,
    pub(super) content: Option<Content>,
    pub(super) parts: Parts,
}

/// How the segments of a file are known.
pub(super) enum Parts {
    /// With their lengths, so that ranges can be fetched in any order.
    Measured(Arc<MeasuredFile>),
    /// Without lengths.
    Ordered(Vec<Segment>),
    /// Files that FFmpeg joins.
    Muxed(Muxed),
    /// As they appear.
    Live(Arc<dyn LiveSource>, CancellationToken),
}

/// A list to which segments are added while it is read.
#[async_trait]
pub(in crate::protocols) trait LiveSource: Send + Sync + fmt::Debug {
    /// The segments from now on. The stream ends with the list, or when `stop` is cancelled. What is missing is counted
    /// in `outcome`.
    async fn follow(
        &self,
        outcome: Arc<Outcome>,
        stop: CancellationToken,
    ) -> Result<stream::BoxStream<'static, Segment>>;
}

/// Fetches the list of a file again: for URLs that have expired.
#[async_trait]
pub(in crate::protocols) trait ListReload: Send + Sync + fmt::Debug {
    /// The segments of the file as the list has them now.
    ///
    /// # Errors
    /// Errors of the server.
    async fn reload(&self) -> Result<Vec<Segment>>;
}

impl SegmentedFile {
    /// Opens `range`, which starts at 0 unless the lengths are known.
    ///
    /// # Errors
    /// As [`Protocol::open`](crate::protocols::Protocol::open).
    pub(in crate::protocols) async fn open(&self, range: RangeRequest) -> Result<ByteStream> {
        let segments = match &self.parts {
            Parts::Measured(file) => return MeasuredFile::open(file, range).await,
            _ if range.start > 0 => {
                let text = "the lengths of the segments are not known, so the stream is read from its start";
                return Err(Error::new(Kind::Unsupported, text));
            }
            Parts::Muxed(muxed) => return muxed.open().await,
            Parts::Ordered(segments) => stream::iter(segments.clone()).boxed(),
            Parts::Live(source, stop) => {
                source.follow(Arc::clone(&self.outcome), stop.clone()).await?
            }
        };
        let fetch = OrderedFetch {
            client: Arc::clone(&self.client),
            outcome: Arc::clone(&self.outcome),
            content: self.content,
            is_live: self.is_live(),
        };
        Ok(fetch.stream(segments))
    }

    /// What is missing from the bytes that were read.
    #[must_use]
    pub fn summary(&self) -> StreamSummary {
        match &self.parts {
            Parts::Muxed(muxed) => {
                let inputs = muxed.inputs.iter().map(|input| input.summary());
                inputs.fold(StreamSummary::default(), StreamSummary::add)
            }
            _ => self.outcome.summary(),
        }
    }

    /// Whether segments are still added. The length of such a file is unknown, and its bytes cannot be fetched twice.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self.parts, Parts::Live(..))
    }

    /// Ends the recording of a live stream: its bytes end with the segments that are already listed.
    pub fn finish(&self) {
        if let Parts::Live(_, stop) = &self.parts {
            stop.cancel();
        }
    }
}

impl fmt::Debug for SegmentedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.parts {
            Parts::Measured(_) => "measured",
            Parts::Ordered(_) => "ordered",
            Parts::Muxed(_) => "muxed",
            Parts::Live(..) => "live",
        };
        f.debug_struct("SegmentedFile").field("parts", &kind).finish_non_exhaustive()
    }
}

impl PartialEq for SegmentedFile {
    /// Two files are equal if their versions are, as far as they are known.
    fn eq(&self, other: &Self) -> bool {
        match (&self.parts, &other.parts) {
            (Parts::Measured(a), Parts::Measured(b)) => a.validator() == b.validator(),
            _ => std::ptr::eq(self, other),
        }
    }
}

impl Eq for SegmentedFile {}
