//! What the head of an answer says of the file, and whether it is the range that was asked for.

use std::ops::Range;

use hyper::{Response, StatusCode, header::HeaderMap};
use url::Url;

use super::{digests, disposition, errors::refused};
use crate::{
    error::{Error, Kind, Result},
    protocols::{Remote, Validator, Wanted, place},
};

/// An answer without its body.
#[derive(Debug)]
pub(super) struct Head<'a> {
    status: StatusCode,
    headers: &'a HeaderMap,
}

impl<'a> Head<'a> {
    pub(super) fn of<B>(response: &'a Response<B>) -> Self {
        Self { status: response.status(), headers: response.headers() }
    }

    /// The file that a GET of its first byte found at `at`.
    pub(super) fn remote(&self, asked: &Url, at: Url) -> Result<Remote> {
        let (len, ranges) = match self.status.as_u16() {
            206 => match self.content_range() {
                Some((Range { start: 0, end: 1 }, total)) => (total, total.is_some()),
                _ => return Err(self.unsound(&at, "answers a range it was not asked for")),
            },
            // A range of nothing cannot be given.
            416 if self.total_of_none() == Some(0) => (Some(0), false),
            200 | 203 => (self.content_length(), false),
            204 => (Some(0), false),
            _ => return Err(refused(&at, self.status, self.headers)),
        };
        let whole = self.status != StatusCode::PARTIAL_CONTENT;
        Ok(Remote {
            asked: asked.clone(),
            len,
            ranges,
            validator: self.validator(len),
            digests: digests::of(self.headers, whole),
            content_type: self.text("content-type").map(str::to_owned),
            name: self.headers.get("content-disposition").and_then(disposition::name),
            modified: self.text("last-modified").and_then(|t| httpdate::parse_http_date(t).ok()),
            url: at,
        })
    }

    /// Refuses all but an answer whose body begins with `range` of the file that was probed, and has all of it.
    pub(super) fn gives(&self, range: Wanted, remote: &Remote) -> Result<()> {
        match self.status.as_u16() {
            206 => self.gives_part(range, remote),
            200 | 203 => self.gives_whole(range, remote),
            204 if remote.len == Some(0) => Ok(()),
            412 => Err(changed(remote)),
            416 if remote.len.is_none_or(|len| range.start < len) => Err(changed(remote)),
            416 => Err(too_short(remote, remote.len.unwrap_or(0))),
            _ => Err(refused(&remote.url, self.status, self.headers)),
        }
    }

    fn gives_part(&self, range: Wanted, remote: &Remote) -> Result<()> {
        let Some((sent, total)) = self.content_range() else {
            return Err(self.unsound(&remote.url, "answers a range without saying which"));
        };
        if total.is_some_and(|total| remote.len.is_some_and(|len| len != total))
            || !self.is_version(remote, total)
        {
            return Err(changed(remote));
        }
        let as_long = self.content_length().is_none_or(|len| len == sent.end - sent.start);
        let whole = range.end.is_none_or(|end| end == sent.end);
        if sent.start == range.start && whole && as_long {
            return Ok(());
        }
        Err(self.unsound(&remote.url, "answers another range than it was asked for"))
    }

    fn gives_whole(&self, range: Wanted, remote: &Remote) -> Result<()> {
        let len = self.content_length();
        let other_len = len.is_some_and(|len| remote.len.is_some_and(|known| known != len));
        if other_len || !self.is_version(remote, len) {
            return Err(changed(remote));
        }
        if range.start > 0 {
            let text = format!("{}: the server gives the whole file only", place(&remote.url));
            return Err(Error::new(Kind::Unsupported, text));
        }
        match (len, range.end) {
            (Some(len), Some(end)) if len < end => Err(too_short(remote, len)),
            _ => Ok(()),
        }
    }

    /// Whether this answer is of the version that was probed, as far as it says. What it leaves out is no sign of change.
    fn is_version(&self, remote: &Remote, len: Option<u64>) -> bool {
        match &remote.validator {
            Some(Validator::ETag(tag)) => self.text("etag").is_none_or(|now| now == tag),
            Some(Validator::Modified(date, was)) => {
                self.text("last-modified").is_none_or(|now| now == date)
                    && len.is_none_or(|len| len == *was)
            }
            None => true,
        }
    }

    /// A strong tag; without one the date and the length together.
    fn validator(&self, len: Option<u64>) -> Option<Validator> {
        let strong = |tag: &&str| tag.starts_with('"') && tag.len() > 2;
        if let Some(tag) = self.text("etag").filter(strong) {
            return Some(Validator::ETag(tag.to_owned()));
        }
        Some(Validator::Modified(self.text("last-modified")?.to_owned(), len?))
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        self.headers.get(name)?.to_str().ok().map(str::trim)
    }

    fn content_length(&self) -> Option<u64> {
        self.text("content-length")?.parse().ok()
    }

    fn content_range(&self) -> Option<(Range<u64>, Option<u64>)> {
        content_range(self.text("content-range")?)
    }

    /// The length in `bytes */1234`, of an answer that has none of the bytes.
    fn total_of_none(&self) -> Option<u64> {
        self.text("content-range")?.strip_prefix("bytes */")?.parse().ok()
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

/// `bytes 0-99/1234`, half-open, and the whole length where it is not `*`.
fn content_range(text: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.trim().split_once('-')?;
    let (first, end) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?.checked_add(1)?);
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
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

    fn probed(status: u16, lines: &[(&'static str, &str)]) -> Result<Remote> {
        let (status, headers) = (StatusCode::from_u16(status).unwrap(), headers(lines));
        let url = Url::parse("http://x.example/f").unwrap();
        Head { status, headers: &headers }.remote(&url, url.clone())
    }

    fn opened(status: u16, lines: &[(&'static str, &str)], range: Range<u64>) -> Option<Kind> {
        let remote = probed(206, &[("content-range", "bytes 0-0/100"), ("etag", "\"a\"")]).unwrap();
        let (status, headers) = (StatusCode::from_u16(status).unwrap(), headers(lines));
        Head { status, headers: &headers }.gives(range.into(), &remote).err().map(|e| e.kind())
    }

    #[test]
    fn a_probe_tells_length_ranges_and_version() {
        let a = probed(206, &[("content-range", "bytes 0-0/100"), ("etag", "\"a\"")]).unwrap();
        assert_eq!((a.len, a.ranges), (Some(100), true));
        assert_eq!(a.validator, Some(Validator::ETag("\"a\"".into())));
        let date = "Sat, 07 Nov 2026 10:00:00 GMT";
        let b = [("content-length", "7"), ("etag", "W/\"a\""), ("last-modified", date)];
        let b = probed(200, &b).unwrap();
        assert_eq!((b.len, b.ranges), (Some(7), false));
        assert_eq!(b.validator, Some(Validator::Modified(date.into(), 7)));
        assert!(b.modified.is_some());
        let c = probed(200, &[]).unwrap();
        assert_eq!((c.len, c.ranges, c.validator), (None, false, None));
        assert_eq!(probed(416, &[("content-range", "bytes */0")]).unwrap().len, Some(0));
        assert!(probed(416, &[("content-range", "bytes */5")]).is_err());
        assert!(probed(206, &[("content-range", "bytes 5-9/100")]).is_err());
        assert_eq!(probed(404, &[]).unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn only_the_range_of_the_version_that_was_probed_is_taken() {
        let part = |text| ("content-range", text);
        assert_eq!(opened(206, &[part("bytes 5-9/100"), ("etag", "\"a\"")], 5..10), None);
        assert_eq!(opened(206, &[part("bytes 5-9/*")], 5..10), None);
        assert_eq!(opened(200, &[("content-length", "100")], 0..10), None);
        for (status, lines, range, kind) in [
            (206, vec![part("bytes 5-9/100"), ("etag", "\"b\"")], 5..10, Kind::Changed),
            (206, vec![part("bytes 5-9/101")], 5..10, Kind::Changed),
            (206, vec![part("bytes 4-8/100")], 5..10, Kind::Unsupported),
            (206, vec![part("bytes 5-8/100")], 5..10, Kind::Unsupported),
            (206, vec![part("bytes 5-9/100"), ("content-length", "6")], 5..10, Kind::Unsupported),
            (206, vec![], 5..10, Kind::Unsupported),
            (200, vec![("content-length", "100"), ("etag", "\"a\"")], 5..10, Kind::Unsupported),
            (200, vec![("content-length", "100"), ("etag", "\"b\"")], 5..10, Kind::Changed),
            (200, vec![("content-length", "99")], 0..10, Kind::Changed),
            (412, vec![], 5..10, Kind::Changed),
            (416, vec![part("bytes */3")], 5..10, Kind::Changed),
            (503, vec![], 5..10, Kind::Unavailable),
        ] {
            assert_eq!(opened(status, &lines, range), Some(kind), "{status} {lines:?}");
        }
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
