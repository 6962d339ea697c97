//! The only bridge to libtorrent, and the only `unsafe` code of the crate.
//!
//! libtorrent's network thread calls the `extern "Rust"` functions, which `callbacks.rs` implements: none of them waits
//! or panics. Jobs (`ReadJob`, `WriteJob`, …) own libtorrent's handlers. Completing or dropping a job, on any thread,
//! queues its handler for the network thread (`cpp/jobs.hpp`). `session/native.rs` makes the calls in the other
//! direction, and says in which order session, torrents and disk end.
#![allow(unsafe_code, reason = "this file is the bridge; every block says why it is sound")]
#![allow(unreachable_pub, reason = "what the bridge macro writes is public in a private module")]

use bytes::Bytes;
use cxx::UniquePtr;

// Linked for its native library alone.
use libtorrent_sys as _;

use super::callbacks::{DiskEngine, PeerState, ReadBuf};

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

    /// Why a call failed. `cpp/errors.cpp` maps exceptions to it, `session/failures.rs` maps it to an error.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    #[repr(u8)]
    enum FailureKind {
        /// The session is ending.
        Cancelled,
        /// The torrent is not in the session.
        NotFound,
        /// The torrent is in the session already.
        AlreadyExists,
        /// Not enough memory, threads or file descriptors, or metadata that has not arrived yet.
        Unavailable,
        /// A setting, torrent file or magnet link that libtorrent refuses.
        InvalidInput,
        Internal,
    }

    /// One libtorrent setting by its name. `number` holds integers and booleans, `text` holds strings.
    #[derive(Debug, Clone)]
    struct Setting {
        name: String,
        number: i64,
        text: String,
    }

    #[derive(Debug)]
    struct SessionConfig {
        settings: Vec<Setting>,
        /// Ban peers that sent bad blocks.
        smart_ban: bool,
        /// Apply the rate limits to peers on the local network too.
        limit_local_peers: bool,
    }

    /// The first four bytes of `ip` are an IPv4 address, or all of them an IPv6 address.
    #[derive(Debug, Clone, Copy)]
    struct PeerAddress {
        ip: [u8; 16],
        is_v6: bool,
        port: u16,
    }

    #[derive(Debug)]
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
        peers: Vec<PeerAddress>,
        sequential: bool,
        dht: bool,
        lsd: bool,
        pex: bool,
        /// Bytes per second; 0 for no limit.
        upload_limit: i32,
        download_limit: i32,
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

    /// How a tracker failed.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum TrackerFailure {
        Other,
        /// The answer is not bencoded.
        NotBencoded,
        /// The HTTP status `code`.
        HttpStatus,
        /// The tracker refused the announce. libtorrent loses the message of a UDP tracker.
        Refused,
    }

    #[derive(Debug, Clone)]
    struct AlertInfo {
        kind: AlertKind,
        /// 0 for alerts of the session itself.
        torrent: u64,
        /// The number of peers, for `TrackerReply`.
        text: String,
        /// The tracker's URL, for tracker alerts. It may hold a passkey.
        url: String,
        failure: TrackerFailure,
        code: i32,
        /// The tracker's own message; may be empty.
        reason: String,
        /// For `TrackerError`.
        info_hash: Vec<u8>,
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

    /// Whether a peer stays connected.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum PeerVerdict {
        Keep,
        Disconnect,
    }

    extern "Rust" {
        type DiskEngine;
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
        /// Returns whether there is too little memory for more. The peer that sent the block then calls
        /// `wait_for_memory`.
        fn write(
            self: &DiskEngine,
            storage: u32,
            piece: u32,
            start: i32,
            data: &[u8],
            job: UniquePtr<WriteJob>,
        ) -> bool;
        /// Returns whether the peer must wait until it is woken.
        fn wait_for_memory(self: &DiskEngine, peer: UniquePtr<WaitingPeer>) -> bool;
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
        fn peer_connected(self: &DiskEngine, torrent: u64) -> Box<PeerState>;
        fn blocks_in_use(self: &DiskEngine) -> i64;
        fn alerts_ready(self: &DiskEngine);
        fn abort(self: &DiskEngine);

        /// One connected peer; dropped when it disconnects.
        type PeerState;
        /// The number of requests to allow the peer in the handshake, of a torrent that is complete. `depth` is
        /// libtorrent's choice.
        fn announced_depth(self: &PeerState, depth: i64, piece_len: i32) -> i64;
        /// The number of blocks to request ahead from the peer. `depth` is libtorrent's choice, or the last result.
        fn request_depth(self: &mut PeerState, depth: u16) -> u16;
        fn on_request(self: &mut PeerState, send_buffer: i32) -> PeerVerdict;
        fn on_payload_sent(self: &mut PeerState, bytes: i32);
        fn on_choke(self: &mut PeerState) -> PeerVerdict;
        fn on_tick(self: &mut PeerState, send_buffer: i32) -> PeerVerdict;
        /// Whether to call `suggest` for the piece that the peer requests.
        fn wants_suggestions(self: &mut PeerState, piece: i32, is_choked: bool) -> bool;
        /// Called when a peer becomes interested (`requested` is -1) or requests a piece, in a torrent that is
        /// complete. `have` is the peer's bitfield with `have_count` pieces. Returns the pieces to suggest, the one to
        /// request first at the front.
        fn suggest(
            self: &mut PeerState,
            requested: i32,
            pieces: i32,
            piece_len: i32,
            have: &[u8],
            have_count: i32,
        ) -> Vec<u32>;

        type ReadBuf;
        fn bytes(self: &ReadBuf) -> &[u8];
    }

    unsafe extern "C++" {
        include!("bae/cpp/errors.hpp");
        include!("bae/cpp/process.hpp");
        include!("bae/cpp/jobs.hpp");
        include!("bae/cpp/session.hpp");

        type WaitingPeer;
        fn id(self: &WaitingPeer) -> usize;
        fn wake(self: &WaitingPeer);

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
            config: &SessionConfig,
            engine: Box<DiskEngine>,
        ) -> Result<UniquePtr<Session>>;
        fn add(self: &Session, torrent: &AddTorrent) -> Result<UniquePtr<TorrentHandle>>;
        fn remove(self: &Session, torrent: &TorrentHandle) -> Result<()>;
        fn apply(self: &Session, settings: &Vec<Setting>) -> Result<()>;
        fn post_updates(self: &Session) -> Result<()>;
        fn pop_alerts(
            self: &Session,
            alerts: &mut Vec<AlertInfo>,
            statuses: &mut Vec<TorrentStatus>,
        ) -> Result<()>;

        type TorrentHandle;
        fn pause(self: &TorrentHandle) -> Result<()>;
        fn resume(self: &TorrentHandle) -> Result<()>;
        fn set_sequential(self: &TorrentHandle, on: bool) -> Result<()>;
        fn set_upload_limit(self: &TorrentHandle, rate: i32) -> Result<()>;
        fn set_download_limit(self: &TorrentHandle, rate: i32) -> Result<()>;
        fn connect_peer(self: &TorrentHandle, peer: &PeerAddress) -> Result<()>;
        fn prioritize(self: &TorrentHandle, pieces: &[u32], priority: u8) -> Result<()>;
        fn set_deadlines(self: &TorrentHandle, pieces: &[u32], step: i32) -> Result<()>;
        fn clear_deadlines(self: &TorrentHandle, pieces: &[u32]) -> Result<()>;
        fn add_piece(self: &TorrentHandle, piece: u32, longest: u32) -> Result<()>;
        fn availability(self: &TorrentHandle) -> Result<UniquePtr<CxxVector<i32>>>;
        fn torrent_file(self: &TorrentHandle) -> Result<UniquePtr<CxxVector<u8>>>;
        fn info_dictionary(self: &TorrentHandle) -> Result<UniquePtr<CxxVector<u8>>>;

        fn close_files_on_exec();
        fn configure_heap();
        fn header_version() -> u32;
        fn header_version_text() -> String;
        fn library_version() -> String;
    }
}

pub(in crate::torrents) use bridge::{
    AddTorrent, AlertInfo, AlertKind, CheckJob, DiskError, FailureKind, FenceJob, HashJob,
    PeerAddress, PeerVerdict, ReadJob, Session, SessionConfig, Setting, TorrentHandle,
    TorrentStatus, TrackerFailure, WaitingPeer, WriteJob, close_files_on_exec, configure_heap,
    header_version, header_version_text, library_version, new_session,
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
// SAFETY: a waiting peer is a shared pointer to the completion queue and a weak pointer to the peer, both with atomic
// counts. `wake` copies the weak pointer into the queue under the queue's mutex, and does nothing once the queue is
// closed. The destructor never runs the peer's own: the pointer is weak.
unsafe impl Send for bridge::WaitingPeer {}
// SAFETY: all methods are const and call functions of libtorrent's session that may be called from any thread: they
// only queue work for the network thread, or wait for it. `pop_alerts` takes a mutex. The destructor joins the network
// thread, so it must not run on that thread; it runs on one of its own (`session/native.rs`).
unsafe impl Send for bridge::Session {}
// SAFETY: as for `Send`: every method may run at the same time as every other.
unsafe impl Sync for bridge::Session {}
// SAFETY: a handle is a weak pointer with an atomic count. Its methods are const, turn it into a shared pointer and
// queue work for the network thread, or wait for it. They need the session to live meanwhile, which
// `session/native.rs` ensures. The destructor only drops the weak pointer.
unsafe impl Send for bridge::TorrentHandle {}
// SAFETY: as for `Send`: const methods of one weak pointer may run at the same time.
unsafe impl Sync for bridge::TorrentHandle {}

/// Completes a read with exactly the bytes requested.
pub(super) fn complete_read(job: &mut UniquePtr<ReadJob>, bytes: Bytes) {
    job.pin_mut().complete(Box::new(ReadBuf::new(bytes)));
}
