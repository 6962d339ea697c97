//! `http` and `https`: ranges of files by GET, version 1.1 and 2.
//!
//! The first request is the download: a GET of `bytes=0-`, whose answer tells what is there and is read on as the first
//! connection's bytes. A server that cannot answer that is asked once without a range. Each later range names the version
//! that was found (`If-Range`), and the answer is held against it all the same: status, `Content-Range`, length, tag and
//! date. A 200 where a range was asked for is the whole file, or another one; it is never taken for the range. A server
//! that has the same version and gives all of it because of `If-Range` is asked for ranges without. A 206 that ends early
//! is asked on from there.
//!
//! What it refuses: more than ten redirects, one from https to http, and to carry the user's headers, login or cookies
//! to another host than they are for; an answer that is not the range; to decode anything: bytes are kept as served.

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
    body::{Exactly, Source},
    client::{Ask, Wire},
    transport::Answer,
};
use super::{Begun, ByteStream, FetchOptions, Found, Protocol, Remote, Wanted};
use crate::error::{Error, Kind, Result};

/// Speaks `http` and `https`.
#[derive(Debug)]
pub struct Http {
    wire: Arc<Wire>,
}

impl Http {
    /// # Errors
    /// What is wrong with the options: a certificate, cookie or header that cannot be used.
    pub fn new(options: &Arc<FetchOptions>) -> Result<Self> {
        Ok(Self { wire: Arc::new(Wire::new(Arc::clone(options))?) })
    }

    /// As the registry makes it.
    pub(super) fn make(options: &Arc<FetchOptions>) -> Result<Arc<dyn Protocol>> {
        Ok(Arc::new(Self::new(options)?))
    }
}

impl Http {
    /// The file at `url`, and the answer to `range`, which begins at 0, with the end of the part that it has.
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
            // A question for what is behind the last byte has no answer.
            Some(len) if range.start == len && len > 0 => return Ok(Box::pin(Exactly::nothing())),
            _ => {}
        }
        let source = Source::new(&self.wire, remote);
        let (body, end) = source.open(range).await?;
        let range = Wanted { end: range.end.or(remote.len), ..range };
        Ok(Box::pin(Exactly::new(source, range, body, end)))
    }
}
