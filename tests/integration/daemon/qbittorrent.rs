//! qBittorrent's Web API: the calls of Sonarr and Radarr as they send them, a real client, the codes that clients know,
//! and the attacks that such an API invites.

use std::{fs, path::PathBuf, process::Command};

use serde_json::Value;

use crate::support::{
    KIB,
    bae::Bae,
    daemon::{Daemon, Reply, write_config},
    http,
    peers::{LibtorrentPeer, Release},
    script,
    tools::cache,
    torrents::{Fixture, Recipe, Version},
};

const FORM: &str = "Content-Type: application/x-www-form-urlencoded";

/// A home whose daemon speaks the API. The category `tv` is exported to `exports/tv` and seeded, `raw` is neither.
fn home() -> Bae {
    let bae = Bae::new();
    let exports = bae.home().join("exports");
    fs::create_dir_all(&exports).unwrap();
    let more = format!(
        "qbittorrent = true\nexport_root = \"{}\"\n[category.tv]\nexport = \"tv\"\nseed = true\n\
         [category.raw]\nseed = false",
        exports.display()
    );
    write_config(&bae, &more);
    bae
}

fn exported(bae: &Bae, name: &str) -> PathBuf {
    bae.home().join("exports/tv").join(name)
}

/// A client with a session.
struct Client<'a> {
    daemon: &'a Daemon,
    cookie: String,
}

impl<'a> Client<'a> {
    fn login(daemon: &'a Daemon) -> Self {
        let reply = login(daemon, daemon.token());
        assert_eq!(reply.text(), "Ok.");
        assert!(reply.header("content-type").unwrap().starts_with("text/plain"));
        // Some clients send the whole line back.
        let cookie = reply.header("set-cookie").unwrap().to_owned();
        assert!(cookie.starts_with("SID=") && cookie.contains("HttpOnly"), "{cookie}");
        assert!(cookie.contains("SameSite=Strict"), "{cookie}");
        Self { daemon, cookie }
    }

    fn send(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> Reply {
        let headers = [host(self.daemon), format!("Cookie: {}", self.cookie), kind.to_owned()];
        self.daemon.call_with(method, &format!("/api/v2/{path}"), &headers, body)
    }

    fn get(&self, path: &str) -> Reply {
        self.send("GET", path, "Accept: application/json", b"")
    }

    fn post(&self, path: &str, body: &str) -> Reply {
        self.send("POST", path, FORM, body.as_bytes())
    }

    /// Adds a torrent file as Sonarr does, in a multipart form.
    fn add(&self, torrent: &Fixture, fields: &[(&str, &str)]) -> Reply {
        self.add_bytes(&fs::read(&torrent.torrent).unwrap(), fields)
    }

    fn add_bytes(&self, torrent: &[u8], fields: &[(&str, &str)]) -> Reply {
        let (kind, body) = http::form(("torrents", torrent), fields);
        self.send("POST", "torrents/add", &format!("Content-Type: {kind}"), &body)
    }

    /// The torrents of a query.
    fn info(&self, query: &str) -> Vec<Value> {
        let reply = self.get(&format!("torrents/info?{query}")).expect(200).json();
        reply.as_array().unwrap().clone()
    }

    fn one(&self, torrent: &Fixture) -> Value {
        let found = self.info(&format!("hashes={}", torrent.info_hash()));
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].clone()
    }

    /// The id of the only download.
    fn id(&self) -> String {
        let list = self.daemon.call("GET", "/api/v1/downloads", "").expect(200).json();
        assert_eq!(list["total"], 1, "{list:#}");
        list["downloads"][0]["id"].as_str().unwrap().to_owned()
    }
}

fn host(daemon: &Daemon) -> String {
    format!("Host: {}", daemon.addr())
}

fn login(daemon: &Daemon, password: &str) -> Reply {
    let body = format!("username=sonarr&password={password}");
    let headers = [host(daemon), FORM.to_owned()];
    daemon.call_with("POST", "/api/v2/auth/login", &headers, body.as_bytes())
}

fn call(daemon: &Daemon, method: &str, path: &str, header: &str) -> Reply {
    let headers = [host(daemon), header.to_owned()];
    daemon.call_with(method, &format!("/api/v2/{path}"), &headers, b"")
}

fn torrent() -> Fixture {
    Recipe::single("qbit.mkv", 700 * KIB).piece(64 * KIB).make()
}

/// A torrent without peers.
fn lonely(name: &str) -> Fixture {
    Recipe::single(name, 100 * KIB).piece(32 * KIB).make()
}

/// The calls of Sonarr and Radarr from the test of the client to the removal of an imported episode.
#[test]
fn sonarr_adds_a_torrent_imports_its_export_and_removes_it() {
    let bae = home();
    let torrent = torrent();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let daemon = Daemon::start(&bae, &[seeder.addr()]);
    // Sonarr looks for the API before it logs in: 403 means that it is there.
    assert_eq!(call(&daemon, "GET", "app/webapiVersion", "Accept: */*").status, 403);
    let client = Client::login(&daemon);
    assert_eq!(client.get("app/webapiVersion").expect(200).text(), "2.11.4");
    assert_eq!(client.get("app/version").expect(200).text(), "v5.1.4");
    let preferences = client.get("app/preferences").expect(200).json();
    assert_eq!(preferences["max_ratio_act"], 0);
    assert_eq!(preferences["queueing_enabled"], true);
    assert_eq!(preferences["dht"], false, "the daemon runs without");
    // The test creates the category, and reads it again.
    client.post("torrents/createCategory", "category=sonarr-new").expect(200);
    let categories = client.get("torrents/categories").expect(200).json();
    assert_eq!(categories["sonarr-new"]["name"], "sonarr-new");
    let folder = bae.home().join("exports/tv");
    assert_eq!(categories["tv"]["savePath"], folder.to_str().unwrap());

    let fields = [("category", "tv"), ("paused", "false"), ("stopped", "false")];
    assert_eq!(client.add(&torrent, &fields).expect(200).text(), "Ok.");
    let hash = torrent.info_hash().to_uppercase();
    let properties = client.get(&format!("torrents/properties?hash={hash}")).expect(200).json();
    assert_eq!(properties["total_size"], torrent.bytes);
    client
        .post(
            "torrents/setShareLimits",
            &format!("hashes={hash}&ratioLimit=2&seedingTimeLimit=-2&inactiveSeedingTimeLimit=-2"),
        )
        .expect(200);
    client.post("torrents/topPrio", &format!("hashes={hash}")).expect(200);
    client.post("torrents/setForceStart", &format!("hashes={hash}&value=false")).expect(200);
    client.post("torrents/addTags", &format!("hashes={hash}&tags=one%2Ctwo")).expect(200);
    assert_eq!(client.add(&torrent, &fields).expect(200).text(), "Fails.", "a duplicate");

    daemon.wait_for_state(&client.id(), "done");
    let listed = client.info("category=tv");
    assert_eq!(listed.len(), 1);
    assert!(client.info("category=raw").is_empty());
    let shown = &listed[0];
    assert_eq!(shown["hash"], torrent.info_hash());
    assert_eq!(shown["progress"], 1.0);
    assert_eq!(shown["amount_left"], 0);
    assert_eq!((&shown["ratio_limit"], &shown["tags"]), (&2.0.into(), &"one, two".into()));
    let content = PathBuf::from(shown["content_path"].as_str().unwrap());
    assert_eq!(content, exported(&bae, "qbit.mkv"));
    assert_ne!(shown["content_path"], shown["save_path"]);
    assert_eq!(shown["root_path"], "");
    torrent.assert_same(&content);
    let files = client.get(&format!("torrents/files?hash={hash}")).expect(200).json();
    assert_eq!(files[0]["name"], "qbit.mkv");
    assert_eq!((&files[0]["progress"], &files[0]["is_seed"]), (&1.0.into(), &true.into()));

    // After the import: another category, a stop, and the removal.
    client.post("torrents/setCategory", &format!("hashes={hash}&category=imported")).expect(409);
    client.post("torrents/setCategory", &format!("hashes={hash}&category=sonarr-new")).expect(200);
    client.post("torrents/stop", &format!("hashes={hash}")).expect(200);
    let shown = client.one(&torrent);
    assert_eq!(shown["state"], "stoppedUP");
    assert_eq!(shown["content_path"], content.to_str().unwrap(), "the export stays where it is");
    client.post("torrents/delete", &format!("hashes={hash}&deleteFiles=true")).expect(200);
    assert!(client.info("").is_empty());
    daemon.stop();
}

#[test]
fn a_single_file_in_a_folder_is_found_by_each_hash_and_has_its_own_path() {
    let bae = home();
    let torrent = Recipe::folder("A Show", vec![("s1/e1.mkv".into(), 300 * KIB)])
        .version(Version::Hybrid)
        .piece(64 * KIB)
        .make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let daemon = Daemon::start(&bae, &[seeder.addr()]);
    let client = Client::login(&daemon);
    let fields = [("category", "tv"), ("rename", "../../another <name>")];
    client.add(&torrent, &fields).expect(200);
    daemon.wait_for_state(&client.id(), "done");
    let (v1, v2) = (torrent.v1.clone().unwrap(), torrent.v2.clone().unwrap());
    for hash in [v1.as_str(), &v2, &v2[..40], &v1.to_uppercase()] {
        let found = client.info(&format!("hashes={hash}"));
        assert_eq!(found.len(), 1, "{hash}");
        assert_eq!(found[0]["hash"], v1.as_str());
        client.get(&format!("torrents/properties?hash={hash}")).expect(200);
    }
    let shown = client.one(&torrent);
    let root = exported(&bae, "A Show");
    // The name that the client gave is only shown.
    assert_eq!(shown["name"], "../../another <name>");
    assert_eq!(shown["root_path"], root.to_str().unwrap());
    assert_eq!(shown["content_path"], root.join("s1/e1.mkv").to_str().unwrap());
    torrent.assert_same(&root);
    daemon.stop();
}

#[test]
fn what_is_not_exported_has_a_path_that_names_its_storage() {
    let bae = home();
    let torrent = torrent();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let daemon = Daemon::start(&bae, &[seeder.addr()]);
    let client = Client::login(&daemon);
    // The paths that clients are told may be sent back; the name of a storage chooses it.
    client.add(&torrent, &[("category", "raw"), ("savepath", "/bae/main/")]).expect(200);
    daemon.wait_for_state(&client.id(), "done");
    let shown = client.one(&torrent);
    assert_eq!(shown["save_path"], "/bae/main");
    assert_eq!(shown["content_path"], "/bae/main/qbit.mkv");
    assert_eq!(shown["state"], "stoppedUP");
    let pieces = client.get(&format!("torrents/pieceStates?hash={}", torrent.info_hash()));
    let pieces = pieces.expect(200).json();
    assert!(pieces.as_array().unwrap().iter().all(|state| state == 2), "{pieces}");
    daemon.stop();
}

#[test]
fn the_python_client_of_qbittorrent_works() {
    let python = cache().join("tools/cloud/bin/python");
    assert!(python.is_file(), "{} is missing: run `scripts/setup test`", python.display());
    let bae = home();
    let torrent = lonely("client.bin");
    let daemon = Daemon::start(&bae, &[]);
    let url = format!("http://{}", daemon.addr());
    let mut command = Command::new(python);
    command.arg(script("qbittorrent_client.py")).args([&url, daemon.token()]).arg(&torrent.torrent);
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["api"], "2.11.4");
    assert_eq!(said["hash"], torrent.info_hash());
    daemon.stop();
}

#[test]
fn clients_get_the_status_codes_that_they_know() {
    let bae = home();
    let torrent = lonely("codes.bin");
    let daemon = Daemon::start(&bae, &[]);
    let client = Client::login(&daemon);
    client.add(&torrent, &[("paused", "True")]).expect(200);
    let hash = torrent.info_hash();
    let unknown = "00".repeat(20);
    for (path, body, status) in [
        ("torrents/nonsense", String::new(), 404),
        ("torrents/properties", String::new(), 400),
        ("torrents/properties", format!("hash={unknown}"), 404),
        ("torrents/files", format!("hash={unknown}"), 404),
        ("torrents/stop", format!("hashes={unknown}"), 200),
        ("torrents/stop", String::new(), 400),
        ("torrents/info", "sort=nonsense".to_owned(), 400),
        ("torrents/info", "limit=-1&offset=-99".to_owned(), 200),
        ("torrents/setCategory", format!("hashes={hash}&category=nonsense"), 409),
        ("torrents/createCategory", "category=tv".to_owned(), 409),
        ("torrents/createCategory", "category=a//b".to_owned(), 409),
        ("torrents/createCategory", "category=".to_owned(), 400),
        ("torrents/editCategory", "category=nonsense".to_owned(), 409),
        ("torrents/removeCategories", "categories=nonsense".to_owned(), 200),
        ("torrents/filePrio", format!("hash={hash}&id=9&priority=1"), 409),
        ("torrents/filePrio", format!("hash={hash}&id=x&priority=1"), 409),
        ("torrents/filePrio", format!("hash={hash}&id=0&priority=5"), 400),
        ("torrents/setShareLimits", format!("hashes={hash}&ratioLimit=NaN"), 400),
        ("torrents/setDownloadLimit", format!("hashes={hash}&limit=x"), 400),
        ("torrents/removeTags", format!("hashes={hash}&tags="), 200),
        ("torrents/setLocation", format!("hashes={hash}&location=/etc"), 400),
        ("torrents/addPeers", format!("hashes={hash}&peers=127.0.0.1:22"), 409),
        ("app/setPreferences", "json={\"dl_limit\":1000}".to_owned(), 200),
        ("app/setPreferences", "json=nonsense".to_owned(), 400),
    ] {
        let reply = client.post(path, &body);
        assert_eq!(reply.status, status, "{path} {body}: {}", reply.text());
    }
    assert_eq!(client.get("transfer/downloadLimit").expect(200).text(), "1000");
    // Writes are refused by GET, reads are answered by both.
    client.get("torrents/delete?hashes=all").expect(405);
    client.send("DELETE", "torrents/info", FORM, b"").expect(405);
    client.get("auth/logout").expect(405);
    client.post("torrents/info", "filter=paused").expect(200);
    client.add_bytes(b"no torrent", &[]).expect(415);
    assert_eq!(client.post("torrents/add", "urls=").expect(200).text(), "Fails.");
    // Without deleteFiles the data stays, and the torrent goes.
    client.post("torrents/delete", &format!("hashes={hash}")).expect(200);
    assert!(client.info("").is_empty());
    daemon.stop();
}

#[test]
fn maindata_sends_only_what_changed() {
    let bae = home();
    let (first, second) = (lonely("one.bin"), lonely("two.bin"));
    let daemon = Daemon::start(&bae, &[]);
    let client = Client::login(&daemon);
    client.add(&first, &[("paused", "true")]).expect(200);
    let sync = |rid: &Value| client.get(&format!("sync/maindata?rid={rid}")).expect(200).json();
    let all = sync(&0.into());
    assert_eq!(all["full_update"], true);
    assert_eq!(all["torrents"][first.info_hash()]["state"], "stoppedDL");
    assert!(all["server_state"]["global_ratio"].is_string());
    assert!(all["categories"]["tv"].is_object());
    client.add(&second, &[("paused", "true"), ("tags", "new")]).expect(200);
    let delta = sync(&all["rid"]);
    assert!(delta.get("full_update").is_none(), "{delta:#}");
    assert_eq!(delta["torrents"].as_object().unwrap().len(), 1, "{delta:#}");
    assert_eq!(delta["tags"], serde_json::json!(["new"]));
    client.post("torrents/rename", &format!("hash={}&name=x", first.info_hash())).expect(200);
    let renamed = sync(&delta["rid"]);
    let fields = renamed["torrents"][first.info_hash()].as_object().unwrap();
    assert_eq!(fields.get("name").unwrap(), "x");
    assert!(fields.len() < 4, "{fields:?}");
    client.post("torrents/delete", &format!("hashes={}", second.info_hash())).expect(200);
    let removed = sync(&renamed["rid"]);
    assert_eq!(removed["torrents_removed"], serde_json::json!([second.info_hash()]));
    assert_eq!(sync(&999_999_999_999_u64.into())["full_update"], true);
    daemon.stop();
}

#[test]
fn only_a_login_or_a_token_opens_the_api() {
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    for path in ["app/version", "torrents/info", "sync/maindata", "torrents/nonsense"] {
        assert_eq!(call(&daemon, "GET", path, "Accept: */*").status, 403, "{path}");
        assert_eq!(call(&daemon, "POST", path, "Cookie: SID=0").status, 403, "{path}");
    }
    let token = daemon.token();
    let bearer = format!("Authorization: Bearer {token}");
    call(&daemon, "GET", "app/version", &bearer).expect(200);
    let client = Client::login(&daemon);
    client.get("app/version").expect(200);
    // A token for reading.
    let reader = fs::read_to_string(bae.data_dir().join("api-token-read-only")).unwrap();
    let reader = format!("Authorization: Bearer {}", reader.trim());
    call(&daemon, "GET", "torrents/info", &reader).expect(200);
    call(&daemon, "POST", "torrents/stop?hashes=all", &reader).expect(403);
    call(&daemon, "GET", "torrents/export?hash=x", &reader).expect(403);
    // After five failures the client waits, even with the right password; its session goes on.
    for _ in 0..5 {
        assert_eq!(login(&daemon, "adminadmin").expect(200).text(), "Fails.");
    }
    login(&daemon, token).expect(403);
    client.get("app/version").expect(200);
    client.post("auth/logout", "").expect(200);
    client.get("app/version").expect(403);
    daemon.stop();
}

#[test]
fn pages_of_strangers_reach_nothing() {
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    let client = Client::login(&daemon);
    let send = |method: &str, headers: &[String]| {
        let cookie = format!("Cookie: {}", client.cookie);
        let headers = [headers, &[cookie]].concat();
        daemon.call_with(method, "/api/v2/torrents/info", &headers, b"").status
    };
    let own = host(&daemon);
    assert_eq!(send("GET", std::slice::from_ref(&own)), 200);
    for foreign in ["evil.example", "127.0.0.1.evil.example", "localhost.", "127.0.0.1:1"] {
        assert_eq!(send("GET", &[format!("Host: {foreign}")]), 421, "{foreign}");
    }
    assert_eq!(send("GET", &["Host: evil.example".into(), format!("X-Forwarded-{own}")]), 421);
    for header in ["Origin: http://evil.example", "Origin: null", "Sec-Fetch-Site: cross-site"] {
        assert_eq!(send("POST", &[own.clone(), header.into()]), 403, "{header}");
    }
    assert_eq!(send("POST", &[own.clone(), "Referer: http://evil.example/".into()]), 403);
    daemon.stop();
}

#[test]
fn no_parameter_names_a_folder_a_program_or_a_storage_by_url() {
    let bae = home();
    let torrent = lonely("attack.bin");
    let daemon = Daemon::start(&bae, &[]);
    let client = Client::login(&daemon);
    for path in [
        "/etc",
        "../x",
        "/bae/../etc",
        "/bae/main/../../etc",
        "~/x",
        "%2e%2e%2f",
        "..\\x",
        "file:///etc",
        "s3://bucket/x?endpoint=http://169.254.169.254",
        "{command=\"id\"}",
        "env:HOME",
        "/bae/nonsense",
        "\0",
    ] {
        client.add(&torrent, &[("savepath", path)]).expect(400);
        let encoded = path.replace('%', "%25").replace('\0', "%00").replace('&', "%26");
        client
            .post("torrents/createCategory", &format!("category=c&savePath={encoded}"))
            .expect(400);
        client.post("torrents/setLocation", &format!("hashes=all&location={encoded}")).expect(400);
    }
    for category in ["../x", "/etc", "a/../b", "a\\b", "a%00b", "a%0Ab", "%20a/"] {
        client
            .post("torrents/add", &format!("urls={}&category={category}", "ab".repeat(20)))
            .expect(400);
    }
    for url in ["file:///etc/passwd", "/etc/passwd", "ftp:x", "javascript:alert(1)", "-"] {
        client.post("torrents/add", &format!("urls={url}")).expect(400);
    }
    for (name, value) in [
        ("autorun_program", "\"id\""),
        ("autorun_on_torrent_added_program", "\"id\""),
        ("save_path", "\"/etc\""),
        ("scan_dirs", "{\"/etc\":0}"),
        ("web_ui_password", "\"x\""),
        ("alternative_webui_path", "\"/etc\""),
        ("proxy_ip", "\"169.254.169.254\""),
    ] {
        client.post("app/setPreferences", &format!("json={{\"{name}\":{value}}}")).expect(400);
    }
    assert!(client.info("").is_empty());
    assert_eq!(client.get("app/getDirectoryContent?dirPath=/etc").expect(200).text(), "[]");
    for path in ["..%2f..%2fetc", "..%5cetc", "torrents/..%2finfo"] {
        assert_eq!(client.get(path).status, 404, "{path}");
    }
    daemon.stop();
}

#[test]
fn urls_lead_only_to_the_public_network_unless_the_config_allows_more() {
    let bae = Bae::new();
    write_config(&bae, "qbittorrent = true");
    let config = bae.home().join("config/bae/config.toml");
    let text = fs::read_to_string(&config).unwrap().replace("private_hosts = true\n", "");
    fs::write(&config, text).unwrap();
    let daemon = Daemon::start(&bae, &[]);
    let client = Client::login(&daemon);
    for url in ["http://127.0.0.1/a.torrent", "http://[::ffff:10.0.0.1]/a", "http://2130706433/a"] {
        assert_eq!(client.post("torrents/add", &format!("urls={url}")).status, 409, "{url}");
    }
    daemon.stop();
}

#[test]
fn oversized_and_malformed_requests_are_refused() {
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    let client = Client::login(&daemon);
    let long = "x".repeat((1 << 20) + 1);
    client.post("torrents/stop", &format!("hashes={long}")).expect(413);
    let parameters: String = (0..2000).map(|number| format!("p{number}=1&")).collect();
    client.post("torrents/info", &parameters).expect(400);
    let hashes = "0123456789abcdef0123456789abcdef01234567|".repeat(20_000);
    client.post("torrents/stop", &format!("hashes={hashes}")).expect(200);
    let deep = "d1:a".repeat(10_000);
    client.add_bytes(deep.as_bytes(), &[]).expect(415);
    client.add_bytes(&b"l".repeat(10_000), &[]).expect(415);
    let json = format!("json={}", "[".repeat(10_000));
    client.post("app/setPreferences", &json).expect(400);
    let broken = "Content-Type: multipart/form-data; boundary=B";
    client.send("POST", "torrents/add", broken, b"--B\r\nno head").expect(400);
    client.send("POST", "torrents/add", "Content-Type: multipart/form-data", b"").expect(400);
    client.post("torrents/add", "urls=magnet:?xt=urn:btih:zz").expect(400);
    client.post("torrents/add", "ratioLimit=1e999&urls=x").expect(400);
    daemon.stop();
}

#[test]
fn names_and_trackers_show_no_markup_and_no_passkey() {
    let bae = home();
    let torrent = lonely("tracked.bin");
    let tracker = "https://tracker.example/0123456789abcdef0123/announce?passkey=hunter2";
    let dir = tempfile::tempdir().unwrap();
    let tracked = torrent.with_tracker(tracker, dir.path());
    let daemon = Daemon::start(&bae, &[]);
    let client = Client::login(&daemon);
    client
        .add(&tracked, &[("paused", "true"), ("rename", "<img src=x onerror=alert(1)>")])
        .expect(200);
    let hash = tracked.info_hash();
    for path in [
        "torrents/info".to_owned(),
        format!("torrents/trackers?hash={hash}"),
        "sync/maindata".into(),
    ] {
        let reply = client.get(&path).expect(200);
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(reply.header("content-type"), Some("application/json"));
        let text = reply.text();
        assert!(text.contains("https://tracker.example"), "{path}: {text}");
        assert!(!text.contains("hunter2") && !text.contains("0123456789abcdef0123/"), "{text}");
    }
    let error = client.post("torrents/createCategory", "category=%3Cscript%3E//x").expect(409);
    assert!(error.header("content-type").unwrap().starts_with("text/plain"));
    daemon.stop();
}
