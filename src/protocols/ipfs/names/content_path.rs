//! Content paths: `/ipfs/CID/a/b` and `/ipns/NAME/a/b`, as in IPNS records, in DNS and in the URLs of gateways.

use percent_encoding::percent_decode_str;

use super::{super::content::cid::Cid, ipns_name::IpnsName};
use crate::error::{Error, Kind, Result};

/// Maximum number of path segments.
const MAX_SEGMENTS: usize = 1000;

/// The beginning of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::protocols::ipfs) enum PathRoot {
    Cid(Cid),
    Name(IpnsName),
    /// A DNS name, in lower case.
    Host(String),
}

/// A root, and the names below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::protocols::ipfs) struct ContentPath {
    pub(in crate::protocols::ipfs) root: PathRoot,
    /// Any bytes, but never empty, `.` or `..`.
    pub(in crate::protocols::ipfs) segments: Vec<Vec<u8>>,
}

impl PathRoot {
    /// Parses what follows `ipfs://` or `/ipfs/`.
    ///
    /// # Errors
    /// `InvalidInput`.
    pub(in crate::protocols::ipfs) fn parse_cid(text: &str) -> Result<Self> {
        text.parse().map(Self::Cid)
    }

    /// Parses what follows `ipns://` or `/ipns/`.
    ///
    /// # Errors
    /// `InvalidInput`.
    pub(in crate::protocols::ipfs) fn parse_name(text: &str) -> Result<Self> {
        if let Some(name) = IpnsName::parse(text) {
            return Ok(Self::Name(name));
        }
        let invalid = || {
            let shown: String = text.chars().take(80).collect();
            Error::new(Kind::InvalidInput, format!("{shown:?} is not an IPNS name"))
                .hint("an IPNS name begins with k51, or is a DNS name")
        };
        // Names in other scripts become ASCII, as in URLs of the web.
        let url = url::Url::parse(&format!("http://{text}/")).map_err(|_| invalid())?;
        let is_plain = url.port().is_none() && url.username().is_empty() && url.path() == "/";
        match url.domain() {
            Some(host) if is_plain && host.trim_end_matches('.').contains('.') => {
                Ok(Self::Host(host.trim_end_matches('.').to_owned()))
            }
            _ => Err(invalid()),
        }
    }
}

impl ContentPath {
    /// Parses `/ipfs/CID/a/b` or `/ipns/NAME/a/b`. The names below the root are not percent-encoded.
    ///
    /// # Errors
    /// `InvalidInput`.
    pub(in crate::protocols::ipfs) fn parse(text: &str) -> Result<Self> {
        let invalid = || {
            let shown: String = text.chars().take(80).collect();
            Error::new(Kind::InvalidInput, format!("{shown:?} is not a path of IPFS"))
        };
        let rest = text.strip_prefix('/').ok_or_else(invalid)?;
        let (namespace, rest) = rest.split_once('/').ok_or_else(invalid)?;
        let (root, path) = rest.split_once('/').unwrap_or((rest, ""));
        let root = match namespace {
            "ipfs" => PathRoot::parse_cid(root)?,
            "ipns" => PathRoot::parse_name(root)?,
            _ => return Err(invalid()),
        };
        let segments = path.split('/').map(|segment| segment.as_bytes().to_vec());
        Ok(Self { root, segments: checked_segments(segments)? })
    }

    /// The path below `root` that is percent-encoded in the path of a URL.
    ///
    /// # Errors
    /// `InvalidInput` for a segment that contains an encoded slash, or that is `.` or `..` after decoding.
    pub(in crate::protocols::ipfs) fn from_url_path(root: PathRoot, path: &str) -> Result<Self> {
        let segments = path.split('/').map(|segment| percent_decode_str(segment).collect());
        Ok(Self { root, segments: checked_segments(segments)? })
    }
}

/// Empty segments are skipped.
fn checked_segments(segments: impl Iterator<Item = Vec<u8>>) -> Result<Vec<Vec<u8>>> {
    let mut checked = Vec::new();
    for segment in segments.filter(|segment| !segment.is_empty()) {
        if segment.contains(&b'/') || segment == b"." || segment == b".." {
            let shown = segment.escape_ascii();
            let text = format!("the path has the invalid segment \"{shown}\"");
            return Err(Error::new(Kind::InvalidInput, text));
        }
        if checked.len() == MAX_SEGMENTS {
            let text = format!("the path has more than {MAX_SEGMENTS} segments");
            return Err(Error::new(Kind::InvalidInput, text));
        }
        checked.push(segment);
    }
    Ok(checked)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CID: &str = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku";

    fn segments(path: &ContentPath) -> Vec<&[u8]> {
        path.segments.iter().map(Vec::as_slice).collect()
    }

    #[test]
    fn a_path_has_a_root_and_names() {
        let path = ContentPath::parse(&format!("/ipfs/{CID}/a b//%41/")).unwrap();
        assert_eq!(path.root, PathRoot::Cid(CID.parse().unwrap()));
        assert_eq!(segments(&path), [&b"a b"[..], b"%41"]);
        assert_eq!(ContentPath::parse(&format!("/ipfs/{CID}")).unwrap().segments.len(), 0);
        let path = ContentPath::parse("/ipns/Docs.IPFS.tech./x").unwrap();
        assert_eq!(path.root, PathRoot::Host("docs.ipfs.tech".into()));
        let path = ContentPath::parse("/ipns/bücher.example").unwrap();
        assert_eq!(path.root, PathRoot::Host("xn--bcher-kva.example".into()));
    }

    #[test]
    fn names_in_a_url_are_decoded_once() {
        let root = || PathRoot::Cid(CID.parse().unwrap());
        let path = ContentPath::from_url_path(root(), "/a%20b/%2541/%00%ff").unwrap();
        assert_eq!(segments(&path), [&b"a b"[..], b"%41", b"\0\xff"]);
        for bad in ["/a%2Fb", "/%2e%2e", "/a/%2E"] {
            let error = ContentPath::from_url_path(root(), bad).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidInput, "{bad}");
        }
    }

    #[test]
    fn other_text_is_refused() {
        for text in [
            "",
            "ipfs",
            "/ipfs",
            "/ipfs/",
            "/ipld/x",
            "/ipfs/x",
            "/ipns/nodots",
            "/ipns/a:1",
            "/ipns/u@a.b",
            "/ipns/1.2.3.4",
        ] {
            assert!(ContentPath::parse(text).is_err(), "{text}");
        }
    }
}
