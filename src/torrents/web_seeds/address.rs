//! The URLs of a torrent's files at a web seed, and the check of the host. A stranger chose the URL of the web seed.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use tokio::net::lookup_host;
use url::Url;

use super::names::RawNames;
use crate::{
    error::{Error, Kind, Result},
    protocols::{has_private_host, is_public_address},
};

/// The schemes that a stranger's URL may have. Others may use keys of the user.
const SCHEMES: [&str; 3] = ["http", "https", "ftp"];

/// Characters to escape in a path: all but letters, digits and `-._~`.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Parses the URL of a web seed, if it can be used.
///
/// # Errors
/// `Unsupported` or `InvalidInput`, with the reason.
pub(super) fn parse(text: &str) -> Result<Url> {
    let mut url = Url::parse(text.trim())
        .map_err(|e| Error::new(Kind::InvalidInput, "not a URL").because(e))?;
    if !SCHEMES.contains(&url.scheme()) {
        let text = format!("scheme {:?} is not http, https or ftp", url.scheme());
        return Err(Error::new(Kind::Unsupported, text));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(Error::new(Kind::InvalidInput, "the URL has no host"));
    }
    url.set_fragment(None);
    Ok(url)
}

/// The URL of file `index` below the web seed's URL, as BEP 19 defines it. `None` when a URL cannot express its name.
pub(super) fn file_url(base: &Url, names: &RawNames, index: usize) -> Option<Url> {
    let mut text = base.as_str().to_owned();
    let folder = text.ends_with('/');
    let parts: Vec<&[u8]> = match (names.is_single, folder) {
        (true, false) => return Some(base.clone()),
        (true, true) => vec![names.root.as_slice()],
        (false, _) => {
            let path = names.files.get(index)?;
            std::iter::once(&names.root).chain(path).map(Vec::as_slice).collect()
        }
    };
    if !folder {
        text.push('/');
    }
    for (n, part) in parts.into_iter().enumerate() {
        if matches!(part, b"" | b"." | b"..") {
            return None;
        }
        if n > 0 {
            text.push('/');
        }
        text.extend(percent_encode(part, PATH));
    }
    Url::parse(&text).ok()
}

/// The network that a web seed may be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// The public network. The web seed must not lead to any other network.
    Public,
    /// This machine or its network.
    Private,
}

/// Determines the network of a web seed. Resolves its host name, unless a proxy does that.
///
/// # Errors
/// `PermissionDenied` for a host of this machine or its network whose URL has a query or a login, and so may be more
/// than the name of a file.
pub(super) async fn reach(url: &Url, by_proxy: bool) -> Result<Reach> {
    if !(has_private_host(url) || !by_proxy && resolves_to_private(url).await) {
        return Ok(Reach::Public);
    }
    if url.query().is_some() || !url.username().is_empty() || url.password().is_some() {
        let text = "a URL with a query or a login is refused for a host outside the public network";
        return Err(Error::new(Kind::PermissionDenied, text));
    }
    Ok(Reach::Private)
}

async fn resolves_to_private(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let found = lookup_host((host, url.port_or_known_default().unwrap_or(80))).await;
    // A host that cannot be resolved is reported when it is connected to.
    let Ok(mut found) = found.map(Iterator::peekable) else { return false };
    found.peek().is_some() && found.all(|address| !is_public_address(address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(is_single: bool) -> RawNames {
        let path = |text: &str| text.split('/').map(|part| part.as_bytes().to_vec()).collect();
        let files = if is_single { vec![vec![]] } else { vec![path("a b.bin"), path("s/é#.txt")] };
        RawNames { root: b"the name".to_vec(), files, is_single }
    }

    fn url_of(base: &str, is_single: bool, index: usize) -> String {
        let base = parse(base).unwrap();
        file_url(&base, &names(is_single), index).unwrap().to_string()
    }

    #[test]
    fn a_single_file_is_at_the_url_or_in_its_folder() {
        assert_eq!(url_of("http://x/f.bin", true, 0), "http://x/f.bin");
        assert_eq!(url_of("http://x/get?id=1", true, 0), "http://x/get?id=1");
        assert_eq!(url_of("http://x/d/", true, 0), "http://x/d/the%20name");
        assert_eq!(url_of(" http://x/d/#top ", true, 0), "http://x/d/the%20name");
    }

    #[test]
    fn several_files_are_below_the_url_under_the_torrents_name() {
        assert_eq!(url_of("http://x/d", false, 0), "http://x/d/the%20name/a%20b.bin");
        assert_eq!(url_of("ftp://x/", false, 1), "ftp://x/the%20name/s/%C3%A9%23.txt");
    }

    #[test]
    fn names_that_change_the_path_have_no_url() {
        let base = parse("http://x/").unwrap();
        for bad in ["..", ".", ""] {
            let files = vec![vec![bad.as_bytes().to_vec()]];
            let names = RawNames { root: b"n".to_vec(), files, is_single: false };
            assert_eq!(file_url(&base, &names, 0), None);
        }
    }

    #[test]
    fn only_http_https_and_ftp_urls_are_accepted() {
        assert!(parse("HTTPS://x/").is_ok() && parse("ftp://x/a").is_ok());
        for bad in ["s3://bucket/x", "sftp://x/", "file:///etc/passwd", "/etc/passwd", "http:///"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_private_host_is_allowed_only_without_query_and_login() {
        for (url, wanted) in [
            ("http://127.0.0.1:8/f", Some(Reach::Private)),
            ("http://192.168.0.1/f?reboot=1", None),
            ("http://me:pass@localhost/f", None),
            ("http://1.1.1.1/f?x=1", Some(Reach::Public)),
        ] {
            assert_eq!(reach(&url.parse().unwrap(), false).await.ok(), wanted, "{url}");
        }
    }
}
