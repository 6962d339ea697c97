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

use super::connector::{Connector, Ways};
use crate::{
    error::Result,
    protocols::{FetchOptions, patience::Patience},
};

/// HTTP/2 flow control window of a connection and of a stream, in bytes: enough for 1 Gbit/s at 30 ms.
const WINDOW: u32 = 4 << 20;
/// Maximum size of the headers over HTTP/2, in bytes. Over HTTP/1.1 the limit is one buffer.
const MAX_HEADERS: u32 = 64 << 10;
/// Maximum number of header lines over HTTP/1.1: as many as fit in one buffer at 128 bytes each. While a head is
/// parsed, each line takes 64 bytes of memory.
const MAX_LINES: usize = 1024;
/// How long an idle connection is kept for the next request. A server that handles one connection at a time serves no
/// other connection meanwhile, not even our own next one.
const IDLE: Duration = Duration::from_secs(1);
/// Maximum number of remembered servers that speak only HTTP/2.
const MOST_KNOWN: usize = 1000;
/// Maximum size of a read buffer over HTTP/1.1, in bytes. A connection holds up to three of them; smaller buffers are
/// slower.
const BUFFER: usize = 128 << 10;

/// A request. The body is empty unless the request is a `Question`.
pub(super) type Asked = Request<Full<Bytes>>;
pub(super) type Answer = Response<Body>;

/// Two hyper clients with their connection pools.
#[derive(Debug)]
pub(super) struct Transport {
    /// Several requests may share a connection if the server speaks HTTP/2.
    shared: Client<Connector, Full<Bytes>>,
    /// Each request has a TCP connection of its own, over HTTP/1.1.
    own: Client<Connector, Full<Bytes>>,
    ways: Arc<Ways>,
    /// Servers that speak only HTTP/2.
    second_only: Mutex<HashSet<Authority>>,
    silence: Duration,
}

impl Transport {
    /// # Errors
    /// `InvalidInput` for options that cannot be used.
    pub(super) fn new(options: &Arc<FetchOptions>) -> Result<Self> {
        let ways = Ways::new(options)?;
        let client = |second_too| {
            let connector = Connector { ways: Arc::clone(&ways), second_too };
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE)
                .http1_max_buf_size(BUFFER)
                .http1_max_headers(MAX_LINES)
                .http1_allow_obsolete_multiline_headers_in_responses(true)
                .http1_allow_spaces_after_header_name_in_responses(true)
                .http1_ignore_invalid_headers_in_responses(true)
                .http2_initial_stream_window_size(WINDOW)
                .http2_initial_connection_window_size(WINDOW)
                .http2_max_header_list_size(MAX_HEADERS)
                .build(connector)
        };
        let silence = Patience::of(options).silence;
        let (shared, own, second_only) = (client(true), client(false), Mutex::default());
        Ok(Self { shared, own, ways, second_only, silence })
    }

    /// Sends a request. With `alone` it uses a connection of its own, unless the server speaks only HTTP/2.
    ///
    /// # Errors
    /// [`Lost`], if there is no response.
    pub(super) async fn send(&self, mut asked: Asked, alone: bool) -> Result<Answer, Lost> {
        if let Some(login) = self.ways.login(asked.uri()) {
            asked.headers_mut().insert("proxy-authorization", login);
        }
        // HTTP/2 is negotiated only in TLS. Without TLS one client is enough: later requests reuse the connections of
        // earlier ones.
        if asked.uri().scheme_str() != Some("https") {
            return self.send_by(&self.own, asked).await;
        }
        let server = asked.uri().authority().cloned();
        let second_only = server.as_ref().is_some_and(|at| self.second_only.lock().contains(at));
        if !alone || second_only {
            return self.send_by(&self.shared, asked).await;
        }
        match self.send_by(&self.own, asked.clone()).await {
            // The server may speak only HTTP/2.
            Err(Lost::Asked(e)) if e.is_connect() => {
                let answer = self.send_by(&self.shared, asked).await?;
                let mut known = self.second_only.lock();
                if answer.version() == Version::HTTP_2 && known.len() < MOST_KNOWN {
                    known.extend(server);
                }
                Ok(answer)
            }
            sent => sent,
        }
    }

    async fn send_by(
        &self,
        client: &Client<Connector, Full<Bytes>>,
        asked: Asked,
    ) -> Result<Answer, Lost> {
        let answer = timeout(self.silence, client.request(asked)).await;
        let answer = answer.map_err(|_| Lost::Silent)?.map_err(Lost::Asked)?;
        let framed = answer.version() == Version::HTTP_2;
        Ok(answer.map(|incoming| Body::new(incoming, framed, self.silence)))
    }
}

/// The reason why a response is missing or incomplete.
#[derive(Debug)]
pub(super) enum Lost {
    Silent,
    /// An HTTP/2 stream was reset without an error, so its end is unknown.
    Reset,
    Asked(legacy::Error),
    Broke(hyper::Error),
}

impl Lost {
    /// The error of the HTTP library.
    pub(super) fn cause(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Silent | Self::Reset => None,
            Self::Asked(e) => Some(e),
            Self::Broke(e) => Some(e),
        }
    }
}

/// The body of a response as a stream. It fails if a read waits longer than the idle timeout for bytes.
pub(super) struct Body {
    incoming: Incoming,
    /// Whether the end of the body is marked explicitly, as in HTTP/2.
    framed: bool,
    silence: Duration,
    /// Start of the current wait for bytes.
    since: Option<Instant>,
    /// Timer of the idle timeout. It may fire too early, and only then is it set to the right time.
    alarm: Pin<Box<Sleep>>,
}

impl Body {
    fn new(incoming: Incoming, framed: bool, silence: Duration) -> Self {
        let alarm = Box::pin(tokio::time::sleep(silence));
        Self { incoming, framed, silence, since: None, alarm }
    }

    fn poll_silence(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let due = *self.since.get_or_insert_with(Instant::now) + self.silence;
        loop {
            ready!(self.alarm.as_mut().poll(context));
            if Instant::now() >= due {
                return Poll::Ready(());
            }
            self.alarm.as_mut().reset(due);
        }
    }
}

impl Stream for Body {
    type Item = Result<Bytes, Lost>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(context) else {
                ready!(self.poll_silence(context));
                return Poll::Ready(Some(Err(Lost::Silent)));
            };
            self.since = None;
            return Poll::Ready(match frame {
                // Trailers are ignored.
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => Some(Ok(bytes)),
                    Err(_) => continue,
                },
                Some(Err(e)) => Some(Err(Lost::Broke(e))),
                None if self.framed && !self.incoming.is_end_stream() => Some(Err(Lost::Reset)),
                None => None,
            });
        }
    }
}
