//! Objects as files under a folder: whole or not there, and durable when a put returns.

mod reading;
mod upload;

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs::{self, File},
    io::{self, IoSlice, Read, Seek, SeekFrom, Write},
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use url::Url;

use super::{
    Body, Capabilities, Copying, Key, ObjectInfo, Page, PageToken, Payload, Shape, Stamp,
    StorageBackend, Unfinished, Upload,
    body::exactly,
    memory::{missing, too_short},
};
use crate::{
    error::{Error, Kind, Result},
    memory::BlockPool,
};
use reading::Reading;
use upload::LocalUpload;

/// Temporary files older than this belong to no running put: a put of one object takes seconds.
const STALE: Duration = Duration::from_secs(3600);

/// Bytes of read blocks that stay allocated for the next reads, those in use included.
const READ_POOL: usize = 64 << 20;
/// Reads of a folder that run at once: enough for the disk to order them, few enough not to crowd the processors.
const READERS: usize = 4;

/// Keeps each object as `root/<key>`; half-written ones under `root/.tmp/`, where no key can be.
#[derive(Debug, Clone)]
pub struct LocalBackend {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    /// Folders whose own name is known to be on the disk: their parent was synced since they were made.
    durable_folders: Mutex<HashSet<PathBuf>>,
    /// What bodies are read into.
    blocks: BlockPool,
    readers: Semaphore,
}

impl LocalBackend {
    /// Opens the folder, making it if need be, and removes what crashed puts left in it.
    ///
    /// # Errors
    /// When the folder cannot be made or written.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        let tmp = root.join(".tmp");
        fs::create_dir_all(&tmp).map_err(|e| Error::io(format!("folder {}", tmp.display()), e))?;
        remove_stale(&tmp);
        let shared = Shared {
            root,
            durable_folders: Mutex::default(),
            blocks: BlockPool::new(READ_POOL),
            readers: Semaphore::new(READERS),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What every folder can do.
    pub const CAPABILITIES: Capabilities = Capabilities {
        copy: Copying::Ranges { min_part: 1 },
        ordered: false,
        conditional_put: true,
        links: true,
        window: Capabilities::WINDOW,
        blocks: true,
    };

    #[must_use]
    pub fn root(&self) -> &Path {
        &self.shared.root
    }

    /// Runs file work off the async threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = Arc::clone(&self.shared);
        blocking(move || work(&shared)).await
    }
}

/// The bytes that still fit where `path` is or would be made.
///
/// # Errors
/// When the file system does not tell.
pub fn room_at(path: &Path) -> Result<u64> {
    let there = path.ancestors().find(|folder| folder.exists()).unwrap_or(path);
    let room = rustix::fs::statvfs(there)
        .map_err(|e| Error::io(format!("free room of {}", there.display()), e.into()))?;
    Ok(room.f_bavail.saturating_mul(room.f_frsize))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| Err(Error::new(Kind::Internal, "file work did not finish").because(e)))
}

fn remove_stale(tmp: &Path) {
    let Ok(entries) = fs::read_dir(tmp) else { return };
    for entry in entries.flatten() {
        let age = entry.metadata().and_then(|m| m.modified()).map(|t| t.elapsed());
        if matches!(age, Ok(Ok(age)) if age > STALE) {
            // What cannot be removed now is tried again at the next start.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A file that goes away unless it was renamed first.
struct TempFile(PathBuf);

impl Drop for TempFile {
    fn drop(&mut self) {
        // After the rename there is nothing under this name, and that is as wanted.
        let _ = fs::remove_file(&self.0);
    }
}

impl Shared {
    fn path(&self, key: &Key) -> PathBuf {
        self.root.join(key.as_str())
    }

    fn error(&self, what: &str, key: &Key, e: io::Error) -> Error {
        let error = Error::io(format!("{what} {key} in {}", self.root.display()), e);
        if error.kind() != Kind::NoSpace {
            return error;
        }
        let root = self.root.display();
        error.hint(format!("free some room for {root}, or choose another place with --storage"))
    }

    fn temp_path(&self) -> PathBuf {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let salt = getrandom::u32().unwrap_or_default();
        self.root.join(format!(".tmp/{}-{n}-{salt:08x}", std::process::id()))
    }

    fn put(&self, key: &Key, payload: &Payload, abandoned: &AtomicBool) -> io::Result<()> {
        let temp = TempFile(self.temp_path());
        let mut file = File::create_new(&temp.0)?;
        write_all_parts(&mut file, payload.parts())?;
        self.give_name(&temp, &file, key, abandoned)
    }

    /// Makes a complete temporary file the object.
    fn give_name(
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
        // A delete may take an empty folder away between making it and the rename: make it again then.
        for last in [false, false, true] {
            self.make_durable_folder(folder)?;
            match fs::rename(&temp.0, &path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound && !last => {
                    self.durable_folders.lock().remove(folder);
                }
                done => {
                    done?;
                    break;
                }
            }
        }
        sync_folder(folder)
    }

    /// Makes `folder` and those above it up to the root, and syncs the names of the new ones.
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

    /// The file of an object, at the beginning of `range`, which lies in it.
    fn find(&self, key: &Key, range: &Range<u64>) -> Result<File> {
        let fail = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound => missing(key),
            _ => self.error("get", key, e),
        };
        let mut file = File::open(self.path(key)).map_err(fail)?;
        let len = file.metadata().map_err(fail)?.len();
        if range.end > len {
            return Err(too_short(key, len, range));
        }
        file.seek(SeekFrom::Start(range.start)).map_err(fail)?;
        Ok(file)
    }

    fn get(&self, key: &Key, range: &Range<u64>) -> Result<Bytes> {
        let file = self.find(key, range)?;
        let asked = range.end.saturating_sub(range.start);
        let mut bytes = Vec::with_capacity(usize::try_from(asked).unwrap_or(0));
        file.take(asked).read_to_end(&mut bytes).map_err(|e| self.error("get", key, e))?;
        match bytes.len() as u64 == asked {
            true => Ok(bytes.into()),
            false => Err(too_short(key, range.start + bytes.len() as u64, range)),
        }
    }

    fn head(&self, key: &Key) -> Result<Option<u64>> {
        match fs::metadata(self.path(key)) {
            Ok(found) => Ok(found.is_file().then_some(found.len())),
            Err(e) if is_absent(&e) => Ok(None),
            Err(e) => Err(self.error("head", key, e)),
        }
    }

    fn stamp(&self, key: &Key) -> Result<Option<Stamp>> {
        match fs::metadata(self.path(key)) {
            Ok(found) if found.is_file() => {
                let changed = found.modified().map_err(|e| self.error("head", key, e))?;
                let since = changed.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                Ok(Some(Stamp { len: found.len(), tag: Some(since.as_nanos().to_string()) }))
            }
            Ok(_) => Ok(None),
            Err(e) if is_absent(&e) => Ok(None),
            Err(e) => Err(self.error("head", key, e)),
        }
    }

    fn delete(&self, key: &Key) -> Result<()> {
        let path = self.path(key);
        match fs::remove_file(&path) {
            Err(e) if is_absent(&e) => return Ok(()),
            done => done.map_err(|e| self.error("delete", key, e))?,
        }
        let folders = path.ancestors().skip(1).take_while(|f| *f != self.root);
        for folder in folders {
            // Refused for a folder that still holds something, which is where this ends.
            if fs::remove_dir(folder).is_err() {
                break;
            }
            self.durable_folders.lock().remove(folder);
        }
        Ok(())
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<ObjectInfo>> {
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

fn is_absent(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The key of an entry of `folder`; `None` for what is no object of ours (`.tmp`, a user's own files).
fn child_key(folder: &str, name: &OsStr) -> Option<Key> {
    let name = name.to_str()?;
    let text = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
    Key::new(&text).ok()
}

fn write_all_parts(file: &mut File, parts: &[Bytes]) -> io::Result<()> {
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

/// Tells the file work that nobody waits for it any more.
struct AbandonOnDrop(Arc<AtomicBool>);

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[async_trait]
impl StorageBackend for LocalBackend {
    async fn put(&self, key: &Key, payload: Payload) -> Result<()> {
        let abandoned = Arc::new(AtomicBool::new(false));
        let _guard = AbandonOnDrop(Arc::clone(&abandoned));
        let key = key.clone();
        self.blocking(move |shared| {
            shared.put(&key, &payload, &abandoned).map_err(|e| shared.error("put", &key, e))
        })
        .await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let key = key.clone();
        self.blocking(move |shared| shared.get(&key, &range)).await
    }

    async fn open(&self, key: &Key, range: Range<u64>) -> Result<Body> {
        let reading = Reading::begin(&self.shared, key, &range).await?;
        Ok(exactly(reading, range.end - range.start))
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>> {
        let key = key.clone();
        self.blocking(move |shared| shared.head(&key)).await
    }

    async fn stamp(&self, key: &Key) -> Result<Option<Stamp>> {
        let key = key.clone();
        self.blocking(move |shared| shared.stamp(&key)).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let key = key.clone();
        self.blocking(move |shared| shared.delete(&key)).await
    }

    async fn list(&self, prefix: &str, _: Option<&PageToken>) -> Result<Page> {
        let prefix = prefix.to_owned();
        self.blocking(move |shared| {
            shared
                .list(&prefix)
                .map(|objects| Page { objects, next: None })
                .map_err(|e| Error::io(format!("list {prefix:?} in {}", shared.root.display()), e))
        })
        .await
    }

    async fn begin(&self, key: &Key, shape: Shape) -> Result<Box<dyn Upload>> {
        let (shared, key) = (Arc::clone(&self.shared), key.clone());
        let upload = blocking(move || LocalUpload::begin(shared, key, shape)).await?;
        Ok(Box::new(upload))
    }

    /// A half-made file is a temporary file, which the next run does not take up: `open` removes it in time.
    async fn unfinished(&self, _: &str) -> Result<Vec<Unfinished>> {
        Ok(Vec::new())
    }

    async fn abort(&self, _: &Unfinished) -> Result<()> {
        Ok(())
    }

    async fn url(&self, key: &Key, _: Duration) -> Result<Url> {
        let path = self.shared.path(key);
        Url::from_file_path(&path).map_err(|()| {
            Error::new(Kind::Unsupported, format!("{} is no absolute path", path.display()))
        })
    }

    fn capabilities(&self) -> Capabilities {
        Self::CAPABILITIES
    }

    async fn free_room(&self) -> Result<Option<u64>> {
        self.blocking(|shared| room_at(&shared.root).map(Some)).await
    }

    fn is_remote(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::{conformance, list_all};

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    #[tokio::test]
    async fn keeps_the_contract() {
        let dir = tempfile::tempdir().unwrap();
        let backend = LocalBackend::open(dir.path()).unwrap();
        conformance::check(&backend).await;
        assert!(backend.free_room().await.unwrap().is_some_and(|room| room > 0));
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "only .tmp is left: {left:?}");
        assert_eq!(fs::read_dir(dir.path().join(".tmp")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_dropped_put_leaves_the_object_whole_or_absent() {
        let dir = tempfile::tempdir().unwrap();
        let backend = LocalBackend::open(dir.path()).unwrap();
        let payload = (0..512).map(|_| Bytes::from(vec![7; 16 << 10])).collect::<Payload>();
        for n in 0..8 {
            let put_key = key(&format!("drop/{n}"));
            let put = backend.put(&put_key, payload.clone());
            let _ = tokio::time::timeout(Duration::from_millis(n), put).await;
        }
        // The file work of a dropped put runs on for a moment.
        while fs::read_dir(dir.path().join(".tmp")).unwrap().count() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for object in list_all(&backend, "drop/").await.unwrap() {
            assert_eq!(object.len, payload.len());
        }
    }

    #[tokio::test]
    async fn opening_removes_old_temporary_files_only() {
        let dir = tempfile::tempdir().unwrap();
        LocalBackend::open(dir.path()).unwrap();
        let (old, new) = (dir.path().join(".tmp/old"), dir.path().join(".tmp/new"));
        File::create(&new).unwrap();
        let long_ago = std::time::SystemTime::now() - 2 * STALE;
        File::create(&old).unwrap().set_modified(long_ago).unwrap();
        LocalBackend::open(dir.path()).unwrap();
        assert!(new.exists() && !old.exists());
    }

    #[tokio::test]
    async fn a_full_disk_is_said_with_a_hint() {
        let full = Path::new("/dev/full");
        if !full.exists() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let backend = LocalBackend::open(dir.path()).unwrap();
        let mut file = fs::OpenOptions::new().write(true).open(full).unwrap();
        let e = write_all_parts(&mut file, &[Bytes::from_static(b"x")]).unwrap_err();
        let error = backend.shared.error("put", &key("k"), e);
        assert_eq!(error.kind(), Kind::NoSpace);
        assert!(error.hint_text().is_some());
    }
}
