//! Requests to [`Engine`](super::Engine) and its answers: plain values, shared by the CLI and every later surface.

use std::{collections::HashMap, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use schemars::JsonSchema;
use serde::Serialize;

use super::Streams;
use crate::{
    backends::StorageBackend,
    catalog::{ImportState, LayoutKind},
    config::{SeedGoal, SeedOptions, SessionOptions, TorrentOptions},
    downloads::{FetchLimits, ResumePolicy},
    error::Error,
    events::LogLimits,
    protocols::{Digest, FetchOptions},
    storage::Published,
};

/// How the data folder is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reads the catalog and the objects. Any number of processes at once.
    Read,
    /// Changes the catalog and the objects. One process at a time.
    Write,
    /// Changes single catalog rows about imports, never their bytes. Allowed while another process writes.
    Shared,
}

/// How an engine is opened.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    pub access: Access,
    /// The settings of the torrent session, which starts when it is needed.
    pub session: SessionOptions,
    pub log_limits: LogLimits,
    /// Backends of the embedding program, by the name of their storage, whose profile is of kind
    /// [`ProfileKind::Custom`](crate::config::ProfileKind::Custom).
    pub backends: HashMap<String, Arc<dyn StorageBackend>>,
}

impl EngineOptions {
    /// With the default session and event log.
    #[must_use]
    pub fn new(access: Access) -> Self {
        let (session, log_limits) = (SessionOptions::default(), LogLimits::default());
        Self { access, session, log_limits, backends: HashMap::new() }
    }

    #[must_use]
    pub fn session(self, session: SessionOptions) -> Self {
        Self { session, ..self }
    }
}

/// A source to import.
#[derive(Debug, Clone, Default)]
pub struct ImportRequest {
    /// Path or URL of a `.torrent` file, a magnet link, or the URL of a file or folder.
    pub source: String,
    /// The torrent file itself. Then `source` is only recorded.
    pub torrent_file: Option<Bytes>,
    /// Name or URL of the storage, as for [`Config::storage`](crate::config::Config::storage).
    pub storage: String,
    /// Files by number (from 1), range, or glob; `None` is all.
    pub select: Option<String>,
    /// `Files` also turns an existing import of chunks into whole
    /// files; `Chunks` changes nothing of an existing import.
    pub layout: LayoutKind,
    /// The settings of the torrent in the session.
    pub torrent: TorrentOptions,
    /// Continue seeding after the import, until stopped or a seed goal is reached.
    pub seed: bool,
    pub seeding: SeedOptions,
    /// Idle timeout: give up when no bytes arrive for so long.
    pub timeout: Option<Duration>,
    /// Opens the import for players here as soon as its files are known.
    pub streams: Option<Streams>,
    pub download: DownloadOptions,
}

impl ImportRequest {
    /// Imports `source` into `storage`, with the default options.
    #[must_use]
    pub fn new(source: impl Into<String>, storage: impl Into<String>) -> Self {
        Self { source: source.into(), storage: storage.into(), ..Self::default() }
    }

    /// Imports only these files, by number (from 1), range, or glob.
    #[must_use]
    pub fn select(self, select: impl Into<String>) -> Self {
        Self { select: Some(select.into()), ..self }
    }

    #[must_use]
    pub fn layout(self, layout: LayoutKind) -> Self {
        Self { layout, ..self }
    }

    /// Continues seeding after the import.
    #[must_use]
    pub fn seed(self, options: SeedOptions) -> Self {
        Self { seed: true, seeding: options, ..self }
    }

    /// Gives up when no bytes arrive for so long.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self }
    }

    /// Opens the import for players as soon as its files are known.
    #[must_use]
    pub fn streams(self, streams: Streams) -> Self {
        Self { streams: Some(streams), ..self }
    }
}

/// How files are fetched from servers.
#[derive(Debug, Clone, Default)]
pub struct DownloadOptions {
    pub fetch: FetchOptions,
    /// Protocol to use for the URL, instead of that of its scheme.
    pub protocol: Option<String>,
    pub fetch_limits: FetchLimits,
    pub resume: ResumePolicy,
    /// Expected checksums of the file.
    pub checksums: Vec<Digest>,
    /// Also verify against the checksum file next to the file on the server.
    pub sidecar: bool,
}

/// A summary of one import.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct ImportSummary {
    pub id: String,
    pub name: String,
    /// Bytes of the selected files.
    pub bytes: u64,
    /// Number of selected files.
    pub files: usize,
    pub state: ImportState,
    pub storage: String,
    pub info_hash: String,
    pub source: String,
    /// Selected bytes that storage acknowledged, in whole pieces. With a selection it may exceed `bytes`.
    pub stored: u64,
}

/// Full details of one import.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct ImportInfo {
    #[serde(flatten)]
    pub summary: ImportSummary,
    #[serde(rename = "file_list")]
    pub files: Vec<FileInfo>,
    pub objects: usize,
    pub layout: LayoutKind,
    /// Bytes in packed objects, which hold parts of several chunks.
    pub packed: u64,
    /// `packed` as a share of the stored bytes, 0 to 1.
    pub packed_share: f64,
    pub chunk_len: u64,
    pub piece_length: u64,
    pub pieces: usize,
    /// Scheme and host only: the rest of the URL may hold a passkey.
    pub trackers: Vec<String>,
    /// URLs without login and query.
    pub web_seeds: Vec<String>,
    pub private: bool,
    /// Seconds since 1970.
    pub created: u64,
    /// Seconds since 1970; `None` while it is incomplete.
    pub completed: Option<u64>,
    /// The seed goal that was set for this import.
    pub goal: SeedGoalInfo,
    /// Usage for seeding, over all runs.
    pub seeded: SeedUsage,
    /// Usage for all other reads: players, exports, checks.
    pub read: ReadUsage,
}

/// The seed goal that was set for one import. 0 is unlimited; `None` is the goal of the config.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, JsonSchema)]
pub struct SeedGoalInfo {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
}

impl From<SeedGoal> for SeedGoalInfo {
    fn from(goal: SeedGoal) -> Self {
        let seconds = |time: Duration| if time == SeedGoal::NO_TIME { 0 } else { time.as_secs() };
        Self {
            ratio: goal.ratio.map(|ratio| if ratio.is_finite() { ratio } else { 0.0 }),
            seconds: goal.time.map(seconds),
        }
    }
}

/// A change of the seed goal of an import.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SeedGoalChange {
    /// Clear the previous goal first.
    pub reset: bool,
    /// The new values. Those that are not set here stay.
    pub goal: SeedGoal,
}

impl SeedGoalChange {
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Usage of an import for seeding.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct SeedUsage {
    /// Ranged gets from storage. A repeated get counts each time.
    pub gets: u64,
    /// Bytes those gets returned.
    pub fetched: u64,
    /// Bytes served from the cache.
    #[serde(rename = "kept")]
    pub from_cache: u64,
    /// Bytes sent to peers.
    pub served: u64,
    /// Seconds in which peers could reach the import.
    pub seconds: u64,
    /// Price of the gets and their bytes, from the provider's list;
    /// `None` where the prices of the storage are not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dollars: Option<f64>,
}

/// Usage of an import for everything except seeding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, JsonSchema)]
pub struct ReadUsage {
    /// Ranged gets from storage. A repeated get counts each time.
    pub gets: u64,
    /// Bytes those gets returned.
    pub fetched: u64,
    /// Price of the gets and their bytes, from the provider's list;
    /// `None` where the prices of the storage are not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dollars: Option<f64>,
}

/// A file of an import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct FileInfo {
    /// Number of the file from 1, as in `--select`.
    pub number: usize,
    pub path: String,
    pub bytes: u64,
    pub selected: bool,
    /// Key of the object that holds exactly this file, once it is published or adopted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// Which parts of an import are stored.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct StoredMap {
    /// Bytes of the import, without padding.
    pub bytes: u64,
    /// Bytes of these that are durable.
    pub stored: u64,
    /// The durable part of each equal part of the import, 0 to 1.
    pub cells: Vec<f64>,
    /// Durable bytes of each file, in the order of [`ImportInfo::files`].
    pub files: Vec<u64>,
}

/// How much of a file of an import is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileProgress {
    pub path: String,
    /// Its position in the linear space of the import.
    pub range: Range<u64>,
    pub selected: bool,
    /// Durable bytes of it.
    pub stored: u64,
}

/// How much of the content of an import is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContentProgress {
    pub files: Vec<FileProgress>,
    /// 0 for an import that is no torrent.
    pub piece_length: u64,
    /// Whether each piece is durable; empty for an import that is no torrent.
    pub pieces: Vec<bool>,
}

/// Result of `publish`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PublishSummary {
    #[serde(flatten)]
    pub done: Published,
    /// Files that were whole objects already.
    pub already: usize,
    /// Files that are not completely stored yet.
    pub incomplete: usize,
}

/// A link to a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileUrl {
    pub path: String,
    pub url: String,
}

/// Options of an export.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExportOptions {
    /// Replace existing files that have other content. Without it they stay, and count as failed.
    pub overwrite: bool,
}

/// Result of an export.
#[derive(Debug, Default, Serialize)]
pub struct ExportSummary {
    /// Files and links of the import that exist in the target now.
    pub files: usize,
    pub bytes: u64,
    /// Those of `files` that existed before.
    pub already: usize,
    /// Files and links that could not be written, or whose path is taken by something else.
    pub failed: usize,
    /// Paths whose last part has another name in the target.
    pub renamed: Vec<String>,
    /// Files that should be executable and could not be made so.
    pub modes: usize,
    /// The errors of the first of `failed`.
    #[serde(skip)]
    pub failures: Vec<Error>,
}

/// Result of verifying the stored bytes of an import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Pieces hashed.
    pub pieces: usize,
    /// Pieces whose hash does not match, or whose object is gone.
    pub bad: Vec<BadPiece>,
    /// How many of `bad` are in objects that do not exist.
    pub lost: usize,
    /// Selected bytes that are not stored yet. This is not an error.
    pub missing: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BadPiece {
    /// Index of the piece from 0, as in BitTorrent.
    pub piece: u32,
    /// Paths of the files that the piece overlaps.
    pub files: Vec<String>,
}

/// Objects and bytes deleted from storage with an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RemoveSummary {
    pub objects: usize,
    pub bytes: u64,
}

/// Options of `gc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GcOptions {
    /// Remove what is found. Without it, only count.
    pub remove: bool,
    /// Also remove leftovers of catalogs whose imports `attach` took over. Another bae may still use such a catalog.
    pub attached: bool,
}

/// Objects without an import that `gc` removed or found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct GcReport {
    pub objects: usize,
    pub bytes: u64,
    /// Whether the objects were removed, or only counted.
    pub removed: bool,
    /// Uploads that were started and never finished.
    pub uploads: usize,
    /// Number of items that could not be removed, and of storages that could not be listed.
    pub failed: usize,
    /// Objects left by attached catalogs. They are removed only with [`GcOptions::attached`].
    pub held_back: usize,
    /// Imports that have a manifest in storage but are not in the catalog. They are left alone.
    pub unclaimed: usize,
}

/// Result of attaching a storage.
#[derive(Debug, Default)]
pub struct AttachReport {
    pub attached: Vec<AttachedImport>,
    pub skipped: Vec<SkippedImport>,
    /// Manifests that cannot be used, and imports whose objects another one has, with the reason.
    pub refused: Vec<Error>,
}

/// An import that is in the catalog again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AttachedImport {
    pub id: String,
    /// Its previous id, where another import has that id now.
    #[serde(rename = "was", skip_serializing_if = "Option::is_none")]
    pub old_id: Option<String>,
    pub name: String,
    /// Length in bytes, including padding.
    pub bytes: u64,
    /// Stored bytes of it that exist.
    pub stored: u64,
    pub state: ImportState,
    /// Objects in its manifest that do not exist.
    pub missing: usize,
    /// Bytes of it in the missing objects.
    pub lost: u64,
}

/// An import that `attach` left unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SkippedImport {
    pub id: String,
    pub name: String,
    pub reason: String,
}

/// Options for fetching bad pieces again.
#[derive(Debug, Clone)]
pub struct RepairRequest {
    /// The settings of the torrent in the session.
    pub torrent: TorrentOptions,
    /// Idle timeout: give up when no bytes arrive for so long.
    pub timeout: Option<Duration>,
}
