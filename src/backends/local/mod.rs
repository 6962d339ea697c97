//! Objects as files under a folder. An object is complete or absent, and durable when a put returns.

mod files;
mod reading;
mod upload;

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use url::Url;

use self::{
    files::Files,
    reading::{ReadSide, Reading},
    upload::LocalUpload,
};
use super::{
    Body, Capabilities, Copying, Key, Page, PageToken, Payload, Shape, Stamp, StorageBackend,
    Unfinished, Upload, body::exactly,
};
use crate::{
    error::{Error, Kind, Result},
    folders,
};

/// Stores each object as `root/<key>`. Temp files are under `root/.tmp/`, which no key can name.
#[derive(Debug, Clone)]
pub struct LocalBackend {
    files: Arc<Files>,
    reads: Arc<ReadSide>,
}

impl LocalBackend {
    /// Opens the folder and removes old temp files that crashed puts left. A folder that does not exist counts as
    /// empty and is not created: a put into it fails (see [`LocalBackend::make_folder`]).
    ///
    /// # Errors
    /// When `root` is not a folder, or cannot be read.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let files = Arc::new(Files::open(root.into())?);
        Ok(Self { reads: Arc::new(ReadSide::new(&files)), files })
    }

    /// Creates the folder of a storage that is about to be written, where it does not exist.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn make_folder(root: &Path) -> Result<()> {
        folders::make("storage folder", root)?;
        folders::make("storage folder", &root.join(".tmp"))
    }

    /// What a local folder can do.
    pub const CAPABILITIES: Capabilities = Capabilities {
        copy: Copying::Ranges { min_part: 1 },
        ordered: false,
        conditional_put: true,
        links: true,
        window: Capabilities::WINDOW,
        blocks: true,
    };

    #[must_use]
    pub fn root(&self) -> &Path {
        &self.files.root
    }

    /// Runs file work on a blocking thread.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let files = Arc::clone(&self.files);
        blocking(move || work(&files)).await
    }
}

/// Free space in bytes on the file system where `path` is or would be created.
///
/// # Errors
/// When the file system does not report it.
pub fn room_at(path: &Path) -> Result<u64> {
    let there = path.ancestors().find(|folder| folder.exists()).unwrap_or(path);
    let room = rustix::fs::statvfs(there)
        .map_err(|e| Error::io(format!("free room of {}", there.display()), e.into()))?;
    Ok(room.f_bavail.saturating_mul(room.f_frsize))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| Err(Error::new(Kind::Internal, "file work did not finish").because(e)))
}

/// Tells the file work that its caller is gone.
struct AbandonOnDrop(Arc<AtomicBool>);

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[async_trait]
impl StorageBackend for LocalBackend {
    async fn put(&self, key: &Key, payload: Payload) -> Result<()> {
        let abandoned = Arc::new(AtomicBool::new(false));
        let _guard = AbandonOnDrop(Arc::clone(&abandoned));
        let key = key.clone();
        self.blocking(move |files| files.put(&key, &payload, &abandoned)).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let key = key.clone();
        self.blocking(move |files| files.get(&key, &range)).await
    }

    async fn open(&self, key: &Key, range: Range<u64>) -> Result<Body> {
        let reading = Reading::begin(&self.reads, key, &range).await?;
        Ok(exactly(reading, range.end - range.start))
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>> {
        let key = key.clone();
        self.blocking(move |files| files.head(&key)).await
    }

    async fn stamp(&self, key: &Key) -> Result<Option<Stamp>> {
        let key = key.clone();
        self.blocking(move |files| files.stamp(&key)).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let key = key.clone();
        self.blocking(move |files| files.delete(&key)).await
    }

    async fn list(&self, prefix: &str, _: Option<&PageToken>) -> Result<Page> {
        let prefix = prefix.to_owned();
        self.blocking(move |files| Ok(Page { objects: files.list(&prefix)?, next: None })).await
    }

    async fn begin(&self, key: &Key, shape: Shape) -> Result<Box<dyn Upload>> {
        let (files, key) = (Arc::clone(&self.files), key.clone());
        let upload = blocking(move || LocalUpload::begin(files, key, shape)).await?;
        Ok(Box::new(upload))
    }

    /// A half-written file is a temp file, which no later run resumes: `open` removes it when it is old enough.
    async fn unfinished(&self, _: &str) -> Result<Vec<Unfinished>> {
        Ok(Vec::new())
    }

    async fn abort(&self, _: &Unfinished) -> Result<()> {
        Ok(())
    }

    async fn url(&self, key: &Key, _: Duration) -> Result<Url> {
        let path = self.files.path(key);
        Url::from_file_path(&path).map_err(|()| {
            Error::new(Kind::Unsupported, format!("{} is no absolute path", path.display()))
        })
    }

    fn capabilities(&self) -> Capabilities {
        Self::CAPABILITIES
    }

    async fn free_room(&self) -> Result<Option<u64>> {
        self.blocking(|files| room_at(&files.root).map(Some)).await
    }

    fn is_remote(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests;
