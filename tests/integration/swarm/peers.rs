//! Real clients in both directions: bae downloads from each of them, and each of them downloads from bae.

use crate::support::{
    LONG, MIB,
    bae::{Bae, Running},
    peers::{Aria2, LibtorrentPeer, QBittorrent, Release, Transmission},
    torrents::{Fixture, Recipe, Version},
    tracker::Tracker,
    wait_until,
};

/// 24 MiB and an odd end, in pieces of 256 KiB: enough to test order and requests, and quick with slow clients.
fn torrent() -> Fixture {
    Recipe::single("two dozen.bin", 24 * MIB + 12_345).piece(256 << 10).make()
}

fn folder() -> Fixture {
    let files = (0..40).map(|i| (format!("disc {}/track {i:02}.flac", i % 3), 150_000 + i * 9_001));
    Recipe::folder("An Album (2024)", files.collect()).piece(64 << 10).make()
}

/// Imports `torrent` from a libtorrent seeder, which then ends. Returns the id.
fn import_from_libtorrent(bae: &Bae, torrent: &Fixture) -> String {
    let seeder = LibtorrentPeer::seed(Release::Debian, torrent);
    bae.import(torrent, &[seeder.addr()]).id
}

/// A bae that has the whole torrent and seeds it.
fn start_seeding(torrent: &Fixture) -> (Bae, Running) {
    let bae = Bae::new();
    let id = import_from_libtorrent(&bae, torrent);
    let running = bae.seed(&id, &[]);
    (bae, running)
}

#[test]
fn bae_downloads_from_libtorrent() {
    let (torrent, bae) = (torrent(), Bae::new());
    let id = import_from_libtorrent(&bae, &torrent);
    bae.assert_exact(&id, &torrent);
    bae.assert_verified(&id);
}

#[test]
fn bae_downloads_from_the_newest_libtorrent() {
    for torrent in [torrent(), folder()] {
        let (bae, seeder) = (Bae::new(), LibtorrentPeer::seed(Release::Newest, &torrent));
        let summary = bae.import(&torrent, &[seeder.addr()]);
        bae.assert_exact(&summary.id, &torrent);
    }
}

#[test]
fn bae_downloads_from_transmission() {
    let (torrent, bae) = (torrent(), Bae::new());
    let seeder = Transmission::seed(&torrent);
    let summary = bae.import(&torrent, &[seeder.addr()]);
    bae.assert_exact(&summary.id, &torrent);
}

#[test]
fn bae_downloads_from_qbittorrent() {
    let (torrent, bae) = (folder(), Bae::new());
    let seeder = QBittorrent::seed(&torrent);
    let summary = bae.import(&torrent, &[seeder.addr()]);
    bae.assert_exact(&summary.id, &torrent);
}

#[test]
fn bae_downloads_from_aria2() {
    let (torrent, bae) = (folder(), Bae::new());
    let seeder = Aria2::seed(&torrent);
    let summary = bae.import(&torrent, &[seeder.addr()]);
    bae.assert_exact(&summary.id, &torrent);
}

#[test]
fn peers_are_found_through_http_and_udp_trackers() {
    let plain = torrent();
    for udp in [false, true] {
        let mut tracker = Tracker::start(&[&plain]);
        let dir = tempfile::tempdir().unwrap();
        let url = if udp { tracker.udp() } else { tracker.http() };
        let torrent = plain.with_tracker(&url, dir.path());
        let (bae, _seeder) = (Bae::new(), LibtorrentPeer::seed(Release::Debian, &torrent));
        let summary = bae.import(&torrent, &[]);
        bae.assert_exact(&summary.id, &torrent);
        tracker.restart();
    }
}

#[test]
fn a_magnet_link_alone_is_enough_for_an_import() {
    for version in [Version::V1, Version::V2, Version::Hybrid] {
        let torrent = Recipe::single("by magnet.bin", 5 * MIB + 7).version(version).make();
        let (bae, seeder) = (Bae::new(), LibtorrentPeer::seed(Release::Debian, &torrent));
        let args = bae.import_args(torrent.magnet(), &[seeder.addr()], &[]);
        let summary = bae.run(args).expect(0).summary();
        bae.assert_exact(&summary.id, &torrent);
        // The v2 piece hashes came from peers and are stored.
        let verified = bae.run(["--json", "verify", &summary.id]).expect(0).json();
        assert_eq!(verified[0]["pieces"], 6, "{version:?}: {verified:?}");
    }
}

#[test]
fn libtorrent_downloads_from_bae() {
    let torrent = torrent();
    let (bae, _running) = start_seeding(&torrent);
    let mut leecher = LibtorrentPeer::leech(Release::Debian, &torrent, bae.listen);
    torrent.assert_same(&leecher.wait_done().join(&torrent.name));
}

#[test]
fn the_newest_libtorrent_downloads_from_bae() {
    for version in [Version::V1, Version::V2, Version::Hybrid] {
        let torrent = Recipe::single("three kinds.bin", 9 * MIB + 1).version(version).make();
        let (bae, _running) = start_seeding(&torrent);
        let mut leecher = LibtorrentPeer::leech(Release::Newest, &torrent, bae.listen);
        torrent.assert_same(&leecher.wait_done().join(&torrent.name));
    }
}

#[test]
fn transmission_downloads_from_bae() {
    let torrent = torrent();
    let leecher = Transmission::leech(&torrent);
    let bae = Bae::new();
    let id = import_from_libtorrent(&bae, &torrent);
    // Transmission never dials 127/8, so bae dials it.
    let _running = bae.seed(&id, &[leecher.addr()]);
    torrent.assert_same(&leecher.wait_done().join(&torrent.name));
}

#[test]
fn qbittorrent_downloads_from_bae() {
    let torrent = folder();
    let (bae, _running) = start_seeding(&torrent);
    let leecher = QBittorrent::leech(&torrent);
    leecher.connect(&torrent, bae.listen);
    torrent.assert_same(&leecher.wait_done().join(&torrent.name));
}

#[test]
fn aria2_downloads_from_bae_through_the_tracker() {
    let plain = folder();
    let tracker = Tracker::start(&[&plain]);
    let torrent = tracker.torrent(&plain);
    let (_bae, _running) = start_seeding(&torrent);
    let mut leecher = Aria2::leech(&torrent);
    torrent.assert_same(&leecher.wait_done().join(&torrent.name));
}

#[test]
fn an_import_with_the_seed_flag_seeds_after_it_is_complete() {
    let torrent = torrent();
    let (bae, seeder) = (Bae::new(), LibtorrentPeer::seed(Release::Debian, &torrent));
    let mut running = bae.start(bae.import_args(&torrent.torrent, &[seeder.addr()], &["--seed"]));
    running.event("imported");
    drop(seeder);
    let mut leecher = LibtorrentPeer::leech(Release::Debian, &torrent, bae.listen);
    torrent.assert_same(&leecher.wait_done().join(&torrent.name));
    running.interrupt();
    running.wait(LONG);
}

#[test]
fn a_leecher_can_download_from_an_incomplete_import() {
    let torrent = Recipe::single("passing through.bin", 24 * MIB).piece(256 << 10).make();
    let (bae, seeder) = (Bae::new(), LibtorrentPeer::slow_seed(&torrent, 8 * MIB));
    let args = bae.import_args(&torrent.torrent, &[seeder.addr()], &["--seed"]);
    let mut running = bae.start(args);
    running.event_where("progress", |e| {
        e["stored"].as_u64() > Some(0) || e["downloaded"].as_u64() > Some(0)
    });
    let mut leecher = LibtorrentPeer::leech(Release::Debian, &torrent, bae.listen);
    torrent.assert_same(&leecher.wait_done().join(&torrent.name));
    running.event("imported");
}

#[test]
fn an_import_survives_a_seeder_that_pauses() {
    let torrent = Recipe::single("on and off.bin", 24 * MIB).make();
    let (bae, mut seeder) = (Bae::new(), LibtorrentPeer::slow_seed(&torrent, 8 * MIB));
    let mut running = bae.start_import(&torrent, &[seeder.addr()]);
    running.event_where("progress", |e| e["downloaded"].as_u64() > Some(MIB));
    seeder.pause();
    wait_until("the seeder has no connection", LONG, || seeder.peers() == Some(0));
    seeder.resume();
    seeder.connect(bae.listen);
    let id = running.event("imported")["id"].as_str().unwrap().to_owned();
    running.wait(LONG).expect(0);
    bae.assert_exact(&id, &torrent);
}

#[test]
fn bae_downloads_from_sixteen_seeders_at_once() {
    let torrent = Recipe::single("from many.bin", 64 * MIB + 1).make();
    let (bae, seeders) = (Bae::new(), LibtorrentPeer::swarm(&torrent, 16, 4 * MIB));
    let summary = bae.import(&torrent, seeders.addrs());
    bae.assert_exact(&summary.id, &torrent);
}

#[test]
fn one_command_imports_several_torrents() {
    let recipe = |seed| Recipe::single(&format!("number {seed}.bin"), 5 * MIB + seed).seed(seed);
    let torrents: Vec<_> = (1..=3).map(|seed| recipe(seed).make()).collect();
    let bae = Bae::new();
    let seeders: Vec<_> =
        torrents.iter().map(|t| LibtorrentPeer::seed(Release::Debian, t)).collect();
    let peers: Vec<_> = seeders.iter().map(LibtorrentPeer::addr).collect();
    let mut args = bae.import_args(&torrents[0].torrent, &peers, &[]);
    args.extend(torrents[1..].iter().map(|t| t.torrent.clone().into_os_string()));
    let done = bae.run(args).expect(0).json();
    let done: Vec<_> = done.iter().filter(|e| e["event"] == "imported").collect();
    assert_eq!(done.len(), 3);
    for torrent in &torrents {
        let event = done.iter().find(|e| e["name"] == torrent.name.as_str()).unwrap();
        bae.assert_exact(event["id"].as_str().unwrap(), torrent);
    }
}
