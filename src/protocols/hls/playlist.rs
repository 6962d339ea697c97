//! Playlists of HLS (RFC 8216), read line by line. Pure.
//!
//! Real playlists deviate from the standard, so everything that does not change which bytes are fetched is read
//! leniently: line ends, blanks, the order of tags, missing durations. Unknown tags are ignored. A variable without a
//! value, a range that begins nowhere and an unreadable IV are errors, because each would give wrong bytes.

use url::Url;

use super::{
    attributes::Attributes, media_playlist::MediaPlaylist, multivariant::Multivariant,
    variables::Variables,
};
use crate::error::{Error, Kind, Result};

/// Maximum length of all URIs of a playlist together, with their variables replaced.
const MAX_URIS_LEN: usize = 64 << 20;

/// A parsed playlist.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Playlist {
    /// Lists the variants of a stream.
    Multivariant(Multivariant),
    /// Lists the segments of one rendition.
    Media(MediaPlaylist),
}

impl Playlist {
    /// Parses the text of a playlist at `url`. `imported` are the variables of the multivariant playlist.
    ///
    /// # Errors
    /// `Unsupported` for text that is no playlist, and for the deviations that the module names.
    pub(super) fn parse(text: &str, url: &Url, imported: &Variables) -> Result<Self> {
        let mut lines = lines(text);
        if !lines.next().is_some_and(|first| first.starts_with("#EXTM3U")) {
            return Err(Error::new(Kind::Unsupported, "this is not a playlist of HLS"));
        }
        let mut reader = LineReader::new(url, imported);
        if is_multivariant(text) {
            return Multivariant::parse(lines, &mut reader).map(Self::Multivariant);
        }
        MediaPlaylist::parse(lines, &mut reader).map(Self::Media)
    }
}

/// Whether `text`, which may be cut, begins like a playlist of HLS. A playlist of a music player has no tags that begin
/// with `EXT-X-`.
pub(super) fn is_playlist(text: &str) -> bool {
    let mut lines = lines(text);
    lines.next().is_some_and(|first| first.starts_with("#EXTM3U"))
        && lines.any(|line| line.starts_with("#EXT-X-"))
}

fn is_multivariant(text: &str) -> bool {
    let has = |tag: &str| lines(text).any(|line| line.starts_with(tag));
    has("#EXT-X-STREAM-INF") || has("#EXT-X-MEDIA:") && !has("#EXTINF")
}

/// The lines without blanks around them, and without empty ones. A line may end with LF, CRLF or CR.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let text = text.trim_start_matches('\u{feff}');
    text.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty())
}

/// A tag with the text after its colon.
pub(super) struct Tag<'a> {
    pub(super) name: &'a str,
    pub(super) value: &'a str,
}

/// A line of a playlist.
pub(super) enum Line<'a> {
    Tag(Tag<'a>),
    /// A URI, with its variables replaced.
    Uri(String),
}

/// Reads lines, and replaces variables in them.
pub(super) struct LineReader<'a> {
    url: &'a Url,
    imported: &'a Variables,
    pub(super) variables: Variables,
    uris_len: usize,
}

impl<'a> LineReader<'a> {
    fn new(url: &'a Url, imported: &'a Variables) -> Self {
        Self { url, imported, variables: Variables::default(), uris_len: 0 }
    }

    /// The meaning of a line; `None` for a comment and for a definition of variables.
    pub(super) fn read<'l>(&mut self, line: &'l str) -> Result<Option<Line<'l>>> {
        let Some(tag) = line.strip_prefix("#EXT") else {
            return match line.starts_with('#') {
                true => Ok(None),
                false => self.uri(line).map(|uri| Some(Line::Uri(uri))),
            };
        };
        let (name, value) = tag.split_once(':').unwrap_or((tag, ""));
        let tag = Tag { name: name.trim(), value: value.trim() };
        if tag.name != "-X-DEFINE" {
            return Ok(Some(Line::Tag(tag)));
        }
        let attributes = self.attributes(&tag)?;
        self.variables.define(&attributes, self.imported, self.url)?;
        Ok(None)
    }

    pub(super) fn attributes(&mut self, tag: &Tag<'_>) -> Result<Attributes> {
        Attributes::parse(tag.value, |value| self.uri(value))
    }

    fn uri(&mut self, text: &str) -> Result<String> {
        let uri = self.variables.replace(text)?;
        self.uris_len += uri.len();
        if self.uris_len > MAX_URIS_LEN {
            let text = "the URIs of the playlist are longer than 64 MiB";
            return Err(Error::new(Kind::Unsupported, text));
        }
        Ok(uri)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn url() -> Url {
        "https://x.example/a/list.m3u8?q=1".parse().unwrap()
    }

    #[test]
    fn a_playlist_is_recognised_by_its_content() {
        for yes in [
            "#EXTM3U\n#EXT-X-TARGETDURATION:4\n",
            "\u{feff}\r\n#EXTM3U\r\n#EXT-X-VERSION:3",
            "#EXTM3U\r#EXT-X-STREAM-INF:BANDWIDTH=1\ra.m3u8",
        ] {
            assert!(is_playlist(yes), "{yes:?}");
        }
        for no in ["#EXTM3U\n#EXTINF:123,Song\nsong.mp3\n", "<html>", "", "#EXT-X-VERSION:3"] {
            assert!(!is_playlist(no), "{no:?}");
        }
        let kind = |text: &str| match Playlist::parse(text, &url(), &Variables::default()) {
            Ok(Playlist::Multivariant(_)) => "multivariant",
            Ok(Playlist::Media(_)) => "media",
            Err(_) => "error",
        };
        assert_eq!(kind("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\na.m3u8"), "multivariant");
        assert_eq!(kind("#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,URI=\"a\""), "multivariant");
        assert_eq!(kind("#EXTM3U\n#EXTINF:1,\na.ts"), "media");
        assert_eq!(kind("<html>"), "error");
    }

    proptest! {
        #[test]
        fn any_text_gives_a_playlist_or_an_error(
            lines in prop::collection::vec(
                prop_oneof![
                    "#EXT-X-(KEY|MAP|BYTERANGE|DEFINE|STREAM-INF|MEDIA|MEDIA-SEQUENCE):[A-Z0-9=\",@$x-]{0,30}",
                    "#EXT(INF:[0-9., ]{0,6}|-X-GAP|-X-DISCONTINUITY|-X-ENDLIST)",
                    "[a-z{}$/.]{0,12}",
                ],
                0..20,
            ),
        ) {
            let text = format!("#EXTM3U\n{}", lines.join("\n"));
            let _ = Playlist::parse(&text, &url(), &Variables::default());
        }
    }
}
