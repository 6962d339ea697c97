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
    client::{HttpClient, RequestSpec},
    errors::response_error,
    response_head::{BodyContent, ResponseHead},
    transport::{ResponseBody, ResponseFailure},
};
use crate::{
    error::{Error, Kind, Result},
    protocols::{RangeRequest, RemoteFile, display_url},
};

/// A file and the client that requests it. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct RangeOpener {
    client: Arc<HttpClient>,
    remote: Arc<RemoteFile>,
}

impl RangeOpener {
    pub(super) fn new(client: &Arc<HttpClient>, remote: &RemoteFile) -> Self {
        Self { client: Arc::clone(client), remote: Arc::new(remote.clone()) }
    }

    /// Requests `range`. Returns a body that starts with it.
    pub(super) async fn open(&self, range: RangeRequest) -> Result<OpenedRange> {
        // No `If-Range` if the server may not support ranges: it could confuse the server.
        let ranged = self.remote.supports_ranges;
        let conditional = ranged && self.client.uses_if_range(&self.remote);
        let (body, content) = match self.request(range, ranged, conditional).await? {
            (_, BodyContent::WholeDespiteIfRange) => {
                self.client.disable_if_range(&self.remote);
                self.request(range, ranged, false).await?
            }
            (_, BodyContent::PartOfUnknown) if ranged => self.request(range, false, false).await?,
            other => other,
        };
        let (body_end, total) = match content {
            BodyContent::Part(end) => (Some(end), None),
            BodyContent::PartOfTotal(end, total) => (Some(end), Some(total)),
            BodyContent::Whole(len) => (len, None),
            BodyContent::WholeDespiteIfRange => (None, None),
            BodyContent::PartOfUnknown => {
                let text = format!(
                    "{}: the server sent a part without the length of the file",
                    display_url(self.url())
                );
                return Err(Error::new(Kind::Unsupported, text));
            }
        };
        Ok(OpenedRange { body, body_end, total })
    }

    async fn request(
        &self,
        range: RangeRequest,
        ranged: bool,
        conditional: bool,
    ) -> Result<(ResponseBody, BodyContent)> {
        let remote = &*self.remote;
        let spec = RequestSpec {
            requested_url: &remote.requested_url,
            url: &remote.url,
            range: ranged.then_some(range),
            suffix_len: None,
            validator: if conditional { remote.validator.as_ref() } else { None },
            other: None,
        };
        let (_, response) = self.client.send_following_redirects(spec).await?;
        let content = ResponseHead::new(&response).check_range(range, remote, conditional)?;
        Ok((response.into_body(), content))
    }

    fn url(&self) -> &Url {
        &self.remote.url
    }
}

/// A body that starts with a requested range.
pub(super) struct OpenedRange {
    pub(super) body: ResponseBody,
    /// Position in the file where the part in the body ends; `None` if only the end of the body tells.
    pub(super) body_end: Option<u64>,
    /// The length of the file, if it was not known before.
    pub(super) total: Option<u64>,
}

type PendingOpen = Pin<Box<dyn Future<Output = Result<OpenedRange>> + Send>>;

/// The bytes of a range: exactly this many, or fewer and then an error. After the last byte the body is dropped, which
/// closes the connection to a server that would send more.
pub(super) struct ExactRange {
    state: StreamState,
    opener: Option<RangeOpener>,
    /// Position of the next byte in the file.
    pos: u64,
    /// Position in the file where the body ends, as declared by the server.
    body_end: Option<u64>,
    /// End of the range. `None` means the end of the body.
    end: Option<u64>,
}

enum StreamState {
    Reading(ResponseBody),
    /// The body covered less than the range; the rest is requested.
    RequestingRest(PendingOpen),
    Ended,
}

impl ExactRange {
    /// `body` contains the bytes from the start of `range` to `body_end`.
    pub(super) fn new(
        opener: RangeOpener,
        range: RangeRequest,
        body: ResponseBody,
        body_end: Option<u64>,
    ) -> Self {
        let opener = Some(opener);
        Self {
            state: StreamState::Reading(body),
            opener,
            pos: range.start,
            body_end,
            end: range.end,
        }
    }

    pub(super) fn empty() -> Self {
        Self { state: StreamState::Ended, opener: None, pos: 0, body_end: None, end: Some(0) }
    }

    fn cut_to_range(&mut self, mut bytes: Bytes) -> Bytes {
        let end = match (self.body_end, self.end) {
            (Some(body_end), Some(end)) => Some(body_end.min(end)),
            (body_end, end) => body_end.or(end),
        };
        if let Some(end) = end {
            bytes.truncate(usize::try_from(end - self.pos).unwrap_or(usize::MAX));
            self.pos += bytes.len() as u64;
            if self.pos == end {
                self.state = self.state_after(end);
            }
        }
        bytes
    }

    /// The next state after the body has delivered its bytes of the range, up to `pos`.
    fn state_after(&self, pos: u64) -> StreamState {
        match (&self.opener, self.end) {
            (Some(opener), Some(end)) if pos < end => {
                let (opener, rest) = (opener.clone(), RangeRequest::from(pos..end));
                StreamState::RequestingRest(Box::pin(async move { opener.open(rest).await }))
            }
            _ => StreamState::Ended,
        }
    }

    fn body_ended(&mut self, failure: Option<&ResponseFailure>) -> Option<Result<Bytes>> {
        self.state = StreamState::Ended;
        let opener = self.opener.as_ref()?;
        if let Some(failure) = failure {
            return Some(Err(response_error(opener.url(), failure)));
        }
        let left = self.end.or(self.body_end)?.saturating_sub(self.pos);
        if left == 0 {
            return None;
        }
        // An answer shorter than its declared length counts as a broken connection.
        let kind = match self.body_end.or(opener.remote.len) {
            Some(end) if self.pos < end => Kind::Network,
            _ => Kind::Corrupt,
        };
        let text = format!("{}: the file ends {left} bytes early", display_url(opener.url()));
        Some(Err(Error::new(kind, text)))
    }
}

impl Stream for ExactRange {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match &mut self.state {
                StreamState::Ended => return Poll::Ready(None),
                StreamState::RequestingRest(request) => {
                    match ready!(request.as_mut().poll(context)) {
                        Ok(OpenedRange { body, body_end, .. }) => {
                            self.body_end = body_end;
                            self.state = StreamState::Reading(body);
                        }
                        Err(error) => {
                            self.state = StreamState::Ended;
                            return Poll::Ready(Some(Err(error)));
                        }
                    }
                }
                StreamState::Reading(body) => match ready!(Pin::new(body).poll_next(context)) {
                    Some(Ok(bytes)) if bytes.is_empty() => {}
                    Some(Ok(bytes)) => return Poll::Ready(Some(Ok(self.cut_to_range(bytes)))),
                    Some(Err(failure)) => return Poll::Ready(self.body_ended(Some(&failure))),
                    None => return Poll::Ready(self.body_ended(None)),
                },
            }
        }
    }
}
