//! The limits of one peer: how much is requested from it, and how much it may make bae do. Pure.

use crate::memory::BLOCK_LEN;

/// The most chokes by a peer beyond one per second. More of them cost work and memory, without use.
const MAX_CHOKES: u32 = 100;
/// The most requests of a peer whose answers it has not read: libtorrent keeps all answers.
const MAX_UNREAD: u32 = 4000;
/// Bytes in the send buffer. Every peer that reads its answers gets below this.
const DRAINED_SEND_BUFFER: u32 = 64 << 10;
/// Bytes in the send buffer. No peer that reads its answers gets above this: it is eight times the watermark up to
/// which payload is queued.
const MAX_SEND_BUFFER: u32 = 64 << 20;

/// The most pieces that a peer may request ahead: three quarters of the suggestions that it remembers.
const MAX_PIECES_AHEAD: i64 = 12;
/// With pieces of fewer blocks, [`MAX_PIECES_AHEAD`] would be too few for a link of 100 ms.
const MIN_BLOCKS_OF_PIECE: i64 = 4;
/// A peer may always request so many blocks ahead.
const MIN_DEPTH: i64 = 128;

/// The number of requests that a peer of a complete torrent is allowed. `depth` is the number for long pieces. With
/// short ones, the peer would pick some at random before the next suggestion reaches it, and each of those costs a GET.
pub(in crate::torrents) fn announced_depth(depth: i64, piece_len: u32) -> i64 {
    let blocks = i64::from(piece_len) / i64::try_from(BLOCK_LEN).expect("16 KiB");
    if blocks < MIN_BLOCKS_OF_PIECE {
        return depth;
    }
    depth.min((MAX_PIECES_AHEAD * blocks).max(MIN_DEPTH))
}

/// The state of one peer. Functions that return a bool return false when the peer must be disconnected, unless they say
/// otherwise.
#[derive(Debug, Default)]
pub(in crate::torrents) struct PeerLimits {
    chokes: u32,
    /// Requests that were not answered, or whose answers the peer has not read.
    unread: u32,
    /// The piece requested last.
    last_piece: Option<u32>,
    /// The number of requests that the peer allows.
    allowed: u16,
    /// The number that was set instead.
    depth: u16,
}

impl PeerLimits {
    /// The number of blocks to request ahead. `current` is the one that libtorrent has now; it is ours, or the number
    /// that the peer allowed in its handshake since. `share` is the peer's share of all requests.
    pub(in crate::torrents) fn request_depth(&mut self, current: u16, share: u16) -> u16 {
        if current != self.depth {
            self.allowed = current;
        }
        self.depth = self.allowed.min(share);
        self.depth
    }

    /// The peer requests something. `send_buffer`: bytes that it has not read.
    pub(in crate::torrents) fn on_request(&mut self, send_buffer: u32) -> bool {
        if send_buffer < DRAINED_SEND_BUFFER {
            self.unread = 0;
        }
        self.unread += 1;
        self.unread <= MAX_UNREAD
    }

    /// Payload was sent to the peer.
    pub(in crate::torrents) fn on_payload_sent(&mut self, bytes: u32) {
        self.unread = self.unread.saturating_sub(1 + bytes / 1024);
    }

    pub(in crate::torrents) fn on_choke(&mut self) -> bool {
        self.chokes += 1;
        self.chokes <= MAX_CHOKES
    }

    /// To be called every second.
    pub(in crate::torrents) fn on_tick(&mut self, send_buffer: u32) -> bool {
        self.chokes = self.chokes.saturating_sub(1);
        send_buffer <= MAX_SEND_BUFFER
    }

    /// Returns whether the requested piece is another one than before.
    pub(in crate::torrents) fn starts_piece(&mut self, piece: u32) -> bool {
        self.last_piece.replace(piece) != Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_gets_its_share_but_no_more_requests_than_it_allows() {
        let mut limits = PeerLimits::default();
        // Before the handshake, the number is libtorrent's own.
        assert_eq!(limits.request_depth(500, 100), 100);
        // The peer allows 2000, then the share rises.
        assert_eq!(limits.request_depth(2000, 100), 100);
        assert_eq!(limits.request_depth(100, 300), 300);
        // Another handshake message allows 16.
        assert_eq!(limits.request_depth(16, 300), 16);
        assert_eq!(limits.request_depth(16, 4), 4);
        assert_eq!(limits.request_depth(4, 300), 16);
    }

    #[test]
    fn short_pieces_limit_the_requests_of_a_peer() {
        for (piece_len, depth) in
            [(16 << 10, 500), (48 << 10, 500), (64 << 10, 128), (256 << 10, 192), (1 << 20, 500)]
        {
            assert_eq!(announced_depth(500, piece_len), depth, "{piece_len}");
        }
        assert_eq!(announced_depth(50, 256 << 10), 50);
    }

    #[test]
    fn a_peer_that_does_not_read_its_answers_is_disconnected() {
        let mut limits = PeerLimits::default();
        let full = DRAINED_SEND_BUFFER;
        assert!((0..MAX_UNREAD).all(|_| limits.on_request(full)));
        assert!(!limits.on_request(full));
        // An answer of 16 KiB was read, and then all of them.
        limits.on_payload_sent(16 << 10);
        assert!(limits.on_request(full) && limits.on_request(full - 1));
        assert!((1..MAX_UNREAD).all(|_| limits.on_request(full)) && !limits.on_request(full));
        assert!(limits.on_tick(MAX_SEND_BUFFER) && !limits.on_tick(MAX_SEND_BUFFER + 1));
    }

    #[test]
    fn a_peer_that_chokes_all_the_time_is_disconnected() {
        let mut limits = PeerLimits::default();
        assert!((0..MAX_CHOKES).all(|_| limits.on_choke()) && !limits.on_choke());
        assert!(limits.on_tick(0) && limits.on_tick(0) && limits.on_choke() && !limits.on_choke());
    }

    #[test]
    fn a_piece_starts_once_until_another_one_is_requested() {
        let mut limits = PeerLimits::default();
        let starts: Vec<bool> =
            [0, 0, 3, 3, 0].iter().map(|piece| limits.starts_piece(*piece)).collect();
        assert_eq!(starts, [true, false, true, false, true]);
    }
}
