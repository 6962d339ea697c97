//! What a magnet link says that bae itself needs: which torrent it is, and its trackers. libtorrent reads the rest.

use url::Url;

use crate::error::{Error, Kind, Result};

/// A checked magnet link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Magnet {
    pub(super) v1: Option<[u8; 20]>,
    pub(super) v2: Option<[u8; 32]>,
    pub(super) trackers: Vec<Vec<String>>,
    /// Of `ws` (BEP 19).
    pub(super) web_seeds: Vec<String>,
}

impl Magnet {
    pub(super) fn parse(link: &str) -> Result<Self> {
        let bad = |why: &str| {
            Error::new(Kind::InvalidInput, format!("magnet link: {why}"))
                .hint("it should look like magnet:?xt=urn:btih:<40 hexadecimal digits>; quote it in the shell")
        };
        let url = Url::parse(link).map_err(|_| bad("not a URL"))?;
        let mut magnet = Self { v1: None, v2: None, trackers: Vec::new(), web_seeds: Vec::new() };
        for (key, value) in url.query_pairs() {
            if key == "tr" || key.starts_with("tr.") {
                magnet.trackers.push(vec![value.into_owned()]);
            } else if key == "ws" {
                magnet.web_seeds.push(value.into_owned());
            } else if key == "xt" || key.starts_with("xt.") {
                if let Some(hash) = value.strip_prefix("urn:btih:") {
                    magnet.v1 = Some(btih(hash).ok_or_else(|| bad("its info-hash is malformed"))?);
                } else if let Some(hash) = value.strip_prefix("urn:btmh:1220") {
                    magnet.v2 =
                        Some(hex(hash).ok_or_else(|| bad("its v2 info-hash is malformed"))?);
                }
            }
        }
        if magnet.v1.is_none() && magnet.v2.is_none() {
            return Err(bad("it names no torrent (no xt=urn:btih: or urn:btmh:)"));
        }
        Ok(magnet)
    }
}

fn btih(text: &str) -> Option<[u8; 20]> {
    if text.len() == 32 { base32(text) } else { hex(text) }
}

fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut out = [0; N];
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(out)
}

/// RFC 4648: 32 characters of five bits, as old links have it.
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
    fn both_spellings_of_an_info_hash_are_one() {
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
    fn a_link_without_a_usable_hash_is_refused() {
        for bad in
            ["magnet:?dn=x", "magnet:?xt=urn:btih:12", "magnet:", "magnet:?xt=urn:btih:\u{e9}"]
        {
            assert_eq!(Magnet::parse(bad).unwrap_err().kind(), Kind::InvalidInput, "{bad}");
        }
    }
}
