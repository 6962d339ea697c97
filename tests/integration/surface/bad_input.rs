//! Bad input and bad locations: a clear error, the right exit code, no partial files, no panic.

use std::{fs, net::SocketAddrV4, os::unix::fs::PermissionsExt as _, path::Path};

use crate::support::{
    LONG, MIB,
    bae::{Bae, CommandOutput},
    bencode::Value,
    peers::{LibtorrentPeer, Release},
    tmpfs::{Tmpfs, is_root},
    torrents::Recipe,
};

/// Panics unless importing `source` fails with `code` and a message, without a panic and without an entry in the
/// catalog.
fn assert_refused(bae: &Bae, source: &Path, code: i32, case: &str) -> CommandOutput {
    let output = bae.run(bae.import_args(source, &[], &["--timeout", "5s"]));
    assert_eq!(
        output.code,
        Some(code),
        "{case}\nstdout:\n{}\nstderr:\n{}",
        output.stdout,
        output.stderr
    );
    assert!(!output.stderr.contains("panicked"), "{case}: {}", output.stderr);
    assert!(!output.stderr.trim().is_empty(), "{case}: no message");
    let list = bae.run(["ls", "--json"]).expect(0);
    assert_eq!(list.stdout.trim(), "", "{case} left an import");
    output
}

/// The `info` of a one-piece torrent with some entries replaced (`None`: removed).
fn info(changes: &[(&'static str, Option<Value>)]) -> Vec<u8> {
    let mut entries = vec![
        ("length", Value::Int(10_000)),
        ("name", "x.bin".into()),
        ("piece length", Value::Int(16_384)),
        ("pieces", Value::Bytes(vec![7; 20])),
    ];
    for (key, value) in changes {
        entries.retain(|(name, _)| name != key);
        if let Some(value) = value {
            entries.push((key, value.clone()));
        }
    }
    entries.sort_by_key(|(name, _)| *name);
    Value::Dict(vec![("info", Value::Dict(entries))]).encode()
}

/// A torrent of several files with these paths.
fn with_paths(paths: &[&[&str]]) -> Vec<u8> {
    let file = |path: &&[&str]| {
        let parts = path.iter().map(|part| (*part).into()).collect();
        Value::Dict(vec![("length", Value::Int(100)), ("path", Value::List(parts))])
    };
    let files = Value::List(paths.iter().map(file).collect());
    info(&[("length", None), ("files", Some(files))])
}

#[test]
fn malformed_torrents_are_refused() {
    let bae = Bae::new();
    let valid = info(&[]);
    let nested = |open: &str, n: usize| Value::Raw(open.repeat(n).into_bytes()).encode();
    let number = |text: &str| Some(Value::Raw(text.as_bytes().to_vec()));
    let table: Vec<(&str, Vec<u8>)> = vec![
        ("an empty file", Vec::new()),
        ("text", b"hello, this is not a torrent\n".to_vec()),
        ("zeros", vec![0; 4096]),
        ("a truncated torrent", valid[..valid.len() - 9].to_vec()),
        ("half a torrent", valid[..valid.len() / 2].to_vec()),
        ("no info", b"d8:announce3:abce".to_vec()),
        ("lists nested a hundred thousand deep", nested("l", 100_000)),
        ("dictionaries nested deep", nested("d1:a", 50_000)),
        ("a string longer than the file", b"d4:info99999999999999:abce".to_vec()),
        ("a string length that overflows", b"d4:info99999999999999999999999:abce".to_vec()),
        ("a negative size", info(&[("length", Some(Value::Int(-1)))])),
        ("the most negative size", info(&[("length", Some(Value::Int(i64::MIN)))])),
        ("a size that overflows", info(&[("length", Some(Value::Int(i64::MAX)))])),
        ("a size that is no number", info(&[("length", number("i12x4e"))])),
        ("no size and no files", info(&[("length", None)])),
        ("pieces of no length", info(&[("piece length", Some(Value::Int(0)))])),
        ("pieces of negative length", info(&[("piece length", Some(Value::Int(-16_384)))])),
        ("pieces of absurd length", info(&[("piece length", Some(Value::Int(1 << 40)))])),
        ("no piece length", info(&[("piece length", None)])),
        ("too few piece hashes", info(&[("length", Some(Value::Int(1_000_000)))])),
        ("piece hashes cut short", info(&[("pieces", Some(Value::Bytes(vec![7; 19])))])),
        ("no piece hashes", info(&[("pieces", None)])),
        ("files that are no list", info(&[("length", None), ("files", Some("abc".into()))])),
        ("an empty list of files", info(&[("length", None), ("files", Some(Value::List(vec![])))])),
    ];
    for (case, bytes) in table {
        let path = bae.home().join("bad.torrent");
        fs::write(&path, bytes).unwrap();
        assert_refused(&bae, &path, 2, case);
    }
}

#[test]
fn torrents_with_paths_that_escape_are_refused() {
    let bae = Bae::new();
    let table: Vec<(&str, Vec<u8>)> = vec![
        ("a path with ..", with_paths(&[&["..", "..", "etc", "passwd"]])),
        ("a path with .. in the middle", with_paths(&[&["a", "..", "..", "b"]])),
        ("a name of ..", info(&[("name", Some("..".into()))])),
    ];
    for (case, bytes) in table {
        let path = bae.home().join("bad.torrent");
        fs::write(&path, bytes).unwrap();
        assert_refused(&bae, &path, 2, case);
    }
}

#[test]
fn a_missing_torrent_file_is_named_in_the_error() {
    let bae = Bae::new();
    assert_refused(&bae, Path::new("/nonexistent/x.torrent"), 3, "no such file")
        .expect_stderr("x.torrent");
}

#[test]
fn an_unknown_storage_is_named_in_the_error() {
    let (bae, torrent) = (Bae::new(), Recipe::single("small.bin", MIB).make());
    let args = ["import", torrent.torrent.to_str().unwrap(), "--storage", "nosuch", "--no-dht"];
    bae.run(args).expect(3).expect_stderr("nosuch");
}

#[test]
fn usage_errors_exit_with_code_2() {
    let bae = Bae::new();
    for args in [
        vec!["import"],
        vec!["import", "--no-such-flag"],
        vec!["no-such-command"],
        vec!["import", "magnet:?dn=no-hash"],
        vec!["import", "x.torrent", "--memory", "many"],
        vec!["cat", "x", "y", "--range", "from-to"],
    ] {
        let output = bae.run(&args);
        assert_eq!(output.code, Some(2), "{args:?}: {}", output.stderr);
    }
}

#[test]
fn a_magnet_link_without_peers_times_out() {
    let bae = Bae::new();
    let magnet = "magnet:?xt=urn:btih:0123456789abcdef0123456789abcdef01234567";
    let output = bae.run(bae.import_args(magnet, &[], &["--timeout", "3s"]));
    output.expect(6);
}

#[test]
fn an_unreachable_peer_times_out() {
    let (bae, torrent) = (Bae::new(), Recipe::single("small.bin", MIB).make());
    let unreachable: SocketAddrV4 = crate::support::ports::unused();
    let args = bae.import_args(&torrent.torrent, &[unreachable], &["--timeout", "3s"]);
    bae.run(args).expect(6);
}

#[test]
fn an_unwritable_data_folder_is_refused() {
    let (bae, torrent) = (Bae::new(), Recipe::single("small.bin", MIB).make());
    // Root can write everywhere except on a read-only file system.
    let _mount = if is_root() {
        Some(Tmpfs::mount(&bae.data_dir(), "ro,size=1m"))
    } else {
        fs::create_dir_all(bae.data_dir()).unwrap();
        fs::set_permissions(bae.data_dir(), fs::Permissions::from_mode(0o555)).unwrap();
        None
    };
    let output = bae.run(bae.import_args(&torrent.torrent, &[], &["--timeout", "5s"]));
    output.expect(24).expect_stderr(bae.data_dir().to_str().unwrap());
}

#[test]
fn a_catalog_from_a_newer_version_is_refused() {
    let (bae, torrent) = (Bae::new(), Recipe::single("small.bin", MIB).make());
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    bae.import(&torrent, &[seeder.addr()]);
    let catalog = catalog(&bae.data_dir());
    let db = rusqlite::Connection::open(&catalog).unwrap();
    db.pragma_update(None, "user_version", 9_999).unwrap();
    drop(db);
    bae.run(["ls"]).expect(1).expect_stderr("newer");
    bae.run(bae.import_args(&torrent.torrent, &[], &["--timeout", "5s"]))
        .expect(1)
        .expect_stderr("newer");
}

fn catalog(data_dir: &Path) -> std::path::PathBuf {
    let is_sqlite = |path: &Path| {
        path.is_file() && fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"SQLite format 3\0"))
    };
    let mut entries = fs::read_dir(data_dir).unwrap().map(|entry| entry.unwrap().path());
    entries.find(|path| is_sqlite(path)).expect("a catalog in the data folder")
}

#[test]
fn a_data_folder_that_another_bae_uses_is_refused() {
    let (bae, torrent) = (Bae::new(), Recipe::single("small.bin", MIB).make());
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let mut first = bae.start(bae.import_args(&torrent.torrent, &[seeder.addr()], &["--seed"]));
    first.event("imported");
    let output = bae.run(bae.import_args(&torrent.torrent, &[seeder.addr()], &[]));
    output.expect(5).expect_stderr(bae.data_dir().to_str().unwrap());
    // The refusal does not disturb the first bae, and the data directory is free after its end.
    first.interrupt();
    first.wait(LONG);
    bae.import(&torrent, &[seeder.addr()]);
}

#[test]
fn an_import_pauses_on_a_full_disk_and_resumes() {
    let torrent = Recipe::single("too large.bin", 48 * MIB).make();
    let dir = tempfile::tempdir().unwrap();
    let objects = dir.path().join("objects");
    let _disk = Tmpfs::mount(&objects, "size=64m");
    let bae = Bae::new().with_storage_dir(&objects);
    let seeder = LibtorrentPeer::slow_seed(&torrent, 12 * MIB);
    let mut running = bae.start_import(&torrent, &[seeder.addr()]);
    running.event("started");
    // There was enough space at the start. Then another file takes it.
    let other = objects.join("other file");
    fs::write(&other, vec![1; (44 * MIB) as usize]).unwrap();
    let paused = running.event("paused");
    let error = paused["error"].as_str().unwrap().to_lowercase();
    assert!(error.contains("space") || error.contains("room") || error.contains("full"), "{error}");
    fs::remove_file(&other).unwrap();
    running.event("resumed");
    let summary = running.event("imported");
    running.wait(LONG).expect(0);
    bae.assert_exact(summary["id"].as_str().unwrap(), &torrent);
}

#[test]
fn a_torrent_larger_than_its_storage_is_refused_at_once() {
    let torrent = Recipe::single("too large.bin", 48 * MIB).make();
    let dir = tempfile::tempdir().unwrap();
    let objects = dir.path().join("objects");
    let _disk = Tmpfs::mount(&objects, "size=20m");
    let bae = Bae::new().with_storage_dir(&objects);
    bae.run(bae.import_args(&torrent.torrent, &[], &[]))
        .expect(8)
        .expect_stderr("free, the import needs");
    bae.run(["ls"]).expect(0).expect_stderr("");
    assert_eq!(bae.object_count(), 0);
}
