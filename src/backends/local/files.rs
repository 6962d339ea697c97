//! The file operations of a local storage. They block, so they run on blocking threads.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs::{self, File},
    io::{self, IoSlice, Read, Seek, SeekFrom, Write},
    ops::Range,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::{
    fs::{CWD, OFlags, RenameFlags, renameat_with},
    io::Errno,
};

use crate::{
    backends::{
        Key, ObjectInfo, Payload, Stamp,
        memory::{missing, too_short},
    },
    error::{Error, Kind, Result},
    folders,
};

/// Bytes of each file that are compared at a time.
const PART: usize = 1 << 20;

/// Temp files older than this belong to no running put: putting one object takes seconds.
pub(super) const STALE: Duration = Duration::from_secs(3600);

/// The folder of a local storage.
///
/// Invariant: the root is never created here, and `.tmp` at most once, in a root that exists. So objects meant for a
/// disk that was unmounted never land on the file system below its mount point.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) root: PathBuf,
    /// Whether the folder has existed since this was opened.
    was_there: AtomicBool,
    /// Whether the folder of temp files has existed since this was opened.
    had_temporary: Mutex<bool>,
    /// Folders whose own entry is durable: their parent was synced after they were created.
    durable_folders: Mutex<HashSet<PathBuf>>,
    /// Held from the check of a name to the rename, where the file system cannot do both in one step.
    naming: Mutex<()>,
}

/// A temp file that is deleted on drop, unless it was renamed before.
pub(super) struct TempFile(pub(super) PathBuf);

impl Drop for TempFile {
    fn drop(&mut self) {
        // After the rename no file has this name, so the error is expected.
        let _ = fs::remove_file(&self.0);
    }
}

impl Files {
    pub(super) fn open(root: PathBuf) -> Result<Self> {
        let tmp = root.join(".tmp");
        let was_there = folders::is_there("storage folder", &root)?;
        let had_temporary = was_there && folders::is_there("storage folder", &tmp)?;
        remove_stale(&tmp);
        Ok(Self {
            root,
            was_there: was_there.into(),
            had_temporary: Mutex::new(had_temporary),
            durable_folders: Mutex::default(),
            naming: Mutex::default(),
        })
    }

    pub(super) fn path(&self, key: &Key) -> PathBuf {
        self.root.join(key.as_str())
    }

    /// Whether the folder existed before and does not exist now.
    fn is_gone(&self) -> bool {
        let there = self.root.is_dir();
        self.was_there.fetch_or(there, Ordering::Relaxed) && !there
    }

    fn gone(&self) -> Error {
        let text = format!("folder {} is gone", self.root.display());
        Error::new(Kind::NotFound, text).hint("is its disk mounted?")
    }

    pub(super) fn error(&self, what: &str, key: &Key, e: io::Error) -> Error {
        let root = self.root.display();
        if e.kind() == io::ErrorKind::NotFound {
            let text = format!("{what} {key}: folder {root} is not there, or was emptied");
            return Error::new(Kind::NotFound, text).because(e).hint("is its disk mounted?");
        }
        if e.kind() == io::ErrorKind::AlreadyExists {
            let text = format!("{what} {key}: another object has this name in {root}");
            return Error::new(Kind::AlreadyExists, text)
                .hint("move it away, or see with `bae storage check` which names the folder takes for one");
        }
        let error = Error::io(format!("{what} {key} in {root}"), e);
        match error.kind() {
            Kind::NoSpace => error
                .hint(format!("free some room for {root}, or choose another place with --storage")),
            _ => error,
        }
    }

    fn temp_path(&self) -> PathBuf {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let salt = getrandom::u32().unwrap_or_default();
        self.root.join(format!(".tmp/{}-{n}-{salt:08x}", std::process::id()))
    }

    /// Creates a temp file. Creates `.tmp` on first use, if the root exists.
    pub(super) fn temporary(&self) -> io::Result<(TempFile, File)> {
        let path = self.temp_path();
        let create = || File::options().read(true).write(true).create_new(true).open(&path);
        let created = match create() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let mut had = self.had_temporary.lock();
                if !*had {
                    match fs::create_dir(self.root.join(".tmp")) {
                        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                        _ => *had = true,
                    }
                }
                create()
            }
            created => created,
        };
        let file = created?;
        *self.had_temporary.lock() = true;
        Ok((TempFile(path), file))
    }

    pub(super) fn put(&self, key: &Key, payload: &Payload, abandoned: &AtomicBool) -> Result<()> {
        let put = || {
            let (temp, mut file) = self.temporary()?;
            write_all_parts(&mut file, payload.parts())?;
            self.give_name(&temp, &file, key, abandoned)
        };
        put().map_err(|e| self.error("put", key, e))
    }

    /// Renames a complete temp file to its key, durably.
    pub(super) fn give_name(
        &self,
        temp: &TempFile,
        file: &File,
        key: &Key,
        abandoned: &AtomicBool,
    ) -> io::Result<()> {
        file.sync_all()?;
        if abandoned.load(Ordering::Acquire) {
            return Err(io::Error::other("the put was abandoned"));
        }
        let path = self.path(key);
        let folder = path.parent().unwrap_or(&self.root);
        // A delete may remove a folder that became empty between its creation and the rename. It is created again
        // then.
        for last in [false, false, true] {
            self.make_durable_folder(folder)?;
            match self.rename_new(&temp.0, &path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound && !last => {
                    self.durable_folders.lock().remove(folder);
                }
                // The same bytes put again, by a retry whose earlier answer was lost.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    if is_same(&temp.0, &path)? {
                        break;
                    }
                    return Err(e);
                }
                done => {
                    done?;
                    break;
                }
            }
        }
        sync_folder(folder)
    }

    /// Renames a file to a name that does not exist yet. The file system decides which names are equal.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // Many file systems from outside Unix do not support `RENAME_NOREPLACE`.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            done => return done.map_err(io::Error::from),
        }
        let _alone = self.naming.lock();
        match fs::symlink_metadata(to) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(e) if is_absent(&e) => fs::rename(from, to),
            Err(e) => Err(e),
        }
    }

    /// Creates `folder` and its missing parents below the root, and syncs the parent of each new one.
    fn make_durable_folder(&self, folder: &Path) -> io::Result<()> {
        let known = self.durable_folders.lock().contains(folder);
        if known && folder.is_dir() || folder == self.root {
            return Ok(());
        }
        if let Some(above) = folder.parent() {
            self.make_durable_folder(above)?;
            match fs::create_dir(folder) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => sync_folder(above)?,
            }
        }
        self.durable_folders.lock().insert(folder.to_owned());
        Ok(())
    }

    /// Opens the file of an object at the start of `range`, after checking that the range is inside it.
    pub(super) fn find(&self, key: &Key, range: &Range<u64>) -> Result<File> {
        let fail = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound if self.is_gone() => self.gone(),
            io::ErrorKind::NotFound => missing(key),
            _ => self.error("get", key, e),
        };
        let (mut file, len) = open_file(&self.path(key)).map_err(fail)?;
        if range.end > len {
            return Err(too_short(key, len, range));
        }
        file.seek(SeekFrom::Start(range.start)).map_err(fail)?;
        Ok(file)
    }

    pub(super) fn get(&self, key: &Key, range: &Range<u64>) -> Result<Bytes> {
        let file = self.find(key, range)?;
        let asked = range.end.saturating_sub(range.start);
        let mut bytes = Vec::with_capacity(usize::try_from(asked).unwrap_or(0));
        file.take(asked).read_to_end(&mut bytes).map_err(|e| self.error("get", key, e))?;
        match bytes.len() as u64 == asked {
            true => Ok(bytes.into()),
            false => Err(too_short(key, range.start + bytes.len() as u64, range)),
        }
    }

    fn metadata(&self, key: &Key) -> Result<Option<fs::Metadata>> {
        match fs::metadata(self.path(key)) {
            Ok(found) => Ok(found.is_file().then_some(found)),
            Err(e) if is_absent(&e) && self.is_gone() => Err(self.gone()),
            Err(e) if is_absent(&e) => Ok(None),
            Err(e) => Err(self.error("head", key, e)),
        }
    }

    pub(super) fn head(&self, key: &Key) -> Result<Option<u64>> {
        Ok(self.metadata(key)?.map(|found| found.len()))
    }

    pub(super) fn stamp(&self, key: &Key) -> Result<Option<Stamp>> {
        let Some(found) = self.metadata(key)? else { return Ok(None) };
        let changed = found.modified().map_err(|e| self.error("head", key, e))?;
        let since = changed.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Ok(Some(Stamp { len: found.len(), tag: Some(since.as_nanos().to_string()) }))
    }

    pub(super) fn delete(&self, key: &Key) -> Result<()> {
        let path = self.path(key);
        match fs::remove_file(&path) {
            Err(e) if is_absent(&e) => return Ok(()),
            done => done.map_err(|e| self.error("delete", key, e))?,
        }
        let folders = path.ancestors().skip(1).take_while(|f| *f != self.root);
        for folder in folders {
            // Fails for a folder that is not empty; the removal of parents stops there.
            if fs::remove_dir(folder).is_err() {
                break;
            }
            self.durable_folders.lock().remove(folder);
        }
        Ok(())
    }

    pub(super) fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let listed = self.walk(prefix);
        if self.is_gone() {
            return Err(self.gone());
        }
        listed.map_err(|e| Error::io(format!("list {prefix:?} in {}", self.root.display()), e))
    }

    fn walk(&self, prefix: &str) -> io::Result<Vec<ObjectInfo>> {
        let within = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        if !within.is_empty() && Key::new(within).is_err() {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        let mut folders = vec![within.to_owned()];
        while let Some(folder) = folders.pop() {
            let entries = match fs::read_dir(self.root.join(&folder)) {
                Err(e) if is_absent(&e) => continue,
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                let Some(name) = child_key(&folder, &entry.file_name()) else { continue };
                let kind = entry.file_type()?;
                if kind.is_dir() {
                    folders.push(name.as_str().to_owned());
                } else if kind.is_file() && name.as_str().starts_with(prefix) {
                    match entry.metadata() {
                        Ok(m) => found.push(ObjectInfo { key: name, len: m.len() }),
                        Err(e) if is_absent(&e) => {}
                        Err(e) => return Err(e),
                    }
                }
            }
        }
        Ok(found)
    }
}

fn remove_stale(tmp: &Path) {
    let Ok(entries) = fs::read_dir(tmp) else { return };
    for entry in entries.flatten() {
        let age = entry.metadata().and_then(|m| m.modified()).map(|t| t.elapsed());
        if matches!(age, Ok(Ok(age)) if age > STALE) {
            // A file that cannot be removed now is tried again at the next start.
            let _ = fs::remove_file(entry.path());
        }
    }
}

pub(super) fn is_absent(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The key of a directory entry of `folder`; `None` for a file that is not an object (`.tmp`, a user's own files).
fn child_key(folder: &str, name: &OsStr) -> Option<Key> {
    let name = name.to_str()?;
    let text = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
    Key::new(&text).ok()
}

/// Opens a file for reading and returns its length. A FIFO or a folder counts as not found. `O_NONBLOCK`, because
/// opening a FIFO would otherwise wait for a writer.
fn open_file(path: &Path) -> io::Result<(File, u64)> {
    let no_wait = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = File::options().read(true).custom_flags(no_wait).open(path)?;
    let found = file.metadata()?;
    match found.is_file() {
        true => Ok((file, found.len())),
        false => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Whether two files have the same bytes.
fn is_same(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, len) = open_file(one)?;
    let (mut other, other_len) = match open_file(other) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened?,
    };
    if len != other_len {
        return Ok(false);
    }
    let (mut a, mut b) = (Vec::with_capacity(PART), Vec::with_capacity(PART));
    loop {
        a.clear();
        b.clear();
        Read::by_ref(&mut one).take(PART as u64).read_to_end(&mut a)?;
        Read::by_ref(&mut other).take(PART as u64).read_to_end(&mut b)?;
        if a != b || a.is_empty() {
            return Ok(a == b);
        }
    }
}

pub(super) fn write_all_parts(file: &mut File, parts: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> =
        parts.iter().filter(|p| !p.is_empty()).map(|p| IoSlice::new(p)).collect();
    let mut left = &mut slices[..];
    while !left.is_empty() {
        match file.write_vectored(left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => IoSlice::advance_slices(&mut left, n),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
