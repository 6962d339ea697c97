//! Downloads over the REST API, from real peers and servers.

use std::thread;

use serde_json::json;

use super::{home, id_of, torrent_request};
use crate::support::{
    KIB, MIB, Random,
    daemon::{Daemon, Reply},
    nginx::Nginx,
    peers::{LibtorrentPeer, Release},
    torrents::Recipe,
};

#[test]
fn a_torrent_added_by_the_api_is_imported_exactly() {
    let torrent = Recipe::single("by api.bin", 3 * MIB + 5).piece(64 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let bae = home();
    let daemon = Daemon::start(&bae, &[seeder.addr()]);
    let added = daemon.add(&torrent_request(&torrent));
    assert_eq!(added["name"], "by api.bin");
    assert_eq!(added["info_hash_v1"], torrent.info_hash());
    assert!(added["progress"]["bytes"].as_u64() == Some(torrent.bytes), "{added:#}");
    let done = daemon.wait_for_state(&id_of(&added), "done");
    assert_eq!(done["progress"]["stored"].as_u64(), Some(torrent.bytes));
    assert_eq!(done["storage"], "main");
    let import = done["import"].as_str().unwrap();
    let path = format!("/api/v1/imports/{import}/content/by%20api.bin");
    let content = daemon.call("GET", &path, "").expect(200);
    assert!(content.body == std::fs::read(torrent.parent.join(&torrent.name)).unwrap());
    bae.assert_exact(import, &torrent);
    daemon.stop();
}

#[test]
fn a_url_added_by_the_api_is_imported_exactly() {
    let server = Nginx::start();
    let bytes = Random(7).bytes(2 * MIB + 3);
    server.serve("a file.bin", &bytes);
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    let added = daemon.add(&json!({ "url": server.url("/a%20file.bin") }));
    let done = daemon.wait_for_state(&id_of(&added), "done");
    let import = done["import"].as_str().unwrap();
    assert!(bae.stdout_of(["cat", import]) == bytes);
    // Its name in the storage has no secret of the URL, and the list shows it once.
    let listed = daemon.call("GET", "/api/v1/downloads?state=done", "").expect(200).json();
    assert_eq!((listed["total"].as_u64(), &listed["downloads"][0]["id"]), (Some(1), &added["id"]));
}

#[test]
fn a_paused_download_keeps_its_bytes_and_a_removed_one_leaves_nothing() {
    let torrent = Recipe::single("pause.bin", 6 * MIB).piece(64 * KIB).make();
    let mut seeder = LibtorrentPeer::slow_seed(&torrent, MIB);
    let bae = home();
    let daemon = Daemon::start(&bae, &[seeder.addr()]);
    let id = id_of(&daemon.add(&torrent_request(&torrent)));
    let path = |verb: &str| format!("/api/v1/downloads/{id}/{verb}");
    daemon.wait_until_stored(&id, MIB);
    let paused = daemon.call("POST", &path("pause"), "").expect(200).json();
    assert_eq!(paused["state"], "paused");
    daemon.call("POST", &path("resume"), "").expect(200);
    let done = daemon.wait_for_state(&id, "done");
    bae.assert_exact(done["import"].as_str().unwrap(), &torrent);
    assert!(seeder.sent() <= torrent.bytes + 2 * MIB, "{} bytes were sent", seeder.sent());
    let mut events = daemon.events(None);
    daemon.call("DELETE", &format!("/api/v1/downloads/{id}?data=true"), "").expect(204);
    events.next_where(|event| event["event"] == "download" && event["state"] == "removed");
    daemon.call("GET", &format!("/api/v1/downloads/{id}"), "").expect(404);
    // A torrent that is added while its import is being removed is a new import, with all its bytes.
    let again = id_of(&daemon.add(&torrent_request(&torrent)));
    let done = daemon.wait_for_state(&again, "done");
    bae.assert_exact(done["import"].as_str().unwrap(), &torrent);
}

#[test]
fn two_requests_for_one_torrent_at_once_are_one_download() {
    let torrent = Recipe::single("twice.bin", MIB).piece(64 * KIB).make();
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    let file = torrent_request(&torrent).to_string();
    let magnet =
        json!({ "url": format!("magnet:?xt=urn:btih:{}", torrent.info_hash()) }).to_string();
    let replies: Vec<Reply> = thread::scope(|scope| {
        let call = |body: &str| daemon.call("POST", "/api/v1/downloads", body);
        let threads: Vec<_> = (0..8)
            .map(|n| if n % 2 == 0 { file.clone() } else { magnet.clone() })
            .map(|body| scope.spawn(move || call(&body)))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let count = |status| replies.iter().filter(|reply| reply.status == status).count();
    assert_eq!((count(201), count(200)), (1, 7));
    let first = &replies[0].json()["id"];
    assert!(replies.iter().all(|reply| reply.json()["id"] == *first));
    let listed = daemon.call("GET", "/api/v1/downloads", "").json();
    assert_eq!(listed["total"], 1);
}

#[test]
fn a_request_with_the_same_key_adds_nothing() {
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    let request = |url: &str| {
        let headers = [
            format!("Host: {}", daemon.addr()),
            format!("Authorization: Bearer {}", daemon.token()),
            "Content-Type: application/json".to_owned(),
            "Idempotency-Key: one".to_owned(),
        ];
        let body = json!({ "url": url, "paused": true }).to_string();
        daemon.call_with("POST", "/api/v1/downloads", &headers, body.as_bytes())
    };
    let first = request("http://127.0.0.1:9/a").expect(201).json();
    let second = request("http://127.0.0.1:9/a").expect(200).json();
    assert_eq!(first["id"], second["id"]);
    request("http://127.0.0.1:9/b").expect(400);
}

#[test]
fn the_order_priority_and_settings_of_downloads_can_be_changed() {
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    let add = |name: &str| {
        id_of(&daemon.add(&json!({ "url": format!("http://127.0.0.1:9/{name}"), "paused": true })))
    };
    let ids = [add("a"), add("b"), add("c")];
    let order = || {
        let listed = daemon.call("GET", "/api/v1/downloads?order=queue", "").expect(200).json();
        let names = listed["downloads"].as_array().unwrap().iter();
        names.map(|d| d["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(order(), ["a", "b", "c"]);
    let to = |id: &str, to: &str| {
        daemon.call("POST", &format!("/api/v1/downloads/{id}/move"), to).expect(200);
    };
    to(&ids[2], r#"{"to":"first"}"#);
    assert_eq!(order(), ["c", "a", "b"]);
    to(&ids[2], r#"{"to":{"index":1}}"#);
    assert_eq!(order(), ["a", "c", "b"]);
    let change = r#"{"priority":"high","tags":["x"],"limits":{"download":1000}}"#;
    let changed = daemon.call("PATCH", &format!("/api/v1/downloads/{}", ids[1]), change);
    let changed = changed.expect(200).json();
    assert_eq!((&changed["priority"], &changed["tags"][0]), (&json!("high"), &json!("x")));
    assert_eq!(order(), ["b", "a", "c"]);
    let reply = daemon.call("GET", &format!("/api/v1/downloads/{}", ids[0]), "").expect(200);
    assert!(reply.header("etag").is_some());
}

#[test]
fn a_failing_url_is_tried_again_and_says_why() {
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    // Nothing listens on the discard port.
    let id = id_of(&daemon.add(&json!({ "url": "http://127.0.0.1:9/f" })));
    let waiting = daemon.wait_for_state(&id, "retrying");
    assert!(waiting["error"]["message"].as_str().unwrap().contains("127.0.0.1"), "{waiting:#}");
    assert!(waiting["retry_at"].as_u64().is_some());
    let server = Nginx::start();
    server.serve("f", b"bytes");
    // One that does not exist cannot appear by waiting.
    let id = id_of(&daemon.add(&json!({ "url": server.url("/missing") })));
    let failed = daemon.wait_for_state(&id, "failed");
    assert_eq!(failed["error"]["kind"], "not_found");
}
