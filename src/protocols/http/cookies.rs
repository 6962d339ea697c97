//! Cookies: those of a file in Netscape's format, as browsers' extensions and curl write it, and those that servers set
//! while files are fetched. Many a download begins with an address that gives a cookie and leads on to the file.
//!
//! They go where RFC 6265 says, for as long as this program runs.

use std::path::Path;

use cookie_store::{Cookie, CookieDomain, CookieStore};
use hyper::header::{HeaderMap, HeaderValue};
use parking_lot::Mutex;
use url::{Host, Url};

use crate::error::{Error, Kind, Result};

/// As long as browsers let a cookie be.
const LONGEST: usize = 4096;
/// Of all servers together: more is nobody's login.
const MOST: usize = 300;

/// What is kept to be sent.
#[derive(Default)]
pub(super) struct Cookies(Mutex<CookieStore>);

impl std::fmt::Debug for Cookies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} cookies", self.0.lock().iter_any().count())
    }
}

impl Cookies {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::io(format!("cookies {}", path.display()), e))?;
        let mut store = CookieStore::default();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.strip_prefix("#HttpOnly_").unwrap_or(line);
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let (url, cookie) = parse(line).ok_or_else(|| {
                let text = format!("cookies {}: line {number} is none", path.display());
                Error::new(Kind::InvalidInput, text)
                    .hint("the file must be in Netscape's format: seven fields with tabs between")
            })?;
            // One that is too old, or of nobody: it would not be sent.
            let _ = store.parse(&cookie, &url);
        }
        Ok(Self(Mutex::new(store)))
    }

    /// Keeps what a server at `url` wants to be told again.
    pub(super) fn take(&self, url: &Url, headers: &HeaderMap) {
        for line in headers.get_all("set-cookie") {
            let Some(text) = line.to_str().ok().filter(|text| text.len() <= LONGEST) else {
                continue;
            };
            let Ok(cookie) = Cookie::parse(text, url) else { continue };
            // For all of a top-level domain.
            if matches!(&cookie.domain, CookieDomain::Suffix(domain) if !domain.contains('.')) {
                continue;
            }
            let mut store = self.0.lock();
            if store.iter_any().count() < MOST {
                // One that is not this server's to set is left out, as browsers do.
                let _ = store.insert(cookie.into_owned(), url);
            }
        }
    }

    /// What to send to `url`, if anything, behind what the user said.
    pub(super) fn of(&self, url: &Url, users: Option<&HeaderValue>) -> Option<HeaderValue> {
        let store = self.0.lock();
        let pairs = store.get_request_values(url).map(|(name, value)| format!("{name}={value}"));
        let pairs: Vec<_> = pairs.map(String::into_bytes).collect();
        if pairs.is_empty() {
            return None;
        }
        let users = users.map(|value| value.as_bytes().to_vec());
        let all: Vec<_> = users.into_iter().chain(pairs).collect();
        let mut value = HeaderValue::from_bytes(&all.join(&b"; "[..])).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// A line of a file, as a server would have set that cookie, and which.
fn parse(line: &str) -> Option<(Url, String)> {
    let fields: Vec<_> = line.trim_end_matches(['\r', '\n']).split('\t').collect();
    let [domain, subdomains, path, secure, expires, name, value] = fields[..] else {
        return None;
    };
    let (host, secure) = (domain.trim_start_matches('.'), secure.eq_ignore_ascii_case("TRUE"));
    let scheme = if secure { "https" } else { "http" };
    let url = Url::parse(&format!("{scheme}://{host}{path}")).ok()?;
    let mut cookie = format!("{name}={value}; Path={path}");
    let below = subdomains.eq_ignore_ascii_case("TRUE") || domain.starts_with('.');
    if below && matches!(url.host(), Some(Host::Domain(_))) {
        cookie.push_str(&format!("; Domain={host}"));
    }
    if secure {
        cookie.push_str("; Secure");
    }
    // 0 is for as long as the session.
    let expires: i64 = expires.parse().ok()?;
    if expires != 0 {
        let left = expires
            - chrono::DateTime::<chrono::Utc>::from(std::time::SystemTime::now()).timestamp();
        cookie.push_str(&format!("; Max-Age={left}"));
    }
    Some((url, cookie))
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
            let value = cookies.of(&url.parse().unwrap(), None);
            value.map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default()
        };
        assert_eq!(of("https://x.example/in/f"), "a=1; b=2");
        assert_eq!(of("http://x.example/in/f"), "a=1");
        assert_eq!(of("https://x.example/inner"), "a=1");
        assert_eq!(of("http://sub.x.example/"), "a=1");
        assert_eq!(of("http://notx.example/"), "");
        assert_eq!(format!("{cookies:?}"), "2 cookies");
    }

    #[test]
    fn a_file_of_another_format_is_refused_by_its_line() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"# x\na=1; b=2\n").unwrap();
        let e = Cookies::read(file.path()).unwrap_err();
        assert!(e.report().ends_with("line 2 is none"), "{}", e.report());
    }
    /// What goes to `url` after a server at `from` set `lines`.
    fn set(from: &str, lines: &[&str], url: &str) -> String {
        let cookies = Cookies::default();
        let header = |line: &&str| ("set-cookie".parse().unwrap(), line.parse().unwrap());
        let headers: HeaderMap = HeaderMap::from_iter(lines.iter().map(header));
        cookies.take(&from.parse().unwrap(), &headers);
        let value = cookies.of(&url.parse().unwrap(), None);
        value.map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default()
    }

    #[test]
    fn what_a_server_sets_goes_to_that_server_alone() {
        let lines =
            ["a=1; Path=/", "b=2; Path=/in", "c=3; Domain=x.example; Path=/", "d=4; Secure"];
        assert_eq!(
            set("https://x.example/f", &lines, "https://x.example/in/f"),
            "a=1; c=3; d=4; b=2"
        );
        assert_eq!(set("https://x.example/f", &lines, "http://x.example/"), "a=1; c=3");
        assert_eq!(set("https://x.example/f", &lines, "https://www.x.example/"), "c=3");
        assert_eq!(set("https://x.example/f", &lines, "https://y.example/"), "");
        let others = ["a=1; Domain=y.example", "a=1; Domain=example"];
        assert_eq!(set("https://x.example/", &others, "https://y.example/"), "");
        assert_eq!(set("https://x.example/", &["a=1", "a=; Max-Age=0"], "https://x.example/"), "");
    }

    #[test]
    fn a_server_may_not_fill_the_memory() {
        let long = format!("a={}", "x".repeat(LONGEST));
        assert_eq!(set("http://x/", &[&long, "b=2"], "http://x/"), "b=2");
        let many: Vec<_> = (0..2 * MOST).map(|n| format!("n{n}=1")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert_eq!(set("http://x/", &many, "http://x/").matches('=').count(), MOST);
    }

    #[test]
    fn what_the_user_says_is_said_too() {
        let cookies = Cookies::default();
        let headers =
            HeaderMap::from_iter([("set-cookie".parse().unwrap(), "b=2".parse().unwrap())]);
        let url = "http://x/".parse().unwrap();
        cookies.take(&url, &headers);
        assert_eq!(cookies.of(&url, Some(&"a=1".parse().unwrap())).unwrap(), "a=1; b=2");
    }
}
