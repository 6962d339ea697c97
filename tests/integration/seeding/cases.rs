//! Seeding in unusual situations: storage that is unavailable for a while, imports that share objects, and bytes
//! that are uploaded during the import.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::support::{
    KIB, LONG, MIB,
    bae::Bae,
    fault_proxy::{Fault, FaultProxy},
    peers::{LibtorrentPeer, Release},
    s3_server::S3Server,
    torrents::{Fixture, Recipe},
    wait_until,
};

fn assert_leech_is_exact(bae: &Bae, torrent: &Fixture) {
    let mut leecher = LibtorrentPeer::leech(Release::Newest, torrent, bae.listen);
    torrent.assert_same(&leecher.wait_done().join(&torrent.name));
    assert!(!leecher.has_note("hash_failed"), "wrong bytes reached a peer");
}

#[test]
fn a_storage_outage_during_seeding_ends_no_download() {
    let torrent = Recipe::single("outage.bin", 24 * MIB + 5).piece(256 * KIB).make();
    let server = S3Server::seaweed();
    let bucket = server.bucket("outage");
    let proxy = FaultProxy::start(server.addr());
    let endpoint = format!("http://{}", proxy.addr());
    let url = format!("{}&chunk=5MiB", server.storage_url_at(&endpoint, &bucket, "m"));
    let bae = Bae::new().with_storage_url(&url, server.env());
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let id = bae.import(&torrent, &[seeder.addr()]).id;
    // Storage becomes unavailable during the download: the first gets are answered.
    let is_down = Arc::new(AtomicBool::new(true));
    let flag = Arc::clone(&is_down);
    proxy.set_faults(move |r| {
        let refused = r.number >= 6 && flag.load(Ordering::Relaxed);
        if refused { Fault::Refuse("503 Slow Down", "SlowDown") } else { Fault::None }
    });
    let mut running = bae.seed(&id, &[]);
    let mut leecher = LibtorrentPeer::leech(Release::Newest, &torrent, bae.listen);
    wait_until("storage is down", LONG, || proxy.requests().len() > 6);
    wait_until("requests are repeated", LONG, || proxy.requests().len() > 14);
    assert!(leecher.received() < torrent.bytes, "the download completed during the outage");
    is_down.store(false, Ordering::Relaxed);
    torrent.assert_same(&leecher.wait_done().join(&torrent.name));
    assert!(!leecher.has_note("hash_failed"), "wrong bytes reached a peer");
    assert!(running.0.is_running());
}

#[test]
fn downloaded_bytes_are_uploaded_during_the_import() {
    let torrent = Recipe::single("uploaded.bin", 24 * MIB + 5).piece(256 * KIB).make();
    let server = S3Server::seaweed();
    let bucket = server.bucket("uploaded");
    let url = format!("{}&chunk=5MiB", server.storage_url(&bucket, "g"));
    let bae = Bae::new().with_storage_url(&url, server.env());
    let mut seeder = LibtorrentPeer::slow_seed(&torrent, 4 * MIB);
    let mut running = bae.start(bae.import_args(&torrent.torrent, &[seeder.addr()], &["--seed"]));
    running.event_where("progress", |e| e["stored"].as_u64() > Some(6 * MIB));
    // From here on bae receives nothing new, so the leecher gets only what bae has.
    seeder.pause();
    let mut leecher = LibtorrentPeer::leech(Release::Newest, &torrent, bae.listen);
    wait_until("the leecher has the downloaded bytes", LONG, || leecher.received() >= 5 * MIB);
    assert!(
        running.events().iter().all(|e| e["event"] != "imported"),
        "the import is complete already"
    );
    seeder.resume();
    running.event("imported");
    torrent.assert_same(&leecher.wait_done().join(&torrent.name));
    assert!(!leecher.has_note("hash_failed"), "wrong bytes reached a peer");
    running.interrupt();
    running.wait(LONG).expect(0);
}

fn adopt(bae: &Bae, torrent: &Fixture, from: &str) -> String {
    let args = ["--json", "adopt", torrent.torrent.to_str().unwrap(), "--from", from];
    let summary = bae.run(args).expect(0).json().pop().expect("a summary");
    assert_eq!(summary["state"], "imported", "{summary}");
    summary["id"].as_str().unwrap().to_owned()
}

fn copy_of(torrent: &Fixture, dir: &Path) -> Vec<u8> {
    fs::create_dir_all(dir).unwrap();
    let bytes = fs::read(torrent.data()).unwrap();
    fs::write(dir.join(&torrent.name), &bytes).unwrap();
    bytes
}

#[test]
fn two_imports_can_share_an_object_and_removing_one_keeps_it() {
    // The same file in two torrents, for example for two trackers.
    let recipe = Recipe::single("cross seeded.bin", 6 * MIB + 9);
    let (one, other) = (recipe.clone().piece(256 * KIB).make(), recipe.piece(64 * KIB).make());
    assert_ne!(one.info_hash(), other.info_hash());
    let bae = Bae::new();
    let folder = bae.home().join("library");
    let bytes = copy_of(&one, &folder);
    let from = format!("file://{}", folder.display());
    let (first, second) = (adopt(&bae, &one, &from), adopt(&bae, &other, &from));
    let running = bae.seed_with(&first, &[], &[&second]);
    assert_leech_is_exact(&bae, &one);
    assert_leech_is_exact(&bae, &other);
    running.interrupt();
    running.wait(LONG).expect(0);

    bae.run(["rm", &first, "--yes"]).expect(0);
    bae.run(["gc", "--yes"]).expect(0);
    bae.assert_verified(&second);
    let running = bae.seed(&second, &[]);
    assert_leech_is_exact(&bae, &other);
    drop(running);
    bae.run(["rm", &second, "--yes"]).expect(0);
    bae.run(["gc", "--yes"]).expect(0);
    assert!(fs::read(folder.join(&one.name)).unwrap() == bytes, "the user's file changed");
}

#[test]
fn an_object_that_an_import_owns_cannot_be_adopted() {
    let recipe = Recipe::single("published.bin", 6 * MIB + 9);
    let (one, other) = (recipe.clone().piece(256 * KIB).make(), recipe.piece(64 * KIB).make());
    let bae = Bae::new();
    let seeder = LibtorrentPeer::seed(Release::Debian, &one);
    let args = bae.import_args(&one.torrent, &[seeder.addr()], &["--layout", "files"]);
    let id = bae.run(args).expect(0).summary().id;
    // `rm` of one import would remove the object of the other.
    let adopt = ["adopt", other.torrent.to_str().unwrap(), "--from", &bae.storage_url()];
    bae.run(adopt).expect(1).expect_stderr("belongs to import");
    bae.run([&adopt[..], &["--dry-run"]].concat()).expect(1).expect_stderr("belongs to import");
    bae.run(["gc", "--yes"]).expect(0);
    bae.assert_exact(&id, &one);
}

#[test]
fn seeding_ends_with_the_first_error_when_every_import_fails() {
    let recipe = Recipe::single("unreachable.bin", 3 * MIB + 9);
    let (one, other) = (recipe.clone().piece(256 * KIB).make(), recipe.piece(64 * KIB).make());
    let bae = Bae::new();
    let folder = bae.home().join("library");
    copy_of(&one, &folder);
    let from = format!("file://{}", folder.display());
    let (first, _) = (adopt(&bae, &one, &from), adopt(&bae, &other, &from));
    let moved = bae.home().join("elsewhere");
    fs::rename(&folder, &moved).unwrap();
    let output = bae.seed_all().wait(LONG).expect(3).expect_stderr("mounted");
    assert!(output.stderr.contains(&first), "the first error is missing:\n{}", output.stderr);
    fs::rename(&moved, &folder).unwrap();
    let running = bae.seed(&first, &[]);
    assert_leech_is_exact(&bae, &one);
    drop(running);
}
