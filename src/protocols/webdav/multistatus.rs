//! Parses the response to a PROPFIND (RFC 4918, section 13) into resources and their properties. Pure.
//!
//! Elements are recognised by their namespace, whatever prefix the server uses. Only the requested properties are kept.
//! XML's own five entities and numeric character references are decoded; all other entities are refused. Nothing
//! external is ever loaded.

use quick_xml::{
    NsReader,
    events::{BytesRef, Event},
    name::{Namespace, ResolveResult},
};

use crate::error::{Error, Kind, Result};

/// The body of the PROPFIND request.
pub(super) const QUESTION: &str = r#"<?xml version="1.0" encoding="utf-8"?><propfind xmlns="DAV:"><prop><resourcetype/><getcontentlength/><getetag/><getlastmodified/><getcontenttype/></prop></propfind>"#;

/// Maximum length of the text of one element in bytes: a path of 4 KiB with every byte escaped.
const TEXT: usize = 16 << 10;

/// One `response` element.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Resource {
    /// A URL or the path of one, with percent-escapes.
    pub(super) href: String,
    pub(super) folder: bool,
    pub(super) len: Option<u64>,
    pub(super) etag: Option<String>,
    pub(super) modified: Option<String>,
    pub(super) content_type: Option<String>,
    /// The status, if it is not a success and there are no properties.
    pub(super) refused: Option<u16>,
}

/// Parses the body of a response.
///
/// # Errors
/// `Unsupported` if `text` is not such a response.
pub(super) fn parse(text: &str) -> Result<Vec<Resource>> {
    let mut reader = NsReader::from_str(text);
    let mut parsing = Parsing::default();
    loop {
        let bad = |e| Error::new(Kind::Unsupported, "a listing that is no XML").because(e);
        let (namespace, event) = reader.read_resolved_event().map_err(bad)?;
        let dav = matches!(namespace, ResolveResult::Bound(Namespace("DAV:")));
        match event {
            Event::Start(tag) => parsing.start(dav.then_some(tag.local_name().as_ref())),
            Event::Empty(tag) => {
                parsing.start(dav.then_some(tag.local_name().as_ref()));
                parsing.end()?;
            }
            Event::End(_) => parsing.end()?,
            Event::Text(text) => parsing.text(&text)?,
            Event::CData(text) => parsing.text(&text)?,
            Event::GeneralRef(entity) => {
                parsing.text(character(&entity)?.encode_utf8(&mut [0; 4]))?
            }
            Event::Eof => return parsing.finish(),
            _ => {}
        }
    }
}

fn character(entity: &BytesRef<'_>) -> Result<char> {
    let bad = || Error::new(Kind::Unsupported, "a listing with an entity that is not XML's own");
    if let Some(c) = entity.resolve_char_ref().map_err(|e| bad().because(e))? {
        return Ok(c);
    }
    match &**entity {
        "amp" => Ok('&'),
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "quot" => Ok('"'),
        "apos" => Ok('\''),
        _ => Err(bad()),
    }
}

/// The elements that are interpreted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Element {
    Multistatus,
    Response,
    Propstat,
    Href,
    Status,
    Type,
    Collection,
    Length,
    ETag,
    Modified,
    ContentType,
    Other,
}

#[derive(Debug, Default)]
struct Parsing {
    /// The open elements, outermost first.
    open: Vec<Element>,
    text: String,
    done: Vec<Resource>,
    now: Resource,
    /// A `response` may name several resources, if it contains only a status.
    hrefs: Vec<String>,
    /// The properties of the current `propstat`. They count only if its status, which comes last, is a success.
    told: Resource,
    told_type: bool,
    good: bool,
    any_good: bool,
    any_type: bool,
    found: bool,
}

impl Parsing {
    fn start(&mut self, name: Option<&str>) {
        let element = match name {
            Some("multistatus") => Element::Multistatus,
            Some("response") => Element::Response,
            Some("propstat") => Element::Propstat,
            Some("href") => Element::Href,
            Some("status") => Element::Status,
            Some("resourcetype") => Element::Type,
            Some("collection") => Element::Collection,
            Some("getcontentlength") => Element::Length,
            Some("getetag") => Element::ETag,
            Some("getlastmodified") => Element::Modified,
            Some("getcontenttype") => Element::ContentType,
            _ => Element::Other,
        };
        match element {
            Element::Multistatus if self.open.is_empty() => self.found = true,
            Element::Response => {
                self.now = Resource::default();
                (self.any_good, self.any_type) = (false, false);
                self.hrefs.clear();
            }
            // A `propstat` without a status counts as a success.
            Element::Propstat => {
                self.told = Resource::default();
                (self.told_type, self.good) = (false, true);
            }
            _ => {}
        }
        self.text.clear();
        self.open.push(element);
    }

    fn text(&mut self, text: &str) -> Result<()> {
        self.text.push_str(text);
        if self.text.len() > TEXT {
            return Err(Error::new(Kind::Unsupported, "a listing with an endless name in it"));
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let Some(element) = self.open.pop() else { return Ok(()) };
        let text = std::mem::take(&mut self.text);
        let text = text.trim();
        let owned = || Some(text.to_owned()).filter(|text| !text.is_empty());
        match element {
            // Only a direct child names the resource; other `href` elements name locks and the like.
            Element::Href if self.open.last() == Some(&Element::Response) => {
                self.hrefs.push(owned().ok_or_else(unnamed)?);
            }
            Element::Status => self.status(text)?,
            Element::Type => self.told_type = true,
            Element::Collection => self.told.folder = true,
            Element::Length => self.told.len = text.parse().ok(),
            Element::ETag => self.told.etag = owned(),
            Element::Modified => self.told.modified = owned(),
            Element::ContentType => self.told.content_type = owned(),
            Element::Propstat if self.good => self.keep(),
            Element::Response => self.respond()?,
            _ => {}
        }
        Ok(())
    }

    fn status(&mut self, text: &str) -> Result<()> {
        let of = self.open.last().copied();
        if !matches!(of, Some(Element::Propstat | Element::Response)) {
            return Ok(());
        }
        let status = code(text).ok_or_else(|| {
            Error::new(Kind::Unsupported, format!("a listing with {text:?} for a status"))
        })?;
        let good = (200..300).contains(&status);
        if of == Some(Element::Propstat) {
            self.good = good;
            // A missing property says nothing about the resource.
            let of_all = Some(status).filter(|code| !good && *code != 404);
            self.now.refused = self.now.refused.or(of_all);
        } else if !good {
            self.now.refused = Some(status);
        }
        Ok(())
    }

    fn respond(&mut self) -> Result<()> {
        let mut now = std::mem::take(&mut self.now);
        if self.any_good {
            // Some properties may be unreadable although others are readable.
            now.refused = None;
        }
        if self.hrefs.is_empty() {
            return Err(unnamed());
        }
        for href in self.hrefs.drain(..) {
            // Servers end the URLs of folders with a slash (RFC 4918, 5.2).
            let folder = now.folder || !self.any_type && href.ends_with('/');
            self.done.push(Resource { href, folder, ..now.clone() });
        }
        Ok(())
    }

    fn keep(&mut self) {
        self.any_good = true;
        self.any_type |= self.told_type;
        let told = std::mem::take(&mut self.told);
        self.now.folder |= told.folder;
        self.now.len = told.len.or(self.now.len);
        self.now.etag = told.etag.or(self.now.etag.take());
        self.now.modified = told.modified.or(self.now.modified.take());
        self.now.content_type = told.content_type.or(self.now.content_type.take());
    }

    fn finish(self) -> Result<Vec<Resource>> {
        let bad = |why: &str| Error::new(Kind::Unsupported, format!("a listing that {why}"));
        if !self.open.is_empty() {
            return Err(bad("ends in the middle"));
        }
        if !self.found {
            return Err(bad("is no answer of WebDAV"));
        }
        Ok(self.done)
    }
}

fn unnamed() -> Error {
    Error::new(Kind::Unsupported, "a listing with an entry without a name")
}

/// The first number of three digits in the text of a status. Servers leave out the `HTTP/1.1` before it, or write more
/// spaces.
fn code(text: &str) -> Option<u16> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    numbers.find(|number| number.len() == 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A response of Apache: the namespace has several prefixes, and missing properties have a `propstat` of their own.
    const APACHE: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<D:multistatus xmlns:D="DAV:" xmlns:ns0="DAV:">
<D:response xmlns:lp1="DAV:" xmlns:lp2="http://apache.org/dav/props/">
<D:href>/top/</D:href>
<D:propstat><D:prop><lp1:resourcetype><D:collection/></lp1:resourcetype>
<lp1:getlastmodified>Fri, 27 Nov 2026 03:00:00 GMT</lp1:getlastmodified></D:prop>
<D:status>HTTP/1.1 200 OK</D:status></D:propstat>
<D:propstat><D:prop><ns0:getcontentlength/></D:prop><D:status>HTTP/1.1 404 Not Found</D:status></D:propstat>
</D:response>
<D:response xmlns:lp1="DAV:">
<D:href>/top/a%20&amp;&#x20;b.bin</D:href>
<D:propstat><D:prop><lp1:resourcetype/><lp1:getcontentlength>5</lp1:getcontentlength>
<lp1:getetag>"5-64f"</lp1:getetag></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat>
</D:response>
</D:multistatus>"#;

    #[test]
    fn resources_are_read_by_namespace_and_not_by_prefix() {
        let found = parse(APACHE).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].href.as_str(), found[0].folder, found[0].len), ("/top/", true, None));
        let file = Resource {
            href: "/top/a%20& b.bin".into(),
            len: Some(5),
            etag: Some("\"5-64f\"".into()),
            ..Resource::default()
        };
        assert_eq!(found[1], file);
        let other = APACHE.replace("DAV:", "http://example.org/ns");
        assert_eq!(parse(&other).unwrap_err().kind(), Kind::Unsupported);
        let plain =
            r#"<multistatus xmlns="DAV:"><response><href>/x</href></response></multistatus>"#;
        assert_eq!(parse(plain).unwrap()[0].href, "/x");
    }

    #[test]
    fn what_was_not_found_is_not_told() {
        let text = r#"<multistatus xmlns="DAV:"><response><href>/x</href><propstat><prop>
            <getcontentlength>7</getcontentlength></prop><status>HTTP/1.1 403 Forbidden</status>
            </propstat></response></multistatus>"#;
        assert_eq!(parse(text).unwrap()[0].len, None);
    }

    #[test]
    fn a_status_is_read_wherever_it_is_and_needed_where_there_is_one() {
        let with = |status: &str| {
            parse(&format!(
                r#"<multistatus xmlns="DAV:"><response><href>/x</href><propstat><prop>
                <getcontentlength>7</getcontentlength></prop><status>{status}</status>
                </propstat></response></multistatus>"#
            ))
        };
        for status in ["HTTP/1.1 200 OK", "HTTP/1.1  200  OK", "200 OK", "HTTP/2 200"] {
            assert_eq!(with(status).unwrap()[0].len, Some(7), "{status}");
        }
        assert_eq!(with("403").unwrap()[0].refused, Some(403));
        for status in ["", "OK", "HTTP/1.1"] {
            assert_eq!(with(status).unwrap_err().kind(), Kind::Unsupported, "{status}");
        }
        let of_all = r#"<multistatus xmlns="DAV:"><response><href>/x</href><status>gone</status>
            </response></multistatus>"#;
        assert!(parse(of_all).unwrap_err().report().contains("gone"));
    }

    #[test]
    fn an_entry_without_a_name_is_refused() {
        for href in ["", "<href/>", "<href> </href>", "<prop><href>/lock</href></prop>"] {
            let text =
                format!(r#"<multistatus xmlns="DAV:"><response>{href}</response></multistatus>"#);
            assert_eq!(parse(&text).unwrap_err().kind(), Kind::Unsupported, "{href}");
        }
    }

    #[test]
    fn what_ends_in_a_slash_is_a_folder_unless_its_type_is_told() {
        let with = |properties: &str, status: u16| {
            let text = format!(
                r#"<multistatus xmlns="DAV:"><response><href>/x/</href><propstat><prop>{properties}
                </prop><status>HTTP/1.1 {status} X</status></propstat></response></multistatus>"#
            );
            parse(&text).unwrap()[0].folder
        };
        assert!(with("<getetag>\"a\"</getetag>", 200));
        assert!(with("<resourcetype/>", 404));
        assert!(!with("<resourcetype/>", 200));
        assert!(with("<resourcetype><collection/></resourcetype>", 200));
    }

    #[test]
    fn a_hostile_answer_is_refused() {
        for text in [
            "",
            "<html>",
            "not xml at all",
            r#"<multistatus xmlns="DAV:"><response>"#,
            r#"<!DOCTYPE m [<!ENTITY a "aaaa">]><multistatus xmlns="DAV:"><response><href>&a;</href></response></multistatus>"#,
            r#"<multistatus xmlns="DAV:"></response></multistatus>"#,
        ] {
            assert_eq!(parse(text).unwrap_err().kind(), Kind::Unsupported, "{text}");
        }
        let name = "a".repeat(TEXT + 1);
        let text = format!(
            r#"<multistatus xmlns="DAV:"><response><href>{name}</href></response></multistatus>"#
        );
        assert!(parse(&text).unwrap_err().report().contains("endless"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_panic(text in "(<|>|/|&|;|\"|'|=|a|D:|multistatus|response|href|xmlns=\"DAV:\"| ){0,60}") {
            let _ = parse(&text);
        }
    }
}
