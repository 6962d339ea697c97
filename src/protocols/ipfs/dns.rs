//! Looks up TXT records: by DNS over HTTPS (RFC 8484), or from the resolver of the system.

use std::{net::IpAddr, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::timeout,
};
use url::Url;

use super::{
    gateways::gateway::is_local,
    names::dns_message::{Answer, parse_answer, query},
};
use crate::{
    error::{Error, Kind, Result},
    protocols::{
        display_url,
        http::{Http, PlainRequest},
    },
};

/// The resolver that is used unless another one is configured.
const DEFAULT_RESOLVER: &str = "https://cloudflare-dns.com/dns-query";
const DNS_MESSAGE: &str = "application/dns-message";
/// Maximum length of an answer in bytes, as the protocol has it.
const MAX_ANSWER: usize = 64 << 10;
/// Maximum length of an answer in a datagram.
const MAX_DATAGRAM: usize = 4096;
/// Wait for a datagram, and how often the query is sent.
const DATAGRAM_WAIT: Duration = Duration::from_secs(3);
const DATAGRAM_TRIES: usize = 3;
/// Wait for an answer by TCP.
const TCP_WAIT: Duration = Duration::from_secs(10);
/// The configuration of the system's resolver.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// A resolver.
#[derive(Debug)]
pub(super) enum Resolver {
    Https(Url, Arc<Http>),
    System,
}

impl Resolver {
    /// # Errors
    /// `InvalidInput` for a URL that cannot be used.
    pub(super) fn new(configured: Option<&str>, http: &Arc<Http>) -> Result<Self> {
        let text = configured.map(str::trim).filter(|text| !text.is_empty());
        let text = match text {
            Some("system") => return Ok(Self::System),
            text => text.unwrap_or(DEFAULT_RESOLVER),
        };
        let invalid = || {
            Error::new(Kind::InvalidInput, "the DNS resolver is not a usable URL")
                .hint("write it as https://HOST/dns-query, or `system` for the system's resolver")
        };
        let url = Url::parse(text).map_err(|_| invalid())?;
        let is_usable =
            url.has_host() && (url.scheme() == "https" || url.scheme() == "http" && is_local(&url));
        if is_usable { Ok(Self::Https(url, Arc::clone(http))) } else { Err(invalid()) }
    }

    /// The TXT records of `name`; none if the name does not exist.
    ///
    /// # Errors
    /// `InvalidInput` for a name that DNS cannot have; errors of the resolver.
    pub(super) async fn texts(&self, name: &str) -> Result<Vec<String>> {
        let invalid = || Error::new(Kind::InvalidInput, format!("{name} is not a DNS name"));
        match self {
            Self::Https(url, http) => {
                // Always the same query, so that caches can answer it.
                let query = query(0, name).ok_or_else(invalid)?;
                ask_by_https(url, http, &query).await
            }
            Self::System => {
                let mut id = [0; 2];
                getrandom::fill(&mut id)
                    .map_err(|e| Error::new(Kind::Internal, format!("no random numbers: {e}")))?;
                let query = query(u16::from_ne_bytes(id), name).ok_or_else(invalid)?;
                ask_system(&query).await
            }
        }
        .map_err(|e| e.with_context(format!("DNS name {name}")))
    }
}

async fn ask_by_https(url: &Url, http: &Http, query: &[u8]) -> Result<Vec<String>> {
    let mut url = url.clone();
    url.query_pairs_mut().append_pair("dns", &URL_SAFE_NO_PAD.encode(query));
    let response = http.request(PlainRequest::get(&url, DNS_MESSAGE)).await?;
    if response.status != 200 {
        return Err(response.status_error());
    }
    let body = response.read(MAX_ANSWER).await?;
    match parse_answer(query, &body)? {
        Answer::Texts(texts) => Ok(texts),
        Answer::Truncated | Answer::Other => {
            let text = format!("{}: the answer is not one to the query", display_url(&url));
            Err(Error::new(Kind::Corrupt, text))
        }
    }
}

async fn ask_system(query: &[u8]) -> Result<Vec<String>> {
    let config = tokio::task::spawn_blocking(|| std::fs::read_to_string(RESOLV_CONF)).await;
    let config = config.ok().and_then(std::io::Result::ok).unwrap_or_default();
    let servers = name_servers(&config);
    let mut error = Error::new(Kind::Unavailable, format!("{RESOLV_CONF} names no DNS resolver"));
    for server in servers {
        match ask_server(server, query).await {
            Ok(texts) => return Ok(texts),
            Err(e) => error = e.with_context(format!("DNS resolver {server}")),
        }
    }
    Err(error)
}

/// The addresses in the configuration of the resolver.
fn name_servers(config: &str) -> Vec<IpAddr> {
    let servers = config.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let is_server = words.next() == Some("nameserver");
        words.next().filter(|_| is_server)?.parse().ok()
    });
    servers.collect()
}

async fn ask_server(server: IpAddr, query: &[u8]) -> Result<Vec<String>> {
    let failed = |e| Error::io("no answer", e);
    let local = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(local).await.map_err(failed)?;
    // Datagrams of others are not received.
    socket.connect((server, 53)).await.map_err(failed)?;
    for _ in 0..DATAGRAM_TRIES {
        socket.send(query).await.map_err(failed)?;
        let answer = timeout(DATAGRAM_WAIT, async {
            let mut datagram = vec![0; MAX_DATAGRAM];
            loop {
                let len = socket.recv(&mut datagram).await.map_err(failed)?;
                match parse_answer(query, &datagram[..len])? {
                    Answer::Other => {}
                    answer => return Ok(answer),
                }
            }
        });
        match answer.await {
            Ok(Ok(Answer::Texts(texts))) => return Ok(texts),
            Ok(Ok(_)) => return ask_by_tcp(server, query).await,
            Ok(Err(e)) => return Err(e),
            Err(_) => {}
        }
    }
    Err(Error::new(Kind::Network, "no answer"))
}

async fn ask_by_tcp(server: IpAddr, query: &[u8]) -> Result<Vec<String>> {
    let failed = |e| Error::io("no answer by TCP", e);
    let exchange = async {
        let mut stream = TcpStream::connect((server, 53)).await.map_err(failed)?;
        let len = u16::try_from(query.len()).expect("a query is short");
        stream.write_all(&[&len.to_be_bytes()[..], query].concat()).await.map_err(failed)?;
        let len = stream.read_u16().await.map_err(failed)?;
        let mut answer = vec![0; usize::from(len)];
        stream.read_exact(&mut answer).await.map_err(failed)?;
        match parse_answer(query, &answer)? {
            Answer::Texts(texts) => Ok(texts),
            _ => Err(Error::new(Kind::Corrupt, "the answer is not one to the query")),
        }
    };
    timeout(TCP_WAIT, exchange)
        .await
        .unwrap_or_else(|_| Err(Error::new(Kind::Network, "no answer by TCP")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocols::FetchOptions;

    #[test]
    fn the_servers_of_the_system_are_read_from_its_configuration() {
        let config = "# nameserver 9.9.9.9\nsearch lan\nnameserver 192.168.1.1\n nameserver ::1\nnameserver x\n";
        let wanted: Vec<IpAddr> = vec!["192.168.1.1".parse().unwrap(), "::1".parse().unwrap()];
        assert_eq!(name_servers(config), wanted);
    }

    #[test]
    fn a_resolver_is_encrypted_or_local() {
        let http = Arc::new(Http::new(&Arc::new(FetchOptions::default())).unwrap());
        let new = |text| Resolver::new(text, &http);
        assert!(matches!(new(Some("system")), Ok(Resolver::System)));
        assert!(
            matches!(new(None), Ok(Resolver::Https(url, _)) if url.as_str() == DEFAULT_RESOLVER)
        );
        assert!(new(Some("http://127.0.0.1:1/dns-query")).is_ok());
        for bad in ["http://dns.example/dns-query", "dns.example", "ftp://h/"] {
            assert_eq!(new(Some(bad)).unwrap_err().kind(), Kind::InvalidInput, "{bad}");
        }
    }
}
