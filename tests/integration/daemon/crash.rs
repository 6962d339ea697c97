//! kill -9 at each step of a download, and a restart.

use serde_json::json;

use super::{home, id_of, torrent_request};
use crate::support::{
    KIB, MIB,
    daemon::Daemon,
    peers::{LibtorrentPeer, Release},
    torrents::Recipe,
};

#[test]
fn an_answered_request_survives_a_kill() {
    let bae = home();
    let mut daemon = Daemon::start(&bae, &[]);
    let id = id_of(&daemon.add(&json!({ "url": "http://127.0.0.1:9/f", "paused": true })));
    daemon.process.kill();
    let mut daemon = Daemon::start(&bae, &[]);
    assert_eq!(daemon.download(&id)["state"], "paused");
    daemon.call("DELETE", &format!("/api/v1/downloads/{id}"), "").expect(204);
    daemon.process.kill();
    let daemon = Daemon::start(&bae, &[]);
    daemon.call("GET", &format!("/api/v1/downloads/{id}"), "").expect(404);
}

#[test]
fn a_request_that_was_not_answered_before_a_kill_can_be_sent_again() {
    let bae = home();
    for attempt in 0..5 {
        let mut daemon = Daemon::start(&bae, &[]);
        let headers = [
            format!("Host: {}", daemon.addr()),
            format!("Authorization: Bearer {}", daemon.token()),
            "Content-Type: application/json".to_owned(),
            format!("Idempotency-Key: {attempt}"),
        ];
        let url = format!("http://127.0.0.1:9/{attempt}");
        let body = json!({ "url": url, "paused": true }).to_string();
        let unanswered = daemon.send("POST", "/api/v1/downloads", &headers, body.as_bytes());
        daemon.process.kill();
        drop(unanswered);
        let daemon = Daemon::start(&bae, &[]);
        let headers = [&[format!("Host: {}", daemon.addr())], &headers[1..]].concat();
        let reply = daemon.call_with("POST", "/api/v1/downloads", &headers, body.as_bytes());
        assert!([200, 201].contains(&reply.status), "{}", reply.text());
        let listed = daemon.call("GET", "/api/v1/downloads", "").expect(200).json();
        assert_eq!(listed["total"].as_u64(), Some(attempt + 1));
    }
}

#[test]
fn a_download_goes_on_after_a_kill_at_its_start() {
    let torrent = Recipe::single("killed start.bin", 2 * MIB).piece(64 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let bae = home();
    let mut daemon = Daemon::start(&bae, &[seeder.addr()]);
    let mut events = daemon.events(None);
    let id = id_of(&daemon.add(&torrent_request(&torrent)));
    for state in ["starting", "downloading"] {
        events.next_where(|event| event["event"] == "download" && event["state"] == state);
        daemon.process.kill();
        daemon = Daemon::start(&bae, &[seeder.addr()]);
        events = daemon.events(Some(0));
    }
    let done = daemon.wait_for_state(&id, "done");
    bae.assert_exact(done["import"].as_str().unwrap(), &torrent);
    assert_eq!(bae.run(["--json", "ls"]).expect(0).json().len(), 1, "one import");
}

#[test]
fn a_download_goes_on_after_a_kill_between_commits_and_fetches_only_holes() {
    let torrent = Recipe::single("killed.bin", 12 * MIB + 77).piece(64 * KIB).make();
    let mut seeder = LibtorrentPeer::slow_seed(&torrent, 2 * MIB);
    let bae = home();
    let mut daemon = Daemon::start(&bae, &[seeder.addr()]);
    let id = id_of(&daemon.add(&torrent_request(&torrent)));
    for stored in [2 * MIB, 5 * MIB] {
        daemon.wait_until_stored(&id, stored);
        daemon.process.kill();
        daemon = Daemon::start(&bae, &[seeder.addr()]);
    }
    let done = daemon.wait_for_state(&id, "done");
    bae.assert_exact(done["import"].as_str().unwrap(), &torrent);
    // What was in memory at each kill is fetched again: at most a flush interval's worth of this seeder.
    let sent = seeder.sent();
    assert!(sent <= torrent.bytes + 2 * 12 * MIB, "{sent} bytes were sent");
}
