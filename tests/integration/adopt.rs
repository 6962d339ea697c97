//! `bae adopt`: files that are in a storage already are seeded from where they are and stay the user's.

use std::{
    fs,
    path::{Path, PathBuf},
};

use bae::backends::{Key, MemoryNotes, Payload, S3Backend, StorageBackend};
use bytes::Bytes;
use serde_json::Value;

use crate::support::{
    KIB, MIB,
    bae::{Bae, Ran},
    peers::{LibtorrentPeer, Release},
    player::{Player, ask, curl},
    s3_server::{S3Server, runtime},
    torrents::{Fixture, Recipe, Version},
};

fn album(name: &str) -> Recipe {
    let list = [
        ("CD 1/01.flac", 5 * MIB + 1),
        ("CD 1/02.flac", 3 * MIB),
        ("cover.jpg", 100_000),
        ("empty", 0),
        ("notes.txt", 1_234),
    ];
    let list = list.map(|(path, len)| (path.to_owned(), len)).to_vec();
    Recipe::folder(name, list).piece(64 * KIB)
}

/// The torrent's files as a user keeps them: one is renamed, and one file of the folder is not of the torrent.
fn library(torrent: &Fixture, dir: &Path) -> PathBuf {
    let folder = dir.join("library");
    let data = torrent.data();
    for path in ["CD 1/01.flac", "cover.jpg", "empty", "notes.txt"] {
        let to = folder.join("music").join(path);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(data.join(path), to).unwrap();
    }
    fs::copy(data.join("CD 1/02.flac"), folder.join("music/renamed.flac")).unwrap();
    fs::write(folder.join("music/another.txt"), b"not of the torrent").unwrap();
    folder
}

fn adopt(bae: &Bae, torrent: &Fixture, from: &str) -> Ran {
    let args = ["--json", "adopt", torrent.torrent.to_str().unwrap(), "--from", from];
    bae.run(args)
}

fn adopted(bae: &Bae, torrent: &Fixture, from: &str) -> Value {
    let mut lines = adopt(bae, torrent, from).expect(0).json();
    lines.pop().expect("a summary")
}

/// All files below a folder, sorted by path, with their bytes.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let (mut open, mut all) = (vec![dir.to_owned()], Vec::new());
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            all.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    all.sort();
    all
}

fn file_url(dir: &Path) -> String {
    format!("file://{}", dir.display())
}

fn seeds_exactly(bae: &Bae, id: &str, torrent: &Fixture) {
    let _seeding = bae.seed(id, &[]);
    let mut leecher = LibtorrentPeer::leech(Release::Debian, torrent, bae.listen);
    let dir = leecher.wait_done();
    torrent.assert_same(&dir.join(&torrent.name));
}

#[test]
fn files_that_are_there_already_are_seeded_in_place_and_never_removed() {
    for version in [Version::V1, Version::V2, Version::Hybrid] {
        let torrent = album("adopted").version(version).make();
        let bae = Bae::new();
        let folder = library(&torrent, bae.home());
        let music = folder.join("music");
        let before = contents(&music);
        let dry = bae.run([
            "--json",
            "adopt",
            "--dry-run",
            torrent.torrent.to_str().unwrap(),
            "--from",
            &file_url(&music),
        ]);
        let dry = dry.expect(0).json();
        assert_eq!((&dry[0]["id"], &dry[0]["state"]), (&"".into(), &"imported".into()), "{dry:?}");
        assert!(bae.run(["ls", "--json"]).expect(0).json().is_empty());

        let summary = adopted(&bae, &torrent, &file_url(&music));
        assert_eq!(summary["state"], "imported", "{summary}");
        assert_eq!(summary["adopted"].as_u64(), Some(torrent.bytes));
        assert_eq!(
            (summary["files"].as_u64(), summary["bytes"].as_u64()),
            (Some(5), Some(torrent.bytes))
        );
        let id = summary["id"].as_str().unwrap();
        let info = bae.run(["--json", "info", id]).expect(0).json();
        let files = info[0]["file_list"].as_array().unwrap();
        let second = files.iter().find(|f| f["path"] == "adopted/CD 1/02.flac").unwrap();
        assert_eq!(second["key"], "renamed.flac", "{}", info[0]);
        bae.assert_verified(id);
        bae.assert_exact(id, &torrent);
        seeds_exactly(&bae, id, &torrent);
        adopt(&bae, &torrent, &file_url(&music)).expect(1).says("already");

        // Nothing was copied. The only new file is a manifest, and `rm` removes it with the import.
        let chunks = |dir: &Path| {
            let all = contents(dir).into_iter();
            all.filter(|(path, _)| !before.iter().any(|(known, _)| known == path))
                .map(|(path, _)| path)
                .collect::<Vec<_>>()
        };
        let more = chunks(&music);
        assert!(more.len() == 1 && more[0].to_str().unwrap().contains("/manifest-"), "{more:?}");
        bae.run(["--json", "gc", "--yes"]).expect(0);
        let removed = bae.run(["--json", "rm", id]).expect(0).json();
        assert_eq!(removed[0]["objects"].as_u64(), Some(0), "{removed:?}");
        bae.run(["--json", "gc", "--yes"]).expect(0);
        assert!(contents(&music) == before, "{version:?}: the user's files are not what they were");
    }
}

#[test]
fn a_file_that_changed_after_it_was_adopted_is_noticed_and_not_served() {
    let torrent = album("changed").make();
    let bae = Bae::new();
    let music = library(&torrent, bae.home()).join("music");
    let id = adopted(&bae, &torrent, &file_url(&music))["id"].as_str().unwrap().to_owned();
    let path = music.join("CD 1/01.flac");
    let mut bytes = fs::read(&path).unwrap();
    bytes[1_000_000] ^= 1;
    // The length stays the same, so the modification time must differ; a file system may record it in steps of some
    // milliseconds.
    std::thread::sleep(std::time::Duration::from_millis(50));
    fs::write(&path, &bytes).unwrap();
    bae.run(["cat", &id, "CD 1/01.flac", "--range", "0-9"]).expect(32).says("not what was adopted");
    assert_eq!(bae.bytes(["cat", &id, "CD 1/02.flac", "--range", "0-9"]).len(), 10);
    let player = Player::start(&bae, &id, &[]);
    let refused = ask("GET", &player.url("01.flac"), &[]);
    assert_eq!(refused.status, 502, "{}", refused.text());
    assert!(curl(&[], &player.url("cover.jpg")) == fs::read(music.join("cover.jpg")).unwrap());
    drop(player);
    let found = bae.run(["verify", &id]).expect(32).stdout;
    assert!(found.contains("01.flac") && !found.contains("02.flac: "), "{found}");

    let quick = bae.run(["verify", "--quick", &id]).expect(32).stdout;
    assert!(quick.contains("01.flac"), "{quick}");

    // The repair fetches from the swarm into chunks of the import. The user's changed file stays as it is.
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let peer = seeder.addr().to_string();
    let repair = ["verify", "--repair", "--no-dht", "--no-lsd", "--no-utp", "--peer", &peer, &id];
    bae.run(repair).expect(0);
    bae.assert_exact(&id, &torrent);
    bae.run(["gc", "--yes"]).expect(0);
    assert!(fs::read(&path).unwrap() == bytes, "the user's file was touched");
    bae.run(["rm", &id]).expect(0);
    bae.run(["gc", "--yes"]).expect(0);
    assert!(fs::read(&path).unwrap() == bytes && music.join("renamed.flac").exists());
}

#[test]
fn what_is_missing_or_differs_is_listed_and_fetched_beside_what_was_adopted() {
    let torrent = album("partly there").make();
    let bae = Bae::new();
    let music = library(&torrent, bae.home()).join("music");
    fs::remove_file(music.join("renamed.flac")).unwrap();
    let mut bytes = fs::read(music.join("CD 1/01.flac")).unwrap();
    bytes[2_000_000] ^= 1;
    fs::write(music.join("CD 1/01.flac"), &bytes).unwrap();
    let before = contents(&music);
    let url = file_url(&music);
    let summary = adopted(&bae, &torrent, &url);
    assert_eq!(summary["state"], "importing", "{summary}");
    let missing = summary["missing"].as_array().unwrap();
    let reason = |path: &str| {
        let found = missing.iter().find(|f| f["path"].as_str().unwrap().ends_with(path));
        found.unwrap_or_else(|| panic!("{path} is not in {summary}"))
    };
    assert_eq!(reason("02.flac")["missing"].as_u64(), Some(3 * MIB));
    let first = reason("01.flac")["missing"].as_u64().unwrap();
    assert!(first > 0 && first <= 128 * KIB, "a piece that differs, and one it shares: {first}");
    let id = summary["id"].as_str().unwrap();

    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let peer = seeder.addr().to_string();
    let args = ["--json", "import", torrent.torrent.to_str().unwrap(), "--storage", &url];
    let network = ["--no-dht", "--no-lsd", "--no-utp", "--peer", &peer];
    let done = bae.run(args.into_iter().chain(network)).expect(0).imported();
    assert_eq!(done.id, id);
    assert!(done.downloaded < 4 * MIB, "{} fetched", done.downloaded);
    bae.assert_verified(id);
    bae.assert_exact(id, &torrent);
    seeds_exactly(&bae, id, &torrent);
    let leftovers = bae.run(["--json", "gc"]).expect(0).json();
    assert_eq!(leftovers[0]["objects"].as_u64(), Some(0), "{leftovers:?}");
    bae.run(["rm", id]).expect(0);
    bae.run(["gc", "--yes"]).expect(0);
    assert!(contents(&music) == before, "the user's files are not what they were");
}

#[test]
fn nothing_is_recorded_when_nothing_fits() {
    let torrent = album("nothing fits").make();
    let bae = Bae::new();
    let elsewhere = bae.home().join("elsewhere");
    fs::create_dir_all(&elsewhere).unwrap();
    fs::write(elsewhere.join("x"), b"x").unwrap();
    adopt(&bae, &torrent, &file_url(&elsewhere)).expect(3).says("no file of");
    // The names and lengths are right, the bytes are not.
    for path in ["CD 1/01.flac", "CD 1/02.flac"] {
        let to = elsewhere.join(path);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        let len = fs::metadata(torrent.data().join(path)).unwrap().len();
        fs::write(to, vec![7; len as usize]).unwrap();
    }
    adopt(&bae, &torrent, &file_url(&elsewhere)).expect(32).says("is what");
    let magnet = ["adopt", &torrent.magnet(), "--from", &file_url(&elsewhere)];
    bae.run(magnet).expect(1).says("magnet");
    assert!(bae.run(["ls", "--json"]).expect(0).json().is_empty());
}

#[test]
fn objects_of_a_bucket_are_adopted_and_a_lost_catalog_finds_them_again() {
    let torrent = album("in a bucket").make();
    let server = S3Server::seaweed();
    let bucket = server.bucket("adopt");
    let open = || async {
        let settings = server.settings(&bucket, "my/music");
        S3Backend::open(settings, std::sync::Arc::new(MemoryNotes::default())).await.unwrap()
    };
    let put = |key: &str, bytes: Vec<u8>| {
        let body: Payload = bytes.chunks(MIB as usize).map(Bytes::copy_from_slice).collect();
        let key = Key::new(key).unwrap();
        runtime().block_on(async { open().await.put(&key, body).await.unwrap() });
    };
    for path in ["CD 1/01.flac", "CD 1/02.flac", "cover.jpg", "notes.txt"] {
        put(&format!("{}/{path}", torrent.name), fs::read(torrent.data().join(path)).unwrap());
    }
    let url = server.storage_url(&bucket, "my/music");
    let before = server.objects(&bucket);
    let bae = Bae::new().storing_at(&url, server.env());
    let summary = adopted(&bae, &torrent, &url);
    assert_eq!(summary["state"], "imported", "{summary}");
    let id = summary["id"].as_str().unwrap();
    bae.assert_exact(id, &torrent);
    seeds_exactly(&bae, id, &torrent);

    // The catalog is lost. The manifest in the bucket records what was adopted, and that those objects are the
    // user's.
    fs::remove_dir_all(bae.data_dir()).unwrap();
    let attached = bae.run(["--json", "attach", &url]).expect(0).json();
    assert_eq!(attached[0]["state"], "imported", "{attached:?}");
    let id = attached[0]["id"].as_str().unwrap();
    bae.assert_exact(id, &torrent);
    // The changed object has the same length; its ETag differs.
    let mut other = fs::read(torrent.data().join("cover.jpg")).unwrap();
    other[5] ^= 1;
    put(&format!("{}/cover.jpg", torrent.name), other);
    bae.run(["cat", id, "cover.jpg"]).expect(32).says("not what was adopted");

    bae.run(["rm", id]).expect(0);
    bae.run(["gc", "--yes"]).expect(0);
    assert_eq!(server.objects(&bucket), before, "the user's objects are not what they were");
}
