//! `http` and `https`: fetches ranges of files by GET, over HTTP/1.1 and HTTP/2.
//!
//! The first request already starts the download: a GET of `bytes=0-`. Its head describes the file ([`answer`]), and
//! its body is the stream of the first connection ([`body`]). If the server cannot answer a range, the request is
//! repeated once without one. Every later range names the version that was found (`If-Range`). The response is checked
//! anyway: status, `Content-Range`, length, ETag and date. A 200 for a range request is the whole file, or another
//! file; it is never taken for the range. If a server answers `If-Range` with the whole file of the same version, later
//! ranges are requested without `If-Range`. If a 206 covers less than the range, the rest is requested.
//!
//! What it refuses: more than ten redirects, and a redirect from https to http; to send the user's headers, login or
//! cookies to other hosts than they are for; a response that is not the requested range. Bodies are never decoded: the
//! bytes are kept as served.

mod answer;
mod auth;
mod body;
mod client;
mod connector;
mod cookies;
mod digests;
mod disposition;
mod errors;
mod propfind;
mod transport;

use std::sync::Arc;

use async_trait::async_trait;
use url::Url;

pub(super) use self::propfind::Depth;
use self::{
    answer::{First, Head, too_short},
    body::{Exactly, Opened, Source},
    client::{Ask, Wire},
    transport::Answer,
};
use super::{Begun, ByteStream, FetchOptions, Found, Protocol, Remote, Wanted};
use crate::error::{Error, Kind, Result};

/// The protocol of `http` and `https` URLs.
#[derive(Debug)]
pub struct Http {
    wire: Arc<Wire>,
}

impl Http {
    /// Creates the protocol.
    ///
    /// # Errors
    /// For invalid options: a certificate, cookie file or header that cannot be used.
    pub fn new(options: &Arc<FetchOptions>) -> Result<Self> {
        Ok(Self { wire: Arc::new(Wire::new(Arc::clone(options))?) })
    }

    /// The constructor for the registry.
    pub(super) fn make(options: &Arc<FetchOptions>) -> Result<Arc<dyn Protocol>> {
        Ok(Arc::new(Self::new(options)?))
    }
}

impl Http {
    /// Requests `range`, which starts at 0. Returns the file, the end position of the part in the body, and the
    /// response.
    async fn first(&self, url: &Url, range: Wanted) -> Result<(Remote, Option<u64>, Answer)> {
        if url.host_str().is_none_or(str::is_empty) {
            return Err(Error::new(Kind::InvalidInput, "an http URL without a host"));
        }
        let asked = self.wire.get(Ask::first(url, Some(range))).await;
        let unclear = match asked {
            Ok((at, answer)) => match Head::of(&answer).first(url, &at, true) {
                First::File(remote, end) => return Ok((*remote, end, answer)),
                First::No(error) => return Err(error),
                First::Unclear(error) => error,
            },
            Err(error) => return Err(error),
        };
        tracing::debug!("{}; asking for it without a range", unclear.report());
        let (at, answer) = self.wire.get(Ask::first(url, None)).await?;
        match Head::of(&answer).first(url, &at, false) {
            First::File(remote, end) => Ok((*remote, end, answer)),
            First::No(error) | First::Unclear(error) => Err(error),
        }
    }
}

#[async_trait]
impl Protocol for Http {
    async fn probe(&self, url: &Url) -> Result<Found> {
        let (remote, ..) = self.first(url, (0..1).into()).await?;
        Ok(Found::File(remote))
    }

    async fn begin(&self, url: &Url) -> Result<Begun> {
        let (remote, end, answer) = self.first(url, Wanted::ALL).await?;
        let source = Source::new(&self.wire, &remote);
        let range = Wanted { start: 0, end: remote.len };
        let first: ByteStream = match range.is_empty() {
            true => Box::pin(Exactly::nothing()),
            false => Box::pin(Exactly::new(source, range, answer.into_body(), end)),
        };
        Ok(Begun { found: Found::File(remote), first: Some(first) })
    }

    async fn open(&self, remote: &Remote, range: Wanted) -> Result<ByteStream> {
        if range.is_empty() {
            return Ok(Box::pin(Exactly::nothing()));
        }
        match remote.len {
            Some(len) if range.start > len || range.end.is_some_and(|end| end > len) => {
                return Err(too_short(remote, len));
            }
            // A server cannot answer a range request that starts at the end of the file.
            Some(len) if range.start == len && len > 0 => return Ok(Box::pin(Exactly::nothing())),
            _ => {}
        }
        let source = Source::new(&self.wire, remote);
        let Opened { body, told, total } = source.open(range).await?;
        // With the length, so that the rest is asked for, and is of a file of the same length.
        let known = Remote { len: remote.len.or(total), ..remote.clone() };
        let range = Wanted { end: range.end.or(known.len), ..range };
        let source = Source::new(&self.wire, &known);
        Ok(Box::pin(Exactly::new(source, range, body, told)))
    }
}
