//! The task of the seeder.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, mpsc};

use super::{
    group::{Group, NewGroup, SeedCandidate},
    limits::{SeedThrottle, reached_goal},
    rotation::Rotation,
    seeding_import::{SeedingImport, SessionState},
};
use crate::{
    backends::Reads,
    calendar::Utc,
    catalog::{ImportId, UsageCounts},
    config::{CloudBudget, SeedGoal},
    engine::{Engine, SeedProgress},
    error::{Error, Result},
    events::Event,
    torrents::TorrentSession,
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

/// The groups that are seeded, and their imports by index.
pub(super) struct Seeding {
    pub(super) engine: Engine,
    pub(super) torrents: Arc<TorrentSession>,
    groups: HashMap<u64, Group>,
    imports: HashMap<usize, SeedCandidate>,
    next_index: usize,
    rotation: Rotation,
    pub(super) active: HashMap<usize, SeedingImport>,
    /// Goals set for single imports, as of the last recording.
    import_goals: HashMap<ImportId, SeedGoal>,
    pub(super) throttle: SeedThrottle,
    started_at: Instant,
    polls: u64,
}

impl Seeding {
    pub(super) fn new(engine: Engine, torrents: Arc<TorrentSession>) -> Self {
        Self {
            engine,
            torrents,
            groups: HashMap::new(),
            imports: HashMap::new(),
            next_index: 0,
            rotation: Rotation::new(0, DEFAULT_MAX_ACTIVE),
            active: HashMap::new(),
            import_goals: HashMap::new(),
            throttle: SeedThrottle::Unlimited,
            started_at: Instant::now(),
            polls: 0,
        }
    }

    /// Runs until no group is left, or the engine closes.
    pub(super) async fn run(
        mut self,
        mut new_groups: mpsc::UnboundedReceiver<NewGroup>,
        wake: Arc<Notify>,
    ) {
        // Record the earlier reads separately: they were not for peers.
        self.engine.record_reads().await;
        self.engine.seeding.fetch_add(1, Ordering::Relaxed);
        let engine = self.engine.clone();
        while let Some(first) = engine.seeder.take_or_end(&mut new_groups) {
            let seeded = self.seed(first, &mut new_groups, &wake).await;
            // Record the usage since the last interval.
            let recorded = self.record_usage(true).await;
            // The session ends together with the engine: its errors are those of a stop.
            let seeded = if engine.stopping.is_cancelled() { Ok(()) } else { seeded };
            self.end_all(seeded.and(recorded));
            // The budget is that of seeding: imports that go on are not limited by it. The only error is that the
            // session has ended.
            self.throttle = SeedThrottle::Unlimited;
            let _ = self.torrents.set_budget_limit(None);
            if engine.stopping.is_cancelled() {
                break;
            }
        }
        self.engine.seeding.fetch_sub(1, Ordering::Relaxed);
        new_groups.close();
        while let Ok(late) = new_groups.try_recv() {
            late.running.finish(Ok(()));
        }
    }

    /// Seeds until no group is left, or the engine closes.
    async fn seed(
        &mut self,
        first: NewGroup,
        new_groups: &mut mpsc::UnboundedReceiver<NewGroup>,
        wake: &Notify,
    ) -> Result<()> {
        self.add_group(first).await?;
        let stopping = self.engine.stopping.clone();
        let mut polls = tokio::time::interval(POLL_INTERVAL);
        let mut record = tokio::time::interval(RECORD_INTERVAL);
        record.reset();
        loop {
            self.end_finished().await?;
            if self.groups.is_empty() {
                return Ok(());
            }
            tokio::select! {
                () = stopping.cancelled() => return Ok(()),
                () = wake.notified() => {}
                Some(group) = new_groups.recv() => self.add_group(group).await?,
                _ = polls.tick() => {
                    self.poll();
                    if self.polls.is_multiple_of(POLLS_PER_GOAL_CHECK) {
                        self.check_goals().await?;
                    }
                }
                _ = record.tick() => {
                    self.record_usage(false).await?;
                    self.import_goals = self.engine.catalog.seed_goals().await?;
                    self.apply_budget().await?;
                    self.rotate();
                    self.add_waiting().await;
                }
            }
        }
    }

    async fn add_group(&mut self, new: NewGroup) -> Result<()> {
        let NewGroup { imports, mut ready, options, torrent, events, running } = new;
        let number = running.number();
        self.rotation.set_max_active(options.at_once.unwrap_or(DEFAULT_MAX_ACTIVE));
        self.import_goals = self.engine.catalog.seed_goals().await?;
        let mut group = Group {
            options,
            torrent,
            events,
            running,
            members: Default::default(),
            count: imports.len(),
            failed: None,
            seeded: false,
            reached: false,
        };
        let ids = imports.iter().map(|(row, _)| row.id.clone()).collect();
        let usage = self.engine.catalog.usage_of_each(ids).await?;
        for ((row, claim), recorded) in imports.into_iter().zip(usage) {
            let goal = self.engine.config_goal(&row, &group.options).await?;
            let index = self.next_index;
            self.next_index += 1;
            group.members.insert(index);
            match ready.take() {
                Some((torrent, store)) => {
                    group.seeded = true;
                    self.rotation.add_active(index, self.started_at.elapsed());
                    self.active.insert(index, SeedingImport::from_torrent(torrent, store));
                }
                None => self.rotation.add(index),
            }
            let bytes = row.len;
            let candidate =
                SeedCandidate { row, group: number, goal, recorded, bytes, _claim: claim };
            self.imports.insert(index, candidate);
        }
        self.groups.insert(number, group);
        self.apply_budget().await?;
        self.add_waiting().await;
        Ok(())
    }

    /// The budget of the groups. They have it from the same config.
    pub(super) fn cloud_budget(&self) -> Option<CloudBudget> {
        self.groups.values().find_map(|group| group.options.cloud_budget)
    }

    /// Adds waiting imports to the session, as long as there are free slots.
    async fn add_waiting(&mut self) {
        while !self.engine.stopping.is_cancelled()
            && let Some(index) = self.rotation.activate_next(self.started_at.elapsed())
        {
            let Some(candidate) = self.imports.get_mut(&index) else { continue };
            let Some(group) = self.groups.get_mut(&candidate.group) else { continue };
            if group.running.is_stopped() {
                continue;
            }
            let (engine, session) = (&self.engine, (&self.torrents, &group.torrent));
            match SeedingImport::add(engine, session, &candidate.row, &group.events).await {
                Ok((import, bytes)) => {
                    candidate.bytes = bytes;
                    group.seeded = true;
                    if self.throttle == SeedThrottle::Paused {
                        import.pause();
                    }
                    self.active.insert(index, import);
                }
                // An import that fails does not stop the others.
                Err(e) => self.fail(index, e),
            }
        }
    }

    fn fail(&mut self, index: usize, error: Error) {
        if self.engine.stopping.is_cancelled() {
            // The session ends at the same time. A stop is not a failure.
            return;
        }
        let Some(candidate) = self.imports.get(&index) else { return };
        let Some(group) = self.groups.get_mut(&candidate.group) else { return };
        let id = candidate.row.id.to_string();
        let error = error.with_context(format_args!("import {id}"));
        self.active.remove(&index);
        // The only import of a call: its error is the result.
        if error.kind().is_retryable() && group.count > 1 {
            self.rotation.postpone(index, self.started_at.elapsed() + RETRY_DELAY);
        } else {
            self.rotation.finish(index);
            group.members.remove(&index);
        }
        if group.count == 1 {
            group.events.import_failed(Some(id), &error);
        } else {
            let now = if error.kind().is_retryable() { " for now" } else { "" };
            tracing::warn!("{}; it is not seeded{now}", error.report());
            let text = format!("not seeded{now}: {}", error.report());
            group.events.send(Event::Notice { id: Some(id), text });
        }
        group.failed.get_or_insert(error);
    }

    /// Reads the messages of the session, and reports progress.
    fn poll(&mut self) {
        self.polls += 1;
        let few = self.active.len() <= FEW_IMPORTS;
        let report = few || self.polls.is_multiple_of(4);
        let memory = self.torrents.memory();
        let mut failed = Vec::new();
        for (&index, import) in &mut self.active {
            let Some(SeedCandidate { row, bytes, group, .. }) = self.imports.get(&index) else {
                continue;
            };
            let Some(Group { events, .. }) = self.groups.get(group) else { continue };
            match import.poll(&row.id, events) {
                SessionState::Running => {}
                SessionState::Ended => return,
                SessionState::Failed(error) => failed.push((index, error)),
            }
            if report && (few || import.has_changed()) {
                events.send(Event::Progress(import.progress(&row.id, *bytes, memory)));
            }
        }
        failed.into_iter().for_each(|(index, error)| self.fail(index, error));
        if report {
            self.report_totals();
        }
    }

    fn report_totals(&self) {
        let mut totals: HashMap<u64, SeedProgress> = HashMap::new();
        for (index, import) in &self.active {
            let Some(candidate) = self.imports.get(index) else { continue };
            let total = totals.entry(candidate.group).or_default();
            let status = import.status();
            total.active += 1;
            total.peers += status.peers;
            total.uploaded += status.uploaded;
            total.upload_rate += status.upload_rate;
        }
        for (number, group) in &self.groups {
            let total = totals.remove(number).unwrap_or_default();
            group.running.report(SeedProgress { imports: group.members.len(), ..total });
        }
    }

    /// Records the usage since the last call. With `last`, also seeding time of less than a minute.
    async fn record_usage(&mut self, last: bool) -> Result<()> {
        let mut entries: HashMap<(Option<ImportId>, String), UsageCounts> = HashMap::new();
        let reads = self.engine.find_reads(false).await?.take();
        for (by, Reads { gets, bytes }) in reads {
            entries.insert(by, UsageCounts { gets, fetched: bytes, ..UsageCounts::default() });
        }
        for (&index, import) in &mut self.active {
            let Some(candidate) = self.imports.get_mut(&index) else { continue };
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
            let SeedCandidate { row, goal, recorded, bytes, group, .. } =
                self.imports.get(&index)?;
            let import_goal = self.import_goals.get(&row.id).copied().unwrap_or_default();
            let from_flags = self.groups.get(group)?.options.from_flags;
            let goal = from_flags.or(import_goal).or(*goal);
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
        for (index, reached) in finished {
            self.rotation.finish(index);
            self.active.remove(&index);
            let Some(candidate) = self.imports.remove(&index) else { continue };
            let Some(group) = self.groups.get_mut(&candidate.group) else { continue };
            group.members.remove(&index);
            group.reached = true;
            let id = Some(candidate.row.id.to_string());
            group.events.send(Event::Notice { id, text: reached });
        }
        Ok(())
    }

    /// Ends the groups that are stopped, and those with nothing left to seed. Postponed imports are waited for only if
    /// another one of the group was seeded.
    async fn end_finished(&mut self) -> Result<()> {
        let is_idle = |group: &Group| !group.members.iter().any(|index| self.rotation.has(*index));
        let is_over = |group: &Group| {
            group.members.is_empty()
                || group.running.is_stopped()
                || !group.seeded && is_idle(group)
        };
        let over: Vec<u64> =
            self.groups.iter().filter(|(_, g)| is_over(g)).map(|(n, _)| *n).collect();
        if over.is_empty() {
            return Ok(());
        }
        self.record_usage(true).await?;
        for number in over {
            let Some(mut group) = self.groups.remove(&number) else { continue };
            for index in group.members.drain() {
                self.remove(index);
            }
            // A stop is not a failure.
            let result = if group.running.is_stopped() { Ok(()) } else { group.result() };
            group.running.finish(result);
        }
        // Slots are free now.
        self.add_waiting().await;
        Ok(())
    }

    /// Removes an import from the session, and ends its claim.
    fn remove(&mut self, index: usize) {
        self.rotation.finish(index);
        self.active.remove(&index);
        self.imports.remove(&index);
    }

    /// Ends all groups: the engine closes, or the catalog cannot be used.
    fn end_all(&mut self, result: Result<()>) {
        self.active.clear();
        self.imports.clear();
        self.rotation = Rotation::new(0, DEFAULT_MAX_ACTIVE);
        for (_, group) in self.groups.drain() {
            group.running.finish(result.clone());
        }
    }

    /// Removes imports whose time in the session is over, if others wait.
    fn rotate(&mut self) {
        let now = self.started_at.elapsed();
        let busy = |index: usize| self.active.get(&index).is_some_and(SeedingImport::has_peers);
        let removed: Vec<_> = std::iter::from_fn(|| self.rotation.rotate_out(now, busy)).collect();
        removed.iter().for_each(|index| drop(self.active.remove(index)));
    }
}
