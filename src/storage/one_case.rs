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

use super::place_names::fold;
use crate::{
    backends::{
        Body, Capabilities, Key, Page, PageToken, Payload, Shape, Stamp, StorageBackend,
        Unfinished, Upload,
    },
    error::{Error, Kind, Result},
};

#[derive(Debug)]
pub(super) struct OneCase<B> {
    inner: B,
    /// The first spelling of each key, by its folded form.
    spelt: Mutex<HashMap<String, Key>>,
    refused: &'static str,
    longest: usize,
    calls: AtomicUsize,
}

impl<B> OneCase<B> {
    pub(super) fn new(inner: B) -> Self {
        let (spelt, calls) = (Mutex::default(), AtomicUsize::new(0));
        Self { inner, spelt, refused: "", longest: 255, calls }
    }

    /// Refuses names with one of these characters. A dot counts only at the end of a name.
    pub(super) fn refusing(self, refused: &'static str) -> Self {
        Self { refused, ..self }
    }

    pub(super) fn with_names_up_to(self, longest: usize) -> Self {
        Self { longest, ..self }
    }

    pub(super) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    fn key(&self, key: &Key) -> Result<Key> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let bad = |part: &str| {
            part.len() > self.longest
                || part.contains(|c| c != '.' && self.refused.contains(c))
                || self.refused.contains('.') && part.ends_with('.')
        };
        if key.as_str().split('/').any(bad) {
            return Err(Error::new(Kind::InvalidInput, format!("put {key}: refused")));
        }
        folded(key)
    }
}

fn folded(key: &Key) -> Result<Key> {
    // `fold` strips dots and spaces at the end of a name. The `|` protects them, because this storage keeps them.
    let part = |part: &str| fold(&format!("{part}|")).trim_end_matches('|').to_owned();
    Key::new(&key.as_str().split('/').map(part).collect::<Vec<_>>().join("/"))
}

#[async_trait]
impl<B: StorageBackend> StorageBackend for OneCase<B> {
    async fn put(&self, key: &Key, payload: Payload) -> Result<()> {
        let name = self.key(key)?;
        self.spelt.lock().entry(name.to_string()).or_insert_with(|| key.clone());
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

    async fn stamp(&self, key: &Key) -> Result<Option<Stamp>> {
        self.inner.stamp(&self.key(key)?).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let name = self.key(key)?;
        self.spelt.lock().remove(name.as_str());
        self.inner.delete(&name).await
    }

    /// Returns the whole listing as one page.
    async fn list(&self, prefix: &str, _: Option<&PageToken>) -> Result<Page> {
        let mut page = self.inner.list("", None).await?;
        for object in &mut page.objects {
            if let Some(key) = self.spelt.lock().get(object.key.as_str()) {
                object.key = key.clone();
            }
        }
        page.objects.retain(|object| object.key.as_str().starts_with(prefix));
        Ok(page)
    }

    async fn begin(&self, key: &Key, shape: Shape) -> Result<Box<dyn Upload>> {
        let name = self.key(key)?;
        self.spelt.lock().entry(name.to_string()).or_insert_with(|| key.clone());
        self.inner.begin(&name, shape).await
    }

    async fn unfinished(&self, prefix: &str) -> Result<Vec<Unfinished>> {
        self.inner.unfinished(prefix).await
    }

    async fn abort(&self, upload: &Unfinished) -> Result<()> {
        self.inner.abort(upload).await
    }

    async fn url(&self, key: &Key, expiry: Duration) -> Result<url::Url> {
        self.inner.url(key, expiry).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn free_room(&self) -> Result<Option<u64>> {
        self.inner.free_room().await
    }

    fn is_remote(&self) -> bool {
        self.inner.is_remote()
    }
}
