//! Downloads one file of `get`.
//!
//! [`FileJob::run`] looks at the local path first: a pipe or device is written in order by [`FileJob::run_to_sink`];
//! any other file is fetched into a [`PartialFile`], verified, and renamed when it is complete.

use std::{
    fs::{File, Permissions},
    io::Write,
    ops::Range,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Instant, SystemTime},
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::Getter;
use crate::{
    downloads::{
        Checksums, DownloadSource, DownloadState, FetchLimits, FileDownload, PartialFile,
        PartialFileOptions, PathKind, PipeTarget, ResumePolicy, Sink, Snapshot, Target, checksum,
        open_stream,
        range_scheduler::{Cell, SplitStrategy},
        state::DownloadInput,
    },
    error::{Error, Kind, Result},
    events::{Event, EventSink, FetchedFile, Fetching, FoundFile},
    hints::{Hint, Setting, hint},
    protocols::{Digest, RemoteFile, display_url},
    rate::{Rate, RateLimit},
    storage::RangeSet,
    units::ByteSize,
};

/// A file to download, with its source, local path and checksums.
pub(super) struct FileJob<'a> {
    pub(in crate::engine) getter: &'a Getter,
    pub(in crate::engine) source: DownloadSource,
    pub(in crate::engine) path: PathBuf,
    pub(in crate::engine) checksums: Vec<Digest>,
    pub(in crate::engine) events: &'a EventSink,
    pub(in crate::engine) cancel: &'a CancellationToken,
}

impl FileJob<'_> {
    /// Downloads to the local path, and reports a failure. `None` when the same file is already downloaded in this run.
    pub(in crate::engine) async fn run(self) -> Result<Option<FetchedFile>> {
        let (events, path) = (self.events, self.path.clone());
        self.download().await.inspect_err(|e| events.file_failed(Some(&path), e))
    }

    async fn download(self) -> Result<Option<FetchedFile>> {
        let existing = PathKind::at(&self.path)?;
        let stream = self.open_stream_target(&existing).await?;
        let url = self.source.remote().requested_url;
        // Pipes and devices, like /dev/null, may be named any number of times.
        if stream.is_none() && !self.getter.claims.claim(&self.path, &url, &self.checksums)? {
            tracing::info!("{} is listed twice: it is downloaded once", display_url(&url));
            return Ok(None);
        }
        match stream {
            Some(mut file) => {
                let sink = Box::new(move |bytes: &[u8]| file.write_all(bytes));
                self.run_to_sink(sink).await.map(Some)
            }
            None => self.run_to_file(existing).await.map(Some),
        }
    }

    /// Refuses to start a recording over one that was interrupted: its bytes cannot be fetched again.
    fn check_earlier_recording(&self) -> Result<()> {
        let is_live = self.source.stream().is_some_and(|stream| stream.is_live());
        if !is_live || self.getter.options.resume == ResumePolicy::Never {
            return Ok(());
        }
        let Some((data, len)) = PartialFile::leftover_data(&self.path)? else { return Ok(()) };
        let (data, len) = (data.display(), ByteSize(len));
        let text =
            format!("{data} has {len} of an interrupted recording, which cannot be continued");
        Err(Error::new(Kind::AlreadyExists, text).hint(hint![
            "rename it to keep it, or give ",
            Setting::Fresh,
            " to discard it",
        ]))
    }

    /// The error of a stream from which segments are missing. The file itself is complete by then, and keeps its name.
    fn check_stream(&self, file: FetchedFile) -> Result<FetchedFile> {
        let summary = self.source.stream().map(|stream| stream.summary());
        match summary.and_then(|summary| summary.error(&self.path.display().to_string())) {
            Some(error) => Err(error),
            None => Ok(file),
        }
    }

    /// Opens the path for writing if it is a pipe or device. `None` if it is a file to create or replace.
    async fn open_stream_target(&self, existing: &PathKind) -> Result<Option<File>> {
        let path = self.path.display();
        let refuse = |what: &str, hint: Hint| {
            Err(Error::new(Kind::AlreadyExists, format!("{path} is {what}")).hint(hint))
        };
        match existing {
            PathKind::Missing | PathKind::File(_) => return Ok(None),
            PathKind::DanglingLink if self.getter.options.overwrite => return Ok(None),
            PathKind::BlockDevice if !self.getter.options.overwrite => {
                let hint = hint!["give ", Setting::Overwrite, " to overwrite its content"];
                return refuse("a block device", hint);
            }
            PathKind::Stream | PathKind::BlockDevice => {}
            PathKind::Folder => {
                let text = format!("{path} is a folder");
                return Err(Error::new(Kind::InvalidInput, text).hint(hint![
                    "name a target folder with ",
                    Setting::OutFolder,
                    ", or a target file with ",
                    Setting::OutName,
                ]));
            }
            PathKind::DanglingLink => {
                return refuse("a dangling symbolic link", overwrite_hint());
            }
            PathKind::Socket => {
                return refuse("a socket", hint!["give another name with ", Setting::OutName]);
            }
        }
        let path = self.path.clone();
        // Opening a pipe blocks until it has a reader.
        let opening = tokio::task::spawn_blocking(move || open_stream(&path));
        tokio::select! {
            () = self.cancel.cancelled() => Err(Error::new(Kind::Cancelled, "stopped")),
            opened = opening => opened.unwrap_or_else(|e| {
                Err(Error::new(Kind::Internal, "opening the output panicked").because(e))
            }).map(Some),
        }
    }

    async fn run_to_file(self, existing: PathKind) -> Result<FetchedFile> {
        let started_at = Instant::now();
        let remote = self.source.remote();
        let range = self.range(&remote)?;
        let checksums = self.all_checksums(range.as_ref());
        if self.is_complete(&existing, &remote, range.as_ref())? {
            checksums.verify_file(&self.path).await?;
            PartialFile::clear_leftover(&self.path);
            return Ok(self.report_done(
                &remote,
                remote.len.unwrap_or(0),
                0,
                started_at,
                &checksums,
            ));
        }
        self.check_earlier_recording()?;
        let plan = PartialFileOptions {
            len: remote.len,
            range: range.clone(),
            validators: self.source.validators(),
            resume: self.getter.options.resume,
            overwrite: self.getter.options.overwrite,
        };
        let (part, have) = PartialFile::open(&self.path, plan, self.getter.memory.clone())?;
        self.report_found(&remote, range.as_ref(), have.len());
        let part = Arc::new(part);
        let (target, plan_range) = (Arc::<PartialFile>::clone(&part), range.clone());
        let fetched = self.fetch(target, range, have, self.getter.options.fetch_limits).await;
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
                set_mode(&self.path, remote.mode)?;
                let file = self.report_done(&remote, bytes, downloaded, started_at, &checksums);
                self.check_stream(file)
            }
            Err(e) => {
                part.close().await;
                Err(e)
            }
        }
    }

    /// Downloads to `sink`: from the first byte to the last, over one connection.
    pub(super) async fn run_to_sink(self, sink: Sink) -> Result<FetchedFile> {
        let started_at = Instant::now();
        let remote = self.source.remote();
        let range = self.range(&remote)?;
        let checksums = self.all_checksums(range.as_ref());
        let start = range.as_ref().map_or(0, |range| range.start);
        let memory = self.getter.memory.clone();
        let target = PipeTarget::new(sink, start, remote.clone(), &checksums, memory);
        let target = Arc::new(target);
        self.report_found(&remote, range.as_ref(), 0);
        let fetch_limits = FetchLimits {
            per_server: 1,
            per_file: 1,
            strategy: SplitStrategy::InOrder(u64::MAX),
            ..self.getter.options.fetch_limits
        };
        let writer = Arc::<PipeTarget>::clone(&target);
        let (bytes, downloaded) = self.fetch(writer, range, RangeSet::new(), fetch_limits).await?;
        let target = Arc::into_inner(target)
            .ok_or_else(|| Error::new(Kind::Internal, "the output is still being written"))?;
        target.finish(&display_url(&remote.requested_url))?;
        let file = self.report_done(&remote, bytes, downloaded, started_at, &checksums);
        self.check_stream(file)
    }

    /// The checksums to verify. Checksums are of whole files, so a range has none.
    fn all_checksums(&self, range: Option<&Range<u64>>) -> Checksums {
        match range {
            None => Checksums::new(self.checksums.clone().into_iter().chain(self.source.digests())),
            Some(_) => Checksums::default(),
        }
    }

    fn report_found(&self, remote: &RemoteFile, range: Option<&Range<u64>>, stored: u64) {
        self.events.send(Event::Found(FoundFile {
            url: display_url(&remote.requested_url),
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
        fetch_limits: FetchLimits,
    ) -> Result<(u64, u64)> {
        let options = &self.getter.options;
        let limits = vec![Arc::clone(&self.getter.limit), RateLimit::new(options.limit_each)];
        let progress = FileProgress::new(&self.path, self.events);
        let sink = {
            let progress = Arc::clone(&progress);
            Box::new(move |snapshot| progress.update(snapshot))
        };
        let has_mirrors = self.source.mirrors().len() > 1;
        let source = self.source.clone();
        let fetch = FileDownload::new(source, target, range, &have, fetch_limits, limits, sink);
        let done = fetch.run(self.cancel).await;
        progress.end(done.as_ref().err());
        let done = done.map_err(|e| match (e.kind(), e.typed_hint()) {
            (Kind::Changed, None) if has_mirrors => {
                e.hint("the mirrors have different files: remove the wrong one")
            }
            (Kind::Changed, None) if options.resume == ResumePolicy::Never => {
                e.hint("the file changes during the download: try again later")
            }
            (Kind::Changed, None) => {
                e.hint(hint!["give ", Setting::Fresh, " to download it from the start"])
            }
            _ => e,
        })?;
        Ok((done.len, done.received))
    }

    /// The requested range; `None` for the whole file.
    fn range(&self, remote: &RemoteFile) -> Result<Option<Range<u64>>> {
        let Some((start, end)) = self.getter.options.range else { return Ok(None) };
        let invalid = |reason: String| {
            let text = format!("{}: {reason}", display_url(&remote.requested_url));
            Error::new(Kind::InvalidInput, text)
        };
        let end = match (end, remote.len) {
            (Some(end), Some(len)) => end.min(len),
            (Some(end), None) => end,
            (None, Some(len)) => len,
            (None, None) => {
                return Err(invalid("the server does not report the length".into())
                    .hint(hint!["give ", Setting::RangeEnd]));
            }
        };
        if start > end || remote.len.is_some_and(|len| start > len) {
            return Err(invalid(format!("the file ends before byte {start}")));
        }
        Ok(Some(start..end))
    }

    /// Whether an earlier run completed the file: its length and modification time match.
    ///
    /// # Errors
    /// `AlreadyExists` when there is a file that does not match, and it may not be overwritten.
    fn is_complete(
        &self,
        existing: &PathKind,
        remote: &RemoteFile,
        range: Option<&Range<u64>>,
    ) -> Result<bool> {
        let found = match existing {
            PathKind::File(found) if !self.getter.options.overwrite => found,
            _ => return Ok(false),
        };
        let same_time = remote
            .modified
            .is_some_and(|time| found.modified().is_ok_and(|t| is_same_time(t, time)));
        if range.is_none() && remote.len == Some(found.len()) && same_time {
            return Ok(true);
        }
        let text = format!("{} exists already and may be another file", self.path.display());
        Err(Error::new(Kind::AlreadyExists, text).hint(overwrite_hint()))
    }

    fn report_done(
        &self,
        remote: &RemoteFile,
        bytes: u64,
        downloaded: u64,
        started_at: Instant,
        checksums: &Checksums,
    ) -> FetchedFile {
        let summary = self.source.stream().map(|stream| stream.summary()).unwrap_or_default();
        let file = FetchedFile {
            url: display_url(&remote.requested_url),
            path: self.path.display().to_string(),
            bytes,
            seconds: started_at.elapsed().as_secs_f64(),
            downloaded,
            checked: checksums.list().iter().map(checksum::to_text).collect(),
            skipped: summary.skipped,
            lost: summary.lost,
            gaps: summary.gaps,
        };
        self.events.send(Event::Fetched(file.clone()));
        file
    }
}

fn overwrite_hint() -> Hint {
    hint!["give ", Setting::Overwrite, " to replace it, or another name with ", Setting::OutName,]
}

/// Sets the permission bits that the owner of a file chose, as far as they are safe: the user may read and write the
/// file, and no other user may write it.
fn set_mode(path: &Path, mode: Option<u32>) -> Result<()> {
    let Some(mode) = mode else { return Ok(()) };
    let permissions = Permissions::from_mode(mode & 0o755 | 0o600);
    let context = |e| Error::io(format!("cannot set the mode of {}", path.display()), e);
    std::fs::set_permissions(path, permissions).map_err(context)
}

/// Compares modification times. File systems store them with a resolution of one or two seconds.
fn is_same_time(a: SystemTime, b: SystemTime) -> bool {
    let apart = a.duration_since(b).or_else(|_| b.duration_since(a)).unwrap_or_default();
    apart.as_secs() < 2
}

/// Reports the progress of a file.
struct FileProgress {
    path: String,
    events: EventSink,
    started_at: Instant,
    last: Mutex<LastReport>,
}

/// The last reported progress.
#[derive(Default)]
struct LastReport {
    state: DownloadState,
    speed: Rate,
    rate: u64,
    snapshot: Snapshot,
}

impl FileProgress {
    fn new(path: &Path, events: &EventSink) -> Arc<Self> {
        let found = DownloadState::Queued
            .on(DownloadInput::Start)
            .and_then(|state| state.on(DownloadInput::Found));
        let last = LastReport { state: found.unwrap_or_default(), ..LastReport::default() };
        let (path, events) = (path.display().to_string(), events.clone());
        Arc::new(Self { path, events, started_at: Instant::now(), last: Mutex::new(last) })
    }

    fn update(&self, snapshot: Snapshot) {
        let mut last = self.last.lock();
        last.rate = last.speed.sample(self.started_at.elapsed().as_secs_f64(), snapshot.received);
        last.snapshot = snapshot;
        self.send(&last);
    }

    /// Reports the final state.
    fn end(&self, error: Option<&Error>) {
        let input = match error.map(Error::kind) {
            None => DownloadInput::Complete,
            Some(Kind::Cancelled) => DownloadInput::Pause,
            Some(_) => DownloadInput::Fail,
        };
        let mut last = self.last.lock();
        last.state = last.state.on(input).unwrap_or(last.state);
        self.send(&last);
    }

    fn send(&self, last: &LastReport) {
        let LastReport { state, rate, snapshot, .. } = last;
        let left = snapshot.len.map(|len| len.saturating_sub(snapshot.done));
        self.events.send(Event::Fetching(Fetching {
            path: self.path.clone(),
            bytes: snapshot.len,
            stored: snapshot.done,
            downloaded: snapshot.received,
            download_rate: *rate,
            connections: snapshot.connections,
            eta_seconds: left.and_then(|left| left.checked_div(*rate)),
            state: *state,
            map: snapshot.cells.iter().map(cell_char).collect(),
            trouble: snapshot.trouble.clone(),
        }));
    }
}

fn cell_char(cell: &Cell) -> char {
    match cell {
        Cell::Done => '=',
        Cell::Running => '>',
        Cell::Failed => '!',
        Cell::Missing => '.',
    }
}
