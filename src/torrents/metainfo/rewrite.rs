//! Writes torrent files around an info dictionary. Its bytes stay as they are, because the info hash covers them.

use super::{
    bencode::{Document, Encoder, Node},
    is_private, lowercase_scheme, trackers,
};
use crate::error::{Error, Kind, Result};

/// A `.torrent` file around the `info` dictionary from a magnet link, so that it can be stored and parsed later.
#[must_use]
pub fn torrent_file(info: &[u8], trackers: &[Vec<String>], web_seeds: &[String]) -> Vec<u8> {
    let mut e = Encoder::default();
    e.dict(|e| {
        announce(e, trackers);
        e.bytes("info").raw(info);
        if !web_seeds.is_empty() {
            e.bytes("url-list").list(|e| {
                for url in web_seeds {
                    e.bytes(url);
                }
            });
        }
    });
    e.finish()
}

fn announce(e: &mut Encoder, trackers: &[Vec<String>]) {
    let Some(first) = trackers.iter().flatten().next() else { return };
    e.bytes("announce").bytes(first).bytes("announce-list").list(|e| {
        for tier in trackers.iter().filter(|t| !t.is_empty()) {
            e.list(|e| {
                for url in tier {
                    e.bytes(url);
                }
            });
        }
    });
}

/// The torrent as libtorrent gets it.
#[derive(Debug)]
pub(in crate::torrents) struct LibtorrentFile {
    pub(in crate::torrents) bytes: Vec<u8>,
    /// Whether the torrent itself says that its peers are found only through trackers.
    pub(in crate::torrents) private: bool,
}

/// Keeps only the keys that libtorrent uses, with tracker URLs in the form it knows. libtorrent therefore never parses
/// the irregularities that bae accepts (spaces around a URL, `HTTP://`, bytes behind the end, a duplicate key).
///
/// # Errors
/// `InvalidInput` for bytes that are not a torrent.
pub(in crate::torrents) fn for_libtorrent(torrent: &[u8]) -> Result<LibtorrentFile> {
    let doc = Document::parse_beginning(torrent)?;
    let root = doc.root().as_dict();
    let bad = || Error::new(Kind::InvalidInput, "not a torrent");
    let root = root.filter(|root| root.get("info").is_some()).ok_or_else(bad)?;
    let private = root.get("info").and_then(Node::as_dict).is_some_and(is_private);
    let mut e = Encoder::default();
    e.dict(|e| {
        announce(e, &trackers(root));
        // In ascending order of the keys.
        for key in ["httpseeds", "info", "nodes", "piece layers", "url-list"] {
            match (key, root.get(key)) {
                (_, None) => {}
                ("url-list", Some(urls)) => {
                    e.bytes(key).list(|e| {
                        for url in web_seeds(urls) {
                            e.bytes(url);
                        }
                    });
                }
                (_, Some(value)) => {
                    e.bytes(key).raw(value.raw());
                }
            }
        }
    });
    Ok(LibtorrentFile { bytes: e.finish(), private })
}

/// The URLs of `url-list`, which is a single URL or a list.
fn web_seeds(urls: Node<'_>) -> impl Iterator<Item = String> {
    let listed = urls.as_list().into_iter().flat_map(|list| list.iter()).filter_map(Node::as_bytes);
    let texts = urls.as_bytes().into_iter().chain(listed);
    let urls = texts.filter_map(|url| std::str::from_utf8(url).ok()).map(str::trim);
    urls.filter(|url| !url.is_empty()).map(lowercase_scheme)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torrents::metainfo::Metainfo;

    const INFO: &[u8] =
        b"d6:lengthi03e6:lengthi9e4:name1:x12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaae";

    #[test]
    fn libtorrent_gets_the_same_info_dictionary_and_normalized_urls() {
        let parts = [
            &b"d8:announce10: HTTP://a\n8:announce1:x8:encoding3:GBK4:info"[..],
            INFO,
            b"5:nodesl3:abce8:url-list11:HTTPS://w/ ee<!-- ad -->",
        ];
        let torrent = parts.concat();
        let LibtorrentFile { bytes: written, private } = for_libtorrent(&torrent).unwrap();
        assert!(!private);
        let expected = [
            &b"d8:announce8:http://a13:announce-listll8:http://aee4:info"[..],
            INFO,
            b"5:nodesl3:abce8:url-listl10:https://w/ee",
        ];
        assert_eq!(String::from_utf8_lossy(&written), String::from_utf8_lossy(&expected.concat()));
        let (original, meta) =
            (Metainfo::parse(&torrent).unwrap(), Metainfo::parse(&written).unwrap());
        assert_eq!(original.info_hash_v1, meta.info_hash_v1);
        assert_eq!((original.len, original.notes.len()), (3, 2));
        assert!(for_libtorrent(b"de").is_err());
    }
}
