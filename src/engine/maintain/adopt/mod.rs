//! `adopt`: creates an import from objects that are in a storage already. The objects are read in place: they are not
//! copied, and bae does not own them.
//!
//! The storage is listed once and matched with the torrent's files ([`ObjectMatcher`]). The matching objects are read
//! once and hashed ([`CandidateHasher`]). The import is recorded in one transaction, with extents that point at the
//! user's objects, and only for verified pieces. An interrupted `adopt` records nothing.

mod hashing;

use std::{
    ops::Range,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::hashing::CandidateHasher;
use crate::{
    backends::{Key, ObjectVersion},
    catalog::{
        Encoding, ExistingObject, FileRow, ImportId, ImportState, ImportWithObjects, LayoutKind,
        NewImport, Role,
    },
    engine::{
        DownloadOptions, Engine, ProgressFn,
        import::{check_memory, source::ImportSource},
        plan::file_rows,
        running::{Claim, ClaimKey, Purpose},
        storages::open_storage::OpenStorage,
    },
    error::{Error, Kind, Result},
    hints::{Operation, hint},
    protocols::FetchOptions,
    storage::{
        RangeSet,
        recover::object_matching::{FileMatch, ObjectMatcher},
    },
    torrents::metainfo::Metainfo,
};

/// Concurrent requests for object versions ([`ObjectVersion`]).
const MAX_CONCURRENT_REQUESTS: usize = 8;

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
    /// [`ImportState::Importing`] while bytes are missing.
    pub state: ImportState,
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

impl Engine {
    /// Creates an import of a torrent from the user's own objects. They are read, and never changed or deleted. Missing
    /// and different bytes can be fetched by [`Engine::start_import`] into bae's own objects.
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
        let finding = self.find_objects(&request, progress);
        let (plan, claim) = tokio::select! {
            plan = finding => plan?,
            () = cancel.cancelled() => {
                return Err(Error::new(Kind::Cancelled, "stopped; nothing was recorded"));
            }
        };
        let summary = plan.summary();
        if summary.adopted == 0 {
            let text = format!(
                "no object in storage {:?} matches the hashes of {:?}",
                summary.storage, summary.name
            );
            return Err(Error::new(Kind::Corrupt, text));
        }
        if request.dry_run {
            return Ok(summary);
        }
        let storage = Arc::clone(&plan.storage);
        let chunk_len = storage.chunk_len(self.config.memory.0);
        let import = plan.into_import(&request.torrent, chunk_len)?;
        let catalog = claim.fenced(&self.catalog);
        let row = catalog.attach_import(import).await?;
        self.update_manifest(&catalog, &row, &storage).await;
        Ok(AdoptSummary { id: row.id.to_string(), state: row.state, ..summary })
    }

    async fn find_objects(
        &self,
        request: &AdoptRequest,
        progress: ProgressFn,
    ) -> Result<(AdoptPlan, Claim)> {
        let (meta, metainfo) = self.torrent_to_adopt(&request.torrent).await?;
        check_memory(&meta, &self.config)?;
        let storage = self.storage(&request.from).await?;
        let torrent = ClaimKey::of_torrent(meta.info_hash_v1, meta.info_hash_v2, &storage.name);
        let claim = self.running.claim(Purpose::Adopt, torrent).await?;
        self.check_not_known(&meta, &storage).await?;
        let files = file_rows(&meta);
        let (candidates, mut missing) = candidates(&storage, &files).await?;
        if candidates.is_empty() {
            let text = format!("no file of {:?} is in storage {:?}", meta.name, storage.name);
            return Err(Error::new(Kind::NotFound, text)
                .hint("name the folder of the torrent's files, or its parent folder"));
        }
        let keys = candidates.iter().map(|candidate| candidate.key.as_str().to_owned()).collect();
        self.catalog.check_adoptable(&storage.name, keys).await?;
        let verified = match request.dry_run {
            true => candidates.iter().map(Candidate::range).collect(),
            false => {
                CandidateHasher::new(&meta, &candidates, &storage.backend, &self.memory)
                    .run(progress)
                    .await?
            }
        };
        missing.extend(
            candidates.iter().filter_map(|candidate| unverified_part(candidate, &verified)),
        );
        missing.sort_by_key(|(start, _)| *start);
        let missing = missing.into_iter().map(|(_, file)| file).collect();
        let plan = AdoptPlan { meta, metainfo, storage, files, candidates, missing, verified };
        Ok((plan, claim))
    }

    async fn torrent_to_adopt(&self, torrent: &str) -> Result<(Metainfo, Vec<u8>)> {
        let fetch = FetchOptions { idle_timeout: self.config.timeout, ..FetchOptions::default() };
        let options = DownloadOptions { fetch, ..DownloadOptions::default() };
        match ImportSource::resolve(torrent, &options, true, &|_| {}).await? {
            ImportSource::Files(_) => {
                let text = "the source is not a torrent, so it has no hashes to verify objects by";
                Err(Error::new(Kind::InvalidInput, text).hint("give a .torrent file"))
            }
            ImportSource::Torrent(bytes) => Metainfo::parse_trimmed(bytes),
            ImportSource::Magnet(_, magnet) => {
                let known = self.catalog.find_by_info_hash(magnet.v1, magnet.v2).await?;
                let row = known.first().ok_or_else(|| {
                    Error::new(Kind::Unsupported, "a magnet link does not have the list of files")
                        .hint("give the .torrent file")
                })?;
                let (bytes, meta) = self.metainfo_of(row).await?;
                Ok((meta, bytes))
            }
        }
    }

    async fn check_not_known(&self, meta: &Metainfo, storage: &OpenStorage) -> Result<()> {
        let known = self.catalog.find_by_info_hash(meta.info_hash_v1, meta.info_hash_v2).await?;
        let Some(row) = known.into_iter().find(|row| row.storage == storage.name) else {
            return Ok(());
        };
        let text =
            format!("storage {:?} already has import {} of this torrent", row.storage, row.id);
        Err(Error::new(Kind::AlreadyExists, text).hint(hint![
            "fetch its missing bytes with ",
            Operation::Import,
            ", or remove it with ",
            Operation::RemoveImport.on(&row.id),
            ", which keeps your own objects",
        ]))
    }
}

/// A missing file, with its start in the import.
type Missing = (u64, MissingFile);

/// Lists the storage, and requests the version of each matching object. Files without an object are missing.
async fn candidates(
    storage: &OpenStorage,
    files: &[FileRow],
) -> Result<(Vec<Candidate>, Vec<Missing>)> {
    let mut matching = ObjectMatcher::new(files);
    let mut page = storage.backend.list("", None).await?;
    loop {
        page.objects.iter().for_each(|object| matching.add(object));
        let Some(next) = page.next else { break };
        page = storage.backend.list("", Some(&next)).await?;
    }
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for (file, matched) in files.iter().zip(matching.finish()) {
        match matched {
            Some(FileMatch::Object(key)) => found.push((file, Key::new(&key)?)),
            Some(other) => missing.push(missing_file(file, mismatch_reason(&other))),
            None => {}
        }
    }
    let versions = object_versions(storage, found.iter().map(|(_, key)| key.clone())).await?;
    let mut candidates = Vec::new();
    for ((file, key), version) in found.into_iter().zip(versions) {
        match version {
            Some(ObjectVersion { len, tag }) if len == file.len => {
                candidates.push(Candidate { file: file.clone(), key, tag });
            }
            _ => missing.push(missing_file(file, "its object changed while it was read".into())),
        }
    }
    Ok((candidates, missing))
}

/// The version of each object, in the order of `keys`.
async fn object_versions(
    storage: &OpenStorage,
    keys: impl Iterator<Item = Key>,
) -> Result<Vec<Option<ObjectVersion>>> {
    let (mut versions, mut requests) = (Vec::new(), JoinSet::new());
    let mut keys = keys.enumerate();
    loop {
        while requests.len() < MAX_CONCURRENT_REQUESTS {
            let Some((n, key)) = keys.next() else { break };
            let backend = Arc::clone(&storage.backend);
            versions.push(None);
            requests.spawn(async move { (n, backend.version(&key).await) });
        }
        let Some(answered) = requests.join_next().await else { return Ok(versions) };
        let (n, version) = answered.map_err(|e| {
            Error::new(Kind::Internal, "requesting an object's version panicked").because(e)
        })?;
        versions[n] = version?;
    }
}

fn mismatch_reason(matched: &FileMatch) -> String {
    match matched {
        FileMatch::OtherLength(len) => format!("the object with its name has {len} bytes"),
        FileMatch::Ambiguous => "several objects have its length, and none has its name".into(),
        FileMatch::NoMatch | FileMatch::Object(_) => "no object has its name or its length".into(),
    }
}

fn missing_file(file: &FileRow, reason: String) -> Missing {
    let missing = file.len;
    (file.start, MissingFile { path: file.path.clone(), bytes: file.len, missing, reason })
}

/// The part of a candidate that failed verification.
fn unverified_part(candidate: &Candidate, verified: &RangeSet) -> Option<Missing> {
    let missing = candidate.file.len - verified.len_within(candidate.range());
    let reason = "its bytes differ, or share a piece with a missing file";
    let (start, file) = missing_file(&candidate.file, reason.into());
    (missing > 0).then_some((start, MissingFile { missing, ..file }))
}

/// The result of matching and hashing.
struct AdoptPlan {
    meta: Metainfo,
    metainfo: Vec<u8>,
    storage: Arc<OpenStorage>,
    files: Vec<FileRow>,
    candidates: Vec<Candidate>,
    missing: Vec<MissingFile>,
    /// Ranges of the verified pieces.
    verified: RangeSet,
}

impl AdoptPlan {
    fn summary(&self) -> AdoptSummary {
        let Self { meta, storage, files, missing, verified, .. } = self;
        let real = || files.iter().filter(|file| !file.pad);
        let hash = meta.info_hash_v1.as_ref().map(|hash| &hash[..]);
        let hash = hash.or(meta.info_hash_v2.as_ref().map(|hash| &hash[..])).unwrap_or_default();
        AdoptSummary {
            id: String::new(),
            name: meta.name.clone(),
            info_hash: hash.iter().map(|b| format!("{b:02x}")).collect(),
            storage: storage.name.clone(),
            bytes: real().map(|file| file.len).sum(),
            adopted: real().map(|f| verified.len_within(f.start..f.start + f.len)).sum(),
            files: real().count() - missing.len(),
            state: if missing.is_empty() { ImportState::Imported } else { ImportState::Importing },
            missing: missing.clone(),
        }
    }

    /// The import in the form that the catalog records.
    fn into_import(self, source: &str, chunk_len: u64) -> Result<ImportWithObjects> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let complete = self.missing.is_empty();
        let mut objects: Vec<_> = self
            .candidates
            .iter()
            .map(|candidate| adopted_object(candidate, &self.verified))
            .collect();
        objects.retain(|object| !object.extents.is_empty());
        let new = NewImport {
            name: self.meta.name.clone(),
            source: source.to_owned(),
            info_hash_v1: self.meta.info_hash_v1,
            info_hash_v2: self.meta.info_hash_v2,
            len: self.meta.len,
            storage: self.storage.name.clone(),
            chunk_len,
            layout: LayoutKind::Chunks,
            metainfo: self.metainfo,
            files: self.files,
            ..NewImport::default()
        };
        Ok(ImportWithObjects {
            id: ImportId::random()?,
            new,
            state: if complete { ImportState::Imported } else { ImportState::Importing },
            created_at: now,
            completed_at: complete.then_some(now),
            objects,
            manifests: Vec::new(),
            catalogs: Vec::new(),
        })
    }
}

/// The user's object, with the verified ranges that it holds.
fn adopted_object(candidate: &Candidate, verified: &RangeSet) -> ExistingObject {
    let start = candidate.file.start;
    let held = verified.within(candidate.range());
    ExistingObject {
        key: candidate.key.to_string(),
        len: candidate.file.len,
        role: Role::Adopted,
        packed: false,
        extents: held.map(|range| (range.clone(), range.start - start)).collect(),
        tag: candidate.tag.clone(),
        encoding: Encoding::default(),
        root: None,
        shared: false,
    }
}
