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
        Key, ObjectInfo, ObjectVersion, Payload,
        memory::{object_not_found, object_too_short},
    },
    error::{Error, Kind, Result},
    folders,
    hints::{Operation, Setting, hint},
};

/// Bytes of each file that are compared at a time.
const COMPARE_LEN: usize = 1 << 20;

/// Temp files older than this belong to no running put: putting one object takes seconds.
pub(super) const STALE_AGE: Duration = Duration::from_secs(3600);

/// The folder of a local storage.
///
/// Invariant: the root is never created here, and `.tmp` at most once, in a root that exists. So objects meant for a
/// disk that was unmounted never land on the file system below its mount point.
#[derive(Debug)]
pub(super) struct LocalFiles {
    pub(super) root: PathBuf,
    /// Whether the folder has existed since this was opened.
    root_existed: AtomicBool,
    /// Whether the folder of temp files has existed since this was opened.
    temp_dir_existed: Mutex<bool>,
    /// Folders whose own entry is durable: their parent was synced after they were created.
    durable_folders: Mutex<HashSet<PathBuf>>,
    /// Held from the check of a name to the rename, where the file system cannot do both in one step.
    rename_lock: Mutex<()>,
}

/// A temp file that is deleted on drop, unless it was renamed before.
pub(super) struct TempFile(pub(super) PathBuf);

impl Drop for TempFile {
    fn drop(&mut self) {
        // After the rename no file has this name, so the error is expected.
        let _ = fs::remove_file(&self.0);
    }
}

impl LocalFiles {
    pub(super) fn open(root: PathBuf) -> Result<Self> {
        let tmp = root.join(".tmp");
        let root_existed = folders::exists("storage folder", &root)?;
        let temp_dir_existed = root_existed && folders::exists("storage folder", &tmp)?;
        remove_stale(&tmp);
        Ok(Self {
            root,
            root_existed: root_existed.into(),
            temp_dir_existed: Mutex::new(temp_dir_existed),
            durable_folders: Mutex::default(),
            rename_lock: Mutex::default(),
        })
    }

    pub(super) fn path(&self, key: &Key) -> PathBuf {
        self.root.join(key.as_str())
    }

    /// Whether the folder existed before and does not exist now.
    fn is_root_missing(&self) -> bool {
        let exists = self.root.is_dir();
        self.root_existed.fetch_or(exists, Ordering::Relaxed) && !exists
    }

    fn root_missing_error(&self) -> Error {
        let text = format!("folder {} no longer exists", self.root.display());
        Error::new(Kind::NotFound, text).hint("check that its disk is mounted")
    }

    pub(super) fn error(&self, what: &str, key: &Key, e: io::Error) -> Error {
        let root = self.root.display();
        if e.kind() == io::ErrorKind::NotFound {
            let text = format!("{what} {key}: folder {root} does not exist or was emptied");
            return Error::new(Kind::NotFound, text)
                .because(e)
                .hint("check that its disk is mounted");
        }
        if e.kind() == io::ErrorKind::AlreadyExists {
            let text = format!("{what} {key}: another file has this name in {root}");
            return Error::new(Kind::AlreadyExists, text).hint(hint![
                "move it away; ",
                Operation::CheckStorage,
                " shows which names the folder treats as equal",
            ]);
        }
        let error = Error::io(format!("{what} {key} in {root}"), e);
        match error.kind() {
            Kind::NoSpace => error.hint(hint![
                format!("free some space in {root}, or choose another storage with "),
                Setting::Storage,
            ]),
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
    pub(super) fn create_temp(&self) -> io::Result<(TempFile, File)> {
        let path = self.temp_path();
        let create = || File::options().read(true).write(true).create_new(true).open(&path);
        let created = match create() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let mut existed = self.temp_dir_existed.lock();
                if !*existed {
                    match fs::create_dir(self.root.join(".tmp")) {
                        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                        _ => *existed = true,
                    }
                }
                create()
            }
            created => created,
        };
        let file = created?;
        *self.temp_dir_existed.lock() = true;
        Ok((TempFile(path), file))
    }

    pub(super) fn put(&self, key: &Key, payload: &Payload, abandoned: &AtomicBool) -> Result<()> {
        let put = || {
            let (temp, mut file) = self.create_temp()?;
            write_all_buffers(&mut file, payload.buffers())?;
            self.commit_temp(&temp, &file, key, abandoned)
        };
        put().map_err(|e| self.error("put", key, e))
    }

    /// Renames a complete temp file to its key, durably.
    pub(super) fn commit_temp(
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
        for is_last in [false, false, true] {
            self.create_durable_folder(folder)?;
            match self.rename_noreplace(&temp.0, &path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound && !is_last => {
                    self.durable_folders.lock().remove(folder);
                }
                // The same bytes put again, by a retry whose earlier answer was lost.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    if have_same_bytes(&temp.0, &path)? {
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
    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()> {
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // Many file systems from outside Unix do not support `RENAME_NOREPLACE`.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            done => return done.map_err(io::Error::from),
        }
        let _guard = self.rename_lock.lock();
        match fs::symlink_metadata(to) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(e) if is_absent(&e) => fs::rename(from, to),
            Err(e) => Err(e),
        }
    }

    /// Creates `folder` and its missing parents below the root, and syncs the parent of each new one.
    fn create_durable_folder(&self, folder: &Path) -> io::Result<()> {
        let is_durable = self.durable_folders.lock().contains(folder);
        if is_durable && folder.is_dir() || folder == self.root {
            return Ok(());
        }
        if let Some(parent) = folder.parent() {
            self.create_durable_folder(parent)?;
            match fs::create_dir(folder) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => sync_folder(parent)?,
            }
        }
        self.durable_folders.lock().insert(folder.to_owned());
        Ok(())
    }

    /// Opens the file of an object at the start of `range`, after checking that the range is inside it.
    pub(super) fn open_at(&self, key: &Key, range: &Range<u64>) -> Result<File> {
        let fail = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound if self.is_root_missing() => self.root_missing_error(),
            io::ErrorKind::NotFound => object_not_found(key),
            _ => self.error("get", key, e),
        };
        let (mut file, len) = open_file(&self.path(key)).map_err(fail)?;
        if range.end > len {
            return Err(object_too_short(key, len, range));
        }
        file.seek(SeekFrom::Start(range.start)).map_err(fail)?;
        Ok(file)
    }

    pub(super) fn get(&self, key: &Key, range: &Range<u64>) -> Result<Bytes> {
        let file = self.open_at(key, range)?;
        let requested = range.end.saturating_sub(range.start);
        let mut bytes = Vec::with_capacity(usize::try_from(requested).unwrap_or(0));
        file.take(requested).read_to_end(&mut bytes).map_err(|e| self.error("get", key, e))?;
        match bytes.len() as u64 == requested {
            true => Ok(bytes.into()),
            false => Err(object_too_short(key, range.start + bytes.len() as u64, range)),
        }
    }

    fn metadata(&self, key: &Key) -> Result<Option<fs::Metadata>> {
        match fs::metadata(self.path(key)) {
            Ok(found) => Ok(found.is_file().then_some(found)),
            Err(e) if is_absent(&e) && self.is_root_missing() => Err(self.root_missing_error()),
            Err(e) if is_absent(&e) => Ok(None),
            Err(e) => Err(self.error("head", key, e)),
        }
    }

    pub(super) fn head(&self, key: &Key) -> Result<Option<u64>> {
        Ok(self.metadata(key)?.map(|found| found.len()))
    }

    pub(super) fn version(&self, key: &Key) -> Result<Option<ObjectVersion>> {
        let Some(found) = self.metadata(key)? else { return Ok(None) };
        let modified = found.modified().map_err(|e| self.error("head", key, e))?;
        let since = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Ok(Some(ObjectVersion { len: found.len(), tag: Some(since.as_nanos().to_string()) }))
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
        if self.is_root_missing() {
            return Err(self.root_missing_error());
        }
        listed.map_err(|e| Error::io(format!("list {prefix:?} in {}", self.root.display()), e))
    }

    fn walk(&self, prefix: &str) -> io::Result<Vec<ObjectInfo>> {
        let start_folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        if !start_folder.is_empty() && Key::new(start_folder).is_err() {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        let mut folders = vec![start_folder.to_owned()];
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
        if matches!(age, Ok(Ok(age)) if age > STALE_AGE) {
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
    let nonblock = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = File::options().read(true).custom_flags(nonblock).open(path)?;
    let found = file.metadata()?;
    match found.is_file() {
        true => Ok((file, found.len())),
        false => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Whether two files have the same bytes.
fn have_same_bytes(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, len) = open_file(one)?;
    let (mut other, other_len) = match open_file(other) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened?,
    };
    if len != other_len {
        return Ok(false);
    }
    let (mut a, mut b) = (Vec::with_capacity(COMPARE_LEN), Vec::with_capacity(COMPARE_LEN));
    loop {
        a.clear();
        b.clear();
        Read::by_ref(&mut one).take(COMPARE_LEN as u64).read_to_end(&mut a)?;
        Read::by_ref(&mut other).take(COMPARE_LEN as u64).read_to_end(&mut b)?;
        if a != b || a.is_empty() {
            return Ok(a == b);
        }
    }
}

pub(super) fn write_all_buffers(file: &mut File, buffers: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> =
        buffers.iter().filter(|b| !b.is_empty()).map(|b| IoSlice::new(b)).collect();
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
