//! Caches verified windows on a local disk, for users who have free space there and pay for what they fetch. Off by
//! default.
//!
//! Each window is one file, named after its import and its range. Only verified windows are written, and the caller
//! verifies them again after reading, against the torrent's hashes. A file that was truncated or changed costs one more
//! fetch. So the folder may be deleted at any time, in part or as a whole. A fetch waits for earlier writes only while
//! they fill their share of the memory. Errors never reach a caller: the window is fetched again, and only the first
//! failed write is logged.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::{self, Write},
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    backends::Payload,
    catalog::ImportId,
    error::{Error, Result},
    memory::Reservation,
};

/// The cache folder, and an index of its files.
#[derive(Debug)]
pub struct DiskCache {
    dir: PathBuf,
    capacity: u64,
    index: Mutex<Index>,
    /// The number of the next temp file.
    next: AtomicU64,
    write_failure_logged: AtomicBool,
}

/// Files with their last use and length, ordered by last use.
#[derive(Debug, Default)]
struct Index {
    files: HashMap<String, (u64, u64)>,
    by_use: BTreeMap<u64, String>,
    clock: u64,
    bytes: u64,
}

impl Index {
    fn insert(&mut self, name: String, len: u64) {
        self.remove(&name);
        self.clock += 1;
        self.bytes += len;
        self.by_use.insert(self.clock, name.clone());
        self.files.insert(name, (self.clock, len));
    }

    fn remove(&mut self, name: &str) -> bool {
        let Some((last_use, len)) = self.files.remove(name) else { return false };
        self.by_use.remove(&last_use);
        self.bytes -= len;
        true
    }

    /// Removes the least recently used files from the index until the rest fits. Returns their names.
    fn shrink(&mut self, capacity: u64) -> Vec<String> {
        let mut evicted = Vec::new();
        while self.bytes > capacity {
            let Some((_, name)) = self.by_use.first_key_value() else { break };
            let name = name.clone();
            self.remove(&name);
            evicted.push(name);
        }
        evicted
    }
}

fn file_name(import: &ImportId, window: &Range<u64>) -> String {
    format!("{import}-{:012x}-{:x}", window.start, window.end - window.start)
}

impl DiskCache {
    /// Opens the folder, creates it if necessary, and indexes its files. `capacity` is in bytes.
    ///
    /// # Errors
    /// When the folder cannot be created or read.
    pub fn open(dir: &Path, capacity: u64) -> Result<Arc<Self>> {
        let context = |e| Error::io(format!("cache folder {}", dir.display()), e);
        fs::create_dir_all(dir).map_err(context)?;
        let mut files_by_age = Vec::new();
        for entry in fs::read_dir(dir).map_err(context)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            match entry.metadata() {
                // The temp file of a write that was interrupted by the end of a run.
                _ if name.ends_with(".tmp") => drop(fs::remove_file(entry.path())),
                Ok(meta) if meta.is_file() => {
                    files_by_age.push((meta.modified().ok(), name, meta.len()));
                }
                _ => {}
            }
        }
        files_by_age.sort();
        let mut index = Index::default();
        files_by_age.into_iter().for_each(|(_, name, len)| index.insert(name, len));
        let cache = Self {
            dir: dir.to_owned(),
            capacity,
            index: Mutex::new(index),
            next: AtomicU64::new(0),
            write_failure_logged: AtomicBool::new(false),
        };
        cache.shrink();
        Ok(Arc::new(cache))
    }

    /// Whether the index has a file for the window.
    pub(in crate::storage) fn contains(&self, import: &ImportId, window: &Range<u64>) -> bool {
        self.index.lock().files.contains_key(&file_name(import, window))
    }

    /// Reads the file of a window. The bytes are not verified.
    pub(in crate::storage) async fn get(
        self: &Arc<Self>,
        import: &ImportId,
        window: &Range<u64>,
    ) -> Option<Bytes> {
        if !self.contains(import, window) {
            return None;
        }
        let name = file_name(import, window);
        let (this, len) = (Arc::clone(self), window.end - window.start);
        let read = move || {
            let bytes = fs::read(this.dir.join(&name)).ok().filter(|b| b.len() as u64 == len);
            match &bytes {
                Some(_) => this.index.lock().insert(name, len),
                None => this.drop_file(&name),
            }
            bytes.map(Bytes::from)
        };
        tokio::task::spawn_blocking(read).await.ok()?
    }

    /// Whether a window of this length is to be written.
    pub(super) fn lacks(&self, import: &ImportId, window: &Range<u64>) -> bool {
        window.end - window.start <= self.capacity && !self.contains(import, window)
    }

    /// Writes a window in the background. The reservation covers its bytes.
    pub(in crate::storage) fn put(
        self: &Arc<Self>,
        import: &ImportId,
        window: &Range<u64>,
        bytes: Payload,
        reservation: Reservation,
    ) {
        let (this, name) = (Arc::clone(self), file_name(import, window));
        tokio::task::spawn_blocking(move || {
            if let Err(e) = this.write(&name, &bytes)
                && !this.write_failure_logged.swap(true, Ordering::Relaxed)
            {
                tracing::warn!(
                    "cache folder {}: {e}; failed windows are not cached",
                    this.dir.display()
                );
            }
            drop((bytes, reservation));
        });
    }

    fn write(&self, name: &str, bytes: &Payload) -> io::Result<()> {
        let temp = self.dir.join(format!("{}.tmp", self.next.fetch_add(1, Ordering::Relaxed)));
        let written = write_file(&temp, bytes).or_else(|e| {
            // The user may have deleted the folder.
            fs::create_dir_all(&self.dir)?;
            if e.kind() == io::ErrorKind::NotFound { write_file(&temp, bytes) } else { Err(e) }
        });
        written.and_then(|()| fs::rename(&temp, self.dir.join(name))).inspect_err(|_| {
            // Removes the partial temp file; otherwise it would stay until the next start.
            let _ = fs::remove_file(&temp);
        })?;
        self.index.lock().insert(name.to_owned(), bytes.len());
        self.shrink();
        Ok(())
    }

    /// Drops a window that failed verification.
    pub(super) fn drop_window(&self, import: &ImportId, window: &Range<u64>) {
        self.drop_file(&file_name(import, window));
    }

    /// Drops all windows of an import.
    pub(in crate::storage) fn forget(&self, import: &ImportId) {
        let prefix = format!("{import}-");
        let names: Vec<_> = {
            let index = self.index.lock();
            index.files.keys().filter(|name| name.starts_with(&prefix)).cloned().collect()
        };
        names.iter().for_each(|name| self.drop_file(name));
    }

    fn drop_file(&self, name: &str) {
        self.index.lock().remove(name);
        // The file is often gone already.
        let _ = fs::remove_file(self.dir.join(name));
    }

    fn shrink(&self) {
        let evicted = self.index.lock().shrink(self.capacity);
        evicted.iter().for_each(|name| drop(fs::remove_file(self.dir.join(name))));
    }
}

fn write_file(path: &Path, bytes: &Payload) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    bytes.buffers().iter().try_for_each(|part| file.write_all(part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Budget, Share};

    fn id() -> ImportId {
        "9c4e01ab".parse().unwrap()
    }

    async fn write_and_wait(cache: &Arc<DiskCache>, n: u64) {
        let window = n * 100..(n + 1) * 100;
        let bytes = Payload::from_iter([Bytes::from(vec![u8::try_from(n).unwrap(); 100])]);
        let memory = Budget::new(32 << 20).charge(Share::Bodies, 100);
        cache.put(&id(), &window, bytes, memory);
        while cache.get(&id(), &window).await.is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn the_least_recently_used_window_is_evicted_and_the_index_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let cache = DiskCache::open(dir.path(), 350).unwrap();
        for n in 0..3 {
            write_and_wait(&cache, n).await;
        }
        assert!(cache.get(&id(), &(0..100)).await.is_some());
        write_and_wait(&cache, 3).await;
        assert!(cache.get(&id(), &(100..200)).await.is_none(), "the least recently used window");
        drop(cache);
        fs::write(dir.path().join("7.tmp"), "half").unwrap();
        let reopened = DiskCache::open(dir.path(), 350).unwrap();
        assert_eq!(reopened.get(&id(), &(300..400)).await.unwrap()[..], [3; 100]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
        reopened.forget(&id());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn truncated_and_deleted_windows_are_misses() {
        let dir = tempfile::tempdir().unwrap();
        let cache_dir = dir.path().join("cache");
        let cache = DiskCache::open(&cache_dir, 1000).unwrap();
        for n in 0..2 {
            write_and_wait(&cache, n).await;
        }
        fs::write(cache_dir.join(file_name(&id(), &(0..100))), "short").unwrap();
        assert!(cache.get(&id(), &(0..100)).await.is_none());
        fs::remove_dir_all(&cache_dir).unwrap();
        assert!(cache.get(&id(), &(100..200)).await.is_none());
        write_and_wait(&cache, 2).await;
    }
}
