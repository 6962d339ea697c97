//! Peers that send wrong bytes: a failed piece is fetched again, and the import is exact.

use std::{fs, path::Path};

use crate::support::{
    KIB, LONG, MIB, Random,
    bae::Bae,
    peers::LibtorrentPeer,
    torrents::{Fixture, Recipe, Version},
    wait_until,
};

/// Writes a copy of the data with `count` wrong bytes at seeded positions.
fn broken_copy(torrent: &Fixture, dir: &Path, count: u64) {
    let mut bytes = fs::read(torrent.data()).unwrap();
    let mut random = Random(count);
    for _ in 0..count {
        let at = random.below(bytes.len() as u64) as usize;
        bytes[at] ^= 0xFF;
    }
    fs::write(dir.join(&torrent.name), bytes).unwrap();
}

fn assert_exact_despite_corruption(version: Version) {
    let torrent =
        Recipe::single("corrupt.bin", 48 * MIB + 11).version(version).piece(256 * KIB).make();
    let dir = tempfile::tempdir().unwrap();
    broken_copy(&torrent, dir.path(), 400);
    // The good seeder is slow, so that the corrupting peer gets requests.
    let good = LibtorrentPeer::slow_seed(&torrent, 12 * MIB);
    let mut bad = LibtorrentPeer::corrupting(&torrent, dir.path());
    let bae = Bae::new();
    let summary = bae.import(&torrent, &[bad.addr(), good.addr()]);
    wait_until("the corrupting peer gets a request", LONG, || bad.sent() > 0);
    bae.assert_exact(&summary.id, &torrent);
    bae.assert_verified(&summary.id);
}

#[test]
fn an_import_is_exact_despite_a_corrupting_peer() {
    assert_exact_despite_corruption(Version::V1);
}

#[test]
fn a_v2_import_is_exact_despite_a_corrupting_peer() {
    assert_exact_despite_corruption(Version::V2);
}

#[test]
fn an_import_is_exact_despite_several_corrupting_peers() {
    let torrent = Recipe::single("corrupt by many.bin", 24 * MIB).piece(MIB).make();
    let dir = tempfile::tempdir().unwrap();
    broken_copy(&torrent, dir.path(), 100);
    let good = LibtorrentPeer::slow_seed(&torrent, 8 * MIB);
    let bad: Vec<_> = (0..3).map(|_| LibtorrentPeer::corrupting(&torrent, dir.path())).collect();
    let mut all: Vec<_> = bad.iter().map(LibtorrentPeer::addr).collect();
    all.push(good.addr());
    let bae = Bae::new();
    let summary = bae.import(&torrent, &all);
    bae.assert_exact(&summary.id, &torrent);
}
