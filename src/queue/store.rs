//! All downloads in memory. Reads never wait for the catalog; a change is put here after it is committed.
//!
//! Each change raises the revision. A watcher remembers a revision and asks for what changed since then, so that a slow
//! watcher costs nothing.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use super::{
    download::{Download, DownloadId, InfoHashes, Priority, SourceKind},
    filter::{Filter, Listed, Order, Page},
};

/// Removals that are remembered. A watcher that missed more gets everything again.
const MAX_REMOVALS: usize = 16 * 1024;

/// A download that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    pub revision: u64,
    pub id: DownloadId,
    pub number: u64,
    pub hashes: InfoHashes,
}

/// What changed since a revision.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// From here the watcher asks again.
    pub revision: u64,
    /// All downloads, because the watcher's revision is unknown or too old.
    pub is_full: bool,
    /// New and changed downloads.
    pub changed: Vec<Arc<Download>>,
    pub removed: Vec<Removal>,
}

#[derive(Debug, Default)]
pub(super) struct Store {
    downloads: BTreeMap<u64, Arc<Download>>,
    by_id: HashMap<DownloadId, u64>,
    by_v1: HashMap<[u8; 20], u64>,
    by_v2: HashMap<[u8; 32], u64>,
    /// URLs with the name of their storage.
    by_url: HashMap<(String, String), u64>,
    removals: VecDeque<Removal>,
    revision: u64,
}

impl Store {
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn len(&self) -> usize {
        self.downloads.len()
    }

    /// Adds or replaces a download.
    pub(super) fn put(&mut self, mut download: Download) -> Arc<Download> {
        self.revision += 1;
        download.revision = self.revision;
        let number = download.number;
        if let Some(old) = self.downloads.get(&number).cloned() {
            self.forget_keys(&old);
        }
        self.by_id.insert(download.id.clone(), number);
        if let Some(v1) = download.hashes.v1 {
            self.by_v1.entry(v1).or_insert(number);
        }
        if let Some(v2) = download.hashes.v2 {
            self.by_v2.entry(v2).or_insert(number);
        }
        if download.kind == SourceKind::Url {
            let key = (download.source.clone(), download.settings.storage.clone());
            self.by_url.entry(key).or_insert(number);
        }
        let download = Arc::new(download);
        self.downloads.insert(number, Arc::clone(&download));
        download
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<Arc<Download>> {
        let old = self.downloads.remove(&number)?;
        self.forget_keys(&old);
        self.revision += 1;
        if self.removals.len() == MAX_REMOVALS {
            self.removals.pop_front();
        }
        self.removals.push_back(Removal {
            revision: self.revision,
            id: old.id.clone(),
            number,
            hashes: old.hashes,
        });
        Some(old)
    }

    fn forget_keys(&mut self, old: &Download) {
        self.by_id.remove(&old.id);
        if let Some(v1) = old.hashes.v1.filter(|v1| self.by_v1.get(v1) == Some(&old.number)) {
            self.by_v1.remove(&v1);
        }
        if let Some(v2) = old.hashes.v2.filter(|v2| self.by_v2.get(v2) == Some(&old.number)) {
            self.by_v2.remove(&v2);
        }
        if old.kind == SourceKind::Url {
            let key = (old.source.clone(), old.settings.storage.clone());
            if self.by_url.get(&key) == Some(&old.number) {
                self.by_url.remove(&key);
            }
        }
    }

    pub(super) fn get(&self, number: u64) -> Option<&Arc<Download>> {
        self.downloads.get(&number)
    }

    pub(super) fn by_id(&self, id: &DownloadId) -> Option<&Arc<Download>> {
        self.get(*self.by_id.get(id)?)
    }

    /// The download of a torrent, whatever its storage.
    pub(super) fn by_hashes(&self, hashes: &InfoHashes) -> Option<&Arc<Download>> {
        let v1 = hashes.v1.and_then(|v1| self.by_v1.get(&v1));
        let v2 = || hashes.v2.and_then(|v2| self.by_v2.get(&v2));
        self.get(*v1.or_else(v2)?)
    }

    pub(super) fn by_url(&self, url: &str, storage: &str) -> Option<&Arc<Download>> {
        self.get(*self.by_url.get(&(url.to_owned(), storage.to_owned()))?)
    }

    /// The download with this hash: v1, v2, or v2 cut to the length of v1.
    pub(super) fn by_hash_text(&self, text: &str) -> Option<&Arc<Download>> {
        if !matches!(text.len(), 40 | 64) {
            return None;
        }
        let digit = |at: usize| u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok();
        if let Some(v1) = (0..20).map(digit).collect::<Option<Vec<u8>>>()
            && let Ok(v1) = <[u8; 20]>::try_from(v1)
            && text.len() == 40
            && let Some(number) = self.by_v1.get(&v1)
        {
            return self.get(*number);
        }
        let found = self
            .by_v2
            .iter()
            .find(|(hash, _)| InfoHashes { v1: None, v2: Some(**hash) }.matches(text));
        self.get(*found?.1)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Download>> {
        self.downloads.values()
    }

    pub(super) fn list(&self, filter: &Filter, page: Page) -> Listed {
        let mut found: Vec<_> = self.all().filter(|download| filter.matches(download)).collect();
        let total = found.len();
        match page.order {
            Order::Added => {}
            Order::Queue => found.sort_by_key(|d| (d.settings.priority, d.position, d.number)),
            Order::Newest => found.reverse(),
        }
        let page = found.into_iter().skip(page.offset).take(page.limit);
        Listed { total, revision: self.revision, downloads: page.cloned().collect() }
    }

    /// Everything that changed after `since`; 0 is the beginning.
    pub(super) fn changes_since(&self, since: u64) -> Changes {
        let oldest = self.removals.front().map_or(0, |removal| removal.revision);
        let lost = self.removals.len() == MAX_REMOVALS && since < oldest;
        let is_full = since == 0 || since > self.revision || lost;
        let since = if is_full { 0 } else { since };
        let changed = self.all().filter(|download| download.revision > since);
        let removed = self.removals.iter().filter(|removal| !is_full && removal.revision > since);
        Changes {
            revision: self.revision,
            is_full,
            changed: changed.cloned().collect(),
            removed: removed.cloned().collect(),
        }
    }

    /// The lowest and highest position in use.
    pub(super) fn position_range(&self) -> (i64, i64) {
        let positions = || self.all().map(|download| download.position);
        (positions().min().unwrap_or(0), positions().max().unwrap_or(0))
    }

    /// The downloads of one priority, in their order.
    pub(super) fn in_order(&self, priority: Priority) -> Vec<Arc<Download>> {
        let same = |download: &&Arc<Download>| download.settings.priority == priority;
        let mut found: Vec<_> = self.all().filter(same).cloned().collect();
        found.sort_by_key(|download| (download.position, download.number));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::test_download;

    fn hashes(byte: u8) -> InfoHashes {
        InfoHashes { v1: Some([byte; 20]), v2: None }
    }

    #[test]
    fn a_watcher_gets_what_changed_since_its_revision() {
        let mut store = Store::default();
        for number in 1..=3 {
            store.put(test_download(number));
        }
        let all = store.changes_since(0);
        assert!(all.is_full && all.changed.len() == 3 && all.removed.is_empty());
        let mut second = test_download(2);
        second.name = "changed".into();
        store.put(second);
        store.remove(1);
        let later = store.changes_since(all.revision);
        assert!(!later.is_full);
        assert_eq!(later.changed.iter().map(|d| d.number).collect::<Vec<_>>(), [2]);
        assert_eq!(later.removed.iter().map(|r| r.number).collect::<Vec<_>>(), [1]);
        let nothing = store.changes_since(later.revision);
        assert!(nothing.changed.is_empty() && nothing.removed.is_empty());
        assert!(store.changes_since(later.revision + 1).is_full, "a revision of another process");
    }

    #[test]
    fn a_watcher_that_missed_removals_gets_everything() {
        let mut store = Store::default();
        store.put(test_download(1));
        let first = store.revision();
        for number in 2..=(MAX_REMOVALS as u64 + 10) {
            store.put(test_download(number));
            store.remove(number);
        }
        assert!(store.changes_since(first).is_full);
        assert!(!store.changes_since(store.revision() - 10).is_full);
    }

    #[test]
    fn a_torrent_is_found_by_its_hashes_until_it_is_removed() {
        let mut store = Store::default();
        let mut download = test_download(1);
        download.hashes = hashes(0xab);
        store.put(download.clone());
        download.hashes.v2 = Some([0xcd; 32]);
        store.put(download);
        assert_eq!(store.by_hashes(&hashes(0xab)).unwrap().number, 1);
        for text in ["AB".repeat(20), "cd".repeat(32), "cd".repeat(20)] {
            assert_eq!(store.by_hash_text(&text).unwrap().number, 1, "{text}");
        }
        assert!(store.by_hash_text("é".repeat(20).as_str()).is_none());
        store.remove(1);
        assert!(store.by_hashes(&hashes(0xab)).is_none());
        assert!(store.by_hash_text(&"cd".repeat(32)).is_none());
    }
}
