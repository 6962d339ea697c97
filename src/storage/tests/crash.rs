//! Simulates a crash between any two steps of everything that changes a storage. Afterwards the sweep must leave
//! exactly the objects that are named.
//!
//! The steps in the catalog are transactions, those in the storage are puts, deletes and aborts, and they alternate. So
//! a crash before and after each change of the storage covers every gap between two steps. A crash is simulated by
//! dropping a future where it stands, and opening the catalog again.

use std::{
    collections::BTreeSet,
    future::pending,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::sync::Notify;
use url::Url;

use crate::{
    backends::{
        Body, Capabilities, Key, MemoryBackend, MultipartUpload, ObjectVersion, Page, PageToken,
        Payload, StorageBackend, UnfinishedUpload, UploadLayout, list_all,
    },
    catalog::{
        Catalog, Encoding, ExistingObject, Extent, FileRow, ImportRow, ImportState,
        ImportWithObjects, NewImport, Role,
    },
    error::{Error, Kind, Result},
    storage::{
        recover::{attach::survey, manifest::write_manifest},
        sweep::{Sweep, delete_freed, remove_import},
    },
};

/// A backend that hangs forever at one of its changes, before or after making it.
#[derive(Debug)]
struct CrashAt {
    inner: Arc<MemoryBackend>,
    at: usize,
    after: bool,
    changes: AtomicUsize,
    /// The number of requested pages of listings.
    pages: AtomicUsize,
    crashed: Notify,
    /// A key that it refuses to delete.
    refused: Mutex<Option<String>>,
}

impl CrashAt {
    fn new(inner: &Arc<MemoryBackend>, at: usize, after: bool) -> Arc<Self> {
        Arc::new(Self {
            inner: Arc::clone(inner),
            at,
            after,
            changes: AtomicUsize::new(0),
            pages: AtomicUsize::new(0),
            crashed: Notify::new(),
            refused: Mutex::new(None),
        })
    }

    async fn change<T>(&self, work: impl Future<Output = T>) -> T {
        let n = self.changes.fetch_add(1, Ordering::Relaxed);
        if n > self.at || n == self.at && !self.after {
            self.crashed.notify_one();
            return pending().await;
        }
        let done = work.await;
        if n == self.at {
            self.crashed.notify_one();
            return pending().await;
        }
        done
    }

    fn check_allowed(&self, key: &Key) -> Result<()> {
        match &*self.refused.lock() {
            Some(refused) if refused == key.as_str() => {
                let text = format!("delete {key}: not allowed");
                Err(Error::new(Kind::PermissionDenied, text))
            }
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl StorageBackend for CrashAt {
    async fn put(&self, key: &Key, payload: Payload) -> Result<()> {
        self.change(self.inner.put(key, payload)).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.inner.get(key, range).await
    }

    async fn open(&self, key: &Key, range: Range<u64>) -> Result<Body> {
        self.inner.open(key, range).await
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>> {
        self.inner.head(key).await
    }

    async fn version(&self, key: &Key) -> Result<Option<ObjectVersion>> {
        self.inner.version(key).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.check_allowed(key)?;
        self.change(self.inner.delete(key)).await
    }

    async fn list(&self, prefix: &str, page: Option<&PageToken>) -> Result<Page> {
        self.pages.fetch_add(1, Ordering::Relaxed);
        self.inner.list(prefix, page).await
    }

    async fn begin_upload(
        &self,
        key: &Key,
        layout: UploadLayout,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.begin_upload(key, layout).await
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<UnfinishedUpload>> {
        self.inner.list_uploads(prefix).await
    }

    async fn abort_upload(&self, upload: &UnfinishedUpload) -> Result<()> {
        self.check_allowed(&upload.key)?;
        self.change(self.inner.abort_upload(upload)).await
    }

    async fn url(&self, key: &Key, expiry: Duration) -> Result<Url> {
        self.inner.url(key, expiry).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn free_space(&self) -> Result<Option<u64>> {
        self.inner.free_space().await
    }

    fn is_remote(&self) -> bool {
        self.inner.is_remote()
    }
}

const CHUNK: u64 = 10;

/// An import of three chunks with its manifest, in a storage that stays readable after the crash.
struct Rig {
    dir: TempDir,
    catalog: Catalog,
    backend: Arc<MemoryBackend>,
    row: ImportRow,
}

impl Rig {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).await.unwrap();
        let backend = Arc::new(MemoryBackend::new());
        let row = import(&catalog, "rig").await;
        let rig = Self { dir, catalog, backend, row };
        for n in 0..3 {
            rig.store(n * CHUNK..(n + 1) * CHUNK, &rig.dyn_backend()).await.unwrap();
        }
        rig.catalog.set_state(&rig.row.id, ImportState::Imported).await.unwrap();
        assert!(write_manifest(&rig.catalog, &rig.dyn_backend(), &rig.row).await.unwrap());
        rig
    }

    fn dyn_backend(&self) -> Arc<dyn StorageBackend> {
        Arc::clone(&self.backend) as _
    }

    /// Stores a range as a writer does: intent, put, commit.
    async fn store(&self, range: Range<u64>, backend: &Arc<dyn StorageBackend>) -> Result<()> {
        let len = range.end - range.start;
        let object = self.catalog.intend(&self.row.id, len, false).await?;
        backend.put(&Key::new(&object.key)?, body(len)).await?;
        let extent = Extent { range, object: object.num, offset: 0 };
        self.catalog.commit_object(object.num, vec![extent]).await
    }

    /// Leaves an upload that was started and not finished.
    async fn leave_upload(&self) {
        let key = format!("{}{}/0000ffff", self.catalog.key_prefix(), self.row.id);
        let layout = UploadLayout { len: 10, part_len: 5 };
        let upload = self.backend.begin_upload(&Key::new(&key).unwrap(), layout).await.unwrap();
        upload.put_part(0, body(5)).await.unwrap();
    }

    /// Simulates the restart after a crash: opens the catalog again, runs the sweep, and checks the result.
    async fn sweep_after_crash(&mut self) {
        self.catalog.flush().await.unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let nothing = Catalog::open(elsewhere.path()).await.unwrap();
        drop(std::mem::replace(&mut self.catalog, nothing));
        self.catalog = Catalog::open(self.dir.path()).await.unwrap();
        let backend = self.dyn_backend();
        let sweep =
            Sweep { catalog: &self.catalog, backend: &backend, storage: "file", idle: None };
        let found = sweep.find().await.unwrap();
        let removed = sweep.remove(&found, false).await.unwrap();
        assert_eq!(removed.failures.count(), 0);
        assert!(sweep.find().await.unwrap().is_empty());
        self.check_objects_match_catalog().await;
    }

    async fn check_objects_match_catalog(&self) {
        assert!(self.catalog.leftover_intents().await.unwrap().is_empty());
        let rows = self.catalog.list().await.unwrap();
        let mut named = BTreeSet::new();
        for row in rows {
            let objects = self.catalog.objects(&row.id).await.unwrap();
            named.extend(objects.into_iter().map(|object| (object.key, object.len)));
        }
        let listed = list_all(&*self.backend, "").await.unwrap().into_iter();
        let stored: BTreeSet<_> =
            listed.map(|object| (object.key.to_string(), object.len)).collect();
        assert_eq!(named, stored);
        assert!(self.backend.list_uploads("").await.unwrap().is_empty());
    }

    async fn stored_bytes(&self) -> u64 {
        let extents = self.catalog.extents(&self.row.id).await.unwrap();
        extents.iter().map(|extent| extent.range.end - extent.range.start).sum()
    }
}

async fn import(catalog: &Catalog, name: &str) -> ImportRow {
    let file = FileRow { path: name.into(), start: 0, len: 3 * CHUNK, pad: false };
    let new = NewImport {
        name: name.into(),
        len: 3 * CHUNK,
        storage: "file".into(),
        chunk_len: CHUNK,
        files: vec![file],
        ..NewImport::default()
    };
    catalog.create_import(new).await.unwrap()
}

fn body(len: u64) -> Payload {
    Payload::from_iter([Bytes::from(vec![1; usize::try_from(len).unwrap()])])
}

/// Runs `work` until it is done or the backend hangs. Returns whether it was done.
async fn until_crash(backend: &Arc<CrashAt>, work: impl Future<Output = Result<()>>) -> bool {
    tokio::select! {
        biased;
        done = work => {
            done.unwrap();
            true
        }
        () = backend.crashed.notified() => false,
    }
}

/// Runs with a crash before and after each change of the storage, until no change is left. Returns the number of
/// changes.
async fn at_every_step(mut run: impl AsyncFnMut(usize, bool) -> bool) -> usize {
    for at in 0.. {
        let done = [run(at, false).await, run(at, true).await];
        if done == [true, true] {
            return at;
        }
        assert_eq!(done, [false, false], "the same steps each time");
    }
    unreachable!("the run ends after a limited number of changes")
}

#[tokio::test]
async fn a_crash_while_a_manifest_is_written_leaves_a_usable_manifest() {
    let steps = at_every_step(async |at, after| {
        let mut rig = Rig::new().await;
        rig.catalog.set_selected(&rig.row.id, Some(vec![0])).await.unwrap();
        let crashing = CrashAt::new(&rig.backend, at, after);
        let backend: Arc<dyn StorageBackend> = Arc::clone(&crashing) as _;
        let work = async { write_manifest(&rig.catalog, &backend, &rig.row).await.map(drop) };
        let done = until_crash(&crashing, work).await;
        let found = survey(&*rig.backend).await.unwrap();
        assert!(
            found.refused.is_empty()
                && found.imports.len() == 1
                && found.imports[0].missing.is_empty()
        );
        rig.sweep_after_crash().await;
        write_manifest(&rig.catalog, &rig.dyn_backend(), &rig.row).await.unwrap();
        rig.check_objects_match_catalog().await;
        let found = survey(&*rig.backend).await.unwrap().imports.remove(0);
        assert_eq!((found.manifest.selected, found.manifests.len()), (Some(vec![0]), 1));
        done
    })
    .await;
    assert_eq!(steps, 2, "put the new one, delete the old one");
}

#[tokio::test]
async fn a_removal_interrupted_by_a_crash_is_finished_by_the_sweep() {
    let steps = at_every_step(async |at, after| {
        let mut rig = Rig::new().await;
        rig.leave_upload().await;
        let crashing = CrashAt::new(&rig.backend, at, after);
        let backend: Arc<dyn StorageBackend> = Arc::clone(&crashing) as _;
        let work = remove_import(&rig.catalog, &backend, &rig.row, false);
        let done = until_crash(&crashing, work).await;
        let found = survey(&*rig.backend).await.unwrap().imports;
        let whole = found.iter().all(|found| found.missing.is_empty());
        assert!(whole, "a manifest names deleted objects");
        rig.sweep_after_crash().await;
        assert!(list_all(&*rig.backend, "").await.unwrap().is_empty());
        assert!(rig.catalog.list_in_state(ImportState::Removing).await.unwrap().is_empty());
        done
    })
    .await;
    assert_eq!(steps, 5, "a manifest, an upload, three chunks");
}

#[tokio::test]
async fn a_sweep_interrupted_by_a_crash_is_finished_by_the_next() {
    let steps = at_every_step(async |at, after| {
        let mut rig = Rig::new().await;
        rig.leave_upload().await;
        let lost = rig.catalog.intend(&rig.row.id, 4, false).await.unwrap();
        rig.catalog.intend(&rig.row.id, 5, false).await.unwrap();
        let stray = format!("{}{}/0000fff0", rig.catalog.key_prefix(), rig.row.id);
        for key in [lost.key, stray] {
            rig.backend.put(&Key::new(&key).unwrap(), body(4)).await.unwrap();
        }
        let other = import(&rig.catalog, "other").await;
        let object = rig.catalog.intend(&other.id, 6, false).await.unwrap();
        rig.backend.put(&Key::new(&object.key).unwrap(), body(6)).await.unwrap();
        let extent = Extent { range: 0..6, object: object.num, offset: 0 };
        rig.catalog.commit_object(object.num, vec![extent]).await.unwrap();
        rig.catalog.set_state(&other.id, ImportState::Removing).await.unwrap();
        let crashing = CrashAt::new(&rig.backend, at, after);
        let backend: Arc<dyn StorageBackend> = Arc::clone(&crashing) as _;
        let work = async {
            let sweep =
                Sweep { catalog: &rig.catalog, backend: &backend, storage: "file", idle: None };
            let found = sweep.find().await?;
            assert_eq!((found.own.objects, found.own.bytes, found.uploads.len()), (2, 8, 1));
            let removed = sweep.remove(&found, false).await?;
            assert_eq!((removed.tally.objects, removed.uploads), (3, 1));
            Ok(())
        };
        let done = until_crash(&crashing, work).await;
        rig.sweep_after_crash().await;
        assert_eq!(rig.stored_bytes().await, 3 * CHUNK);
        assert_eq!(rig.catalog.list().await.unwrap().len(), 1);
        done
    })
    .await;
    assert_eq!(steps, 5, "an upload, a stray, two intents, an object of the removed import");
}

#[tokio::test]
async fn a_crash_during_a_repair_loses_no_good_bytes() {
    let steps = at_every_step(async |at, after| {
        let mut rig = Rig::new().await;
        let crashing = CrashAt::new(&rig.backend, at, after);
        let backend: Arc<dyn StorageBackend> = Arc::clone(&crashing) as _;
        // All of the first chunk and the end of the second are bad.
        let bad = [0..10, 15..20];
        let work = async {
            let freed = rig.catalog.punch_holes(&rig.row.id, bad.to_vec()).await?;
            assert_eq!(freed.len(), 1);
            for range in bad.clone() {
                rig.store(range, &backend).await?;
            }
            rig.catalog.set_state(&rig.row.id, ImportState::Imported).await?;
            write_manifest(&rig.catalog, &backend, &rig.row).await?;
            delete_freed(&rig.catalog, &backend, &rig.row.id, &freed).await
        };
        let done = until_crash(&crashing, work).await;
        rig.sweep_after_crash().await;
        let row = rig.catalog.get(&rig.row.id).await.unwrap();
        assert!(rig.stored_bytes().await >= 15);
        assert_eq!(
            rig.stored_bytes().await == 30,
            rig.catalog.extents(&row.id).await.unwrap().len() >= 4
        );
        assert!(row.state == ImportState::Importing || rig.stored_bytes().await == 30);
        done
    })
    .await;
    assert_eq!(steps, 5, "two chunks, a manifest and the one before, the old chunk");
}

#[tokio::test]
async fn an_object_that_cannot_be_removed_keeps_its_row_and_the_rest_is_removed() {
    let mut rig = Rig::new().await;
    let crashing = CrashAt::new(&rig.backend, usize::MAX, false);
    let backend: Arc<dyn StorageBackend> = Arc::clone(&crashing) as _;
    let objects = rig.catalog.objects(&rig.row.id).await.unwrap();
    let manifest = objects.iter().find(|object| object.role == Role::Manifest).unwrap();
    *crashing.refused.lock() = Some(manifest.key.clone());
    let refused = remove_import(&rig.catalog, &backend, &rig.row, false).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::PermissionDenied);
    assert_eq!(
        list_all(&*rig.backend, "").await.unwrap().len(),
        4,
        "nothing is deleted before the manifest"
    );
    *crashing.refused.lock() = Some(objects[1].key.clone());
    let refused = remove_import(&rig.catalog, &backend, &rig.row, false).await.unwrap_err();
    let text = refused.report();
    assert!(text.contains("1 of 3 objects could not be removed"), "{text}");
    assert!(text.contains(&objects[1].key) && text.contains("not allowed"), "{text}");
    let left = rig.catalog.objects(&rig.row.id).await.unwrap();
    assert_eq!(left.iter().map(|object| &object.key).collect::<Vec<_>>(), [&objects[1].key]);
    assert_eq!(rig.catalog.get(&rig.row.id).await.unwrap().state, ImportState::Removing);
    let sweep = Sweep { catalog: &rig.catalog, backend: &backend, storage: "file", idle: None };
    let found = sweep.find().await.unwrap();
    let removed = sweep.remove(&found, false).await.unwrap();
    assert_eq!((removed.failures.count(), removed.tally.objects), (1, 0));
    *crashing.refused.lock() = None;
    rig.sweep_after_crash().await;
    assert!(list_all(&*rig.backend, "").await.unwrap().is_empty());
}

/// Half of the objects are named and half are not. They are found and removed page by page.
#[tokio::test]
async fn a_hundred_thousand_objects_are_swept_with_one_listing_and_one_delete_each() {
    const OBJECTS: u64 = 100_000;
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).await.unwrap();
    let memory = Arc::new(MemoryBackend::new());
    let id = "9c4e01ab";
    let key = |n: u64| format!("{}/{id}/{n:08x}", catalog.id());
    for n in 0..OBJECTS {
        memory.put(&Key::new(&key(n)).unwrap(), body(1)).await.unwrap();
    }
    let object = |n: u64| ExistingObject {
        key: key(n),
        len: 1,
        role: Role::Chunk,
        packed: false,
        extents: vec![(n..n + 1, 0)],
        tag: None,
        encoding: Encoding::default(),
        root: None,
        shared: false,
    };
    let attached = ImportWithObjects {
        id: id.parse().unwrap(),
        new: NewImport { len: OBJECTS, storage: "file".into(), ..NewImport::default() },
        state: ImportState::Importing,
        created_at: 0,
        completed_at: None,
        objects: (0..OBJECTS).step_by(2).map(object).collect(),
        manifests: Vec::new(),
        catalogs: Vec::new(),
    };
    catalog.attach_import(attached).await.unwrap();
    let counting = CrashAt::new(&memory, usize::MAX, true);
    let backend: Arc<dyn StorageBackend> = Arc::clone(&counting) as _;
    let sweep = Sweep { catalog: &catalog, backend: &backend, storage: "file", idle: None };
    let found = sweep.find().await.unwrap();
    assert_eq!(found.own.objects as u64, OBJECTS / 2);
    let pages = counting.pages.load(Ordering::Relaxed) as u64;
    // A page of the memory backend has 100 objects.
    assert!(pages <= OBJECTS / 100 + 1, "{pages} pages for {OBJECTS} objects");
    let removed = sweep.remove(&found, false).await.unwrap();
    assert_eq!((removed.tally.objects as u64, removed.failures.count()), (OBJECTS / 2, 0));
    assert_eq!(counting.changes.load(Ordering::Relaxed) as u64, OBJECTS / 2);
    assert!(sweep.find().await.unwrap().is_empty());
    assert_eq!(list_all(&*memory, "").await.unwrap().len() as u64, OBJECTS / 2);
}
