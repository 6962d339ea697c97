//! What holds with every libtorrent version that bae is built against, and what only later versions have.
//!
//! The tests use the library of the machine: `scripts/fresh-machine` runs them on other Debian releases.

use std::{
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bae::torrents::{Feature, is_safe};

use crate::support::{
    KIB, LONG, MIB,
    bae::Bae,
    fault_proxy::{Fault, FaultProxy, Request},
    gate::Gate,
    peers::{LibtorrentPeer, Release},
    s3_server::S3Server,
    scripted_peer::{BlockRequest, ScriptedPeer},
    torrents::{Recipe, Version},
    wait_until,
};

/// Objects of at least this length are payload; the manifest is shorter.
const PAYLOAD: u64 = MIB;

/// A peer gets the whole torrent from bae before any object is stored, so all of it is served from memory.
fn assert_served_before_stored(version: Version) {
    let recipe = Recipe::single(&format!("announced {version:?}.bin"), 24 * MIB + 7);
    let torrent = recipe.version(version).piece(256 * KIB).make();
    let server = S3Server::seaweed();
    let bucket = server.bucket("announced");
    let proxy = FaultProxy::start(server.addr());
    let gate = Arc::new(Gate::default());
    let put_gate = Arc::clone(&gate);
    proxy.set_faults(move |request: &Request| {
        if request.method == "PUT" && request.body >= PAYLOAD {
            put_gate.wait();
        }
        Fault::None
    });
    let url = server.storage_url_at(&format!("http://{}", proxy.addr()), &bucket, "a");
    let bae = Bae::new().with_storage_url(&url, server.env());
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let running = bae.start_import(&torrent, &[seeder.addr()]);

    let mut leecher = LibtorrentPeer::leech(Release::Newest, &torrent, bae.listen);
    torrent.assert_same(&leecher.wait_done().join(&torrent.name));
    assert!(!leecher.has_note("hash_failed"), "wrong bytes reached a peer");
    let events = running.events();
    assert!(events.iter().all(|e| e["event"] != "imported"), "imported before it was stored");
    let stored = events.iter().filter_map(|e| e["stored"].as_u64()).max();
    assert_eq!(stored.unwrap_or(0), 0, "bytes were stored before the gate opened");

    gate.open();
    let summary = running.wait(LONG).expect(0).summary();
    bae.assert_exact(&summary.id, &torrent);
}

#[test]
fn announced_pieces_are_served_before_they_are_stored() {
    for version in [Version::V1, Version::V2, Version::Hybrid] {
        assert_served_before_stored(version);
    }
}

#[test]
fn utp_is_on_by_default_where_the_library_is_safe_and_by_flag_elsewhere() {
    let torrent = Recipe::single("utp by version.bin", 2 * MIB).piece(256 * KIB).make();
    let seeder = LibtorrentPeer::utp_seed(&torrent);
    let bae = Bae::new();
    let flags: &[&str] = if is_safe(Feature::Utp) { &[] } else { &["--no-utp=false"] };
    let mut args = bae.import_args(&torrent.torrent, &[seeder.addr()], flags);
    args.retain(|a| a != "--no-utp");
    let summary = bae.run(args).expect(0).summary();
    bae.assert_exact(&summary.id, &torrent);
}

/// A piece of two blocks, one from each peer, fails its hash. Which peer sent the wrong block is known only after
/// the honest peer has sent the right one. The honest peer sends what is still missing when the lying peer is
/// disconnected.
#[test]
fn the_sender_of_a_wrong_block_is_banned_where_the_library_is_safe() {
    let torrent = Recipe::single("ban by version.bin", 64 * KIB).piece(32 * KIB).make();
    let data = fs::read(torrent.data()).unwrap();
    let position = |request: BlockRequest| (request.piece, request.start);

    let lie = Arc::new(Mutex::new(None));
    let lie_of_liar = Arc::clone(&lie);
    let connection = Arc::new(Mutex::new(None));
    let connection_of_liar = Arc::clone(&connection);
    let liar = ScriptedPeer::start(&torrent, 2, move |peer, request| {
        let mut lie = lie_of_liar.lock().unwrap();
        if lie.is_some() {
            return Ok(());
        }
        peer.send_block(request, &vec![0xee; request.len as usize])?;
        *lie = Some(position(request));
        *connection_of_liar.lock().unwrap() = Some(peer.try_clone()?);
        // Chokes, so that the other blocks are requested from the other peer.
        peer.send(0, &[])
    });

    let (banned, liar_connections_ended): (_, Arc<AtomicUsize>) =
        (is_safe(Feature::SmartBan), liar.ended());
    let honest = ScriptedPeer::start(&torrent, 2, move |peer, request| {
        let lied_before = lie.lock().unwrap().is_some();
        wait_until("a wrong block was sent", LONG, || lie.lock().unwrap().is_some());
        let (piece, start) = lie.lock().unwrap().unwrap();
        if !lied_before && position(request) == (piece, start) {
            // This block was requested from both peers, and is not needed from this one any more. A choke and an unchoke
            // take back its requests, and the blocks that are missing are requested anew.
            peer.send(0, &[])?;
            return peer.send(1, &[]);
        }
        if banned && request.piece != piece {
            // libtorrent disconnects a silent peer after a minute too. So the liar sends a keep-alive each time.
            let mut connection = connection.lock().unwrap();
            wait_until("the liar is banned", LONG, || {
                let _ = connection.as_mut().map(|liar| liar.write(&[0; 4]));
                liar_connections_ended.load(Ordering::Acquire) > 0
            });
        }
        let at = request.piece as usize * 32 * KIB as usize + request.start as usize;
        peer.send_block(request, &data[at..at + request.len as usize])
    });

    let bae = Bae::new();
    let summary = bae.import(&torrent, &[liar.addr(), honest.addr()]);
    bae.assert_exact(&summary.id, &torrent);
}
