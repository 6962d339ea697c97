//! `kill -9` at any moment loses no durable piece, and the next run fetches only what is missing.

use bae::catalog::{Catalog, Extent, ImportId, ObjectRow};

use crate::support::{
    KIB, MIB, Random,
    bae::{Bae, Running},
    file_faults::{FileFaults, KillStep},
    peers::{LibtorrentPeer, Release},
    process::Process,
    s3_server::runtime,
    torrents::{Fixture, Recipe},
};

fn torrent() -> Fixture {
    Recipe::single("crash.bin", 64 * MIB + 99).piece(512 * KIB).make()
}

/// Bytes that may be fetched although they are not missing: requests in flight when the last piece completes.
const SLACK: u64 = 2 * MIB;

/// Starts an import that is killed before step number `at` of all runs of this home.
fn start_import_until(
    bae: &Bae,
    faults: &FileFaults,
    torrent: &Fixture,
    seeder: &LibtorrentPeer,
    at: u64,
) -> Running {
    let mut command = bae.command(bae.import_args(&torrent.torrent, &[seeder.addr()], &[]));
    faults.kill(&mut command, KillStep::AnyChange, at);
    Running(Process::start("bae", &command))
}

fn faults_of(bae: &Bae) -> FileFaults {
    FileFaults::in_folders(&[&bae.data_dir(), bae.storage_dir()])
}

/// The number of changes to the data folder and the storage by an import that is not killed.
fn count_steps(torrent: &Fixture, seeder: &LibtorrentPeer, storage_options: &str) -> u64 {
    let bae = Bae::new().with_storage_options(storage_options);
    let faults = faults_of(&bae);
    let mut running = start_import_until(&bae, &faults, torrent, seeder, 0);
    assert!(!running.wait_until_killed());
    faults.operation_count()
}

/// Kills an import before each of `count` steps, one in each part of the run, then lets one finish.
fn kill_at_steps(torrent: &Fixture, random: &mut Random, count: u64, storage_options: &str) {
    let seeder = LibtorrentPeer::slow_seed(torrent, 24 * MIB);
    let total = count_steps(torrent, &seeder, storage_options);
    let steps = random.steps(total, count);
    eprintln!("killed before the steps {steps:?} of {total}");
    let bae = Bae::new().with_storage_options(storage_options);
    let faults = faults_of(&bae);
    let (mut durable, mut killed) = (0, 0);
    for &step in &steps {
        let mut running = start_import_until(&bae, &faults, torrent, &seeder, step);
        killed += u64::from(running.wait_until_killed());
        let stored = |e: &serde_json::Value| e["stored"].as_u64();
        let events = running.events();
        if let Some(started) = events.iter().find(|e| e["event"] == "started") {
            let at_start = stored(started).unwrap();
            assert!(at_start >= durable, "{at_start} of {durable} durable bytes after a kill");
        }
        // What a run reported as stored must be stored in the next run.
        durable = events.iter().filter_map(stored).max().unwrap_or(0).max(durable);
    }
    assert!(killed >= count / 2, "only {killed} of {count} runs were killed");
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
    let mut random = Random::of_this_run();
    for _ in 0..3 {
        kill_at_steps(&torrent(), &mut random, 4, "");
    }
}

#[test]
fn resumes_after_kill_while_storage_is_slower_than_the_peers() {
    kill_at_steps(&torrent(), &mut Random::of_this_run(), 4, "upload_limit=16MiB");
}

#[test]
fn resumes_after_kill_with_many_small_files() {
    let list =
        (0..2_000u64).map(|i| (format!("{:02}/{i}", i % 40), 1 + i * 7919 % 30_000)).collect();
    let torrent = Recipe::folder("crash of many", list).piece(64 * KIB).make();
    kill_at_steps(&torrent, &mut Random::of_this_run(), 5, "");
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
    let options = "chunk=1MiB";
    let total = count_steps(&torrent, &seeder, options);
    let mut extent_count = 0;
    // Without the first part of the run, in which the catalog is created.
    for step in Random::of_this_run().steps(total, 7).split_off(1) {
        let bae = Bae::new().with_storage_options(options);
        let mut running = start_import_until(&bae, &faults_of(&bae), &torrent, &seeder, step);
        running.wait_until_killed();
        let (import, objects, extents) = runtime().block_on(only_import(&bae));
        extent_count += extents.len();
        for extent in extents {
            let object = objects.iter().find(|o| o.num == extent.object).unwrap();
            assert!(object.is_stored(), "step {step}: {object:?} was never committed");
            let file = std::fs::metadata(bae.storage_dir().join(&object.key)).unwrap();
            assert_eq!(file.len(), object.len, "step {step}: {object:?}");
            assert!(extent.offset + extent.range.end - extent.range.start <= object.len);
        }
        bae.assert_verified(import.as_str());
    }
    assert!(extent_count > 0, "no bytes were durable in any run");
}
