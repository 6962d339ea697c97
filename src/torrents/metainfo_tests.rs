use proptest::prelude::*;

use super::*;
use crate::torrents::bencode::Encoder;

const K: u64 = 16384;

const FIXTURES: [&[u8]; 9] = [
    include_bytes!("testdata/multi_v1.torrent"),
    include_bytes!("testdata/multi_v2.torrent"),
    include_bytes!("testdata/multi_hybrid.torrent"),
    include_bytes!("testdata/single_v1.torrent"),
    include_bytes!("testdata/single_v2.torrent"),
    include_bytes!("testdata/single_hybrid.torrent"),
    include_bytes!("testdata/tiny_v1.torrent"),
    include_bytes!("testdata/tiny_v2.torrent"),
    include_bytes!("testdata/tiny_hybrid.torrent"),
];

/// A value of an info dictionary; keys may be given in any order and are written in the right one.
#[derive(Clone)]
enum V {
    I(i64),
    S(Vec<u8>),
    L(Vec<V>),
    D(Vec<(&'static str, V)>),
}
use V::{D, I, L, S};

fn s(text: &str) -> V {
    S(text.into())
}

fn encode(v: &V, e: &mut Encoder) {
    match v {
        I(n) => e.int(*n),
        S(b) => e.bytes(b),
        L(l) => e.list(|e| l.iter().for_each(|v| encode(v, e))),
        D(d) => e.dict(|e| {
            let mut sorted = d.clone();
            sorted.sort_by_key(|(key, _)| *key);
            for (key, v) in &sorted {
                e.bytes(key);
                encode(v, e);
            }
        }),
    };
}

fn bencode(v: &V) -> Vec<u8> {
    let mut e = Encoder::default();
    encode(v, &mut e);
    e.finish()
}

fn torrent(info: Vec<(&'static str, V)>) -> Vec<u8> {
    bencode(&D(vec![("info", D(info))]))
}

/// `base` with the entries of `change` in place of its own.
fn with(base: &[(&'static str, V)], change: Vec<(&'static str, V)>) -> Vec<(&'static str, V)> {
    let mut all = base.to_vec();
    for (key, value) in change {
        all.retain(|(k, _)| *k != key);
        all.push((key, value));
    }
    all
}

fn without(base: &[(&'static str, V)], key: &str) -> Vec<(&'static str, V)> {
    base.iter().filter(|(k, _)| *k != key).cloned().collect()
}

fn single() -> Vec<(&'static str, V)> {
    let pieces = S(vec![1; 40]);
    vec![("length", I(20)), ("name", s("x.bin")), ("piece length", I(16)), ("pieces", pieces)]
}

fn file(len: i64, path: &[&str]) -> V {
    D(vec![("length", I(len)), ("path", L(path.iter().map(|c| s(c)).collect()))])
}

fn attr(len: i64, path: &[&str], attr: &str) -> V {
    let D(mut entry) = file(len, path) else { unreachable!("file() makes a dictionary") };
    entry.push(("attr", s(attr)));
    D(entry)
}

fn link(path: &[&str], target: &[&str]) -> V {
    let D(mut entry) = attr(0, path, "l") else { unreachable!("attr() makes a dictionary") };
    entry.push(("symlink path", L(target.iter().map(|c| s(c)).collect())));
    D(entry)
}

/// A v1 torrent `t` of `files` in one piece.
fn multi(files: Vec<V>) -> Vec<(&'static str, V)> {
    let pieces = S(vec![1; 20]);
    vec![("files", L(files)), ("name", s("t")), ("piece length", I(1 << 20)), ("pieces", pieces)]
}

fn leaf(len: i64) -> V {
    D(vec![("", D(vec![("length", I(len)), ("pieces root", S(vec![9; 32]))]))])
}

fn v2(tree: Vec<(&'static str, V)>) -> Vec<(&'static str, V)> {
    let piece = ("piece length", I(32768));
    vec![("file tree", D(tree)), ("meta version", I(2)), ("name", s("t")), piece]
}

fn parsed(info: Vec<(&'static str, V)>) -> Metainfo {
    Metainfo::parse(&torrent(info)).expect("usable")
}

fn refusal(torrent: &[u8]) -> String {
    let e = Metainfo::parse(torrent).expect_err("should be refused");
    assert_eq!(e.kind(), Kind::InvalidInput);
    let text = e.report();
    text.strip_prefix("not a usable torrent: ").expect("says what it is not").to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn layout_of(meta: &Metainfo) -> Vec<(&str, u64, u64, bool)> {
    let row = |f: &'_ File| (f.range.start, f.range.end - f.range.start, f.pad);
    meta.files.iter().map(|f| (f.path.as_str(), row(f).0, row(f).1, row(f).2)).collect()
}

/// The rows and hashes are what libtorrent 2.0.8 printed for these files (`testdata/generate.py`).
#[test]
fn several_files_lie_where_libtorrent_puts_them() {
    let meta = Metainfo::parse(FIXTURES[0]).unwrap();
    let v1 = [
        ("m/a.bin", 0, 32868, false),
        ("m/sub/b.bin", 32868, 5, false),
        ("m/sub/empty", 32873, 0, false),
        ("m/z.bin", 32873, 81921, false),
    ];
    assert_eq!(layout_of(&meta), v1);
    assert_eq!((meta.name.as_str(), meta.pieces(), meta.len), ("m", 4, 114_794));
    assert_eq!(hex(&meta.info_hash_v1.unwrap()), "a22ca71b5a73f6af24a879918edd30fb7e709fbf");
    assert_eq!(meta.info_hash_v2, None);
    assert_eq!(meta.comment.as_deref(), Some("hello"));
    assert_eq!(meta.created, Some(1_700_000_000));
    assert_eq!(meta.trackers, [["http://t.example/a"], ["http://t.example/b"]]);
    let aligned = [
        ("m/a.bin", 0, 32868, false),
        ("m/.pad/32668", 32868, 32668, true),
        ("m/sub/b.bin", 65536, 5, false),
        ("m/.pad/32763", 65541, 32763, true),
        ("m/sub/empty", 98304, 0, false),
        ("m/z.bin", 98304, 81921, false),
        ("m/.pad/16383", 180_225, 16383, true),
    ];
    let meta = Metainfo::parse(FIXTURES[1]).unwrap();
    assert_eq!(layout_of(&meta), aligned);
    assert_eq!((meta.pieces(), meta.len, meta.info_hash_v1), (6, 196_608, None));
    let hash = "8f4786c0f683d7e91ca68ced63bf49223e1231b45f909c5d5a4936f4683545e8";
    assert_eq!(hex(&meta.info_hash_v2.unwrap()), hash);
    let meta = Metainfo::parse(FIXTURES[2]).unwrap();
    assert_eq!(layout_of(&meta), aligned);
    assert_eq!(hex(&meta.info_hash_v1.unwrap()), "5c373d90682495656bd87c0beadecdf943ac19b2");
    let hash = "129dd2fb3e1e5afecc66cf6b0607eacd3b912a0606715999a85e8fdb1419cef0";
    assert_eq!(hex(&meta.info_hash_v2.unwrap()), hash);
}

#[test]
fn one_file_lies_where_libtorrent_puts_it() {
    let rows = |i: usize| {
        let meta = Metainfo::parse(FIXTURES[i]).unwrap();
        let rows = meta.files.iter().map(|f| (f.range.clone(), f.pad)).collect::<Vec<_>>();
        (meta.files[0].path.clone(), rows, meta.name.clone())
    };
    let (one, tiny) = ("one.bin".to_owned(), "s.bin".to_owned());
    assert_eq!(rows(3), (one.clone(), vec![(0..49159, false)], one.clone()));
    assert_eq!(rows(4), (one.clone(), vec![(0..49159, false), (49159..65536, true)], one.clone()));
    assert_eq!(rows(5), (one.clone(), vec![(0..49159, false)], one));
    assert_eq!(rows(6), (tiny.clone(), vec![(0..100, false)], tiny.clone()));
    assert_eq!(rows(7), (tiny.clone(), vec![(0..100, false), (100..32768, true)], tiny.clone()));
    assert_eq!(rows(8), (tiny.clone(), vec![(0..100, false)], tiny));
}

#[test]
fn offsets_lead_back_to_files_and_pieces() {
    let meta = Metainfo::parse(FIXTURES[0]).unwrap();
    let at = |offset| meta.file_at(offset).map(|(i, _)| i);
    assert_eq!(
        [at(0), at(32867), at(32868), at(32873), at(114_793)].map(Option::unwrap),
        [0, 0, 1, 3, 3]
    );
    assert_eq!(at(114_794), None);
    assert_eq!(meta.piece_range(3), 98304..114_794);
    assert_eq!(meta.piece_range(4), 114_794..114_794);
    assert_eq!(meta.pieces_v1().len(), 4);
    assert_eq!((meta.piece_v2(0), meta.root(0)), (None, None));
}

#[test]
fn attributes_pads_and_links_are_told_apart() {
    let meta = parsed(multi(vec![
        attr(3, &["run.sh"], "x"),
        attr(5, &[".pad", "5"], "p"),
        D(vec![("attr", s("p")), ("length", I(2))]),
        file(7, &["_____padding_file_0_if you see this"]),
        link(&["dir", "l"], &["run.sh"]),
        file(1, &["", "dir", "", "f"]),
        attr(9, &["no target"], "l"),
    ]));
    let kinds: Vec<_> = meta.files.iter().map(|f| (f.pad, f.executable, f.range.clone())).collect();
    let expected = [
        (false, true, 0..3),
        (true, false, 3..8),
        (true, false, 8..10),
        (true, false, 10..17),
        (false, false, 17..17),
        (false, false, 17..18),
        (false, false, 18..18),
    ];
    assert_eq!(kinds, expected);
    assert_eq!(meta.files[4].symlink.as_deref(), Some("t/run.sh"));
    assert_eq!(meta.files[5].path, "t/dir/f");
    assert_eq!(meta.files[6].symlink, None);
}

#[test]
fn names_prefer_the_key_that_says_utf8() {
    let mut entry = vec![("length", I(1)), ("path", L(vec![S(b"caf\xe9".to_vec())]))];
    let meta = parsed(multi(vec![D(entry.clone())]));
    assert_eq!(meta.files[0].path, "t/café");
    entry.push(("path.utf-8", L(vec![s("kaffee")])));
    let info = with(&multi(vec![D(entry)]), vec![("name.utf-8", s("ü"))]);
    let meta = parsed(info);
    assert_eq!(meta.files[0].path, "ü/kaffee");
    assert_eq!(meta.name, "ü");
}

/// The paths of a torrent of these files, each with its hash (`.1a2b3c4d`) as `.#`.
fn paths(files: Vec<V>) -> Vec<String> {
    let shown = |path: &str| {
        let is_hash = |part: &&str| part.len() == 8 && part.bytes().all(|b| b.is_ascii_hexdigit());
        let parts = path.split('.').map(|part| if is_hash(&part) { "#" } else { part });
        parts.collect::<Vec<_>>().join(".")
    };
    parsed(multi(files)).files.iter().map(|file| shown(&file.path)).collect()
}

#[test]
fn names_that_cannot_be_are_replaced_the_same_way_everywhere() {
    let found = paths(vec![
        file(0, &["Icon\r"]),
        file(1, &["Artist \u{96} Title.mp3"]),
        file(1, &["a\nb.txt"]),
        file(1, &["textures\\a.dds"]),
        file(1, &["/etc/passwd"]),
        file(1, &["d", "NUL"]),
        file(1, &[".", "plain"]),
        file(1, &["", "."]),
    ]);
    let expected = [
        "t/Icon_.#",
        "t/Artist _ Title.#.mp3",
        "t/a_b.#.txt",
        "t/textures_a.#.dds",
        "t/_etc_passwd.#",
        "t/d/NUL_.#",
        "t/plain",
        "t/_",
    ];
    assert_eq!(found, expected);
    let slash = with(&single(), vec![("name", s("Release R1/beta6.iso"))]);
    let meta = parsed(slash);
    assert_eq!(meta.files[0].path, meta.name);
    assert!(meta.name.starts_with("Release R1_beta6.") && meta.name.ends_with(".iso"));
    let in_folder = with(&multi(vec![file(1, &["image.iso"])]), vec![("name", s("R1/b (x86_64)"))]);
    let meta = parsed(in_folder);
    assert!(meta.name.starts_with("R1_b (x86_64)."), "{}", meta.name);
    assert_eq!(meta.files[0].path, format!("{}/image.iso", meta.name));
    let tree = parsed(v2(vec![("d", D(vec![("a/b", leaf(1))])), (".", D(vec![("x", leaf(1))]))]));
    assert!(tree.files.iter().any(|f| f.path == "t/x"), "{:?}", tree.files);
    assert!(tree.files.iter().any(|f| f.path.starts_with("t/d/a_b.")), "{:?}", tree.files);
}

#[test]
fn a_path_that_comes_twice_gets_a_number() {
    assert_eq!(paths(vec![file(1, &["a"]), file(1, &["a"])]), ["t/a", "t/a.1"]);
    assert_eq!(paths(vec![file(1, &["a", "b"]), file(1, &["a"])]), ["t/a/b", "t/a.1"]);
    assert_eq!(paths(vec![file(1, &["a.x"]), file(1, &[".", "a.x"])]), ["t/a.x", "t/a.1.x"]);
}

#[test]
fn links_point_to_where_their_targets_are() {
    let targets = |files: Vec<V>| {
        let meta = parsed(multi(files));
        let links = meta.files.iter().filter_map(|f| f.symlink.clone()).collect::<Vec<_>>();
        (links, meta.notes)
    };
    let real = file(1, &["x", "real\r"]);
    let name = parsed(multi(vec![real.clone()])).files[0].path.clone();
    let inside = vec![
        real.clone(),
        link(&["x", "l"], &["x", "real\r"]),
        link(&["x", "up"], &["..", "x", "real\r"]),
        link(&["m"], &["x", "..", "y", ".", "z"]),
        link(&["folder"], &["x"]),
    ];
    let expected = [name.clone(), name, "t/y/z".to_owned(), "t/x".to_owned()];
    assert_eq!(targets(inside), (expected.to_vec(), vec![]));
    for outside in [&["..", "x"][..], &["/etc"], &["x", "..", "..", "etc"]] {
        let (links, notes) = targets(vec![file(1, &["a"]), link(&["l"], outside)]);
        assert!(links.is_empty(), "{links:?}");
        let note = "the link \"t/l\" points out of the torrent: it is an empty file instead";
        assert_eq!(notes, [note]);
    }
}

#[test]
fn names_in_another_encoding_are_read_in_the_one_of_the_torrent() {
    let raw = |name: &[u8]| D(vec![("length", I(1)), ("path", L(vec![S(name.to_vec())]))]);
    let info = multi(vec![raw(b"\x95\x5c.txt"), raw(b"\x83\x5c.txt")]);
    let meta = parsed(info.clone());
    assert_eq!(layout_of(&meta), [("t/表.txt", 0, 1, false), ("t/ソ.txt", 1, 1, false)]);
    assert!(meta.guessed_names && !parsed(single()).guessed_names);
    let declared = |label: &str, info: Vec<(&'static str, V)>| {
        let torrent = bencode(&D(vec![("encoding", s(label)), ("info", D(info))]));
        Metainfo::parse(&torrent).unwrap().files[0].path.clone()
    };
    assert_eq!(declared("Shift_JIS", info.clone()), "t/表.txt");
    assert_eq!(declared("UTF-8", info), "t/表.txt");
    assert_eq!(declared("KOI8-R", multi(vec![raw(b"\xea\xe8\xed\xee")])), "t/ЙХМН");
}

#[test]
fn an_import_keeps_the_names_it_came_with() {
    let raw = |name: &[u8]| {
        D(vec![("length", I(1)), ("path", L(vec![S(b"\x95\x5c".to_vec()), S(name.to_vec())]))])
    };
    let mut meta = parsed(multi(vec![raw(b"a"), raw(b"b"), link(&["l"], &["e", "a"])]));
    meta.files[2].symlink = Some("t/表/b".into());
    let old = ["t/_.1b4eaec6/a", "t/_.1b4eaec6/b", "t/l"].map(str::to_owned);
    meta.keep_names(old.clone().into_iter());
    assert_eq!(meta.files.iter().map(|f| f.path.clone()).collect::<Vec<_>>(), old);
    assert_eq!(
        (meta.files[2].symlink.as_deref(), meta.name.as_str()),
        (Some("t/_.1b4eaec6/b"), "t")
    );
    // Not the files of this torrent.
    meta.keep_names(["x".to_owned()].into_iter());
    assert_eq!(meta.files[0].path, old[0]);
}

#[test]
fn what_other_clients_take_is_taken_and_told() {
    let good = torrent(single());
    let hash = Metainfo::parse(&good).unwrap().info_hash_v1;
    for (tail, notes) in [
        ("\n", vec![]),
        ("<!-- ad -->", vec!["11 bytes behind the end of the torrent are ignored"]),
    ] {
        let (meta, kept) = Metainfo::read([&good[..], tail.as_bytes()].concat()).unwrap();
        assert_eq!(
            (meta.info_hash_v1, kept, meta.notes),
            (hash, good.clone(), notes.into_iter().map(str::to_owned).collect())
        );
    }
    // What peers send is exactly what the hash is of.
    let info = Metainfo::parse(&good).unwrap().info;
    assert!(Metainfo::parse_info(&[&good[info], b"\n"].concat()).is_err());
    let odd = b"d4:infod6:lengthi03e6:lengthi9e4:name01:z12:piece lengthi016e6:pieces20:aaaaaaaaaaaaaaaaaaaaee";
    let meta = Metainfo::parse(odd).unwrap();
    assert_eq!((meta.len, meta.name.as_str(), meta.piece_length), (3, "z", 16));
    let note = "a key comes twice in the dictionary at byte 7 of the torrent: the first counts";
    assert_eq!(meta.notes, [note]);
}

#[test]
fn tracker_urls_are_those_that_libtorrent_knows() {
    let tiers = L(vec![L(vec![s(" UDP://a:1/x\n"), s("HTTPS://B/p ")])]);
    let outside = bencode(&D(vec![("announce-list", tiers), ("info", D(single()))]));
    let meta = Metainfo::parse(&outside).unwrap();
    assert_eq!(meta.trackers, [["udp://a:1/x", "https://B/p"]]);
}

#[test]
fn a_torrent_of_files_without_a_name_is_called_by_its_hash() {
    let meta = parsed(with(&multi(vec![file(1, &["a"])]), vec![("name", s(""))]));
    assert_eq!(meta.name, hex(&meta.info_hash_v1.unwrap()));
    assert_eq!(meta.files[0].path, format!("{}/a", meta.name));
}

#[test]
fn a_version_that_is_none_is_that_of_v1() {
    for version in [I(0), I(-1), s("1"), I(1)] {
        assert!(parsed(with(&single(), vec![("meta version", version)])).info_hash_v2.is_none());
    }
}

#[test]
fn optional_keys_are_read_leniently() {
    let outside = vec![
        ("info", D(with(&single(), vec![("private", I(1))]))),
        ("announce", s(" http://one ")),
        ("announce-list", L(vec![L(vec![]), s("junk"), L(vec![I(1), S(vec![0xff]), s(" ")])])),
        ("comment", I(5)),
        ("creation date", s("yesterday")),
        ("url-list", L(vec![s("http://w/1"), s(""), s("http://w/2")])),
        ("httpseeds", s("http://w/3")),
    ];
    let meta = Metainfo::parse(&bencode(&D(outside))).unwrap();
    assert!(meta.private);
    assert_eq!(meta.trackers, [["http://one"]]);
    assert_eq!((meta.comment, meta.created), (None, None));
    assert_eq!(meta.web_seeds, ["http://w/1", "http://w/2"]);
    assert_eq!(meta.http_seeds, ["http://w/3"]);
}

#[test]
fn a_torrent_made_of_a_magnet_link_keeps_its_hash() {
    for (i, original) in FIXTURES.iter().enumerate() {
        let meta = Metainfo::parse(original).unwrap();
        let info = &original[meta.info.clone()];
        let alone = Metainfo::parse_info(info).unwrap();
        assert_eq!(alone.info, 0..info.len());
        assert!(alone.trackers.is_empty());
        let rebuilt = torrent_file(info, &meta.trackers, &meta.web_seeds);
        let again = Metainfo::parse(&rebuilt).unwrap();
        assert_eq!(&rebuilt[again.info.clone()], info);
        assert_eq!(again.info_hash_v1, meta.info_hash_v1);
        assert_eq!(again.info_hash_v2, meta.info_hash_v2);
        assert_eq!((&again.trackers, &again.files), (&meta.trackers, &meta.files));
        // Piece layers are outside the info dictionary: only a longer file misses them.
        assert_eq!(again.piece_v2(0).is_some(), (7..9).contains(&i), "torrent {i}");
    }
    assert_eq!(torrent_file(b"de", &[], &[]), b"d4:infodee");
    let seeds = ["http://w/f".to_owned()];
    assert_eq!(torrent_file(b"de", &[], &seeds), b"d4:infode8:url-listl10:http://w/fee");
}

#[test]
fn a_hybrid_without_a_pad_at_the_end_is_taken() {
    let path = |len, name: &str, attrs: &str| attr(len, &[name], attrs);
    let list = vec![path(5, "a", ""), path(32763, "p", "p"), path(7, "b", "")];
    let tree = vec![("a", leaf(5)), ("b", leaf(7))];
    let pieces = ("pieces", S(vec![1; 40]));
    let info = with(&v2(tree), vec![("files", L(list.clone())), pieces.clone()]);
    let meta = parsed(info.clone());
    assert_eq!(meta.len, 32768 + 7);
    assert_eq!(meta.files.len(), 3);
    let tail = [list, vec![path(32761, "q", "p")]].concat();
    let meta = parsed(with(&info, vec![("files", L(tail))]));
    assert_eq!((meta.len, meta.files.len()), (65536, 4));
    let differs = "its v1 and v2 parts do not list the same files";
    for list in [
        vec![path(5, "a", ""), path(32763, "p", "p"), path(7, "c", "")],
        vec![path(6, "a", ""), path(32762, "p", "p"), path(7, "b", "")],
        vec![path(5, "a", ""), path(7, "b", "")],
        vec![],
    ] {
        assert_eq!(refusal(&torrent(with(&info, vec![("files", L(list))]))), differs);
    }
}

#[test]
fn refuses_what_is_no_torrent() {
    let page = Metainfo::parse(b"<!DOCTYPE html>").unwrap_err();
    assert!(page.hint_text().unwrap().contains("web page"));
    assert!(Metainfo::parse(b"magnet:?xt=").unwrap_err().hint_text().is_some());
    let good = torrent(single());
    let cut = format!("the data is cut short, at byte {}", good.len() - 1);
    assert_eq!(refusal(&good[..good.len() - 1]), cut);
    let deep = [b"d4:info".to_vec(), b"l".repeat(100_000)].concat();
    assert_eq!(refusal(&deep), "nested deeper than 64 levels, at byte 70");
    assert_eq!(refusal(b"i1e"), "it is not a dictionary");
    assert_eq!(refusal(b"de"), "it has no \"info\"");
    assert_eq!(refusal(b"d4:infoi1ee"), "\"info\" is not a dictionary");
    assert_eq!(
        refusal(b"d4:info9999999999:e"),
        "a string of 9999999999 bytes, but only 1 are left, at byte 7"
    );
}

#[test]
fn refuses_impossible_pieces() {
    let one = |key, value| torrent(with(&single(), vec![(key, value)]));
    let table = [
        (one("piece length", I(0)), "the piece length 0 is impossible"),
        (one("piece length", I(-16)), "the piece length -16 is impossible"),
        (one("piece length", I(1 << 40)), "the piece length 1099511627776 is impossible"),
        (
            one("piece length", I(1 << 28)),
            "the piece length 268435456 is more than 134217728 bytes",
        ),
        (torrent(without(&single(), "piece length")), "it has no \"piece length\""),
        (torrent(without(&single(), "pieces")), "it has no \"pieces\""),
        (one("pieces", S(vec![1; 41])), "the length of \"pieces\" is not a multiple of 20"),
        (one("pieces", S(vec![1; 60])), "\"pieces\" has 3 hashes for 2 pieces"),
        (one("pieces", S(vec![])), "\"pieces\" has 0 hashes for 2 pieces"),
        (
            one("length", I(16 << 21 | 1)),
            "33554433 bytes in pieces of 16 are more than 2097152 pieces",
        ),
        (one("length", I(0)), "it has no file with anything in it"),
        (one("length", I(-1)), "the length -1 is negative"),
        (
            one("length", I(i64::MAX)),
            "the length 9223372036854775807 is more than 17592186028031 bytes",
        ),
        (torrent(without(&single(), "length")), "there is no \"length\""),
        (one("meta version", I(3)), "its \"meta version\" is 3, and only 1 and 2 are known"),
        (one("file tree", D(vec![])), "it has a \"file tree\", but no \"meta version\" of 2"),
        (torrent(without(&single(), "name")), "it has no \"name\""),
        (one("name", s("")), "its \"name\" is empty"),
        (one("name", s("..")), "\"name\": the name \"..\" would leave its folder"),
    ];
    for (torrent, sentence) in table {
        let text = refusal(&torrent);
        assert!(text.starts_with(sentence), "{text:?} should be {sentence:?}");
    }
}

#[test]
fn refuses_files_that_cannot_be() {
    let table = [
        (vec![], "it has no file with anything in it"),
        (vec![I(1)], "file 1: not a dictionary"),
        (vec![attr(5, &["x"], "p")], "it has no file with anything in it"),
        (
            vec![file(1, &["a"]), file(1, &["..", "b"])],
            "file 2: the name \"..\" would leave its folder",
        ),
        (vec![file(1, &[])], "file 1: the path is empty"),
        (vec![D(vec![("length", I(1))])], "file 1: the path is empty"),
        (vec![D(vec![("path", L(vec![s("a")]))])], "file 1: there is no \"length\""),
        (
            vec![D(vec![("length", I(1)), ("path", L(vec![I(1)]))])],
            "file 1: \"path\" is not a list of strings",
        ),
        (vec![file(-1, &["a"])], "file 1: the length -1 is negative"),
    ];
    for (files, sentence) in table {
        assert_eq!(refusal(&torrent(multi(files))), sentence);
    }
    let most = i64::try_from(crate::torrents::layout::MAX_FILE_LEN).unwrap();
    let many = (0..17).map(|i| file(most, &[&i.to_string()])).collect();
    assert_eq!(
        refusal(&torrent(multi(many))),
        "file 17: the files are longer than 281474976710655 bytes"
    );
}

#[test]
fn refuses_lists_and_names_without_bound() {
    let list = |entry: &[u8], n| [b"l".to_vec(), entry.repeat(n), b"e".to_vec()].concat();
    let mut e = Encoder::default();
    let torrent = |e: &mut Encoder, files: &[u8]| {
        e.dict(|e| {
            e.bytes("info").dict(|e| {
                e.bytes("files").raw(files).bytes("name").bytes("t");
                e.bytes("piece length").int(16384);
            });
        });
        e.finish()
    };
    let (file, pad) = (b"d6:lengthi1e4:pathl1:aee", b"d4:attr1:p6:lengthi1ee");
    let over = refusal(&torrent(&mut e, &list(file, 700_000)));
    assert!(over.starts_with("more than 4194304 values"), "{over}");
    let over = refusal(&torrent(&mut e, &list(pad, 500_001)));
    assert_eq!(over, "file 500001: more than 500000 files");
    let name = "n".repeat(230);
    let tree = |e: &mut Encoder| {
        e.dict(|e| {
            for i in 0..40_000 {
                e.bytes(format!("{i:05}")).raw(b"d0:d6:lengthi0eee");
            }
        });
    };
    e.dict(|e| {
        e.bytes("info").dict(|e| {
            e.bytes("file tree");
            for _ in 0..10 {
                e.raw(b"d").bytes(&name);
            }
            tree(e);
            e.raw(&b"e".repeat(10));
            e.bytes("meta version").int(2).bytes("name").bytes("t");
            e.bytes("piece length").int(16384);
        });
    });
    assert!(
        refusal(&e.finish()).ends_with("the paths of all files are longer than 67108864 bytes")
    );
}

#[test]
fn refuses_what_v2_does_not_allow() {
    let good = v2(vec![("a", leaf(5))]);
    assert_eq!(parsed(good.clone()).files[0].path, "a");
    let root = |root: Vec<u8>| {
        v2(vec![("a", D(vec![("", D(vec![("length", I(5)), ("pieces root", S(root))]))]))])
    };
    let pad = D(vec![("", D(vec![("attr", s("p")), ("length", I(5))]))]);
    let no_root = "file \"a\": \"pieces root\" is not a hash of 32 bytes";
    let power = "is not a power of two of at least 16384, which v2 needs";
    let table = [
        (with(&good, vec![("piece length", I(8192))]), format!("the piece length 8192 {power}")),
        (with(&good, vec![("piece length", I(49152))]), format!("the piece length 49152 {power}")),
        (without(&good, "file tree"), "it has no \"file tree\"".into()),
        (
            with(&good, vec![("pieces", S(vec![1; 20]))]),
            "it has \"pieces\", but no v1 files they could be of".into(),
        ),
        (root(vec![1; 31]), no_root.into()),
        (root(vec![0; 32]), no_root.into()),
        (v2(vec![("a", pad)]), "file \"a\": a pad file has no place in a file tree".into()),
        (v2(vec![("a", I(1))]), "file \"t/a\": not a dictionary".into()),
        (v2(vec![("", leaf(1)), ("b", leaf(1))]), "file tree, in \"t\": the path is empty".into()),
        (
            v2(vec![("..", leaf(1)), ("b", leaf(1))]),
            "file tree, in \"t\": the name \"..\" would leave its folder".into(),
        ),
        (v2(vec![]), "it has no file with anything in it".into()),
    ];
    for (info, sentence) in table {
        assert_eq!(refusal(&torrent(info)), sentence);
    }
}

#[test]
fn only_v1_may_have_keys_out_of_order() {
    let v1 = b"d4:infod4:name1:x12:piece lengthi16e6:lengthi1e6:pieces20:aaaaaaaaaaaaaaaaaaaaee";
    assert_eq!(Metainfo::parse(v1).unwrap().len, 1);
    let v2 = b"d4:infod4:name1:x12:meta versioni2e12:piece lengthi16384e9:file treedeee";
    assert_eq!(refusal(v2), "the keys are out of order in the dictionary at byte 7");
    let v2 = b"d4:infod9:file treede12:meta versioni2e4:name1:x12:piece lengthi016384eee";
    assert_eq!(refusal(v2), "there is a leading zero in the number at byte 63");
    let v2 = b"d4:infod9:file treede12:meta versioni2e4:name1:x4:name1:x12:piece lengthi16384eee";
    assert_eq!(refusal(v2), "a key comes twice in the dictionary at byte 7");
}

#[test]
fn refuses_piece_layers_that_are_not_the_files() {
    let meta = Metainfo::parse(FIXTURES[4]).unwrap();
    let root = *meta.root(0).unwrap();
    let layer: Vec<u8> = [*meta.piece_v2(0).unwrap(), *meta.piece_v2(1).unwrap()].concat();
    let rebuilt = |layer: &[u8]| {
        let mut e = Encoder::default();
        e.dict(|e| {
            e.bytes("info").raw(&FIXTURES[4][meta.info.clone()]);
            e.bytes("piece layers").dict(|e| {
                e.bytes(root).bytes(layer);
            });
        });
        e.finish()
    };
    assert!(Metainfo::parse(&rebuilt(&layer)).is_ok());
    let mut other = layer.clone();
    other[40] ^= 1;
    let of = "the piece layer of \"one.bin\"";
    assert_eq!(refusal(&rebuilt(&other)), format!("{of} does not hash to the root of the file"));
    let count = format!("{of} has not one hash of 32 bytes for each piece");
    assert_eq!(refusal(&rebuilt(&layer[..32])), count);
    assert_eq!(refusal(&rebuilt(&layer[..63])), count);
}

/// What every accepted torrent promises to those who use it.
fn is_sound(meta: &Metainfo) {
    let mut end = 0;
    for file in &meta.files {
        assert_eq!(file.range.start, end);
        assert!(file.range.end >= end);
        end = file.range.end;
        assert!(file.path.split('/').all(|c| !matches!(c, "" | "." | "..")), "{:?}", file.path);
    }
    assert_eq!(end, meta.len);
    let real = meta.files.iter().filter(|f| !f.pad).map(|f| f.path.as_str());
    names::refuse_collisions(real).unwrap();
    assert!(meta.len > 0 && meta.pieces() > 0 && meta.pieces() <= MAX_PIECES);
    let last = meta.piece_range(meta.pieces() - 1);
    assert!(!last.is_empty() && last.end == meta.len);
    assert_eq!(meta.roots.len(), meta.files.len());
    if meta.info_hash_v2.is_some() {
        let aligned = |f: &File| f.range.start.is_multiple_of(meta.piece_length.into());
        assert!(meta.files.iter().all(|f| f.pad || f.range.is_empty() || aligned(f)));
        assert!(u64::from(meta.piece_length) >= K);
    }
    let hashes = crate::torrents::check::PieceHashes::of(meta);
    assert!((0..meta.pieces().min(50)).all(|p| !hashes.verify_piece(p, [&b"not it"[..]])));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn changed_torrents_are_refused_or_sound(
        which in 0usize..9,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 1..6),
    ) {
        let mut bytes = FIXTURES[which].to_vec();
        for (at, byte, how) in edits {
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes[at] = b"0123456789dlei:"[usize::from(byte) % 15],
                2 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        if let Ok(meta) = Metainfo::parse(&bytes) {
            is_sound(&meta);
        }
    }

    #[test]
    fn generated_torrents_are_refused_or_sound(
        files in prop::collection::vec(
            (prop_oneof![Just(0i64), 1..100_000i64, any::<i64>()],
             prop::collection::vec("[a-c.]{0,3}", 0..4), "[plx]{0,2}"), 0..6),
        two in any::<bool>(),
    ) {
        let total: i64 = files.iter().fold(0, |sum, f| if f.2.contains('l') { sum } else { f.0.saturating_add(sum) });
        let entry = |f: &(i64, Vec<String>, String)| {
            attr(f.0, &f.1.iter().map(String::as_str).collect::<Vec<_>>(), &f.2)
        };
        let pieces = usize::try_from(total).unwrap_or(0).div_ceil(16384).min(100);
        let info = with(&multi(files.iter().map(entry).collect()), vec![
            ("piece length", I(16384)),
            ("pieces", S(vec![1; pieces * 20])),
            ("meta version", I(if two { 2 } else { 1 })),
        ]);
        if let Ok(meta) = Metainfo::parse(&torrent(info)) {
            is_sound(&meta);
        }
    }

    #[test]
    fn arbitrary_bytes_are_never_a_torrent(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Metainfo::parse(&bytes).is_err());
    }
}
