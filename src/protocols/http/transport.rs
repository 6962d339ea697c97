//! Sends one request with hyper and returns one response. `client` decides what follows from the response.

use std::{
    collections::HashSet,
    error::Error as StdError,
    future::Future as _,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_core::Stream;
use http_body::Body as _;
use http_body_util::Full;
use hyper::{Request, Response, Version, body::Incoming, http::uri::Authority};
use hyper_util::{
    client::legacy::{self, Client},
    rt::{TokioExecutor, TokioTimer},
};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, timeout};

use super::connector::{Connector, Dialer};
use crate::{
    error::Result,
    protocols::{FetchOptions, timeouts::Timeouts},
};

/// HTTP/2 flow control window of a connection and of a stream, in bytes: enough for 1 Gbit/s at 30 ms.
const FLOW_WINDOW: u32 = 4 << 20;
/// Maximum size of the headers over HTTP/2, in bytes. Over HTTP/1.1 the limit is one buffer.
const MAX_HEADERS: u32 = 64 << 10;
/// Maximum number of header lines over HTTP/1.1: as many as fit in one buffer at 128 bytes each. While a head is
/// parsed, each line takes 64 bytes of memory.
const MAX_HEADER_LINES: usize = 1024;
/// How long an idle connection is kept for the next request. A server that handles one connection at a time serves no
/// other connection meanwhile, not even our own next one.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// Maximum number of remembered servers that speak only HTTP/2.
const MAX_REMEMBERED_SERVERS: usize = 1000;
/// Maximum size of a read buffer over HTTP/1.1, in bytes. A connection holds up to three of them; smaller buffers are
/// slower.
const READ_BUFFER_LEN: usize = 128 << 10;

/// A request. The body is empty unless the request is a PROPFIND.
pub(super) type HttpRequest = Request<Full<Bytes>>;
pub(super) type HttpResponse = Response<ResponseBody>;

/// Two hyper clients with their connection pools.
#[derive(Debug)]
pub(super) struct Transport {
    /// Several requests may share a connection if the server speaks HTTP/2.
    shared: Client<Connector, Full<Bytes>>,
    /// Each request has a separate TCP connection, over HTTP/1.1.
    dedicated: Client<Connector, Full<Bytes>>,
    dialer: Arc<Dialer>,
    /// Servers that speak only HTTP/2.
    http2_only_servers: Mutex<HashSet<Authority>>,
    idle_timeout: Duration,
}

impl Transport {
    /// # Errors
    /// `InvalidInput` for options that cannot be used.
    pub(super) fn new(options: &Arc<FetchOptions>) -> Result<Self> {
        let dialer = Dialer::new(options)?;
        let client = |offer_http2| {
            let connector = Connector { dialer: Arc::clone(&dialer), offer_http2 };
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(KEEP_ALIVE)
                .http1_max_buf_size(READ_BUFFER_LEN)
                .http1_max_headers(MAX_HEADER_LINES)
                .http1_allow_obsolete_multiline_headers_in_responses(true)
                .http1_allow_spaces_after_header_name_in_responses(true)
                .http1_ignore_invalid_headers_in_responses(true)
                .http2_initial_stream_window_size(FLOW_WINDOW)
                .http2_initial_connection_window_size(FLOW_WINDOW)
                .http2_max_header_list_size(MAX_HEADERS)
                .build(connector)
        };
        let idle_timeout = Timeouts::from_options(options).idle;
        let (shared, dedicated) = (client(true), client(false));
        Ok(Self { shared, dedicated, dialer, http2_only_servers: Mutex::default(), idle_timeout })
    }

    /// Sends a request. With `own_connection` it uses a new connection, unless the server speaks only HTTP/2.
    ///
    /// # Errors
    /// [`ResponseFailure`], if there is no response.
    pub(super) async fn send(
        &self,
        mut request: HttpRequest,
        own_connection: bool,
    ) -> Result<HttpResponse, ResponseFailure> {
        if let Some(login) = self.dialer.proxy_authorization(request.uri()) {
            request.headers_mut().insert("proxy-authorization", login);
        }
        // HTTP/2 is negotiated only in TLS. Without TLS one client is enough: later requests reuse the connections of
        // earlier ones.
        if request.uri().scheme_str() != Some("https") {
            return self.send_with_client(&self.dedicated, request).await;
        }
        let server = request.uri().authority().cloned();
        let http2_only =
            server.as_ref().is_some_and(|at| self.http2_only_servers.lock().contains(at));
        if !own_connection || http2_only {
            return self.send_with_client(&self.shared, request).await;
        }
        match self.send_with_client(&self.dedicated, request.clone()).await {
            // The server may speak only HTTP/2.
            Err(ResponseFailure::Request(e)) if e.is_connect() => {
                let response = self.send_with_client(&self.shared, request).await?;
                let mut known = self.http2_only_servers.lock();
                if response.version() == Version::HTTP_2 && known.len() < MAX_REMEMBERED_SERVERS {
                    known.extend(server);
                }
                Ok(response)
            }
            result => result,
        }
    }

    async fn send_with_client(
        &self,
        client: &Client<Connector, Full<Bytes>>,
        request: HttpRequest,
    ) -> Result<HttpResponse, ResponseFailure> {
        let response = timeout(self.idle_timeout, client.request(request)).await;
        let response = response
            .map_err(|_| ResponseFailure::IdleTimeout)?
            .map_err(ResponseFailure::Request)?;
        let has_end_marker = response.version() == Version::HTTP_2;
        Ok(response.map(|incoming| ResponseBody::new(incoming, has_end_marker, self.idle_timeout)))
    }
}

/// The reason why a response is missing or incomplete.
#[derive(Debug)]
pub(super) enum ResponseFailure {
    IdleTimeout,
    /// An HTTP/2 stream was reset without an error, so its end is unknown.
    StreamReset,
    Request(legacy::Error),
    Body(hyper::Error),
}

impl ResponseFailure {
    /// The error of the HTTP library.
    pub(super) fn cause(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::IdleTimeout | Self::StreamReset => None,
            Self::Request(e) => Some(e),
            Self::Body(e) => Some(e),
        }
    }
}

/// The body of a response as a stream. It fails if a read waits longer than the idle timeout for bytes.
pub(super) struct ResponseBody {
    incoming: Incoming,
    /// Whether the end of the body is marked explicitly, as in HTTP/2.
    has_end_marker: bool,
    idle_timeout: Duration,
    /// Start of the current wait for bytes.
    waiting_since: Option<Instant>,
    /// Timer of the idle timeout. It may fire too early, and only then is it set to the right time.
    idle_timer: Pin<Box<Sleep>>,
}

impl ResponseBody {
    fn new(incoming: Incoming, has_end_marker: bool, idle_timeout: Duration) -> Self {
        let idle_timer = Box::pin(tokio::time::sleep(idle_timeout));
        Self { incoming, has_end_marker, idle_timeout, waiting_since: None, idle_timer }
    }

    fn poll_idle_timeout(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let due = *self.waiting_since.get_or_insert_with(Instant::now) + self.idle_timeout;
        loop {
            ready!(self.idle_timer.as_mut().poll(context));
            if Instant::now() >= due {
                return Poll::Ready(());
            }
            self.idle_timer.as_mut().reset(due);
        }
    }
}

impl Stream for ResponseBody {
    type Item = Result<Bytes, ResponseFailure>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(context) else {
                ready!(self.poll_idle_timeout(context));
                return Poll::Ready(Some(Err(ResponseFailure::IdleTimeout)));
            };
            self.waiting_since = None;
            return Poll::Ready(match frame {
                // Trailers are ignored.
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => Some(Ok(bytes)),
                    Err(_) => continue,
                },
                Some(Err(e)) => Some(Err(ResponseFailure::Body(e))),
                None if self.has_end_marker && !self.incoming.is_end_stream() => {
                    Some(Err(ResponseFailure::StreamReset))
                }
                None => None,
            });
        }
    }
}
