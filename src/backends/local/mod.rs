//! Objects as files under a folder. An object is complete or absent, and durable when a put returns.

mod files;
mod reader;
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
    files::LocalFiles,
    reader::{LocalBody, ReaderPool},
    upload::LocalUpload,
};
use super::{
    Body, Capabilities, CopySupport, Key, MultipartUpload, ObjectVersion, Page, PageToken, Payload,
    StorageBackend, UnfinishedUpload, UploadLayout, body::exact_body,
};
use crate::{
    error::{Error, Kind, Result},
    folders,
    memory::BlockPool,
};

/// Stores each object as `root/<key>`. Temp files are under `root/.tmp/`, which no key can name.
#[derive(Debug, Clone)]
pub struct LocalBackend {
    files: Arc<LocalFiles>,
    reader_pool: Arc<ReaderPool>,
}

impl LocalBackend {
    /// Opens the folder and removes old temp files that crashed puts left. A folder that does not exist counts as
    /// empty and is not created: a put into it fails (see [`LocalBackend::create_folder`]).
    ///
    /// # Errors
    /// When `root` is not a folder, or cannot be read.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let files = Arc::new(LocalFiles::open(root.into())?);
        Ok(Self { reader_pool: Arc::new(ReaderPool::new(&files)), files })
    }

    /// The same folder, which reads bodies into blocks of this pool.
    #[must_use]
    pub fn with_blocks(self, blocks: BlockPool) -> Self {
        let reader_pool = Arc::new(ReaderPool::with_blocks(&self.files, blocks));
        Self { reader_pool, ..self }
    }

    /// Creates the folder of a storage that is about to be written, where it does not exist.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn create_folder(root: &Path) -> Result<()> {
        folders::create("storage folder", root)?;
        folders::create("storage folder", &root.join(".tmp"))
    }

    /// What a local folder can do.
    pub const CAPABILITIES: Capabilities = Capabilities {
        copy: CopySupport::Ranges { min_part: 1 },
        ordered_parts: false,
        conditional_put: true,
        links: true,
        window: Capabilities::WINDOW,
        body_in_blocks: true,
    };

    #[must_use]
    pub fn root(&self) -> &Path {
        &self.files.root
    }

    /// Runs file work on a blocking thread.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&LocalFiles) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let files = Arc::clone(&self.files);
        blocking(move || work(&files)).await
    }
}

/// Free space in bytes on the file system where `path` is or would be created.
///
/// # Errors
/// When the file system does not report it.
pub fn free_space_at(path: &Path) -> Result<u64> {
    let existing = path.ancestors().find(|folder| folder.exists()).unwrap_or(path);
    let stat = rustix::fs::statvfs(existing)
        .map_err(|e| Error::io(format!("free space of {}", existing.display()), e.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
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
        let body = LocalBody::begin(&self.reader_pool, key, &range).await?;
        Ok(exact_body(body, range.end - range.start))
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>> {
        let key = key.clone();
        self.blocking(move |files| files.head(&key)).await
    }

    async fn version(&self, key: &Key) -> Result<Option<ObjectVersion>> {
        let key = key.clone();
        self.blocking(move |files| files.version(&key)).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let key = key.clone();
        self.blocking(move |files| files.delete(&key)).await
    }

    async fn list(&self, prefix: &str, _: Option<&PageToken>) -> Result<Page> {
        let prefix = prefix.to_owned();
        self.blocking(move |files| Ok(Page { objects: files.list(&prefix)?, next: None })).await
    }

    async fn begin_upload(
        &self,
        key: &Key,
        layout: UploadLayout,
    ) -> Result<Box<dyn MultipartUpload>> {
        let (files, key) = (Arc::clone(&self.files), key.clone());
        let upload = blocking(move || LocalUpload::begin(files, key, layout)).await?;
        Ok(Box::new(upload))
    }

    /// A half-written file is a temp file, which no later run resumes: `open` removes it when it is old enough.
    async fn list_uploads(&self, _: &str) -> Result<Vec<UnfinishedUpload>> {
        Ok(Vec::new())
    }

    async fn abort_upload(&self, _: &UnfinishedUpload) -> Result<()> {
        Ok(())
    }

    async fn url(&self, key: &Key, _: Duration) -> Result<Url> {
        let path = self.files.path(key);
        Url::from_file_path(&path).map_err(|()| {
            Error::new(Kind::Unsupported, format!("{} is not an absolute path", path.display()))
        })
    }

    fn capabilities(&self) -> Capabilities {
        Self::CAPABILITIES
    }

    async fn free_space(&self) -> Result<Option<u64>> {
        self.blocking(|files| free_space_at(&files.root).map(Some)).await
    }

    fn is_remote(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests;
