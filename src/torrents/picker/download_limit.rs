//! A download limit that peers and web seeds keep to together: web seeds get what peers leave of it.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::rate::{Rate, RateLimit};

/// Bytes per second that web seeds always get, even while peers use the whole limit, so that a running request still
/// shows whether its server answers.
const MIN_WEB_SEED_RATE: u64 = 1024;

/// The limit of a session or of one torrent. libtorrent applies it to the peers.
#[derive(Debug)]
pub(in crate::torrents) struct DownloadLimit {
    peers: Mutex<Peers>,
    web_seeds: Arc<RateLimit>,
}

#[derive(Debug, Default)]
struct Peers {
    /// `None` is no limit, for peers and web seeds together.
    limit: Option<u64>,
    received: Rate,
    rate: u64,
}

impl DownloadLimit {
    pub(in crate::torrents) fn new(limit: Option<u64>) -> Self {
        let peers = Mutex::new(Peers { limit, ..Peers::default() });
        Self { peers, web_seeds: RateLimit::new(limit) }
    }

    pub(in crate::torrents) fn set(&self, limit: Option<u64>) {
        let mut peers = self.peers.lock();
        peers.limit = limit;
        self.web_seeds.set(peers.left());
    }

    /// Takes a sample of the bytes that all peers sent so far, at `now` in seconds on a steady clock.
    pub(in crate::torrents) fn sample(&self, now: f64, from_peers: u64) {
        let mut peers = self.peers.lock();
        peers.rate = peers.received.sample(now, from_peers);
        self.web_seeds.set(peers.left());
    }

    /// Waits until a web seed may deliver `len` bytes.
    pub(in crate::torrents) async fn acquire(&self, len: u64) {
        self.web_seeds.acquire(len).await;
    }
}

impl Peers {
    fn left(&self) -> Option<u64> {
        self.limit.map(|limit| limit.saturating_sub(self.rate).max(MIN_WEB_SEED_RATE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn web_seeds_get_what_peers_leave_of_the_limit() {
        let limit = DownloadLimit::new(Some(100_000));
        let left = || limit.peers.lock().left();
        assert_eq!(left(), Some(100_000));
        limit.sample(0.0, 0);
        limit.sample(1.0, 60_000);
        assert_eq!(left(), Some(40_000));
        // Peers use the whole limit.
        limit.set(Some(50_000));
        assert_eq!(left(), Some(MIN_WEB_SEED_RATE));
        limit.set(None);
        assert_eq!(left(), None);
    }
}
