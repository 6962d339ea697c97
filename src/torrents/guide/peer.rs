//! One peer: what it has, what it was told and asked for, and whether it takes advice.

use std::{
    collections::VecDeque,
    ops::Range,
    time::{Duration, Instant},
};

/// Over how long it is seen how fast a peer asks.
const PACE: Duration = Duration::from_millis(500);
/// Windows that a peer asked for and does not have yet, of which is known; a libtorrent asks for all that it is let.
pub(super) const ASKED: usize = 64;
/// A peer that did not take so many more suggestions than it took gets no more.
const DEAF: u32 = 32;

/// The pieces that somebody has, as BitTorrent writes them: a bit each, the highest of the first byte first.
#[derive(Debug, Clone, Copy)]
pub(in crate::torrents) struct Have<'a>(pub(in crate::torrents) &'a [u8]);

impl Have<'_> {
    pub(super) fn has(self, piece: u32) -> bool {
        self.0.get(piece as usize / 8).is_some_and(|byte| byte & (0x80 >> (piece % 8)) != 0)
    }

    pub(super) fn count(self) -> u32 {
        self.0.iter().map(|byte| byte.count_ones()).sum()
    }

    /// Those of `pieces`, at most 64, that are missing: the lowest bit is the first of them.
    pub(super) fn missing(self, pieces: Range<u32>) -> u64 {
        let bit = |(n, piece): (usize, u32)| u64::from(!self.has(piece)) << n;
        pieces.enumerate().map(bit).fold(0, |mask, bit| mask | bit)
    }
}

/// A window that is asked for, and its pieces that are: the lowest bit is the first.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) window: u32,
    pub(super) pieces: u64,
}

/// What a request for a piece is to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    Again,
    /// There are others of its window that the peer lacks and did not ask for.
    Part,
    /// There are none.
    Whole,
}

#[derive(Debug, Default)]
pub(super) struct Peer {
    /// Windows suggested of which not everything is asked for yet, and those of them that are not in memory.
    pub(super) suggested: VecDeque<u32>,
    pub(super) cold: Vec<u32>,
    /// Windows asked for that it does not have yet.
    pub(super) asked: VecDeque<Asked>,
    /// The pieces told last that it has not asked for; whether it takes those between them too.
    pub(super) told: Vec<u32>,
    pub(super) expands: bool,
    /// The piece it asked for last.
    pub(super) last: Option<u32>,
    /// Where it was led last.
    pub(super) at: u32,
    /// Windows it asked for after they were suggested, and while others were.
    pub(super) followed: u32,
    pub(super) strayed: u32,
    /// Pieces it had when it came, and asked for since.
    pub(super) began_with: u32,
    pub(super) from_us: u32,
    pub(super) advised: Option<Instant>,
    pub(super) pace: Pace,
}

/// How fast a peer asks.
#[derive(Debug, Default)]
pub(super) struct Pace {
    pub(super) seen: Option<Instant>,
    pub(super) since: Option<Instant>,
    /// Pieces since then, and a second before.
    pub(super) pieces: u32,
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
    /// Notes that it asks for a piece of a window, of which it lacks `missing`.
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

    /// Notes where it goes on. `skips`: the piece before is one that it lacks and did not ask for.
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

    /// The pieces of a window that it asked for.
    pub(super) fn asked_of(&self, window: u32) -> u64 {
        let asked = self.asked.iter().rev().find(|asked| asked.window == window);
        asked.map_or(0, |asked| asked.pieces)
    }

    pub(super) fn knows(&self, window: u32) -> bool {
        self.suggested.contains(&window) || self.asked_of(window) != 0
    }

    /// Whether it takes what is suggested.
    pub(super) fn listens(&self) -> bool {
        self.followed >= self.strayed.max(1)
    }

    pub(super) fn is_deaf(&self) -> bool {
        self.strayed > self.followed + DEAF
    }
}
