//! Evaluates range and conditional headers of a request, by RFC 9110 (sections 13 and 14). No I/O.
//!
//! A single range is answered with that range. Several ranges are answered with the whole file, as the RFC allows:
//! players do not request several. A `Range` header that is malformed, or has another unit than bytes, is ignored.

use std::ops::Range;

use hyper::{
    HeaderMap, Method,
    header::{HeaderName, IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE},
};

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RangeOutcome {
    /// 200, the whole file.
    Whole,
    /// 206, a range that is not empty.
    Part(Range<u64>),
    /// 416: the requested range is outside of the file.
    NotSatisfiable,
    /// 304: the client has the current version.
    NotModified,
    /// 412: the file is not the version that the client requires.
    PreconditionFailed,
}

/// The answer to a request for a file of `len` bytes with the strong validator `etag` (in quotes).
pub(super) fn evaluate(method: &Method, headers: &HeaderMap, etag: &str, len: u64) -> RangeOutcome {
    if joined_values(headers, IF_MATCH)
        .is_some_and(|list| !list_contains(&list, etag, Comparison::Strong))
    {
        return RangeOutcome::PreconditionFailed;
    }
    if joined_values(headers, IF_NONE_MATCH)
        .is_some_and(|list| list_contains(&list, etag, Comparison::Weak))
    {
        return RangeOutcome::NotModified;
    }
    // Ranges are defined only for GET.
    let ranges = headers.get(RANGE).filter(|_| *method == Method::GET);
    let Some(ranges) = ranges.and_then(|ranges| ranges.to_str().ok()) else {
        return RangeOutcome::Whole;
    };
    // A date in `If-Range` never matches, since the server sends none. A weak tag must not be compared here.
    if headers.get(IF_RANGE).is_some_and(|tag| tag.as_bytes() != etag.as_bytes()) {
        return RangeOutcome::Whole;
    }
    evaluate_ranges(ranges, len)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

/// The values of a repeatable header, joined into one list.
fn joined_values(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    let values: Vec<_> = headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).collect();
    (!values.is_empty()).then(|| values.join(","))
}

/// Whether a list of entity tags contains `etag`. Our own tags contain no commas, so splitting at commas is safe.
fn list_contains(list: &str, etag: &str, comparison: Comparison) -> bool {
    let same = |tag: &str| {
        let opaque = match comparison {
            Comparison::Weak => tag.strip_prefix("W/").unwrap_or(tag),
            Comparison::Strong => tag,
        };
        tag == "*" || opaque == etag
    };
    list.split(',').any(|tag| same(tag.trim()))
}

fn evaluate_ranges(text: &str, len: u64) -> RangeOutcome {
    let Some(specs) = byte_ranges(text) else { return RangeOutcome::Whole };
    let found: Vec<_> = specs.iter().filter_map(|spec| spec.within(len)).collect();
    match (&specs[..], &found[..]) {
        (_, []) => RangeOutcome::NotSatisfiable,
        // A suffix range of an empty file cannot be expressed as a range.
        ([_], [part]) if part.is_empty() => RangeOutcome::Whole,
        ([_], [part]) => RangeOutcome::Part(part.clone()),
        _ => RangeOutcome::Whole,
    }
}

#[derive(Debug, Clone, Copy)]
enum RangeSpec {
    From { first: u64, last: Option<u64> },
    Last(u64),
}

impl RangeSpec {
    fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-')?;
        match (first.trim(), last.trim()) {
            ("", last) => number(last).map(Self::Last),
            (first, "") => Some(Self::From { first: number(first)?, last: None }),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::From { first, last: Some(last) })
            }
        }
    }

    /// The range within a file of `len` bytes; `None` when it is outside.
    fn within(self, len: u64) -> Option<Range<u64>> {
        match self {
            Self::Last(0) => None,
            Self::Last(n) => Some(len.saturating_sub(n)..len),
            Self::From { first, .. } if first >= len => None,
            Self::From { first, last } => {
                Some(first..last.map_or(len, |last| len.min(last.saturating_add(1))))
            }
        }
    }
}

/// Parses digits. Numbers that do not fit are cut to `u64::MAX`.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

/// The ranges of a `Range` header; `None` when the header has to be ignored.
fn byte_ranges(text: &str) -> Option<Vec<RangeSpec>> {
    let (unit, set) = text.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let specs = set.split(',').map(str::trim).filter(|spec| !spec.is_empty());
    let specs: Vec<_> = specs.map(RangeSpec::parse).collect::<Option<_>>()?;
    (!specs.is_empty()).then_some(specs)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TAG: &str = "\"aa-0\"";

    fn evaluate_request(method: &Method, given: &[(&str, &str)], len: u64) -> RangeOutcome {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, value.parse().unwrap());
        }
        evaluate(method, &headers, TAG, len)
    }

    #[test]
    fn ranges_are_evaluated_by_the_rfc() {
        let cases = [
            ("bytes=0-0", RangeOutcome::Part(0..1)),
            ("bytes=0-499", RangeOutcome::Part(0..500)),
            ("bytes=500-", RangeOutcome::Part(500..1000)),
            ("bytes=-1", RangeOutcome::Part(999..1000)),
            ("bytes=-5000", RangeOutcome::Part(0..1000)),
            ("bytes=999-5000", RangeOutcome::Part(999..1000)),
            ("Bytes = 1 - 2", RangeOutcome::Part(1..3)),
            ("bytes=0-99999999999999999999999", RangeOutcome::Part(0..1000)),
            ("bytes=1000-", RangeOutcome::NotSatisfiable),
            ("bytes=99999999999999999999999-", RangeOutcome::NotSatisfiable),
            ("bytes=-0", RangeOutcome::NotSatisfiable),
            ("bytes=2000-3000,4000-", RangeOutcome::NotSatisfiable),
            ("bytes=0-1,5-6", RangeOutcome::Whole),
            ("bytes=0-1,5000-", RangeOutcome::Whole),
            ("bytes=2-1", RangeOutcome::Whole),
            ("bytes=", RangeOutcome::Whole),
            ("bytes=a-b", RangeOutcome::Whole),
            ("bytes=+1-2", RangeOutcome::Whole),
            ("bytes=1", RangeOutcome::Whole),
            ("pieces=0-1", RangeOutcome::Whole),
            ("0-1", RangeOutcome::Whole),
        ];
        for (text, expected) in cases {
            assert_eq!(
                evaluate_request(&Method::GET, &[("range", text)], 1000),
                expected,
                "{text}"
            );
        }
        assert_eq!(evaluate_request(&Method::GET, &[], 1000), RangeOutcome::Whole);
        assert_eq!(
            evaluate_request(&Method::HEAD, &[("range", "bytes=0-1")], 1000),
            RangeOutcome::Whole
        );
        assert_eq!(
            evaluate_request(&Method::GET, &[("range", "bytes=0-")], 0),
            RangeOutcome::NotSatisfiable
        );
        assert_eq!(
            evaluate_request(&Method::GET, &[("range", "bytes=-5")], 0),
            RangeOutcome::Whole
        );
    }

    #[test]
    fn conditions_are_evaluated_before_ranges() {
        let get = |given: &[(&str, &str)]| evaluate_request(&Method::GET, given, 1000);
        let range = ("range", "bytes=5-9");
        assert_eq!(get(&[range, ("if-range", TAG)]), RangeOutcome::Part(5..10));
        for other in ["\"aa-1\"", "W/\"aa-0\"", "Wed, 21 Oct 2015 07:28:00 GMT"] {
            assert_eq!(get(&[range, ("if-range", other)]), RangeOutcome::Whole, "{other}");
        }
        assert_eq!(get(&[range, ("if-none-match", TAG)]), RangeOutcome::NotModified);
        assert_eq!(get(&[("if-none-match", "\"x\", W/\"aa-0\"")]), RangeOutcome::NotModified);
        assert_eq!(get(&[("if-none-match", "*")]), RangeOutcome::NotModified);
        assert_eq!(get(&[("if-none-match", "\"x\"")]), RangeOutcome::Whole);
        assert_eq!(
            get(&[("if-none-match", "\"x\""), ("if-none-match", TAG)]),
            RangeOutcome::NotModified
        );
        assert_eq!(get(&[range, ("if-match", "\"x\"")]), RangeOutcome::PreconditionFailed);
        assert_eq!(get(&[("if-match", "W/\"aa-0\"")]), RangeOutcome::PreconditionFailed);
        assert_eq!(get(&[range, ("if-match", "\"x\", \"aa-0\"")]), RangeOutcome::Part(5..10));
        assert_eq!(get(&[range, ("if-match", "*")]), RangeOutcome::Part(5..10));
    }

    proptest! {
        #[test]
        fn every_part_is_inside_the_file(text in "(bytes=)?[-0-9, =a]{0,20}", len in 0u64..50) {
            if let RangeOutcome::Part(part) = evaluate_request(&Method::GET, &[("range", &text)], len) {
                prop_assert!(part.start < part.end && part.end <= len);
            }
        }
    }
}
