//! What an import will come to, before anything of it is fetched: nothing is written, no storage is asked, and only the
//! torrent itself (of a magnet, its metadata from peers; of a URL, what its server says of the files) is read.

mod content;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use self::content::Content;
use super::{
    ImportRequest,
    import::{check_room, layout_of},
    input_pool,
    place::chunk_len,
    plan::{bytes_wanted, file_row, files_wanted},
};
use crate::{
    backends::{Capabilities, DriveBackend, LocalBackend, S3Backend, local},
    catalog::{Catalog, ImportState, LayoutKind},
    config::{
        Config, Profile, ProfileKind,
        prices::{Cost, DriveLimits, Prices, Provider, Usage},
    },
    error::{Kind, Result},
    storage::{
        FileSpan, Layout, Pressure, RangeSet,
        compose::Rules,
        estimate::{Tally, tally},
    },
    units::MIB,
};

/// What the program takes beside the payload it holds: the most that `scripts/bench` lets it take.
const OVERHEAD: u64 = 64 * MIB;
/// What a manifest and the catalog take for each object or file beside the torrent and the paths, and an empty catalog.
const MANIFEST_ENTRY: u64 = 128;
const CATALOG_ENTRY: u64 = 320;
const CATALOG_EMPTY: u64 = 128 << 10;

/// What an import will come to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    pub name: String,
    /// Empty where it is no torrent.
    pub info_hash: String,
    /// The place, as imports record it.
    pub storage: String,
    /// `chunks` or `files`.
    pub layout: &'static str,
    pub chunk_len: u64,
    /// Bytes of the files wanted.
    pub bytes: u64,
    pub files: usize,
    /// Of these, durable already: an import that goes on.
    pub stored: u64,
    #[serde(flatten)]
    pub tally: Tally,
    /// About how long the manifest is: one object more than those that hold payload.
    pub manifest: u64,
    /// About what the catalog on this machine takes.
    pub catalog: u64,
    /// Most memory the whole program takes.
    pub memory: u64,
    /// The month of the prices.
    pub prices_as_of: &'static str,
    /// Of the provider, where it is known; else of those that are. Empty where no money is taken.
    pub costs: Vec<Cost>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drive: Option<DriveLoad>,
}

/// What an import takes of Google Drive's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DriveLoad {
    /// By files created a second and bytes sent a day, whatever the line.
    pub seconds_at_least: u64,
    pub quota_units: u64,
    /// For reading all of it back once.
    pub read_units: u64,
}

/// Finds what is to be imported and counts what that will take.
///
/// # Errors
/// What `import` would refuse: source, selection or storage that cannot be used, pieces too large for the memory, a
/// local folder without room. `Network` when nobody sends a magnet's metadata within the timeout; `Unsupported` when a
/// server does not tell how long its file is.
pub async fn estimate(
    config: &Config,
    request: &ImportRequest,
    cancel: CancellationToken,
) -> Result<Estimate> {
    let profile = config.storage(&request.storage)?;
    let catalog = open_catalog(config)?;
    let content = Content::find(config, request, catalog.as_ref(), &cancel).await?;
    let known = match &catalog {
        Some(catalog) => content.known(catalog, request, &profile.canonical())?,
        None => None,
    };
    let import = match known {
        Some((row, stored)) => {
            let kind = layout_of(request.layout, &row);
            let complete = row.state == ImportState::Imported;
            Found { kind, chunk_len: row.chunk_len, stored, complete }
        }
        None => {
            if let ProfileKind::Local { path } = &profile.kind {
                check_room(&profile.canonical(), Some(local::room_at(path)?), content.len)?;
            }
            let chunk_len = chunk_len(profile.chunk, config.memory.0);
            let (kind, stored) = (request.layout, RangeSet::new());
            Found { kind, chunk_len, stored, complete: false }
        }
    };
    import.estimate(config, &profile, &content)
}

/// The import as far as it is there already.
struct Found {
    kind: LayoutKind,
    chunk_len: u64,
    stored: RangeSet,
    /// All that was wanted of it then is stored and recorded as imported.
    complete: bool,
}

impl Found {
    fn estimate(self, config: &Config, profile: &Profile, content: &Content) -> Result<Estimate> {
        let rows: Vec<_> = content.files.iter().map(file_row).collect();
        let spans = rows.iter().map(FileSpan::from);
        let layout = Layout::new(content.len, spans, self.chunk_len, self.kind)?;
        let selected = content.selected.as_deref();
        let wanted = content.wanted(&layout);
        let files: Vec<FileSpan> = files_wanted(&content.files, selected)
            .map(|file| FileSpan { range: file.range.clone(), pad: false })
            .collect();
        let missing = wanted.minus(&self.stored);
        let rules = Rules {
            can: capabilities(&profile.kind),
            chunk_len: self.chunk_len,
            most_sent: Pressure::new(input_pool(config)).most_read_back(),
        };
        // Empty files are never missing: those of a complete import are there.
        let is_made = |file: &&FileSpan| {
            self.kind == LayoutKind::Files && !(self.complete && file.range.is_empty())
        };
        let whole: Vec<_> = files.iter().filter(is_made).cloned().collect();
        let mut tally = tally(&layout, &missing, &whole, &rules)?;
        let bytes = bytes_wanted(&content.files, selected);
        if content.is_checked(!missing.is_empty()) {
            tally.check(bytes);
        }
        // The manifest.
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
            storage: profile.canonical(),
            layout: self.kind.as_str(),
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
            tally,
        })
    }
}

/// `None` when there is none yet.
fn open_catalog(config: &Config) -> Result<Option<Catalog>> {
    match Catalog::open_read_only(&config.data_dir) {
        Ok(catalog) => Ok(Some(catalog)),
        Err(e) if e.kind() == Kind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// What a kind of place can do, without opening one. A server may turn out to copy nothing: then files cost more.
fn capabilities(kind: &ProfileKind) -> Capabilities {
    match kind {
        ProfileKind::Local { .. } => LocalBackend::CAPABILITIES,
        ProfileKind::S3(s3) => S3Backend::capabilities_at(s3.endpoint.as_ref()),
        ProfileKind::Drive(_) => DriveBackend::CAPABILITIES,
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
        look: requests.get,
        read: tally.resent + tally.checked,
        get: tally.reads,
    }
}

/// Who is paid for a place, where that is known.
pub(super) fn provider<'a>(kind: &ProfileKind, prices: &'a Prices) -> Option<&'a Provider> {
    match kind {
        ProfileKind::Local { .. } | ProfileKind::Drive(_) => None,
        ProfileKind::S3(s3) => match &s3.endpoint {
            Some(endpoint) => prices.provider_at(endpoint),
            None => prices.provider("aws"),
        },
    }
}

/// Whose prices are shown: the place's own, or all there are where it is nobody's or a stranger's.
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
    fn drive_takes_no_money_but_time_and_units() {
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
    fn a_known_place_has_its_own_price_and_others_are_shown_all_there_are() {
        assert_eq!(names("s3://b?endpoint=https%3A%2F%2Fx.r2.cloudflarestorage.com"), ["r2"]);
        assert_eq!(names("s3://b?endpoint=http%3A%2F%2F127.0.0.1%3A3900"), ["own"]);
        let all = names("file:///srv/bae");
        assert!(all.len() > 4 && all.contains(&"own".to_owned()), "{all:?}");
        assert_eq!(names("s3://b?endpoint=https%3A%2F%2Fs3.example.com"), all);
    }
}
