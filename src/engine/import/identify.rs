//! What a source is, as far as it is known before anything is fetched. Nothing here reads a file or the network, so that
//! a source from an API cannot name a path of this machine.

use bytes::Bytes;
use url::Url;

use super::{
    magnet::{Magnet, link_of_info_hash},
    source::ImportSource,
    source_file::recognise,
};
use crate::{
    error::{Error, Kind, Result},
    protocols::{Protocols, url_error_reason},
    redact,
    torrents::metainfo::Metainfo,
};

/// A source, in the form in which [`ImportRequest`](crate::engine::ImportRequest) takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceIdentity {
    /// A magnet link or a URL. For a torrent file the magnet link of its hashes.
    pub source: String,
    /// The torrent file, without the bytes behind its end.
    pub torrent_file: Option<Bytes>,
    /// Name of the torrent, or of the file at a URL.
    pub name: String,
    pub info_hash_v1: Option<[u8; 20]>,
    pub info_hash_v2: Option<[u8; 32]>,
    /// Length of all files, without padding.
    pub bytes: Option<u64>,
    /// Host of a URL.
    pub host: Option<String>,
}

/// Identifies a torrent file, compressed or not; also the text of a magnet link in one.
///
/// # Errors
/// `InvalidInput` when it is no usable torrent.
pub fn identify_torrent(bytes: Vec<u8>) -> Result<SourceIdentity> {
    let bytes = match recognise(bytes)? {
        ImportSource::Magnet(link, magnet) => return Ok(of_magnet(link, &magnet)),
        ImportSource::Torrent(bytes) => bytes,
        ImportSource::Files(_) => return Err(Error::new(Kind::Internal, "files are no torrent")),
    };
    let (meta, bytes) = Metainfo::parse_trimmed(bytes)?;
    let (v1, v2) = (meta.info_hash_v1, meta.info_hash_v2);
    let magnet = Magnet::of_hashes(v1, v2);
    let files = meta.files.iter().filter(|file| !file.pad);
    Ok(SourceIdentity {
        source: magnet.link(),
        torrent_file: Some(bytes.into()),
        bytes: Some(files.map(|file| file.range.end - file.range.start).sum()),
        name: meta.name,
        info_hash_v1: v1,
        info_hash_v2: v2,
        host: None,
    })
}

/// Identifies a magnet link, a bare info-hash, or the URL of a known protocol. `protocol` replaces the scheme.
///
/// # Errors
/// `InvalidInput` for any other text, such as a path; `Unsupported` for an unknown scheme.
pub fn identify_link(text: &str, protocol: Option<&str>) -> Result<SourceIdentity> {
    let text = text.trim();
    if text.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("magnet:")) {
        return parse_magnet(text);
    }
    if let Some(link) = link_of_info_hash(text) {
        return parse_magnet(&link);
    }
    // The error must not contain the text, which may hold a password.
    let not_a_url =
        || Error::new(Kind::InvalidInput, "the source is not a URL, a magnet link or an info-hash");
    if !text.contains("://") {
        return Err(not_a_url());
    }
    let url = Url::parse(text).map_err(|e| not_a_url().because(url_error_reason(text, e)))?;
    let known = |scheme: &str| Protocols::schemes().any(|known| known == scheme);
    let scheme = protocol.unwrap_or(url.scheme());
    if !known(scheme) || !known(url.scheme()) {
        let schemes: Vec<_> = Protocols::schemes().collect();
        let text = format!("sources of the scheme {:?} are not accepted", url.scheme());
        return Err(Error::new(Kind::Unsupported, text)
            .hint(format!("known schemes: {}", schemes.join(", "))));
    }
    let last = url.path_segments().and_then(|mut parts| parts.rfind(|part| !part.is_empty()));
    let host = url.host_str().map(str::to_ascii_lowercase);
    let decoded = last.map(|name| percent_encoding::percent_decode_str(name).decode_utf8_lossy());
    let name = decoded.map(|name| name.into_owned()).or_else(|| host.clone());
    Ok(SourceIdentity {
        source: text.to_owned(),
        torrent_file: None,
        name: name.unwrap_or_else(|| redact::source(text)),
        info_hash_v1: None,
        info_hash_v2: None,
        bytes: None,
        host,
    })
}

fn parse_magnet(text: &str) -> Result<SourceIdentity> {
    let magnet = Magnet::parse(text)?;
    magnet.selected(None)?;
    Ok(of_magnet(text.to_owned(), &magnet))
}

fn of_magnet(source: String, magnet: &Magnet) -> SourceIdentity {
    let hash = magnet.v1.as_ref().map(|h| crate::catalog::hex(h));
    let hash = hash.or_else(|| magnet.v2.as_ref().map(|h| crate::catalog::hex(h)));
    let name = magnet.display_name().map(str::to_owned).filter(|name| !name.is_empty());
    SourceIdentity {
        source,
        torrent_file: None,
        name: name.or(hash).unwrap_or_default(),
        info_hash_v1: magnet.v1,
        info_hash_v2: magnet.v2,
        bytes: None,
        host: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_links_and_urls_of_known_protocols_are_sources() {
        let identify = |text: &str| identify_link(text, None);
        let hash = "ab".repeat(20);
        assert_eq!(identify(&hash).unwrap().info_hash_v1, Some([0xab; 20]));
        let link = identify(&format!(" magnet:?xt=urn:btih:{hash}&dn=a%20b")).unwrap();
        assert_eq!((link.name.as_str(), link.info_hash_v1), ("a b", Some([0xab; 20])));
        let url = identify("https://me:x@Host.example/a/b%20c.iso?k=1").unwrap();
        assert_eq!((url.name.as_str(), url.host.as_deref()), ("b c.iso", Some("host.example")));
        for path in ["/etc/passwd", "x.torrent", "-", "", "file:///etc/passwd", "file:/x", "C:\\x"]
        {
            assert!(identify(path).is_err(), "{path}");
        }
        assert!(identify_link("file:///etc/passwd", Some("https")).is_err());
        assert!(identify_link("https://h/f", Some("file")).is_err());
        let secret = identify("nothing me:hunter2@h").unwrap_err().report();
        assert!(!secret.contains("hunter2"), "{secret}");
    }

    #[test]
    fn a_torrent_file_is_known_by_its_hash() {
        let info = "d6:lengthi3e4:name1:x12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaae";
        let file = format!("d4:info{info}etrailing");
        let found = identify_torrent(file.clone().into_bytes()).unwrap();
        assert_eq!((found.name.as_str(), found.bytes), ("x", Some(3)));
        assert_eq!(found.torrent_file.unwrap().len(), file.len() - "trailing".len());
        assert!(found.source.starts_with("magnet:?xt=urn:btih:"), "{}", found.source);
        assert!(identify_torrent(b"hello".to_vec()).is_err());
    }
}
