//! Downloads as the REST API shows them.

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    catalog::LayoutKind,
    events::Activity,
    queue::{
        Download, Failure, Priority, RateLimits, SeedLimits, Seeding, SourceKind, State, StateName,
    },
};

/// A download, without secrets.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Download")]
pub(crate) struct DownloadView<'a> {
    id: &'a str,
    number: u64,
    name: &'a str,
    kind: SourceKind,
    source: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    info_hash_v1: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    info_hash_v2: Option<String>,
    state: StateName,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a Failure>,
    /// Seconds since 1970, while it waits for the next try.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_at: Option<u64>,
    tries: u32,
    seeding: Seeding,
    #[serde(skip_serializing_if = "Option::is_none")]
    import: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exported: Option<&'a std::path::Path>,
    storage: &'a str,
    layout: LayoutKind,
    category: Option<&'a str>,
    tags: &'a std::collections::BTreeSet<String>,
    priority: Priority,
    position: i64,
    start_after: Option<u64>,
    forced: bool,
    sequential: bool,
    select: Option<&'a str>,
    limits: RateLimits,
    seed_limits: SeedLimits,
    ratio: f64,
    progress: ProgressView<'a>,
    added_at: u64,
    started_at: Option<u64>,
    finished_at: Option<u64>,
    last_activity: Option<u64>,
    revision: u64,
}

/// Progress; rates are bytes per second.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Progress")]
struct ProgressView<'a> {
    bytes: Option<u64>,
    stored: u64,
    share: f64,
    downloaded: u64,
    uploaded: u64,
    download_rate: u64,
    upload_rate: u64,
    store_rate: u64,
    peers: usize,
    seeds: usize,
    eta_seconds: Option<u64>,
    active_seconds: u64,
    seeding_seconds: u64,
    activity: Option<Activity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<&'a str>,
}

impl<'a> From<&'a Download> for DownloadView<'a> {
    fn from(download: &'a Download) -> Self {
        let (settings, progress) = (&download.settings, &download.progress);
        Self {
            id: download.id.as_str(),
            number: download.number,
            name: &download.name,
            kind: download.kind,
            source: download.shown_source(),
            info_hash_v1: download.hashes.v1.map(|hash| crate::catalog::hex(&hash)),
            info_hash_v2: download.hashes.v2.map(|hash| crate::catalog::hex(&hash)),
            state: download.state.name(),
            error: download.state.error(),
            retry_at: match download.state {
                State::Retrying { at, .. } => Some(at),
                _ => None,
            },
            tries: download.tries,
            seeding: download.seeding,
            import: download.import.as_deref(),
            exported: download.exported.as_deref(),
            storage: &settings.storage,
            layout: settings.layout,
            category: settings.category.as_deref(),
            tags: &settings.tags,
            priority: settings.priority,
            position: download.position,
            start_after: settings.start_after,
            forced: settings.forced,
            sequential: settings.sequential,
            select: settings.select.as_deref(),
            limits: settings.limits,
            seed_limits: settings.seed_limits,
            ratio: download.ratio(),
            progress: ProgressView {
                bytes: progress.bytes,
                stored: progress.stored,
                share: progress.share(),
                downloaded: progress.downloaded,
                uploaded: progress.uploaded,
                download_rate: progress.download_rate,
                upload_rate: progress.upload_rate,
                store_rate: progress.store_rate,
                peers: progress.peers,
                seeds: progress.seeds,
                eta_seconds: progress.eta_seconds,
                active_seconds: progress.active_seconds,
                seeding_seconds: progress.seeding_seconds,
                activity: progress.activity,
                trouble: progress.trouble.as_deref(),
            },
            added_at: download.added_at,
            started_at: download.started_at,
            finished_at: download.finished_at,
            last_activity: download.last_activity,
            revision: download.revision,
        }
    }
}
