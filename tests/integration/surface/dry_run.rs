//! `import --dry-run` reports what the import then does, and changes nothing itself.

use std::{fs, path::Path};

use serde_json::Value;

use crate::support::{
    LONG_TIMEOUT, MIB,
    bae::Bae,
    bencode,
    peers::{LibtorrentPeer, Release},
    torrents::{Fixture, Recipe},
};

/// The one line that a dry run of this source prints.
fn estimate(bae: &Bae, source: impl AsRef<std::ffi::OsStr>, options: &[&str]) -> Value {
    let options = [&["--dry-run"], &LONG_TIMEOUT[..], options].concat();
    let lines = bae.run(bae.import_args(source, &[], &options)).expect(0).json();
    let [line] = lines.as_slice() else { panic!("one line for one source: {lines:?}") };
    assert_eq!(line["event"], "estimate");
    line.clone()
}

fn album() -> Fixture {
    let files = [("01.flac", 20 * MIB + 1), ("02.flac", 5 * MIB), ("a.jpg", 70_000), ("b.jpg", 3)];
    let files = files.map(|(path, len)| (path.to_owned(), len));
    Recipe::folder("Dry Album", files.to_vec()).piece(256 << 10).padded().make()
}

fn is_absent(path: &Path) -> bool {
    !path.exists()
}

#[test]
fn a_dry_run_fetches_nothing_and_writes_nothing() {
    let (bae, torrent) = (Bae::new(), album());
    let mut seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let args = bae.import_args(&torrent.torrent, &[seeder.addr()], &["--dry-run"]);
    let line = bae.run(args).expect(0).json().pop().unwrap();
    assert_eq!(line["bytes"], torrent.bytes);
    assert_eq!(line["files"], 4);
    assert_eq!(line["info_hash"], torrent.info_hash());
    assert_eq!(seeder.sent(), 0);
    assert!(is_absent(bae.storage_dir()), "a storage folder was created");
    assert!(is_absent(&bae.data_dir()), "a data folder was created");
}

#[test]
fn a_dry_run_predicts_the_objects_and_bytes_of_the_import() {
    let torrent = album();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    for options in [&[][..], &["--select", "*.jpg"], &["--memory", "64MiB"], &["--layout", "files"]]
    {
        let bae = Bae::new();
        let before = estimate(&bae, &torrent.torrent, options);
        let args = bae.import_args(&torrent.torrent, &[seeder.addr()], options);
        let id = bae.run(args).expect(0).summary().id;
        let info = bae.run(["info", &id, "--json"]).expect(0).json().remove(0);
        assert_eq!(info["objects"], before["objects"], "{options:?}: {before}");
        assert_eq!(info["stored"], before["payload"], "{options:?}: {before}");
        assert_eq!(info["bytes"], before["bytes"], "{options:?}: {before}");
        assert_eq!(info["chunk_len"], before["chunk_len"], "{options:?}: {before}");

        let second = estimate(&bae, &torrent.torrent, options);
        assert_eq!(second["stored"], info["stored"]);
        assert_eq!((second["payload"].as_u64(), second["objects"].as_u64()), (Some(0), Some(0)));
    }
}

#[test]
fn a_dry_run_of_a_magnet_link_fetches_only_its_metadata() {
    let (bae, torrent) = (Bae::new(), album());
    let mut seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let options = [&["--dry-run"], &LONG_TIMEOUT[..]].concat();
    let args = bae.import_args(torrent.magnet(), &[seeder.addr()], &options);
    let by_magnet = bae.run(args).expect(0).json().pop().unwrap();
    let by_file = estimate(&bae, &torrent.torrent, &[]);
    for field in ["name", "bytes", "files", "objects", "payload", "requests", "info_hash"] {
        assert_eq!(by_magnet[field], by_file[field], "{field}");
    }
    assert_eq!(seeder.sent(), 0);
    assert!(is_absent(&bae.data_dir()) && is_absent(bae.storage_dir()));
}

#[test]
fn a_dry_run_needs_neither_credentials_nor_a_server() {
    let (bae, torrent) = (Bae::new(), album());
    let at = |storage: &str| {
        let mut args: Vec<std::ffi::OsString> = vec!["import".into(), "--dry-run".into()];
        args.extend([torrent.torrent.as_os_str().to_owned(), "--storage".into(), storage.into()]);
        args
    };
    let text = bae.run(at("s3://no-such-bucket/music")).expect(0).stdout;
    for part in ["Dry Album", "4 objects", "5 put", "AWS S3 Standard", "prices as of"] {
        assert!(text.contains(part), "{part} in:\n{text}");
    }
    let drive = bae.run(at("drive://NoSuchFolder")).expect(0).stdout;
    assert!(drive.contains("quota units") && !drive.contains('$'), "{drive}");
    let self_hosted = "s3://b?endpoint=http%3A%2F%2F127.0.0.1%3A1&path_style=true";
    let self_hosted = bae.run(at(self_hosted)).expect(0).stdout;
    assert!(
        self_hosted.contains("your own server") && !self_hosted.contains("AWS"),
        "{self_hosted}"
    );
    bae.run(at("nowhere")).expect(3);
}

#[test]
fn a_dry_run_fails_where_the_import_would_fail() {
    let (bae, dir) = (Bae::new(), tempfile::tempdir().unwrap());
    let with_pieces = |name: &str, piece: i64, pieces: i64| {
        let info = bencode::Value::Dict(vec![
            ("length", (piece * pieces).into()),
            ("name", name.into()),
            ("piece length", piece.into()),
            ("pieces", bencode::Value::Bytes(vec![7; 20 * pieces as usize])),
        ]);
        let path = dir.path().join(name);
        fs::write(&path, bencode::Value::Dict(vec![("info", info)]).encode()).unwrap();
        path
    };
    let m = MIB as i64;
    let large = with_pieces("large pieces", 64 * m, 1);
    let huge = with_pieces("huge", 64 * m, 1 << 17);
    for (source, options, code, message) in [
        (&large, &["--memory", "32MiB"][..], 2, "--memory 128MiB"),
        (&huge, &[], 8, "free, the import needs"),
        (&large, &["--select", "*.nothing"], 2, "*.nothing"),
        (&dir.path().join("missing"), &[], 3, "missing"),
    ] {
        let options = [&["--timeout", "5s"], options].concat();
        let dry = [&options[..], &["--dry-run"]].concat();
        let output =
            bae.run(bae.import_args(source, &[], &dry)).expect(code).expect_stderr(message);
        assert!(is_absent(&bae.data_dir()) && is_absent(bae.storage_dir()));
        let real = Bae::new();
        real.run(real.import_args(source, &[], &options)).expect(code).expect_stderr(message);
        assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
    }
}

#[test]
fn only_the_selected_files_need_free_space_in_storage() {
    let (bae, dir, piece) = (Bae::new(), tempfile::tempdir().unwrap(), 64 * MIB as i64);
    let file = |name: &str, len: i64| {
        let path = bencode::Value::List(vec![name.into()]);
        bencode::Value::Dict(vec![("length", len.into()), ("path", path)])
    };
    let info = bencode::Value::Dict(vec![
        ("files", bencode::Value::List(vec![file("huge", piece << 17), file("small", piece)])),
        ("name", "folder".into()),
        ("piece length", piece.into()),
        ("pieces", bencode::Value::Bytes(vec![7; 20 * ((1 << 17) + 1)])),
    ]);
    let torrent = dir.path().join("x.torrent");
    fs::write(&torrent, bencode::Value::Dict(vec![("info", info)]).encode()).unwrap();
    let run = |options: &[&str]| bae.run(bae.import_args(&torrent, &[], options));
    run(&["--dry-run"]).expect(8).expect_stderr("free, the import needs");
    run(&[]).expect(8).expect_stderr("--select");
    let line = run(&["--dry-run", "--select", "2"]).expect(0).json().remove(0);
    assert_eq!(line["bytes"].as_u64(), Some(64 * MIB));
    // There are no peers.
    run(&["--timeout", "2s", "--select", "2"]).expect(6);
}
