//! Parses `known_hosts` files and checks the key of a server against them. Pure.
//!
//! The format is OpenSSH's: several names per line, `*` and `?` in names, `!` before names that the line excludes,
//! hashed names (`|1|SALT|HASH`), `[host]:port` for ports other than 22, and `@revoked` before keys that are never
//! accepted. Lines of authorities (`@cert-authority`) are ignored, because host certificates are not requested. Lines
//! that cannot be parsed are ignored too.

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD};
use russh::keys::{Algorithm, PublicKey, parse_public_key_base64};

/// The keys of one server in the files.
#[derive(Debug, Default)]
pub(super) struct KnownHostKeys {
    keys: Vec<KnownKey>,
}

#[derive(Debug)]
struct KnownKey {
    key: PublicKey,
    revoked: bool,
    /// File name and line number.
    location: String,
}

/// The result of checking a key that a server has presented.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KeyVerdict<'a> {
    Known,
    /// No key of its type is known.
    Unknown,
    /// Another key of its type is known, from this line of a file.
    Changed(&'a str),
    Revoked(&'a str),
}

impl KnownHostKeys {
    /// Adds the keys of `host` in `text`, which is the content of the file `name`.
    pub(super) fn read(&mut self, name: &str, text: &str, host: &str, port: u16) {
        let host = if port == 22 { host.to_owned() } else { format!("[{host}]:{port}") };
        for (number, line) in (1..).zip(text.lines()) {
            let mut words = line.split_whitespace().peekable();
            let revoked = match words.peek() {
                Some(&"@revoked") => words.next().is_some(),
                Some(word) if word.starts_with(['#', '@']) => continue,
                _ => false,
            };
            let (Some(hosts), Some(_), Some(key)) = (words.next(), words.next(), words.next())
            else {
                continue;
            };
            if !names_match(hosts, &host) {
                continue;
            }
            if let Ok(key) = parse_public_key_base64(key) {
                let location = format!("{name}:{number}");
                self.keys.push(KnownKey { key, revoked, location });
            }
        }
    }

    pub(super) fn check_key(&self, presented: &PublicKey) -> KeyVerdict<'_> {
        let same = |known: &&KnownKey| known.key.key_data() == presented.key_data();
        if let Some(known) = self.keys.iter().filter(same).find(|known| known.revoked) {
            return KeyVerdict::Revoked(&known.location);
        }
        if self.keys.iter().any(|known| same(&known)) {
            return KeyVerdict::Known;
        }
        let same_type = |known: &&KnownKey| {
            !known.revoked && key_type(&known.key.algorithm()) == key_type(&presented.algorithm())
        };
        let other = self.keys.iter().find(same_type);
        other.map_or(KeyVerdict::Unknown, |known| KeyVerdict::Changed(&known.location))
    }

    /// `types` with those of known keys first, so that the server presents one of those.
    pub(super) fn prefer_known_types(&self, types: &[Algorithm]) -> Vec<Algorithm> {
        let known = |algorithm: &&Algorithm| {
            let mut keys = self.keys.iter().filter(|known| !known.revoked);
            keys.any(|known| key_type(&known.key.algorithm()) == key_type(algorithm))
        };
        let (known, others): (Vec<_>, Vec<_>) = types.iter().partition(known);
        known.into_iter().chain(others).cloned().collect()
    }
}

/// RSA keys have one type, whatever the hash of their signatures.
fn key_type(algorithm: &Algorithm) -> Algorithm {
    match algorithm {
        Algorithm::Rsa { .. } => Algorithm::Rsa { hash: None },
        other => other.clone(),
    }
}

/// Whether the names at the start of a line match `host`.
fn names_match(hosts: &str, host: &str) -> bool {
    let mut found = false;
    for pattern in hosts.split(',') {
        if let Some(pattern) = pattern.strip_prefix('!') {
            if glob_matches(pattern, host) {
                return false;
            }
        } else if pattern.starts_with('|') {
            found |= hashed_name_matches(pattern, host).unwrap_or(false);
        } else {
            found |= glob_matches(pattern, host);
        }
    }
    found
}

/// HMAC-SHA1 is the format of the files. It only hides the names; no security depends on it.
fn hashed_name_matches(pattern: &str, host: &str) -> Option<bool> {
    let (salt, hash) = pattern.strip_prefix("|1|")?.split_once('|')?;
    let (salt, hash) = (STANDARD.decode(salt).ok()?, STANDARD.decode(hash).ok()?);
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &salt);
    Some(hmac::verify(&key, host.as_bytes(), &hash).is_ok())
}

/// Whether `text` matches `pattern`: `*` stands for any characters, `?` for one. Case is ignored.
pub(super) fn glob_matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.to_ascii_lowercase(), text.to_ascii_lowercase());
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Positions of the last star in the pattern, and of the end of the text that it covers so far.
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == text[t] => (p, t) = (p + 1, t + 1),
            _ => {
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                (p, t) = (at + 1, taken + 1);
            }
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const TWO: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIA6rWI3G2sz07DnfFlrouTcysQlj2P+jpNSOEWD9OJ3X";

    fn key(text: &str) -> PublicKey {
        parse_public_key_base64(text).unwrap()
    }

    fn known(text: &str, host: &str, port: u16) -> KnownHostKeys {
        let mut known = KnownHostKeys::default();
        known.read("file", text, host, port);
        known
    }

    fn hashed(host: &str) -> String {
        let salt = [7; 20];
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &salt);
        let hash = STANDARD.encode(hmac::sign(&key, host.as_bytes()));
        format!("|1|{}|{hash}", STANDARD.encode(salt))
    }

    #[test]
    fn names_patterns_hashes_and_ports_are_matched() {
        for (hosts, host, port, found) in [
            ("h.example", "h.example", 22, true),
            ("H.Example", "h.example", 22, true),
            ("h.example", "h.example", 2222, false),
            ("[h.example]:2222", "h.example", 2222, true),
            ("other,h.example", "h.example", 22, true),
            ("*.example", "a.b.example", 22, true),
            ("?.example", "h.example", 22, true),
            ("?.example", "hh.example", 22, false),
            ("*.example,!h.example", "h.example", 22, false),
            ("*", "anything", 22, true),
            (&hashed("h.example"), "h.example", 22, true),
            (&hashed("h.example"), "g.example", 22, false),
            (&hashed("[h.example]:2222"), "h.example", 2222, true),
            ("|1|broken", "h.example", 22, false),
        ] {
            let known = known(&format!("{hosts} ssh-ed25519 {ONE} me@there"), host, port);
            let wanted = if found { KeyVerdict::Known } else { KeyVerdict::Unknown };
            assert_eq!(known.check_key(&key(ONE)), wanted, "{hosts} for {host}:{port}");
        }
    }

    #[test]
    fn another_key_of_the_same_type_is_a_changed_key() {
        let known = known(&format!("# mine\n\nh ssh-ed25519 {ONE}\n"), "h", 22);
        assert_eq!(known.check_key(&key(TWO)), KeyVerdict::Changed("file:3"));
    }

    #[test]
    fn a_revoked_key_is_never_accepted() {
        let text = format!("h ssh-ed25519 {ONE}\n@revoked * ssh-ed25519 {ONE}\n");
        assert_eq!(known(&text, "h", 22).check_key(&key(ONE)), KeyVerdict::Revoked("file:2"));
        let text = format!("@revoked * ssh-ed25519 {ONE}\n");
        assert_eq!(known(&text, "h", 22).check_key(&key(TWO)), KeyVerdict::Unknown);
    }

    #[test]
    fn lines_of_authorities_and_invalid_lines_are_ignored() {
        let text = format!("@cert-authority * ssh-ed25519 {ONE}\nh ssh-ed25519 !!\nh\n\u{1}\n");
        assert_eq!(known(&text, "h", 22).check_key(&key(ONE)), KeyVerdict::Unknown);
    }

    #[test]
    fn types_of_known_keys_are_requested_first() {
        let types = [Algorithm::Rsa { hash: None }, Algorithm::Dsa, Algorithm::Ed25519];
        let first = known(&format!("h ssh-ed25519 {ONE}"), "h", 22).prefer_known_types(&types);
        assert_eq!(first[0], Algorithm::Ed25519);
        assert_eq!(first.len(), 3);
    }
}
