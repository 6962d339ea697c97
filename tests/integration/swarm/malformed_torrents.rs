//! Malformed torrents that every client accepts: bae imports them and shows the same names everywhere.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::Value as Json;

use crate::support::{
    LONG_TIMEOUT,
    bae::Bae,
    bencode::{Value, info_hash, multi_file_info, piece_hashes},
    peers::PayloadPeer,
};

const PIECE: usize = 32_768;

fn bytes(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 255) as u8 ^ seed).collect()
}

fn torrent(bae: &Bae, info: &[u8]) -> std::path::PathBuf {
    let path = bae.home().join("x.torrent");
    fs::write(&path, Value::Dict(vec![("info", Value::Raw(info.to_vec()))]).encode()).unwrap();
    path
}

/// The paths that `info` shows, in order.
fn paths(bae: &Bae, id: &str) -> Vec<String> {
    let info = bae.run(["--json", "info", id]).expect(0).json().remove(0);
    let files = info["file_list"].as_array().unwrap().iter();
    files.map(|file| file["path"].as_str().unwrap().to_owned()).collect()
}

/// The files below a folder: their contents by path.
fn files_in(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn files_with_unusual_names() -> Vec<(Vec<&'static [u8]>, Vec<u8>)> {
    let names: [&[&'static [u8]]; 10] = [
        &[b"Icon\r"],
        &["Artist \u{96} Title.mp3".as_bytes()],
        &[b"a\nb.txt"],
        &[b"textures\\a.dds"],
        &[b"../../../etc/passwd"],
        &[b"nul\0byte"],
        &[b".", b"dot.txt"],
        &[b"\x95\x5c.txt"],
        &[b"same"],
        &[b"same"],
    ];
    let len = |i: usize| if i == 0 { 0 } else { 20_000 + i };
    (0..).zip(names).map(|(i, name)| (name.to_vec(), bytes(len(i), i as u8))).collect()
}

#[test]
fn unusual_names_are_the_same_in_info_cat_select_export_and_publish() {
    let bae = Bae::new();
    let files = files_with_unusual_names();
    let listed: Vec<(&[&[u8]], &[u8])> = files.iter().map(|(p, b)| (&p[..], &b[..])).collect();
    let (info, payload) = multi_file_info(b"Release R1/beta6", &listed, PIECE);
    let peer = PayloadPeer::seed(&info, &payload, PIECE);
    let torrent = torrent(&bae, &info);
    let done = bae.run(bae.import_args(&torrent, &[peer.addr()], &LONG_TIMEOUT));
    let summary = done.expect(0).summary();
    assert_eq!(summary.info_hash, info_hash(&info));
    let shown = paths(&bae, &summary.id);
    let root = shown[0].split('/').next().unwrap().to_owned();
    assert!(root.starts_with("Release R1_beta6."), "{root}");
    assert_eq!(shown.iter().collect::<std::collections::HashSet<_>>().len(), files.len());
    for (n, plain) in [(6, "dot.txt"), (7, "表.txt"), (8, "same"), (9, "same.1")] {
        assert_eq!(shown[n], format!("{root}/{plain}"));
    }
    for (path, (_, bytes)) in shown.iter().zip(&files) {
        assert!(!path.contains(char::is_control) && !path.contains('\\'), "{path:?}");
        assert_eq!(&bae.stdout_of(["cat", &summary.id, path]), bytes, "{path}");
        let args = bae.import_args(&torrent, &[], &["--dry-run", "--select", path]);
        let counted = bae.run(args).expect(0).json().remove(0);
        assert_eq!(
            (counted["files"].as_u64(), counted["bytes"].as_u64()),
            (Some(1), Some(bytes.len() as u64))
        );
    }
    let expected: BTreeMap<_, _> =
        shown.iter().cloned().zip(files.iter().map(|f| f.1.clone())).collect();
    let out = bae.home().join("out");
    bae.run(["export", &summary.id, out.to_str().unwrap()]).expect(0);
    assert_eq!(files_in(&out), expected);
    assert_eq!(
        fs::read_dir(bae.home())
            .unwrap()
            .filter(|e| e.as_ref().unwrap().file_name() == "etc")
            .count(),
        0
    );
    bae.run(["publish", &summary.id]).expect(0);
    let info = bae.run(["--json", "info", &summary.id]).expect(0).json().remove(0);
    for file in info["file_list"].as_array().unwrap() {
        assert_eq!(file["key"], file["path"]);
    }
    bae.run(["verify", &summary.id]).expect(0);
}

#[test]
fn symlinks_inside_a_torrent_are_exported_and_others_become_empty_files() {
    let bae = Bae::new();
    let data = bytes(50_000, 1);
    let link = |name: &str, target: &[&str]| {
        let parts = |parts: &[&str]| Value::List(parts.iter().map(|p| (*p).into()).collect());
        Value::Dict(vec![
            ("attr", "l".into()),
            ("length", Value::Int(0)),
            ("path", parts(&["x", name])),
            ("symlink path", parts(target)),
        ])
    };
    let real = Value::Dict(vec![
        ("length", Value::Int(50_000)),
        ("path", Value::List(vec!["x".into(), "real".into()])),
    ]);
    let links = [
        link("up", &["..", "x", "real"]),
        link("out", &["..", "..", "etc"]),
        link("abs", &["/etc"]),
    ];
    let info = Value::Dict(vec![
        ("files", Value::List([vec![real], links.to_vec()].concat())),
        ("name", "d".into()),
        ("piece length", Value::Int(PIECE as i64)),
        ("pieces", Value::Bytes(piece_hashes(&data, PIECE))),
    ])
    .encode();
    let peer = PayloadPeer::seed(&info, &data, PIECE);
    let output = bae.run(bae.import_args(torrent(&bae, &info), &[peer.addr()], &LONG_TIMEOUT));
    let output = output.expect(0);
    let notices = output.json().into_iter().filter(|e| e["event"] == "notice");
    let warnings =
        notices.filter(|e| e["text"].as_str().unwrap().contains("points outside the torrent"));
    assert_eq!(warnings.count(), 2);
    let out = bae.home().join("out");
    bae.run(["export", "d", out.to_str().unwrap()]).expect(0);
    let x = out.join("d/x");
    assert_eq!(fs::read(x.join("up")).unwrap(), data);
    for empty in ["out", "abs"] {
        let file = fs::symlink_metadata(x.join(empty)).unwrap();
        assert!(file.is_file() && file.len() == 0, "{empty}");
    }
}

#[test]
fn flaws_that_every_client_accepts_are_accepted() {
    let data = bytes(50_000, 1);
    let hashes = piece_hashes(&data, PIECE);
    let info_from = |text: &str| {
        let mut info = text.as_bytes().to_vec();
        info.extend_from_slice(b"6:pieces40:");
        info.extend_from_slice(&hashes);
        info.push(b'e');
        info
    };
    let plain = info_from("d6:lengthi50000e4:name1:z12:piece lengthi32768e");
    let torrent_file = |info: &[u8], tail: &str| [b"d4:info", info, b"e", tail.as_bytes()].concat();
    let table = [
        ("a trailing line end", plain.clone(), "\n", None),
        ("trailing text", plain, "<!-- ad -->", Some("11 bytes after the end")),
        ("leading zeros", info_from("d6:lengthi050000e4:name01:z12:piece lengthi32768e"), "", None),
        (
            "a key twice",
            info_from("d6:lengthi50000e6:lengthi7e4:name1:z12:piece lengthi32768e"),
            "",
            Some("duplicate key"),
        ),
        (
            "keys out of order",
            info_from("d4:name1:z12:piece lengthi32768e6:lengthi50000e"),
            "",
            None,
        ),
    ];
    for (case, info, tail, notice) in table {
        let bae = Bae::new();
        let peer = PayloadPeer::seed(&info, &data, PIECE);
        let path = bae.home().join("x.torrent");
        fs::write(&path, torrent_file(&info, tail)).unwrap();
        let output = bae.run(bae.import_args(&path, &[peer.addr()], &LONG_TIMEOUT)).expect(0);
        assert_eq!(output.summary().info_hash, info_hash(&info), "{case}");
        let is_notice =
            |e: &Json| e["text"].as_str().is_some_and(|t| t.contains(notice.unwrap_or("?")));
        assert_eq!(output.json().iter().any(is_notice), notice.is_some(), "{case}");
        assert_eq!(bae.stdout_of(["cat", "z"]), data, "{case}");
    }
}

#[test]
fn an_import_keeps_its_names_when_name_decoding_has_changed() {
    let bae = Bae::new();
    let (a, b) = (bytes(50_000, 1), bytes(40_001, 2));
    let (info, payload) =
        multi_file_info(b"cd", &[(&[b"\x95\x5c.txt"], &a), (&[b"\x83\x5c.txt"], &b)], PIECE);
    let peer = PayloadPeer::seed(&info, &payload, PIECE);
    let torrent = torrent(&bae, &info);
    let args = |more: &[&str]| bae.import_args(&torrent, &[peer.addr()], more);
    let summary =
        bae.run(args(&[&["--select", "1"], &LONG_TIMEOUT[..]].concat())).expect(0).summary();
    assert_eq!(paths(&bae, &summary.id), ["cd/表.txt", "cd/ソ.txt"]);
    // Paths as written by an old bae that did not recognise encodings.
    let old = ["cd/_x.1b4eaec6.txt", "cd/_x.00112233.txt"];
    let db = rusqlite::Connection::open(bae.data_dir().join("catalog.db")).unwrap();
    for (idx, path) in (0i64..).zip(old) {
        assert_eq!(
            db.execute(
                "UPDATE files SET path = ?1 WHERE idx = ?2 + (SELECT min(idx) FROM files)",
                (path, idx)
            )
            .unwrap(),
            1
        );
    }
    drop(db);
    assert_eq!(paths(&bae, &summary.id), old);
    let second =
        bae.run(args(&[&["--select", old[1]], &LONG_TIMEOUT[..]].concat())).expect(0).summary();
    assert_eq!(second.id, summary.id);
    let second = bae.run(args(&LONG_TIMEOUT)).expect(0).summary();
    assert_eq!((second.id, second.downloaded), (summary.id.clone(), 0));
    assert_eq!(bae.stdout_of(["cat", &summary.id, old[0]]), a);
    let out = bae.home().join("out");
    bae.run(["export", &summary.id, out.to_str().unwrap()]).expect(0);
    assert_eq!(files_in(&out).into_keys().collect::<Vec<_>>(), [old[1], old[0]]);
    // `attach` restores the old paths from the manifest.
    let other = Bae::new();
    other.run(["attach", &bae.storage_url()]).expect(0);
    assert_eq!(paths(&other, &summary.id), old);
}
