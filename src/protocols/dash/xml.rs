//! A manifest as a tree of elements, of bounded size. Pure.

use quick_xml::{
    Reader,
    escape::resolve_xml_entity,
    events::{BytesStart, Event},
};

use crate::error::{Error, Kind, Result};

/// Maximum number of elements: the segments of a long stream, one by one.
const MAX_ELEMENTS: usize = 500_000;
/// Maximum depth. Manifests have 8 levels.
const MAX_DEPTH: usize = 32;

/// An element, without its namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) name: String,
    attributes: Vec<(String, String)>,
    pub(super) children: Vec<Element>,
    pub(super) text: String,
}

impl Element {
    /// Parses a document, and returns its root.
    ///
    /// # Errors
    /// `Unsupported` for a document that is not well-formed, or too large.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let invalid =
            |e: String| Error::new(Kind::Unsupported, "the manifest is not valid XML").because(e);
        let too_large = || Error::new(Kind::Unsupported, "the manifest has too many elements");
        let mut reader = Reader::from_str(text);
        let (mut open, mut count): (Vec<Self>, usize) = (Vec::new(), 0);
        loop {
            let event = reader.read_event().map_err(|e| invalid(e.to_string()))?;
            let (element, is_closed) = match event {
                Event::Start(start) => (Self::new(&start).map_err(invalid)?, false),
                Event::Empty(start) => (Self::new(&start).map_err(invalid)?, true),
                Event::End(_) => match open.pop() {
                    Some(element) => (element, true),
                    None => return Err(invalid("an end without a start".into())),
                },
                Event::Eof => return Err(invalid("the document is cut off".into())),
                other => {
                    if let (Some(text), Some(parent)) = (text_of(other), open.last_mut()) {
                        parent.text.push_str(&text);
                    }
                    continue;
                }
            };
            if !is_closed {
                count += 1;
                if open.len() == MAX_DEPTH || count > MAX_ELEMENTS {
                    return Err(too_large());
                }
                open.push(element);
                continue;
            }
            count += 1;
            match open.last_mut() {
                Some(_) if count > 2 * MAX_ELEMENTS => return Err(too_large()),
                Some(parent) => parent.children.push(element),
                None => return Ok(element),
            }
        }
    }

    fn new(start: &BytesStart<'_>) -> Result<Self, String> {
        let mut attributes = Vec::new();
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|e| e.to_string())?;
            // Names lose their prefix, except that of a link.
            let name = match attribute.key.as_ref() {
                link @ "xlink:href" => link.to_owned(),
                _ => attribute.key.local_name().as_ref().to_owned(),
            };
            attributes.push((name, unescape(&attribute.value)));
        }
        let name = start.local_name().as_ref().to_owned();
        Ok(Self { name, attributes, ..Self::default() })
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.trim().parse().ok()
    }

    /// The children of this name.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    pub(super) fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// Whether this element or one below it has an attribute of this name.
    pub(super) fn has_attribute(&self, name: &str) -> bool {
        self.get(name).is_some() || self.children.iter().any(|child| child.has_attribute(name))
    }
}

/// The text of an event between tags.
fn text_of(event: Event<'_>) -> Option<String> {
    match event {
        Event::Text(text) => Some(text.to_string()),
        Event::CData(text) => Some(text.to_string()),
        Event::GeneralRef(reference) => Some(unescape(&format!("&{};", &*reference))),
        _ => None,
    }
}

/// Replaces the references of XML. Unknown ones stay as they are.
fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        out.push_str(before);
        let Some((name, left)) = after.split_once(';') else {
            out.push('&');
            rest = after;
            continue;
        };
        let number = name.strip_prefix('#').and_then(|digits| match digits.strip_prefix('x') {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None => digits.parse().ok(),
        });
        match (number.and_then(char::from_u32), resolve_xml_entity(name)) {
            (Some(c), _) => out.push(c),
            (None, Some(text)) => out.push_str(text),
            (None, None) => out.push_str(&format!("&{name};")),
        }
        rest = left;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_document_becomes_a_tree() {
        let text = "<?xml version=\"1.0\"?><!-- x --><m:MPD xmlns:m=\"urn:mpeg:dash:schema:mpd:2011\" \
             type='static'><m:Period xlink:href=\"http://x/?a=1&amp;b\" id=\"&#65;\">\
             <m:BaseURL> a&amp;b/ </m:BaseURL><S t=\"1\"/></m:Period></m:MPD>";
        let root = Element::parse(text).unwrap();
        assert_eq!((root.name.as_str(), root.get("type")), ("MPD", Some("static")));
        let period = root.child("Period").unwrap();
        assert_eq!(period.get("xlink:href"), Some("http://x/?a=1&b"));
        assert_eq!(period.get("id"), Some("A"));
        assert_eq!(period.child("BaseURL").unwrap().text, " a&b/ ");
        assert_eq!(period.all("S").next().unwrap().number("t"), Some(1));
        assert!(root.has_attribute("xlink:href") && !root.has_attribute("x"));
    }

    #[test]
    fn invalid_and_unbounded_documents_are_refused() {
        let deep = "<a>".repeat(MAX_DEPTH + 1);
        let wide = format!("<a>{}</a>", "<b/>".repeat(2 * MAX_ELEMENTS + 1));
        for text in ["", "text", "<a>", "<a></b>", "</a>", "<a x=1></a>", &deep, &wide] {
            assert_eq!(Element::parse(text).unwrap_err().kind(), Kind::Unsupported);
        }
    }

    proptest! {
        #[test]
        fn any_text_gives_a_tree_or_an_error(text in "(<[ab/!?]|[a-z =\"&;#<>/]){0,40}") {
            let _ = Element::parse(&text);
        }
    }
}
