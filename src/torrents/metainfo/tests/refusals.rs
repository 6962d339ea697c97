//! Torrents that are rejected, and the messages.

use super::*;

#[test]
fn inputs_that_are_no_torrent_are_refused() {
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
fn invalid_piece_lengths_and_hashes_are_refused() {
    let one = |key, value| torrent(with(&single(), vec![(key, value)]));
    let table = [
        (one("piece length", I(0)), "the piece length 0 is invalid"),
        (one("piece length", I(-16)), "the piece length -16 is invalid"),
        (one("piece length", I(1 << 40)), "the piece length 1099511627776 is invalid"),
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
        (one("length", I(0)), "it has no file with data"),
        (one("length", I(-1)), "the length -1 is negative"),
        (
            one("length", I(i64::MAX)),
            "the length 9223372036854775807 is more than 17592186028031 bytes",
        ),
        (torrent(without(&single(), "length")), "there is no \"length\""),
        (one("meta version", I(3)), "its \"meta version\" is 3, and only 1 and 2 are supported"),
        (one("file tree", D(vec![])), "it has a \"file tree\", but no \"meta version\" of 2"),
        (torrent(without(&single(), "name")), "it has no \"name\""),
        (one("name", s("")), "its \"name\" is empty"),
        (one("name", s("..")), "\"name\": the name \"..\" would leave its folder"),
    ];
    for (torrent, message) in table {
        let text = refusal(&torrent);
        assert!(text.starts_with(message), "{text:?} should be {message:?}");
    }
}

#[test]
fn invalid_file_lists_are_refused() {
    let table = [
        (vec![], "it has no file with data"),
        (vec![I(1)], "file 1: not a dictionary"),
        (vec![attr(5, &["x"], "p")], "it has no file with data"),
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
    for (files, message) in table {
        assert_eq!(refusal(&torrent(multi(files))), message);
    }
    let longest = i64::try_from(crate::torrents::metainfo::file_layout::MAX_FILE_LEN).unwrap();
    let many = (0..17).map(|i| file(longest, &[&i.to_string()])).collect();
    assert_eq!(
        refusal(&torrent(multi(many))),
        "file 17: the files are longer than 281474976710655 bytes"
    );
}

#[test]
fn file_lists_and_names_above_the_limits_are_refused() {
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
fn invalid_v2_torrents_are_refused() {
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
            "it has \"pieces\", but lists no v1 files".into(),
        ),
        (root(vec![1; 31]), no_root.into()),
        (root(vec![0; 32]), no_root.into()),
        (v2(vec![("a", pad)]), "file \"a\": a pad file is not allowed in a file tree".into()),
        (v2(vec![("a", I(1))]), "file \"t/a\": not a dictionary".into()),
        (v2(vec![("", leaf(1)), ("b", leaf(1))]), "file tree, in \"t\": the path is empty".into()),
        (
            v2(vec![("..", leaf(1)), ("b", leaf(1))]),
            "file tree, in \"t\": the name \"..\" would leave its folder".into(),
        ),
        (v2(vec![]), "it has no file with data".into()),
    ];
    for (info, message) in table {
        assert_eq!(refusal(&torrent(info)), message);
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
    assert_eq!(refusal(v2), "there is a duplicate key in the dictionary at byte 7");
}

#[test]
fn piece_layers_that_do_not_match_the_file_are_refused() {
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
    let count = format!("{of} does not have one hash of 32 bytes for each piece");
    assert_eq!(refusal(&rebuilt(&layer[..32])), count);
    assert_eq!(refusal(&rebuilt(&layer[..63])), count);
}
