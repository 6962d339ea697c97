//! An item of a feed, and the link that is added for it. Pure.

use url::Url;

use crate::redact;

/// Longest link in bytes; longer ones are ignored.
pub(super) const MAX_LINK: usize = 16 << 10;
/// Media type of torrent files.
const TORRENT_TYPE: &str = "x-bittorrent";

/// An item, as parsed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Item {
    /// Plain text on one line; may be empty.
    pub(super) title: String,
    /// The identity that the feed gives it: `guid`, `id` or `rdf:about`.
    pub(super) guid: Option<String>,
    /// Seconds since 1970.
    pub(super) date: Option<u64>,
    /// Bytes of the content, if the feed tells.
    pub(super) size: Option<u64>,
    /// Absolute.
    pub(super) link: Option<Url>,
    pub(super) enclosures: Vec<Enclosure>,
    /// A magnet link in an element of its own.
    pub(super) magnet: Option<String>,
    pub(super) info_hash: Option<String>,
}

/// A file of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Enclosure {
    /// Absolute.
    pub(super) url: Url,
    /// In lower case.
    pub(super) media_type: String,
    pub(super) len: Option<u64>,
}

impl Item {
    /// What is added: the enclosure (a torrent before others), the magnet link, the link of the item, or its info-hash.
    pub(super) fn source(&self) -> Option<String> {
        let torrent = self.enclosures.iter().find(|file| file.media_type.contains(TORRENT_TYPE));
        let enclosure = torrent.or(self.enclosures.first()).map(|file| file.url.to_string());
        let guid = self.guid.as_ref().filter(|guid| guid.starts_with("magnet:"));
        enclosure
            .or_else(|| self.magnet.clone())
            .or_else(|| guid.cloned())
            .or_else(|| self.link.as_ref().map(Url::to_string))
            .or_else(|| self.info_hash.clone())
    }

    /// The size in bytes: of the content, or of the file of an enclosure that is no torrent.
    pub(super) fn size(&self) -> Option<u64> {
        let is_content = |file: &&Enclosure| !file.media_type.contains(TORRENT_TYPE);
        let enclosure = self.enclosures.iter().find(is_content).and_then(|file| file.len);
        self.size.or(enclosure).filter(|size| *size > 0)
    }

    /// A key that is the same each time that the item is in the feed: that of its guid, else that of its link. `None`
    /// for an item without both.
    pub(super) fn key(&self) -> Option<String> {
        let guid = self.guid.as_ref().map(|guid| format!("guid {guid}"));
        let identity = guid.or_else(|| Some(format!("link {}", self.source()?)))?;
        Some(blake3::hash(identity.as_bytes()).to_hex().to_string())
    }
}

/// A link of an item without what may be secret: the path of a torrent may be a passkey, like the query.
pub(super) fn shown_link(source: &str) -> String {
    match Url::parse(source) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => {
            let name = url.path_segments().and_then(|mut parts| parts.next_back());
            let name = name.filter(|_| url.path() != "/").unwrap_or_default();
            let origin = redact::tracker_origin(source);
            match url.path_segments().map_or(0, Iterator::count) > 1 {
                true => format!("{origin}/…/{name}"),
                false => format!("{origin}/{name}"),
            }
        }
        _ => redact::source(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(url: &str, media_type: &str, len: u64) -> Enclosure {
        Enclosure { url: url.parse().unwrap(), media_type: media_type.into(), len: Some(len) }
    }

    #[test]
    fn a_torrent_comes_before_other_enclosures_and_those_before_links() {
        let link = Some("http://x/page".parse().unwrap());
        let torrent = file("http://x/a.torrent", "application/x-bittorrent", 900);
        let mut item = Item { link, ..Item::default() };
        assert_eq!(item.source().as_deref(), Some("http://x/page"));
        item.magnet = Some("magnet:?xt=urn:btih:ab".into());
        assert_eq!(item.source().as_deref(), Some("magnet:?xt=urn:btih:ab"));
        item.enclosures = vec![file("http://x/a.mp3", "audio/mpeg", 77), torrent];
        assert_eq!(item.source().as_deref(), Some("http://x/a.torrent"));
        assert_eq!(item.size(), Some(77), "the length of a torrent file is no size");
        let hash = Item { info_hash: Some("ab".repeat(20)), ..Item::default() };
        assert_eq!(hash.source(), Some("ab".repeat(20)));
        assert_eq!(Item::default().source(), None);
    }

    #[test]
    fn an_item_keeps_its_key_when_its_link_changes() {
        let item = |guid: Option<&str>, link: &str| Item {
            guid: guid.map(Into::into),
            link: Some(link.parse().unwrap()),
            ..Item::default()
        };
        assert_eq!(item(Some("1"), "http://x/a").key(), item(Some("1"), "http://x/b").key());
        assert_ne!(item(Some("1"), "http://x/a").key(), item(Some("2"), "http://x/a").key());
        assert_ne!(item(None, "http://x/a").key(), item(None, "http://x/b").key());
        assert_ne!(item(None, "http://x/a").key(), item(Some("http://x/a"), "http://x/a").key());
        assert_eq!(Item::default().key(), None);
    }

    #[test]
    fn links_are_shown_without_passkeys() {
        assert_eq!(
            shown_link("https://t.example/dl/0123/a.torrent?k=1"),
            "https://t.example/…/a.torrent"
        );
        assert_eq!(shown_link("https://u:p@t.example/a.iso"), "https://t.example/a.iso");
        assert_eq!(shown_link("magnet:?xt=urn:btih:00&tr=http://t/key"), "magnet:?xt=urn:btih:00");
    }
}
