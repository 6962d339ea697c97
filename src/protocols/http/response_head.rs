//! Interprets the head of a response: the metadata of the file, and whether the body is the requested range.

use std::{ops::Range, time::SystemTime};

use hyper::{Response, StatusCode, header::HeaderMap};
use url::Url;

use super::{
    digests, disposition,
    errors::{retry_after, status_error},
};
use crate::{
    error::{Error, Kind, Result},
    protocols::{RangeRequest, RemoteFile, Validator, date, display_url},
};

/// A response without its body.
#[derive(Debug)]
pub(super) struct ResponseHead<'a> {
    status: StatusCode,
    headers: &'a HeaderMap,
}

/// The meaning of the first response.
#[derive(Debug)]
pub(super) enum FirstOutcome {
    /// The file, and the position where the part in the body ends; `None` if only the end of the body tells.
    File(Box<RemoteFile>, Option<u64>),
    /// The server does not have the file, or refuses access.
    Refused(Error),
    /// The response is not understood, or the refusal may concern only the range.
    Unclear(Error),
}

/// The content of a body that answers a range request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyContent {
    /// The range, up to this position. It may end before the range does.
    Part(u64),
    /// The same of a range without an end, together with the length of the file, which was not known before.
    PartOfTotal(u64, u64),
    /// The start of a range without an end, from a file whose length nothing tells. It may be all of it, or a part.
    PartOfUnknown,
    /// The file from its first byte, with its length if that is declared.
    Whole(Option<u64>),
    /// The file from its first byte, in the same version, from a server that does not support `If-Range`.
    WholeDespiteIfRange,
}

impl<'a> ResponseHead<'a> {
    pub(super) fn new<B>(response: &'a Response<B>) -> Self {
        Self { status: response.status(), headers: response.headers() }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn headers(&self) -> &'a HeaderMap {
        self.headers
    }

    /// Interprets the response of a GET at `final_url`. `ranged` tells whether the request had a range that starts at
    /// 0.
    pub(super) fn interpret_first(
        &self,
        requested_url: &Url,
        final_url: &Url,
        ranged: bool,
    ) -> FirstOutcome {
        let refusal = || status_error(final_url, self.status, self.headers);
        if let Err(error) = self.check_transfer_coding(final_url) {
            return FirstOutcome::Refused(error);
        }
        let (len, end, ranges) = match self.status.as_u16() {
            206 => match self.content_range() {
                Some((Range { start: 0, end }, Some(total))) if self.fits_content_length(end) => {
                    (Some(total), Some(end), true)
                }
                _ => {
                    return FirstOutcome::Unclear(
                        self.unusable(final_url, "sent a range that was not requested"),
                    );
                }
            },
            200 | 203 if self.is_whole() => {
                let len = self.content_length();
                (len, len, ranged && len.is_some() && self.accepts_ranges())
            }
            200 | 203 => {
                return FirstOutcome::Unclear(
                    self.unusable(final_url, "sent a part as the whole file"),
                );
            }
            // A range request for an empty file cannot be satisfied.
            416 if self.unsatisfied_range_total() == Some(0) => (Some(0), Some(0), false),
            204 => (Some(0), Some(0), false),
            401 | 404 | 407 | 410 | 429 => return FirstOutcome::Refused(refusal()),
            // No second request at once if the server sends `Retry-After`.
            _ if !ranged || retry_after(self.headers).is_some() => {
                return FirstOutcome::Refused(refusal());
            }
            _ => return FirstOutcome::Unclear(refusal()),
        };
        let whole = self.status != StatusCode::PARTIAL_CONTENT;
        let remote = RemoteFile {
            requested_url: requested_url.clone(),
            url: final_url.clone(),
            len,
            supports_ranges: ranges,
            validator: self.validator(len),
            digests: digests::from_headers(self.headers, whole),
            content_type: self.text("content-type").map(str::to_owned),
            name: self
                .headers
                .get("content-disposition")
                .and_then(disposition::suggested_file_name),
            modified: self.modified(),
            mode: None,
            segments: None,
        };
        FirstOutcome::File(Box::new(remote), end)
    }

    /// Accepts only a response whose body starts with `range` of the version that was found. `conditional` means that
    /// the request had `If-Range`: a 206 is then of that version unless its headers say otherwise.
    pub(super) fn check_range(
        &self,
        range: RangeRequest,
        remote: &RemoteFile,
        conditional: bool,
    ) -> Result<BodyContent> {
        self.check_transfer_coding(&remote.url)?;
        // ANCHOR: check_range
        match self.status.as_u16() {
            206 => self.check_part(range, remote, conditional),
            200 | 203 if !self.is_whole() => {
                Err(self.unusable(&remote.url, "sent a part as the whole file"))
            }
            200 | 203 => self.check_whole(range, remote, conditional),
            204 if remote.len == Some(0) => Ok(BodyContent::Whole(Some(0))),
            412 => Err(changed_error(remote)),
            416 if remote.len.is_none_or(|len| range.start < len) => Err(changed_error(remote)),
            416 => Err(too_short_error(remote, remote.len.unwrap_or(0))),
            _ => Err(status_error(&remote.url, self.status, self.headers)),
        }
        // ANCHOR_END: check_range
    }

    fn check_part(
        &self,
        range: RangeRequest,
        remote: &RemoteFile,
        conditional: bool,
    ) -> Result<BodyContent> {
        let Some((sent, total)) = self.content_range() else {
            return Err(self.unusable(&remote.url, "sent a range without a valid Content-Range"));
        };
        let same_version = self.version_matches(remote, total);
        if total.is_some_and(|total| remote.len.is_some_and(|len| len != total))
            || same_version == Some(false)
        {
            return Err(changed_error(remote));
        }
        if remote.validator.is_some() && !conditional && same_version.is_none() {
            let problem = "sent a range without the version of the file";
            return Err(self.unusable(&remote.url, problem));
        }
        // A shorter range is valid (RFC 9110, 15.3.7).
        let within = range.end.is_none_or(|end| sent.end <= end);
        if sent.start == range.start && within && self.fits_content_length(sent.end - sent.start) {
            return Ok(match (range.end.or(remote.len), total) {
                (Some(_), _) => BodyContent::Part(sent.end),
                (None, Some(total)) => BodyContent::PartOfTotal(sent.end, total),
                (None, None) => BodyContent::PartOfUnknown,
            });
        }
        Err(self.unusable(&remote.url, "sent another range than the requested one"))
    }

    fn check_whole(
        &self,
        range: RangeRequest,
        remote: &RemoteFile,
        conditional: bool,
    ) -> Result<BodyContent> {
        let len = self.content_length();
        let other_len = len.is_some_and(|len| remote.len.is_some_and(|known| known != len));
        if other_len || self.version_matches(remote, len) == Some(false) {
            return Err(changed_error(remote));
        }
        if range.start > 0 && conditional {
            return Ok(BodyContent::WholeDespiteIfRange);
        }
        if range.start > 0 {
            let text =
                format!("{}: the server sends only the whole file", display_url(&remote.url));
            return Err(Error::new(Kind::Unsupported, text));
        }
        match (len, range.end) {
            (Some(len), Some(end)) if len < end => Err(too_short_error(remote, len)),
            _ => Ok(BodyContent::Whole(len)),
        }
    }

    /// Whether this response is of the version that was found; `None` if it does not say. Servers behind one host name
    /// may send different ETags, so an equal date and length outweigh a different ETag.
    fn version_matches(&self, remote: &RemoteFile, len: Option<u64>) -> Option<bool> {
        let dates = self.modified().zip(remote.modified);
        let same_date = dates.map(|(now, was)| now == was);
        let same_len = len.zip(remote.len).is_none_or(|(now, was)| now == was);
        match remote.validator.as_ref()? {
            Validator::ETag(tag) => {
                let same_tag = opaque_tag(self.text("etag")?) == opaque_tag(tag);
                Some(same_tag || same_date == Some(true) && len.is_some() && same_len)
            }
            Validator::Modified(_, was) => Some(same_date? && len.is_none_or(|len| len == *was)),
        }
    }

    /// A strong ETag, or else the date together with the length.
    pub(super) fn validator(&self, len: Option<u64>) -> Option<Validator> {
        let strong = |tag: &&str| tag.starts_with('"') && tag.len() > 2;
        if let Some(tag) = self.text("etag").filter(strong) {
            return Some(Validator::ETag(tag.to_owned()));
        }
        self.modified()?;
        Some(Validator::Modified(self.text("last-modified")?.to_owned(), len?))
    }

    pub(super) fn modified(&self) -> Option<SystemTime> {
        date::parse(self.text("last-modified")?)
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        self.headers.get(name)?.to_str().ok().map(str::trim)
    }

    /// `Content-Length` is ignored next to `Transfer-Encoding` (RFC 9112, 6.3).
    pub(super) fn content_length(&self) -> Option<u64> {
        if self.headers.contains_key("transfer-encoding") {
            return None;
        }
        parse_number(self.text("content-length")?)
    }

    /// Whether the body of a 200 is the whole file. Some servers send a part, with `Content-Range` but without status
    /// 206.
    pub(super) fn is_whole(&self) -> bool {
        if !self.headers.contains_key("content-range") {
            return true;
        }
        self.content_range().is_some_and(|(sent, total)| sent.start == 0 && total == Some(sent.end))
    }

    /// Refuses a body in a transfer coding that was not requested, because its bytes are not those of the file.
    pub(super) fn check_transfer_coding(&self, url: &Url) -> Result<()> {
        let codings = self.headers.get_all("transfer-encoding").iter();
        let lines = codings.map(|value| value.to_str().unwrap_or("unreadable"));
        let is_supported = |coding: &&str| {
            ["", "chunked", "identity"].iter().any(|known| coding.eq_ignore_ascii_case(known))
        };
        match lines
            .flat_map(|line| line.split(','))
            .map(str::trim)
            .find(|coding| !is_supported(coding))
        {
            None => Ok(()),
            Some(coding) => {
                let text =
                    format!("{}: transfer coding {coding:?} is not supported", display_url(url));
                Err(Error::new(Kind::Unsupported, text))
            }
        }
    }

    fn fits_content_length(&self, len: u64) -> bool {
        self.content_length().is_none_or(|declared| declared == len)
    }

    fn accepts_ranges(&self) -> bool {
        self.text("accept-ranges").is_some_and(|units| {
            units.split(',').any(|unit| unit.trim().eq_ignore_ascii_case("bytes"))
        })
    }

    pub(super) fn content_range(&self) -> Option<(Range<u64>, Option<u64>)> {
        parse_content_range(self.text("content-range")?)
    }

    /// The length in `bytes */1234`, in a response without bytes of the file.
    pub(super) fn unsatisfied_range_total(&self) -> Option<u64> {
        let (none, total) = strip_bytes_unit(self.text("content-range")?)?.split_once('/')?;
        (none.trim() == "*").then(|| parse_number(total.trim()))?
    }

    pub(super) fn unusable(&self, url: &Url, problem: &str) -> Error {
        let range = self.text("content-range").unwrap_or("none");
        let text = format!("{}: the server {problem} (Content-Range: {range:?})", display_url(url));
        Error::new(Kind::Unsupported, text)
    }
}

fn changed_error(remote: &RemoteFile) -> Error {
    let text =
        format!("{}: the file has changed since the download started", display_url(&remote.url));
    Error::new(Kind::Changed, text)
}

pub(super) fn too_short_error(remote: &RemoteFile, len: u64) -> Error {
    let text = format!(
        "{}: the file ends after {len} bytes, before the end of the range",
        display_url(&remote.url)
    );
    Error::new(Kind::Corrupt, text)
}

/// An ETag without the prefix of weak tags.
fn opaque_tag(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

/// Parses digits; signs are refused.
fn parse_number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// The text after the unit `bytes`, which is matched without case. Some servers write `=` after it, as requests do.
fn strip_bytes_unit(text: &str) -> Option<&str> {
    let unit = text.get(..5).filter(|unit| unit.eq_ignore_ascii_case("bytes"))?;
    let rest = &text[unit.len()..];
    rest.starts_with([' ', '\t', '=']).then(|| rest[1..].trim())
}

/// Parses `bytes 0-99/1234` into a half-open range and the length of the file, which is `None` for `*`.
fn parse_content_range(text: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (range, total) = strip_bytes_unit(text)?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, end) = (parse_number(first.trim())?, parse_number(last.trim())?.checked_add(1)?);
    let total = if total.trim() == "*" { None } else { Some(parse_number(total.trim())?) };
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

    fn first(status: u16, lines: &[(&'static str, &str)], ranged: bool) -> FirstOutcome {
        let (status, headers) = (StatusCode::from_u16(status).unwrap(), headers(lines));
        let url = Url::parse("http://x.example/f").unwrap();
        ResponseHead { status, headers: &headers }.interpret_first(&url, &url, ranged)
    }

    fn found(status: u16, lines: &[(&'static str, &str)]) -> (RemoteFile, Option<u64>) {
        match first(status, lines, true) {
            FirstOutcome::File(remote, end) => (*remote, end),
            other => panic!("{status} {lines:?}: {other:?}"),
        }
    }

    /// The response to a range request for a file of 100 bytes with ETag `"a"`, modified at [`DATE`].
    fn checked(
        status: u16,
        lines: &[(&'static str, &str)],
        range: Range<u64>,
    ) -> Result<BodyContent> {
        let probed =
            [("content-range", "bytes 0-99/100"), ("etag", "\"a\""), ("last-modified", DATE)];
        let (remote, _) = found(206, &probed);
        let (status, headers) = (StatusCode::from_u16(status).unwrap(), headers(lines));
        ResponseHead { status, headers: &headers }.check_range(range.into(), &remote, true)
    }

    #[test]
    fn the_first_response_has_length_ranges_and_version() {
        let (a, end) = found(206, &[("content-range", "bytes 0-99/100"), ("etag", "\"a\"")]);
        assert_eq!((a.len, end, a.supports_ranges), (Some(100), Some(100), true));
        assert_eq!(a.validator, Some(Validator::ETag("\"a\"".into())));
        let b = [("content-length", "7"), ("etag", "W/\"a\""), ("last-modified", DATE)];
        let (b, end) = found(200, &b);
        assert_eq!((b.len, end, b.supports_ranges), (Some(7), Some(7), false));
        assert_eq!(b.validator, Some(Validator::Modified(DATE.into(), 7)));
        assert!(b.modified.is_some());
        let (c, end) = found(200, &[("last-modified", "0")]);
        assert_eq!((c.len, end, c.supports_ranges, c.validator), (None, None, false, None));
        let (short, end) = found(206, &[("content-range", "Bytes 0-9 / 100")]);
        assert_eq!((short.len, end), (Some(100), Some(10)));
        let declared = [("content-length", "7"), ("accept-ranges", "bytes")];
        assert!(found(200, &declared).0.supports_ranges);
        assert_eq!(found(416, &[("content-range", "bytes */0")]).0.len, Some(0));
    }

    #[test]
    fn the_length_of_a_chunked_response_is_ignored() {
        let lines = [("content-length", "5"), ("transfer-encoding", "chunked")];
        let (remote, end) = found(200, &lines);
        assert_eq!((remote.len, end), (None, None));
        assert_eq!(found(200, &[("content-length", "+5")]).0.len, None);
    }

    #[test]
    fn a_refusal_that_may_concern_only_the_range_is_unclear() {
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
            assert!(
                matches!(first(status, &lines, true), FirstOutcome::Unclear(_)),
                "{status} {lines:?}"
            );
        }
        for (status, lines, ranged) in [
            (401, vec![], true),
            (404, vec![], true),
            (429, vec![], true),
            (503, vec![("retry-after", "5")], true),
            (400, vec![], false),
            (200, vec![("transfer-encoding", "gzip, chunked")], true),
        ] {
            assert!(
                matches!(first(status, &lines, ranged), FirstOutcome::Refused(_)),
                "{status} {lines:?}"
            );
        }
    }

    #[test]
    fn only_the_requested_range_of_the_probed_version_is_accepted() {
        let part = |text| ("content-range", text);
        let tag = |text| ("etag", text);
        let content = |status, lines: &[_], range| checked(status, lines, range).unwrap();
        let a = [part("bytes 5-9/100"), tag("\"a\"")];
        assert_eq!(content(206, &a, 5..10), BodyContent::Part(10));
        assert_eq!(content(206, &[part("bytes 5-9/*")], 5..10), BodyContent::Part(10));
        assert_eq!(
            content(206, &[part("bytes 5-7/100")], 5..10),
            BodyContent::Part(8),
            "a shorter range"
        );
        let weak = [part("bytes 5-9/100"), tag("W/\"a\"")];
        assert_eq!(content(206, &weak, 5..10), BodyContent::Part(10));
        let other_machine = [part("bytes 5-9/100"), tag("\"b\""), ("last-modified", DATE)];
        assert_eq!(content(206, &other_machine, 5..10), BodyContent::Part(10));
        let whole = [("content-length", "100"), tag("\"a\"")];
        assert_eq!(content(200, &whole, 0..10), BodyContent::Whole(Some(100)));
        assert_eq!(content(200, &whole, 5..10), BodyContent::WholeDespiteIfRange);
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
            let error_kind = checked(status, &lines, range).err().map(|e| e.kind());
            assert_eq!(error_kind, Some(kind), "{status} {lines:?}");
        }
    }

    #[test]
    fn a_part_of_a_file_of_unknown_length_is_not_taken_for_the_whole() {
        let (remote, _) = found(200, &[]);
        for (content_range, wanted) in [
            ("bytes 0-4/100", BodyContent::PartOfTotal(5, 100)),
            ("bytes 0-99/100", BodyContent::PartOfTotal(100, 100)),
            ("bytes 0-4/*", BodyContent::PartOfUnknown),
        ] {
            let (status, headers) =
                (StatusCode::PARTIAL_CONTENT, headers(&[("content-range", content_range)]));
            let head = ResponseHead { status, headers: &headers };
            assert_eq!(
                head.check_range(RangeRequest::ALL, &remote, false).unwrap(),
                wanted,
                "{content_range}"
            );
        }
    }

    #[test]
    fn without_if_range_a_response_must_name_its_version() {
        let probed = [("content-range", "bytes 0-99/100"), ("etag", "\"a\"")];
        let (remote, _) = found(206, &probed);
        let answer = |status, lines: &[_]| {
            let (status, headers) = (StatusCode::from_u16(status).unwrap(), headers(lines));
            ResponseHead { status, headers: &headers }.check_range((5..10).into(), &remote, false)
        };
        let part = ("content-range", "bytes 5-9/100");
        assert_eq!(answer(206, &[part, ("etag", "\"a\"")]).unwrap(), BodyContent::Part(10));
        assert_eq!(answer(206, &[part]).unwrap_err().kind(), Kind::Unsupported);
        let whole = answer(200, &[("content-length", "100"), ("etag", "\"a\"")]);
        assert_eq!(whole.unwrap_err().kind(), Kind::Unsupported);
    }

    proptest! {
        #[test]
        fn any_content_range_is_read_or_refused_without_panic(text in "(bytes )?.{0,48}") {
            if let Some((range, total)) = parse_content_range(&text) {
                prop_assert!(range.start < range.end);
                prop_assert!(total.is_none_or(|total| range.end <= total));
            }
        }

        #[test]
        fn a_content_range_round_trips(start in 0u64..1 << 62, len in 1u64..1 << 61, more in 0u64..9) {
            let (end, total) = (start + len, start + len + more);
            let text = format!("bytes {start}-{}/{total}", end - 1);
            prop_assert_eq!(parse_content_range(&text), Some((start..end, Some(total))));
        }
    }
}
