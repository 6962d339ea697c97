//! What holds on every version of libtorrent that bae is built against, and what only the later ones have.
//!
//! The library is the one of the machine: `scripts/fresh-machine` runs these on other Debian releases.

use std::{sync::Arc, time::Duration};

use bae::torrents::{Feature, is_safe};

use crate::support::{
    KIB, MIB,
    bae::Bae,
    fault_proxy::{Fault, FaultProxy, Request},
    gate::Gate,
    peers::{LibtorrentPeer, Release},
    s3_server::S3Server,
    torrents::{Recipe, Version},
};

/// Objects of this length and more are payload; the catalog's manifest is shorter.
const PAYLOAD: u64 = MIB;

/// No object is stored before a peer has got the whole torrent from bae, so all of it came from memory.
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
