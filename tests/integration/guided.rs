//! Peers that take suggestions: what is fetched for one serves all, and comes in few, long gets.

use crate::{
    seeding::Stored,
    support::{
        MIB,
        peers::{LibtorrentPeer, Release},
        torrents::{Fixture, Recipe},
    },
};

/// Much more than what stays in memory in these tests.
fn long(name: &str) -> Fixture {
    Recipe::single(name, 96 * MIB + 5).piece(MIB).make()
}

/// `count` leechers, of both releases, get everything at once from 24 MiB of kept windows. Answers the gets, and the
/// bytes that came, for each byte of the payload.
fn leeched(torrent: &Fixture, count: usize, more: &[&str]) -> (u64, f64) {
    let stored = Stored::new(torrent);
    let options = [&["--memory", "64MiB"], more].concat();
    let running = stored.bae.seed_with(&stored.id, &[], &options);
    let releases = [Release::Debian, Release::Newest].into_iter().cycle();
    let leech = |release| LibtorrentPeer::leech(release, torrent, stored.bae.listen);
    let mut leechers: Vec<_> = releases.take(count).map(leech).collect();
    for leecher in &mut leechers {
        torrent.assert_same(&leecher.wait_done().join(&torrent.name));
        assert!(!leecher.has_said("hash_failed"), "wrong bytes reached a peer");
    }
    crate::seeding::stop(running);
    let books = stored.books();
    let count = |name: &str| u32::try_from(books[name].as_u64().unwrap()).unwrap();
    let payload = u32::try_from(torrent.bytes).unwrap();
    (count("gets").into(), f64::from(count("fetched")) / f64::from(payload))
}

#[test]
fn one_peer_costs_few_long_gets_and_no_byte_twice() {
    let (gets, fetched) = leeched(&long("led through"), 1, &[]);
    assert!(fetched < 1.05, "{fetched} times the payload came from storage");
    // A get for each MiB, were it not led.
    assert!(gets < 72, "{gets} gets");
}

#[test]
fn peers_that_do_not_know_each_other_are_served_by_one_scan() {
    let (_, fetched) = leeched(&long("scanned once"), 3, &["--no-pex", "--no-lsd"]);
    // Each by itself would find a quarter of it in memory.
    assert!(fetched < 1.5, "{fetched} times the payload came from storage");
}
