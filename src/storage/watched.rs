//! Objects that belong to the user, who may change them: each is checked before it is trusted.
//!
//! Before the first read of an adopted object, and then once a minute while it is read, its length and (where the
//! storage has one) its tag, such as an ETag, are compared with those that were verified. An object that changed is not
//! read any more. A change that keeps the tag is found by `verify`, as with every other object.
//!
//! [`StorageBackend::delete`] always fails for such an object.

use std::{
    collections::HashMap,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use url::Url;

use crate::{
    backends::{
        Body, Capabilities, Key, Page, PageToken, Payload, Shape, Stamp, StorageBackend,
        Unfinished, Upload,
    },
    error::{Error, Kind, Result},
};

/// How long a check is valid: one request a minute for an object in use, none for the others.
const HOLDS: Duration = Duration::from_secs(60);

/// Wraps `backend` to check the objects given by key, length and tag. Without objects it returns `backend` itself.
pub(super) fn watched(
    backend: Arc<dyn StorageBackend>,
    objects: Vec<(String, u64, Option<String>)>,
) -> Result<Arc<dyn StorageBackend>> {
    if objects.is_empty() {
        return Ok(backend);
    }
    let watch = |(key, len, tag): (String, u64, Option<String>)| {
        Ok((Key::new(&key)?, Watch { stamp: Stamp { len, tag }, looked: Default::default() }))
    };
    let objects = objects.into_iter().map(watch).collect::<Result<_>>()?;
    let watches = Arc::new(Watches { inner: Arc::clone(&backend), objects });
    Ok(Arc::new(Watched { inner: backend, watches }))
}

#[derive(Debug)]
struct Watched {
    inner: Arc<dyn StorageBackend>,
    watches: Arc<Watches>,
}

#[derive(Debug)]
struct Watches {
    inner: Arc<dyn StorageBackend>,
    objects: HashMap<Key, Watch>,
}

#[derive(Debug)]
struct Watch {
    stamp: Stamp,
    /// The time and result of the last check. Locked during a check, so that readers share it.
    looked: tokio::sync::Mutex<Option<(Instant, bool)>>,
}

impl Watches {
    /// Fails if the object is not the one that was verified.
    async fn look(&self, key: &Key) -> Result<()> {
        let Some(watch) = self.objects.get(key) else { return Ok(()) };
        let mut looked = watch.looked.lock().await;
        let same = match *looked {
            Some((at, same)) if at.elapsed() < HOLDS => same,
            _ => {
                let now = self.inner.stamp(key).await?;
                let same = now.is_some_and(|now| now.is(&watch.stamp));
                *looked = Some((Instant::now(), same));
                same
            }
        };
        if same {
            return Ok(());
        }
        let text = format!("object {key} is not what was adopted: it was changed or removed");
        Err(Error::new(Kind::Corrupt, text)
            .hint("`bae verify --repair` fetches it from the swarm; or put the file back, remove the import, and adopt it again"))
    }
}

#[async_trait]
impl StorageBackend for Watched {
    async fn put(&self, key: &Key, payload: Payload) -> Result<()> {
        self.inner.put(key, payload).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.watches.look(key).await?;
        self.inner.get(key, range).await
    }

    async fn open(&self, key: &Key, range: Range<u64>) -> Result<Body> {
        self.watches.look(key).await?;
        self.inner.open(key, range).await
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>> {
        self.inner.head(key).await
    }

    async fn stamp(&self, key: &Key) -> Result<Option<Stamp>> {
        self.inner.stamp(key).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        if self.watches.objects.contains_key(key) {
            let text = format!("object {key} is the user's own and is not removed");
            return Err(Error::new(Kind::Internal, text));
        }
        self.inner.delete(key).await
    }

    async fn list(&self, prefix: &str, page: Option<&PageToken>) -> Result<Page> {
        self.inner.list(prefix, page).await
    }

    async fn begin(&self, key: &Key, shape: Shape) -> Result<Box<dyn Upload>> {
        let (inner, watches) = (self.inner.begin(key, shape).await?, Arc::clone(&self.watches));
        Ok(Box::new(WatchedUpload { inner, watches }))
    }

    async fn unfinished(&self, prefix: &str) -> Result<Vec<Unfinished>> {
        self.inner.unfinished(prefix).await
    }

    async fn abort(&self, upload: &Unfinished) -> Result<()> {
        self.inner.abort(upload).await
    }

    async fn url(&self, key: &Key, expiry: Duration) -> Result<Url> {
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

    fn refuses(&self) -> bool {
        self.inner.refuses()
    }
}

/// An upload that copies nothing from a changed object.
#[derive(Debug)]
struct WatchedUpload {
    inner: Box<dyn Upload>,
    watches: Arc<Watches>,
}

#[async_trait]
impl Upload for WatchedUpload {
    fn done(&self) -> &[u64] {
        self.inner.done()
    }

    async fn write(&self, part: u64, payload: Payload) -> Result<()> {
        self.inner.write(part, payload).await
    }

    async fn copy(&self, part: u64, from: &Key, range: Range<u64>) -> Result<()> {
        self.watches.look(from).await?;
        self.inner.copy(part, from, range).await
    }

    async fn finish(&self) -> Result<()> {
        self.inner.finish().await
    }

    async fn abort(&self) -> Result<()> {
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::LocalBackend;

    #[tokio::test]
    async fn an_object_that_is_another_gives_nothing_and_none_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let backend: Arc<dyn StorageBackend> = Arc::new(LocalBackend::open(dir.path()).unwrap());
        let key = Key::new("film.mkv").unwrap();
        std::fs::write(dir.path().join("film.mkv"), b"hello").unwrap();
        let stamp = backend.stamp(&key).await.unwrap().unwrap();
        assert_eq!(stamp.len, 5);
        let watch = |tag: Option<String>| {
            watched(Arc::clone(&backend), vec![("film.mkv".into(), 5, tag)]).unwrap()
        };
        let place = watch(stamp.tag.clone());
        assert_eq!(&place.get(&key, 1..3).await.unwrap()[..], b"el");
        assert_eq!(place.delete(&key).await.unwrap_err().kind(), Kind::Internal);
        assert_eq!(place.head(&key).await.unwrap(), Some(5));

        let file = std::fs::File::options().write(true).open(dir.path().join("film.mkv")).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH + HOLDS).unwrap();
        assert_eq!(&place.get(&key, 0..1).await.unwrap()[..], b"h", "a look holds for a while");
        let refused = watch(stamp.tag).get(&key, 0..1).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Corrupt, "{}", refused.report());
        let shape = Shape { len: 5, part_len: 5 };
        let copied = Key::new("copy").unwrap();
        let upload = watch(Some("another".into())).begin(&copied, shape).await.unwrap();
        assert_eq!(upload.copy(1, &key, 0..5).await.unwrap_err().kind(), Kind::Corrupt);
        upload.abort().await.unwrap();
        assert!(watch(None).get(&key, 0..1).await.is_ok(), "without a tag the length decides");
        file.set_len(4).unwrap();
        assert!(watch(None).get(&key, 0..1).await.is_err());
        let bare = watched(Arc::clone(&backend), vec![]).unwrap();
        assert!(Arc::ptr_eq(&bare, &backend));
    }
}
