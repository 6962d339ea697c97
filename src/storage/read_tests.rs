//! The read path over a backend in memory: checks, fetching again, fetching ahead, giving up.

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    Checks, ImportReader, WindowCache,
    tests::{B, Rig, byte},
};
use crate::{
    backends::{Key, Payload, StorageBackend},
    error::{Error, Kind},
};

/// What a reader for peers holds bytes against, here: pieces of 256 KiB of what [`Rig::write`] wrote.
fn checks() -> Checks {
    let check = |range: Range<u64>, bytes: &[u8]| {
        let good = bytes.iter().copied().eq(range.clone().map(byte));
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

    /// Puts other bytes into an object, from `at` on.
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
    let reader = ImportReader::checked(Arc::clone(&rig.store), Arc::clone(&cache), checks());
    let wrong = reader.read_at(299 << 10..310 << 10).await.unwrap_err();
    assert_eq!(wrong.kind(), Kind::Corrupt);
    assert!(wrong.report().contains("the piece at 262144 is wrong"), "{}", wrong.report());
    // The other pieces of the same window, and the next window.
    for at in [0, 512 << 10, 2 << 20] {
        rig.check_payload(at..at + 100, &reader.read_at(at..at + 100).await.unwrap());
    }
    // Believed by those who have nothing to check with, and by nobody else.
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
    let reader = ImportReader::checked(Arc::clone(&rig.store), Arc::clone(&cache), checks());
    rig.backend.truncate_next_gets(1);
    rig.check_payload(0..1 << 20, &reader.read_at(0..1 << 20).await.unwrap());
    assert_eq!((rig.backend.gets(), rig.store.traffic().tally().gets), (2, 1));
    rig.backend.fail_next_gets(1, Kind::Unsupported);
    rig.check_payload(1 << 20..1025 << 10, &reader.read_at(1 << 20..1025 << 10).await.unwrap());
}

#[tokio::test]
async fn who_reads_all_of_it_in_order_costs_few_gets_and_no_byte_twice() {
    let rig = Rig::new(&[40 << 20], 40 << 20, 128 << 20).await;
    rig.write(0..40 << 20);
    rig.writer.flush().await.unwrap();
    let cache = WindowCache::new(128 << 20);
    let reader = ImportReader::new(Arc::clone(&rig.store), cache);
    for block in 0..(40 << 20) / B {
        let range = block * B..(block + 1) * B;
        rig.check_payload(range.clone(), &reader.read_at(range).await.unwrap());
    }
    let spent = rig.store.traffic().tally();
    assert_eq!(spent.fetched, 40 << 20);
    assert!(spent.gets <= 20, "{spent:?}");
    // What is not there cannot be fetched ahead, and every block but a few was there.
    assert!(spent.kept >= (40 << 20) - 20 * B, "{spent:?}");
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
