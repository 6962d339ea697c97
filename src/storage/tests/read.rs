//! The read path over a memory backend: verification, retries, prefetch, cancellation.

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{B, Rig, byte};
use crate::{
    backends::{Key, Payload, Reads, StorageBackend},
    error::{Error, Kind},
    storage::{DiskCache, ImportReader, PieceVerifier, WindowCache},
};

/// The verifier of the readers for peers in these tests: pieces of 256 KiB of what [`Rig::write`] wrote.
fn verifier() -> PieceVerifier {
    let check = |range: Range<u64>, parts: &[Bytes]| {
        let good = parts.iter().flatten().copied().eq(range.clone().map(byte));
        let bad = || Error::new(Kind::Corrupt, format!("the piece at {} is wrong", range.start));
        if good { Ok(()) } else { Err(bad()) }
    };
    PieceVerifier { piece_len: 256 << 10, check: Box::new(check) }
}

impl Rig {
    /// The stored object that holds the first byte.
    async fn first_object(&self) -> Key {
        let first = self.catalog.extents(&self.row.id).await.unwrap().remove(0);
        let objects = self.catalog.objects(&self.row.id).await.unwrap();
        Key::new(&objects.iter().find(|o| o.num == first.object).unwrap().key).unwrap()
    }

    /// Overwrites bytes of an object, from `at` on.
    async fn corrupt(&self, key: &Key, at: u64, with: &[u8]) {
        let len = self.backend.head(key).await.unwrap().unwrap();
        let mut bytes = self.backend.get(key, 0..len).await.unwrap().to_vec();
        let at = usize::try_from(at).unwrap();
        bytes[at..at + with.len()].copy_from_slice(with);
        self.backend.delete(key).await.unwrap();
        self.backend.put(key, Payload::from_iter([Bytes::from(bytes)])).await.unwrap();
    }
}

#[tokio::test]
async fn a_verifying_reader_returns_good_pieces_and_no_wrong_byte() {
    let rig = Rig::new(&[4 << 20], 4 << 20, 64 << 20).await;
    rig.write(0..4 << 20);
    rig.writer.flush().await.unwrap();
    let key = rig.first_object().await;
    rig.corrupt(&key, 300 << 10, b"broken").await;
    let cache = WindowCache::new(64 << 20);
    let reader = with_fixed_clock(ImportReader::for_peers(
        Arc::clone(&rig.store),
        Arc::clone(&cache),
        verifier(),
    ));
    let wrong = reader.read_at(299 << 10..310 << 10).await.unwrap_err();
    assert_eq!(wrong.kind(), Kind::Corrupt);
    assert!(wrong.report().contains("the piece at 262144 is wrong"), "{}", wrong.report());
    // The other pieces of the same window, and the next window.
    for at in [0, 512 << 10, 2 << 20] {
        rig.check_payload(at..at + 100, &reader.read_at(at..at + 100).await.unwrap());
    }
    // A reader without verification returns the wrong bytes; the verifying reader does not.
    assert!(rig.reader.read_at(299 << 10..310 << 10).await.is_ok());
    assert!(reader.try_read(299 << 10..310 << 10).is_none());
    let true_bytes: Vec<u8> = (300 << 10..(300 << 10) + 6).map(byte).collect();
    rig.corrupt(&key, 300 << 10, &true_bytes).await;
    rig.check_payload(0..1 << 20, &reader.read_at(0..1 << 20).await.unwrap());
}

#[tokio::test]
async fn a_corrupted_response_is_fetched_again() {
    let rig = Rig::new(&[4 << 20], 4 << 20, 64 << 20).await;
    rig.write(0..4 << 20);
    rig.writer.flush().await.unwrap();
    let cache = WindowCache::new(64 << 20);
    let reader = with_fixed_clock(ImportReader::for_peers(
        Arc::clone(&rig.store),
        Arc::clone(&cache),
        verifier(),
    ));
    rig.backend.truncate_next_gets(1);
    rig.check_payload(0..1 << 20, &reader.read_at(0..1 << 20).await.unwrap());
    assert_eq!(rig.backend.gets(), 2);
    rig.backend.fail_next_gets(1, Kind::Unsupported);
    rig.check_payload(1 << 20..1025 << 10, &reader.read_at(1 << 20..1025 << 10).await.unwrap());
}

#[tokio::test]
async fn a_sequential_read_takes_few_gets_and_fetches_no_byte_twice() {
    let rig = Rig::new(&[40 << 20], 40 << 20, 128 << 20).await;
    rig.write(0..40 << 20);
    rig.writer.flush().await.unwrap();
    let cache = WindowCache::new(128 << 20);
    let reader = with_fixed_clock(ImportReader::new(Arc::clone(&rig.store), cache));
    for block in 0..(40 << 20) / B {
        let range = block * B..(block + 1) * B;
        rig.check_payload(range.clone(), &reader.read_at(range).await.unwrap());
    }
    let reads = rig.take_reads();
    assert_eq!(reads.bytes, 40 << 20);
    assert!(reads.gets <= 20, "{reads:?}");
    // All but a few blocks were prefetched, and so were cache hits.
    assert!(rig.store.read_stats().cached_bytes() >= (40 << 20) - 20 * B);
}

#[tokio::test]
async fn a_fetch_without_waiting_readers_is_cancelled() {
    let rig = Rig::new(&[8 << 20], 8 << 20, 64 << 20).await;
    rig.write(0..8 << 20);
    rig.writer.flush().await.unwrap();
    let second = Duration::from_secs(1);
    rig.backend.delay(4 * second);
    // From here on nothing waits for the threads of the catalog, and the clock of the runtime jumps to the next timer.
    tokio::time::pause();
    let read = tokio::time::timeout(second, rig.reader.read_at(0..9)).await;
    assert!(read.is_err() && rig.backend.gets() == 1, "storage is slow");
    tokio::time::sleep(6 * second).await;
    assert!(rig.reader.try_read(0..9).is_none(), "the fetch was cancelled");
    rig.check(0..9).await;
}

/// A reader whose clock stands still: the number of GETs must not depend on the speed of this machine.
fn with_fixed_clock(reader: ImportReader) -> ImportReader {
    static START: OnceLock<Instant> = OnceLock::new();
    reader.with_clock(|| *START.get_or_init(Instant::now))
}

/// Reads the whole import in order, in runs, as the scan for peers does. Each run is prefetched before the run before
/// it is read.
async fn scan(rig: &Rig, reader: &ImportReader, run: u64) {
    let len = rig.row.len;
    for start in (0..len).step_by(usize::try_from(run).unwrap()) {
        let runs = vec![start..start + run, start + run..start + 2 * run];
        if let Some(fetching) = reader.queue_prefetch(runs) {
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
    async fn with_long_object(chunk_len: u64) -> (Self, ImportReader) {
        let rig = Self::new(&[64 << 20], chunk_len, 128 << 20).await;
        rig.write(0..64 << 20);
        rig.writer.flush().await.unwrap();
        let cache = WindowCache::new(64 << 20);
        let reader =
            with_fixed_clock(ImportReader::for_peers(Arc::clone(&rig.store), cache, verifier()));
        (rig, reader)
    }
}

#[tokio::test]
async fn a_scan_takes_one_get_per_object_and_few_for_a_long_one() {
    for (chunk_len, max_gets) in [(16 << 20, 6), (64 << 20, 5)] {
        let (rig, reader) = Rig::with_long_object(chunk_len).await;
        scan(&rig, &reader, 8 << 20).await;
        let reads = rig.take_reads();
        assert_eq!(reads.bytes, 64 << 20);
        assert!(reads.gets <= max_gets, "{reads:?} from objects of {chunk_len}");
    }
}

#[tokio::test]
async fn range_streams_continue_across_object_boundaries() {
    let (rig, reader) = Rig::with_long_object(11 << 20).await;
    scan(&rig, &reader, 5 << 20).await;
    let reads = rig.take_reads();
    // A piece in two objects needs a GET from each, and no GET is shorter than 256 KiB.
    assert!(reads.bytes <= (64 << 20) + 20 * (256 << 10), "{reads:?}");
    assert!(reads.gets <= 18, "{reads:?}");
}

#[tokio::test]
async fn bytes_that_a_broken_long_get_lacks_are_fetched_by_plain_gets() {
    let (rig, reader) = Rig::with_long_object(64 << 20).await;
    for cut in 1..=3 {
        rig.backend.truncate_next_gets(cut);
        scan(&rig, &reader, 8 << 20).await;
    }
    assert!(rig.take_reads().bytes > 3 * (64 << 20), "some bytes were fetched twice");
}

#[tokio::test]
async fn without_free_permits_a_scan_uses_plain_gets() {
    let (rig, _) = Rig::with_long_object(64 << 20).await;
    let cache = WindowCache::new(64 << 20);
    let _all = cache.range_stream_permits().try_acquire_many(16).unwrap();
    let reader = with_fixed_clock(ImportReader::for_peers(
        Arc::clone(&rig.store),
        Arc::clone(&cache),
        verifier(),
    ));
    scan(&rig, &reader, 8 << 20).await;
    assert_eq!(rig.take_reads(), Reads { gets: 8, bytes: 64 << 20 });
}

#[tokio::test]
async fn only_windows_missing_in_the_disk_cache_are_fetched() {
    let (rig, _) = Rig::with_long_object(64 << 20).await;
    let dir = tempfile::tempdir().unwrap();
    let read_all = async || {
        let disk = DiskCache::open(dir.path(), 1 << 30).unwrap();
        let cache = WindowCache::with_disk(64 << 20, Some(disk));
        let reader =
            with_fixed_clock(ImportReader::for_peers(Arc::clone(&rig.store), cache, verifier()));
        scan(&rig, &reader, 8 << 20).await;
    };
    let files = || {
        let entries = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_none()).collect::<Vec<_>>()
    };
    read_all().await;
    assert!(rig.take_reads().gets <= 5, "an empty disk cache does not prevent range streams");
    while files().len() < 64 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    std::fs::remove_file(&files()[20]).unwrap();
    read_all().await;
    assert_eq!(rig.take_reads(), Reads { gets: 1, bytes: 1 << 20 });
}
