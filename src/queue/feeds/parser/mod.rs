//! Parses RSS 2.0, RSS 1.0 (RDF) and Atom into items. Pure.
//!
//! Elements are recognised by their local name and the prefix that feeds use by custom; namespaces are not resolved.
//! Only the direct children of an item count. Entities of a document type are not expanded, so that nothing grows and
//! nothing is loaded. Bounds: 64 levels, 2,000 items, 64 KiB of text in an element; more text of a title is cut, and
//! other elements with more are ignored. A document that is damaged in the middle gives the items before the damage.

use quick_xml::{
    Reader,
    events::{BytesStart, Event},
};
use url::Url;

use super::{
    item::{Enclosure, Item, MAX_LINK},
    text::{character, cut, plain, resolve},
};
use crate::error::{Error, Kind, Result};

const MAX_DEPTH: usize = 64;
/// Most items that are read; feeds list the newest first.
const MAX_ITEMS: usize = 2000;
const MAX_TEXT: usize = 64 << 10;
const MAX_TITLE: usize = 1000;
/// Most attributes of an element that are read, and most enclosures of an item.
const MAX_ATTRIBUTES: usize = 32;

/// A parsed feed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Feed {
    pub(super) title: String,
    pub(super) items: Vec<Item>,
    /// Minutes for which the feed does not change.
    pub(super) ttl_minutes: Option<u64>,
    /// What is wrong with the document behind the last item.
    pub(super) damage: Option<String>,
    /// Whether there are more items than are read.
    pub(super) is_cut: bool,
}

/// Parses a document that came from `url`.
///
/// # Errors
/// `Unsupported` for a document that is no feed.
pub(super) fn parse(text: &str, url: &Url) -> Result<Feed> {
    let mut reader = Reader::from_str(text);
    let config = reader.config_mut();
    config.allow_dangling_amp = true;
    config.check_end_names = false;
    let mut parser = Parser::new(url);
    let damage = loop {
        let event = match reader.read_event() {
            Ok(event) => event,
            Err(e) => break Some(e.to_string()),
        };
        match event {
            Event::Start(start) => {
                if let Err(damage) = parser.start(&start) {
                    break Some(damage.to_owned());
                }
            }
            Event::Empty(start) => {
                if let Err(damage) = parser.start(&start) {
                    break Some(damage.to_owned());
                }
                parser.end();
            }
            Event::End(_) => parser.end(),
            Event::Text(text) => parser.text(&text),
            Event::CData(text) => parser.text(&text),
            Event::GeneralRef(reference) => match character(&reference) {
                Some(c) => parser.text(c.encode_utf8(&mut [0; 4])),
                None => parser.text(&format!("&{};", &*reference)),
            },
            Event::Eof if parser.open.is_empty() => break None,
            Event::Eof => break Some("it is cut off".to_owned()),
            _ => {}
        }
        if parser.feed.is_cut {
            break None;
        }
    };
    parser.finish(damage)
}

/// The elements that are interpreted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tag {
    Root,
    Channel,
    Item,
    /// An element `torrent` of an item, with further facts about it.
    Torrent,
    Title,
    Guid,
    Link,
    Date,
    Ttl,
    Magnet,
    InfoHash,
    Length,
    Other,
}

struct Open {
    tag: Tag,
    text: String,
    /// Text was left out.
    is_cut: bool,
    is_html: bool,
    /// Relative links below it are relative to this.
    base: Option<Url>,
}

struct Parser {
    open: Vec<Open>,
    url: Url,
    /// The prefix of the root's vocabulary.
    prefix: String,
    is_atom: bool,
    has_root: bool,
    feed: Feed,
    item: Item,
    /// Whether the item has its link.
    has_link: bool,
}

impl Parser {
    fn new(url: &Url) -> Self {
        Self {
            open: Vec::new(),
            url: url.clone(),
            prefix: String::new(),
            is_atom: false,
            has_root: false,
            feed: Feed::default(),
            item: Item::default(),
            has_link: false,
        }
    }

    fn parent(&self) -> Option<Tag> {
        self.open.last().map(|open| open.tag)
    }

    fn base(&self) -> &Url {
        self.open.iter().rev().find_map(|open| open.base.as_ref()).unwrap_or(&self.url)
    }

    fn join(&self, link: &str) -> Option<Url> {
        let link = link.trim();
        if link.is_empty() || link.len() > MAX_LINK {
            return None;
        }
        self.base().join(link).ok()
    }

    fn start(&mut self, start: &BytesStart<'_>) -> Result<(), &'static str> {
        if self.open.len() == MAX_DEPTH {
            return Err("its elements are nested too deep");
        }
        let name = start.name();
        let full = name.as_ref();
        let (prefix, local) = full.split_once(':').unwrap_or(("", full));
        let tag = self.tag(prefix, local);
        let attributes = Attributes::of(start);
        let base = attributes.get("xml:base").and_then(|base| self.join(base));
        let mut is_html = !self.is_atom;
        match tag {
            Tag::Item => {
                self.item = Item { guid: attributes.owned("rdf:about"), ..Item::default() };
                self.has_link = false;
            }
            Tag::Title if self.is_atom => {
                is_html = attributes.get("type").is_some_and(|kind| kind.contains("html"));
            }
            Tag::Link if attributes.get("href").is_some() => self.link(&attributes),
            Tag::Other if self.parent() == Some(Tag::Item) => {
                self.attribute_element(prefix, local, &attributes);
            }
            _ => {}
        }
        let open = Open { tag, text: String::new(), is_cut: false, is_html, base };
        self.open.push(open);
        Ok(())
    }

    fn tag(&mut self, prefix: &str, local: &str) -> Tag {
        if self.open.is_empty() {
            self.has_root |= matches!(local, "rss" | "RDF" | "feed");
            self.is_atom = local == "feed";
            // RDF's own prefix is not that of its items.
            self.prefix = if local == "RDF" { String::new() } else { prefix.to_owned() };
            return Tag::Root;
        }
        let is_core =
            prefix.is_empty() || prefix == self.prefix || ["atom", "a10"].contains(&prefix);
        let parent = self.parent();
        let in_item = parent == Some(Tag::Item);
        let has_facts = matches!(parent, Some(Tag::Item | Tag::Torrent));
        let in_feed = matches!(parent, Some(Tag::Channel | Tag::Root));
        match (local, is_core, prefix) {
            ("channel", true, _) if parent == Some(Tag::Root) => Tag::Channel,
            ("item" | "entry", true, _) if in_feed => Tag::Item,
            ("title", true, _) if in_item || in_feed => Tag::Title,
            ("ttl", true, _) if parent == Some(Tag::Channel) => Tag::Ttl,
            ("guid" | "id", true, _) if in_item => Tag::Guid,
            ("link", true, _) if in_item => Tag::Link,
            ("pubDate" | "published" | "updated", true, _) | ("date", _, "dc") if in_item => {
                Tag::Date
            }
            ("magnetURI", ..) if has_facts => Tag::Magnet,
            ("infoHash" | "info_hash", ..) if has_facts => Tag::InfoHash,
            ("contentLength" | "size", ..) if has_facts => Tag::Length,
            ("torrent", ..) if in_item => Tag::Torrent,
            _ => Tag::Other,
        }
    }

    /// A link of Atom: the target is an attribute.
    fn link(&mut self, attributes: &Attributes) {
        let Some(url) = attributes.get("href").and_then(|href| self.join(href)) else { return };
        match attributes.get("rel").unwrap_or("alternate") {
            "enclosure" => self.enclosure(url, attributes),
            "alternate" if !self.has_link => {
                self.has_link = true;
                self.item.link = Some(url);
            }
            _ => {}
        }
    }

    fn enclosure(&mut self, url: Url, attributes: &Attributes) {
        if self.item.enclosures.len() < MAX_ATTRIBUTES {
            self.item.enclosures.push(Enclosure {
                url,
                media_type: attributes.get("type").unwrap_or_default().to_ascii_lowercase(),
                len: attributes.get("length").and_then(|len| len.trim().parse().ok()),
            });
        }
    }

    /// An element of an item whose attributes say all.
    fn attribute_element(&mut self, prefix: &str, local: &str, attributes: &Attributes) {
        match local {
            "enclosure" => {
                let url = attributes.get("url").or(attributes.get("rdf:resource"));
                if let Some(url) = url.and_then(|url| self.join(url)) {
                    self.enclosure(url, attributes);
                }
            }
            // Torznab's and newznab's.
            "attr" if ["torznab", "newznab"].contains(&prefix) => {
                let value = attributes.get("value").unwrap_or_default().trim();
                match attributes.get("name").unwrap_or_default() {
                    "size" => self.item.size = self.item.size.or(value.parse().ok()),
                    "magneturl" => self.magnet(value),
                    "infohash" => self.info_hash(value),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn magnet(&mut self, text: &str) {
        if text.starts_with("magnet:") && text.len() <= MAX_LINK {
            self.item.magnet.get_or_insert(text.to_owned());
        }
    }

    fn info_hash(&mut self, text: &str) {
        if [32, 40, 64].contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric()) {
            self.item.info_hash.get_or_insert(text.to_owned());
        }
    }

    /// Text belongs to the innermost element, and that of markup to the title around it.
    fn text(&mut self, text: &str) {
        let title = self.open.iter().rposition(|open| open.tag == Tag::Title);
        let at = title.or(self.open.len().checked_sub(1));
        let Some(open) = at.and_then(|at| self.open.get_mut(at)) else { return };
        if open.tag == Tag::Other {
            return;
        }
        let free = MAX_TEXT - open.text.len();
        open.is_cut |= text.len() > free;
        open.text.push_str(cut(text, free));
    }

    fn end(&mut self) {
        let Some(open) = self.open.pop() else { return };
        let parent = self.parent();
        let text = open.text.trim();
        if open.tag == Tag::Title {
            let title = plain(text, open.is_html);
            let title = cut(&title, MAX_TITLE).to_owned();
            let of = match parent {
                Some(Tag::Item) => &mut self.item.title,
                _ => &mut self.feed.title,
            };
            if of.is_empty() {
                *of = title;
            }
            return;
        }
        if open.tag == Tag::Item {
            let item = std::mem::take(&mut self.item);
            match self.feed.items.len() == MAX_ITEMS {
                true => self.feed.is_cut = true,
                false => self.feed.items.push(item),
            }
            return;
        }
        if text.is_empty() || open.is_cut {
            return;
        }
        match open.tag {
            Tag::Guid if self.item.guid.is_none() => self.item.guid = Some(text.to_owned()),
            Tag::Link => {
                if let Some(url) = self.join(text).filter(|_| !self.has_link) {
                    self.has_link = true;
                    self.item.link = Some(url);
                }
            }
            Tag::Date => self.item.date = self.item.date.or_else(|| date(text)),
            Tag::Ttl => self.feed.ttl_minutes = text.parse().ok(),
            Tag::Magnet => {
                let text = text.to_owned();
                self.magnet(&text);
            }
            Tag::InfoHash => {
                let text = text.to_owned();
                self.info_hash(&text);
            }
            Tag::Length => self.item.size = self.item.size.or(text.parse().ok()),
            _ => {}
        }
    }

    fn finish(mut self, damage: Option<String>) -> Result<Feed> {
        let refused = |why: &str| Err(Error::new(Kind::Unsupported, format!("no feed: {why}")));
        match (self.has_root, damage) {
            (false, None) => refused("the document is neither RSS nor Atom"),
            (false, Some(damage)) => refused(&damage),
            (true, Some(damage)) if self.feed.items.is_empty() => refused(&damage),
            (true, damage) => {
                self.feed.damage = damage;
                Ok(self.feed)
            }
        }
    }
}

/// Attributes of an element, with their prefixes.
struct Attributes(Vec<(String, String)>);

impl Attributes {
    fn of(start: &BytesStart<'_>) -> Self {
        let mut attributes = start.attributes();
        // The check for doubles takes quadratic time.
        let attributes = attributes.with_checks(false).take(MAX_ATTRIBUTES).map_while(Result::ok);
        let short = attributes.filter(|attribute| attribute.value.len() <= MAX_TEXT);
        Self(short.map(|a| (a.key.as_ref().to_owned(), resolve(&a.value))).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    fn owned(&self, name: &str) -> Option<String> {
        self.get(name).map(str::trim).filter(|value| !value.is_empty()).map(str::to_owned)
    }
}

/// A date in the form of RSS or Atom, in seconds since 1970.
fn date(text: &str) -> Option<u64> {
    let parsed = chrono::DateTime::parse_from_rfc2822(text);
    let parsed = parsed.or_else(|_| chrono::DateTime::parse_from_rfc3339(text)).ok()?;
    u64::try_from(parsed.timestamp()).ok()
}

#[cfg(test)]
mod tests;
