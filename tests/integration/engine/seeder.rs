//! One seeder, to which imports are added while it seeds others.

use std::net::SocketAddrV4;

use bae::{engine::Engine, events::Event};

use super::{Home, within};
use crate::support::{
    KIB, MIB,
    peers::{LibtorrentPeer, Release},
    torrents::{Fixture, Recipe},
};

/// The address of the session, from the last import that was started.
async fn address(engine: &Engine) -> SocketAddrV4 {
    let mut events = engine.events().replay_from(1);
    loop {
        let logged = within("a listen address", events.next()).await.unwrap();
        if let Event::Started(started) = &*logged.event
            && let Some(address) = started.listening.first()
        {
            return address.parse().unwrap();
        }
    }
}

fn assert_leech_is_exact(torrent: &Fixture, from: SocketAddrV4) {
    let mut leecher = LibtorrentPeer::leech(Release::Newest, torrent, from);
    torrent.assert_same(&leecher.wait_done().join(&torrent.name));
}

#[tokio::test(flavor = "multi_thread")]
async fn imports_join_the_seeder_while_it_seeds_others() {
    let one = Recipe::single("first.bin", 2 * MIB).piece(64 * KIB).make();
    let two = Recipe::single("second.bin", 2 * MIB).piece(64 * KIB).seed(2).make();
    let seeders = [&one, &two].map(|torrent| LibtorrentPeer::seed(Release::Debian, torrent));
    let home = Home::new();
    let engine = home.open(&seeders.each_ref().map(LibtorrentPeer::addr)).await;
    // The first import goes on as a member of the seeder, with its torrent.
    let request = home.request(&one).seed(Default::default());
    let import = engine.start_import(request).await.unwrap();
    let first = within("the first", import.wait()).await.unwrap();
    let seeding = import.seeding().unwrap();
    let second = engine.start_import(home.request(&two)).await.unwrap();
    let second = within("the second", second.wait()).await.unwrap();
    // Without names: all that are not seeded yet.
    let others = engine.seed(Vec::new(), Default::default(), Default::default()).await.unwrap();
    within("both", others.progress().wait_for(|p| p.active == 1)).await.unwrap();
    drop(seeders);
    let from = address(&engine).await;
    assert_leech_is_exact(&one, from);
    assert_leech_is_exact(&two, from);
    let refused = engine.remove(&second.id, false).await.unwrap_err();
    assert_eq!(refused.report(), format!("import {} is being seeded", second.id));
    others.stop();
    within("the stop", others.wait()).await.unwrap();
    engine.remove(&second.id, false).await.unwrap();
    // The first is still seeded.
    assert_leech_is_exact(&one, from);
    engine.close().await.unwrap();
    within("the end", seeding.wait()).await.unwrap();
    drop(engine);
    let engine = home.open(&[]).await;
    let served = engine.info(&first.id).await.unwrap().seeded.served;
    assert!(served >= 2 * one.bytes, "{served} bytes were served");
}
