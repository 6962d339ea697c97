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
pub(super) const PROPFIND_BODY: &str = r#"<?xml version="1.0" encoding="utf-8"?><propfind xmlns="DAV:"><prop><resourcetype/><getcontentlength/><getetag/><getlastmodified/><getcontenttype/></prop></propfind>"#;

/// Maximum length of the text of one element in bytes: a path of 4 KiB with every byte escaped.
const MAX_TEXT_LEN: usize = 16 << 10;

/// One `response` element.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Resource {
    /// A URL or the path of one, with percent-escapes.
    pub(super) href: String,
    pub(super) is_folder: bool,
    pub(super) len: Option<u64>,
    pub(super) etag: Option<String>,
    pub(super) modified: Option<String>,
    pub(super) content_type: Option<String>,
    /// The status, if it is not a success and there are no properties.
    pub(super) failed_status: Option<u16>,
}

/// Parses the body of a response.
///
/// # Errors
/// `Unsupported` if `text` is not such a response.
pub(super) fn parse(text: &str) -> Result<Vec<Resource>> {
    let mut reader = NsReader::from_str(text);
    let mut parser = Parser::default();
    loop {
        let invalid = |e| Error::new(Kind::Unsupported, "the listing is not valid XML").because(e);
        let (namespace, event) = reader.read_resolved_event().map_err(invalid)?;
        let dav = matches!(namespace, ResolveResult::Bound(Namespace("DAV:")));
        match event {
            Event::Start(tag) => parser.start(dav.then_some(tag.local_name().as_ref())),
            Event::Empty(tag) => {
                parser.start(dav.then_some(tag.local_name().as_ref()));
                parser.end()?;
            }
            Event::End(_) => parser.end()?,
            Event::Text(text) => parser.text(&text)?,
            Event::CData(text) => parser.text(&text)?,
            Event::GeneralRef(entity) => {
                parser.text(decode_entity(&entity)?.encode_utf8(&mut [0; 4]))?
            }
            Event::Eof => return parser.finish(),
            _ => {}
        }
    }
}

fn decode_entity(entity: &BytesRef<'_>) -> Result<char> {
    let unknown = || Error::new(Kind::Unsupported, "the listing has an unknown XML entity");
    if let Some(c) = entity.resolve_char_ref().map_err(|e| unknown().because(e))? {
        return Ok(c);
    }
    match &**entity {
        "amp" => Ok('&'),
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "quot" => Ok('"'),
        "apos" => Ok('\''),
        _ => Err(unknown()),
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
struct Parser {
    /// The open elements, outermost first.
    open: Vec<Element>,
    text: String,
    resources: Vec<Resource>,
    current: Resource,
    /// A `response` may name several resources, if it contains only a status.
    hrefs: Vec<String>,
    /// The properties of the current `propstat`. They count only if its status, which comes last, is a success.
    properties: Resource,
    has_type: bool,
    status_ok: bool,
    any_ok: bool,
    any_type: bool,
    has_root: bool,
}

impl Parser {
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
            Element::Multistatus if self.open.is_empty() => self.has_root = true,
            Element::Response => {
                self.current = Resource::default();
                (self.any_ok, self.any_type) = (false, false);
                self.hrefs.clear();
            }
            // A `propstat` without a status counts as a success.
            Element::Propstat => {
                self.properties = Resource::default();
                (self.has_type, self.status_ok) = (false, true);
            }
            _ => {}
        }
        self.text.clear();
        self.open.push(element);
    }

    fn text(&mut self, text: &str) -> Result<()> {
        self.text.push_str(text);
        if self.text.len() > MAX_TEXT_LEN {
            return Err(Error::new(
                Kind::Unsupported,
                "the listing has a text of more than 16 KiB",
            ));
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
                self.hrefs.push(owned().ok_or_else(unnamed_entry)?);
            }
            Element::Status => self.status(text)?,
            Element::Type => self.has_type = true,
            Element::Collection => self.properties.is_folder = true,
            Element::Length => self.properties.len = text.parse().ok(),
            Element::ETag => self.properties.etag = owned(),
            Element::Modified => self.properties.modified = owned(),
            Element::ContentType => self.properties.content_type = owned(),
            Element::Propstat if self.status_ok => self.merge_properties(),
            Element::Response => self.end_response()?,
            _ => {}
        }
        Ok(())
    }

    fn status(&mut self, text: &str) -> Result<()> {
        let parent = self.open.last().copied();
        if !matches!(parent, Some(Element::Propstat | Element::Response)) {
            return Ok(());
        }
        let status = status_code(text).ok_or_else(|| {
            Error::new(Kind::Unsupported, format!("the listing has the invalid status {text:?}"))
        })?;
        let is_success = (200..300).contains(&status);
        if parent == Some(Element::Propstat) {
            self.status_ok = is_success;
            // A missing property says nothing about the resource.
            let failure = Some(status).filter(|code| !is_success && *code != 404);
            self.current.failed_status = self.current.failed_status.or(failure);
        } else if !is_success {
            self.current.failed_status = Some(status);
        }
        Ok(())
    }

    fn end_response(&mut self) -> Result<()> {
        let mut current = std::mem::take(&mut self.current);
        if self.any_ok {
            // Some properties may be unreadable although others are readable.
            current.failed_status = None;
        }
        if self.hrefs.is_empty() {
            return Err(unnamed_entry());
        }
        for href in self.hrefs.drain(..) {
            // Servers end the URLs of folders with a slash (RFC 4918, 5.2).
            let is_folder = current.is_folder || !self.any_type && href.ends_with('/');
            self.resources.push(Resource { href, is_folder, ..current.clone() });
        }
        Ok(())
    }

    fn merge_properties(&mut self) {
        self.any_ok = true;
        self.any_type |= self.has_type;
        let properties = std::mem::take(&mut self.properties);
        self.current.is_folder |= properties.is_folder;
        self.current.len = properties.len.or(self.current.len);
        self.current.etag = properties.etag.or(self.current.etag.take());
        self.current.modified = properties.modified.or(self.current.modified.take());
        self.current.content_type = properties.content_type.or(self.current.content_type.take());
    }

    fn finish(self) -> Result<Vec<Resource>> {
        let invalid = |text: &str| Error::new(Kind::Unsupported, text);
        if !self.open.is_empty() {
            return Err(invalid("the listing is cut off"));
        }
        if !self.has_root {
            return Err(invalid("the listing is not a WebDAV answer"));
        }
        Ok(self.resources)
    }
}

fn unnamed_entry() -> Error {
    Error::new(Kind::Unsupported, "the listing has an entry without a name")
}

/// The first number of three digits in the text of a status. Servers leave out the `HTTP/1.1` before it, or write more
/// spaces.
fn status_code(text: &str) -> Option<u16> {
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
    fn elements_are_matched_by_namespace_and_not_by_prefix() {
        let found = parse(APACHE).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].href.as_str(), found[0].is_folder, found[0].len),
            ("/top/", true, None)
        );
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
    fn properties_with_an_error_status_are_ignored() {
        let text = r#"<multistatus xmlns="DAV:"><response><href>/x</href><propstat><prop>
            <getcontentlength>7</getcontentlength></prop><status>HTTP/1.1 403 Forbidden</status>
            </propstat></response></multistatus>"#;
        assert_eq!(parse(text).unwrap()[0].len, None);
    }

    #[test]
    fn an_invalid_status_is_refused() {
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
        assert_eq!(with("403").unwrap()[0].failed_status, Some(403));
        for status in ["", "OK", "HTTP/1.1"] {
            assert_eq!(with(status).unwrap_err().kind(), Kind::Unsupported, "{status}");
        }
        let of_response = r#"<multistatus xmlns="DAV:"><response><href>/x</href><status>gone</status>
            </response></multistatus>"#;
        assert!(parse(of_response).unwrap_err().report().contains("gone"));
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
    fn an_href_with_a_trailing_slash_is_a_folder_unless_its_type_is_known() {
        let with = |properties: &str, status: u16| {
            let text = format!(
                r#"<multistatus xmlns="DAV:"><response><href>/x/</href><propstat><prop>{properties}
                </prop><status>HTTP/1.1 {status} X</status></propstat></response></multistatus>"#
            );
            parse(&text).unwrap()[0].is_folder
        };
        assert!(with("<getetag>\"a\"</getetag>", 200));
        assert!(with("<resourcetype/>", 404));
        assert!(!with("<resourcetype/>", 200));
        assert!(with("<resourcetype><collection/></resourcetype>", 200));
    }

    #[test]
    fn invalid_and_truncated_answers_are_refused() {
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
        let name = "a".repeat(MAX_TEXT_LEN + 1);
        let text = format!(
            r#"<multistatus xmlns="DAV:"><response><href>{name}</href></response></multistatus>"#
        );
        assert!(parse(&text).unwrap_err().report().contains("more than 16 KiB"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_panic(text in "(<|>|/|&|;|\"|'|=|a|D:|multistatus|response|href|xmlns=\"DAV:\"| ){0,60}") {
            let _ = parse(&text);
        }
    }
}
