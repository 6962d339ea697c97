//! Which pieces to suggest to which peer (BEP 6), so that what is fetched for one serves all. Pure.
//!
//! A peer asks for pieces in an order of its own, mostly by chance; from storage that is far away each is then a get of
//! its own, and eight peers fetch nearly everything eight times once it does not fit in memory. A libtorrent takes what
//! is suggested to it before anything else. So all peers are led over the torrent together, window by window in order,
//! as one scan serves many readers: whoever comes joins where the others are, and gets what it missed on the next round.
//!
//! A libtorrent remembers sixteen pieces, and of small ones that is little: less than what is on its way to it, so that new
//! suggestions come too late. But one that is fast takes what lies around a piece too, 8 MiB in order. To such a peer the next
//! pieces are told, and of each window behind them the first: that is enough for all of them.
//!
//! Peers that get pieces from each other are left to themselves: rarest first gives each of them others, and they spread
//! what was fetched once. `docs/decisions/0014-peers-are-led.md` has the figures of both.
//!
//! Suggestions are advice. A peer that does not take it (others than libtorrent) is left alone after a while, and costs
//! what it would cost anyway.

mod peer;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    ops::Range,
    time::{Duration, Instant},
};

pub(super) use self::peer::Have;
use self::peer::{Asked, Peer, Request};
use crate::units::MIB;

/// The most pieces that a libtorrent remembers of what is suggested to it.
const REMEMBERED: u32 = 16;
/// The most bytes that a peer is led ahead.
const LEAD: u64 = 16 * MIB;
/// Windows of small pieces that a peer is led ahead: the first ones piece by piece, and the first piece of each behind them.
const WINDOWS: usize = 13;
/// The same for one that takes only what it is told of, and how many of them behind the first.
const FEW_WINDOWS: usize = 8;
const FEW_BEHIND: usize = 5;
/// Pieces told and not asked for that are too few to wait with the next.
const FEW_PIECES: usize = 4;
/// What a fast peer takes in order around a piece: before it first.
const AROUND: u64 = 8 * MIB;
/// The part of memory whose windows are about to go: one of so many.
const OLD: usize = 2;
/// What comes next waits so long for peers that are about to lose what they were led to, if they are half as fast.
const HOLD: Duration = Duration::from_millis(500);
/// The part of memory that is next to go: one window of so many.
const NEXT: usize = 8;
/// Windows that are fetched together, unless the peer waits for the first.
const TOGETHER: usize = 4;
/// The most pieces in a window: those asked for are bits of a word.
const PER_WINDOW: u64 = 64;
/// What is suggested is fetched at once for a peer that comes back for more within this time; for others it would have
/// gone from memory before they ask.
const QUICK: Duration = Duration::from_secs(2);
/// Windows looked at in search of one that a peer lacks.
const SEARCH: usize = 4096;

/// What to tell a peer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Advice {
    /// The first first.
    pub(super) pieces: Vec<u32>,
    /// Bytes that it will ask for and nobody did yet: to be fetched now.
    pub(super) ahead: Vec<Range<u64>>,
}

/// The peers of one torrent, and where they are led.
#[derive(Debug)]
pub(super) struct Guide {
    pieces: u32,
    piece_len: u64,
    /// Pieces in a window.
    per_window: u32,
    /// Where the scan goes on.
    next: u32,
    /// Windows that are in memory or on their way there, oldest first, and those that will be fetched next.
    recent: VecDeque<u32>,
    pending: VecDeque<u32>,
    listed: HashSet<u32>,
    /// Windows that memory has room for, and since when what is pending is held.
    room: usize,
    held: Option<Instant>,
    peers: HashMap<u64, Peer>,
}

impl Guide {
    /// For a torrent of `pieces` pieces of `piece_len` bytes.
    pub(super) fn new(pieces: u32, piece_len: u64) -> Self {
        let piece_len = piece_len.max(1);
        let per_window = u32::try_from(MIB.div_ceil(piece_len).min(PER_WINDOW)).unwrap_or(1);
        Self {
            pieces,
            piece_len,
            per_window,
            next: 0,
            recent: VecDeque::new(),
            pending: VecDeque::new(),
            listed: HashSet::new(),
            room: 0,
            held: None,
            peers: HashMap::new(),
        }
    }

    /// The peer is gone.
    pub(super) fn forget(&mut self, peer: u64) {
        self.peers.remove(&peer);
        // What nobody else is led to is not wanted any more.
        let (peers, listed) = (&self.peers, &mut self.listed);
        self.pending.retain(|window| {
            let is_wanted = peers.values().any(|peer| peer.knows(*window));
            is_wanted || !listed.remove(window)
        });
    }

    /// Whether there are peers that take what is suggested.
    pub(super) fn leads(&self) -> bool {
        self.peers.values().any(Peer::listens)
    }

    /// The peer, which has `have`, became interested, or asks for a piece for the first time. `room`: bytes that stay in
    /// memory for a while.
    pub(super) fn asks(
        &mut self,
        peer: u64,
        piece: Option<u32>,
        have: Have<'_>,
        room: u64,
        now: Instant,
    ) -> Advice {
        let room = self.windows_in(room);
        self.room = room;
        let new = || Peer { began_with: have.count(), ..Peer::default() };
        let mut state = self.peers.remove(&peer).unwrap_or_else(new);
        let request =
            piece.filter(|p| *p < self.pieces).map(|p| self.note(&mut state, p, have, room, now));
        let is_due = match request {
            Some(Request::Again) => false,
            Some(Request::Part) if state.expands => state.told.len() <= FEW_PIECES,
            Some(Request::Part) => state.told.len() + 2 <= REMEMBERED as usize,
            Some(Request::Whole) | None => self.is_due(&mut state, have, room),
        };
        let quick = state.advised.is_some_and(|last| now.duration_since(last) < QUICK);
        let mut advice = Advice::default();
        if is_due && !state.is_deaf() && self.depends(&state, have) {
            let leads = quick && state.listens();
            advice.pieces = self.advise(&mut state, have, room, leads);
            state.advised = Some(now);
        }
        state.cold.retain(|w| state.suggested.contains(w));
        let waits = state.suggested.front().is_some_and(|first| state.cold.contains(first));
        if quick && state.listens() && (waits || state.cold.len() >= TOGETHER) {
            advice.ahead = self.runs(&std::mem::take(&mut state.cold));
        }
        let waits = state.suggested.front().is_some_and(|first| self.pending.contains(first));
        self.peers.insert(peer, state);
        if waits || self.pending.len() >= TOGETHER {
            advice.ahead.extend(self.release(now));
        }
        advice
    }

    /// Whether a piece is to be fetched with others, which wait for peers who are behind.
    pub(super) fn is_pending(&self, piece: u32) -> bool {
        self.pending.contains(&(piece / self.per_window))
    }

    /// What is pending and held by nobody any more: to be fetched now.
    pub(super) fn release(&mut self, now: Instant) -> Vec<Range<u64>> {
        let mut windows = Vec::new();
        while let Some(next) = self.pending.front().copied().filter(|_| !self.is_held(now)) {
            self.pending.pop_front();
            self.recent.push_back(next);
            self.forget_oldest();
            windows.push(next);
        }
        self.runs(&windows)
    }

    /// The piece is fetched all the same: who waited for it waits no longer.
    pub(super) fn fetches(&mut self, piece: u32) {
        let window = piece / self.per_window;
        if let Some(n) = self.pending.iter().position(|pending| *pending == window) {
            self.pending.remove(n);
            self.recent.push_back(window);
            self.forget_oldest();
        }
    }

    /// Whether what memory would let go of next is what somebody is led to who is nearly as fast as the fastest.
    fn is_held(&mut self, now: Instant) -> bool {
        let fastest = self.peers.values().map(|peer| peer.pace.rate).fold(0.0, f64::max);
        let next: HashSet<u32> = self.recent.iter().take(self.room / NEXT + 1).copied().collect();
        let is_here = |seen: Instant| now.duration_since(seen) < HOLD;
        let holds = |peer: &Peer| {
            peer.pace.rate * 2.0 >= fastest
                && peer.pace.seen.is_some_and(is_here)
                && peer.suggested.iter().any(|window| next.contains(window))
        };
        if self.recent.len() < self.room || !self.peers.values().any(holds) {
            self.held = None;
            return false;
        }
        let since = *self.held.get_or_insert(now);
        now.duration_since(since) < HOLD
    }

    /// Notes that the peer asks for a piece.
    fn note(
        &mut self,
        peer: &mut Peer,
        piece: u32,
        have: Have<'_>,
        room: usize,
        now: Instant,
    ) -> Request {
        peer.pace.asks(now);
        let before = piece.checked_sub(1);
        let skips = before.is_some_and(|before| {
            self.unasked(peer, have, before / self.per_window) & self.bit(before) != 0
        });
        peer.goes_to(piece, skips);
        let window = piece / self.per_window;
        let missing = have.missing(self.pieces_of(window));
        let request = peer.asks(window, self.bit(piece), missing);
        // A window of which a part was asked for by itself is not in memory.
        if request == Request::Whole {
            self.list(window, room);
        }
        request
    }

    /// Whether it is time to tell more. A suggestion comes behind all that is on its way to the peer, which is half of what
    /// it is led ahead: in time only if it is early.
    fn is_due(&self, peer: &mut Peer, have: Have<'_>, room: usize) -> bool {
        // What has gone from memory before it was asked for is no good advice any more.
        peer.suggested.retain(|w| self.lacks(have, *w) && self.listed.contains(w));
        peer.asked.retain(|asked| self.lacks(have, asked.window));
        let lead = self.lead(peer, room);
        match self.per_window {
            1 => peer.suggested.len() * 4 <= lead * 3,
            _ => peer.suggested.len() < lead,
        }
    }

    /// The pieces to suggest. What was suggested before and not asked for yet is told again, before the new: a libtorrent
    /// takes the newest suggestion first.
    fn advise(&mut self, peer: &mut Peer, have: Have<'_>, room: usize, leads: bool) -> Vec<u32> {
        let count = self.lead(peer, room).saturating_sub(peer.suggested.len());
        let (windows, new) = self.choose(peer, have, count);
        peer.suggested.extend(windows);
        match leads {
            true => self.pending.extend(new),
            false => {
                self.recent.extend(&new);
                self.forget_oldest();
                peer.cold.extend(new);
            }
        }
        let told = self.pieces_to_tell(peer, have);
        peer.told.clone_from(&told);
        told
    }

    /// As many pieces as a peer remembers: the first ones, and the first of each window behind those.
    fn pieces_to_tell(&self, peer: &Peer, have: Have<'_>) -> Vec<u32> {
        let behind = peer.suggested.len().saturating_sub(1);
        let behind = if peer.expands { behind } else { behind.min(FEW_BEHIND) };
        let mut pieces: Vec<u32> = self.end_of_jump(peer, have).into_iter().collect();
        for window in &peer.suggested {
            let first = self.pieces_of(*window).start;
            let left = self.unasked(peer, have, *window);
            let left = (0..self.per_window).filter(|n| left & (1 << n) != 0).map(|n| first + n);
            let near = (REMEMBERED as usize - behind).saturating_sub(pieces.len());
            let room = REMEMBERED as usize - pieces.len();
            pieces.extend(left.take(near.max(1).min(room)));
        }
        pieces
    }

    /// Where the peer is led away from what it lacks: the piece around which it takes what it is led to, and nothing before
    /// that, which has gone from memory.
    fn end_of_jump(&self, peer: &Peer, have: Have<'_>) -> Option<u32> {
        let window = *peer.suggested.front()?;
        let left = self.unasked(peer, have, window);
        let first = self.pieces_of(window).start + left.trailing_zeros();
        let before = first.checked_sub(1)?;
        if self.unasked(peer, have, before / self.per_window) & self.bit(before) == 0 {
            return None;
        }
        let run = peer.suggested.iter().zip(window..).take_while(|(w, next)| *w == next);
        let end = self.pieces_of(window + u32::try_from(run.count()).ok()? - 1).end;
        let around = u32::try_from(AROUND / self.piece_len).unwrap_or(u32::MAX).max(1);
        let last = first.saturating_add(around).min(end) - 1;
        let is_open = self.unasked(peer, have, last / self.per_window) & self.bit(last) != 0;
        (is_open && last > first && !have.has(last)).then_some(last)
    }

    /// Up to `count` windows for the peer, and those of them that are new to memory: first what memory will let go of
    /// first.
    fn choose(&mut self, peer: &mut Peer, have: Have<'_>, count: usize) -> (Vec<u32>, Vec<u32>) {
        let fits = |w: &u32| self.is_open(peer, have, *w) && self.is_in_order(peer, have, *w);
        let (full, old) = (self.recent.len() >= self.room, self.recent.len() / OLD);
        // What goes from memory next is no place to lead somebody to who is not there.
        let stays = |(n, w): &(usize, u32)| !full || *n >= old || self.follows(peer, have, *w);
        let here = self
            .recent
            .iter()
            .chain(&self.pending)
            .copied()
            .enumerate()
            .filter(stays)
            .map(|(_, w)| w);
        let mut chosen: Vec<u32> = here.filter(fits).take(count).collect();
        let new = self.take_new(peer, have, count - chosen.len());
        chosen.extend(&new);
        (chosen, new)
    }

    /// Whether there is something of a window to suggest to the peer.
    fn is_open(&self, peer: &Peer, have: Have<'_>, window: u32) -> bool {
        !peer.suggested.contains(&window) && self.unasked(peer, have, window) != 0
    }

    /// Whether a window goes on with what the peer has or was told of, or others in memory follow it. A libtorrent that is
    /// told of one by itself takes those around it too, which nobody else wants now.
    fn is_in_order(&self, peer: &Peer, have: Have<'_>, window: u32) -> bool {
        self.follows(peer, have, window) || self.listed.contains(&(window + 1))
    }

    /// Whether a window goes on with what the peer has or was told of.
    fn follows(&self, peer: &Peer, have: Have<'_>, window: u32) -> bool {
        let before = window.checked_sub(1);
        before.is_none_or(|before| peer.knows(before) || !self.lacks(have, before))
    }

    /// The next windows of the scan that the peer lacks and nobody was told of: those after its last, else where the scan
    /// is.
    fn take_new(&mut self, peer: &mut Peer, have: Have<'_>, count: usize) -> Vec<u32> {
        let windows = self.pieces.div_ceil(self.per_window);
        let mut taken = Vec::new();
        let is_new =
            |guide: &Self, w: u32| !guide.listed.contains(&w) && guide.is_open(peer, have, w);
        let mut at = if peer.at < windows && is_new(self, peer.at) { peer.at } else { self.next };
        for _ in 0..SEARCH.min(windows as usize) {
            if taken.len() == count {
                break;
            }
            if at >= windows {
                at = 0;
            }
            if is_new(self, at) {
                self.listed.insert(at);
                taken.push(at);
            }
            at += 1;
        }
        if let Some(last) = taken.last() {
            peer.at = last + 1;
            self.next = last + 1;
        }
        taken
    }

    /// Notes that a window will be in memory, and the oldest will not.
    fn list(&mut self, window: u32, room: usize) {
        if self.listed.insert(window) {
            self.recent.push_back(window);
        }
        self.room = room;
        self.forget_oldest();
    }

    fn forget_oldest(&mut self) {
        while self.recent.len() > self.room.max(1) {
            if let Some(oldest) = self.recent.pop_front() {
                self.listed.remove(&oldest);
            }
        }
    }

    /// Windows that a peer is led ahead, where so many stay in memory: two fifths, since what it was led to before is still
    /// on its way to it.
    fn lead(&self, peer: &Peer, room: usize) -> usize {
        let most = match self.per_window {
            1 => REMEMBERED as usize,
            _ if self.is_tiny() => 1,
            _ if peer.expands => WINDOWS,
            _ => FEW_WINDOWS,
        };
        most.min(self.windows_in(LEAD)).min(room / 5 * 2).max(1)
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

    /// Of its window: the piece, or all of it where pieces are so small that a peer takes more than it can be told of.
    fn bit(&self, piece: u32) -> u64 {
        if self.is_tiny() { u64::MAX } else { 1 << (piece % self.per_window) }
    }

    fn is_tiny(&self) -> bool {
        self.per_window > REMEMBERED
    }

    /// The pieces of a window that the peer lacks and did not ask for.
    fn unasked(&self, peer: &Peer, have: Have<'_>, window: u32) -> u64 {
        have.missing(self.pieces_of(window)) & !peer.asked_of(window)
    }

    /// Whether nearly all that the peer got came from us.
    fn depends(&self, peer: &Peer, have: Have<'_>) -> bool {
        let under_way = |asked: &Asked| asked.pieces & have.missing(self.pieces_of(asked.window));
        let under_way: u32 = peer.asked.iter().map(|asked| under_way(asked).count_ones()).sum();
        let ours = peer.from_us.saturating_sub(under_way);
        let got = have.count().saturating_sub(peer.began_with);
        got.saturating_sub(ours) <= ours / 4
    }

    fn lacks(&self, have: Have<'_>, window: u32) -> bool {
        have.missing(self.pieces_of(window)) != 0
    }

    /// The bytes of windows, neighbours together. The last may end beyond the torrent.
    fn runs(&self, windows: &[u32]) -> Vec<Range<u64>> {
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
