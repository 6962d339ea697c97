//! What libtorrent's network thread calls. Each call is wrapped in [`guarded`], because a panic that reaches C++ would
//! end the process. Jobs captured by a panicking call are dropped, and therefore complete with `operation_aborted`.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use bytes::Bytes;
use cxx::UniquePtr;

use super::{
    Disk,
    ffi::{CheckJob, FenceJob, HashJob, PeerVerdict, ReadJob, WaitingPeer, WriteJob},
    hash_workers::DigestKinds,
    peer::ConnectedPeer,
};
use crate::torrents::picker::suggester::Have;

/// Bytes lent to libtorrent until it has sent them.
pub(in crate::torrents) struct ReadBuf(Bytes);

impl ReadBuf {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Runs `call`; a panic becomes a log line and `fallback`.
fn guarded<R>(what: &'static str, fallback: impl FnOnce() -> R, call: impl FnOnce() -> R) -> R {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| {
        tracing::error!(what, "panic in a call of libtorrent; its job was aborted");
        fallback()
    })
}

fn nothing() {}

fn offset(start: i32) -> usize {
    usize::try_from(start).unwrap_or(usize::MAX)
}

/// A length or number that libtorrent stores as `int`.
fn number(n: i32) -> u32 {
    u32::try_from(n).unwrap_or(0)
}

/// The [`Disk`] as libtorrent sees it. It lives as long as the session.
pub(in crate::torrents) struct DiskEngine(Arc<Disk>);

impl DiskEngine {
    pub(in crate::torrents) fn new(disk: Arc<Disk>) -> Self {
        Self(disk)
    }

    pub(super) fn open_storage(&self, name: &str) -> u32 {
        guarded("open_storage", || u32::MAX, || self.0.registry().open(name))
    }

    pub(super) fn close_storage(&self, storage: u32) {
        guarded("close_storage", nothing, || self.0.registry().close(storage));
    }

    pub(super) fn read(
        &self,
        storage: u32,
        piece: u32,
        start: i32,
        len: i32,
        job: UniquePtr<ReadJob>,
    ) {
        guarded("read", nothing, || {
            self.0.read(storage, piece, offset(start), offset(len), job);
        });
    }

    pub(super) fn write(
        &self,
        storage: u32,
        piece: u32,
        start: i32,
        data: &[u8],
        job: UniquePtr<WriteJob>,
    ) -> bool {
        let write = || self.0.write(storage, piece, offset(start), data, job);
        guarded("write", || false, write)
    }

    pub(super) fn wait_for_memory(&self, peer: UniquePtr<WaitingPeer>) -> bool {
        guarded("wait_for_memory", || false, || self.0.wait_for_memory(peer))
    }

    pub(super) fn hash(
        &self,
        storage: u32,
        piece: u32,
        v1: bool,
        v2: bool,
        job: UniquePtr<HashJob>,
    ) {
        guarded("hash", nothing, || self.0.hash(storage, piece, DigestKinds { v1, v2 }, job));
    }

    pub(super) fn clear_piece(&self, storage: u32, piece: u32, job: UniquePtr<FenceJob>) {
        guarded("clear_piece", nothing, || self.0.clear_piece(storage, piece, job));
    }

    pub(super) fn check_files(&self, storage: u32, job: UniquePtr<CheckJob>) {
        guarded("check_files", nothing, || self.0.check_files(storage, job));
    }

    pub(super) fn stop_torrent(&self, storage: u32, job: UniquePtr<FenceJob>) {
        guarded("stop_torrent", nothing, || self.0.stop_torrent(storage, job));
    }

    pub(super) fn piece_passed(&self, torrent: u64, piece: u32) {
        guarded("piece_passed", nothing, || self.0.piece_passed(torrent, piece));
    }

    pub(super) fn piece_failed(&self, torrent: u64, piece: u32) {
        guarded("piece_failed", nothing, || self.0.piece_failed(torrent, piece));
    }

    pub(super) fn peer_connected(&self, torrent: u64) -> Box<PeerState> {
        let connect = || Some(ConnectedPeer::new(&self.0, torrent));
        Box::new(PeerState { peer: guarded("peer_connected", || None, connect) })
    }

    pub(super) fn blocks_in_use(&self) -> i64 {
        guarded("blocks_in_use", || 0, || self.0.blocks_in_use())
    }

    pub(super) fn alerts_ready(&self) {
        guarded("alerts_ready", nothing, || self.0.alerts_ready().notify_one());
    }

    pub(super) fn abort(&self) {
        guarded("abort", nothing, || self.0.abort());
    }
}

/// A [`ConnectedPeer`] as libtorrent's plugin sees it.
pub(in crate::torrents) struct PeerState {
    /// `None` after a panic.
    peer: Option<ConnectedPeer>,
}

impl PeerState {
    /// Calls the peer. After a panic the peer keeps what libtorrent chooses for it.
    fn call<R>(
        &mut self,
        what: &'static str,
        fallback: R,
        call: impl FnOnce(&mut ConnectedPeer) -> R,
    ) -> R {
        let Some(peer) = &mut self.peer else { return fallback };
        let result = guarded(what, || None, || Some(call(peer)));
        result.unwrap_or(fallback)
    }

    pub(super) fn announced_depth(&self, depth: i64, piece_len: i32) -> i64 {
        let announced = || match &self.peer {
            Some(peer) => peer.announced_depth(depth, number(piece_len)),
            None => depth,
        };
        guarded("announced_depth", || depth, announced)
    }

    pub(super) fn request_depth(&mut self, depth: u16) -> u16 {
        self.call("request_depth", depth, |peer| peer.request_depth(depth))
    }

    pub(super) fn on_request(&mut self, send_buffer: i32) -> PeerVerdict {
        self.call("on_request", PeerVerdict::Keep, |peer| peer.on_request(number(send_buffer)))
    }

    pub(super) fn on_payload_sent(&mut self, bytes: i32) {
        self.call("on_payload_sent", (), |peer| peer.on_payload_sent(number(bytes)));
    }

    pub(super) fn on_choke(&mut self) -> PeerVerdict {
        self.call("on_choke", PeerVerdict::Keep, ConnectedPeer::on_choke)
    }

    pub(super) fn on_tick(&mut self, send_buffer: i32) -> PeerVerdict {
        self.call("on_tick", PeerVerdict::Keep, |peer| peer.on_tick(number(send_buffer)))
    }

    pub(super) fn wants_suggestions(&mut self, piece: i32, is_choked: bool) -> bool {
        let Ok(piece) = u32::try_from(piece) else { return false };
        self.call("wants_suggestions", false, |peer| peer.wants_suggestions(piece, is_choked))
    }

    pub(super) fn suggest(
        &mut self,
        requested: i32,
        pieces: i32,
        piece_len: i32,
        have: &[u8],
        have_count: i32,
    ) -> Vec<u32> {
        let requested = u32::try_from(requested).ok();
        let shape = (number(pieces), u64::from(number(piece_len)));
        let have = Have::new(have, number(have_count));
        self.call("suggest", Vec::new(), |peer| peer.suggest(requested, shape, have))
    }
}

impl Drop for PeerState {
    fn drop(&mut self) {
        let peer = self.peer.take();
        guarded("peer_disconnected", nothing, || drop(peer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_does_not_leave_the_bridge() {
        assert_eq!(guarded("test", || 7, || panic!("caught")), 7);
        let mut broken = PeerState { peer: None };
        assert_eq!(broken.on_choke(), PeerVerdict::Keep);
        assert_eq!((broken.request_depth(5), broken.announced_depth(9, 16 << 10)), (5, 9));
    }
}
