//! The runner: applies the scheduler's decisions to the engine, and records what comes of them.
//!
//! One task decides, whenever something changed or a time has come. Each started download has a task that follows its
//! import (`download_run.rs`), each seeded torrent one that waits for its goal (`seed_run.rs`). Progress is copied into
//! the store by one task, twice a second while something runs, and recorded once a minute.

mod download_run;
mod progress;
mod removal;
mod seed_run;

use self::removal::Removals;
use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{
    Queue,
    download::{Download, DownloadId, RateLimits},
    scheduler::{Candidate, Decision, Phase, View, decide},
    state::{Seeding, State},
};
use crate::engine::{ImportHandle, SeedHandle};

/// What runs, by the number of the download.
#[derive(Debug, Default)]
pub(super) struct Runs {
    downloads: Mutex<HashMap<u64, Run>>,
    seeds: Mutex<HashMap<u64, SeedHandle>>,
    /// Removed downloads whose run or data is not gone yet.
    pub(super) removals: Mutex<Removals>,
    /// The limits that the engine has.
    rates: Mutex<Option<RateLimits>>,
}

/// A download that occupies a slot.
#[derive(Debug, Clone)]
struct Run {
    /// Stops it.
    stop: CancellationToken,
    /// Once the engine has started the import.
    handle: Option<ImportHandle>,
}

/// The longest time between two decisions. The clock may jump.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

impl Queue {
    pub(super) fn spawn_runner(&self, removing: Vec<Download>) {
        for download in removing {
            self.spawn_removal(download);
        }
        let queue = self.clone();
        self.spawn(async move { queue.run().await });
        let queue = self.clone();
        self.spawn(async move { queue.follow_progress().await });
        let queue = self.clone();
        self.spawn(async move { queue.watch_folders().await });
        for name in self.feed_names() {
            let queue = self.clone();
            self.spawn(async move { queue.follow_feed(&name).await });
        }
    }

    /// Runs a task until the engine closes.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stopping = self.0.engine.stopping();
        tokio::spawn(async move {
            tokio::select! {
                () = task => {}
                () = stopping.cancelled() => {}
            }
        });
    }

    async fn run(&self) {
        loop {
            let decision = self.decide();
            self.apply(&decision).await;
            let wait = decision.look_again.map_or(LONGEST_WAIT, Duration::from_secs);
            // The next decision may be due within the running second.
            let wait = wait.clamp(Duration::from_millis(200), LONGEST_WAIT);
            tokio::select! {
                () = self.0.wake.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn decide(&self) -> Decision {
        let store = self.0.store.read();
        let runs = self.0.runs.downloads.lock();
        let removals = self.0.runs.removals.lock();
        let candidates = store.all().filter_map(|download| {
            // Its import would be that of the removed download, and end with it. The end of a removal wakes us.
            if !runs.contains_key(&download.number) && removals.blocks(download) {
                return None;
            }
            let phase = match (runs.get(&download.number), &download.state) {
                (Some(run), _) => Phase::Running { stopping: run.stop.is_cancelled() },
                (None, State::Queued | State::Exporting) => {
                    Phase::Waiting { start_after: download.settings.start_after }
                }
                (None, State::Retrying { at, .. }) => Phase::Retrying { at: *at },
                (None, _) => return None,
            };
            Some(Candidate {
                number: download.number,
                priority: download.settings.priority,
                position: download.position,
                storage: &download.settings.storage,
                host: download.host.as_deref(),
                forced: download.settings.forced,
                phase,
            })
        });
        let view = View {
            candidates: candidates.collect(),
            limits: self.active_limits(),
            rates: self.rates(),
            schedule: &self.0.options.schedule,
        };
        decide(&view, self.0.clock.now())
    }

    async fn apply(&self, decision: &Decision) {
        self.apply_rates(decision.rates);
        for number in &decision.stop {
            if let Some(run) = self.0.runs.downloads.lock().get(number) {
                run.stop.cancel();
            }
        }
        for number in &decision.start {
            self.start_run(*number);
        }
        let seeds = self.0.runs.seeds.lock().keys().copied().collect::<Vec<_>>();
        let waiting: Vec<_> = {
            let store = self.0.store.read();
            let waits = |d: &&std::sync::Arc<Download>| {
                d.state == State::Done
                    && d.seeding == Seeding::Waiting
                    && !seeds.contains(&d.number)
            };
            store.all().filter(waits).cloned().collect()
        };
        for download in waiting {
            self.start_seeding(&download).await;
        }
    }

    fn apply_rates(&self, rates: RateLimits) {
        let mut known = self.0.runs.rates.lock();
        if *known == Some(rates) {
            return;
        }
        match self.0.engine.set_limits(rates.download, rates.upload) {
            Ok(()) => *known = Some(rates),
            Err(e) => tracing::warn!("the rate limits were not set: {}", e.report()),
        }
    }

    /// Applies settings that a running import can change.
    pub(super) fn apply_settings(&self, id: &DownloadId) {
        let Ok(download) = self.get(id) else { return };
        let runs = self.0.runs.downloads.lock();
        let handle = runs.get(&download.number).and_then(|run| run.handle.clone());
        drop(runs);
        if let Some(handle) = handle {
            set_limits(&handle, &download);
            handle.set_sequential(download.settings.sequential);
        }
    }

    /// Stops the run of a download, and its seeding. They end in the background.
    pub(super) fn stop_run(&self, id: &DownloadId) {
        let Ok(download) = self.get(id) else { return };
        self.stop_number(download.number);
    }

    fn stop_number(&self, number: u64) {
        if let Some(run) = self.0.runs.downloads.lock().get(&number) {
            run.stop.cancel();
        }
        if let Some(seed) = self.0.runs.seeds.lock().get(&number) {
            seed.stop();
        }
    }

    pub(super) fn stop_seeding_of(&self, id: &DownloadId) {
        let Ok(download) = self.get(id) else { return };
        if let Some(seed) = self.0.runs.seeds.lock().get(&download.number) {
            seed.stop();
        }
    }

    /// Waits until nothing of a download runs.
    async fn wait_until_stopped(&self, number: u64) {
        let is_running = || {
            self.0.runs.downloads.lock().contains_key(&number)
                || self.0.runs.seeds.lock().contains_key(&number)
        };
        let mut revision = self.subscribe();
        while is_running() {
            // Each end of a run raises the revision or wakes the watchers.
            tokio::select! {
                _ = revision.changed() => {}
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
        }
    }
}

fn set_limits(handle: &ImportHandle, download: &Download) {
    let limits = download.settings.limits;
    let none_if_zero = |rate: Option<u64>| rate.filter(|rate| *rate > 0);
    handle.set_limits(none_if_zero(limits.download), none_if_zero(limits.upload));
}
