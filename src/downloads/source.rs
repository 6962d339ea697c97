//! The file to download, on one server or on several mirrors.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use parking_lot::{Mutex, RwLock};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::file_download::Tries;
use crate::{
    error::{Error, Kind, Result},
    protocols::{
        ByteStream, Digest, FirstResponse, Protocol, RangeRequest, RemoteFile, SegmentedFile,
        UrlTarget, Validator, display_url,
    },
};

/// A server that sends nothing for this long is reported.
const REPORT_AFTER: Duration = Duration::from_secs(2);

/// A file on one server.
pub struct Mirror {
    protocol: Arc<dyn Protocol>,
    remote: RwLock<RemoteFile>,
    /// The stream of the first response, until it is taken.
    first: Mutex<Option<ByteStream>>,
    /// Whether the first response carried bytes.
    first_request_has_body: bool,
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror").field("remote", &self.remote).finish_non_exhaustive()
    }
}

impl Mirror {
    #[must_use]
    pub fn new(protocol: Arc<dyn Protocol>, remote: RemoteFile) -> Self {
        Self::with_first_response(protocol, remote, None)
    }

    /// `first` is the stream of the whole file, if the first request has opened it.
    #[must_use]
    pub fn with_first_response(
        protocol: Arc<dyn Protocol>,
        remote: RemoteFile,
        first: Option<ByteStream>,
    ) -> Self {
        let first_request_has_body = first.is_some();
        Self {
            protocol,
            remote: RwLock::new(remote),
            first: Mutex::new(first),
            first_request_has_body,
        }
    }

    /// Whether a request like the first returns the bytes of the file.
    pub(super) fn first_request_has_body(&self) -> bool {
        self.first_request_has_body
    }

    #[must_use]
    pub fn remote(&self) -> RemoteFile {
        self.remote.read().clone()
    }

    pub(super) async fn open(&self, range: RangeRequest) -> Result<ByteStream> {
        let remote = self.remote();
        self.protocol.open(&remote, range).await
    }

    /// Repeats the first request, and uses the version of the file that it returns from now on. `None` when the
    /// protocol does not return bytes with it; the known version then stays.
    ///
    /// # Errors
    /// `Changed` when the version `must_match` and does not; errors of the server.
    pub(super) async fn repeat_first_request(
        &self,
        must_match: bool,
    ) -> Result<Option<ByteStream>> {
        let before = self.remote();
        let FirstResponse { target: UrlTarget::File(now), body: Some(first) } =
            self.protocol.probe_with_body(&before.requested_url).await?
        else {
            return Ok(None);
        };
        if must_match && !may_be_same(&before, &now) {
            return Err(changed_error(&before));
        }
        *self.remote.write() = now;
        Ok(Some(first))
    }

    /// Whether an error may only mean that the target of a redirect has expired.
    pub(super) fn may_have_moved(&self, error: &Error) -> bool {
        let remote = self.remote.read();
        // A stream fetches its list again by itself.
        remote.segments.is_none()
            && remote.url != remote.requested_url
            && matches!(
                error.kind(),
                Kind::NotFound | Kind::PermissionDenied | Kind::Unauthenticated | Kind::Unsupported
            )
    }

    /// Probes the original URL for the current location of the file.
    ///
    /// # Errors
    /// `Changed` when it is another file; errors of the server.
    pub(super) async fn probe_again(&self) -> Result<()> {
        let before = self.remote();
        let UrlTarget::File(now) = self.protocol.probe(&before.requested_url).await? else {
            return Err(changed_error(&before));
        };
        if !may_be_same(&before, &now) {
            return Err(changed_error(&before));
        }
        *self.remote.write() = RemoteFile { validator: before.validator, ..now };
        Ok(())
    }
}

/// Whether no validator shows a difference between the two versions, and at least the length or the ETag is equal.
fn may_be_same(before: &RemoteFile, now: &RemoteFile) -> bool {
    let same_len = now.len.is_some() && now.len == before.len;
    match (&before.validator, &now.validator) {
        (Some(Validator::ETag(was)), Some(Validator::ETag(is))) if now.len.is_none() => was == is,
        (Some(_), Some(_)) => now.is_same_version(before),
        _ => same_len,
    }
}

fn changed_error(remote: &RemoteFile) -> Error {
    let url = display_url(&remote.requested_url);
    let text = format!("{url}: the file changed on the server since the download started");
    Error::new(Kind::Changed, text)
}

/// One file. Cheap to clone; all clones share the mirrors.
#[derive(Debug, Clone)]
pub struct DownloadSource {
    /// Has at least one entry.
    mirrors: Arc<[Mirror]>,
}

impl DownloadSource {
    /// # Errors
    /// `InvalidInput` when there is no mirror, or mirrors report different lengths.
    pub fn new(mirrors: Vec<Mirror>) -> Result<Self> {
        let lens: Vec<_> =
            mirrors.iter().map(|mirror| (mirror.remote(), mirror.remote().len)).collect();
        let Some((first, len)) = lens.first() else {
            return Err(Error::new(Kind::InvalidInput, "download has no URL"));
        };
        if let Some((other, _)) = lens.iter().find(|(_, other)| other != len) {
            let (first, other) = (display_url(&first.url), display_url(&other.url));
            let text = format!("mirrors report different lengths: {first} and {other}");
            return Err(Error::new(Kind::InvalidInput, text).hint("remove the wrong one"));
        }
        Ok(Self { mirrors: mirrors.into() })
    }

    #[must_use]
    pub fn mirrors(&self) -> &[Mirror] {
        &self.mirrors
    }

    /// Takes the stream of the first response. Once it is dropped, the first bytes of the file need another request.
    pub fn take_first(&self) -> Option<ByteStream> {
        self.mirrors[0].first.lock().take()
    }

    /// The description of the file by the first mirror.
    #[must_use]
    pub fn remote(&self) -> RemoteFile {
        self.mirrors[0].remote()
    }

    #[must_use]
    pub fn len(&self) -> Option<u64> {
        self.remote().len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }

    /// Whether the length is known and every mirror supports range requests.
    #[must_use]
    pub fn supports_ranges(&self) -> bool {
        self.len().is_some()
            && self.mirrors.iter().all(|mirror| mirror.remote.read().supports_ranges)
    }

    /// Ranges that begin and end at multiples of this many bytes are cheaper for at least one of the mirrors.
    #[must_use]
    pub fn range_grain(&self) -> u64 {
        self.mirrors.iter().map(|mirror| mirror.protocol.range_grain()).max().unwrap_or(1)
    }

    /// The stream that the file is made of.
    #[must_use]
    pub fn stream(&self) -> Option<Arc<SegmentedFile>> {
        self.mirrors[0].remote.read().segments.clone()
    }

    /// The stream, if it is live.
    pub(super) fn live_stream(&self) -> Option<Arc<SegmentedFile>> {
        self.stream().filter(|stream| stream.is_live())
    }

    /// The validators of all mirrors that send one.
    #[must_use]
    pub fn validators(&self) -> Vec<Validator> {
        self.mirrors.iter().filter_map(|mirror| mirror.remote.read().validator.clone()).collect()
    }

    /// The checksums that the servers send.
    #[must_use]
    pub fn digests(&self) -> Vec<Digest> {
        self.mirrors.iter().flat_map(|mirror| mirror.remote.read().digests.clone()).collect()
    }
}

/// Called while waiting for a server: with `None` when no response has arrived yet, with an error before a retry.
pub type OnWait<'a> = &'a (dyn Fn(Option<&str>) + Send + Sync);

/// Sends the first request to a server, with retries and cancellation.
#[derive(Clone, Copy)]
pub struct FirstRequest<'a> {
    /// At least 1.
    pub max_tries: u32,
    pub cancel: &'a CancellationToken,
    pub on_wait: OnWait<'a>,
}

impl fmt::Debug for FirstRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FirstRequest").field("max_tries", &self.max_tries).finish_non_exhaustive()
    }
}

impl FirstRequest<'_> {
    /// Sends the first request of a download of `url`, and repeats it after retryable errors.
    ///
    /// # Errors
    /// `Cancelled`; the last error of the server.
    pub async fn probe_with_body(
        &self,
        protocol: &Arc<dyn Protocol>,
        url: &Url,
    ) -> Result<FirstResponse> {
        self.with_retries(url, || protocol.probe_with_body(url)).await
    }

    /// Probes `url`, when its bytes are not wanted, or not from the first one on.
    ///
    /// # Errors
    /// As [`FirstRequest::probe_with_body`].
    pub async fn probe(&self, protocol: &Arc<dyn Protocol>, url: &Url) -> Result<FirstResponse> {
        let found = self.with_retries(url, || protocol.probe(url)).await?;
        Ok(FirstResponse { target: found, body: None })
    }

    async fn with_retries<T, F: Future<Output = Result<T>> + Unpin>(
        &self,
        url: &Url,
        send_request: impl Fn() -> F,
    ) -> Result<T> {
        let stopped = || Error::new(Kind::Cancelled, "stopped");
        let mut tries = Tries::new(self.max_tries);
        loop {
            tracing::info!("requesting {}", display_url(url));
            let (mut response, mut reported) = (send_request(), false);
            let error = loop {
                tokio::select! {
                    () = self.cancel.cancelled() => return Err(stopped()),
                    response = &mut response => match response {
                        Ok(response) => return Ok(response),
                        Err(error) => break error,
                    },
                    () = tokio::time::sleep(REPORT_AFTER), if !reported => {
                        reported = true;
                        (self.on_wait)(None);
                    }
                }
            };
            if !error.kind().is_retryable() || !tries.allows_retry(&error, 0) {
                return Err(error);
            }
            (self.on_wait)(Some(&error.report()));
            tokio::select! {
                () = self.cancel.cancelled() => return Err(stopped()),
                () = tries.wait() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_without_a_length_or_an_etag_is_not_the_same_file() {
        let remote = |len, tag: &str| RemoteFile {
            len,
            validator: (!tag.is_empty()).then(|| Validator::ETag(tag.to_owned())),
            ..RemoteFile::from_url("http://x/f".parse().unwrap())
        };
        let before = remote(Some(9), "\"a\"");
        for (len, tag, same) in [
            (Some(9), "\"a\"", true),
            (Some(9), "", true),
            (None, "\"a\"", true),
            (None, "", false),
            (Some(8), "", false),
            (Some(8), "\"a\"", false),
            (Some(9), "\"b\"", false),
            (None, "\"b\"", false),
        ] {
            assert_eq!(may_be_same(&before, &remote(len, tag)), same, "{len:?} {tag}");
        }
        assert!(!may_be_same(&remote(None, ""), &remote(None, "")));
    }
}
