//! The gRPC API, by a client of another implementation: grpcio.

use std::{fs, net::Ipv4Addr, process::Command};

use serde_json::{Value, json};

use super::{
    aria2::{PRIVATE_URLS, only_public, run_client},
    home,
};
use crate::support::{
    KIB, LONG, MIB, Random,
    bae::Bae,
    certificates::Certificates,
    daemon::{Daemon, write_config},
    nginx::Nginx,
    peers::{LibtorrentPeer, Release},
    process::Process,
    script,
    tools::tool,
    torrents::Recipe,
};

fn client(daemon: &Daemon, scenario: &str, args: &[&str]) -> Value {
    run_client("grpc_client.py", daemon, scenario, args)
}

fn import_of(shown: &Value) -> &str {
    shown["import"].as_str().unwrap()
}

#[test]
fn a_torrent_and_a_url_started_over_grpc_are_imported_exactly() {
    let torrent = Recipe::single("by grpc.bin", 3 * MIB + 5).piece(64 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let server = Nginx::start();
    let bytes = Random(7).bytes(2 * MIB + 3);
    server.serve("a file.bin", &bytes);
    let bae = home();
    let daemon = Daemon::start(&bae, &[seeder.addr()]);
    let file = torrent.torrent.to_str().unwrap();
    let found = client(&daemon, "add", &[file, &server.url("/a%20file.bin")]);
    let (by_torrent, by_url) = (&found[0], &found[1]);
    for (shown, bytes) in [(by_torrent, torrent.bytes), (by_url, bytes.len() as u64)] {
        assert_eq!((&shown["state"], &shown["storage"]), (&json!("STATE_DONE"), &json!("main")));
        assert_eq!((&shown["bytes"], &shown["stored"]), (&json!(bytes), &json!(bytes)));
        assert_eq!(shown["share"], 1.0);
    }
    assert_eq!(by_torrent["info_hash"], torrent.info_hash());
    assert_eq!(by_torrent["kind"], "SOURCE_KIND_TORRENT");
    assert_eq!(by_url["kind"], "SOURCE_KIND_URL");
    bae.assert_exact(import_of(by_torrent), &torrent);
    assert!(bae.stdout_of(["cat", import_of(by_url)]) == bytes);
    daemon.stop();
}

#[test]
fn a_download_is_paused_resumed_and_removed_over_grpc() {
    let torrent = Recipe::single("pause.bin", 6 * MIB).piece(64 * KIB).make();
    let mut seeder = LibtorrentPeer::slow_seed(&torrent, MIB);
    let bae = home();
    let daemon = Daemon::start(&bae, &[seeder.addr()]);
    let found = client(&daemon, "pause", &[torrent.torrent.to_str().unwrap()]);
    let states = ["STATE_PAUSED", "STATE_PAUSED", "STATE_QUEUED", "STATE_QUEUED"];
    assert_eq!(found["states"], json!(states));
    assert_eq!(found["done"]["stored"], torrent.bytes);
    assert_eq!((&found["removed"], &found["gone"]["code"]), (&json!(true), &json!("NOT_FOUND")));
    assert!(seeder.sent() <= torrent.bytes + 2 * MIB, "{} bytes were sent", seeder.sent());
}

#[test]
fn commands_of_a_control_stream_are_answered_in_order_with_progress_between_them() {
    let torrent = Recipe::single("control.bin", 2 * MIB).piece(64 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let bae = home();
    let daemon = Daemon::start(&bae, &[seeder.addr()]);
    let found = client(&daemon, "control", &[torrent.torrent.to_str().unwrap()]);
    let kinds =
        ["KIND_NOT_FOUND", "KIND_INVALID_INPUT", "KIND_INVALID_INPUT", "KIND_INVALID_INPUT"];
    assert_eq!(found["errors"], json!(kinds.map(|kind| ["error", kind])));
    assert_eq!((&found["done"]["stored"], &found["left"]), (&json!(torrent.bytes), &json!(0)));
    bae.assert_exact(import_of(&found["done"]), &torrent);
}

#[test]
fn grpc_calls_that_are_not_usable_are_refused_with_a_code_and_a_reason() {
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    let found = client(&daemon, "refused", &[]);
    for (case, code, kind) in [
        ("unknown", "NOT_FOUND", "KIND_NOT_FOUND"),
        ("unknown pause", "NOT_FOUND", "KIND_NOT_FOUND"),
        ("unknown follow", "NOT_FOUND", "KIND_NOT_FOUND"),
        ("no name", "INVALID_ARGUMENT", "KIND_INVALID_INPUT"),
        ("no source", "INVALID_ARGUMENT", "KIND_INVALID_INPUT"),
        ("storage by URL", "INVALID_ARGUMENT", "KIND_INVALID_INPUT"),
        ("storage in the cloud", "INVALID_ARGUMENT", "KIND_INVALID_INPUT"),
        ("storage by path", "INVALID_ARGUMENT", "KIND_INVALID_INPUT"),
        ("file", "UNIMPLEMENTED", "KIND_UNSUPPORTED"),
        ("path", "INVALID_ARGUMENT", "KIND_INVALID_INPUT"),
        ("category", "NOT_FOUND", "KIND_NOT_FOUND"),
        ("header", "INVALID_ARGUMENT", "KIND_INVALID_INPUT"),
        ("no torrent", "INVALID_ARGUMENT", "KIND_INVALID_INPUT"),
        ("layout", "INVALID_ARGUMENT", "KIND_INVALID_INPUT"),
        ("long name", "NOT_FOUND", "KIND_NOT_FOUND"),
    ] {
        let refused = &found[case];
        assert_eq!((&refused["code"], &refused["kind"]), (&json!(code), &json!(kind)), "{case}");
    }
    for (case, code) in [
        ("long message", "OUT_OF_RANGE"),
        ("long torrent", "OUT_OF_RANGE"),
        ("long command", "OUT_OF_RANGE"),
        ("deadline", "DEADLINE_EXCEEDED"),
        ("compressed", "UNIMPLEMENTED"),
        ("malformed", "INTERNAL"),
        ("unknown method", "UNIMPLEMENTED"),
        ("unknown service", "UNIMPLEMENTED"),
    ] {
        assert_eq!(found[case]["code"], code, "{case}: {}", found[case]);
    }
}

#[test]
fn urls_of_private_hosts_are_refused_over_grpc() {
    let bae = home();
    only_public(&bae);
    let daemon = Daemon::start(&bae, &[]);
    let found = client(&daemon, "private", &PRIVATE_URLS);
    assert_eq!(found, json!(PRIVATE_URLS.map(|_| "PERMISSION_DENIED")));
}

#[test]
fn grpc_calls_need_a_token_and_one_for_reading_changes_nothing() {
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    let reader = fs::read_to_string(bae.data_dir().join("api-token-read-only")).unwrap();
    let evil = format!("evil.example:{}", daemon.addr().port());
    let found = client(&daemon, "access", &[reader.trim(), &evil]);
    let services = |version: &str| {
        let reflection = format!("grpc.reflection.{version}.ServerReflection");
        json!(["bae.v1.DownloadService", "grpc.health.v1.Health", reflection])
    };
    assert_eq!((&found["services"], &found["v1"]), (&services("v1alpha"), &services("v1")));
    assert_eq!(found["reader"], json!(vec!["PERMISSION_DENIED"; 6]));
    assert_eq!(found["reader's command"], json!(["error", "KIND_PERMISSION_DENIED"]));
    assert_eq!(found["no token"], json!(vec!["UNAUTHENTICATED"; 5]));
    // Field 1 has the number of SERVING.
    assert_eq!(found["health"], json!([[8, 1], [8, 1]]));
    assert_eq!(found["health of nothing"], "NOT_FOUND");
    assert_eq!(found["foreign host"]["code"], "PERMISSION_DENIED");
    let wrong: Vec<&Value> =
        found["wrong token"].as_array().unwrap().iter().map(|error| &error["code"]).collect();
    let mut expected = vec![json!("UNAUTHENTICATED"); 5];
    expected.push(json!("RESOURCE_EXHAUSTED"));
    assert_eq!(wrong, expected.iter().collect::<Vec<_>>());
    assert_eq!(found["wrong token"][0]["kind"], "KIND_UNAUTHENTICATED");
}

#[test]
fn progress_over_grpc_goes_on_after_the_position_that_the_client_has() {
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    assert_eq!(client(&daemon, "goes_on", &[]), json!(true));
}

#[test]
fn a_slow_grpc_client_gets_the_latest_state_and_holds_up_nothing() {
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    let found = client(&daemon, "slow", &[]);
    assert_eq!(found["removed"], true);
    assert!(found["received"].as_u64() < found["changes"].as_u64(), "{found:#}");
}

#[test]
fn a_grpc_client_goes_on_after_a_kill_of_the_daemon() {
    let torrent = Recipe::single("killed grpc.bin", 8 * MIB + 77).piece(64 * KIB).make();
    let seeder = LibtorrentPeer::slow_seed(&torrent, 2 * MIB);
    let bae = home();
    let mut daemon = Daemon::start(&bae, &[seeder.addr()]);
    let mut command = Command::new(tool("cloud", "python", "test"));
    command.arg(script("grpc_client.py")).args(["survives", "0", ""]);
    command.arg(bae.data_dir().join("daemon.sock")).arg(&torrent.torrent);
    let mut process = Process::start("client", &command);
    let id = process.wait_for("the id", LONG, |line| Some(line.to_owned()));
    daemon.wait_until_stored(&id, 2 * MIB);
    daemon.process.kill();
    let daemon = Daemon::start(&bae, &[seeder.addr()]);
    let status = process.wait(LONG);
    assert!(status.success(), "{}", process.log());
    let found: Value = serde_json::from_str(process.stdout().lines().last().unwrap()).unwrap();
    assert_eq!((&found["breaks"], &found["again"]), (&json!(true), &json!(false)));
    assert_eq!((&found["runs"], &found["resets"]), (&json!(2), &json!(2)));
    assert_eq!(found["done"]["id"], id);
    assert_eq!(found["done"]["stored"], torrent.bytes);
    bae.assert_exact(import_of(&found["done"]), &torrent);
    daemon.stop();
}

#[test]
fn grpc_is_served_over_tls_and_never_over_http_1() {
    let bae = Bae::new();
    let files = Certificates::new(bae.home(), Ipv4Addr::LOCALHOST);
    let (certificate, key) = (files.certificate.display(), files.key.display());
    write_config(&bae, &format!("tls_cert = \"{certificate}\"\ntls_key = \"{key}\""));
    let daemon = Daemon::start(&bae, &[]);
    assert_eq!(client(&daemon, "secure", &[files.ca.to_str().unwrap()]), json!(0));
    drop(daemon);
    write_config(&bae, "");
    let daemon = Daemon::start(&bae, &[]);
    let headers = [
        format!("Host: {}", daemon.addr()),
        format!("Authorization: Bearer {}", daemon.token()),
        "Content-Type: application/grpc".to_owned(),
    ];
    for service in ["bae.v1.DownloadService/ListDownloads", "grpc.health.v1.Health/Check"] {
        let path = format!("/{service}");
        daemon.call_with("POST", &path, &headers, &[0; 5]).expect(415);
        daemon.call("GET", &path, "").expect(415);
    }
}

#[test]
fn new_tokens_end_grpc_streams() {
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    let found = client(&daemon, "rotated", &[]);
    assert_eq!(found, json!(["UNAUTHENTICATED", "UNAUTHENTICATED"]));
}
