//! The hash workers: threads that hash blocks as they arrive, so that a piece is hashed by the time it is whole.

use std::{
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
};

use parking_lot::Mutex;

use super::torrent_disk::TorrentDisk;

/// Which digests libtorrent requests for a piece.
#[derive(Debug, Clone, Copy)]
pub(in crate::torrents) struct DigestKinds {
    pub(in crate::torrents) v1: bool,
    pub(in crate::torrents) v2: bool,
}

/// A few threads fed by one queue. Dropping it finishes the queued work and joins the threads.
pub(super) struct HashWorkers {
    queue: Option<mpsc::Sender<(Arc<TorrentDisk>, u32)>>,
    threads: Vec<JoinHandle<()>>,
}

impl HashWorkers {
    /// Starts one worker for every two cores, at least one and at most four: hardware SHA-1 exceeds 1 GiB/s on each.
    pub(in crate::torrents) fn start() -> std::io::Result<Self> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let (queue, tasks) = mpsc::channel::<(Arc<TorrentDisk>, u32)>();
        let tasks = Arc::new(Mutex::new(tasks));
        let threads = (0..(cores / 2).clamp(1, 4))
            .map(|i| {
                let tasks = Arc::clone(&tasks);
                thread::Builder::new().name(format!("bae-hash-{i}")).spawn(move || work(&tasks))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { queue: Some(queue), threads })
    }

    pub(super) fn enqueue(&self, torrent: &Arc<TorrentDisk>, piece: u32) {
        if let Some(queue) = &self.queue {
            // The workers run until the queue is dropped.
            let _ = queue.send((Arc::clone(torrent), piece));
        }
    }
}

impl Drop for HashWorkers {
    fn drop(&mut self) {
        self.queue = None;
        for t in self.threads.drain(..) {
            let _ = t.join();
        }
    }
}

fn work(tasks: &Mutex<mpsc::Receiver<(Arc<TorrentDisk>, u32)>>) {
    loop {
        let task = tasks.lock().recv();
        let Ok((torrent, piece)) = task else { return };
        torrent.hash_ready_blocks(piece);
    }
}
