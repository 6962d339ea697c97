//! Chooses among the renditions of a stream. Pure.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

use super::StreamOptions;
use crate::error::{Error, Kind, Result};

/// What a list says about a rendition.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
pub struct Traits {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// Bits per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub codecs: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frame_rate: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip)]
    pub is_default: bool,
    #[serde(skip)]
    pub is_autoselect: bool,
}

/// A rendition of a stream, and whether it is the one that is fetched.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Rendition {
    /// `video` (which may contain audio), `audio` or `subtitles`.
    pub kind: &'static str,
    #[serde(flatten)]
    pub traits: Traits,
    pub chosen: bool,
}

impl fmt::Display for Traits {
    /// For example `1280x720, 2400 kbit/s, avc1.64001f, en`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = match (self.width, self.height) {
            (Some(width), Some(height)) => Some(format!("{width}x{height}")),
            (None, Some(height)) => Some(format!("{height} lines")),
            _ => None,
        };
        let rate = self.bandwidth.map(|bandwidth| format!("{} kbit/s", bandwidth.div_ceil(1000)));
        let parts = [size, rate, self.codecs.clone(), self.language.clone(), self.name.clone()];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        match parts.is_empty() {
            true => f.write_str("unnamed"),
            false => f.write_str(&parts.join(", ")),
        }
    }
}

/// The index of the best rendition that the options allow: the largest height, then the largest bandwidth. The first
/// one of equals.
///
/// # Errors
/// `NotFound`, with all renditions, if the options allow none.
pub(in crate::protocols) fn best_video(
    candidates: &[&Traits],
    options: &StreamOptions,
) -> Result<usize> {
    let has_heights = candidates.iter().any(|traits| traits.height.is_some());
    let allowed = |traits: &Traits| {
        let height = options.height.is_none_or(|max| match traits.height {
            Some(height) => height <= max,
            None => !has_heights,
        });
        let bandwidth = options
            .bandwidth
            .is_none_or(|max| traits.bandwidth.is_none_or(|bandwidth| bandwidth <= max));
        let codec = options.codec.as_deref().is_none_or(|codec| has_codec(traits, codec));
        height && bandwidth && codec
    };
    let rank = |traits: &Traits| (traits.height.unwrap_or(0), traits.bandwidth.unwrap_or(0));
    let mut best: Option<(usize, &Traits)> = None;
    for (index, traits) in candidates.iter().enumerate().filter(|(_, traits)| allowed(traits)) {
        if best.is_none_or(|(_, other)| rank(traits) > rank(other)) {
            best = Some((index, traits));
        }
    }
    best.map(|(index, _)| index).ok_or_else(|| none_error("no rendition matches", candidates))
}

/// The index of the rendition in `language`, or of the default one.
///
/// # Errors
/// `NotFound`, with all renditions, if none is in the language.
pub(in crate::protocols) fn by_language(
    kind: &str,
    candidates: &[&Traits],
    language: Option<&str>,
) -> Result<usize> {
    let matching = |traits: &Traits| language.is_none_or(|language| is_in(traits, language));
    let rank = |traits: &Traits| match (traits.is_default, traits.is_autoselect) {
        (true, _) => 2,
        (_, true) => 1,
        _ => 0,
    };
    let mut best: Option<(usize, u8)> = None;
    for (index, traits) in candidates.iter().enumerate().filter(|(_, traits)| matching(traits)) {
        if best.is_none_or(|(_, other)| rank(traits) > other) {
            best = Some((index, rank(traits)));
        }
    }
    best.map(|(index, _)| index).ok_or_else(|| {
        let language = language.unwrap_or_default();
        none_error(&format!("no {kind} rendition is in {language:?}"), candidates)
    })
}

fn none_error(text: &str, candidates: &[&Traits]) -> Error {
    let all: Vec<_> = candidates.iter().take(20).map(ToString::to_string).collect();
    let error = Error::new(Kind::NotFound, text);
    match all.is_empty() {
        true => error.hint("the stream has none"),
        false => error.hint(format!("the stream has: {}", all.join("; "))),
    }
}

fn has_codec(traits: &Traits, codec: &str) -> bool {
    let codecs = traits.codecs.as_deref().unwrap_or_default().to_ascii_lowercase();
    codecs.split(',').any(|found| found.trim().starts_with(&codec.to_ascii_lowercase()))
}

/// Whether the rendition has this language, also with a region (`en` and `en-US`), or this name.
fn is_in(traits: &Traits, language: &str) -> bool {
    let primary = |tag: &str| tag.split(['-', '_']).next().unwrap_or_default().to_ascii_lowercase();
    let same = |found: &String| {
        found.eq_ignore_ascii_case(language)
            || !language.contains(['-', '_']) && primary(found) == primary(language)
    };
    traits.language.as_ref().is_some_and(same)
        || traits.name.as_ref().is_some_and(|name| name.eq_ignore_ascii_case(language))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn video(height: u32, bandwidth: u64, codecs: &str) -> Traits {
        Traits {
            height: (height > 0).then_some(height),
            bandwidth: (bandwidth > 0).then_some(bandwidth),
            codecs: Some(codecs.to_owned()),
            ..Traits::default()
        }
    }

    fn audio(language: &str, is_default: bool, is_autoselect: bool) -> Traits {
        let language = Some(language.to_owned());
        Traits { language, is_default, is_autoselect, ..Traits::default() }
    }

    #[test]
    fn the_best_video_is_the_largest_that_the_options_allow() {
        let all = [
            video(0, 64_000, "mp4a.40.2"),
            video(720, 2_000_000, "avc1.64001f, mp4a.40.2"),
            video(1080, 4_000_000, "hvc1.1"),
            video(1080, 6_000_000, "avc1.640028"),
            video(1080, 6_000_000, "av01.0"),
            video(360, 0, "avc1.4d401e"),
        ];
        let all: Vec<_> = all.iter().collect();
        let of = |options: StreamOptions| best_video(&all, &options);
        let default = StreamOptions::default;
        assert_eq!(of(default()).unwrap(), 3);
        assert_eq!(of(StreamOptions { height: Some(900), ..default() }).unwrap(), 1);
        assert_eq!(of(StreamOptions { bandwidth: Some(5_000_000), ..default() }).unwrap(), 2);
        assert_eq!(of(StreamOptions { codec: Some("AV01".into()), ..default() }).unwrap(), 4);
        assert_eq!(of(StreamOptions { codec: Some("mp4a".into()), ..default() }).unwrap(), 1);
        let error = of(StreamOptions { height: Some(100), ..default() }).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert!(error.hint_text().unwrap().contains("2000 kbit/s"), "{:?}", error.hint_text());
        let unknown = [&Traits::default()];
        let options = StreamOptions { height: Some(100), bandwidth: Some(1), ..default() };
        assert_eq!(best_video(&unknown, &options).unwrap(), 0, "nothing is known of it");
    }

    #[test]
    fn audio_is_chosen_by_language_or_else_the_default() {
        let named = Traits { name: Some("Commentary".into()), ..audio("en", false, false) };
        let all = [
            audio("de", false, false),
            audio("en-US", false, true),
            audio("fr", true, true),
            named,
        ];
        let all: Vec<_> = all.iter().collect();
        let of = |language: Option<&str>| by_language("audio", &all, language);
        assert_eq!(of(None).unwrap(), 2);
        assert_eq!(of(Some("EN")).unwrap(), 1);
        assert_eq!(of(Some("en-US")).unwrap(), 1);
        assert_eq!(of(Some("commentary")).unwrap(), 3);
        assert_eq!(of(Some("de")).unwrap(), 0);
        assert!(of(Some("en-GB")).is_err() && of(Some("it")).is_err());
        assert_eq!(by_language("audio", &all[..2], None).unwrap(), 1);
    }
}
