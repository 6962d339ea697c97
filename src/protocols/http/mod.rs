//! `http` and `https`: fetches ranges of files by GET, over HTTP/1.1 and HTTP/2.
//!
//! The first request already starts the download: a GET of `bytes=0-`. Its head describes the file ([`response_head`]),
//! and its body is the stream of the first connection ([`body`]). If the server cannot answer a range, the request is
//! repeated once without one. Every later range names the version that was found (`If-Range`). The response is checked
//! anyway: status, `Content-Range`, length, ETag and date. A 200 for a range request is the whole file, or another
//! file; it is never taken for the range. If a server answers `If-Range` with the whole file of the same version, later
//! ranges are requested without `If-Range`. If a 206 covers less than the range, the rest is requested.
//!
//! What it refuses: more than ten redirects, and a redirect from https to http; to send the user's headers, login or
//! cookies to other hosts than they are for; a response that is not the requested range. Bodies are never decoded: the
//! bytes are kept as served.

mod auth;
mod body;
mod client;
mod connector;
mod cookies;
mod digests;
mod disposition;
mod errors;
mod plain_request;
mod propfind;
mod response_head;
mod sample;
mod transport;

use std::sync::Arc;

use async_trait::async_trait;
use url::Url;

use self::{
    body::{ExactRange, OpenedRange, RangeOpener},
    client::{HttpClient, RequestSpec},
    response_head::{FirstOutcome, ResponseHead, too_short_error},
    transport::HttpResponse,
};
pub(super) use self::{
    plain_request::{PlainRequest, PlainResponse},
    propfind::Depth,
    sample::{Sample, SamplePart},
};
use super::{
    ByteStream, FetchOptions, FirstResponse, Protocol, RangeRequest, RemoteFile, UrlTarget,
};
use crate::error::{Error, Kind, Result};

/// The protocol of `http` and `https` URLs.
#[derive(Debug)]
pub struct Http {
    client: Arc<HttpClient>,
}

impl Http {
    /// Creates the protocol.
    ///
    /// # Errors
    /// For invalid options: a certificate, cookie file or header that cannot be used.
    pub fn new(options: &Arc<FetchOptions>) -> Result<Self> {
        Ok(Self { client: Arc::new(HttpClient::new(Arc::clone(options))?) })
    }

    /// The constructor for the registry.
    pub(super) fn make(options: &Arc<FetchOptions>) -> Result<Arc<dyn Protocol>> {
        Ok(Arc::new(Self::new(options)?))
    }
}

impl Http {
    /// Requests `range`, which starts at 0. Returns the file, the end position of the part in the body, and the
    /// response.
    async fn first_response(
        &self,
        url: &Url,
        range: RangeRequest,
    ) -> Result<(RemoteFile, Option<u64>, HttpResponse)> {
        if url.host_str().is_none_or(str::is_empty) {
            return Err(Error::new(Kind::InvalidInput, "an http URL has no host"));
        }
        let ranged =
            self.client.send_following_redirects(RequestSpec::first(url, Some(range))).await;
        let unclear = match ranged {
            Ok((at, response)) => {
                match ResponseHead::new(&response).interpret_first(url, &at, true) {
                    FirstOutcome::File(remote, end) => return Ok((*remote, end, response)),
                    FirstOutcome::Refused(error) => return Err(error),
                    FirstOutcome::Unclear(error) => error,
                }
            }
            Err(error) => return Err(error),
        };
        tracing::debug!("{}; retrying without a range", unclear.report());
        let (at, response) =
            self.client.send_following_redirects(RequestSpec::first(url, None)).await?;
        match ResponseHead::new(&response).interpret_first(url, &at, false) {
            FirstOutcome::File(remote, end) => Ok((*remote, end, response)),
            FirstOutcome::Refused(error) | FirstOutcome::Unclear(error) => Err(error),
        }
    }
}

#[async_trait]
impl Protocol for Http {
    async fn probe(&self, url: &Url) -> Result<UrlTarget> {
        let (remote, ..) = self.first_response(url, (0..1).into()).await?;
        Ok(UrlTarget::File(remote))
    }

    async fn probe_with_body(&self, url: &Url) -> Result<FirstResponse> {
        let (remote, end, response) = self.first_response(url, RangeRequest::ALL).await?;
        let body = self.body_of(&remote, end, response);
        Ok(FirstResponse { target: UrlTarget::File(remote), body: Some(body) })
    }

    async fn open(&self, remote: &RemoteFile, range: RangeRequest) -> Result<ByteStream> {
        if range.is_empty() {
            return Ok(Box::pin(ExactRange::empty()));
        }
        match remote.len {
            Some(len) if range.start > len || range.end.is_some_and(|end| end > len) => {
                return Err(too_short_error(remote, len));
            }
            // A server cannot answer a range request that starts at the end of the file.
            Some(len) if range.start == len && len > 0 => return Ok(Box::pin(ExactRange::empty())),
            _ => {}
        }
        let opener = RangeOpener::new(&self.client, remote);
        let OpenedRange { body, body_end, total } = opener.open(range).await?;
        // With the length, so that the rest is requested, and belongs to a file of the same length.
        let known = RemoteFile { len: remote.len.or(total), ..remote.clone() };
        let range = RangeRequest { end: range.end.or(known.len), ..range };
        let opener = RangeOpener::new(&self.client, &known);
        Ok(Box::pin(ExactRange::new(opener, range, body, body_end)))
    }
}
