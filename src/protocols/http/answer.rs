//! Interprets the head of a response: the metadata of the file, and whether the body is the requested range.

use std::{ops::Range, time::SystemTime};

use hyper::{Response, StatusCode, header::HeaderMap};
use url::Url;

use super::{
    digests, disposition,
    errors::{refused, wait_asked},
};
use crate::{
    error::{Error, Kind, Result},
    protocols::{Remote, Validator, Wanted, date, place},
};

/// A response without its body.
#[derive(Debug)]
pub(super) struct Head<'a> {
    status: StatusCode,
    headers: &'a HeaderMap,
}

/// The meaning of the first response.
#[derive(Debug)]
pub(super) enum First {
    /// The file, and the position where the part in the body ends; `None` if only the end of the body tells.
    File(Box<Remote>, Option<u64>),
    /// The server does not have the file, or refuses access.
    No(Error),
    /// The response is not understood, or the refusal may concern only the range.
    Unclear(Error),
}

/// The content of a body that answers a range request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Given {
    /// The range, up to this position. It may end before the range does.
    Part(u64),
    /// The same of a range without an end, together with the length of the file, which was not known before.
    PartOf(u64, u64),
    /// The start of a range without an end, from a file whose length nothing tells. It may be all of it, or a part.
    Endless,
    /// The file from its first byte, with its length if that is declared.
    Whole(Option<u64>),
    /// The file from its first byte, in the same version, from a server that does not support `If-Range`.
    Unconditional,
}

impl<'a> Head<'a> {
    pub(super) fn of<B>(response: &'a Response<B>) -> Self {
        Self { status: response.status(), headers: response.headers() }
    }

    /// Interprets the response of a GET at `at`. `ranged` tells whether the request had a range that starts at 0.
    pub(super) fn first(&self, asked: &Url, at: &Url, ranged: bool) -> First {
        let no = || refused(at, self.status, self.headers);
        if let Err(error) = self.is_decoded(at) {
            return First::No(error);
        }
        let (len, end, ranges) = match self.status.as_u16() {
            206 => match self.content_range() {
                Some((Range { start: 0, end }, Some(total))) if self.has_len_of(end) => {
                    (Some(total), Some(end), true)
                }
                _ => {
                    return First::Unclear(
                        self.unsound(at, "answers a range it was not asked for"),
                    );
                }
            },
            200 | 203 if self.is_whole() => {
                let len = self.content_length();
                (len, len, ranged && len.is_some() && self.takes_ranges())
            }
            200 | 203 => return First::Unclear(self.unsound(at, "gives a part and calls it all")),
            // A range request for an empty file cannot be satisfied.
            416 if self.total_of_none() == Some(0) => (Some(0), Some(0), false),
            204 => (Some(0), Some(0), false),
            401 | 404 | 407 | 410 | 429 => return First::No(no()),
            // No second request at once if the server sends `Retry-After`.
            _ if !ranged || wait_asked(self.headers).is_some() => return First::No(no()),
            _ => return First::Unclear(no()),
        };
        let whole = self.status != StatusCode::PARTIAL_CONTENT;
        let remote = Remote {
            asked: asked.clone(),
            url: at.clone(),
            len,
            ranges,
            validator: self.validator(len),
            digests: digests::of(self.headers, whole),
            content_type: self.text("content-type").map(str::to_owned),
            name: self.headers.get("content-disposition").and_then(disposition::name),
            modified: self.modified(),
        };
        First::File(Box::new(remote), end)
    }

    /// Accepts only a response whose body starts with `range` of the version that was found. `conditional` means that
    /// the request had `If-Range`: a 206 is then of that version unless its headers say otherwise.
    pub(super) fn gives(&self, range: Wanted, remote: &Remote, conditional: bool) -> Result<Given> {
        self.is_decoded(&remote.url)?;
        match self.status.as_u16() {
            206 => self.gives_part(range, remote, conditional),
            200 | 203 if !self.is_whole() => {
                Err(self.unsound(&remote.url, "gives a part and calls it all"))
            }
            200 | 203 => self.gives_whole(range, remote, conditional),
            204 if remote.len == Some(0) => Ok(Given::Whole(Some(0))),
            412 => Err(changed(remote)),
            416 if remote.len.is_none_or(|len| range.start < len) => Err(changed(remote)),
            416 => Err(too_short(remote, remote.len.unwrap_or(0))),
            _ => Err(refused(&remote.url, self.status, self.headers)),
        }
    }

    fn gives_part(&self, range: Wanted, remote: &Remote, conditional: bool) -> Result<Given> {
        let Some((sent, total)) = self.content_range() else {
            return Err(self.unsound(&remote.url, "answers a range without saying which"));
        };
        let version = self.version(remote, total);
        if total.is_some_and(|total| remote.len.is_some_and(|len| len != total))
            || version == Some(false)
        {
            return Err(changed(remote));
        }
        if remote.validator.is_some() && !conditional && version.is_none() {
            let what = "does not say of which version its range is";
            return Err(self.unsound(&remote.url, what));
        }
        // A shorter range is valid (RFC 9110, 15.3.7).
        let within = range.end.is_none_or(|end| sent.end <= end);
        if sent.start == range.start && within && self.has_len_of(sent.end - sent.start) {
            return Ok(match (range.end.or(remote.len), total) {
                (Some(_), _) => Given::Part(sent.end),
                (None, Some(total)) => Given::PartOf(sent.end, total),
                (None, None) => Given::Endless,
            });
        }
        Err(self.unsound(&remote.url, "answers another range than it was asked for"))
    }

    fn gives_whole(&self, range: Wanted, remote: &Remote, conditional: bool) -> Result<Given> {
        let len = self.content_length();
        let other_len = len.is_some_and(|len| remote.len.is_some_and(|known| known != len));
        if other_len || self.version(remote, len) == Some(false) {
            return Err(changed(remote));
        }
        if range.start > 0 && conditional {
            return Ok(Given::Unconditional);
        }
        if range.start > 0 {
            let text = format!("{}: the server gives the whole file only", place(&remote.url));
            return Err(Error::new(Kind::Unsupported, text));
        }
        match (len, range.end) {
            (Some(len), Some(end)) if len < end => Err(too_short(remote, len)),
            _ => Ok(Given::Whole(len)),
        }
    }

    /// Whether this response is of the version that was found; `None` if it does not say. Servers behind one host name
    /// may send different ETags, so an equal date and length outweigh a different ETag.
    fn version(&self, remote: &Remote, len: Option<u64>) -> Option<bool> {
        let dates = self.modified().zip(remote.modified);
        let same_date = dates.map(|(now, was)| now == was);
        let same_len = len.zip(remote.len).is_none_or(|(now, was)| now == was);
        match remote.validator.as_ref()? {
            Validator::ETag(tag) => {
                let same_tag = opaque(self.text("etag")?) == opaque(tag);
                Some(same_tag || same_date == Some(true) && len.is_some() && same_len)
            }
            Validator::Modified(_, was) => Some(same_date? && len.is_none_or(|len| len == *was)),
        }
    }

    /// A strong ETag, or else the date together with the length.
    fn validator(&self, len: Option<u64>) -> Option<Validator> {
        let strong = |tag: &&str| tag.starts_with('"') && tag.len() > 2;
        if let Some(tag) = self.text("etag").filter(strong) {
            return Some(Validator::ETag(tag.to_owned()));
        }
        self.modified()?;
        Some(Validator::Modified(self.text("last-modified")?.to_owned(), len?))
    }

    fn modified(&self) -> Option<SystemTime> {
        date::parse(self.text("last-modified")?)
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        self.headers.get(name)?.to_str().ok().map(str::trim)
    }

    /// `Content-Length` is ignored next to `Transfer-Encoding` (RFC 9112, 6.3).
    fn content_length(&self) -> Option<u64> {
        if self.headers.contains_key("transfer-encoding") {
            return None;
        }
        number(self.text("content-length")?)
    }

    /// Whether the body of a 200 is the whole file. Some servers send a part, with `Content-Range` but without status
    /// 206.
    fn is_whole(&self) -> bool {
        if !self.headers.contains_key("content-range") {
            return true;
        }
        self.content_range().is_some_and(|(sent, total)| sent.start == 0 && total == Some(sent.end))
    }

    /// Refuses a body in a transfer coding that was not requested, because its bytes are not those of the file.
    fn is_decoded(&self, at: &Url) -> Result<()> {
        let codings = self.headers.get_all("transfer-encoding").iter();
        let lines = codings.map(|value| value.to_str().unwrap_or("unreadable"));
        let known = |coding: &&str| {
            ["", "chunked", "identity"].iter().any(|known| coding.eq_ignore_ascii_case(known))
        };
        match lines.flat_map(|line| line.split(',')).map(str::trim).find(|coding| !known(coding)) {
            None => Ok(()),
            Some(coding) => {
                let text = format!("{}: transfer coding {coding:?} is not known", place(at));
                Err(Error::new(Kind::Unsupported, text))
            }
        }
    }

    fn has_len_of(&self, len: u64) -> bool {
        self.content_length().is_none_or(|told| told == len)
    }

    fn takes_ranges(&self) -> bool {
        self.text("accept-ranges").is_some_and(|units| {
            units.split(',').any(|unit| unit.trim().eq_ignore_ascii_case("bytes"))
        })
    }

    fn content_range(&self) -> Option<(Range<u64>, Option<u64>)> {
        content_range(self.text("content-range")?)
    }

    /// The length in `bytes */1234`, in a response without bytes of the file.
    fn total_of_none(&self) -> Option<u64> {
        let (none, total) = bytes_unit(self.text("content-range")?)?.split_once('/')?;
        (none.trim() == "*").then(|| number(total.trim()))?
    }

    fn unsound(&self, at: &Url, what: &str) -> Error {
        let range = self.text("content-range").unwrap_or("none");
        let text = format!("{}: the server {what} (Content-Range: {range:?})", place(at));
        Error::new(Kind::Unsupported, text)
    }
}

fn changed(remote: &Remote) -> Error {
    let text = format!("{}: the file is not what it was when it was begun", place(&remote.url));
    Error::new(Kind::Changed, text)
}

pub(super) fn too_short(remote: &Remote, len: u64) -> Error {
    let text = format!(
        "{}: the file ends after {len} bytes, before the end of the range",
        place(&remote.url)
    );
    Error::new(Kind::Corrupt, text)
}

/// An ETag without the prefix of weak tags.
fn opaque(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

/// Parses digits; signs are refused.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// The text after the unit `bytes`, which is matched without case. Some servers write `=` after it, as requests do.
fn bytes_unit(text: &str) -> Option<&str> {
    let unit = text.get(..5).filter(|unit| unit.eq_ignore_ascii_case("bytes"))?;
    let rest = &text[unit.len()..];
    rest.starts_with([' ', '\t', '=']).then(|| rest[1..].trim())
}

/// Parses `bytes 0-99/1234` into a half-open range and the length of the file, which is `None` for `*`.
fn content_range(text: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (range, total) = bytes_unit(text)?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, end) = (number(first.trim())?, number(last.trim())?.checked_add(1)?);
    let total = if total.trim() == "*" { None } else { Some(number(total.trim())?) };
    (first < end && total.is_none_or(|total| end <= total)).then_some((first..end, total))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (hyper::header::HeaderName::from_static(name), value.parse().unwrap())
        };
        lines.iter().map(pair).collect()
    }

    const DATE: &str = "Sat, 07 Nov 2026 10:00:00 GMT";

    fn first(status: u16, lines: &[(&'static str, &str)], ranged: bool) -> First {
        let (status, headers) = (StatusCode::from_u16(status).unwrap(), headers(lines));
        let url = Url::parse("http://x.example/f").unwrap();
        Head { status, headers: &headers }.first(&url, &url, ranged)
    }

    fn found(status: u16, lines: &[(&'static str, &str)]) -> (Remote, Option<u64>) {
        match first(status, lines, true) {
            First::File(remote, end) => (*remote, end),
            other => panic!("{status} {lines:?}: {other:?}"),
        }
    }

    /// The response to a range request for a file of 100 bytes with ETag `"a"`, modified at [`DATE`].
    fn given(status: u16, lines: &[(&'static str, &str)], range: Range<u64>) -> Result<Given> {
        let was = [("content-range", "bytes 0-99/100"), ("etag", "\"a\""), ("last-modified", DATE)];
        let (remote, _) = found(206, &was);
        let (status, headers) = (StatusCode::from_u16(status).unwrap(), headers(lines));
        Head { status, headers: &headers }.gives(range.into(), &remote, true)
    }

    #[test]
    fn the_first_answer_tells_length_ranges_and_version() {
        let (a, end) = found(206, &[("content-range", "bytes 0-99/100"), ("etag", "\"a\"")]);
        assert_eq!((a.len, end, a.ranges), (Some(100), Some(100), true));
        assert_eq!(a.validator, Some(Validator::ETag("\"a\"".into())));
        let b = [("content-length", "7"), ("etag", "W/\"a\""), ("last-modified", DATE)];
        let (b, end) = found(200, &b);
        assert_eq!((b.len, end, b.ranges), (Some(7), Some(7), false));
        assert_eq!(b.validator, Some(Validator::Modified(DATE.into(), 7)));
        assert!(b.modified.is_some());
        let (c, end) = found(200, &[("last-modified", "0")]);
        assert_eq!((c.len, end, c.ranges, c.validator), (None, None, false, None));
        let (short, end) = found(206, &[("content-range", "Bytes 0-9 / 100")]);
        assert_eq!((short.len, end), (Some(100), Some(10)));
        let told = [("content-length", "7"), ("accept-ranges", "bytes")];
        assert!(found(200, &told).0.ranges);
        assert_eq!(found(416, &[("content-range", "bytes */0")]).0.len, Some(0));
    }

    #[test]
    fn a_length_beside_chunks_is_no_length() {
        let lines = [("content-length", "5"), ("transfer-encoding", "chunked")];
        let (remote, end) = found(200, &lines);
        assert_eq!((remote.len, end), (None, None));
        assert_eq!(found(200, &[("content-length", "+5")]).0.len, None);
    }

    #[test]
    fn what_may_be_a_refusal_of_the_range_alone_is_unclear() {
        for (status, lines) in [
            (416, vec![]),
            (416, vec![("content-range", "bytes */5")]),
            (400, vec![]),
            (403, vec![]),
            (500, vec![]),
            (206, vec![]),
            (206, vec![("content-range", "bytes 0--1/0")]),
            (206, vec![("content-range", "bytes 5-9/100")]),
            (206, vec![("content-range", "bytes 0-9/*")]),
            (200, vec![("content-range", "bytes 0-9/100")]),
            (206, vec![("content-range", "bytes 0-9/100"), ("content-length", "9")]),
        ] {
            assert!(matches!(first(status, &lines, true), First::Unclear(_)), "{status} {lines:?}");
        }
        for (status, lines, ranged) in [
            (401, vec![], true),
            (404, vec![], true),
            (429, vec![], true),
            (503, vec![("retry-after", "5")], true),
            (400, vec![], false),
            (200, vec![("transfer-encoding", "gzip, chunked")], true),
        ] {
            assert!(matches!(first(status, &lines, ranged), First::No(_)), "{status} {lines:?}");
        }
    }

    #[test]
    fn only_the_range_of_the_version_that_was_found_is_taken() {
        let part = |text| ("content-range", text);
        let tag = |text| ("etag", text);
        let given_of = |status, lines: &[_], range| given(status, lines, range).unwrap();
        let a = [part("bytes 5-9/100"), tag("\"a\"")];
        assert_eq!(given_of(206, &a, 5..10), Given::Part(10));
        assert_eq!(given_of(206, &[part("bytes 5-9/*")], 5..10), Given::Part(10));
        assert_eq!(given_of(206, &[part("bytes 5-7/100")], 5..10), Given::Part(8), "less of it");
        let weak = [part("bytes 5-9/100"), tag("W/\"a\"")];
        assert_eq!(given_of(206, &weak, 5..10), Given::Part(10));
        let other_machine = [part("bytes 5-9/100"), tag("\"b\""), ("last-modified", DATE)];
        assert_eq!(given_of(206, &other_machine, 5..10), Given::Part(10));
        let whole = [("content-length", "100"), tag("\"a\"")];
        assert_eq!(given_of(200, &whole, 0..10), Given::Whole(Some(100)));
        assert_eq!(given_of(200, &whole, 5..10), Given::Unconditional);
        let later = "Sat, 07 Nov 2026 10:00:01 GMT";
        for (status, lines, range, kind) in [
            (206, vec![part("bytes 5-9/100"), tag("\"b\"")], 5..10, Kind::Changed),
            (206, vec![part("bytes 5-9/101")], 5..10, Kind::Changed),
            (
                206,
                vec![part("bytes 5-9/100"), tag("\"b\""), ("last-modified", later)],
                5..10,
                Kind::Changed,
            ),
            (206, vec![part("bytes 4-8/100")], 5..10, Kind::Unsupported),
            (206, vec![part("bytes 5-10/100")], 5..10, Kind::Unsupported),
            (206, vec![part("bytes 5-9/100"), ("content-length", "6")], 5..10, Kind::Unsupported),
            (206, vec![], 5..10, Kind::Unsupported),
            (200, vec![("content-length", "100"), tag("\"b\"")], 5..10, Kind::Changed),
            (200, vec![("content-length", "99")], 0..10, Kind::Changed),
            (412, vec![], 5..10, Kind::Changed),
            (416, vec![part("bytes */3")], 5..10, Kind::Changed),
            (503, vec![], 5..10, Kind::Unavailable),
        ] {
            let kind_of = given(status, &lines, range).err().map(|e| e.kind());
            assert_eq!(kind_of, Some(kind), "{status} {lines:?}");
        }
    }

    #[test]
    fn a_part_of_a_file_of_unknown_length_is_not_taken_for_all_of_it() {
        let (remote, _) = found(200, &[]);
        for (told, wanted) in [
            ("bytes 0-4/100", Given::PartOf(5, 100)),
            ("bytes 0-99/100", Given::PartOf(100, 100)),
            ("bytes 0-4/*", Given::Endless),
        ] {
            let (status, headers) =
                (StatusCode::PARTIAL_CONTENT, headers(&[("content-range", told)]));
            let head = Head { status, headers: &headers };
            assert_eq!(head.gives(Wanted::ALL, &remote, false).unwrap(), wanted, "{told}");
        }
    }

    #[test]
    fn without_a_condition_a_range_must_say_of_which_version_it_is() {
        let was = [("content-range", "bytes 0-99/100"), ("etag", "\"a\"")];
        let (remote, _) = found(206, &was);
        let answer = |status, lines: &[_]| {
            let (status, headers) = (StatusCode::from_u16(status).unwrap(), headers(lines));
            Head { status, headers: &headers }.gives((5..10).into(), &remote, false)
        };
        let part = ("content-range", "bytes 5-9/100");
        assert_eq!(answer(206, &[part, ("etag", "\"a\"")]).unwrap(), Given::Part(10));
        assert_eq!(answer(206, &[part]).unwrap_err().kind(), Kind::Unsupported);
        let whole = answer(200, &[("content-length", "100"), ("etag", "\"a\"")]);
        assert_eq!(whole.unwrap_err().kind(), Kind::Unsupported);
    }

    proptest! {
        #[test]
        fn any_content_range_is_read_or_refused_without_panic(text in "(bytes )?.{0,48}") {
            if let Some((range, total)) = content_range(&text) {
                prop_assert!(range.start < range.end);
                prop_assert!(total.is_none_or(|total| range.end <= total));
            }
        }

        #[test]
        fn a_content_range_says_what_was_written(start in 0u64..1 << 62, len in 1u64..1 << 61, more in 0u64..9) {
            let (end, total) = (start + len, start + len + more);
            let text = format!("bytes {start}-{}/{total}", end - 1);
            prop_assert_eq!(content_range(&text), Some((start..end, Some(total))));
        }
    }
}
