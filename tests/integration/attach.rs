//! `bae attach` rebuilds a lost catalog from the storage alone.

use std::{fs, path::PathBuf};

use bae::storage::manifest::OwnKey;

use crate::support::{
    MIB,
    bae::Bae,
    peers::{LibtorrentPeer, Release},
    torrents::{Fixture, Recipe},
};

fn album() -> Fixture {
    let list = [("01 one.flac", 3 * MIB + 1), ("02 two.flac", 900_000), ("cover.jpg", 1_234)];
    let list = list.map(|(path, len)| (path.to_owned(), len));
    Recipe::folder("An Album to lose", list.to_vec()).piece(64 << 10).make()
}

/// Every object in the storage: its key and its path, sorted by key.
fn objects(bae: &Bae) -> Vec<(String, PathBuf)> {
    let mut open = vec![bae.objects().to_owned()];
    let mut found = Vec::new();
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let key = path.strip_prefix(bae.objects()).unwrap().to_str().unwrap().to_owned();
                found.push((key, path));
            }
        }
    }
    found.sort();
    found
}

fn is_manifest(key: &str) -> bool {
    OwnKey::parse(key).is_some_and(|key| key.is_manifest)
}

fn lose_catalog(bae: &Bae) {
    fs::remove_dir_all(bae.data_dir()).unwrap();
}

fn attach(bae: &Bae, code: i32) -> Vec<serde_json::Value> {
    bae.run(["--json", "attach", &bae.storage_url()]).expect(code).json()
}

#[test]
fn a_lost_catalog_is_rebuilt_from_the_place_alone() {
    let (bae, torrent) = (Bae::new(), album());
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let id = bae.import(&torrent, &[seeder.addr()]).id;
    let before = bae.run(["ls", "--json"]).expect(0).stdout;
    let info = bae.run(["info", &id, "--json"]).expect(0).stdout;
    let there = objects(&bae);
    assert_eq!(there.iter().filter(|(key, _)| is_manifest(key)).count(), 1);

    lose_catalog(&bae);
    let dry = bae.run(["attach", &bae.storage_url(), "--dry-run"]).expect(0);
    assert!(dry.stdout.contains("would attach 1 import"), "{}", dry.stdout);
    assert_eq!(bae.run(["ls", "--json"]).expect(0).stdout, "");
    let lines = attach(&bae, 0);
    assert_eq!((&lines[0]["event"], &lines[0]["id"]), (&"attached".into(), &id.as_str().into()));
    assert_eq!((&lines[1]["event"], &lines[1]["attached"]), (&"attach".into(), &1.into()));
    assert_eq!(bae.run(["ls", "--json"]).expect(0).stdout, before);
    assert_eq!(bae.run(["info", &id, "--json"]).expect(0).stdout, info);
    bae.assert_verified(&id);
    bae.assert_exact(&id, &torrent);
    bae.run(["gc", "--yes"]).expect(0);
    assert_eq!(objects(&bae), there, "attaching and gc change nothing in the place");
    let again = attach(&bae, 0);
    assert_eq!((&again[0]["event"], &again[1]["skipped"]), (&"skipped".into(), &1.into()));

    // bae seeds the attached import. Importing it again replaces the old manifest by one of the new catalog.
    let running = bae.seed(&id, &[]);
    let mut leecher = LibtorrentPeer::leech(Release::Debian, &torrent, bae.listen);
    torrent.assert_same(&leecher.wait_done().join(&torrent.name));
    drop(running);
    let same = bae.import(&torrent, &[seeder.addr()]);
    assert_eq!((same.id.as_str(), same.downloaded), (id.as_str(), 0));
    let manifests: Vec<_> = objects(&bae).into_iter().filter(|(key, _)| is_manifest(key)).collect();
    assert!(manifests.len() == 1 && !there.contains(&manifests[0]), "{manifests:?}");
    lose_catalog(&bae);
    attach(&bae, 0);
    bae.assert_exact(&id, &torrent);
    bae.run(["rm", &id, "--yes"]).expect(0);
    assert_eq!(bae.object_count(), 0);
    bae.run(["attach", &bae.storage_url()]).expect(3).says("no manifest");
}

#[test]
fn an_import_that_lost_objects_comes_back_incomplete_and_is_completed() {
    let (bae, torrent) = (Bae::new().storing_with("chunk=1MiB"), album());
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let id = bae.import(&torrent, &[seeder.addr()]).id;
    lose_catalog(&bae);
    let chunks: Vec<_> = objects(&bae).into_iter().filter(|(key, _)| !is_manifest(key)).collect();
    fs::remove_file(&chunks[0].1).unwrap();
    let cut = fs::File::options().write(true).open(&chunks[1].1).unwrap();
    cut.set_len(cut.metadata().unwrap().len() - 1).unwrap();
    let lines = attach(&bae, 0);
    assert_eq!((&lines[0]["state"], &lines[0]["missing"]), (&"importing".into(), &2.into()));
    let lost = lines[0]["lost"].as_u64().unwrap();
    let done = bae.import(&torrent, &[seeder.addr()]);
    assert_eq!(done.id, id);
    assert!((lost..lost + MIB).contains(&done.downloaded), "{} for {lost}", done.downloaded);
    bae.assert_verified(&id);
    bae.assert_exact(&id, &torrent);
    // The truncated object belongs to the old catalog, so gc removes it only with `--yes`.
    let report = bae.run(["gc", "--json"]).expect(0).json();
    assert_eq!((&report[0]["objects"], &report[0]["held_back"]), (&0.into(), &1.into()));
    let report = bae.run(["gc", "--json", "--yes"]).expect(0).json();
    assert_eq!((&report[0]["objects"], &report[0]["held_back"]), (&1.into(), &0.into()));
    bae.assert_exact(&id, &torrent);
}

#[test]
fn an_import_stopped_in_the_middle_is_found_again_too() {
    let torrent = Recipe::single("half lost.bin", 48 * MIB).piece(256 << 10).make();
    let (bae, seeder) = (Bae::new(), LibtorrentPeer::slow_seed(&torrent, 12 * MIB));
    let mut running = bae.start_import(&torrent, &[seeder.addr()]);
    running.event_where("progress", |e| e["downloaded"].as_u64() > Some(16 * MIB));
    running.interrupt();
    running.ended(std::time::Duration::from_secs(30)).expect(7);
    lose_catalog(&bae);
    let lines = attach(&bae, 0);
    assert_eq!(lines[0]["state"], "importing");
    let stored = lines[0]["stored"].as_u64().unwrap();
    assert!(stored > 8 * MIB, "{stored}");
    let done = bae.import(&torrent, &[seeder.addr()]);
    assert!(done.downloaded <= torrent.bytes - stored + 2 * MIB, "{} fetched", done.downloaded);
    bae.assert_exact(&done.id, &torrent);
}

#[test]
fn a_torrent_whose_files_are_in_two_places_comes_back_from_both() {
    let (mut bae, torrent) = (Bae::new(), album());
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let places = [bae.home().join("one"), bae.home().join("other")];
    let mut ids = Vec::new();
    for place in &places {
        bae = bae.storing_in(place);
        let args = bae.import_args(&torrent.torrent, &[seeder.addr()], &["--layout", "files"]);
        ids.push(bae.run(args).expect(0).imported().id);
    }
    lose_catalog(&bae);
    for (place, id) in places.iter().zip(&ids) {
        bae = bae.storing_in(place);
        let lines = attach(&bae, 0);
        assert_eq!(
            (&lines[0]["event"], &lines[0]["id"]),
            (&"attached".into(), &id.as_str().into())
        );
    }
    // The same place by another name is still told.
    let link = bae.home().join("link");
    std::os::unix::fs::symlink(&places[0], &link).unwrap();
    bae = bae.storing_in(&link);
    let lines = attach(&bae, 0);
    assert_eq!((&lines[0]["event"], &lines[1]["attached"]), (&"skipped".into(), &0.into()));
    bae.run(["gc", "--yes"]).expect(0);
    bae.run(["rm", &ids[0], "--yes"]).expect(0);
    bae.assert_exact(&ids[1], &torrent);
    torrent.assert_same(&places[1].join(&torrent.name));
}
