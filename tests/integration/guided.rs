//! Peers that take suggestions: what is fetched for one serves all, and comes in few, long gets.

use crate::{
    seeding::{Stored, stop},
    support::{
        KIB, MIB,
        peers::{LibtorrentPeer, Release},
        torrents::{Fixture, Recipe},
    },
};

/// Much more than what stays in memory in these tests.
fn long(name: &str) -> Fixture {
    Recipe::single(name, 96 * MIB + 5).piece(MIB).make()
}

/// Leechers with lines of `rates` bytes a second, of both releases, get everything at once from 20 MiB of kept windows.
/// Answers the gets, and the bytes that came, for each byte of the payload.
fn leeched(torrent: &Fixture, rates: &[u64]) -> (u64, f64) {
    let stored = Stored::new(torrent);
    let running = stored.bae.seed_with(&stored.id, &[], &["--memory", "64MiB", "--no-pex"]);
    let releases = [Release::Debian, Release::Newest].into_iter().cycle();
    let leech = |(rate, release)| LibtorrentPeer::lone_leech(release, torrent, rate);
    let mut leechers: Vec<_> = rates.iter().copied().zip(releases).map(leech).collect();
    // All at once: who comes late gets what it missed from storage again.
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
    // A get for each MiB, were it not led.
    assert!(gets < 72, "{gets} gets");
}

#[test]
fn an_album_of_small_pieces_costs_few_gets_and_no_byte_twice() {
    let track = |n: u64| (format!("{n:02}.flac"), 8 * MIB + n * 40_001);
    let album = Recipe::folder("led over an album", (0..12).map(track).collect()).piece(256 * KIB);
    let (gets, fetched) = leeched(&album.make(), &[100 * MIB]);
    assert!(fetched < 1.05, "{fetched} times the payload came from storage");
    // A get for each piece, were it not led: 386.
    assert!(gets < 96, "{gets} gets");
}

#[test]
fn peers_that_do_not_know_each_other_are_served_by_one_scan() {
    // Each by itself would find a fifth of it in memory. A peer that the machine leaves no time for a while falls behind
    // the others, which says nothing of how they are led: then they try again.
    let mut tries = Vec::new();
    while tries.len() < 3 && tries.iter().all(|fetched| *fetched >= 1.5) {
        tries.push(leeched(&long("scanned once"), &[10 * MIB; 3]).1);
    }
    assert!(tries.iter().any(|fetched| *fetched < 1.5), "{tries:?} times the payload came");
}
