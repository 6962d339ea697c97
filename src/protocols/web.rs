//! `http` and `https` URLs without `--protocol`: files, and streams that are recognised by their content.
//!
//! The first bytes of the first answer decide. A playlist of HLS or a manifest of DASH is read to its end, and the
//! stream is fetched instead. Every other answer stays what it is: its first bytes are put back.

use std::sync::Arc;

use async_trait::async_trait;
use url::Url;

use super::{
    ByteStream, FetchOptions, FirstResponse, Protocol, RangeRequest, RemoteFile, Rendition,
    UrlTarget,
    dash::{self, Dash},
    hls::{self, Hls},
    http::Http,
    next_bytes,
    segments::{MAX_LIST_LEN, peek},
};
use crate::error::{Error, Kind, Result};

pub(super) const SCHEMES: &[&str] = &["web"];

/// Bytes at the start of a list that contain its first tags.
const HEAD_LEN: usize = 1024;

/// The protocol of web servers.
#[derive(Debug)]
pub(super) struct Web {
    http: Arc<Http>,
    hls: Hls,
    dash: Dash,
}

pub(super) fn make(options: &Arc<FetchOptions>) -> Result<Arc<dyn Protocol>> {
    let http = Arc::new(Http::new(options)?);
    let hls = Hls::new(Arc::clone(&http), options);
    let dash = Dash::new(Arc::clone(&http), options);
    Ok(Arc::new(Web { http, hls, dash }))
}

impl Web {
    /// Sends the first request for `url`, and looks whether the answer is a list.
    async fn first_answer(&self, url: &Url) -> Result<Answer> {
        let response = self.http.probe_with_body(url).await?;
        let (UrlTarget::File(remote), Some(body)) = (&response.target, response.body) else {
            return Ok(Answer::other(FirstResponse { body: None, ..response }));
        };
        if !may_be_list(remote) {
            return Ok(Answer::other(FirstResponse { body: Some(body), ..response }));
        }
        let peeked = peek(body, HEAD_LEN).await;
        let kind = match &peeked.head {
            head if hls::is_playlist_head(head) => ListKind::Hls,
            head if dash::is_manifest_head(head) => ListKind::Dash,
            _ => return Ok(Answer::other(FirstResponse { body: Some(peeked.stream), ..response })),
        };
        let bytes = Self::read_list(peeked.stream).await?;
        Ok(Answer::List(kind, Box::new(remote.clone()), bytes))
    }

    /// Reads the rest of a list.
    async fn read_list(mut body: ByteStream) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(bytes) = next_bytes(&mut body).await.transpose()? {
            all.extend_from_slice(&bytes);
            if all.len() > MAX_LIST_LEN {
                return Err(Error::new(Kind::Unsupported, "the list is longer than 32 MiB"));
            }
        }
        Ok(all)
    }
}

/// The first answer of a server.
enum Answer {
    List(ListKind, Box<RemoteFile>, Vec<u8>),
    Other(Box<FirstResponse>),
}

impl Answer {
    fn other(response: FirstResponse) -> Self {
        Self::Other(Box::new(response))
    }
}

enum ListKind {
    Hls,
    Dash,
}

#[async_trait]
impl Protocol for Web {
    async fn probe(&self, url: &Url) -> Result<UrlTarget> {
        let target = self.http.probe(url).await?;
        match &target {
            UrlTarget::File(remote) if is_named_like_a_list(remote) => {
                let FirstResponse { target, .. } = self.probe_with_body(url).await?;
                Ok(target)
            }
            _ => Ok(target),
        }
    }

    async fn probe_with_body(&self, url: &Url) -> Result<FirstResponse> {
        let target = match self.first_answer(url).await? {
            Answer::Other(response) => return Ok(*response),
            Answer::List(ListKind::Hls, list, bytes) => self.hls.target_of(&list, &bytes).await?,
            Answer::List(ListKind::Dash, list, bytes) => self.dash.target_of(&list, &bytes).await?,
        };
        Ok(FirstResponse { target, body: None })
    }

    async fn renditions(&self, url: &Url) -> Result<Vec<Rendition>> {
        match self.first_answer(url).await? {
            Answer::Other(_) => Ok(Vec::new()),
            Answer::List(ListKind::Hls, list, bytes) => self.hls.renditions_of(&list, &bytes),
            Answer::List(ListKind::Dash, list, bytes) => self.dash.renditions_of(&list, &bytes),
        }
    }

    async fn open(&self, remote: &RemoteFile, range: RangeRequest) -> Result<ByteStream> {
        match &remote.segments {
            Some(file) => file.open(range).await,
            None => self.http.open(remote, range).await,
        }
    }
}

/// Whether the type or the name of a file is that of a list.
fn is_named_like_a_list(remote: &RemoteFile) -> bool {
    let kind = remote.content_type.as_deref().unwrap_or_default().to_ascii_lowercase();
    let is_list_type = ["mpegurl", "dash+xml"].iter().any(|name| kind.contains(name));
    let is_list_name = |url: &Url| {
        let path = url.path().to_ascii_lowercase();
        [".m3u8", ".m3u", ".mpd"].iter().any(|suffix| path.ends_with(suffix))
    };
    is_list_type || is_list_name(&remote.url) || is_list_name(&remote.requested_url)
}

/// Whether a file may be a list: short enough, and not of a type that excludes it.
fn may_be_list(remote: &RemoteFile) -> bool {
    let kind = remote.content_type.as_deref().unwrap_or_default().to_ascii_lowercase();
    let other = ["image/", "video/", "audio/", "font/", "application/zip", "application/pdf"];
    let is_other = other.iter().any(|start| kind.starts_with(start));
    let fits = remote.len.is_none_or(|len| len > 0 && len <= MAX_LIST_LEN as u64);
    fits && (is_named_like_a_list(remote) || !is_other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(url: &str, content_type: &str, len: Option<u64>) -> RemoteFile {
        let content_type = (!content_type.is_empty()).then(|| content_type.to_owned());
        RemoteFile { content_type, len, ..RemoteFile::from_url(url.parse().unwrap()) }
    }

    #[test]
    fn only_short_files_of_suitable_types_are_looked_into() {
        let may = |url, kind, len| may_be_list(&file(url, kind, len));
        assert!(may("http://x/a", "", Some(100)) && may("http://x/a", "text/plain", None));
        assert!(may("http://x/a", "audio/mpegurl", Some(100)));
        assert!(may("http://x/a", "application/vnd.apple.mpegurl", Some(100)));
        assert!(may("http://x/a.m3u8", "video/mp2t", Some(100)));
        assert!(!may("http://x/a", "video/mp4", Some(100)) && !may("http://x/a", "", Some(0)));
        assert!(!may("http://x/a.iso", "", Some(1 << 30)));
        assert!(is_named_like_a_list(&file("http://x/a.mpd?x", "", None)));
        assert!(!is_named_like_a_list(&file("http://x/a?x=.mpd", "text/xml", None)));
    }
}
