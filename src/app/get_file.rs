//! Downloads one file of `get`.
//!
//! [`FileJob::run`] looks at the local path first: a pipe or device is written in order by [`FileJob::run_to`]; any
//! other file is fetched into a [`PartFile`], verified, and renamed when it is complete.

use std::{
    fs::File,
    io::Write,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Instant, SystemTime},
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::get::Getter;
use crate::{
    downloads::{
        Checksums, Effort, Existing, Fetch, PartFile, PartPlan, PipeTarget, Resume, Sink, Snapshot,
        Source, State, Target, checksum,
        holes::{Cell, Cut},
        open_stream,
        state::Input,
    },
    error::{Error, Kind, Result},
    events::{Event, EventSink, FetchedFile, Fetching, FoundFile},
    protocols::{Digest, Remote, place},
    rate::{Rate, RateLimit},
    storage::RangeSet,
};

/// A file to download, with its source, local path and checksums.
pub(super) struct FileJob<'a> {
    pub(super) getter: &'a Getter,
    pub(super) source: Source,
    pub(super) path: PathBuf,
    pub(super) checksums: Vec<Digest>,
    pub(super) events: &'a EventSink,
    pub(super) cancel: &'a CancellationToken,
}

impl FileJob<'_> {
    /// Downloads to the local path. `None` when the same file is already downloaded in this run.
    pub(super) async fn run(self) -> Result<Option<FetchedFile>> {
        let existing = Existing::at(&self.path)?;
        let opened = self.opened(&existing).await?;
        let asked = self.source.remote().asked;
        // Pipes and devices, like /dev/null, may be named any number of times.
        if opened.is_none() && !self.getter.claims.take(&self.path, &asked, &self.checksums)? {
            tracing::info!("{} was named twice: it is fetched once", place(&asked));
            return Ok(None);
        }
        match opened {
            Some(mut file) => {
                let sink = Box::new(move |bytes: &[u8]| file.write_all(bytes));
                self.run_to(sink).await.map(Some)
            }
            None => self.run_to_file(existing).await.map(Some),
        }
    }

    /// Opens the path for writing if it is a pipe or device. `None` if it is a file to create or replace.
    async fn opened(&self, existing: &Existing) -> Result<Option<File>> {
        let path = self.path.display();
        let there = |what: &str, hint: &str| {
            Err(Error::new(Kind::AlreadyExists, format!("{path} is {what}")).hint(hint))
        };
        match existing {
            Existing::Nothing | Existing::File(_) => return Ok(None),
            Existing::DeadLink if self.getter.order.overwrite => return Ok(None),
            Existing::Disk if !self.getter.order.overwrite => {
                return there("a disk, and loses what it holds", "give --overwrite to write to it");
            }
            Existing::Stream | Existing::Disk => {}
            Existing::Folder => {
                let text = format!("{path} is a folder");
                return Err(Error::new(Kind::InvalidInput, text)
                    .hint("name the folder that files go to with -d, and a file with -o"));
            }
            Existing::DeadLink => {
                let hint = "give --overwrite to put this in its place, or another name with -o";
                return there("a symbolic link to nothing", hint);
            }
            Existing::Socket => return there("a socket", "give another name with -o"),
        }
        let path = self.path.clone();
        // Opening a pipe blocks until it has a reader.
        let opening = tokio::task::spawn_blocking(move || open_stream(&path));
        tokio::select! {
            () = self.cancel.cancelled() => Err(Error::new(Kind::Cancelled, "stopped")),
            opened = opening => opened.unwrap_or_else(|e| {
                Err(Error::new(Kind::Internal, "opening the output").because(e))
            }).map(Some),
        }
    }

    async fn run_to_file(self, existing: Existing) -> Result<FetchedFile> {
        let begun = Instant::now();
        let remote = self.source.remote();
        let range = self.range(&remote)?;
        let checksums = self.all_checksums(range.as_ref());
        if self.is_here(&existing, &remote, range.as_ref())? {
            checksums.check_file(&self.path).await?;
            PartFile::clear_leftover(&self.path);
            return Ok(self.done(&remote, remote.len.unwrap_or(0), 0, begun, &checksums));
        }
        let plan = PartPlan {
            len: remote.len,
            range: range.clone(),
            validators: self.source.validators(),
            resume: self.getter.order.resume,
            overwrite: self.getter.order.overwrite,
        };
        let (part, have) = PartFile::open(&self.path, plan, self.getter.room.clone())?;
        self.found(&remote, range.as_ref(), have.len());
        let part = Arc::new(part);
        let (target, plan_range) = (Arc::<PartFile>::clone(&part), range.clone());
        let fetched = self.fetch(target, range, have, self.getter.order.effort).await;
        let part = Arc::try_unwrap(part).map_err(|_| {
            Error::new(Kind::Internal, format!("{} is still being written", self.path.display()))
        })?;
        match fetched {
            Ok((bytes, downloaded)) => {
                // The source may have changed since the first answer. The file was then fetched from the
                // start in its new version.
                let remote = self.source.remote();
                let checksums = self.all_checksums(plan_range.as_ref());
                part.finish(bytes, &checksums, remote.modified).await?;
                Ok(self.done(&remote, bytes, downloaded, begun, &checksums))
            }
            Err(e) => {
                part.close().await;
                Err(e)
            }
        }
    }

    /// Downloads to `sink`: from the first byte to the last, over one connection.
    pub(super) async fn run_to(self, sink: Sink) -> Result<FetchedFile> {
        let begun = Instant::now();
        let remote = self.source.remote();
        let range = self.range(&remote)?;
        let checksums = self.all_checksums(range.as_ref());
        let start = range.as_ref().map_or(0, |range| range.start);
        let target = Arc::new(PipeTarget::new(sink, start, remote.clone(), &checksums));
        self.found(&remote, range.as_ref(), 0);
        let effort = Effort {
            per_server: 1,
            split: 1,
            cut: Cut::InOrder(u64::MAX),
            ..self.getter.order.effort
        };
        let writer = Arc::<PipeTarget>::clone(&target);
        let (bytes, downloaded) = self.fetch(writer, range, RangeSet::new(), effort).await?;
        let target = Arc::into_inner(target)
            .ok_or_else(|| Error::new(Kind::Internal, "the output is still being written"))?;
        target.finish(&place(&remote.asked))?;
        Ok(self.done(&remote, bytes, downloaded, begun, &checksums))
    }

    /// The checksums to verify. Checksums are of whole files, so a range has none.
    fn all_checksums(&self, range: Option<&Range<u64>>) -> Checksums {
        match range {
            None => Checksums::new(self.checksums.clone().into_iter().chain(self.source.digests())),
            Some(_) => Checksums::default(),
        }
    }

    fn found(&self, remote: &Remote, range: Option<&Range<u64>>, stored: u64) {
        self.events.send(Event::Found(FoundFile {
            url: place(&remote.asked),
            path: self.path.display().to_string(),
            bytes: range.map(|r| r.end - r.start).or(remote.len),
            stored,
        }));
    }

    /// Fetches the missing bytes. Returns the length of the file and the number of bytes received.
    async fn fetch(
        &self,
        target: Arc<dyn Target>,
        range: Option<Range<u64>>,
        have: RangeSet,
        effort: Effort,
    ) -> Result<(u64, u64)> {
        let order = &self.getter.order;
        let limits = vec![Arc::clone(&self.getter.limit), RateLimit::new(order.limit_each)];
        let told = Told::new(&self.path, self.events);
        let sink = {
            let told = Arc::clone(&told);
            Box::new(move |snapshot| told.tell(snapshot))
        };
        let several = self.source.mirrors().len() > 1;
        let source = self.source.clone();
        let fetch = Fetch::new(source, target, range, &have, effort, limits, sink);
        let done = fetch.run(self.cancel).await;
        told.end(done.as_ref().err());
        let done = done.map_err(|e| match (e.kind(), e.hint_text()) {
            (Kind::Changed, None) if several => {
                e.hint("the mirrors have not the same file: leave out the one that is not it")
            }
            (Kind::Changed, None) if order.resume == Resume::Fresh => {
                e.hint("it changes while it is fetched: try again later")
            }
            (Kind::Changed, None) => e.hint("give --fresh to fetch it from the start"),
            _ => e,
        })?;
        Ok((done.len, done.received))
    }

    /// The requested range; `None` for the whole file.
    fn range(&self, remote: &Remote) -> Result<Option<Range<u64>>> {
        let Some((start, end)) = self.getter.order.range else { return Ok(None) };
        let bad = |why: String| {
            let text = format!("{}: {why}", place(&remote.asked));
            Error::new(Kind::InvalidInput, text)
        };
        let end = match (end, remote.len) {
            (Some(end), Some(len)) => end.min(len),
            (Some(end), None) => end,
            (None, Some(len)) => len,
            (None, None) => {
                return Err(
                    bad("its server does not tell how long it is: give --range-end".into()),
                );
            }
        };
        if start > end || remote.len.is_some_and(|len| start > len) {
            return Err(bad(format!("it ends before byte {start}")));
        }
        Ok(Some(start..end))
    }

    /// Whether an earlier run completed the file: its length and modification time match.
    ///
    /// # Errors
    /// `AlreadyExists` when there is a file that does not match, and it may not be overwritten.
    fn is_here(
        &self,
        existing: &Existing,
        remote: &Remote,
        range: Option<&Range<u64>>,
    ) -> Result<bool> {
        let found = match existing {
            Existing::File(found) if !self.getter.order.overwrite => found,
            _ => return Ok(false),
        };
        let same_time =
            remote.modified.is_some_and(|time| found.modified().is_ok_and(|t| close(t, time)));
        if range.is_none() && remote.len == Some(found.len()) && same_time {
            return Ok(true);
        }
        let text = format!("{} is there already, and may be something else", self.path.display());
        Err(Error::new(Kind::AlreadyExists, text)
            .hint("give --overwrite to put this in its place, or another name with -o"))
    }

    fn done(
        &self,
        remote: &Remote,
        bytes: u64,
        downloaded: u64,
        begun: Instant,
        checksums: &Checksums,
    ) -> FetchedFile {
        let file = FetchedFile {
            url: place(&remote.asked),
            path: self.path.display().to_string(),
            bytes,
            seconds: begun.elapsed().as_secs_f64(),
            downloaded,
            checked: checksums.list().iter().map(checksum::show).collect(),
        };
        self.events.send(Event::Fetched(file.clone()));
        file
    }
}

/// Compares modification times. File systems store them with a resolution of one or two seconds.
fn close(a: SystemTime, b: SystemTime) -> bool {
    let apart = a.duration_since(b).or_else(|_| b.duration_since(a)).unwrap_or_default();
    apart.as_secs() < 2
}

/// Reports the progress of a file.
struct Told {
    path: String,
    events: EventSink,
    begun: Instant,
    now: Mutex<Now>,
}

/// The last reported progress.
#[derive(Default)]
struct Now {
    state: State,
    speed: Rate,
    rate: u64,
    snapshot: Snapshot,
}

impl Told {
    fn new(path: &Path, events: &EventSink) -> Arc<Self> {
        let found = State::Queued.on(Input::Start).and_then(|state| state.on(Input::Found));
        let now = Now { state: found.unwrap_or_default(), ..Now::default() };
        let (path, events) = (path.display().to_string(), events.clone());
        Arc::new(Self { path, events, begun: Instant::now(), now: Mutex::new(now) })
    }

    fn tell(&self, snapshot: Snapshot) {
        let mut now = self.now.lock();
        now.rate = now.speed.sample(self.begun.elapsed().as_secs_f64(), snapshot.received);
        now.snapshot = snapshot;
        self.send(&now);
    }

    /// Reports the final state.
    fn end(&self, error: Option<&Error>) {
        let input = match error.map(Error::kind) {
            None => Input::Complete,
            Some(Kind::Cancelled) => Input::Pause,
            Some(_) => Input::Fail,
        };
        let mut now = self.now.lock();
        now.state = now.state.on(input).unwrap_or(now.state);
        self.send(&now);
    }

    fn send(&self, now: &Now) {
        let Now { state, rate, snapshot, .. } = now;
        let left = snapshot.len.map(|len| len.saturating_sub(snapshot.done));
        self.events.send(Event::Fetching(Fetching {
            path: self.path.clone(),
            bytes: snapshot.len,
            stored: snapshot.done,
            downloaded: snapshot.received,
            download_rate: *rate,
            connections: snapshot.connections,
            eta_seconds: left.and_then(|left| left.checked_div(*rate)),
            state: state.as_str(),
            map: snapshot.cells.iter().map(cell).collect(),
            trouble: snapshot.trouble.clone(),
        }));
    }
}

fn cell(cell: &Cell) -> char {
    match cell {
        Cell::Done => '=',
        Cell::Running => '>',
        Cell::Failed => '!',
        Cell::Left => '.',
    }
}
