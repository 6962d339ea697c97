//! The bytes of an answer, as many as were asked for.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_core::Stream;
use url::Url;

use super::{
    errors::broken,
    transport::{Body, Lost},
};
use crate::{
    error::{Error, Kind, Result},
    protocols::{Wanted, place},
};

/// The first bytes of a body: exactly so many, or fewer and an error. When they are all there the body is dropped, which
/// hangs up on a server that would go on.
pub(super) struct Exactly {
    /// `None` when there is nothing more to come.
    body: Option<Body>,
    /// `None`: all that come.
    left: Option<u64>,
    at: Option<Url>,
}

impl Exactly {
    pub(super) fn new(body: Body, range: Wanted, at: &Url) -> Self {
        Self { body: Some(body), left: range.len(), at: Some(at.clone()) }
    }

    pub(super) fn nothing() -> Self {
        Self { body: None, left: Some(0), at: None }
    }

    fn take(&mut self, mut bytes: Bytes) -> Bytes {
        if let Some(left) = &mut self.left {
            bytes.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= bytes.len() as u64;
            if *left == 0 {
                self.body = None;
            }
        }
        bytes
    }

    fn end(&mut self, lost: Option<&Lost>) -> Option<Result<Bytes>> {
        self.body = None;
        let at = self.at.as_ref()?;
        match (lost, self.left) {
            (Some(lost), _) => Some(Err(broken(at, lost))),
            (None, Some(left)) if left > 0 => {
                let text = format!("{}: the file ends {left} bytes early", place(at));
                Some(Err(Error::new(Kind::Corrupt, text)))
            }
            (None, _) => None,
        }
    }
}

impl Stream for Exactly {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let Some(body) = &mut self.body else { return Poll::Ready(None) };
            return Poll::Ready(match ready!(Pin::new(body).poll_next(context)) {
                Some(Ok(bytes)) if bytes.is_empty() => continue,
                Some(Ok(bytes)) => Some(Ok(self.take(bytes))),
                Some(Err(lost)) => self.end(Some(&lost)),
                None => self.end(None),
            });
        }
    }
}
