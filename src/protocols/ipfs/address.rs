//! The URLs of IPFS, and the URLs of gateways that `--protocol ipfs` accepts. Pure.

use percent_encoding::percent_decode_str;
use url::Url;

use super::{
    content::cid::Cid,
    names::content_path::{ContentPath, PathRoot},
};
use crate::{
    error::{Error, Kind, Result},
    hints::{Setting, hint},
    protocols::display_url,
};

/// What a URL names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) path: ContentPath,
    /// The only gateway to ask, if the URL is one of a gateway.
    pub(super) gateway: Option<Url>,
    /// The name that the URL suggests for the file.
    pub(super) file_name: Option<String>,
}

impl Address {
    /// Parses `ipfs://CID/a/b`, `ipns://NAME/a/b`, `https://GATEWAY/ipfs/CID/a/b` and `https://CID.ipfs.GATEWAY/a/b`.
    ///
    /// # Errors
    /// `InvalidInput`.
    pub(super) fn parse(url: &Url) -> Result<Self> {
        let with_url = |e: Error| e.with_context(display_url(url));
        let file_name = url.query_pairs().find(|(key, _)| key == "filename");
        let file_name =
            file_name.map(|(_, name)| name.into_owned()).filter(|name| !name.is_empty());
        let (path, gateway) = match url.scheme() {
            "ipfs" | "ipns" => (own_path(url).map_err(with_url)?, None),
            _ => {
                let (path, gateway) = gateway_path(url).map_err(with_url)?;
                (path, Some(gateway))
            }
        };
        Ok(Self { path, gateway, file_name })
    }

    /// The name of the file or folder: as the URL suggests, else the last part of its path, else its CID or name.
    pub(super) fn name(&self) -> String {
        if let Some(name) = &self.file_name {
            return name.clone();
        }
        match (self.path.segments.last(), &self.path.root) {
            (Some(last), _) => String::from_utf8_lossy(last).into_owned(),
            (None, PathRoot::Cid(cid)) => cid.to_string(),
            (None, PathRoot::Name(name)) => name.to_string(),
            (None, PathRoot::Host(host)) => host.clone(),
        }
    }

    /// The CID at the beginning of the path; `None` for a name.
    pub(super) fn root_cid(&self) -> Option<&Cid> {
        match &self.path.root {
            PathRoot::Cid(cid) => Some(cid),
            _ => None,
        }
    }

    /// The URL of content by its CID, at the same gateway.
    pub(super) fn url_of(&self, cid: &Cid) -> Url {
        let text = match &self.gateway {
            Some(gateway) => format!("{gateway}ipfs/{cid}"),
            None => format!("ipfs://{cid}"),
        };
        Url::parse(&text).expect("a CID is valid in a URL")
    }
}

fn own_path(url: &Url) -> Result<ContentPath> {
    let missing = || {
        Error::new(Kind::InvalidInput, "the URL has no CID")
            .hint("write it as ipfs://CID, ipfs://CID/PATH or ipns://NAME")
    };
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(missing)?;
    if url.port().is_some() || !url.username().is_empty() || url.password().is_some() {
        let text = "a CID or name has neither a port nor a login";
        return Err(Error::new(Kind::InvalidInput, text)
            .hint(hint!["the login of a gateway belongs to its URL: ", Setting::IpfsGateway]));
    }
    // ipfs://ipfs/CID is a common mistake.
    if matches!(host, "ipfs" | "ipns") {
        let (root, path) = split_root(url.path().trim_start_matches('/'));
        return ContentPath::from_url_path(parse_root(host, root)?, path);
    }
    ContentPath::from_url_path(parse_root(url.scheme(), host)?, url.path())
}

/// The path below a gateway, and the gateway.
fn gateway_path(url: &Url) -> Result<(ContentPath, Url)> {
    let mut gateway = url.clone();
    gateway.set_query(None);
    gateway.set_fragment(None);
    // https://CID.ipfs.GATEWAY/a/b
    let host = url.domain().unwrap_or_default().to_owned();
    if let Some((id, rest)) = host.split_once('.')
        && let Some((namespace @ ("ipfs" | "ipns"), gateway_host)) = rest.split_once('.')
    {
        let root = match (namespace, parse_root(namespace, id)) {
            (_, Ok(root)) => root,
            // Dots of a DNS name are dashes there, and dashes are two.
            ("ipns", Err(_)) => {
                let dns_name = id.replace("--", "\0").replace('-', ".").replace('\0', "-");
                parse_root("ipns", &dns_name)?
            }
            (_, Err(error)) => return Err(error),
        };
        let invalid =
            |e| Error::new(Kind::InvalidInput, "the gateway has no valid host").because(e);
        gateway.set_host(Some(gateway_host)).map_err(invalid)?;
        gateway.set_path("/");
        return Ok((ContentPath::from_url_path(root, url.path())?, gateway));
    }
    let path = url.path();
    let at = ["/ipfs/", "/ipns/"].iter().filter_map(|part| path.find(part)).min();
    let at = at.ok_or_else(|| {
        Error::new(Kind::InvalidInput, "the URL is not one of an IPFS gateway")
            .hint("write it as https://GATEWAY/ipfs/CID or ipfs://CID")
    })?;
    let (namespace, rest) = (&path[at + 1..at + 5], &path[at + 6..]);
    let (root, below) = split_root(rest);
    gateway.set_path(&path[..=at]);
    Ok((ContentPath::from_url_path(parse_root(namespace, root)?, below)?, gateway))
}

fn split_root(path: &str) -> (&str, &str) {
    path.split_once('/').unwrap_or((path, ""))
}

fn parse_root(namespace: &str, text: &str) -> Result<PathRoot> {
    let text = percent_decode_str(text).decode_utf8_lossy();
    match namespace {
        "ipns" => PathRoot::parse_name(&text),
        _ => PathRoot::parse_cid(&text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CID: &str = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku";
    const V0: &str = "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH";

    fn parse(text: &str) -> Result<Address> {
        Address::parse(&Url::parse(text).unwrap())
    }

    #[test]
    fn urls_of_content_keep_the_case_of_the_cid() {
        let address = parse(&format!("ipfs://{V0}/a%20b/../c?filename=x.bin")).unwrap();
        assert_eq!(address.root_cid(), Some(&V0.parse().unwrap()));
        assert_eq!(address.path.segments, [b"c"]);
        assert_eq!((address.name().as_str(), &address.gateway), ("x.bin", &None));
        assert_eq!(parse(&format!("ipfs://{V0}")).unwrap().name(), V0);
        assert_eq!(parse(&format!("IPFS://{V0}/%F0%9F%8D%8E/")).unwrap().name(), "🍎");
        let cid: Cid = V0.parse().unwrap();
        assert_eq!(address.url_of(&cid).as_str(), format!("ipfs://{V0}"));
        assert_eq!(parse(&format!("ipfs://ipfs/{CID}/a")).unwrap().path.segments, [b"a"]);
        let named = parse("ipns://docs.ipfs.tech/guide").unwrap();
        assert_eq!(named.path.root, PathRoot::Host("docs.ipfs.tech".into()));
        assert_eq!(named.root_cid(), None);
    }

    #[test]
    fn urls_of_gateways_name_their_gateway() {
        let cid: Cid = CID.parse().unwrap();
        for (url, gateway, segments) in [
            (
                format!("https://u:p@gw.example:8443/ipfs/{CID}/a/b?format=car"),
                "https://u:p@gw.example:8443/",
                2,
            ),
            (format!("http://127.0.0.1:8080/sub/ipfs/{CID}"), "http://127.0.0.1:8080/sub/", 0),
            (format!("https://{CID}.ipfs.dweb.link/a"), "https://dweb.link/", 1),
        ] {
            let address = parse(&url).unwrap();
            assert_eq!(address.gateway.as_ref().unwrap().as_str(), gateway);
            assert_eq!(address.root_cid(), Some(&cid));
            assert_eq!(address.path.segments.len(), segments);
            assert_eq!(address.url_of(&cid).as_str(), format!("{gateway}ipfs/{CID}"));
            // It is parsed again as the same content.
            assert_eq!(Address::parse(&address.url_of(&cid)).unwrap().root_cid(), Some(&cid));
        }
        let named = parse("https://en-wikipedia--on--ipfs-org.ipns.dweb.link/wiki/").unwrap();
        assert_eq!(named.path.root, PathRoot::Host("en.wikipedia-on-ipfs.org".into()));
        let named = parse("https://gw.example/ipns/docs.ipfs.tech/x").unwrap();
        assert_eq!(named.path.root, PathRoot::Host("docs.ipfs.tech".into()));
    }

    #[test]
    fn other_urls_are_refused() {
        for url in [
            "ipfs://",
            "ipfs://hello",
            "ipfs://ipfs/",
            "ipfs:hello",
            "ipns://nodots",
            "https://example.org/file",
            "https://example.org/ipfs/hello",
            &format!("ipfs://{CID}:80/"),
            &format!("ipfs://u@{CID}/"),
            &format!("ipfs://{CID}/a%2Fb"),
        ] {
            assert_eq!(parse(url).unwrap_err().kind(), Kind::InvalidInput, "{url}");
        }
    }
}
