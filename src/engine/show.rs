//! `ls` and `info`: imports as the catalog has them.

use std::{collections::HashMap, ops::Range, sync::Arc};

use super::{
    ContentProgress, Engine, FileInfo, FileProgress, ImportInfo, ImportSummary, ReadUsage,
    SeedUsage, StoredMap,
    plan::{Plan, file_of_row, file_row, is_selected, selected_ranges},
    usage::price_of_reads,
};
use crate::{
    backends::MemoryBackend,
    catalog::{ImportContents, ImportRow, ImportState, ObjectRow, Role, UsageCounts, WantedCounts},
    error::Result,
    ranges::RangeSet,
    redact,
    storage::{FileObjects, ImportStore},
    torrents::metainfo::{File, Metainfo},
};

/// Listed imports of which the incomplete ones are read from the catalog at once. Bounds the memory for their extents.
const LIST_PAGE: usize = 16;

impl Engine {
    /// A summary of every import.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn list(&self) -> Result<Vec<ImportSummary>> {
        let rows = self.catalog.list().await?;
        let mut summaries = Vec::with_capacity(rows.len());
        for page in rows.chunks(LIST_PAGE) {
            let unknown = page.iter().filter(|row| recorded_bytes(row).is_none());
            let ids = unknown.map(|row| row.id.clone()).collect();
            let mut contents = self.catalog.contents_of_each(ids).await?.into_iter();
            for row in page {
                let stored = match recorded_bytes(row) {
                    Some(stored) => stored,
                    None => match contents.next().flatten() {
                        Some(contents) => self.count_stored(row, contents).await?,
                        // It was removed since the imports were listed.
                        None => continue,
                    },
                };
                summaries.push(summary(row, stored));
            }
        }
        Ok(summaries)
    }

    /// Selected bytes that are stored, in whole pieces.
    async fn count_stored(&self, row: &ImportRow, contents: ImportContents) -> Result<u64> {
        if row.selected.is_some() {
            // The pieces of a selection are known only from the torrent.
            return Ok(self.details(row, contents).await?.summary.stored);
        }
        let store = open_without_backend(row, contents)?;
        Ok(store.durable_bytes(&store.layout().all_unpadded()))
    }

    /// Full details of one import.
    ///
    /// # Errors
    /// `NotFound`, or when the catalog cannot be read.
    pub async fn info(&self, import_ref: &str) -> Result<ImportInfo> {
        let row = self.catalog.find(import_ref).await?;
        let contents = self.catalog.contents(&row.id).await?;
        let ImportDetails { summary, files, meta, store } = self.details(&row, contents).await?;
        let packed = store.packed_bytes();
        let real = files.iter().enumerate().filter(|(_, f)| !f.pad);
        let objects = self.catalog.objects(&row.id).await?;
        let whole = FileObjects::of(&objects);
        let adopted = self.adopted_keys(&row, &objects).await?;
        let key = |f: &File| {
            let object = whole.find(&file_row(f)).filter(|object| object.is_stored());
            let key = object.map(|object| object.key.clone()).filter(|_| f.symlink.is_none());
            key.or_else(|| adopted.get(&f.range.start).filter(|_| !f.range.is_empty()).cloned())
        };
        let files = (1..).zip(real).map(|(number, (i, f))| FileInfo {
            number,
            path: f.path.clone(),
            bytes: f.range.end - f.range.start,
            selected: is_selected(row.selected.as_deref(), i),
            key: key(f),
        });
        #[allow(clippy::cast_precision_loss, reason = "a share, shown in percent")]
        let share = if summary.stored == 0 { 0.0 } else { packed as f64 / summary.stored as f64 };
        let (seeded, read) = self.usage_of(&row).await?;
        let goal = self.catalog.seed_goal(&row.id).await?.into();
        Ok(ImportInfo {
            files: files.collect(),
            objects: objects.iter().filter(|o| o.is_stored() && o.role != Role::Manifest).count(),
            layout: row.layout,
            packed,
            packed_share: share.min(1.0),
            chunk_len: row.chunk_len,
            piece_length: meta.as_ref().map_or(0, |meta| u64::from(meta.piece_length)),
            pieces: meta.as_ref().map_or(0, |meta| meta.pieces() as usize),
            trackers: meta
                .iter()
                .flat_map(|meta| meta.trackers.iter().flatten())
                .map(|tracker| redact::tracker_origin(tracker))
                .collect(),
            web_seeds: meta.iter().flat_map(web_seeds).collect(),
            private: meta.is_some_and(|meta| meta.private),
            created: u64::try_from(row.created_at).unwrap_or(0),
            completed: row.completed_at.and_then(|t| u64::try_from(t).ok()),
            goal,
            seeded,
            read,
            summary,
        })
    }

    /// How much of each file and piece of an import is stored.
    ///
    /// # Errors
    /// As [`Engine::info`].
    pub async fn content_progress(&self, import_ref: &str) -> Result<ContentProgress> {
        let row = self.catalog.find(import_ref).await?;
        let contents = self.catalog.contents(&row.id).await?;
        let ImportDetails { files, meta, store, .. } = self.details(&row, contents).await?;
        let (durable, payload) = durable_payload(&store);
        let real = files.iter().enumerate().filter(|(_, file)| !file.pad);
        let files = real.map(|(index, file)| FileProgress {
            path: file.path.clone(),
            selected: is_selected(row.selected.as_deref(), index),
            stored: durable.len_within(file.range.clone()),
            range: file.range.clone(),
        });
        let is_whole =
            |range: Range<u64>| durable.len_within(range.clone()) == payload.len_within(range);
        let pieces = meta.iter().flat_map(|meta| (0..meta.pieces()).map(|n| meta.piece_range(n)));
        Ok(ContentProgress {
            files: files.collect(),
            piece_length: meta.as_ref().map_or(0, |meta| u64::from(meta.piece_length)),
            pieces: pieces.map(is_whole).collect(),
        })
    }

    /// Keys of the adopted objects that hold files of an import, by the start of the file.
    async fn adopted_keys(
        &self,
        row: &ImportRow,
        objects: &[ObjectRow],
    ) -> Result<HashMap<u64, String>> {
        let adopted = objects.iter().filter(|object| object.role == Role::Adopted);
        let keys: HashMap<_, _> = adopted.map(|object| (object.num, &object.key)).collect();
        if keys.is_empty() {
            return Ok(HashMap::new());
        }
        let extents = self.catalog.extents(&row.id).await?.into_iter();
        Ok(extents
            .filter_map(|e| Some((e.range.start - e.offset, (*keys.get(&e.object)?).clone())))
            .collect())
    }

    /// Usage of an import, with its price.
    async fn usage_of(&self, row: &ImportRow) -> Result<(SeedUsage, ReadUsage)> {
        let usage = self.catalog.usage_of(&row.id).await?;
        let UsageCounts { gets, fetched, from_cache, served, seconds, read_gets, read_fetched } =
            usage;
        let dollars = |gets, fetched| price_of_reads(&self.config, &row.storage, gets, fetched);
        let read = ReadUsage {
            gets: read_gets,
            fetched: read_fetched,
            dollars: dollars(read_gets, read_fetched),
        };
        let dollars = dollars(gets, fetched);
        Ok((SeedUsage { gets, fetched, from_cache, served, seconds, dollars }, read))
    }

    /// Which parts of an import are stored, in `cells` equal parts, and of each file.
    ///
    /// # Errors
    /// As [`Engine::info`].
    pub async fn stored_map(&self, import_ref: &str, cells: usize) -> Result<StoredMap> {
        let row = self.catalog.find(import_ref).await?;
        let contents = self.catalog.contents(&row.id).await?;
        let ImportDetails { files, store, .. } = self.details(&row, contents).await?;
        let (stored, payload) = durable_payload(&store);
        let (len, count) = (u128::from(store.layout().len()), cells.max(1) as u128);
        let border = |cell: u128| u64::try_from(len * cell / count).unwrap_or(u64::MAX);
        #[allow(clippy::cast_precision_loss, reason = "a share, shown as a colour")]
        let share = |range: Range<u64>| match payload.len_within(range.clone()) {
            0 => 1.0,
            wanted => stored.len_within(range) as f64 / wanted as f64,
        };
        let files = files.iter().filter(|file| !file.pad);
        Ok(StoredMap {
            bytes: payload.len(),
            stored: stored.len(),
            cells: (0..count).map(|cell| share(border(cell)..border(cell + 1))).collect(),
            files: files.map(|file| stored.len_within(file.range.clone())).collect(),
        })
    }

    async fn details(&self, row: &ImportRow, contents: ImportContents) -> Result<ImportDetails> {
        let (meta, files) = match row.is_torrent() {
            true => {
                let (_, mut meta) = self.original_metainfo_of(row).await?;
                meta.rename_files(contents.files.iter().map(|file| file.path.clone()));
                let files = meta.files.clone();
                (Some(meta), files)
            }
            false => (None, contents.files.iter().cloned().map(file_of_row).collect()),
        };
        let store = open_without_backend(row, contents)?;
        let wanted = match &meta {
            Some(meta) => Plan::new(meta, row.selected.as_deref(), &store).wanted,
            None => selected_ranges(&files, row.selected.as_deref()),
        };
        let summary = summary(row, store.durable_bytes(&wanted));
        Ok(ImportDetails { summary, files, meta, store })
    }
}

/// The durable ranges of an import, and all of its ranges; both without padding.
fn durable_payload(store: &ImportStore) -> (RangeSet, RangeSet) {
    let payload = store.layout().all_unpadded();
    (store.durable_ranges().intersect(&payload), payload)
}

/// Selected bytes that are stored, where the catalog has the number: for a complete import.
fn recorded_bytes(row: &ImportRow) -> Option<u64> {
    match (row.state, row.wanted) {
        (ImportState::Imported, WantedCounts { bytes, .. }) if row.selected.is_none() => {
            Some(bytes)
        }
        (ImportState::Imported, WantedCounts { stored, .. }) => stored,
        _ => None,
    }
}

/// Opens an import to look at its stored ranges. It needs only the catalog: an empty memory backend stands in for the
/// storage, which may be unreachable.
fn open_without_backend(row: &ImportRow, contents: ImportContents) -> Result<Arc<ImportStore>> {
    ImportStore::from_contents(row, contents, Arc::new(MemoryBackend::default()))
}

struct ImportDetails {
    summary: ImportSummary,
    files: Vec<File>,
    /// Only for a torrent.
    meta: Option<Metainfo>,
    store: Arc<ImportStore>,
}

fn summary(row: &ImportRow, stored: u64) -> ImportSummary {
    ImportSummary {
        id: row.id.to_string(),
        name: row.name.clone(),
        bytes: row.wanted.bytes,
        files: usize::try_from(row.wanted.files).unwrap_or(usize::MAX),
        state: row.state,
        storage: row.storage.clone(),
        info_hash: row.info_hash(),
        source: redact::source(&row.source),
        stored,
    }
}

/// Web seeds without login and query. Those of BEP 17 are marked as not used.
fn web_seeds(meta: &Metainfo) -> impl Iterator<Item = String> + '_ {
    let used = meta.web_seeds.iter().map(|url| redact::source(url));
    let others = meta.http_seeds.iter();
    used.chain(others.map(|url| format!("{} (BEP 17: not used)", redact::source(url))))
}
