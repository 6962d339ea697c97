//! Peers that follow suggestions: a window that is fetched for one peer serves all, and gets are few and long.

use crate::{
    seeding::from_storage::{BucketImport, stop},
    support::{
        KIB, MIB,
        peers::{LibtorrentPeer, Release},
        torrents::{Fixture, Recipe},
    },
};

/// A torrent much larger than the window cache in these tests.
fn large_torrent(name: &str) -> Fixture {
    Recipe::single(name, 96 * MIB + 5).piece(MIB).make()
}

/// Seeds with a window cache of 20 MiB to leechers of both releases, limited to `rates` bytes/s. Returns the number
/// of gets, and the fetched bytes per payload byte.
fn seed_to_leechers(torrent: &Fixture, rates: &[u64]) -> (u64, f64) {
    let import = BucketImport::new(torrent);
    let running = import.bae.seed_with(&import.id, &[], &["--memory", "64MiB", "--no-pex"]);
    let releases = [Release::Debian, Release::Newest].into_iter().cycle();
    let leech = |(rate, release)| LibtorrentPeer::leech_without_peers(release, torrent, rate);
    let mut leechers: Vec<_> = rates.iter().copied().zip(releases).map(leech).collect();
    // All connect at once: a late leecher would make bae fetch again what it missed.
    leechers.iter_mut().for_each(|leecher| leecher.connect(import.bae.listen));
    for leecher in &mut leechers {
        torrent.assert_same(&leecher.wait_done().join(&torrent.name));
        assert!(!leecher.has_note("hash_failed"), "wrong bytes reached a peer");
    }
    stop(running);
    let usage = import.usage();
    let count = |name: &str| u32::try_from(usage[name].as_u64().unwrap()).unwrap();
    let payload = u32::try_from(torrent.bytes).unwrap();
    (count("gets").into(), f64::from(count("fetched")) / f64::from(payload))
}

#[test]
fn serving_one_peer_takes_few_long_gets_and_no_byte_twice() {
    let (gets, fetched) = seed_to_leechers(&large_torrent("suggested"), &[100 * MIB]);
    assert!(fetched < 1.05, "{fetched} bytes fetched per byte of payload");
    // Without suggestions there is one get per MiB.
    assert!(gets < 72, "{gets} gets");
}

#[test]
fn serving_small_pieces_takes_few_gets_and_no_byte_twice() {
    let track = |n: u64| (format!("{n:02}.flac"), 8 * MIB + n * 40_001);
    let album = Recipe::folder("suggested album", (0..12).map(track).collect()).piece(256 * KIB);
    let (gets, fetched) = seed_to_leechers(&album.make(), &[100 * MIB]);
    assert!(fetched < 1.05, "{fetched} bytes fetched per byte of payload");
    // Without suggestions there is one get per piece: 386.
    assert!(gets < 96, "{gets} gets");
}

#[test]
fn unconnected_peers_share_one_sequential_read_of_storage() {
    // Without suggestions each peer would find a fifth of its windows in the cache. A peer that gets no CPU time
    // for a while falls behind the others, whatever is suggested; then the test tries again.
    let mut tries = Vec::new();
    while tries.len() < 3 && tries.iter().all(|fetched| *fetched >= 1.5) {
        tries.push(seed_to_leechers(&large_torrent("read once"), &[10 * MIB; 3]).1);
    }
    assert!(
        tries.iter().any(|fetched| *fetched < 1.5),
        "{tries:?} bytes fetched per byte of payload"
    );
}
