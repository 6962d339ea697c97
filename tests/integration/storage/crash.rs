//! `kill -9` at any moment loses no durable piece, and the next run fetches only what is missing.

use bae::catalog::{Catalog, Extent, ImportId, ObjectRow};

use crate::support::{
    KIB, MIB, Random,
    bae::Bae,
    peers::{LibtorrentPeer, Release},
    s3_server::runtime,
    torrents::{Fixture, Recipe},
};

fn torrent() -> Fixture {
    Recipe::single("crash.bin", 64 * MIB + 99).piece(512 * KIB).make()
}

/// Bytes that may be fetched although they are not missing: requests in flight when the last piece completes.
const SLACK: u64 = 2 * MIB;

/// `count` shares in thousandths, sorted. The first is 0: a kill right after the start.
fn shares(random: &mut Random, count: usize) -> Vec<u64> {
    let mut shares: Vec<_> = (1..count).map(|_| random.below(900)).collect();
    shares.push(0);
    shares.sort_unstable();
    shares
}

/// Kills an import each time one of `shares` (in thousandths) is stored, then lets one finish.
fn kill_at(torrent: &Fixture, shares: &[u64], storage_options: &str) {
    let bae = Bae::new().with_storage_options(storage_options);
    let seeder = LibtorrentPeer::slow_seed(torrent, 24 * MIB);
    let mut durable = 0;
    for &share in shares {
        let mut running = bae.start_import(torrent, &[seeder.addr()]);
        running.wait_until_stored(torrent.bytes * share / 1000);
        running.kill();
        let stored = |e: &serde_json::Value| e["stored"].as_u64();
        let events = running.events();
        if let Some(started) = events.iter().find(|e| e["event"] == "started") {
            let at_start = stored(started).unwrap();
            assert!(at_start >= durable, "{at_start} of {durable} durable bytes after a kill");
        }
        // What a run reported as stored must be stored in the next run.
        durable = events.iter().filter_map(stored).max().unwrap_or(0).max(durable);
    }
    let output = bae.run(bae.import_args(&torrent.torrent, &[seeder.addr()], &[])).expect(0);
    let summary = output.summary();
    let lines = output.json();
    // There is no `started` event when an earlier run stored everything before it was killed.
    let started = lines.iter().find(|e| e["event"] == "started");
    let at_start = started.map_or(torrent.bytes, |e| e["stored"].as_u64().unwrap());
    assert!(at_start >= durable, "{at_start} of {durable} durable bytes at the last start");
    let allowed = torrent.bytes - at_start + SLACK;
    assert!(summary.downloaded <= allowed, "{} fetched, {allowed} allowed", summary.downloaded);
    bae.assert_verified(&summary.id);
    bae.assert_exact(&summary.id, torrent);
    // gc removes the objects that a crash left without a name, and no others.
    bae.run(["gc", "--yes"]).expect(0);
    bae.assert_exact(&summary.id, torrent);
}

#[test]
fn resumes_after_kill_without_refetching_durable_pieces() {
    for seed in 0..3 {
        let mut random = Random(seed);
        let shares = shares(&mut random, 4);
        eprintln!("seed {seed}: killed at {shares:?} of 1000");
        kill_at(&torrent(), &shares, "");
    }
}

#[test]
fn resumes_after_kill_while_storage_is_slower_than_the_peers() {
    let mut random = Random(77);
    let shares = shares(&mut random, 4);
    eprintln!("killed at {shares:?} of 1000");
    kill_at(&torrent(), &shares, "upload_limit=16MiB");
}

#[test]
fn resumes_after_kill_with_many_small_files() {
    let list =
        (0..2_000u64).map(|i| (format!("{:02}/{i}", i % 40), 1 + i * 7919 % 30_000)).collect();
    let torrent = Recipe::folder("crash of many", list).piece(64 * KIB).make();
    let mut random = Random(5);
    let shares = shares(&mut random, 5);
    eprintln!("killed at {shares:?} of 1000");
    kill_at(&torrent, &shares, "");
}

#[test]
fn a_finished_import_is_not_fetched_again() {
    let torrent = Recipe::single("again.bin", 9 * MIB + 1).make();
    let bae = Bae::new();
    let mut seeder = LibtorrentPeer::slow_seed(&torrent, 64 * MIB);
    let first = bae.import(&torrent, &[seeder.addr()]);
    let sent = seeder.sent();
    let second = bae.import(&torrent, &[seeder.addr()]);
    assert_eq!(first.id, second.id);
    assert_eq!(second.downloaded, 0);
    assert_eq!(seeder.sent(), sent, "the seeder sent bytes again");
}

#[test]
fn an_import_killed_right_after_its_summary_is_complete() {
    let torrent = torrent();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let bae = Bae::new();
    let mut running = bae.start_import(&torrent, &[seeder.addr()]);
    let summary = running.event("imported");
    running.kill();
    let id = summary["id"].as_str().unwrap();
    bae.assert_verified(id);
    bae.assert_exact(id, &torrent);
}

/// The only import in the catalog, with its objects and extents.
async fn only_import(bae: &Bae) -> (ImportId, Vec<ObjectRow>, Vec<Extent>) {
    let catalog = Catalog::open_read_only(&bae.data_dir()).await.unwrap();
    let import = catalog.list().await.unwrap().remove(0).id;
    let objects = catalog.objects(&import).await.unwrap();
    let extents = catalog.extents(&import).await.unwrap();
    (import, objects, extents)
}

#[test]
fn no_extent_names_a_missing_object_after_a_kill() {
    let torrent = torrent();
    let seeder = LibtorrentPeer::slow_seed(&torrent, 40 * MIB);
    let mut random = Random(11);
    for round in 0..6 {
        let bae = Bae::new().with_storage_options("chunk=1MiB");
        let mut running = bae.start_import(&torrent, &[seeder.addr()]);
        running.wait_until_stored(1 + random.below(torrent.bytes / 2));
        running.kill();
        let (import, objects, extents) = runtime().block_on(only_import(&bae));
        assert!(!extents.is_empty(), "round {round}: no bytes are durable");
        for extent in extents {
            let object = objects.iter().find(|o| o.num == extent.object).unwrap();
            assert!(object.stored, "round {round}: {object:?} was never committed");
            let file = std::fs::metadata(bae.storage_dir().join(&object.key)).unwrap();
            assert_eq!(file.len(), object.len, "round {round}: {object:?}");
            assert!(extent.offset + extent.range.end - extent.range.start <= object.len);
        }
        bae.assert_verified(import.as_str());
    }
}
