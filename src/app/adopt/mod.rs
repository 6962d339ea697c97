//! `adopt`: creates an import from objects that are in a storage already. The objects are read in place: they are not
//! copied, and bae does not own them.
//!
//! The storage is listed once and matched with the torrent's files ([`Matching`]). The matching objects are read once
//! and hashed ([`Hashing`]). The import is recorded in one transaction, with extents that point at the user's objects,
//! and only for verified pieces. An interrupted `adopt` records nothing.

mod hashing;

use std::{
    ops::Range,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::hashing::Hashing;
use super::{
    App, FetchOrder, ProgressFn, import::check_memory, place::Place, plan::file_rows,
    source::Source,
};
use crate::{
    backends::{Key, Stamp},
    catalog::{
        Attached, AttachedObject, FileRow, ImportId, ImportState, LayoutKind, NewImport, Role,
    },
    error::{Error, Kind, Result},
    protocols::FetchOptions,
    storage::{
        RangeSet,
        matching::{Matched, Matching},
    },
    torrents::metainfo::Metainfo,
};

/// Concurrent requests for object versions ([`Stamp`]).
const AT_ONCE: usize = 8;

/// Options of `adopt`.
#[derive(Debug, Clone)]
pub struct AdoptRequest {
    /// Path or http(s) URL of a `.torrent` file, or a magnet link of a torrent that was imported before.
    pub torrent: String,
    /// The storage with the objects: a name or URL, as for imports.
    pub from: String,
    /// Only match by name and length. Nothing is read or recorded.
    pub dry_run: bool,
}

/// Result of `adopt`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AdoptSummary {
    /// Empty when nothing was recorded.
    pub id: String,
    pub name: String,
    pub info_hash: String,
    pub storage: String,
    /// Total length of the torrent's files in bytes.
    pub bytes: u64,
    /// Bytes of them in adopted objects; with `dry_run`, in objects that match.
    pub adopted: u64,
    /// Number of files that are completely in an object of the user.
    pub files: usize,
    /// `importing` while bytes are missing, else `imported`.
    pub state: &'static str,
    /// Files that were not adopted, or only in part.
    pub missing: Vec<MissingFile>,
}

/// A file that was not adopted, or only in part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MissingFile {
    pub path: String,
    pub bytes: u64,
    /// Missing bytes of the file.
    pub missing: u64,
    pub reason: String,
}

/// A file and the object that may hold it.
#[derive(Debug, Clone)]
struct Candidate {
    file: FileRow,
    key: Key,
    tag: Option<String>,
}

impl Candidate {
    fn range(&self) -> Range<u64> {
        self.file.start..self.file.start + self.file.len
    }
}

impl App {
    /// Creates an import of a torrent from the user's own objects. They are read, and never changed or deleted. Missing
    /// and different bytes can be fetched by [`App::import`] into bae's own objects.
    ///
    /// # Errors
    /// `NotFound` when no file of the torrent is in the storage; `AlreadyExists` when the storage already has an import
    /// of the torrent, or a file is an object of another import; `Corrupt` when no piece matches its hash; `Cancelled`;
    /// otherwise the error of the storage.
    pub async fn adopt(
        &self,
        request: AdoptRequest,
        progress: ProgressFn,
        cancel: CancellationToken,
    ) -> Result<AdoptSummary> {
        let look = self.look_for(&request, progress);
        let looked = tokio::select! {
            looked = look => looked?,
            () = cancel.cancelled() => {
                return Err(Error::new(Kind::Cancelled, "stopped; nothing was recorded"));
            }
        };
        let summary = looked.summary();
        if summary.adopted == 0 {
            let text =
                format!("nothing in storage {:?} is what {:?} says", summary.storage, summary.name);
            return Err(Error::new(Kind::Corrupt, text));
        }
        if request.dry_run {
            return Ok(summary);
        }
        let place = Arc::clone(&looked.place);
        let chunk_len = place.chunk_len(self.config.memory.0);
        let attached = looked.into_attached(&request.torrent, chunk_len)?;
        let row = self.catalog.attach_import(attached).await?;
        self.leave_manifest(&row, &place).await;
        Ok(AdoptSummary { id: row.id.to_string(), state: row.state.as_str(), ..summary })
    }

    async fn look_for(&self, request: &AdoptRequest, progress: ProgressFn) -> Result<Looked> {
        let (meta, metainfo) = self.torrent_to_adopt(&request.torrent).await?;
        check_memory(&meta, &self.config)?;
        let place = self.place(&request.from).await?;
        self.refuse_known(&meta, &place)?;
        let files = file_rows(&meta);
        let (candidates, mut missing) = candidates(&place, &files).await?;
        if candidates.is_empty() {
            let text = format!("no file of {:?} is in storage {:?}", meta.name, place.name);
            return Err(Error::new(Kind::NotFound, text)
                .hint("name the folder that has the torrent's files, or the one above it"));
        }
        let keys = candidates.iter().map(|candidate| candidate.key.as_str());
        self.catalog.check_adoptable(&place.name, keys)?;
        let good = match request.dry_run {
            true => candidates.iter().map(Candidate::range).collect(),
            false => {
                let memory = self.config.memory.0;
                Hashing::new(&meta, &candidates, &place.backend, memory).run(progress).await?
            }
        };
        missing.extend(candidates.iter().filter_map(|candidate| lacking(candidate, &good)));
        missing.sort_by_key(|(start, _)| *start);
        let missing = missing.into_iter().map(|(_, file)| file).collect();
        Ok(Looked { meta, metainfo, place, files, candidates, missing, good })
    }

    async fn torrent_to_adopt(&self, torrent: &str) -> Result<(Metainfo, Vec<u8>)> {
        let options = FetchOptions { silence: self.config.timeout, ..FetchOptions::default() };
        let order = FetchOrder { options, ..FetchOrder::default() };
        match Source::find(torrent, &order, true, &|_| {}).await? {
            Source::Files(_) => {
                let text = "this is no torrent: only a torrent tells what its files must be";
                Err(Error::new(Kind::InvalidInput, text).hint("give a .torrent file"))
            }
            Source::Torrent(bytes) => Metainfo::read(bytes),
            Source::Magnet(_, magnet) => {
                let known = self.catalog.find_by_info_hash(magnet.v1, magnet.v2)?;
                let known = known.first().map(|row| self.metainfo_of(row)).transpose()?;
                let (bytes, meta) = known.ok_or_else(|| {
                    Error::new(Kind::Unsupported, "a magnet link does not say what files there are")
                        .hint("give the .torrent file")
                })?;
                Ok((meta, bytes))
            }
        }
    }

    fn refuse_known(&self, meta: &Metainfo, place: &Place) -> Result<()> {
        let known = self.catalog.find_by_info_hash(meta.info_hash_v1, meta.info_hash_v2)?;
        let Some(row) = known.into_iter().find(|row| row.storage == place.name) else {
            return Ok(());
        };
        let text =
            format!("import {} of this torrent is in storage {:?} already", row.id, row.storage);
        Err(Error::new(Kind::AlreadyExists, text).hint(format!(
            "`bae rm {}` first, which leaves what is yours; `bae import` fetches what it lacks",
            row.id
        )))
    }
}

/// A missing file, with its start in the import.
type Missing = (u64, MissingFile);

/// Lists the storage, and requests the version of each matching object. Files without an object are missing.
async fn candidates(place: &Place, files: &[FileRow]) -> Result<(Vec<Candidate>, Vec<Missing>)> {
    let mut matching = Matching::new(files);
    let mut page = place.backend.list("", None).await?;
    loop {
        page.objects.iter().for_each(|object| matching.see(object));
        let Some(next) = page.next else { break };
        page = place.backend.list("", Some(&next)).await?;
    }
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for (file, matched) in files.iter().zip(matching.finish()) {
        match matched {
            Some(Matched::Object(key)) => found.push((file, Key::new(&key)?)),
            Some(other) => missing.push(all_of(file, why_not(&other))),
            None => {}
        }
    }
    let stamps = stamps(place, found.iter().map(|(_, key)| key.clone())).await?;
    let mut candidates = Vec::new();
    for ((file, key), stamp) in found.into_iter().zip(stamps) {
        match stamp {
            Some(Stamp { len, tag }) if len == file.len => {
                candidates.push(Candidate { file: file.clone(), key, tag });
            }
            _ => missing.push(all_of(file, "its object changed meanwhile".into())),
        }
    }
    Ok((candidates, missing))
}

/// The version of each object, in the order of `keys`.
async fn stamps(place: &Place, keys: impl Iterator<Item = Key>) -> Result<Vec<Option<Stamp>>> {
    let (mut stamps, mut asking) = (Vec::new(), JoinSet::new());
    let mut keys = keys.enumerate();
    loop {
        while asking.len() < AT_ONCE {
            let Some((n, key)) = keys.next() else { break };
            let backend = Arc::clone(&place.backend);
            stamps.push(None);
            asking.spawn(async move { (n, backend.stamp(&key).await) });
        }
        let Some(answered) = asking.join_next().await else { return Ok(stamps) };
        let (n, stamp) =
            answered.map_err(|e| Error::new(Kind::Internal, "a question panicked").because(e))?;
        stamps[n] = stamp?;
    }
}

fn why_not(matched: &Matched) -> String {
    match matched {
        Matched::OtherLength(len) => format!("the object of its name has {len} bytes"),
        Matched::Several => "several objects have its length, and none its name".into(),
        Matched::Nothing | Matched::Object(_) => "no object has its name or its length".into(),
    }
}

fn all_of(file: &FileRow, reason: String) -> Missing {
    let missing = file.len;
    (file.start, MissingFile { path: file.path.clone(), bytes: file.len, missing, reason })
}

/// The part of a candidate that failed verification.
fn lacking(candidate: &Candidate, good: &RangeSet) -> Option<Missing> {
    let lacks = candidate.file.len - good.len_within(candidate.range());
    let why = "its bytes differ, or share a piece with a file that is missing";
    let (start, file) = all_of(&candidate.file, why.into());
    (lacks > 0).then_some((start, MissingFile { missing: lacks, ..file }))
}

/// The result of matching and hashing.
struct Looked {
    meta: Metainfo,
    metainfo: Vec<u8>,
    place: Arc<Place>,
    files: Vec<FileRow>,
    candidates: Vec<Candidate>,
    missing: Vec<MissingFile>,
    /// Ranges of the verified pieces.
    good: RangeSet,
}

impl Looked {
    fn summary(&self) -> AdoptSummary {
        let Self { meta, place, files, missing, good, .. } = self;
        let real = || files.iter().filter(|file| !file.pad);
        let hash = meta.info_hash_v1.as_ref().map(|hash| &hash[..]);
        let hash = hash.or(meta.info_hash_v2.as_ref().map(|hash| &hash[..])).unwrap_or_default();
        AdoptSummary {
            id: String::new(),
            name: meta.name.clone(),
            info_hash: hash.iter().map(|b| format!("{b:02x}")).collect(),
            storage: place.name.clone(),
            bytes: real().map(|file| file.len).sum(),
            adopted: real().map(|f| good.len_within(f.start..f.start + f.len)).sum(),
            files: real().count() - missing.len(),
            state: if missing.is_empty() { "imported" } else { "importing" },
            missing: missing.clone(),
        }
    }

    /// The import in the form that the catalog records.
    fn into_attached(self, source: &str, chunk_len: u64) -> Result<Attached> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let whole = self.missing.is_empty();
        let mut objects: Vec<_> =
            self.candidates.iter().map(|candidate| adopted(candidate, &self.good)).collect();
        objects.retain(|object| !object.extents.is_empty());
        let new = NewImport {
            name: self.meta.name.clone(),
            source: source.to_owned(),
            info_hash_v1: self.meta.info_hash_v1,
            info_hash_v2: self.meta.info_hash_v2,
            len: self.meta.len,
            storage: self.place.name.clone(),
            chunk_len,
            layout: LayoutKind::Chunks,
            metainfo: self.metainfo,
            files: self.files,
            ..NewImport::default()
        };
        Ok(Attached {
            id: ImportId::random()?,
            new,
            state: if whole { ImportState::Imported } else { ImportState::Importing },
            created_at: now,
            completed_at: whole.then_some(now),
            objects,
            manifests: Vec::new(),
            catalogs: Vec::new(),
        })
    }
}

/// The user's object, with the verified ranges that it holds.
fn adopted(candidate: &Candidate, good: &RangeSet) -> AttachedObject {
    let start = candidate.file.start;
    let held = good.within(candidate.range());
    AttachedObject {
        key: candidate.key.to_string(),
        len: candidate.file.len,
        role: Role::Adopted,
        packed: false,
        extents: held.map(|range| (range.clone(), range.start - start)).collect(),
        tag: candidate.tag.clone(),
    }
}
