//! Resolves the source that the user named: a torrent by file, URL or magnet link, or files on a server.

use std::{error::Error as _, fmt, path::Path, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{
    magnet::{self, Magnet},
    source_file::{Input, as_magnet_link, decompressed_head, may_be_source, read, recognise},
};
use crate::{
    downloads::{FirstRequest, OnWait},
    engine::{
        DownloadOptions,
        get::{
            file_name,
            folder::{folder_name, local_paths},
        },
    },
    error::{Error, Kind, Result},
    hints::{Hint, Operation, hint},
    protocols::{
        ByteStream, FirstResponse, MagnetLink, Protocol, Protocols, RangeRequest, RemoteFile,
        SegmentedFile, UrlTarget, next_bytes, url_error_reason,
    },
    torrents::metainfo::bencode::MAX_INPUT,
};

/// A resolved source: the bytes of a torrent file, a magnet link in libtorrent's spelling, or
/// files that are no torrent.
#[derive(Debug)]
pub(in crate::engine) enum ImportSource {
    Torrent(Vec<u8>),
    Magnet(String, Magnet),
    Files(RemoteFiles),
}

/// One file on a server, or all files below a folder.
pub(in crate::engine) struct RemoteFiles {
    pub(in crate::engine) protocol: Arc<dyn Protocol>,
    /// Name of the file, or of the folder.
    pub(in crate::engine) name: String,
    /// Each file with its path in the import. Paths are safe and unique; in a folder they begin with `name`.
    pub(in crate::engine) files: Vec<(String, RemoteFile)>,
    /// The response body of the first request, when it carries the single file from its first byte.
    pub(in crate::engine) first: Mutex<Option<ByteStream>>,
}

impl RemoteFiles {
    /// The streams among the files.
    pub(in crate::engine) fn streams(&self) -> impl Iterator<Item = (&str, &Arc<SegmentedFile>)> {
        self.files
            .iter()
            .filter_map(|(path, remote)| Some((path.as_str(), remote.segments.as_ref()?)))
    }

    /// Whether a file is a live stream. Its bytes differ each time that it is fetched.
    pub(in crate::engine) fn is_live(&self) -> bool {
        self.streams().any(|(_, stream)| stream.is_live())
    }
}

impl fmt::Debug for RemoteFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteFiles").field("files", &self.files).finish_non_exhaustive()
    }
}

/// Hint for a folder that cannot be imported completely.
fn whole_folder_hint() -> Hint {
    hint![
        "a folder is imported as a whole: import its other files one by one, or download it with ",
        Operation::Get,
    ]
}

/// Bytes at the start of a file that identify a torrent. No torrent is shorter.
const HEAD_LEN: u64 = 24;
/// Bytes needed when the file is compressed, or may be the text of a magnet link.
const LONG_HEAD_LEN: u64 = 1024;

impl ImportSource {
    /// Resolves `text`. With `download`, the first request already transfers the bytes of a file; without it, files are
    /// only probed. `on_wait` is called while a server has not answered, and before a retry.
    pub(in crate::engine) async fn resolve(
        text: &str,
        options: &DownloadOptions,
        download: bool,
        on_wait: OnWait<'_>,
    ) -> Result<Self> {
        let trimmed = text.trim();
        let scheme =
            trimmed.split_once(':').map(|(s, _)| s.to_ascii_lowercase()).unwrap_or_default();
        let file = match scheme.as_str() {
            "magnet" => return Self::from_link(trimmed),
            "file" if trimmed[5..].starts_with('/') => Input::Path(path_of_file_url(trimmed)?),
            _ if trimmed.contains("://") => {
                return Self::from_server(trimmed, options, download, on_wait).await;
            }
            _ if text == "-" => Input::Stdin,
            _ if Path::new(text).exists() => Input::Path(text.into()),
            _ if Path::new(trimmed).exists() => Input::Path(trimmed.into()),
            _ => match magnet::link_of_info_hash(trimmed) {
                Some(link) => return Self::from_link(&link),
                None => Input::Path(text.into()),
            },
        };
        recognise(read(file, options.fetch.idle_timeout).await?)
    }

    fn from_link(link: &str) -> Result<Self> {
        let magnet = Magnet::parse(link)?;
        Ok(Self::Magnet(magnet.link(), magnet))
    }

    async fn from_server(
        text: &str,
        options: &DownloadOptions,
        download: bool,
        on_wait: OnWait<'_>,
    ) -> Result<Self> {
        // The error must not contain the text, which may hold a password.
        let bad = |e| {
            Error::new(Kind::InvalidInput, "the source is not a URL")
                .because(url_error_reason(text, e))
        };
        let url = Url::parse(text).map_err(bad)?;
        let protocols = Protocols::new(options.fetch.clone());
        let protocol = protocols.for_url(&url, options.protocol.as_deref())?;
        // Torrent URLs of trackers contain a passkey, often in the path.
        let hide = |e| if is_torrent_name(url.path()) { without_path(&url, e) } else { e };
        // The caller cancels by dropping this future.
        let never = CancellationToken::new();
        let first_request =
            FirstRequest { max_tries: options.fetch_limits.max_tries, cancel: &never, on_wait };
        let response = match download && !options.sidecar {
            true => first_request.probe_with_body(&protocol, &url).await,
            false => first_request.probe(&protocol, &url).await,
        };
        let FirstResponse { target: found, body: mut first } = match response {
            Err(e) => match e.source().and_then(|cause| cause.downcast_ref::<MagnetLink>()) {
                Some(MagnetLink(link)) => return Self::from_link(link).map_err(hide),
                None => return Err(hide(e)),
            },
            Ok(response) => response,
        };
        match found {
            UrlTarget::File(remote) => {
                if is_torrent(&*protocol, &remote, &mut first).await.map_err(hide)? {
                    let bytes = fetch(&*protocol, &remote, first).await.map_err(hide)?;
                    return recognise(bytes).map_err(hide);
                }
                let name = file_name(&remote)?;
                let files = vec![(name.clone(), remote)];
                Ok(Self::Files(RemoteFiles { protocol, name, files, first: Mutex::new(first) }))
            }
            UrlTarget::Folder(mut listing) => {
                // An import of a folder must have all of its files.
                if let Some(skipped) = listing.skipped.pop() {
                    return Err(Error::from(skipped).hint(whole_folder_hint()));
                }
                let name = folder_name(&listing)?;
                let paths: Result<Vec<_>> = local_paths(&listing).into_iter().collect();
                let paths = paths.map_err(|e| e.hint(whole_folder_hint()))?;
                let paths = paths.into_iter().map(|path| format!("{name}/{path}"));
                let remotes = listing.files.into_iter().map(|file| file.remote);
                let files: Vec<_> = paths.zip(remotes).collect();
                if files.is_empty() {
                    let text = format!("folder {name:?} has no files");
                    return Err(Error::new(Kind::NotFound, text));
                }
                Ok(Self::Files(RemoteFiles { protocol, name, files, first: Mutex::default() }))
            }
        }
    }
}

fn is_torrent_name(path: &str) -> bool {
    path.to_ascii_lowercase().ends_with(".torrent")
}

/// Whether the file is a torrent or the text of a magnet link. Decided by type or name; otherwise by the first bytes,
/// if the file is no longer than a torrent may be. Bytes read from `first` are put back.
async fn is_torrent(
    protocol: &dyn Protocol,
    remote: &RemoteFile,
    first: &mut Option<ByteStream>,
) -> Result<bool> {
    if remote.segments.is_some() {
        return Ok(false);
    }
    let by_type = remote.content_type.as_deref().is_some_and(|t| t.contains("x-bittorrent"));
    let by_name = remote.name.as_deref().is_some_and(is_torrent_name);
    if by_type
        || by_name
        || is_torrent_name(remote.url.path())
        || is_torrent_name(remote.requested_url.path())
    {
        return Ok(true);
    }
    if remote.len.is_some_and(|len| len < HEAD_LEN || len > MAX_INPUT as u64) {
        return Ok(false);
    }
    let has_body = first.is_some();
    let mut peek = Peek { head: Vec::new(), seen: Vec::new() };
    let mut stream = match first.take() {
        Some(first) => first,
        None => protocol.open(remote, head_range(remote, HEAD_LEN)).await?,
    };
    peek.read(&mut stream, HEAD_LEN).await?;
    if !looks_like_torrent(&peek.head) && may_be_source(&peek.head) {
        if !has_body {
            peek.head.clear();
            stream = protocol.open(remote, head_range(remote, LONG_HEAD_LEN)).await?;
        }
        peek.read(&mut stream, LONG_HEAD_LEN).await?;
    }
    let Peek { head, seen } = peek;
    *first = has_body.then(|| Box::pin(stream::iter(seen).chain(stream)) as ByteStream);
    let is_link = (head.len() as u64) < LONG_HEAD_LEN && as_magnet_link(&head).is_some();
    Ok(is_link || looks_like_torrent(&decompressed_head(&head)))
}

/// The range of the first `count` bytes, or of the whole file where that is shorter.
fn head_range(remote: &RemoteFile, count: u64) -> RangeRequest {
    RangeRequest { start: 0, end: Some(remote.len.map_or(count, |len| len.min(count))) }
}

/// The first bytes of a stream, and the items that were read from it to get them.
struct Peek {
    head: Vec<u8>,
    seen: Vec<Result<Bytes>>,
}

impl Peek {
    /// Reads until the head has `count` bytes, or the stream ends.
    async fn read(&mut self, stream: &mut ByteStream, count: u64) -> Result<()> {
        while (self.head.len() as u64) < count {
            match next_bytes(stream).await {
                Some(Ok(bytes)) => {
                    self.head.extend_from_slice(&bytes);
                    self.seen.push(Ok(bytes));
                }
                None => break,
                // The body is shorter than declared. The error is put back for the reader of the whole file.
                Some(Err(e)) if e.kind() == Kind::Corrupt => {
                    self.seen.push(Err(e));
                    break;
                }
                Some(Err(e)) => return Err(e),
            }
        }
        Ok(())
    }
}

/// Whether `head` begins with a bencoded dictionary whose first key is a short word, like `d8:announce`.
fn looks_like_torrent(head: &[u8]) -> bool {
    let Some(rest) = head.strip_prefix(b"d") else { return false };
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let len = std::str::from_utf8(&rest[..digits]).ok().and_then(|text| text.parse::<usize>().ok());
    let (Some(len), Some(key)) = (len, rest.get(digits + 1..)) else { return false };
    let is_word = |key: &[u8]| key.iter().all(|b| b.is_ascii_lowercase() || b" -.".contains(b));
    rest[digits] == b':' && (1..=20).contains(&len) && is_word(&key[..len.min(key.len())])
}

async fn fetch(
    protocol: &dyn Protocol,
    remote: &RemoteFile,
    first: Option<ByteStream>,
) -> Result<Vec<u8>> {
    let whole = RangeRequest { start: 0, end: remote.len };
    let mut stream = match first {
        Some(first) => first,
        None => protocol.open(remote, whole).await?,
    };
    let mut bytes = Vec::new();
    while let Some(part) = next_bytes(&mut stream).await.transpose()? {
        if bytes.len() + part.len() > MAX_INPUT {
            return Err(too_large("the response", (bytes.len() + part.len()) as u64));
        }
        bytes.extend_from_slice(&part);
    }
    Ok(bytes)
}

/// Removes the path from an error and names only the host.
fn without_path(url: &Url, error: Error) -> Error {
    let host = url.host_str().unwrap_or("the server");
    let text = error.report().replace(url.path(), "/…");
    Error::new(error.kind(), format!("torrent from {host}: {text}")).hint_of(&error)
}

/// The path of a `file:` URL.
fn path_of_file_url(text: &str) -> Result<std::path::PathBuf> {
    let path = Url::parse(text).ok().and_then(|url| url.to_file_path().ok());
    path.ok_or_else(|| {
        Error::new(Kind::InvalidInput, format!("{text} is not the URL of a local file"))
            .hint("write file:///PATH, or the path alone")
    })
}

pub(super) fn too_large(what: &str, len: u64) -> Error {
    let text = format!("{what} has {len} bytes or more; a torrent file has at most {MAX_INPUT}");
    Error::new(Kind::InvalidInput, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torrent_is_recognised_by_its_first_bytes() {
        for yes in
            [&b"d8:announce35:udp://tracker"[..], b"d4:infod6:lengthi1e", b"d13:creation datei1e"]
        {
            assert!(looks_like_torrent(yes), "{}", String::from_utf8_lossy(yes));
        }
        for no in [
            &b""[..],
            b"d",
            b"d20 dice and their rules",
            b"d1",
            b"<!DOCTYPE html>",
            b"d3:\x00\x01\x02",
        ] {
            assert!(!looks_like_torrent(no), "{}", String::from_utf8_lossy(no));
        }
    }

    #[test]
    fn an_error_about_a_torrent_names_only_the_host() {
        let url = Url::parse("https://t.example/dl/passkey/x.torrent").unwrap();
        let e = Error::new(Kind::NotFound, "t.example/dl/passkey/x.torrent: 404 Not Found");
        let hidden = without_path(&url, e);
        assert_eq!(hidden.kind(), Kind::NotFound);
        assert_eq!(hidden.report(), "torrent from t.example: t.example/…: 404 Not Found");
    }
}
