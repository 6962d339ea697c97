//! The server: accepts connections of TCP and of the unix socket, and limits their number, memory and time.

use std::{
    convert::Infallible,
    future::ready,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, http::Request};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;

use super::access::Peer;
use crate::{
    error::{Error, Result},
    open_files,
};

/// Open files that the daemon asks the system for. Storages, peers and the catalog need most of them.
const OPEN_FILES: u64 = 16 * 1024;
/// Most connections at once, of TCP and of the unix socket each: no more than an eighth of the open files that the system
/// allows. Further ones wait in the system's accept queue.
const MAX_CONNECTIONS: usize = 1024;
/// Time for the head of a request, for an idle connection between two requests, and for the first request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest head of a request, and largest write buffer of a connection.
const MAX_BUFFER: usize = 64 << 10;
const MAX_HEADERS: usize = 100;
/// Delay after an accept error, for example when no descriptors are left.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);
/// Time for connections to end after a stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Bound sockets.
#[derive(Default)]
pub struct Server {
    tcp: Vec<TcpListener>,
    unix: Vec<UnixListener>,
    tls: Option<TlsAcceptor>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("tcp", &self.tcp).finish_non_exhaustive()
    }
}

impl Server {
    /// Sets the acceptor of TLS for all TCP sockets. `None` is plain HTTP.
    pub(super) fn set_tls(&mut self, tls: Option<TlsAcceptor>) {
        self.tls = tls;
    }

    /// Binds an address.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(&mut self, address: SocketAddr) -> Result<SocketAddr> {
        let error = |e| Error::io(format!("cannot listen on {address}"), e);
        let listener = TcpListener::bind(address).await.map_err(error)?;
        let bound = listener.local_addr().map_err(error)?;
        self.tcp.push(listener);
        Ok(bound)
    }

    /// Takes over a socket that listens already, such as systemd's.
    pub fn add_tcp(&mut self, listener: TcpListener) {
        self.tcp.push(listener);
    }

    /// Takes over a unix socket that listens already.
    pub fn add_unix(&mut self, listener: UnixListener) {
        self.unix.push(listener);
    }

    /// The bound addresses.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.tcp.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Serves `router` until `stop`, then lets running requests end within 2 s.
    pub async fn run(self, router: Router, stop: CancellationToken) {
        let allowed = open_files::raise_limit(OPEN_FILES) / 8;
        let most = MAX_CONNECTIONS.min(usize::try_from(allowed).unwrap_or(usize::MAX)).max(1);
        let connections = Arc::new(Connections {
            router,
            tls: self.tls,
            tcp_slots: Arc::new(Semaphore::new(most)),
            unix_slots: Arc::new(Semaphore::new(most)),
            stop: stop.clone(),
        });
        let mut listeners = JoinSet::new();
        for listener in self.tcp {
            listeners.spawn(Arc::clone(&connections).accept_tcp(listener));
        }
        for listener in self.unix {
            listeners.spawn(Arc::clone(&connections).accept_unix(listener));
        }
        stop.cancelled().await;
        while listeners.join_next().await.is_some() {}
        let all = u32::try_from(most).unwrap_or(u32::MAX);
        let ended = async {
            let _ = connections.tcp_slots.acquire_many(all).await;
            let _ = connections.unix_slots.acquire_many(all).await;
        };
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, ended).await;
    }
}

struct Connections {
    router: Router,
    tls: Option<TlsAcceptor>,
    tcp_slots: Arc<Semaphore>,
    /// Of its own: strangers that hold all connections of TCP do not lock out the owner.
    unix_slots: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Connections {
    async fn accept_tcp(self: Arc<Self>, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let _ = stream.set_nodelay(true);
                    let Ok(local) = stream.local_addr() else { continue };
                    let peer = Peer::Tcp { peer, local, tls: self.tls.is_some() };
                    match self.tls.clone() {
                        Some(tls) => self.serve(tls.accept(stream), peer).await,
                        None => self.serve(ready(Ok(stream)), peer).await,
                    }
                }
                Err(e) => Self::wait_after(&e).await,
            }
        }
    }

    async fn accept_unix(self: Arc<Self>, listener: UnixListener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, _)) => self.serve(ready(Ok(stream)), Peer::Unix).await,
                Err(e) => Self::wait_after(&e).await,
            }
        }
    }

    async fn wait_after(error: &io::Error) {
        tracing::warn!(error = %error, "cannot accept a connection");
        tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
    }

    /// Waits for a slot, and serves the connection in a task, which first waits for the handshake.
    async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        self: &Arc<Self>,
        stream: impl Future<Output = io::Result<S>> + Send + 'static,
        peer: Peer,
    ) {
        let slots = if peer.is_unix_socket() { &self.unix_slots } else { &self.tcp_slots };
        let slot = tokio::select! {
            slot = Arc::clone(slots).acquire_owned() => slot,
            () = self.stop.cancelled() => return,
        };
        let Ok(slot) = slot else { return };
        let connections = Arc::clone(self);
        tokio::spawn(async move {
            match tokio::time::timeout(HEAD_TIMEOUT, stream).await {
                Ok(Ok(stream)) => connections.serve_now(stream, peer).await,
                Ok(Err(e)) => tracing::debug!(error = %e, "a handshake failed"),
                Err(_) => {}
            }
            drop(slot);
        });
    }

    async fn serve_now(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: Peer,
    ) {
        let router = self.router.clone();
        let has_request = Arc::new(AtomicBool::new(false));
        let requested = Arc::clone(&has_request);
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let mut router = router.clone();
            requested.store(true, Ordering::Relaxed);
            async move {
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(peer);
                Ok::<_, Infallible>(match router.call(request).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                })
            }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_BUFFER)
            .max_headers(MAX_HEADERS);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(64)
            .max_header_list_size(u32::try_from(MAX_BUFFER).unwrap_or(u32::MAX))
            .keep_alive_interval(HEAD_TIMEOUT);
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        // The library has no limit for the bytes that tell HTTP/1 from HTTP/2.
        let no_request = async {
            tokio::time::sleep(HEAD_TIMEOUT).await;
            if has_request.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        };
        let served = tokio::select! {
            served = connection.as_mut() => served,
            () = no_request => Ok(()),
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                let ended = tokio::time::timeout(DRAIN_TIMEOUT, connection.as_mut()).await;
                ended.unwrap_or(Ok(()))
            }
        };
        if let Err(e) = served {
            tracing::debug!(error = %e, "a connection ended early");
        }
    }
}
