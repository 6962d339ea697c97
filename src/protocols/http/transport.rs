//! hyper: one request out, one answer in. What follows from an answer is decided by `client`.

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

/// What HTTP/2 may have under way on one connection: enough for 1 Gbit/s at 30 ms.
const WINDOW: u32 = 4 << 20;
/// The most bytes of headers taken over HTTP/2. Over 1.1 it is one buffer.
const MAX_HEADERS: u32 = 64 << 10;
/// The most lines of headers over HTTP/1.1: as many as one buffer has, at 128 bytes each. While a head is read each takes
/// 64 bytes.
const MAX_LINES: usize = 1024;
/// How long a connection waits for the next request. Servers that serve one connection at a time serve nobody else
/// meanwhile, our own next connection neither.
const IDLE: Duration = Duration::from_secs(1);
/// Servers that something is remembered of.
const MOST_KNOWN: usize = 1000;
/// The most that is read at once by HTTP/1.1. Up to three of these are held for each connection, and shorter ones cost
/// time.
const BUFFER: usize = 128 << 10;

/// A question's body; none is an empty one.
pub(super) type Asked = Request<Full<Bytes>>;
pub(super) type Answer = Response<Body>;

/// The two clients, and the connections they keep.
#[derive(Debug)]
pub(super) struct Transport {
    /// Several requests may share a connection, where the server speaks HTTP/2.
    shared: Client<Connector, Full<Bytes>>,
    /// Each request has a TCP connection to itself, by HTTP/1.1.
    own: Client<Connector, Full<Bytes>>,
    ways: Arc<Ways>,
    /// Servers that speak HTTP/2 only.
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

    /// The answer to `asked`. With `alone` it has a connection to itself, unless the server knows HTTP/2 only.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn send(&self, mut asked: Asked, alone: bool) -> Result<Answer, Lost> {
        if let Some(login) = self.ways.login(asked.uri()) {
            asked.headers_mut().insert("proxy-authorization", login);
        }
        // Without TLS nobody agrees on HTTP/2: what was asked first leaves its connection to what is asked next.
        if asked.uri().scheme_str() != Some("https") {
            return self.send_by(&self.own, asked).await;
        }
        let server = asked.uri().authority().cloned();
        let second_only = server.as_ref().is_some_and(|at| self.second_only.lock().contains(at));
        if !alone || second_only {
            return self.send_by(&self.shared, asked).await;
        }
        match self.send_by(&self.own, asked.clone()).await {
            // It may know HTTP/2 only.
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

/// Why an answer does not come, or does not go on.
#[derive(Debug)]
pub(super) enum Lost {
    Silent,
    /// A stream of HTTP/2 that was reset without an error: its end was not seen.
    Reset,
    Asked(legacy::Error),
    Broke(hyper::Error),
}

impl Lost {
    /// What our libraries say.
    pub(super) fn cause(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Silent | Self::Reset => None,
            Self::Asked(e) => Some(e),
            Self::Broke(e) => Some(e),
        }
    }
}

/// The bytes of an answer as they come. A server that is silent for too long while they are waited for is given up.
pub(super) struct Body {
    incoming: Incoming,
    /// Its end is a mark of its own, as in HTTP/2.
    framed: bool,
    silence: Duration,
    /// Since when nothing comes.
    since: Option<Instant>,
    /// Rings early: it is only set anew when it does.
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
                // Trailers say nothing that is of use here.
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
