//! Failing on purpose, repeatably: what tests put around a backend to see what the rest does then.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;
use url::Url;

use super::{
    Capabilities, Key, Page, PageToken, Payload, Shape, StorageBackend, Unfinished, Upload,
    rng::SplitMix64,
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

#[derive(Debug)]
struct Script {
    rng: SplitMix64,
    next_puts: (u64, Kind),
    next_gets: (u64, Kind),
    panics: u64,
    random: (f64, Kind),
    delay: Duration,
}

/// What becomes of a call: the error it ends with, and whether it is carried out all the same.
type Fate = Option<(Error, bool)>;

impl Script {
    fn put_fate(&mut self, key: &Key) -> Fate {
        if let Some(left) = self.panics.checked_sub(1) {
            self.panics = left;
            panic!("put {key}: panicked on purpose");
        }
        let kind = spend(&mut self.next_puts).or_else(|| self.chance())?;
        Some((on_purpose("put", kind, key.as_str()), self.rng.next_u64() & 1 == 0))
    }

    fn get_fate(&mut self, key: &Key) -> Option<Error> {
        let kind = spend(&mut self.next_gets).or_else(|| self.chance())?;
        Some(on_purpose("get", kind, key.as_str()))
    }

    fn chance(&mut self) -> Option<Kind> {
        let (probability, kind) = self.random;
        (probability > 0.0 && self.rng.fraction() < probability).then_some(kind)
    }
}

fn spend((left, kind): &mut (u64, Kind)) -> Option<Kind> {
    *left = left.checked_sub(1)?;
    Some(*kind)
}

fn on_purpose(what: &str, kind: Kind, thing: &str) -> Error {
    Error::new(kind, format!("{what} {thing}: failed on purpose"))
}

impl<B> Faulty<B> {
    /// Passes calls on to `inner` until told to fail. Equal seeds and calls fail alike.
    #[must_use]
    pub fn new(inner: B, seed: u64) -> Self {
        let script = Script {
            rng: SplitMix64::new(seed),
            next_puts: (0, Kind::Unavailable),
            next_gets: (0, Kind::Unavailable),
            panics: 0,
            random: (0.0, Kind::Unavailable),
            delay: Duration::ZERO,
        };
        Self {
            inner,
            script: Arc::new(Mutex::new(script)),
            hung: watch::Sender::new(false),
            puts: AtomicU64::new(0),
            gets: AtomicU64::new(0),
        }
    }

    /// The next `n` puts fail with `kind`; 0 ends it.
    pub fn fail_next_puts(&self, n: u64, kind: Kind) {
        self.script.lock().next_puts = (n, kind);
    }

    /// The next `n` puts panic, as a defect in a backend would.
    pub fn panic_next_puts(&self, n: u64) {
        self.script.lock().panics = n;
    }

    /// The next `n` gets fail with `kind`; 0 ends it.
    pub fn fail_next_gets(&self, n: u64, kind: Kind) {
        self.script.lock().next_gets = (n, kind);
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

    /// Calls other than put and get have no script: only chance fails them.
    fn chance(&self, what: &str, thing: &str) -> Result<()> {
        let kind = self.script.lock().chance();
        kind.map_or(Ok(()), |kind| Err(on_purpose(what, kind, thing)))
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
        self.gets.fetch_add(1, Ordering::Relaxed);
        let delay = self.script.lock().delay;
        tokio::time::sleep(delay).await;
        let failure = self.script.lock().get_fate(key);
        match failure {
            None => self.inner.get(key, range).await,
            Some(error) => Err(error),
        }
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>> {
        self.chance("head", key.as_str())?;
        self.inner.head(key).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.chance("delete", key.as_str())?;
        self.inner.delete(key).await
    }

    async fn list(&self, prefix: &str, page: Option<&PageToken>) -> Result<Page> {
        self.chance("list", prefix)?;
        self.inner.list(prefix, page).await
    }

    async fn begin(&self, key: &Key, shape: Shape) -> Result<Box<dyn Upload>> {
        self.chance("begin", key.as_str())?;
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

/// Parts fail like puts: by the same script, and perhaps carried out all the same.
#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn Upload>,
    key: Key,
    script: Arc<Mutex<Script>>,
}

impl FaultyUpload {
    fn fate(&self) -> Fate {
        self.script.lock().put_fate(&self.key)
    }
}

#[async_trait]
impl Upload for FaultyUpload {
    fn done(&self) -> &[u64] {
        self.inner.done()
    }

    async fn write(&self, part: u64, payload: Payload) -> Result<()> {
        match self.fate() {
            None => self.inner.write(part, payload).await,
            Some((error, carried_out)) => {
                if carried_out {
                    self.inner.write(part, payload).await?;
                }
                Err(error)
            }
        }
    }

    async fn copy(&self, part: u64, from: &Key, range: Range<u64>) -> Result<()> {
        match self.fate() {
            None => self.inner.copy(part, from, range).await,
            Some((error, carried_out)) => {
                if carried_out {
                    self.inner.copy(part, from, range).await?;
                }
                Err(error)
            }
        }
    }

    async fn finish(&self) -> Result<()> {
        match self.fate() {
            None => self.inner.finish().await,
            Some((error, carried_out)) => {
                if carried_out {
                    self.inner.finish().await?;
                }
                Err(error)
            }
        }
    }

    async fn abort(&self) -> Result<()> {
        let failure = self.script.lock().chance();
        failure.map_or(Ok(()), |kind| Err(on_purpose("abort", kind, self.key.as_str())))?;
        self.inner.abort().await
    }
}
