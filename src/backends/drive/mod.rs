//! Google Drive: each object is one file, found by its id.
//!
//! The id of a file is reserved before the file is created, so a repeated create makes no second file. The bytes are
//! sent into an upload session in one request, then length and MD5 are compared with what was sent. The id is saved
//! under the key. When the saved ids are lost, the file is found by its `appProperties` ([`names`]), which contain
//! the key, even after the user has renamed or moved it.
//!
//! All requests go through one [`client::DriveClient`]. It signs in, keeps within Google's rate limits per user
//! ([`limits`]) and maps refusals to errors ([`errors`]). Failures that may pass are retried inside an upload
//! session, because only the session knows how much has arrived; `Retrying` handles all others.
//!
//! Folders, file names and search results are never taken as proof, because each may change at any time. Tokens and
//! session URIs are never logged, because anyone can write with them.

mod auth;
mod client;
mod errors;
mod file_ids;
mod files;
mod folders;
mod get;
mod ids;
mod limits;
mod names;
pub mod oauth;
mod put;
mod session;
mod upload;

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher, RandomState},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use url::Url;

pub use self::{
    auth::{Credentials, TokenSource},
    client::http_client,
    limits::DriveLimits,
};
use self::{
    client::DriveClient,
    file_ids::FileIds,
    folders::{FolderIds, RootFolder},
    ids::IdPool,
};
use super::{
    BackendState, Body, Capabilities, CopySupport, Key, MultipartUpload, ObjectVersion, Page,
    PageToken, Payload, StorageBackend, UnfinishedUpload, UploadLayout, memory::object_not_found,
};
use crate::{
    error::{Error, Kind, Result},
    units::KIB,
};

/// The folder for objects, the server, and the rate limits.
#[derive(Debug, Clone)]
pub struct DriveSettings {
    /// Id of the folder. `None` for a folder called `bae` in My Drive, which is created when it does not exist.
    pub folder: Option<String>,
    /// Base URL of Drive: [`DriveSettings::ENDPOINT`], or a replacement for tests and proxies.
    pub endpoint: Url,
    pub limits: DriveLimits,
}

impl DriveSettings {
    pub const ENDPOINT: &str = "https://www.googleapis.com";
}

impl Default for DriveSettings {
    fn default() -> Self {
        let endpoint = Url::parse(Self::ENDPOINT).expect("the built-in address is a URL");
        Self { folder: None, endpoint, limits: DriveLimits::default() }
    }
}

/// Number of put locks. Puts of different keys share a lock by chance only; this many are rarely shared and need
/// little memory.
const LOCK_COUNT: usize = 1024;

/// Objects in a folder on Google Drive.
#[derive(Debug)]
pub struct DriveBackend(Arc<Drive>);

struct Drive {
    client: DriveClient,
    configured_folder: Option<String>,
    backend_state: Arc<dyn BackendState>,
    file_ids: FileIds,
    root: OnceCell<RootFolder>,
    folders: FolderIds,
    ids: IdPool,
    /// Ids reserved for files whose put has not succeeded yet.
    pending_ids: Mutex<HashMap<Key, String>>,
    locks: Vec<tokio::sync::Mutex<()>>,
    hasher: RandomState,
}

impl fmt::Debug for Drive {
    /// Leaves out the backend state, because it contains session URIs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drive").field("folder", &self.configured_folder).finish_non_exhaustive()
    }
}

impl DriveBackend {
    /// What Google Drive can do.
    pub const CAPABILITIES: Capabilities = Capabilities {
        copy: CopySupport::Whole,
        ordered_parts: true,
        conditional_put: false,
        links: true,
        window: Self::WINDOW,
        body_in_blocks: false,
    };
    /// Google allows a project two million gets and 1 TB per day. Reads of 512 KiB use up both limits together.
    const WINDOW: u64 = 512 * KIB;

    /// A backend over `http` that signs in with `tokens`. Sends no request yet.
    pub fn open(
        http: reqwest::Client,
        settings: DriveSettings,
        tokens: Arc<dyn TokenSource>,
        backend_state: Arc<dyn BackendState>,
    ) -> Self {
        Self(Arc::new(Drive {
            client: DriveClient::new(http, settings.endpoint, tokens, settings.limits),
            configured_folder: settings.folder,
            file_ids: FileIds::new(Arc::clone(&backend_state)),
            backend_state,
            root: OnceCell::new(),
            folders: FolderIds::default(),
            ids: IdPool::default(),
            pending_ids: Mutex::default(),
            locks: std::iter::repeat_with(Default::default).take(LOCK_COUNT).collect(),
            hasher: RandomState::new(),
        }))
    }
}

impl Drive {
    fn put_lock(&self, key: &Key) -> &tokio::sync::Mutex<()> {
        let hash = self.hasher.hash_one(key) % LOCK_COUNT as u64;
        &self.locks[usize::try_from(hash).expect("below the number of locks")]
    }

    /// Saves an entry that only avoids a search, so a failure is logged and ignored.
    async fn try_save(&self, name: &str, value: Option<String>) {
        if let Err(e) = self.backend_state.set(name, value).await {
            tracing::debug!("cannot save {name}: {}", e.report());
        }
    }
}

#[async_trait]
impl StorageBackend for DriveBackend {
    async fn put(&self, key: &Key, payload: Payload) -> Result<()> {
        self.0.put(key, &payload).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.0.get(key, range).await
    }

    async fn open(&self, key: &Key, range: Range<u64>) -> Result<Body> {
        self.0.body_of(key, range.clone(), &range).await
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>> {
        Ok(self.0.look_up(key, &format!("head of {key}")).await?.map(|meta| meta.len()))
    }

    async fn version(&self, key: &Key) -> Result<Option<ObjectVersion>> {
        let found = self.0.look_up(key, &format!("head of {key}")).await?;
        Ok(found.map(|meta| ObjectVersion { len: meta.len(), tag: meta.md5_checksum }))
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.0.delete_object(key).await
    }

    async fn list(&self, prefix: &str, page: Option<&PageToken>) -> Result<Page> {
        self.0.list_page(prefix, page).await
    }

    async fn begin_upload(
        &self,
        key: &Key,
        layout: UploadLayout,
    ) -> Result<Box<dyn MultipartUpload>> {
        Ok(Box::new(self.0.begin_upload(key, layout).await?))
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<UnfinishedUpload>> {
        self.0.unfinished_uploads(prefix).await
    }

    async fn abort_upload(&self, upload: &UnfinishedUpload) -> Result<()> {
        self.0.abort_upload(upload).await
    }

    /// The file's page in the browser. It works without time limit, for the accounts that the file is shared with on
    /// Drive.
    async fn url(&self, key: &Key, _: Duration) -> Result<Url> {
        let what = format!("link to {key}");
        let id = self.0.id_of(key, &what).await?.ok_or_else(|| object_not_found(key))?;
        Url::parse(&format!("https://drive.google.com/file/d/{id}/view"))
            .map_err(|e| Error::new(Kind::Internal, what).because(e))
    }

    fn capabilities(&self) -> Capabilities {
        Self::CAPABILITIES
    }

    async fn free_space(&self) -> Result<Option<u64>> {
        self.0.free_space().await
    }

    fn is_remote(&self) -> bool {
        true
    }
}
