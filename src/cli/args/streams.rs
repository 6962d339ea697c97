//! Flags for streams of HLS and DASH: `get` and `import` of their URLs.

use std::time::Duration;

use clap::{Args, builder::BoolishValueParser};

use super::{rate, time};
use crate::{downloads::FetchLimits, protocols::StreamOptions};

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Streams (HLS, DASH)")]
pub(in crate::cli) struct StreamArgs {
    /// Fetch the largest video of at most this many lines [default: the largest]
    #[arg(long, env = "BAE_HEIGHT", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    height: Option<u32>,
    /// Fetch the largest video of at most so many bits per second, such as 5M
    #[arg(long, env = "BAE_BANDWIDTH", value_name = "RATE", value_parser = rate)]
    bandwidth: Option<u64>,
    /// Fetch a video with this codec, such as avc1, hvc1 or av01
    #[arg(long, env = "BAE_CODEC", value_name = "NAME")]
    codec: Option<String>,
    /// Language or name of the audio [default: that of the stream]
    #[arg(long, env = "BAE_AUDIO", value_name = "LANG")]
    audio: Option<String>,
    /// Also fetch the subtitles in this language, or of this name
    #[arg(long, env = "BAE_SUBTITLES", value_name = "LANG")]
    subtitles: Option<String>,
    /// Stop after this much of the stream, such as 90m
    #[arg(long, env = "BAE_DURATION", value_name = "TIME", value_parser = time)]
    duration: Option<Duration>,
    /// Leave out segments that the server does not have; the exit code is then 32
    #[arg(long, env = "BAE_SKIP_MISSING", value_parser = BoolishValueParser::new())]
    skip_missing: bool,
    /// Keep the list and the segments of a stream as files of their own. `get` of several URLs: treat them as mirrors
    /// of one file
    #[arg(long, env = "BAE_MIRROR", value_parser = BoolishValueParser::new())]
    mirror: bool,
}

impl StreamArgs {
    pub(in crate::cli) fn options(&self, limits: &FetchLimits) -> StreamOptions {
        StreamOptions {
            height: self.height,
            bandwidth: self.bandwidth.filter(|bandwidth| *bandwidth > 0),
            codec: self.codec.clone(),
            audio: self.audio.clone(),
            subtitles: self.subtitles.clone(),
            duration: self.duration.filter(|duration| !duration.is_zero()),
            skip_missing: self.skip_missing,
            mirror: self.mirror,
            max_tries: limits.max_tries,
            connections: limits.per_server.min(limits.per_file),
        }
    }

    pub(in crate::cli) fn mirror(&self) -> bool {
        self.mirror
    }
}
