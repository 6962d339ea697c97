//! The log of the daemon over REST.

use std::fs;

use serde_json::Value;

use super::home;
use crate::support::{
    bae::Bae,
    daemon::{Daemon, write_config},
};

fn lines(daemon: &Daemon, query: &str) -> Value {
    daemon.call("GET", &format!("/api/v1/logs?{query}"), "").expect(200).json()
}

#[test]
fn the_log_is_read_with_all_rights_only_and_shows_no_passkey() {
    let bae = Bae::new();
    // Nothing listens on the discard port.
    write_config(&bae, "[feed.f]\nurl = \"http://127.0.0.1:9/0123456789abcdef/rss?key=hunter2\"");
    let daemon = Daemon::start(&bae, &[]);
    daemon.events(Some(0)).next_where(|event| event["event"] == "feed");
    // The line is written after the event.
    let line = loop {
        let page = lines(&daemon, "from=0&level=warn&limit=1000");
        let mut found = page["lines"].as_array().unwrap().iter();
        if let Some(line) = found.find(|line| line["text"].as_str().unwrap().contains("feed")) {
            break line.clone();
        }
        daemon.call("POST", "/api/v1/feeds/f/refresh", "");
    };
    assert_eq!(
        (line["level"].as_str(), line["target"].as_str()),
        (Some("warn"), Some("bae::queue::feeds::follow"))
    );
    let all = lines(&daemon, "").to_string();
    for secret in ["0123456789abcdef", "hunter2"] {
        assert!(!all.contains(secret), "{all}");
    }
    let next = lines(&daemon, "from=0")["next"].as_u64().unwrap();
    assert_eq!(lines(&daemon, &format!("from={next}&limit=5"))["missed"], 0);
    daemon.call("GET", "/api/v1/logs?level=loud", "").expect(400);
    let reader = fs::read_to_string(bae.data_dir().join("api-token-read-only")).unwrap();
    let headers =
        [format!("Host: {}", daemon.addr()), format!("Authorization: Bearer {}", reader.trim())];
    daemon.call_with("GET", "/api/v1/logs", &headers, b"").expect(403);
    daemon.call_with("GET", "/api/v1/version", &headers, b"").expect(200);
    let host = format!("Host: {}", daemon.addr());
    daemon.call_with("GET", "/api/v1/logs", &[host], b"").expect(401);
}

#[test]
fn the_log_begins_empty_and_pages_are_bounded() {
    let daemon_home = home();
    let daemon = Daemon::start(&daemon_home, &[]);
    let page = lines(&daemon, "from=0&limit=0");
    assert_eq!(page["lines"].as_array().unwrap().len(), 0);
    let page = lines(&daemon, "from=18446744073709551615&limit=100000");
    assert_eq!(page["lines"].as_array().unwrap().len(), 0);
}
