//! Fetches a whole document from a web server into memory: a list that is asked for again and again, and that is
//! mostly unchanged. Length and time are bounded.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::{
    StatusCode,
    header::{HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH},
};
use serde::{Deserialize, Serialize};
use url::Url;

use super::{FetchOptions, Http, display_url, http::PlainRequest};
use crate::error::{Error, Kind, Result};

/// Longest validator that is kept, in bytes.
const MAX_VALIDATOR: usize = 1024;

/// The version of a document as the server names it. Weak ETags are included: the bytes are parsed again anyway.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DocumentVersion {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modified: Option<String>,
}

impl DocumentVersion {
    fn conditions(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let etag = self.etag.as_ref().map(|etag| (IF_NONE_MATCH, etag));
        let modified = self.modified.as_ref().map(|modified| (IF_MODIFIED_SINCE, modified));
        let given = etag.into_iter().chain(modified);
        given.filter_map(|(name, text)| Some((name, HeaderValue::from_str(text).ok()?)))
    }
}

/// What is requested.
#[derive(Debug, Clone, Copy)]
pub struct DocumentRequest<'a> {
    /// An `http` or `https` URL.
    pub url: &'a Url,
    /// The value of `Accept`.
    pub accept: &'static str,
    /// The version that the caller has.
    pub known: Option<&'a DocumentVersion>,
    /// Most bytes of the document.
    pub max_len: usize,
    /// Time for the whole answer.
    pub timeout: Duration,
}

/// The answer to a [`DocumentRequest`].
#[derive(Debug, Clone)]
pub enum DocumentAnswer {
    /// The caller has the present version.
    Unchanged,
    Document(Document),
}

/// A document in memory.
#[derive(Debug, Clone)]
pub struct Document {
    /// Where it came from, after redirects.
    pub url: Url,
    /// The value of `Content-Type`.
    pub content_type: Option<String>,
    pub bytes: Bytes,
    pub version: DocumentVersion,
}

/// Fetches a document. Redirects, logins and proxies are those of all `http` URLs.
///
/// # Errors
/// `InvalidInput` for another scheme; `Unsupported` for a document that is too long; `Network` when the time is over;
/// the error of the status, with the delay that the server requests.
pub async fn fetch_document(
    options: &Arc<FetchOptions>,
    request: DocumentRequest<'_>,
) -> Result<DocumentAnswer> {
    let DocumentRequest { url, timeout, .. } = request;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        let text = format!("a document is fetched by http or https, not by {:?}", url.scheme());
        return Err(Error::new(Kind::InvalidInput, text));
    }
    let late = |_| {
        let text = format!("{}: no whole answer within {} s", display_url(url), timeout.as_secs());
        Error::new(Kind::Network, text)
    };
    tokio::time::timeout(timeout, fetch(options, request)).await.map_err(late)?
}

async fn fetch(
    options: &Arc<FetchOptions>,
    request: DocumentRequest<'_>,
) -> Result<DocumentAnswer> {
    let http = Http::new(options)?;
    let mut plain = PlainRequest::get(request.url, request.accept);
    plain.headers.extend(request.known.into_iter().flat_map(DocumentVersion::conditions));
    let response = http.request(plain).await?;
    match response.status {
        StatusCode::NOT_MODIFIED if request.known.is_some() => Ok(DocumentAnswer::Unchanged),
        StatusCode::OK | StatusCode::NON_AUTHORITATIVE_INFORMATION => {
            let text = |name: &str| {
                let value = response.header(name).filter(|value| value.len() <= MAX_VALIDATOR);
                value.map(str::to_owned)
            };
            let encoding = response.header("content-encoding").unwrap_or("identity");
            if !encoding.trim().eq_ignore_ascii_case("identity") {
                let text = format!("{}: sent in the coding {encoding:?}", display_url(request.url));
                return Err(Error::new(Kind::Unsupported, text));
            }
            let version = DocumentVersion { etag: text("etag"), modified: text("last-modified") };
            let (url, content_type) = (response.url().clone(), text("content-type"));
            let bytes = response.read(request.max_len).await?;
            Ok(DocumentAnswer::Document(Document { url, content_type, bytes, version }))
        }
        _ => Err(response.status_error()),
    }
}
