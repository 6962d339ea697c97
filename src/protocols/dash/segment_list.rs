//! The segments of one representation, from what its manifest says about them at each level. Pure.

use std::{ops::Range, time::Duration};

use super::{
    template::{Values, expand},
    xml::Element,
};
use crate::error::{Error, Kind, Result};

/// Maximum number of segments of a representation: 11 days in segments of 2 s.
const MAX_SEGMENTS: u64 = 500_000;

/// Bytes at a URL that is relative to that of the representation. Without a URI it is the representation's own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Location {
    pub(super) uri: Option<String>,
    pub(super) range: Option<Range<u64>>,
}

/// A segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MediaSegment {
    pub(super) location: Location,
    pub(super) number: u64,
    pub(super) duration: Duration,
    /// The number of segments is calculated, and this one may not exist.
    pub(super) may_be_absent: bool,
}

/// How the bytes of a representation are described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Description {
    Segments {
        init: Option<Location>,
        segments: Vec<MediaSegment>,
    },
    /// One file. The index of its fragments is in this range.
    WholeFile {
        index: Option<Range<u64>>,
        init: Option<Range<u64>>,
    },
}

/// A representation for its URLs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Identity<'a> {
    pub(super) id: &'a str,
    pub(super) bandwidth: u64,
    pub(super) period_duration: Option<Duration>,
}

/// The description from `levels`: the period, the adaptation set and the representation. Attributes of an inner level
/// replace those of an outer one.
///
/// # Errors
/// `Unsupported` for a description that is not complete.
pub(super) fn describe(levels: &[&Element], identity: Identity<'_>) -> Result<Description> {
    let of = |name: &str| Merged::new(levels, name);
    if let Some(template) = of("SegmentTemplate") {
        return from_template(&template, identity);
    }
    if let Some(list) = of("SegmentList") {
        return from_list(&list);
    }
    let base = of("SegmentBase");
    let range = |text: Option<&str>| text.map(parse_range).transpose();
    let index = range(base.as_ref().and_then(|base| base.get("indexRange")))?;
    let init = base.as_ref().and_then(|base| base.child("Initialization"));
    let init = range(init.and_then(|init| init.get("range")))?;
    Ok(Description::WholeFile { index, init })
}

/// An element that may be at several levels.
struct Merged<'a>(Vec<&'a Element>);

impl<'a> Merged<'a> {
    fn new(levels: &[&'a Element], name: &str) -> Option<Self> {
        let found: Vec<_> = levels.iter().rev().filter_map(|level| level.child(name)).collect();
        (!found.is_empty()).then_some(Self(found))
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find_map(|element| element.get(name))
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.0.iter().find_map(|element| element.number(name))
    }

    fn child(&self, name: &str) -> Option<&'a Element> {
        self.0.iter().find_map(|element| element.child(name))
    }

    fn timescale(&self) -> u64 {
        self.number("timescale").filter(|scale| *scale > 0).unwrap_or(1)
    }
}

fn from_template(template: &Merged<'_>, identity: Identity<'_>) -> Result<Description> {
    let start = template.number("startNumber").unwrap_or(1);
    let values = |number, time| Values {
        representation: identity.id,
        bandwidth: identity.bandwidth,
        number,
        time,
    };
    let init = match (template.get("initialization"), template.child("Initialization")) {
        (Some(uri), _) => Some(Location { uri: Some(expand(uri, values(start, 0))?), range: None }),
        (None, Some(element)) => Some(init_of(element)?),
        (None, None) => None,
    };
    let no_media = || Error::new(Kind::Unsupported, "a template of segments has no URL");
    let media = template.get("media").ok_or_else(no_media)?;
    let times = match template.child("SegmentTimeline") {
        Some(timeline) => timeline_times(timeline, template, identity.period_duration)?,
        None => counted_times(template, identity.period_duration)?,
    };
    let scale = template.timescale();
    let mut segments = Vec::with_capacity(times.len());
    for (index, time) in times.into_iter().enumerate() {
        let number = start.saturating_add(index as u64);
        let uri = expand(media, values(number, time.start))?;
        segments.push(MediaSegment {
            location: Location { uri: Some(uri), range: None },
            number,
            duration: scaled(time.duration, scale),
            may_be_absent: time.may_be_absent,
        });
    }
    Ok(Description::Segments { init, segments })
}

fn scaled(time: u64, scale: u64) -> Duration {
    let nanos = u128::from(time) * 1_000_000_000 / u128::from(scale);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// The time of a segment in the unit of its timescale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Time {
    start: u64,
    duration: u64,
    may_be_absent: bool,
}

fn too_many() -> Error {
    Error::new(Kind::Unsupported, format!("the stream has more than {MAX_SEGMENTS} segments"))
}

/// Segments of equal duration. Their number is calculated from the duration of the period, and is off by one in real
/// manifests: the last one may not exist, and one more may.
fn counted_times(template: &Merged<'_>, period: Option<Duration>) -> Result<Vec<Time>> {
    let unknown = || {
        let text = "the number of segments is not known: the manifest has neither durations nor a timeline";
        Error::new(Kind::Unsupported, text)
    };
    let duration = template.number("duration").filter(|d| *d > 0).ok_or_else(unknown)?;
    let start = template.number("startNumber").unwrap_or(1);
    let offset = template.number("presentationTimeOffset").unwrap_or(0);
    let (count, is_exact) = match template.number("endNumber") {
        Some(end) => (end.saturating_add(1).saturating_sub(start), true),
        None => {
            let nanos = period.ok_or_else(unknown)?.as_nanos();
            let units = nanos.saturating_mul(template.timescale().into());
            let count = units.div_ceil(u128::from(duration) * 1_000_000_000);
            (u64::try_from(count).unwrap_or(u64::MAX).saturating_add(1), false)
        }
    };
    if count > MAX_SEGMENTS {
        return Err(too_many());
    }
    let time = |index: u64| Time {
        start: offset.saturating_add(index.saturating_mul(duration)),
        duration,
        // The last calculated one, and the one after it. The first one must exist.
        may_be_absent: !is_exact && index > 0 && index + 2 >= count,
    };
    Ok((0..count).map(time).collect())
}

fn timeline_times(
    timeline: &Element,
    template: &Merged<'_>,
    period: Option<Duration>,
) -> Result<Vec<Time>> {
    let mut times = Vec::new();
    let mut next = 0;
    let entries: Vec<_> = timeline.all("S").collect();
    for (index, entry) in entries.iter().enumerate() {
        let no_duration =
            || Error::new(Kind::Unsupported, "a segment of the timeline has no duration");
        let duration = entry.number("d").filter(|d| *d > 0).ok_or_else(no_duration)?;
        let start = entry.number("t").unwrap_or(next);
        let repeats = match entry.get("r").map(|text| text.trim().parse::<i64>()) {
            None => 0,
            Some(Ok(repeats)) if repeats >= 0 => repeats.unsigned_abs(),
            Some(Ok(_)) => {
                let following = entries.get(index + 1).and_then(|entry| entry.number("t"));
                let end = following.or_else(|| period_end(template, period));
                let no_end =
                    || Error::new(Kind::Unsupported, "the end of the timeline is not known");
                let left = end.ok_or_else(no_end)?.saturating_sub(start);
                left.div_ceil(duration).saturating_sub(1)
            }
            Some(Err(_)) => {
                return Err(Error::new(
                    Kind::Unsupported,
                    "a repetition of the timeline is not valid",
                ));
            }
        };
        if repeats >= MAX_SEGMENTS || times.len() as u64 + repeats >= MAX_SEGMENTS {
            return Err(too_many());
        }
        for repeat in 0..=repeats {
            let start = start.saturating_add(repeat.saturating_mul(duration));
            times.push(Time { start, duration, may_be_absent: false });
            next = start.saturating_add(duration);
        }
    }
    Ok(times)
}

/// The end of the period in the unit of the timescale.
fn period_end(template: &Merged<'_>, period: Option<Duration>) -> Option<u64> {
    let units = period?.as_nanos().saturating_mul(template.timescale().into()) / 1_000_000_000;
    let offset = template.number("presentationTimeOffset").unwrap_or(0);
    u64::try_from(units).ok()?.checked_add(offset)
}

fn from_list(list: &Merged<'_>) -> Result<Description> {
    let init = list.child("Initialization").map(init_of).transpose()?;
    let scale = list.timescale();
    let duration = scaled(list.number("duration").unwrap_or(0), scale);
    let with_segments = list.0.iter().find(|element| element.child("SegmentURL").is_some());
    let no_segments = || Error::new(Kind::Unsupported, "a list of segments is empty");
    let start = list.number("startNumber").unwrap_or(1);
    let timeline = list.child("SegmentTimeline");
    let times = timeline.map(|timeline| timeline_times(timeline, list, None)).transpose()?;
    let mut segments = Vec::new();
    for (index, entry) in with_segments.ok_or_else(no_segments)?.all("SegmentURL").enumerate() {
        let range = entry.get("mediaRange").map(parse_range).transpose()?;
        let uri = entry.get("media").map(str::to_owned);
        let time = times.as_ref().and_then(|times| times.get(index));
        segments.push(MediaSegment {
            location: Location { uri, range },
            number: start.saturating_add(index as u64),
            duration: time.map_or(duration, |time| scaled(time.duration, scale)),
            may_be_absent: false,
        });
    }
    Ok(Description::Segments { init, segments })
}

/// Without a URL the section is in the file of the representation.
fn init_of(element: &Element) -> Result<Location> {
    let uri = element.get("sourceURL").filter(|uri| !uri.is_empty()).map(str::to_owned);
    let range = element.get("range").map(parse_range).transpose()?;
    Ok(Location { uri, range })
}

/// Parses `FIRST-LAST`.
fn parse_range(text: &str) -> Result<Range<u64>> {
    let parsed = text.trim().split_once('-').and_then(|(first, last)| {
        let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        let end = last.checked_add(1).filter(|end| *end > first)?;
        Some(first..end)
    });
    parsed.ok_or_else(|| {
        Error::new(Kind::Unsupported, format!("{text:?} is not a range of a manifest"))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn segments(xml: &str, seconds: u64) -> Result<(Option<Location>, Vec<MediaSegment>)> {
        let root = Element::parse(&format!("<Representation>{xml}</Representation>")).unwrap();
        let period_duration = (seconds > 0).then(|| Duration::from_secs(seconds));
        let identity = Identity { id: "v", bandwidth: 9, period_duration };
        match describe(&[&root], identity)? {
            Description::Segments { init, segments } => Ok((init, segments)),
            Description::WholeFile { .. } => panic!("it is one file"),
        }
    }

    fn uris(xml: &str, seconds: u64) -> Vec<String> {
        let (_, segments) = segments(xml, seconds).unwrap();
        segments.into_iter().map(|segment| segment.location.uri.unwrap()).collect()
    }

    #[test]
    fn counted_segments_have_one_more_that_may_be_absent() {
        let xml = "<SegmentTemplate media='$Number$' initialization='$RepresentationID$-init' \
             timescale='1000' duration='4000' startNumber='5'/>";
        let (init, found) = segments(xml, 10).unwrap();
        assert_eq!(init.unwrap().uri.as_deref(), Some("v-init"));
        let of: Vec<_> = found.iter().map(|s| (s.number, s.may_be_absent)).collect();
        assert_eq!(of, [(5, false), (6, false), (7, true), (8, true)]);
        assert_eq!(found[0].duration, Duration::from_secs(4));
        let exact =
            "<SegmentTemplate media='$Number$' duration='4' startNumber='5' endNumber='6'/>";
        assert_eq!(uris(exact, 100), ["5", "6"]);
        assert!(!segments(exact, 0).unwrap().1[1].may_be_absent);
        assert!(segments("<SegmentTemplate media='$Number$' duration='4'/>", 0).is_err());
        assert!(segments("<SegmentTemplate media='$Number$'/>", 10).is_err());
        assert!(segments("<SegmentTemplate duration='4'/>", 10).is_err());
        assert!(
            segments("<SegmentTemplate media='$Number$' timescale='1000000' duration='1'/>", 10)
                .is_err()
        );
    }

    #[test]
    fn a_timeline_repeats_and_continues() {
        let of = |timeline: &str| {
            let xml = format!(
                "<SegmentTemplate media='$Time$' timescale='10'><SegmentTimeline>{timeline}</SegmentTimeline></SegmentTemplate>"
            );
            uris(&xml, 10)
        };
        assert_eq!(of("<S t='5' d='20' r='2'/><S d='10'/>"), ["5", "25", "45", "65"]);
        assert_eq!(of("<S d='30' r='-1'/>"), ["0", "30", "60", "90"]);
        assert_eq!(of("<S d='30' r='-1'/><S t='60' d='40'/>"), ["0", "30", "60"]);
        for bad in ["<S t='1'/>", "<S d='1' r='x'/>", "<S d='1' r='9999999999'/>"] {
            let xml = format!(
                "<SegmentTemplate media='$Time$'><SegmentTimeline>{bad}</SegmentTimeline></SegmentTemplate>"
            );
            assert!(segments(&xml, 10).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_list_may_have_ranges_of_the_representations_own_file() {
        let xml = "<SegmentList timescale='1000' duration='2000'><Initialization range='0-799'/>\
             <SegmentURL mediaRange='800-1999'/><SegmentURL media='b.m4s' mediaRange='0-9'/></SegmentList>";
        let (init, found) = segments(xml, 10).unwrap();
        assert_eq!(init, Some(Location { uri: None, range: Some(0..800) }));
        assert_eq!(found[0].location, Location { uri: None, range: Some(800..2000) });
        assert_eq!(found[1].location, Location { uri: Some("b.m4s".into()), range: Some(0..10) });
        assert!(segments("<SegmentList/>", 10).is_err());
        assert!(segments("<SegmentList><SegmentURL mediaRange='9-1'/></SegmentList>", 10).is_err());
    }

    #[test]
    fn attributes_are_inherited_from_outer_levels() {
        let period = Element::parse("<Period><SegmentTemplate timescale='10' duration='20' media='outer-$Number$'/></Period>").unwrap();
        let set = Element::parse(
            "<AdaptationSet><SegmentTemplate media='$RepresentationID$-$Number$'/></AdaptationSet>",
        )
        .unwrap();
        let own = Element::parse("<Representation/>").unwrap();
        let identity =
            Identity { id: "a", bandwidth: 1, period_duration: Some(Duration::from_secs(4)) };
        let found = describe(&[&period, &set, &own], identity).unwrap();
        let Description::Segments { segments, .. } = found else { panic!("it has segments") };
        assert_eq!(segments[1].location.uri.as_deref(), Some("a-2"));
        assert_eq!(segments.len(), 3);
        let file = Element::parse("<Representation><SegmentBase indexRange='800-999'><Initialization range='0-799'/></SegmentBase></Representation>").unwrap();
        let whole = Description::WholeFile { index: Some(800..1000), init: Some(0..800) };
        assert_eq!(describe(&[&file], identity).unwrap(), whole);
        assert_eq!(
            describe(&[&own], identity).unwrap(),
            Description::WholeFile { index: None, init: None }
        );
    }

    proptest! {
        #[test]
        fn any_numbers_give_segments_or_an_error(
            scale in 0_u64..5, duration in 0_u64..50, start in any::<u64>(), end in any::<u64>(), repeats in -2_i64..9, seconds in 0_u64..100,
        ) {
            for inner in ["", &format!("<SegmentTimeline><S t='{start}' d='{duration}' r='{repeats}'/></SegmentTimeline>")] {
                let xml = format!("<SegmentTemplate media='$Number$' timescale='{scale}' duration='{duration}' startNumber='{start}'>{inner}</SegmentTemplate>");
                let _ = segments(&xml, seconds);
                let xml = format!("<SegmentTemplate media='$Number$' duration='1' startNumber='{start}' endNumber='{end}'/>");
                let _ = segments(&xml, seconds);
            }
        }
    }
}
