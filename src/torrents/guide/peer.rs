//! One peer: the pieces it has, its suggestions and requests, and whether it follows suggestions.

use std::{
    collections::VecDeque,
    ops::Range,
    time::{Duration, Instant},
};

/// The interval over which the request rate of a peer is measured.
const PACE: Duration = Duration::from_millis(500);
/// Requested windows remembered per peer. A libtorrent peer requests as many as it may.
pub(super) const ASKED: usize = 64;
/// A peer that left this many more suggestions aside than it followed gets no more.
const DEAF: u32 = 32;

/// The pieces of a peer as a BitTorrent bitfield: one bit per piece, the highest bit of the first byte first.
#[derive(Debug, Clone, Copy)]
pub(in crate::torrents) struct Have<'a>(pub(in crate::torrents) &'a [u8]);

impl Have<'_> {
    pub(super) fn has(self, piece: u32) -> bool {
        self.0.get(piece as usize / 8).is_some_and(|byte| byte & (0x80 >> (piece % 8)) != 0)
    }

    pub(super) fn count(self) -> u32 {
        self.0.iter().map(|byte| byte.count_ones()).sum()
    }

    /// The missing ones of `pieces`, at most 64, as a mask: the lowest bit is the first piece.
    pub(super) fn missing(self, pieces: Range<u32>) -> u64 {
        let bit = |(n, piece): (usize, u32)| u64::from(!self.has(piece)) << n;
        pieces.enumerate().map(bit).fold(0, |mask, bit| mask | bit)
    }
}

/// A requested window, and its requested pieces as a mask: the lowest bit is the first piece.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) window: u32,
    pub(super) pieces: u64,
}

/// How a request for a piece relates to earlier requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    Again,
    /// Other pieces of the window are missing and not requested.
    Part,
    /// All missing pieces of the window are requested.
    Whole,
}

#[derive(Debug, Default)]
pub(super) struct Peer {
    /// Suggested windows that are not requested completely yet.
    pub(super) suggested: VecDeque<u32>,
    /// Those of them that are not in memory.
    pub(super) cold: Vec<u32>,
    /// Requested windows that the peer does not have yet.
    pub(super) asked: VecDeque<Asked>,
    /// The pieces suggested last that it has not requested.
    pub(super) told: Vec<u32>,
    /// Whether it also takes the pieces between suggested ones.
    pub(super) expands: bool,
    /// The piece it requested last.
    pub(super) last: Option<u32>,
    /// The window where the scan continues for it.
    pub(super) at: u32,
    /// Number of windows that it requested after they were suggested.
    pub(super) followed: u32,
    /// Number of windows that it requested while others were suggested.
    pub(super) strayed: u32,
    /// Number of pieces it had at first.
    pub(super) began_with: u32,
    /// Number of pieces it requested since then.
    pub(super) from_us: u32,
    pub(super) advised: Option<Instant>,
    pub(super) pace: Pace,
}

/// The request rate of a peer.
#[derive(Debug, Default)]
pub(super) struct Pace {
    pub(super) seen: Option<Instant>,
    pub(super) since: Option<Instant>,
    /// Number of pieces requested since `since`.
    pub(super) pieces: u32,
    /// Pieces per second, measured last.
    pub(super) rate: f64,
}

impl Pace {
    pub(super) fn asks(&mut self, now: Instant) {
        self.seen = Some(now);
        let since = *self.since.get_or_insert(now);
        self.pieces += 1;
        let took = now.duration_since(since);
        if took >= PACE {
            self.rate = f64::from(self.pieces) / took.as_secs_f64();
            (self.since, self.pieces) = (Some(now), 0);
        }
    }
}

impl Peer {
    /// Notes a request for `piece` (a mask) of a window, in which the peer lacks `missing`.
    pub(super) fn asks(&mut self, window: u32, piece: u64, missing: u64) -> Request {
        let known = self.asked.iter().rposition(|asked| asked.window == window);
        let mut asked = known.and_then(|n| self.asked.remove(n)).unwrap_or_else(|| {
            if self.suggested.contains(&window) {
                self.followed = self.followed.saturating_add(1);
            } else if !self.suggested.is_empty() {
                self.strayed = self.strayed.saturating_add(1);
            }
            Asked { window, pieces: 0 }
        });
        let is_again = asked.pieces & piece != 0;
        let new = (piece & missing & !asked.pieces).count_ones();
        asked.pieces |= piece;
        let is_whole = missing & !asked.pieces == 0;
        if self.asked.len() == ASKED {
            self.asked.pop_front();
        }
        self.asked.push_back(asked);
        if is_again {
            return Request::Again;
        }
        self.from_us = self.from_us.saturating_add(new);
        if !is_whole {
            return Request::Part;
        }
        self.suggested.retain(|suggested| *suggested != window);
        Request::Whole
    }

    /// Notes the piece at which the peer continues. `skips`: it lacks the piece before and has not requested it.
    pub(super) fn goes_to(&mut self, piece: u32, skips: bool) {
        let told = self.told.iter().position(|told| *told == piece);
        let follows = self.last.is_some_and(|last| last + 1 == piece);
        match told.map(|n| self.told.remove(n)) {
            None if follows => self.expands = true,
            Some(_) if skips => self.expands = false,
            _ => {}
        }
        self.last = Some(piece);
    }

    /// The requested pieces of a window, as a mask.
    pub(super) fn asked_of(&self, window: u32) -> u64 {
        let asked = self.asked.iter().rev().find(|asked| asked.window == window);
        asked.map_or(0, |asked| asked.pieces)
    }

    pub(super) fn knows(&self, window: u32) -> bool {
        self.suggested.contains(&window) || self.asked_of(window) != 0
    }

    /// Whether it follows suggestions.
    pub(super) fn listens(&self) -> bool {
        self.followed >= self.strayed.max(1)
    }

    pub(super) fn is_deaf(&self) -> bool {
        self.strayed > self.followed + DEAF
    }
}
