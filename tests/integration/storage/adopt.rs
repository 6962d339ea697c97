//! `bae adopt`: files that are in a storage already are seeded from where they are and stay the user's.

use std::{
    fs,
    path::{Path, PathBuf},
};

use bae::backends::{InMemoryState, Key, Payload, S3Backend, StorageBackend};
use bytes::Bytes;
use serde_json::Value;

use crate::support::{
    KIB, MIB,
    bae::{Bae, CommandOutput},
    peers::{LibtorrentPeer, Release},
    s3_server::{S3Server, runtime},
    streaming::{StreamServer, curl, request},
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

fn adopt(bae: &Bae, torrent: &Fixture, from: &str) -> CommandOutput {
    let args = ["--json", "adopt", torrent.torrent.to_str().unwrap(), "--from", from];
    bae.run(args)
}

fn adopt_summary(bae: &Bae, torrent: &Fixture, from: &str) -> Value {
    let mut lines = adopt(bae, torrent, from).expect(0).json();
    lines.pop().expect("a summary")
}

/// All files below a folder, sorted by path, with their bytes.
fn all_files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
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

fn assert_seeds_exactly(bae: &Bae, id: &str, torrent: &Fixture) {
    let _seeding = bae.seed(id, &[]);
    let mut leecher = LibtorrentPeer::leech(Release::Debian, torrent, bae.listen);
    let dir = leecher.wait_done();
    torrent.assert_same(&dir.join(&torrent.name));
}

#[test]
fn adopted_files_are_seeded_in_place_and_never_removed() {
    for version in [Version::V1, Version::V2, Version::Hybrid] {
        let torrent = album("adopted").version(version).make();
        let bae = Bae::new();
        let folder = library(&torrent, bae.home());
        let music = folder.join("music");
        let before = all_files(&music);
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

        let summary = adopt_summary(&bae, &torrent, &file_url(&music));
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
        assert_seeds_exactly(&bae, id, &torrent);
        adopt(&bae, &torrent, &file_url(&music)).expect(1).expect_stderr("already");

        // Nothing was copied. The only new file is a manifest, and `rm` removes it with the import.
        let new_files = |dir: &Path| {
            let all = all_files(dir).into_iter();
            all.filter(|(path, _)| !before.iter().any(|(known, _)| known == path))
                .map(|(path, _)| path)
                .collect::<Vec<_>>()
        };
        let created = new_files(&music);
        assert!(
            created.len() == 1 && created[0].to_str().unwrap().contains("/manifest-"),
            "{created:?}"
        );
        bae.run(["--json", "gc", "--yes"]).expect(0);
        let removed = bae.run(["--json", "rm", id]).expect(0).json();
        assert_eq!(removed[0]["objects"].as_u64(), Some(0), "{removed:?}");
        bae.run(["--json", "gc", "--yes"]).expect(0);
        assert!(all_files(&music) == before, "{version:?}: the user's files changed");
    }
}

#[test]
fn an_adopted_file_that_changed_is_detected_and_not_served() {
    let torrent = album("changed").make();
    let bae = Bae::new();
    let music = library(&torrent, bae.home()).join("music");
    let id = adopt_summary(&bae, &torrent, &file_url(&music))["id"].as_str().unwrap().to_owned();
    let path = music.join("CD 1/01.flac");
    let mut bytes = fs::read(&path).unwrap();
    bytes[1_000_000] ^= 1;
    // The length stays the same, so the modification time must differ. A file system may record it in steps of some
    // milliseconds, so the test sets it.
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, &bytes).unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(modified + std::time::Duration::from_secs(1)).unwrap();
    bae.run(["cat", &id, "CD 1/01.flac", "--range", "0-9"])
        .expect(32)
        .expect_stderr("was changed or removed");
    assert_eq!(bae.stdout_of(["cat", &id, "CD 1/02.flac", "--range", "0-9"]).len(), 10);
    let stream_server = StreamServer::start(&bae, &id, &[]);
    let refused = request("GET", &stream_server.url("01.flac"), &[]);
    assert_eq!(refused.status, 502, "{}", refused.text());
    assert!(
        curl(&[], &stream_server.url("cover.jpg")) == fs::read(music.join("cover.jpg")).unwrap()
    );
    drop(stream_server);
    let report = bae.run(["verify", &id]).expect(32).stdout;
    assert!(report.contains("01.flac") && !report.contains("02.flac: "), "{report}");

    let quick_report = bae.run(["verify", "--quick", &id]).expect(32).stdout;
    assert!(quick_report.contains("01.flac"), "{quick_report}");

    // The repair fetches from the swarm into chunks of the import. The user's changed file stays as it is.
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let peer = seeder.addr().to_string();
    let repair = ["verify", "--repair", "--no-dht", "--no-lsd", "--no-utp", "--peer", &peer, &id];
    bae.run(repair).expect(0);
    bae.assert_exact(&id, &torrent);
    bae.run(["gc", "--yes"]).expect(0);
    assert!(fs::read(&path).unwrap() == bytes, "the user's file changed");
    bae.run(["rm", &id]).expect(0);
    bae.run(["gc", "--yes"]).expect(0);
    assert!(fs::read(&path).unwrap() == bytes && music.join("renamed.flac").exists());
}

#[test]
fn missing_and_different_bytes_of_an_adopted_torrent_are_listed_and_fetched() {
    let torrent = album("partly present").make();
    let bae = Bae::new();
    let music = library(&torrent, bae.home()).join("music");
    fs::remove_file(music.join("renamed.flac")).unwrap();
    let mut bytes = fs::read(music.join("CD 1/01.flac")).unwrap();
    bytes[2_000_000] ^= 1;
    fs::write(music.join("CD 1/01.flac"), &bytes).unwrap();
    let before = all_files(&music);
    let url = file_url(&music);
    let summary = adopt_summary(&bae, &torrent, &url);
    assert_eq!(summary["state"], "importing", "{summary}");
    let missing = summary["missing"].as_array().unwrap();
    let missing_of = |path: &str| {
        let found = missing.iter().find(|f| f["path"].as_str().unwrap().ends_with(path));
        found.unwrap_or_else(|| panic!("{path} is not in {summary}"))
    };
    assert_eq!(missing_of("02.flac")["missing"].as_u64(), Some(3 * MIB));
    let first_missing = missing_of("01.flac")["missing"].as_u64().unwrap();
    assert!(
        first_missing > 0 && first_missing <= 128 * KIB,
        "more than the changed piece and a shared one: {first_missing}"
    );
    let id = summary["id"].as_str().unwrap();

    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let peer = seeder.addr().to_string();
    let args = ["--json", "import", torrent.torrent.to_str().unwrap(), "--storage", &url];
    let network = ["--no-dht", "--no-lsd", "--no-utp", "--peer", &peer];
    let summary = bae.run(args.into_iter().chain(network)).expect(0).summary();
    assert_eq!(summary.id, id);
    assert!(summary.downloaded < 4 * MIB, "{} fetched", summary.downloaded);
    bae.assert_verified(id);
    bae.assert_exact(id, &torrent);
    assert_seeds_exactly(&bae, id, &torrent);
    let leftovers = bae.run(["--json", "gc"]).expect(0).json();
    assert_eq!(leftovers[0]["objects"].as_u64(), Some(0), "{leftovers:?}");
    bae.run(["rm", id]).expect(0);
    bae.run(["gc", "--yes"]).expect(0);
    assert!(all_files(&music) == before, "the user's files changed");
}

#[test]
fn an_adopt_without_matching_files_records_nothing() {
    let torrent = album("no match").make();
    let bae = Bae::new();
    let other_folder = bae.home().join("other");
    fs::create_dir_all(&other_folder).unwrap();
    fs::write(other_folder.join("x"), b"x").unwrap();
    adopt(&bae, &torrent, &file_url(&other_folder)).expect(3).expect_stderr("no file of");
    // The names and lengths are right, the bytes are not.
    for path in ["CD 1/01.flac", "CD 1/02.flac"] {
        let to = other_folder.join(path);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        let len = fs::metadata(torrent.data().join(path)).unwrap().len();
        fs::write(to, vec![7; len as usize]).unwrap();
    }
    adopt(&bae, &torrent, &file_url(&other_folder)).expect(32).expect_stderr("matches the hashes");
    let magnet = ["adopt", &torrent.magnet(), "--from", &file_url(&other_folder)];
    bae.run(magnet).expect(1).expect_stderr("magnet");
    assert!(bae.run(["ls", "--json"]).expect(0).json().is_empty());
}

#[test]
fn adopted_objects_of_a_bucket_are_attached_again_after_the_catalog_is_lost() {
    let torrent = album("in a bucket").make();
    let server = S3Server::seaweed();
    let bucket = server.bucket("adopt");
    let open = || async {
        let settings = server.settings(&bucket, "my/music");
        S3Backend::open(settings, std::sync::Arc::new(InMemoryState::default())).await.unwrap()
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
    let bae = Bae::new().with_storage_url(&url, server.env());
    let summary = adopt_summary(&bae, &torrent, &url);
    assert_eq!(summary["state"], "imported", "{summary}");
    let id = summary["id"].as_str().unwrap();
    bae.assert_exact(id, &torrent);
    assert_seeds_exactly(&bae, id, &torrent);

    // The catalog is lost. The manifest in the bucket records what was adopted, and that those objects are the
    // user's.
    fs::remove_dir_all(bae.data_dir()).unwrap();
    let attached = bae.run(["--json", "attach", &url]).expect(0).json();
    assert_eq!(attached[0]["state"], "imported", "{attached:?}");
    let id = attached[0]["id"].as_str().unwrap();
    bae.assert_exact(id, &torrent);
    // The changed object has the same length; its ETag differs.
    let mut changed = fs::read(torrent.data().join("cover.jpg")).unwrap();
    changed[5] ^= 1;
    put(&format!("{}/cover.jpg", torrent.name), changed);
    bae.run(["cat", id, "cover.jpg"]).expect(32).expect_stderr("was changed or removed");

    bae.run(["rm", id]).expect(0);
    bae.run(["gc", "--yes"]).expect(0);
    assert_eq!(server.objects(&bucket), before, "the user's objects changed");
}
