//! The storage registry: maps libtorrent's storage index to the torrent's [`TorrentDisk`].
//!
//! libtorrent reuses an index as soon as a torrent is removed, while jobs of the old torrent may still be in flight. A
//! job therefore holds the `Arc` of its torrent from the moment it arrives, and never looks the index up again. The
//! `Arc` serves as the generation of the index.

use std::{collections::HashMap, sync::Arc};

use parking_lot::RwLock;

use super::torrent_disk::TorrentDisk;

#[derive(Default)]
pub(in crate::torrents) struct StorageRegistry {
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Keyed by our own torrent number, which is known before libtorrent opens the storage.
    torrents: HashMap<u64, Arc<TorrentDisk>>,
    slots: Vec<Option<Arc<TorrentDisk>>>,
    free: Vec<u32>,
}

impl StorageRegistry {
    /// Registers a torrent. Called before the torrent is added to the session.
    pub(in crate::torrents) fn add(&self, torrent: Arc<TorrentDisk>) {
        self.inner.write().torrents.insert(torrent.number(), torrent);
    }

    /// Removes a torrent. Called after the torrent left the session; jobs in flight keep their own `Arc`.
    pub(in crate::torrents) fn forget(&self, number: u64) {
        self.inner.write().torrents.remove(&number);
    }

    pub(super) fn by_number(&self, number: u64) -> Option<Arc<TorrentDisk>> {
        self.inner.read().torrents.get(&number).cloned()
    }

    pub(in crate::torrents) fn all(&self) -> Vec<Arc<TorrentDisk>> {
        self.inner.read().torrents.values().cloned().collect()
    }

    /// Called when libtorrent opens a storage. The last component of `path` is the torrent's number (libtorrent makes
    /// every save path absolute). An unknown number gets an empty slot, whose reads, writes, hashes and checks abort.
    pub(in crate::torrents) fn open(&self, path: &str) -> u32 {
        let mut inner = self.inner.write();
        let name = path.rsplit('/').next().unwrap_or(path);
        let torrent = name.parse().ok().and_then(|n: u64| inner.torrents.get(&n).cloned());
        if let Some(index) = inner.free.pop() {
            inner.slots[index as usize] = torrent;
            return index;
        }
        inner.slots.push(torrent);
        u32::try_from(inner.slots.len() - 1).expect("fewer storages than 2^32")
    }

    /// Called when libtorrent no longer uses an index. libtorrent may reuse the index at once.
    pub(in crate::torrents) fn close(&self, index: u32) {
        let mut inner = self.inner.write();
        if let Some(slot) = inner.slots.get_mut(index as usize) {
            *slot = None;
            inner.free.push(index);
        }
    }

    pub(super) fn by_index(&self, index: u32) -> Option<Arc<TorrentDisk>> {
        self.inner.read().slots.get(index as usize)?.clone()
    }
}
