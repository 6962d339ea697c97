//! Fetches the segments of subtitles, and merges them into one file.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use super::tracks::read_small;
use crate::{
    error::{Error, Kind, Result},
    protocols::segments::{
        BuiltFile, Content, ListClient, Outcome, Segment, Source, inline_file, merge_webvtt,
        with_tries,
    },
};

/// Segments that are fetched at once.
const MAX_CONCURRENT: usize = 8;
/// Maximum length of all segments in bytes: the subtitles of some hundred hours.
const MAX_LEN: usize = 32 << 20;

/// One file of WebVTT with the cues of all segments.
pub(super) async fn merged_subtitles(
    client: &Arc<ListClient>,
    segments: Vec<Segment>,
) -> Result<BuiltFile> {
    let outcome = Outcome::default();
    let count = segments.len();
    let fetch = |index: usize| read_segment(client, &segments[index]);
    let mut reading = stream::iter(0..count).map(fetch).buffered(MAX_CONCURRENT);
    let (mut texts, mut len) = (Vec::new(), 0);
    for segment in &segments {
        let Some(text) = reading.next().await else { break };
        if segment.is_gap {
            outcome.add_gap(&segment.label);
            continue;
        }
        match text {
            Ok(text) => {
                len += text.len();
                texts.push(text);
            }
            Err(error) if client.options.skip_missing && is_missing(&error) => {
                outcome.add_skipped(&error);
            }
            Err(error) => return Err(error),
        }
        if len > MAX_LEN {
            return Err(Error::new(Kind::Unsupported, "the subtitles are longer than 32 MiB"));
        }
    }
    let merged = merge_webvtt(texts.iter().map(String::as_str));
    Ok(inline_file(client, outcome, Content::WebVtt, merged.into()))
}

fn is_missing(error: &Error) -> bool {
    matches!(error.kind(), Kind::NotFound | Kind::Corrupt)
}

async fn read_segment(client: &ListClient, segment: &Segment) -> Result<String> {
    if segment.is_gap {
        return Ok(String::new());
    }
    with_tries(&client.tries, segment.label, || async {
        let bytes = match &segment.source {
            Source::Inline(bytes) => bytes.clone(),
            Source::Remote(url, range) => read_small(client, url, range.clone()).await?,
        };
        let bytes: Bytes = match segment.cipher {
            Some(cipher) => cipher.decrypt_whole(&bytes)?,
            None => bytes,
        };
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_start_matches('\u{feff}').trim_start();
        match text.starts_with("WEBVTT") {
            true => Ok(text.to_owned()),
            false => Err(Error::new(Kind::Corrupt, "the segment of subtitles is not WebVTT")),
        }
    })
    .await
}
