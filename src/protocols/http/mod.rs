//! `http` and `https`: ranges of files by GET, version 1.1 and 2.
//!
//! A probe is a GET of the first byte: what servers say to a HEAD often differs from what they say to a GET, and only
//! the answer to a range tells whether ranges work. Each later range names the version that was probed (`If-Range`), and
//! the answer is held against it all the same: status, `Content-Range`, length, tag and date. A 200 where a range was
//! asked for is the whole file, or another one; it is never taken for the range.
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
    answer::{Head, too_short},
    body::Exactly,
    client::{Ask, Wire},
};
use super::{ByteStream, FetchOptions, Found, Protocol, Remote, Wanted};
use crate::error::{Error, Kind, Result};

/// Speaks `http` and `https`.
#[derive(Debug)]
pub struct Http {
    wire: Wire,
}

impl Http {
    /// # Errors
    /// What is wrong with the options: a certificate, cookie or header that cannot be used.
    pub fn new(options: &Arc<FetchOptions>) -> Result<Self> {
        Ok(Self { wire: Wire::new(Arc::clone(options))? })
    }

    /// As the registry makes it.
    pub(super) fn make(options: &Arc<FetchOptions>) -> Result<Arc<dyn Protocol>> {
        Ok(Arc::new(Self::new(options)?))
    }
}

#[async_trait]
impl Protocol for Http {
    async fn probe(&self, url: &Url) -> Result<Found> {
        if url.host_str().is_none_or(str::is_empty) {
            return Err(Error::new(Kind::InvalidInput, "an http URL without a host"));
        }
        let first =
            Ask { asked: url, url, range: Some((0..1).into()), validator: None, question: None };
        let (at, response) = self.wire.get(first).await?;
        let head = Head::of(&response);
        Ok(Found::File(head.remote(url, at)?))
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
        // Where ranges are not known, to ask for one might only confuse.
        let ranged = remote.ranges.then_some(range);
        let ask = Ask {
            asked: &remote.asked,
            url: &remote.url,
            range: ranged,
            validator: ranged.and(remote.validator.as_ref()),
            question: None,
        };
        let (at, response) = self.wire.get(ask).await?;
        Head::of(&response).gives(range, remote)?;
        Ok(Box::pin(Exactly::new(response.into_body(), range, &at)))
    }
}
