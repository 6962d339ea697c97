//! The file to download, on one server or on several mirrors.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use parking_lot::{Mutex, RwLock};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::fetch::Tries;
use crate::{
    error::{Error, Kind, Result},
    protocols::{Begun, ByteStream, Digest, Found, Protocol, Remote, Validator, Wanted, place},
};

/// A server that sends nothing for this long is reported.
const QUIET: Duration = Duration::from_secs(2);

/// A file on one server.
pub struct Mirror {
    protocol: Arc<dyn Protocol>,
    remote: RwLock<Remote>,
    /// The stream of the first response, until it is taken.
    first: Mutex<Option<ByteStream>>,
    /// Whether the first response carried bytes.
    begins: bool,
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror").field("remote", &self.remote).finish_non_exhaustive()
    }
}

impl Mirror {
    #[must_use]
    pub fn new(protocol: Arc<dyn Protocol>, remote: Remote) -> Self {
        Self::begun(protocol, remote, None)
    }

    /// `first` is the stream of the whole file, if the first request has opened it.
    #[must_use]
    pub fn begun(protocol: Arc<dyn Protocol>, remote: Remote, first: Option<ByteStream>) -> Self {
        let begins = first.is_some();
        Self { protocol, remote: RwLock::new(remote), first: Mutex::new(first), begins }
    }

    /// Whether a request like the first returns the bytes of the file.
    pub(super) fn begins(&self) -> bool {
        self.begins
    }

    #[must_use]
    pub fn remote(&self) -> Remote {
        self.remote.read().clone()
    }

    pub(super) async fn open(&self, range: Wanted) -> Result<ByteStream> {
        let remote = self.remote();
        self.protocol.open(&remote, range).await
    }

    /// Repeats the first request, and uses the version of the file that it returns from now on. `None` when the
    /// protocol does not return bytes with it; the known version then stays.
    ///
    /// # Errors
    /// `Changed` when it must be the `same` version and is not; errors of the server.
    pub(super) async fn begin_again(&self, same: bool) -> Result<Option<ByteStream>> {
        let before = self.remote();
        let Begun { found: Found::File(now), first: Some(first) } =
            self.protocol.begin(&before.asked).await?
        else {
            return Ok(None);
        };
        if same && !may_be_same(&before, &now) {
            return Err(changed(&before));
        }
        *self.remote.write() = now;
        Ok(Some(first))
    }

    /// Whether an error may only mean that the target of a redirect has expired.
    pub(super) fn may_have_moved(&self, error: &Error) -> bool {
        let remote = self.remote.read();
        remote.url != remote.asked
            && matches!(
                error.kind(),
                Kind::NotFound | Kind::PermissionDenied | Kind::Unauthenticated | Kind::Unsupported
            )
    }

    /// Probes the original URL for the current location of the file.
    ///
    /// # Errors
    /// `Changed` when it is another file; errors of the server.
    pub(super) async fn find_again(&self) -> Result<()> {
        let before = self.remote();
        let Found::File(now) = self.protocol.probe(&before.asked).await? else {
            return Err(changed(&before));
        };
        if !may_be_same(&before, &now) {
            return Err(changed(&before));
        }
        *self.remote.write() = Remote { validator: before.validator, ..now };
        Ok(())
    }
}

/// Whether nothing tells the two versions apart, and at least the length or the ETag tells that they are one.
fn may_be_same(before: &Remote, now: &Remote) -> bool {
    let same_len = now.len.is_some() && now.len == before.len;
    match (&before.validator, &now.validator) {
        (Some(Validator::ETag(was)), Some(Validator::ETag(is))) if now.len.is_none() => was == is,
        (Some(_), Some(_)) => now.is_same(before),
        _ => same_len,
    }
}

fn changed(remote: &Remote) -> Error {
    let text = format!("{}: the file is not what it was when it was begun", place(&remote.asked));
    Error::new(Kind::Changed, text)
}

/// One file. Cheap to clone; all clones share the mirrors.
#[derive(Debug, Clone)]
pub struct Source {
    /// Has at least one entry.
    mirrors: Arc<[Mirror]>,
}

impl Source {
    /// # Errors
    /// `InvalidInput` when there is no mirror, or mirrors report different lengths.
    pub fn new(mirrors: Vec<Mirror>) -> Result<Self> {
        let lens: Vec<_> =
            mirrors.iter().map(|mirror| (mirror.remote(), mirror.remote().len)).collect();
        let Some((first, len)) = lens.first() else {
            return Err(Error::new(Kind::InvalidInput, "a download without a URL"));
        };
        if let Some((other, _)) = lens.iter().find(|(_, other)| other != len) {
            let text =
                format!("{} and {} have not the same length", place(&first.url), place(&other.url));
            return Err(
                Error::new(Kind::InvalidInput, text).hint("leave out the one that is not it")
            );
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
    pub fn remote(&self) -> Remote {
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
    pub fn ranges(&self) -> bool {
        self.len().is_some() && self.mirrors.iter().all(|mirror| mirror.remote.read().ranges)
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
pub type Waits<'a> = &'a (dyn Fn(Option<&str>) + Send + Sync);

/// Retries and cancellation of the first request to a server.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    /// At least 1.
    pub max_tries: u32,
    pub cancel: &'a CancellationToken,
    pub waits: Waits<'a>,
}

impl fmt::Debug for Asking<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asking").field("max_tries", &self.max_tries).finish_non_exhaustive()
    }
}

impl Asking<'_> {
    /// Sends the first request of a download of `url`, and repeats it after retryable errors.
    ///
    /// # Errors
    /// `Cancelled`; the last error of the server.
    pub async fn begin(&self, protocol: &Arc<dyn Protocol>, url: &Url) -> Result<Begun> {
        self.ask(url, || protocol.begin(url)).await
    }

    /// Probes `url`, when its bytes are not wanted, or not from the first one on.
    ///
    /// # Errors
    /// As [`Asking::begin`].
    pub async fn probe(&self, protocol: &Arc<dyn Protocol>, url: &Url) -> Result<Begun> {
        let found = self.ask(url, || protocol.probe(url)).await?;
        Ok(Begun { found, first: None })
    }

    async fn ask<T, F: Future<Output = Result<T>> + Unpin>(
        &self,
        url: &Url,
        question: impl Fn() -> F,
    ) -> Result<T> {
        let stopped = || Error::new(Kind::Cancelled, "stopped");
        let mut tries = Tries::new(self.max_tries);
        loop {
            tracing::info!("asking {}", place(url));
            let (mut answer, mut quiet) = (question(), true);
            let error = loop {
                tokio::select! {
                    () = self.cancel.cancelled() => return Err(stopped()),
                    answer = &mut answer => match answer {
                        Ok(answer) => return Ok(answer),
                        Err(error) => break error,
                    },
                    () = tokio::time::sleep(QUIET), if quiet => {
                        quiet = false;
                        (self.waits)(None);
                    }
                }
            };
            if !error.kind().is_retryable() || !tries.again(&error, 0) {
                return Err(error);
            }
            (self.waits)(Some(&error.report()));
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
    fn an_answer_that_tells_nothing_of_the_version_is_not_the_same_file() {
        let remote = |len, tag: &str| Remote {
            len,
            validator: (!tag.is_empty()).then(|| Validator::ETag(tag.to_owned())),
            ..Remote::at("http://x/f".parse().unwrap())
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
