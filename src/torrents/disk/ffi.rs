//! The only bridge to libtorrent, and the only `unsafe` code of the crate.
//!
//! libtorrent's network thread calls the `extern "Rust"` methods of [`DiskEngine`]. None of them waits, and each is
//! wrapped in [`guarded`], because a panic that reaches C++ would end the process. Jobs (`ReadJob`, `WriteJob`, …) own
//! libtorrent's handlers. Completing or dropping a job, on any thread, queues its handler for the network thread
//! (`cpp/jobs.hpp`). [`SessionBox`] carries the calls in the other direction.
//!
//! Teardown order: the session is dropped first. Its destructor joins the network thread, which needs every job
//! completed (`Disk::abort`). Then comes the engine that the session refers to, then the runtime that completes jobs.
#![allow(unsafe_code, reason = "this file is the bridge; every block says why it is sound")]
#![allow(unreachable_pub, reason = "what the bridge macro writes is public in a private module")]

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use bytes::Bytes;
use cxx::{SharedPtr, UniquePtr};

// Linked for its native library alone.
use libtorrent_sys as _;

use super::Disk;
use crate::torrents::picker::suggester::Have;

#[cxx::bridge(namespace = "bae")]
pub(in crate::torrents) mod bridge {
    /// The error that a failed disk job reports to libtorrent.
    #[derive(Debug, Clone, Copy)]
    #[repr(u8)]
    enum DiskError {
        /// `operation_aborted`: the picker treats the block as missing; the torrent gets no error.
        Aborted,
        /// The torrent stops requesting blocks (upload mode).
        NoSpace,
        /// A read is rejected; a write or hash pauses the torrent.
        Fatal,
    }

    /// One libtorrent setting by its name. `number` holds integers and booleans, `text` holds strings.
    #[derive(Debug, Clone)]
    struct Setting {
        name: String,
        number: i64,
        text: String,
    }

    struct AddTorrent {
        /// Our number for the torrent: the key of the registry, and the torrent named in alerts.
        torrent: u64,
        /// A .torrent file; empty when `magnet` is given.
        metainfo: Vec<u8>,
        magnet: String,
        max_pieces: u32,
        /// All pieces are durable, whatever `have` contains.
        complete: bool,
        /// One byte per piece, non-zero = durable; empty = none.
        have: Vec<u8>,
        /// Priority 0 to 7 per piece; empty = 4 for all.
        priorities: Vec<u8>,
        peers: Vec<String>,
        sequential: bool,
        dht: bool,
        lsd: bool,
        pex: bool,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum AlertKind {
        Metadata,
        Listening,
        ListenFailed,
        TrackerError,
        TrackerReply,
        TrackerWarning,
        NonFatalError,
        TorrentError,
    }

    /// The pieces that a peer has.
    struct PeerPieces<'a> {
        /// A bit per piece, the first piece in the highest bit of the first byte.
        bits: &'a [u8],
        /// The number of bits that are set.
        count: u32,
    }

    #[derive(Debug, Clone)]
    struct AlertInfo {
        kind: AlertKind,
        /// 0 for alerts of the session itself.
        torrent: u64,
        text: String,
        /// The tracker's URL, for tracker alerts. It may hold a passkey.
        url: String,
        /// The info dictionary, for `Metadata`; the info-hash, for a `TrackerError` without the tracker's message.
        data: Vec<u8>,
    }

    /// Totals are payload bytes of this session; rates are bytes per second.
    #[derive(Debug, Clone, Default)]
    struct TorrentStatus {
        torrent: u64,
        downloaded: u64,
        uploaded: u64,
        upload_rate: u64,
        peers: u32,
        seeds: u32,
        paused: bool,
    }

    extern "Rust" {
        type DiskEngine;
        fn set_disk_state(self: &DiskEngine, state: SharedPtr<DiskState>);
        fn open_storage(self: &DiskEngine, name: &str) -> u32;
        fn close_storage(self: &DiskEngine, storage: u32);
        fn read(
            self: &DiskEngine,
            storage: u32,
            piece: u32,
            start: i32,
            len: i32,
            job: UniquePtr<ReadJob>,
        );
        fn write(
            self: &DiskEngine,
            storage: u32,
            piece: u32,
            start: i32,
            data: &[u8],
            job: UniquePtr<WriteJob>,
        ) -> bool;
        fn hash(
            self: &DiskEngine,
            storage: u32,
            piece: u32,
            v1: bool,
            v2: bool,
            job: UniquePtr<HashJob>,
        );
        fn clear_piece(self: &DiskEngine, storage: u32, piece: u32, job: UniquePtr<FenceJob>);
        fn check_files(self: &DiskEngine, storage: u32, job: UniquePtr<CheckJob>);
        fn stop_torrent(self: &DiskEngine, storage: u32, job: UniquePtr<FenceJob>);
        fn piece_passed(self: &DiskEngine, torrent: u64, piece: u32);
        fn piece_failed(self: &DiskEngine, torrent: u64, piece: u32);
        /// Called when a peer becomes interested (`requested` is -1) or requests a piece, in a torrent that is
        /// complete. Returns the pieces to suggest, the one to request first at the front.
        fn suggest(
            self: &DiskEngine,
            torrent: u64,
            peer: u64,
            requested: i32,
            pieces: u32,
            piece_len: u32,
            have: PeerPieces<'_>,
        ) -> Vec<u32>;
        fn peer_disconnected(self: &DiskEngine, torrent: u64, peer: u64);
        fn blocks_in_use(self: &DiskEngine) -> i64;
        fn alerts_ready(self: &DiskEngine);
        fn abort(self: &DiskEngine);

        type ReadBuf;
        fn bytes(self: &ReadBuf) -> &[u8];
    }

    unsafe extern "C++" {
        include!("bae/cpp/heap.hpp");
        include!("bae/cpp/jobs.hpp");
        include!("bae/cpp/session.hpp");

        type DiskState;
        fn wake_waiting_peers(self: &DiskState);

        type ReadJob;
        fn complete(self: Pin<&mut ReadJob>, bytes: Box<ReadBuf>);
        fn fail(self: Pin<&mut ReadJob>, code: DiskError);
        type WriteJob;
        fn complete(self: Pin<&mut WriteJob>);
        type HashJob;
        fn complete(self: Pin<&mut HashJob>, v1: &[u8], v2: &[u8]);
        type CheckJob;
        fn complete(self: Pin<&mut CheckJob>);
        type FenceJob;
        fn complete(self: Pin<&mut FenceJob>);

        type Session;
        fn new_session(
            settings: &Vec<Setting>,
            engine: Box<DiskEngine>,
            smart_ban: bool,
        ) -> Result<UniquePtr<Session>>;
        fn add(self: Pin<&mut Session>, torrent: &AddTorrent) -> Result<()>;
        fn remove(self: Pin<&mut Session>, torrent: u64) -> Result<()>;
        fn pause(self: &Session, torrent: u64) -> Result<()>;
        fn resume(self: &Session, torrent: u64) -> Result<()>;
        fn set_limits(self: &Session, torrent: u64, download: i32, upload: i32) -> Result<()>;
        fn set_sequential(self: &Session, torrent: u64, sequential: bool) -> Result<()>;
        fn connect_peer(self: &Session, torrent: u64, endpoint: &str) -> Result<()>;
        fn prioritize(self: &Session, torrent: u64, pieces: &[u32], priority: u8) -> Result<()>;
        fn set_deadlines(self: &Session, torrent: u64, pieces: &[u32], step: i32) -> Result<()>;
        fn clear_deadlines(self: &Session, torrent: u64, pieces: &[u32]) -> Result<()>;
        fn add_piece(self: &Session, torrent: u64, piece: u32) -> Result<()>;
        fn availability(self: &Session, torrent: u64) -> Result<Vec<u32>>;
        fn set_requests(self: &Session, blocks: u32);
        fn apply(self: Pin<&mut Session>, settings: &Vec<Setting>) -> Result<()>;
        fn post_updates(self: Pin<&mut Session>) -> Result<()>;
        fn torrent_file(self: &Session, torrent: u64) -> Result<Vec<u8>>;
        fn pop_alerts(
            self: Pin<&mut Session>,
            alerts: &mut Vec<AlertInfo>,
            statuses: &mut Vec<TorrentStatus>,
        ) -> Result<()>;

        fn configure_heap();
        fn header_version() -> u32;
        fn header_version_text() -> String;
        fn library_version() -> String;
    }
}

pub(in crate::torrents) use bridge::{
    AddTorrent, AlertInfo, AlertKind, CheckJob, DiskError, FenceJob, HashJob, ReadJob, Setting,
    TorrentStatus, WriteJob, configure_heap, header_version, header_version_text, library_version,
};

// SAFETY: a job is a shared pointer to the completion queue and a completion that nothing else refers to. Its methods
// and destructor only move the completion into that queue, under the queue's mutex, on whatever thread they run.
unsafe impl Send for bridge::ReadJob {}
// SAFETY: as for `ReadJob`.
unsafe impl Send for bridge::WriteJob {}
// SAFETY: as for `ReadJob`.
unsafe impl Send for bridge::HashJob {}
// SAFETY: as for `ReadJob`.
unsafe impl Send for bridge::CheckJob {}
// SAFETY: as for `ReadJob`.
unsafe impl Send for bridge::FenceJob {}
// SAFETY: the only method called from Rust (`wake_waiting_peers`) takes the state's mutex, and does nothing once the
// state is closed.
unsafe impl Send for bridge::DiskState {}
// SAFETY: as for `Send` above: all state behind `wake_waiting_peers` is under the mutex.
unsafe impl Sync for bridge::DiskState {}
// SAFETY: libtorrent's session and handles may be used from any thread. Our own map of torrents is used only through
// `SessionBox`, whose owner keeps it behind a mutex.
unsafe impl Send for bridge::Session {}

/// The libtorrent session. Dropping it joins the network thread.
pub(in crate::torrents) struct SessionBox(UniquePtr<bridge::Session>);

impl SessionBox {
    pub(in crate::torrents) fn new(
        settings: &Vec<Setting>,
        disk: Arc<Disk>,
        smart_ban: bool,
    ) -> Result<Self, cxx::Exception> {
        bridge::new_session(settings, Box::new(DiskEngine(disk)), smart_ban).map(Self)
    }

    pub(in crate::torrents) fn get(&self) -> &bridge::Session {
        self.0.as_ref().expect("new_session never returns null")
    }

    pub(in crate::torrents) fn get_mut(&mut self) -> std::pin::Pin<&mut bridge::Session> {
        self.0.as_mut().expect("new_session never returns null")
    }
}

/// Wakes peers that were told to wait for memory. Safe to call at any time, also after the session has ended.
#[derive(Clone)]
pub(in crate::torrents) struct PeerWaker(SharedPtr<bridge::DiskState>);

impl PeerWaker {
    pub(in crate::torrents) fn wake(&self) {
        if let Some(state) = self.0.as_ref() {
            state.wake_waiting_peers();
        }
    }
}

/// Bytes lent to libtorrent until it has sent them.
pub(in crate::torrents) struct ReadBuf(Bytes);

impl ReadBuf {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Completes a read with exactly the bytes requested.
pub(super) fn complete_read(job: &mut UniquePtr<ReadJob>, bytes: Bytes) {
    job.pin_mut().complete(Box::new(ReadBuf(bytes)));
}

/// The part of [`Disk`] that C++ calls.
pub(in crate::torrents) struct DiskEngine(Arc<Disk>);

/// Runs `call`; a panic becomes a log line and `fallback`. Jobs captured by a panicking call are dropped, and therefore
/// complete with `operation_aborted`.
fn guarded<R>(what: &'static str, fallback: R, call: impl FnOnce() -> R) -> R {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| {
        tracing::error!(what, "panic in a disk call; its job was aborted");
        fallback
    })
}

fn offset(start: i32) -> usize {
    usize::try_from(start).unwrap_or(usize::MAX)
}

impl DiskEngine {
    fn set_disk_state(&self, state: SharedPtr<bridge::DiskState>) {
        guarded("set_disk_state", (), || self.0.set_waker(PeerWaker(state)));
    }

    fn open_storage(&self, name: &str) -> u32 {
        guarded("open_storage", u32::MAX, || self.0.registry().open(name))
    }

    fn close_storage(&self, storage: u32) {
        guarded("close_storage", (), || self.0.registry().close(storage));
    }

    fn read(&self, storage: u32, piece: u32, start: i32, len: i32, job: UniquePtr<ReadJob>) {
        guarded("read", (), || self.0.read(storage, piece, offset(start), offset(len), job));
    }

    fn write(
        &self,
        storage: u32,
        piece: u32,
        start: i32,
        data: &[u8],
        job: UniquePtr<WriteJob>,
    ) -> bool {
        guarded("write", false, || self.0.write(storage, piece, offset(start), data, job))
    }

    fn hash(&self, storage: u32, piece: u32, v1: bool, v2: bool, job: UniquePtr<HashJob>) {
        guarded("hash", (), || {
            self.0.hash(storage, piece, super::hash_workers::DigestKinds { v1, v2 }, job)
        });
    }

    fn clear_piece(&self, storage: u32, piece: u32, job: UniquePtr<FenceJob>) {
        guarded("clear_piece", (), || self.0.clear_piece(storage, piece, job));
    }

    fn check_files(&self, storage: u32, job: UniquePtr<CheckJob>) {
        guarded("check_files", (), || self.0.check_files(storage, job));
    }

    fn stop_torrent(&self, storage: u32, job: UniquePtr<FenceJob>) {
        guarded("stop_torrent", (), || self.0.stop_torrent(storage, job));
    }

    fn piece_passed(&self, torrent: u64, piece: u32) {
        guarded("piece_passed", (), || self.0.piece_passed(torrent, piece));
    }

    fn piece_failed(&self, torrent: u64, piece: u32) {
        guarded("piece_failed", (), || self.0.piece_failed(torrent, piece));
    }

    fn suggest(
        &self,
        torrent: u64,
        peer: u64,
        requested: i32,
        pieces: u32,
        piece_len: u32,
        have: bridge::PeerPieces<'_>,
    ) -> Vec<u32> {
        let shape = (pieces, u64::from(piece_len));
        let requested = u32::try_from(requested).ok();
        let suggest =
            || self.0.suggest(torrent, peer, requested, shape, Have::new(have.bits, have.count));
        guarded("suggest", Vec::new(), suggest)
    }

    fn peer_disconnected(&self, torrent: u64, peer: u64) {
        guarded("peer_disconnected", (), || self.0.peer_disconnected(torrent, peer));
    }

    fn blocks_in_use(&self) -> i64 {
        guarded("blocks_in_use", 0, || self.0.blocks_in_use())
    }

    fn alerts_ready(&self) {
        guarded("alerts_ready", (), || self.0.alerts_ready().notify_one());
    }

    fn abort(&self) {
        guarded("abort", (), || self.0.abort());
    }
}
