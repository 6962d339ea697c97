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

use super::{
    Body, Capabilities, Key, Page, PageToken, Payload, Shape, Stamp, StorageBackend, Unfinished,
    Upload, rng::SplitMix64,
};
use crate::error::{Error, Kind, Result};

/// A backend that fails as scripted, and at random by a seed. Without a script it forwards every call.
///
/// A failing put may have stored the whole object (decided at random by the seed), as when a server's answer is lost.
#[derive(Debug)]
pub struct Faulty<B> {
    inner: B,
    script: Arc<Mutex<Script>>,
    hung: watch::Sender<bool>,
    puts: AtomicU64,
    gets: AtomicU64,
}

/// The kinds of calls that a script can fail separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
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
    next: BTreeMap<Op, (u64, Kind)>,
    truncated: u64,
    panics: u64,
    random: (f64, Kind),
    delay: Duration,
    asked_wait: Option<Duration>,
}

/// The fault of a call: its error, and whether the call is carried out all the same. `None` for no fault.
type Fate = Option<(Error, bool)>;

impl Script {
    fn put_fate(&mut self, key: &Key) -> Fate {
        if let Some(left) = self.panics.checked_sub(1) {
            self.panics = left;
            panic!("put {key}: panicked on purpose");
        }
        let error = self.failure(Op::Put, "put", key.as_str())?;
        Some((error, self.coin()))
    }

    /// Calls on an upload fail by their own script, otherwise like a put.
    fn upload_fate(&mut self, what: &str, key: &Key) -> Fate {
        match self.spend(Op::Upload) {
            Some(kind) => Some((self.on_purpose(what, kind, key.as_str()), self.coin())),
            None => self.put_fate(key),
        }
    }

    fn failure(&mut self, op: Op, what: &str, thing: &str) -> Option<Error> {
        let kind = self.spend(op).or_else(|| self.chance())?;
        Some(self.on_purpose(what, kind, thing))
    }

    fn spend(&mut self, op: Op) -> Option<Kind> {
        let (left, kind) = self.next.get_mut(&op)?;
        *left = left.checked_sub(1)?;
        Some(*kind)
    }

    fn chance(&mut self) -> Option<Kind> {
        let (probability, kind) = self.random;
        (probability > 0.0 && self.rng.fraction() < probability).then_some(kind)
    }

    fn by_chance(&mut self, what: &str, thing: &str) -> Result<()> {
        let kind = self.chance();
        kind.map_or(Ok(()), |kind| Err(self.on_purpose(what, kind, thing)))
    }

    /// At which byte an answer of `len` bytes is cut off, if it is.
    fn cut(&mut self, len: usize) -> Option<usize> {
        let left = self.truncated.checked_sub(1).filter(|_| len > 0)?;
        self.truncated = left;
        Some(usize::try_from(self.rng.next_u64() % len as u64).expect("less than a length"))
    }

    fn coin(&mut self) -> bool {
        self.rng.next_u64() & 1 == 0
    }

    fn on_purpose(&self, what: &str, kind: Kind, thing: &str) -> Error {
        let error = Error::new(kind, format!("{what} {thing}: failed on purpose"));
        match self.asked_wait {
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
            truncated: 0,
            panics: 0,
            random: (0.0, Kind::Unavailable),
            delay: Duration::ZERO,
            asked_wait: None,
        };
        Self {
            inner,
            script: Arc::new(Mutex::new(script)),
            hung: watch::Sender::new(false),
            puts: AtomicU64::new(0),
            gets: AtomicU64::new(0),
        }
    }

    /// The next `n` calls of this kind fail with `kind`; 0 stops it.
    pub fn fail_next(&self, op: Op, n: u64, kind: Kind) {
        self.script.lock().next.insert(op, (n, kind));
    }

    /// The next `n` puts fail with `kind`; 0 stops it.
    pub fn fail_next_puts(&self, n: u64, kind: Kind) {
        self.fail_next(Op::Put, n, kind);
    }

    /// The next `n` puts panic, as a bug in a backend would.
    pub fn panic_next_puts(&self, n: u64) {
        self.script.lock().panics = n;
    }

    /// The next `n` gets fail with `kind`; 0 stops it.
    pub fn fail_next_gets(&self, n: u64, kind: Kind) {
        self.fail_next(Op::Get, n, kind);
    }

    /// The next `n` deletes fail with `kind` and leave the objects; 0 stops it.
    pub fn fail_next_deletes(&self, n: u64, kind: Kind) {
        self.fail_next(Op::Delete, n, kind);
    }

    /// The next `n` calls that begin, write to, copy into or finish an upload fail with `kind`; 0 stops it.
    pub fn fail_next_uploads(&self, n: u64, kind: Kind) {
        self.fail_next(Op::Upload, n, kind);
    }

    /// The next `n` gets return fewer bytes than requested. This breaks the contract; callers must detect it.
    pub fn truncate_next_gets(&self, n: u64) {
        self.script.lock().truncated = n;
    }

    /// All further errors ask for this wait before a retry, as `Retry-After` does.
    pub fn ask_to_wait(&self, wait: Duration) {
        self.script.lock().asked_wait = Some(wait);
    }

    /// Every call fails with `kind` with this probability (0 to 1); 0 stops it.
    pub fn fail_randomly(&self, probability: f64, kind: Kind) {
        self.script.lock().random = (probability, kind);
    }

    /// Delays every put and get by this time.
    pub fn delay(&self, by: Duration) {
        self.script.lock().delay = by;
    }

    /// Blocks puts until [`Self::release_puts`].
    pub fn hang_puts(&self) {
        self.hung.send_replace(true);
    }

    /// Releases the puts that [`Self::hang_puts`] blocks.
    pub fn release_puts(&self) {
        self.hung.send_replace(false);
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

    fn scripted(&self, op: Op, what: &str, thing: &str) -> Result<()> {
        self.script.lock().failure(op, what, thing).map_or(Ok(()), Err)
    }

    async fn begin_get(&self, key: &Key) -> Result<()> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        let delay = self.script.lock().delay;
        tokio::time::sleep(delay).await;
        self.scripted(Op::Get, "get", key.as_str())
    }

    /// For calls without a script of their own: they fail only at random.
    fn chance(&self, what: &str, thing: &str) -> Result<()> {
        self.script.lock().by_chance(what, thing)
    }
}

#[async_trait]
impl<B: StorageBackend> StorageBackend for Faulty<B> {
    async fn put(&self, key: &Key, payload: Payload) -> Result<()> {
        self.puts.fetch_add(1, Ordering::Relaxed);
        let delay = self.script.lock().delay;
        tokio::time::sleep(delay).await;
        // The sender lives in `self`, so the wait ends only by a release.
        let _ = self.hung.subscribe().wait_for(|hung| !hung).await;
        let fate = self.script.lock().put_fate(key);
        match fate {
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
        let cut = self.script.lock().cut(bytes.len());
        Ok(cut.map_or(bytes.clone(), |at| bytes.slice(..at)))
    }

    async fn open(&self, key: &Key, range: Range<u64>) -> Result<Body> {
        self.begin_get(key).await?;
        let len = range.end - range.start;
        let body = self.inner.open(key, range).await?;
        let cut = self.script.lock().cut(usize::try_from(len).unwrap_or(usize::MAX));
        let (script, key) = (Arc::clone(&self.script), key.clone());
        let mut left = cut.unwrap_or(usize::MAX);
        let spoilt = body.map(move |part| {
            let bytes = part?;
            script.lock().by_chance("get", key.as_str())?;
            let bytes = bytes.slice(..bytes.len().min(left));
            left -= bytes.len();
            Ok(bytes)
        });
        let ended = |part: &Result<Bytes>| matches!(part, Ok(bytes) if bytes.is_empty());
        Ok(Box::pin(spoilt.take_while(move |part| std::future::ready(!ended(part)))))
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>> {
        self.scripted(Op::Head, "head", key.as_str())?;
        self.inner.head(key).await
    }

    async fn stamp(&self, key: &Key) -> Result<Option<Stamp>> {
        self.scripted(Op::Head, "head", key.as_str())?;
        self.inner.stamp(key).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.scripted(Op::Delete, "delete", key.as_str())?;
        self.inner.delete(key).await
    }

    async fn list(&self, prefix: &str, page: Option<&PageToken>) -> Result<Page> {
        self.scripted(Op::List, "list", prefix)?;
        self.inner.list(prefix, page).await
    }

    async fn begin(&self, key: &Key, shape: Shape) -> Result<Box<dyn Upload>> {
        self.scripted(Op::Upload, "begin", key.as_str())?;
        let inner = self.inner.begin(key, shape).await?;
        Ok(Box::new(FaultyUpload { inner, key: key.clone(), script: Arc::clone(&self.script) }))
    }

    async fn unfinished(&self, prefix: &str) -> Result<Vec<Unfinished>> {
        self.chance("list uploads", prefix)?;
        self.inner.unfinished(prefix).await
    }

    async fn abort(&self, upload: &Unfinished) -> Result<()> {
        self.chance("abort", upload.key.as_str())?;
        self.inner.abort(upload).await
    }

    async fn url(&self, key: &Key, expiry: Duration) -> Result<Url> {
        self.chance("link", key.as_str())?;
        self.inner.url(key, expiry).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn free_room(&self) -> Result<Option<u64>> {
        self.chance("free room", "of the place")?;
        self.inner.free_room().await
    }

    fn is_remote(&self) -> bool {
        self.inner.is_remote()
    }
}

/// An upload whose calls fail by the script of uploads, otherwise like puts. A failing call may be carried out.
#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn Upload>,
    key: Key,
    script: Arc<Mutex<Script>>,
}

impl FaultyUpload {
    async fn meet(&self, what: &str, call: impl Future<Output = Result<()>> + Send) -> Result<()> {
        let fate = self.script.lock().upload_fate(what, &self.key);
        match fate {
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
impl Upload for FaultyUpload {
    fn done(&self) -> &[u64] {
        self.inner.done()
    }

    async fn write(&self, part: u64, payload: Payload) -> Result<()> {
        self.meet("write a part of", self.inner.write(part, payload)).await
    }

    async fn copy(&self, part: u64, from: &Key, range: Range<u64>) -> Result<()> {
        self.meet("copy a part of", self.inner.copy(part, from, range)).await
    }

    async fn finish(&self) -> Result<()> {
        self.meet("finish", self.inner.finish()).await
    }

    async fn abort(&self) -> Result<()> {
        self.script.lock().by_chance("abort", self.key.as_str())?;
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::MemoryBackend;

    #[tokio::test]
    async fn each_sort_of_call_fails_by_its_own_script() {
        let place = Faulty::new(MemoryBackend::new(), 1);
        let key = Key::new("k").unwrap();
        let body = || Payload::from_iter([Bytes::from_static(b"body")]);
        place.put(&key, body()).await.unwrap();
        place.fail_next_deletes(1, Kind::PermissionDenied);
        assert_eq!(place.delete(&key).await.unwrap_err().kind(), Kind::PermissionDenied);
        place.truncate_next_gets(1);
        assert!(place.get(&key, 0..4).await.unwrap().len() < 4);
        assert_eq!(&place.get(&key, 0..4).await.unwrap()[..], b"body");
        place.fail_next(Op::Head, 1, Kind::Network);
        place.fail_next(Op::List, 1, Kind::Network);
        assert!(place.head(&key).await.is_err() && place.list("", None).await.is_err());
        place.delete(&key).await.unwrap();
        let upload = place.begin(&key, Shape { len: 4, part_len: 4 }).await.unwrap();
        place.fail_next_uploads(2, Kind::Unavailable);
        assert!(upload.write(0, body()).await.is_err() && upload.finish().await.is_err());
        upload.abort().await.unwrap();
    }
}
