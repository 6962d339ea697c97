//! The server: accepts connections and limits their number, duration and memory.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};

use super::{page::Links, routes::Routes, token::Token};
use crate::{
    engine::{StreamedFile, StreamedImport, Streams},
    error::{Error, Result},
};

/// Maximum number of connections. Further ones wait in the system's accept queue.
const MAX_CONNECTIONS: usize = 128;
/// Timeout for the head of a request, and for an idle connection between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// Maximum length of a request head, and of a connection's write buffer. With one frame beyond the buffer and one that
/// waits, 128 connections hold at most 12 MiB.
const MAX_BUFFER: usize = 32 << 10;
/// Maximum number of headers in a request.
const MAX_HEADERS: usize = 64;
/// Delay after an accept error, for example when no descriptors are left.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// A stream server with a bound address. It accepts requests while [`StreamServer::run`] runs.
#[derive(Debug)]
pub struct StreamServer {
    listener: TcpListener,
    address: SocketAddr,
    routes: Arc<Routes>,
}

impl StreamServer {
    /// Binds the address. Clients with `token` can read all imports in `streams`, including those opened later.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(listen: SocketAddr, streams: Streams, token: Token) -> Result<Self> {
        let io_error = |e| Error::io(format!("cannot listen on {listen} for players"), e);
        let listener = TcpListener::bind(listen).await.map_err(io_error)?;
        let address = listener.local_addr().map_err(io_error)?;
        let authority = SocketAddr::new(reachable(address.ip()), address.port()).to_string();
        let routes = Arc::new(Routes { streams, token, authority });
        Ok(Self { listener, address, routes })
    }

    /// The bound address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// URL of the page of an import, with the token.
    #[must_use]
    pub fn import_url(&self, import: &StreamedImport) -> String {
        format!("{}{}/", self.links().base, import.id())
    }

    /// URL of the playlist of an import, with the token.
    #[must_use]
    pub fn playlist_url(&self, import: &StreamedImport) -> String {
        format!("{}{}.m3u", self.links().base, import.id())
    }

    /// URL of a file, with the token.
    #[must_use]
    pub fn file_url(&self, import: &StreamedImport, file: &StreamedFile) -> String {
        self.links().to_file(import.id(), &file.path)
    }

    fn links(&self) -> Links {
        let Routes { token, authority, .. } = &*self.routes;
        Links { base: format!("http://{authority}/{}/", token.reveal()), query: String::new() }
    }

    /// Serves until dropped, which also ends all connections.
    pub async fn run(&self) -> Infallible {
        let connection_permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let permit = Arc::clone(&connection_permits).acquire_owned().await;
            // Free the entries of connections that have ended.
            while connections.try_join_next().is_some() {}
            match (self.listener.accept().await, permit) {
                (Ok((stream, _)), Ok(permit)) => {
                    connections.spawn(serve(stream, Arc::clone(&self.routes), permit));
                }
                (Err(e), _) => {
                    tracing::warn!(error = %e, "cannot accept a player's connection");
                    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                }
                (_, Err(_)) => unreachable!("the semaphore is never closed"),
            }
        }
    }
}

async fn serve(stream: TcpStream, routes: Arc<Routes>, _permit: OwnedSemaphorePermit) {
    // A seek is a short answer to a short request: send it without waiting for more data.
    let _ = stream.set_nodelay(true);
    let answer = service_fn(|request: hyper::Request<Incoming>| {
        let routes = Arc::clone(&routes);
        async move { Ok::<_, Infallible>(routes.answer(&request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_BUFFER)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
    if let Err(e) = served {
        // Clients often disconnect in the middle of an answer: that is how players seek.
        tracing::debug!(error = %e, "a player's connection ended early");
    }
}

/// An address for URLs. When listening on all interfaces, the address of the default route.
fn reachable(ip: IpAddr) -> IpAddr {
    if !ip.is_unspecified() {
        return ip;
    }
    // No packet is sent: connecting a UDP socket only selects a route. The destination is reserved for documentation.
    let route = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    });
    route.map_or(Ipv4Addr::LOCALHOST.into(), |local| local.ip())
}
