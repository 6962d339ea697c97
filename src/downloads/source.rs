//! The file that is fetched: at one server, or at several that have the same.

use std::sync::Arc;

use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::fetch::Tries;
use crate::{
    error::{Error, Kind, Result},
    protocols::{ByteStream, Digest, Found, Protocol, Remote, Validator, Wanted, place},
};

/// A file at one server.
#[derive(Debug)]
pub struct Mirror {
    protocol: Arc<dyn Protocol>,
    remote: RwLock<Remote>,
}

impl Mirror {
    #[must_use]
    pub fn new(protocol: Arc<dyn Protocol>, remote: Remote) -> Self {
        Self { protocol, remote: RwLock::new(remote) }
    }

    #[must_use]
    pub fn remote(&self) -> Remote {
        self.remote.read().clone()
    }

    pub(super) async fn open(&self, range: Wanted) -> Result<ByteStream> {
        let remote = self.remote();
        self.protocol.open(&remote, range).await
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
        let same = now.len == before.len
            && (now.validator == before.validator
                || now.validator.is_none()
                || before.validator.is_none());
        if !same {
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

/// Probes `url`, again and again after what may pass.
///
/// # Errors
/// `Cancelled`; what the server said last.
pub async fn find(
    protocol: &Arc<dyn Protocol>,
    url: &Url,
    max_tries: u32,
    cancel: &CancellationToken,
) -> Result<Found> {
    let mut tries = Tries::new(max_tries);
    loop {
        let error = tokio::select! {
            () = cancel.cancelled() => return Err(Error::new(Kind::Cancelled, "stopped")),
            found = protocol.probe(url) => match found {
                Ok(found) => return Ok(found),
                Err(error) => error,
            },
        };
        if !error.kind().is_retryable() || !tries.again(&error, 0) {
            return Err(error);
        }
        tokio::select! {
            () = cancel.cancelled() => return Err(Error::new(Kind::Cancelled, "stopped")),
            () = tries.wait() => {}
        }
    }
}
