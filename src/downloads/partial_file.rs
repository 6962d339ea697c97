//! A local file during its download: `NAME.part` holds its bytes at their positions, `NAME.bae-part` the ranges
//! present.
//!
//! One thread per file writes, so that a slow disk does not block the sockets. The bytes that wait for it count against
//! the memory budget. The state is written after its bytes are flushed, so that ranges marked as done survive even a crash
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
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::{
    checksum::Checksums,
    path_kind::{open_regular_file, regular_file_exists},
    resume_state::{ResumeState, with_suffix},
    target::Target,
};
use crate::{
    backends::local::free_space_at,
    error::{Error, Kind, Result},
    hints::{Setting, hint},
    memory::Budget,
    protocols::{RemoteFile, Validator},
    storage::RangeSet,
    units::ByteSize,
};

/// How far the data of an interrupted download is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResumePolicy {
    /// Resume if the server proves that the file is the same.
    #[default]
    IfProven,
    /// Resume also if the length matches and the server sends nothing else to compare.
    IfSameLength,
    /// Start over.
    Never,
}

/// What to write to a file.
#[derive(Debug, Clone)]
pub struct PartialFileOptions {
    /// Length at the server in bytes, if reported.
    pub len: Option<u64>,
    /// The wanted range. The file starts with the first byte of it. `None` is everything.
    pub range: Option<Range<u64>>,
    pub validators: Vec<Validator>,
    pub resume: ResumePolicy,
    /// Whether an existing file of this name is replaced.
    pub overwrite: bool,
}

/// A file being written, locked against other processes until dropped.
#[derive(Debug)]
pub struct PartialFile {
    paths: Paths,
    file: Arc<File>,
    state: Mutex<ResumeState>,
    overwrite: bool,
    written: Arc<Mutex<RangeSet>>,
    /// The error of the writing thread, until it is returned.
    failed: Arc<Mutex<Option<Error>>>,
    queue: mpsc::UnboundedSender<WriterCommand>,
    writer: JoinHandle<()>,
    memory: Budget,
}

#[derive(Debug, Clone)]
struct Paths {
    /// The final path.
    path: PathBuf,
    data: PathBuf,
    state: PathBuf,
}

/// The paths of the data and the state of a download to `path`.
pub fn partial_paths(path: &Path) -> impl Iterator<Item = PathBuf> {
    let Paths { data, state, .. } = Paths::of(path);
    [data, state].into_iter()
}

impl Paths {
    fn of(path: &Path) -> Self {
        let (data, state) = (with_suffix(path, ".part"), with_suffix(path, ".bae-part"));
        Self { path: path.to_owned(), data, state }
    }
}

impl Paths {
    /// Whether an earlier download of this file left data.
    ///
    /// # Errors
    /// `AlreadyExists` when something that is not ours has one of the names.
    fn has_data(&self) -> Result<bool> {
        let (state, data) = (regular_file_exists(&self.state)?, regular_file_exists(&self.data)?);
        if data && !state {
            let text =
                format!("{} exists and is not a partial download of bae", self.data.display());
            return Err(Error::new(Kind::AlreadyExists, text)
                .hint(hint!["move it away, or choose another name with ", Setting::OutName]));
        }
        Ok(data)
    }

    /// The ranges of an earlier download that can be reused, when its data has `data_len` bytes.
    fn done(&self, options: &PartialFileOptions, data_len: u64) -> Result<RangeSet> {
        let base = options.range.as_ref().map_or(0, |range| range.start);
        match ResumeState::read(&self.state)? {
            Some(state) if data_len > 0 => Ok(reusable_ranges(&state, options, &self.path)?
                .within(base..base.saturating_add(data_len))
                .collect()),
            _ => Ok(RangeSet::new()),
        }
    }
}

/// Gives a file its final name. Without `overwrite`, a file that got the name meanwhile is not replaced, where the file
/// system supports that.
fn rename_into_place(data: &Path, path: &Path, overwrite: bool) -> Result<()> {
    let context = |e: io::Error| Error::io(format!("cannot write {}", path.display()), e);
    let occupied = |why: &str| {
        let (path, data) = (path.display(), data.display());
        let text = format!("{path} {why}; the downloaded data is in {data}");
        Error::new(Kind::AlreadyExists, text)
    };
    if !overwrite {
        return match renameat_with(CWD, data, CWD, path, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => Err(occupied("was created during the download").hint(hint![
                "replace it with ",
                Setting::Overwrite,
                ", or choose another name with ",
                Setting::OutName,
            ])),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                std::fs::rename(data, path).map_err(context)
            }
            Err(e) => Err(context(e.into())),
        };
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() && !found.is_symlink() => {
            Err(occupied("is not a regular file any more"))
        }
        _ => std::fs::rename(data, path).map_err(context),
    }
}

enum WriterCommand {
    Write(u64, Vec<Bytes>),
    /// Answered when all writes before it are done.
    Flush(oneshot::Sender<()>),
}

impl PartialFile {
    /// Opens the partial download of the file at `path`, or creates it. Also returns the ranges present, as positions
    /// at the server.
    ///
    /// # Errors
    /// `Changed` when the partial download is of another version; `AlreadyExists` when it is not ours; `Unavailable`
    /// when another process downloads it; `NoSpace` when the file does not fit; I/O errors.
    pub fn open(
        path: &Path,
        options: PartialFileOptions,
        memory: Budget,
    ) -> Result<(Self, RangeSet)> {
        let paths = Paths::of(path);
        let context = |path: &Path, e| Error::io(format!("cannot write {}", path.display()), e);
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            std::fs::create_dir_all(dir).map_err(|e| context(dir, e))?;
        }
        let (file, done) = if paths.has_data()? {
            let file = open_regular_file(&paths.data)?;
            lock(&file, path)?;
            let data_len = file.metadata().map_err(|e| context(&paths.data, e))?.len();
            (Some(file), paths.done(&options, data_len)?)
        } else {
            (None, RangeSet::new())
        };
        let wanted = options.range.clone().or_else(|| options.len.map(|len| 0..len));
        if let Some(wanted) = &wanted {
            check_free_space(path, wanted.end - wanted.start - done.len())?;
        }
        let base = options.range.as_ref().map_or(0, |range| range.start);
        let state = ResumeState::new(options.len, options.range, options.validators);
        if done.is_empty() {
            // Before the data, so that after a crash the data is recognised as ours, and ranges of earlier data do not
            // count as done.
            state.write(&paths.state)?;
        }
        let file = match file {
            Some(file) => file,
            None => {
                let file = open_regular_file(&paths.data)?;
                lock(&file, path)?;
                file
            }
        };
        if done.is_empty() {
            file.set_len(0).map_err(|e| context(&paths.data, e))?;
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
        let (queue, commands) = mpsc::unbounded_channel();
        let writer = tokio::task::spawn_blocking(move || writer.run(commands));
        let overwrite = options.overwrite;
        Ok((Self { paths, file, state, overwrite, written, failed, queue, writer, memory }, done))
    }

    /// The data that an interrupted download of the file at `path` left, and its length in bytes.
    ///
    /// # Errors
    /// `AlreadyExists` when the data is not ours; I/O errors.
    pub fn leftover_data(path: &Path) -> Result<Option<(PathBuf, u64)>> {
        let paths = Paths::of(path);
        if !paths.has_data()? {
            return Ok(None);
        }
        let context = |e| Error::io(format!("cannot read {}", paths.data.display()), e);
        let len = std::fs::metadata(&paths.data).map_err(context)?.len();
        Ok((len > 0).then_some((paths.data, len)))
    }

    /// Removes the state of a complete file at `path`, left by a crash between the rename and the removal of the state.
    pub fn clear_leftover(path: &Path) {
        let Paths { data, state, .. } = Paths::of(path);
        if !data.exists() && regular_file_exists(&state).unwrap_or(false) {
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
        self.flush().await?;
        let Self { paths, file, state, overwrite, queue, writer, .. } = self;
        // The writer holds the file, and so its lock.
        drop(queue);
        let _ = writer.await;
        if let Err(e) = checksums.verify_file(&paths.data).await {
            // The bytes stay for inspection; the next run starts over.
            state.lock().with_done(&RangeSet::new()).write(&paths.state)?;
            return Err(e.with_context(paths.path.display()));
        }
        let work = move || {
            let Paths { path, data, state } = &paths;
            let context = |e| Error::io(format!("cannot write {}", path.display()), e);
            file.set_len(len).map_err(context)?;
            if let Some(time) = modified {
                file.set_modified(time).map_err(context)?;
            }
            file.sync_all().map_err(context)?;
            rename_into_place(data, path, overwrite)?;
            // Ignored: the next download of this name discards a state without data.
            let _ = std::fs::remove_file(state);
            Ok(())
        };
        blocking(work).await
    }

    async fn flush(&self) -> Result<()> {
        let (tx, rx) = oneshot::channel();
        if self.queue.send(WriterCommand::Flush(tx)).is_ok() {
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
                    format!("cannot write {}: an earlier write failed", self.paths.data.display());
                Err(Error::new(Kind::Internal, text))
            }
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Target for PartialFile {
    fn memory(&self) -> &Budget {
        &self.memory
    }

    async fn wait_for_capacity(&self) -> Result<()> {
        self.check()
    }

    async fn write_at(&self, pos: u64, parts: Vec<Bytes>) -> Result<()> {
        self.check()?;
        // If the writer has ended, the next check returns its error.
        let _ = self.queue.send(WriterCommand::Write(pos, parts));
        Ok(())
    }

    async fn checkpoint(&self) -> Result<()> {
        self.flush().await?;
        let (file, written) = (Arc::clone(&self.file), self.written.lock().clone());
        let state = self.state.lock().with_done(&written);
        let Paths { data, state: path, .. } = self.paths.clone();
        blocking(move || {
            let context = |e| Error::io(format!("cannot write {}", data.display()), e);
            file.sync_data().map_err(context)?;
            state.write(&path)
        })
        .await
    }

    async fn restart(&self, version: &RemoteFile) -> Result<()> {
        self.flush().await?;
        let state = {
            let mut state = self.state.lock();
            state.set_version(version.len, version.validator.as_ref());
            state.with_done(&RangeSet::new())
        };
        *self.written.lock() = RangeSet::new();
        let file = Arc::clone(&self.file);
        let Paths { data, state: path, .. } = self.paths.clone();
        blocking(move || {
            // Before the data, so that after a crash the ranges of the earlier data do not count as done.
            state.write(&path)?;
            let context = |e| Error::io(format!("cannot write {}", data.display()), e);
            file.set_len(0).map_err(context)
        })
        .await
    }
}

/// The ranges of an earlier download that can be reused.
fn reusable_ranges(
    state: &ResumeState,
    options: &PartialFileOptions,
    path: &Path,
) -> Result<RangeSet> {
    if options.resume == ResumePolicy::Never || state.done().is_empty() {
        return Ok(RangeSet::new());
    }
    let changed = |what: &str| {
        let text = format!("{}: {what} since the download started", path.display());
        Error::new(Kind::Changed, text).hint(hint![Setting::Fresh, " downloads it from the start"])
    };
    if state.len != options.len {
        return Err(changed("the length of the file on the server changed"));
    }
    if state.range != options.range.as_ref().map(|range| (range.start, range.end)) {
        return Err(changed("the requested byte range changed"));
    }
    if state.validators.is_empty() || options.validators.is_empty() {
        if options.resume == ResumePolicy::IfSameLength && options.len.is_some() {
            return Ok(state.done());
        }
        tracing::warn!(
            "{}: the server sends neither ETag nor Last-Modified: downloading from the start ({} resumes if the length matches)",
            path.display(),
            Setting::ContinueByLength
        );
        return Ok(RangeSet::new());
    }
    if options.validators.iter().any(|validator| state.validators.contains(validator)) {
        return Ok(state.done());
    }
    Err(changed("the file on the server changed"))
}

fn lock(file: &File, path: &Path) -> Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let text = format!("{} is being downloaded by another bae process", path.display());
            Err(Error::new(Kind::Unavailable, text))
        }
        Err(TryLockError::Error(e)) => Err(Error::io(format!("cannot lock {}", path.display()), e)),
    }
}

fn check_free_space(path: &Path, needed: u64) -> Result<()> {
    let folder = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let free = free_space_at(folder.unwrap_or(Path::new(".")))?;
    if free >= needed {
        return Ok(());
    }
    let (free, needed) = (ByteSize(free), ByteSize(needed));
    let text = format!("{}: its disk has {free} free, the download needs {needed}", path.display());
    Err(Error::new(Kind::NoSpace, text).hint(hint![
        "free some space, or choose a folder on another disk with ",
        Setting::OutFolder
    ]))
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
    fn run(self, mut commands: mpsc::UnboundedReceiver<WriterCommand>) {
        while let Some(command) = commands.blocking_recv() {
            match command {
                WriterCommand::Write(pos, parts) => {
                    if let Err(e) = self.write(pos, &parts) {
                        let text = format!("cannot write {}", self.path.display());
                        *self.failed.lock() = Some(Error::io(text, e));
                        return;
                    }
                }
                // Ignored: the receiver may be gone.
                WriterCommand::Flush(done) => drop(done.send(())),
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
    done.unwrap_or_else(|e| Err(Error::new(Kind::Internal, "a file task panicked").because(e)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(etag: &str, resume: ResumePolicy) -> PartialFileOptions {
        let validators = match etag {
            "" => Vec::new(),
            tag => vec![Validator::ETag(tag.to_owned())],
        };
        PartialFileOptions { len: Some(10), range: None, validators, resume, overwrite: false }
    }

    fn open(path: &Path, etag: &str, resume: ResumePolicy) -> Result<(PartialFile, RangeSet)> {
        PartialFile::open(path, options(etag, resume), Budget::new(32 << 20))
    }

    async fn write_half(path: &Path, etag: &str) {
        let (part, _) = open(path, etag, ResumePolicy::IfProven).unwrap();
        part.write_at(5, vec![Bytes::from_static(b"56"), Bytes::from_static(b"789")])
            .await
            .unwrap();
        part.checkpoint().await.unwrap();
        part.close().await;
    }

    #[tokio::test]
    async fn a_file_gets_its_name_when_it_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write_half(&path, "\"a\"").await;
        assert!(!path.exists());
        let (part, done) = open(&path, "\"a\"", ResumePolicy::IfProven).unwrap();
        assert_eq!(done, RangeSet::from(5..10));
        let busy = open(&path, "\"a\"", ResumePolicy::IfProven).unwrap_err();
        assert_eq!(busy.kind(), Kind::Unavailable);
        part.write_at(0, vec![Bytes::from_static(b"01234")]).await.unwrap();
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        part.finish(10, &Checksums::default(), Some(time)).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"0123456789");
        assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), time);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        std::fs::write(dir.path().join("f.bae-part"), "left by a crash").unwrap();
        PartialFile::clear_leftover(&path);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn only_a_proven_same_version_is_resumed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write_half(&path, "\"a\"").await;
        let other = open(&path, "\"b\"", ResumePolicy::IfProven).unwrap_err();
        assert_eq!(other.kind(), Kind::Changed);
        assert!(other.typed_hint().unwrap().names_setting(Setting::Fresh));
        let (part, done) = open(&path, "", ResumePolicy::IfSameLength).unwrap();
        assert_eq!(done, RangeSet::from(5..10));
        part.close().await;
        let (part, done) = open(&path, "\"b\"", ResumePolicy::Never).unwrap();
        assert!(done.is_empty());
        part.close().await;
        write_half(&path, "").await;
        let (_part, done) = open(&path, "", ResumePolicy::IfProven).unwrap();
        assert!(done.is_empty(), "no validator proves the version");
    }

    #[tokio::test]
    async fn a_restart_clears_the_saved_ranges_before_the_data() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let saved = || ResumeState::read(&Paths::of(&path).state).unwrap().unwrap();
        write_half(&path, "\"a\"").await;
        assert_eq!(saved().done(), RangeSet::from(5..10));
        let (part, _) = open(&path, "\"a\"", ResumePolicy::IfProven).unwrap();
        let validator = Some(Validator::ETag("\"b\"".into()));
        let version =
            RemoteFile { validator, ..RemoteFile::from_url("http://x/f".parse().unwrap()) };
        part.restart(&version).await.unwrap();
        assert!(saved().done().is_empty());
        assert_eq!(saved().validators, [Validator::ETag("\"b\"".into())]);
        part.close().await;
        write_half(&path, "\"a\"").await;
        let (_part, _) = open(&path, "\"b\"", ResumePolicy::Never).unwrap();
        assert!(saved().done().is_empty());
    }

    #[tokio::test]
    async fn a_wrong_checksum_leaves_nothing_to_resume() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write_half(&path, "\"a\"").await;
        let (part, _) = open(&path, "\"a\"", ResumePolicy::IfProven).unwrap();
        let wrong = super::super::checksum::parse("md5=900150983cd24fb0d6963f7d28e17f72").unwrap();
        let e = part.finish(10, &Checksums::new([wrong]), None).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Corrupt);
        assert!(!path.exists());
        assert!(with_suffix(&path, ".part").exists(), "the data stays for inspection");
        let (part, done) = open(&path, "\"b\"", ResumePolicy::IfProven).unwrap();
        assert!(done.is_empty(), "any version is downloaded from the start");
        part.close().await;
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            0,
            "an empty download leaves no files"
        );
    }

    #[tokio::test]
    async fn files_of_other_programs_are_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("f"), dir.path().join("victim"));
        std::fs::write(&victim, "precious").unwrap();
        for suffix in [".part", ".bae-part"] {
            let at = with_suffix(&path, suffix);
            std::os::unix::fs::symlink(&victim, &at).unwrap();
            let error = open(&path, "\"a\"", ResumePolicy::Never).unwrap_err();
            assert_eq!(error.kind(), Kind::AlreadyExists, "{}", error.report());
            assert!(error.report().contains(suffix), "{}", error.report());
            std::fs::remove_file(&at).unwrap();
        }
        std::fs::write(with_suffix(&path, ".part"), "half of something").unwrap();
        let error = open(&path, "\"a\"", ResumePolicy::Never).unwrap_err();
        assert_eq!(error.kind(), Kind::AlreadyExists, "{}", error.report());
        assert_eq!(std::fs::read(with_suffix(&path, ".part")).unwrap(), b"half of something");
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn a_file_created_meanwhile_is_replaced_only_with_overwrite() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write_half(&path, "\"a\"").await;
        let (part, _) = open(&path, "\"a\"", ResumePolicy::IfProven).unwrap();
        std::fs::write(&path, "somebody else's").unwrap();
        let error = part.finish(10, &Checksums::default(), None).await.unwrap_err();
        assert_eq!(error.kind(), Kind::AlreadyExists, "{}", error.report());
        assert_eq!(std::fs::read(&path).unwrap(), b"somebody else's");
        let replacing =
            PartialFileOptions { overwrite: true, ..options("\"a\"", ResumePolicy::IfProven) };
        let (part, done) = PartialFile::open(&path, replacing, Budget::new(32 << 20)).unwrap();
        assert_eq!(done, RangeSet::from(5..10));
        part.finish(10, &Checksums::default(), None).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 10);
    }
}
