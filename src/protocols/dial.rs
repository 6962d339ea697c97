//! Opens TCP connections, directly or through a proxy. Several addresses of a host are tried in parallel if one is
//! slow.

use std::{error::Error as StdError, io, net::IpAddr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use percent_encoding::percent_decode_str;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, lookup_host},
};
use tokio_socks::{
    TargetAddr,
    tcp::{Socks4Stream, Socks5Stream},
};
use tower_service::Service as _;

use super::{OutgoingOptions, is_public_address};
use crate::{
    config::Proxy,
    error::{Error, Kind, Result},
    hints::{Hint, Setting, hint},
};

/// Maximum length of a proxy's response head, in bytes.
const MAX_HEAD_LEN: usize = 16 << 10;

/// Hint for a 407 response.
pub(super) fn proxy_login_hint() -> Hint {
    hint!["set the user and password of the proxy in ", Setting::ProxyLogin]
}

/// Connects to a server, with Nagle's algorithm off.
///
/// # Errors
/// `Network` if there is no answer; `Unauthenticated` and `PermissionDenied` if the proxy refuses.
pub(super) async fn dial(
    host: &str,
    port: u16,
    proxy: Option<&Proxy>,
    outgoing: &OutgoingOptions,
) -> Result<TcpStream> {
    let Some(proxy) = proxy else {
        return dial_direct(host, port, outgoing)
            .await
            .map_err(|e| e.with_context(format!("connect to {host}:{port}")));
    };
    let stream = dial_proxy(proxy, outgoing).await?;
    match proxy.url().scheme() {
        "http" => open_tunnel(stream, host, port, proxy).await,
        _ => connect_socks(stream, host, port, proxy).await,
    }
}

/// Connects to a host without a proxy. Errors do not name the host. Nagle's algorithm is off: requests are short, and
/// each waits for its answer.
///
/// # Errors
/// `Network`; `PermissionDenied` for an address that `outgoing` does not allow. That connection is closed before any
/// byte is sent.
pub(super) async fn dial_direct(
    host: &str,
    port: u16,
    outgoing: &OutgoingOptions,
) -> Result<TcpStream> {
    let stream = connect_tcp(host, port, outgoing.interface.as_deref()).await?;
    if !outgoing.only_public {
        return Ok(stream);
    }
    let address = stream.peer_addr().map_err(|e| Error::io("connection failed", e))?.ip();
    if is_public_address(address) {
        return Ok(stream);
    }
    let text = format!("{address} is not a public address");
    Err(Error::new(Kind::PermissionDenied, text))
}

async fn connect_tcp(host: &str, port: u16, interface: Option<&str>) -> Result<TcpStream> {
    let uri = Uri::builder().scheme("http").authority(authority(host, port)).path_and_query("/");
    let Ok(uri) = uri.build() else {
        // The host cannot be part of a URL, for example `fe80::1%eth0`.
        if let Some(interface) = interface {
            let text = format!("{host} cannot be reached from interface {interface}");
            return Err(Error::new(Kind::Unsupported, text));
        }
        let failed = |e: io::Error| Error::new(Kind::Network, "connection failed").because(e);
        let stream = TcpStream::connect((host, port)).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        return Ok(stream);
    };
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    match interface.map(|interface| (interface, interface.parse::<IpAddr>())) {
        None => {}
        Some((_, Ok(address))) => connector.set_local_address(Some(address)),
        #[cfg(any(target_os = "linux", target_os = "macos"))]
        Some((name, Err(_))) => {
            connector.set_interface(name);
        }
        #[cfg(not(any(target_os = "linux", target_os = "macos")))]
        Some((name, Err(_))) => {
            let text = format!("connections cannot be bound to interface {name} on this system");
            return Err(Error::new(Kind::Unsupported, text));
        }
    }
    let connected = connector.call(uri).await.map_err(|e| {
        let mut cause: &dyn StdError = &e;
        while let Some(next) = cause.source() {
            cause = next;
        }
        let text =
            if e.to_string() == "dns error" { "host not found" } else { "connection failed" };
        Error::new(Kind::Network, text).because(cause.to_string())
    });
    Ok(connected?.into_inner())
}

/// Connects to the proxy itself. No byte of a proxy protocol has been sent yet.
///
/// # Errors
/// `Network`, with the name of the proxy.
pub(super) async fn dial_proxy(proxy: &Proxy, outgoing: &OutgoingOptions) -> Result<TcpStream> {
    // The user configured the proxy, so it may have a private address.
    let outgoing = OutgoingOptions { only_public: false, ..outgoing.clone() };
    let with_context = |e: Error| e.with_context(format!("proxy {proxy}"));
    let (host, port) = (proxy.url().host_str(), proxy.url().port_or_known_default());
    let (host, port) = (host.unwrap_or_default(), port.unwrap_or_default());
    dial_direct(host.trim_matches(['[', ']']), port, &outgoing).await.map_err(with_context)
}

/// The user and password in the URL of the proxy.
pub(super) fn proxy_login(proxy: &Proxy) -> Option<(String, String)> {
    let url = proxy.url();
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    (!url.username().is_empty())
        .then(|| (decoded(url.username()), decoded(url.password().unwrap_or_default())))
}

/// The value of the header `Proxy-Authorization`.
pub(super) fn proxy_authorization(proxy: &Proxy) -> Option<String> {
    let (user, password) = proxy_login(proxy)?;
    Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

async fn connect_socks(
    stream: TcpStream,
    host: &str,
    port: u16,
    proxy: &Proxy,
) -> Result<TcpStream> {
    let proxy_error = |kind| Error::new(kind, format!("proxy {proxy}"));
    let target = match proxy.url().scheme() {
        scheme @ ("socks4" | "socks5") => {
            let unresolved =
                |e| Error::new(Kind::Network, format!("cannot resolve {host}")).because(e);
            let mut addresses = lookup_host((host, port)).await.map_err(unresolved)?;
            let first = addresses.find(|at| scheme == "socks5" || at.is_ipv4());
            TargetAddr::Ip(first.ok_or_else(|| unresolved(io::ErrorKind::NotFound.into()))?)
        }
        // The proxy resolves the host name.
        _ => TargetAddr::Domain(host.into(), port),
    };
    let is_socks4 = proxy.url().scheme().starts_with("socks4");
    let login = proxy_login(proxy);
    let connected = match &login {
        // SOCKS4 has no passwords.
        Some((user, _)) if is_socks4 => {
            let connecting = Socks4Stream::connect_with_userid_and_socket(stream, target, user);
            connecting.await.map(Socks4Stream::into_inner)
        }
        None if is_socks4 => {
            Socks4Stream::connect_with_socket(stream, target).await.map(Socks4Stream::into_inner)
        }
        Some((user, password)) => {
            Socks5Stream::connect_with_password_and_socket(stream, target, user, password)
                .await
                .map(Socks5Stream::into_inner)
        }
        None => {
            Socks5Stream::connect_with_socket(stream, target).await.map(Socks5Stream::into_inner)
        }
    };
    connected.map_err(|e| proxy_error(socks_kind(&e)).because(e))
}

fn socks_kind(e: &tokio_socks::Error) -> Kind {
    use tokio_socks::Error as E;
    match e {
        E::PasswordAuthFailure(_) | E::NoAcceptableAuthMethods | E::UnknownAuthMethod => {
            Kind::Unauthenticated
        }
        E::ConnectionNotAllowedByRuleset => Kind::PermissionDenied,
        E::InvalidAuthValues(_) | E::InvalidTargetAddress(_) => Kind::InvalidInput,
        _ => Kind::Network,
    }
}

/// Sends HTTP `CONNECT` on a connection to the proxy. The response is read byte by byte: the server behind the proxy
/// may send first, and its bytes must stay in the stream.
///
/// # Errors
/// `Network` if the proxy closes the connection; the kind that [`refusal_kind`] assigns to any other status than 2xx.
pub(super) async fn open_tunnel<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    host: &str,
    port: u16,
    proxy: &Proxy,
) -> Result<S> {
    match request_tunnel(&mut stream, host, port, proxy).await {
        Ok(()) => Ok(stream),
        Err(e) => Err(e.with_context(format!("proxy {proxy}"))),
    }
}

async fn request_tunnel<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    host: &str,
    port: u16,
    proxy: &Proxy,
) -> Result<()> {
    let lost = |e: io::Error| Error::new(Kind::Network, "CONNECT").because(e);
    let target = authority(host, port);
    let login = proxy_authorization(proxy).map(|value| format!("Proxy-Authorization: {value}\r\n"));
    let request =
        format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{}\r\n", login.unwrap_or_default());
    stream.write_all(request.as_bytes()).await.map_err(lost)?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() == MAX_HEAD_LEN {
            return Err(Error::new(
                Kind::Unsupported,
                "CONNECT: the head of the answer exceeds 16 KiB",
            ));
        }
        answer.push(stream.read_u8().await.map_err(lost)?);
    }
    let answer = String::from_utf8_lossy(&answer);
    let line = answer.lines().next().unwrap_or_default();
    let status = status_code(line);
    if matches!(status, Some(200..=299)) {
        return Ok(());
    }
    let error = Error::new(refusal_kind(status), format!("CONNECT: answered {line:?}"));
    Err(if status == Some(407) { error.hint(proxy_login_hint()) } else { error })
}

/// The status code of a line such as `HTTP/1.1 200 OK`.
fn status_code(line: &str) -> Option<u16> {
    line.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()
}

fn refusal_kind(status: Option<u16>) -> Kind {
    match status {
        Some(407) => Kind::Unauthenticated,
        Some(403 | 405) => Kind::PermissionDenied,
        Some(500..=599) => Kind::Network,
        _ => Kind::Unsupported,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_http_answer_has_a_status() {
        assert_eq!(status_code("HTTP/1.1 200 Connection established"), Some(200));
        assert_eq!(status_code("HTTP/1.0 407"), Some(407));
        for none in ["", "HTTP/1.1", "SSH-2.0-OpenSSH", "HTTP/1.1 OK 200"] {
            assert_eq!(status_code(none), None, "{none}");
        }
        assert_eq!(refusal_kind(Some(407)).exit_code(), 24);
        assert!(refusal_kind(Some(502)).is_retryable() && !refusal_kind(None).is_retryable());
    }
}
