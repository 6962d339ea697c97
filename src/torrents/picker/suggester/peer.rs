//! One peer: the pieces it has, its suggestions and requests, and whether it follows suggestions.

use std::{
    collections::VecDeque,
    ops::Range,
    time::{Duration, Instant},
};

/// The interval over which the request rate of a peer is measured.
const RATE_INTERVAL: Duration = Duration::from_millis(500);
/// Requested windows remembered per peer. A libtorrent peer requests as many as it may.
pub(super) const MAX_REQUESTED_WINDOWS: usize = 64;
/// A peer that left this many more suggestions aside than it followed gets no more.
const MAX_IGNORED: u32 = 32;

/// The pieces of a peer. None of the questions about them reads the whole bitfield, which may have two million bits.
#[derive(Debug, Clone, Copy)]
pub(in crate::torrents) struct Have<'a> {
    /// A BitTorrent bitfield: one bit per piece, the highest bit of the first byte first.
    bits: &'a [u8],
    count: u32,
}

impl<'a> Have<'a> {
    /// `count` is the number of bits that are set.
    pub(in crate::torrents) fn new(bits: &'a [u8], count: u32) -> Self {
        Self { bits, count }
    }

    #[cfg(test)]
    pub(super) fn of(bits: &'a [u8]) -> Self {
        Self::new(bits, bits.iter().map(|byte| byte.count_ones()).sum())
    }

    pub(super) fn has(self, piece: u32) -> bool {
        self.bits.get(piece as usize / 8).is_some_and(|byte| byte & (0x80 >> (piece % 8)) != 0)
    }

    pub(super) fn count(self) -> u32 {
        self.count
    }

    /// The missing ones of `pieces`, at most 64, as a mask: the lowest bit is the first piece.
    pub(super) fn missing(self, pieces: Range<u32>) -> u64 {
        let len = pieces.len().min(64);
        // 64 bits from any position lie in nine bytes.
        let first = pieces.start as usize / 8;
        let byte = |n: usize| u128::from(self.bits.get(first + n).copied().unwrap_or(0));
        let bytes = (0..9).fold(0, |bytes, n| bytes << 8 | byte(n));
        let aligned = (bytes >> (8 - pieces.start % 8)) & u128::from(u64::MAX);
        let has = u64::try_from(aligned).expect("64 bits are left").reverse_bits();
        let all = if len == 64 { u64::MAX } else { (1 << len) - 1 };
        !has & all
    }

    /// The first missing piece from `from` on, below `end`.
    pub(super) fn next_missing(self, from: u32, end: u32) -> Option<u32> {
        let mut at = from;
        while at < end {
            let missing = self.missing(at..end.min(at.saturating_add(64)));
            if missing != 0 {
                return Some(at + missing.trailing_zeros());
            }
            at = at.saturating_add(64);
        }
        None
    }
}

/// A requested window, and its requested pieces as a mask: the lowest bit is the first piece.
#[derive(Debug)]
pub(super) struct WindowRequests {
    pub(super) window: u32,
    pub(super) pieces: u64,
}

/// How a request for a piece relates to earlier requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestKind {
    Repeated,
    /// Other pieces of the window are missing and not requested.
    Partial,
    /// All missing pieces of the window are requested.
    Complete,
}

#[derive(Debug, Default)]
pub(super) struct Peer {
    /// Suggested windows that are not requested completely yet.
    pub(super) suggested: VecDeque<u32>,
    /// Those of them that are not in memory.
    pub(super) uncached: Vec<u32>,
    /// Requested windows that the peer does not have yet.
    pub(super) requested: VecDeque<WindowRequests>,
    /// The pieces suggested last that it has not requested.
    pub(super) suggested_pieces: Vec<u32>,
    /// Whether it also takes the pieces between suggested ones.
    pub(super) expands: bool,
    /// The piece it requested last.
    pub(super) last_piece: Option<u32>,
    /// The window where the scan continues for it.
    pub(super) next_window: u32,
    /// Number of windows that it requested after they were suggested.
    pub(super) followed: u32,
    /// Number of windows that it requested while others were suggested.
    pub(super) strayed: u32,
    /// Number of pieces it had at first.
    pub(super) initial_pieces: u32,
    /// Number of pieces it requested since then.
    pub(super) requested_pieces: u32,
    pub(super) suggested_at: Option<Instant>,
    pub(super) rate: RequestRate,
}

/// The request rate of a peer.
#[derive(Debug, Default)]
pub(super) struct RequestRate {
    pub(super) last_request: Option<Instant>,
    pub(super) measured_since: Option<Instant>,
    /// Number of pieces requested since `measured_since`.
    pub(super) pieces: u32,
    /// Pieces per second, measured last.
    pub(super) pieces_per_second: f64,
}

impl RequestRate {
    pub(super) fn record(&mut self, now: Instant) {
        self.last_request = Some(now);
        let since = *self.measured_since.get_or_insert(now);
        self.pieces += 1;
        let elapsed = now.duration_since(since);
        if elapsed >= RATE_INTERVAL {
            self.pieces_per_second = f64::from(self.pieces) / elapsed.as_secs_f64();
            (self.measured_since, self.pieces) = (Some(now), 0);
        }
    }
}

impl Peer {
    /// Records a request for `piece` (a mask) of a window, in which the peer lacks `missing`.
    pub(super) fn record_request(&mut self, window: u32, piece: u64, missing: u64) -> RequestKind {
        let known = self.requested.iter().rposition(|requested| requested.window == window);
        let mut requested = known.and_then(|n| self.requested.remove(n)).unwrap_or_else(|| {
            if self.suggested.contains(&window) {
                self.followed = self.followed.saturating_add(1);
            } else if !self.suggested.is_empty() {
                self.strayed = self.strayed.saturating_add(1);
            }
            WindowRequests { window, pieces: 0 }
        });
        let is_repeated = requested.pieces & piece != 0;
        let new = (piece & missing & !requested.pieces).count_ones();
        requested.pieces |= piece;
        let is_complete = missing & !requested.pieces == 0;
        if self.requested.len() == MAX_REQUESTED_WINDOWS {
            self.requested.pop_front();
        }
        self.requested.push_back(requested);
        if is_repeated {
            return RequestKind::Repeated;
        }
        self.requested_pieces = self.requested_pieces.saturating_add(new);
        if !is_complete {
            return RequestKind::Partial;
        }
        self.suggested.retain(|suggested| *suggested != window);
        RequestKind::Complete
    }

    /// Records the piece at which the peer continues. `skips`: it lacks the piece before and has not requested it.
    pub(super) fn record_position(&mut self, piece: u32, skips: bool) {
        let suggested = self.suggested_pieces.iter().position(|suggested| *suggested == piece);
        let follows = self.last_piece.is_some_and(|last| last + 1 == piece);
        match suggested.map(|n| self.suggested_pieces.remove(n)) {
            None if follows => self.expands = true,
            Some(_) if skips => self.expands = false,
            _ => {}
        }
        self.last_piece = Some(piece);
    }

    /// The requested pieces of a window, as a mask.
    pub(super) fn requested_in(&self, window: u32) -> u64 {
        let requested = self.requested.iter().rev().find(|requested| requested.window == window);
        requested.map_or(0, |requested| requested.pieces)
    }

    pub(super) fn knows_window(&self, window: u32) -> bool {
        self.suggested.contains(&window) || self.requested_in(window) != 0
    }

    /// Whether it follows suggestions.
    pub(super) fn follows_suggestions(&self) -> bool {
        self.followed >= self.strayed.max(1)
    }

    pub(super) fn ignores_suggestions(&self) -> bool {
        self.strayed > self.followed + MAX_IGNORED
    }
}
