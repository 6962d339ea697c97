//! `import --dry-run`: estimates objects, requests, memory and price of an import before it starts.
//!
//! [`SourceContent`] finds the files: from the torrent file, from the metadata that peers send for a magnet link, or
//! from what the server reports for a URL. The numbers are computed from them and from the [`Layout`]. Nothing is
//! written, no payload is downloaded, and no remote storage is contacted.

mod content;

use schemars::JsonSchema;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use self::content::SourceContent;
use super::{
    Engine, ImportRequest,
    import::{check_free_space, resumed_layout},
    plan::{file_row, selected_bytes, selected_files},
    session::SessionSlot,
    storages::open_storage::chunk_len,
};
use crate::{
    backends::{Capabilities, DriveBackend, LocalBackend, MemoryBackend, S3Backend, local},
    catalog::{Catalog, ImportState, LayoutKind},
    config::{
        Config, Profile, ProfileKind, SessionOptions,
        prices::{Cost, DriveLimits, Prices, Provider, Usage},
    },
    error::{Kind, Result},
    memory::Budget,
    protocols::Rendition,
    storage::{
        FileSpan, Layout, Pressure, RangeSet,
        estimate::{Tally, tally},
        files::composition::CompositionLimits,
    },
    units::MIB,
};

/// Memory of the process besides payload. `scripts/bench` fails when it needs more.
const OVERHEAD: u64 = 64 * MIB;
/// Bytes per object or file in a manifest and in the catalog, without the torrent and the
/// paths; and of an empty catalog.
const MANIFEST_ENTRY: u64 = 128;
const CATALOG_ENTRY: u64 = 320;
const CATALOG_EMPTY: u64 = 128 << 10;

/// The estimate of an import.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Estimate {
    pub name: String,
    /// Empty for an import from a URL.
    pub info_hash: String,
    /// The storage, as imports record it.
    pub storage: String,
    pub layout: LayoutKind,
    pub chunk_len: u64,
    /// Bytes of the selected files.
    pub bytes: u64,
    pub files: usize,
    /// Bytes of them that are durable already, when an import is resumed.
    pub stored: u64,
    #[serde(flatten)]
    pub tally: Tally,
    /// Approximate length of the manifest in bytes. It is one object more than those with payload.
    pub manifest: u64,
    /// Approximate size in the local catalog, in bytes.
    pub catalog: u64,
    /// Maximum memory of the whole process, in bytes.
    pub memory: u64,
    /// The month of the price list.
    pub prices_as_of: &'static str,
    /// Cost at the storage's provider; where that is not known, at every known provider. Empty
    /// where nothing is charged.
    pub costs: Vec<Cost>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drive: Option<DriveLoad>,
    /// All renditions of a stream.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub renditions: Vec<Rendition>,
}

/// Use of Google Drive's limits by an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DriveLoad {
    /// Minimum duration from the limits on files created per second and bytes uploaded per day, whatever the bandwidth.
    pub seconds_at_least: u64,
    pub quota_units: u64,
    /// Quota units for reading all of it back once.
    pub read_units: u64,
}

/// Finds the source and computes the estimate, without an engine. Nothing is locked, so that another process may write to
/// the data folder. A magnet link starts a torrent session with the settings `session`.
///
/// # Errors
/// Errors that `import` would return before the payload: an unusable source, selection or storage, pieces too long for
/// the memory, a local folder without enough free space. `Network` when no peer sends a magnet link's metadata within
/// the timeout; `Unsupported` when the server does not report the length of its file.
pub async fn estimate(
    config: &Config,
    session: SessionOptions,
    request: &ImportRequest,
    cancel: CancellationToken,
) -> Result<Estimate> {
    config.storage(&request.storage)?;
    let catalog = open_catalog(config).await?;
    let pool = Budget::new(config.memory.0).incoming();
    let session = SessionSlot::new(session, Pressure::new(pool.clone()), pool);
    let estimate = estimate_with(config, catalog.as_ref(), &session, request, &cancel).await;
    session.stop().await;
    estimate
}

impl Engine {
    /// Estimates an import. The metadata of a magnet link is fetched through the engine's session.
    ///
    /// # Errors
    /// As [`estimate`].
    pub async fn estimate(
        &self,
        request: &ImportRequest,
        cancel: CancellationToken,
    ) -> Result<Estimate> {
        estimate_with(&self.config, Some(&self.catalog), &self.session, request, &cancel).await
    }
}

async fn estimate_with(
    config: &Config,
    catalog: Option<&Catalog>,
    session: &SessionSlot,
    request: &ImportRequest,
    cancel: &CancellationToken,
) -> Result<Estimate> {
    let profile = config.storage(&request.storage)?;
    let content = SourceContent::resolve(config, request, catalog, session, cancel).await?;
    let known = match catalog {
        Some(catalog) => {
            content.existing_import(catalog, request, &profile.canonical_name()).await?
        }
        None => None,
    };
    let import = match known {
        Some((row, stored)) => {
            let layout_kind = resumed_layout(request.layout, &row);
            let complete = row.state == ImportState::Imported;
            EstimatedImport { layout_kind, chunk_len: row.chunk_len, stored, complete }
        }
        None => {
            if let ProfileKind::Local { path } = &profile.kind {
                let free = Some(local::free_space_at(path)?);
                check_free_space(&profile.canonical_name(), free, content.bytes_to_store())?;
            }
            let chunk_len = chunk_len(profile.chunk, config.memory.0);
            let (layout_kind, stored) = (request.layout, RangeSet::new());
            EstimatedImport { layout_kind, chunk_len, stored, complete: false }
        }
    };
    import.estimate(config, &profile, &content)
}

/// An existing import, or the defaults of a new one.
struct EstimatedImport {
    layout_kind: LayoutKind,
    chunk_len: u64,
    stored: RangeSet,
    /// Whether it is recorded as imported, so that all bytes of its selection at that time are stored.
    complete: bool,
}

impl EstimatedImport {
    fn estimate(
        self,
        config: &Config,
        profile: &Profile,
        content: &SourceContent,
    ) -> Result<Estimate> {
        let rows: Vec<_> = content.files.iter().map(file_row).collect();
        let spans = rows.iter().map(FileSpan::from);
        let layout = Layout::new(content.len, spans, self.chunk_len, self.layout_kind)?;
        let selected = content.selected.as_deref();
        let wanted = content.wanted(&layout);
        let files: Vec<FileSpan> = selected_files(&content.files, selected)
            .map(|file| FileSpan { range: file.range.clone(), pad: false })
            .collect();
        let missing = wanted.minus(&self.stored);
        let rules = CompositionLimits {
            capabilities: capabilities(&profile.kind),
            chunk_len: self.chunk_len,
            max_sent: Pressure::new(Budget::new(config.memory.0).incoming()).max_read_back(),
        };
        // Empty files have no bytes that could be missing. In a complete import they exist already.
        let is_created = |file: &&FileSpan| {
            self.layout_kind == LayoutKind::Files && !(self.complete && file.range.is_empty())
        };
        let whole: Vec<_> = files.iter().filter(is_created).cloned().collect();
        let mut tally = tally(&layout, &missing, &whole, &rules)?;
        let bytes = selected_bytes(&content.files, selected);
        if content.is_read_back(!missing.is_empty()) {
            tally.add_verification(bytes);
        }
        // One more put for the manifest.
        tally.requests.put += 1;
        let paths: u64 = rows.iter().map(|row| row.path.len() as u64).sum();
        let entries = tally.objects + rows.len() as u64;
        let manifest = content.in_manifest + paths + entries * MANIFEST_ENTRY;
        let stored = self.stored.intersect(&wanted).len();
        let usage = usage(&tally, stored + tally.payload + manifest);
        let prices = Prices::table();
        Ok(Estimate {
            name: content.name.clone(),
            info_hash: content.info_hash.clone(),
            storage: profile.canonical_name(),
            layout: self.layout_kind,
            chunk_len: self.chunk_len,
            bytes,
            files: files.len(),
            stored,
            manifest,
            catalog: CATALOG_EMPTY + content.in_catalog + paths + entries * CATALOG_ENTRY,
            memory: config.memory.0.min(tally.payload) + OVERHEAD,
            prices_as_of: &prices.as_of,
            costs: providers(&profile.kind, prices).iter().map(|p| p.cost(&usage)).collect(),
            drive: matches!(profile.kind, ProfileKind::Drive(_))
                .then(|| drive_load(&tally, &prices.drive)),
            renditions: content.renditions.clone(),
            tally,
        })
    }
}

/// The catalog; `None` when there is none yet.
async fn open_catalog(config: &Config) -> Result<Option<Catalog>> {
    match Catalog::open_read_only(&config.data_dir).await {
        Ok(catalog) => Ok(Some(catalog)),
        Err(e) if e.kind() == Kind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Capabilities of a kind of storage, without opening it. If the server turns out not to
/// support copies, files cost more.
fn capabilities(kind: &ProfileKind) -> Capabilities {
    match kind {
        ProfileKind::Local { .. } => LocalBackend::CAPABILITIES,
        ProfileKind::S3(s3) => S3Backend::capabilities_at(s3.endpoint.as_ref()),
        ProfileKind::Drive(_) => DriveBackend::CAPABILITIES,
        // Unknown before the backend is open.
        ProfileKind::Custom => MemoryBackend::CAPABILITIES,
    }
}

fn usage(tally: &Tally, stored: u64) -> Usage {
    let requests = &tally.requests;
    Usage {
        stored,
        put: requests.put + requests.begin + requests.part + requests.finish,
        copy: requests.copy,
        list: requests.list,
        delete: requests.delete,
        lookups: requests.get,
        read: tally.resent + tally.checked,
        get: tally.reads,
    }
}

/// The provider that charges for a storage, if known.
pub(super) fn provider<'a>(kind: &ProfileKind, prices: &'a Prices) -> Option<&'a Provider> {
    match kind {
        ProfileKind::Local { .. } | ProfileKind::Drive(_) | ProfileKind::Custom => None,
        ProfileKind::S3(s3) => match &s3.endpoint {
            Some(endpoint) => prices.provider_at(endpoint),
            None => prices.provider("aws"),
        },
    }
}

/// The providers whose prices are shown: that of the storage, or all where it is local or unknown.
fn providers<'a>(kind: &ProfileKind, prices: &'a Prices) -> Vec<&'a Provider> {
    if let ProfileKind::Drive(_) = kind {
        return Vec::new();
    }
    provider(kind, prices)
        .map_or_else(|| prices.providers.iter().collect(), |provider| vec![provider])
}

fn drive_load(tally: &Tally, limits: &DriveLimits) -> DriveLoad {
    let Tally { payload, resent, requests, reads, .. } = tally;
    let created = requests.put + requests.begin;
    let creating = created.div_ceil(limits.creates_per_second);
    let full_days = (payload + resent).saturating_sub(1) / limits.upload_per_day;
    DriveLoad {
        seconds_at_least: creating.max(full_days * 86_400),
        quota_units: created * limits.units_create
            + requests.list * limits.units_list
            + requests.delete * limits.units_delete
            + requests.get * limits.units_get,
        read_units: reads * limits.units_get,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Overrides, storage::estimate::Requests};

    fn names(storage: &str) -> Vec<String> {
        let env = [("HOME", "/home/u")].into_iter().collect();
        let profile = Config::load(Overrides::default(), &env).unwrap().storage(storage).unwrap();
        providers(&profile.kind, Prices::table()).iter().map(|p| p.id.clone()).collect()
    }

    #[test]
    fn drive_is_free_of_charge_but_limits_time_and_units() {
        let limits = &Prices::table().drive;
        let gib = 1 << 30;
        let objects = 32;
        let requests = Requests { put: objects + 1, ..Requests::default() };
        let tally = Tally { payload: gib, objects, requests, reads: 1024, ..Tally::default() };
        let load = drive_load(&tally, limits);
        assert_eq!(load.seconds_at_least, 17);
        assert_eq!((load.quota_units, load.read_units), (33 * 50, 1024 * 200));
        let two_days = Tally { payload: 2 * limits.upload_per_day, ..tally };
        assert_eq!(drive_load(&two_days, limits).seconds_at_least, 86_400);
        assert!(names("drive://F").is_empty());
    }

    #[test]
    fn a_known_provider_has_its_own_price_and_others_show_all_providers() {
        assert_eq!(names("s3://b?endpoint=https%3A%2F%2Fx.r2.cloudflarestorage.com"), ["r2"]);
        assert_eq!(names("s3://b?endpoint=http%3A%2F%2F127.0.0.1%3A3900"), ["own"]);
        let all = names("file:///srv/bae");
        assert!(all.len() > 4 && all.contains(&"own".to_owned()), "{all:?}");
        assert_eq!(names("s3://b?endpoint=https%3A%2F%2Fs3.example.com"), all);
    }
}
