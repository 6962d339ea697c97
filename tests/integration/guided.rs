//! Peers that follow suggestions: a window that is fetched for one peer serves all, and gets are few and long.

use crate::{
    seeding::{Stored, stop},
    support::{
        KIB, MIB,
        peers::{LibtorrentPeer, Release},
        torrents::{Fixture, Recipe},
    },
};

/// A torrent much larger than the window cache in these tests.
fn long(name: &str) -> Fixture {
    Recipe::single(name, 96 * MIB + 5).piece(MIB).make()
}

/// Seeds with a window cache of 20 MiB to leechers of both releases, limited to `rates` bytes/s. Returns the number
/// of gets, and the fetched bytes per payload byte.
fn leeched(torrent: &Fixture, rates: &[u64]) -> (u64, f64) {
    let stored = Stored::new(torrent);
    let running = stored.bae.seed_with(&stored.id, &[], &["--memory", "64MiB", "--no-pex"]);
    let releases = [Release::Debian, Release::Newest].into_iter().cycle();
    let leech = |(rate, release)| LibtorrentPeer::lone_leech(release, torrent, rate);
    let mut leechers: Vec<_> = rates.iter().copied().zip(releases).map(leech).collect();
    // All connect at once: a late leecher would make bae fetch again what it missed.
    leechers.iter_mut().for_each(|leecher| leecher.connect(stored.bae.listen));
    for leecher in &mut leechers {
        torrent.assert_same(&leecher.wait_done().join(&torrent.name));
        assert!(!leecher.has_said("hash_failed"), "wrong bytes reached a peer");
    }
    stop(running);
    let books = stored.books();
    let count = |name: &str| u32::try_from(books[name].as_u64().unwrap()).unwrap();
    let payload = u32::try_from(torrent.bytes).unwrap();
    (count("gets").into(), f64::from(count("fetched")) / f64::from(payload))
}

#[test]
fn one_peer_costs_few_long_gets_and_no_byte_twice() {
    let (gets, fetched) = leeched(&long("led through"), &[100 * MIB]);
    assert!(fetched < 1.05, "{fetched} times the payload came from storage");
    // Without suggestions there is one get per MiB.
    assert!(gets < 72, "{gets} gets");
}

#[test]
fn an_album_of_small_pieces_costs_few_gets_and_no_byte_twice() {
    let track = |n: u64| (format!("{n:02}.flac"), 8 * MIB + n * 40_001);
    let album = Recipe::folder("led over an album", (0..12).map(track).collect()).piece(256 * KIB);
    let (gets, fetched) = leeched(&album.make(), &[100 * MIB]);
    assert!(fetched < 1.05, "{fetched} times the payload came from storage");
    // Without suggestions there is one get per piece: 386.
    assert!(gets < 96, "{gets} gets");
}

#[test]
fn peers_that_do_not_know_each_other_are_served_by_one_scan() {
    // Without suggestions each peer would find a fifth of its windows in the cache. A peer that gets no CPU time
    // for a while falls behind the others, whatever is suggested; then the test tries again.
    let mut tries = Vec::new();
    while tries.len() < 3 && tries.iter().all(|fetched| *fetched >= 1.5) {
        tries.push(leeched(&long("scanned once"), &[10 * MIB; 3]).1);
    }
    assert!(tries.iter().any(|fetched| *fetched < 1.5), "{tries:?} times the payload came");
}
