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
        Body, Capabilities, Key, MultipartUpload, ObjectVersion, Page, PageToken, Payload,
        StorageBackend, UnfinishedUpload, UploadLayout,
    },
    error::{Error, Kind, Result},
    hints::{Operation, hint},
};

/// How long a check is valid: one request a minute for an object in use, none for the others.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// Wraps `backend` to check the objects given by key, length and tag. Without objects it returns `backend` itself.
pub(super) fn detect_changes(
    backend: Arc<dyn StorageBackend>,
    objects: Vec<(String, u64, Option<String>)>,
) -> Result<Arc<dyn StorageBackend>> {
    if objects.is_empty() {
        return Ok(backend);
    }
    let adopted_object = |(key, len, tag): (String, u64, Option<String>)| {
        Ok((
            Key::new(&key)?,
            AdoptedObject { expected: ObjectVersion { len, tag }, last_check: Default::default() },
        ))
    };
    let objects = objects.into_iter().map(adopted_object).collect::<Result<_>>()?;
    let adopted = Arc::new(AdoptedObjects { inner: Arc::clone(&backend), objects });
    Ok(Arc::new(ChangeDetecting { inner: backend, adopted }))
}

#[derive(Debug)]
struct ChangeDetecting {
    inner: Arc<dyn StorageBackend>,
    adopted: Arc<AdoptedObjects>,
}

#[derive(Debug)]
struct AdoptedObjects {
    inner: Arc<dyn StorageBackend>,
    objects: HashMap<Key, AdoptedObject>,
}

#[derive(Debug)]
struct AdoptedObject {
    expected: ObjectVersion,
    /// The time and result of the last check. Locked during a check, so that readers share it.
    last_check: tokio::sync::Mutex<Option<(Instant, bool)>>,
}

impl AdoptedObjects {
    /// Fails if the object is not the one that was verified.
    async fn check_unchanged(&self, key: &Key) -> Result<()> {
        let Some(object) = self.objects.get(key) else { return Ok(()) };
        let mut last_check = object.last_check.lock().await;
        let same = match *last_check {
            Some((at, same)) if at.elapsed() < CHECK_INTERVAL => same,
            _ => {
                let found = self.inner.version(key).await?;
                let same = found.is_some_and(|found| found.matches(&object.expected));
                *last_check = Some((Instant::now(), same));
                same
            }
        };
        if same {
            return Ok(());
        }
        let text = format!("adopted object {key} was changed or removed");
        Err(Error::new(Kind::Corrupt, text)
            .hint(hint![
                Operation::Repair,
                " fetches it from the swarm; or put the file back, remove the import, and adopt it again",
            ]))
    }
}

#[async_trait]
impl StorageBackend for ChangeDetecting {
    async fn put(&self, key: &Key, payload: Payload) -> Result<()> {
        self.inner.put(key, payload).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.adopted.check_unchanged(key).await?;
        self.inner.get(key, range).await
    }

    async fn open(&self, key: &Key, range: Range<u64>) -> Result<Body> {
        self.adopted.check_unchanged(key).await?;
        self.inner.open(key, range).await
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>> {
        self.inner.head(key).await
    }

    async fn version(&self, key: &Key) -> Result<Option<ObjectVersion>> {
        self.inner.version(key).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        if self.adopted.objects.contains_key(key) {
            let text = format!("adopted object {key} belongs to the user and is not removed");
            return Err(Error::new(Kind::Internal, text));
        }
        self.inner.delete(key).await
    }

    async fn list(&self, prefix: &str, page: Option<&PageToken>) -> Result<Page> {
        self.inner.list(prefix, page).await
    }

    async fn begin_upload(
        &self,
        key: &Key,
        layout: UploadLayout,
    ) -> Result<Box<dyn MultipartUpload>> {
        let (inner, adopted) =
            (self.inner.begin_upload(key, layout).await?, Arc::clone(&self.adopted));
        Ok(Box::new(ChangeDetectingUpload { inner, adopted }))
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<UnfinishedUpload>> {
        self.inner.list_uploads(prefix).await
    }

    async fn abort_upload(&self, upload: &UnfinishedUpload) -> Result<()> {
        self.inner.abort_upload(upload).await
    }

    async fn url(&self, key: &Key, expiry: Duration) -> Result<Url> {
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

    fn is_retrying(&self) -> bool {
        self.inner.is_retrying()
    }
}

/// An upload that copies nothing from a changed object.
#[derive(Debug)]
struct ChangeDetectingUpload {
    inner: Box<dyn MultipartUpload>,
    adopted: Arc<AdoptedObjects>,
}

#[async_trait]
impl MultipartUpload for ChangeDetectingUpload {
    fn stored_parts(&self) -> &[u64] {
        self.inner.stored_parts()
    }

    async fn put_part(&self, part: u64, payload: Payload) -> Result<()> {
        self.inner.put_part(part, payload).await
    }

    async fn copy_part(&self, part: u64, from: &Key, range: Range<u64>) -> Result<()> {
        self.adopted.check_unchanged(from).await?;
        self.inner.copy_part(part, from, range).await
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
    async fn a_changed_object_is_not_read_and_no_adopted_object_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let backend: Arc<dyn StorageBackend> = Arc::new(LocalBackend::open(dir.path()).unwrap());
        let key = Key::new("film.mkv").unwrap();
        std::fs::write(dir.path().join("film.mkv"), b"hello").unwrap();
        let version = backend.version(&key).await.unwrap().unwrap();
        assert_eq!(version.len, 5);
        let adopt = |tag: Option<String>| {
            detect_changes(Arc::clone(&backend), vec![("film.mkv".into(), 5, tag)]).unwrap()
        };
        let checked = adopt(version.tag.clone());
        assert_eq!(&checked.get(&key, 1..3).await.unwrap()[..], b"el");
        assert_eq!(checked.delete(&key).await.unwrap_err().kind(), Kind::Internal);
        assert_eq!(checked.head(&key).await.unwrap(), Some(5));

        let file = std::fs::File::options().write(true).open(dir.path().join("film.mkv")).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH + CHECK_INTERVAL).unwrap();
        assert_eq!(
            &checked.get(&key, 0..1).await.unwrap()[..],
            b"h",
            "the last check is still valid"
        );
        let refused = adopt(version.tag).get(&key, 0..1).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Corrupt, "{}", refused.report());
        let layout = UploadLayout { len: 5, part_len: 5 };
        let copied = Key::new("copy").unwrap();
        let upload = adopt(Some("another".into())).begin_upload(&copied, layout).await.unwrap();
        assert_eq!(upload.copy_part(1, &key, 0..5).await.unwrap_err().kind(), Kind::Corrupt);
        upload.abort().await.unwrap();
        assert!(adopt(None).get(&key, 0..1).await.is_ok(), "without a tag the length decides");
        file.set_len(4).unwrap();
        assert!(adopt(None).get(&key, 0..1).await.is_err());
        let unwrapped = detect_changes(Arc::clone(&backend), vec![]).unwrap();
        assert!(Arc::ptr_eq(&unwrapped, &backend));
    }
}
