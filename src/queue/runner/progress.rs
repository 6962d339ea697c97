//! Copies the progress of what runs into the store.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use crate::{
    engine::{ImportHandle, SeedHandle},
    events::Activity,
    queue::{
        Queue,
        download::{Download, Progress},
        service::record,
        state::{Seeding, State},
    },
};

/// Time between two copies.
const INTERVAL: Duration = Duration::from_millis(500);
/// Time between two looks whether something runs.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two records of the totals in the catalog.
const RECORD_INTERVAL: Duration = Duration::from_secs(60);

/// What the last copy of a download had, to add up totals over runs.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    downloaded: u64,
    uploaded: u64,
    /// Time that is not in the download's totals yet.
    time: Duration,
}

/// Time that is added to the totals when nothing else changes. Each change is news for all watchers.
const TIME_STEP: Duration = Duration::from_secs(10);

impl Queue {
    pub(super) async fn follow_progress(&self) {
        // By the number of the engine's handle: each run counts from zero.
        let mut seen: HashMap<u64, Seen> = HashMap::new();
        let (mut last, mut recorded) = (Instant::now(), Instant::now());
        loop {
            let imports = self.running_imports();
            let seeds: Vec<(u64, SeedHandle)> =
                self.0.runs.seeds.lock().iter().map(|(n, seed)| (*n, seed.clone())).collect();
            let is_idle = imports.is_empty() && seeds.is_empty();
            let handles = imports.iter().map(|(_, handle)| handle.number());
            let handles: HashSet<u64> =
                handles.chain(seeds.iter().map(|(_, seed)| seed.number())).collect();
            seen.retain(|handle, _| handles.contains(handle));
            let elapsed = last.elapsed();
            last = Instant::now();
            self.copy(&imports, &seeds, &mut seen, elapsed).await;
            if recorded.elapsed() >= RECORD_INTERVAL && !is_idle {
                recorded = Instant::now();
                self.record_running_progress().await;
            }
            tokio::time::sleep(if is_idle { IDLE_INTERVAL } else { INTERVAL }).await;
        }
    }

    fn running_imports(&self) -> Vec<(u64, ImportHandle)> {
        let runs = self.0.runs.downloads.lock();
        runs.iter().filter_map(|(number, run)| Some((*number, run.handle.clone()?))).collect()
    }

    async fn copy(
        &self,
        imports: &[(u64, ImportHandle)],
        seeds: &[(u64, SeedHandle)],
        seen: &mut HashMap<u64, Seen>,
        elapsed: Duration,
    ) {
        // While a change is committed, a copy could be lost under it.
        let _changes = self.0.changes.lock().await;
        let now = self.now();
        for (number, handle) in imports {
            let progress = handle.progress().borrow().clone();
            let runs = |d: &Download| matches!(d.state, State::Starting | State::Downloading);
            // One that is being paused, or is stored, has its last figures.
            if progress.id.is_empty() || !self.by_number(*number).is_some_and(|d| runs(&d)) {
                continue;
            }
            let seen = seen.entry(handle.number()).or_default();
            seen.time += elapsed;
            self.set_progress(*number, now, seen, |current, seen| Progress {
                bytes: Some(progress.bytes),
                stored: progress.stored,
                downloaded: current.downloaded + increase(seen.downloaded, progress.downloaded),
                uploaded: current.uploaded + increase(seen.uploaded, progress.uploaded),
                downloaded_now: progress.downloaded,
                uploaded_now: progress.uploaded,
                download_rate: progress.download_rate,
                upload_rate: progress.upload_rate,
                store_rate: progress.store_rate,
                peers: progress.peers,
                seeds: progress.seeds,
                eta_seconds: progress.eta_seconds,
                activity: Some(progress.state),
                trouble: progress.trouble.clone(),
                ..current.clone()
            });
        }
        for (number, handle) in seeds {
            let progress = *handle.progress().borrow();
            let Some(known) = self.by_number(*number) else { continue };
            if known.seeding != Seeding::Active {
                continue;
            }
            // Seeding goes on with the torrent of the import, and with its count of bytes.
            let first = Seen { uploaded: known.progress.uploaded_now, ..Seen::default() };
            let seen = seen.entry(handle.number()).or_insert(first);
            if progress.active > 0 {
                seen.time += elapsed;
            }
            self.set_progress(*number, now, seen, |current, seen| Progress {
                uploaded: current.uploaded + increase(seen.uploaded, progress.uploaded),
                downloaded_now: seen.downloaded,
                uploaded_now: progress.uploaded,
                upload_rate: progress.upload_rate,
                download_rate: 0,
                peers: progress.peers,
                activity: Some(Activity::Seeding),
                eta_seconds: None,
                ..current.clone()
            });
        }
    }

    /// Puts progress into the store, if it changed. Called with `changes` held.
    fn set_progress(
        &self,
        number: u64,
        now: u64,
        seen: &mut Seen,
        next: impl FnOnce(&Progress, &Seen) -> Progress,
    ) {
        let Some(known) = self.by_number(number) else { return };
        let mut progress = next(&known.progress, seen);
        if progress == known.progress && seen.time < TIME_STEP {
            return;
        }
        let seconds = seen.time.as_secs();
        seen.time -= Duration::from_secs(seconds);
        match known.state.is_stored() {
            true => progress.seeding_seconds += seconds,
            false => progress.active_seconds += seconds,
        }
        (seen.downloaded, seen.uploaded) = (progress.downloaded_now, progress.uploaded_now);
        let is_active = progress.downloaded != known.progress.downloaded
            || progress.uploaded != known.progress.uploaded;
        let last_activity = if is_active { Some(now) } else { known.last_activity };
        let download = Download { progress, last_activity, ..Download::clone(&known) };
        self.publish(download, Some(&known));
    }

    /// Records the totals of what runs.
    pub(in crate::queue) async fn record_running_progress(&self) {
        // Before the records are made: a change that is committed meanwhile would be overwritten.
        let _changes = self.0.changes.lock().await;
        let mut numbers: Vec<u64> = self.0.runs.downloads.lock().keys().copied().collect();
        numbers.extend(self.0.runs.seeds.lock().keys());
        let downloads = numbers.into_iter().filter_map(|number| self.by_number(number));
        let records: Vec<_> = downloads
            .filter_map(|download| Some((download.number, record(&download).ok()?)))
            .collect();
        if let Err(e) = self.catalog().update_downloads(records).await {
            tracing::warn!("the progress of downloads was not recorded: {}", e.report());
        }
    }
}

/// The increase of a counter, which starts again from zero when its torrent enters the session again.
fn increase(before: u64, now: u64) -> u64 {
    if now >= before { now - before } else { now }
}
