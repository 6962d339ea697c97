//! The file that is fetched: at one server, or at several that have the same.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use parking_lot::{Mutex, RwLock};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::fetch::Tries;
use crate::{
    error::{Error, Kind, Result},
    protocols::{Begun, ByteStream, Digest, Found, Protocol, Remote, Validator, Wanted, place},
};

/// A server that says nothing for so long is told of.
const QUIET: Duration = Duration::from_secs(2);

/// A file at one server.
pub struct Mirror {
    protocol: Arc<dyn Protocol>,
    remote: RwLock<Remote>,
    /// What the first request brought, until it is read on.
    first: Mutex<Option<ByteStream>>,
    /// The first request brought something.
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

    /// `first` is all of the file, on its way already.
    #[must_use]
    pub fn begun(protocol: Arc<dyn Protocol>, remote: Remote, first: Option<ByteStream>) -> Self {
        let begins = first.is_some();
        Self { protocol, remote: RwLock::new(remote), first: Mutex::new(first), begins }
    }

    /// Whether a request like the first brings the file.
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

    /// Asks as for the first time, and takes what is there now for the file. `None` where the protocol does not bring
    /// the bytes with that: then the file is still the one before.
    ///
    /// # Errors
    /// What the server says.
    pub(super) async fn begin_again(&self) -> Result<Option<ByteStream>> {
        let asked = self.remote().asked;
        let Begun { found: Found::File(now), first: Some(first) } =
            self.protocol.begin(&asked).await?
        else {
            return Ok(None);
        };
        *self.remote.write() = now;
        Ok(Some(first))
    }

    /// Whether an error may only mean that the place it was redirected to is good for a while.
    pub(super) fn may_have_moved(&self, error: &Error) -> bool {
        let remote = self.remote.read();
        remote.url != remote.asked
            && matches!(
                error.kind(),
                Kind::NotFound | Kind::PermissionDenied | Kind::Unauthenticated | Kind::Unsupported
            )
    }

    /// Asks where the file is now.
    ///
    /// # Errors
    /// `Changed` when it is another one; what the server says.
    pub(super) async fn find_again(&self) -> Result<()> {
        let before = self.remote();
        let Found::File(now) = self.protocol.probe(&before.asked).await? else {
            return Err(changed(&before));
        };
        let untold = now.validator.is_none() || before.validator.is_none();
        if !(now.is_same(&before) || untold && now.len == before.len) {
            return Err(changed(&before));
        }
        *self.remote.write() = Remote { validator: before.validator, ..now };
        Ok(())
    }
}

fn changed(remote: &Remote) -> Error {
    let text = format!("{}: the file is not what it was when it was begun", place(&remote.asked));
    Error::new(Kind::Changed, text)
}

/// One file. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Source {
    /// At least one.
    mirrors: Arc<[Mirror]>,
}

impl Source {
    /// # Errors
    /// `InvalidInput` when there is no mirror, or two say that the file has different lengths.
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

    /// What the first request brought. Another request is needed for the file's first bytes once this is dropped.
    pub fn take_first(&self) -> Option<ByteStream> {
        self.mirrors[0].first.lock().take()
    }

    /// What the first server says of the file.
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

    /// Whether it can be fetched in parts, from every mirror.
    #[must_use]
    pub fn ranges(&self) -> bool {
        self.len().is_some() && self.mirrors.iter().all(|mirror| mirror.remote.read().ranges)
    }

    /// What tells the versions apart, of every mirror that has such a thing.
    #[must_use]
    pub fn validators(&self) -> Vec<Validator> {
        self.mirrors.iter().filter_map(|mirror| mirror.remote.read().validator.clone()).collect()
    }

    /// The checksums that the servers give.
    #[must_use]
    pub fn digests(&self) -> Vec<Digest> {
        self.mirrors.iter().flat_map(|mirror| mirror.remote.read().digests.clone()).collect()
    }
}

/// Told while a server is waited for: nothing came yet, or what came last is an error and it is asked again.
pub type Waits<'a> = &'a (dyn Fn(Option<&str>) + Send + Sync);

/// How often a server is asked, and how long it is waited for.
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
    /// Begins the download of `url`, again and again after what may pass.
    ///
    /// # Errors
    /// `Cancelled`; what the server said last.
    pub async fn begin(&self, protocol: &Arc<dyn Protocol>, url: &Url) -> Result<Begun> {
        self.ask(url, || protocol.begin(url)).await
    }

    /// What is at `url`, where its bytes are not wanted, or not from the first on.
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
