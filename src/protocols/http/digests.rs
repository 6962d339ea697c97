//! Parses the checksums that a server sends with a file: `Repr-Digest` (RFC 9530), `Digest` (RFC 3230), `Content-MD5`.

use base64::{Engine, engine::general_purpose::STANDARD};
use hyper::header::HeaderMap;

use crate::protocols::{Algorithm, Digest};

/// All checksums of the whole file. Checksums of the body count only if `whole`: the body is then the whole file.
pub(super) fn from_headers(headers: &HeaderMap, whole: bool) -> Vec<Digest> {
    let lines =
        |name: &'static str| headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let mut found: Vec<Digest> =
        lines("repr-digest").chain(lines("digest")).flat_map(parse_list).collect();
    if whole {
        let md5 = lines("content-md5").filter_map(|text| parse_digest("md5", text));
        found.extend(md5);
    }
    found
}

/// Parses `sha-256=:BASE64:, md5=:BASE64:`. The older header has no colons.
fn parse_list(line: &str) -> Vec<Digest> {
    let items = line.split(',').filter_map(|item| item.trim().split_once('='));
    items.filter_map(|(name, value)| parse_digest(name, value.trim_matches(':'))).collect()
}

fn parse_digest(name: &str, base64: &str) -> Option<Digest> {
    let algorithm = Algorithm::from_name(name)?;
    let bytes = STANDARD.decode(base64.trim()).ok()?;
    (bytes.len() == algorithm.len()).then_some(Digest { algorithm, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_of_the_whole_file_are_read_from_every_header() {
        let sha = STANDARD.encode([7; 32]);
        let md5 = STANDARD.encode([1; 16]);
        let mut headers = HeaderMap::new();
        let repr = format!("sha-256=:{sha}:, unixsum=:AAA=:");
        headers.insert("repr-digest", repr.parse().unwrap());
        headers.insert("digest", format!("SHA-256=not base64,MD5={md5}").parse().unwrap());
        headers.insert("content-md5", md5.parse().unwrap());
        let algorithms =
            |whole| from_headers(&headers, whole).iter().map(|d| d.algorithm).collect::<Vec<_>>();
        assert_eq!(algorithms(false), [Algorithm::Sha256, Algorithm::Md5]);
        assert_eq!(algorithms(true).len(), 3);
    }
}
