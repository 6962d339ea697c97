//! Proxies from the environment variables that all programs share: `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, and
//! `NO_PROXY` for exceptions. They are read once per client. An invalid proxy is an error of every request that would
//! use it: a direct connection would defeat the purpose of a proxy.

use std::fmt;

use hyper::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use url::Url;

use super::Proxy;
use crate::error::{Error, Kind, Result};

/// The proxies, by the scheme of the request URL.
pub struct EnvProxies {
    http: Option<Result<Proxy, String>>,
    https: Option<Result<Proxy, String>>,
    /// Intercepts every URI that `NO_PROXY` does not list.
    bypass: Matcher,
    no_proxy: String,
    /// `NO_PROXY` contains `*`: no request uses a proxy.
    bypass_all: bool,
}

impl fmt::Debug for EnvProxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { http, https, no_proxy, .. } = self;
        f.debug_struct("EnvProxies")
            .field("http", http)
            .field("https", https)
            .field("no_proxy", no_proxy)
            .finish_non_exhaustive()
    }
}

impl EnvProxies {
    /// The proxies in the environment of this process.
    #[must_use]
    pub fn from_process() -> Self {
        Self::from_vars(|name| std::env::var(name).ok())
    }

    fn from_vars(variable: impl Fn(&str) -> Option<String>) -> Self {
        let first = |name: &str| {
            let names = [name.to_owned(), name.to_lowercase()];
            let set = |name: &String| variable(name).filter(|value| !value.trim().is_empty());
            names.iter().find_map(|name| Some((name.clone(), set(name)?)))
        };
        let proxy = |name: &str| first(name).map(|(name, value)| parse(&name, value.trim()));
        let all = proxy("ALL_PROXY");
        let no = first("NO_PROXY").map(|(_, value)| value).unwrap_or_default();
        let hosts: Vec<_> =
            no.split([',', ' ', '\t']).map(normalize_exception).filter(|h| !h.is_empty()).collect();
        // Under CGI, `HTTP_PROXY` is set from a header of the client's request, and is ignored.
        let is_cgi = variable("REQUEST_METHOD").is_some();
        let no_proxy = hosts.join(",");
        Self {
            http: if is_cgi { None } else { proxy("HTTP_PROXY") }.or_else(|| all.clone()),
            https: proxy("HTTPS_PROXY").or(all),
            bypass: Matcher::builder().all("http://proxy").no(no_proxy.clone()).build(),
            bypass_all: hosts.contains(&"*"),
            no_proxy,
        }
    }

    /// The proxy for requests to `uri`, if any.
    ///
    /// # Errors
    /// `InvalidInput` when that proxy is not valid.
    pub fn for_uri(&self, uri: &Uri) -> Result<Option<Proxy>> {
        let proxy = match uri.scheme_str() {
            Some("http") => &self.http,
            Some("https") => &self.https,
            _ => &None,
        };
        match proxy {
            Some(proxy) if !self.bypass_all && self.bypass.intercept(uri).is_some() => {
                proxy.clone().map(Some).map_err(|why| {
                    Error::new(Kind::InvalidInput, why)
                        .hint("write it as socks5://host:1080 or http://host:3128, or unset it")
                })
            }
            _ => Ok(None),
        }
    }

    /// The exceptions of `NO_PROXY`, separated by commas.
    #[must_use]
    pub fn no_proxy(&self) -> &str {
        &self.no_proxy
    }
}

/// Normalises an exception: `[::1]` to `::1`, `*.x` to `.x`. Users write both forms, and the matcher knows only the
/// second.
fn normalize_exception(host: &str) -> &str {
    let host = host.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// Errors never contain the value, which may hold a password.
fn parse(name: &str, value: &str) -> Result<Proxy, String> {
    let bad = |why: &str| format!("the proxy in the environment variable {name} {why}");
    let text = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
    let url = Url::parse(&text).map_err(|_| bad("is not a URL"))?;
    let scheme = url.scheme().to_owned();
    let known = ["http", "https", "socks", "socks4", "socks4a", "socks5", "socks5h"];
    if !known.contains(&scheme.as_str()) {
        return Err(bad(&format!("has the unknown scheme {scheme:?}")));
    }
    Proxy::from_env_url(url).ok_or_else(|| bad("has no host"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(vars: &[(&str, &str)], uri: &str) -> Result<Option<String>> {
        let find = |name: &str| {
            let found = vars.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let found = EnvProxies::from_vars(find).for_uri(&uri.parse().unwrap());
        found.map(|proxy| proxy.map(|proxy| proxy.to_string()))
    }

    #[test]
    fn proxies_are_found_by_scheme_in_any_case_and_under_all_usual_names() {
        for (value, wanted) in [
            ("socks://127.0.0.1:1080", "socks5://127.0.0.1:1080"),
            ("SOCKS5://h:1", "socks5://h:1"),
            ("Socks4A://h", "socks4a://h:1080"),
            ("h:3128", "http://h:3128"),
            (" HTTP://h ", "http://h:80"),
        ] {
            for uri in ["http://x/", "https://x/"] {
                let found = to(&[("ALL_PROXY", value)], uri).unwrap();
                assert_eq!(found.as_deref(), Some(wanted), "{value}");
            }
        }
        let one = [("HTTP_PROXY", ""), ("http_proxy", "http://h:1"), ("https_proxy", "http://h:2")];
        assert_eq!(to(&one, "http://x/").unwrap().unwrap(), "http://h:1");
        assert_eq!(to(&one, "https://x/").unwrap().unwrap(), "http://h:2");
    }

    #[test]
    fn an_invalid_proxy_fails_the_requests_that_would_use_it() {
        for value in ["htp://u:hunter2@h:1", "socks6://hunter2:1", "http://", "u:hunter2@[h"] {
            let error = to(&[("https_proxy", value)], "https://x/").unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidInput, "{value}");
            assert!(error.report().contains("https_proxy"), "{}", error.report());
            assert!(!error.report().contains("hunter2"), "{}", error.report());
            assert_eq!(to(&[("https_proxy", value)], "http://x/").unwrap(), None);
            let vars = [("https_proxy", value), ("NO_PROXY", "x")];
            assert_eq!(to(&vars, "https://x/").unwrap(), None);
        }
    }

    #[test]
    fn exceptions_are_host_names_addresses_or_a_star() {
        let direct = |no: &str, host: &str| {
            let vars = [("ALL_PROXY", "http://h:1"), ("no_proxy", no)];
            to(&vars, &format!("http://{host}/")).unwrap().is_none()
        };
        for (no, host) in [
            ("*", "127.0.0.1"),
            ("a, *", "x.example"),
            ("*", "[::1]"),
            ("a 127.0.0.0/8", "127.0.0.1"),
            ("[::1]", "[::1]"),
            (".x.example,y", "a.x.example"),
            ("*.x.example", "a.x.example"),
            ("x.example", "a.x.example"),
        ] {
            assert!(direct(no, host), "{no} {host}");
        }
        for (no, host) in [("", "x"), ("x.example", "notx.example"), ("127.0.0.2", "127.0.0.1")] {
            assert!(!direct(no, host), "{no} {host}");
        }
    }
}
