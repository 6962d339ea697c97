//! Tests of the parser, with torrents that are built here and the files of `testdata`.

mod file_names;
mod generated;
mod layout;
mod leniency;
mod refusals;

use proptest::prelude::*;

use super::bencode::Encoder;
use super::*;

const K: u64 = 16384;

const FIXTURES: [&[u8]; 9] = [
    include_bytes!("../testdata/multi_v1.torrent"),
    include_bytes!("../testdata/multi_v2.torrent"),
    include_bytes!("../testdata/multi_hybrid.torrent"),
    include_bytes!("../testdata/single_v1.torrent"),
    include_bytes!("../testdata/single_v2.torrent"),
    include_bytes!("../testdata/single_hybrid.torrent"),
    include_bytes!("../testdata/tiny_v1.torrent"),
    include_bytes!("../testdata/tiny_v2.torrent"),
    include_bytes!("../testdata/tiny_hybrid.torrent"),
];

/// A value of an info dictionary. Keys may be given in any order, and are written in ascending order.
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

/// `base`, with the entries of `change` in place of its own.
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

/// A v1 torrent named `t` with `files` in one piece.
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
