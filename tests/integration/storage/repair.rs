//! Objects that were changed or lost are found, and repaired from the swarm.

use std::{ffi::OsString, fs, path::PathBuf};

use crate::support::{
    MIB,
    bae::Bae,
    peers::{LibtorrentPeer, Release},
    torrents::{Fixture, Recipe, Version},
};

fn chunks(bae: &Bae) -> Vec<PathBuf> {
    let mut open = vec![bae.storage_dir().to_owned()];
    let mut found = Vec::new();
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => open.push(path),
                false if path.to_str().unwrap().contains("manifest-") => {}
                false => found.push(path),
            }
        }
    }
    found.sort();
    found
}

fn repair(bae: &Bae, id: &str, seeder: &LibtorrentPeer) -> Vec<serde_json::Value> {
    let mut args: Vec<OsString> = ["--json", "verify", "--repair", id].map(Into::into).to_vec();
    args.extend(["--listen", &bae.listen.to_string(), "--peer"].map(Into::into));
    args.extend([seeder.addr().to_string(), "--no-dht".into(), "--no-lsd".into()].map(Into::into));
    bae.run(args).expect(0).json()
}

fn assert_repaired(version: Version) {
    let list = [("one.flac", 5 * MIB + 1), ("two.flac", 6 * MIB), ("three", 70_000)];
    let list = list.map(|(path, len)| (path.to_owned(), len)).to_vec();
    let torrent: Fixture =
        Recipe::folder("An Album to repair", list).version(version).piece(64 << 10).make();
    let bae = Bae::new().with_storage_options("chunk=1MiB");
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let id = bae.import(&torrent, &[seeder.addr()]).id;
    // Only chunks of the full length, so that it does not matter which of them was stored first.
    let mut objects = chunks(&bae);
    objects.retain(|path| fs::metadata(path).unwrap().len() == MIB);
    let mut bytes = fs::read(&objects[1]).unwrap();
    bytes[100_000] ^= 1;
    fs::write(&objects[1], bytes).unwrap();
    fs::remove_file(&objects[4]).unwrap();
    let short = fs::File::options().write(true).open(&objects[7]).unwrap();
    short.set_len(10).unwrap();

    let quick = bae.run(["verify", "--quick", "--json", &id]).expect(32).json();
    let lost = quick[0]["bad"].as_array().unwrap().len();
    assert!((16..=40).contains(&lost), "{lost} pieces of two objects");
    let found = bae.run(["--json", "verify", &id]).expect(32).json();
    let bad = found[0]["bad"].as_array().unwrap();
    assert_eq!(bad.len(), lost + 1, "the piece with a wrong byte is not found");
    assert!(bad.iter().all(|b| b["files"][0].as_str().unwrap().starts_with("An Album to repair/")));

    let lines = repair(&bae, &id, &seeder);
    let imported = lines.iter().find(|line| line["event"] == "imported").unwrap();
    let fetched = imported["downloaded"].as_u64().unwrap();
    assert!(fetched < 4 * MIB, "{fetched} bytes fetched for {lost} pieces");
    let last = lines.last().unwrap();
    assert_eq!(
        (&last["event"], last["bad"].as_array().map(Vec::len)),
        (&"verified".into(), Some(0))
    );
    bae.assert_verified(&id);
    bae.run(["verify", "--quick", &id]).expect(0);
    bae.assert_exact(&id, &torrent);
    let ls = bae.run(["ls", "--json"]).expect(0).json();
    assert_eq!(ls[0]["state"], "imported");
    // Nothing is left over, and the new manifest describes the import as it is now.
    let report = bae.run(["gc", "--json"]).expect(0).json();
    assert_eq!((&report[0]["objects"], &report[0]["uploads"]), (&0.into(), &0.into()));
    fs::remove_dir_all(bae.data_dir()).unwrap();
    bae.run(["attach", &bae.storage_url()]).expect(0);
    bae.run(["verify", "--quick", &id]).expect(0);
    bae.assert_exact(&id, &torrent);
}

#[test]
fn repair_refetches_changed_and_lost_objects() {
    assert_repaired(Version::V1);
}

#[test]
fn repair_refetches_objects_of_a_v2_torrent() {
    assert_repaired(Version::V2);
}

#[test]
fn a_repair_without_peers_keeps_good_bytes_and_can_be_repeated() {
    let torrent = Recipe::single("no peers.bin", 6 * MIB).piece(64 << 10).make();
    let bae = Bae::new().with_storage_options("chunk=1MiB");
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let id = bae.import(&torrent, &[seeder.addr()]).id;
    fs::remove_file(&chunks(&bae)[2]).unwrap();
    let without_peers = ["--timeout", "2s", "verify", "--repair", "--no-dht", "--no-lsd", &id];
    bae.run(without_peers).expect(6);
    let ls = bae.run(["ls", "--json"]).expect(0).json();
    assert_eq!((&ls[0]["state"], &ls[0]["stored"]), (&"importing".into(), &(5 * MIB).into()));
    bae.run(["gc", "--yes"]).expect(0);
    let summary = bae.import(&torrent, &[seeder.addr()]);
    assert_eq!(summary.id, id);
    assert!(summary.downloaded < 2 * MIB, "{} bytes fetched", summary.downloaded);
    bae.assert_exact(&id, &torrent);
}

#[test]
fn a_damaged_whole_file_is_repaired_under_its_name() {
    let list = [("large.flac", 9 * MIB + 5), ("small.flac", 400_000), ("gone", 70_000)];
    let list = list.map(|(path, len)| (path.to_owned(), len)).to_vec();
    let torrent = Recipe::folder("Whole files to repair", list).piece(64 << 10).make();
    let bae = Bae::new().with_storage_options("chunk=1MiB");
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let args = bae.import_args(&torrent.torrent, &[seeder.addr()], &["--layout", "files"]);
    let id = bae.run(args).expect(0).summary().id;
    let folder = bae.storage_dir().join(&torrent.name);
    for name in ["large.flac", "small.flac"] {
        let mut bytes = fs::read(folder.join(name)).unwrap();
        bytes[200_000] ^= 1;
        fs::write(folder.join(name), bytes).unwrap();
    }
    fs::remove_file(folder.join("gone")).unwrap();
    let found = bae.run(["verify", &id]).expect(32).stdout;
    assert!(found.contains("large.flac") && found.contains("gone"), "{found}");
    let lines = repair(&bae, &id, &seeder);
    let imported = lines.iter().find(|line| line["event"] == "imported").unwrap();
    let fetched = imported["downloaded"].as_u64().unwrap();
    assert!(fetched < 2 * MIB, "{fetched} bytes fetched for three pieces");
    assert_eq!(lines.last().unwrap()["bad"].as_array().map(Vec::len), Some(0));
    torrent.assert_same(&folder);
    let report = bae.run(["gc", "--json"]).expect(0).json();
    assert_eq!(report[0]["objects"], 0);
    bae.assert_exact(&id, &torrent);
}

/// Stored bytes that differ from the torrent are never returned as if they were right.
#[test]
fn changed_bytes_are_never_exported_or_printed() {
    let list = [("changed.bin", 3 * MIB), ("good.bin", 3 * MIB)];
    let list = list.map(|(path, len)| (path.to_owned(), len)).to_vec();
    for version in [Version::V1, Version::V2] {
        let recipe = Recipe::folder(&format!("A changed album {version:?}"), list.clone());
        let torrent = recipe.version(version).piece(64 << 10).make();
        let bae = Bae::new();
        let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
        let args = bae.import_args(&torrent.torrent, &[seeder.addr()], &["--layout", "files"]);
        let id = bae.run(args).expect(0).summary().id;
        let changed = bae.storage_dir().join(&torrent.name).join("changed.bin");
        let mut bytes = fs::read(&changed).unwrap();
        bytes[2_000_000] ^= 1;
        fs::write(&changed, bytes).unwrap();

        let out = bae.home().join("out");
        let output = bae.run(["export", &id, out.to_str().unwrap()]);
        assert_ne!(output.code, Some(0), "{}", output.stderr);
        let output = output
            .expect_stderr("stored bytes of piece")
            .expect_stderr("do not match the torrent's hash")
            .expect_stderr("changed.bin");
        output.expect_stderr("bae verify --repair");
        assert!(!out.join(&torrent.name).join("changed.bin").exists());
        let good = fs::read(out.join(&torrent.name).join("good.bin")).unwrap();
        assert_eq!(good, fs::read(torrent.data().join("good.bin")).unwrap());
        bae.run(["cat", &id, "changed.bin"]).expect(32).expect_stderr("stored bytes of piece");
        // The rest of the file is right.
        bae.run(["cat", &id, "changed.bin", "--range", "0-9999"]).expect(0);
    }
}
