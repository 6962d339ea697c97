//! One file of an import made one object under the torrent's own name.
//!
//! The order, so that a crash anywhere leaves every byte where an extent finds it: the name is recorded as an intent,
//! the object is made of what is stored (by the place itself where it can), one transaction gives it the extents of
//! the file and makes intents of the objects that hold nothing any more, readers are told, and only then are those
//! deleted. What a crash leaves is an intent: the next try takes it up, or the sweep removes it.
//!
//! What it refuses: writing over an object that is not this import's.

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

/// How often an upload that the place forgot is begun again.
const ANEW: usize = 3;
/// So much is read at once of a part that is sent: a few windows, to hide the latency.
const READ: u64 = 2 * MIB;

/// What publishing did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Published {
    pub files: u64,
    pub bytes: u64,
    /// Of `bytes`, those that the place took over by itself.
    pub copied: u64,
    /// Of `bytes`, those that went through here once more.
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

/// Publishes the files of one import. There is one at a time for an import.
#[derive(Debug)]
pub struct Publisher {
    reader: ImportReader,
    catalog: Catalog,
    pressure: Arc<Pressure>,
    /// Parts of a file on their way at once.
    concurrency: usize,
    folder: OnceCell<Folder>,
    /// What the place cannot keep under its own name; nothing before that was tried.
    renamed: OnceCell<Arc<Renamed>>,
    named: Mutex<WholeFiles>,
    /// Files that are sent as they come, by where they begin.
    streams: Mutex<HashMap<u64, Arc<Stream>>>,
    /// Objects that hold nothing any more and are still to be deleted.
    freed: Mutex<Vec<ObjectRow>>,
    /// Set when the server turned out not to copy.
    sends_all: AtomicBool,
}

impl Publisher {
    /// Must be made before the import's writer starts: intents of chunks are then leftovers of an earlier run, which
    /// the first publishing removes.
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

    /// Finds out which names of `files`, which are all of the import, the place cannot keep. To be called before the
    /// first file is published: two files whose names are one there would be one object.
    ///
    /// # Errors
    /// What the place says.
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

    /// Whether all of the file is in `object`: after a repair some of it may be in chunks again.
    fn holds_all(&self, object: &ObjectRow, file: &Range<u64>) -> bool {
        let pieces = self.store().pieces(file).unwrap_or_default();
        file.is_empty()
            || matches!(&pieces[..], [only] if only.key.as_str() == object.key && only.offset == 0)
    }

    /// Makes `file`, of which every byte is durable, an object of its own; `progress` hears of its bytes part by part.
    /// One that is published already is left as it is. After an error it can be tried again, and goes on from there.
    /// The objects that held it are deleted by [`Publisher::delete_freed`].
    ///
    /// # Errors
    /// `NotFound` when part of it is not stored; `AlreadyExists` when something else has its name; else what the place
    /// or the catalog says.
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
            // An earlier run may have begun it in parts of another length: those are of no use any more.
            give_up(self.backend(), &key).await?;
        }
        self.take_over(&row, range).await?;
        Ok(done)
    }

    /// The object of a file is there: from now on it holds the file.
    async fn take_over(&self, row: &ObjectRow, range: Range<u64>) -> Result<()> {
        let freed = self.catalog.take_over(row.num, range.clone()).await?;
        self.store().taken_over(row, range, &freed)?;
        self.made(row);
        self.freed.lock().extend(freed);
        Ok(())
    }

    /// How `file` is sent as it comes, where it is; one for each file.
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

    /// The object that `file` is to be, by the name that was taken before, or else is taken now.
    pub(super) async fn name_of(&self, file: &FileRow, taken: bool) -> Result<ObjectRow> {
        let known = self.named.lock().find(file).cloned();
        match known {
            Some(row) if taken => Ok(row),
            _ => self.take_name(file).await.map(|named| named.row),
        }
    }

    /// Takes the name of a file again whose object holds only some of it: the rest was bad, and is in chunks. What is
    /// good becomes a chunk too first, so that an object keeps its bytes as long as something names it.
    async fn free_name(self: &Arc<Self>, file: &FileRow, range: &Range<u64>) -> Result<Named> {
        let chunk = self.catalog.intend(self.store().id(), file.len, false).await?;
        self.make(&Key::new(&chunk.key)?, range, &|_| ()).await?;
        let freed = self.catalog.take_over(chunk.num, range.clone()).await?;
        self.store().taken_over(&chunk, range.clone(), &freed)?;
        self.delete(&freed).await?;
        self.named.lock().forget(&freed);
        self.take_name(file).await
    }

    /// Notes that the object of a file is committed.
    pub(super) fn made(&self, row: &ObjectRow) {
        self.named.lock().insert(ObjectRow { stored: true, ..row.clone() });
    }

    /// Records the key of a file as intended, having seen that nothing else is there.
    pub(super) async fn take_name(&self, file: &FileRow) -> Result<Named> {
        let folder = self.folder.get_or_try_init(|| self.decide_folder(file)).await?;
        let key = folder.key(file, &self.renamed())?;
        let known = self.named.lock().get(&key);
        if let Some(row) = known {
            if !row.stored && self.backend().head(&key).await?.is_some() {
                // Made by an earlier try that did not come to record it; of what, nobody knows for sure.
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

    /// The torrent's own name, unless something else has it; decided with the first file and seen from any later on.
    async fn decide_folder(&self, file: &FileRow) -> Result<Folder> {
        if let Some(decided) = self.named.lock().folder(file) {
            return Ok(decided);
        }
        let own = Folder::own();
        let renamed = self.renamed();
        let (store, top) = (self.store(), own.top(file, &renamed)?);
        let name = top.strip_suffix('/').unwrap_or(&top);
        let is_folder = top.len() > name.len();
        // On a disk a folder and a file cannot have the same name.
        let either = !self.backend().is_remote();
        let taken = self.catalog.others_have(store.id(), &top)?
            || (is_folder || either) && self.is_folder(name).await?
            || (!is_folder || either) && self.backend().head(&Key::new(name)?).await?.is_some();
        Ok(if taken { Folder::apart(store.name(), &renamed, store.id()) } else { own })
    }

    async fn is_folder(&self, name: &str) -> Result<bool> {
        Ok(!self.backend().list(&format!("{name}/"), None).await?.objects.is_empty())
    }

    /// Makes the object of what is stored of `file`.
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

    /// Gives the upload the parts that it lacks.
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
        // Parts under way are let end, also after a failure: what has arrived is not sent again by the next try.
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

    /// Stored bytes, in blocks of the one budget for as long as they are held.
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

    /// Deletes the objects that hold nothing any more. What fails is kept for the next call.
    ///
    /// # Errors
    /// What the place or the catalog says.
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

/// A range of a file, in its import.
fn within(file: &Range<u64>, range: &Range<u64>) -> Range<u64> {
    file.start + range.start..file.start + range.end
}

fn range_of(file: &FileRow) -> Range<u64> {
    file.start..file.start + file.len
}

/// Gives up what was begun under `key`: space that is paid for and names nothing.
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
