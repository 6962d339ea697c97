//! Streams the bytes of a range from the body of a response. If the response covers less than the range, the rest is
//! requested.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_core::Stream;
use url::Url;

use super::{
    answer::{Given, Head},
    client::{Ask, Wire},
    errors::broken,
    transport::{Body, Lost},
};
use crate::{
    error::{Error, Kind, Result},
    protocols::{Remote, Wanted, place},
};

/// A file and the client that requests it. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Source {
    wire: Arc<Wire>,
    remote: Arc<Remote>,
}

impl Source {
    pub(super) fn new(wire: &Arc<Wire>, remote: &Remote) -> Self {
        Self { wire: Arc::clone(wire), remote: Arc::new(remote.clone()) }
    }

    /// Requests `range`. Returns a body that starts with it.
    pub(super) async fn open(&self, range: Wanted) -> Result<Opened> {
        // No `If-Range` if the server may not support ranges: it could confuse the server.
        let ranged = self.remote.ranges;
        let conditional = ranged && self.wire.takes_if_range(&self.remote);
        let (body, given) = match self.ask(range, ranged, conditional).await? {
            (_, Given::Unconditional) => {
                self.wire.no_if_range(&self.remote);
                self.ask(range, ranged, false).await?
            }
            (_, Given::Endless) if ranged => self.ask(range, false, false).await?,
            answered => answered,
        };
        let (told, total) = match given {
            Given::Part(end) => (Some(end), None),
            Given::PartOf(end, total) => (Some(end), Some(total)),
            Given::Whole(len) => (len, None),
            Given::Unconditional => (None, None),
            Given::Endless => {
                let what = "the server gives a part and does not tell how long the file is";
                return Err(Error::new(Kind::Unsupported, format!("{}: {what}", place(self.at()))));
            }
        };
        Ok(Opened { body, told, total })
    }

    async fn ask(&self, range: Wanted, ranged: bool, conditional: bool) -> Result<(Body, Given)> {
        let remote = &*self.remote;
        let ask = Ask {
            asked: &remote.asked,
            url: &remote.url,
            range: ranged.then_some(range),
            validator: if conditional { remote.validator.as_ref() } else { None },
            question: None,
        };
        let (_, answer) = self.wire.get(ask).await?;
        let given = Head::of(&answer).gives(range, remote, conditional)?;
        Ok((answer.into_body(), given))
    }

    fn at(&self) -> &Url {
        &self.remote.url
    }
}

/// A body that starts with a requested range.
pub(super) struct Opened {
    pub(super) body: Body,
    /// Position in the file where the part in the body ends; `None` if only the end of the body tells.
    pub(super) told: Option<u64>,
    /// The length of the file, if it was not known before.
    pub(super) total: Option<u64>,
}

type Asking = Pin<Box<dyn Future<Output = Result<Opened>> + Send>>;

/// The bytes of a range: exactly this many, or fewer and then an error. After the last byte the body is dropped, which
/// closes the connection to a server that would send more.
pub(super) struct Exactly {
    now: Now,
    source: Option<Source>,
    /// Position of the next byte in the file.
    pos: u64,
    /// Position in the file where the body ends, as declared by the server.
    told: Option<u64>,
    /// End of the range. `None` means the end of the body.
    end: Option<u64>,
}

enum Now {
    Reads(Body),
    /// The body covered less than the range; the rest is requested.
    Asks(Asking),
    Ended,
}

impl Exactly {
    /// `body` contains the bytes from the start of `range` to `told`.
    pub(super) fn new(source: Source, range: Wanted, body: Body, told: Option<u64>) -> Self {
        let source = Some(source);
        Self { now: Now::Reads(body), source, pos: range.start, told, end: range.end }
    }

    pub(super) fn nothing() -> Self {
        Self { now: Now::Ended, source: None, pos: 0, told: None, end: Some(0) }
    }

    fn take(&mut self, mut bytes: Bytes) -> Bytes {
        let end = match (self.told, self.end) {
            (Some(told), Some(end)) => Some(told.min(end)),
            (told, end) => told.or(end),
        };
        if let Some(end) = end {
            bytes.truncate(usize::try_from(end - self.pos).unwrap_or(usize::MAX));
            self.pos += bytes.len() as u64;
            if self.pos == end {
                self.now = self.after(end);
            }
        }
        bytes
    }

    /// The next state after the body has delivered its bytes of the range, up to `pos`.
    fn after(&self, pos: u64) -> Now {
        match (&self.source, self.end) {
            (Some(source), Some(end)) if pos < end => {
                let (source, rest) = (source.clone(), Wanted::from(pos..end));
                Now::Asks(Box::pin(async move { source.open(rest).await }))
            }
            _ => Now::Ended,
        }
    }

    fn ended(&mut self, lost: Option<&Lost>) -> Option<Result<Bytes>> {
        self.now = Now::Ended;
        let source = self.source.as_ref()?;
        if let Some(lost) = lost {
            return Some(Err(broken(source.at(), lost)));
        }
        let left = self.end.or(self.told)?.saturating_sub(self.pos);
        if left == 0 {
            return None;
        }
        // An answer shorter than its declared length counts as a broken connection.
        let kind = match self.told.or(source.remote.len) {
            Some(told) if self.pos < told => Kind::Network,
            _ => Kind::Corrupt,
        };
        let text = format!("{}: the file ends {left} bytes early", place(source.at()));
        Some(Err(Error::new(kind, text)))
    }
}

impl Stream for Exactly {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match &mut self.now {
                Now::Ended => return Poll::Ready(None),
                Now::Asks(asking) => match ready!(asking.as_mut().poll(context)) {
                    Ok(Opened { body, told, .. }) => {
                        self.told = told;
                        self.now = Now::Reads(body);
                    }
                    Err(error) => {
                        self.now = Now::Ended;
                        return Poll::Ready(Some(Err(error)));
                    }
                },
                Now::Reads(body) => match ready!(Pin::new(body).poll_next(context)) {
                    Some(Ok(bytes)) if bytes.is_empty() => {}
                    Some(Ok(bytes)) => return Poll::Ready(Some(Ok(self.take(bytes)))),
                    Some(Err(lost)) => return Poll::Ready(self.ended(Some(&lost))),
                    None => return Poll::Ready(self.ended(None)),
                },
            }
        }
    }
}
