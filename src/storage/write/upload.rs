//! Uploads one object in three steps, each retried until it succeeds: intent, PUT, commit.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tracing::Instrument;

use super::{
    assembly::ObjectPlan,
    pressure::{InFlightBytes, Pressure},
};
use crate::{
    backends::{Key, Payload},
    catalog::{Catalog, Extent, FileRow, ObjectNum, ObjectRow, Role},
    content_root::{Root, RootHasher},
    error::{Error, Result},
    storage::{
        files::{
            direct_files::DirectFiles,
            sequential_upload::{SendOutcome, SequentialUpload},
        },
        map::import_store::ImportStore,
        retry_loop::{FailureTracker, RetryLoop},
    },
};

/// The blocks that are hashed at once: 1 MiB, which takes less than a millisecond.
const BLOCKS_PER_STEP: usize = 64;

/// An event of a writer.
#[derive(Debug)]
pub enum WriterEvent {
    /// These ranges are stored and committed; their memory is free.
    Durable(Vec<Range<u64>>),
    /// Storage or the catalog refuses writes. They are retried until they succeed. Sent once per pause, until
    /// `Resumed`.
    Paused(Error),
    /// The refused operations have succeeded.
    Resumed,
    /// Bytes that were durable are lost and are not fetched again in this run, so the run ends with this error.
    Lost(Error),
    /// Nothing can be stored, and waiting does not help: the run ends with this error.
    Failed(Error),
}

/// Receives a writer's events, on any thread and under the writer's lock. It must be quick and must not call the
/// writer.
pub type WriterSink = Box<dyn Fn(WriterEvent) + Send + Sync>;

/// The state that the uploads of one writer share.
pub(super) struct Uploader {
    pub(in crate::storage) store: Arc<ImportStore>,
    pub(in crate::storage) catalog: Catalog,
    pub(in crate::storage) pressure: Arc<Pressure>,
    pub(in crate::storage) direct: Option<DirectFiles>,
    pub(in crate::storage) known_roots: HashMap<u64, Root>,
    pub(in crate::storage) failures: FailureTracker,
    pub(in crate::storage) stored_total: AtomicU64,
}

impl Uploader {
    /// Makes the plan's bytes durable, after `panics` earlier tries that panicked. Returns only when they are. Dropping
    /// it abandons the try.
    pub(in crate::storage) async fn upload(
        &self,
        plan: ObjectPlan,
        in_flight: InFlightBytes,
        panics: u32,
    ) -> bool {
        let mut retry = self.failures.retry_loop().after_panics(panics).await;
        self.store_object(&mut retry, plan, in_flight).await;
        true
    }

    /// Sends part `index` of a file; `plan` holds its bytes that wait in memory. Returns whether the next part can
    /// follow. If not, the plan was stored as a chunk object.
    pub(in crate::storage) async fn send_part(
        &self,
        upload: &SequentialUpload,
        file: &FileRow,
        index: u64,
        plan: ObjectPlan,
        in_flight: InFlightBytes,
        panics: u32,
    ) -> bool {
        let mut retry = self.failures.retry_loop().after_panics(panics).await;
        let sent = retry.until_ok(|| self.try_send_part(upload, file, index, &plan)).await;
        match sent {
            SendOutcome::Recorded => {
                self.pressure.drain(self.store.free_pending(&plan.runs));
                drop(in_flight);
                self.stored_total.fetch_add(plan.len(), Ordering::Relaxed);
                self.failures.emit(WriterEvent::Durable(plan.runs));
                return true;
            }
            SendOutcome::Lost(error) => {
                let error = error.with_context(format_args!("import {}", self.store.id()));
                self.failures.emit(WriterEvent::Lost(error));
            }
            SendOutcome::Refused => {}
        }
        if !plan.is_empty() {
            self.store_object(&mut retry, plan, in_flight).await;
        }
        false
    }

    async fn try_send_part(
        &self,
        upload: &SequentialUpload,
        file: &FileRow,
        index: u64,
        plan: &ObjectPlan,
    ) -> Result<SendOutcome> {
        let Some(direct) = &self.direct else { return Ok(SendOutcome::Refused) };
        let part = upload.part(index);
        if self.store.uploaded_range_at(file.start).is_some_and(|sent| sent.end >= part.end) {
            return Ok(SendOutcome::Recorded);
        }
        let payload = match plan.runs == std::slice::from_ref(&part) {
            true => self.store.pending_payload(&plan.runs),
            false => direct.publisher().read(part).await?,
        };
        upload.send_part(direct.publisher(), file, index, payload).await
    }

    async fn store_object(
        &self,
        retry: &mut RetryLoop<'_>,
        plan: ObjectPlan,
        in_flight: InFlightBytes,
    ) {
        let payload = self.store.pending_payload(&plan.runs);
        let len = payload.len();
        let catalog = &self.catalog;
        // ANCHOR: three_steps
        let object = retry.until_ok(|| self.intend(&plan, len)).await;
        let key = Key::new(&object.key).expect("the catalog stores only valid keys");
        let span = tracing::info_span!("upload", object = %key, len);
        let backend = self.store.backend();
        let put = retry.until_ok(|| backend.put(&key, payload.clone())).instrument(span);
        let ((), root) = tokio::join!(put, self.content_root(&plan, &payload));
        let extents = extents(&plan.runs, object.num);
        retry.until_ok(|| catalog.commit_with_root(object.num, extents.clone(), root)).await;
        drop(payload);
        // ANCHOR_END: three_steps
        if let (Role::File, Some(direct)) = (object.role, &self.direct) {
            direct.mark_stored(&object);
        }
        self.pressure.drain(self.store.mark_durable(&object, extents));
        drop(in_flight);
        self.stored_total.fetch_add(len, Ordering::Relaxed);
        self.failures.emit(WriterEvent::Durable(plan.runs));
    }

    /// The content root of a whole chunk of one file. Computed in steps while the object is put, so that neither other
    /// tasks nor the put wait for it.
    async fn content_root(&self, plan: &ObjectPlan, payload: &Payload) -> Option<Root> {
        let [run] = &plan.runs[..] else { return None };
        let width = self.store.layout().root_width(run)?;
        if let Some(known) = self.known_roots.get(&run.start) {
            return Some(*known);
        }
        let mut hasher = RootHasher::default();
        for (number, block) in payload.buffers().iter().enumerate() {
            hasher.update(block);
            if number % BLOCKS_PER_STEP == BLOCKS_PER_STEP - 1 {
                tokio::task::yield_now().await;
            }
        }
        Some(hasher.finish(width))
    }

    /// Records the intent: under the file's own name if the plan is one whole file, else under a chunk key.
    async fn intend(&self, plan: &ObjectPlan, len: u64) -> Result<ObjectRow> {
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
