//! Fills an import from a server: fetches its files, up to [`AT_ONCE`] at a time, into the [`ImportWriter`] that
//! torrents use too.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::{
    import::Job,
    import_url::OpenedFiles,
    publish::{Files, SharedSink, publish, told},
    source::RemoteFiles,
};
use crate::{
    catalog::ImportState,
    downloads::{Effort, Fetch, ImportTarget, Mirror, Snapshot, Source, holes::Cut},
    error::{Error, Kind, Result},
    events::{Event, Progress, Started},
    rate::{Rate, RateLimit},
    storage::{ImportWriter, Publishing, RangeSet},
    torrents::metainfo::File,
    units::MIB,
};

/// Interval of the progress events.
const TICK: Duration = Duration::from_millis(250);
/// Files fetched at once from a folder. Transfers of small files mostly wait for the server's answers.
const AT_ONCE: usize = 4;

impl Job<'_> {
    /// Fetches what is missing. Returns when it is durable, with the import as it is then and the
    /// number of bytes received.
    pub(super) async fn fill_files(
        &self,
        opened: OpenedFiles,
        found: RemoteFiles,
    ) -> Result<(OpenedFiles, u64)> {
        let _importing = self.app.importing();
        // Publishing needs the length of each file.
        let files = match opened.has_open_end() {
            true => None,
            false => self.publisher(opened.import()).await?,
        };
        self.app.catalog.set_state(&opened.row.id, ImportState::Importing).await?;
        self.told_start(&opened);
        let (sink, mut ends) = told(&self.events, &opened.row, self.request.timeout);
        let sink: SharedSink = sink;
        let direct = files.as_ref().map(Files::direct);
        let publishing = files.map(|files| publish(files, &sink));
        let writer = Arc::new(self.writer(opened.import(), sink, direct, publishing.clone()));
        let filling = Arc::new(Filling::default());
        let span = tracing::info_span!("import", id = %opened.row.id);
        let filled = async {
            let mut filled = std::pin::pin!(self.fetch_all(&opened, found, &writer, &filling));
            let mut tick = tokio::time::interval(TICK);
            let fetched = loop {
                tokio::select! {
                    done = &mut filled => break done?,
                    _ = tick.tick() => self.tell(&opened, &filling, "fetching"),
                }
            };
            self.all_durable(&opened, &writer, publishing.as_ref(), &filling).await?;
            Ok(fetched)
        };
        let filled = async {
            tokio::select! {
                filled = filled => filled,
                error = ends.heard() => Err(error),
            }
        };
        let filled = filled.instrument(span).await;
        let received = filling.received();
        match filled {
            Ok(len) => {
                writer.stop(super::FLUSH).await;
                if opened.has_open_end() {
                    return Ok((self.close_end(opened, len.unwrap_or(0)).await?, received));
                }
                Ok((opened, received))
            }
            Err(error) => Err(self.leave_off(opened.import(), &writer, publishing, error).await),
        }
    }

    fn told_start(&self, opened: &OpenedFiles) {
        self.events.send(Event::Started(Started {
            id: opened.row.id.to_string(),
            name: opened.row.name.clone(),
            bytes: opened.wanted.len(),
            stored: opened.store.stored_bytes(&opened.wanted),
            files: opened.files.len(),
            info_hash: String::new(),
            listening: Vec::new(),
            state: "importing",
        }));
    }

    /// Fetches every selected file that has missing bytes. Returns the length of the file that ended last.
    async fn fetch_all(
        &self,
        opened: &OpenedFiles,
        found: RemoteFiles,
        writer: &Arc<ImportWriter>,
        filling: &Arc<Filling>,
    ) -> Result<Option<u64>> {
        let limit = RateLimit::new(self.app.config.limit_rate);
        let missing = opened.store.missing(&opened.wanted);
        let several = found.files.len() > 1;
        let effort = self.effort(several);
        let stored = opened.store.stored();
        let lacks = |file: &File| missing.overlaps(&file.range);
        // The first response may already carry the bytes of a single file. For a folder it was the listing.
        let mut first = found.first.into_inner();
        let files = found.files.into_iter().zip(&opened.files).enumerate();
        // Lazily, because a folder may have a million files.
        let mut jobs =
            files.filter(|(_, (_, file))| lacks(file)).map(|(number, (found_file, file))| {
                let (_, remote) = found_file;
                let pressure = Arc::clone(&self.app.pressure);
                let (writer, start) = (Arc::clone(writer), file.range.start);
                let target = ImportTarget::new(writer, pressure, start, remote.clone());
                let mirror = Mirror::begun(Arc::clone(&found.protocol), remote, first.take());
                let source = Source::new(vec![mirror])?;
                let (have, sink) = (have(&stored, &file.range), filling.sink(number));
                let limits = vec![Arc::clone(&limit)];
                let fetch = Fetch::new(source, Arc::new(target), None, &have, effort, limits, sink);
                Ok::<_, Error>((number, fetch))
            });
        let mut running = JoinSet::new();
        let mut len = None;
        let done = loop {
            while running.len() < if several { AT_ONCE } else { 1 } {
                let Some((number, job)) = jobs.next().transpose()? else { break };
                let (cancel, filling) = (self.cancel.clone(), Arc::clone(filling));
                let job = async move {
                    let done = job.run(&cancel).await;
                    filling.ended(number);
                    done
                };
                running.spawn(job.in_current_span());
            }
            match running.join_next().await {
                None => break Ok(len),
                Some(Ok(Ok(fetched))) => len = Some(fetched.len),
                Some(Ok(Err(e))) => break Err(e),
                Some(Err(e)) => {
                    break Err(Error::new(Kind::Internal, "a file was not fetched").because(e));
                }
            }
        };
        // No transfer may write after the writer stops.
        running.shutdown().await;
        done
    }

    /// Connections and range size of each file. Ranges are fetched in order, so that chunks become
    /// complete one after the other. All ranges in flight take a quarter of the memory for incoming bytes,
    /// or 1 MiB each where that is more.
    fn effort(&self, several: bool) -> Effort {
        let given = self.request.fetch.effort;
        let at_once = if several { AT_ONCE } else { 1 };
        let workers = given.split.min(given.per_server).div_ceil(at_once).max(1);
        let window = self.app.pool.budget() as u64 / 4 / (workers * at_once) as u64;
        let grain = window.max(MIB);
        let cut =
            if workers == 1 { Cut::InOrder(u64::MAX) } else { Cut::InOrder(1 << grain.ilog2()) };
        Effort { per_server: workers, split: workers, cut, ..given }
    }

    /// Waits until all fetched bytes are durable and the files are published.
    async fn all_durable(
        &self,
        opened: &OpenedFiles,
        writer: &Arc<ImportWriter>,
        publishing: Option<&Arc<Publishing>>,
        filling: &Filling,
    ) -> Result<()> {
        let durable = async {
            writer.flush().await?;
            let missing = opened.store.missing(&opened.wanted);
            if !missing.is_empty() && !opened.has_open_end() {
                let text =
                    format!("import {}: {} bytes did not come", opened.row.id, missing.len());
                return Err(Error::new(Kind::Internal, text));
            }
            match publishing {
                Some(publishing) => publishing.finished().await.map(drop),
                None => Ok(()),
            }
        };
        let mut durable = std::pin::pin!(durable);
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                done = &mut durable => return done,
                () = self.cancel.cancelled() => return Err(Error::new(Kind::Cancelled, "stopped")),
                _ = tick.tick() => self.tell(opened, filling, "publishing"),
            }
        }
    }

    fn tell(&self, opened: &OpenedFiles, filling: &Filling, state: &'static str) {
        let stored = opened.store.stored_bytes(&opened.wanted);
        let (received, connections) = (filling.received(), filling.connections());
        let (download_rate, store_rate) =
            filling.rates(self.begun.elapsed().as_secs_f64(), received, stored);
        let bytes = opened.wanted.len();
        self.events.send(Event::Progress(Progress {
            id: opened.row.id.to_string(),
            bytes,
            stored,
            downloaded: received,
            download_rate,
            store_rate,
            peers: connections,
            held: self.app.pool.held() as u64,
            eta_seconds: bytes.saturating_sub(stored).checked_div(store_rate),
            state,
            trouble: filling.trouble(),
            ..Progress::default()
        }));
    }
}

/// The stored ranges of a file, relative to its start.
fn have(stored: &RangeSet, file: &Range<u64>) -> RangeSet {
    let parts = stored.within(file.clone());
    parts.map(|part| part.start - file.start..part.end - file.start).collect()
}

/// Progress of all files.
#[derive(Default)]
struct Filling {
    /// State of the files in flight, by index.
    running: Mutex<HashMap<usize, Snapshot>>,
    /// Bytes received for files that have ended.
    ended: AtomicU64,
    rates: Mutex<(Rate, Rate)>,
}

impl Filling {
    fn sink(self: &Arc<Self>, number: usize) -> Box<dyn Fn(Snapshot) + Send + Sync> {
        let this = Arc::clone(self);
        Box::new(move |snapshot| drop(this.running.lock().insert(number, snapshot)))
    }

    fn ended(&self, number: usize) {
        if let Some(last) = self.running.lock().remove(&number) {
            self.ended.fetch_add(last.received, Ordering::Relaxed);
        }
    }

    fn received(&self) -> u64 {
        let running: u64 = self.running.lock().values().map(|snapshot| snapshot.received).sum();
        running + self.ended.load(Ordering::Relaxed)
    }

    /// The error of a waiting file, reported only while every file in flight is waiting.
    fn trouble(&self) -> Option<String> {
        let running = self.running.lock();
        let waits = running.values().all(|snapshot| snapshot.trouble.is_some());
        running.values().next().filter(|_| waits).and_then(|snapshot| snapshot.trouble.clone())
    }

    fn connections(&self) -> usize {
        self.running.lock().values().map(|snapshot| snapshot.connections).sum()
    }

    /// Bytes per second, received and stored; `now` is in seconds.
    fn rates(&self, now: f64, received: u64, stored: u64) -> (u64, u64) {
        let mut rates = self.rates.lock();
        (rates.0.sample(now, received), rates.1.sample(now, stored))
    }
}
