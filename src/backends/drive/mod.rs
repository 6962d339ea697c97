//! Google Drive: every object a file, found by its id.
//!
//! A file is made with an id that was asked for beforehand, so that a repeated create makes no second one; its bytes go
//! into an upload session, all in one request, and its length and MD5 are compared with what was sent. Its id is noted
//! under its key. Should the notes be lost, it is found by its `appProperties` ([`names`]), where its key is, whatever
//! the user has renamed or moved.
//!
//! Everything goes through one [`client::Client`]: it signs in, keeps the pace that Google allows a user ([`limits`])
//! and knows what refusals mean ([`errors`]). What may pass is tried again within a session, because only the session
//! knows how much arrived; everything else is left to `Retrying`.
//!
//! What it refuses: folders, names or search results as the truth (all of them may change behind our back), and any
//! log of a token or of a session's address, with which anyone could write.

mod auth;
mod client;
mod errors;
mod files;
mod folders;
mod get;
mod ids;
mod known;
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
    limits::Limits,
};
use self::{
    client::Client,
    folders::{Folders, Root},
    ids::IdPool,
    known::Known,
};
use super::{
    Body, Capabilities, Copying, Key, Notes, Page, PageToken, Payload, Shape, Stamp,
    StorageBackend, Unfinished, Upload, memory::missing,
};
use crate::{
    error::{Error, Kind, Result},
    units::KIB,
};

/// Where objects go, and how fast.
#[derive(Debug, Clone)]
pub struct DriveSettings {
    /// The id of the folder; without one it is a folder called `bae` in My Drive, made when it is not there.
    pub folder: Option<String>,
    /// Where Drive is: [`DriveSettings::ENDPOINT`], or a stand-in for tests and proxies.
    pub endpoint: Url,
    pub limits: Limits,
}

impl DriveSettings {
    pub const ENDPOINT: &str = "https://www.googleapis.com";
}

impl Default for DriveSettings {
    fn default() -> Self {
        let endpoint = Url::parse(Self::ENDPOINT).expect("the built-in address is a URL");
        Self { folder: None, endpoint, limits: Limits::default() }
    }
}

/// Keys whose puts wait for each other only by accident: few enough, and small.
const LOCKS: usize = 1024;

/// Objects in a folder on Google Drive.
#[derive(Debug)]
pub struct DriveBackend(Arc<Drive>);

struct Drive {
    client: Client,
    wanted_folder: Option<String>,
    notes: Arc<dyn Notes>,
    known: Known,
    root: OnceCell<Root>,
    folders: Folders,
    ids: IdPool,
    /// Ids of files whose put has not succeeded yet.
    pending: Mutex<HashMap<Key, String>>,
    locks: Vec<tokio::sync::Mutex<()>>,
    hasher: RandomState,
}

impl fmt::Debug for Drive {
    /// Not the notes: they hold session addresses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drive").field("folder", &self.wanted_folder).finish_non_exhaustive()
    }
}

impl DriveBackend {
    /// What Google Drive can do.
    pub const CAPABILITIES: Capabilities = Capabilities {
        copy: Copying::Whole,
        ordered: true,
        conditional_put: false,
        links: true,
        window: Self::WINDOW,
        blocks: false,
    };
    /// Google lets a project get two million times a day and read a TB: half a MiB at a time is both.
    const WINDOW: u64 = 512 * KIB;

    /// A backend over `http` that signs in with `tokens`. Nothing is asked of Google yet.
    pub fn open(
        http: reqwest::Client,
        settings: DriveSettings,
        tokens: Arc<dyn TokenSource>,
        notes: Arc<dyn Notes>,
    ) -> Self {
        Self(Arc::new(Drive {
            client: Client::new(http, settings.endpoint, tokens, settings.limits),
            wanted_folder: settings.folder,
            known: Known::new(Arc::clone(&notes)),
            notes,
            root: OnceCell::new(),
            folders: Folders::default(),
            ids: IdPool::default(),
            pending: Mutex::default(),
            locks: std::iter::repeat_with(Default::default).take(LOCKS).collect(),
            hasher: RandomState::new(),
        }))
    }
}

impl Drive {
    fn lock_of(&self, key: &Key) -> &tokio::sync::Mutex<()> {
        let hash = self.hasher.hash_one(key) % LOCKS as u64;
        &self.locks[usize::try_from(hash).expect("below the number of locks")]
    }

    /// Notes what only saves a search: failing to is no reason to fail.
    async fn note(&self, name: &str, value: Option<String>) {
        if let Err(e) = self.notes.set(name, value).await {
            tracing::debug!("{name} is not noted: {}", e.report());
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

    async fn stamp(&self, key: &Key) -> Result<Option<Stamp>> {
        let found = self.0.look_up(key, &format!("head of {key}")).await?;
        Ok(found.map(|meta| Stamp { len: meta.len(), tag: meta.md5_checksum }))
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.0.remove_key(key).await
    }

    async fn list(&self, prefix: &str, page: Option<&PageToken>) -> Result<Page> {
        self.0.list_page(prefix, page).await
    }

    async fn begin(&self, key: &Key, shape: Shape) -> Result<Box<dyn Upload>> {
        Ok(Box::new(self.0.begin_upload(key, shape).await?))
    }

    async fn unfinished(&self, prefix: &str) -> Result<Vec<Unfinished>> {
        self.0.unfinished_uploads(prefix)
    }

    async fn abort(&self, upload: &Unfinished) -> Result<()> {
        self.0.abort_upload(upload).await
    }

    /// The address of the file in the browser: for whoever the file is shared with, in Drive, and without an end.
    async fn url(&self, key: &Key, _: Duration) -> Result<Url> {
        let what = format!("link to {key}");
        let id = self.0.id_of(key, &what).await?.ok_or_else(|| missing(key))?;
        Url::parse(&format!("https://drive.google.com/file/d/{id}/view"))
            .map_err(|e| Error::new(Kind::Internal, what).because(e))
    }

    fn capabilities(&self) -> Capabilities {
        Self::CAPABILITIES
    }

    async fn free_room(&self) -> Result<Option<u64>> {
        self.0.room().await
    }

    fn is_remote(&self) -> bool {
        true
    }
}
