//! Requests whose answer is not a file: the blocks, records and lists that other protocols read from web servers.
//! Redirects, logins and headers work as for every other request. The status is for the caller to judge.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use hyper::{
    Method, StatusCode,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use url::Url;

use super::{
    Http,
    client::{OtherRequest, RequestSpec},
    errors::{response_error, retry_after, status_error},
    transport::ResponseBody,
};
use crate::{
    error::{Error, Kind, Result},
    protocols::display_url,
};

/// A request.
#[derive(Debug, Clone)]
pub(in crate::protocols) struct PlainRequest<'a> {
    pub(in crate::protocols) url: &'a Url,
    pub(in crate::protocols) method: Method,
    /// They replace those of the user.
    pub(in crate::protocols) headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether the answer is long, so that it should not share a connection.
    pub(in crate::protocols) is_long: bool,
}

impl<'a> PlainRequest<'a> {
    /// A GET that accepts `content_type`.
    pub(in crate::protocols) fn get(url: &'a Url, content_type: &'static str) -> Self {
        let accept = (hyper::header::ACCEPT, HeaderValue::from_static(content_type));
        Self { url, method: Method::GET, headers: vec![accept], is_long: false }
    }
}

/// The head of an answer, and its body to be read.
pub(in crate::protocols) struct PlainResponse {
    url: Url,
    pub(in crate::protocols) status: StatusCode,
    headers: HeaderMap,
    body: ResponseBody,
}

impl std::fmt::Debug for PlainResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PlainResponse").field("status", &self.status).finish_non_exhaustive()
    }
}

impl PlainResponse {
    /// The URL that answered, after redirects.
    pub(in crate::protocols) fn url(&self) -> &Url {
        &self.url
    }

    pub(in crate::protocols) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The content type without its parameters, in lower case; empty if there is none.
    pub(in crate::protocols) fn content_type(&self) -> String {
        let text = self.header("content-type").unwrap_or_default();
        text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }

    /// The delay that the server requests.
    pub(in crate::protocols) fn retry_after(&self) -> Option<Duration> {
        retry_after(&self.headers)
    }

    /// The error that the status means.
    pub(in crate::protocols) fn status_error(&self) -> Error {
        status_error(&self.url, self.status, &self.headers)
    }

    /// The next bytes of the body; `None` at its end.
    pub(in crate::protocols) async fn next(&mut self) -> Option<Result<Bytes>> {
        let part = self.body.next().await?;
        Some(part.map_err(|failure| response_error(&self.url, &failure)))
    }

    /// Reads the body to its end.
    ///
    /// # Errors
    /// `Unsupported` if it is longer than `max`; nothing is read if the length says so. Errors of the connection.
    pub(in crate::protocols) async fn read(mut self, max: usize) -> Result<Bytes> {
        let too_long = |url: &Url| {
            let text = format!("{}: the answer has more than {max} bytes", display_url(url));
            Error::new(Kind::Unsupported, text)
        };
        let len = self.header("content-length").and_then(|text| text.parse::<usize>().ok());
        if len.is_some_and(|len| len > max) {
            return Err(too_long(&self.url));
        }
        let mut all = BytesMut::with_capacity(len.unwrap_or(0));
        while let Some(part) = self.next().await {
            let part = part?;
            if all.len() + part.len() > max {
                return Err(too_long(&self.url));
            }
            all.extend_from_slice(&part);
        }
        Ok(all.freeze())
    }

    /// Reads the beginning of the body: the first `max` bytes, or fewer if the body ends or fails before.
    pub(in crate::protocols) async fn read_start(mut self, max: usize) -> Bytes {
        let mut start = BytesMut::new();
        while start.len() < max
            && let Some(Ok(part)) = self.next().await
        {
            start.extend_from_slice(&part);
        }
        start.truncate(max);
        start.freeze()
    }
}

impl Http {
    /// Sends a request.
    ///
    /// # Errors
    /// Those of the connection; `Unauthenticated` for a final 401; `Unsupported` for a redirect that is not followed.
    pub(in crate::protocols) async fn request(
        &self,
        request: PlainRequest<'_>,
    ) -> Result<PlainResponse> {
        let PlainRequest { url, method, headers, is_long } = request;
        let other = Some(OtherRequest { method, headers, body: "", is_long });
        let spec = RequestSpec { other, ..RequestSpec::first(url, None) };
        let (at, response) = self.client.send_following_redirects(spec).await?;
        let (head, body) = response.into_parts();
        Ok(PlainResponse { url: at, status: head.status, headers: head.headers, body })
    }
}
