//! Decides which pieces to suggest to which peer (BEP 6), so that one fetch from storage serves all peers. Pure.
//!
//! Left alone, a peer requests pieces in its own, mostly random order. With remote storage each piece is then a GET of
//! its own, and eight peers fetch nearly everything eight times once the torrent does not fit in memory. A libtorrent
//! peer requests suggested pieces before all others. All peers are therefore led over the torrent together, window by
//! window in order, as one scan serves many readers. A new peer joins at the position of the others, and gets the
//! windows it missed on the next round.
//!
//! A libtorrent peer remembers sixteen suggested pieces. With small pieces that is less than what is on its way to the
//! peer, so new suggestions arrive too late. But a fast peer also takes the 8 MiB around a suggested piece, in order.
//! Such a peer is told the next pieces, and the first piece of each window behind them; it then takes them all.
//!
//! Peers that get pieces from each other get no suggestions. Rarest-first gives each of them different pieces, and they
//! spread among themselves what was fetched once. `docs/decisions/0014-peers-are-led.md` has the measurements of both.
//!
//! Suggestions are advice. A peer that does not follow them (a client other than libtorrent) gets no more after a
//! while, and costs as much as without suggestions.

mod peer;
mod scan;
#[cfg(test)]
mod tests;
mod window_set;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    ops::Range,
    time::{Duration, Instant},
};

pub(in crate::torrents) use self::peer::Have;
use self::{
    peer::{Peer, RequestKind, WindowRequests},
    window_set::WindowSet,
};
use crate::units::MIB;

/// The most suggested pieces that a libtorrent peer remembers.
const MAX_REMEMBERED: u32 = 16;
/// Suggestions reach at most this many bytes ahead of a peer.
const LOOKAHEAD: u64 = 16 * MIB;
/// Windows suggested ahead to a peer with small pieces that takes whole stretches: all pieces of the first windows, and
/// the first piece of each window behind them.
const WINDOWS_AHEAD: usize = 13;
/// The same for a peer that takes only the suggested pieces.
const EXACT_WINDOWS_AHEAD: usize = 8;
/// Of these windows, how many have a suggestion reserved behind the first.
const EXACT_RESERVED: usize = 5;
/// With at most this many suggested pieces not requested yet, the next suggestions are due.
const REFILL_PIECES: usize = 4;
/// How many bytes a fast peer takes in order around a suggested piece. It takes those before the piece first.
const EXPANSION: u64 = 8 * MIB;
/// How long the next windows are held back for peers that are about to lose their suggested windows, if they are at
/// least half as fast as the fastest peer.
const HOLD_BACK: Duration = Duration::from_millis(500);
/// The oldest part of the windows in memory is evicted next: one in this many.
const EVICTED_NEXT_FRACTION: usize = 8;
/// Windows that are fetched together, unless the peer waits for the first of them.
const FETCH_BATCH: usize = 4;
/// The most pieces in a window: the requested ones are bits of a `u64`.
const MAX_PER_WINDOW: u64 = 64;
/// Suggested windows are fetched at once for a peer that comes back within this time. For a slower peer they would be
/// evicted before it requests them.
const QUICK_RETURN: Duration = Duration::from_secs(2);

/// What to suggest to a peer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::torrents) struct Suggestions {
    /// Pieces to suggest, the one to request first at the front.
    pub(in crate::torrents) pieces: Vec<u32>,
    /// Bytes that the peer will request and that no peer has requested yet: to be fetched now.
    pub(in crate::torrents) prefetch: Vec<Range<u64>>,
}

/// The peers of one torrent, and the scan that they follow.
#[derive(Debug)]
pub(in crate::torrents) struct Suggester {
    pieces: u32,
    piece_len: u64,
    /// Number of pieces in a window.
    per_window: u32,
    /// The window at which the scan continues.
    next_window: u32,
    /// Windows in memory or on their way there, oldest first.
    recent: VecDeque<u32>,
    /// Windows that are fetched next.
    pending: VecDeque<u32>,
    /// All windows of `recent` and `pending`.
    listed: WindowSet,
    /// Number of windows that fit in memory.
    capacity: usize,
    /// Since when the pending windows are held back.
    held_since: Option<Instant>,
    peers: HashMap<u64, Peer>,
    /// Number of steps of searches.
    #[cfg(test)]
    searched: std::cell::Cell<usize>,
}

impl Suggester {
    /// For a torrent of `pieces` pieces of `piece_len` bytes.
    pub(in crate::torrents) fn new(pieces: u32, piece_len: u64) -> Self {
        let piece_len = piece_len.max(1);
        let per_window = u32::try_from(MIB.div_ceil(piece_len).min(MAX_PER_WINDOW)).unwrap_or(1);
        Self {
            pieces,
            piece_len,
            per_window,
            next_window: 0,
            recent: VecDeque::new(),
            pending: VecDeque::new(),
            listed: WindowSet::new(pieces.div_ceil(per_window)),
            capacity: 0,
            held_since: None,
            peers: HashMap::new(),
            #[cfg(test)]
            searched: std::cell::Cell::default(),
        }
    }

    /// Removes a peer that disconnected.
    pub(in crate::torrents) fn remove_peer(&mut self, peer: u64) {
        self.peers.remove(&peer);
        // A pending window that no other peer knows of is not needed any more.
        let (peers, listed) = (&self.peers, &mut self.listed);
        self.pending.retain(|window| {
            let is_wanted = peers.values().any(|peer| peer.knows_window(*window));
            is_wanted || !listed.remove(*window)
        });
    }

    /// Whether there are peers that follow suggestions.
    pub(in crate::torrents) fn has_followers(&self) -> bool {
        self.peers.values().any(Peer::follows_suggestions)
    }

    /// Called when a peer with the pieces `have` becomes interested (`piece` is `None`), or starts to request a piece.
    /// `capacity` is the number of bytes that stay in memory for a while.
    pub(in crate::torrents) fn on_request(
        &mut self,
        peer: u64,
        piece: Option<u32>,
        have: Have<'_>,
        capacity: u64,
        now: Instant,
    ) -> Suggestions {
        let capacity = self.windows_in(capacity);
        self.capacity = capacity;
        let new = || Peer { initial_pieces: have.count(), ..Peer::default() };
        let mut state = self.peers.remove(&peer).unwrap_or_else(new);
        let request = piece
            .filter(|p| *p < self.pieces)
            .map(|p| self.record_request(&mut state, p, have, capacity, now));
        let is_due = match request {
            Some(RequestKind::Repeated) => false,
            Some(RequestKind::Partial) if state.expands => {
                state.suggested_pieces.len() <= REFILL_PIECES
            }
            Some(RequestKind::Partial) => {
                state.suggested_pieces.len() + 2 <= MAX_REMEMBERED as usize
            }
            Some(RequestKind::Complete) | None => {
                self.needs_suggestions(&mut state, have, capacity)
            }
        };
        let is_quick =
            state.suggested_at.is_some_and(|last| now.duration_since(last) < QUICK_RETURN);
        let mut suggestions = Suggestions::default();
        if is_due && !state.ignores_suggestions() && self.depends_on_us(&state, have) {
            let is_led = is_quick && state.follows_suggestions();
            suggestions.pieces = self.suggest(&mut state, have, capacity, is_led);
            state.suggested_at = Some(now);
        }
        state.uncached.retain(|w| state.suggested.contains(w));
        let is_waiting =
            state.suggested.front().is_some_and(|first| state.uncached.contains(first));
        if is_quick
            && state.follows_suggestions()
            && (is_waiting || state.uncached.len() >= FETCH_BATCH)
        {
            suggestions.prefetch = self.window_ranges(&std::mem::take(&mut state.uncached));
        }
        let is_waiting = state.suggested.front().is_some_and(|first| self.pending.contains(first));
        self.peers.insert(peer, state);
        if is_waiting || self.pending.len() >= FETCH_BATCH {
            suggestions.prefetch.extend(self.take_released(now));
        }
        suggestions
    }

    /// Whether the window of a piece is pending: it is held back for peers that are behind.
    pub(in crate::torrents) fn is_pending(&self, piece: u32) -> bool {
        self.pending.contains(&(piece / self.per_window))
    }

    /// Takes the pending windows that are not held back any more, as byte ranges to fetch now.
    pub(in crate::torrents) fn take_released(&mut self, now: Instant) -> Vec<Range<u64>> {
        let mut windows = Vec::new();
        while let Some(next) = self.pending.front().copied().filter(|_| !self.is_held(now)) {
            self.pending.pop_front();
            self.recent.push_back(next);
            self.evict_oldest();
            windows.push(next);
        }
        self.window_ranges(&windows)
    }

    /// Marks the window of a piece as fetched now, even if it was held back.
    pub(in crate::torrents) fn start_fetch(&mut self, piece: u32) {
        let window = piece / self.per_window;
        if let Some(n) = self.pending.iter().position(|pending| *pending == window) {
            self.pending.remove(n);
            self.recent.push_back(window);
            self.evict_oldest();
        }
    }

    /// Whether pending windows are held back: a window that memory evicts next is suggested to a peer that is at least
    /// half as fast as the fastest peer.
    fn is_held(&mut self, now: Instant) -> bool {
        let fastest =
            self.peers.values().map(|peer| peer.rate.pieces_per_second).fold(0.0, f64::max);
        let evicted_next: HashSet<u32> =
            self.recent.iter().take(self.capacity / EVICTED_NEXT_FRACTION + 1).copied().collect();
        let is_active = |request: Instant| now.duration_since(request) < HOLD_BACK;
        let holds = |peer: &Peer| {
            peer.rate.pieces_per_second * 2.0 >= fastest
                && peer.rate.last_request.is_some_and(is_active)
                && peer.suggested.iter().any(|window| evicted_next.contains(window))
        };
        if self.recent.len() < self.capacity || !self.peers.values().any(holds) {
            self.held_since = None;
            return false;
        }
        let since = *self.held_since.get_or_insert(now);
        now.duration_since(since) < HOLD_BACK
    }

    /// Records that the peer requests a piece.
    fn record_request(
        &mut self,
        peer: &mut Peer,
        piece: u32,
        have: Have<'_>,
        capacity: usize,
        now: Instant,
    ) -> RequestKind {
        peer.rate.record(now);
        let before = piece.checked_sub(1);
        let skips = before.is_some_and(|before| {
            self.unrequested(peer, have, before / self.per_window) & self.bit(before) != 0
        });
        peer.record_position(piece, skips);
        let window = piece / self.per_window;
        let missing = have.missing(self.pieces_of(window));
        let request = peer.record_request(window, self.bit(piece), missing);
        // A window of which only a part was requested does not count as in memory.
        if request == RequestKind::Complete {
            self.add_window(window, capacity);
        }
        request
    }

    /// Whether to send more suggestions. A suggestion arrives behind all bytes that are on their way to the peer, which
    /// is half of its lookahead, so it is in time only if it is sent early.
    fn needs_suggestions(&self, peer: &mut Peer, have: Have<'_>, capacity: usize) -> bool {
        // A window that was evicted before it was requested is not a good suggestion any more.
        peer.suggested.retain(|w| self.lacks_window(have, *w) && self.listed.contains(*w));
        peer.requested.retain(|requested| self.lacks_window(have, requested.window));
        let ahead = self.windows_ahead(peer, capacity);
        match self.per_window {
            1 => peer.suggested.len() * 4 <= ahead * 3,
            _ => peer.suggested.len() < ahead,
        }
    }

    /// The pieces to suggest. Earlier suggestions that were not requested yet are repeated in front of the new ones,
    /// because a libtorrent peer takes the newest suggestion first.
    fn suggest(
        &mut self,
        peer: &mut Peer,
        have: Have<'_>,
        capacity: usize,
        is_led: bool,
    ) -> Vec<u32> {
        let count = self.windows_ahead(peer, capacity).saturating_sub(peer.suggested.len());
        let (windows, new) = self.choose_windows(peer, have, count);
        peer.suggested.extend(windows);
        match is_led {
            true => self.pending.extend(new),
            false => {
                self.recent.extend(&new);
                self.evict_oldest();
                peer.uncached.extend(new);
            }
        }
        let pieces = self.pieces_to_suggest(peer, have);
        peer.suggested_pieces.clone_from(&pieces);
        pieces
    }

    /// As many pieces as a peer remembers: those of the first windows, and the first piece of each window behind them.
    fn pieces_to_suggest(&self, peer: &Peer, have: Have<'_>) -> Vec<u32> {
        let behind = peer.suggested.len().saturating_sub(1);
        let behind = if peer.expands { behind } else { behind.min(EXACT_RESERVED) };
        let mut pieces: Vec<u32> = self.jump_end(peer, have).into_iter().collect();
        for window in &peer.suggested {
            let first = self.pieces_of(*window).start;
            let left = self.unrequested(peer, have, *window);
            let left = (0..self.per_window).filter(|n| left & (1 << n) != 0).map(|n| first + n);
            let near = (MAX_REMEMBERED as usize - behind).saturating_sub(pieces.len());
            let free = MAX_REMEMBERED as usize - pieces.len();
            pieces.extend(left.take(near.max(1).min(free)));
        }
        pieces
    }

    /// The piece to suggest first when the suggestions jump over pieces that the peer lacks. A fast peer takes the
    /// pieces before a suggested piece first, and those have gone from memory. It is therefore told the last piece of
    /// the first 8 MiB that are suggested, and takes the pieces before that one.
    fn jump_end(&self, peer: &Peer, have: Have<'_>) -> Option<u32> {
        let window = *peer.suggested.front()?;
        let left = self.unrequested(peer, have, window);
        let first = self.pieces_of(window).start + left.trailing_zeros();
        let before = first.checked_sub(1)?;
        if self.unrequested(peer, have, before / self.per_window) & self.bit(before) == 0 {
            return None;
        }
        let run = peer.suggested.iter().zip(window..).take_while(|(w, next)| *w == next);
        let end = self.pieces_of(window + u32::try_from(run.count()).ok()? - 1).end;
        let around = u32::try_from(EXPANSION / self.piece_len).unwrap_or(u32::MAX).max(1);
        let last = first.saturating_add(around).min(end) - 1;
        let is_unrequested =
            self.unrequested(peer, have, last / self.per_window) & self.bit(last) != 0;
        (is_unrequested && last > first && !have.has(last)).then_some(last)
    }

    /// Records that a window comes into memory, which evicts the oldest.
    fn add_window(&mut self, window: u32, capacity: usize) {
        if self.listed.insert(window) {
            self.recent.push_back(window);
        }
        self.capacity = capacity;
        self.evict_oldest();
    }

    fn evict_oldest(&mut self) {
        while self.recent.len() > self.capacity.max(1) {
            if let Some(oldest) = self.recent.pop_front() {
                self.listed.remove(oldest);
            }
        }
    }

    /// How many windows ahead of a peer suggestions reach, when `capacity` windows fit in memory: at most two fifths,
    /// because the windows suggested before are still on their way to the peer.
    fn windows_ahead(&self, peer: &Peer, capacity: usize) -> usize {
        let max = match self.per_window {
            1 => MAX_REMEMBERED as usize,
            _ if self.has_tiny_pieces() => 1,
            _ if peer.expands => WINDOWS_AHEAD,
            _ => EXACT_WINDOWS_AHEAD,
        };
        max.min(self.windows_in(LOOKAHEAD)).min(capacity / 5 * 2).max(1)
    }

    fn windows_in(&self, bytes: u64) -> usize {
        usize::try_from(bytes / self.window_len()).unwrap_or(usize::MAX)
    }

    fn window_len(&self) -> u64 {
        u64::from(self.per_window) * self.piece_len
    }

    fn pieces_of(&self, window: u32) -> Range<u32> {
        let first = window.saturating_mul(self.per_window);
        first..first.saturating_add(self.per_window).min(self.pieces)
    }

    /// The bit of a piece in its window; all bits when a window has more pieces than a peer remembers.
    fn bit(&self, piece: u32) -> u64 {
        if self.has_tiny_pieces() { u64::MAX } else { 1 << (piece % self.per_window) }
    }

    fn has_tiny_pieces(&self) -> bool {
        self.per_window > MAX_REMEMBERED
    }

    /// The pieces of a window that the peer lacks and has not requested.
    fn unrequested(&self, peer: &Peer, have: Have<'_>, window: u32) -> u64 {
        match have.missing(self.pieces_of(window)) {
            0 => 0,
            missing => missing & !peer.requested_in(window),
        }
    }

    /// Whether nearly all pieces that the peer received came from us.
    fn depends_on_us(&self, peer: &Peer, have: Have<'_>) -> bool {
        let in_flight = |requested: &WindowRequests| {
            requested.pieces & have.missing(self.pieces_of(requested.window))
        };
        let in_flight: u32 =
            peer.requested.iter().map(|requested| in_flight(requested).count_ones()).sum();
        let ours = peer.requested_pieces.saturating_sub(in_flight);
        let received = have.count().saturating_sub(peer.initial_pieces);
        received.saturating_sub(ours) <= ours / 4
    }

    fn lacks_window(&self, have: Have<'_>, window: u32) -> bool {
        have.missing(self.pieces_of(window)) != 0
    }

    /// The byte ranges of windows, neighbours joined. The last range may end beyond the torrent.
    fn window_ranges(&self, windows: &[u32]) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for window in windows {
            let start = u64::from(*window) * self.window_len();
            let end = start + self.window_len();
            match runs.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => runs.push(start..end),
            }
        }
        runs
    }
}
