//! The commands, run as users and scripts run them.

use std::{fs, process::Command};

use serde_json::Value;

use bae::torrents::metainfo::Metainfo;

use crate::support::{
    LONG, MIB,
    bae::Bae,
    peers::{LibtorrentPeer, Release},
    torrents::{Fixture, Recipe},
};

fn album() -> Fixture {
    let list = [
        ("01 one.flac", 3 * MIB + 1),
        ("02 two.flac", 900_000),
        ("cover.jpg", 1_234),
        ("empty", 0),
    ];
    let list = list.map(|(path, len)| (path.to_owned(), len));
    Recipe::folder("An Album", list.to_vec()).piece(64 << 10).make()
}

fn imported_album() -> (Bae, Fixture, String) {
    let (bae, torrent) = (Bae::new(), album());
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let id = bae.import(&torrent, &[seeder.addr()]).id;
    (bae, torrent, id)
}

#[test]
fn stdout_of_an_import_is_json_and_ends_with_the_summary() {
    let (bae, torrent) = (Bae::new(), album());
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let output = bae.run(bae.import_args(&torrent.torrent, &[seeder.addr()], &[])).expect(0);
    let last = output.json().pop().unwrap();
    assert_eq!(last["event"], "imported");
    assert_eq!(last["name"], "An Album");
    assert_eq!(last["files"], 4);
    assert!(last["seconds"].as_f64().unwrap() > 0.0);
    for field in ["downloaded", "peak_held", "packed"] {
        assert!(last[field].is_u64(), "{field}: {last}");
    }
}

/// `ls` reads its figures from the catalog; `info` computes the same figures from the torrent and the extents.
fn assert_ls_matches_info(bae: &Bae, state: &str) {
    let entry = bae.run(["ls", "--json"]).expect(0).json().remove(0);
    assert_eq!(entry["state"], state);
    let info = bae.run(["info", entry["id"].as_str().unwrap(), "--json"]).expect(0).json();
    for (field, value) in entry.as_object().unwrap() {
        assert_eq!(value, &info[0][field], "{field}");
    }
}

#[test]
fn ls_lists_imports_and_info_describes_them() {
    let (bae, torrent, id) = imported_album();
    let list = bae.run(["ls", "--json"]).expect(0).json();
    assert_eq!(list.len(), 1);
    assert_eq!(list[0]["id"], id.as_str());
    assert_eq!(list[0]["name"], "An Album");
    assert_eq!(list[0]["bytes"], torrent.bytes);
    assert_eq!(list[0]["files"], 4);
    assert_eq!(list[0]["info_hash"], torrent.info_hash());
    for field in ["state", "storage", "source"] {
        assert!(list[0][field].is_string(), "{field}: {}", list[0]);
    }
    assert!(bae.run(["ls"]).expect(0).stdout.contains("An Album"));
    assert_ls_matches_info(&bae, "imported");
    assert!(bae.run(["info", &id]).expect(0).stdout.contains("02 two.flac"));
}

#[test]
fn an_import_is_found_by_id_name_or_hash_prefix() {
    let (bae, torrent, id) = imported_album();
    for name in [id.as_str(), "An Album", &torrent.info_hash()[..10]] {
        let info = bae.run(["info", name, "--json"]).expect(0).json();
        assert_eq!(info[0]["id"], id.as_str(), "by {name}");
    }
    bae.run(["info", "no such import"]).expect(3).expect_stderr("no such import");
}

#[test]
fn global_flags_are_accepted_before_and_after_the_command() {
    let (bae, _, _) = imported_album();
    let before = bae.run(["--json", "ls"]).expect(0).stdout;
    let after = bae.run(["ls", "--json"]).expect(0).stdout;
    assert_eq!(before, after);
}

#[test]
fn cat_writes_any_range_of_a_file() {
    let (bae, torrent, id) = imported_album();
    for name in ["01 one.flac", "02 two.flac", "cover.jpg", "empty"] {
        let data = fs::read(torrent.data().join(name)).unwrap();
        let len = data.len();
        assert!(bae.stdout_of(["cat", &id, name]) == data, "{name}, complete");
        if len == 0 {
            continue;
        }
        let mut ranges = vec![(0, 0), (0, len - 1), (len - 1, len - 1), (len / 2, len / 2 + 99)];
        ranges.extend([(65_535, 65_536), (65_536, 131_071)]);
        for (from, to) in ranges.into_iter().filter(|(_, to)| *to < len) {
            let range = format!("{from}-{to}");
            let got = bae.stdout_of(["cat", &id, name, "--range", &range]);
            assert!(got == data[from..=to], "{name} {range}");
        }
        let tail = bae.stdout_of(["cat", &id, name, "--range", "-100"]);
        assert!(tail == data[len - 100..], "{name}, the last 100");
        let rest = bae.stdout_of(["cat", &id, name, "--range", "1000-"]);
        assert!(rest == data[1000..], "{name}, from 1000");
    }
    bae.run(["cat", &id, "no such file"]).expect(3).expect_stderr("no such file");
    bae.run(["cat", &id, "cover.jpg", "--range", "5000-6000"]).expect(2);
}

#[test]
fn verify_finds_a_changed_object() {
    let (bae, _, id) = imported_album();
    bae.assert_verified(&id);
    let object = largest_file(bae.storage_dir());
    let mut bytes = fs::read(&object).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&object, bytes).unwrap();
    bae.run(["verify", &id]).expect(32);
}

fn largest_file(dir: &std::path::Path) -> std::path::PathBuf {
    let mut open = vec![dir.to_owned()];
    let mut found = Vec::new();
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push((fs::metadata(&path).unwrap().len(), path));
            }
        }
    }
    found.into_iter().max().expect("an object").1
}

#[test]
fn rm_removes_the_objects_unless_keep_objects_is_given() {
    let (bae, _, id) = imported_album();
    assert!(bae.object_count() > 0);
    bae.run(["rm", &id, "--yes"]).expect(0);
    assert_eq!(bae.object_count(), 0);
    assert_eq!(bae.run(["ls", "--json"]).expect(0).stdout.trim(), "");

    let (bae, _, id) = imported_album();
    let before = bae.object_count();
    bae.run(["rm", &id, "--keep-objects"]).expect(0);
    assert_eq!(bae.object_count(), before);
    bae.run(["info", &id]).expect(3);
}

#[test]
fn gc_removes_no_object_that_the_catalog_names() {
    let (bae, torrent, id) = imported_album();
    let before = bae.object_count();
    bae.run(["gc", "--yes"]).expect(0);
    assert_eq!(bae.object_count(), before);
    bae.assert_exact(&id, &torrent);
}

#[test]
fn files_are_selected_by_number_and_glob() {
    let torrent = album();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    // Files are numbered in the torrent's order, which is the order in which its creator found them.
    let meta = Metainfo::parse(&fs::read(&torrent.torrent).unwrap()).unwrap();
    let number = 1 + meta.files.iter().position(|f| f.path.ends_with("02 two.flac")).unwrap();
    let table = [
        (number.to_string(), 900_000),
        ("*.flac".to_owned(), 3 * MIB + 1 + 900_000),
        (format!("{number},cover*"), 901_234),
        ("1-4".to_owned(), 3 * MIB + 901_235),
    ];
    for (selection, bytes) in &table {
        let bae = Bae::new();
        let args = bae.import_args(&torrent.torrent, &[seeder.addr()], &["--select", selection]);
        let summary = bae.run(args).expect(0).summary();
        assert_eq!(summary.bytes, *bytes, "--select {selection}");
        assert_ls_matches_info(&bae, "imported");
        let data = fs::read(torrent.data().join("02 two.flac")).unwrap();
        assert!(bae.stdout_of(["cat", &summary.id, "02 two.flac"]) == data, "--select {selection}");
    }
}

#[test]
fn completions_exist_for_the_common_shells() {
    let bae = Bae::new();
    for shell in ["bash", "zsh", "fish"] {
        let out = bae.run(["completions", shell]).expect(0).stdout;
        assert!(out.contains("import"), "{shell}");
    }
    bae.run(["completions", "tcsh-of-1979"]).expect(2);
}

#[test]
fn help_and_version_are_printed_to_stdout() {
    let bae = Bae::new();
    assert!(bae.run(["--version"]).expect(0).stdout.starts_with("bae "));
    assert!(bae.run(["--help"]).expect(0).stdout.contains("import"));
}

#[test]
fn an_environment_variable_sets_a_flag() {
    let (bae, torrent) = (Bae::new(), Recipe::single("small.bin", MIB).make());
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    bae.import(&torrent, &[seeder.addr()]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_bae"));
    command.env("BAE_DATA_DIR", bae.data_dir()).env("HOME", bae.home()).args(["ls", "--json"]);
    let out = command.output().unwrap();
    assert!(String::from_utf8_lossy(&out.stdout).contains("small.bin"), "{out:?}");
}

#[test]
fn ctrl_c_stops_cleanly_and_keeps_durable_bytes() {
    let torrent = Recipe::single("interrupted.bin", 48 * MIB).piece(256 << 10).make();
    let (bae, seeder) = (Bae::new(), LibtorrentPeer::slow_seed(&torrent, 12 * MIB));
    let mut running = bae.start_import(&torrent, &[seeder.addr()]);
    running.event_where("progress", |e| e["downloaded"].as_u64() > Some(16 * MIB));
    running.interrupt();
    let output = running.wait(LONG).expect(7);
    assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
    assert_ls_matches_info(&bae, "importing");
    let second = bae.run(bae.import_args(&torrent.torrent, &[seeder.addr()], &[])).expect(0);
    let started: Value = second.json().into_iter().find(|e| e["event"] == "started").unwrap();
    assert!(started["stored"].as_u64() > Some(8 * MIB), "verified bytes were lost: {started}");
    let summary = second.summary();
    assert!(summary.downloaded < torrent.bytes - 8 * MIB, "{} fetched again", summary.downloaded);
    bae.assert_exact(&summary.id, &torrent);
}

#[test]
fn a_second_ctrl_c_stops_at_once() {
    let torrent = Recipe::single("interrupted.bin", 48 * MIB).piece(256 << 10).make();
    // Storage takes the first chunk in minutes, so the first Ctrl-C waits its full five seconds.
    let bae = Bae::new().with_storage_options("upload_limit=64KiB");
    let seeder = LibtorrentPeer::slow_seed(&torrent, 24 * MIB);
    let mut running = bae.start_import(&torrent, &[seeder.addr()]);
    running.event_where("progress", |e| e["downloaded"].as_u64() > Some(8 * MIB));
    running.interrupt();
    running.0.wait_for_stderr("waiting up to");
    running.interrupt();
    let output = running.wait(LONG).expect(7);
    assert!(!output.stderr.contains("are not stored"), "the wait ended:\n{}", output.stderr);
}
