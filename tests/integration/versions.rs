//! What holds with every libtorrent version that bae is built against, and what only later versions have.
//!
//! The tests use the library of the machine: `scripts/fresh-machine` runs them on other Debian releases.

use std::{
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bae::torrents::{Feature, is_safe};

use crate::support::{
    KIB, LONG, MIB,
    bae::Bae,
    fault_proxy::{Fault, FaultProxy, Request},
    gate::Gate,
    peers::{LibtorrentPeer, Release},
    raw_peer::{Asked, RawPeer},
    s3_server::S3Server,
    torrents::{Recipe, Version},
    wait_until,
};

/// Less than the minute after which a silent peer is disconnected too.
const BANNED_IN: Duration = Duration::from_secs(20);
/// Objects of at least this length are payload; the manifest is shorter.
const PAYLOAD: u64 = MIB;

/// A peer gets the whole torrent from bae before any object is stored, so all of it is served from memory.
fn is_served_before_it_is_stored(version: Version) {
    let recipe = Recipe::single(&format!("announced {version:?}.bin"), 24 * MIB + 7);
    let torrent = recipe.version(version).piece(256 * KIB).make();
    let server = S3Server::seaweed();
    let bucket = server.bucket("announced");
    let proxy = FaultProxy::start(server.addr());
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    proxy.spoil(move |request: &Request| {
        if request.method == "PUT" && request.body >= PAYLOAD {
            held.wait();
        }
        Fault::None
    });
    let url = server.storage_url_at(&format!("http://{}", proxy.addr()), &bucket, "a");
    let bae = Bae::new().storing_at(&url, server.env());
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let running = bae.start_import(&torrent, &[seeder.addr()]);

    let mut leecher = LibtorrentPeer::leech(Release::Newest, &torrent, bae.listen);
    torrent.assert_same(&leecher.wait_done().join(&torrent.name));
    assert!(!leecher.has_said("hash_failed"), "wrong bytes reached a peer");
    let events = running.events();
    assert!(events.iter().all(|e| e["event"] != "imported"), "imported before it was stored");
    let stored = events.iter().filter_map(|e| e["stored"].as_u64()).max();
    assert_eq!(stored.unwrap_or(0), 0, "nothing can have been stored yet");

    gate.open();
    let done = running.ended(Duration::from_secs(60)).expect(0).imported();
    bae.assert_exact(&done.id, &torrent);
}

#[test]
fn what_is_announced_is_served_while_storage_takes_nothing() {
    for version in [Version::V1, Version::V2, Version::Hybrid] {
        is_served_before_it_is_stored(version);
    }
}

#[test]
fn utp_is_on_by_itself_where_the_library_is_safe_and_by_order_elsewhere() {
    let torrent = Recipe::single("utp by version.bin", 2 * MIB).piece(256 * KIB).make();
    let seeder = LibtorrentPeer::utp_seed(&torrent);
    let bae = Bae::new();
    let order: &[&str] = if is_safe(Feature::Utp) { &[] } else { &["--no-utp=false"] };
    let mut args = bae.import_args(&torrent.torrent, &[seeder.addr()], order);
    args.retain(|a| a != "--no-utp");
    let done = bae.run(args).expect(0).imported();
    bae.assert_exact(&done.id, &torrent);
}

/// A piece of two blocks, one from each peer, fails its hash. Which peer sent the wrong block is known only after
/// the honest peer has sent the right one. The honest peer sends what is still missing when the lying peer is
/// disconnected.
#[test]
fn who_sent_a_wrong_block_is_banned_by_versions_that_do_that_safely() {
    let torrent = Recipe::single("ban by version.bin", 64 * KIB).piece(32 * KIB).make();
    let data = fs::read(torrent.data()).unwrap();
    let place = |asked: Asked| (asked.piece, asked.start);

    let lie = Arc::new(Mutex::new(None));
    let told = Arc::clone(&lie);
    let liar = RawPeer::start(&torrent, 2, move |line, asked| {
        let mut lie = told.lock().unwrap();
        if lie.is_some() {
            return Ok(());
        }
        line.give(asked, &vec![0xee; asked.len as usize])?;
        *lie = Some(place(asked));
        // Chokes, so that the other blocks are requested from the other peer.
        line.say(0, &[])
    });

    let (banned, gone): (_, Arc<AtomicUsize>) = (is_safe(Feature::SmartBan), liar.ended());
    let honest = RawPeer::start(&torrent, 2, move |line, asked| {
        let was_told = lie.lock().unwrap().is_some();
        wait_until("a wrong block was sent", LONG, || lie.lock().unwrap().is_some());
        let (piece, start) = lie.lock().unwrap().unwrap();
        if !was_told && place(asked) == (piece, start) {
            // This block was requested from both peers, and is no longer requested from this one.
            return Ok(());
        }
        if banned && asked.piece != piece {
            wait_until("the liar is banned", BANNED_IN, || gone.load(Ordering::Acquire) > 0);
        }
        let at = asked.piece as usize * 32 * KIB as usize + asked.start as usize;
        line.give(asked, &data[at..at + asked.len as usize])
    });

    let bae = Bae::new();
    let done = bae.import(&torrent, &[liar.addr(), honest.addr()]);
    bae.assert_exact(&done.id, &torrent);
}
