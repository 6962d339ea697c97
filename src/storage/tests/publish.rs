//! Publishing whole files over a faulty memory backend: exact bytes, copies by the storage itself, no leftovers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use proptest::prelude::*;
use tokio::sync::mpsc;

use super::{
    Rig, byte,
    case_insensitive::CaseInsensitive,
    strict_backend::{StrictBackend, strict},
};
use crate::{
    backends::{CopySupport, Key, MemoryBackend, Payload, StorageBackend, list_all},
    catalog::{Catalog, FileRow, LayoutKind, NewImport, Role},
    error::Kind,
    memory::BlockPool,
    storage::{
        BackgroundPublisher, DirectFiles, FileObjects, ImportReader, ImportStore, ImportWriter,
        Pressure, Published, Publisher, RangeSet, WindowCache, WriterEvent, WriterOptions,
        sweep::{Sweep, remove_import},
    },
};

const M: i64 = 1 << 20;

impl Rig {
    pub(in crate::storage) async fn publisher(&self) -> Arc<Publisher> {
        let (catalog, pressure) = (self.catalog.clone(), Arc::clone(&self.pressure));
        Publisher::new(self.reader.clone(), catalog, pressure, 3).await.unwrap()
    }

    /// The files without padding.
    pub(in crate::storage) async fn files(&self) -> Vec<FileRow> {
        let files = self.catalog.files(&self.row.id).await.unwrap();
        files.into_iter().filter(|file| !file.pad).collect()
    }

    async fn publish_all(&self) -> Published {
        let publisher = self.publisher().await;
        let mut sum = Published::default();
        for file in self.files().await {
            sum += publisher.publish(&file, &|_| {}).await.unwrap();
            publisher.delete_freed().await.unwrap();
        }
        sum
    }

    /// Checks that each file is an object under its name, and that nothing else is in the storage.
    pub(super) async fn check_published(&self, folder: &str) {
        let backend = self.backend.inner();
        let files = self.files().await;
        for file in &files {
            let name = file.path.strip_prefix("rig/").unwrap();
            let key = Key::new(&format!("{folder}/{name}")).unwrap();
            let got = backend.get(&key, 0..file.len).await.unwrap();
            let expected: Vec<u8> = (file.start..file.start + file.len).map(byte).collect();
            assert!(got == expected, "{key} has other bytes");
        }
        let listed = list_all(backend, "").await.unwrap();
        let published = listed.iter().filter(|o| o.key.as_str().starts_with(&format!("{folder}/")));
        assert_eq!(published.count(), files.len(), "each file once: {listed:?}");
        let chunks = list_all(backend, &self.catalog.key_prefix()).await.unwrap();
        assert!(chunks.is_empty(), "nothing is stored twice: {chunks:?}");
        assert!(backend.list_uploads("").await.unwrap().is_empty(), "no upload is left");
        assert_eq!(self.catalog.leftover_intents().await.unwrap(), [], "no intent is left");
        self.check_objects().await;
        self.check(0..self.row.len).await;
    }
}

async fn filled_rig(layout: LayoutKind, files: &[i64], chunk_len: u64) -> Rig {
    let rig = Rig::with_layout(layout, files, chunk_len, 64 << 20).await;
    rig.write(0..rig.row.len);
    rig.writer.flush().await.unwrap();
    rig
}

#[tokio::test]
async fn no_byte_of_a_composed_file_passes_through_the_client_twice() {
    let rig = filled_rig(LayoutKind::Files, &[6 * M + 5, -3000, 100, 0, M, 5000], 1 << 20).await;
    let puts = rig.backend.puts();
    let done = rig.publish_all().await;
    assert_eq!((rig.backend.gets(), rig.backend.puts()), (0, puts + 1), "the empty file is put");
    let bytes = rig.files().await.iter().map(|file| file.len).sum();
    assert_eq!(done, Published { files: 5, bytes, copied: bytes, sent: 0 });
    rig.check_published("rig").await;
    assert_eq!(rig.publish_all().await, Published::default(), "again there is nothing to do");
}

#[tokio::test]
async fn files_of_one_chunk_are_stored_under_their_names_at_once() {
    let mut rig =
        Rig::with_layout(LayoutKind::Files, &[3 * M, 500, -90, M, 7], 1 << 20, 64 << 20).await;
    rig.writer.abandon().await;
    let publisher = rig.publisher().await;
    let files = rig.files().await;
    let options = WriterOptions {
        retry_base: Duration::from_millis(1),
        direct: Some(DirectFiles::new(Arc::clone(&publisher), &files)),
        ..WriterOptions::default()
    };
    let (store, pressure) = (Arc::clone(&rig.store), Arc::clone(&rig.pressure));
    let wanted = RangeSet::from(0..rig.row.len);
    let ignore_events = Box::new(|_| {});
    rig.writer =
        ImportWriter::spawn(store, rig.catalog.clone(), pressure, &wanted, options, ignore_events);
    rig.backend.fail_randomly(0.3, Kind::Unavailable);
    rig.write(0..rig.row.len);
    rig.writer.flush().await.unwrap();
    rig.backend.fail_randomly(0.0, Kind::Unavailable);
    let whole: Vec<_> = files.iter().map(|file| publisher.is_published(file)).collect();
    assert_eq!(whole, [false, true, true, true]);
    rig.check(0..rig.row.len).await;
    assert_eq!(rig.publish_all().await.bytes, 3 << 20);
    rig.check_published("rig").await;
}

#[tokio::test]
async fn files_that_share_an_object_are_published_one_by_one() {
    let rig = filled_rig(LayoutKind::Chunks, &[100, 2 * M + 9, 7, -50, 0, 5000], 1 << 20).await;
    let publisher = rig.publisher().await;
    let files = rig.files().await;
    publisher.publish(&files[0], &|_| {}).await.unwrap();
    assert!(publisher.is_published(&files[0]) && !publisher.is_published(&files[1]));
    rig.check(0..rig.row.len).await;
    rig.publish_all().await;
    rig.check_published("rig").await;
}

#[tokio::test]
async fn incomplete_files_are_refused_and_foreign_objects_keep_their_names() {
    let rig = Rig::with_layout(LayoutKind::Files, &[M, 2 * M], 1 << 20, 64 << 20).await;
    let foreign = Key::new("rig/notes.txt").unwrap();
    let body = Payload::from_iter([Bytes::from_static(b"mine")]);
    rig.backend.put(&foreign, body).await.unwrap();
    rig.write(0..1 << 20);
    rig.writer.flush().await.unwrap();
    let publisher = rig.publisher().await;
    let files = rig.files().await;
    let refused = publisher.publish(&files[1], &|_| {}).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::NotFound);
    publisher.publish(&files[0], &|_| {}).await.unwrap();
    rig.write(1 << 20..3 << 20);
    rig.writer.flush().await.unwrap();
    rig.publish_all().await;
    rig.check_published(&format!("rig [{}]", rig.row.id)).await;
    assert_eq!(&rig.backend.get(&foreign, 0..4).await.unwrap()[..], b"mine");
}

#[tokio::test]
async fn two_imports_of_the_same_name_get_separate_folders() {
    let rig = filled_rig(LayoutKind::Files, &[M], 1 << 20).await;
    rig.publish_all().await;
    let new = NewImport {
        name: "rig".into(),
        len: 1 << 20,
        storage: "file".into(),
        chunk_len: 1 << 20,
        layout: LayoutKind::Files,
        files: rig.files().await,
        ..NewImport::default()
    };
    let row = rig.catalog.create_import(new).await.unwrap();
    let Rig { dir, catalog, backend, row: first, writer, .. } = rig;
    writer.abandon().await;
    let rig = Rig::with_backend(dir, catalog, backend, row, 64 << 20).await;
    rig.write(0..1 << 20);
    rig.writer.flush().await.unwrap();
    rig.publish_all().await;
    rig.check_published(&format!("rig [{}]", rig.row.id)).await;
    let key = Key::new("rig/0").unwrap();
    assert_eq!(rig.backend.head(&key).await.unwrap(), Some(1 << 20));
    let backend: Arc<dyn StorageBackend> = Arc::clone(&rig.backend) as _;
    remove_import(&rig.catalog, &backend, &first, false).await.unwrap();
    assert_eq!(rig.backend.head(&key).await.unwrap(), None);
    rig.check_published(&format!("rig [{}]", rig.row.id)).await;
}

#[tokio::test]
async fn running_reads_follow_bytes_that_move_to_another_object() {
    let rig = filled_rig(LayoutKind::Files, &[4 * M], 1 << 20).await;
    rig.backend.delay(Duration::from_millis(20));
    let readers = (0..4u64).map(|n| {
        let reader = rig.reader.clone();
        tokio::spawn(async move { reader.read_at(n << 20..(n + 1) << 20).await })
    });
    let readers: Vec<_> = readers.collect();
    while rig.backend.gets() < 4 {
        tokio::task::yield_now().await;
    }
    rig.publish_all().await;
    for (n, reader) in (0..).zip(readers) {
        rig.check_payload(n << 20..(n + 1) << 20, &reader.await.unwrap().unwrap());
    }
}

#[tokio::test]
async fn files_are_published_during_the_import_and_failures_only_delay_them() {
    let rig = Rig::with_layout(LayoutKind::Files, &[3 * M, 500, 2 * M, 0], 1 << 20, 64 << 20).await;
    let (sender, mut events) = mpsc::unbounded_channel();
    let sink = Box::new(move |event| drop(sender.send(event)));
    let wait = Duration::from_millis(1);
    let publishing =
        BackgroundPublisher::spawn(rig.publisher().await, rig.files().await, wait, sink);
    let store = Arc::clone(&rig.store);
    let until = async |len: u64| {
        while publishing.published().bytes < len {
            assert!(!publishing.is_done() || publishing.published().bytes >= len);
            publishing.add_durable(&store.durable_ranges().iter().collect::<Vec<_>>());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    rig.write(0..(3 << 20) + 500);
    rig.writer.flush().await.unwrap();
    until((3 << 20) + 500).await;
    assert!(!publishing.is_done());
    rig.backend.fail_randomly(0.5, Kind::NoSpace);
    rig.write((3 << 20) + 500..rig.row.len);
    rig.writer.flush().await.unwrap();
    until(rig.row.len).await;
    publishing.wait_until_done().await.unwrap();
    publishing.stop().await;
    rig.backend.fail_randomly(0.0, Kind::NoSpace);
    rig.check_published("rig").await;
    let mut paused = 0;
    while let Ok(event) = events.try_recv() {
        match event {
            WriterEvent::Paused(_) => paused += 1,
            WriterEvent::Resumed => paused -= 1,
            WriterEvent::Durable(ranges) => assert!(ranges.is_empty()),
            WriterEvent::Lost(error) | WriterEvent::Failed(error) => panic!("{}", error.report()),
        }
    }
    assert_eq!(paused, 0, "every pause ends");
}

/// One run of the process: it publishes until a call fails, and dies there.
async fn publish_until_failure(rig: &Rig) -> bool {
    let Ok(publisher) =
        Publisher::new(rig.reader.clone(), rig.catalog.clone(), Arc::clone(&rig.pressure), 3).await
    else {
        return false;
    };
    if publisher.delete_freed().await.is_err() {
        return false;
    }
    for file in rig.files().await {
        let published = publisher.publish(&file, &|_| {}).await;
        if published.is_err() || publisher.delete_freed().await.is_err() {
            return false;
        }
    }
    true
}

async fn crash_and_resume(files: Vec<i64>, layout: LayoutKind, seed: u64, sweeps: bool) {
    let mut rig = Rig::with_layout(layout, &files, 1 << 20, 64 << 20).await;
    rig.write(0..rig.row.len);
    rig.writer.flush().await.unwrap();
    // Every call may fail, before or after it was carried out. Each failure is a point to die at.
    let steps = [0.5, 0.3, 0.2, 0.1, 0.05];
    for (n, probability) in (seed..).zip(steps) {
        rig.backend.fail_randomly(probability, Kind::Internal);
        for _ in 0..=n % 3 {
            publish_until_failure(&rig).await;
            rig = rig.crash().await;
        }
        rig.backend.fail_randomly(0.0, Kind::Internal);
        rig.check_objects().await;
        rig.check(0..rig.row.len).await;
        if sweeps {
            let backend: Arc<dyn StorageBackend> = Arc::clone(&rig.backend) as _;
            let sweep =
                Sweep { catalog: &rig.catalog, backend: &backend, storage: "file", idle: None };
            let found = sweep.find().await.unwrap();
            assert_eq!(sweep.remove(&found, false).await.unwrap().failures.count(), 0);
            rig = rig.crash().await;
            rig.check(0..rig.row.len).await;
        }
    }
    while !publish_until_failure(&rig).await {}
    rig.check_published("rig").await;
    assert!(rig.catalog.objects(&rig.row.id).await.unwrap().iter().all(|o| o.role == Role::File));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_crash_between_any_two_steps_loses_no_byte_and_leaves_no_object(
        files in prop::collection::vec(prop_oneof![Just(0i64), 1i64..5000, M..3 * M], 1..5),
        whole: bool,
        seed in 0u64..100,
        sweeps: bool,
    ) {
        let layout = if whole { LayoutKind::Files } else { LayoutKind::Chunks };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(crash_and_resume(files, layout, seed, sweeps));
    }
}

/// Publishes a filled rig through a strict storage with little memory. Returns what was done, and the peak of held
/// bytes.
async fn publish_strictly(rig: &mut Rig, backend: StrictBackend) -> (Published, usize) {
    let store = ImportStore::open(&rig.catalog, &rig.row, Arc::new(backend)).await.unwrap();
    let pressure = Pressure::new(BlockPool::new(32 << 20));
    let reader = ImportReader::new(Arc::clone(&store), WindowCache::new(1 << 20));
    let (catalog, shared) = (rig.catalog.clone(), Arc::clone(&pressure));
    let publisher = Publisher::new(reader.clone(), catalog, shared, 3).await.unwrap();
    let mut sum = Published::default();
    for file in rig.files().await {
        let reported = AtomicU64::new(0);
        let step = |len| {
            reported.fetch_add(len, Ordering::Relaxed);
        };
        sum += publisher.publish(&file, &step).await.unwrap();
        publisher.delete_freed().await.unwrap();
        assert!(reported.into_inner() >= file.len, "progress reaches the end");
    }
    (rig.store, rig.reader) = (store, reader);
    assert_eq!(pressure.pool().held(), 0);
    (sum, pressure.pool().peak())
}

/// Lengths around the grid: 12 MiB chunks in 32 MiB of memory.
const FILES: [i64; 5] = [30 * M + 3, 12 * M, 0, 700, 25 * M];

#[tokio::test]
async fn without_server_side_copies_bytes_are_sent_within_the_memory_limit() {
    for ordered in [false, true] {
        let mut rig = filled_rig(LayoutKind::Files, &FILES, 12 << 20).await;
        let backend = strict(&rig, CopySupport::No, ordered);
        let (done, peak) = publish_strictly(&mut rig, backend).await;
        assert_eq!((done.copied, done.sent), (0, done.bytes));
        assert!(peak <= 24 << 20, "{peak} bytes held");
        rig.check_published("rig").await;
    }
}

#[tokio::test]
async fn storages_that_copy_whole_objects_copy_files_of_one_chunk() {
    let mut rig = filled_rig(LayoutKind::Files, &FILES, 12 << 20).await;
    let backend = strict(&rig, CopySupport::Whole, true);
    let (done, _) = publish_strictly(&mut rig, backend).await;
    assert_eq!(done.copied, (12 << 20) + 700);
    rig.check_published("rig").await;
}

#[tokio::test]
async fn storages_like_s3_copy_chunks_and_get_short_ends_sent() {
    let mut rig = filled_rig(LayoutKind::Files, &FILES, 12 << 20).await;
    let backend = strict(&rig, CopySupport::Ranges { min_part: 5 << 20 }, false);
    let (done, _) = publish_strictly(&mut rig, backend).await;
    // 30 MiB and 3 bytes end with 6 MiB and 3 bytes, large enough for a range copy. 25 MiB end with 1 MiB, which is
    // sent.
    assert_eq!(done.sent, 1 << 20);
    rig.check_published("rig").await;
}

#[tokio::test]
async fn bytes_are_sent_when_the_server_refuses_copies() {
    let mut rig = filled_rig(LayoutKind::Files, &FILES, 12 << 20).await;
    let copy = CopySupport::Ranges { min_part: 5 << 20 };
    let backend = StrictBackend { refuses_copies: true, ..strict(&rig, copy, false) };
    let (done, _) = publish_strictly(&mut rig, backend).await;
    assert_eq!((done.copied, done.sent), (0, done.bytes));
    rig.check_published("rig").await;
}

#[tokio::test]
async fn forgotten_upload_sessions_are_started_again() {
    let mut rig = filled_rig(LayoutKind::Files, &[30 * M], 12 << 20).await;
    let backend = StrictBackend {
        sessions_to_forget: AtomicU64::new(2),
        ..strict(&rig, CopySupport::No, true)
    };
    publish_strictly(&mut rig, backend).await;
    rig.check_published("rig").await;
}

/// Imports small files of these names into a storage that ignores case. With `direct` they are stored under their names
/// at once, else they are published. All bytes of a file are its number. Returns the keys.
async fn publish_case_insensitive(paths: &[&str], direct: bool) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).await.unwrap();
    let len = 3000;
    let file = |(start, path): (u64, &&str)| FileRow {
        path: (*path).to_owned(),
        start: start * len,
        len,
        pad: false,
    };
    let files: Vec<FileRow> = (0..).zip(paths).map(file).collect();
    let new = NewImport {
        name: "rig".into(),
        len: len * files.len() as u64,
        storage: "file".into(),
        chunk_len: 16 << 10,
        layout: LayoutKind::Files,
        files: files.clone(),
        ..NewImport::default()
    };
    let row = catalog.create_import(new).await.unwrap();
    let backend = Arc::new(CaseInsensitive::new(MemoryBackend::new()).refusing(":"));
    let store = ImportStore::open(&catalog, &row, Arc::clone(&backend) as _).await.unwrap();
    let pressure = Pressure::new(BlockPool::new(64 << 20));
    let publisher = || async {
        let reader = ImportReader::new(Arc::clone(&store), WindowCache::new(1 << 20));
        let publisher =
            Publisher::new(reader, catalog.clone(), Arc::clone(&pressure), 3).await.unwrap();
        publisher.probe_names(&files).await.unwrap();
        publisher
    };
    let first_publisher = publisher().await;
    let options = WriterOptions {
        direct: direct.then(|| DirectFiles::new(Arc::clone(&first_publisher), &files)),
        ..WriterOptions::default()
    };
    let wanted = RangeSet::from(0..row.len);
    let (catalog_clone, shared_pressure) = (catalog.clone(), Arc::clone(&pressure));
    let writer = ImportWriter::spawn(
        Arc::clone(&store),
        catalog_clone,
        shared_pressure,
        &wanted,
        options,
        Box::new(|_| {}),
    );
    for (n, file) in files.iter().enumerate() {
        let bytes = vec![u8::try_from(n).unwrap(); usize::try_from(len).unwrap()];
        writer.write_at(file.start, vec![pressure.pool().copy(&bytes)]);
    }
    writer.flush().await.unwrap();
    writer.abandon().await;
    let no_progress = |_| {};
    let all = files.iter().map(|file| first_publisher.publish(file, &no_progress));
    futures_util::future::try_join_all(all).await.unwrap();
    first_publisher.delete_freed().await.unwrap();
    let next_publisher = publisher().await;
    let whole = FileObjects::of(&catalog.objects(&row.id).await.unwrap());
    let mut keys = Vec::new();
    for (n, file) in files.iter().enumerate() {
        assert!(next_publisher.is_published(file), "{} is not found in the next run", file.path);
        let key = Key::new(&whole.find(file).unwrap().key).unwrap();
        let bytes = backend.get(&key, 0..len).await.unwrap();
        assert!(bytes.iter().all(|b| usize::from(*b) == n), "{} has other bytes", file.path);
        keys.push(key.to_string());
    }
    assert_eq!(list_all(&*backend, "rig/").await.unwrap().len(), files.len());
    assert!(list_all(&*backend, &catalog.key_prefix()).await.unwrap().is_empty());
    keys
}

#[tokio::test]
async fn files_with_colliding_names_become_separate_objects() {
    let paths = ["rig/A.txt", "rig/a.txt", "rig/Disc/1", "rig/disc/1", "rig/disc/a: b", "rig/z"];
    for direct in [false, true] {
        let keys = publish_case_insensitive(&paths, direct).await;
        for kept in [0, 2, 5] {
            assert_eq!(keys[kept], paths[kept]);
        }
        assert!(keys[1].starts_with("rig/a.") && keys[1].ends_with(".txt"), "{}", keys[1]);
        let folder = keys[3].strip_suffix("/1").unwrap();
        assert!(folder.starts_with("rig/disc."), "{folder}");
        assert!(keys[4].starts_with(&format!("{folder}/a_ b.")), "{}", keys[4]);
    }
}
