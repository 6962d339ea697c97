//! A test storage that treats names as one if they differ only in case or Unicode normal form, and refuses some names,
//! as exFAT or a Mac's disk does.

use std::{
    collections::HashMap,
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    backends::{
        Body, Capabilities, Key, MultipartUpload, ObjectVersion, Page, PageToken, Payload,
        StorageBackend, UnfinishedUpload, UploadLayout,
    },
    error::{Error, Kind, Result},
    storage::files::name_probe::fold_name,
};

#[derive(Debug)]
pub(in crate::storage) struct CaseInsensitive<B> {
    inner: B,
    /// The first spelling of each key, by its folded form.
    spellings: Mutex<HashMap<String, Key>>,
    refused_characters: &'static str,
    max_len: usize,
    calls: AtomicUsize,
}

impl<B> CaseInsensitive<B> {
    pub(in crate::storage) fn new(inner: B) -> Self {
        let (spellings, calls) = (Mutex::default(), AtomicUsize::new(0));
        Self { inner, spellings, refused_characters: "", max_len: 255, calls }
    }

    /// Refuses names with one of these characters. A dot counts only at the end of a name.
    pub(in crate::storage) fn refusing(self, refused_characters: &'static str) -> Self {
        Self { refused_characters, ..self }
    }

    pub(in crate::storage) fn with_max_name_len(self, max_len: usize) -> Self {
        Self { max_len, ..self }
    }

    pub(in crate::storage) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    fn key(&self, key: &Key) -> Result<Key> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let is_refused = |part: &str| {
            part.len() > self.max_len
                || part.contains(|c| c != '.' && self.refused_characters.contains(c))
                || self.refused_characters.contains('.') && part.ends_with('.')
        };
        if key.as_str().split('/').any(is_refused) {
            return Err(Error::new(Kind::InvalidInput, format!("put {key}: refused")));
        }
        folded(key)
    }
}

fn folded(key: &Key) -> Result<Key> {
    // `fold_name` strips dots and spaces at the end of a name. The `|` protects them, because this storage keeps them.
    let part = |part: &str| fold_name(&format!("{part}|")).trim_end_matches('|').to_owned();
    Key::new(&key.as_str().split('/').map(part).collect::<Vec<_>>().join("/"))
}

#[async_trait]
impl<B: StorageBackend> StorageBackend for CaseInsensitive<B> {
    async fn put(&self, key: &Key, payload: Payload) -> Result<()> {
        let name = self.key(key)?;
        self.spellings.lock().entry(name.to_string()).or_insert_with(|| key.clone());
        self.inner.put(&name, payload).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.inner.get(&self.key(key)?, range).await
    }

    async fn open(&self, key: &Key, range: Range<u64>) -> Result<Body> {
        self.inner.open(&self.key(key)?, range).await
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>> {
        self.inner.head(&self.key(key)?).await
    }

    async fn version(&self, key: &Key) -> Result<Option<ObjectVersion>> {
        self.inner.version(&self.key(key)?).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let name = self.key(key)?;
        self.spellings.lock().remove(name.as_str());
        self.inner.delete(&name).await
    }

    /// Returns the whole listing as one page.
    async fn list(&self, prefix: &str, _: Option<&PageToken>) -> Result<Page> {
        let mut page = self.inner.list("", None).await?;
        for object in &mut page.objects {
            if let Some(key) = self.spellings.lock().get(object.key.as_str()) {
                object.key = key.clone();
            }
        }
        page.objects.retain(|object| object.key.as_str().starts_with(prefix));
        Ok(page)
    }

    async fn begin_upload(
        &self,
        key: &Key,
        layout: UploadLayout,
    ) -> Result<Box<dyn MultipartUpload>> {
        let name = self.key(key)?;
        self.spellings.lock().entry(name.to_string()).or_insert_with(|| key.clone());
        self.inner.begin_upload(&name, layout).await
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<UnfinishedUpload>> {
        self.inner.list_uploads(prefix).await
    }

    async fn abort_upload(&self, upload: &UnfinishedUpload) -> Result<()> {
        self.inner.abort_upload(upload).await
    }

    async fn url(&self, key: &Key, expiry: Duration) -> Result<url::Url> {
        self.inner.url(key, expiry).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn free_space(&self) -> Result<Option<u64>> {
        self.inner.free_space().await
    }

    fn is_remote(&self) -> bool {
        self.inner.is_remote()
    }
}
