//! Makes one file of an import an object of its own, under the torrent's own file name.
//!
//! The order of steps keeps an extent for every byte, wherever a crash happens:
//! 1. The name is recorded as an intent.
//! 2. The object is made of the stored bytes. The storage copies them itself where it can.
//! 3. One transaction moves the file's extents to the new object, and turns objects that hold nothing any more into
//!    intents.
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
    ImportReader, ImportStore, Pressure,
    compose::{Composition, Part, Rules, compose},
    file_names::{Folder, WholeFiles, usable},
    place_names::{Renamed, try_names},
    stream::{self, Stream},
    sweep::delete_freed,
};
use crate::{
    backends::{Copying, Key, Payload, StorageBackend, Upload},
    catalog::{Catalog, FileRow, Named, ObjectRow, Role},
    error::{Error, Kind, Result},
    memory::BLOCK,
    units::MIB,
};

/// How often an upload that the storage has forgotten is started again.
const ANEW: usize = 3;
/// The number of bytes per read of a part that is sent: a few windows, which hides the latency.
const READ: u64 = 2 * MIB;

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
    folder: OnceCell<Folder>,
    /// The names that the storage cannot keep; empty until they were probed.
    renamed: OnceCell<Arc<Renamed>>,
    named: Mutex<WholeFiles>,
    /// The files that are sent as they arrive, by start position.
    streams: Mutex<HashMap<u64, Arc<Stream>>>,
    /// Objects that hold nothing any more and are still to be deleted.
    freed: Mutex<Vec<ObjectRow>>,
    /// Set when the server turns out not to copy.
    sends_all: AtomicBool,
}

impl Publisher {
    /// Must be called before the import's writer starts: chunk intents are then leftovers of an earlier run, and the
    /// first publishing deletes them.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn new(
        reader: ImportReader,
        catalog: Catalog,
        pressure: Arc<Pressure>,
        concurrency: usize,
    ) -> Result<Arc<Self>> {
        let objects = catalog.objects(reader.store().id())?;
        let named = WholeFiles::of(&objects);
        let leftover = |object: &ObjectRow| object.role == Role::Chunk && !object.stored;
        Ok(Arc::new(Self {
            reader,
            catalog,
            pressure,
            concurrency: concurrency.max(1),
            folder: OnceCell::new(),
            renamed: OnceCell::new(),
            named: Mutex::new(named),
            streams: Mutex::default(),
            freed: Mutex::new(objects.into_iter().filter(leftover).collect()),
            sends_all: AtomicBool::new(false),
        }))
    }

    #[must_use]
    pub fn store(&self) -> &Arc<ImportStore> {
        self.reader.store()
    }

    pub(super) fn catalog(&self) -> &Catalog {
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
    pub async fn try_names(&self, files: &[FileRow]) -> Result<()> {
        let prefix = self.catalog.key_prefix();
        let top = files.first().map(|file| usable(&file.path)).unwrap_or_default();
        let top = top.split('/').next().unwrap_or_default();
        let kept = || self.named.lock().kept(top);
        let renamed = try_names(&**self.backend(), &prefix, files, kept).await?;
        if !renamed.is_empty() {
            let some: Vec<_> = renamed.paths().take(3).map(|path| format!("{path:?}")).collect();
            let more = renamed.paths().count() - some.len();
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            tracing::warn!(
                "import {}: this storage cannot keep these names as they are, so they get a hash: {}{more}",
                self.store().id(),
                some.join(", "),
            );
        }
        self.renamed.get_or_init(|| async { Arc::new(renamed) }).await;
        Ok(())
    }

    fn renamed(&self) -> Arc<Renamed> {
        self.renamed.get().cloned().unwrap_or_default()
    }

    /// Whether the file is an object already.
    #[must_use]
    pub fn is_published(&self, file: &FileRow) -> bool {
        let named = self.named.lock().find(file).cloned();
        named.is_some_and(|object| object.stored && self.holds_all(&object, &range_of(file)))
    }

    /// Whether all of the file is in `object`: after a repair, parts of it may be in chunks again.
    fn holds_all(&self, object: &ObjectRow, file: &Range<u64>) -> bool {
        let pieces = self.store().pieces(file).unwrap_or_default();
        file.is_empty()
            || matches!(&pieces[..], [only] if only.key.as_str() == object.key && only.offset == 0)
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
        let place = |e: Error| {
            let (id, path) = (self.store().id(), &file.path);
            e.within(format_args!("file {path:?} of import {id}"))
        };
        self.make_whole(file, progress).await.map_err(place)
    }

    async fn make_whole(
        self: &Arc<Self>,
        file: &FileRow,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Published> {
        let range = range_of(file);
        if !self.store().covered(range.clone()) {
            return Err(Error::new(Kind::NotFound, "not all of it is stored yet"));
        }
        if let Some(stream) = self.stream(file)
            && let Some((row, done)) = stream.finish(self, file, progress).await?
        {
            self.take_over(&row, range).await?;
            return Ok(done);
        }
        let Named { row, new } = self.take_name(file).await?;
        if row.stored && self.holds_all(&row, &range) {
            return Ok(Published::default());
        }
        let Named { row, new } = match row.stored {
            true => self.free_name(file, &range).await?,
            false => Named { row, new },
        };
        let key = Key::new(&row.key)?;
        let done = self.make(&key, &range, progress).await?;
        if !new {
            // An earlier run may have started the upload with parts of another length, which are useless now.
            give_up(self.backend(), &key).await?;
        }
        self.take_over(&row, range).await?;
        Ok(done)
    }

    /// Moves the file's extents to its object, which exists now.
    async fn take_over(&self, row: &ObjectRow, range: Range<u64>) -> Result<()> {
        let freed = self.catalog.take_over(row.num, range.clone()).await?;
        self.store().taken_over(row, range, &freed)?;
        self.made(row);
        self.freed.lock().extend(freed);
        Ok(())
    }

    /// The upload that sends `file` as it arrives, one for each file; `None` where files are not sent so.
    pub(super) fn stream(&self, file: &FileRow) -> Option<Arc<Stream>> {
        let (range, can) = (range_of(file), self.backend().capabilities());
        let shape = stream::shape(&range, self.store().layout().chunk_len(), can)?;
        if self.named.lock().find(file).is_some_and(|object| object.stored) {
            return None;
        }
        let mut streams = self.streams.lock();
        let stream = streams.entry(file.start).or_insert_with(|| Stream::new(file, shape).into());
        Some(Arc::clone(stream))
    }

    /// The object row of `file`. With `taken` a row that is recorded is trusted; else the name is checked and taken.
    pub(super) async fn name_of(&self, file: &FileRow, taken: bool) -> Result<ObjectRow> {
        let known = self.named.lock().find(file).cloned();
        match known {
            Some(row) if taken => Ok(row),
            _ => self.take_name(file).await.map(|named| named.row),
        }
    }

    /// Frees the name of a file whose object holds only some of it, because bad parts were replaced by chunks. The file
    /// is first made one chunk, so that an object keeps its bytes as long as extents refer to it.
    async fn free_name(self: &Arc<Self>, file: &FileRow, range: &Range<u64>) -> Result<Named> {
        let chunk = self.catalog.intend(self.store().id(), file.len, false).await?;
        self.make(&Key::new(&chunk.key)?, range, &|_| ()).await?;
        let freed = self.catalog.take_over(chunk.num, range.clone()).await?;
        self.store().taken_over(&chunk, range.clone(), &freed)?;
        self.delete(&freed).await?;
        self.named.lock().forget(&freed);
        self.take_name(file).await
    }

    /// Records that the object of a file is committed.
    pub(super) fn made(&self, row: &ObjectRow) {
        self.named.lock().insert(ObjectRow { stored: true, ..row.clone() });
    }

    /// Records the key of a file as an intent, after a check that no other object has it.
    pub(super) async fn take_name(&self, file: &FileRow) -> Result<Named> {
        let folder = self.folder.get_or_try_init(|| self.decide_folder(file)).await?;
        let key = folder.key(file, &self.renamed())?;
        let known = self.named.lock().get(&key);
        if let Some(row) = known {
            if !row.stored && self.backend().head(&key).await?.is_some() {
                // Made by an earlier try that did not record it. Its content is unknown.
                self.backend().delete(&key).await?;
            }
            return Ok(Named { row, new: false });
        }
        if self.backend().head(&key).await?.is_some() {
            let text = format!("object {key} is there already, and is not of this import");
            return Err(Error::new(Kind::AlreadyExists, text)
                .hint("move it away, and the file takes its name"));
        }
        let id = self.store().id();
        let named = self.catalog.intend_named(id, key.as_str(), file.len, Role::File).await?;
        self.named.lock().insert(named.row.clone());
        Ok(named)
    }

    /// The torrent's own name, unless another import or object has it. Decided with the first file; later runs read it
    /// from the recorded keys.
    async fn decide_folder(&self, file: &FileRow) -> Result<Folder> {
        if let Some(decided) = self.named.lock().folder(file) {
            return Ok(decided);
        }
        let own = Folder::own();
        let renamed = self.renamed();
        let (store, top) = (self.store(), own.top(file, &renamed)?);
        let name = top.strip_suffix('/').unwrap_or(&top);
        let is_folder = top.len() > name.len();
        // On a disk, a folder and a file cannot have the same name.
        let either = !self.backend().is_remote();
        let taken = self.catalog.others_have(store.id(), &top)?
            || (is_folder || either) && self.is_folder(name).await?
            || (!is_folder || either) && self.backend().head(&Key::new(name)?).await?.is_some();
        Ok(if taken { Folder::apart(store.name(), &renamed, store.id()) } else { own })
    }

    async fn is_folder(&self, name: &str) -> Result<bool> {
        Ok(!self.backend().list(&format!("{name}/"), None).await?.objects.is_empty())
    }

    /// Makes the object `key` of the stored bytes of `file`.
    async fn make(
        self: &Arc<Self>,
        key: &Key,
        file: &Range<u64>,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Published> {
        let mut tries = 0;
        loop {
            let plan = self.plan(file)?;
            let error = match self.carry_out(key, file, plan, progress).await {
                Ok(done) => return Ok(done),
                Err(e) => e,
            };
            tries += 1;
            match error.kind() {
                Kind::SessionExpired if tries <= ANEW => {}
                Kind::Unsupported if !self.sends_all.swap(true, Ordering::Relaxed) => {
                    tracing::info!("{}; its bytes are sent instead", error.report());
                    give_up(self.backend(), key).await?;
                }
                _ => return Err(error),
            }
        }
    }

    fn plan(&self, file: &Range<u64>) -> Result<Composition> {
        let mut can = self.backend().capabilities();
        if self.sends_all.load(Ordering::Relaxed) {
            can.copy = Copying::No;
        }
        let pieces = self.store().pieces(file);
        let pieces =
            pieces.ok_or_else(|| Error::new(Kind::NotFound, "not all of it is stored yet"))?;
        let chunk_len = self.store().layout().chunk_len();
        let rules = Rules { can, chunk_len, most_sent: self.pressure.most_read_back() };
        compose(file.end - file.start, &pieces, &rules)
    }

    async fn carry_out(
        self: &Arc<Self>,
        key: &Key,
        file: &Range<u64>,
        plan: Composition,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Published> {
        let (bytes, copied) = (plan.shape.len, plan.copied());
        let done = Published { files: 1, bytes, copied, sent: bytes - copied };
        if let [Part::Send(range)] = &plan.parts[..] {
            // One request instead of three.
            let payload = self.read(within(file, range)).await?;
            self.backend().put(key, payload).await?;
            progress(bytes);
            return Ok(done);
        }
        let upload: Arc<dyn Upload> = self.backend().begin(key, plan.shape).await?.into();
        self.fill(&upload, file, plan, progress).await?;
        upload.finish().await?;
        Ok(done)
    }

    /// Sends or copies the parts that the upload lacks.
    async fn fill(
        self: &Arc<Self>,
        upload: &Arc<dyn Upload>,
        file: &Range<u64>,
        plan: Composition,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<()> {
        let there: HashSet<u64> = upload.done().iter().copied().collect();
        let at_once = if self.backend().capabilities().ordered { 1 } else { self.concurrency };
        let (mut running, mut filled) = (JoinSet::new(), Ok(()));
        for (index, part) in (0..).zip(plan.parts) {
            let range = plan.shape.part(index);
            let len = range.end - range.start;
            if there.contains(&index) {
                progress(len);
                continue;
            }
            while running.len() >= at_once {
                filled = filled.and(ended(running.join_next().await).map(progress));
            }
            if filled.is_err() {
                break;
            }
            let (me, upload, file) = (Arc::clone(self), Arc::clone(upload), file.clone());
            running.spawn(async move { me.part(&*upload, index, part, file).await.map(|()| len) });
        }
        // Parts in flight are awaited even after a failure: the next try does not send them again.
        while let Some(done) = running.join_next().await {
            filled = filled.and(ended(Some(done)).map(progress));
        }
        filled
    }

    async fn part(
        &self,
        upload: &dyn Upload,
        index: u64,
        part: Part,
        file: Range<u64>,
    ) -> Result<()> {
        match part {
            Part::Copy { key, range } => upload.copy(index, &key, range).await,
            Part::Send(range) => {
                let payload = self.read(within(&file, &range)).await?;
                upload.write(index, payload).await
            }
        }
    }

    /// Reads stored bytes into blocks of the one memory budget.
    pub(super) async fn read(&self, range: Range<u64>) -> Result<Payload> {
        let _turn = self.pressure.turn_to_read(range.end - range.start).await;
        let pool = self.pressure.pool();
        let mut payload = Payload::default();
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at + READ);
            let read = self.reader.read_at(at..end).await?;
            let blocks = read.parts().iter().flat_map(|part| part.chunks(BLOCK));
            blocks.for_each(|block| payload.push(pool.copy(block)));
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
fn within(file: &Range<u64>, range: &Range<u64>) -> Range<u64> {
    file.start + range.start..file.start + range.end
}

fn range_of(file: &FileRow) -> Range<u64> {
    file.start..file.start + file.len
}

/// Aborts the uploads that were started under `key`: they take paid space and hold nothing that is named.
pub(super) async fn give_up(place: &Arc<dyn StorageBackend>, key: &Key) -> Result<()> {
    for upload in place.unfinished(key.as_str()).await? {
        if upload.key == *key {
            place.abort(&upload).await?;
        }
    }
    Ok(())
}

fn ended<T>(done: Option<Result<Result<T>, tokio::task::JoinError>>) -> Result<T> {
    let gone = |e: Option<tokio::task::JoinError>| {
        let error = Error::new(Kind::Internal, "a part of a file did not finish");
        match e {
            Some(e) => error.because(e),
            None => error,
        }
    };
    match done {
        Some(Ok(part)) => part,
        Some(Err(e)) => Err(gone(Some(e))),
        None => Err(gone(None)),
    }
}
