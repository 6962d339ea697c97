//! The multivariant playlist: the variants of a stream and their renditions. Pure.

use super::{
    key::drm_error,
    playlist::{Line, LineReader, Tag},
    variables::Variables,
};
use crate::{
    error::{Error, Kind, Result},
    protocols::segments::Traits,
};

/// Maximum number of variants, and of renditions.
const MAX_ENTRIES: usize = 10_000;

/// A multivariant playlist.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Multivariant {
    pub(super) variants: Vec<Variant>,
    pub(super) renditions: Vec<Rendition>,
    /// For `IMPORT` in the media playlists.
    pub(super) variables: Variables,
}

/// A playlist of the whole stream, or of its video.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Variant {
    pub(super) uri: String,
    pub(super) traits: Traits,
    /// The groups of its audio and subtitle renditions.
    pub(super) audio_group: Option<String>,
    pub(super) subtitle_group: Option<String>,
}

/// The kind of a rendition that has a playlist of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RenditionKind {
    Audio,
    Subtitles,
}

/// An alternative audio track, or subtitles.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rendition {
    pub(super) kind: RenditionKind,
    pub(super) group: String,
    /// `None` for audio that is in the variant itself.
    pub(super) uri: Option<String>,
    pub(super) traits: Traits,
}

impl Multivariant {
    pub(super) fn parse<'l>(
        lines: impl Iterator<Item = &'l str>,
        reader: &mut LineReader<'_>,
    ) -> Result<Self> {
        let mut found = Self::default();
        let mut pending: Option<Variant> = None;
        for line in lines {
            match reader.read(line)? {
                None => {}
                Some(Line::Uri(uri)) => {
                    found.variants.extend(pending.take().map(|variant| Variant { uri, ..variant }));
                }
                Some(Line::Tag(tag)) => match tag.name {
                    "-X-STREAM-INF" => pending = Some(variant(reader, &tag)?),
                    "-X-MEDIA" => found.renditions.extend(rendition(reader, &tag)?),
                    "-X-FAXS-CM" => return Err(drm_error("Adobe Access")),
                    _ => {}
                },
            }
            if found.variants.len().max(found.renditions.len()) > MAX_ENTRIES {
                let text = format!("the playlist has more than {MAX_ENTRIES} variants");
                return Err(Error::new(Kind::Unsupported, text));
            }
        }
        found.variables = std::mem::take(&mut reader.variables);
        Ok(found)
    }

    /// The renditions of a group.
    pub(super) fn group<'a>(
        &'a self,
        kind: RenditionKind,
        group: &'a str,
    ) -> impl Iterator<Item = &'a Rendition> {
        self.renditions.iter().filter(move |found| found.kind == kind && found.group == group)
    }
}

fn variant(reader: &mut LineReader<'_>, tag: &Tag<'_>) -> Result<Variant> {
    let attributes = reader.attributes(tag)?;
    let size = attributes.text("RESOLUTION");
    let size = size.as_deref().and_then(|text| text.split_once(['x', 'X']));
    let traits = Traits {
        width: size.and_then(|(width, _)| width.trim().parse().ok()),
        height: size.and_then(|(_, height)| height.trim().parse().ok()),
        bandwidth: attributes.number("BANDWIDTH").or(attributes.number("AVERAGE-BANDWIDTH")),
        codecs: attributes.text("CODECS"),
        frame_rate: attributes.get("FRAME-RATE").and_then(|text| text.trim().parse().ok()),
        ..Traits::default()
    };
    Ok(Variant {
        uri: String::new(),
        traits,
        audio_group: attributes.text("AUDIO"),
        subtitle_group: attributes.text("SUBTITLES"),
    })
}

/// `None` for closed captions, which are in the video, and for alternative video.
fn rendition(reader: &mut LineReader<'_>, tag: &Tag<'_>) -> Result<Option<Rendition>> {
    let attributes = reader.attributes(tag)?;
    let kind = match attributes.get("TYPE").map(str::to_ascii_uppercase).as_deref() {
        Some("AUDIO") => RenditionKind::Audio,
        Some("SUBTITLES") => RenditionKind::Subtitles,
        _ => return Ok(None),
    };
    let traits = Traits {
        language: attributes.text("LANGUAGE"),
        name: attributes.text("NAME"),
        is_default: attributes.is_yes("DEFAULT"),
        is_autoselect: attributes.is_yes("AUTOSELECT"),
        ..Traits::default()
    };
    Ok(Some(Rendition {
        kind,
        group: attributes.text("GROUP-ID").unwrap_or_default(),
        uri: attributes.text("URI"),
        traits,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocols::hls::playlist::Playlist;

    fn parse(text: &str) -> Multivariant {
        let url = "https://x.example/main.m3u8".parse().unwrap();
        match Playlist::parse(text, &url, &Variables::default()).unwrap() {
            Playlist::Multivariant(found) => found,
            Playlist::Media(_) => panic!("it is a media playlist"),
        }
    }

    #[test]
    fn variants_and_renditions_have_their_traits() {
        let found = parse(
            "#EXTM3U\n#EXT-X-DEFINE:NAME=\"p\",VALUE=\"v1\"\n\
             #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"English\",LANGUAGE=\"en\",DEFAULT=YES,URI=\"en.m3u8\"\n\
             #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"Deutsch\",LANGUAGE=\"de\"\n\
             #EXT-X-MEDIA:TYPE=CLOSED-CAPTIONS,GROUP-ID=\"c\",NAME=\"x\",INSTREAM-ID=\"CC1\"\n\
             #EXT-X-STREAM-INF:BANDWIDTH=2000,RESOLUTION=1280x720,CODECS=\"avc1.64001f,mp4a.40.2\",AUDIO=\"a\"\n\
             # a comment\n{$p}/720.m3u8\n\
             #EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=1,URI=\"i.m3u8\"\n\
             #EXT-X-STREAM-INF:AVERAGE-BANDWIDTH=900\nlow.m3u8\nstray.m3u8\n",
        );
        assert_eq!(found.variants.len(), 2);
        let [high, low] = [&found.variants[0], &found.variants[1]];
        assert_eq!((high.uri.as_str(), high.audio_group.as_deref()), ("v1/720.m3u8", Some("a")));
        assert_eq!((high.traits.width, high.traits.height), (Some(1280), Some(720)));
        assert_eq!(high.traits.codecs.as_deref(), Some("avc1.64001f,mp4a.40.2"));
        assert_eq!((low.traits.bandwidth, low.traits.height), (Some(900), None));
        let audio: Vec<_> = found.group(RenditionKind::Audio, "a").collect();
        assert_eq!(audio[0].uri.as_deref(), Some("en.m3u8"));
        assert!(audio[0].traits.is_default && !audio[1].traits.is_default);
        assert_eq!((audio.len(), audio[1].uri.as_deref()), (2, None));
        assert_eq!(found.variables.replace("{$p}").unwrap(), "v1");
    }

    #[test]
    fn adobe_access_is_refused_by_its_name() {
        let text = "#EXTM3U\n#EXT-X-FAXS-CM:x\n#EXT-X-STREAM-INF:BANDWIDTH=1\na.m3u8\n";
        let url = "https://x.example/main.m3u8".parse().unwrap();
        let error = Playlist::parse(text, &url, &Variables::default()).unwrap_err();
        assert!(error.report().contains("Adobe Access"), "{}", error.report());
    }
}
