//! The other end of a connection.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, Request};

/// Where a request comes from. The server puts it into the extensions of each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Tcp {
        peer: SocketAddr,
        /// The address that the client connected to.
        local: SocketAddr,
        /// Whether the connection has TLS.
        tls: bool,
    },
    /// The unix socket in the data folder.
    Unix,
    /// Unknown: a request that did not come through the server.
    Unknown,
}

impl Peer {
    /// The peer of a request.
    #[must_use]
    pub fn of<B>(request: &Request<B>) -> Self {
        request.extensions().get().copied().unwrap_or(Self::Unknown)
    }

    #[must_use]
    pub fn is_unix_socket(&self) -> bool {
        *self == Self::Unix
    }

    /// The address of the client. A trusted proxy's `X-Forwarded-For` is believed, from its end up to the first address
    /// that is no trusted proxy.
    #[must_use]
    pub fn client_ip(&self, headers: &HeaderMap, trusted_proxies: &[IpAddr]) -> Option<IpAddr> {
        let Self::Tcp { peer, .. } = self else { return None };
        let is_trusted = |ip: &IpAddr| trusted_proxies.contains(&ip.to_canonical());
        let direct = peer.ip().to_canonical();
        if !is_trusted(&direct) {
            return Some(direct);
        }
        let lines = headers.get_all("x-forwarded-for");
        let lines: Vec<&str> = lines.iter().filter_map(|line| line.to_str().ok()).collect();
        let hops = lines.iter().rev().flat_map(|line| line.rsplit(','));
        let hops = hops.map_while(|hop| hop.trim().parse::<IpAddr>().ok());
        let mut last = direct;
        for hop in hops.map(|hop| hop.to_canonical()) {
            last = hop;
            if !is_trusted(&hop) {
                break;
            }
        }
        Some(last)
    }

    /// Whether the request comes through a trusted proxy.
    #[must_use]
    pub fn is_trusted_proxy(&self, trusted_proxies: &[IpAddr]) -> bool {
        matches!(self, Self::Tcp { peer, .. } if trusted_proxies.contains(&peer.ip().to_canonical()))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn only_a_trusted_proxy_names_the_client() {
        let peer = |ip: &str| Peer::Tcp {
            peer: SocketAddr::new(ip.parse().unwrap(), 1),
            local: ([127, 0, 0, 1], 2).into(),
            tls: false,
        };
        let trusted = ["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        let client = |ip: &str, forwarded: &'static str| {
            let value = HeaderValue::from_static(forwarded);
            let headers = HeaderMap::from_iter([("x-forwarded-for".parse().unwrap(), value)]);
            peer(ip).client_ip(&headers, &trusted).unwrap().to_string()
        };
        assert_eq!(client("8.8.8.8", "1.2.3.4"), "8.8.8.8");
        assert_eq!(client("10.0.0.1", "1.2.3.4"), "1.2.3.4");
        assert_eq!(client("10.0.0.1", "6.6.6.6, 1.2.3.4, 10.0.0.2"), "1.2.3.4");
        assert_eq!(client("::ffff:10.0.0.1", "1.2.3.4"), "1.2.3.4");
        assert_eq!(client("10.0.0.1", "nonsense"), "10.0.0.1");
    }
}
