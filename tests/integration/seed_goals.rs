//! Seed goals that are stored with an import.

use std::{fs, time::Duration};

use serde_json::{Value, json};

use crate::support::{
    KIB, MIB,
    bae::{Bae, Running},
    peers::{LibtorrentPeer, Release},
    torrents::{Fixture, Recipe},
};

fn imported(bae: &Bae, name: &str) -> (Fixture, String) {
    let torrent = Recipe::single(name, 2 * MIB + 7).piece(256 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let id = bae.import(&torrent, &[seeder.addr()]).id;
    (torrent, id)
}

fn leeches_exactly(bae: &Bae, torrent: &Fixture) {
    let mut leecher = LibtorrentPeer::leech(Release::Newest, torrent, bae.listen);
    torrent.assert_same(&leecher.wait_done().join(&torrent.name));
}

/// The goal that `bae limit` reports.
fn limit(bae: &Bae, id: &str, flags: &[&str]) -> Value {
    let args = ["--json", "limit", id].into_iter().chain(flags.iter().copied());
    let line = bae.run(args).expect(0).json().remove(0);
    assert_eq!((&line["event"], &line["id"]), (&json!("limits"), &json!(id)));
    line["goal"].clone()
}

fn enough(running: &mut Running, id: &str) -> String {
    let said = |e: &Value| {
        e["id"] == id && e["text"].as_str().is_some_and(|text| text.starts_with("seeded enough"))
    };
    running.event_where("notice", said)["text"].as_str().unwrap().to_owned()
}

#[test]
fn a_limit_of_an_import_is_kept_and_counts_for_a_bae_that_seeds_it() {
    let bae = Bae::new();
    let (torrent, id) = imported(&bae, "limited.bin");
    assert_eq!(limit(&bae, &id, &[]), json!({}));
    let mut running = bae.seed(&id, &[]);
    leeches_exactly(&bae, &torrent);
    assert!(running.0.is_running(), "nothing was said of an end");
    let said = limit(&bae, &id, &["--seed-ratio", "0.5", "--seed-time", "7d"]);
    assert_eq!(said, json!({ "ratio": 0.5, "seconds": 604_800 }));
    assert!(enough(&mut running, &id).contains("0.5 times"));
    running.ended(Duration::from_secs(30)).expect(0);
    // The next run has the goal, and a flag changes only its own part of it.
    assert_eq!(limit(&bae, &id, &["--seed-time", "0"]), json!({ "ratio": 0.5, "seconds": 0 }));
    let mut again = bae.seed(&id, &[]);
    enough(&mut again, &id);
    again.ended(Duration::from_secs(30)).expect(0);
    let info = bae.run(["--json", "info", &id]).expect(0).json().remove(0);
    assert_eq!(info["goal"], json!({ "ratio": 0.5, "seconds": 0 }));
    assert!(bae.run(["info", &id]).expect(0).stdout.contains("ratio 0.5, no time"));
    assert_eq!(limit(&bae, &id, &["--reset", "--seed-ratio", "3"]), json!({ "ratio": 3.0 }));
    assert_eq!(limit(&bae, &id, &["--reset"]), json!({}));
    bae.run(["limit", "no such import", "--reset"]).expect(3);
    bae.run(["limit", &id, "--seed-ratio", "-1"]).expect(2);
}

#[test]
fn a_limit_of_an_import_is_stronger_than_the_config_and_weaker_than_the_flags_of_a_run() {
    let bae = Bae::new();
    let (one, free) = imported(&bae, "free.bin");
    let (other, usual) = imported(&bae, "usual.bin");
    let running = bae.seed_with(&free, &[], &[&usual]);
    leeches_exactly(&bae, &one);
    leeches_exactly(&bae, &other);
    running.interrupt();
    running.ended(Duration::from_secs(30)).expect(0);
    let config = bae.home().join("config/bae");
    fs::create_dir_all(&config).unwrap();
    fs::write(config.join("config.toml"), "[seeding]\nratio = 0.5\n").unwrap();
    limit(&bae, &free, &["--no-limit"]);
    let mut running = bae.seed_with(&free, &[], &[&usual]);
    enough(&mut running, &usual);
    // Both imports are checked together, so a goal of `free` would have ended it too.
    leeches_exactly(&bae, &one);
    assert!(running.0.is_running());
    running.interrupt();
    running.ended(Duration::from_secs(30)).expect(0);
    let mut running = bae.seed_with(&free, &[], &["--seed-ratio", "0.5"]);
    enough(&mut running, &free);
    running.ended(Duration::from_secs(30)).expect(0);
}
