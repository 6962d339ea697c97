//! Fault injection for tests: a wrapper that makes backend calls fail in a repeatable way.

use std::{
    collections::BTreeMap,
    future::Future,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::sync::watch;
use url::Url;

use super::rng::SplitMix64;
use crate::{
    backends::{
        Body, Capabilities, Key, MultipartUpload, ObjectVersion, Page, PageToken, Payload,
        StorageBackend, UnfinishedUpload, UploadLayout,
    },
    error::{Error, Kind, Result},
};

/// A backend that fails as scripted, and at random by a seed. Without a script it forwards every call.
///
/// A failing put may have stored the whole object (decided at random by the seed), as when a server's answer is lost.
#[derive(Debug)]
pub struct Faulty<B> {
    inner: B,
    script: Arc<Mutex<Script>>,
    /// Puts from this number on, counted from 0, wait.
    allowed_puts: watch::Sender<u64>,
    puts: AtomicU64,
    gets: AtomicU64,
}

/// The kinds of calls that a script can fail separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultOp {
    Put,
    Get,
    Head,
    Delete,
    List,
    /// A call on an upload: begin, write, copy or finish, but not abort.
    Upload,
}

#[derive(Debug)]
struct Script {
    rng: SplitMix64,
    /// How many of the next calls fail, and with which kind.
    next: BTreeMap<FaultOp, (u64, Kind)>,
    gets_to_truncate: u64,
    puts_to_panic: u64,
    random_fault: (f64, Kind),
    delay: Duration,
    retry_after: Option<Duration>,
}

/// The fault of a call: its error, and whether the call is carried out all the same. `None` for no fault.
type Fault = Option<(Error, bool)>;

impl Script {
    fn put_fault(&mut self, key: &Key) -> Fault {
        if let Some(left) = self.puts_to_panic.checked_sub(1) {
            self.puts_to_panic = left;
            panic!("put {key}: injected panic");
        }
        let error = self.failure(FaultOp::Put, "put", key.as_str())?;
        Some((error, self.flip_coin()))
    }

    /// Calls on an upload fail by their own script, otherwise like a put.
    fn upload_fault(&mut self, action: &str, key: &Key) -> Fault {
        match self.next_scripted(FaultOp::Upload) {
            Some(kind) => Some((self.injected_error(action, kind, key.as_str()), self.flip_coin())),
            None => self.put_fault(key),
        }
    }

    fn failure(&mut self, op: FaultOp, action: &str, subject: &str) -> Option<Error> {
        let kind = self.next_scripted(op).or_else(|| self.random_fault_kind())?;
        Some(self.injected_error(action, kind, subject))
    }

    fn next_scripted(&mut self, op: FaultOp) -> Option<Kind> {
        let (left, kind) = self.next.get_mut(&op)?;
        *left = left.checked_sub(1)?;
        Some(*kind)
    }

    fn random_fault_kind(&mut self) -> Option<Kind> {
        let (probability, kind) = self.random_fault;
        (probability > 0.0 && self.rng.fraction() < probability).then_some(kind)
    }

    fn check_random_fault(&mut self, action: &str, subject: &str) -> Result<()> {
        let kind = self.random_fault_kind();
        kind.map_or(Ok(()), |kind| Err(self.injected_error(action, kind, subject)))
    }

    /// At which byte an answer of `len` bytes is cut off, if it is.
    fn truncated_len(&mut self, len: usize) -> Option<usize> {
        let left = self.gets_to_truncate.checked_sub(1).filter(|_| len > 0)?;
        self.gets_to_truncate = left;
        Some(usize::try_from(self.rng.next_u64() % len as u64).expect("less than a length"))
    }

    fn flip_coin(&mut self) -> bool {
        self.rng.next_u64() & 1 == 0
    }

    fn injected_error(&self, action: &str, kind: Kind, subject: &str) -> Error {
        let error = Error::new(kind, format!("{action} {subject}: injected failure"));
        match self.retry_after {
            Some(wait) => error.retry_after(wait),
            None => error,
        }
    }
}

impl<B> Faulty<B> {
    /// Forwards calls to `inner` until told to fail. Equal seeds and equal calls give equal faults.
    #[must_use]
    pub fn new(inner: B, seed: u64) -> Self {
        let script = Script {
            rng: SplitMix64::new(seed),
            next: BTreeMap::new(),
            gets_to_truncate: 0,
            puts_to_panic: 0,
            random_fault: (0.0, Kind::Unavailable),
            delay: Duration::ZERO,
            retry_after: None,
        };
        Self {
            inner,
            script: Arc::new(Mutex::new(script)),
            allowed_puts: watch::Sender::new(u64::MAX),
            puts: AtomicU64::new(0),
            gets: AtomicU64::new(0),
        }
    }

    /// The next `n` calls of this kind fail with `kind`; 0 stops it.
    pub fn fail_next(&self, op: FaultOp, n: u64, kind: Kind) {
        self.script.lock().next.insert(op, (n, kind));
    }

    /// The next `n` puts fail with `kind`; 0 stops it.
    pub fn fail_next_puts(&self, n: u64, kind: Kind) {
        self.fail_next(FaultOp::Put, n, kind);
    }

    /// The next `n` puts panic, as a bug in a backend would.
    pub fn panic_next_puts(&self, n: u64) {
        self.script.lock().puts_to_panic = n;
    }

    /// The next `n` gets fail with `kind`; 0 stops it.
    pub fn fail_next_gets(&self, n: u64, kind: Kind) {
        self.fail_next(FaultOp::Get, n, kind);
    }

    /// The next `n` deletes fail with `kind` and leave the objects; 0 stops it.
    pub fn fail_next_deletes(&self, n: u64, kind: Kind) {
        self.fail_next(FaultOp::Delete, n, kind);
    }

    /// The next `n` calls that begin, write to, copy into or finish an upload fail with `kind`; 0 stops it.
    pub fn fail_next_uploads(&self, n: u64, kind: Kind) {
        self.fail_next(FaultOp::Upload, n, kind);
    }

    /// The next `n` gets return fewer bytes than requested. This breaks the contract; callers must detect it.
    pub fn truncate_next_gets(&self, n: u64) {
        self.script.lock().gets_to_truncate = n;
    }

    /// All further errors ask for this wait before a retry, as `Retry-After` does.
    pub fn set_retry_after(&self, wait: Duration) {
        self.script.lock().retry_after = Some(wait);
    }

    /// Every call fails with `kind` with this probability (0 to 1); 0 stops it.
    pub fn fail_randomly(&self, probability: f64, kind: Kind) {
        self.script.lock().random_fault = (probability, kind);
    }

    /// Delays every put and get by this time.
    pub fn delay(&self, by: Duration) {
        self.script.lock().delay = by;
    }

    /// Blocks puts until [`Self::unblock_puts`].
    pub fn block_puts(&self) {
        self.block_puts_after(0);
    }

    /// Blocks all but the first `count` puts, until [`Self::unblock_puts`].
    pub fn block_puts_after(&self, count: u64) {
        self.allowed_puts.send_replace(count);
    }

    /// Unblocks the puts that [`Self::block_puts`] blocks.
    pub fn unblock_puts(&self) {
        self.allowed_puts.send_replace(u64::MAX);
    }

    /// Number of puts started so far, including failed ones.
    #[must_use]
    pub fn puts(&self) -> u64 {
        self.puts.load(Ordering::Relaxed)
    }

    /// Number of gets started so far, including failed ones.
    #[must_use]
    pub fn gets(&self) -> u64 {
        self.gets.load(Ordering::Relaxed)
    }

    /// The wrapped backend, to check what is really stored.
    pub fn inner(&self) -> &B {
        &self.inner
    }

    fn check_script(&self, op: FaultOp, action: &str, subject: &str) -> Result<()> {
        self.script.lock().failure(op, action, subject).map_or(Ok(()), Err)
    }

    async fn begin_get(&self, key: &Key) -> Result<()> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        let delay = self.script.lock().delay;
        tokio::time::sleep(delay).await;
        self.check_script(FaultOp::Get, "get", key.as_str())
    }

    /// For calls without a script of their own: they fail only at random.
    fn check_random_fault(&self, action: &str, subject: &str) -> Result<()> {
        self.script.lock().check_random_fault(action, subject)
    }
}

#[async_trait]
impl<B: StorageBackend> StorageBackend for Faulty<B> {
    async fn put(&self, key: &Key, payload: Payload) -> Result<()> {
        let number = self.puts.fetch_add(1, Ordering::Relaxed);
        let delay = self.script.lock().delay;
        tokio::time::sleep(delay).await;
        // The sender lives in `self`, so the wait ends only by a release.
        let _ = self.allowed_puts.subscribe().wait_for(|allowed| number < *allowed).await;
        let fault = self.script.lock().put_fault(key);
        match fault {
            None => self.inner.put(key, payload).await,
            Some((error, carried_out)) => {
                if carried_out {
                    self.inner.put(key, payload).await?;
                }
                Err(error)
            }
        }
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.begin_get(key).await?;
        let bytes = self.inner.get(key, range).await?;
        let truncated_len = self.script.lock().truncated_len(bytes.len());
        Ok(truncated_len.map_or(bytes.clone(), |at| bytes.slice(..at)))
    }

    async fn open(&self, key: &Key, range: Range<u64>) -> Result<Body> {
        self.begin_get(key).await?;
        let len = range.end - range.start;
        let body = self.inner.open(key, range).await?;
        let truncated_len =
            self.script.lock().truncated_len(usize::try_from(len).unwrap_or(usize::MAX));
        let (script, key) = (Arc::clone(&self.script), key.clone());
        let mut left = truncated_len.unwrap_or(usize::MAX);
        let damaged = body.map(move |part| {
            let bytes = part?;
            script.lock().check_random_fault("get", key.as_str())?;
            let bytes = bytes.slice(..bytes.len().min(left));
            left -= bytes.len();
            Ok(bytes)
        });
        let ended = |part: &Result<Bytes>| matches!(part, Ok(bytes) if bytes.is_empty());
        Ok(Box::pin(damaged.take_while(move |part| std::future::ready(!ended(part)))))
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>> {
        self.check_script(FaultOp::Head, "head", key.as_str())?;
        self.inner.head(key).await
    }

    async fn version(&self, key: &Key) -> Result<Option<ObjectVersion>> {
        self.check_script(FaultOp::Head, "head", key.as_str())?;
        self.inner.version(key).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.check_script(FaultOp::Delete, "delete", key.as_str())?;
        self.inner.delete(key).await
    }

    async fn list(&self, prefix: &str, page: Option<&PageToken>) -> Result<Page> {
        self.check_script(FaultOp::List, "list", prefix)?;
        self.inner.list(prefix, page).await
    }

    async fn begin_upload(
        &self,
        key: &Key,
        layout: UploadLayout,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.check_script(FaultOp::Upload, "begin", key.as_str())?;
        let inner = self.inner.begin_upload(key, layout).await?;
        Ok(Box::new(FaultyUpload { inner, key: key.clone(), script: Arc::clone(&self.script) }))
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<UnfinishedUpload>> {
        self.check_random_fault("list uploads", prefix)?;
        self.inner.list_uploads(prefix).await
    }

    async fn abort_upload(&self, upload: &UnfinishedUpload) -> Result<()> {
        self.check_random_fault("abort", upload.key.as_str())?;
        self.inner.abort_upload(upload).await
    }

    async fn url(&self, key: &Key, expiry: Duration) -> Result<Url> {
        self.check_random_fault("link", key.as_str())?;
        self.inner.url(key, expiry).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn free_space(&self) -> Result<Option<u64>> {
        self.check_random_fault("query", "free space")?;
        self.inner.free_space().await
    }

    fn is_remote(&self) -> bool {
        self.inner.is_remote()
    }
}

/// An upload whose calls fail by the script of uploads, otherwise like puts. A failing call may be carried out.
#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    key: Key,
    script: Arc<Mutex<Script>>,
}

impl FaultyUpload {
    async fn run_with_fault(
        &self,
        action: &str,
        call: impl Future<Output = Result<()>> + Send,
    ) -> Result<()> {
        let fault = self.script.lock().upload_fault(action, &self.key);
        match fault {
            None => call.await,
            Some((error, carried_out)) => {
                if carried_out {
                    call.await?;
                }
                Err(error)
            }
        }
    }
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn stored_parts(&self) -> &[u64] {
        self.inner.stored_parts()
    }

    async fn put_part(&self, part: u64, payload: Payload) -> Result<()> {
        self.run_with_fault("write a part of", self.inner.put_part(part, payload)).await
    }

    async fn copy_part(&self, part: u64, from: &Key, range: Range<u64>) -> Result<()> {
        self.run_with_fault("copy a part of", self.inner.copy_part(part, from, range)).await
    }

    async fn finish(&self) -> Result<()> {
        self.run_with_fault("finish", self.inner.finish()).await
    }

    async fn abort(&self) -> Result<()> {
        self.script.lock().check_random_fault("abort", self.key.as_str())?;
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::MemoryBackend;

    #[tokio::test]
    async fn each_operation_fails_by_its_own_script() {
        let backend = Faulty::new(MemoryBackend::new(), 1);
        let key = Key::new("k").unwrap();
        let body = || Payload::from_iter([Bytes::from_static(b"body")]);
        backend.put(&key, body()).await.unwrap();
        backend.fail_next_deletes(1, Kind::PermissionDenied);
        assert_eq!(backend.delete(&key).await.unwrap_err().kind(), Kind::PermissionDenied);
        backend.truncate_next_gets(1);
        assert!(backend.get(&key, 0..4).await.unwrap().len() < 4);
        assert_eq!(&backend.get(&key, 0..4).await.unwrap()[..], b"body");
        backend.fail_next(FaultOp::Head, 1, Kind::Network);
        backend.fail_next(FaultOp::List, 1, Kind::Network);
        assert!(backend.head(&key).await.is_err() && backend.list("", None).await.is_err());
        backend.delete(&key).await.unwrap();
        let upload =
            backend.begin_upload(&key, UploadLayout { len: 4, part_len: 4 }).await.unwrap();
        backend.fail_next_uploads(2, Kind::Unavailable);
        assert!(upload.put_part(0, body()).await.is_err() && upload.finish().await.is_err());
        upload.abort().await.unwrap();
    }
}
