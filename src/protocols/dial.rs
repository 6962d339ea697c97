//! TCP connections of protocols that are not HTTP: straight, or by the user's proxy.

use std::io;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use percent_encoding::percent_decode_str;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, lookup_host},
};
use tokio_socks::{TargetAddr, tcp::Socks5Stream};

use crate::{
    config::Proxy,
    error::{Error, Kind, Result},
};

/// The longest answer of a proxy.
const LONGEST: usize = 16 << 10;

/// Connects to a server. What is sent goes out at once.
///
/// # Errors
/// `Network` when nobody answers; `Unauthenticated` and `PermissionDenied` when the proxy refuses.
pub(super) async fn dial(host: &str, port: u16, proxy: Option<&Proxy>) -> Result<TcpStream> {
    let lost =
        |e: io::Error| Error::new(Kind::Network, format!("connect to {host}:{port}")).because(e);
    let stream = match proxy {
        None => TcpStream::connect((host, port)).await.map_err(lost)?,
        Some(proxy) => by_proxy(host, port, proxy).await?,
    };
    // Requests are short, and each waits for its answer.
    stream.set_nodelay(true).map_err(lost)?;
    Ok(stream)
}

async fn by_proxy(host: &str, port: u16, proxy: &Proxy) -> Result<TcpStream> {
    let url = proxy.url();
    let at = |kind| Error::new(kind, format!("proxy {proxy}"));
    let (Some(proxy_host), Some(proxy_port)) = (url.host_str(), url.port_or_known_default()) else {
        return Err(at(Kind::InvalidInput));
    };
    let address = (proxy_host.trim_matches(['[', ']']), proxy_port);
    let stream = TcpStream::connect(address).await.map_err(|e| at(Kind::Network).because(e))?;
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let login = (!url.username().is_empty())
        .then(|| (decoded(url.username()), decoded(url.password().unwrap_or_default())));
    if url.scheme() == "http" {
        return tunnel(stream, host, port, login)
            .await
            .map_err(|e| e.within(format!("proxy {proxy}")));
    }
    let target = match url.scheme() {
        "socks5" => {
            let unknown = |e| Error::new(Kind::Network, format!("look up {host}")).because(e);
            let mut found = lookup_host((host, port)).await.map_err(unknown)?;
            let first = found.next().ok_or_else(|| unknown(io::ErrorKind::NotFound.into()))?;
            TargetAddr::Ip(first)
        }
        // The proxy looks it up.
        _ => TargetAddr::Domain(host.into(), port),
    };
    let connected = match &login {
        Some((user, password)) => {
            Socks5Stream::connect_with_password_and_socket(stream, target, user, password).await
        }
        None => Socks5Stream::connect_with_socket(stream, target).await,
    };
    let connected = connected.map_err(|e| at(socks_kind(&e)).because(e))?;
    Ok(connected.into_inner())
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

/// HTTP's `CONNECT`. The answer is read byte by byte: the server behind the proxy may speak first, and what it says is
/// not ours to take.
async fn tunnel(
    mut stream: TcpStream,
    host: &str,
    port: u16,
    login: Option<(String, String)>,
) -> Result<TcpStream> {
    let lost = |e: io::Error| Error::new(Kind::Network, "CONNECT").because(e);
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let login = login.map(|(user, password)| {
        format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(format!("{user}:{password}")))
    });
    let request = format!(
        "CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{}\r\n",
        login.unwrap_or_default()
    );
    stream.write_all(request.as_bytes()).await.map_err(lost)?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() == LONGEST {
            return Err(Error::new(Kind::Unsupported, "CONNECT: the answer has no end"));
        }
        answer.push(stream.read_u8().await.map_err(lost)?);
    }
    let answer = String::from_utf8_lossy(&answer);
    let line = answer.lines().next().unwrap_or_default();
    match status(line) {
        Some(200..=299) => Ok(stream),
        status => Err(Error::new(refusal(status), format!("CONNECT: answered {line:?}"))),
    }
}

/// The status in `HTTP/1.1 200 OK`.
fn status(line: &str) -> Option<u16> {
    line.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()
}

fn refusal(status: Option<u16>) -> Kind {
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
    fn only_an_answer_of_http_has_a_status() {
        assert_eq!(status("HTTP/1.1 200 Connection established"), Some(200));
        assert_eq!(status("HTTP/1.0 407"), Some(407));
        for none in ["", "HTTP/1.1", "SSH-2.0-OpenSSH", "HTTP/1.1 OK 200"] {
            assert_eq!(status(none), None, "{none}");
        }
        assert_eq!(refusal(Some(407)).exit_code(), 24);
        assert!(refusal(Some(502)).is_retryable() && !refusal(None).is_retryable());
    }
}
