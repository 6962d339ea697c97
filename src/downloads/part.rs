//! A local file during its download: `NAME.part` holds its bytes at their positions, `NAME.bae-part` the ranges
//! present.
//!
//! One thread per file writes, so that a slow disk does not block the sockets. The bytes that wait for it are bounded
//! over all files. The state is written after its bytes are flushed, so that ranges marked as done survive even a crash
//! of the machine. `NAME` appears by an atomic rename, when the file is complete and verified.
//!
//! A `NAME.part` without a `NAME.bae-part` belongs to another program and is left alone: bae writes the state before
//! the data.

use std::{
    fs::{File, TryLockError},
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::JoinHandle,
};

use super::{
    checksum::Checksums,
    existing::{is_own, open_own},
    part_state::{PartState, sibling},
    target::Target,
};
use crate::{
    backends::local::room_at,
    error::{Error, Kind, Result},
    protocols::{Remote, Validator},
    storage::RangeSet,
    units::ByteSize,
};

/// Capacity for bytes that wait to be written, shared by all files. Cheap to clone.
#[derive(Debug, Clone)]
pub struct WriteRoom(Arc<Semaphore>);

/// Bytes per permit, since a request for permits is limited to a `u32`.
const UNIT: usize = 1024;

impl WriteRoom {
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new((bytes / UNIT).max(1))))
    }
}

/// How far the data of an interrupted download is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Resume {
    /// Resume if the server proves that the file is the same.
    #[default]
    Proven,
    /// Resume also if the length matches and the server sends nothing else to compare.
    Trusting,
    /// Start over.
    Fresh,
}

/// What to write to a file.
#[derive(Debug, Clone)]
pub struct PartPlan {
    /// Length at the server in bytes, if reported.
    pub len: Option<u64>,
    /// The wanted range. The file starts with the first byte of it. `None` is everything.
    pub range: Option<Range<u64>>,
    pub validators: Vec<Validator>,
    pub resume: Resume,
    /// Whether an existing file of this name is replaced.
    pub overwrite: bool,
}

/// A file being written, locked against other processes until dropped.
#[derive(Debug)]
pub struct PartFile {
    paths: Paths,
    file: Arc<File>,
    state: Mutex<PartState>,
    overwrite: bool,
    written: Arc<Mutex<RangeSet>>,
    /// The error of the writing thread, until it is returned.
    failed: Arc<Mutex<Option<Error>>>,
    queue: mpsc::UnboundedSender<Order>,
    writer: JoinHandle<()>,
    room: WriteRoom,
}

#[derive(Debug, Clone)]
struct Paths {
    /// The final path.
    path: PathBuf,
    data: PathBuf,
    state: PathBuf,
}

/// The paths of the data and the state of a download to `path`.
pub fn beside_it(path: &Path) -> impl Iterator<Item = PathBuf> {
    let Paths { data, state, .. } = Paths::of(path);
    [data, state].into_iter()
}

impl Paths {
    fn of(path: &Path) -> Self {
        let (data, state) = (sibling(path, ".part"), sibling(path, ".bae-part"));
        Self { path: path.to_owned(), data, state }
    }
}

impl Paths {
    /// Whether an earlier download of this file left data.
    ///
    /// # Errors
    /// `AlreadyExists` when something that is not ours has one of the names.
    fn begun(&self) -> Result<bool> {
        let (state, data) = (is_own(&self.state)?, is_own(&self.data)?);
        if data && !state {
            let text =
                format!("{} is there already, and was not begun by bae", self.data.display());
            return Err(Error::new(Kind::AlreadyExists, text)
                .hint("move it away, or choose another name with -o"));
        }
        Ok(data)
    }

    /// The ranges of an earlier download that can be reused, when its data has `here` bytes.
    fn done(&self, plan: &PartPlan, here: u64) -> Result<RangeSet> {
        let base = plan.range.as_ref().map_or(0, |range| range.start);
        match PartState::read(&self.state)? {
            Some(kept) if here > 0 => Ok(usable(&kept, plan, &self.path)?
                .within(base..base.saturating_add(here))
                .collect()),
            _ => Ok(RangeSet::new()),
        }
    }
}

/// Gives a file its final name. Without `overwrite`, a file that got the name meanwhile is not replaced, where the file
/// system supports that.
fn take_name(data: &Path, path: &Path, overwrite: bool) -> Result<()> {
    let place = |e: io::Error| Error::io(format!("cannot write {}", path.display()), e);
    let taken = |why: &str| {
        let text = format!("{} {why}: what was fetched is {}", path.display(), data.display());
        Error::new(Kind::AlreadyExists, text)
    };
    if !overwrite {
        return match renameat_with(CWD, data, CWD, path, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => Err(taken("is there by now")
                .hint("give --overwrite to put this in its place, or another name with -o")),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                std::fs::rename(data, path).map_err(place)
            }
            Err(e) => Err(place(e.into())),
        };
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() && !found.is_symlink() => Err(taken("is no file any more")),
        _ => std::fs::rename(data, path).map_err(place),
    }
}

enum Order {
    Write(u64, Vec<Bytes>, OwnedSemaphorePermit),
    /// Answered when all writes before it are done.
    Reached(oneshot::Sender<()>),
}

impl PartFile {
    /// Opens the partial download of the file at `path`, or creates it. Also returns the ranges present, as positions
    /// at the server.
    ///
    /// # Errors
    /// `Changed` when the partial download is of another version; `AlreadyExists` when it is not ours; `Unavailable`
    /// when another process downloads it; `NoSpace` when the file does not fit; I/O errors.
    pub fn open(path: &Path, plan: PartPlan, room: WriteRoom) -> Result<(Self, RangeSet)> {
        let paths = Paths::of(path);
        let place = |path: &Path, e| Error::io(format!("cannot write {}", path.display()), e);
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            std::fs::create_dir_all(dir).map_err(|e| place(dir, e))?;
        }
        let (file, done) = if paths.begun()? {
            let file = open_own(&paths.data)?;
            lock(&file, path)?;
            let here = file.metadata().map_err(|e| place(&paths.data, e))?.len();
            (Some(file), paths.done(&plan, here)?)
        } else {
            (None, RangeSet::new())
        };
        let wanted = plan.range.clone().or_else(|| plan.len.map(|len| 0..len));
        if let Some(wanted) = &wanted {
            check_room(path, wanted.end - wanted.start - done.len())?;
        }
        let base = plan.range.as_ref().map_or(0, |range| range.start);
        let state = PartState::new(plan.len, plan.range, plan.validators);
        if done.is_empty() {
            // Before the data, so that after a crash the data is recognised as ours, and ranges of earlier data do not
            // count as done.
            state.write(&paths.state)?;
        }
        let file = match file {
            Some(file) => file,
            None => {
                let file = open_own(&paths.data)?;
                lock(&file, path)?;
                file
            }
        };
        if done.is_empty() {
            file.set_len(0).map_err(|e| place(&paths.data, e))?;
        }
        let state = Mutex::new(state);
        let (file, failed) = (Arc::new(file), Arc::default());
        let written = Arc::new(Mutex::new(done.clone()));
        let writer = Writer {
            file: Arc::clone(&file),
            base,
            written: Arc::clone(&written),
            failed: Arc::clone(&failed),
            path: paths.data.clone(),
        };
        let (queue, orders) = mpsc::unbounded_channel();
        let writer = tokio::task::spawn_blocking(move || writer.run(orders));
        let overwrite = plan.overwrite;
        Ok((Self { paths, file, state, overwrite, written, failed, queue, writer, room }, done))
    }

    /// Removes the state of a complete file at `path`, left by a crash between the rename and the removal of the state.
    pub fn clear_leftover(path: &Path) {
        let Paths { data, state, .. } = Paths::of(path);
        if !data.exists() && is_own(&state).unwrap_or(false) {
            // Ignored: a leftover state does no harm.
            let _ = std::fs::remove_file(state);
        }
    }

    /// Closes the file so that a later download can resume it. The lock is released when this returns. Data and state
    /// are removed when nothing was written.
    pub async fn close(self) {
        let Self { paths, queue, writer, written, .. } = self;
        drop(queue);
        // A panic of the writer was already reported by the panic hook.
        let _ = writer.await;
        if written.lock().is_empty() {
            // Still under the lock. Ignored: leftover files do no harm.
            let _ = std::fs::remove_file(&paths.data);
            let _ = std::fs::remove_file(&paths.state);
        }
    }

    /// Gives the file its final name after all bytes are written and match `checksums`. Sets its modification time to
    /// `modified`.
    ///
    /// # Errors
    /// `Corrupt` when a checksum does not match; the next download then starts over. `AlreadyExists` when another file
    /// got the name meanwhile. I/O errors.
    pub async fn finish(
        self,
        len: u64,
        checksums: &Checksums,
        modified: Option<SystemTime>,
    ) -> Result<()> {
        self.all_written().await?;
        let Self { paths, file, state, overwrite, queue, writer, .. } = self;
        // The writer holds the file, and so its lock.
        drop(queue);
        let _ = writer.await;
        if let Err(e) = checksums.check_file(&paths.data).await {
            // The bytes stay for inspection; the next run starts over.
            state.lock().with_done(&RangeSet::new()).write(&paths.state)?;
            return Err(e.within(paths.path.display()));
        }
        let work = move || {
            let Paths { path, data, state } = &paths;
            let place = |e| Error::io(format!("cannot write {}", path.display()), e);
            file.set_len(len).map_err(place)?;
            if let Some(time) = modified {
                file.set_modified(time).map_err(place)?;
            }
            file.sync_all().map_err(place)?;
            take_name(data, path, overwrite)?;
            // Ignored: the next download of this name discards a state without data.
            let _ = std::fs::remove_file(state);
            Ok(())
        };
        blocking(work).await
    }

    async fn all_written(&self) -> Result<()> {
        let (tx, rx) = oneshot::channel();
        if self.queue.send(Order::Reached(tx)).is_ok() {
            // A writer that has ended has left its error.
            let _ = rx.await;
        }
        self.check()
    }

    fn check(&self) -> Result<()> {
        match self.failed.lock().take() {
            Some(error) => Err(error),
            None if self.queue.is_closed() => {
                let text =
                    format!("cannot write {}: writing has failed", self.paths.data.display());
                Err(Error::new(Kind::Internal, text))
            }
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Target for PartFile {
    async fn room(&self) -> Result<()> {
        self.check()
    }

    async fn write(&self, pos: u64, parts: Vec<Bytes>) -> Result<()> {
        self.check()?;
        let len: usize = parts.iter().map(Bytes::len).sum();
        let units = u32::try_from(len.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.room.0).acquire_many_owned(units).await;
        let permit = permit.map_err(|e| Error::new(Kind::Internal, "room to write").because(e))?;
        // If the writer has ended, the next check returns its error.
        let _ = self.queue.send(Order::Write(pos, parts, permit));
        Ok(())
    }

    async fn checkpoint(&self) -> Result<()> {
        self.all_written().await?;
        let (file, written) = (Arc::clone(&self.file), self.written.lock().clone());
        let state = self.state.lock().with_done(&written);
        let Paths { data, state: path, .. } = self.paths.clone();
        blocking(move || {
            let place = |e| Error::io(format!("cannot write {}", data.display()), e);
            file.sync_data().map_err(place)?;
            state.write(&path)
        })
        .await
    }

    async fn restart(&self, now: &Remote) -> Result<()> {
        self.all_written().await?;
        let state = {
            let mut state = self.state.lock();
            state.is_of(now.len, now.validator.as_ref());
            state.with_done(&RangeSet::new())
        };
        *self.written.lock() = RangeSet::new();
        let file = Arc::clone(&self.file);
        let Paths { data, state: path, .. } = self.paths.clone();
        blocking(move || {
            // Before the data, so that after a crash the ranges of the earlier data do not count as done.
            state.write(&path)?;
            let place = |e| Error::io(format!("cannot write {}", data.display()), e);
            file.set_len(0).map_err(place)
        })
        .await
    }
}

/// The ranges of an earlier download that can be reused.
fn usable(kept: &PartState, plan: &PartPlan, path: &Path) -> Result<RangeSet> {
    if plan.resume == Resume::Fresh || kept.done().is_empty() {
        return Ok(RangeSet::new());
    }
    let changed = |what: &str| {
        let text = format!("{}: {what} since its download was begun", path.display());
        Error::new(Kind::Changed, text).hint("give --fresh to fetch it from the start")
    };
    if kept.len != plan.len {
        return Err(changed("the file at the server has another length"));
    }
    if kept.range != plan.range.as_ref().map(|range| (range.start, range.end)) {
        return Err(changed("another part of the file is wanted"));
    }
    if kept.validators.is_empty() || plan.validators.is_empty() {
        if plan.resume == Resume::Trusting && plan.len.is_some() {
            return Ok(kept.done());
        }
        tracing::warn!(
            "{}: the server does not tell whether it is still the same file: fetching it from the start (-c goes on by its length alone)",
            path.display()
        );
        return Ok(RangeSet::new());
    }
    if plan.validators.iter().any(|validator| kept.validators.contains(validator)) {
        return Ok(kept.done());
    }
    Err(changed("the file at the server has changed"))
}

fn lock(file: &File, path: &Path) -> Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let text = format!("{} is being fetched by another bae", path.display());
            Err(Error::new(Kind::Unavailable, text))
        }
        Err(TryLockError::Error(e)) => Err(Error::io(format!("cannot lock {}", path.display()), e)),
    }
}

fn check_room(path: &Path, needed: u64) -> Result<()> {
    let folder = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let room = room_at(folder.unwrap_or(Path::new(".")))?;
    if room >= needed {
        return Ok(());
    }
    let (room, needed) = (ByteSize(room), ByteSize(needed));
    let text = format!("{}: its disk has room for {room}, this needs {needed}", path.display());
    Err(Error::new(Kind::NoSpace, text).hint("free some room, or choose another disk with -d"))
}

/// The thread that writes one file.
struct Writer {
    file: Arc<File>,
    base: u64,
    written: Arc<Mutex<RangeSet>>,
    failed: Arc<Mutex<Option<Error>>>,
    path: PathBuf,
}

impl Writer {
    fn run(self, mut orders: mpsc::UnboundedReceiver<Order>) {
        while let Some(order) = orders.blocking_recv() {
            match order {
                Order::Write(pos, parts, permit) => {
                    if let Err(e) = self.write(pos, &parts) {
                        let text = format!("cannot write {}", self.path.display());
                        *self.failed.lock() = Some(Error::io(text, e));
                        return;
                    }
                    drop(permit);
                }
                // Ignored: the receiver may be gone.
                Order::Reached(answer) => drop(answer.send(())),
            }
        }
    }

    fn write(&self, pos: u64, parts: &[Bytes]) -> std::io::Result<()> {
        let mut at = pos;
        for part in parts {
            self.file.write_all_at(part, at - self.base)?;
            at += part.len() as u64;
        }
        self.written.lock().insert(pos..at);
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| Err(Error::new(Kind::Internal, "file work did not finish").because(e)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(etag: &str, resume: Resume) -> PartPlan {
        let validators = match etag {
            "" => Vec::new(),
            tag => vec![Validator::ETag(tag.to_owned())],
        };
        PartPlan { len: Some(10), range: None, validators, resume, overwrite: false }
    }

    fn open(path: &Path, etag: &str, resume: Resume) -> Result<(PartFile, RangeSet)> {
        PartFile::open(path, plan(etag, resume), WriteRoom::new(1 << 20))
    }

    async fn half(path: &Path, etag: &str) {
        let (part, _) = open(path, etag, Resume::Proven).unwrap();
        part.write(5, vec![Bytes::from_static(b"56"), Bytes::from_static(b"789")]).await.unwrap();
        part.checkpoint().await.unwrap();
        part.close().await;
    }

    #[tokio::test]
    async fn a_file_appears_under_its_name_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        half(&path, "\"a\"").await;
        assert!(!path.exists());
        let (part, done) = open(&path, "\"a\"", Resume::Proven).unwrap();
        assert_eq!(done, RangeSet::from(5..10));
        let busy = open(&path, "\"a\"", Resume::Proven).unwrap_err();
        assert_eq!(busy.kind(), Kind::Unavailable);
        part.write(0, vec![Bytes::from_static(b"01234")]).await.unwrap();
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        part.finish(10, &Checksums::default(), Some(time)).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"0123456789");
        assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), time);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        std::fs::write(dir.path().join("f.bae-part"), "left by a crash").unwrap();
        PartFile::clear_leftover(&path);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn only_what_is_proven_to_be_the_same_file_is_gone_on_with() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        half(&path, "\"a\"").await;
        let other = open(&path, "\"b\"", Resume::Proven).unwrap_err();
        assert_eq!(other.kind(), Kind::Changed);
        assert!(other.hint_text().unwrap().contains("--fresh"));
        let (part, done) = open(&path, "", Resume::Trusting).unwrap();
        assert_eq!(done, RangeSet::from(5..10));
        part.close().await;
        let (part, done) = open(&path, "\"b\"", Resume::Fresh).unwrap();
        assert!(done.is_empty());
        part.close().await;
        half(&path, "").await;
        let (_part, done) = open(&path, "", Resume::Proven).unwrap();
        assert!(done.is_empty(), "nothing tells that it is the same");
    }

    #[tokio::test]
    async fn a_kill_after_a_new_start_leaves_no_range_of_what_was_there_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let kept = || PartState::read(&Paths::of(&path).state).unwrap().unwrap();
        half(&path, "\"a\"").await;
        assert_eq!(kept().done(), RangeSet::from(5..10));
        let (part, _) = open(&path, "\"a\"", Resume::Proven).unwrap();
        let validator = Some(Validator::ETag("\"b\"".into()));
        let now = Remote { validator, ..Remote::at("http://x/f".parse().unwrap()) };
        part.restart(&now).await.unwrap();
        assert!(kept().done().is_empty());
        assert_eq!(kept().validators, [Validator::ETag("\"b\"".into())]);
        part.close().await;
        half(&path, "\"a\"").await;
        let (_part, _) = open(&path, "\"b\"", Resume::Fresh).unwrap();
        assert!(kept().done().is_empty());
    }

    #[tokio::test]
    async fn a_wrong_checksum_leaves_nothing_to_go_on_with() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        half(&path, "\"a\"").await;
        let (part, _) = open(&path, "\"a\"", Resume::Proven).unwrap();
        let wrong = super::super::checksum::parse("md5=900150983cd24fb0d6963f7d28e17f72").unwrap();
        let e = part.finish(10, &Checksums::new([wrong]), None).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Corrupt);
        assert!(!path.exists());
        assert!(sibling(&path, ".part").exists(), "it can be looked at");
        let (part, done) = open(&path, "\"b\"", Resume::Proven).unwrap();
        assert!(done.is_empty(), "whatever version is there now is fetched from its start");
        part.close().await;
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing came of it");
    }

    #[tokio::test]
    async fn what_is_not_ours_is_never_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("f"), dir.path().join("victim"));
        std::fs::write(&victim, "precious").unwrap();
        for suffix in [".part", ".bae-part"] {
            let at = sibling(&path, suffix);
            std::os::unix::fs::symlink(&victim, &at).unwrap();
            let error = open(&path, "\"a\"", Resume::Fresh).unwrap_err();
            assert_eq!(error.kind(), Kind::AlreadyExists, "{}", error.report());
            assert!(error.report().contains(suffix), "{}", error.report());
            std::fs::remove_file(&at).unwrap();
        }
        std::fs::write(sibling(&path, ".part"), "half of something").unwrap();
        let error = open(&path, "\"a\"", Resume::Fresh).unwrap_err();
        assert_eq!(error.kind(), Kind::AlreadyExists, "{}", error.report());
        assert_eq!(std::fs::read(sibling(&path, ".part")).unwrap(), b"half of something");
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn a_file_that_came_meanwhile_is_not_replaced_unasked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        half(&path, "\"a\"").await;
        let (part, _) = open(&path, "\"a\"", Resume::Proven).unwrap();
        std::fs::write(&path, "somebody else's").unwrap();
        let error = part.finish(10, &Checksums::default(), None).await.unwrap_err();
        assert_eq!(error.kind(), Kind::AlreadyExists, "{}", error.report());
        assert_eq!(std::fs::read(&path).unwrap(), b"somebody else's");
        let plan = PartPlan { overwrite: true, ..plan("\"a\"", Resume::Proven) };
        let (part, done) = PartFile::open(&path, plan, WriteRoom::new(1 << 20)).unwrap();
        assert_eq!(done, RangeSet::from(5..10));
        part.finish(10, &Checksums::default(), None).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 10);
    }
}
