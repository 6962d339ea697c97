//! Whole files: the storage has the torrent's files, under their own names.

use std::fs;

use crate::support::{
    KIB, MIB, Random,
    bae::{Bae, Running},
    file_faults::{FileFaults, KillStep},
    peers::{LibtorrentPeer, Release},
    process::Process,
    torrents::{Fixture, Recipe, Version},
};

fn album(name: &str) -> Recipe {
    let list = [
        ("CD 1/01 - Jóga (live).flac", 40 * MIB + 1),
        ("CD 1/02.flac", 16 * MIB),
        ("cover.jpg", 1_234),
        ("empty", 0),
        ("notes.txt", 6 * MIB),
    ];
    let list = list.map(|(path, len)| (path.to_owned(), len));
    Recipe::folder(name, list.to_vec()).piece(256 * KIB)
}

/// Panics unless the storage has the torrent's files at `folder`, byte for byte, and besides them only a manifest.
fn assert_whole_files(bae: &Bae, torrent: &Fixture, folder: &str) {
    torrent.assert_same(&bae.storage_dir().join(folder));
    let others: Vec<_> = objects(bae)
        .into_iter()
        .filter(|key| !key.starts_with(folder) && !key.starts_with(".tmp/"))
        .collect();
    let is_manifest = |key: &String| key.contains("/manifest-");
    assert!(
        others.len() == 1 && others.iter().all(is_manifest),
        "other objects are stored: {others:?}"
    );
}

/// The keys of all objects.
fn objects(bae: &Bae) -> Vec<String> {
    let root = bae.storage_dir();
    let (mut folders, mut keys) = (vec![root.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => keys.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned()),
            }
        }
    }
    keys
}

fn import_files(bae: &Bae, torrent: &Fixture, seeder: &LibtorrentPeer) -> String {
    let args = bae.import_args(&torrent.torrent, &[seeder.addr()], &["--layout", "files"]);
    bae.run(args).expect(0).summary().id
}

#[test]
fn files_are_stored_under_their_own_names_bit_for_bit() {
    for version in [Version::V1, Version::V2, Version::Hybrid] {
        let torrent = album("An Album").version(version).make();
        let (bae, seeder) = (Bae::new(), LibtorrentPeer::seed(Release::Debian, &torrent));
        let id = import_files(&bae, &torrent, &seeder);
        assert_whole_files(&bae, &torrent, "An Album");
        bae.assert_verified(&id);
        bae.assert_exact(&id, &torrent);
        let info = bae.run(["info", &id, "--json"]).expect(0).json().remove(0);
        assert_eq!((&info["layout"], &info["state"]), (&"files".into(), &"imported".into()));
        for file in info["file_list"].as_array().unwrap() {
            assert_eq!(file["key"], file["path"], "{info}");
        }
        let links = bae.run(["url", &id]).expect(0).stdout;
        assert_eq!(links.lines().count(), 5);
        let link = url::Url::parse(links.lines().next().unwrap()).unwrap();
        assert!(link.to_file_path().unwrap().starts_with(bae.storage_dir()), "{link}");
        let one = bae.run(["url", &id, "cover.jpg", "--json"]).expect(0).json();
        let path =
            url::Url::parse(one[0]["url"].as_str().unwrap()).unwrap().to_file_path().unwrap();
        assert_eq!(fs::read(path).unwrap(), fs::read(torrent.data().join("cover.jpg")).unwrap());
        bae.run(["gc", "--yes"]).expect(0);
        assert_whole_files(&bae, &torrent, "An Album");
        bae.run(["rm", &id, "--yes"]).expect(0);
        assert_eq!(bae.object_count(), 0);
    }
}

#[test]
fn single_files_and_selections_are_stored_as_whole_files() {
    let torrent = Recipe::single("film.mkv", 20 * MIB + 7).make();
    let (bae, seeder) = (Bae::new(), LibtorrentPeer::seed(Release::Debian, &torrent));
    import_files(&bae, &torrent, &seeder);
    assert_whole_files(&bae, &torrent, "film.mkv");

    let torrent = album("An Album").make();
    let (bae, seeder) = (Bae::new(), LibtorrentPeer::seed(Release::Debian, &torrent));
    let options = ["--layout", "files", "--select", "*.flac"];
    let args = bae.import_args(&torrent.torrent, &[seeder.addr()], &options);
    bae.run(args).expect(0);
    for name in ["CD 1/01 - Jóga (live).flac", "CD 1/02.flac"] {
        let stored = fs::read(bae.storage_dir().join("An Album").join(name)).unwrap();
        assert!(stored == fs::read(torrent.data().join(name)).unwrap(), "{name}");
    }
    assert!(!bae.storage_dir().join("An Album/cover.jpg").exists());
}

#[test]
fn publish_turns_chunks_into_whole_files() {
    let torrent = album("An Album").make();
    let (bae, seeder) = (Bae::new(), LibtorrentPeer::seed(Release::Debian, &torrent));
    let id = bae.import(&torrent, &[seeder.addr()]).id;
    bae.run(["url", &id]).expect(3).expect_stderr("bae publish");
    let one = bae.run(["publish", &id, "cover.jpg", "--json"]).expect(0).json();
    assert_eq!((&one[0]["files"], &one[0]["bytes"]), (&1.into(), &1_234.into()), "{}", one[0]);
    let all = bae.run(["publish", &id, "--json"]).expect(0).json().remove(0);
    assert_eq!((&all["event"], &all["files"]), (&"published".into(), &4.into()), "{all}");
    assert_eq!(
        (&all["copied"], &all["sent"]),
        (&(torrent.bytes - 1_234).into(), &0.into()),
        "{all}"
    );
    assert_whole_files(&bae, &torrent, "An Album");
    bae.assert_exact(&id, &torrent);
    let second = bae.run(["publish", &id, "--json"]).expect(0).json().remove(0);
    assert_eq!((&second["files"], &second["already"]), (&0.into(), &5.into()), "{second}");
}

#[test]
fn existing_files_in_storage_are_not_overwritten() {
    let torrent = album("An Album").make();
    let (bae, seeder) = (Bae::new(), LibtorrentPeer::seed(Release::Debian, &torrent));
    let existing = bae.storage_dir().join("An Album/cover.jpg");
    fs::create_dir_all(existing.parent().unwrap()).unwrap();
    fs::write(&existing, "my own").unwrap();
    let id = import_files(&bae, &torrent, &seeder);
    torrent.assert_same(&bae.storage_dir().join(format!("An Album [{id}]")));
    assert_eq!(fs::read(&existing).unwrap(), b"my own");
    bae.run(["rm", &id, "--yes"]).expect(0);
    assert_eq!(bae.object_count(), 1, "rm removed a file of the user");
}

#[test]
fn whole_files_are_seeded() {
    let torrent = album("An Album").make();
    let (bae, seeder) = (Bae::new(), LibtorrentPeer::seed(Release::Debian, &torrent));
    let id = import_files(&bae, &torrent, &seeder);
    drop(seeder);
    let other = Bae::new();
    let _seeding = bae.seed(&id, &[]);
    let peer: std::net::SocketAddrV4 = bae.listen;
    let id = other.import(&torrent, &[peer]).id;
    other.assert_exact(&id, &torrent);
}

#[test]
fn whole_files_are_stored_with_little_memory() {
    let torrent = album("An Album").make();
    let (bae, seeder) = (Bae::new(), LibtorrentPeer::seed(Release::Debian, &torrent));
    let options = ["--layout", "files", "--memory", "32MiB"];
    let args = bae.import_args(&torrent.torrent, &[seeder.addr()], &options);
    bae.run(args).expect(0);
    assert_whole_files(&bae, &torrent, "An Album");
}

#[test]
fn an_import_of_whole_files_survives_kills_at_any_moment() {
    let torrent = album("An Album").make();
    let seeder = LibtorrentPeer::slow_seed(&torrent, 48 * MIB);
    // Runs an import until step number `at` of all runs of this home; returns whether it was killed.
    let import_until = |bae: &Bae, faults: &FileFaults, at: u64| {
        let args = bae.import_args(&torrent.torrent, &[seeder.addr()], &["--layout", "files"]);
        let mut command = bae.command(args);
        faults.kill(&mut command, KillStep::AnyChange, at);
        Running(Process::start("bae", &command)).wait_until_killed()
    };
    let faults_of = |bae: &Bae| FileFaults::in_folders(&[&bae.data_dir(), bae.storage_dir()]);
    let counted = Bae::new();
    let faults = faults_of(&counted);
    assert!(!import_until(&counted, &faults, 0));
    let total = faults.operation_count();
    let mut random = Random::of_this_run();
    for _ in 0..3 {
        let steps = random.steps(total, 6);
        eprintln!("killed before the steps {steps:?} of {total}");
        let bae = Bae::new();
        let faults = faults_of(&bae);
        let kills = steps.iter().filter(|step| import_until(&bae, &faults, **step)).count();
        assert!(kills >= 3, "only {kills} of 6 runs were killed");
        let id = import_files(&bae, &torrent, &seeder);
        assert_whole_files(&bae, &torrent, "An Album");
        bae.assert_verified(&id);
        assert!(bae.run(["gc", "--json"]).expect(0).stdout.contains("\"objects\":0"));
    }
}
