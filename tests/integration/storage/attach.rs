//! `bae attach` rebuilds a lost catalog from the storage alone.

use std::{fs, path::PathBuf};

use bae::storage::map::generated_key::GeneratedKey;

use crate::support::{
    LONG, MIB,
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
    let mut open = vec![bae.storage_dir().to_owned()];
    let mut found = Vec::new();
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let key =
                    path.strip_prefix(bae.storage_dir()).unwrap().to_str().unwrap().to_owned();
                found.push((key, path));
            }
        }
    }
    found.sort();
    found
}

fn is_manifest(key: &str) -> bool {
    GeneratedKey::parse(key).is_some_and(|key| key.is_manifest)
}

fn delete_catalog(bae: &Bae) {
    fs::remove_dir_all(bae.data_dir()).unwrap();
}

fn attach(bae: &Bae, code: i32) -> Vec<serde_json::Value> {
    bae.run(["--json", "attach", &bae.storage_url()]).expect(code).json()
}

#[test]
fn a_lost_catalog_is_rebuilt_from_storage_alone() {
    let (bae, torrent) = (Bae::new(), album());
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let id = bae.import(&torrent, &[seeder.addr()]).id;
    let before = bae.run(["ls", "--json"]).expect(0).stdout;
    let info = bae.run(["info", &id, "--json"]).expect(0).stdout;
    let stored = objects(&bae);
    assert_eq!(stored.iter().filter(|(key, _)| is_manifest(key)).count(), 1);

    delete_catalog(&bae);
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
    assert_eq!(objects(&bae), stored, "attach or gc changed the storage");
    let second = attach(&bae, 0);
    assert_eq!((&second[0]["event"], &second[1]["skipped"]), (&"skipped".into(), &1.into()));

    // bae seeds the attached import. Importing it again replaces the old manifest by one of the new catalog.
    let running = bae.seed(&id, &[]);
    let mut leecher = LibtorrentPeer::leech(Release::Debian, &torrent, bae.listen);
    torrent.assert_same(&leecher.wait_done().join(&torrent.name));
    drop(running);
    let summary = bae.import(&torrent, &[seeder.addr()]);
    assert_eq!((summary.id.as_str(), summary.downloaded), (id.as_str(), 0));
    let manifests: Vec<_> = objects(&bae).into_iter().filter(|(key, _)| is_manifest(key)).collect();
    assert!(manifests.len() == 1 && !stored.contains(&manifests[0]), "{manifests:?}");
    delete_catalog(&bae);
    attach(&bae, 0);
    bae.assert_exact(&id, &torrent);
    bae.run(["rm", &id, "--yes"]).expect(0);
    assert_eq!(bae.object_count(), 0);
    bae.run(["attach", &bae.storage_url()]).expect(3).expect_stderr("no manifest");
}

#[test]
fn an_attached_import_with_lost_objects_is_incomplete_and_can_be_completed() {
    let (bae, torrent) = (Bae::new().with_storage_options("chunk=1MiB"), album());
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let id = bae.import(&torrent, &[seeder.addr()]).id;
    delete_catalog(&bae);
    let chunks: Vec<_> = objects(&bae).into_iter().filter(|(key, _)| !is_manifest(key)).collect();
    fs::remove_file(&chunks[0].1).unwrap();
    let chunk = fs::File::options().write(true).open(&chunks[1].1).unwrap();
    chunk.set_len(chunk.metadata().unwrap().len() - 1).unwrap();
    let lines = attach(&bae, 0);
    assert_eq!((&lines[0]["state"], &lines[0]["missing"]), (&"importing".into(), &2.into()));
    let lost = lines[0]["lost"].as_u64().unwrap();
    let summary = bae.import(&torrent, &[seeder.addr()]);
    assert_eq!(summary.id, id);
    assert!(
        (lost..lost + MIB).contains(&summary.downloaded),
        "{} bytes fetched, {lost} were lost",
        summary.downloaded
    );
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
fn an_interrupted_import_is_attached_too() {
    let torrent = Recipe::single("half lost.bin", 48 * MIB).piece(256 << 10).make();
    let (bae, seeder) = (Bae::new(), LibtorrentPeer::slow_seed(&torrent, 12 * MIB));
    let mut running = bae.start_import(&torrent, &[seeder.addr()]);
    running.event_where("progress", |e| e["downloaded"].as_u64() > Some(16 * MIB));
    running.interrupt();
    running.wait(LONG).expect(7);
    delete_catalog(&bae);
    let lines = attach(&bae, 0);
    assert_eq!(lines[0]["state"], "importing");
    let stored = lines[0]["stored"].as_u64().unwrap();
    assert!(stored > 8 * MIB, "{stored}");
    let summary = bae.import(&torrent, &[seeder.addr()]);
    assert!(
        summary.downloaded <= torrent.bytes - stored + 2 * MIB,
        "{} fetched",
        summary.downloaded
    );
    bae.assert_exact(&summary.id, &torrent);
}

#[test]
fn a_torrent_in_two_storages_is_attached_from_both() {
    let (mut bae, torrent) = (Bae::new(), album());
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let storages = [bae.home().join("one"), bae.home().join("other")];
    let mut ids = Vec::new();
    for storage in &storages {
        bae = bae.with_storage_dir(storage);
        let args = bae.import_args(&torrent.torrent, &[seeder.addr()], &["--layout", "files"]);
        ids.push(bae.run(args).expect(0).summary().id);
    }
    delete_catalog(&bae);
    for (storage, id) in storages.iter().zip(&ids) {
        bae = bae.with_storage_dir(storage);
        let lines = attach(&bae, 0);
        assert_eq!(
            (&lines[0]["event"], &lines[0]["id"]),
            (&"attached".into(), &id.as_str().into())
        );
    }
    // The same storage under another path is recognised.
    let link = bae.home().join("link");
    std::os::unix::fs::symlink(&storages[0], &link).unwrap();
    bae = bae.with_storage_dir(&link);
    let lines = attach(&bae, 0);
    assert_eq!((&lines[0]["event"], &lines[1]["attached"]), (&"skipped".into(), &0.into()));
    bae.run(["gc", "--yes"]).expect(0);
    bae.run(["rm", &ids[0], "--yes"]).expect(0);
    bae.assert_exact(&ids[1], &torrent);
    torrent.assert_same(&storages[1].join(&torrent.name));
}
