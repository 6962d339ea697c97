//! Files sent part by part as they arrive: each byte once, exact, and resumed in the next run.

use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use proptest::prelude::*;
use tokio::sync::mpsc;

use super::{
    HUNG, Rig,
    strict_backend::{StrictBackend, strict},
};
use crate::{
    backends::{CopySupport, StorageBackend},
    catalog::{LayoutKind, Role},
    error::{Error, Kind},
    hints::Operation,
    memory::BlockPool,
    storage::{
        DirectFiles, ImportReader, ImportStore, ImportWriter, Pressure, Published, Publisher,
        RangeSet, WindowCache, WriterEvent, WriterOptions,
        files::sequential_upload::check_partial_uploads, sweep::Sweep,
    },
};

const M: i64 = 1 << 20;
const CHUNK: u64 = 1 << 20;
const PIECE: u64 = 64 << 10;

/// A run of the program over a storage that takes parts in order, and copies at most whole objects.
struct TestRun {
    rig: Rig,
    backend: Arc<StrictBackend>,
    publisher: Arc<Publisher>,
}

impl TestRun {
    async fn new(files: &[i64], budget: usize) -> Self {
        let rig = Rig::with_layout(LayoutKind::Files, files, CHUNK, budget).await;
        let backend = StrictBackend { min_part: CHUNK, ..strict(&rig, CopySupport::Whole, true) };
        Self::with_backend(rig, Arc::new(backend))
            .await
            .unwrap_or_else(|(_, e)| panic!("{}", e.report()))
    }

    async fn with_backend(mut rig: Rig, backend: Arc<StrictBackend>) -> Result<Self, (Rig, Error)> {
        rig.writer.abandon().await;
        let store =
            ImportStore::open(&rig.catalog, &rig.row, Arc::clone(&backend) as _).await.unwrap();
        if let Err(e) = check_partial_uploads(&rig.catalog, &store).await {
            return Err((rig, e));
        }
        let budget = rig.pressure.pool().budget();
        rig.pressure = Pressure::new(BlockPool::new(budget));
        rig.reader = ImportReader::new(Arc::clone(&store), WindowCache::new(1 << 20));
        rig.store = Arc::clone(&store);
        let publisher = rig.publisher().await;
        let options = WriterOptions {
            retry_base: Duration::from_millis(1),
            direct: Some(DirectFiles::new(Arc::clone(&publisher), &rig.files().await)),
            ..WriterOptions::default()
        };
        let (tx, events) = mpsc::unbounded_channel();
        rig.events = events;
        rig.writer = ImportWriter::spawn(
            store,
            rig.catalog.clone(),
            Arc::clone(&rig.pressure),
            &RangeSet::from(0..rig.row.len),
            options,
            Box::new(move |event| drop(tx.send(event))),
        );
        Ok(Self { rig, backend, publisher })
    }

    /// The process dies and is started again.
    async fn restart(self) -> Self {
        let Self { rig, backend, publisher } = self;
        drop(publisher);
        let rig = rig.crash().await;
        Self::with_backend(rig, backend).await.unwrap_or_else(|(_, e)| panic!("{}", e.report()))
    }

    fn missing(&self) -> Vec<Range<u64>> {
        let missing = self.rig.store.missing(&RangeSet::from(0..self.rig.row.len));
        let pieces = |run: Range<u64>| {
            let cut = move |at: u64| at..run.end.min(at - at % PIECE + PIECE);
            let mut at = run.start;
            std::iter::from_fn(move || {
                let piece = Some(cut(at)).filter(|piece| !piece.is_empty())?;
                at = piece.end;
                Some(piece)
            })
        };
        missing.iter().flat_map(pieces).collect()
    }

    /// Writes these pieces at the rate that peers are held to: waits while more than half of the budget is not durable.
    async fn write(&self, pieces: &[Range<u64>]) {
        for piece in pieces {
            while self.rig.pressure.sealed() > self.rig.pressure.pool().budget() / 2 {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            self.rig.write(piece.clone());
        }
    }

    async fn wait_until_sent(&self, start: u64, len: u64) {
        while self.rig.store.uploaded_range_at(start).is_none_or(|sent| sent.end - start < len) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn publish_all(&self) -> Result<Published, Error> {
        let mut sum = Published::default();
        for file in self.rig.files().await {
            sum += self.publisher.publish(&file, &|_| {}).await?;
            self.publisher.delete_freed().await?;
        }
        Ok(sum)
    }

    async fn check(&self) {
        self.rig.check_published("rig").await;
        assert!(self.rig.catalog.partial_uploads(&self.rig.row.id).await.unwrap().is_empty());
        assert_eq!(self.rig.pressure.pool().held(), 0, "no memory is held");
    }

    fn sent_bytes(&self) -> u64 {
        self.backend.sent_bytes.load(Ordering::Relaxed)
    }

    async fn sweep(&self) -> (usize, usize) {
        let backend: Arc<dyn StorageBackend> = Arc::clone(&self.backend) as _;
        let sweep =
            Sweep { catalog: &self.rig.catalog, backend: &backend, storage: "file", idle: None };
        let found = sweep.find().await.unwrap();
        assert_eq!(sweep.remove(&found, false).await.unwrap().failures.count(), 0);
        (found.intents.len(), found.uploads.len())
    }
}

/// Shuffles in place, by a seed.
fn shuffle(pieces: &mut [Range<u64>], mut seed: u64) {
    for n in (1..pieces.len()).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        pieces.swap(n, usize::try_from(seed >> 33).unwrap() % (n + 1));
    }
}

#[tokio::test]
async fn bytes_that_arrive_in_order_are_sent_once_and_never_read_back() {
    let run = TestRun::new(&[12 * M + 5, 100, 0, 3 * M, M], 8 << 20).await;
    run.rig.backend.delay(Duration::from_millis(2));
    run.write(&run.missing()).await;
    run.rig.writer.flush().await.unwrap();
    assert!(run.rig.store.is_durable(0..run.rig.row.len));
    let done = run.publish_all().await.unwrap();
    assert_eq!((done.files, done.sent), (3, 0), "of the files of several chunks and the empty one");
    assert_eq!(run.rig.backend.gets(), 0);
    assert_eq!(run.sent_bytes(), run.rig.row.len);
    run.rig.backend.delay(Duration::ZERO);
    run.check().await;
}

#[tokio::test]
async fn bytes_out_of_order_under_pressure_are_stored_exactly() {
    for seed in 0..4 {
        let run = TestRun::new(&[9 * M + 5, 100, 5 * M], 4 << 20).await;
        let mut pieces = run.missing();
        shuffle(&mut pieces, seed);
        run.write(&pieces).await;
        run.rig.writer.flush().await.unwrap();
        run.publish_all().await.unwrap();
        run.check().await;
    }
}

#[tokio::test]
async fn later_parts_wait_for_a_gap_as_long_as_memory_allows() {
    let run = TestRun::new(&[6 * M], 64 << 20).await;
    let mut pieces = run.missing();
    let late = pieces.remove(20);
    run.write(&pieces).await;
    run.wait_until_sent(0, CHUNK).await;
    // The runtime has one thread, so each yield lets all tasks run that can. After a few of them the writer has handled
    // every piece and the end of the first part.
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    assert_eq!((run.rig.pressure.in_flight(), run.sent_bytes()), (0, CHUNK));
    run.rig.write(late);
    run.rig.writer.flush().await.unwrap();
    run.publish_all().await.unwrap();
    assert_eq!(run.sent_bytes(), run.rig.row.len);
    run.check().await;
}

#[tokio::test]
async fn a_flush_does_not_deadlock_with_a_part_that_is_read_back() {
    for begins in [0, 8] {
        let run = TestRun::new(&[6 * M], 4 << 20).await;
        let pieces = run.missing();
        run.write(&pieces[begins..begins + 8]).await;
        run.rig.writer.flush().await.unwrap();
        // All pieces and the flush are queued before the writer handles them.
        for piece in pieces[8 - begins..16 - begins].iter().chain(&pieces[16..48]) {
            run.rig.write(piece.clone());
        }
        let flush = tokio::time::timeout(HUNG, run.rig.writer.flush());
        flush.await.expect("no deadlock").unwrap();
        run.write(&run.missing()).await;
        run.rig.writer.flush().await.unwrap();
        run.publish_all().await.unwrap();
        run.check().await;
    }
}

#[tokio::test]
async fn parts_keep_their_order_while_another_file_is_read_back() {
    let run = TestRun::new(&[2 * M, 2 * M], 64 << 20).await;
    let pieces = run.missing();
    run.write(&[&pieces[..8], &pieces[32..40]].concat()).await;
    run.rig.writer.flush().await.unwrap();
    run.rig.backend.delay(Duration::from_millis(20));
    for piece in run.missing() {
        run.rig.write(piece);
    }
    let flush = tokio::time::timeout(HUNG, run.rig.writer.flush());
    flush.await.expect("the second part waits for the first").unwrap();
    run.publish_all().await.unwrap();
    run.check().await;
}

#[tokio::test]
async fn sent_parts_are_durable_and_the_next_run_continues_after_them() {
    let run = TestRun::new(&[8 * M + 3, 2 * M], 64 << 20).await;
    run.write(&(0..5 * 16 + 3).map(|n| n * PIECE..(n + 1) * PIECE).collect::<Vec<_>>()).await;
    run.wait_until_sent(0, 5 * CHUNK).await;
    let unfinished = run.rig.reader.read_at(0..10).await.unwrap_err();
    assert_eq!(unfinished.kind(), Kind::Unavailable, "{}", unfinished.report());
    assert!(!run.rig.store.is_in_finished_objects(0..10) && run.rig.store.is_durable(0..5 * CHUNK));
    let run = run.restart().await;
    assert_eq!(run.sweep().await, (0, 0), "an upload that will be resumed is no leftover");
    assert_eq!(run.missing()[0].start, 5 * CHUNK);
    run.write(&run.missing()).await;
    run.rig.writer.flush().await.unwrap();
    run.publish_all().await.unwrap();
    assert_eq!(run.sent_bytes(), run.rig.row.len);
    run.check().await;
}

#[tokio::test]
async fn a_finished_object_that_was_not_recorded_is_recorded_by_the_next_run() {
    let run = TestRun::new(&[3 * M], 64 << 20).await;
    run.write(&run.missing()).await;
    run.rig.writer.flush().await.unwrap();
    let row = run.rig.catalog.partial_uploads(&run.rig.row.id).await.unwrap().remove(0).0;
    let layout = crate::backends::UploadLayout { len: 3 << 20, part_len: CHUNK };
    let key = crate::backends::Key::new(&row.key).unwrap();
    run.backend.begin_upload(&key, layout).await.unwrap().finish().await.unwrap();
    let run = run.restart().await;
    assert!(run.missing().is_empty());
    run.publish_all().await.unwrap();
    assert_eq!(run.sent_bytes(), run.rig.row.len);
    run.check().await;
}

#[tokio::test]
async fn an_upload_session_lost_between_runs_leaves_holes() {
    let run = TestRun::new(&[4 * M, 3 * M], 64 << 20).await;
    run.write(&run.missing()[..40]).await;
    run.wait_until_sent(0, 2 * CHUNK).await;
    for upload in run.backend.list_uploads("").await.unwrap() {
        run.backend.abort_upload(&upload).await.unwrap();
    }
    let run = run.restart().await;
    assert_eq!(run.missing()[0].start, 0);
    run.write(&run.missing()).await;
    run.rig.writer.flush().await.unwrap();
    run.publish_all().await.unwrap();
    run.check().await;
}

#[tokio::test]
async fn an_upload_session_lost_during_a_run_ends_it_and_the_next_run_fetches_its_bytes() {
    let mut run = TestRun::new(&[6 * M, 3 * M], 64 << 20).await;
    run.backend.sessions_to_forget.store(1, Ordering::Relaxed);
    run.write(&run.missing()[..5 * 16]).await;
    let lost = loop {
        if let WriterEvent::Lost(error) | WriterEvent::Failed(error) =
            run.rig.events.recv().await.unwrap()
        {
            break error;
        }
    };
    assert_eq!((lost.kind(), lost.kind().exit_code()), (Kind::Unavailable, 5));
    assert!(lost.typed_hint().unwrap().names_operation(Operation::Same));
    run.rig.writer.flush().await.unwrap();
    let holes = run.rig.store.missing(&RangeSet::from(0..5 * CHUNK));
    assert_eq!(holes, RangeSet::from(0..CHUNK), "bytes in memory are kept");
    let run = run.restart().await;
    run.write(&run.missing()).await;
    run.rig.writer.flush().await.unwrap();
    run.publish_all().await.unwrap();
    run.check().await;
}

#[tokio::test]
async fn removing_an_import_aborts_its_upload() {
    let run = TestRun::new(&[4 * M], 64 << 20).await;
    run.write(&run.missing()[..20]).await;
    run.wait_until_sent(0, CHUNK).await;
    run.rig.writer.abandon().await;
    let backend: Arc<dyn StorageBackend> = Arc::clone(&run.backend) as _;
    crate::storage::sweep::remove_import(&run.rig.catalog, &backend, &run.rig.row, false)
        .await
        .unwrap();
    assert!(run.backend.list_uploads("").await.unwrap().is_empty());
}

/// Waits until the writer gives up: then it makes no more calls.
async fn until_ended(events: &mut mpsc::UnboundedReceiver<WriterEvent>) {
    while let Some(event) = events.recv().await {
        if matches!(event, WriterEvent::Lost(_) | WriterEvent::Failed(_)) {
            return;
        }
    }
}

/// Works until a call of the backend that `seed` chooses, crashes there, and so on, then completes the import.
async fn crash_and_resume(files: Vec<i64>, budget: usize, seed: u64, kind: Kind, sweeps: bool) {
    let mut run = TestRun::new(&files, budget).await;
    for (n, probability) in (seed..).zip([0.4, 0.2, 0.1, 0.05]) {
        run.rig.backend.fail_randomly(probability, kind);
        let mut pieces = run.missing();
        if n % 3 > 0 {
            // Almost in order.
            pieces.chunks_mut(40).for_each(|some| shuffle(some, n));
        }
        let mut events = std::mem::replace(&mut run.rig.events, mpsc::unbounded_channel().1);
        let working = async {
            run.write(&pieces[..pieces.len() / 2]).await;
            if n % 2 == 0 {
                run.rig.writer.flush().await.unwrap();
            }
            // Half of the bytes are missing, so publishing fails without a call when the complete files are published.
            for _ in 0..40 {
                if run.publish_all().await.is_ok() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let last_call = *run.backend.calls.borrow() + n * 7 % 40;
        tokio::select! {
            () = working => {}
            () = run.backend.until_calls(last_call) => {}
            () = until_ended(&mut events) => {}
        }
        // The restart also happens while calls still fail.
        let TestRun { rig, backend, publisher } = run;
        drop(publisher);
        let mut rig = rig.crash().await;
        run = loop {
            match TestRun::with_backend(rig, Arc::clone(&backend)).await {
                Ok(run) => break run,
                Err((same, _)) => rig = same.crash().await,
            }
        };
        run.rig.backend.fail_randomly(0.0, kind);
        run.rig.check_objects().await;
        for stored in run.rig.catalog.extents(&run.rig.row.id).await.unwrap() {
            run.rig.check(stored.range).await;
        }
        if sweeps {
            run.sweep().await;
            run = run.restart().await;
        }
    }
    run.write(&run.missing()).await;
    run.rig.writer.flush().await.unwrap();
    run.publish_all().await.unwrap();
    run.check().await;
    assert!(
        run.rig
            .catalog
            .objects(&run.rig.row.id)
            .await
            .unwrap()
            .iter()
            .all(|o| o.role == Role::File)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_crash_at_any_step_loses_no_durable_byte(
        files in prop::collection::vec(prop_oneof![Just(0i64), 1i64..5000, M..6 * M], 1..4),
        large: bool,
        seed in 0u64..1000,
        kind in prop_oneof![Just(Kind::Internal), Just(Kind::Unavailable), Just(Kind::SessionExpired)],
        sweeps: bool,
    ) {
        let budget = if large { 64 << 20 } else { 4 << 20 };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let crashes = crash_and_resume(files, budget, seed, kind, sweeps);
        runtime.block_on(async {
            tokio::time::timeout(HUNG, crashes).await.expect("it ends");
        });
    }
}
