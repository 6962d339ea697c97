//! The user's options for streams that are cut into segments.

use std::time::Duration;

/// Which renditions of a stream are fetched, and how. `Default` takes the best ones and all of their segments.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamOptions {
    /// The largest height of the video in pixels.
    pub height: Option<u32>,
    /// The largest bandwidth, in bits per second, as lists state it.
    pub bandwidth: Option<u64>,
    /// A codec by the start of its name, such as `avc1`.
    pub codec: Option<String>,
    /// Language or name of the audio rendition.
    pub audio: Option<String>,
    /// Language or name of the subtitle rendition. `None` fetches no subtitles.
    pub subtitles: Option<String>,
    /// Stop after this much of the stream.
    pub duration: Option<Duration>,
    /// Leave out segments that the server does not have, instead of failing.
    pub skip_missing: bool,
    /// Keep the lists and the segments as files of their own.
    pub mirror: bool,
    /// Tries for each segment (at least 1).
    pub max_tries: u32,
    /// Segments fetched at once where they are fetched in order (at least 1).
    pub connections: usize,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self {
            height: None,
            bandwidth: None,
            codec: None,
            audio: None,
            subtitles: None,
            duration: None,
            skip_missing: false,
            mirror: false,
            max_tries: 5,
            connections: 4,
        }
    }
}
