//! One object on its way: intent, put, commit, each until it succeeds.

use std::{
    future::Future, ops::Range, sync::Arc, sync::atomic::AtomicU64, sync::atomic::Ordering,
    time::Duration,
};

use parking_lot::Mutex;
use tracing::Instrument;

use super::{
    assembly::Plan,
    direct::DirectFiles,
    import::ImportStore,
    pressure::{InFlight, Pressure},
    stream::{Sent, Stream},
};
use crate::{
    backends::{Backoff, Key},
    catalog::{Catalog, Extent, FileRow, ObjectNum, ObjectRow, Role},
    error::{Error, Kind, Result},
};

/// What a writer tells.
#[derive(Debug)]
pub enum WriterEvent {
    /// These ranges are stored and committed; their memory is free.
    Durable(Vec<Range<u64>>),
    /// Storage or the catalog refuses; it is tried again until it does not. Told once, until `Resumed`.
    Paused(Error),
    /// What was refused has succeeded.
    Resumed,
    /// Bytes that were durable are gone, and nobody fetches them again in this run: it is to end with this.
    Lost(Error),
}

/// Takes a writer's events, from any thread and under the writer's lock: it must be quick and not call back.
pub type WriterSink = Box<dyn Fn(WriterEvent) + Send + Sync>;

/// The longest wait between two tries, in first waits: 60 s at the usual 1 s.
const LONGEST_WAIT: u32 = 60;
/// The longest wait that a place is granted when it asks for one. Some ask for a day (a daily quota); whoever makes
/// room or pays meanwhile should not have to wait for the end of it.
const LONGEST_ASKED: Duration = Duration::from_secs(15 * 60);

/// What the uploads of one writer share.
pub(super) struct Uploader {
    pub(super) store: Arc<ImportStore>,
    pub(super) catalog: Catalog,
    pub(super) pressure: Arc<Pressure>,
    pub(super) retry_base: Duration,
    pub(super) direct: Option<DirectFiles>,
    pub(super) sink: WriterSink,
    /// Uploads that are failing now.
    pub(super) failing: Mutex<usize>,
    pub(super) stored_total: AtomicU64,
}

impl Uploader {
    /// Makes the plan's bytes durable. Returns only then, however often it takes; dropping it abandons the try.
    pub(super) async fn upload(&self, plan: Plan, in_flight: InFlight, panicked: bool) -> bool {
        let mut trouble = Trouble::after(self, panicked).await;
        self.put(&mut trouble, plan, in_flight).await;
        true
    }

    /// Sends part `index` of a file, of which the plan is what waits in memory. Whether the next part can follow; else
    /// the plan became a chunk.
    pub(super) async fn send(
        &self,
        stream: &Stream,
        file: &FileRow,
        index: u64,
        plan: Plan,
        in_flight: InFlight,
        panicked: bool,
    ) -> bool {
        let mut trouble = Trouble::after(self, panicked).await;
        let sent = trouble.insist(|| self.send_part(stream, file, index, &plan)).await;
        match sent {
            Sent::Recorded => {
                self.pressure.drain(self.store.free(&plan.runs));
                drop(in_flight);
                self.stored_total.fetch_add(plan.len(), Ordering::Relaxed);
                (self.sink)(WriterEvent::Durable(plan.runs));
                return true;
            }
            Sent::Lost(error) => {
                let error = error.within(format_args!("import {}", self.store.id()));
                (self.sink)(WriterEvent::Lost(error));
            }
            Sent::Refused => {}
        }
        if !plan.is_empty() {
            self.put(&mut trouble, plan, in_flight).await;
        }
        false
    }

    async fn send_part(
        &self,
        stream: &Stream,
        file: &FileRow,
        index: u64,
        plan: &Plan,
    ) -> Result<Sent> {
        let Some(direct) = &self.direct else { return Ok(Sent::Refused) };
        let part = stream.part(index);
        if self.store.streamed_at(file.start).is_some_and(|sent| sent.end >= part.end) {
            return Ok(Sent::Recorded);
        }
        let payload = match plan.runs == std::slice::from_ref(&part) {
            true => self.store.payload(&plan.runs),
            false => direct.publisher().read(part).await?,
        };
        stream.send(direct.publisher(), file, index, payload).await
    }

    async fn put(&self, trouble: &mut Trouble<'_>, plan: Plan, in_flight: InFlight) {
        let payload = self.store.payload(&plan.runs);
        let len = payload.len();
        let catalog = &self.catalog;
        let object = trouble.insist(|| self.intend(&plan, len)).await;
        let key = Key::new(&object.key).expect("files are named by keys, chunks in hexadecimal");
        let span = tracing::info_span!("upload", object = %key, len);
        let backend = self.store.backend();
        trouble.insist(|| backend.put(&key, payload.clone())).instrument(span).await;
        let extents = extents(&plan.runs, object.num);
        trouble.insist(|| catalog.commit_object(object.num, extents.clone())).await;
        drop(payload);
        if let (Role::File, Some(direct)) = (object.role, &self.direct) {
            direct.stored(&object);
        }
        self.pressure.drain(self.store.made_durable(&object, extents));
        drop(in_flight);
        self.stored_total.fetch_add(len, Ordering::Relaxed);
        (self.sink)(WriterEvent::Durable(plan.runs));
    }

    /// A key of our own, or the name of the file that the plan is.
    async fn intend(&self, plan: &Plan, len: u64) -> Result<ObjectRow> {
        if let Some(direct) = &self.direct
            && let Some(object) = direct.intend(&plan.runs).await?
        {
            return Ok(object);
        }
        self.catalog.intend(self.store.id(), len, plan.packed).await
    }
}

fn extents(runs: &[Range<u64>], object: ObjectNum) -> Vec<Extent> {
    let mut offset = 0;
    let extent = |run: &Range<u64>| {
        let extent = Extent { range: run.clone(), object, offset };
        offset += run.end - run.start;
        extent
    };
    runs.iter().map(extent).collect()
}

/// The failures of one upload: counted while they last, with longer and longer waits.
struct Trouble<'a> {
    uploader: &'a Uploader,
    failing: bool,
    backoff: Backoff,
}

impl<'a> Trouble<'a> {
    /// Waits first when the try before this one panicked.
    async fn after(uploader: &'a Uploader, panicked: bool) -> Self {
        let mut trouble = Self { uploader, failing: false, backoff: new_backoff(uploader) };
        if panicked {
            let text = format!("an upload of import {} ended in a panic", uploader.store.id());
            trouble.wait_after(Error::new(Kind::Internal, text)).await;
        }
        trouble
    }

    async fn insist<T, F: Future<Output = Result<T>>>(&mut self, mut call: impl FnMut() -> F) -> T {
        loop {
            match call().await {
                Ok(done) => {
                    self.over(true);
                    return done;
                }
                Err(e) => self.wait_after(e).await,
            }
        }
    }

    async fn wait_after(&mut self, error: Error) {
        let asked = error.wait_asked().unwrap_or_default().min(LONGEST_ASKED);
        // The jitter comes on top, so that the uploads which were asked together do not come back together.
        let wait = asked + self.backoff.next_wait();
        let error = error.within(format_args!("import {}", self.uploader.store.id()));
        tracing::warn!("{}; trying again in {wait:.1?}", error.report());
        if !self.failing {
            self.failing = true;
            // The event is sent under the lock, so that pauses and resumptions keep their order.
            let mut failing = self.uploader.failing.lock();
            *failing += 1;
            if *failing == 1 {
                (self.uploader.sink)(WriterEvent::Paused(error));
            }
        }
        tokio::time::sleep(wait).await;
    }

    fn over(&mut self, succeeded: bool) {
        if std::mem::take(&mut self.failing) {
            self.backoff = new_backoff(self.uploader);
            let mut failing = self.uploader.failing.lock();
            *failing -= 1;
            if *failing == 0 && succeeded {
                (self.uploader.sink)(WriterEvent::Resumed);
            }
        }
    }
}

impl Drop for Trouble<'_> {
    fn drop(&mut self) {
        self.over(false);
    }
}

fn new_backoff(uploader: &Uploader) -> Backoff {
    Backoff::new(uploader.retry_base, uploader.retry_base.saturating_mul(LONGEST_WAIT))
}
