//! Login methods: Basic (RFC 7617) and Digest (RFC 7616). A login is sent only to a server that has required one.

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::STANDARD};
use hyper::header::HeaderMap;
use md5::{Digest as _, Md5};

use crate::{
    error::{Error, Kind, Result},
    protocols::url_paths::one_line_excerpt,
};

/// A login method that a server requires.
#[derive(Debug, Clone)]
pub(super) enum Challenge {
    Basic,
    Digest(DigestChallenge),
}

/// Values from the server that are hashed together with the password.
#[derive(Debug, Clone)]
pub(super) struct DigestChallenge {
    realm: String,
    nonce: String,
    opaque: Option<String>,
    /// The name in the server's spelling.
    algorithm: Option<String>,
    /// Whether the server accepts `qop=auth`. Otherwise the older form without `qop` is used.
    supports_qop: bool,
    stale: bool,
    /// Number of uses of the nonce, across all requests.
    use_count: Arc<AtomicU32>,
}

/// The strongest supported challenge in the headers of a 401.
pub(super) fn strongest_challenge(headers: &HeaderMap) -> Option<Challenge> {
    let lines = headers.get_all("www-authenticate").iter().filter_map(|v| v.to_str().ok());
    let offers: Vec<_> = lines.flat_map(parse_challenges).collect();
    let digest = |offer: &&ParsedChallenge| {
        offer.scheme.eq_ignore_ascii_case("digest") && offer.is_supported()
    };
    // A server that accepts SHA-256 may also offer MD5, in any order.
    let mut digests: Vec<&ParsedChallenge> = offers.iter().filter(digest).collect();
    digests.sort_by_key(|offer| !offer.is_sha256());
    if let Some(offer) = digests.first() {
        return Some(Challenge::Digest(offer.to_digest()));
    }
    let basic = |offer: &ParsedChallenge| offer.scheme.eq_ignore_ascii_case("basic");
    offers.iter().any(basic).then_some(Challenge::Basic)
}

/// All login methods in the headers of a 401, for display.
pub(super) fn offered_methods(headers: &HeaderMap) -> Vec<String> {
    let lines = headers.get_all("www-authenticate").iter().filter_map(|v| v.to_str().ok());
    let describe = |offer: ParsedChallenge| {
        let details = [offer.get("algorithm"), offer.get("qop")].into_iter().flatten();
        let details: Vec<_> = details.map(one_line_excerpt).collect();
        match offer.scheme.eq_ignore_ascii_case("digest") && !details.is_empty() {
            true => format!("Digest ({})", details.join(", ")),
            false => one_line_excerpt(&offer.scheme),
        }
    };
    lines.flat_map(parse_challenges).map(describe).collect()
}

impl Challenge {
    /// Whether only the nonce was too old, so that the login may be correct.
    pub(super) fn is_stale(&self) -> bool {
        matches!(self, Self::Digest(digest) if digest.stale)
    }

    /// The value of the header `Authorization`.
    pub(super) fn authorization(
        &self,
        user: &str,
        password: &str,
        method: &str,
        uri: &str,
    ) -> Result<String> {
        match self {
            Self::Basic => Ok(format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))),
            Self::Digest(digest) => {
                let mut random = [0; 16];
                getrandom::fill(&mut random)
                    .map_err(|e| Error::new(Kind::Internal, format!("no random bytes: {e}")))?;
                let count = digest.use_count.fetch_add(1, Ordering::Relaxed) + 1;
                Ok(digest.authorization(
                    user,
                    password,
                    method,
                    uri,
                    &STANDARD.encode(random),
                    count,
                ))
            }
        }
    }
}

impl DigestChallenge {
    fn authorization(
        &self,
        user: &str,
        password: &str,
        method: &str,
        uri: &str,
        cnonce: &str,
        count: u32,
    ) -> String {
        let hash = |text: String| self.hash(&text);
        let algorithm = self.algorithm.as_deref().unwrap_or("MD5");
        let mut secret = hash(format!("{user}:{}:{password}", self.realm));
        if algorithm.to_ascii_lowercase().ends_with("-sess") {
            secret = hash(format!("{secret}:{}:{cnonce}", self.nonce));
        }
        let request = hash(format!("{method}:{uri}"));
        let response = match self.supports_qop {
            true => hash(format!("{secret}:{}:{count:08x}:{cnonce}:auth:{request}", self.nonce)),
            false => hash(format!("{secret}:{}:{request}", self.nonce)),
        };
        let quote = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        let mut out = format!(
            "Digest username={}, realm={}, nonce={}, uri={}, response=\"{response}\"",
            quote(user),
            quote(&self.realm),
            quote(&self.nonce),
            quote(uri)
        );
        let mut add = |text: std::fmt::Arguments<'_>| {
            write!(out, ", {text}").expect("a String takes all text");
        };
        if let Some(algorithm) = &self.algorithm {
            add(format_args!("algorithm={algorithm}"));
        }
        if let Some(opaque) = &self.opaque {
            add(format_args!("opaque={}", quote(opaque)));
        }
        if self.supports_qop || algorithm.to_ascii_lowercase().ends_with("-sess") {
            add(format_args!("qop=auth, nc={count:08x}, cnonce={}", quote(cnonce)));
        }
        out
    }

    fn hash(&self, text: &str) -> String {
        let sha256 = self.algorithm.as_deref().is_some_and(is_sha256);
        let bytes = match sha256 {
            true => digest(&SHA256, text.as_bytes()).as_ref().to_vec(),
            false => Md5::digest(text.as_bytes()).to_vec(),
        };
        bytes.iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("a String takes all text");
            hex
        })
    }
}

fn is_sha256(algorithm: &str) -> bool {
    ["sha-256", "sha-256-sess"].contains(&algorithm.to_ascii_lowercase().as_str())
}

/// One challenge in a header line.
#[derive(Debug, Default)]
struct ParsedChallenge {
    scheme: String,
    /// Parameters by name, in lower case.
    parameters: HashMap<String, String>,
}

impl ParsedChallenge {
    fn get(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// Whether this is a digest with a supported algorithm and `qop`.
    fn is_supported(&self) -> bool {
        let algorithm = self.get("algorithm").unwrap_or("MD5").to_ascii_lowercase();
        let qop = self.get("qop").is_none_or(includes_auth);
        ["md5", "md5-sess", "sha-256", "sha-256-sess"].contains(&algorithm.as_str())
            && qop
            && self.get("nonce").is_some()
    }

    fn is_sha256(&self) -> bool {
        self.get("algorithm").is_some_and(is_sha256)
    }

    fn to_digest(&self) -> DigestChallenge {
        let text = |name: &str| self.get(name).unwrap_or_default().to_owned();
        DigestChallenge {
            realm: text("realm"),
            nonce: text("nonce"),
            opaque: self.get("opaque").map(str::to_owned),
            algorithm: self.get("algorithm").map(str::to_owned),
            supports_qop: self.get("qop").is_some(),
            stale: self.get("stale").is_some_and(|stale| stale.eq_ignore_ascii_case("true")),
            use_count: Arc::default(),
        }
    }
}

fn includes_auth(list: &str) -> bool {
    list.split(',').any(|qop| qop.trim().eq_ignore_ascii_case("auth"))
}

/// Parses the challenges of a header line. A word that stands alone is a scheme, and each `name=value` belongs to the
/// last scheme before it.
fn parse_challenges(line: &str) -> Vec<ParsedChallenge> {
    let mut offers: Vec<ParsedChallenge> = Vec::new();
    for item in split_outside_quotes(line) {
        let mut item = item.trim();
        let is_word = |text: &str| !text.is_empty() && !text.contains(['=', '"', ' ', '\t']);
        let (first, rest) = item.split_once([' ', '\t']).unwrap_or((item, ""));
        if is_word(first) {
            offers.push(ParsedChallenge { scheme: first.to_owned(), ..ParsedChallenge::default() });
            item = rest.trim();
        }
        let (Some(offer), Some((name, value))) = (offers.last_mut(), item.split_once('=')) else {
            continue;
        };
        offer.parameters.insert(name.trim().to_ascii_lowercase(), unquote(value.trim()));
    }
    offers
}

fn split_outside_quotes(line: &str) -> Vec<&str> {
    let (mut parts, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, c) in line.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => {
                parts.push(&line[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&line[start..]);
    parts
}

fn unquote(text: &str) -> String {
    let Some(inner) = text.strip_prefix('"') else { return text.to_owned() };
    let (mut out, mut escaped) = (String::new(), false);
    for c in inner.chars() {
        match c {
            _ if escaped => {
                out.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => break,
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example of RFC 7616, section 3.9.1.
    const OFFERS: &str = "Basic realm=\"a, \\\"b\\\"\", Digest realm=\"http-auth@example.org\", qop=\"auth, auth-int\", \
        algorithm=MD5, nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\"";

    fn headers(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("www-authenticate", line.parse().unwrap());
        }
        headers
    }

    #[test]
    fn the_digest_example_of_the_rfc_is_computed() {
        let sha = OFFERS.replace("algorithm=MD5", "algorithm=SHA-256");
        for (offers, response) in [
            (OFFERS, "8ca523f5e9506fed4657c9700eebdbec"),
            (&sha, "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
        ] {
            let Some(Challenge::Digest(digest)) = strongest_challenge(&headers(&[offers])) else {
                panic!("no digest")
            };
            let cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";
            let value = digest.authorization(
                "Mufasa",
                "Circle of Life",
                "GET",
                "/dir/index.html",
                cnonce,
                1,
            );
            assert!(value.contains(&format!("response=\"{response}\"")), "{value}");
            assert!(value.contains("qop=auth, nc=00000001"), "{value}");
        }
    }

    #[test]
    fn the_strongest_supported_method_is_chosen() {
        let md5 = "Digest realm=\"x\", nonce=\"1\"";
        let sha = "Digest realm=\"x\", nonce=\"2\", algorithm=SHA-256, qop=\"auth\"";
        let unknown = "Digest realm=\"x\", nonce=\"3\", algorithm=SHA-512-256";
        let nonce = |lines: &[&str]| match strongest_challenge(&headers(lines)) {
            Some(Challenge::Digest(digest)) => digest.nonce,
            Some(Challenge::Basic) => "basic".to_owned(),
            None => "none".to_owned(),
        };
        assert_eq!(nonce(&[md5, sha]), "2");
        assert_eq!(nonce(&["Basic realm=\"x\"", md5]), "1");
        assert_eq!(nonce(&[unknown, "basic"]), "basic");
        assert_eq!(nonce(&["Negotiate"]), "none");
    }

    #[test]
    fn unsupported_methods_are_named() {
        let named = |lines: &[&str]| offered_methods(&headers(lines)).join(", ");
        assert_eq!(named(&["NTLM", "Bearer realm=\"x\""]), "NTLM, Bearer");
        let digest = "Digest realm=\"x\", nonce=\"3\", algorithm=SHA-512-256, qop=\"auth-int\"";
        assert_eq!(named(&[digest]), "Digest (SHA-512-256, auth-int)");
    }

    #[test]
    fn basic_authorization_is_the_login_in_base64() {
        let value = Challenge::Basic.authorization("bob", "sécret", "GET", "/").unwrap();
        assert_eq!(value, "Basic Ym9iOnPDqWNyZXQ=");
    }

    proptest! {
        #[test]
        fn any_challenge_is_read_without_panic(line in "[ -~]{0,80}") {
            let _ = parse_challenges(&line);
        }
    }
}
