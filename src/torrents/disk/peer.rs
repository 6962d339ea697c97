//! One connected peer, from its handshake until it disconnects.

use std::sync::Arc;

use super::{Disk, ffi::PeerVerdict, torrent_disk::TorrentDisk};
use crate::torrents::picker::{
    peer_limits::{PeerLimits, announced_depth},
    suggester::Have,
};

pub(super) struct ConnectedPeer {
    disk: Arc<Disk>,
    /// `None` when the torrent is being removed.
    torrent: Option<Arc<TorrentDisk>>,
    /// Different for each peer that ever connected.
    number: u64,
    limits: PeerLimits,
}

impl ConnectedPeer {
    pub(super) fn new(disk: &Arc<Disk>, torrent: u64) -> Self {
        let number = disk.requests().connect();
        let torrent = disk.registry().by_number(torrent);
        Self { disk: Arc::clone(disk), torrent, number, limits: PeerLimits::default() }
    }

    pub(super) fn announced_depth(&self, depth: i64, piece_len: u32) -> i64 {
        announced_depth(depth, piece_len)
    }

    pub(super) fn request_depth(&mut self, depth: u16) -> u16 {
        self.limits.request_depth(depth, self.disk.requests().share())
    }

    pub(super) fn on_request(&mut self, send_buffer: u32) -> PeerVerdict {
        verdict(self.limits.on_request(send_buffer))
    }

    pub(super) fn on_payload_sent(&mut self, bytes: u32) {
        self.limits.on_payload_sent(bytes);
    }

    pub(super) fn on_choke(&mut self) -> PeerVerdict {
        verdict(self.limits.on_choke())
    }

    pub(super) fn on_tick(&mut self, send_buffer: u32) -> PeerVerdict {
        verdict(self.limits.on_tick(send_buffer))
    }

    pub(super) fn wants_suggestions(&mut self, piece: u32, is_choked: bool) -> bool {
        self.disk.suggests() && self.limits.starts_piece(piece) && !is_choked
    }

    pub(super) fn suggest(
        &mut self,
        requested: Option<u32>,
        shape: (u32, u64),
        have: Have<'_>,
    ) -> Vec<u32> {
        match &self.torrent {
            Some(torrent) => self.disk.suggest(torrent, self.number, requested, shape, have),
            None => Vec::new(),
        }
    }
}

impl Drop for ConnectedPeer {
    fn drop(&mut self) {
        self.disk.requests().disconnect();
        if let Some(torrent) = &self.torrent
            && let Some(suggester) = &mut *torrent.suggester().lock()
        {
            suggester.remove_peer(self.number);
        }
    }
}

fn verdict(stays: bool) -> PeerVerdict {
    if stays { PeerVerdict::Keep } else { PeerVerdict::Disconnect }
}
