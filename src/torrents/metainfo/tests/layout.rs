//! Positions of files and pieces, and attributes of files.

use super::*;

/// libtorrent 2.0.8 printed these rows and hashes for the same files (`testdata/generate.py`).
#[test]
fn several_files_have_the_positions_of_libtorrent() {
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
fn a_single_file_has_the_positions_of_libtorrent() {
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
fn offsets_map_to_files_and_pieces() {
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
fn attributes_mark_executables_pads_and_links() {
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
