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

use std::{
    collections::{HashMap, HashSet, VecDeque},
    ops::Range,
    time::{Duration, Instant},
};

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
/// Over how long it is seen how fast a peer asks.
const PACE: Duration = Duration::from_millis(500);
/// What comes next waits so long for peers that are about to lose what they were led to, if they are half as fast.
const HOLD: Duration = Duration::from_millis(500);
/// The part of memory that is next to go: one window of so many.
const NEXT: usize = 8;
/// Windows that are fetched together, unless the peer waits for the first.
const TOGETHER: usize = 4;
/// The most pieces in a window: those asked for are bits of a word.
const PER_WINDOW: u64 = 64;
/// A peer that did not take so many more suggestions than it took gets no more.
const DEAF: u32 = 32;
/// What is suggested is fetched at once for a peer that comes back for more within this time; for others it would have
/// gone from memory before they ask.
const QUICK: Duration = Duration::from_secs(2);
/// Windows that a peer asked for and does not have yet, of which is known; a libtorrent asks for all that it is let.
const ASKED: usize = 64;
/// Windows looked at in search of one that a peer lacks.
const SEARCH: usize = 4096;

/// The pieces that somebody has, as BitTorrent writes them: a bit each, the highest of the first byte first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Have<'a>(pub(super) &'a [u8]);

impl Have<'_> {
    fn has(self, piece: u32) -> bool {
        self.0.get(piece as usize / 8).is_some_and(|byte| byte & (0x80 >> (piece % 8)) != 0)
    }

    fn count(self) -> u32 {
        self.0.iter().map(|byte| byte.count_ones()).sum()
    }

    /// Those of `pieces`, at most 64, that are missing: the lowest bit is the first of them.
    fn missing(self, pieces: Range<u32>) -> u64 {
        let bit = |(n, piece): (usize, u32)| u64::from(!self.has(piece)) << n;
        pieces.enumerate().map(bit).fold(0, |mask, bit| mask | bit)
    }
}

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

/// A window that is asked for, and its pieces that are: the lowest bit is the first.
#[derive(Debug)]
struct Asked {
    window: u32,
    pieces: u64,
}

/// What a request for a piece is to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Request {
    Again,
    /// There are others of its window that the peer lacks and did not ask for.
    Part,
    /// There are none.
    Whole,
}

#[derive(Debug, Default)]
struct Peer {
    /// Windows suggested of which not everything is asked for yet, and those of them that are not in memory.
    suggested: VecDeque<u32>,
    cold: Vec<u32>,
    /// Windows asked for that it does not have yet.
    asked: VecDeque<Asked>,
    /// The pieces told last that it has not asked for; whether it takes those between them too.
    told: Vec<u32>,
    expands: bool,
    /// The piece it asked for last.
    last: Option<u32>,
    /// Where it was led last.
    at: u32,
    /// Windows it asked for after they were suggested, and while others were.
    followed: u32,
    strayed: u32,
    /// Pieces it had when it came, and asked for since.
    began_with: u32,
    from_us: u32,
    advised: Option<Instant>,
    pace: Pace,
}

/// How fast a peer asks.
#[derive(Debug, Default)]
struct Pace {
    seen: Option<Instant>,
    since: Option<Instant>,
    /// Pieces since then, and a second before.
    pieces: u32,
    rate: f64,
}

impl Pace {
    fn asks(&mut self, now: Instant) {
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

impl Peer {
    /// Notes that it asks for a piece of a window, of which it lacks `missing`.
    fn asks(&mut self, window: u32, piece: u64, missing: u64) -> Request {
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
    fn goes_to(&mut self, piece: u32, skips: bool) {
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
    fn asked_of(&self, window: u32) -> u64 {
        let asked = self.asked.iter().rev().find(|asked| asked.window == window);
        asked.map_or(0, |asked| asked.pieces)
    }

    fn knows(&self, window: u32) -> bool {
        self.suggested.contains(&window) || self.asked_of(window) != 0
    }

    /// Whether it takes what is suggested.
    fn listens(&self) -> bool {
        self.followed >= self.strayed.max(1)
    }

    fn is_deaf(&self) -> bool {
        self.strayed > self.followed + DEAF
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A libtorrent in short: asks for eight windows ahead, suggested ones first and the newest of them before others,
    /// else for whatever its dice say.
    struct Leecher {
        number: u64,
        have: Vec<u8>,
        suggested: Vec<u32>,
        asked: VecDeque<u32>,
        dice: u32,
        /// Gets a piece in every so many turns.
        pace: usize,
    }

    /// A seed whose memory holds `room` windows, the last used ones.
    struct Seed {
        guide: Guide,
        room: usize,
        memory: VecDeque<u32>,
        fetched: Vec<u32>,
        ahead: u64,
        now: Instant,
    }

    const WINDOWS: u32 = 256;

    impl Leecher {
        fn new(number: u64) -> Self {
            let have = vec![0; WINDOWS as usize / 8];
            let dice = u32::try_from(number).unwrap() * 7919 + 1;
            Self { number, have, suggested: Vec::new(), asked: VecDeque::new(), dice, pace: 1 }
        }

        fn has(&self, piece: u32) -> bool {
            Have(&self.have).has(piece)
        }

        fn gets(&mut self, piece: u32) {
            self.have[piece as usize / 8] |= 0x80 >> (piece % 8);
            self.suggested.retain(|p| *p != piece);
            self.asked.retain(|p| *p != piece);
        }

        fn is_done(&self) -> bool {
            Have(&self.have).count() == WINDOWS
        }

        fn told(&mut self, pieces: Vec<u32>) {
            for piece in pieces.into_iter().rev() {
                self.suggested.insert(0, piece);
            }
            self.suggested.truncate(REMEMBERED as usize);
        }

        fn next(&mut self) -> Option<u32> {
            self.dice = self.dice.wrapping_mul(1_103_515_245).wrapping_add(12345);
            let start = (self.dice >> 8) % WINDOWS;
            let wants = |p: &u32| !self.has(*p) && !self.asked.contains(p);
            let advised = self.suggested.iter().copied().find(wants);
            advised.or_else(|| (0..WINDOWS).map(|n| (start + n) % WINDOWS).find(wants))
        }
    }

    impl Seed {
        fn new(room: usize) -> Self {
            let guide = Guide::new(WINDOWS, MIB);
            let now = Instant::now();
            Self { guide, room, memory: VecDeque::new(), fetched: Vec::new(), ahead: 0, now }
        }

        fn advise(&mut self, leecher: &mut Leecher, piece: Option<u32>) {
            self.now += Duration::from_millis(10);
            let room = self.room as u64 * MIB;
            let advice =
                self.guide.asks(leecher.number, piece, Have(&leecher.have), room, self.now);
            assert!(advice.pieces.len() <= REMEMBERED as usize);
            self.ahead += advice.ahead.iter().map(|run| (run.end - run.start) / MIB).sum::<u64>();
            leecher.told(advice.pieces);
        }

        /// Nobody waits here.
        fn reads(&mut self, piece: u32) {
            self.guide.fetches(piece);
            match self.memory.iter().position(|p| *p == piece) {
                Some(n) => drop(self.memory.remove(n)),
                None => self.fetched.push(piece),
            }
            self.memory.push_back(piece);
            while self.memory.len() > self.room {
                self.memory.pop_front();
            }
        }

        /// Serves a piece at a time to each in turn until all have everything.
        fn serve(&mut self, leechers: &mut [Leecher]) {
            leechers.iter_mut().for_each(|l| self.advise(l, None));
            let mut turn = 0;
            while leechers.iter().any(|l| !l.is_done()) {
                turn += 1;
                for leecher in leechers.iter_mut().filter(|l| turn % l.pace == 0) {
                    while leecher.asked.len() < 8
                        && let Some(piece) = leecher.next()
                    {
                        leecher.asked.push_back(piece);
                        self.advise(leecher, Some(piece));
                        self.reads(piece);
                    }
                    if let Some(piece) = leecher.asked.front().copied() {
                        leecher.gets(piece);
                    }
                }
            }
        }
    }

    #[test]
    fn one_peer_is_led_from_the_first_byte_to_the_last_and_what_follows_is_fetched_for_it() {
        let mut seed = Seed::new(48);
        seed.serve(&mut [Leecher::new(1)]);
        assert_eq!(seed.fetched, (0..WINDOWS).collect::<Vec<_>>());
        assert!(seed.ahead > u64::from(WINDOWS) * 3 / 4, "{}", seed.ahead);
    }

    /// A fast libtorrent and pieces of 256 KiB: it has twelve on their way, among which new suggestions come to it. It picks
    /// the newest suggestion that is free, and with it 8 MiB around it once it has seen how fast it is.
    struct Fast {
        number: u64,
        have: Vec<u8>,
        suggested: VecDeque<u32>,
        asked: HashSet<u32>,
        batch: VecDeque<u32>,
        line: VecDeque<Result<u32, Vec<u32>>>,
        dice: u32,
        got: u32,
        strayed: u32,
        waited: u32,
    }

    /// What memory holds of it, and how many pieces were fetched.
    struct Small {
        guide: Guide,
        memory: VecDeque<u32>,
        fetched: u32,
        now: Instant,
    }

    const SMALL: u32 = 1920;
    const SMALL_ROOM: u64 = 40 * MIB;

    impl Small {
        fn new() -> Self {
            let guide = Guide::new(SMALL, 256 << 10);
            Self { guide, memory: VecDeque::new(), fetched: 0, now: Instant::now() }
        }

        fn fetch(&mut self, piece: u32) {
            if piece < SMALL && !self.memory.contains(&piece) {
                self.fetched += 1;
                self.memory.push_back(piece);
                if self.memory.len() > 160 {
                    self.memory.pop_front();
                }
            }
        }

        fn advise(&mut self, peer: &mut Fast, piece: Option<u32>) {
            let advice =
                self.guide.asks(peer.number, piece, Have(&peer.have), SMALL_ROOM, self.now);
            for run in advice.ahead {
                (run.start >> 18..run.end >> 18)
                    .for_each(|piece| self.fetch(u32::try_from(piece).unwrap()));
            }
            peer.line.push_back(Err(advice.pieces));
            peer.line.extend(piece.map(Ok));
        }
    }

    impl Fast {
        fn new(number: u64) -> Self {
            Self {
                number,
                have: vec![0; SMALL as usize / 8],
                suggested: VecDeque::new(),
                asked: HashSet::new(),
                batch: VecDeque::new(),
                line: VecDeque::new(),
                dice: u32::try_from(number).unwrap(),
                got: 0,
                strayed: 0,
                waited: 0,
            }
        }

        fn is_free(&self, piece: u32) -> bool {
            piece < SMALL && !Have(&self.have).has(piece) && !self.asked.contains(&piece)
        }

        fn pick(&mut self, batch: u32) {
            let told = self.suggested.iter().copied().find(|p| self.is_free(*p));
            let piece = told.unwrap_or_else(|| {
                self.dice = self.dice.wrapping_mul(1_103_515_245).wrapping_add(12345);
                let start = (self.dice >> 8) % SMALL;
                let mut all = (0..SMALL).map(|n| (start + n) % SMALL);
                self.strayed += 1;
                all.find(|p| self.is_free(*p)).unwrap()
            });
            let before = (piece.saturating_sub(batch - 1)..piece).rev();
            let start = before.take_while(|p| self.is_free(*p)).last().unwrap_or(piece);
            let batch: Vec<u32> = (start..start + batch).take_while(|p| self.is_free(*p)).collect();
            self.batch.extend(batch);
        }

        /// Takes what came, and asks for more.
        fn goes_on(&mut self, seed: &mut Small) {
            while let Some(came) = self.line.pop_front() {
                match came {
                    Err(told) => {
                        told.into_iter().rev().for_each(|p| self.suggested.push_front(p));
                        self.suggested.truncate(REMEMBERED as usize);
                    }
                    Ok(piece) if seed.guide.is_pending(piece) && self.waited < 150 => {
                        self.waited += 1;
                        self.line.push_front(came);
                        return;
                    }
                    Ok(piece) => {
                        self.waited = 0;
                        seed.fetch(piece);
                        self.have[piece as usize / 8] |= 0x80 >> (piece % 8);
                        self.suggested.retain(|p| *p != piece);
                        self.asked.remove(&piece);
                        self.got += 1;
                        break;
                    }
                }
            }
            while self.asked.len() < 12 && self.got as usize + self.asked.len() < SMALL as usize {
                if self.batch.is_empty() {
                    self.pick(if self.got > 40 { 32 } else { 1 });
                }
                let piece = self.batch.pop_front().unwrap();
                self.asked.insert(piece);
                seed.advise(self, Some(piece));
            }
        }
    }

    /// All of it to `count` peers, the speed of each of which changes by chance. Pieces that were fetched, and picked by chance.
    fn small_pieces_to(count: u64, dice: u64) -> (u32, u32) {
        let (mut seed, mut dice) = (Small::new(), dice);
        let mut peers: Vec<Fast> = (1..=count).map(Fast::new).collect();
        peers.iter_mut().for_each(|peer| seed.advise(peer, None));
        let mut speeds = vec![1; peers.len()];
        for turn in 0.. {
            if peers.iter().all(|peer| peer.got == SMALL) {
                break;
            }
            seed.now += Duration::from_millis(2);
            for (peer, speed) in peers.iter_mut().zip(&mut speeds) {
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                if turn % 64 == 0 {
                    *speed = 4 + (dice >> 33) % 5;
                }
                if (dice >> 40) % 8 < *speed {
                    peer.goes_on(&mut seed);
                }
            }
        }
        (seed.fetched, peers.iter().map(|peer| peer.strayed).sum())
    }

    #[test]
    fn a_fast_peer_of_small_pieces_is_led_without_a_gap() {
        let (fetched, strayed) = small_pieces_to(1, 1);
        assert!(strayed <= 2, "{strayed} picked by chance");
        assert!(fetched <= SMALL + 2, "{fetched} for {SMALL}");
    }

    #[test]
    fn four_fast_peers_of_small_pieces_are_led_together() {
        // Each as fast as the others now and half as fast then: without holding what comes next, twice the payload.
        for dice in 1..=8 {
            let (fetched, strayed) = small_pieces_to(4, dice);
            assert!(fetched <= SMALL * 102 / 100, "{fetched} for {SMALL}");
            assert!(strayed <= 8, "{strayed} picked by chance");
        }
    }

    #[test]
    fn eight_peers_get_by_one_scan_what_does_not_fit_in_memory() {
        for room in [24, 48, 96] {
            let mut seed = Seed::new(room);
            let mut leechers: Vec<_> = (1..=8).map(Leecher::new).collect();
            seed.serve(&mut leechers);
            let fetched = seed.fetched.len();
            assert!(fetched <= WINDOWS as usize * 110 / 100, "{fetched} for {WINDOWS} in {room}");
        }
    }

    #[test]
    fn peers_that_get_pieces_from_each_other_are_left_to_themselves() {
        let mut guide = Guide::new(1000, MIB);
        let (mut have, now) = (vec![0; 125], Instant::now());
        assert_eq!(guide.asks(1, None, Have(&have), 48 * MIB, now).pieces.len(), 16);
        for piece in 0..8 {
            guide.asks(1, Some(piece), Have(&have), 48 * MIB, now);
        }
        // What it asked for came, and as much again from others.
        have[..1].fill(0xff);
        have[50..51].fill(0xff);
        let told = |guide: &mut Guide, n| guide.asks(1, Some(n), Have(&have), 48 * MIB, now).pieces;
        assert!((8..40).all(|n| told(&mut guide, n).is_empty()));
    }

    #[test]
    fn slow_peers_share_what_the_fast_ones_cost() {
        let mut seed = Seed::new(48);
        let pace = |n| Leecher { pace: usize::try_from(n).unwrap(), ..Leecher::new(n) };
        let mut leechers: Vec<_> = (1..=8).map(pace).collect();
        seed.serve(&mut leechers);
        // One scan after the other, each as fast as the fastest that is left: 1 + 1/2 + … + 1/8 times, where each by
        // itself would be eight times. Some more here, where nobody waits for those behind.
        let fetched = seed.fetched.len();
        assert!(fetched <= WINDOWS as usize * 31 / 10, "{fetched} for {WINDOWS}");
    }

    #[test]
    fn who_comes_late_joins_the_others_and_gets_the_beginning_on_the_next_round() {
        let mut seed = Seed::new(48);
        let (mut first, mut late) = (Leecher::new(1), Leecher::new(2));
        for piece in 0..128 {
            first.gets(piece);
            seed.guide.list(piece, 48);
            seed.reads(piece);
        }
        seed.guide.next = 128;
        let before = seed.fetched.len();
        late.have[20] = 0xff;
        seed.serve(&mut [first, late]);
        // Half of it for both, the other half but for what was in memory for one.
        let fetched = seed.fetched.len() - before;
        assert!(fetched <= WINDOWS as usize * 105 / 100, "{fetched}");
    }

    #[test]
    fn a_window_by_itself_is_not_suggested_and_one_that_others_follow_is() {
        let mut guide = Guide::new(256, MIB);
        for window in [90, 40, 41] {
            guide.list(window, 48);
        }
        let told = guide.asks(1, None, Have(&[0; 32]), 48 * MIB, Instant::now()).pieces;
        assert_eq!(told, [[40].to_vec(), (0..15).collect()].concat());
    }

    #[test]
    fn who_does_not_listen_is_left_alone_and_gets_nothing_fetched_ahead() {
        let mut guide = Guide::new(10_000, MIB);
        let have = vec![0; 1250];
        let told =
            |n: u32| guide.asks(1, Some(n * 37 % 10_000), Have(&have), 48 * MIB, Instant::now());
        let told: Vec<Advice> = (0..2000).map(told).collect();
        let last = told.iter().rposition(|advice| !advice.pieces.is_empty());
        assert!(last.is_some_and(|n| n < 100), "{last:?}");
        assert!(told.iter().all(|advice| advice.ahead.is_empty()));
    }

    #[test]
    fn small_pieces_are_suggested_by_windows_and_no_more_than_are_remembered() {
        let mut guide = Guide::new(1000, 256 << 10);
        let mut have = vec![0; 125];
        have[0] = 0b0100_0000;
        let advice = guide.asks(1, None, Have(&have), 48 * MIB, Instant::now());
        // The first of five windows behind, since it may take what is between.
        assert_eq!(advice.pieces, [vec![0], (2..=12).collect(), vec![16, 20, 24, 28]].concat());
        let mut guide = Guide::new(1_000_000, 16 << 10);
        let advice = guide.asks(1, None, Have(&[0; 125_000]), 48 * MIB, Instant::now());
        assert_eq!(advice.pieces, (0..16).collect::<Vec<_>>());
    }

    #[test]
    fn a_peer_that_has_everything_or_nothing_known_of_it_harms_nothing() {
        let mut guide = Guide::new(100, 4 * MIB);
        let now = Instant::now();
        assert!(guide.asks(1, None, Have(&[0xff; 13]), 48 * MIB, now).pieces.is_empty());
        assert_eq!(guide.asks(2, Some(u32::MAX), Have(&[]), 48 * MIB, now).pieces, [0, 1, 2, 3]);
        guide.forget(2);
        guide.forget(7);
        // The last window of the torrent is shorter.
        let mut guide = Guide::new(5, 512 << 10);
        assert_eq!(guide.asks(1, None, Have(&[0]), 48 * MIB, now).pieces, [0, 1, 2, 3, 4]);
    }

    proptest::proptest! {
        #[test]
        fn whatever_peers_ask_for_advice_is_what_they_lack_and_memory_is_bounded(
            pieces in 1u32..2000,
            piece_len in 1u64..20_000_000,
            room in 0u64..200 * MIB,
            asks in proptest::collection::vec((0u64..5, proptest::option::of(0u32..4000)), 1..300),
            seen in proptest::collection::vec(proptest::prelude::any::<u8>(), 250),
        ) {
            let mut guide = Guide::new(pieces, piece_len);
            let now = Instant::now();
            for (peer, piece) in asks {
                let advice = guide.asks(peer, piece, Have(&seen), room, now);
                proptest::prop_assert!(advice.pieces.len() <= REMEMBERED as usize);
                for piece in &advice.pieces {
                    proptest::prop_assert!(*piece < pieces && !Have(&seen).has(*piece));
                }
                let windows = guide.windows_in(room).max(REMEMBERED as usize);
                proptest::prop_assert!(guide.recent.len() <= windows);
                proptest::prop_assert_eq!(guide.recent.len() + guide.pending.len(), guide.listed.len());
                for state in guide.peers.values() {
                    proptest::prop_assert!(state.asked.len() <= ASKED && state.suggested.len() <= REMEMBERED as usize);
                }
            }
        }
    }
}
