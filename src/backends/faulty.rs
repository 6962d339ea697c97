//! Failing on purpose, repeatably: what tests put around a backend to see what the rest does then.

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

/// A backend that fails as scripted, and by chance with a seed; without a script it passes everything on.
///
/// A failing put may have stored the whole object (a coin of the seed decides), since a lost answer looks just so.
#[derive(Debug)]
pub struct Faulty<B> {
    inner: B,
    script: Arc<Mutex<Script>>,
    hung: watch::Sender<bool>,
    puts: AtomicU64,
    gets: AtomicU64,
}

/// The calls that a script tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    Put,
    Get,
    Head,
    Delete,
    List,
    /// What is done to an upload: begin, write, copy and finish; giving it up is not.
    Upload,
}

#[derive(Debug)]
struct Script {
    rng: SplitMix64,
    /// How many calls fail next, and with what.
    next: BTreeMap<Op, (u64, Kind)>,
    truncated: u64,
    panics: u64,
    random: (f64, Kind),
    delay: Duration,
    asked_wait: Option<Duration>,
}

/// What becomes of a call: the error it ends with, and whether it is carried out all the same.
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

    /// What is done to an upload fails by its own script, else like a put.
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

    /// Where an answer of `len` bytes is cut short, if it is.
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
    /// Passes calls on to `inner` until told to fail. Equal seeds and calls fail alike.
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

    /// The next `n` calls of this sort fail with `kind`; 0 ends it.
    pub fn fail_next(&self, op: Op, n: u64, kind: Kind) {
        self.script.lock().next.insert(op, (n, kind));
    }

    /// The next `n` puts fail with `kind`; 0 ends it.
    pub fn fail_next_puts(&self, n: u64, kind: Kind) {
        self.fail_next(Op::Put, n, kind);
    }

    /// The next `n` puts panic, as a defect in a backend would.
    pub fn panic_next_puts(&self, n: u64) {
        self.script.lock().panics = n;
    }

    /// The next `n` gets fail with `kind`; 0 ends it.
    pub fn fail_next_gets(&self, n: u64, kind: Kind) {
        self.fail_next(Op::Get, n, kind);
    }

    /// The next `n` deletes fail with `kind`, and the objects stay; 0 ends it.
    pub fn fail_next_deletes(&self, n: u64, kind: Kind) {
        self.fail_next(Op::Delete, n, kind);
    }

    /// The next `n` calls that begin, write to, copy into or finish an upload fail with `kind`; 0 ends it.
    pub fn fail_next_uploads(&self, n: u64, kind: Kind) {
        self.fail_next(Op::Upload, n, kind);
    }

    /// The next `n` gets give fewer bytes than were asked for, which no place should: callers must notice.
    pub fn truncate_next_gets(&self, n: u64) {
        self.script.lock().truncated = n;
    }

    /// Errors from now on ask to be left alone for so long, as `Retry-After` does.
    pub fn ask_to_wait(&self, wait: Duration) {
        self.script.lock().asked_wait = Some(wait);
    }

    /// Every call fails with `kind` at this probability (0 to 1); 0 ends it.
    pub fn fail_randomly(&self, probability: f64, kind: Kind) {
        self.script.lock().random = (probability, kind);
    }

    /// Every put and get takes this much longer.
    pub fn delay(&self, by: Duration) {
        self.script.lock().delay = by;
    }

    /// Puts stand still until [`Self::release_puts`].
    pub fn hang_puts(&self) {
        self.hung.send_replace(true);
    }

    /// Lets the puts go on that [`Self::hang_puts`] holds.
    pub fn release_puts(&self) {
        self.hung.send_replace(false);
    }

    /// Puts begun so far, failed ones too.
    #[must_use]
    pub fn puts(&self) -> u64 {
        self.puts.load(Ordering::Relaxed)
    }

    /// Gets begun so far, failed ones too.
    #[must_use]
    pub fn gets(&self) -> u64 {
        self.gets.load(Ordering::Relaxed)
    }

    /// The backend inside, to look at what is really there.
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

    /// For calls without a script: only chance fails them.
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
        // The sender lives in self, so the wait ends only by release.
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

/// Parts fail by the script of uploads, else like puts: and perhaps are carried out all the same.
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
