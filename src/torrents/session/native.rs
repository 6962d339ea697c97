//! libtorrent's session and its torrents, as Rust owns them, and the order in which they end.
//!
//! libtorrent's session and handles are thread-safe, so calls need no lock around them. One rule is left: the session
//! must not end during a call. A handle reaches the session through a plain reference, and a call that waits for the
//! network thread would wait for ever once that thread has ended. So only [`call`] makes calls. It holds an [`Arc`] of
//! the session meanwhile, which it takes from a weak reference; without a session the call is `Cancelled`.
//!
//! The end, in order:
//! 1. [`NativeSession::end`] marks the session. Later calls are `Cancelled`.
//! 2. It drops its `Arc`. Calls in flight hold theirs, and libtorrent answers them.
//! 3. The last `Arc` hands the C++ session to a thread of its own, on whichever thread it is dropped: the destructor
//!    joins the network thread. That thread ends when every disk job is completed, so `Disk::abort` comes before.
//! 4. The C++ session drops its `DiskEngine` last: until then libtorrent may call it.
//!
//! Torrents may be dropped before or after: their handles are weak. A call on a torrent that has left the session is
//! `NotFound`.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use cxx::UniquePtr;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::failures;
use crate::{
    error::{Error, Kind, Result},
    torrents::disk::{
        Disk,
        callbacks::DiskEngine,
        ffi::{AddTorrent, Session, SessionConfig, TorrentHandle, new_session},
    },
};

/// The owner of libtorrent's session.
pub(super) struct NativeSession {
    owned: Mutex<Option<Arc<LiveSession>>>,
    live: Weak<LiveSession>,
    ended: CancellationToken,
}

/// The session while calls can be made. Dropping it never waits.
struct LiveSession {
    session: UniquePtr<Session>,
    ending: AtomicBool,
    /// Cancelled when the network thread has ended.
    ended: CancellationToken,
}

impl Drop for LiveSession {
    fn drop(&mut self) {
        let session = std::mem::replace(&mut self.session, UniquePtr::null());
        let ended = self.ended.clone();
        let end = move || {
            drop(session);
            ended.cancel();
        };
        if let Err(e) = thread::Builder::new().name("bae-session-end".into()).spawn(end) {
            // The closure was dropped with the session, so the wait was here.
            tracing::warn!("the torrent session ended without a thread of its own: {e}");
            self.ended.cancel();
        }
    }
}

/// Makes one call, with the session alive until it returns. Calls that wait for the network thread are made by
/// [`blocking`].
fn call<T>(
    live: &Weak<LiveSession>,
    call: impl FnOnce(&Session) -> Result<T, cxx::Exception>,
) -> Result<T> {
    let session = live.upgrade().filter(|live| !live.ending.load(Ordering::Acquire));
    let session = session.ok_or_else(failures::session_ended)?;
    call(&session.session).map_err(|e| failures::error(&e))
}

/// Runs a call that waits for the network thread, on a thread that may wait.
pub(super) async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(call)
        .await
        .map_err(|e| Error::new(Kind::Internal, "a call into libtorrent panicked").because(e))?
}

impl NativeSession {
    pub(super) fn start(config: &SessionConfig, disk: Arc<Disk>) -> Result<Self> {
        let session = new_session(config, Box::new(DiskEngine::new(disk)))
            .map_err(|e| failures::error(&e).with_context("cannot start the torrent session"))?;
        let ended = CancellationToken::new();
        let live = LiveSession { session, ending: AtomicBool::new(false), ended: ended.clone() };
        let live = Arc::new(live);
        Ok(Self { live: Arc::downgrade(&live), owned: Mutex::new(Some(live)), ended })
    }

    /// Makes a call that does not wait.
    pub(super) fn call<T>(
        &self,
        call: impl FnOnce(&Session) -> Result<T, cxx::Exception>,
    ) -> Result<T> {
        self::call(&self.live, call)
    }

    /// Adds a torrent. Waits for the network thread.
    pub(super) fn add(&self, torrent: &AddTorrent) -> Result<NativeTorrent> {
        let handle = self.call(|session| session.add(torrent))?;
        Ok(NativeTorrent { handle, live: Weak::clone(&self.live) })
    }

    /// Ends the session as soon as no call is in flight. The result is cancelled when it has ended.
    pub(super) fn end(&self) -> CancellationToken {
        let session = self.owned.lock().take();
        if let Some(session) = &session {
            session.ending.store(true, Ordering::Release);
        }
        drop(session);
        self.ended.clone()
    }
}

/// One torrent in the session. It stays there until [`NativeTorrent::remove`].
pub(in crate::torrents) struct NativeTorrent {
    handle: UniquePtr<TorrentHandle>,
    live: Weak<LiveSession>,
}

impl NativeTorrent {
    /// Makes a call that does not wait.
    pub(super) fn call<T>(
        &self,
        call: impl FnOnce(&TorrentHandle) -> Result<T, cxx::Exception>,
    ) -> Result<T> {
        self::call(&self.live, |_| call(&self.handle))
    }

    /// Makes a call that waits for the network thread.
    pub(in crate::torrents) async fn wait<T: Send + 'static>(
        self: &Arc<Self>,
        call: impl FnOnce(&TorrentHandle) -> Result<T, cxx::Exception> + Send + 'static,
    ) -> Result<T> {
        let this = Arc::clone(self);
        blocking(move || this.call(call)).await
    }

    pub(super) fn remove(&self) -> Result<()> {
        self::call(&self.live, |session| session.remove(&self.handle))
    }
}
