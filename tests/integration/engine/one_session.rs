//! One torrent session for the life of an engine, and none where none is needed.

use std::sync::Arc;

use bae::events::{Event, EventLog};

use super::{Home, within};
use crate::support::{
    KIB, MIB,
    nginx::Nginx,
    peers::{LibtorrentPeer, Release},
    torrents::Recipe,
};

/// The listen addresses that each import was started with.
fn listening(log: &EventLog) -> Vec<Vec<String>> {
    let mut events = log.replay_from(1);
    let mut found = Vec::new();
    while let Some(next) = events.try_next() {
        if let Event::Started(started) = &*next.unwrap().event {
            found.push(started.listening.clone());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn two_imports_share_one_session_and_other_operations_start_none() {
    let nginx = Nginx::start();
    nginx.serve("f.bin", &vec![7; 100_000]);
    let one = Recipe::single("one.bin", 2 * MIB).piece(64 * KIB).make();
    let two = Recipe::single("two.bin", 2 * MIB).piece(64 * KIB).seed(2).make();
    let seeders = [&one, &two].map(|torrent| LibtorrentPeer::seed(Release::Debian, torrent));
    let home = Home::new();
    let engine = home.open(&seeders.each_ref().map(LibtorrentPeer::addr)).await;
    let url = engine.start_import(home.request_of(&nginx.url("/f.bin"))).await.unwrap();
    let stored = within("the URL", url.wait()).await.unwrap();
    engine.list().await.unwrap();
    engine.info(&stored.id).await.unwrap();
    assert!(!engine.has_session());
    // At once: each handle has its own events, and the log has all of them in one order.
    let first = engine.start_import(home.request(&one)).await.unwrap();
    let second = engine.start_import(home.request(&two)).await.unwrap();
    assert_eq!(engine.imports().len(), 2);
    let (first, second) = (first.clone(), second.clone());
    let (a, b) = within("both", async { tokio::join!(first.wait(), second.wait()) }).await;
    assert!(engine.has_session());
    let addresses = listening(engine.events());
    assert_eq!(addresses.len(), 3);
    assert!(!addresses[1].is_empty() && addresses[1] == addresses[2], "{addresses:?}");
    for (handle, imported) in [(&first, a.unwrap()), (&second, b.unwrap())] {
        let mut events = handle.all_events();
        while let Some(next) = events.try_next() {
            let logged = next.unwrap();
            assert_eq!(logged.handle, Some(handle.number()));
            let id = logged.event.import_id().map(str::to_owned);
            assert!(id.is_none() || id == Some(imported.id.clone()), "{logged:?}");
        }
    }
    // A reader that comes back continues where it was.
    let (mut before, next) = (0, engine.events().next_seq());
    let mut replay = engine.events().replay_from(next / 2);
    while let Some(logged) = replay.try_next() {
        let logged = logged.unwrap();
        assert!(
            logged.seq >= next / 2 && logged.seq > before && Arc::strong_count(&logged.event) > 0
        );
        before = logged.seq;
    }
    assert_eq!(before, next - 1);
    engine.close().await.unwrap();
}
