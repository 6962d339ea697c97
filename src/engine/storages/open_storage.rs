//! An open storage: the backend of a `[storage.NAME]` profile with
//! its wrappers, and the checks before it is written to.
//!
//! The wrappers from the outside in: [`Retrying`], [`Hedged`], [`Adaptive`], [`Throttled`] (only with an upload limit),
//! [`Metered`], then the backend. A local backend has no retry, hedge or adaptive limit.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::drive::open_drive;
use crate::{
    backends::{
        Adaptive, BackendState, Hedged, Key, LocalBackend, Meter, Metered, RetryPolicy, Retrying,
        S3Backend, S3Settings, StorageBackend, Throttled,
    },
    catalog::Catalog,
    config::{Config, Profile, ProfileKind, S3Profile, Secret},
    error::{Error, Kind, Result},
    hints::{Operation, hint},
    memory::Budget,
};

/// The backend of a profile, with its wrappers. A folder is read into blocks of `memory`.
pub(super) async fn open_backend(
    profile: &Profile,
    state: Arc<dyn BackendState>,
    retries: RetryPolicy,
    memory: &Budget,
) -> Result<Arc<dyn StorageBackend>> {
    Ok(wrapped(profile, open_unwrapped(profile, state, memory).await?, retries, &Arc::default()))
}

/// A backend with the upload limit of its profile. Calls to a local backend are not retried. For a remote one, an
/// adaptive limit bounds the concurrent calls, and failed calls are retried as `retries` says. Above both, the import
/// writer reports errors to the user and retries by itself.
fn wrapped(
    profile: &Profile,
    bare: Arc<dyn StorageBackend>,
    retries: RetryPolicy,
    meter: &Arc<Meter>,
) -> Arc<dyn StorageBackend> {
    let bare = Metered::new(bare, Arc::clone(meter));
    // Below the retries, so that repeated uploads count against the limit too.
    let limited: Arc<dyn StorageBackend> = match profile.upload_limit {
        Some(limit) => Arc::new(Throttled::new(bare, limit)),
        None => Arc::new(bare),
    };
    if !limited.is_remote() {
        return limited;
    }
    let adaptive = Adaptive::new(limited, profile.upload_concurrency);
    Arc::new(Retrying::with_policy(Hedged::new(adaptive), retries))
}

async fn open_unwrapped(
    profile: &Profile,
    state: Arc<dyn BackendState>,
    memory: &Budget,
) -> Result<Arc<dyn StorageBackend>> {
    match &profile.kind {
        ProfileKind::Local { path } => {
            Ok(Arc::new(LocalBackend::open(path)?.with_blocks(memory.covered_blocks())))
        }
        ProfileKind::Drive(drive) => Ok(Arc::new(open_drive(profile, drive, state).await?)),
        ProfileKind::Custom => {
            let name = profile.canonical_name();
            let text = format!("storage {name:?} is a backend of another program");
            Err(Error::new(Kind::Unsupported, text))
        }
        ProfileKind::S3(s3) => {
            let settings = s3_settings(s3).await?;
            Ok(Arc::new(S3Backend::open(settings, state).await?))
        }
    }
}

/// The S3 settings of a profile, with the secrets resolved.
async fn s3_settings(profile: &S3Profile) -> Result<S3Settings> {
    Ok(S3Settings {
        bucket: profile.bucket.clone(),
        prefix: profile.prefix.clone(),
        endpoint: profile.endpoint.clone(),
        region: profile.region.clone(),
        path_style: profile.path_style,
        access_key_id: reveal_secret(profile.access_key_id.as_ref()).await?,
        secret_access_key: reveal_secret(profile.secret_access_key.as_ref()).await?,
        public_url: profile.public_url.clone(),
        anonymous: false,
        authorities: Vec::new(),
    })
}

/// The text of a secret. Resolving it may run a command, so it happens on a blocking thread.
async fn reveal_secret(secret: Option<&Secret>) -> Result<Option<String>> {
    let Some(secret) = secret.cloned() else { return Ok(None) };
    let reveal = tokio::task::spawn_blocking(move || secret.reveal());
    let found = reveal
        .await
        .map_err(|e| Error::new(Kind::Internal, "cannot resolve a secret").because(e))?;
    found.map(Some)
}

/// The durable state of a backend, kept in the catalog under the name of the storage.
#[derive(Debug)]
struct CatalogState {
    catalog: Catalog,
    storage: String,
}

#[async_trait]
impl BackendState for CatalogState {
    async fn get(&self, name: &str) -> Result<Option<String>> {
        self.catalog.backend_value(&self.storage, name).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, String)>> {
        self.catalog.backend_values(&self.storage, prefix).await
    }

    async fn set(&self, name: &str, value: Option<String>) -> Result<()> {
        self.catalog.set_backend_value(&self.storage, name, value).await
    }
}

/// The state of a backend during a check: reads see the catalog, changes stay in memory. The check needs no right to
/// write to the data folder, and does not disturb an import that runs.
#[derive(Debug)]
pub(super) struct CheckState {
    saved: Option<CatalogState>,
    changed: Mutex<BTreeMap<String, Option<String>>>,
}

impl CheckState {
    pub(in crate::engine) async fn open(
        config: &Config,
        profile: &Profile,
    ) -> Arc<dyn BackendState> {
        // Without a catalog there is no state yet.
        let catalog = Catalog::open_read_only(&config.data_dir).await.ok();
        let saved =
            catalog.map(|catalog| CatalogState { catalog, storage: profile.canonical_name() });
        Arc::new(Self { saved, changed: Mutex::default() })
    }
}

#[async_trait]
impl BackendState for CheckState {
    async fn get(&self, name: &str) -> Result<Option<String>> {
        let changed = self.changed.lock().get(name).cloned();
        match (changed, &self.saved) {
            (Some(changed), _) => Ok(changed),
            (None, Some(saved)) => saved.get(name).await,
            (None, None) => Ok(None),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, String)>> {
        let saved = match &self.saved {
            Some(saved) => saved.list(prefix).await?,
            None => Vec::new(),
        };
        let mut found: BTreeMap<_, _> = saved.into_iter().collect();
        let changed = self.changed.lock();
        for (name, value) in changed.iter().filter(|(name, _)| name.starts_with(prefix)) {
            match value {
                Some(value) => found.insert(name.clone(), value.clone()),
                None => found.remove(name),
            };
        }
        Ok(found.into_iter().collect())
    }

    async fn set(&self, name: &str, value: Option<String>) -> Result<()> {
        self.changed.lock().insert(name.to_owned(), value);
        Ok(())
    }
}

/// An open storage.
#[derive(Debug)]
pub(in crate::engine) struct OpenStorage {
    /// The name in the catalog.
    pub(in crate::engine) name: String,
    pub(in crate::engine) backend: Arc<dyn StorageBackend>,
    /// Counts the reads, by object.
    pub(in crate::engine) meter: Arc<Meter>,
    pub(in crate::engine) upload_concurrency: usize,
    chunk: u64,
    /// The folder of a local storage.
    folder: Option<PathBuf>,
    /// Set when a remote storage has answered its first request.
    probed: OnceCell<()>,
}

impl OpenStorage {
    /// `custom` is the backend of a profile of kind [`ProfileKind::Custom`].
    pub(in crate::engine) async fn open(
        profile: &Profile,
        custom: Option<&Arc<dyn StorageBackend>>,
        catalog: &Catalog,
        memory: &Budget,
    ) -> Result<Self> {
        let state = CatalogState { catalog: catalog.clone(), storage: profile.canonical_name() };
        let meter = Arc::default();
        let bare = match custom {
            Some(backend) => Arc::clone(backend),
            None => open_unwrapped(profile, Arc::new(state), memory).await?,
        };
        let backend = wrapped(profile, bare, RetryPolicy::default(), &meter);
        Ok(Self {
            name: profile.canonical_name(),
            backend,
            meter,
            upload_concurrency: profile.upload_concurrency,
            chunk: profile.chunk,
            folder: folder_of(profile),
            probed: OnceCell::new(),
        })
    }

    /// Refuses a local folder that has none of the objects that the catalog expects there. Its disk is then not
    /// mounted, and new objects would go to the disk below.
    ///
    /// # Errors
    /// `NotFound` when the folder has none of them; otherwise the error of the backend.
    pub(in crate::engine) async fn check_mounted(&self, catalog: &Catalog) -> Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let keys = catalog.sample_keys(&self.name).await?;
        for key in &keys {
            if self.backend.head(&Key::new(key)?).await?.is_some() {
                return Ok(());
            }
        }
        if keys.is_empty() {
            return Ok(());
        }
        let text = format!(
            "folder {} has none of the objects that were imported into it: is its disk mounted?",
            folder.display()
        );
        let hint = hint![
            "mount it and try again; if the objects are lost for good, ",
            Operation::RemoveImport,
            " removes their imports",
        ];
        Err(Error::new(Kind::NotFound, text).hint(hint))
    }

    /// Tests a storage once before the first write. For a remote storage this is one listing; for a local one it
    /// creates the folder. Wrong keys, a wrong region or a missing bucket are reported before anything is fetched. Some
    /// servers answer a large upload that they refuse by closing the connection, which would hide the reason.
    ///
    /// # Errors
    /// The error of the backend, with the name of the storage.
    pub(in crate::engine) async fn probe(&self, catalog: &Catalog) -> Result<()> {
        if let Some(folder) = &self.folder {
            return LocalBackend::create_folder(folder);
        }
        let list = || async {
            match self.backend.list(&catalog.key_prefix(), None).await {
                // Credentials that may put but not list are valid.
                Err(e) if e.kind() != Kind::PermissionDenied => {
                    Err(e.with_context(format_args!("storage {:?}", self.name)))
                }
                _ => Ok(()),
            }
        };
        self.probed.get_or_try_init(list).await.copied()
    }

    /// The chunk length of a new import, in bytes.
    pub(in crate::engine) fn chunk_len(&self, memory: u64) -> u64 {
        chunk_len(self.chunk, memory)
    }
}

/// Creates the folder of a local storage before the first write.
pub(in crate::engine) fn create_folder(profile: &Profile) -> Result<()> {
    folder_of(profile).map_or(Ok(()), |folder| LocalBackend::create_folder(&folder))
}

/// The folder of a local storage; `None` for a remote one.
fn folder_of(profile: &Profile) -> Option<PathBuf> {
    match &profile.kind {
        ProfileKind::Local { path } => Some(path.clone()),
        ProfileKind::S3(_) | ProfileKind::Drive(_) | ProfileKind::Custom => None,
    }
}

/// The chunk length of a new import, in bytes: that of the profile, or less where the memory budget holds fewer than
/// eight such chunks. One chunk is filled while others are uploaded, and neither may take all of the memory.
pub(in crate::engine) fn chunk_len(profile: u64, memory: u64) -> u64 {
    let fits = (memory / 8).max(1);
    profile.min(1 << fits.ilog2())
}
