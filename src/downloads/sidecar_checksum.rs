//! The sidecar of a file: the checksum file next to it on the server, as `f.iso.sha256` next to `f.iso`.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use url::Url;

use super::{FirstRequest, checksum};
use crate::{
    error::{Error, Kind, Result},
    protocols::{
        Algorithm, Digest, FirstResponse, Protocol, RangeRequest, UrlTarget, display_url,
        next_bytes,
    },
};

/// The name suffixes to try, the most common first.
const SUFFIXES: [(&str, Algorithm); 4] = [
    (".sha256", Algorithm::Sha256),
    (".sha512", Algorithm::Sha512),
    (".sha1", Algorithm::Sha1),
    (".md5", Algorithm::Md5),
];
/// Maximum length of a checksum file in bytes. Some have a line for every file of a release.
const MAX_LEN: usize = 1 << 20;

/// Fetches the checksum of the file at `url` from a checksum file next to it.
///
/// # Errors
/// `NotFound` when there is no checksum file; `Corrupt` when it has no checksum of this file; errors of the server.
pub async fn fetch_sidecar_digest(
    protocol: &Arc<dyn Protocol>,
    url: &Url,
    max_tries: u32,
    cancel: &CancellationToken,
) -> Result<Digest> {
    for (suffix, algorithm) in SUFFIXES {
        let mut sidecar = url.clone();
        sidecar.set_path(&format!("{}{suffix}", url.path()));
        sidecar.set_query(None);
        let text = match read_text(protocol, &sidecar, max_tries, cancel).await {
            Ok(text) => text,
            Err(e) if e.kind() == Kind::NotFound => continue,
            Err(e) => return Err(e),
        };
        let name = url.path().rsplit('/').next().unwrap_or_default();
        let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy().into_owned();
        return digest_of(&text, &name, algorithm).ok_or_else(|| {
            let (sidecar, kind) = (display_url(&sidecar), algorithm.name());
            let text = format!("{sidecar} has no {kind} checksum of {name:?}");
            Error::new(Kind::Corrupt, text)
        });
    }
    let suffixes = SUFFIXES.map(|(suffix, _)| suffix).join(", ");
    let text = format!("no checksum file next to {}", display_url(url));
    Err(Error::new(Kind::NotFound, text).hint(format!("tried the suffixes {suffixes}")))
}

async fn read_text(
    protocol: &Arc<dyn Protocol>,
    url: &Url,
    max_tries: u32,
    cancel: &CancellationToken,
) -> Result<String> {
    let no_file = || Error::new(Kind::NotFound, format!("{} is not a file", display_url(url)));
    let request = FirstRequest { max_tries, cancel, on_wait: &|_| {} };
    let FirstResponse { target, body } = request.probe_with_body(protocol, url).await?;
    let UrlTarget::File(remote) = target else { return Err(no_file()) };
    let mut stream = match body {
        Some(body) => body,
        None => protocol.open(&remote, RangeRequest { start: 0, end: remote.len }).await?,
    };
    let mut bytes = Vec::new();
    while let Some(part) = next_bytes(&mut stream).await.transpose()? {
        bytes.extend_from_slice(&part);
        if bytes.len() > MAX_LEN {
            let text = format!("{} is too long for a checksum file", display_url(url));
            return Err(Error::new(Kind::Corrupt, text));
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Finds the digest of the file. Lines have the form `HEX  NAME`, `HEX *NAME`, `NAME (FILE) = HEX` as in BSD, or only
/// the digits. A line that names the file takes precedence; lines that name another file are ignored.
fn digest_of(text: &str, name: &str, algorithm: Algorithm) -> Option<Digest> {
    let digest = |word: &str| checksum::parse(&format!("{}={word}", algorithm.name())).ok();
    let mut unnamed = None;
    for line in text.lines().map(str::trim) {
        let found = line.split([' ', '\t', '=']).find_map(digest);
        let Some(found) = found else { continue };
        let other = line.split([' ', '\t', '=']).filter(|word| digest(word).is_none());
        let rest: String = other.collect::<Vec<_>>().join(" ");
        let names = |text: &str| text.rsplit('/').next().is_some_and(|last| last == name);
        let bare = rest.trim().trim_start_matches('*');
        let bsd = bare.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')'));
        match bsd.map_or(bare, |(inside, _)| inside) {
            "" => unnamed = unnamed.or(Some(found)),
            named if names(named) => return Some(found),
            _ => {}
        }
    }
    unnamed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_names_the_file_is_used_in_every_format() {
        let (ours, theirs) = ("0".repeat(32), "1".repeat(32));
        let of = |text: &str| {
            digest_of(text, "a b.iso", Algorithm::Md5).map(|digest| checksum::to_text(&digest))
        };
        let expected = Some(format!("md5={ours}"));
        for text in [
            format!("{ours}\n"),
            format!("{theirs}  other.iso\n{ours}  a b.iso\n"),
            format!("# made today\n{ours} *./x/a b.iso\r\n"),
            format!("MD5 (other.iso) = {theirs}\nMD5 (a b.iso) = {ours}"),
        ] {
            assert_eq!(of(&text), expected, "{text}");
        }
        for none in [format!("{theirs}  other.iso"), "<html>404</html>".to_owned(), String::new()] {
            assert_eq!(of(&none), None, "{none}");
        }
    }
}
