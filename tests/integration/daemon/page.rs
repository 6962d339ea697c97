//! The web page: its files and headers, its session, and a person who uses it in a real browser.

use std::{collections::BTreeSet, process::Command};

use serde_json::{Value, json};

use super::{home, torrent_request};
use crate::support::{
    KIB,
    bae::Bae,
    daemon::{Daemon, Reply, write_config},
    script,
    tools::tool,
    torrents::Recipe,
};

/// A GET without a token.
fn get(daemon: &Daemon, path: &str, more: &[&str]) -> Reply {
    let host = format!("Host: {}", daemon.addr());
    let headers: Vec<String> =
        std::iter::once(host).chain(more.iter().map(|line| (*line).to_owned())).collect();
    daemon.call_with("GET", path, &headers, b"")
}

fn post(daemon: &Daemon, path: &str, more: &[&str], body: &Value) -> Reply {
    let fixed = [format!("Host: {}", daemon.addr()), "Content-Type: application/json".to_owned()];
    let headers: Vec<String> =
        fixed.into_iter().chain(more.iter().map(|line| (*line).to_owned())).collect();
    daemon.call_with("POST", path, &headers, body.to_string().as_bytes())
}

/// The files that a file of the page names.
fn references(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for start in ["src=\"page/", "href=\"page/", "src: \"page/", "from \"./"] {
        for rest in text.split(start).skip(1) {
            found.insert(rest.split('"').next().unwrap().to_owned());
        }
    }
    found
}

/// Fetches the page below `base` and all that it loads. Returns the number of files.
fn check_files(daemon: &Daemon, base: &str) -> usize {
    let mut open: Vec<String> = vec![String::new()];
    let mut seen = BTreeSet::new();
    while let Some(name) = open.pop() {
        let path = if name.is_empty() { format!("{base}/") } else { format!("{base}/page/{name}") };
        let reply = get(daemon, &path, &[]).expect(200);
        let policy = reply.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'") && policy.contains("base-uri 'none'"));
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(reply.header("referrer-policy"), Some("no-referrer"));
        assert_eq!(reply.header("cache-control"), Some("no-cache"));
        let etag = format!("If-None-Match: {}", reply.header("etag").unwrap());
        assert!(get(daemon, &path, &[&etag]).expect(304).body.is_empty());
        let text = reply.text().replace("http://www.w3.org/2000/svg", "");
        assert!(!text.contains("http:") && !text.contains("https:"), "{path} names another server");
        for found in references(&text) {
            if seen.insert(found.clone()) {
                open.push(found);
            }
        }
    }
    seen.len()
}

#[test]
fn the_page_loads_only_its_own_files_behind_a_strict_policy() {
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    assert!(check_files(&daemon, "") > 15, "the page has modules");
    for path in
        ["/page/", "/page/x.js", "/page/..%2fapp.js", "/page/%2e%2e/api-token", "/page/app.js/"]
    {
        get(&daemon, path, &[]).expect(404);
    }
    // The files hold no data; the data needs a token.
    get(&daemon, "/api/v1/downloads", &[]).expect(401);
    daemon.stop();
}

#[test]
fn the_page_works_below_a_base_path() {
    let bae = Bae::new();
    write_config(&bae, "base_path = \"/a/bae\"");
    let daemon = Daemon::start(&bae, &[]);
    assert!(check_files(&daemon, "/a/bae") > 15);
    let reply = get(&daemon, "/a/bae", &[]).expect(308);
    assert_eq!(reply.header("location"), Some("bae/"));
    post(&daemon, "/a/bae/api/v1/session", &[], &json!({ "token": daemon.token() })).expect(200);
    daemon.stop();
}

#[test]
fn another_interface_is_served_from_a_folder_in_place_of_the_page() {
    let bae = Bae::new();
    let folder = bae.home().join("ui");
    std::fs::create_dir_all(folder.join("js")).unwrap();
    std::fs::write(folder.join("index.html"), "<!doctype html>mine").unwrap();
    std::fs::write(folder.join("js/a.js"), "1").unwrap();
    write_config(&bae, &format!("web_ui = \"{}\"\nbase_path = \"/b\"", folder.display()));
    let daemon = Daemon::start(&bae, &[]);
    for base in ["", "/b"] {
        let reply = get(&daemon, &format!("{base}/"), &[]).expect(200);
        assert!(reply.text().ends_with("mine"));
        let policy = reply.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'self'"), "{policy}");
        let reply = get(&daemon, &format!("{base}/js/a.js"), &[]).expect(200);
        assert_eq!(reply.header("content-type"), Some("text/javascript; charset=utf-8"));
        for path in [
            "/page/app.js",
            "/js",
            "/%2e%2e/data/api-token",
            "/..%2fdata%2fapi-token",
            "/js/..%5c..%5cx",
        ] {
            get(&daemon, &format!("{base}{path}"), &[]).expect(404);
        }
        get(&daemon, &format!("{base}/api/v1/downloads"), &[]).expect(401);
        get(&daemon, &format!("{base}/healthz"), &[]).expect(200);
    }
    daemon.stop();
}

/// The cookie of a login, as the browser sends it back.
fn cookie_of(reply: &Reply) -> String {
    let line = reply.header("set-cookie").unwrap();
    assert!(line.contains("HttpOnly") && line.contains("SameSite=Strict"), "{line}");
    format!("Cookie: {}", line.split(';').next().unwrap())
}

#[test]
fn a_login_makes_a_session_that_a_logout_and_new_tokens_end() {
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    let log_in = |token: &str| post(&daemon, "/api/v1/session", &[], &json!({ "token": token }));
    let role = |cookie: &str| get(&daemon, "/api/v1/session", &[cookie]).json()["role"].clone();
    let reply = log_in("wrong").expect(401);
    assert!(reply.header("set-cookie").is_none());
    assert_eq!(role("Cookie: bae_session=wrong"), "none");
    let first = cookie_of(&log_in(daemon.token()).expect(200));
    let other = cookie_of(&log_in(daemon.token()).expect(200));
    assert_eq!(role(&first), "admin");
    get(&daemon, "/api/v1/downloads", &[&first]).expect(200);
    // A page of a stranger cannot use the session, nor begin one.
    post(&daemon, "/api/v1/estimate", &[&first, "Origin: http://evil.example"], &json!({}))
        .expect(403);
    let foreign = ["Origin: http://evil.example"];
    post(&daemon, "/api/v1/session", &foreign, &json!({ "token": daemon.token() })).expect(403);
    let host = format!("Host: {}", daemon.addr());
    daemon.call_with("DELETE", "/api/v1/session", &[host, first.clone()], b"").expect(204);
    assert_eq!((role(&first), role(&other)), ("none".into(), "admin".into()));
    post(&daemon, "/api/v1/tokens", &[&other], &json!({ "token": "wrong" })).expect(403);
    let reply = post(&daemon, "/api/v1/tokens", &[&other], &json!({ "token": daemon.token() }));
    let reply = reply.expect(200);
    assert_eq!(role(&other), "none");
    assert_eq!(role(&cookie_of(&reply)), "admin");
    log_in(daemon.token()).expect(401);
    log_in(reply.json()["token"].as_str().unwrap()).expect(200);
    let reader = log_in(reply.json()["read_only_token"].as_str().unwrap()).expect(200);
    assert_eq!(role(&cookie_of(&reader)), "reader");
    post(&daemon, "/api/v1/estimate", &[&cookie_of(&reader)], &json!({})).expect(403);
    daemon.stop();
}

#[test]
fn wrong_logins_are_limited() {
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    let log_in = |token: &str| post(&daemon, "/api/v1/session", &[], &json!({ "token": token }));
    let session = cookie_of(&log_in(daemon.token()).expect(200));
    (0..5).for_each(|_| drop(log_in("wrong").expect(401)));
    let reply = log_in(daemon.token()).expect(429);
    assert!(reply.header("retry-after").is_some());
    get(&daemon, "/api/v1/downloads", &[&session]).expect(200);
    daemon.stop();
}

#[test]
fn an_estimate_adds_nothing_and_names_no_path_nor_storage_url() {
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    let torrent = Recipe::single("a.bin", 300 * KIB).piece(64 * KIB).make();
    let estimate = |body: &Value| daemon.call("POST", "/api/v1/estimate", &body.to_string());
    let request = torrent_request(&torrent);
    let found = estimate(&request).expect(200).json();
    assert_eq!((&found["bytes"], &found["files"]), (&json!(300 * KIB), &json!(1)));
    assert_eq!((&found["objects"], &found["is_queued"]), (&json!(1), &json!(false)));
    assert!(!found["costs"].as_array().unwrap().is_empty());
    let listed = daemon.call("GET", "/api/v1/downloads", "").expect(200).json();
    assert_eq!(listed["total"], 0);
    daemon.add(&request);
    assert_eq!(estimate(&request).expect(200).json()["is_queued"], true);
    for source in ["/etc/passwd", "file:///etc/passwd", "-", ""] {
        let status = estimate(&json!({ "url": source })).status;
        assert!([400, 501].contains(&status), "{source}: {status}");
    }
    let mut elsewhere = request;
    elsewhere["storage"] = json!("file:///tmp");
    estimate(&elsewhere).expect(400);
    daemon.stop();
}

#[test]
#[ignore = "needs a browser: scripts/test --all"]
fn a_person_adds_watches_pauses_plays_and_reads_errors_in_a_browser() {
    let bae = Bae::new();
    // Small chunks: a small film shows progress.
    let small = bae.home().join("small");
    let more = format!(
        "[storage.small]\ntype = \"local\"\npath = \"{}\"\nchunk = \"1MiB\"",
        small.display()
    );
    write_config(&bae, &more);
    let daemon = Daemon::start(&bae, &[]);
    let shots =
        std::env::var_os("BAE_PAGE_SHOTS").map_or_else(|| bae.home().join("shots"), Into::into);
    let mut command = Command::new(tool("cloud", "python", "browser"));
    command.arg(script("page.py")).arg(format!("http://{}/", daemon.addr()));
    command.arg(daemon.token()).arg(shots).env("no_proxy", "*");
    let out = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "without Chromium: `scripts/setup browser`\n{stderr}");
    daemon.stop();
}
