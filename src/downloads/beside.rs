//! Checksum files next to a file on the server, as `f.iso.sha256` next to `f.iso`.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use url::Url;

use super::{Asking, checksum};
use crate::{
    error::{Error, Kind, Result},
    protocols::{Algorithm, Begun, Digest, Found, Protocol, Wanted, next, place},
};

/// The name suffixes to try, the most common first.
const ENDINGS: [(&str, Algorithm); 4] = [
    (".sha256", Algorithm::Sha256),
    (".sha512", Algorithm::Sha512),
    (".sha1", Algorithm::Sha1),
    (".md5", Algorithm::Md5),
];
/// Maximum length of a checksum file in bytes. Some have a line for every file of a release.
const LONGEST: usize = 1 << 20;

/// Fetches the checksum of the file at `url` from a checksum file next to it.
///
/// # Errors
/// `NotFound` when there is no checksum file; `Corrupt` when it has no checksum of this file; errors of the server.
pub async fn beside(
    protocol: &Arc<dyn Protocol>,
    url: &Url,
    max_tries: u32,
    cancel: &CancellationToken,
) -> Result<Digest> {
    for (ending, algorithm) in ENDINGS {
        let mut at = url.clone();
        at.set_path(&format!("{}{ending}", url.path()));
        at.set_query(None);
        let text = match read(protocol, &at, max_tries, cancel).await {
            Ok(text) => text,
            Err(e) if e.kind() == Kind::NotFound => continue,
            Err(e) => return Err(e),
        };
        let name = url.path().rsplit('/').next().unwrap_or_default();
        let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy().into_owned();
        return digest_of(&text, &name, algorithm).ok_or_else(|| {
            let text = format!("{} has no {} of {name:?}", place(&at), algorithm.name());
            Error::new(Kind::Corrupt, text)
        });
    }
    let endings = ENDINGS.map(|(ending, _)| ending).join(", ");
    let text = format!("there is no checksum beside {}", place(url));
    Err(Error::new(Kind::NotFound, text).hint(format!("looked for {endings}")))
}

async fn read(
    protocol: &Arc<dyn Protocol>,
    at: &Url,
    max_tries: u32,
    cancel: &CancellationToken,
) -> Result<String> {
    let no_file = || Error::new(Kind::NotFound, format!("{} is no file", place(at)));
    let asking = Asking { max_tries, cancel, waits: &|_| {} };
    let Begun { found, first } = asking.begin(protocol, at).await?;
    let Found::File(remote) = found else { return Err(no_file()) };
    let mut stream = match first {
        Some(first) => first,
        None => protocol.open(&remote, Wanted { start: 0, end: remote.len }).await?,
    };
    let mut bytes = Vec::new();
    while let Some(part) = next(&mut stream).await.transpose()? {
        bytes.extend_from_slice(&part);
        if bytes.len() > LONGEST {
            let text = format!("{} is too long for a file of checksums", place(at));
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
    fn the_line_of_the_file_counts_whatever_its_form() {
        let (ours, theirs) = ("0".repeat(32), "1".repeat(32));
        let of = |text: &str| {
            digest_of(text, "a b.iso", Algorithm::Md5).map(|digest| checksum::show(&digest))
        };
        let wanted = Some(format!("md5={ours}"));
        for text in [
            format!("{ours}\n"),
            format!("{theirs}  other.iso\n{ours}  a b.iso\n"),
            format!("# made today\n{ours} *./x/a b.iso\r\n"),
            format!("MD5 (other.iso) = {theirs}\nMD5 (a b.iso) = {ours}"),
        ] {
            assert_eq!(of(&text), wanted, "{text}");
        }
        for none in [format!("{theirs}  other.iso"), "<html>404</html>".to_owned(), String::new()] {
            assert_eq!(of(&none), None, "{none}");
        }
    }
}
