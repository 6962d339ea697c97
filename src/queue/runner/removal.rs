//! Removal of a download that is out of the store already: its run ends, its data goes if requested, then its record.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use crate::{
    error::{Kind, Result},
    queue::{
        Queue,
        download::{Download, SourceKind},
    },
};

/// Delays between tries while the storage does not answer.
const DELAYS: [u64; 5] = [1, 10, 60, 300, 1800];

/// Removals that have not ended.
#[derive(Debug, Default)]
pub(in crate::queue) struct Removals {
    pending: HashMap<u64, Download>,
    /// What they were made from. Another download of the same source would get the same import.
    v1: HashSet<[u8; 20]>,
    v2: HashSet<[u8; 32]>,
    urls: HashSet<(String, String)>,
}

impl Removals {
    /// Called before the download leaves the store.
    pub(in crate::queue) fn begin(&mut self, download: &Download) {
        self.pending.insert(download.number, download.clone());
        self.index(download);
    }

    fn index(&mut self, download: &Download) {
        self.v1.extend(download.hashes.v1);
        self.v2.extend(download.hashes.v2);
        if download.kind == SourceKind::Url {
            self.urls.insert(url_key(download));
        }
    }

    /// The engine started the import of a download that may have been removed meanwhile.
    pub(super) fn started(&mut self, number: u64, import: &str) {
        if let Some(download) = self.pending.get_mut(&number) {
            download.import = Some(import.to_owned());
        }
    }

    /// Whether a download waits for the end of a removal.
    pub(super) fn blocks(&self, download: &Download) -> bool {
        !self.pending.is_empty()
            && (download.hashes.v1.is_some_and(|hash| self.v1.contains(&hash))
                || download.hashes.v2.is_some_and(|hash| self.v2.contains(&hash))
                || download.kind == SourceKind::Url && self.urls.contains(&url_key(download)))
    }

    fn import_of(&self, number: u64) -> Option<String> {
        self.pending.get(&number)?.import.clone()
    }

    fn end(&mut self, number: u64) {
        self.pending.remove(&number);
        let pending = std::mem::take(&mut self.pending);
        *self = Self::default();
        pending.values().for_each(|download| self.index(download));
        self.pending = pending;
    }
}

fn url_key(download: &Download) -> (String, String) {
    (download.source.clone(), download.settings.storage.clone())
}

impl Queue {
    pub(in crate::queue) fn spawn_removal(&self, download: Download) {
        self.0.runs.removals.lock().begin(&download);
        let queue = self.clone();
        self.spawn(async move {
            queue.stop_number(download.number);
            queue.wait_until_stopped(download.number).await;
            let mut download = download;
            if download.import.is_none() {
                download.import = queue.0.runs.removals.lock().import_of(download.number);
            }
            if let Some(import) = &download.import {
                queue.streams().remove(import);
            }
            let mut tries = 0;
            while let Err(e) = queue.remove_now(&download).await {
                tracing::warn!("download {}: not removed yet: {}", download.id, e.report());
                let delay = DELAYS[tries.min(DELAYS.len() - 1)];
                tries += 1;
                tokio::time::sleep(Duration::from_secs(delay)).await;
            }
            queue.0.runs.removals.lock().end(download.number);
            queue.0.wake.notify_one();
        });
    }

    /// Removes the download of an import, if there is one, and waits until nothing of it runs. The import stays.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn release(&self, import: &str) -> Result<()> {
        let Some(download) = self.by_import(import) else { return Ok(()) };
        self.remove(std::slice::from_ref(&download.id), false).await?;
        self.wait_until_stopped(download.number).await;
        Ok(())
    }

    async fn remove_now(&self, download: &Download) -> Result<()> {
        if let (Some(true), Some(import)) = (download.removing, &download.import) {
            match self.0.engine.remove(import, false).await {
                Ok(_) => {}
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        self.catalog().remove_downloads(vec![download.number]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::test_download;

    #[test]
    fn a_download_waits_for_the_removal_of_the_same_source() {
        let mut removals = Removals::default();
        let (mut torrent, mut url) = (test_download(1), test_download(2));
        torrent.hashes.v1 = Some([1; 20]);
        (url.kind, url.source) = (SourceKind::Url, "http://h/f".into());
        let again = |download: &Download| Download { number: 9, ..download.clone() };
        assert!(!removals.blocks(&again(&torrent)));
        removals.begin(&torrent);
        removals.begin(&url);
        assert!(removals.blocks(&again(&torrent)) && removals.blocks(&again(&url)));
        assert!(!removals.blocks(&test_download(3)));
        let mut elsewhere = again(&url);
        elsewhere.settings.storage = "other".into();
        assert!(!removals.blocks(&elsewhere));
        removals.started(1, "import");
        assert_eq!(removals.import_of(1).as_deref(), Some("import"));
        removals.end(1);
        assert!(!removals.blocks(&again(&torrent)) && removals.blocks(&again(&url)));
    }
}
