//! `seed`: offers stored imports to the swarm. Starting needs only the catalog: nothing is hashed, read or listed.
//!
//! [`Seeding`] adds up to `at_once` imports to the session and rotates the others in ([`Rotation`]). Of a
//! complete import, only the torrent is loaded at first; the location of its bytes is loaded from the catalog
//! when a peer requests the first one. Usage is recorded every 5 s, and the monthly budget is checked then. Seed
//! goals are checked every second.

mod goals;
mod limits;
mod rotation;
mod seeding_import;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use self::{
    limits::{SeedThrottle, reached_goal, seed_throttle},
    rotation::Rotation,
    seeding_import::{SeedingImport, SessionState},
};
use super::{Engine, SESSION_STOP_TIMEOUT, usage::priced_usage};
use crate::{
    backends::Reads,
    calendar::Utc,
    catalog::{ImportId, ImportRow, ImportState, UsageCounts},
    config::{CloudBudget, NetworkOptions, SeedGoal, SeedOptions},
    error::{Error, Kind, Result},
    events::{Event, EventSink},
    hints::{Operation, hint},
    storage::ImportStore,
    torrents::{Status, Torrent, TorrentSession},
    units::ByteSize,
};

/// Interval for reading the messages of the session.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Goals are checked every 4 polls: once a second.
const POLLS_PER_GOAL_CHECK: u64 = 4;
/// Interval for recording usage and checking the monthly budget.
const RECORD_INTERVAL: Duration = Duration::from_secs(5);
/// Default number of imports in the session. Each holds the piece hashes of its torrent in memory.
const DEFAULT_MAX_ACTIVE: usize = 1000;
/// Wait before an import whose error may pass is tried again.
const RETRY_DELAY: Duration = Duration::from_secs(5 * 60);
/// With more imports in the session, progress is reported only for those that changed, once a second.
const FEW_IMPORTS: usize = 32;

/// An import to be seeded.
struct SeedCandidate {
    row: ImportRow,
    /// The goal from the config.
    goal: SeedGoal,
    /// Recorded usage.
    recorded: UsageCounts,
    /// Total length of its files in bytes. Until the import is in the session, the length with padding.
    bytes: u64,
}

/// A running `seed`.
struct Seeding<'a> {
    engine: &'a Engine,
    torrents: &'a Arc<TorrentSession>,
    options: &'a SeedOptions,
    events: &'a EventSink,
    imports: Vec<SeedCandidate>,
    rotation: Rotation,
    active: HashMap<usize, SeedingImport>,
    /// Goals set for single imports, as of the last recording.
    import_goals: HashMap<ImportId, SeedGoal>,
    throttle: SeedThrottle,
    started_at: Instant,
    polls: u64,
    /// The first error of an import.
    failed: Option<Error>,
    /// Whether an import was ever in the session.
    seeded: bool,
    /// Whether an import has reached a goal.
    reached: bool,
}

impl Engine {
    /// Seeds the named imports (without names, all complete ones) until cancelled or until all goals are reached.
    ///
    /// # Errors
    /// `NotFound` when there is nothing to seed; the first error when every import failed.
    pub async fn seed(
        &self,
        import_refs: Vec<String>,
        network: NetworkOptions,
        options: SeedOptions,
        events: EventSink,
        cancel: CancellationToken,
    ) -> Result<()> {
        let rows = self.rows_to_seed(&import_refs).await?;
        let torrents =
            TorrentSession::start(&network, Arc::clone(&self.pressure), self.pool.clone())?;
        let only = (rows.len() == 1).then(|| rows[0].id.to_string());
        let mut seeding = Seeding::new(self, &torrents, &options, &events, rows).await?;
        let done = seeding.run(&cancel).await;
        drop(seeding);
        torrents.stop(SESSION_STOP_TIMEOUT).await;
        if let (Err(e), Some(id)) = (&done, only) {
            events.import_failed(Some(id), e);
        }
        done
    }

    /// Seeds an import that was just filled, in the same session.
    ///
    /// # Errors
    /// As [`Engine::seed`].
    pub(super) async fn seed_after_import(
        &self,
        torrents: &Arc<TorrentSession>,
        (row, torrent, store): (ImportRow, (Torrent, Status), Arc<ImportStore>),
        options: &SeedOptions,
        events: &EventSink,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let mut seeding = Seeding::new(self, torrents, options, events, vec![row]).await?;
        if let Some(index) = seeding.rotation.activate_next(Duration::ZERO) {
            seeding.active.insert(index, SeedingImport::from_torrent(torrent, store));
        }
        seeding.run(cancel).await
    }

    async fn rows_to_seed(&self, import_refs: &[String]) -> Result<Vec<ImportRow>> {
        let rows: Vec<ImportRow> = if import_refs.is_empty() {
            let mut rows = self.catalog.list().await?;
            // Imports from a URL have no swarm.
            rows.retain(|row| row.state == ImportState::Imported && row.is_torrent());
            rows
        } else {
            let mut rows = Vec::with_capacity(import_refs.len());
            for import_ref in import_refs {
                rows.push(self.torrent_to_seed(import_ref).await?);
            }
            rows
        };
        // A torrent in two storages is one torrent in the swarm.
        let mut seen = HashSet::new();
        let rows: Vec<_> = rows.into_iter().filter(|row| seen.insert(row.info_hash())).collect();
        if rows.is_empty() {
            let text = "nothing to seed: no import is complete";
            return Err(Error::new(Kind::NotFound, text)
                .hint(hint![Operation::ListImports, " lists the imports"]));
        }
        Ok(rows)
    }

    async fn torrent_to_seed(&self, import_ref: &str) -> Result<ImportRow> {
        let row = self.catalog.find(import_ref).await?;
        if row.is_torrent() {
            return Ok(row);
        }
        let text = format!("import {} ({}) is from a URL and has no swarm", row.id, row.name);
        Err(Error::new(Kind::InvalidInput, text).hint("leave it out"))
    }
}

impl<'a> Seeding<'a> {
    async fn new(
        engine: &'a Engine,
        torrents: &'a Arc<TorrentSession>,
        options: &'a SeedOptions,
        events: &'a EventSink,
        rows: Vec<ImportRow>,
    ) -> Result<Self> {
        let ids = rows.iter().map(|row| row.id.clone()).collect();
        let recorded = engine.catalog.usage_of_each(ids).await?;
        let mut imports = Vec::with_capacity(rows.len());
        for (row, recorded) in rows.into_iter().zip(recorded) {
            let goal = engine.config_goal(&row, options).await?;
            imports.push(SeedCandidate { goal, recorded, bytes: row.len, row });
        }
        let rotation = Rotation::new(imports.len(), options.at_once.unwrap_or(DEFAULT_MAX_ACTIVE));
        Ok(Self {
            engine,
            torrents,
            options,
            events,
            imports,
            rotation,
            active: HashMap::new(),
            import_goals: engine.catalog.seed_goals().await?,
            throttle: SeedThrottle::Unlimited,
            started_at: Instant::now(),
            polls: 0,
            failed: None,
            seeded: false,
            reached: false,
        })
    }

    async fn run(&mut self, cancel: &CancellationToken) -> Result<()> {
        // Record the earlier reads separately: they were not for peers.
        self.engine.record_reads().await;
        self.engine.seeding.store(true, Ordering::Relaxed);
        let seeded = self.seed(cancel).await;
        // Record the usage since the last interval.
        let recorded = self.record_usage(true).await;
        self.engine.seeding.store(false, Ordering::Relaxed);
        seeded.and(recorded)
    }

    async fn seed(&mut self, cancel: &CancellationToken) -> Result<()> {
        self.apply_budget().await?;
        self.add_waiting(cancel).await?;
        let mut polls = tokio::time::interval(POLL_INTERVAL);
        let mut record = tokio::time::interval(RECORD_INTERVAL);
        record.reset();
        while !self.is_finished() {
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                _ = polls.tick() => {
                    self.poll()?;
                    if self.polls.is_multiple_of(POLLS_PER_GOAL_CHECK) {
                        self.check_goals().await?;
                    }
                }
                _ = record.tick() => {
                    self.record_usage(false).await?;
                    self.import_goals = self.engine.catalog.seed_goals().await?;
                    self.apply_budget().await?;
                    self.rotate();
                    self.add_waiting(cancel).await?;
                }
            }
        }
        let failed = self.failed.take().filter(|_| !self.reached);
        failed.map_or(Ok(()), Err)
    }

    /// Whether nothing is left to be seeded. Postponed imports are waited for only if another one was seeded.
    fn is_finished(&self) -> bool {
        self.rotation.is_finished() || self.rotation.is_idle() && !self.seeded
    }

    /// Adds waiting imports to the session, as long as there are free slots.
    async fn add_waiting(&mut self, cancel: &CancellationToken) -> Result<()> {
        while !cancel.is_cancelled()
            && let Some(index) = self.rotation.activate_next(self.started_at.elapsed())
        {
            let row = self.imports[index].row.clone();
            match SeedingImport::add(self.engine, self.torrents, &row, self.events).await {
                Ok((import, bytes)) => {
                    self.imports[index].bytes = bytes;
                    if self.throttle == SeedThrottle::Paused {
                        import.pause();
                    }
                    self.active.insert(index, import);
                    self.seeded = true;
                }
                // An import that fails does not stop the others.
                Err(e) => self.fail(index, e)?,
            }
        }
        Ok(())
    }

    fn fail(&mut self, index: usize, error: Error) -> Result<()> {
        let id = &self.imports[index].row.id;
        let error = error.with_context(format_args!("import {id}"));
        let is_temporary = error.kind().is_retryable();
        match is_temporary {
            true => self.rotation.postpone(index, self.started_at.elapsed() + RETRY_DELAY),
            false => self.rotation.finish(index),
        }
        self.active.remove(&index);
        if self.imports.len() == 1 {
            return Err(error);
        }
        if !is_temporary {
            self.events.import_failed(Some(id.to_string()), &error);
        }
        let now = if is_temporary { " for now" } else { "" };
        tracing::warn!("{}; it is not seeded{now}", error.report());
        let text = format!("not seeded{now}: {}", error.report());
        self.events.send(Event::Notice { id: Some(id.to_string()), text });
        self.failed.get_or_insert(error);
        Ok(())
    }

    /// Reads the messages of the session, and reports progress.
    fn poll(&mut self) -> Result<()> {
        self.polls += 1;
        let few = self.active.len() <= FEW_IMPORTS;
        let report = few || self.polls.is_multiple_of(4);
        let held = self.torrents.held();
        let mut failed = Vec::new();
        for (&index, import) in &mut self.active {
            let SeedCandidate { row, bytes, .. } = &self.imports[index];
            match import.poll(&row.id, self.events) {
                SessionState::Running => {}
                SessionState::Ended => return Ok(()),
                SessionState::Failed(error) => failed.push((index, error)),
            }
            if report && (few || import.has_changed()) {
                self.events.send(Event::Progress(import.progress(&row.id, *bytes, held)));
            }
        }
        failed.into_iter().try_for_each(|(index, error)| self.fail(index, error))
    }

    /// Records the usage since the last call. With `last`, also seeding time of less than a minute.
    async fn record_usage(&mut self, last: bool) -> Result<()> {
        let mut entries: HashMap<(Option<ImportId>, String), UsageCounts> = HashMap::new();
        let reads = self.engine.find_reads(false).await?.take();
        for (by, Reads { gets, bytes }) in reads {
            entries.insert(by, UsageCounts { gets, fetched: bytes, ..UsageCounts::default() });
        }
        for (&index, import) in &mut self.active {
            let candidate = &mut self.imports[index];
            let usage = import.take_unrecorded(self.throttle == SeedThrottle::Paused, last);
            if usage.is_zero() {
                continue;
            }
            candidate.recorded += usage;
            let (id, storage) = (candidate.row.id.clone(), candidate.row.storage.clone());
            *entries.entry((Some(id), storage)).or_default() += usage;
        }
        if entries.is_empty() {
            return Ok(());
        }
        let entries = entries.into_iter().map(|((id, storage), usage)| (id, storage, usage));
        self.engine.catalog.add_usage(Utc::now().year_month(), entries.collect()).await
    }

    /// Ends the seeding of imports that have reached a goal.
    async fn check_goals(&mut self) -> Result<()> {
        let stopped = self.throttle == SeedThrottle::Paused;
        let finished = |(&index, import): (&usize, &SeedingImport)| {
            let SeedCandidate { row, goal, recorded, bytes } = &self.imports[index];
            let import_goal = self.import_goals.get(&row.id).copied().unwrap_or_default();
            let goal = self.options.from_flags.or(import_goal).or(*goal);
            // Served bytes count once they are recorded: by then they have really been sent.
            let seconds = recorded.seconds + import.unrecorded(stopped).seconds;
            let usage = UsageCounts { seconds, ..*recorded };
            reached_goal(&goal, *bytes, &usage).map(|reached| (index, reached))
        };
        let finished: Vec<_> = self.active.iter().filter_map(finished).collect();
        if finished.is_empty() {
            return Ok(());
        }
        self.record_usage(true).await?;
        self.reached = true;
        for (index, reached) in finished {
            self.rotation.finish(index);
            self.active.remove(&index);
            let id = Some(self.imports[index].row.id.to_string());
            self.events.send(Event::Notice { id, text: reached });
        }
        Ok(())
    }

    /// Slows down or stops seeding according to the monthly budget.
    async fn apply_budget(&mut self) -> Result<()> {
        let Some(budget) = self.options.cloud_budget else { return Ok(()) };
        let now = Utc::now();
        let (mut fetched, mut dollars) = (0, 0.0);
        let used = self.engine.catalog.usage_by_storage(Some(&now.year_month())).await?;
        for (storage, usage) in used {
            // A storage that is no longer configured counts as remote.
            let is_local =
                self.engine.storage(&storage).await.is_ok_and(|p| !p.backend.is_remote());
            if !is_local {
                fetched += usage.all_fetched();
                dollars +=
                    priced_usage(&self.engine.config, &storage, &usage).dollars.unwrap_or(0.0);
            }
        }
        let throttle = seed_throttle(budget, fetched, dollars, now.seconds_to_next_month());
        if std::mem::replace(&mut self.throttle, throttle) == throttle {
            return Ok(());
        }
        let used = match budget {
            CloudBudget::Bytes(_) => CloudBudget::Bytes(ByteSize(fetched)),
            CloudBudget::Dollars(_) => CloudBudget::Dollars(dollars),
        };
        let text = match throttle {
            SeedThrottle::Unlimited => {
                "new month: the cloud budget is available, seeding at full speed".to_owned()
            }
            SeedThrottle::Limited(rate) => {
                format!(
                    "{used} of this month's cloud budget of {budget} are used: seeding is limited to {}/s",
                    ByteSize(rate)
                )
            }
            SeedThrottle::Paused => {
                format!(
                    "this month's cloud budget of {budget} is used up: seeding is paused until next month"
                )
            }
        };
        tracing::warn!("{text}");
        self.events.send(Event::Notice { id: None, text });
        self.torrents.set_upload_limit(if let SeedThrottle::Limited(rate) = throttle {
            Some(rate)
        } else {
            None
        })?;
        self.active.values().for_each(|import| {
            if throttle == SeedThrottle::Paused { import.pause() } else { import.resume() }
        });
        Ok(())
    }

    /// Removes imports whose time in the session is over, if others wait.
    fn rotate(&mut self) {
        let now = self.started_at.elapsed();
        let busy = |index: usize| self.active.get(&index).is_some_and(SeedingImport::has_peers);
        let removed: Vec<_> = std::iter::from_fn(|| self.rotation.rotate_out(now, busy)).collect();
        removed.iter().for_each(|index| drop(self.active.remove(index)));
    }
}
