//! Cookies from a file in Netscape's format, as browsers' extensions and curl write it.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use reqwest::header::HeaderValue;
use url::Url;

use crate::error::{Error, Kind, Result};

/// The cookies of a file. Those that servers set are not kept.
#[derive(Default)]
pub(super) struct Cookies(Vec<Cookie>);

struct Cookie {
    /// In lower case, without a leading dot.
    domain: String,
    subdomains: bool,
    path: String,
    secure: bool,
    /// Seconds since 1970; 0 for as long as the session.
    expires: u64,
    pair: String,
}

impl std::fmt::Debug for Cookies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} cookies", self.0.len())
    }
}

impl Cookies {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::io(format!("cookies {}", path.display()), e))?;
        let mut cookies = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.strip_prefix("#HttpOnly_").unwrap_or(line);
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let cookie = Cookie::parse(line).ok_or_else(|| {
                let text = format!("cookies {}: line {number} is none", path.display());
                Error::new(Kind::InvalidInput, text)
                    .hint("the file must be in Netscape's format: seven fields with tabs between")
            })?;
            cookies.push(cookie);
        }
        Ok(Self(cookies))
    }

    /// What to send to `url`, if anything.
    pub(super) fn of(&self, url: &Url) -> Option<HeaderValue> {
        let now =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let fits = self.0.iter().filter(|cookie| cookie.is_for(url, now.as_secs()));
        let pairs: Vec<_> = fits.map(|cookie| cookie.pair.as_str()).collect();
        if pairs.is_empty() {
            return None;
        }
        let mut value = HeaderValue::from_bytes(pairs.join("; ").as_bytes()).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl Cookie {
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<_> = line.trim_end_matches(['\r', '\n']).split('\t').collect();
        let [domain, subdomains, path, secure, expires, name, value] = fields[..] else {
            return None;
        };
        Some(Self {
            domain: domain.trim_start_matches('.').to_ascii_lowercase(),
            subdomains: subdomains.eq_ignore_ascii_case("TRUE") || domain.starts_with('.'),
            path: path.to_owned(),
            secure: secure.eq_ignore_ascii_case("TRUE"),
            expires: expires.parse().ok()?,
            pair: format!("{name}={value}"),
        })
    }

    fn is_for(&self, url: &Url, now: u64) -> bool {
        let host = url.host_str().unwrap_or_default();
        let below = || host.strip_suffix(&self.domain).is_some_and(|rest| rest.ends_with('.'));
        let path = url.path().strip_prefix(self.path.as_str()).is_some_and(|rest| {
            rest.is_empty() || self.path.ends_with('/') || rest.starts_with('/')
        });
        (host == self.domain || self.subdomains && below())
            && path
            && (!self.secure || url.scheme() == "https")
            && (self.expires == 0 || self.expires > now)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_cookie_goes_only_where_it_belongs() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let lines = "# Netscape HTTP Cookie File\n\n\
            .x.example\tTRUE\t/\tFALSE\t0\ta\t1\n\
            #HttpOnly_x.example\tFALSE\t/in\tTRUE\t4102444800\tb\t2\n\
            x.example\tFALSE\t/\tFALSE\t1\told\t3\n";
        file.write_all(lines.as_bytes()).unwrap();
        let cookies = Cookies::read(file.path()).unwrap();
        let of = |url: &str| {
            let value = cookies.of(&url.parse().unwrap());
            value.map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default()
        };
        assert_eq!(of("https://x.example/in/f"), "a=1; b=2");
        assert_eq!(of("http://x.example/in/f"), "a=1");
        assert_eq!(of("https://x.example/inner"), "a=1");
        assert_eq!(of("http://sub.x.example/"), "a=1");
        assert_eq!(of("http://notx.example/"), "");
        assert_eq!(format!("{cookies:?}"), "3 cookies");
    }

    #[test]
    fn a_file_of_another_format_is_refused_by_its_line() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"# x\na=1; b=2\n").unwrap();
        let e = Cookies::read(file.path()).unwrap_err();
        assert!(e.report().ends_with("line 2 is none"), "{}", e.report());
    }
}
