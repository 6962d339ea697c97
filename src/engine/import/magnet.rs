//! Magnet links: parses the fields that bae itself uses (info-hashes, trackers, web seeds, selected files). All other
//! fields are passed to libtorrent.

use std::{collections::BTreeMap, fmt};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

use crate::{
    error::{Error, Kind, Result},
    torrents::metainfo::{
        Metainfo,
        bencode::{Document, Encoder},
        lowercase_scheme,
        select::check_link_selection,
        torrent_file,
    },
};

/// Characters to percent-encode in a value. Those of IP addresses stay, because libtorrent does not decode `x.pe`.
const ESCAPED_CHARS: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b':')
    .remove(b'/')
    .remove(b'[')
    .remove(b']');

/// A checked magnet link.
#[derive(Clone, Default, PartialEq, Eq)]
pub(in crate::engine) struct Magnet {
    pub(in crate::engine) v1: Option<[u8; 20]>,
    pub(in crate::engine) v2: Option<[u8; 32]>,
    pub(in crate::engine) trackers: Vec<Vec<String>>,
    /// URLs from `ws` (BEP 19).
    pub(in crate::engine) web_seeds: Vec<String>,
    /// The selected files, with indices as in BEP 53.
    pub(in crate::engine) select: Option<String>,
    /// The other fields, which only libtorrent uses.
    others: Vec<(String, String)>,
}

impl fmt::Debug for Magnet {
    /// Omits the trackers, which may contain passkeys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Magnet").field("v1", &self.v1).field("v2", &self.v2).finish_non_exhaustive()
    }
}

impl Magnet {
    pub(in crate::engine) fn parse(link: &str) -> Result<Self> {
        let malformed = |reason: &str| {
            Error::new(Kind::InvalidInput, format!("magnet link: {reason}"))
                .hint("the form is magnet:?xt=urn:btih:<40 hexadecimal digits>; quote the link in the shell")
        };
        let url = Url::parse(link).map_err(|_| malformed("not a URL"))?;
        let mut magnet = Self::default();
        for (key, value) in url.query_pairs() {
            match key.split('.').next().unwrap_or_default().to_ascii_lowercase().as_str() {
                "tr" => magnet.trackers.extend(tracker(&value).map(|url| vec![url])),
                "ws" => magnet.web_seeds.push(value.trim().to_owned()),
                "xt" => magnet.parse_topic(&value).map_err(malformed)?,
                "so" => magnet.select = Some(join_selections(magnet.select.take(), &value)),
                _ => magnet.others.push((key.into_owned(), value.into_owned())),
            }
        }
        if magnet.v1.is_none() && magnet.v2.is_none() {
            return Err(malformed("no info-hash (xt=urn:btih: or xt=urn:btmh:)"));
        }
        Ok(magnet)
    }

    fn parse_topic(&mut self, topic: &str) -> Result<(), &'static str> {
        let of = |prefix: &str| match topic.get(..prefix.len()) {
            Some(start) if start.eq_ignore_ascii_case(prefix) => Some(topic[prefix.len()..].trim()),
            _ => None,
        };
        if let Some(hash) = of("urn:btih:") {
            let hash = btih(hash).filter(|hash| *hash != [0; 20]);
            set_once(&mut self.v1, hash.ok_or("malformed info-hash")?)
        } else if let Some(hash) = of("urn:btmh:1220") {
            let hash = hex(hash).filter(|hash| *hash != [0; 32]);
            set_once(&mut self.v2, hash.ok_or("malformed v2 info-hash")?)
        } else {
            Ok(())
        }
    }

    /// The files that the link selects; `None` when the user's selection `user_select` overrides it.
    ///
    /// # Errors
    /// `InvalidInput` when the selection is malformed. It is checked before the metadata is requested from peers.
    pub(in crate::engine) fn selected(&self, user_select: Option<&str>) -> Result<Option<String>> {
        let select = self.select.as_ref().filter(|_| user_select.is_none());
        select.map(|spec| check_link_selection(spec)).transpose()?;
        Ok(select.cloned())
    }

    /// The addresses of peers in the link (`x.pe`).
    pub(in crate::engine) fn peers(&self) -> impl Iterator<Item = &str> {
        let peers = self.others.iter().filter(|(key, _)| key.eq_ignore_ascii_case("x.pe"));
        peers.map(|(_, address)| address.trim())
    }

    /// The torrent file of an earlier import, with the trackers and web seeds of this link that it lacks; `None` when
    /// it lacks none. All other values stay byte for byte.
    pub(super) fn merged_into(&self, metainfo: &[u8], meta: &Metainfo) -> Result<Option<Vec<u8>>> {
        let (mut trackers, mut web_seeds) = (meta.trackers.clone(), meta.web_seeds.clone());
        for url in self.trackers.iter().flatten() {
            if !trackers.iter().flatten().any(|known| known == url) {
                trackers.push(vec![url.clone()]);
            }
        }
        for url in &self.web_seeds {
            if !web_seeds.contains(url) {
                web_seeds.push(url.clone());
            }
        }
        if (&trackers, &web_seeds) == (&meta.trackers, &meta.web_seeds) {
            return Ok(None);
        }
        let new = torrent_file(&metainfo[meta.info.clone()], &trackers, &web_seeds);
        let mut entries: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for torrent in [&new[..], metainfo] {
            let document = Document::parse_beginning(torrent)?;
            for (key, value) in document.root().as_dict().into_iter().flat_map(|dict| dict.iter()) {
                entries.entry(key.to_vec()).or_insert_with(|| value.raw().to_vec());
            }
        }
        let mut encoder = Encoder::default();
        encoder.dict(|e| {
            for (key, value) in &entries {
                e.bytes(key).raw(value);
            }
        });
        Ok(Some(encoder.finish()))
    }

    /// The link of a torrent, by its hashes alone.
    pub(super) fn of_hashes(v1: Option<[u8; 20]>, v2: Option<[u8; 32]>) -> Self {
        Self { v1, v2, ..Self::default() }
    }

    /// The name that the link gives the torrent.
    pub(super) fn display_name(&self) -> Option<&str> {
        self.others.iter().find(|(key, _)| key == "dn").map(|(_, name)| name.as_str())
    }

    /// The link for libtorrent: normalised to the spelling that it accepts, and without the
    /// selection, which bae applies.
    pub(in crate::engine) fn link(&self) -> String {
        let digits = |hash: &[u8]| hash.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let mut link = "magnet:?".to_owned();
        let mut add = |key: &str, value: &str| {
            let separator = if link.ends_with('?') { "" } else { "&" };
            link.push_str(&format!("{separator}{key}={value}"));
        };
        let escaped = |text: &str| utf8_percent_encode(text, ESCAPED_CHARS).to_string();
        if let Some(v1) = &self.v1 {
            add("xt", &format!("urn:btih:{}", digits(v1)));
        }
        if let Some(v2) = &self.v2 {
            add("xt", &format!("urn:btmh:1220{}", digits(v2)));
        }
        self.trackers.iter().flatten().for_each(|url| add("tr", &escaped(url)));
        for (key, value) in &self.others {
            // Keys are names like `dn` and `x.pe`.
            if key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.') {
                add(key, &escaped(value));
            }
        }
        link
    }
}

/// The magnet link for a bare info-hash: 40 or 64 hexadecimal digits, or 32 characters of base32.
pub(super) fn link_of_info_hash(text: &str) -> Option<String> {
    match text.len() {
        40 | 32 => btih(text).map(|_| format!("magnet:?xt=urn:btih:{text}")),
        64 => hex::<32>(text).map(|_| format!("magnet:?xt=urn:btmh:1220{text}")),
        _ => None,
    }
}

/// Stores an info-hash; fails when the link already has a different one.
fn set_once<T: PartialEq>(known: &mut Option<T>, hash: T) -> Result<(), &'static str> {
    match known {
        Some(before) if *before != hash => {
            Err("two different info-hashes; use one link for each torrent")
        }
        _ => {
            *known = Some(hash);
            Ok(())
        }
    }
}

fn tracker(url: &str) -> Option<String> {
    let url = url.trim();
    (!url.is_empty()).then(|| lowercase_scheme(url))
}

fn join_selections(before: Option<String>, more: &str) -> String {
    before.map_or_else(|| more.to_owned(), |before| format!("{before},{more}"))
}

fn btih(text: &str) -> Option<[u8; 20]> {
    if text.len() == 32 { base32(text) } else { hex(text) }
}

fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut out = [0; N];
    if text.len() != 2 * N || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(out)
}

/// Decodes 32 base32 characters (RFC 4648) of 5 bits each, as in old magnet links.
fn base32(text: &str) -> Option<[u8; 20]> {
    let mut out = [0u8; 20];
    for (i, c) in text.bytes().enumerate() {
        let five = match c.to_ascii_uppercase() {
            c @ b'A'..=b'Z' => c - b'A',
            c @ b'2'..=b'7' => c - b'2' + 26,
            _ => return None,
        };
        for bit in 0..5 {
            let at = i * 5 + bit;
            out[at / 8] |= ((five >> (4 - bit)) & 1) << (7 - at % 8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base32_and_hexadecimal_info_hashes_are_equal() {
        let hex = "magnet:?xt=urn:btih:0123456789abcdef0123456789ABCDEF01234567&tr=udp%3A%2F%2Ft%3A80&ws=http%3A%2F%2Fw%2Ff";
        let magnet = Magnet::parse(hex).unwrap();
        assert_eq!(magnet.trackers, vec![vec!["udp://t:80".to_owned()]]);
        assert_eq!(magnet.web_seeds, ["http://w/f"]);
        let base32 = "magnet:?xt=urn:btih:AERUKZ4JVPG66AJDIVTYTK6N54ASGRLH";
        assert_eq!(Magnet::parse(base32).unwrap().v1, magnet.v1);
        let v2 = format!("magnet:?xt=urn:btmh:1220{}", "ab".repeat(32));
        assert_eq!(Magnet::parse(&v2).unwrap().v2, Some([0xab; 32]));
    }

    #[test]
    fn two_info_hashes_in_a_link_are_refused_unless_they_are_equal() {
        let topic = |digit: &str| format!("xt=urn:btih:{}", digit.repeat(40));
        let parse = |one: &str, two: &str| Magnet::parse(&format!("magnet:?{one}&{two}"));
        assert!(parse(&topic("a"), &topic("A")).is_ok());
        let two = parse(&topic("a"), &topic("b")).unwrap_err();
        assert!(two.report().contains("two different info-hashes"), "{}", two.report());
        let none = Magnet::parse(&format!("magnet:?{}", topic("0"))).unwrap_err();
        assert!(none.report().contains("malformed"), "{}", none.report());
    }

    #[test]
    fn links_are_normalised_to_the_spelling_that_libtorrent_accepts() {
        let hash = "ab".repeat(20);
        let plain = format!("magnet:?xt=urn:btih:{hash}");
        for link in [
            plain.clone(),
            format!("MAGNET:?XT=URN:BTIH:{}", hash.to_uppercase()),
            format!("magnet://?xt=urn:btih:{hash}"),
            format!("magnet:?xt=urn:btih:{hash}#x"),
            format!("magnet:?xt.1=urn:btih:{hash}&so=1&so=3-4"),
            format!("magnet:?xt=urn:btih:{hash}%20\n"),
        ] {
            assert_eq!(Magnet::parse(&link).unwrap().link(), plain, "{link}");
        }
        let long = format!("{plain}&tr=HTTP%3A%2F%2Ft%2Fa%3Fk%3D1%20&dn=a+b&x.pe=1.2.3.4:5&so=1");
        let magnet = Magnet::parse(&long).unwrap();
        assert_eq!(magnet.trackers, [["http://t/a?k=1"]]);
        assert_eq!(magnet.select.as_deref(), Some("1"));
        let rest = "&tr=http://t/a%3Fk%3D1&dn=a%20b&x.pe=1.2.3.4:5";
        assert_eq!(magnet.link(), format!("{plain}{rest}"));
    }

    #[test]
    fn a_known_torrent_gets_the_trackers_and_web_seeds_of_a_link() {
        let info = "d6:lengthi3e4:name1:x12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaae";
        let before = format!("d8:announce8:http://a7:comment2:hi4:info{info}8:url-list8:http://we");
        let meta = Metainfo::parse(before.as_bytes()).unwrap();
        let added = |more: &str| {
            let link = format!("magnet:?xt=urn:btih:{}{more}", "ab".repeat(20));
            let magnet = Magnet::parse(&link).unwrap();
            let added = magnet.merged_into(before.as_bytes(), &meta).unwrap();
            added.map_or(before.clone(), |bytes| String::from_utf8(bytes).unwrap())
        };
        for nothing_new in ["&x.pe=1.2.3.4:5", "&tr=HTTP://a&ws=http://w"] {
            assert_eq!(added(nothing_new), before);
        }
        let trackers = "8:announce8:http://a13:announce-listll8:http://ael8:http://bee";
        let seeds = "8:url-listl8:http://w8:http://vee";
        let after = format!("d{trackers}7:comment2:hi4:info{info}{seeds}");
        assert_eq!(added("&tr=http://b&tr=http://a&ws=http://v"), after);
        let link =
            format!("magnet:?xt=urn:btih:{}&x.pe=1.2.3.4:5&dn=x&X.PE=[::1]:6", "ab".repeat(20));
        assert_eq!(
            Magnet::parse(&link).unwrap().peers().collect::<Vec<_>>(),
            ["1.2.3.4:5", "[::1]:6"]
        );
    }

    #[test]
    fn a_bare_info_hash_becomes_a_link() {
        for (hash, kind) in
            [("ab".repeat(20), "btih:"), ("AB".repeat(16), "btih:"), ("0c".repeat(32), "btmh:1220")]
        {
            let link = link_of_info_hash(&hash).unwrap();
            assert_eq!(link, format!("magnet:?xt=urn:{kind}{hash}"));
            Magnet::parse(&link).unwrap();
        }
        for no in ["x.torrent".to_owned(), "ab".repeat(19), "+b".repeat(20), "8".repeat(32)] {
            assert_eq!(link_of_info_hash(&no), None, "{no}");
        }
    }

    #[test]
    fn a_link_without_a_usable_hash_is_refused() {
        for bad in
            ["magnet:?dn=x", "magnet:?xt=urn:btih:12", "magnet:", "magnet:?xt=urn:btih:\u{e9}"]
        {
            assert_eq!(Magnet::parse(bad).unwrap_err().kind(), Kind::InvalidInput, "{bad}");
        }
    }
}
