//! aria2's RPC interface, by real clients: aria2p, websockets, and Python's XML-RPC.

use std::{fs, process::Command};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::support::{
    KIB, LONG, MIB, Random,
    bae::Bae,
    daemon::{Daemon, Reply, write_config},
    nginx::Nginx,
    peers::{LibtorrentPeer, Release},
    process::Process,
    script,
    tools::tool,
    torrents::Recipe,
};

fn home() -> Bae {
    let bae = Bae::new();
    write_config(&bae, "aria2 = true");
    bae
}

/// URLs that lead to this machine or its network.
pub(super) const PRIVATE_URLS: [&str; 6] = [
    "http://127.0.0.1:9/x",
    "http://localhost:9/x",
    "http://[::ffff:127.0.0.1]/x",
    "http://2130706433/x",
    "http://169.254.169.254/latest/meta-data",
    "ftp://10.0.0.1/x",
];

/// Takes back the permission of the config file for URLs on this machine.
pub(super) fn only_public(bae: &Bae) {
    let path = bae.home().join("config/bae/config.toml");
    let config = fs::read_to_string(&path).unwrap();
    fs::write(&path, config.replace("private_hosts = true\n", "")).unwrap();
}

/// Runs a scenario of a client, and returns what it prints.
pub(super) fn run_client(name: &str, daemon: &Daemon, scenario: &str, args: &[&str]) -> Value {
    let mut command = Command::new(tool("cloud", "python", "test"));
    command.arg(script(name)).arg(scenario);
    command.arg(daemon.addr().port().to_string()).arg(daemon.token()).args(args);
    let mut process = Process::start("client", &command);
    let status = process.wait(LONG);
    assert!(status.success(), "{}", process.log());
    serde_json::from_str(&process.stdout()).unwrap_or_else(|e| panic!("{e}: {}", process.log()))
}

fn client(daemon: &Daemon, scenario: &str, args: &[&str]) -> Value {
    run_client("aria2_client.py", daemon, scenario, args)
}

/// A request without a header for the token.
fn post(daemon: &Daemon, path: &str, more: &[String], body: &str) -> Reply {
    let mut headers = vec![format!("Host: {}", daemon.addr())];
    headers.extend_from_slice(more);
    daemon.call_with("POST", path, &headers, body.as_bytes())
}

/// A call with the token.
fn call(daemon: &Daemon, method: &str, params: Value) -> Value {
    let mut all = vec![json!(format!("token:{}", daemon.token()))];
    all.extend(params.as_array().unwrap().iter().cloned());
    let body = json!({ "jsonrpc": "2.0", "id": "q", "method": method, "params": all });
    post(daemon, "/jsonrpc", &[], &body.to_string()).json()
}

#[test]
fn a_url_and_a_torrent_added_by_aria2p_are_imported_exactly() {
    let torrent = Recipe::single("by aria2.bin", 2 * MIB + 5).piece(64 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let server = Nginx::start();
    let bytes = Random(7).bytes(MIB + 3);
    server.serve("a.bin", &bytes);
    let bae = home();
    let daemon = Daemon::start(&bae, &[seeder.addr()]);
    let file = torrent.torrent.to_str().unwrap();
    let found = client(&daemon, "add", &[&server.url("/f/a.bin"), file, "/main"]);
    let (by_url, by_torrent) = (&found[0], &found[1]);
    for (download, bytes) in [(by_url, bytes.len() as u64), (by_torrent, torrent.bytes)] {
        assert_eq!(download["bytes"], bytes, "{download:#}");
        assert_eq!(download["completed"], bytes, "{download:#}");
        assert_eq!((&download["progress"], &download["dir"]), (&json!(100.0), &json!("/main")));
    }
    assert_eq!(by_torrent["info_hash"], torrent.info_hash());
    assert_eq!(by_torrent["files"], json!([["/main/by aria2.bin", torrent.bytes, false, true]]));
    assert_eq!(by_torrent["pieces"], torrent.bytes.div_ceil(64 * KIB));
    let import = |download: &Value| {
        let done = daemon.wait_for_state(download["gid"].as_str().unwrap(), "done");
        done["import"].as_str().unwrap().to_owned()
    };
    bae.assert_exact(&import(by_torrent), &torrent);
    assert!(bae.stdout_of(["cat", &import(by_url)]) == bytes);
    daemon.stop();
}

#[test]
fn aria2p_pauses_moves_limits_and_removes_downloads() {
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    let urls = ["a", "b", "c"].map(|name| format!("http://127.0.0.1:9/{name}"));
    let found = client(&daemon, "manage", &urls.each_ref().map(String::as_str));
    assert_eq!(found["left"], found["expected"]);
}

#[test]
fn calls_over_xml_rpc_have_the_same_answers() {
    let torrent = Recipe::single("by xml.bin", MIB).piece(64 * KIB).make();
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    let file = torrent.torrent.to_str().unwrap();
    let found = client(&daemon, "xml", &["http://127.0.0.1:9/x", file]);
    assert_eq!((&found["version"], &found["multicall"]), (&json!("1.37.0"), &json!("1.37.0")));
    assert_eq!(found["status"]["infoHash"], torrent.info_hash());
    assert_eq!(found["status"]["status"], "paused");
    assert_eq!(found["status"]["files"][0]["path"], "/main/by xml.bin");
    assert_eq!(found["status"]["files"][0]["length"], torrent.bytes.to_string());
    assert_eq!(found["refused"], json!([1, "Unauthorized"]));
    assert_eq!(found["dir"], "/main");
    let url = daemon.download(found["gid"].as_str().unwrap());
    assert_eq!(url["state"], "paused");
}

#[test]
fn a_socket_gets_notifications_only_after_a_valid_token() {
    let torrent = Recipe::single("by socket.bin", MIB).piece(64 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let server = Nginx::start();
    server.serve("a.bin", &Random(8).bytes(MIB));
    let bae = home();
    let daemon = Daemon::start(&bae, &[seeder.addr()]);
    let file = torrent.torrent.to_str().unwrap();
    let args = [&*server.url("/f/a.bin"), file, &*server.url("/f/missing")];
    let found = client(&daemon, "events", &args);
    assert_eq!((&found["refused"], &found["silent"]), (&json!("Unauthorized"), &json!([])));
    assert_eq!(found["names"].as_array().unwrap().len(), 6);
    assert_eq!(found["stats"]["numActive"], "0");
}

#[test]
fn a_socket_with_wrong_tokens_or_of_a_foreign_page_is_closed() {
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    let own = format!("http://{}", daemon.addr());
    let extension = "chrome-extension://abcdefghijklmnop";
    let origins = [&own, extension, "http://evil.example", "null", "http://127.0.0.1:1"];
    let found = client(&daemon, "origins", &origins);
    for good in [own.as_str(), extension] {
        assert_eq!(found[good], true, "{good}");
    }
    for bad in ["http://evil.example", "null", "http://127.0.0.1:1"] {
        assert_eq!(found[bad], 403, "{bad}");
    }
    let guesses = client(&daemon, "guesses", &[]);
    let answers = guesses["answers"].as_array().unwrap();
    assert!(answers.len() <= 5 && answers[0] == "Unauthorized", "{answers:?}");
    // Guessing is limited over all connections.
    let version = call(&daemon, "aria2.getVersion", json!([]));
    assert!(version["error"]["message"].as_str().unwrap().contains("too many"), "{version}");
}

#[test]
fn aria2_gives_nothing_without_its_token_and_reads_with_the_reading_one() {
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    let host = format!("Host: {}", daemon.addr());
    let reader = fs::read_to_string(bae.data_dir().join("api-token-read-only")).unwrap();
    let with = |method: &str, params: Value| {
        let body = json!({ "id": 1, "method": method, "params": params }).to_string();
        post(&daemon, "/jsonrpc", &[], &body)
    };
    // Neither a login that a browser adds by itself nor a cookie counts.
    let basic = STANDARD.encode(format!("x:{}", daemon.token()));
    let body = json!({ "id": 1, "method": "aria2.tellActive" }).to_string();
    for more in
        [String::new(), format!("Authorization: Basic {basic}"), "Cookie: bae_session=x".into()]
    {
        let more: Vec<String> = Some(more).into_iter().filter(|line| !line.is_empty()).collect();
        let refused = post(&daemon, "/jsonrpc", &more, &body).expect(400);
        assert_eq!(refused.json()["error"]["message"], "Unauthorized");
    }
    let bearer = format!("Authorization: Bearer {}", daemon.token());
    post(&daemon, "/jsonrpc", &[bearer], &body).expect(200);
    let token = format!("token:{}", reader.trim());
    with("aria2.tellActive", json!([token])).expect(200);
    for method in
        ["aria2.addUri", "aria2.pauseAll", "aria2.purgeDownloadResult", "aria2.changeGlobalOption"]
    {
        let refused = with(method, json!([token, ["http://127.0.0.1:9/x"]])).expect(400).json();
        assert_eq!(refused["error"]["message"], "the token may only read", "{method}");
    }
    // By GET a call only reads, whatever its token.
    let query = |params: Value| STANDARD.encode(params.to_string()).replace('+', "%2B");
    let token = format!("token:{}", daemon.token());
    let get = |query: &str| {
        daemon.call_with("GET", &format!("/jsonrpc?{query}"), std::slice::from_ref(&host), b"")
    };
    let params = query(json!([token]));
    get(&format!("method=aria2.getVersion&id=1&params={params}")).expect(200);
    get(&format!("method=aria2.pauseAll&id=1&params={params}")).expect(400);
    get(&format!("method=aria2.getVersion&jsoncallback=f&params={params}")).expect(400);
    assert_eq!(daemon.call("GET", "/api/v1/downloads", "").json()["total"], 0);
}

#[test]
fn aria2_refuses_foreign_hosts_and_pages_and_is_off_unless_switched_on() {
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    let token = format!("token:{}", daemon.token());
    let body = json!({ "id": 1, "method": "aria2.getVersion", "params": [token] }).to_string();
    for path in ["/jsonrpc", "/rpc"] {
        for host in ["evil.example", "127.0.0.1.evil.example", "localhost."] {
            let host = format!("Host: {host}:{}", daemon.addr().port());
            daemon.call_with("POST", path, &[host], body.as_bytes()).expect(421);
        }
        for foreign in ["Origin: http://evil.example", "Origin: null", "Sec-Fetch-Site: cross-site"]
        {
            let refused = post(&daemon, path, &[foreign.into()], &body).expect(403);
            assert_eq!(refused.header("access-control-allow-origin"), None);
        }
    }
    let origin = "moz-extension://0a1b";
    let allowed = post(&daemon, "/jsonrpc", &[format!("Origin: {origin}")], &body).expect(200);
    assert_eq!(allowed.header("access-control-allow-origin"), Some(origin));
    assert_eq!(allowed.header("access-control-allow-credentials"), None);
    let headers = [format!("Host: {}", daemon.addr()), format!("Origin: {origin}")];
    let preflight = daemon.call_with("OPTIONS", "/jsonrpc", &headers, b"").expect(204);
    assert_eq!(
        preflight.header("access-control-allow-headers"),
        Some("content-type, authorization")
    );
    let plain = super::home();
    let daemon = Daemon::start(&plain, &[]);
    post(&daemon, "/jsonrpc", &[], &body).expect(404);
    post(&daemon, "/rpc", &[], &body).expect(404);
}

#[test]
fn aria2_requests_are_bounded() {
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    let token = format!("token:{}", daemon.token());
    let json = |body: &str| post(&daemon, "/jsonrpc", &[], body);
    let deep = "[".repeat(10_000);
    let in_params = format!(r#"{{"method":"aria2.getVersion","params":{deep}}}"#);
    for body in ["", "{", &deep, &in_params] {
        assert_eq!(json(body).expect(500).json()["error"]["code"], -32700);
    }
    for body in ["[]", "{}", "1", r#"{"method":"m","params":{}}"#] {
        assert_eq!(json(body).expect(400).json()["error"]["code"], -32600, "{body}");
    }
    let one = json!({ "methodName": "aria2.getVersion", "params": [token] });
    let multicall = |calls: Vec<Value>| {
        let body = json!({ "id": 1, "method": "system.multicall", "params": [calls] });
        json(&body.to_string())
    };
    multicall(vec![one.clone(); 900]).expect(200);
    multicall(vec![one.clone(); 1001]).expect(400);
    let nested = json!({ "methodName": "system.multicall", "params": [[one]] });
    let nested = multicall(vec![nested]).expect(200).json();
    assert_eq!(nested["result"][0]["message"], "Recursive system.multicall forbidden.");
    let call = json!({ "id": 1, "method": "system.multicall", "params": [vec![one.clone(); 600]] });
    let batch = json(&Value::from(vec![call; 3]).to_string()).expect(200).json();
    assert!(batch[0].get("result").is_some() && batch[1].get("error").is_some(), "too many calls");
    json(&Value::from(vec![json!(1); 1001]).to_string()).expect(400);
    // Two torrents that are none: too large, and bad base64.
    let long =
        json!({ "id": 1, "method": "aria2.addTorrent", "params": [token, "A".repeat(32 << 20)] });
    let head = [format!("Host: {}", daemon.addr())];
    let long = daemon.call_with("POST", "/jsonrpc", &head, long.to_string().as_bytes());
    long.expect(413);
    for torrent in ["", "!!!", "AAAA", &STANDARD.encode("d".repeat(100_000))] {
        let body = json!({ "id": 1, "method": "aria2.addTorrent", "params": [token, torrent] });
        json(&body.to_string()).expect(400);
    }
    let xml = |body: &str| post(&daemon, "/rpc", &[], body).expect(200).text();
    let deep = "<array><data><value>".repeat(100_000);
    let call = format!("<methodCall><methodName>m</methodName><params><param><value>{deep}");
    let entities =
        "<!DOCTYPE x [<!ENTITY a \"b\">]><methodCall><methodName>&a;</methodName></methodCall>";
    for body in [call.as_str(), entities, "", "<"] {
        assert!(xml(body).contains("<fault>"), "{body:.60}");
    }
    assert_eq!(daemon.call("GET", "/api/v1/downloads", "").json()["total"], 0);
}

#[test]
fn aria2_adds_no_url_of_a_private_host_unless_they_are_allowed() {
    let bae = home();
    only_public(&bae);
    let daemon = Daemon::start(&bae, &[]);
    for url in PRIVATE_URLS {
        let added = call(&daemon, "aria2.addUri", json!([[url]]));
        let message = added["error"]["message"].as_str().unwrap_or_else(|| panic!("{url}"));
        assert!(message.contains("public network"), "{url}: {message}");
    }
    assert_eq!(daemon.call("GET", "/api/v1/downloads", "").json()["total"], 0);
}

#[test]
fn aria2_shows_a_torrent_where_it_was_exported_to() {
    let files = vec![("a.bin".to_owned(), MIB), ("sub/b.bin".to_owned(), 5 * KIB)];
    let torrent = Recipe::folder("exported", files).piece(64 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let bae = Bae::new();
    let root = bae.home().join("exports");
    let config = format!(
        "aria2 = true\nexport_root = \"{}\"\n[category.tv]\nexport = \"tv\"",
        root.display()
    );
    write_config(&bae, &config);
    let daemon = Daemon::start(&bae, &[seeder.addr()]);
    let encoded = STANDARD.encode(fs::read(&torrent.torrent).unwrap());
    let tv = root.join("tv");
    let added = call(&daemon, "aria2.addTorrent", json!([encoded, [], { "dir": tv.to_str() }]));
    let gid = added["result"].as_str().unwrap_or_else(|| panic!("{added}"));
    daemon.wait_for_state(gid, "done");
    let shown = call(&daemon, "aria2.tellStatus", json!([gid]))["result"].clone();
    assert_eq!((&shown["status"], &shown["seeder"]), (&json!("complete"), &json!("true")));
    assert_eq!(shown["dir"], tv.to_str().unwrap());
    for file in shown["files"].as_array().unwrap() {
        let len = fs::metadata(file["path"].as_str().unwrap()).unwrap().len();
        assert_eq!(file["length"], len.to_string());
    }
    torrent.assert_same(&tv.join("exported"));
}
