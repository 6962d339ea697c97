//! The guard of all dialects: which host a request is for, and which page it comes from.
//!
//! A page of a stranger can make a browser send requests to this machine. With DNS rebinding it even reads the answers: its
//! own host name leads to 127.0.0.1 then. So the host must be an address, a loopback name, or a configured name; and a
//! request that a browser sends for a page must be for the page's own host.

use std::net::IpAddr;

use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, Method, StatusCode, Uri,
        header::{HOST, ORIGIN, REFERER},
    },
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use super::{Peer, bearer};
use crate::{
    config::ApiOptions,
    daemon::{problem::Problem, state::ApiState},
    error::{Error, Kind, Result},
};

/// Layer: refuses requests for foreign hosts with 421.
pub async fn check_host(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    let peer = Peer::of(&request);
    match host_of(&peer, request.uri(), request.headers(), state.options()) {
        Ok(()) => next.run(request).await,
        Err(error) => Problem::with_status(StatusCode::MISDIRECTED_REQUEST, error).into_response(),
    }
}

/// Layer: refuses requests of foreign pages with 403. A request with `Authorization: Bearer` is exempt: no browser adds
/// that by itself.
pub async fn check_origin(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    let is_exempt = Peer::of(&request).is_unix_socket() || bearer(request.headers()).is_some();
    let refused = match is_exempt {
        true => None,
        false => foreign_origin(request.method(), request.headers(), state.options()),
    };
    match refused {
        None => next.run(request).await,
        Some(text) => Problem::from(Error::new(Kind::PermissionDenied, text)).into_response(),
    }
}

fn refused(text: &str) -> Error {
    Error::new(Kind::PermissionDenied, text.to_owned())
        .hint("add the host name to hosts in [api] of the config file")
}

/// Checks `Host`, and the authority of a request in absolute form.
fn host_of(peer: &Peer, uri: &Uri, headers: &HeaderMap, options: &ApiOptions) -> Result<()> {
    let Peer::Tcp { local, tls, .. } = peer else { return Ok(()) };
    let mut hosts = headers.get_all(HOST).iter();
    let header = hosts.next().map(|host| host.to_str().unwrap_or("?"));
    if hosts.next().is_some() {
        return Err(refused("the request has several hosts"));
    }
    let authority = uri.authority().map(|authority| authority.as_str());
    let given: Vec<&str> = header.into_iter().chain(authority).collect();
    if given.is_empty() {
        return Err(refused("the request has no host"));
    }
    let default_port = if *tls { 443 } else { 80 };
    for host in given {
        if !is_own_host(host, local.port(), default_port, options) {
            return Err(refused("the request is for another host"));
        }
    }
    Ok(())
}

/// Whether `host`, with or without a port, is one of this daemon.
fn is_own_host(host: &str, port: u16, default_port: u16, options: &ApiOptions) -> bool {
    let Some((name, given_port)) = split_port(host) else { return false };
    let is_configured = |known: &String| match split_port(known) {
        Some((known_name, None)) => known_name.eq_ignore_ascii_case(name),
        Some((known_name, known_port)) => {
            known_name.eq_ignore_ascii_case(name) && known_port == given_port
        }
        None => false,
    };
    if options.hosts.iter().any(is_configured) {
        return true;
    }
    let literal = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_address = literal.unwrap_or(name).parse::<IpAddr>().is_ok();
    let is_loopback_name = name.eq_ignore_ascii_case("localhost");
    (is_address || is_loopback_name) && given_port.unwrap_or(default_port) == port
}

/// Splits `HOST[:PORT]`; IPv6 addresses have brackets.
fn split_port(host: &str) -> Option<(&str, Option<u16>)> {
    let end_of_name = host.rfind(']').map_or(0, |at| at + 1);
    match host[end_of_name..].find(':') {
        None => Some((host, None)),
        Some(colon) => {
            let (name, port) = host.split_at(end_of_name + colon);
            Some((name, Some(port[1..].parse().ok()?)))
        }
    }
}

/// Why a request comes from a foreign page.
pub(in crate::daemon) fn foreign_origin(
    method: &Method,
    headers: &HeaderMap,
    options: &ApiOptions,
) -> Option<&'static str> {
    let text = |name| {
        headers.get(name).map(|value: &hyper::header::HeaderValue| value.to_str().unwrap_or("?"))
    };
    let host = text(HOST).unwrap_or_default();
    let is_configured = |origin: &str| options.origins.iter().any(|known| known == origin);
    if let Some(origin) = text(ORIGIN) {
        let is_own = origin.split_once("://").is_some_and(|(scheme, authority)| {
            ["http", "https"].contains(&scheme) && authority.eq_ignore_ascii_case(host)
        });
        return (!is_own && !is_configured(origin))
            .then_some("the request comes from another origin");
    }
    // A navigation to the page itself may come from anywhere; it changes nothing.
    let changes = !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    let site = headers.get("sec-fetch-site").and_then(|site| site.to_str().ok());
    let mode = headers.get("sec-fetch-mode").and_then(|mode| mode.to_str().ok());
    let is_cross_site = matches!(site, Some("cross-site" | "same-site"));
    if is_cross_site && (changes || mode != Some("navigate")) {
        return Some("the request comes from another site");
    }
    let referer = text(REFERER).filter(|_| changes);
    let authority = referer.map(|referer| {
        let rest = referer.split_once("://").map_or("", |(_, rest)| rest);
        rest.split(['/', '?', '#']).next().unwrap_or_default()
    });
    let is_foreign = authority.is_some_and(|authority| !authority.eq_ignore_ascii_case(host));
    is_foreign.then_some("the request comes from a page of another host")
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn options() -> ApiOptions {
        let hosts = vec!["bae.example".to_owned(), "nat.example:8080".to_owned()];
        ApiOptions { hosts, origins: vec!["https://ui.example".into()], ..ApiOptions::default() }
    }

    fn host(list: &[(&'static str, &str)], uri: &str) -> bool {
        let local = ([127, 0, 0, 1], 7373).into();
        let peer = Peer::Tcp { peer: ([127, 0, 0, 1], 1).into(), local, tls: false };
        host_of(&peer, &uri.parse().unwrap(), &headers(list), &options()).is_ok()
    }

    #[test]
    fn only_hosts_of_this_daemon_are_served() {
        for good in [
            "127.0.0.1:7373",
            "localhost:7373",
            "LOCALHOST:7373",
            "[::1]:7373",
            "192.168.1.5:7373",
            "bae.example",
            "bae.example:443",
            "BAE.example:7373",
            "nat.example:8080",
        ] {
            assert!(host(&[("host", good)], "/"), "{good}");
        }
        for bad in [
            "evil.example",
            "evil.example:7373",
            "127.0.0.1.evil.example:7373",
            "localhost.:7373",
            "localhost:1",
            "127.0.0.1",
            "nat.example",
            "nat.example:1",
            "",
            ":7373",
            "localhost:x",
            "bae.example.evil",
            "localhost.evil:7373",
            "[::1]evil:7373",
        ] {
            assert!(!host(&[("host", bad)], "/"), "{bad}");
        }
    }

    #[test]
    fn hosts_are_neither_missing_nor_doubled_nor_different() {
        assert!(!host(&[], "/"));
        assert!(!host(&[("host", "localhost:7373"), ("host", "localhost:7373")], "/"));
        assert!(!host(&[("host", "localhost:7373")], "http://evil.example/"));
        assert!(host(&[("host", "localhost:7373")], "http://127.0.0.1:7373/"));
        let forwarded = [("host", "evil.example"), ("x-forwarded-host", "localhost:7373")];
        assert!(!host(&forwarded, "/"));
    }

    #[test]
    fn foreign_pages_are_refused() {
        let refused = |method: Method, list: &[(&'static str, &str)]| {
            let list = [&[("host", "h:1")], list].concat();
            foreign_origin(&method, &headers(&list), &options()).is_some()
        };
        for good in [
            &[][..],
            &[("origin", "http://h:1")],
            &[("origin", "https://ui.example")],
            &[("referer", "http://h:1/page?x")],
            &[("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "none")],
        ] {
            assert!(!refused(Method::POST, good), "{good:?}");
        }
        for bad in [
            &[("origin", "http://evil")][..],
            &[("origin", "null")],
            &[("origin", "http://h:2")],
            &[("origin", "ftp://h:1")],
            &[("referer", "http://evil/h:1")],
            &[("referer", "http://h:1@evil/")],
            &[("sec-fetch-site", "cross-site")],
        ] {
            assert!(refused(Method::POST, bad), "{bad:?}");
        }
        assert!(!refused(Method::GET, &[("referer", "http://evil/")]), "a link to the page");
        let link = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
        assert!(!refused(Method::GET, &link) && refused(Method::POST, &link));
        assert!(refused(Method::GET, &[("sec-fetch-site", "cross-site")]));
    }
}
