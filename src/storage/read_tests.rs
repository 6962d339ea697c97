//! The read path over a memory backend: verification, retries, prefetch, cancellation.

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    Checks, DiskCache, ImportReader, WindowCache,
    tests::{B, Rig, byte},
};
use crate::{
    backends::{Key, Payload, Reads, StorageBackend},
    error::{Error, Kind},
};

/// The checks of a reader for peers in these tests: pieces of 256 KiB of what [`Rig::write`] wrote.
fn checks() -> Checks {
    let check = |range: Range<u64>, parts: &[Bytes]| {
        let good = parts.iter().flatten().copied().eq(range.clone().map(byte));
        let bad = || Error::new(Kind::Corrupt, format!("the piece at {} is wrong", range.start));
        if good { Ok(()) } else { Err(bad()) }
    };
    Checks { piece_len: 256 << 10, check: Box::new(check) }
}

impl Rig {
    /// The stored object that holds the first byte.
    async fn first_object(&self) -> Key {
        let first = self.catalog.extents(&self.row.id).unwrap().remove(0);
        let objects = self.catalog.objects(&self.row.id).unwrap();
        Key::new(&objects.iter().find(|o| o.num == first.object).unwrap().key).unwrap()
    }

    /// Overwrites bytes of an object, from `at` on.
    async fn spoil(&self, key: &Key, at: u64, with: &[u8]) {
        let len = self.backend.head(key).await.unwrap().unwrap();
        let mut bytes = self.backend.get(key, 0..len).await.unwrap().to_vec();
        let at = usize::try_from(at).unwrap();
        bytes[at..at + with.len()].copy_from_slice(with);
        self.backend.delete(key).await.unwrap();
        self.backend.put(key, Payload::from_iter([Bytes::from(bytes)])).await.unwrap();
    }
}

#[tokio::test]
async fn a_checked_reader_gives_no_wrong_byte_away_and_what_is_good_around_it() {
    let rig = Rig::new(&[4 << 20], 4 << 20, 64 << 20).await;
    rig.write(0..4 << 20);
    rig.writer.flush().await.unwrap();
    let key = rig.first_object().await;
    rig.spoil(&key, 300 << 10, b"spoilt").await;
    let cache = WindowCache::new(64 << 20);
    let reader =
        steady(ImportReader::checked(Arc::clone(&rig.store), Arc::clone(&cache), checks()));
    let wrong = reader.read_at(299 << 10..310 << 10).await.unwrap_err();
    assert_eq!(wrong.kind(), Kind::Corrupt);
    assert!(wrong.report().contains("the piece at 262144 is wrong"), "{}", wrong.report());
    // The other pieces of the same window, and the next window.
    for at in [0, 512 << 10, 2 << 20] {
        rig.check_payload(at..at + 100, &reader.read_at(at..at + 100).await.unwrap());
    }
    // A reader without checks returns the wrong bytes; the checked reader does not.
    assert!(rig.reader.read_at(299 << 10..310 << 10).await.is_ok());
    assert!(reader.try_read(299 << 10..310 << 10).is_none());
    let true_bytes: Vec<u8> = (300 << 10..(300 << 10) + 6).map(byte).collect();
    rig.spoil(&key, 300 << 10, &true_bytes).await;
    rig.check_payload(0..1 << 20, &reader.read_at(0..1 << 20).await.unwrap());
}

#[tokio::test]
async fn an_answer_that_is_spoilt_once_is_fetched_again() {
    let rig = Rig::new(&[4 << 20], 4 << 20, 64 << 20).await;
    rig.write(0..4 << 20);
    rig.writer.flush().await.unwrap();
    let cache = WindowCache::new(64 << 20);
    let reader =
        steady(ImportReader::checked(Arc::clone(&rig.store), Arc::clone(&cache), checks()));
    rig.backend.truncate_next_gets(1);
    rig.check_payload(0..1 << 20, &reader.read_at(0..1 << 20).await.unwrap());
    assert_eq!(rig.backend.gets(), 2);
    rig.backend.fail_next_gets(1, Kind::Unsupported);
    rig.check_payload(1 << 20..1025 << 10, &reader.read_at(1 << 20..1025 << 10).await.unwrap());
}

#[tokio::test]
async fn who_reads_all_of_it_in_order_costs_few_gets_and_no_byte_twice() {
    let rig = Rig::new(&[40 << 20], 40 << 20, 128 << 20).await;
    rig.write(0..40 << 20);
    rig.writer.flush().await.unwrap();
    let cache = WindowCache::new(128 << 20);
    let reader = steady(ImportReader::new(Arc::clone(&rig.store), cache));
    for block in 0..(40 << 20) / B {
        let range = block * B..(block + 1) * B;
        rig.check_payload(range.clone(), &reader.read_at(range).await.unwrap());
    }
    let spent = rig.spent();
    assert_eq!(spent.bytes, 40 << 20);
    assert!(spent.gets <= 20, "{spent:?}");
    // All but a few blocks were prefetched, and so were cache hits.
    assert!(rig.store.traffic().kept() >= (40 << 20) - 20 * B);
}

#[tokio::test]
async fn a_fetch_that_nobody_waits_for_any_more_is_given_up() {
    let rig = Rig::new(&[8 << 20], 8 << 20, 64 << 20).await;
    rig.write(0..8 << 20);
    rig.writer.flush().await.unwrap();
    rig.backend.delay(Duration::from_millis(200));
    let one = tokio::time::timeout(Duration::from_millis(50), rig.reader.read_at(0..9)).await;
    assert!(one.is_err(), "storage is slow");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(rig.reader.try_read(0..9).is_none(), "it was not brought to its end");
    rig.check(0..9).await;
}

/// A reader whose clock stands still: the number of GETs must not depend on the speed of this machine.
fn steady(reader: ImportReader) -> ImportReader {
    static START: OnceLock<Instant> = OnceLock::new();
    reader.by_clock(|| *START.get_or_init(Instant::now))
}

/// Reads the whole import in order, in runs, as the scan for peers does. Each run is prefetched before the run before
/// it is read.
async fn scan(rig: &Rig, reader: &ImportReader, run: u64) {
    let len = rig.row.len;
    for start in (0..len).step_by(usize::try_from(run).unwrap()) {
        let runs = vec![start..start + run, start + run..start + 2 * run];
        if let Some(fetching) = reader.fetch_soon(runs) {
            fetching.await;
        }
        for at in (start..(start + run).min(len)).step_by(1 << 20) {
            let range = at..(at + (1 << 20)).min(len);
            rig.check_payload(range.clone(), &reader.read_at(range).await.unwrap());
        }
    }
}

impl Rig {
    /// An import of 64 MiB in objects of `chunk_len`, and a reader with a small cache.
    async fn long(chunk_len: u64) -> (Self, ImportReader) {
        let rig = Self::new(&[64 << 20], chunk_len, 128 << 20).await;
        rig.write(0..64 << 20);
        rig.writer.flush().await.unwrap();
        let cache = WindowCache::new(64 << 20);
        let reader = steady(ImportReader::checked(Arc::clone(&rig.store), cache, checks()));
        (rig, reader)
    }
}

#[tokio::test]
async fn a_scan_has_each_object_by_one_get_and_a_long_one_by_few() {
    for (chunk_len, most) in [(16 << 20, 6), (64 << 20, 5)] {
        let (rig, reader) = Rig::long(chunk_len).await;
        scan(&rig, &reader, 8 << 20).await;
        let spent = rig.spent();
        assert_eq!(spent.bytes, 64 << 20);
        assert!(spent.gets <= most, "{spent:?} from objects of {chunk_len}");
    }
}

#[tokio::test]
async fn long_gets_go_over_the_ends_of_objects_wherever_they_are() {
    let (rig, reader) = Rig::long(11 << 20).await;
    scan(&rig, &reader, 5 << 20).await;
    let spent = rig.spent();
    // A piece in two objects needs a GET from each, and no GET is shorter than 256 KiB.
    assert!(spent.bytes <= (64 << 20) + 20 * (256 << 10), "{spent:?}");
    assert!(spent.gets <= 18, "{spent:?}");
}

#[tokio::test]
async fn what_a_long_get_does_not_bring_is_fetched_as_if_there_were_none() {
    let (rig, reader) = Rig::long(64 << 20).await;
    for cut in 1..=3 {
        rig.backend.truncate_next_gets(cut);
        scan(&rig, &reader, 8 << 20).await;
    }
    assert!(rig.spent().bytes > 3 * (64 << 20), "some came twice");
}

#[tokio::test]
async fn without_a_connection_to_spare_nothing_changes_but_the_number_of_gets() {
    let (rig, _) = Rig::long(64 << 20).await;
    let cache = WindowCache::new(64 << 20);
    let _all = cache.long_gets().try_acquire_many(16).unwrap();
    let reader =
        steady(ImportReader::checked(Arc::clone(&rig.store), Arc::clone(&cache), checks()));
    scan(&rig, &reader, 8 << 20).await;
    assert_eq!(rig.spent(), Reads { gets: 8, bytes: 64 << 20 });
}

#[tokio::test]
async fn of_what_a_disk_has_but_for_a_window_that_window_is_fetched() {
    let (rig, _) = Rig::long(64 << 20).await;
    let dir = tempfile::tempdir().unwrap();
    let read_all = async || {
        let disk = DiskCache::open(dir.path(), 1 << 30).unwrap();
        let cache = WindowCache::over(64 << 20, Some(disk));
        let reader = steady(ImportReader::checked(Arc::clone(&rig.store), cache, checks()));
        scan(&rig, &reader, 8 << 20).await;
    };
    let files = || {
        let entries = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_none()).collect::<Vec<_>>()
    };
    read_all().await;
    assert!(rig.spent().gets <= 5, "a disk that has nothing is in nobody's way");
    while files().len() < 64 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    std::fs::remove_file(&files()[20]).unwrap();
    read_all().await;
    assert_eq!(rig.spent(), Reads { gets: 1, bytes: 1 << 20 });
}
