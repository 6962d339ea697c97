//! What the user named, found: a .torrent file, the URL of one, or a magnet link.

use std::time::Duration;

use super::magnet::Magnet;
use crate::{
    error::{Error, Kind, Result},
    torrents::bencode::MAX_INPUT,
};

/// A torrent by its file's bytes, or by its magnet link.
#[derive(Debug)]
pub(super) enum Source {
    Torrent(Vec<u8>),
    Magnet(String, Magnet),
}

/// How long a server may be silent when no `--timeout` is given.
const SILENCE: Duration = Duration::from_secs(60);

impl Source {
    pub(super) async fn find(text: &str, timeout: Option<Duration>) -> Result<Self> {
        let scheme = text.split_once(':').map(|(s, _)| s.to_ascii_lowercase()).unwrap_or_default();
        match scheme.as_str() {
            "magnet" => Ok(Self::Magnet(text.to_owned(), Magnet::parse(text)?)),
            "http" | "https" => fetch(text, timeout.unwrap_or(SILENCE)).await.map(Self::Torrent),
            _ if text.contains("://") => Err(Error::new(
                Kind::Unsupported,
                format!("source {text:?}: scheme {scheme:?} is not known"),
            )
            .hint("give a .torrent file, a magnet link, or the http(s) URL of a .torrent")),
            _ => read(text).await.map(Self::Torrent),
        }
    }
}

async fn read(path: &str) -> Result<Vec<u8>> {
    let owned = path.to_owned();
    let read = tokio::task::spawn_blocking(move || {
        let len = std::fs::metadata(&owned)?.len();
        if len > MAX_INPUT as u64 { Ok(Err(len)) } else { std::fs::read(&owned).map(Ok) }
    });
    let read =
        read.await.map_err(|e| Error::new(Kind::Internal, "reading a file panicked").because(e))?;
    match read {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(len)) => Err(too_large(path, len)),
        Err(e) => Err(Error::io(format!("torrent file {path}"), e)),
    }
}

async fn fetch(url: &str, timeout: Duration) -> Result<Vec<u8>> {
    let place = |e: reqwest::Error| {
        let kind = match e.status().map(|s| s.as_u16()) {
            Some(404 | 410) => Kind::NotFound,
            Some(401) => Kind::Unauthenticated,
            Some(403) => Kind::PermissionDenied,
            Some(429) => Kind::RateLimited,
            Some(500..) => Kind::Unavailable,
            Some(_) => Kind::InvalidInput,
            None => Kind::Network,
        };
        // The URL may carry a passkey: only its host is named.
        let host = e.url().and_then(|u| u.host_str()).unwrap_or("the server").to_owned();
        Error::new(kind, format!("torrent from {host}")).because(e.without_url())
    };
    let client = reqwest::Client::builder()
        .user_agent(concat!("bae/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(timeout)
        .read_timeout(timeout)
        .build()
        .map_err(place)?;
    let sent = client.get(url).send().await.and_then(reqwest::Response::error_for_status);
    let mut response = sent.map_err(place)?;
    let mut bytes = Vec::new();
    while let Some(part) = response.chunk().await.map_err(place)? {
        if bytes.len() + part.len() > MAX_INPUT {
            return Err(too_large("the answer", (bytes.len() + part.len()) as u64));
        }
        bytes.extend_from_slice(&part);
    }
    Ok(bytes)
}

fn too_large(what: &str, len: u64) -> Error {
    let text = format!("{what} has {len} bytes or more; a torrent file has at most {MAX_INPUT}");
    Error::new(Kind::InvalidInput, text)
}
