//! Facts of torrents that the queue does not have: their root folder, trackers, comment.
//!
//! A task reads them once for each torrent, in the background, when the first client has come. A list waits for nothing.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;

use super::Dialect;
use crate::{
    error::{Error, Kind, Result},
    queue::{Download, SourceKind},
    redact,
    torrents::metainfo::Metainfo,
};

/// Time between two looks at the queue.
const INTERVAL: Duration = Duration::from_millis(200);
/// Torrents above this are parsed on another thread.
const LARGE_TORRENT: usize = 256 << 10;

/// What a torrent says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TorrentFacts {
    /// Name of its file or folder.
    pub(super) root: String,
    /// Whether its files are in a folder.
    pub(super) has_folder: bool,
    /// The path in the folder, when the torrent has a single file.
    pub(super) only_file: Option<String>,
    pub(super) private: bool,
    pub(super) comment: String,
    /// Seconds since 1970.
    pub(super) created: Option<i64>,
    /// Without passkeys.
    pub(super) trackers: Vec<String>,
    pub(super) piece_length: u64,
    pub(super) pieces: u64,
}

impl TorrentFacts {
    fn set_files<'a>(&mut self, mut paths: impl Iterator<Item = &'a str>) {
        let Some(first) = paths.next() else { return };
        let (root, rest) = first.split_once('/').unwrap_or((first, ""));
        self.root = root.to_owned();
        self.has_folder = !rest.is_empty();
        self.only_file = paths.next().is_none().then(|| rest.to_owned());
    }
}

impl From<&Metainfo> for TorrentFacts {
    fn from(meta: &Metainfo) -> Self {
        let trackers = meta.trackers.iter().flatten();
        let mut facts = Self {
            private: meta.private,
            comment: meta.comment.clone().unwrap_or_default(),
            created: meta.created,
            trackers: trackers.map(|tracker| redact::tracker_origin(tracker)).collect(),
            piece_length: u64::from(meta.piece_length),
            pieces: u64::from(meta.pieces()),
            ..Self::default()
        };
        facts.set_files(meta.files.iter().filter(|f| !f.pad).map(|file| file.path.as_str()));
        facts
    }
}

/// The known facts, by the number of the download.
#[derive(Debug, Default)]
pub(super) struct Facts {
    known: Mutex<HashMap<u64, Arc<TorrentFacts>>>,
    /// Downloads whose facts are new for the view.
    fresh: Mutex<BTreeSet<u64>>,
    follows: AtomicBool,
}

impl Facts {
    pub(super) fn get(&self, number: u64) -> Option<Arc<TorrentFacts>> {
        self.known.lock().get(&number).cloned()
    }

    pub(super) fn take_fresh(&self) -> BTreeSet<u64> {
        std::mem::take(&mut self.fresh.lock())
    }

    /// Starts to follow the queue, once.
    pub(super) fn follow(&self, dialect: &Dialect) {
        if self.follows.swap(true, Ordering::Relaxed) {
            return;
        }
        let dialect = dialect.clone();
        tokio::spawn(async move {
            let stopping = dialect.api().stopping();
            tokio::select! {
                () = dialect.follow_queue() => {}
                () = stopping.cancelled() => {}
            }
        });
    }

    fn insert(&self, number: u64, facts: TorrentFacts) {
        self.known.lock().insert(number, Arc::new(facts));
        self.fresh.lock().insert(number);
    }
}

impl Dialect {
    async fn follow_queue(&self) {
        let mut revision = self.queue().subscribe();
        let mut seen = 0;
        loop {
            revision.borrow_and_update();
            let changes = self.queue().changes_since(seen);
            seen = changes.revision;
            let facts = &self.0.facts;
            if changes.is_full {
                let listed: BTreeSet<u64> = changes.changed.iter().map(|d| d.number).collect();
                facts.known.lock().retain(|number, _| listed.contains(number));
            }
            for removed in &changes.removed {
                facts.known.lock().remove(&removed.number);
            }
            for download in changes.changed.iter().rev().filter(|d| d.hashes.is_torrent()) {
                if facts.get(download.number).is_none() {
                    self.read_facts(download).await;
                }
            }
            // Many changes within the interval are one look at them.
            tokio::time::sleep(INTERVAL).await;
            if revision.changed().await.is_err() {
                return;
            }
        }
    }

    /// Reads the facts of a torrent, if they are known anywhere.
    pub(super) async fn read_facts(&self, download: &Download) {
        let read = match (download.kind, &download.import) {
            (SourceKind::Torrent, _) => self.facts_of_file(download).await.map(Some),
            (_, Some(import)) => self.facts_of_import(import).await.map(Some),
            (_, None) => Ok(None),
        };
        match read {
            Ok(Some(facts)) => self.0.facts.insert(download.number, facts),
            Ok(None) => {}
            Err(e) => tracing::debug!("download {}: {}", download.id, e.report()),
        }
    }

    async fn facts_of_file(&self, download: &Download) -> Result<TorrentFacts> {
        let meta = self.metainfo_of(download).await?;
        Ok(TorrentFacts::from(&meta))
    }

    /// The torrent of a download that was made from a torrent file.
    pub(super) async fn metainfo_of(&self, download: &Download) -> Result<Metainfo> {
        let bytes = self.queue().torrent_file(download).await?;
        if bytes.len() <= LARGE_TORRENT {
            return Metainfo::parse(&bytes);
        }
        let parse = tokio::task::spawn_blocking(move || Metainfo::parse(&bytes));
        parse
            .await
            .map_err(|e| Error::new(Kind::Internal, "reading a torrent panicked").because(e))?
    }

    async fn facts_of_import(&self, import: &str) -> Result<TorrentFacts> {
        let info = self.api().engine().info(import).await?;
        let mut facts = TorrentFacts {
            private: info.private,
            piece_length: info.piece_length,
            pieces: info.pieces as u64,
            ..TorrentFacts::default()
        };
        facts.set_files(info.files.iter().map(|file| file.path.as_str()));
        facts.trackers = info.trackers;
        Ok(facts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_of_a_torrent_is_its_file_or_its_folder() {
        let of = |paths: &[&'static str]| {
            let mut facts = TorrentFacts::default();
            facts.set_files(paths.iter().copied());
            (facts.root, facts.has_folder, facts.only_file)
        };
        assert_eq!(of(&["a.iso"]), ("a.iso".into(), false, Some(String::new())));
        assert_eq!(of(&["d/s/a"]), ("d".into(), true, Some("s/a".into())));
        assert_eq!(of(&["d/a", "d/b"]), ("d".into(), true, None));
        assert_eq!(of(&[]), (String::new(), false, None));
    }
}
