//! Peers that were told to wait for memory.
//!
//! A peer is registered and told to wait in one step, under the lock that a drain takes to release it. A drain that
//! comes before the step is therefore seen by it, and a drain that comes after it releases the peer: no wake-up is
//! lost, and no timer repairs one. The drain frees its bytes first, then calls [`WaitingPeers::release`].

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::torrents::picker::governor::Marks;

/// Generic over the peer, which the caller wakes outside of the lock.
pub(super) struct WaitingPeers<P> {
    marks: Marks,
    /// By the peer's id: a peer that sends another block while it waits is registered once.
    peers: Mutex<HashMap<usize, P>>,
}

impl<P> WaitingPeers<P> {
    pub(super) fn new(marks: Marks) -> Self {
        Self { marks, peers: Mutex::default() }
    }

    /// Whether a peer would have to wait now.
    pub(super) fn must_wait(&self, sealed: usize) -> bool {
        self.marks.must_wait(sealed, !self.peers.lock().is_empty())
    }

    /// Registers a peer if it must wait, and returns whether it must. `sealed` reads the sealed bytes.
    pub(super) fn wait(&self, id: usize, peer: P, sealed: impl FnOnce() -> usize) -> bool {
        let mut peers = self.peers.lock();
        let must_wait = self.marks.must_wait(sealed(), !peers.is_empty());
        // The peer before, or this one if it need not wait, is dropped after the lock is released.
        let unused = if must_wait { peers.insert(id, peer) } else { Some(peer) };
        drop(peers);
        drop(unused);
        must_wait
    }

    /// Takes the peers to wake: all of them once sealed bytes have fallen to the lower mark.
    pub(super) fn release(&self, sealed: impl FnOnce() -> usize) -> Vec<P> {
        let mut peers = self.peers.lock();
        if peers.is_empty() || self.marks.must_wait(sealed(), true) {
            return Vec::new();
        }
        peers.drain().map(|(_, peer)| peer).collect()
    }

    /// Drops all peers.
    pub(super) fn clear(&self) {
        let peers = std::mem::take(&mut *self.peers.lock());
        drop(peers);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
            mpsc,
        },
        thread,
    };

    use super::*;
    use crate::memory::Mark;

    const BUDGET: usize = 1 << 20;
    const ABOVE: usize = Mark::Wait.of(BUDGET) + 1;
    const BETWEEN: usize = Mark::Wait.of(BUDGET);
    const BELOW: usize = Mark::Pack.of(BUDGET);

    /// Storage with sealed bytes, and the peers that it woke.
    struct Storage {
        waiting: WaitingPeers<u32>,
        sealed: AtomicUsize,
        woken: AtomicUsize,
    }

    impl Storage {
        fn new(sealed: usize) -> Arc<Self> {
            let (sealed, woken) = (AtomicUsize::new(sealed), AtomicUsize::new(0));
            Arc::new(Self { waiting: WaitingPeers::new(Marks::new(BUDGET)), sealed, woken })
        }

        fn write(&self, id: usize) -> bool {
            let must_wait = self.waiting.must_wait(self.sealed.load(Ordering::Relaxed));
            must_wait && self.waiting.wait(id, 0, || self.sealed.load(Ordering::Relaxed))
        }

        fn drain_to(&self, sealed: usize) {
            self.sealed.store(sealed, Ordering::Relaxed);
            let woken = self.waiting.release(|| self.sealed.load(Ordering::Relaxed));
            self.woken.fetch_add(woken.len(), Ordering::Relaxed);
        }

        fn woken(&self) -> usize {
            self.woken.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn a_peer_waits_above_the_wait_mark_until_the_drain_to_the_pack_mark() {
        let storage = Storage::new(BETWEEN);
        assert!(!storage.write(1));
        storage.drain_to(ABOVE);
        assert!(storage.write(1) && storage.write(1) && storage.write(2));
        storage.drain_to(BETWEEN);
        assert_eq!(storage.woken(), 0);
        // Others wait too while peers wait.
        assert!(storage.write(3));
        storage.drain_to(BELOW);
        assert_eq!(storage.woken(), 3);
        storage.drain_to(0);
        assert!(!storage.write(1) && storage.woken() == 3);
    }

    #[test]
    fn a_drain_between_the_write_and_its_wait_is_not_missed() {
        let storage = Storage::new(ABOVE);
        assert!(storage.waiting.must_wait(ABOVE));
        storage.drain_to(BELOW);
        assert!(!storage.waiting.wait(1, 0, || storage.sealed.load(Ordering::Relaxed)));
        assert_eq!(storage.woken(), 0);
    }

    #[test]
    fn a_drain_during_the_wait_wakes_the_peer() {
        let storage = Storage::new(ABOVE);
        let (start, started) = mpsc::channel();
        let drain = thread::spawn({
            let storage = Arc::clone(&storage);
            move || {
                started.recv().unwrap();
                storage.drain_to(BELOW);
            }
        });
        // The drain starts after the sealed bytes were read, and cannot end before the peer is registered.
        let waits = storage.waiting.wait(1, 0, || {
            let sealed = storage.sealed.load(Ordering::Relaxed);
            start.send(()).unwrap();
            sealed
        });
        drain.join().unwrap();
        assert!(waits);
        assert_eq!(storage.woken(), 1);
    }

    #[test]
    fn every_wait_of_many_threads_ends_with_one_wake_up() {
        const WRITES: usize = 20_000;
        let storage = Storage::new(0);
        let (done, ended) = mpsc::channel::<usize>();
        let writer = thread::spawn({
            let storage = Arc::clone(&storage);
            move || {
                let waits = (0..WRITES).filter(|id| storage.write(*id)).count();
                done.send(waits).unwrap();
            }
        });
        let mut waits = None;
        while waits.is_none() {
            storage.drain_to(ABOVE);
            storage.drain_to(BELOW);
            waits = ended.try_recv().ok();
        }
        writer.join().unwrap();
        // No drain follows the last write but the one that came with it.
        storage.drain_to(BELOW);
        assert_eq!(Some(storage.woken()), waits);
    }
}
