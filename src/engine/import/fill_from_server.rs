//! Fills an import from a server: fetches its files, up to [`MAX_CONCURRENT_FILES`] at a time, into the
//! [`ImportWriter`] that torrents use too.

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

use super::publish::{SharedSink, UnpublishedFiles, spawn_publishing, writer_events};
use super::{ImportJob, from_url::OpenUrlImport, source::RemoteFiles};
use crate::{
    catalog::ImportState,
    downloads::{
        DownloadSource, FetchLimits, FileDownload, ImportTarget, Mirror, Snapshot,
        range_scheduler::SplitStrategy,
    },
    error::{Error, Kind, Result},
    events::{Activity, Event, Progress, Started},
    memory::{Mark, Share},
    rate::{Rate, RateLimit},
    storage::{BackgroundPublisher, ImportWriter, RangeSet},
    torrents::metainfo::File,
    units::MIB,
};

/// Interval of the progress events.
const TICK: Duration = Duration::from_millis(250);
/// Files fetched at once from a folder. Transfers of small files mostly wait for the server's answers.
const MAX_CONCURRENT_FILES: usize = 4;

impl ImportJob {
    /// Fetches what is missing. Returns when it is durable, with the import as it is then and the
    /// number of bytes received.
    pub(in crate::engine) async fn fill_from_server(
        &self,
        opened: OpenUrlImport,
        found: RemoteFiles,
    ) -> Result<(OpenUrlImport, u64)> {
        let _guard = self.engine.import_guard();
        // Publishing needs the length of each file.
        let files = match opened.grows {
            true => None,
            false => self.publisher(opened.view()).await?,
        };
        self.catalog().set_state(&opened.row.id, ImportState::Importing).await?;
        self.report_started(&opened);
        let (sink, mut fatal_errors) =
            writer_events(&self.events, &opened.row, self.request.timeout);
        let sink: SharedSink = sink;
        let direct = files.as_ref().map(UnpublishedFiles::direct);
        let publishing = files.map(|files| spawn_publishing(files, &sink));
        let roots = HashMap::new();
        let writer = self.writer(opened.view(), roots, sink, direct, publishing.clone());
        let writer = Arc::new(writer);
        let progress = Arc::new(FetchProgress::default());
        let span = tracing::info_span!("import", id = %opened.row.id);
        let is_live = found.is_live();
        let filled = async {
            let mut filled = std::pin::pin!(self.fetch_all(&opened, found, &writer, &progress));
            let mut tick = tokio::time::interval(TICK);
            let fetched = loop {
                tokio::select! {
                    done = &mut filled => break done?,
                    _ = tick.tick() => self.report_progress(&opened, &progress, Activity::Fetching),
                }
            };
            self.wait_durable(&opened, &writer, publishing.as_ref(), &progress, is_live).await?;
            Ok(fetched)
        };
        let filled = async {
            tokio::select! {
                filled = filled => filled,
                error = fatal_errors.wait() => Err(error),
            }
        };
        let filled = filled.instrument(span).await;
        let received = progress.received();
        match filled {
            Ok(len) => {
                writer.stop(crate::engine::FLUSH_TIMEOUT).await;
                if opened.grows {
                    return Ok((self.record_len(opened, len.unwrap_or(0)).await?, received));
                }
                Ok((opened, received))
            }
            Err(error) => Err(self.interrupt(opened.view(), &writer, publishing, error).await),
        }
    }

    fn report_started(&self, opened: &OpenUrlImport) {
        self.events.send(Event::Started(Started {
            id: opened.row.id.to_string(),
            name: opened.row.name.clone(),
            // Of a file that grows, no byte is known before it arrives.
            bytes: if opened.grows { 0 } else { opened.wanted.len() },
            stored: opened.store.durable_bytes(&opened.wanted),
            files: opened.files.len(),
            info_hash: String::new(),
            listening: Vec::new(),
            state: Activity::Importing,
        }));
    }

    /// Fetches every selected file that has missing bytes. Returns the length of the file that ended last.
    async fn fetch_all(
        &self,
        opened: &OpenUrlImport,
        found: RemoteFiles,
        writer: &Arc<ImportWriter>,
        progress: &Arc<FetchProgress>,
    ) -> Result<Option<u64>> {
        let own_limit = RateLimit::new(self.running.settings().borrow().download_limit);
        let missing = opened.store.missing(&opened.wanted);
        let is_folder = found.files.len() > 1;
        let fetch_limits = self.fetch_limits(is_folder);
        let stored = opened.store.durable_ranges();
        let is_incomplete = |file: &File| missing.overlaps(&file.range);
        // The first response may already carry the bytes of a single file. For a folder it was the listing.
        let mut first = found.first.into_inner();
        let files = found.files.into_iter().zip(&opened.files).enumerate();
        // Lazily, because a folder may have a million files.
        let mut jobs = files.filter(|(_, (_, file))| is_incomplete(file)).map(
            |(number, (found_file, file))| {
                let (_, remote) = found_file;
                let pressure = Arc::clone(&self.engine.pressure);
                let (writer, start) = (Arc::clone(writer), file.range.start);
                let target = ImportTarget::new(writer, pressure, start, remote.clone());
                let mirror =
                    Mirror::with_first_response(Arc::clone(&found.protocol), remote, first.take());
                let source = DownloadSource::new(vec![mirror])?;
                let (have, sink) = (stored_in_file(&stored, &file.range), progress.sink(number));
                let limits = vec![Arc::clone(&self.engine.server_limit), Arc::clone(&own_limit)];
                let fetch = FileDownload::new(
                    source,
                    Arc::new(target),
                    None,
                    &have,
                    fetch_limits,
                    limits,
                    sink,
                );
                Ok::<_, Error>((number, fetch))
            },
        );
        let mut running = JoinSet::new();
        let mut settings = self.running.settings();
        let mut len = None;
        let done = loop {
            while running.len() < if is_folder { MAX_CONCURRENT_FILES } else { 1 } {
                let Some((number, job)) = jobs.next().transpose()? else { break };
                let (cancel, progress) = (self.cancel.clone(), Arc::clone(progress));
                let job = async move {
                    let done = job.run(&cancel).await;
                    progress.finish(number);
                    done
                };
                running.spawn(job.in_current_span());
            }
            let ended = tokio::select! {
                ended = running.join_next() => ended,
                Ok(()) = settings.changed() => {
                    own_limit.set(settings.borrow_and_update().download_limit);
                    continue;
                }
            };
            match ended {
                None => break Ok(len),
                Some(Ok(Ok(fetched))) => len = Some(fetched.len),
                Some(Ok(Err(e))) => break Err(e),
                Some(Err(e)) => {
                    break Err(Error::new(Kind::Internal, "downloading a file panicked").because(e));
                }
            }
        };
        // No transfer may write after the writer stops.
        running.shutdown().await;
        done
    }

    /// Connections and range size of each file. Ranges are fetched in order, so that chunks become
    /// complete one after the other. All ranges in flight take [`Mark::OpenChunks`], or 1 MiB each where that is more.
    fn fetch_limits(&self, is_folder: bool) -> FetchLimits {
        let requested = self.request.download.fetch_limits;
        let concurrent = if is_folder { MAX_CONCURRENT_FILES } else { 1 };
        let workers = requested.per_file.min(requested.per_server).div_ceil(concurrent).max(1);
        let open = self.engine.pool.mark(Mark::OpenChunks) as u64;
        let window = open / (workers * concurrent) as u64;
        let range_len = window.max(MIB);
        let strategy = if workers == 1 {
            SplitStrategy::InOrder(u64::MAX)
        } else {
            SplitStrategy::InOrder(1 << range_len.ilog2())
        };
        FetchLimits { per_server: workers, per_file: workers, strategy, ..requested }
    }

    /// Waits until all fetched bytes are durable and the files are published. A live stream that was stopped is
    /// complete, so that its import is too.
    async fn wait_durable(
        &self,
        opened: &OpenUrlImport,
        writer: &Arc<ImportWriter>,
        publishing: Option<&Arc<BackgroundPublisher>>,
        progress: &FetchProgress,
        is_live: bool,
    ) -> Result<()> {
        let durable = async {
            writer.flush().await?;
            let missing = opened.store.missing(&opened.wanted);
            if !missing.is_empty() && !opened.grows {
                let text =
                    format!("import {}: {} bytes were not received", opened.row.id, missing.len());
                return Err(Error::new(Kind::Internal, text));
            }
            match publishing {
                Some(publishing) => publishing.wait_until_done().await.map(drop),
                None => Ok(()),
            }
        };
        let mut durable = std::pin::pin!(durable);
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                done = &mut durable => return done,
                () = self.cancel.cancelled(), if !is_live => {
                    return Err(Error::new(Kind::Cancelled, "stopped"));
                }
                _ = tick.tick() => self.report_progress(opened, progress, Activity::Publishing),
            }
        }
    }

    fn report_progress(&self, opened: &OpenUrlImport, progress: &FetchProgress, state: Activity) {
        let stored = opened.store.durable_bytes(&opened.wanted);
        let (received, connections) = (progress.received(), progress.connections());
        let (download_rate, store_rate) =
            progress.rates(self.started_at.elapsed().as_secs_f64(), received, stored);
        let bytes = if opened.grows { received } else { opened.wanted.len() };
        self.events.send(Event::Progress(Progress {
            id: opened.row.id.to_string(),
            bytes,
            stored,
            downloaded: received,
            download_rate,
            store_rate,
            peers: connections,
            held: self.engine.memory.held() as u64,
            cached: self.engine.memory.share(Share::Windows).used() as u64,
            eta_seconds: bytes
                .saturating_sub(stored)
                .checked_div(store_rate)
                .filter(|_| !opened.grows),
            state,
            trouble: progress.trouble(),
            ..Progress::default()
        }));
    }
}

/// The stored ranges of a file, relative to its start.
fn stored_in_file(stored: &RangeSet, file: &Range<u64>) -> RangeSet {
    let parts = stored.within(file.clone());
    parts.map(|part| part.start - file.start..part.end - file.start).collect()
}

/// Progress of all files.
#[derive(Default)]
struct FetchProgress {
    /// State of the files in flight, by index.
    running: Mutex<HashMap<usize, Snapshot>>,
    /// Bytes received for files that have ended.
    ended_bytes: AtomicU64,
    rates: Mutex<(Rate, Rate)>,
}

impl FetchProgress {
    fn sink(self: &Arc<Self>, number: usize) -> Box<dyn Fn(Snapshot) + Send + Sync> {
        let this = Arc::clone(self);
        Box::new(move |snapshot| drop(this.running.lock().insert(number, snapshot)))
    }

    fn finish(&self, number: usize) {
        if let Some(last) = self.running.lock().remove(&number) {
            self.ended_bytes.fetch_add(last.received, Ordering::Relaxed);
        }
    }

    fn received(&self) -> u64 {
        let running: u64 = self.running.lock().values().map(|snapshot| snapshot.received).sum();
        running + self.ended_bytes.load(Ordering::Relaxed)
    }

    /// The error of a waiting file, reported only while every file in flight is waiting.
    fn trouble(&self) -> Option<String> {
        let running = self.running.lock();
        let all_waiting = running.values().all(|snapshot| snapshot.trouble.is_some());
        running
            .values()
            .next()
            .filter(|_| all_waiting)
            .and_then(|snapshot| snapshot.trouble.clone())
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
