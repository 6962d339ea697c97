//! Categories of the config file: watch folders, exports, and hooks at the end of a download.

use std::fs;

use serde_json::json;

use super::id_of;
use crate::support::{
    KIB, LONG, MIB,
    bae::Bae,
    daemon::{Daemon, write_config},
    nginx::Nginx,
    peers::{LibtorrentPeer, Release},
    torrents::Recipe,
    wait_until,
};

/// A home with a category `films`, whose finished downloads are exported, and a hook that writes its environment.
fn home() -> Bae {
    let bae = Bae::new();
    let dir = bae.home().display();
    for name in ["films", "watch"] {
        fs::create_dir(bae.home().join(name)).unwrap();
    }
    let config = format!(
        "[category.films]\nexport = \"{dir}/films\"\nwatch = \"{dir}/watch\"\ntags = [\"film\"]\n\
         [hooks]\non_complete = [\"/bin/sh\", \"-c\", \"(env; ls -l /proc/self/fd) > $0.new; mv $0.new $0\", \"{dir}/hook\"]\n"
    );
    write_config(&bae, &config);
    bae
}

#[test]
fn a_watched_torrent_is_imported_exported_and_reported_to_the_hook() {
    let torrent = Recipe::single("a $(film); x.bin", 2 * MIB).piece(64 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let bae = home();
    let watched = bae.home().join("watch/film.torrent");
    fs::copy(&torrent.torrent, &watched).unwrap();
    let daemon = Daemon::start(&bae, &[seeder.addr()]);
    let mut events = daemon.events(Some(0));
    let done = events.next_where(|e| e["event"] == "download" && e["state"] == "done");
    let id = done["download"].as_str().unwrap();
    let download = daemon.download(id);
    assert_eq!((&download["category"], &download["tags"]), (&json!("films"), &json!(["film"])));
    let exported = bae.home().join("films").join(&torrent.name);
    assert_eq!(download["exported"], json!(exported));
    torrent.assert_same(&exported);
    let hook = bae.home().join("hook");
    wait_until("the hook has run", LONG, || hook.exists());
    let facts = fs::read_to_string(hook).unwrap();
    for fact in [
        "BAE_EVENT=complete".to_owned(),
        format!("BAE_NAME={}", torrent.name),
        format!("BAE_PATH={}", exported.display()),
        format!("BAE_INFO_HASH={}", torrent.info_hash()),
        "BAE_DOWNLOAD_CATEGORY=films".to_owned(),
    ] {
        assert!(facts.lines().any(|line| line == fact), "{fact} is not in\n{facts}");
    }
    assert!(!facts.contains("socket:"), "the hook inherited a socket\n{facts}");
    wait_until("the file is marked", LONG, || bae.home().join("watch/film.torrent.added").exists());
    assert!(!watched.exists());
}

#[test]
fn clients_make_categories_without_folders_and_cannot_change_those_of_the_config() {
    let server = Nginx::start();
    server.serve("f.bin", &[3; 1000]);
    let bae = home();
    let daemon = Daemon::start(&bae, &[]);
    daemon.call("PUT", "/api/v1/categories/mine", "{}").expect(201);
    daemon.call("PUT", "/api/v1/categories/mine", r#"{"storage":"main"}"#).expect(204);
    daemon.call("PUT", "/api/v1/categories/mine", r#"{"export":"/tmp"}"#).expect(422);
    daemon.call("PUT", "/api/v1/categories/..%2Fx", "{}").expect(400);
    daemon.call("PUT", "/api/v1/categories/films", r#"{"storage":"main"}"#).expect(403);
    daemon.call("DELETE", "/api/v1/categories/films", "").expect(403);
    let added = daemon.add(&json!({ "url": server.url("/f.bin"), "category": "mine" }));
    let done = daemon.wait_for_state(&id_of(&added), "done");
    assert_eq!((&done["category"], &done["exported"]), (&json!("mine"), &json!(null)));
    daemon.call("DELETE", "/api/v1/categories/mine", "").expect(204);
    assert_eq!(daemon.download(&id_of(&added))["category"], json!(null));
}
