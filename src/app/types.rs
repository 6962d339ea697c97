//! What is asked of [`App`](super::App) and what it answers: plain values, shared by the CLI and every later surface.

use std::time::Duration;

use serde::Serialize;

use super::Streams;
use crate::{
    catalog::LayoutKind,
    config::{NetworkOptions, SeedGoal, SeedOptions},
    downloads::{Effort, Resume},
    error::Error,
    protocols::{Digest, FetchOptions},
    storage::Published,
};

/// How the data folder is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reads the catalog and the objects; any number at once.
    Read,
    /// Changes them; one process at a time.
    Write,
    /// Changes what is said of imports and nothing of their bytes; beside a process that does.
    Beside,
}

/// One thing to bring in.
#[derive(Debug, Clone)]
pub struct ImportRequest {
    /// Path or URL of a `.torrent` file, a magnet link, or the URL of files.
    pub source: String,
    /// Name or URL, as for [`Config::storage`](crate::config::Config::storage).
    pub storage: String,
    /// Files by number from 1, range, or glob; `None` is all.
    pub select: Option<String>,
    /// `Files` also makes whole files of an import that is chunks so far; `Chunks` undoes nothing.
    pub layout: LayoutKind,
    pub network: NetworkOptions,
    /// Go on seeding when all is imported, until cancelled or it is enough.
    pub seed: bool,
    pub seeding: SeedOptions,
    /// Give up when nothing arrived for so long.
    pub timeout: Option<Duration>,
    /// Where it is opened for players as soon as its files are known.
    pub streams: Option<Streams>,
    pub fetch: FetchOrder,
}

/// How servers are reached and files are fetched from them.
#[derive(Debug, Clone, Default)]
pub struct FetchOrder {
    pub options: FetchOptions,
    /// Speaks for the URL, whatever its own scheme.
    pub protocol: Option<String>,
    pub effort: Effort,
    pub resume: Resume,
    /// What the file must hash to.
    pub checksums: Vec<Digest>,
    /// The checksum that lies beside the file counts as well.
    pub beside: bool,
}

/// One import in one line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ImportSummary {
    pub id: String,
    pub name: String,
    /// Bytes of the files wanted.
    pub bytes: u64,
    /// Files wanted.
    pub files: usize,
    /// `importing` or `imported`.
    pub state: String,
    pub storage: String,
    pub info_hash: String,
    pub source: String,
    /// Wanted bytes that storage acknowledged, in whole pieces: with a selection it may end above `bytes`.
    pub stored: u64,
}

/// One import with everything that is known of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ImportInfo {
    #[serde(flatten)]
    pub summary: ImportSummary,
    #[serde(rename = "file_list")]
    pub files: Vec<FileInfo>,
    pub objects: usize,
    /// `chunks` or `files`.
    pub layout: &'static str,
    /// Bytes in objects that hold parts of several chunks.
    pub packed: u64,
    /// `packed` as a share of the stored bytes, 0 to 1.
    pub packed_share: f64,
    pub chunk_len: u64,
    pub piece_length: u64,
    pub pieces: usize,
    /// Without what follows the host: that may hold a passkey.
    pub trackers: Vec<String>,
    /// URLs without login and query.
    pub web_seeds: Vec<String>,
    pub private: bool,
    /// Seconds since 1970.
    pub created: u64,
    /// Seconds since 1970; `None` while it is incomplete.
    pub completed: Option<u64>,
    /// When it has been seeded enough, where that was said for it.
    pub goal: Goal,
    /// What seeding it cost and gave, over all runs.
    pub seeded: Seeded,
    /// What reading it for everybody else cost: players, exports, checks.
    pub read: Read,
}

/// When an import has been seeded enough, as far as it was said for it: 0 is never, nothing is as the config says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Goal {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
}

impl From<SeedGoal> for Goal {
    fn from(goal: SeedGoal) -> Self {
        let seconds = |time: Duration| if time == SeedGoal::NO_TIME { 0 } else { time.as_secs() };
        Self {
            ratio: goal.ratio.map(|ratio| if ratio.is_finite() { ratio } else { 0.0 }),
            seconds: goal.time.map(seconds),
        }
    }
}

/// What is to become of the goal of an import.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct GoalChange {
    /// What was said before is forgotten.
    pub reset: bool,
    /// What is said now; the rest stays.
    pub goal: SeedGoal,
}

impl GoalChange {
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// The books of an import.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Seeded {
    /// Ranged gets from storage; those that were repeated count each time.
    pub gets: u64,
    /// Bytes they brought.
    pub fetched: u64,
    /// Bytes that were read from the cache instead.
    pub kept: u64,
    /// Bytes sent to peers.
    pub served: u64,
    /// Seconds in which peers could reach it.
    pub seconds: u64,
    /// What the gets and their bytes cost at list prices; `None` where the storage's prices are not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dollars: Option<f64>,
}

/// What was read of an import, but for peers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Read {
    /// Ranged gets from storage; those that were repeated count each time.
    pub gets: u64,
    /// Bytes they brought.
    pub fetched: u64,
    /// What the gets and their bytes cost at list prices; `None` where the storage's prices are not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dollars: Option<f64>,
}

/// A file of an import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileInfo {
    /// From 1, as `--select` counts.
    pub number: usize,
    pub path: String,
    pub bytes: u64,
    pub selected: bool,
    /// The object that it is by itself, once it is published, or that was adopted for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// What `publish` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PublishSummary {
    #[serde(flatten)]
    pub done: Published,
    /// Files that were whole objects already.
    pub already: usize,
    /// Files that are not wholly stored yet.
    pub incomplete: usize,
}

/// A link to a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileUrl {
    pub path: String,
    pub url: String,
}

/// How an export treats what it finds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExportOrder {
    /// Whether files that are there with other bytes are replaced; else they are left alone, and count as failed.
    pub overwrite: bool,
}

/// What an export wrote.
#[derive(Debug, Default, Serialize)]
pub struct ExportSummary {
    /// Files and links of the import that are there now.
    pub files: usize,
    pub bytes: u64,
    /// Of `files`, those that were there already.
    pub already: usize,
    /// Files and links that could not be written, or whose name another file has.
    pub failed: usize,
    /// Paths whose last part has another name there.
    pub renamed: Vec<String>,
    /// Files that should be executable and are not.
    pub modes: usize,
    /// Why, for the first of `failed`.
    #[serde(skip)]
    pub failures: Vec<Error>,
}

/// What hashing an import's stored bytes again found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Pieces hashed.
    pub pieces: usize,
    /// Those that are not what the torrent says, or whose object is gone.
    pub bad: Vec<BadPiece>,
    /// How many of `bad` are in objects that are not there.
    pub lost: usize,
    /// Wanted bytes that are not stored yet; not an error.
    pub missing: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BadPiece {
    /// From 0, as BitTorrent counts.
    pub piece: u32,
    /// Paths of the files it is part of.
    pub files: Vec<String>,
}

/// What removing an import took out of storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RemoveSummary {
    pub objects: usize,
    pub bytes: u64,
}

/// What `gc` is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GcOrder {
    /// Remove; else only count.
    pub remove: bool,
    /// Also what is left of catalogs that were taken over: their bae may still be at work somewhere.
    pub adopted: bool,
}

/// Objects that no import names: those removed, or those found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct GcReport {
    pub objects: usize,
    pub bytes: u64,
    /// Whether they were removed, or only counted.
    pub removed: bool,
    /// Uploads that were begun and not finished.
    pub uploads: usize,
    /// How many things could not be removed, or storages not looked at.
    pub failed: usize,
    /// Objects left by catalogs that were taken over, which wait for an order to remove them.
    pub held_back: usize,
    /// Imports with a manifest that are not in the catalog, and are left alone.
    pub unclaimed: usize,
}

/// What attaching a storage brought.
#[derive(Debug, Default)]
pub struct AttachReport {
    pub attached: Vec<AttachedImport>,
    pub skipped: Vec<SkippedImport>,
    /// Manifests that cannot be used, and why.
    pub refused: Vec<Error>,
}

/// An import that came back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AttachedImport {
    pub id: String,
    /// Its id before, where another import has that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub was: Option<String>,
    pub name: String,
    /// Bytes, padding included.
    pub bytes: u64,
    /// Bytes of it that are there.
    pub stored: u64,
    /// `importing` or `imported`.
    pub state: String,
    /// Objects of its manifest that are not there.
    pub missing: usize,
    /// Bytes of it in those.
    pub lost: u64,
}

/// An import that was left as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SkippedImport {
    pub id: String,
    pub name: String,
    pub reason: String,
}

/// How pieces are fetched again.
#[derive(Debug, Clone)]
pub struct RepairRequest {
    pub network: NetworkOptions,
    /// Give up when nothing arrived for so long.
    pub timeout: Option<Duration>,
}
