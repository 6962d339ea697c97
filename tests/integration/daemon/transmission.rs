//! Transmission's RPC interface, by real clients: transmission-remote and transmission-rpc.

use std::{fs, process::Command};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::aria2::{PRIVATE_URLS, only_public, run_client};
use crate::support::{
    KIB, LONG, MIB,
    bae::Bae,
    daemon::{Daemon, Reply, write_config},
    peers::{LibtorrentPeer, Release},
    process::Process,
    require_program,
    torrents::{Fixture, Recipe},
};

const PATH: &str = "/transmission/rpc";

fn home() -> Bae {
    let bae = Bae::new();
    write_config(&bae, "transmission = true");
    bae
}

fn client(daemon: &Daemon, scenario: &str, args: &[&str]) -> Value {
    run_client("transmission_client.py", daemon, scenario, args)
}

/// `transmission-remote ARGS…`; returns what it prints.
fn remote(daemon: &Daemon, args: &[&str]) -> String {
    require_program("transmission-remote", "transmission-cli");
    let mut command = Command::new("transmission-remote");
    command.arg(daemon.addr().to_string());
    command.args(["--auth", &format!("any:{}", daemon.token())]).args(args);
    let mut process = Process::start("transmission-remote", &command);
    let status = process.wait(LONG);
    assert!(status.success(), "{args:?}: {}", process.log());
    process.stdout()
}

fn basic(token: &str) -> String {
    format!("Authorization: Basic {}", STANDARD.encode(format!("any:{token}")))
}

fn request(daemon: &Daemon, method: &str, more: &[String], body: &str) -> Reply {
    let mut headers = vec![format!("Host: {}", daemon.addr())];
    headers.extend_from_slice(more);
    daemon.call_with(method, PATH, &headers, body.as_bytes())
}

/// The header with the id of the session.
fn session(daemon: &Daemon) -> String {
    let conflict = request(daemon, "GET", &[basic(daemon.token())], "").expect(409);
    format!("X-Transmission-Session-Id: {}", conflict.header("x-transmission-session-id").unwrap())
}

fn call(daemon: &Daemon, session: &str, method: &str, arguments: Value) -> Value {
    let body = json!({ "method": method, "arguments": arguments, "tag": 7 }).to_string();
    let headers = [basic(daemon.token()), session.to_owned()];
    let answer = request(daemon, "POST", &headers, &body).expect(200).json();
    assert_eq!(answer["tag"], 7, "{answer}");
    answer
}

fn torrent_of(name: &str) -> Fixture {
    Recipe::single(name, MIB).piece(64 * KIB).make()
}

#[test]
fn a_torrent_added_by_transmission_rpc_is_imported_exactly() {
    let torrent = Recipe::single("by transmission.bin", 2 * MIB + 5).piece(64 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let bae = Bae::new();
    write_config(&bae, "transmission = true\n[category.tv]\nstorage = \"main\"");
    let daemon = Daemon::start(&bae, &[seeder.addr()]);
    let found = client(&daemon, "add", &[torrent.torrent.to_str().unwrap(), "tv"]);
    assert_eq!((&found["id"], &found["id"]), (&found["again"], &found["by_hash"]));
    assert_eq!(
        (&found["hash"], &found["bytes"]),
        (&json!(torrent.info_hash()), &json!(torrent.bytes))
    );
    assert_eq!((&found["left"], &found["finished"]), (&json!(0), &json!(true)));
    assert_eq!((&found["dir"], &found["labels"]), (&json!("/main"), &json!(["tv", "new"])));
    let file = json!([["by transmission.bin", torrent.bytes, torrent.bytes, true]]);
    assert_eq!((&found["files"], &found["listed"]), (&file, &json!([found["id"]])));
    assert!(found["free"].as_u64() > Some(0), "{found:#}");
    let done = daemon.download(&found["id"].to_string());
    assert_eq!((&done["state"], &done["category"]), (&json!("done"), &json!("tv")));
    bae.assert_exact(done["import"].as_str().unwrap(), &torrent);
    daemon.stop();
}

#[test]
fn transmission_rpc_stops_moves_limits_and_removes_torrents() {
    let files = vec![("a".to_owned(), MIB), ("b".to_owned(), MIB)];
    let second = Recipe::folder("second", files).piece(64 * KIB).make();
    let (first, third) = (torrent_of("first.bin"), torrent_of("third.bin"));
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    let files = [&first, &second, &third].map(|torrent| torrent.torrent.to_str().unwrap());
    let found = client(&daemon, "manage", &files);
    assert_eq!((&found["left"], &found["recent"]), (&found["expected"], &found["expected"]));
}

#[test]
fn transmission_remote_adds_lists_stops_and_removes_a_torrent() {
    let torrent = torrent_of("by remote.bin");
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let bae = home();
    let daemon = Daemon::start(&bae, &[seeder.addr()]);
    let file = torrent.torrent.to_str().unwrap();
    assert!(remote(&daemon, &["--add", file, "-w", "/main", "--stop"]).contains("success"));
    assert!(remote(&daemon, &["-l"]).contains("Stopped"));
    assert!(remote(&daemon, &["-t", "1", "-f"]).contains("by remote.bin"));
    remote(&daemon, &["-t", "1", "-d", "100", "--bandwidth-high"]);
    remote(&daemon, &["-t", "1", "-D", "--bandwidth-normal"]);
    remote(&daemon, &["-t", "all", "--start"]);
    let found = daemon.call("GET", "/api/v1/downloads", "").json()["downloads"][0].clone();
    let done = daemon.wait_for_state(found["id"].as_str().unwrap(), "done");
    let info = remote(&daemon, &["-t", torrent.info_hash(), "-i"]);
    assert!(info.contains("Percent Done: 100") && info.contains("Location: /main"), "{info}");
    assert!(remote(&daemon, &["-l"]).contains("100%"));
    assert!(remote(&daemon, &["-st"]).contains("Uploaded"));
    let session = remote(&daemon, &["-si"]);
    assert!(session.contains("4.0.6 (bae)"), "{session}");
    bae.assert_exact(done["import"].as_str().unwrap(), &torrent);
    remote(&daemon, &["-t", "1", "--remove-and-delete"]);
    assert_eq!(daemon.call("GET", "/api/v1/downloads", "").json()["total"], 0);
}

#[test]
fn a_request_proves_its_token_then_its_session_then_works() {
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    let body = r#"{"method":"session-get"}"#;
    let refused = request(&daemon, "POST", &[], body).expect(401);
    assert!(refused.header("www-authenticate").unwrap().starts_with("Basic"));
    assert_eq!(refused.header("x-transmission-session-id"), None);
    let right = basic(daemon.token());
    for wrong in ["X-Transmission-Session-Id: 0", "X-Transmission-Session-Id:", "X-Other: 1"] {
        let conflict = request(&daemon, "POST", &[right.clone(), wrong.into()], body).expect(409);
        assert!(conflict.header("x-transmission-session-id").is_some());
    }
    let session = session(&daemon);
    request(&daemon, "POST", std::slice::from_ref(&session), body).expect(401);
    let get = request(&daemon, "GET", &[right.clone(), session.clone()], body).expect(200).json();
    assert_ne!(get["result"], "success", "a call by GET");
    let answer = request(&daemon, "POST", &[right.clone(), session.clone()], body).expect(200);
    let answer = answer.json();
    assert_eq!((&answer["result"], answer.get("tag")), (&json!("success"), None));
    assert_eq!(answer["arguments"]["rpc-version"], 17);
    let text = answer.to_string();
    assert!(!text.contains(daemon.token()) && !text.contains(bae.home().to_str().unwrap()));
    let reader = fs::read_to_string(bae.data_dir().join("api-token-read-only")).unwrap();
    let reader = [basic(reader.trim()), session.clone()];
    request(&daemon, "POST", &reader, body).expect(200);
    for method in [
        "torrent-add",
        "torrent-set",
        "torrent-remove",
        "torrent-stop",
        "session-set",
        "session-close",
    ] {
        let body = json!({ "method": method, "arguments": {} }).to_string();
        let refused = request(&daemon, "POST", &reader, &body).expect(200).json();
        assert_eq!(refused["result"], "the token may only read", "{method}");
    }
    for wrong in 0..5 {
        request(&daemon, "POST", &[basic(&wrong.to_string())], body).expect(401);
    }
    request(&daemon, "POST", &[basic("again")], body).expect(429);
}

#[test]
fn transmission_refuses_foreign_hosts_and_pages_and_is_off_unless_switched_on() {
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    let (right, session) = (basic(daemon.token()), session(&daemon));
    let body = r#"{"method":"session-get"}"#;
    for host in ["evil.example", "127.0.0.1.evil.example", "localhost."] {
        let host = format!("Host: {host}:{}", daemon.addr().port());
        let headers = [host, right.clone(), session.clone()];
        daemon.call_with("POST", PATH, &headers, body.as_bytes()).expect(421);
    }
    for foreign in [
        "Origin: http://evil.example",
        "Origin: null",
        "Referer: http://evil.example/",
        "Sec-Fetch-Site: cross-site",
    ] {
        let headers = [right.clone(), session.clone(), foreign.to_owned()];
        request(&daemon, "POST", &headers, body).expect(403);
    }
    let own = format!("Origin: http://{}", daemon.addr());
    request(&daemon, "POST", &[right.clone(), session.clone(), own], body).expect(200);
    let plain = super::home();
    let daemon = Daemon::start(&plain, &[]);
    request(&daemon, "POST", &[right], body).expect(404);
}

#[test]
fn transmission_requests_are_bounded_and_name_no_path() {
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    let session = session(&daemon);
    let headers = [basic(daemon.token()), session.clone()];
    let deep = "[".repeat(10_000);
    for body in ["", "{", "[]", "{}", &deep, r#"{"method":"m","arguments":[]}"#] {
        let answer = request(&daemon, "POST", &headers, body).expect(200).json();
        assert_ne!(answer["result"], "success", "{body:.40}");
    }
    let long = format!(
        r#"{{"method":"torrent-add","arguments":{{"metainfo":"{}"}}}}"#,
        "A".repeat(32 << 20)
    );
    request(&daemon, "POST", &headers, &long).expect(413);
    let magnet = format!("magnet:?xt=urn:btih:{}", "a".repeat(40));
    for (method, arguments) in [
        ("torrent-add", json!({})),
        ("torrent-add", json!({ "metainfo": "!!!" })),
        ("torrent-add", json!({ "metainfo": STANDARD.encode("l".repeat(100_000)) })),
        ("torrent-add", json!({ "filename": "/etc/passwd" })),
        ("torrent-add", json!({ "filename": "../x.torrent" })),
        ("torrent-add", json!({ "filename": "file:///etc/passwd" })),
        ("torrent-add", json!({ "filename": magnet, "download-dir": "/etc" })),
        ("torrent-add", json!({ "filename": magnet, "download-dir": "~/x" })),
        ("torrent-add", json!({ "filename": magnet, "download-dir": "/main/../.." })),
        (
            "torrent-add",
            json!({ "filename": magnet, "download-dir": "s3://b/x?endpoint=http://169.254.169.254" }),
        ),
        ("torrent-add", json!({ "filename": magnet, "labels": ["a\nb"] })),
        (
            "torrent-add",
            json!({ "filename": "http://127.0.0.1:9/x", "cookies": "a\r\nHost: evil" }),
        ),
        ("torrent-remove", json!({})),
        ("torrent-get", json!({})),
        ("torrent-get", json!({ "fields": vec!["id"; 1_000_000] })),
        ("torrent-get", json!({ "fields": ["id"], "ids": vec![1; 1_000_000] })),
        ("torrent-get", json!({ "fields": ["id"], "ids": {} })),
        ("session-set", json!({ "script-torrent-done-filename": "/bin/sh" })),
        ("session-set", json!({ "incomplete-dir": "/etc" })),
        ("free-space", json!({ "path": "/etc" })),
        ("session-close", json!({})),
        ("unknown", json!({})),
    ] {
        let answer = call(&daemon, &session, method, arguments.clone());
        assert_ne!(answer["result"], "success", "{method} {:.80}", arguments.to_string());
    }
    assert_eq!(
        call(&daemon, &session, "unknown", json!({}))["result"],
        "method name not recognized"
    );
    assert_eq!(daemon.call("GET", "/api/v1/downloads", "").json()["total"], 0);
}

#[test]
fn transmission_adds_no_url_of_a_private_host_unless_they_are_allowed() {
    let bae = home();
    only_public(&bae);
    let daemon = Daemon::start(&bae, &[]);
    let session = session(&daemon);
    for url in PRIVATE_URLS {
        let added = call(&daemon, &session, "torrent-add", json!({ "filename": url }));
        assert!(added["result"].as_str().unwrap().contains("public network"), "{url}: {added}");
    }
}

#[test]
fn lists_have_the_form_of_a_table_and_what_was_removed_lately() {
    let (first, second) = (torrent_of("table 1.bin"), torrent_of("table 2.bin"));
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    let session = session(&daemon);
    let ids = [&first, &second].map(|torrent| {
        let metainfo = STANDARD.encode(fs::read(&torrent.torrent).unwrap());
        let arguments = json!({ "metainfo": metainfo, "paused": true });
        let added = call(&daemon, &session, "torrent-add", arguments.clone());
        let again = call(&daemon, &session, "torrent-add", arguments);
        let id = &added["arguments"]["torrent-added"]["id"];
        assert_eq!(again["arguments"]["torrent-duplicate"]["id"], *id);
        id.clone()
    });
    let fields = json!(["id", "name", "unknown", "hashString"]);
    let table =
        call(&daemon, &session, "torrent-get", json!({ "fields": fields, "format": "table" }));
    let expected = json!([
        ["id", "name", "unknown", "hashString"],
        [ids[0], "table 1.bin", null, first.info_hash()],
        [ids[1], "table 2.bin", null, second.info_hash()],
    ]);
    assert_eq!(table["arguments"]["torrents"], expected);
    let arguments =
        json!({ "fields": ["id", "unknown"], "ids": [second.info_hash().to_uppercase(), 99, "x"] });
    let found = call(&daemon, &session, "torrent-get", arguments);
    assert_eq!(found["arguments"]["torrents"], json!([{ "id": ids[1] }]));
    let recent = || {
        let arguments = json!({ "fields": ["id"], "ids": "recently-active" });
        call(&daemon, &session, "torrent-get", arguments)["arguments"].clone()
    };
    let before = recent();
    assert_eq!((before["torrents"].as_array().unwrap().len(), &before["removed"]), (2, &json!([])));
    call(&daemon, &session, "torrent-remove", json!({ "ids": ids[0] }));
    let after = json!({ "torrents": [{ "id": ids[1] }], "removed": [ids[0]] });
    assert_eq!(recent(), after);
}

#[test]
fn an_exported_torrent_is_where_arr_programs_look_for_it() {
    let files = vec![("a.bin".to_owned(), MIB), ("sub/b.bin".to_owned(), 5 * KIB)];
    let torrent = Recipe::folder("Series", files).piece(64 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let bae = Bae::new();
    let root = bae.home().join("exports");
    let config = format!(
        "transmission = true\nexport_root = \"{}\"\n[category.tv]\nexport = \"tv\"",
        root.display()
    );
    write_config(&bae, &config);
    let daemon = Daemon::start(&bae, &[seeder.addr()]);
    let session = session(&daemon);
    let default = call(&daemon, &session, "session-get", json!({ "fields": ["download-dir"] }));
    assert_eq!(default["arguments"], json!({ "download-dir": root.to_str() }));
    let metainfo = STANDARD.encode(fs::read(&torrent.torrent).unwrap());
    // Sonarr appends the category to the folder of the session.
    let folder = format!("{}/tv", root.display());
    let arguments = json!({ "metainfo": metainfo, "download-dir": folder });
    let added = call(&daemon, &session, "torrent-add", arguments);
    let id = added["arguments"]["torrent-added"]["id"].to_string();
    daemon.wait_for_state(daemon.download(&id)["id"].as_str().unwrap(), "done");
    let fields = [
        "id",
        "hashString",
        "name",
        "downloadDir",
        "totalSize",
        "leftUntilDone",
        "isFinished",
        "eta",
        "status",
        "secondsDownloading",
        "secondsSeeding",
        "errorString",
        "uploadedEver",
        "downloadedEver",
        "seedRatioLimit",
        "seedRatioMode",
        "seedIdleLimit",
        "seedIdleMode",
        "file-count",
        "labels",
    ];
    let found = call(&daemon, &session, "torrent-get", json!({ "fields": fields }));
    let found = &found["arguments"]["torrents"][0];
    assert_eq!(found.as_object().unwrap().len(), fields.len(), "{found:#}");
    assert_eq!((&found["leftUntilDone"], &found["status"]), (&json!(0), &json!(0)));
    assert_eq!((&found["errorString"], &found["labels"]), (&json!(""), &json!(["tv"])));
    let path =
        format!("{}/{}", found["downloadDir"].as_str().unwrap(), found["name"].as_str().unwrap());
    torrent.assert_same(std::path::Path::new(&path));
}
