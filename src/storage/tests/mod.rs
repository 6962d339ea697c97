//! Writer, reader, cache and sweep together, over a faulty memory backend and a catalog in a fresh folder.

pub(super) mod case_insensitive;
pub(super) mod crash;
pub(super) mod model;
pub(super) mod publish;
pub(super) mod read;
pub(super) mod sequential_upload;
pub(super) mod strict_backend;

use std::{collections::BTreeSet, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::{
    ImportReader, ImportStore, ImportWriter, Pressure, RangeSet, WindowCache, WriterEvent,
    WriterOptions,
    sweep::{Sweep, remove_import},
};
use crate::{
    backends::{
        Faulty, Key, MemoryBackend, Meter, Metered, Payload, Reads, StorageBackend, list_all,
    },
    catalog::{
        Catalog, FileRow, ImportRow, ImportState, LayoutKind, NewImport, Role,
        leases::{Leases, Resource, Token},
    },
    clock::Clock,
    error::Kind,
    memory::{BLOCK_LEN, BlockPool},
};

/// Ends a test that hangs. Long enough for a busy machine.
pub(super) const HUNG: Duration = Duration::from_secs(300);

pub(super) const B: u64 = BLOCK_LEN as u64;

/// The test byte at each position: mixed from the position, so that it has no period of a block, window or chunk.
pub(super) fn byte(pos: u64) -> u8 {
    let mixed = pos.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56;
    u8::try_from(mixed).unwrap()
}

pub(super) fn join(payload: &Payload) -> Vec<u8> {
    payload.buffers().concat()
}

/// An import of the given files (a negative length is padding), with everything that works on it.
pub(super) struct Rig {
    pub(super) dir: TempDir,
    pub(super) catalog: Catalog,
    pub(super) backend: Arc<Faulty<MemoryBackend>>,
    meter: Arc<Meter>,
    pub(super) row: ImportRow,
    pub(super) store: Arc<ImportStore>,
    pub(super) pressure: Arc<Pressure>,
    pub(super) writer: ImportWriter,
    pub(super) reader: ImportReader,
    pub(super) events: mpsc::UnboundedReceiver<WriterEvent>,
}

impl Rig {
    pub(super) async fn new(files: &[i64], chunk_len: u64, budget: usize) -> Self {
        Self::with_layout(LayoutKind::Chunks, files, chunk_len, budget).await
    }

    pub(super) async fn with_layout(
        layout: LayoutKind,
        files: &[i64],
        chunk_len: u64,
        budget: usize,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).await.unwrap();
        let mut start = 0;
        let mut rows = Vec::new();
        for (n, len) in files.iter().enumerate() {
            let (path, pad, len) = (format!("rig/{n}"), *len < 0, len.unsigned_abs());
            rows.push(FileRow { path, start, len, pad });
            start += len;
        }
        let new = NewImport {
            name: "rig".into(),
            len: start,
            storage: "file".into(),
            chunk_len,
            layout,
            files: rows,
            ..NewImport::default()
        };
        let row = catalog.create_import(new).await.unwrap();
        let backend = Arc::new(Faulty::new(MemoryBackend::new(), 5));
        Self::with_backend(dir, catalog, backend, row, budget).await
    }

    pub(super) async fn with_backend(
        dir: TempDir,
        catalog: Catalog,
        backend: Arc<Faulty<MemoryBackend>>,
        row: ImportRow,
        budget: usize,
    ) -> Self {
        let meter = Arc::<Meter>::default();
        let metered = Arc::new(Metered::new(Arc::clone(&backend), Arc::clone(&meter)));
        let store = ImportStore::open(&catalog, &row, metered).await.unwrap();
        let pressure = Pressure::new(BlockPool::new(budget));
        let (tx, events) = mpsc::unbounded_channel();
        let options =
            WriterOptions { retry_base: Duration::from_millis(1), ..WriterOptions::default() };
        let writer = ImportWriter::spawn(
            Arc::clone(&store),
            catalog.clone(),
            Arc::clone(&pressure),
            &RangeSet::from(0..row.len),
            options,
            Box::new(move |event| drop(tx.send(event))),
        );
        let reader = ImportReader::new(Arc::clone(&store), WindowCache::new(64 << 20));
        Self { dir, catalog, backend, meter, row, store, pressure, writer, reader, events }
    }

    /// What was read from the storage since the last call.
    pub(super) fn take_reads(&self) -> Reads {
        let mut sum = Reads::default();
        self.meter.take().into_values().for_each(|reads| sum += reads);
        sum
    }

    /// Drops everything without a flush, and opens the import again.
    pub(super) async fn crash(self) -> Self {
        let Self { dir, catalog, backend, row, pressure, writer, .. } = self;
        let budget = pressure.pool().budget();
        writer.abandon().await;
        drop(catalog);
        let catalog = Catalog::open(dir.path()).await.unwrap();
        Self::with_backend(dir, catalog, backend, row, budget).await
    }

    pub(super) fn write(&self, range: Range<u64>) {
        let bytes: Vec<u8> = range.clone().map(byte).collect();
        let parts = bytes.chunks(BLOCK_LEN).map(|part| self.pressure.pool().copy(part)).collect();
        self.writer.write_at(range.start, parts);
    }

    /// Panics when the bytes are not those that were written, with zeros in padding.
    pub(super) async fn check(&self, range: Range<u64>) {
        let payload = self.reader.read_at(range.clone()).await.unwrap();
        self.check_payload(range, &payload);
    }

    pub(super) fn check_payload(&self, range: Range<u64>, payload: &Payload) {
        let pads = self.store.layout().pads();
        let zero = |pos: u64| pads.contains(&(pos..pos + 1));
        let expected: Vec<u8> =
            range.clone().map(|pos| if zero(pos) { 0 } else { byte(pos) }).collect();
        assert!(join(payload) == expected, "wrong bytes at {range:?}");
    }

    async fn next_event(&mut self) -> WriterEvent {
        let event = tokio::time::timeout(HUNG, self.events.recv()).await;
        event.expect("an event").expect("the writer is running")
    }

    async fn next_durable(&mut self) -> Vec<Range<u64>> {
        match self.next_event().await {
            WriterEvent::Durable(runs) => runs,
            other => panic!("{other:?} instead of durable"),
        }
    }

    /// Checks that each stored object exists with its length, and that generated keys are under the catalog's prefix.
    pub(super) async fn check_objects(&self) {
        for object in self.catalog.objects(&self.row.id).await.unwrap() {
            let is_generated = object.key.starts_with(&self.catalog.key_prefix());
            assert_eq!(is_generated, object.role != Role::File, "{}", object.key);
            if object.is_stored() {
                let key = Key::new(&object.key).unwrap();
                let stored_len = self.backend.inner().head(&key).await.unwrap();
                assert_eq!(stored_len, Some(object.len), "object {key}");
            }
        }
    }
}

#[tokio::test]
async fn a_whole_import_becomes_one_object_per_chunk_and_reads_back() {
    let mut rig = Rig::new(&[6 << 20, -3000, 100, 0, 5000], 1 << 20, 64 << 20).await;
    let len = rig.row.len;
    let mut blocks: Vec<u64> = (0..len.div_ceil(B)).collect();
    blocks.sort_by_key(|n| byte(*n * 77));
    for n in blocks {
        rig.write(n * B..len.min((n + 1) * B));
    }
    rig.check(0..len).await;
    rig.writer.flush().await.unwrap();
    assert_eq!(rig.store.durable_bytes(&RangeSet::from(0..len)), len - 3000);
    assert_eq!(rig.writer.stored_total(), len - 3000);
    assert!(rig.store.is_durable(0..len));
    assert_eq!((rig.pressure.sealed(), rig.pressure.in_flight()), (0, 0));
    assert_eq!(rig.pressure.pool().held(), 0, "durable bytes hold no memory");
    let objects = rig.catalog.objects(&rig.row.id).await.unwrap();
    assert_eq!(objects.len(), 7, "six chunks and the small files");
    assert_eq!(rig.store.packed_bytes(), 0);
    rig.check(0..len).await;
    for range in [0..1, 0..0, (1 << 20) - 5..(1 << 20) + 5, len - 5100..len, len..len] {
        rig.check(range).await;
    }
    let mut reported = RangeSet::new();
    while reported.len() < len - 3000 {
        rig.next_durable().await.into_iter().for_each(|run| reported.insert(run));
    }
    assert_eq!(rig.writer.stop(HUNG).await, 0);
}

#[tokio::test]
async fn accepted_bytes_are_readable_at_once_while_storage_hangs() {
    let mut rig = Rig::new(&[8 << 20], 1 << 20, 64 << 20).await;
    rig.backend.block_puts();
    rig.write(0..(1 << 20) + 100);
    let read = rig.reader.try_read(0..(1 << 20) + 100).expect("all is in memory");
    rig.check_payload(0..(1 << 20) + 100, &read);
    while rig.backend.puts() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    rig.write(0..1 << 20);
    assert_eq!(rig.pressure.sealed(), (1 << 20) + 100, "pending bytes are not accepted twice");
    rig.check(5..(1 << 20) + 100).await;
    let hole = rig.reader.read_at(0..(1 << 20) + 101).await.unwrap_err();
    assert_eq!(hole.kind(), Kind::NotFound);
    assert!(
        hole.report().contains("bytes 1048676..1048677 are not stored yet"),
        "{}",
        hole.report()
    );
    assert_eq!(rig.reader.read_at(0..9 << 20).await.unwrap_err().kind(), Kind::InvalidInput);
    rig.backend.unblock_puts();
    assert_eq!(rig.next_durable().await, std::slice::from_ref(&(0..1 << 20)));
    assert!(rig.reader.try_read(0..1).is_none(), "no longer in memory, not yet in the cache");
    rig.check(0..(1 << 20) + 100).await;
    assert!(rig.reader.try_read(0..1 << 20).is_some());
}

#[tokio::test]
async fn a_failing_put_pauses_once_and_resumes_with_nothing_lost() {
    let mut rig = Rig::new(&[8 << 20], 1 << 20, 64 << 20).await;
    rig.backend.fail_next_puts(12, Kind::NoSpace);
    rig.write(0..3 << 20);
    let WriterEvent::Paused(error) = rig.next_event().await else { panic!("not paused") };
    assert_eq!(error.kind(), Kind::NoSpace);
    assert!(error.report().contains(rig.row.id.as_str()));
    let (mut pauses, mut resumes, mut durable) = (1, 0, 0);
    while durable < 3 || resumes < pauses {
        match rig.next_event().await {
            WriterEvent::Paused(_) => pauses += 1,
            WriterEvent::Resumed => resumes += 1,
            WriterEvent::Durable(_) => durable += 1,
            WriterEvent::Lost(error) | WriterEvent::Failed(error) => panic!("{}", error.report()),
        }
        assert!(pauses - resumes <= 1);
    }
    rig.check(0..3 << 20).await;
    let keys: Vec<_> = rig.catalog.all_keys().await.unwrap();
    assert_eq!(keys.len(), 3);
    assert_eq!(
        rig.catalog.leftover_intents().await.unwrap(),
        [],
        "the same object was tried again"
    );
}

#[tokio::test]
async fn a_storage_that_is_full_for_a_while_is_retried_and_reported_once() {
    let mut rig = Rig::new(&[8 << 20], 1 << 20, 64 << 20).await;
    rig.backend.fail_next_puts(u64::MAX, Kind::NoSpace);
    rig.write(0..4 << 20);
    let WriterEvent::Paused(error) = rig.next_event().await else { panic!("not paused") };
    assert_eq!(error.kind(), Kind::NoSpace);
    while rig.backend.puts() < 20 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(rig.events.try_recv().is_err(), "a pause is reported once");
    assert_eq!(rig.pressure.sealed(), 4 << 20, "verified bytes are kept");
    assert_eq!(rig.pressure.pool().held(), 4 << 20, "and are held once");
    rig.check(0..4 << 20).await;
    rig.backend.fail_next_puts(0, Kind::NoSpace);
    let (mut durable, mut resumed) = (0, 0);
    while durable < 4 || resumed < 1 {
        match rig.next_event().await {
            WriterEvent::Durable(runs) => durable += runs.len(),
            WriterEvent::Lost(error) | WriterEvent::Failed(error) => panic!("{}", error.report()),
            WriterEvent::Resumed => resumed += 1,
            WriterEvent::Paused(error) => panic!("paused again: {}", error.report()),
        }
    }
    assert_eq!((rig.pressure.sealed(), rig.pressure.pool().held()), (0, 0));
    rig.check(0..4 << 20).await;
}

#[tokio::test]
async fn a_permanent_failure_ends_the_run_after_a_few_tries() {
    // On a local storage. The owner of a bucket can grant the permission, so there it may pass.
    for kind in [Kind::Internal, Kind::InvalidInput, Kind::PermissionDenied, Kind::NotFound] {
        let mut rig = Rig::new(&[8 << 20], 1 << 20, 64 << 20).await;
        rig.backend.fail_next_puts(u64::MAX, kind);
        rig.write(0..1 << 20);
        let WriterEvent::Failed(error) = rig.next_event().await else { panic!("{kind:?}") };
        assert_eq!(error.kind(), kind);
        assert!(error.report().contains(rig.row.id.as_str()), "{}", error.report());
        assert_eq!(rig.backend.puts(), 5, "{kind:?}");
        assert!(rig.writer.is_refused());
        assert_eq!(rig.writer.stop(Duration::from_secs(100)).await, 1 << 20, "stop does not wait");
        assert_eq!((rig.pressure.sealed(), rig.pressure.pool().held()), (0, 0));
        assert_eq!(rig.backend.puts(), 5, "nothing is retried after the end");
    }
}

#[tokio::test]
async fn a_seemingly_permanent_failure_that_passes_does_not_end_the_run() {
    let mut rig = Rig::new(&[8 << 20], 1 << 20, 64 << 20).await;
    rig.backend.fail_next_puts(4, Kind::Internal);
    rig.write(0..1 << 20);
    assert_eq!(rig.next_durable().await, std::slice::from_ref(&(0..1 << 20)));
    assert_eq!(rig.backend.puts(), 5);
}

#[tokio::test]
async fn an_upload_that_panics_each_time_ends_the_run() {
    let mut rig = Rig::new(&[8 << 20], 1 << 20, 64 << 20).await;
    rig.backend.panic_next_puts(u64::MAX);
    rig.write(0..1 << 20);
    let WriterEvent::Failed(error) = rig.next_event().await else { panic!("not failed") };
    assert!(error.report().contains("panic"), "{}", error.report());
}

#[tokio::test]
async fn a_deleted_catalog_ends_the_run() {
    let mut rig = Rig::new(&[8 << 20], 1 << 20, 64 << 20).await;
    std::fs::remove_file(rig.dir.path().join("catalog.db")).unwrap();
    rig.write(0..1 << 20);
    let WriterEvent::Failed(error) = rig.next_event().await else { panic!("not failed") };
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.report().contains("catalog.db"), "{}", error.report());
    assert_eq!(rig.backend.puts(), 0, "no object is put without an intent");
}

#[tokio::test]
async fn stopping_does_not_wait_for_a_storage_that_refuses_writes() {
    let mut rig = Rig::new(&[8 << 20], 1 << 20, 64 << 20).await;
    rig.backend.fail_next_puts(u64::MAX, Kind::Unavailable);
    rig.write(0..2 << 20);
    assert!(matches!(rig.next_event().await, WriterEvent::Paused(_)));
    assert_eq!(rig.writer.pending_bytes(), 2 << 20);
    assert_eq!(rig.writer.stop(Duration::MAX).await, 2 << 20);
}

#[tokio::test]
async fn the_wait_that_storage_requests_is_respected() {
    let mut rig = Rig::new(&[8 << 20], 1 << 20, 64 << 20).await;
    rig.backend.set_retry_after(Duration::from_millis(300));
    rig.backend.fail_next_puts(1, Kind::RateLimited);
    let started = std::time::Instant::now();
    rig.write(0..1 << 20);
    assert!(matches!(rig.next_event().await, WriterEvent::Paused(_)));
    assert!(matches!(rig.next_event().await, WriterEvent::Resumed));
    assert!(started.elapsed() >= Duration::from_millis(300), "{:?}", started.elapsed());
    assert_eq!(rig.backend.puts(), 2);
    assert_eq!(rig.next_durable().await, std::slice::from_ref(&(0..1 << 20)));
}

#[tokio::test]
async fn a_truncated_get_is_an_error_and_not_cached() {
    let rig = Rig::new(&[6 << 20], 4 << 20, 64 << 20).await;
    rig.write(0..4 << 20);
    rig.writer.flush().await.unwrap();
    // The GET of the window, and the GET of the requested bytes alone.
    rig.backend.truncate_next_gets(2);
    assert!(rig.reader.read_at(0..9).await.is_err());
    rig.check(0..9).await;
}

#[tokio::test]
async fn an_upload_that_panics_is_started_again() {
    let mut rig = Rig::new(&[8 << 20], 1 << 20, 64 << 20).await;
    rig.backend.panic_next_puts(2);
    rig.write(0..1 << 20);
    rig.writer.flush().await.unwrap();
    rig.check(0..1 << 20).await;
    assert_eq!(rig.next_durable().await, std::slice::from_ref(&(0..1 << 20)));
    assert_eq!((rig.pressure.sealed(), rig.pressure.in_flight()), (0, 0));
}

#[tokio::test]
async fn incomplete_chunks_are_packed_under_pressure() {
    let mut rig = Rig::new(&[64 << 20], 1 << 20, 4 << 20).await;
    // Three blocks in each of the first 60 chunks: no chunk becomes complete, and at the mark (three eighths of the
    // budget) they must be packed.
    for n in 0..60 {
        rig.write(n << 20..(n << 20) + 3 * B);
    }
    let mut durable = 0;
    while rig.pressure.sealed() >= rig.pressure.pack_mark() {
        durable += rig.next_durable().await.len();
    }
    assert!(durable > 0);
    assert!(rig.pressure.sealed() > 0, "below the mark incomplete chunks wait");
    assert!(rig.store.packed_bytes() > 0);
    assert_eq!(rig.store.packed_bytes(), rig.store.durable_ranges().len());
    rig.writer.flush().await.unwrap();
    assert_eq!(rig.pressure.sealed(), 0);
    for n in 0..60 {
        rig.check(n << 20..(n << 20) + 3 * B).await;
    }
    rig.check_objects().await;
}

#[tokio::test]
async fn an_idle_writer_uploads_incomplete_chunks_when_the_pool_is_full() {
    let mut rig = Rig::new(&[8 << 20], 1 << 20, 1 << 20).await;
    let _open: Vec<Bytes> = (0..60).map(|_| rig.pressure.pool().copy(&[1])).collect();
    rig.write(0..B);
    assert_eq!(rig.next_durable().await, std::slice::from_ref(&(0..B)));
}

#[tokio::test]
async fn stopping_at_the_deadline_leaves_only_intents_to_the_sweep() {
    let rig = Rig::new(&[8 << 20], 1 << 20, 64 << 20).await;
    rig.write(0..1 << 20);
    rig.writer.flush().await.unwrap();
    rig.backend.block_puts();
    rig.write(1 << 20..5 << 20);
    let Rig { dir, catalog, backend, row, store, pressure, writer, .. } = rig;
    assert_eq!(writer.stop(Duration::from_millis(300)).await, 4 << 20);
    assert_eq!((pressure.sealed(), pressure.in_flight(), pressure.pool().held()), (0, 0, 0));
    assert_eq!(catalog.leftover_intents().await.unwrap().len(), 3);
    drop(store);
    backend.unblock_puts();
    let mut reopened = Rig::with_backend(dir, catalog, backend, row, 64 << 20).await;
    assert_eq!(
        reopened.store.missing(&RangeSet::from(0..8 << 20)),
        RangeSet::from(1 << 20..8 << 20)
    );
    reopened.check(0..1 << 20).await;
    reopened.write(0..8 << 20);
    reopened.writer.flush().await.unwrap();
    reopened.check(0..8 << 20).await;
    assert_eq!(reopened.next_durable().await.len(), 1);
}

#[tokio::test]
async fn readers_of_one_window_share_one_get_and_errors_are_not_cached() {
    let rig = Rig::new(&[6 << 20], 4 << 20, 64 << 20).await;
    rig.write(0..4 << 20);
    rig.writer.flush().await.unwrap();
    rig.backend.delay(Duration::from_millis(20));
    let mut readers = tokio::task::JoinSet::new();
    for n in 0..50 {
        let reader = rig.reader.clone();
        readers.spawn(async move { reader.read_at(n * B..(n + 1) * B).await.unwrap().len() });
    }
    assert!(readers.join_all().await.into_iter().all(|len| len == B));
    assert_eq!(rig.backend.gets(), 1);
    rig.backend.fail_next_gets(1, Kind::Network);
    let one = rig.reader.read_at(1 << 20..(1 << 20) + 1);
    let (a, b) = tokio::join!(one, rig.reader.read_at((1 << 20) + 1..(1 << 20) + 2));
    assert_eq!((a.unwrap_err().kind(), b.unwrap_err().kind()), (Kind::Network, Kind::Network));
    rig.check(1 << 20..2 << 20).await;
    assert_eq!(rig.backend.gets(), 3);
}

#[tokio::test]
async fn the_cache_stays_within_its_capacity_and_evicts_the_oldest_window() {
    let rig = Rig::new(&[6 << 20], 6 << 20, 64 << 20).await;
    rig.write(0..6 << 20);
    rig.writer.flush().await.unwrap();
    // Five eighths of the capacity are for cached windows.
    let cache = WindowCache::new(4 << 20);
    let reader = ImportReader::new(Arc::clone(&rig.store), Arc::clone(&cache));
    for n in [0, 2, 0, 4] {
        rig.check_payload(
            n << 20..(n << 20) + 9,
            &reader.read_at(n << 20..(n << 20) + 9).await.unwrap(),
        );
    }
    assert_eq!(cache.cached_bytes(), 2 << 20);
    assert!(reader.try_read(0..9).is_some() && reader.try_read(4 << 20..5 << 20).is_some());
    assert!(reader.try_read(2 << 20..(2 << 20) + 1).is_none());
    rig.check_payload(0..6 << 20, &reader.read_at(0..6 << 20).await.unwrap());
}

pub(super) fn sweep<'a>(
    catalog: &'a Catalog,
    backend: &'a Arc<dyn StorageBackend>,
    storage: &'a str,
) -> Sweep<'a> {
    Sweep { catalog, backend, storage, idle: None }
}

#[tokio::test]
async fn the_sweep_finds_unnamed_objects_and_nothing_else() {
    let rig = Rig::new(&[8 << 20], 1 << 20, 64 << 20).await;
    rig.write(0..2 << 20);
    rig.writer.flush().await.unwrap();
    let backend: Arc<dyn StorageBackend> = Arc::clone(&rig.backend) as _;
    let body = || Payload::from_iter([Bytes::from_static(b"x")]);
    let intent = rig.catalog.intend(&rig.row.id, 1, false).await.unwrap();
    backend.put(&Key::new(&intent.key).unwrap(), body()).await.unwrap();
    let foreign = Key::new("0123456789abcdef/9c4e01ab/00000001").unwrap();
    backend.put(&foreign, body()).await.unwrap();
    let sweep = sweep(&rig.catalog, &backend, "file");
    let found = sweep.find().await.unwrap();
    assert_eq!((found.own.objects, found.own.bytes), (1, 1));
    assert_eq!(found.intents, std::slice::from_ref(&intent));
    let removed = sweep.remove(&found, true).await.unwrap();
    assert_eq!((removed.tally, removed.failures.count()), (found.own, 0));
    let rest = sweep.find().await.unwrap();
    assert!(rest.is_empty(), "{rest:?}");
    assert_eq!(list_all(&*backend, "").await.unwrap().len(), 3, "two chunks and a foreign object");
    rig.check(0..2 << 20).await;
}

#[tokio::test]
async fn the_sweep_leaves_the_puts_of_a_running_import_alone() {
    let rig = Rig::new(&[8 << 20], 1 << 20, 64 << 20).await;
    let backend: Arc<dyn StorageBackend> = Arc::clone(&rig.backend) as _;
    let body = || Payload::from_iter([Bytes::from_static(b"x")]);
    let intent = rig.catalog.intend(&rig.row.id, 1, false).await.unwrap();
    let key = Key::new(&intent.key).unwrap();
    backend.put(&key, body()).await.unwrap();
    let idle = BTreeSet::new();
    let while_running = Sweep { idle: Some(&idle), ..sweep(&rig.catalog, &backend, "file") };
    let found = while_running.find().await.unwrap();
    assert!(found.is_empty(), "{found:?}");
    // An import that has started since: its put is not among the leftovers that were found.
    let stopped = sweep(&rig.catalog, &backend, "file");
    let before = stopped.find().await.unwrap();
    let later = rig.catalog.intend(&rig.row.id, 1, false).await.unwrap();
    let later_key = Key::new(&later.key).unwrap();
    backend.put(&later_key, body()).await.unwrap();
    while_running.remove(&found, true).await.unwrap();
    assert_eq!(backend.head(&key).await.unwrap(), Some(1));
    stopped.remove(&before, true).await.unwrap();
    assert_eq!(backend.head(&key).await.unwrap(), None);
    assert_eq!(backend.head(&later_key).await.unwrap(), Some(1));
}

#[tokio::test]
async fn an_interrupted_removal_is_finished_by_the_sweep_and_kept_objects_stay() {
    let rig = Rig::new(&[8 << 20], 1 << 20, 64 << 20).await;
    rig.write(0..2 << 20);
    rig.writer.flush().await.unwrap();
    let (catalog, row) = (&rig.catalog, &rig.row);
    let backend: Arc<dyn StorageBackend> = Arc::clone(&rig.backend) as _;
    remove_import(catalog, &backend, row, true).await.unwrap();
    assert!(catalog.list().await.unwrap().is_empty());
    let found = sweep(catalog, &backend, "file").find().await.unwrap();
    assert!(found.is_empty(), "kept objects are no leftovers");
    rig.backend.fail_randomly(1.0, Kind::Network);
    assert!(remove_import(catalog, &backend, row, false).await.is_err());
    rig.backend.fail_randomly(0.0, Kind::Network);
    assert_eq!(catalog.get(&row.id).await.unwrap().state, ImportState::Removing);
    let found = sweep(catalog, &backend, "file").find().await.unwrap();
    assert_eq!(found.removing.len(), 1);
    assert!(sweep(catalog, &backend, "s3").find().await.unwrap().is_empty());
    sweep(catalog, &backend, "file").remove(&found, false).await.unwrap();
    assert!(list_all(&*backend, "").await.unwrap().is_empty());
    assert_eq!(catalog.get(&row.id).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test]
async fn an_import_whose_lease_was_taken_over_ends_at_once() {
    let Rig { dir, catalog, backend, row, .. } = Rig::new(&[8 << 20], 1 << 20, 64 << 20).await;
    let leases = Leases::new(catalog.clone(), Clock::by_hand()).unwrap();
    let name = format!("import {}", row.id);
    let (token, resource) = (Token::random().unwrap(), Resource { key: name.clone(), name });
    leases.take(&token, vec![resource.clone()]).await.unwrap();
    let fenced = catalog.fenced(resource, token.clone());
    let mut rig = Rig::with_backend(dir, fenced, backend, row, 64 << 20).await;
    rig.write(0..1 << 20);
    assert_eq!(rig.next_durable().await, std::slice::from_ref(&(0..1 << 20)));
    leases.release(&token);
    rig.write(1 << 20..2 << 20);
    let WriterEvent::Failed(error) = rig.next_event().await else { panic!("not failed") };
    assert_eq!(error.kind(), Kind::Changed);
    assert!(error.report().contains("was taken over by another bae"), "{}", error.report());
    assert_eq!(rig.backend.puts(), 1, "no object is put without a lease, and nothing is retried");
    rig.check(0..1 << 20).await;
}
