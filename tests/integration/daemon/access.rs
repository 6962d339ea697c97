//! Who may use the daemon: tokens, hosts, origins, and the size of requests.

use std::{fs, net::Ipv4Addr, os::unix::fs::PermissionsExt as _, process::Command};

use serde_json::json;

use super::{home, id_of};
use crate::support::{
    bae::Bae,
    certificates::Certificates,
    daemon::{Daemon, write_config},
};

#[test]
fn nothing_but_the_health_answers_is_given_without_a_token() {
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    let host = format!("Host: {}", daemon.addr());
    let call = |path: &str, auth: Option<&str>| {
        let auth = auth.map(|auth| format!("Authorization: {auth}"));
        let headers: Vec<_> = [Some(host.clone()), auth].into_iter().flatten().collect();
        daemon.call_with("GET", path, &headers, b"")
    };
    for path in ["/healthz", "/readyz"] {
        call(path, None).expect(200);
    }
    for path in ["/api/v1/downloads", "/api/v1/events", "/api/v1/imports", "/metrics"] {
        let refused = call(path, None).expect(401);
        assert_eq!(refused.header("content-type"), Some("application/problem+json"), "{path}");
        assert!(!refused.text().contains(daemon.token()));
    }
    let basic = format!(
        "Basic {}",
        base64::Engine::encode(
            &base64::engine::general_purpose::STANDARD,
            format!("anybody:{}", daemon.token()),
        )
    );
    call("/api/v1/downloads", Some(&basic)).expect(200);
    let half = &daemon.token()[..daemon.token().len() / 2];
    for wrong in ["Bearer x", &format!("Bearer {half}"), "Basic eDp5", "Bearer a", "Bearer wrong"] {
        call("/api/v1/downloads", Some(wrong)).expect(401);
    }
    // Guessing is limited; the right token waits with the wrong ones.
    let limited = call("/api/v1/downloads", Some("Bearer again")).expect(429);
    assert!(limited.header("retry-after").is_some());
}

#[test]
fn the_token_files_are_for_their_owner_and_the_reading_token_only_reads() {
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    for name in ["api-token", "api-token-read-only", "daemon.sock"] {
        let mode = fs::metadata(bae.data_dir().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let reader = fs::read_to_string(bae.data_dir().join("api-token-read-only")).unwrap();
    let headers = [
        format!("Host: {}", daemon.addr()),
        format!("Authorization: Bearer {}", reader.trim()),
        "Content-Type: application/json".to_owned(),
    ];
    daemon.call_with("GET", "/api/v1/downloads", &headers, b"").expect(200);
    let body = json!({ "url": "http://127.0.0.1:9/f" }).to_string();
    daemon.call_with("POST", "/api/v1/downloads", &headers, body.as_bytes()).expect(403);
    let id = id_of(&daemon.add(&json!({ "url": "http://127.0.0.1:9/f", "paused": true })));
    daemon.call_with("DELETE", &format!("/api/v1/downloads/{id}"), &headers, b"").expect(403);
    daemon.call_with("PATCH", "/api/v1/settings", &headers, b"{}").expect(403);
}

#[test]
fn requests_for_foreign_hosts_and_from_foreign_pages_are_refused() {
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    let token = format!("Authorization: Bearer {}", daemon.token());
    let port = daemon.addr().port();
    for host in [
        "evil.example".to_owned(),
        format!("evil.example:{port}"),
        format!("127.0.0.1.evil.example:{port}"),
        format!("localhost.:{port}"),
        "127.0.0.1:1".to_owned(),
    ] {
        let headers = [format!("Host: {host}"), token.clone()];
        daemon.call_with("GET", "/api/v1/downloads", &headers, b"").expect(421);
        daemon.call_with("GET", "/healthz", &headers, b"").expect(421);
    }
    let own = format!("Host: localhost:{port}");
    daemon.call_with("GET", "/api/v1/downloads", &[own.clone(), token.clone()], b"").expect(200);
    let forwarded = ["Host: evil.example".into(), format!("X-Forwarded-Host: localhost:{port}")];
    daemon.call_with("GET", "/healthz", &forwarded, b"").expect(421);
    daemon.call_with("GET", "/healthz", &[own.clone(), own.clone()], b"").expect(421);
    let absolute = format!("http://evil.example:{port}/healthz");
    daemon.call_with("GET", &absolute, std::slice::from_ref(&own), b"").expect(421);
    // A page of a stranger has no token, but a browser may add a login by itself.
    let basic = format!(
        "Authorization: Basic {}",
        base64::Engine::encode(
            &base64::engine::general_purpose::STANDARD,
            format!("x:{}", daemon.token()),
        )
    );
    for foreign in ["Origin: http://evil.example", "Origin: null", "Sec-Fetch-Site: cross-site"] {
        let headers = [own.clone(), basic.clone(), foreign.to_owned()];
        daemon.call_with("POST", "/api/v1/downloads", &headers, b"{}").expect(403);
    }
}

#[test]
fn long_deep_and_malformed_bodies_are_refused() {
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    let post = |path: &str, body: &str| daemon.call("POST", path, body);
    let long = format!("{{\"url\":\"http://h/{}\"}}", "x".repeat(2 << 20));
    daemon.call("PATCH", "/api/v1/settings", &long).expect(413);
    let deep = format!("{{\"url\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    for body in ["", "{", "[]", "{}", deep.as_str(), r#"{"url":"x","command":"y"}"#] {
        let reply = post("/api/v1/downloads", body);
        assert!((400..=422).contains(&reply.status), "{} for {body:.40}", reply.status);
    }
    let text = [
        format!("Host: {}", daemon.addr()),
        format!("Authorization: Bearer {}", daemon.token()),
        "Content-Type: text/plain".to_owned(),
    ];
    daemon.call_with("POST", "/api/v1/downloads", &text, b"{}").expect(415);
    assert_eq!(daemon.call("GET", "/api/v1/downloads", "").json()["total"], 0);
}

#[test]
fn no_request_names_a_path_or_a_storage_by_url() {
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    let refused = |body: serde_json::Value| {
        let reply = daemon.call("POST", "/api/v1/downloads", &body.to_string());
        let is_refused = (400..=422).contains(&reply.status) || reply.status == 501;
        assert!(is_refused, "{}: {body}", reply.status);
    };
    for url in ["file:///etc/passwd", "/etc/passwd", "../x", "{command=id}", "-", "C:\\x"] {
        refused(json!({ "url": url }));
    }
    let url = "http://127.0.0.1:9/f";
    for storage in ["file:///tmp", "s3://b?endpoint=http://169.254.169.254", "../main", "/tmp", ""]
    {
        if !storage.is_empty() {
            refused(json!({ "url": url, "storage": storage }));
        }
    }
    for category in ["../x", "a/../b", "/etc", "none"] {
        refused(json!({ "url": url, "category": category }));
    }
    refused(json!({ "url": url, "fetch": { "headers": [["A", "x\r\nB: y"]] } }));
}

#[test]
fn idle_connections_do_not_lock_out_the_owner() {
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    // More than the daemon serves at once. Half of them begin a request and do not end it.
    let idle: Vec<_> = (0..1100)
        .filter_map(|n| {
            let mut stream = std::net::TcpStream::connect(daemon.addr()).ok()?;
            if n % 2 == 0 {
                let _ = std::io::Write::write_all(&mut stream, b"GET /healthz HTTP/1.1\r\nHost: x");
            }
            Some(stream)
        })
        .collect();
    assert!(idle.len() > 1024, "{} connections", idle.len());
    bae.run(["queue", "list"]).expect(0);
    let socket = bae.data_dir().join("daemon.sock");
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    let request = b"GET /api/v1/downloads HTTP/1.0\r\n\r\n";
    std::io::Write::write_all(&mut stream, request).unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
    assert!(answer.contains("\"total\":0"), "{answer}");
    // Each connection has 30 s for its first request.
    daemon.call("GET", "/api/v1/downloads", "").expect(200);
}

#[test]
fn new_tokens_end_the_old_ones_with_their_streams() {
    let bae = home();
    bae.run(["token", "show"]).expect(3);
    let daemon = Daemon::start(&bae, &[]);
    assert_eq!(bae.run(["token", "show"]).expect(0).stdout, daemon.token());
    let mut events = daemon.events(None);
    let new = bae.run(["token", "new"]).expect(0).stdout;
    assert_ne!(new, daemon.token());
    while events.next().is_some() {}
    daemon.call("GET", "/api/v1/downloads", "").expect(401);
    let headers = [format!("Host: {}", daemon.addr()), format!("Authorization: Bearer {new}")];
    daemon.call_with("GET", "/api/v1/downloads", &headers, b"").expect(200);
    drop(daemon);
    let newer = bae.run(["token", "new"]).expect(0).stdout;
    assert_eq!(Daemon::start(&bae, &[]).token(), newer);
}

#[test]
fn only_pages_of_configured_origins_read_answers() {
    let bae = Bae::new();
    write_config(&bae, "origins = \"https://ui.example\"");
    let daemon = Daemon::start(&bae, &[]);
    let host = format!("Host: {}", daemon.addr());
    let token = format!("Authorization: Bearer {}", daemon.token());
    let preflight = "Access-Control-Request-Method: POST".to_owned();
    for (origin, is_allowed) in [("https://ui.example", true), ("https://evil.example", false)] {
        let line = format!("Origin: {origin}");
        let asked = [host.clone(), line.clone(), preflight.clone()];
        let asked = daemon.call_with("OPTIONS", "/api/v1/downloads", &asked, b"");
        assert_eq!(asked.status == 204, is_allowed, "{}", asked.head);
        let headers = [host.clone(), line, token.clone()];
        let answer = daemon.call_with("GET", "/api/v1/downloads", &headers, b"").expect(200);
        let allowed = answer.header("access-control-allow-origin");
        assert_eq!(allowed, is_allowed.then_some(origin), "{}", answer.head);
        assert!(answer.header("access-control-allow-credentials").is_none());
    }
}

#[test]
fn with_a_certificate_only_tls_is_served() {
    let bae = Bae::new();
    let files = Certificates::new(bae.home(), Ipv4Addr::LOCALHOST);
    let (certificate, key) = (files.certificate.display(), files.key.display());
    write_config(&bae, &format!("tls_cert = \"{certificate}\"\ntls_key = \"{key}\""));
    let daemon = Daemon::start(&bae, &[]);
    let url = format!("https://localhost:{}/api/v1/downloads", daemon.addr().port());
    for version in ["--http1.1", "--http2"] {
        let mut curl = Command::new("curl");
        curl.args(["-sS", version, "--cacert"]).arg(&files.ca);
        curl.arg("-H").arg(format!("Authorization: Bearer {}", daemon.token())).arg(&url);
        let output = curl.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("\"total\":0"), "{text} {:?}", output.stderr);
    }
    let mut stream = std::net::TcpStream::connect(daemon.addr()).unwrap();
    std::io::Write::write_all(&mut stream, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = std::io::Read::read_to_end(&mut stream, &mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    // A key of another certificate is named before anything listens.
    let other = Certificates::new(&bae.home().join("objects"), Ipv4Addr::LOCALHOST);
    drop(daemon);
    let key = other.key.display();
    write_config(&bae, &format!("tls_cert = \"{certificate}\"\ntls_key = \"{key}\""));
    bae.run(["daemon", "--api-port", "0"]).expect(2).expect_stderr("srv.key");
}
