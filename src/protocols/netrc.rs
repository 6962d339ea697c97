//! Logins by host from a netrc file, in the format that ftp, curl and git also read.

use std::{collections::HashMap, path::Path};

use super::Login;
use crate::{
    config::Secret,
    error::{Error, Result},
    text,
};

/// The logins of a netrc file by host, in the order of the file.
#[derive(Debug, Clone, Default)]
pub struct Netrc {
    hosts: HashMap<String, Vec<Login>>,
    /// The `default` entries, for all other hosts.
    default: Vec<Login>,
}

/// Reads a netrc file. Keywords other than those of hosts and logins are ignored.
///
/// # Errors
/// The I/O error if the file cannot be read.
pub fn read(path: &Path) -> Result<Netrc> {
    let bytes =
        std::fs::read(path).map_err(|e| Error::io(format!("netrc file {}", path.display()), e))?;
    let lossy = |_| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Netrc::parse(&text::decode(&bytes).unwrap_or_else(lossy)))
}

impl Netrc {
    /// The first login for `host`, or the first one of `user` if that is given. `default` entries come last.
    #[must_use]
    pub fn login_for(&self, host: &str, user: Option<&str>) -> Option<&Login> {
        let logins =
            self.hosts.get(&normalized_host(host)).into_iter().flatten().chain(&self.default);
        let mut logins = logins.filter(|login| user.is_none_or(|user| login.user == user));
        logins.next()
    }

    pub(super) fn parse(text: &str) -> Self {
        let mut found = Self::default();
        let mut current: Option<&mut Vec<Login>> = None;
        let empty_login = || Login { user: String::new(), password: None };
        let mut words = split_words(text).into_iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "machine" => {
                    let host = normalized_host(&words.next().unwrap_or_default());
                    let logins = found.hosts.entry(host).or_default();
                    logins.push(empty_login());
                    current = Some(logins);
                }
                "default" => {
                    found.default.push(empty_login());
                    current = Some(&mut found.default);
                }
                "login" | "password" | "account" => {
                    let value = words.next().unwrap_or_default();
                    let login = current.as_deref_mut().and_then(|logins| logins.last_mut());
                    match (login, word.as_str()) {
                        (Some(login), "login") => login.user = value,
                        (Some(login), "password") => login.password = Some(Secret::Text(value)),
                        _ => {}
                    }
                }
                _ => {}
            }
        }
        found
    }
}

/// Host names have no case, and IPv6 addresses may be in brackets.
fn normalized_host(host: &str) -> String {
    host.trim_matches(['[', ']']).to_lowercase()
}

/// Splits off a quoted word, whose quote is removed already, with the escapes that curl knows.
fn split_quoted_word(text: &str) -> (String, &str) {
    let mut word = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (word, &text[at + 1..]),
            '\\' => match chars.next() {
                Some((_, 'n')) => word.push('\n'),
                Some((_, 'r')) => word.push('\r'),
                Some((_, 't')) => word.push('\t'),
                Some((_, other)) => word.push(other),
                None => {}
            },
            other => word.push(other),
        }
    }
    (word, "")
}

/// Splits `text` into words. Quotes are removed; comments and macros are skipped. A macro ends at an empty line.
fn split_words(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut in_macro = false;
    for line in text.lines() {
        in_macro &= !line.trim().is_empty();
        if in_macro || line.trim_start().starts_with('#') {
            continue;
        }
        let mut rest = line.trim_start();
        while !rest.is_empty() {
            let (word, after) = match rest.strip_prefix('"') {
                Some(quoted) => split_quoted_word(quoted),
                None => {
                    let (word, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
                    (word.to_owned(), after)
                }
            };
            in_macro |= word == "macdef";
            out.push(word);
            rest = after.trim_start();
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_found_by_host_and_default_comes_last() {
        let text = "# mine\nmachine A.example login u password \"p \\\" w\"\nmachine b.example\n  login v\n\
                    macdef init\n machine not.example login x\n\n\
                    machine a.example login second password no\ndefault login anyone password any\n";
        let netrc = Netrc::parse(text);
        let of = |host: &str, user: Option<&str>| {
            let login = netrc.login_for(host, user)?;
            let password = login.password.as_ref().map(|secret| secret.reveal().unwrap());
            Some((login.user.clone(), password.unwrap_or_default()))
        };
        let known = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        assert_eq!(of("a.example", None), known("u", "p \" w"));
        assert_eq!(of("A.EXAMPLE", None), known("u", "p \" w"));
        assert_eq!(of("a.example", Some("second")), known("second", "no"));
        assert_eq!(of("a.example", Some("third")), None);
        assert_eq!(of("b.example", None), known("v", ""));
        assert_eq!(of("not.example", None), known("anyone", "any"));
        assert_eq!(of("a.example", Some("anyone")), known("anyone", "any"));
    }
}
