//! The server: connections taken, bounded and let go.

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
    app::{StreamedFile, StreamedImport, Streams},
    error::{Error, Result},
};

/// Connections at once. One that waits for its turn to be taken waits in the system's queue.
const CONNECTIONS: usize = 128;
/// How long a client may take for the head of a request, and be silent between two.
const HEAD: Duration = Duration::from_secs(15);
/// The longest head, and what a connection takes on its way out before it takes no more. With a frame more and one that
/// waits, 128 connections hold 12 MiB at worst.
const BUFFER: usize = 32 << 10;
/// Headers of a request.
const HEADERS: usize = 64;
/// How long to wait when the system has no more sockets.
const BREATH: Duration = Duration::from_millis(100);

/// A stream server that has its address. It answers while [`StreamServer::run`] runs.
#[derive(Debug)]
pub struct StreamServer {
    listener: TcpListener,
    address: SocketAddr,
    routes: Arc<Routes>,
}

impl StreamServer {
    /// Takes the address. What `streams` has, and what is opened in it later, is served to whoever knows `token`.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn bind(listen: SocketAddr, streams: Streams, token: Token) -> Result<Self> {
        let place = |e| Error::io(format!("listen on {listen} for players"), e);
        let listener = TcpListener::bind(listen).await.map_err(place)?;
        let address = listener.local_addr().map_err(place)?;
        let authority = SocketAddr::new(reachable(address.ip()), address.port()).to_string();
        let routes = Arc::new(Routes { streams, token, authority });
        Ok(Self { listener, address, routes })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The page of an import, with the token.
    #[must_use]
    pub fn import_url(&self, import: &StreamedImport) -> String {
        format!("{}{}/", self.links().base, import.id())
    }

    /// The playlist of an import, with the token.
    #[must_use]
    pub fn playlist_url(&self, import: &StreamedImport) -> String {
        format!("{}{}.m3u", self.links().base, import.id())
    }

    /// A file, with the token.
    #[must_use]
    pub fn file_url(&self, import: &StreamedImport, file: &StreamedFile) -> String {
        self.links().to_file(import.id(), &file.path)
    }

    fn links(&self) -> Links {
        let Routes { token, authority, .. } = &*self.routes;
        Links { base: format!("http://{authority}/{}/", token.reveal()), query: String::new() }
    }

    /// Answers until dropped; connections end with it.
    pub async fn run(&self) -> Infallible {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let place = Arc::clone(&room).acquire_owned().await;
            // Those that ended make room in the set too.
            while connections.try_join_next().is_some() {}
            match (self.listener.accept().await, place) {
                (Ok((stream, _)), Ok(place)) => {
                    connections.spawn(serve(stream, Arc::clone(&self.routes), place));
                }
                (Err(e), _) => {
                    tracing::warn!(error = %e, "cannot take a connection of a player");
                    tokio::time::sleep(BREATH).await;
                }
                (_, Err(_)) => unreachable!("the semaphore is never closed"),
            }
        }
    }
}

async fn serve(stream: TcpStream, routes: Arc<Routes>, _place: OwnedSemaphorePermit) {
    // A seek is a small answer to a small question: it must not wait for more to be sent.
    let _ = stream.set_nodelay(true);
    let answer = service_fn(|request: hyper::Request<Incoming>| {
        let routes = Arc::clone(&routes);
        async move { Ok::<_, Infallible>(routes.answer(&request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(BUFFER)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
    if let Err(e) = served {
        // Clients hang up in the middle all the time: that is how players seek.
        tracing::debug!(error = %e, "a player's connection ended early");
    }
}

/// An address that others can write down: where we listen on all, the one that leads out.
fn reachable(ip: IpAddr) -> IpAddr {
    if !ip.is_unspecified() {
        return ip;
    }
    // Nothing is sent: connecting a datagram socket only chooses a route. The address is one kept for documentation.
    let route = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    });
    route.map_or(Ipv4Addr::LOCALHOST.into(), |local| local.ip())
}
