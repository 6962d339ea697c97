//! The orderly stop.

use bae::{
    engine::{Access, Engine, EngineOptions, RunningState},
    error::Kind,
};

use super::{Home, assert_exact, only_import, wait_for_progress, within};
use crate::support::{KIB, MIB, peers::LibtorrentPeer, torrents::Recipe};

#[tokio::test(flavor = "multi_thread")]
async fn closing_during_an_import_keeps_its_verified_bytes() {
    let torrent = Recipe::single("closed.bin", 6 * MIB).piece(64 * KIB).make();
    let mut seeder = LibtorrentPeer::slow_seed(&torrent, MIB);
    let home = Home::new();
    let engine = home.open(&[seeder.addr()]).await;
    let import = engine.start_import(home.request(&torrent)).await.unwrap();
    wait_for_progress(&import, |p| p.downloaded >= 2 * MIB).await;
    let clone = engine.clone();
    engine.close().await.unwrap();
    assert_eq!(import.wait().await.unwrap_err().kind(), Kind::Cancelled);
    assert_eq!(import.state(), RunningState::Cancelled);
    clone.close().await.unwrap();
    let late = clone.start_import(home.request(&torrent)).await.unwrap_err();
    assert_eq!(late.kind(), Kind::Cancelled);
    drop((engine, clone, import));
    // The lock is free again.
    let engine = home.open(&[seeder.addr()]).await;
    let stored = only_import(&engine).await.stored;
    assert!(stored >= MIB, "{stored}");
    let import = engine.start_import(home.request(&torrent)).await.unwrap();
    // Dropping the handle does not stop the import.
    let (number, mut events) = (import.number(), import.all_events());
    drop(import);
    let imported = loop {
        let logged = within("an event", events.next()).await.unwrap();
        assert_eq!(logged.handle, Some(number));
        if let bae::events::Event::Imported(imported) = &*logged.event {
            break imported.clone();
        }
    };
    assert!(seeder.sent() <= torrent.bytes + 2 * MIB);
    assert_exact(&engine, &imported.id, &torrent).await;
    // Closing while an import is added to the session is not a failure of seeding.
    let seeding =
        engine.seed(vec![imported.id], Default::default(), Default::default()).await.unwrap();
    engine.close().await.unwrap();
    within("the end of seeding", seeding.wait()).await.unwrap();
}

#[tokio::test]
async fn an_engine_for_reading_starts_no_import() {
    let home = Home::new();
    home.open(&[]).await.close().await.unwrap();
    let engine = Engine::open(home.config(), EngineOptions::new(Access::Read)).await.unwrap();
    let refused = engine.start_import(home.request_of("magnet:?xt=x")).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::PermissionDenied);
    engine.close().await.unwrap();
}
