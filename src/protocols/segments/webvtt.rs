//! Merges the segments of WebVTT subtitles into one file. Pure.
//!
//! Each segment is a file of its own, with a header and a map of its times to those of the stream. Cues that last
//! longer than a segment are in several segments, and become one again.

/// A cue.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cue {
    id: Option<String>,
    /// Milliseconds.
    start: i64,
    end: i64,
    settings: String,
    text: String,
    /// The segment that it is in.
    segment: usize,
}

/// The relation of the times of a segment to those of the stream: `MPEGTS` in ticks of 90 kHz, and `LOCAL` in
/// milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct TimestampMap {
    ticks: u64,
    local: i64,
}

/// Ticks at which timestamps of MPEG start again from 0.
const TICKS_MODULUS: i64 = 1 << 33;
/// Cues that are searched for the first part of a cue. More are not shown at once.
const MAX_OPEN_CUES: usize = 64;
/// Difference between the end of a part of a cue and the start of the next one, in milliseconds.
const TOLERANCE: i64 = 2;

/// The merged file. Times are those of the first segment.
pub(in crate::protocols) fn merge<'a>(segments: impl Iterator<Item = &'a str>) -> String {
    let (mut blocks, mut cues, mut first_map) = (Vec::new(), Vec::<Cue>::new(), None);
    for (index, segment) in segments.enumerate() {
        let segment = segment.replace("\r\n", "\n").replace('\r', "\n");
        let mut parts = segment.split("\n\n").map(|block| block.trim_matches('\n'));
        let map = timestamp_map(parts.next().unwrap_or_default());
        let shift = shift(map, *first_map.get_or_insert(map));
        for block in parts.filter(|block| !block.trim().is_empty()) {
            match parse_cue(block, shift, index) {
                Some(cue) => add_cue(&mut cues, cue),
                None if is_style(block) && !blocks.contains(&block.to_owned()) => {
                    blocks.push(block.to_owned());
                }
                None => {}
            }
        }
    }
    let mut out = vec!["WEBVTT".to_owned()];
    out.extend(blocks);
    out.extend(cues.iter().map(Cue::to_text));
    out.join("\n\n") + "\n"
}

fn is_style(block: &str) -> bool {
    block.starts_with("STYLE") || block.starts_with("REGION")
}

fn timestamp_map(header: &str) -> TimestampMap {
    let mut map = TimestampMap::default();
    let line = header.lines().find_map(|line| line.strip_prefix("X-TIMESTAMP-MAP="));
    for part in line.unwrap_or_default().split(',') {
        match part.split_once(':') {
            Some(("MPEGTS", ticks)) => map.ticks = ticks.trim().parse().unwrap_or(0),
            Some(("LOCAL", time)) => map.local = parse_time(time.trim()).unwrap_or(0),
            _ => {}
        }
    }
    map
}

/// Milliseconds to add to the times of a segment.
fn shift(map: TimestampMap, first: TimestampMap) -> i64 {
    let ticks = |map: TimestampMap| i64::try_from(map.ticks).unwrap_or(0) % TICKS_MODULUS;
    let mut apart = (ticks(map) - ticks(first)) % TICKS_MODULUS;
    if apart < -TICKS_MODULUS / 2 {
        apart += TICKS_MODULUS;
    } else if apart > TICKS_MODULUS / 2 {
        apart -= TICKS_MODULUS;
    }
    apart / 90 - (map.local - first.local)
}

fn parse_cue(block: &str, shift: i64, segment: usize) -> Option<Cue> {
    let (first, rest) = block.split_once('\n').unwrap_or((block, ""));
    let (id, timing, text) = match first.contains("-->") {
        true => (None, first, rest),
        false => {
            let (timing, text) = rest.split_once('\n').unwrap_or((rest, ""));
            (Some(first.to_owned()), timing, text)
        }
    };
    let (start, after) = timing.split_once("-->")?;
    let after = after.trim_start();
    let (end, settings) = after.split_once(char::is_whitespace).unwrap_or((after, ""));
    Some(Cue {
        id,
        start: (parse_time(start.trim())?.saturating_add(shift)).max(0),
        end: (parse_time(end)?.saturating_add(shift)).max(0),
        settings: settings.trim().to_owned(),
        text: text.to_owned(),
        segment,
    })
}

/// Adds a cue, or extends the one that it continues.
fn add_cue(cues: &mut Vec<Cue>, cue: Cue) {
    let from = cues.len().saturating_sub(MAX_OPEN_CUES);
    let continued = cues[from..].iter_mut().rev().find(|before| {
        before.segment < cue.segment
            && (&before.text, &before.settings) == (&cue.text, &cue.settings)
            && before.start <= cue.start
            && cue.start <= before.end.saturating_add(TOLERANCE)
    });
    match continued {
        Some(before) => {
            before.end = before.end.max(cue.end);
            before.segment = cue.segment;
        }
        None => cues.push(cue),
    }
}

impl Cue {
    fn to_text(&self) -> String {
        let Self { id, start, end, settings, text, .. } = self;
        let id = id.as_ref().map(|id| format!("{id}\n")).unwrap_or_default();
        let timing = format!("{} --> {} {settings}", format_time(*start), format_time(*end));
        format!("{id}{}\n{text}", timing.trim_end())
    }
}

/// Parses `[hh:]mm:ss.mmm` into milliseconds.
fn parse_time(text: &str) -> Option<i64> {
    let (clock, fraction) = text.split_once(['.', ',']).unwrap_or((text, "0"));
    let mut seconds: i64 = 0;
    for part in clock.split(':') {
        let number: i64 = part.parse::<u32>().ok()?.into();
        seconds = seconds.checked_mul(60)?.checked_add(number)?;
    }
    let digits: String = fraction.chars().chain("00".chars()).take(3).collect();
    seconds.checked_mul(1000)?.checked_add(digits.parse::<u16>().ok()?.into())
}

fn format_time(milliseconds: i64) -> String {
    let (seconds, rest) = (milliseconds / 1000, milliseconds % 1000);
    format!("{:02}:{:02}:{:02}.{rest:03}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn segments_become_one_file_with_one_header() {
        let segments = [
            "WEBVTT\nX-TIMESTAMP-MAP=MPEGTS:900000,LOCAL:00:00:00.000\n\nSTYLE\n::cue { color: red }\n\n\
             1\n00:00.500 --> 00:02.000 align:start\nFirst\nline\n\n00:03.000 --> 00:04.000\nCut",
            "WEBVTT\r\nX-TIMESTAMP-MAP=MPEGTS:900000,LOCAL:00:00:00.000\r\n\r\nSTYLE\r\n::cue { color: red }\r\n\r\n\
             00:00:04.000 --> 00:00:05.500\r\nCut\r\n\r\n00:00:06.000 --> 01:00:07.250\r\nLast\r\n",
        ];
        let expected = "WEBVTT\n\nSTYLE\n::cue { color: red }\n\n\
             1\n00:00:00.500 --> 00:00:02.000 align:start\nFirst\nline\n\n\
             00:00:03.000 --> 00:00:05.500\nCut\n\n00:00:06.000 --> 01:00:07.250\nLast\n";
        assert_eq!(merge(segments.into_iter()), expected);
    }

    #[test]
    fn times_of_each_segment_are_mapped_to_those_of_the_stream() {
        let of = |ticks: u64, local: &str, text: &str| {
            format!(
                "WEBVTT\nX-TIMESTAMP-MAP=LOCAL:{local},MPEGTS:{ticks}\n\n00:01.000 --> 00:02.000\n{text}\n"
            )
        };
        let segments = [
            of(900_000, "00:00:00.000", "a"),
            of(1_800_000, "00:00:00.000", "b"),
            of(1_800_000, "00:00:10.000", "c"),
        ];
        let merged = merge(segments.iter().map(String::as_str));
        for line in [
            "00:00:01.000 --> 00:00:02.000\na",
            "00:00:11.000 --> 00:00:12.000\nb",
            "00:00:01.000 --> 00:00:02.000\nc",
        ] {
            assert!(merged.contains(line), "{line:?} in {merged}");
        }
        let near_end = u64::try_from(TICKS_MODULUS).unwrap() - 90_000;
        let wrapped = [of(near_end, "00:00:00.000", "a"), of(0, "00:00:00.000", "b")];
        let merged = merge(wrapped.iter().map(String::as_str));
        assert!(merged.contains("00:00:02.000 --> 00:00:03.000\nb"), "{merged}");
    }

    #[test]
    fn equal_cues_of_one_segment_stay_apart() {
        let segment = "WEBVTT\n\n00:01.000 --> 00:02.000\n…\n\n00:02.000 --> 00:03.000\n…\n";
        let merged = merge([segment, segment].into_iter());
        assert_eq!(merged.matches('…').count(), 2, "{merged}");
    }

    proptest! {
        #[test]
        fn any_text_is_merged(texts in prop::collection::vec("[WEBVT0-9:.,\n >-]{0,60}", 0..4)) {
            prop_assert!(merge(texts.iter().map(String::as_str)).starts_with("WEBVTT\n"));
        }

        #[test]
        fn times_round_trip(milliseconds in 0_i64..400_000_000) {
            prop_assert_eq!(parse_time(&format_time(milliseconds)), Some(milliseconds));
        }
    }
}
