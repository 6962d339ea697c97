//! Files that are cut into segments, as HLS and DASH send them: each [`Segment`](segment::Segment) is a URL, a range of
//! it, a length if that is known, and the way to decrypt it.
//!
//! The path of a byte: a list names the segments. [`FilePlan::build`] finds the length of each one by a small request
//! (`measure`), so that the whole is a file with a length and a version. `downloads` then requests any ranges of it, as
//! of any other file, and `measured` maps them to ranges of segments, which are decrypted on the way (`adaptors`). If
//! the server does not tell the lengths, or segments are still being added, `ordered` fetches several segments at once
//! and passes their bytes in order.
//!
//! What it refuses: a segment that is missing, ends early, or does not begin like a part of a stream; a URL that a list
//! may not name (`client`). Each is an error that names the segment. With
//! [`StreamOptions::skip_missing`] the segment is left out, and counted in [`StreamSummary`].

mod adaptors;
mod build;
mod choice;
mod cipher;
mod client;
mod content;
mod data_url;
mod ffmpeg;
mod file;
mod join;
mod list_text;
mod measure;
mod measured;
mod names;
mod open;
mod options;
mod ordered;
mod outcome;
mod patch;
mod segment;
mod streamed_check;
mod tries;
mod webvtt;

pub(super) use self::{
    adaptors::peek,
    build::{BuiltFile, FilePlan, inline_file, live_file, muxed_file, start_of},
    choice::{best_video, by_language},
    cipher::Cipher,
    client::ListClient,
    content::Content,
    data_url::bytes_of as bytes_of_data_url,
    ffmpeg::find as find_ffmpeg,
    file::{ListReload, LiveSource},
    join::{Mp4Track, join},
    list_text::{MAX_LIST_LEN, decode, decode_head},
    names::{as_target, stem_of},
    outcome::Outcome,
    patch::box_header,
    segment::{Label, Segment, Source},
    tries::with_tries,
    webvtt::merge as merge_webvtt,
};
pub use self::{
    choice::{Rendition, Traits},
    file::SegmentedFile,
    options::StreamOptions,
    outcome::StreamSummary,
};
