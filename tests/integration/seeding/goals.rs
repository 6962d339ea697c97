//! Seed goals that are stored with an import.

use std::fs;

use serde_json::{Value, json};

use crate::support::{
    KIB, LONG, MIB,
    bae::{Bae, Running},
    peers::{LibtorrentPeer, Release},
    torrents::{Fixture, Recipe},
};

fn import_and_drop_seeder(bae: &Bae, name: &str) -> (Fixture, String) {
    let torrent = Recipe::single(name, 2 * MIB + 7).piece(256 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let id = bae.import(&torrent, &[seeder.addr()]).id;
    (torrent, id)
}

fn assert_leech_is_exact(bae: &Bae, torrent: &Fixture) {
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

fn wait_for_goal(running: &mut Running, id: &str) -> String {
    let is_goal_notice = |e: &Value| {
        e["id"] == id
            && e["text"]
                .as_str()
                .is_some_and(|text| text.starts_with("seed ") && text.contains(" reached"))
    };
    running.event_where("notice", is_goal_notice)["text"].as_str().unwrap().to_owned()
}

#[test]
fn a_seed_goal_is_stored_and_applies_to_a_running_bae() {
    let bae = Bae::new();
    let (torrent, id) = import_and_drop_seeder(&bae, "limited.bin");
    assert_eq!(limit(&bae, &id, &[]), json!({}));
    let mut running = bae.seed(&id, &[]);
    assert_leech_is_exact(&bae, &torrent);
    assert!(running.0.is_running(), "seeding ended without a goal");
    let goal = limit(&bae, &id, &["--seed-ratio", "0.5", "--seed-time", "7d"]);
    assert_eq!(goal, json!({ "ratio": 0.5, "seconds": 604_800 }));
    assert!(wait_for_goal(&mut running, &id).contains("seed ratio 0.5 reached"));
    running.wait(LONG).expect(0);
    // The next run has the goal, and a flag changes only its own part of it.
    assert_eq!(limit(&bae, &id, &["--seed-time", "0"]), json!({ "ratio": 0.5, "seconds": 0 }));
    let mut second = bae.seed(&id, &[]);
    wait_for_goal(&mut second, &id);
    second.wait(LONG).expect(0);
    let info = bae.run(["--json", "info", &id]).expect(0).json().remove(0);
    assert_eq!(info["goal"], json!({ "ratio": 0.5, "seconds": 0 }));
    assert!(bae.run(["info", &id]).expect(0).stdout.contains("ratio 0.5, no time"));
    assert_eq!(limit(&bae, &id, &["--reset", "--seed-ratio", "3"]), json!({ "ratio": 3.0 }));
    assert_eq!(limit(&bae, &id, &["--reset"]), json!({}));
    bae.run(["limit", "no such import", "--reset"]).expect(3);
    bae.run(["limit", &id, "--seed-ratio", "-1"]).expect(2);
}

#[test]
fn a_stored_seed_goal_overrides_the_config_and_flags_override_it() {
    let bae = Bae::new();
    let (one, free) = import_and_drop_seeder(&bae, "free.bin");
    let (other, usual) = import_and_drop_seeder(&bae, "usual.bin");
    let running = bae.seed_with(&free, &[], &[&usual]);
    assert_leech_is_exact(&bae, &one);
    assert_leech_is_exact(&bae, &other);
    running.interrupt();
    running.wait(LONG).expect(0);
    let config = bae.home().join("config/bae");
    fs::create_dir_all(&config).unwrap();
    fs::write(config.join("config.toml"), "[seeding]\nratio = 0.5\n").unwrap();
    limit(&bae, &free, &["--no-limit"]);
    let mut running = bae.seed_with(&free, &[], &[&usual]);
    wait_for_goal(&mut running, &usual);
    // Both imports are checked together, so a goal of `free` would have ended it too.
    assert_leech_is_exact(&bae, &one);
    assert!(running.0.is_running());
    running.interrupt();
    running.wait(LONG).expect(0);
    let mut running = bae.seed_with(&free, &[], &["--seed-ratio", "0.5"]);
    wait_for_goal(&mut running, &free);
    running.wait(LONG).expect(0);
}
