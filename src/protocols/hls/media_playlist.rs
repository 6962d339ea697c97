//! The media playlist: the segments of one rendition. Pure.

use std::{collections::HashMap, ops::Range, sync::Arc, time::Duration};

use super::{
    key::{Key, Keys, drm_error},
    playlist::{Line, LineReader, Tag},
    variables::Variables,
};
use crate::error::{Error, Kind, Result};

/// Maximum number of segments: 11 days in segments of 2 s.
const MAX_SEGMENTS: usize = 500_000;
/// The target duration of a playlist that has none.
const DEFAULT_TARGET: Duration = Duration::from_secs(6);

/// A media playlist.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct MediaPlaylist {
    pub(super) target_duration: Duration,
    /// No segment will be added.
    pub(super) is_complete: bool,
    /// The server delays its answer until the playlist has a requested segment.
    pub(super) can_block_reload: bool,
    pub(super) segments: Vec<MediaSegment>,
    /// The variables at the end of the playlist.
    pub(super) variables: Variables,
}

/// A segment of a playlist.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct MediaSegment {
    pub(super) uri: String,
    /// The part of the file at the URI; `None` is all of it.
    pub(super) range: Option<Range<u64>>,
    pub(super) duration: Duration,
    /// The media sequence number.
    pub(super) sequence: u64,
    /// The server does not have this segment, and says so.
    pub(super) is_gap: bool,
    /// Timestamps or encoding change before this segment.
    pub(super) follows_discontinuity: bool,
    pub(super) keys: Keys,
    pub(super) map: Option<Arc<Map>>,
}

/// The initialization section of segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Map {
    pub(super) uri: String,
    pub(super) range: Option<Range<u64>>,
    pub(super) keys: Keys,
}

/// The tags before a segment that apply to it alone.
#[derive(Default)]
struct SegmentTags {
    duration: Duration,
    /// Length and, if given, start.
    range: Option<(u64, Option<u64>)>,
    is_gap: bool,
    follows_discontinuity: bool,
}

struct Parser {
    found: MediaPlaylist,
    first_sequence: u64,
    tags: SegmentTags,
    keys: Keys,
    map: Option<Arc<Map>>,
    /// Where the last range of each URI ended.
    range_ends: HashMap<String, u64>,
}

impl MediaPlaylist {
    pub(super) fn parse<'l>(
        lines: impl Iterator<Item = &'l str>,
        reader: &mut LineReader<'_>,
    ) -> Result<Self> {
        let mut parser = Parser {
            found: Self {
                target_duration: DEFAULT_TARGET,
                is_complete: false,
                can_block_reload: false,
                segments: Vec::new(),
                variables: Variables::default(),
            },
            first_sequence: 0,
            tags: SegmentTags::default(),
            keys: Keys::default(),
            map: None,
            range_ends: HashMap::new(),
        };
        for line in lines {
            match reader.read(line)? {
                None => {}
                Some(Line::Tag(tag)) => parser.tag(&tag, reader)?,
                Some(Line::Uri(uri)) => parser.segment(uri)?,
            }
        }
        let Parser { mut found, first_sequence, .. } = parser;
        found.variables = std::mem::take(&mut reader.variables);
        for (segment, number) in found.segments.iter_mut().zip(first_sequence..) {
            segment.sequence = number;
        }
        Ok(found)
    }
}

impl Parser {
    fn tag(&mut self, tag: &Tag<'_>, reader: &mut LineReader<'_>) -> Result<()> {
        match tag.name {
            "INF" => self.tags.duration = seconds(tag.value).unwrap_or_default(),
            "-X-BYTERANGE" => self.tags.range = Some(parse_range(tag.value)?),
            "-X-GAP" => self.tags.is_gap = true,
            "-X-DISCONTINUITY" => self.tags.follows_discontinuity = true,
            "-X-KEY" => {
                self.keys = self.keys.with(Key::from_attributes(&reader.attributes(tag)?)?);
            }
            "-X-MAP" => self.map = Some(Arc::new(self.map_of(tag, reader)?)),
            "-X-TARGETDURATION" => {
                let target = seconds(tag.value).filter(|target| !target.is_zero());
                self.found.target_duration = target.unwrap_or(DEFAULT_TARGET);
            }
            "-X-MEDIA-SEQUENCE" => self.first_sequence = tag.value.parse().unwrap_or(0),
            "-X-ENDLIST" => self.found.is_complete = true,
            "-X-PLAYLIST-TYPE" if tag.value.eq_ignore_ascii_case("VOD") => {
                self.found.is_complete = true;
            }
            "-X-SERVER-CONTROL" => {
                let control = reader.attributes(tag)?;
                self.found.can_block_reload = control.is_yes("CAN-BLOCK-RELOAD");
            }
            "-X-FAXS-CM" => return Err(drm_error("Adobe Access")),
            "-X-I-FRAMES-ONLY" => {
                let text = "the playlist has only the key frames of a video";
                return Err(Error::new(Kind::Unsupported, text));
            }
            "-X-SKIP" => {
                let text = "the server sent a part of the playlist that was not requested";
                return Err(Error::new(Kind::Unsupported, text));
            }
            _ => {}
        }
        Ok(())
    }

    fn map_of(&self, tag: &Tag<'_>, reader: &mut LineReader<'_>) -> Result<Map> {
        let attributes = reader.attributes(tag)?;
        let no_uri = || Error::new(Kind::Unsupported, "an EXT-X-MAP has no URI");
        let uri = attributes.text("URI").ok_or_else(no_uri)?;
        let range = attributes.text("BYTERANGE").map(|text| parse_range(&text)).transpose()?;
        let range = range.map(|(len, start)| end_of(start.unwrap_or(0), len)).transpose()?;
        Ok(Map { uri, range, keys: self.keys.clone() })
    }

    fn segment(&mut self, uri: String) -> Result<()> {
        if self.found.segments.len() == MAX_SEGMENTS {
            let text = format!("the playlist has more than {MAX_SEGMENTS} segments");
            return Err(Error::new(Kind::Unsupported, text));
        }
        let tags = std::mem::take(&mut self.tags);
        let range = match tags.range {
            Some((len, start)) => {
                let start = start.or(self.range_ends.get(&uri).copied()).unwrap_or(0);
                let range = end_of(start, len)?;
                self.range_ends.insert(uri.clone(), range.end);
                Some(range)
            }
            None => {
                self.range_ends.remove(&uri);
                None
            }
        };
        self.found.segments.push(MediaSegment {
            uri,
            range,
            duration: tags.duration,
            sequence: 0,
            is_gap: tags.is_gap,
            follows_discontinuity: tags.follows_discontinuity,
            keys: self.keys.clone(),
            map: self.map.clone(),
        });
        Ok(())
    }
}

fn end_of(start: u64, len: u64) -> Result<Range<u64>> {
    let end = start.checked_add(len).filter(|end| *end > start);
    end.map(|end| start..end)
        .ok_or_else(|| Error::new(Kind::Unsupported, "a byte range of the playlist is invalid"))
}

/// Parses `LEN` or `LEN@START`.
fn parse_range(text: &str) -> Result<(u64, Option<u64>)> {
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let parsed = match text.trim().split_once('@') {
        Some((len, start)) => number(len).zip(number(start)).map(|(len, start)| (len, Some(start))),
        None => number(text).map(|len| (len, None)),
    };
    parsed.ok_or_else(|| {
        Error::new(Kind::Unsupported, format!("{text:?} is not a byte range of a playlist"))
    })
}

/// The number at the start of `text`, up to a comma.
fn seconds(text: &str) -> Option<Duration> {
    let number = text.split(',').next().unwrap_or_default().trim();
    Duration::try_from_secs_f64(number.parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocols::hls::playlist::Playlist;

    fn try_parse(text: &str) -> Result<MediaPlaylist> {
        let url = "https://x.example/a/list.m3u8".parse().unwrap();
        match Playlist::parse(text, &url, &Variables::default())? {
            Playlist::Media(found) => Ok(found),
            Playlist::Multivariant(_) => panic!("it is a multivariant playlist"),
        }
    }

    fn parse(text: &str) -> MediaPlaylist {
        try_parse(text).unwrap()
    }

    #[test]
    fn segments_have_numbers_durations_and_flags() {
        let found = parse(
            "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXT-X-MEDIA-SEQUENCE:7\n#EXTINF:4.0,title\n1.ts\n\
             #EXT-X-GAP\n#EXTINF: 3.5\n2.ts\n#EXT-X-DISCONTINUITY\n#EXTINF:0\n3.ts\nno-duration.ts\n\
             #EXT-X-ENDLIST\n",
        );
        assert_eq!((found.target_duration, found.is_complete), (Duration::from_secs(4), true));
        let of = |n: usize| {
            let segment = &found.segments[n];
            let seconds = segment.duration.as_secs_f64();
            (
                segment.uri.as_str(),
                segment.sequence,
                seconds,
                segment.is_gap,
                segment.follows_discontinuity,
            )
        };
        assert_eq!(of(0), ("1.ts", 7, 4.0, false, false));
        assert_eq!(of(1), ("2.ts", 8, 3.5, true, false));
        assert_eq!(of(2), ("3.ts", 9, 0.0, false, true));
        assert_eq!(of(3), ("no-duration.ts", 10, 0.0, false, false));
        assert!(!parse("#EXTM3U\n#EXTINF:4,\n1.ts").is_complete);
    }

    #[test]
    fn a_range_without_a_start_follows_the_one_before_of_the_same_file() {
        let found = parse(
            "#EXTM3U\n#EXT-X-MAP:URI=\"all.mp4\",BYTERANGE=\"100\"\n\
             #EXT-X-BYTERANGE:50@100\nall.mp4\n#EXT-X-BYTERANGE:20\nall.mp4\n\
             #EXT-X-BYTERANGE:5\nother.mp4\n#EXT-X-BYTERANGE:30\nall.mp4\nall.mp4\n\
             #EXT-X-BYTERANGE:7\nall.mp4\n",
        );
        let ranges: Vec<_> = found.segments.iter().map(|segment| segment.range.clone()).collect();
        let expected =
            [Some(100..150), Some(150..170), Some(0..5), Some(170..200), None, Some(0..7)];
        assert_eq!(ranges, expected);
        assert_eq!(found.segments[0].map.as_ref().unwrap().range, Some(0..100));
        for bad in ["x", "", "5@", "0@7", "-1@2", "18446744073709551615@1"] {
            let text = format!("#EXTM3U\n#EXT-X-BYTERANGE:{bad}\na.ts\n");
            assert_eq!(try_parse(&text).unwrap_err().kind(), Kind::Unsupported, "{bad}");
        }
    }

    #[test]
    fn keys_and_maps_last_until_the_next_one() {
        let found = parse(
            "#EXTM3U\n1.ts\n#EXTINF:4,\n#EXT-X-KEY:METHOD=AES-128,URI=\"k1\"\n2.ts\n3.ts\n\
             #EXT-X-KEY:METHOD=NONE\n#EXT-X-MAP:URI=\"clear\"\n4.ts\n\
             #EXT-X-KEY:METHOD=AES-128,URI=\"k2\",IV=0x2\n#EXT-X-MAP:URI=\"init\"\n5.ts\n",
        );
        let key =
            |n: usize| found.segments[n].keys.aes_key().unwrap().map(|key| key.uri.to_owned());
        let keys: Vec<_> = (0..5).map(key).collect();
        assert_eq!(keys, [None, Some("k1".into()), Some("k1".into()), None, Some("k2".into())]);
        let map = |n: usize| found.segments[n].map.as_ref();
        assert!(map(2).is_none() && map(3).unwrap().keys.aes_key().unwrap().is_none());
        assert_eq!(map(4).unwrap().keys.aes_key().unwrap().unwrap().uri, "k2");
    }

    #[test]
    fn unusual_playlists_have_the_same_segments() {
        let plain = parse(
            "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\na.ts\n#EXTINF:4,\nb.ts\n#EXT-X-ENDLIST\n",
        );
        for text in [
            "#EXTM3U\r\n#EXT-X-TARGETDURATION:4\r\n#EXTINF:4,\r\na.ts\r\n#EXTINF:4,\r\nb.ts\r\n#EXT-X-ENDLIST\r\n",
            "#EXTM3U\r#EXT-X-TARGETDURATION:4\r#EXTINF:4,\ra.ts\r#EXTINF:4,\rb.ts\r#EXT-X-ENDLIST",
            "\u{feff}#EXTM3U\n\n#EXT-X-TARGETDURATION: 4.0 \n#EXTINF: 4 ,\n  a.ts\n# x\n#EXTINF:4\nb.ts \n#EXT-X-UNKNOWN:1\n#EXT-X-ENDLIST",
            "#EXTM3U\n#EXTINF:4,\na.ts\n#EXTINF:4,\nb.ts\n#EXT-X-TARGETDURATION:4\n#EXT-X-ENDLIST",
        ] {
            assert_eq!(parse(text), plain, "{text:?}");
        }
        let live =
            parse("#EXTM3U\n#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=1\na.ts");
        assert!(live.can_block_reload);
        for bad in ["#EXT-X-I-FRAMES-ONLY", "#EXT-X-SKIP:SKIPPED-SEGMENTS=3", "#EXT-X-MAP:X=1"] {
            assert!(try_parse(&format!("#EXTM3U\n{bad}\na.ts")).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_uri_becomes_a_segment_in_order(
            count in 0usize..20, first in 0u64..1_000_000, ending in prop::sample::select(vec!["\n", "\r\n", "\r"]),
        ) {
            let mut lines = vec!["#EXTM3U".to_owned(), format!("#EXT-X-MEDIA-SEQUENCE:{first}")];
            lines.extend((0..count).map(|n| format!("#EXTINF:2,{ending}s{n}.ts")));
            let found = parse(&lines.join(ending));
            prop_assert_eq!(found.segments.len(), count);
            for (n, segment) in (0u64..).zip(&found.segments) {
                prop_assert_eq!(&segment.uri, &format!("s{n}.ts"));
                prop_assert_eq!(segment.sequence, first + n);
            }
        }
    }
}
