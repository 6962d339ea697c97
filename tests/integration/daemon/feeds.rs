//! Feeds: items become downloads once, whatever happens in between.

use std::{
    collections::BTreeSet,
    fs,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};

use crate::support::{
    KIB, MIB, Random,
    bae::Bae,
    daemon::{Daemon, Events, write_config},
    peers::{LibtorrentPeer, Release},
    scripted_http::{Answer, Request, ScriptedHttp},
    torrents::Recipe,
};

/// A home with the feed `f` at `url`, and further keys of it.
fn home(url: &str, keys: &str) -> Bae {
    let bae = Bae::new();
    write_config(&bae, &format!("[feed.f]\nurl = \"{url}/feed.xml\"\n{keys}"));
    bae
}

fn rss(items: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?><rss version=\"2.0\"><channel><title>Feed</title>{items}</channel></rss>"
    )
}

fn item(title: &str, guid: &str, link: &str) -> String {
    format!("<item><title>{title}</title><guid>{guid}</guid><link>{link}</link></item>")
}

/// A server whose feed is `feed`, with an ETag of its content. Other paths are answered by `other`.
fn serve(
    feed: &Arc<Mutex<String>>,
    mut other: impl FnMut(&Request) -> Option<Answer> + Send + 'static,
) -> ScriptedHttp {
    let feed = Arc::clone(feed);
    ScriptedHttp::start(move |_, request| {
        if request.target != "/feed.xml" {
            return other(request);
        }
        let text = feed.lock().unwrap().clone();
        let etag = format!("W/\"{}\"", text.len());
        match request.header("if-none-match") {
            Some(known) if known == etag => Some(Answer::raw("HTTP/1.1 304 X\r\n")),
            _ => Some(Answer::new(200, text).with("ETag", etag)),
        }
    })
}

fn feed_text(items: &str) -> Arc<Mutex<String>> {
    Arc::new(Mutex::new(rss(items)))
}

fn next_feed_event(events: &mut Events) -> Value {
    events.next_where(|event| event["event"] == "feed")
}

fn refresh(daemon: &Daemon) -> Value {
    daemon.call("POST", "/api/v1/feeds/f/refresh", "").expect(200).json()
}

fn downloads(daemon: &Daemon) -> Vec<Value> {
    let path = "/api/v1/downloads?limit=1000&order=added";
    let listed = daemon.call("GET", path, "").expect(200).json();
    listed["downloads"].as_array().unwrap().clone()
}

fn feed_requests(server: &ScriptedHttp) -> Vec<Request> {
    server.requests().into_iter().filter(|request| request.target == "/feed.xml").collect()
}

#[test]
fn the_items_of_a_feed_that_its_rules_want_become_finished_imports() {
    let torrent = Recipe::single("by feed.bin", 2 * MIB + 3).piece(64 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let file = Random(5).bytes(MIB + 7);
    let (torrent_file, bytes) = (fs::read(&torrent.torrent).unwrap(), file.clone());
    let feed = feed_text(&format!(
        "<item><title>Linux torrent</title><guid>1</guid>\
         <enclosure url=\"dl/a.torrent\" type=\"application/x-bittorrent\" length=\"1\"/></item>\
         {}{}{}",
        item("Linux beta", "2", "/beta.iso"),
        item("Linux file", "3", "/a%20file.iso"),
        item("Windows", "4", "/w.iso"),
    ));
    let server = serve(&feed, move |request| match request.target.as_str() {
        "/dl/a.torrent" => Some(Answer::new(200, torrent_file.clone())),
        "/a%20file.iso" => Some(Answer::new(200, bytes.clone())),
        _ => Some(Answer::new(404, "")),
    });
    let bae = home(
        &server.url(),
        "include = [\"linux\"]\nexclude = [\"beta\"]\ncategory = \"c\"\n[category.c]\ntags = [\"t\"]",
    );
    let daemon = Daemon::start(&bae, &[seeder.addr()]);
    let checked = next_feed_event(&mut daemon.events(Some(0)));
    assert_eq!((&checked["added"], &checked["items"]), (&json!(2), &json!(4)), "{checked}");
    let added = downloads(&daemon);
    // The last of the document is the oldest.
    let names: Vec<_> = added.iter().map(|download| download["name"].as_str().unwrap()).collect();
    assert!(names[0] == "Linux file" && added.len() == 2, "{names:?}");
    let done: Vec<Value> = added
        .iter()
        .map(|download| daemon.wait_for_state(download["id"].as_str().unwrap(), "done"))
        .collect();
    assert!(bae.stdout_of(["cat", done[0]["import"].as_str().unwrap()]) == file);
    bae.assert_exact(done[1]["import"].as_str().unwrap(), &torrent);
    assert_eq!((&done[1]["category"], &done[1]["tags"]), (&json!("c"), &json!(["t"])));
    let feeds = daemon.call("GET", "/api/v1/feeds", "").expect(200).json();
    assert_eq!((&feeds[0]["title"], &feeds[0]["added"]), (&json!("Feed"), &json!(2)), "{feeds:#}");
    let next = feeds[0]["next_at"].as_u64().unwrap() - feeds[0]["fetched_at"].as_u64().unwrap();
    assert_eq!(next, 1800);
}

#[test]
fn a_restart_or_a_new_link_adds_no_item_twice_and_an_unchanged_feed_is_not_sent_again() {
    let feed = feed_text(&format!("{}{}", item("a", "1", "/a"), item("no guid", "", "/b")));
    let server = serve(&feed, |_| Some(Answer::new(404, "")));
    let bae = home(&server.url(), "paused = true");
    let daemon = Daemon::start(&bae, &[]);
    next_feed_event(&mut daemon.events(Some(0)));
    assert_eq!(downloads(&daemon).len(), 2);
    let first = downloads(&daemon)[1]["id"].as_str().unwrap().to_owned();
    daemon.stop();
    // After the restart the feed is not due yet: only the client requests it.
    let daemon = Daemon::start(&bae, &[]);
    assert_eq!(refresh(&daemon)["unchanged"], true);
    let requests = feed_requests(&server);
    assert_eq!((requests.len(), requests[1].header("if-none-match").is_some()), (2, true));
    assert!(requests[0].header("if-none-match").is_none());
    // Its download is gone, its link is another: the item is the same.
    daemon.call("DELETE", &format!("/api/v1/downloads/{first}"), "").expect(204);
    *feed.lock().unwrap() =
        rss(&format!("{}{}", item("a", "1", "/moved/a"), item("no guid", "", "/b")));
    let refreshed = refresh(&daemon);
    assert_eq!((&refreshed["unchanged"], &refreshed["added"]), (&json!(false), &json!([])));
    *feed.lock().unwrap() = rss(&item("a new one", "9", "/moved/a"));
    assert_eq!(refresh(&daemon)["added"].as_array().unwrap().len(), 1);
    assert_eq!(downloads(&daemon).len(), 2);
}

#[test]
fn other_rules_after_a_restart_read_an_unchanged_feed_again() {
    let feed = feed_text(&format!("{}{}", item("one", "1", "/1"), item("two", "2", "/2")));
    let server = serve(&feed, |_| Some(Answer::new(404, "")));
    let bae = home(&server.url(), "paused = true\ninclude = [\"one\"]");
    let daemon = Daemon::start(&bae, &[]);
    next_feed_event(&mut daemon.events(Some(0)));
    daemon.stop();
    let keys = format!("[feed.f]\nurl = \"{}/feed.xml\"\npaused = true", server.url());
    write_config(&bae, &keys);
    let daemon = Daemon::start(&bae, &[]);
    let checked = next_feed_event(&mut daemon.events(Some(0)));
    assert_eq!((&checked["added"], &checked["unchanged"]), (&json!(1), &json!(false)));
    assert_eq!(downloads(&daemon).len(), 2);
}

#[test]
fn a_kill_while_items_are_added_adds_none_twice_and_loses_none() {
    const ITEMS: usize = 120;
    let items: String =
        (0..ITEMS).map(|n| item(&n.to_string(), &n.to_string(), &format!("/{n}"))).collect();
    let feed = feed_text(&items);
    let server = serve(&feed, |_| Some(Answer::new(404, "")));
    let bae = home(&server.url(), "paused = true");
    for step in Random::of_this_run().steps(ITEMS as u64 - 20, 3) {
        let mut daemon = Daemon::start(&bae, &[]);
        let mut events = daemon.events(Some(0));
        for _ in 0..=step / 3 {
            let next = events.next_where(|event| {
                ["download", "feed"].contains(&event["event"].as_str().unwrap())
            });
            if next["event"] == "feed" {
                break;
            }
        }
        daemon.process.kill();
    }
    let daemon = Daemon::start(&bae, &[]);
    let listed = daemon.call("POST", "/api/v1/feeds/f/refresh", "").expect(200).json();
    assert!(listed["feed"]["error"].is_null(), "{listed:#}");
    let all = downloads(&daemon);
    let names: BTreeSet<_> = all.iter().map(|download| download["name"].to_string()).collect();
    assert_eq!((all.len(), names.len()), (ITEMS, ITEMS));
}

#[test]
fn bad_items_stop_neither_the_feed_nor_each_other_and_a_failing_link_is_tried_again() {
    let feed = feed_text(&format!(
        "{}{}{}{}<item><title>nothing</title></item>{}",
        item("of another scheme", "1", "file:///etc/passwd"),
        item("bad magnet", "2", "magnet:?xt=urn:btih:zz"),
        item("refuses", "3", "http://127.0.0.1:9/f"),
        item("same", "3", "/other"),
        item("good", "5", "/good"),
    ));
    let server = serve(&feed, |request| match request.target.as_str() {
        "/good" => Some(Answer::new(200, vec![1; 1000])),
        _ => Some(Answer::new(404, "")),
    });
    let bae = home(&server.url(), "");
    let daemon = Daemon::start(&bae, &[]);
    next_feed_event(&mut daemon.events(Some(0)));
    let all = downloads(&daemon);
    assert_eq!(all.len(), 2, "{all:#?}");
    daemon.wait_for_state(all[0]["id"].as_str().unwrap(), "done");
    let waiting = daemon.wait_for_state(all[1]["id"].as_str().unwrap(), "retrying");
    assert!(waiting["retry_at"].as_u64().is_some());
    let preview = daemon.call("GET", "/api/v1/feeds/f/preview", "").expect(200).json();
    let skips: Vec<_> =
        preview["items"].as_array().unwrap().iter().map(|item| item["skip"].as_str()).collect();
    let wanted = ["scheme", "unusable", "added", "duplicate", "no_link", "added"];
    assert_eq!(skips, wanted.map(Some), "{preview:#}");
}

#[test]
fn a_dry_run_says_what_would_be_added_and_adds_nothing() {
    let feed = feed_text(&format!(
        "{}{}",
        item("Linux &lt;b&gt;1&lt;/b&gt;", "1", "/1?passkey=hunter2"),
        item("beta", "2", "/2")
    ));
    let server = serve(&feed, |_| Some(Answer::new(404, "")));
    let bae = home(&server.url(), "exclude = [\"beta\"]");
    let url = format!("{}/feed.xml", server.url());
    let tested = bae.run(["--json", "queue", "feed", "test", "f"]).expect(0);
    assert!(!tested.stdout.contains("hunter2"), "{}", tested.stdout);
    let lines = tested.json();
    assert_eq!((&lines[0]["title"], &lines[0]["add"]), (&json!("Linux 1"), &json!(true)));
    assert_eq!((&lines[1]["skip"], &lines[1]["pattern"]), (&json!("excluded"), &json!("beta")));
    assert_eq!((&lines[2]["event"], &lines[2]["add"]), (&json!("tested"), &json!(1)));
    // Any URL, with rules of the command.
    let args = ["--json", "queue", "feed", "test", &url, "--include", "bet*"];
    let lines = bae.run(args).expect(0).json();
    assert_eq!((&lines[0]["skip"], &lines[1]["add"]), (&json!("not_included"), &json!(true)));
    let text = bae.run(["queue", "feed", "test", &url, "--exclude", "linux"]).expect(0);
    assert_eq!(text.stdout, "skip  Linux 1: excluded by \"linux\"\nadd   beta");
    bae.run(["queue", "feed", "test", "unknown"]).expect(3);
    bae.run(["queue", "feed", "test", "file:///etc/passwd"]).expect(2);
    assert!(bae.run(["--json", "queue", "list"]).expect(0).json().is_empty());
    // The same in a daemon. Its own first request adds the item.
    let daemon = Daemon::start(&bae, &[]);
    next_feed_event(&mut daemon.events(Some(0)));
    let lines = bae.run(["--json", "queue", "feed", "test", "f"]).expect(0).json();
    assert_eq!(lines[0]["skip"], "added");
    let listed = bae.run(["--json", "queue", "feeds"]).expect(0).json();
    assert_eq!((&listed[0]["name"], &listed[0]["added"]), (&json!("f"), &json!(1)));
    let refreshed = bae.run(["--json", "queue", "feed", "refresh", "f"]).expect(0).json();
    assert_eq!(refreshed[0]["unchanged"], true);
}

#[test]
fn a_busy_server_is_left_alone_for_as_long_as_it_asks() {
    let server = ScriptedHttp::start(|_, _| Some(Answer::new(503, "").with("Retry-After", 7200)));
    let bae = home(&server.url(), "");
    let daemon = Daemon::start(&bae, &[]);
    let checked = next_feed_event(&mut daemon.events(Some(0)));
    assert!(checked["error"].as_str().unwrap().contains("503"), "{checked}");
    for (method, path) in [("POST", "refresh"), ("GET", "preview")] {
        let refused = daemon.call(method, &format!("/api/v1/feeds/f/{path}"), "").expect(503);
        let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((7000..=7200).contains(&wait), "{wait}");
    }
    daemon.stop();
    let daemon = Daemon::start(&bae, &[]);
    daemon.call("POST", "/api/v1/feeds/f/refresh", "").expect(503);
    let shown = daemon.call("GET", "/api/v1/feeds/f", "").expect(200).json();
    assert_eq!((&shown["failures"], &shown["error"]["kind"]), (&json!(1), &json!("unavailable")));
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_feed_reaches_no_private_host_unless_its_section_allows_it_and_shows_no_passkey() {
    let feed = feed_text(&item("a", "1", "/a"));
    let server = serve(&feed, |_| Some(Answer::new(404, "")));
    let keys = "private_hosts = false\n[feed.html]\nurl = { env = \"BAE_TEST_FEED\" }";
    let url = format!("{}/0123456789abcdef/rss", server.url());
    let bae = home(&server.url(), keys).with_env(vec![("BAE_TEST_FEED".into(), url)]);
    let daemon = Daemon::start(&bae, &[]);
    daemon.call("POST", "/api/v1/feeds/f/refresh", "").expect(403);
    assert!(feed_requests(&server).is_empty());
    let refused = daemon.call("POST", "/api/v1/feeds/html/refresh", "").expect(404);
    let listed = daemon.call("GET", "/api/v1/feeds", "").expect(200);
    for text in [refused.text(), listed.text()] {
        assert!(!text.contains("0123456789abcdef"), "{text}");
    }
    daemon.call("GET", "/api/v1/feeds/unknown/preview", "").expect(404);
}
