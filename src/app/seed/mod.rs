//! `seed`: offers stored imports to the swarm. Starting needs only the catalog: nothing is hashed, read or listed.
//!
//! [`Seeding`] adds up to `at_once` imports to the session and rotates the others in ([`Rotation`]). Of a
//! complete import, only the torrent is loaded at first; the location of its bytes is loaded from the catalog
//! when a peer requests the first one. Usage is recorded every 5 s, and the monthly budget is checked then. Seed
//! goals are checked every second.

mod goals;
mod limits;
mod live;
mod rotation;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use self::{
    limits::{Pace, pace, reached},
    live::{Heard, Live},
    rotation::Rotation,
};
use super::{App, SESSION_END, books::spent};
use crate::{
    backends::Reads,
    calendar::Utc,
    catalog::{ImportId, ImportRow, ImportState, Traffic},
    config::{CloudBudget, NetworkOptions, SeedGoal, SeedOptions},
    error::{Error, Kind, Result},
    events::{Event, EventSink},
    storage::ImportStore,
    torrents::{Status, Torrent, Torrents, keep_heap_steady},
    units::ByteSize,
};

/// Interval for reading the messages of the session.
const LOOK: Duration = Duration::from_millis(250);
/// Goals are checked every 4 looks: once a second.
const GOALS: u64 = 4;
/// Interval for recording usage and checking the monthly budget.
const BOOKS: Duration = Duration::from_secs(5);
/// Default number of imports in the session. Each holds the piece hashes of its torrent in memory.
const AT_ONCE: usize = 1000;
/// Wait before an import whose error may pass is tried again.
const RETRY: Duration = Duration::from_secs(5 * 60);
/// With more imports in the session, progress is reported only for those that changed, once a second.
const FEW: usize = 32;

/// An import to be seeded.
struct Candidate {
    row: ImportRow,
    /// The goal from the config.
    goal: SeedGoal,
    /// Recorded usage.
    past: Traffic,
    /// Total length of its files in bytes. Until the import is in the session, the length with padding.
    bytes: u64,
}

/// A running `seed`.
struct Seeding<'a> {
    app: &'a App,
    torrents: &'a Arc<Torrents>,
    options: &'a SeedOptions,
    events: &'a EventSink,
    imports: Vec<Candidate>,
    rotation: Rotation,
    live: HashMap<usize, Live>,
    /// Goals set for single imports, as of the last recording.
    said: HashMap<ImportId, SeedGoal>,
    pace: Pace,
    begun: Instant,
    looks: u64,
    /// The first error of an import.
    failed: Option<Error>,
    /// Whether an import was ever in the session.
    seeded: bool,
    /// Whether an import has reached a goal.
    reached: bool,
}

impl App {
    /// Seeds the named imports (without names, all complete ones) until cancelled or until all goals are reached.
    ///
    /// # Errors
    /// `NotFound` when there is nothing to seed; the first error when every import failed.
    pub async fn seed(
        &self,
        needles: Vec<String>,
        network: NetworkOptions,
        options: SeedOptions,
        events: EventSink,
        cancel: CancellationToken,
    ) -> Result<()> {
        let rows = self.rows_to_seed(&needles)?;
        // Cache windows are allocated and freed all the time. Measured: 119 MiB resident instead of 155 MiB.
        keep_heap_steady();
        let torrents = Torrents::start(&network, Arc::clone(&self.pressure), self.pool.clone())?;
        let mut seeding = Seeding::new(self, &torrents, &options, &events, rows)?;
        let done = seeding.run(&cancel).await;
        drop(seeding);
        torrents.stop(SESSION_END).await;
        done
    }

    /// Seeds an import that was just filled, in the same session.
    ///
    /// # Errors
    /// As [`App::seed`].
    pub(super) async fn seed_on(
        &self,
        torrents: &Arc<Torrents>,
        (row, torrent, store): (ImportRow, (Torrent, Status), Arc<ImportStore>),
        options: &SeedOptions,
        events: &EventSink,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let mut seeding = Seeding::new(self, torrents, options, events, vec![row])?;
        if let Some(index) = seeding.rotation.enter(Duration::ZERO) {
            seeding.live.insert(index, Live::of(torrent, store));
        }
        seeding.run(cancel).await
    }

    fn rows_to_seed(&self, needles: &[String]) -> Result<Vec<ImportRow>> {
        let rows: Vec<ImportRow> = if needles.is_empty() {
            let mut rows = self.catalog.list()?;
            // Imports from a URL have no swarm.
            rows.retain(|row| row.state == ImportState::Imported && row.is_torrent());
            rows
        } else {
            needles.iter().map(|n| self.torrent_to_seed(n)).collect::<Result<_>>()?
        };
        // A torrent in two storages is one torrent in the swarm.
        let mut seen = HashSet::new();
        let rows: Vec<_> = rows.into_iter().filter(|row| seen.insert(row.info_hash())).collect();
        if rows.is_empty() {
            let text = "there is nothing to seed: no import is complete";
            return Err(Error::new(Kind::NotFound, text).hint("`bae ls` shows what there is"));
        }
        Ok(rows)
    }

    fn torrent_to_seed(&self, needle: &str) -> Result<ImportRow> {
        let row = self.catalog.find(needle)?;
        if row.is_torrent() {
            return Ok(row);
        }
        let text =
            format!("import {} ({}) came from a URL: there is no swarm for it", row.id, row.name);
        Err(Error::new(Kind::InvalidInput, text).hint("leave it out"))
    }
}

impl<'a> Seeding<'a> {
    fn new(
        app: &'a App,
        torrents: &'a Arc<Torrents>,
        options: &'a SeedOptions,
        events: &'a EventSink,
        rows: Vec<ImportRow>,
    ) -> Result<Self> {
        let candidate = |row: ImportRow| {
            let past = app.catalog.traffic_of(&row.id)?;
            Ok(Candidate { goal: app.usual_goal(&row, options)?, past, bytes: row.len, row })
        };
        let imports: Vec<Candidate> = rows.into_iter().map(candidate).collect::<Result<_>>()?;
        let rotation = Rotation::new(imports.len(), options.at_once.unwrap_or(AT_ONCE));
        Ok(Self {
            app,
            torrents,
            options,
            events,
            imports,
            rotation,
            live: HashMap::new(),
            said: app.catalog.goals()?,
            pace: Pace::Free,
            begun: Instant::now(),
            looks: 0,
            failed: None,
            seeded: false,
            reached: false,
        })
    }

    async fn run(&mut self, cancel: &CancellationToken) -> Result<()> {
        // Record the earlier reads separately: they were not for peers.
        self.app.book_reads().await;
        self.app.seeding.store(true, Ordering::Relaxed);
        let seeded = self.seed(cancel).await;
        // Record the usage since the last interval.
        let booked = self.book(true).await;
        self.app.seeding.store(false, Ordering::Relaxed);
        seeded.and(booked)
    }

    async fn seed(&mut self, cancel: &CancellationToken) -> Result<()> {
        self.keep_budget().await?;
        self.enter(cancel).await?;
        let mut looks = tokio::time::interval(LOOK);
        let mut books = tokio::time::interval(BOOKS);
        books.reset();
        while !self.is_over() {
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                _ = looks.tick() => {
                    self.look()?;
                    if self.looks.is_multiple_of(GOALS) {
                        self.keep_goals().await?;
                    }
                }
                _ = books.tick() => {
                    self.book(false).await?;
                    self.said = self.app.catalog.goals()?;
                    self.keep_budget().await?;
                    self.take_turns();
                    self.enter(cancel).await?;
                }
            }
        }
        let failed = self.failed.take().filter(|_| !self.reached);
        failed.map_or(Ok(()), Err)
    }

    /// Whether nothing is left to be seeded. Imports that were put off are waited for only if another one was seeded.
    fn is_over(&self) -> bool {
        self.rotation.is_over() || self.rotation.is_idle() && !self.seeded
    }

    /// Adds waiting imports to the session, as long as there are free slots.
    async fn enter(&mut self, cancel: &CancellationToken) -> Result<()> {
        while !cancel.is_cancelled()
            && let Some(index) = self.rotation.enter(self.begun.elapsed())
        {
            let row = self.imports[index].row.clone();
            match Live::begin(self.app, self.torrents, &row, self.events).await {
                Ok((live, bytes)) => {
                    self.imports[index].bytes = bytes;
                    if self.pace == Pace::Stop {
                        live.pause();
                    }
                    self.live.insert(index, live);
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
        let error = error.within(format_args!("import {id}"));
        let passes = error.kind().is_retryable();
        match passes {
            true => self.rotation.put_off(index, self.begun.elapsed() + RETRY),
            false => self.rotation.finish(index),
        }
        self.live.remove(&index);
        if self.imports.len() == 1 {
            return Err(error);
        }
        let now = if passes { " for now" } else { "" };
        tracing::warn!("{}; it is not seeded{now}", error.report());
        let text = format!("not seeded{now}: {}", error.report());
        self.events.send(Event::Notice { id: Some(id.to_string()), text });
        self.failed.get_or_insert(error);
        Ok(())
    }

    /// Reads the messages of the session, and reports progress.
    fn look(&mut self) -> Result<()> {
        self.looks += 1;
        let few = self.live.len() <= FEW;
        let tell = few || self.looks.is_multiple_of(4);
        let held = self.torrents.held();
        let mut failed = Vec::new();
        for (&index, live) in &mut self.live {
            let Candidate { row, bytes, .. } = &self.imports[index];
            match live.look(&row.id, self.events) {
                Heard::Nothing => {}
                Heard::Ended => return Ok(()),
                Heard::Failed(error) => failed.push((index, error)),
            }
            if tell && (few || live.has_changed()) {
                self.events.send(Event::Progress(live.progress(&row.id, *bytes, held)));
            }
        }
        failed.into_iter().try_for_each(|(index, error)| self.fail(index, error))
    }

    /// Records the usage since the last call. With `last`, also seeding time of less than a minute.
    async fn book(&mut self, last: bool) -> Result<()> {
        let mut entries: HashMap<(Option<ImportId>, String), Traffic> = HashMap::new();
        for (by, Reads { gets, bytes }) in self.app.take_reads(false).await? {
            entries.insert(by, Traffic { gets, fetched: bytes, ..Traffic::default() });
        }
        for (&index, live) in &mut self.live {
            let candidate = &mut self.imports[index];
            let traffic = live.unbooked(self.pace == Pace::Stop, last);
            if traffic.is_zero() {
                continue;
            }
            candidate.past += traffic;
            let (id, storage) = (candidate.row.id.clone(), candidate.row.storage.clone());
            *entries.entry((Some(id), storage)).or_default() += traffic;
        }
        if entries.is_empty() {
            return Ok(());
        }
        let entries = entries.into_iter().map(|((id, storage), traffic)| (id, storage, traffic));
        self.app.catalog.add_traffic(Utc::now().month_name(), entries.collect()).await
    }

    /// Ends the seeding of imports that have reached a goal.
    async fn keep_goals(&mut self) -> Result<()> {
        let stopped = self.pace == Pace::Stop;
        let done = |(&index, live): (&usize, &Live)| {
            let Candidate { row, goal, past, bytes } = &self.imports[index];
            let said = self.said.get(&row.id).copied().unwrap_or_default();
            let goal = self.options.asked.or(said).or(*goal);
            // Served bytes count once they are recorded: by then they have really been sent.
            let seconds = past.seconds + live.pending(stopped).seconds;
            let so_far = Traffic { seconds, ..*past };
            reached(&goal, *bytes, &so_far).map(|why| (index, why))
        };
        let done: Vec<_> = self.live.iter().filter_map(done).collect();
        if done.is_empty() {
            return Ok(());
        }
        self.book(true).await?;
        self.reached = true;
        for (index, why) in done {
            self.rotation.finish(index);
            self.live.remove(&index);
            let id = Some(self.imports[index].row.id.to_string());
            self.events.send(Event::Notice { id, text: format!("seeded enough: {why}") });
        }
        Ok(())
    }

    /// Slows down or stops seeding according to the monthly budget.
    async fn keep_budget(&mut self) -> Result<()> {
        let Some(budget) = self.options.cloud_budget else { return Ok(()) };
        let now = Utc::now();
        let (mut fetched, mut dollars) = (0, 0.0);
        for (storage, traffic) in self.app.catalog.traffic_in(Some(&now.month_name()))? {
            // A storage that is no longer configured counts as remote.
            let local = self.app.place(&storage).await.is_ok_and(|p| !p.backend.is_remote());
            if !local {
                fetched += traffic.all_fetched();
                dollars += spent(&self.app.config, &storage, &traffic).dollars.unwrap_or(0.0);
            }
        }
        let pace = pace(budget, fetched, dollars, now.left_of_month());
        if std::mem::replace(&mut self.pace, pace) == pace {
            return Ok(());
        }
        let so_far = match budget {
            CloudBudget::Bytes(_) => CloudBudget::Bytes(ByteSize(fetched)),
            CloudBudget::Dollars(_) => CloudBudget::Dollars(dollars),
        };
        let text = match pace {
            Pace::Free => "a new month: seeding goes on at full speed".to_owned(),
            Pace::Slow(rate) => {
                format!(
                    "{so_far} of this month's {budget} from the cloud are spent: seeding at {}/s",
                    ByteSize(rate)
                )
            }
            Pace::Stop => {
                format!(
                    "this month's {budget} from the cloud are spent: seeding stops until the next"
                )
            }
        };
        tracing::warn!("{text}");
        self.events.send(Event::Notice { id: None, text });
        self.torrents.limit_upload(if let Pace::Slow(rate) = pace { Some(rate) } else { None })?;
        self.live
            .values()
            .for_each(|live| if pace == Pace::Stop { live.pause() } else { live.resume() });
        Ok(())
    }

    /// Removes imports whose time in the session is over, if others wait.
    fn take_turns(&mut self) {
        let now = self.begun.elapsed();
        let busy = |index: usize| self.live.get(&index).is_some_and(Live::is_busy);
        let gone: Vec<_> = std::iter::from_fn(|| self.rotation.leave(now, busy)).collect();
        gone.iter().for_each(|index| drop(self.live.remove(index)));
    }
}
