//! The stream of events.

use serde_json::json;

use super::{home, id_of};
use crate::support::daemon::Daemon;

#[test]
fn events_go_on_after_the_number_that_the_client_has() {
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    let add = |name: &str| {
        id_of(&daemon.add(&json!({ "url": format!("http://127.0.0.1:9/{name}"), "paused": true })))
    };
    let is_download = |event: &serde_json::Value| event["event"] == "download";
    let mut live = daemon.events(None);
    let first = add("a");
    let seen = live.next_where(is_download);
    assert_eq!((&seen["download"], &seen["state"]), (&json!(first), &json!("paused")));
    drop(live);
    // Without a watcher.
    let second = add("b");
    let mut later = daemon.events(seen["seq"].as_u64());
    let next = later.next_where(is_download);
    assert_eq!(next["download"], json!(second));
    assert!(next["seq"].as_u64() > seen["seq"].as_u64());
    let mut all = daemon.events(Some(0));
    assert_eq!(all.next_where(is_download)["seq"], seen["seq"]);
    assert_eq!(all.next_where(is_download)["seq"], next["seq"]);
}

#[test]
fn streams_of_events_end_when_the_daemon_stops() {
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    let mut events = daemon.events(None);
    daemon.process.0.signal(libc::SIGTERM);
    while events.next().is_some() {}
    daemon.process.wait(crate::support::LONG);
}
