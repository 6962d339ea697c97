//! The way to a place: its address as the SDK takes it, and a proxy of the environment that it could not use.

use hyper_util::client::proxy::matcher::Matcher;
use url::Url;

use super::errors::Place;
use crate::error::{Error, Kind, Result};

/// Where AWS is, as far as proxies go.
const AWS: &str = "https://s3.amazonaws.com/";

/// The endpoint with a slash at the end of its path: what follows is put behind it as it is.
///
/// # Errors
/// `InvalidInput` when it has a query.
pub(super) fn endpoint(url: &Url, place: &Place) -> Result<String> {
    if url.query().is_some() || url.fragment().is_some() {
        let text = format!("{place}: the endpoint has a ? or a #");
        return Err(Error::new(Kind::InvalidInput, text)
            .hint("an endpoint is an address like https://host:port/path"));
    }
    let mut url = url.clone();
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    Ok(url.into())
}

/// # Errors
/// `Unsupported` when the environment names a proxy for the endpoint (AWS without one) that is no HTTP proxy.
pub(super) fn check_proxy(endpoint: Option<&Url>, place: &Place) -> Result<()> {
    let read = |names: [&'static str; 2]| {
        let read = |name| Some((name, std::env::var(name).ok()?));
        names.into_iter().find_map(read).filter(|(_, url)| !url.trim().is_empty())
    };
    let own = match endpoint.map_or("https", Url::scheme) {
        "http" => read(["HTTP_PROXY", "http_proxy"]),
        _ => read(["HTTPS_PROXY", "https_proxy"]),
    };
    let Some((variable, proxy)) = own.or_else(|| read(["ALL_PROXY", "all_proxy"])) else {
        return Ok(());
    };
    let Some(scheme) = other_scheme(&proxy) else { return Ok(()) };
    let exempt = read(["NO_PROXY", "no_proxy"]).map(|(_, names)| names).unwrap_or_default();
    if std::env::var_os("REQUEST_METHOD").is_some() || !applies(endpoint, &exempt) {
        return Ok(());
    }
    let text = format!(
        "{place}: the proxy of {variable} is {scheme}, and storage takes HTTP proxies only"
    );
    Err(Error::new(Kind::InvalidInput, text)
        .hint("set HTTPS_PROXY to an HTTP proxy, or except the host with NO_PROXY"))
}

/// The scheme of a proxy that is not HTTP.
fn other_scheme(proxy: &str) -> Option<&str> {
    let (scheme, _) = proxy.trim().split_once("://")?;
    let http = ["http", "https"].iter().any(|name| scheme.eq_ignore_ascii_case(name));
    (!http).then_some(scheme)
}

fn applies(endpoint: Option<&Url>, exempt: &str) -> bool {
    let matcher = Matcher::builder().all("http://proxy.invalid").no(exempt).build();
    let url = endpoint.map_or(AWS, Url::as_str);
    url.parse().is_ok_and(|uri| matcher.intercept(&uri).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::S3Settings;

    fn place() -> Place {
        Place::of(&S3Settings::default())
    }

    #[test]
    fn a_path_of_an_endpoint_ends_with_a_slash() {
        let endpoint = |text: &str| endpoint(&Url::parse(text).unwrap(), &place());
        assert_eq!(endpoint("http://h/storage/v1/s3").unwrap(), "http://h/storage/v1/s3/");
        assert_eq!(endpoint("http://h/storage/v1/s3/").unwrap(), "http://h/storage/v1/s3/");
        assert_eq!(endpoint("http://h").unwrap(), "http://h/");
        assert_eq!(endpoint("http://h/?x=1").unwrap_err().kind(), Kind::InvalidInput);
    }

    #[test]
    fn only_a_proxy_that_is_used_and_is_not_http_counts() {
        assert_eq!(other_scheme("socks5h://h:1080"), Some("socks5h"));
        assert_eq!(other_scheme("HTTP://h:3128"), None);
        assert_eq!(other_scheme("h:3128"), None);
        let url = Url::parse("http://127.0.0.1:9000").unwrap();
        assert!(applies(Some(&url), "") && applies(None, "example.org"));
        assert!(!applies(Some(&url), "127.0.0.0/8") && !applies(None, "amazonaws.com"));
    }
}
