//! Logins by host, from the file that ftp, curl and git read too.

use std::{collections::HashMap, path::Path};

use super::{DEFAULT_HOST, Login};
use crate::{
    config::Secret,
    error::{Error, Result},
};

/// Reads a netrc file; by host, [`DEFAULT_HOST`] for its `default`. The first entry of a host counts.
///
/// # Errors
/// When it cannot be read. What it has besides hosts and logins is passed over.
pub fn read(path: &Path) -> Result<HashMap<String, Login>> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::io(format!("netrc file {}", path.display()), e))?;
    Ok(parse(&text))
}

fn parse(text: &str) -> HashMap<String, Login> {
    let mut logins: HashMap<String, Login> = HashMap::new();
    let mut host: Option<(String, Login)> = None;
    let mut keep = |entry: Option<(String, Login)>| {
        if let Some((host, login)) = entry {
            logins.entry(host).or_insert(login);
        }
    };
    let nobody = || Login { user: String::new(), password: None };
    let mut words = words(text).into_iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "machine" => keep(host.replace((words.next().unwrap_or_default(), nobody()))),
            "default" => keep(host.replace((DEFAULT_HOST.to_owned(), nobody()))),
            "login" | "password" | "account" => {
                let value = words.next().unwrap_or_default();
                match (&mut host, word.as_str()) {
                    (Some((_, login)), "login") => login.user = value,
                    (Some((_, login)), "password") => login.password = Some(Secret::Text(value)),
                    _ => {}
                }
            }
            _ => {}
        }
    }
    keep(host);
    logins
}

/// Words, quoted ones without their quotes; comments and macros (which end with an empty line) left out.
fn words(text: &str) -> Vec<String> {
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
                Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
                None => rest.split_once(char::is_whitespace).unwrap_or((rest, "")),
            };
            in_macro |= word == "macdef";
            out.push(word.to_owned());
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
        let text = "# mine\nmachine a.example login u password \"p w\"\nmachine b.example\n  login v\n\
                    macdef init\n machine not.example login x\n\n\
                    machine a.example login second password no\ndefault login anyone password any\n";
        let logins = parse(text);
        let secret = |text: &str| Some(Secret::Text(text.into()));
        assert_eq!(logins["a.example"], Login { user: "u".into(), password: secret("p w") });
        assert_eq!(logins["b.example"], Login { user: "v".into(), password: None });
        assert_eq!(logins[DEFAULT_HOST], Login { user: "anyone".into(), password: secret("any") });
        assert_eq!(logins.len(), 3);
    }
}
