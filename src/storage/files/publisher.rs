//! Makes one file of an import an object of its own, under the torrent's own file name.
//!
//! The order of steps keeps an extent for every byte, wherever a crash happens:
//! 1. The name is recorded as an intent.
//! 2. The object is made of the stored bytes. The storage copies them itself where it can.
//! 3. One transaction moves the file's extents to the new object, and marks objects that hold nothing any more as
//!    dying.
//! 4. Readers see the new extents.
//! 5. The emptied objects are deleted.
//!
//! A crash leaves at most an intent, which the next try resumes or the sweep removes.
//!
//! An object that does not belong to this import is never overwritten.

use std::{
    collections::{HashMap, HashSet},
    ops::{AddAssign, Range},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::{sync::OnceCell, task::JoinSet};

use super::{
    composition::{Composition, CompositionLimits, PartSource, plan_composition},
    file_names::{FileObjects, ImportFolder, usable_path},
    name_probe::{RenamedPaths, probe_names},
    sequential_upload::{self, SequentialUpload},
};
use crate::{
    backends::{CopySupport, Key, MultipartUpload, Payload, StorageBackend},
    catalog::{Catalog, FileRow, NamedIntent, ObjectRow, ObjectState, Role},
    error::{Error, Kind, Result},
    memory::BLOCK_LEN,
    storage::{ImportReader, ImportStore, Pressure, sweep::delete_freed},
    units::MIB,
};

/// How often an upload that the storage has forgotten is started again.
const MAX_RESTARTS: usize = 3;
/// The number of bytes per read of a part that is sent: a few windows, which hides the latency.
const READ_LEN: u64 = 2 * MIB;

/// The result of publishing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Published {
    pub files: u64,
    pub bytes: u64,
    /// The part of `bytes` that the storage copied by itself.
    pub copied: u64,
    /// The part of `bytes` that was read back and sent again.
    pub sent: u64,
}

impl AddAssign for Published {
    fn add_assign(&mut self, other: Self) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.copied += other.copied;
        self.sent += other.sent;
    }
}

/// Publishes the files of one import. An import has at most one publisher at a time.
#[derive(Debug)]
pub struct Publisher {
    reader: ImportReader,
    catalog: Catalog,
    pressure: Arc<Pressure>,
    /// The number of parts of a file in flight at once.
    concurrency: usize,
    folder: OnceCell<ImportFolder>,
    /// The names that the storage cannot keep; empty until they were probed.
    renamed: OnceCell<Arc<RenamedPaths>>,
    file_objects: Mutex<FileObjects>,
    /// The files that are sent as they arrive, by start position.
    uploads: Mutex<HashMap<u64, Arc<SequentialUpload>>>,
    /// Objects that hold nothing any more and are still to be deleted.
    freed: Mutex<Vec<ObjectRow>>,
    /// Set when the server refuses copies that its capabilities promise.
    copies_unsupported: AtomicBool,
}

impl Publisher {
    /// Must be called before the import's writer starts: chunk intents are then leftovers of an earlier run, and the
    /// first publishing deletes them.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn new(
        reader: ImportReader,
        catalog: Catalog,
        pressure: Arc<Pressure>,
        concurrency: usize,
    ) -> Result<Arc<Self>> {
        let objects = catalog.objects(reader.store().id()).await?;
        let file_objects = FileObjects::of(&objects);
        let is_leftover = |object: &ObjectRow| object.role == Role::Chunk && !object.is_stored();
        Ok(Arc::new(Self {
            reader,
            catalog,
            pressure,
            concurrency: concurrency.max(1),
            folder: OnceCell::new(),
            renamed: OnceCell::new(),
            file_objects: Mutex::new(file_objects),
            uploads: Mutex::default(),
            freed: Mutex::new(objects.into_iter().filter(is_leftover).collect()),
            copies_unsupported: AtomicBool::new(false),
        }))
    }

    #[must_use]
    pub fn store(&self) -> &Arc<ImportStore> {
        self.reader.store()
    }

    pub(in crate::storage) fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    fn backend(&self) -> &Arc<dyn StorageBackend> {
        self.store().backend()
    }

    /// Probes which file names the storage cannot keep. `files` must be all files of the import. To be called before
    /// the first file is published: otherwise two files whose names are the same there would become one object.
    ///
    /// # Errors
    /// The error of the storage.
    pub async fn probe_names(&self, files: &[FileRow]) -> Result<()> {
        let prefix = self.catalog.key_prefix();
        let top = files.first().map(|file| usable_path(&file.path)).unwrap_or_default();
        let top = top.split('/').next().unwrap_or_default();
        let stored = || self.file_objects.lock().stored_paths(top);
        let renamed = probe_names(&**self.backend(), &prefix, files, stored).await?;
        if !renamed.is_empty() {
            let some: Vec<_> = renamed.paths().take(3).map(|path| format!("{path:?}")).collect();
            let more = renamed.paths().count() - some.len();
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            tracing::warn!(
                "import {}: the storage cannot keep these names, so a hash is added to them: {}{more}",
                self.store().id(),
                some.join(", "),
            );
        }
        self.renamed.get_or_init(|| async { Arc::new(renamed) }).await;
        Ok(())
    }

    fn renamed(&self) -> Arc<RenamedPaths> {
        self.renamed.get().cloned().unwrap_or_default()
    }

    /// Whether the file is an object already.
    #[must_use]
    pub fn is_published(&self, file: &FileRow) -> bool {
        let named = self.file_objects.lock().find(file).cloned();
        named.is_some_and(|object| object.is_stored() && self.holds_all(&object, &range_of(file)))
    }

    /// Whether all of the file is in `object`: after a repair, parts of it may be in chunks again.
    fn holds_all(&self, object: &ObjectRow, file: &Range<u64>) -> bool {
        let runs = self.store().stored_runs(file).unwrap_or_default();
        file.is_empty()
            || matches!(&runs[..], [only] if only.key.as_str() == object.key && only.offset == 0)
    }

    /// Makes `file`, whose bytes must all be durable, an object of its own. `progress` receives the number of bytes of
    /// each finished part. A file that is published already is left as it is. After an error the call can be repeated,
    /// and resumes. [`Publisher::delete_freed`] deletes the objects that held the file before.
    ///
    /// # Errors
    /// `NotFound` when a part of the file is not stored; `AlreadyExists` when a foreign object has its name; else the
    /// error of the storage or the catalog.
    pub async fn publish(
        self: &Arc<Self>,
        file: &FileRow,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Published> {
        let context = |e: Error| {
            let (id, path) = (self.store().id(), &file.path);
            e.with_context(format_args!("file {path:?} of import {id}"))
        };
        self.publish_file(file, progress).await.map_err(context)
    }

    async fn publish_file(
        self: &Arc<Self>,
        file: &FileRow,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Published> {
        let range = range_of(file);
        if !self.store().is_durable(range.clone()) {
            return Err(Error::new(Kind::NotFound, "the file is not completely stored yet"));
        }
        if let Some(upload) = self.upload_of(file)
            && let Some((row, done)) = upload.finish(self, file, progress).await?
        {
            self.move_extents(&row, range).await?;
            return Ok(done);
        }
        let NamedIntent { row, is_new: new } = self.reserve_name(file).await?;
        if row.is_stored() && self.holds_all(&row, &range) {
            return Ok(Published::default());
        }
        let NamedIntent { row, is_new: new } = match row.is_stored() {
            true => self.release_name(file, &range).await?,
            false => NamedIntent { row, is_new: new },
        };
        let key = Key::new(&row.key)?;
        let done = self.build_object(&key, &range, progress).await?;
        if !new {
            // An earlier run may have started the upload with parts of another length, which are useless now.
            abort_uploads(self.backend(), &key).await?;
        }
        self.move_extents(&row, range).await?;
        Ok(done)
    }

    /// Moves the file's extents to its object, which exists now.
    async fn move_extents(&self, row: &ObjectRow, range: Range<u64>) -> Result<()> {
        let freed = self.catalog.commit_whole_file(row.num, range.clone()).await?;
        self.store().record_move(row, range, &freed)?;
        self.record_stored(row);
        self.freed.lock().extend(freed);
        Ok(())
    }

    /// The upload that sends `file` as it arrives, one for each file; `None` where files are not sent so.
    pub(super) fn upload_of(&self, file: &FileRow) -> Option<Arc<SequentialUpload>> {
        let (range, capabilities) = (range_of(file), self.backend().capabilities());
        let layout = sequential_upload::upload_layout(
            &range,
            self.store().layout().chunk_len(),
            capabilities,
        )?;
        if self.file_objects.lock().find(file).is_some_and(ObjectRow::is_stored) {
            return None;
        }
        let mut uploads = self.uploads.lock();
        let upload =
            uploads.entry(file.start).or_insert_with(|| SequentialUpload::new(file, layout).into());
        Some(Arc::clone(upload))
    }

    /// The object row of `file`. With `reserved` a recorded row is trusted; else the name is checked and reserved.
    pub(in crate::storage) async fn object_row(
        &self,
        file: &FileRow,
        reserved: bool,
    ) -> Result<ObjectRow> {
        let known = self.file_objects.lock().find(file).cloned();
        match known {
            Some(row) if reserved && row.state != ObjectState::Dying => Ok(row),
            _ => self.reserve_name(file).await.map(|named| named.row),
        }
    }

    /// Frees the name of a file whose object holds only some of it, because bad parts were replaced by chunks. The file
    /// is first made one chunk, so that an object keeps its bytes as long as extents refer to it.
    async fn release_name(
        self: &Arc<Self>,
        file: &FileRow,
        range: &Range<u64>,
    ) -> Result<NamedIntent> {
        let chunk = self.catalog.intend(self.store().id(), file.len, false).await?;
        self.build_object(&Key::new(&chunk.key)?, range, &|_| ()).await?;
        let freed = self.catalog.commit_whole_file(chunk.num, range.clone()).await?;
        self.store().record_move(&chunk, range.clone(), &freed)?;
        self.delete(&freed).await?;
        self.file_objects.lock().forget(&freed);
        self.reserve_name(file).await
    }

    /// Records that the object of a file is committed.
    pub(super) fn record_stored(&self, row: &ObjectRow) {
        self.file_objects.lock().insert(ObjectRow { state: ObjectState::Stored, ..row.clone() });
    }

    /// Records the key of a file as an intent, after a check that no other object has it.
    pub(super) async fn reserve_name(&self, file: &FileRow) -> Result<NamedIntent> {
        let folder = self.folder.get_or_try_init(|| self.decide_folder(file)).await?;
        let key = folder.key(file, &self.renamed())?;
        let mut known = self.file_objects.lock().get(&key);
        if let Some(dying) = known.take_if(|row| row.state == ObjectState::Dying) {
            self.finish_deletion(dying, &key).await?;
        }
        if let Some(row) = known {
            if !row.is_stored() && self.backend().head(&key).await?.is_some() {
                // Made by an earlier try that did not record it. Its content is unknown.
                self.backend().delete(&key).await?;
            }
            return Ok(NamedIntent { row, is_new: false });
        }
        if self.backend().head(&key).await?.is_some() {
            let text = format!("object {key} exists and does not belong to this import");
            return Err(Error::new(Kind::AlreadyExists, text)
                .hint("move the object away; the file then gets its name"));
        }
        let id = self.store().id();
        let named = self.catalog.intend_named(id, key.as_str(), file.len, Role::File).await?;
        self.file_objects.lock().insert(named.row.clone());
        Ok(named)
    }

    /// Deletes an object that an earlier run has freed, so that its name can be used again.
    async fn finish_deletion(&self, dying: ObjectRow, key: &Key) -> Result<()> {
        abort_uploads(self.backend(), key).await?;
        self.backend().delete(key).await?;
        self.catalog.drop_object(dying.num).await?;
        self.file_objects.lock().forget(&[dying]);
        Ok(())
    }

    /// The torrent's own name, unless another import or object has it. Decided with the first file; later runs read it
    /// from the recorded keys.
    async fn decide_folder(&self, file: &FileRow) -> Result<ImportFolder> {
        if let Some(decided) = self.file_objects.lock().folder(file) {
            return Ok(decided);
        }
        let torrent_folder = ImportFolder::torrent();
        let renamed = self.renamed();
        let (store, top) = (self.store(), torrent_folder.top_level(file, &renamed)?);
        let name = top.strip_suffix('/').unwrap_or(&top);
        let is_in_folder = top.len() > name.len();
        // On a disk, a folder and a file cannot have the same name.
        let is_local = !self.backend().is_remote();
        let is_taken = self.catalog.is_used_by_others(store.id(), &top).await?
            || (is_in_folder || is_local) && self.folder_exists(name).await?
            || (!is_in_folder || is_local)
                && self.backend().head(&Key::new(name)?).await?.is_some();
        Ok(if is_taken {
            ImportFolder::separate(store.name(), &renamed, store.id())
        } else {
            torrent_folder
        })
    }

    async fn folder_exists(&self, name: &str) -> Result<bool> {
        Ok(!self.backend().list(&format!("{name}/"), None).await?.objects.is_empty())
    }

    /// Makes the object `key` of the stored bytes of `file`.
    async fn build_object(
        self: &Arc<Self>,
        key: &Key,
        file: &Range<u64>,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Published> {
        let mut tries = 0;
        loop {
            let plan = self.plan(file)?;
            let error = match self.execute(key, file, plan, progress).await {
                Ok(done) => return Ok(done),
                Err(e) => e,
            };
            tries += 1;
            match error.kind() {
                Kind::SessionExpired if tries <= MAX_RESTARTS => {}
                Kind::Unsupported if !self.copies_unsupported.swap(true, Ordering::Relaxed) => {
                    tracing::info!("{}; sending the bytes instead", error.report());
                    abort_uploads(self.backend(), key).await?;
                }
                _ => return Err(error),
            }
        }
    }

    fn plan(&self, file: &Range<u64>) -> Result<Composition> {
        let mut capabilities = self.backend().capabilities();
        if self.copies_unsupported.load(Ordering::Relaxed) {
            capabilities.copy = CopySupport::No;
        }
        let runs = self.store().stored_runs(file);
        let runs = runs
            .ok_or_else(|| Error::new(Kind::NotFound, "the file is not completely stored yet"))?;
        let chunk_len = self.store().layout().chunk_len();
        let limits =
            CompositionLimits { capabilities, chunk_len, max_sent: self.pressure.max_read_back() };
        plan_composition(file.end - file.start, &runs, &limits)
    }

    async fn execute(
        self: &Arc<Self>,
        key: &Key,
        file: &Range<u64>,
        plan: Composition,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Published> {
        let (bytes, copied) = (plan.layout.len, plan.copied_bytes());
        let done = Published { files: 1, bytes, copied, sent: bytes - copied };
        if let [PartSource::Send(range)] = &plan.parts[..] {
            // One request instead of three.
            let payload = self.read(in_import(file, range)).await?;
            self.backend().put(key, payload).await?;
            progress(bytes);
            return Ok(done);
        }
        let upload: Arc<dyn MultipartUpload> =
            self.backend().begin_upload(key, plan.layout).await?.into();
        self.upload_parts(&upload, file, plan, progress).await?;
        upload.finish().await?;
        Ok(done)
    }

    /// Sends or copies the parts that the upload lacks.
    async fn upload_parts(
        self: &Arc<Self>,
        upload: &Arc<dyn MultipartUpload>,
        file: &Range<u64>,
        plan: Composition,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<()> {
        let stored_parts: HashSet<u64> = upload.stored_parts().iter().copied().collect();
        let max_in_flight =
            if self.backend().capabilities().ordered_parts { 1 } else { self.concurrency };
        let (mut running, mut result) = (JoinSet::new(), Ok(()));
        for (index, part) in (0..).zip(plan.parts) {
            let range = plan.layout.part_range(index);
            let len = range.end - range.start;
            if stored_parts.contains(&index) {
                progress(len);
                continue;
            }
            while running.len() >= max_in_flight {
                result = result.and(part_result(running.join_next().await).map(progress));
            }
            if result.is_err() {
                break;
            }
            let (this, upload, file) = (Arc::clone(self), Arc::clone(upload), file.clone());
            running.spawn(async move {
                this.upload_part(&*upload, index, part, file).await.map(|()| len)
            });
        }
        // Parts in flight are awaited even after a failure: the next try does not send them again.
        while let Some(done) = running.join_next().await {
            result = result.and(part_result(Some(done)).map(progress));
        }
        result
    }

    async fn upload_part(
        &self,
        upload: &dyn MultipartUpload,
        index: u64,
        part: PartSource,
        file: Range<u64>,
    ) -> Result<()> {
        match part {
            PartSource::Copy { key, range } => upload.copy_part(index, &key, range).await,
            PartSource::Send(range) => {
                let payload = self.read(in_import(&file, &range)).await?;
                upload.put_part(index, payload).await
            }
        }
    }

    /// Reads stored bytes into blocks of the one memory budget.
    ///
    /// # Errors
    /// `InvalidInput` when the budget can never hold so many bytes; errors of the storage.
    pub(in crate::storage) async fn read(&self, range: Range<u64>) -> Result<Payload> {
        let len = range.end - range.start;
        let (_permit, mut reservation) = self.pressure.acquire_read_back(len).await?;
        let pool = self.pressure.pool();
        let mut payload = Payload::default();
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at + READ_LEN);
            let read = self.reader.read_at(at..end).await?;
            let blocks = read.buffers().iter().flat_map(|part| part.chunks(BLOCK_LEN));
            blocks.for_each(|block| payload.push(pool.copy_reserved(&mut reservation, block)));
            at = end;
        }
        Ok(payload)
    }

    /// Deletes the objects that hold nothing any more. After a failure the next call tries all of them again.
    ///
    /// # Errors
    /// The error of the storage or the catalog.
    pub async fn delete_freed(&self) -> Result<()> {
        let freed = std::mem::take(&mut *self.freed.lock());
        let deleted = self.delete(&freed).await;
        if deleted.is_err() {
            self.freed.lock().extend(freed);
        }
        deleted
    }

    async fn delete(&self, freed: &[ObjectRow]) -> Result<()> {
        if freed.is_empty() {
            return Ok(());
        }
        delete_freed(&self.catalog, self.backend(), self.store().id(), freed).await
    }
}

/// A range of a file as a range of its import.
fn in_import(file: &Range<u64>, range: &Range<u64>) -> Range<u64> {
    file.start + range.start..file.start + range.end
}

fn range_of(file: &FileRow) -> Range<u64> {
    file.start..file.start + file.len
}

/// Aborts the uploads that were started under `key`: they take paid space and hold nothing that is named.
pub(in crate::storage) async fn abort_uploads(
    backend: &Arc<dyn StorageBackend>,
    key: &Key,
) -> Result<()> {
    for upload in backend.list_uploads(key.as_str()).await? {
        if upload.key == *key {
            backend.abort_upload(&upload).await?;
        }
    }
    Ok(())
}

fn part_result<T>(done: Option<Result<Result<T>, tokio::task::JoinError>>) -> Result<T> {
    let failed = |e: Option<tokio::task::JoinError>| {
        let error = Error::new(Kind::Internal, "the upload task of a part panicked");
        match e {
            Some(e) => error.because(e),
            None => error,
        }
    };
    match done {
        Some(Ok(part)) => part,
        Some(Err(e)) => Err(failed(Some(e))),
        None => Err(failed(None)),
    }
}
