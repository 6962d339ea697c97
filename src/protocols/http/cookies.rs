//! Cookies from a file in Netscape's format, as browser extensions and curl write it, and cookies that servers set
//! during fetches. Many downloads start at a URL that sets a cookie and redirects to the file.
//!
//! Cookies are sent according to RFC 6265 and kept until the program ends.

use std::path::Path;

use cookie_store::{Cookie, CookieDomain, CookieStore};
use hyper::header::{HeaderMap, HeaderValue};
use parking_lot::Mutex;
use url::{Host, Url};

use crate::{
    error::{Error, Kind, Result},
    text,
};

/// Maximum length of a cookie in bytes, as in browsers.
const MAX_COOKIE_LEN: usize = 4096;
/// Maximum number of cookies that servers set, all servers together. No login needs more.
const MAX_SERVER_COOKIES: usize = 300;

/// The latest expiry time, in seconds since 1970-01-01 UTC: the year 9999.
const MAX_EXPIRY: f64 = 253_402_300_799.0;

/// The stored cookies.
#[derive(Default)]
pub(super) struct Cookies {
    store: Mutex<CookieStore>,
    /// Number of cookies in the file, which do not count against [`MAX_SERVER_COOKIES`].
    file_count: usize,
}

impl std::fmt::Debug for Cookies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} cookies", self.store.lock().iter_any().count())
    }
}

impl Cookies {
    /// Reads a cookie file. Lines that are not cookies are skipped with a warning.
    ///
    /// # Errors
    /// The I/O error if the file cannot be read; `InvalidInput` if it has such lines and no cookie.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path)
            .map_err(|e| Error::io(format!("cookie file {}", path.display()), e))?;
        let lossy = |_| String::from_utf8_lossy(&bytes).into_owned();
        let text = text::decode(&bytes).unwrap_or_else(lossy);
        let mut store = CookieStore::default();
        let (mut cookies, mut bad_lines) = (0, Vec::new());
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.strip_prefix("#HttpOnly_").unwrap_or(line);
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let Some((url, cookie)) = parse_line(line) else {
                bad_lines.push(number);
                continue;
            };
            cookies += 1;
            // An error means that the cookie has expired or has no valid host. It would never be sent.
            let _ = store.parse(&cookie, &url);
        }
        match bad_lines.as_slice() {
            [] => {}
            [first, ..] if cookies == 0 => {
                let text = format!("cookie file {}: line {first} is not a cookie", path.display());
                return Err(Error::new(Kind::InvalidInput, text).hint(
                    "the file must be in Netscape's format: seven fields, separated by tabs",
                ));
            }
            lines => {
                let shown: Vec<_> = lines.iter().take(5).map(usize::to_string).collect();
                let more = if lines.len() > shown.len() { " and others" } else { "" };
                let lines = shown.join(", ");
                tracing::warn!(
                    "cookie file {}: not a cookie in line {lines}{more}",
                    path.display()
                );
            }
        }
        let file_count = store.iter_any().count();
        Ok(Self { store: Mutex::new(store), file_count })
    }

    /// Stores the cookies that a response from `url` sets.
    pub(super) fn store_from_response(&self, url: &Url, headers: &HeaderMap) {
        for line in headers.get_all("set-cookie") {
            let Some(text) = line.to_str().ok().filter(|text| text.len() <= MAX_COOKIE_LEN) else {
                continue;
            };
            let Ok(cookie) = Cookie::parse(text, url) else { continue };
            // A cookie for a whole top-level domain is refused.
            if matches!(&cookie.domain, CookieDomain::Suffix(domain) if !domain.contains('.')) {
                continue;
            }
            let mut store = self.store.lock();
            let is_same = |known: &Cookie<'_>| {
                known.name() == cookie.name()
                    && (&known.domain, &known.path) == (&cookie.domain, &cookie.path)
            };
            if store.iter_any().any(is_same)
                || store.iter_any().count() < MAX_SERVER_COOKIES + self.file_count
            {
                // An error means that the server may not set this cookie. It is dropped, as in browsers.
                let _ = store.insert(cookie.into_owned(), url);
            }
        }
    }

    /// The value of `Cookie` for `url`, after the user's own value; `None` if no stored cookie applies.
    pub(super) fn header_for(
        &self,
        url: &Url,
        user_value: Option<&HeaderValue>,
    ) -> Option<HeaderValue> {
        let store = self.store.lock();
        let pairs = store.get_request_values(url).map(|(name, value)| format!("{name}={value}"));
        let pairs: Vec<_> = pairs.map(String::into_bytes).collect();
        if pairs.is_empty() {
            return None;
        }
        let user_value = user_value.map(|value| value.as_bytes().to_vec());
        let all: Vec<_> = user_value.into_iter().chain(pairs).collect();
        let mut value = HeaderValue::from_bytes(&all.join(&b"; "[..])).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// Converts a line of a cookie file into a `Set-Cookie` value and the URL of the server that would send it.
fn parse_line(line: &str) -> Option<(Url, String)> {
    let fields: Vec<_> = line.trim_end_matches(['\r', '\n']).split('\t').collect();
    // An empty value may be missing together with its tab.
    let (domain, subdomains, path, secure, expires, name, value) = match fields[..] {
        [domain, subdomains, path, secure, expires, name, value] => {
            (domain, subdomains, path, secure, expires, name, value)
        }
        [domain, subdomains, path, secure, expires, name] => {
            (domain, subdomains, path, secure, expires, name, "")
        }
        _ => return None,
    };
    let (host, secure) = (domain.trim_start_matches('.'), secure.eq_ignore_ascii_case("TRUE"));
    let scheme = if secure { "https" } else { "http" };
    let url = Url::parse(&format!("{scheme}://{host}{path}")).ok()?;
    let mut cookie = format!("{name}={value}; Path={path}");
    let with_subdomains = subdomains.eq_ignore_ascii_case("TRUE") || domain.starts_with('.');
    if with_subdomains && matches!(url.host(), Some(Host::Domain(_))) {
        cookie.push_str(&format!("; Domain={host}"));
    }
    if secure {
        cookie.push_str("; Secure");
    }
    // 0 and an empty field mean a session cookie. Some tools write fractions of a second, or an infinite time.
    let expires: f64 = if expires.trim().is_empty() { 0.0 } else { expires.trim().parse().ok()? };
    if expires != 0.0 {
        let now = chrono::DateTime::<chrono::Utc>::from(std::time::SystemTime::now()).timestamp();
        #[allow(clippy::cast_possible_truncation, reason = "it is cut to what a cookie may say")]
        let left = (expires.clamp(-MAX_EXPIRY, MAX_EXPIRY) as i64).saturating_sub(now);
        cookie.push_str(&format!("; Max-Age={left}"));
    }
    Some((url, cookie))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_cookie_is_sent_only_to_its_domain_and_path() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let lines = "# Netscape HTTP Cookie File\n\n\
            .x.example\tTRUE\t/\tFALSE\t0\ta\t1\n\
            #HttpOnly_x.example\tFALSE\t/in\tTRUE\t4102444800\tb\t2\n\
            x.example\tFALSE\t/\tFALSE\t1\tc\t3\n";
        file.write_all(lines.as_bytes()).unwrap();
        let cookies = Cookies::read(file.path()).unwrap();
        let of = |url: &str| {
            let value = cookies.header_for(&url.parse().unwrap(), None);
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
    fn an_invalid_line_leaves_the_other_cookies() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let lines = "\u{feff}x.example\tFALSE\t/\tFALSE\t4102444800.5\ta\t1\n\
            x.example\tFALSE\t/\tFALSE\t\tb\t2\n\
            nonsense\n\
            x.example\tFALSE\t/\tFALSE\t99999999999999999999999\tc\t3\n\
            x.example\tFALSE\t/\tFALSE\t0\td\n\
            x.example\tFALSE\t/\tFALSE\tsoon\te\t5\n";
        file.write_all(lines.as_bytes()).unwrap();
        let cookies = Cookies::read(file.path()).unwrap();
        let sent = cookies.header_for(&"http://x.example/".parse().unwrap(), None).unwrap();
        assert_eq!(sent, "a=1; b=2; c=3; d=");
    }

    #[test]
    fn a_file_of_another_format_is_refused_by_its_line() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"# x\na=1; b=2\n").unwrap();
        let e = Cookies::read(file.path()).unwrap_err();
        assert!(e.report().ends_with("line 2 is not a cookie"), "{}", e.report());
    }

    #[test]
    fn a_full_cookie_file_leaves_space_for_cookies_of_servers() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for n in 0..2 * MAX_SERVER_COOKIES {
            writeln!(file, "x.example\tFALSE\t/\tFALSE\t0\tn{n}\t{n}").unwrap();
        }
        let cookies = Cookies::read(file.path()).unwrap();
        let url: Url = "http://x.example/".parse().unwrap();
        let set = |text: &'static str| {
            let header = ("set-cookie".parse().unwrap(), text.parse().unwrap());
            cookies.store_from_response(&url, &HeaderMap::from_iter([header]));
        };
        set("session=1");
        set("n0=again");
        for n in 0..MAX_SERVER_COOKIES {
            set(format!("more{n}=1").leak());
        }
        set("session=2");
        // One name in another path is another cookie.
        set("session=3; Path=/in");
        assert_eq!(format!("{cookies:?}"), format!("{} cookies", 3 * MAX_SERVER_COOKIES));
        let sent = cookies.header_for(&url, None).unwrap();
        let sent = sent.to_str().unwrap();
        assert!(sent.contains("session=2") && sent.contains("n0=again"), "{sent}");
        assert_eq!(sent.split("; ").count(), 3 * MAX_SERVER_COOKIES);
    }

    /// The `Cookie` header for `url` after a server at `from` has set `lines`.
    fn set(from: &str, lines: &[&str], url: &str) -> String {
        let cookies = Cookies::default();
        let header = |line: &&str| ("set-cookie".parse().unwrap(), line.parse().unwrap());
        let headers: HeaderMap = HeaderMap::from_iter(lines.iter().map(header));
        cookies.store_from_response(&from.parse().unwrap(), &headers);
        let value = cookies.header_for(&url.parse().unwrap(), None);
        value.map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default()
    }

    #[test]
    fn cookies_of_a_server_are_sent_to_it_alone() {
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
    fn the_size_and_number_of_server_cookies_are_limited() {
        let long = format!("a={}", "x".repeat(MAX_COOKIE_LEN));
        assert_eq!(set("http://x/", &[&long, "b=2"], "http://x/"), "b=2");
        let many: Vec<_> = (0..2 * MAX_SERVER_COOKIES).map(|n| format!("n{n}=1")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert_eq!(set("http://x/", &many, "http://x/").matches('=').count(), MAX_SERVER_COOKIES);
    }

    #[test]
    fn the_users_cookie_header_is_kept() {
        let cookies = Cookies::default();
        let headers =
            HeaderMap::from_iter([("set-cookie".parse().unwrap(), "b=2".parse().unwrap())]);
        let url = "http://x/".parse().unwrap();
        cookies.store_from_response(&url, &headers);
        assert_eq!(cookies.header_for(&url, Some(&"a=1".parse().unwrap())).unwrap(), "a=1; b=2");
    }
}
