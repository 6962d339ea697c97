//! The state of one import that its writer and its readers share: which bytes are durable and where, and which are
//! accepted but not durable yet.

use std::{collections::HashMap, ops::Range, sync::Arc};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::{
    change_detecting::detect_changes,
    extent_map::{ExtentMap, ExtentSegment},
    layout::{FileSpan, Layout},
    pending::PendingBytes,
    read_stats::ReadStats,
};
use crate::{
    backends::{Key, Payload, StorageBackend},
    catalog::{Catalog, Extent, ImportContents, ImportId, ImportRow, ObjectNum, ObjectRow, Role},
    error::{Error, Kind, Result},
    ranges::RangeSet,
    storage::map::stored_run::StoredRun,
};

/// The length up to which an import can grow: 1 TiB, 65,536 chunks of 16 MiB.
pub const MAX_GROWN_LEN: u64 = 1 << 40;

/// An open import. At most one [`ImportWriter`](crate::storage::ImportWriter) adds to it at a time; it can have many
/// readers.
///
/// A byte moves from `pending` to `durable` by being in both for a moment. Code that looks at both holds the lock of
/// `pending` while it does, so an accepted byte is always found. Lock order: `pending`, then `durable`.
#[derive(Debug)]
pub struct ImportStore {
    id: ImportId,
    name: String,
    layout: Arc<Layout>,
    backend: Arc<dyn StorageBackend>,
    durable: RwLock<Durable>,
    pending: Mutex<PendingBytes>,
    read_stats: ReadStats,
}

#[derive(Debug, Default)]
struct Durable {
    extents: ExtentMap,
    objects: HashMap<ObjectNum, StoredObject>,
    /// The ranges sent into objects that are not finished: the storage has these bytes, but they cannot be read yet.
    /// Some of them may also lie in other objects until then.
    partial_uploads: HashMap<ObjectNum, Range<u64>>,
    packed: u64,
    /// The number of times that bytes moved from one object to another.
    move_count: u64,
}

/// The key and length of an object.
#[derive(Debug, Clone)]
pub(in crate::storage) struct StoredObject {
    pub(in crate::storage) key: Key,
    pub(in crate::storage) len: u64,
    packed: bool,
}

/// Where bytes are at this moment.
#[derive(Debug, Clone)]
pub(in crate::storage) enum ByteSource {
    /// A number of padding bytes.
    Zeros(u64),
    Memory(Bytes),
    Object(StoredObject, Range<u64>),
    /// In storage, in an object that is not finished; the range is of the import.
    Unfinished(Range<u64>),
    /// Not stored yet; the range is of the import.
    Hole(Range<u64>),
}

impl ByteSource {
    /// The number of bytes, or `None` when they cannot be read.
    fn readable_len(&self) -> Option<u64> {
        (!matches!(self, Self::Unfinished(_) | Self::Hole(_))).then(|| self.len())
    }

    pub(in crate::storage) fn len(&self) -> u64 {
        match self {
            Self::Zeros(len) => *len,
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Object(_, range) | Self::Unfinished(range) | Self::Hole(range) => {
                range.end - range.start
            }
        }
    }
}

impl Durable {
    fn add(&mut self, object: &ObjectRow, extents: Vec<Extent>) -> Result<()> {
        self.add_object(object)?;
        extents.into_iter().try_for_each(|extent| self.extents.insert(extent))
    }

    fn add_object(&mut self, object: &ObjectRow) -> Result<()> {
        if object.encoding.format != 0 {
            let text = format!("object {} has format {}", object.key, object.encoding.format);
            return Err(Error::new(Kind::Unsupported, text).hint("update bae"));
        }
        let ObjectRow { num, len, packed, .. } = *object;
        let stored = StoredObject { key: Key::new(&object.key)?, len, packed };
        self.objects.insert(num, stored);
        self.packed += if packed { len } else { 0 };
        Ok(())
    }

    /// The parts of `range` that the storage does not have.
    fn holes(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut holes = self.extents.holes(range);
        if !self.partial_uploads.is_empty() && !holes.is_empty() {
            let mut left: RangeSet = holes.into_iter().collect();
            self.partial_uploads.values().for_each(|sent| left.remove(sent.clone()));
            holes = left.iter().collect();
        }
        holes
    }
}

impl ImportStore {
    /// Opens an import from its catalog rows. Objects that belong to the user are checked for changes before they are
    /// read.
    ///
    /// # Errors
    /// When the catalog cannot be read, or its rows for the import contradict each other.
    pub async fn open(
        catalog: &Catalog,
        row: &ImportRow,
        backend: Arc<dyn StorageBackend>,
    ) -> Result<Arc<Self>> {
        Self::from_contents(row, catalog.contents(&row.id).await?, backend)
    }

    /// Opens an import whose last file grows until its end is known, to at most [`MAX_GROWN_LEN`]. The catalog has the
    /// length of what is stored.
    ///
    /// # Errors
    /// As [`ImportStore::open`].
    pub async fn open_growing(
        catalog: &Catalog,
        row: &ImportRow,
        backend: Arc<dyn StorageBackend>,
    ) -> Result<Arc<Self>> {
        let mut contents = catalog.contents(&row.id).await?;
        let mut row = row.clone();
        if let Some(last) = contents.files.last_mut() {
            row.len = MAX_GROWN_LEN.max(last.start);
            last.len = row.len - last.start;
        }
        Self::from_contents(&row, contents, backend)
    }

    /// As [`ImportStore::open`], from rows that were read already.
    ///
    /// # Errors
    /// When the rows contradict each other.
    pub fn from_contents(
        row: &ImportRow,
        contents: ImportContents,
        backend: Arc<dyn StorageBackend>,
    ) -> Result<Arc<Self>> {
        let context = |e: Error| e.with_context(format_args!("import {}", row.id));
        let backend = detect_changes(backend, contents.adopted).map_err(context)?;
        // The import may have grown since its row was read.
        let len = contents.files.last().map_or(0, |file| file.start.saturating_add(file.len));
        let spans = contents.files.iter().map(FileSpan::from);
        let layout = Layout::new(row.len.max(len), spans, row.chunk_len, row.layout);
        let mut extents: HashMap<ObjectNum, Vec<Extent>> = HashMap::new();
        for extent in contents.extents {
            extents.entry(extent.object).or_default().push(extent);
        }
        let mut durable = Durable::default();
        let holds = |object: &&ObjectRow| object.is_stored() && object.role != Role::Manifest;
        for object in contents.objects.iter().filter(holds) {
            let extents = extents.remove(&object.num).unwrap_or_default();
            durable.add(object, extents).map_err(context)?;
        }
        let partial_uploads = contents.partial_uploads.into_iter();
        durable.partial_uploads =
            partial_uploads.map(|(object, range)| (object.num, range)).collect();
        Ok(Arc::new(Self {
            id: row.id.clone(),
            name: row.name.clone(),
            layout: Arc::new(layout.map_err(context)?),
            backend,
            durable: RwLock::new(durable),
            pending: Mutex::default(),
            read_stats: ReadStats::default(),
        }))
    }

    #[must_use]
    pub fn id(&self) -> &ImportId {
        &self.id
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    #[must_use]
    pub fn backend(&self) -> &Arc<dyn StorageBackend> {
        &self.backend
    }

    /// Counts the bytes served from the cache since the import was opened.
    #[must_use]
    pub fn read_stats(&self) -> &ReadStats {
        &self.read_stats
    }

    /// Whether every byte of `range` is durable or padding. Bytes sent into unfinished uploads are durable, but cannot
    /// be read yet.
    #[must_use]
    pub fn is_durable(&self, range: Range<u64>) -> bool {
        let durable = self.durable.read();
        let inside = range.end <= self.layout.len();
        inside && self.layout.unpadded(range).all(|part| durable.holes(part).is_empty())
    }

    /// Whether every byte of `range` is in finished objects, or padding: durable and readable.
    #[must_use]
    pub fn is_in_finished_objects(&self, range: Range<u64>) -> bool {
        let durable = self.durable.read();
        let inside = range.end <= self.layout.len();
        inside && self.layout.unpadded(range).all(|part| durable.extents.covers(&part))
    }

    /// Whether every byte of `range` can be read now: from memory, from finished objects, or as padding.
    #[must_use]
    pub fn is_readable(&self, range: Range<u64>) -> bool {
        self.readable_prefix(range.clone()) == range
    }

    /// The part of `range` from its start that can be read now, as for [`ImportStore::is_readable`].
    #[must_use]
    pub fn readable_prefix(&self, range: Range<u64>) -> Range<u64> {
        let end = range.end.min(self.layout.len()).max(range.start);
        let sources = self.locate(range.start..end).into_iter();
        let len: u64 = sources.map_while(|source| source.readable_len()).sum();
        range.start..range.start + len
    }

    /// The number of bytes of `set` that are durable, in unfinished uploads too; padding does not count.
    #[must_use]
    pub fn durable_bytes(&self, set: &RangeSet) -> u64 {
        let durable = self.durable.read();
        let parts = set.iter().flat_map(|range| self.layout.unpadded(range).collect::<Vec<_>>());
        let stored = |part: Range<u64>| {
            let holes = durable.holes(part.clone()).into_iter().map(|hole| hole.end - hole.start);
            part.end - part.start - holes.sum::<u64>()
        };
        parts.map(stored).sum()
    }

    /// The number of bytes in packed objects, which are not one whole chunk.
    #[must_use]
    pub fn packed_bytes(&self) -> u64 {
        self.durable.read().packed
    }

    /// All durable ranges, in unfinished uploads too.
    #[must_use]
    pub fn durable_ranges(&self) -> RangeSet {
        let durable = self.durable.read();
        let extents = durable.extents.iter().map(|extent| extent.range.clone());
        extents.chain(durable.partial_uploads.values().cloned()).collect()
    }

    /// The parts of `wanted` that are neither durable nor padding: what a resumed import has to fetch.
    #[must_use]
    pub fn missing(&self, wanted: &RangeSet) -> RangeSet {
        let durable = self.durable.read();
        let parts = wanted.iter().flat_map(|range| self.layout.unpadded(range));
        parts.flat_map(|part| durable.holes(part)).collect()
    }

    /// Accepts the new bytes of verified `parts`, which begin at `pos`. They are readable from now on. Returns the
    /// accepted ranges.
    pub(in crate::storage) fn accept(&self, pos: u64, parts: Vec<Bytes>) -> Vec<Range<u64>> {
        let len: u64 = parts.iter().map(|part| part.len() as u64).sum();
        let mut pending = self.pending.lock();
        let new: Vec<_> = {
            let durable = self.durable.read();
            let parts = self.layout.unpadded(pos..pos.saturating_add(len));
            let not_durable = parts.flat_map(|part| durable.holes(part));
            not_durable.flat_map(|part| pending.holes(part)).collect()
        };
        pending.insert(pos, parts, &new);
        new
    }

    /// The accepted bytes of `runs`, in order.
    pub(in crate::storage) fn pending_payload(&self, runs: &[Range<u64>]) -> Payload {
        let pending = self.pending.lock();
        runs.iter().flat_map(|run| pending.within(run)).map(|(_, part)| part).collect()
    }

    /// Records that an object is committed, and frees its pending bytes. Returns how many bytes were freed.
    pub(in crate::storage) fn mark_durable(&self, object: &ObjectRow, extents: Vec<Extent>) -> u64 {
        let runs: Vec<_> = extents.iter().map(|extent| extent.range.clone()).collect();
        if let Err(e) = self.durable.write().add(object, extents) {
            // The catalog rejects such extents before they get here.
            tracing::error!("import {}: {}", self.id, e.report());
        }
        self.free_pending(&runs)
    }

    /// Frees the pending bytes of `runs`, which are durable. Returns how many bytes were freed.
    pub(in crate::storage) fn free_pending(&self, runs: &[Range<u64>]) -> u64 {
        let freed = {
            let mut pending = self.pending.lock();
            runs.iter().flat_map(|run| pending.remove(run)).collect::<Vec<_>>()
        };
        total_len(&freed)
    }

    /// Records that `range` was sent into the unfinished object `num`, counted from the object's first byte.
    pub(in crate::storage) fn set_uploaded(&self, num: ObjectNum, range: Range<u64>) {
        self.durable.write().partial_uploads.insert(num, range);
    }

    /// The range that was sent into the unfinished object that begins at `start`.
    pub(in crate::storage) fn uploaded_range_at(&self, start: u64) -> Option<Range<u64>> {
        let durable = self.durable.read();
        durable.partial_uploads.values().find(|range| range.start == start).cloned()
    }

    /// The unfinished object that begins at `start`.
    pub(in crate::storage) fn partial_upload_at(&self, start: u64) -> Option<ObjectNum> {
        let durable = self.durable.read();
        durable.partial_uploads.iter().find(|(_, range)| range.start == start).map(|(num, _)| *num)
    }

    /// Records that only `range` is left of what was sent into `num`. Returns the ranges that became holes.
    pub(in crate::storage) fn truncate_uploaded(
        &self,
        num: ObjectNum,
        range: Range<u64>,
    ) -> Vec<Range<u64>> {
        let mut durable = self.durable.write();
        let before = durable.partial_uploads.remove(&num).unwrap_or(range.clone());
        if !range.is_empty() {
            durable.partial_uploads.insert(num, range);
        }
        durable.holes(before)
    }

    /// Records that `object` holds `range` from now on, which other objects held, and that the objects in `freed` hold
    /// nothing.
    pub(in crate::storage) fn record_move(
        &self,
        object: &ObjectRow,
        range: Range<u64>,
        freed: &[ObjectRow],
    ) -> Result<()> {
        let mut durable = self.durable.write();
        durable.add_object(object)?;
        durable.partial_uploads.remove(&object.num);
        durable.extents.replace(Extent { range, object: object.num, offset: 0 });
        durable.move_count += 1;
        for object in freed {
            let removed = durable.objects.remove(&object.num).filter(|removed| removed.packed);
            durable.packed -= removed.map_or(0, |removed| removed.len);
        }
        Ok(())
    }

    /// Changes whenever bytes move to another object.
    pub(in crate::storage) fn move_count(&self) -> u64 {
        self.durable.read().move_count
    }

    /// The pieces that hold `range`, with positions from its start; `None` when a part is not in finished objects.
    pub(in crate::storage) fn stored_runs(&self, range: &Range<u64>) -> Option<Vec<StoredRun>> {
        let durable = self.durable.read();
        let segments = durable.extents.segments(range.clone());
        let run = |segment| match segment {
            ExtentSegment::Hole(_) => None,
            ExtentSegment::Stored { range: part, object, offset } => {
                let StoredObject { key, len, .. } = durable.objects.get(&object)?.clone();
                let inside = part.start - range.start..part.end - range.start;
                Some(StoredRun { range: inside, key, object_len: len, offset })
            }
        };
        segments.into_iter().map(run).collect()
    }

    /// The number of bytes that are accepted and not durable.
    pub(in crate::storage) fn pending_bytes(&self) -> u64 {
        self.pending.lock().len()
    }

    /// Drops the bytes that are accepted and not durable. Returns how many there were.
    pub(in crate::storage) fn drop_pending(&self) -> u64 {
        let dropped = self.pending.lock().take_all();
        total_len(&dropped)
    }

    /// The sources of the bytes of `range`, in order and without gaps, all looked up at one moment.
    pub(in crate::storage) fn locate(&self, range: Range<u64>) -> Vec<ByteSource> {
        let mut out = Vec::new();
        let pending = self.pending.lock();
        let durable = self.durable.read();
        let mut at = range.start;
        for part in self.layout.unpadded(range.clone()) {
            if at < part.start {
                out.push(ByteSource::Zeros(part.start - at));
            }
            at = part.end;
            let mut gap_start = part.start;
            for (start, bytes) in pending.within(&part) {
                durable.locate(gap_start..start, &mut out);
                gap_start = start + bytes.len() as u64;
                out.push(ByteSource::Memory(bytes));
            }
            durable.locate(gap_start..part.end, &mut out);
        }
        if at < range.end {
            out.push(ByteSource::Zeros(range.end - at));
        }
        out
    }
}

impl Durable {
    fn locate(&self, range: Range<u64>, out: &mut Vec<ByteSource>) {
        for segment in self.extents.segments(range) {
            out.push(match segment {
                ExtentSegment::Hole(hole) => match self.holes(hole.clone()).is_empty() {
                    true => ByteSource::Unfinished(hole),
                    false => ByteSource::Hole(hole),
                },
                ExtentSegment::Stored { range, object, offset } => {
                    match self.objects.get(&object) {
                        Some(stored) => {
                            let end = offset + (range.end - range.start);
                            ByteSource::Object(stored.clone(), offset..end)
                        }
                        None => ByteSource::Hole(range),
                    }
                }
            });
        }
    }
}

fn total_len(parts: &[Bytes]) -> u64 {
    parts.iter().map(|part| part.len() as u64).sum()
}
