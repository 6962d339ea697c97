//! Which windows a peer is led to next: those in memory that it lacks, then the next ones of the scan.
//!
//! This runs on libtorrent's network thread for nearly every piece that a peer requests. A search therefore skips
//! windows in memory and windows that the peer has by whole words, and its length is bounded.

use super::{Have, Peer, Suggester};

/// The older part of the windows in memory is evicted soon: one in this many.
const OLD_FRACTION: usize = 2;
/// The most windows examined in search of one that a peer lacks.
const MAX_SEARCH: u32 = 4096;

impl Suggester {
    /// Up to `count` windows for the peer, and those of them that are new to memory. Windows that memory evicts first
    /// come first.
    pub(super) fn choose_windows(
        &mut self,
        peer: &mut Peer,
        have: Have<'_>,
        count: usize,
    ) -> (Vec<u32>, Vec<u32>) {
        let fits =
            |w: &u32| self.is_suggestable(peer, have, *w) && self.is_in_order(peer, have, *w);
        let (full, old) = (self.recent.len() >= self.capacity, self.recent.len() / OLD_FRACTION);
        // A window that is evicted soon is suggested only to a peer that continues with it.
        let stays =
            |(n, w): &(usize, u32)| !full || *n >= old || self.continues_peer(peer, have, *w);
        let known = self
            .recent
            .iter()
            .chain(&self.pending)
            .copied()
            .enumerate()
            // First, because it is the cheapest and excludes nearly all of them.
            .filter(|(_, window)| self.lacks_window(have, *window))
            .filter(stays)
            .map(|(_, w)| w);
        let mut chosen: Vec<u32> = known.filter(fits).take(count).collect();
        let new = self.take_new_windows(peer, have, count - chosen.len());
        chosen.extend(&new);
        (chosen, new)
    }

    /// Whether a window has pieces to suggest to the peer.
    fn is_suggestable(&self, peer: &Peer, have: Have<'_>, window: u32) -> bool {
        self.unrequested(peer, have, window) != 0 && !peer.suggested.contains(&window)
    }

    /// Whether a window continues the peer's windows, or a window in memory follows it. A libtorrent peer that is told
    /// of an isolated window also takes the windows around it, which no other peer wants now.
    fn is_in_order(&self, peer: &Peer, have: Have<'_>, window: u32) -> bool {
        self.continues_peer(peer, have, window) || self.listed.contains(window + 1)
    }

    /// Whether this is a next window of the peer: the peer has the window before it, requested it, or was told of it.
    fn continues_peer(&self, peer: &Peer, have: Have<'_>, window: u32) -> bool {
        let before = window.checked_sub(1);
        before.is_none_or(|before| peer.knows_window(before) || !self.lacks_window(have, before))
    }

    /// The next windows of the scan that the peer lacks and that were suggested to no peer: after the peer's last
    /// window, otherwise at the position of the scan.
    pub(super) fn take_new_windows(
        &mut self,
        peer: &mut Peer,
        have: Have<'_>,
        count: usize,
    ) -> Vec<u32> {
        let windows = self.pieces.div_ceil(self.per_window);
        let mut taken = Vec::new();
        let next = peer.next_window;
        let continues =
            next < windows && !self.listed.contains(next) && self.is_suggestable(peer, have, next);
        let mut at = if continues { next } else { self.next_window };
        let mut left = MAX_SEARCH.min(windows);
        while left > 0 && taken.len() < count {
            if at >= windows {
                at = 0;
            }
            let end = windows.min(at.saturating_add(left));
            let found = self.next_unlisted(have, at, end);
            let next = found.map_or(end, |window| window + 1);
            left -= next - at;
            at = next;
            if let Some(window) = found
                && self.is_suggestable(peer, have, window)
            {
                self.listed.insert(window);
                taken.push(window);
            }
        }
        if let Some(last) = taken.last() {
            peer.next_window = last + 1;
            self.next_window = last + 1;
        }
        taken
    }

    /// The first window from `from` on, below `end`, that is not listed and that the peer lacks.
    fn next_unlisted(&self, have: Have<'_>, from: u32, end: u32) -> Option<u32> {
        let mut at = from;
        loop {
            #[cfg(test)]
            self.searched.set(self.searched.get() + 1);
            at = self.listed.next_absent(at, end)?;
            let pieces = self.pieces_of(at).start..self.pieces_of(end - 1).end;
            let lacking = have.next_missing(pieces.start, pieces.end)? / self.per_window;
            if lacking == at {
                return Some(at);
            }
            at = lacking;
        }
    }
}
