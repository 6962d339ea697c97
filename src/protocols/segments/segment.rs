//! A segment: bytes at a URL, and how they become bytes of a file.

use std::{fmt, ops::Range, time::Duration};

use bytes::Bytes;
use url::Url;

use super::{cipher::Cipher, patch::TrackPatch};
use crate::protocols::Validator;

/// A segment of a file.
#[derive(Debug, Clone)]
pub(in crate::protocols) struct Segment {
    pub(in crate::protocols) label: Label,
    /// The rendition that it belongs to, in a file of several.
    pub(in crate::protocols) track: usize,
    pub(in crate::protocols) source: Source,
    pub(in crate::protocols) duration: Duration,
    /// How the bytes are encrypted.
    pub(in crate::protocols) cipher: Option<Cipher>,
    /// The track that the fragments get in a file with several tracks.
    pub(in crate::protocols) patch: Option<TrackPatch>,
    /// The server does not have it, and the list says so.
    pub(in crate::protocols) is_gap: bool,
    /// The list may count one segment more than there are: a last one that does not exist is the end of the file.
    pub(in crate::protocols) may_be_absent: bool,
}

/// The place of a segment in its list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::protocols) enum Label {
    /// The initialization section that is this many from the start of the file.
    Init(u64),
    /// The segment with this number: the media sequence number of HLS, the segment number of DASH.
    Media(u64),
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Init(_) => f.write_str("the initialization section"),
            Self::Media(number) => write!(f, "segment {number}"),
        }
    }
}

/// Where the bytes of a segment are.
#[derive(Debug, Clone)]
pub(in crate::protocols) enum Source {
    /// In the list itself, or made from it.
    Inline(Bytes),
    /// The file at a URL, or a range of it.
    Remote(Url, Option<Range<u64>>),
}

impl Segment {
    pub(in crate::protocols) fn new(label: Label, source: Source) -> Self {
        Self {
            label,
            track: 0,
            source,
            duration: Duration::ZERO,
            cipher: None,
            patch: None,
            is_gap: false,
            may_be_absent: false,
        }
    }

    pub(in crate::protocols) fn is_media(&self) -> bool {
        matches!(self.label, Label::Media(_))
    }
}

/// What the server says about the file of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::protocols) struct Measure {
    /// Length of the file at the URL.
    pub(in crate::protocols) file_len: u64,
    /// The part of that file that is fetched, still encrypted.
    pub(in crate::protocols) fetched: Range<u64>,
    /// Length of the segment, decrypted.
    pub(in crate::protocols) len: u64,
    pub(in crate::protocols) supports_ranges: bool,
    pub(in crate::protocols) validator: Option<Validator>,
    pub(in crate::protocols) modified: Option<std::time::SystemTime>,
}
