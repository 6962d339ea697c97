//! Pause, resume, cancel, limits, and the claims that keep two writers away from one import.

use std::fs;

use bae::{
    engine::{GcOptions, RunningState},
    error::Kind,
    events::Event,
};

use super::{Home, NEVER, assert_exact, only_import, wait_for_progress, within};
use crate::support::{
    KIB, MIB,
    nginx::Nginx,
    peers::{LibtorrentPeer, Release},
    torrents::Recipe,
};

/// What may be in flight when an import stops: it is fetched again.
const IN_FLIGHT: u64 = 2 * MIB;

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_torrent_keeps_its_bytes_and_fetches_the_rest_when_it_is_resumed() {
    let torrent = Recipe::single("paused.bin", 6 * MIB + 11).piece(64 * KIB).make();
    let mut seeder = LibtorrentPeer::slow_seed(&torrent, MIB);
    let home = Home::new();
    let engine = home.open(&[seeder.addr()]).await;
    let import = engine.start_import(home.request(&torrent).timeout(NEVER)).await.unwrap();
    let id = within("the start", import.wait_started()).await.unwrap();
    wait_for_progress(&import, |p| p.downloaded >= 2 * MIB).await;
    assert_eq!(import.state(), RunningState::Running);
    import.pause();
    within("the pause", import.states().wait_for(|s| *s == RunningState::Paused)).await.unwrap();
    let stored = only_import(&engine).await.stored;
    assert!(stored >= MIB, "{stored} bytes are durable");
    let again = engine.import_handle(&id).unwrap();
    again.resume();
    let imported = within("the import", import.wait()).await.unwrap();
    assert_eq!((imported.id.as_str(), import.state()), (id.as_str(), RunningState::Imported));
    assert!(imported.downloaded <= torrent.bytes - stored + IN_FLIGHT, "{imported:?}");
    let sent = seeder.sent();
    assert!(sent <= torrent.bytes + IN_FLIGHT, "{sent} bytes were sent");
    assert!(engine.imports().is_empty() && engine.import_handle(&id).is_none());
    assert_exact(&engine, &id, &torrent).await;
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_import_of_a_url_fetches_each_byte_once() {
    let nginx = Nginx::start();
    let bytes: Vec<u8> = (0..8 * MIB + 5).map(|n| ((n * 31) >> 3) as u8).collect();
    nginx.serve("slow.bin", &bytes);
    let home = Home::new();
    let engine = home.open(&[]).await;
    engine.set_limits(Some(2 * MIB), None).unwrap();
    let import = engine.start_import(home.request_of(&nginx.url("/slow.bin"))).await.unwrap();
    wait_for_progress(&import, |p| p.downloaded >= 2 * MIB).await;
    import.pause();
    within("the pause", import.states().wait_for(|s| *s == RunningState::Paused)).await.unwrap();
    let stored = only_import(&engine).await.stored;
    assert!(stored > 0 && stored < bytes.len() as u64, "{stored}");
    engine.set_limits(None, None).unwrap();
    import.resume();
    let imported = within("the import", import.wait()).await.unwrap();
    assert!(imported.downloaded <= bytes.len() as u64 - stored, "{imported:?}, {stored} stored");
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(super::export(&engine, &imported.id, dir.path()).await, 0);
    assert_eq!(fs::read(dir.path().join("slow.bin")).unwrap(), bytes);
    assert!(!engine.has_session(), "a URL needs no swarm");
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_starts_of_one_torrent_give_one_import() {
    let torrent = Recipe::single("twice.bin", 3 * MIB).piece(64 * KIB).make();
    let seeder = LibtorrentPeer::slow_seed(&torrent, MIB);
    let home = Home::new();
    let engine = home.open(&[seeder.addr()]).await;
    let first = engine.start_import(home.request(&torrent)).await.unwrap();
    let id = within("the start", first.wait_started()).await.unwrap();
    let same = engine.start_import(home.request(&torrent)).await.unwrap_err();
    assert_eq!(
        (same.kind(), same.report()),
        (Kind::Unavailable, format!("import {id} is running already"))
    );
    // The same torrent from another file and by its info-hash.
    let copy = home.0.path().join("copy.torrent");
    fs::copy(&torrent.torrent, &copy).unwrap();
    for source in [copy.to_str().unwrap(), torrent.v1.as_deref().unwrap()] {
        let other = engine.start_import(home.request_of(source)).await.unwrap();
        let refused = within("the refusal", other.wait()).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Unavailable, "{}", refused.report());
        assert_eq!(other.state(), RunningState::Failed);
    }
    for refused in [
        engine.remove(&id, false).await.map(drop),
        engine.seed(vec![id.clone()], Default::default(), Default::default()).await.map(drop),
        engine.publish(&id, &[], Box::new(|_, _| {}), Default::default()).await.map(drop),
    ] {
        assert_eq!(refused.unwrap_err().report(), format!("import {id} is running already"));
    }
    within("the import", first.wait()).await.unwrap();
    assert_eq!(only_import(&engine).await.id, id);
    engine.remove(&id, false).await.unwrap();
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_import_keeps_its_durable_bytes() {
    let torrent = Recipe::single("cancelled.bin", 6 * MIB).piece(64 * KIB).make();
    let seeder = LibtorrentPeer::slow_seed(&torrent, MIB);
    let home = Home::new();
    let engine = home.open(&[seeder.addr()]).await;
    let import = engine.start_import(home.request(&torrent)).await.unwrap();
    wait_for_progress(&import, |p| p.downloaded >= 2 * MIB).await;
    import.cancel();
    let (one, two) = within("the end", async { tokio::join!(import.wait(), import.wait()) }).await;
    assert_eq!(
        (one.unwrap_err().kind(), two.unwrap_err().kind()),
        (Kind::Cancelled, Kind::Cancelled)
    );
    let stored = only_import(&engine).await.stored;
    assert!(stored >= MIB, "{stored}");
    let again = engine.start_import(home.request(&torrent)).await.unwrap();
    let imported = within("the import", again.wait()).await.unwrap();
    assert!(imported.downloaded <= torrent.bytes - stored + IN_FLIGHT, "{imported:?}");
    assert_exact(&engine, &imported.id, &torrent).await;
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_that_change_while_an_import_runs_are_applied() {
    let torrent = Recipe::single("limited.bin", 24 * MIB).piece(64 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let home = Home::new();
    let engine = home.open(&[seeder.addr()]).await;
    let import = engine.start_import(home.request(&torrent)).await.unwrap();
    import.set_limits(Some(128 * KIB), Some(MIB));
    import.set_sequential(true);
    // Without the limit, the torrent arrives within a few of these events.
    let mut events = import.all_events();
    let mut limited = 0;
    while limited < 8 {
        let event = within("an event", events.next()).await.unwrap().event;
        if let Event::Progress(progress) = &*event {
            limited += usize::from(progress.downloaded > 0);
            assert!(progress.stored < progress.bytes, "{progress:?}");
        }
    }
    import.set_limits(None, None);
    engine.set_limits(Some(64 * MIB), None).unwrap();
    within("the import", import.wait()).await.unwrap();
    assert_eq!(import.settings().sequential, Some(true));
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn gc_removes_nothing_of_an_import_that_runs() {
    let torrent = Recipe::single("swept.bin", 5 * MIB).piece(64 * KIB).make();
    let seeder = LibtorrentPeer::slow_seed(&torrent, MIB);
    let home = Home::new();
    let engine = home.open(&[seeder.addr()]).await;
    let import = engine.start_import(home.request(&torrent)).await.unwrap();
    for mib in 1..5 {
        wait_for_progress(&import, |p| p.downloaded >= mib * MIB).await;
        let all = GcOptions { remove: true, attached: true };
        let (report, failures) = engine.gc(all).await.unwrap();
        assert_eq!((report.objects, report.uploads, failures.count()), (0, 0, 0));
    }
    let imported = within("the import", import.wait()).await.unwrap();
    assert_exact(&engine, &imported.id, &torrent).await;
    engine.close().await.unwrap();
}
