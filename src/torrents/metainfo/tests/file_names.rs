//! The names that files get.

use super::*;

#[test]
fn the_utf8_keys_take_precedence() {
    let mut entry = vec![("length", I(1)), ("path", L(vec![S(b"caf\xe9".to_vec())]))];
    let meta = parsed(multi(vec![D(entry.clone())]));
    assert_eq!(meta.files[0].path, "t/café");
    entry.push(("path.utf-8", L(vec![s("kaffee")])));
    let info = with(&multi(vec![D(entry)]), vec![("name.utf-8", s("ü"))]);
    let meta = parsed(info);
    assert_eq!(meta.files[0].path, "ü/kaffee");
    assert_eq!(meta.name, "ü");
}

/// The paths of a torrent with these files. The hash in a name (`.1a2b3c4d`) is shown as `.#`.
fn paths(files: Vec<V>) -> Vec<String> {
    let shown = |path: &str| {
        let is_hash = |part: &&str| part.len() == 8 && part.bytes().all(|b| b.is_ascii_hexdigit());
        let parts = path.split('.').map(|part| if is_hash(&part) { "#" } else { part });
        parts.collect::<Vec<_>>().join(".")
    };
    parsed(multi(files)).files.iter().map(|file| shown(&file.path)).collect()
}

#[test]
fn unusable_names_are_replaced_the_same_way_everywhere() {
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
fn duplicate_paths_get_a_number() {
    assert_eq!(paths(vec![file(1, &["a"]), file(1, &["a"])]), ["t/a", "t/a.1"]);
    assert_eq!(paths(vec![file(1, &["a", "b"]), file(1, &["a"])]), ["t/a/b", "t/a.1"]);
    assert_eq!(paths(vec![file(1, &["a.x"]), file(1, &[".", "a.x"])]), ["t/a.x", "t/a.1.x"]);
}

#[test]
fn symbolic_links_follow_their_renamed_targets() {
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
        let note = "the symbolic link \"t/l\" points outside the torrent and becomes an empty file";
        assert_eq!(notes, [note]);
    }
}

#[test]
fn names_are_decoded_in_the_encoding_of_the_torrent() {
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
fn the_catalogs_paths_replace_the_names_of_files() {
    let raw = |name: &[u8]| {
        D(vec![("length", I(1)), ("path", L(vec![S(b"\x95\x5c".to_vec()), S(name.to_vec())]))])
    };
    let mut meta = parsed(multi(vec![raw(b"a"), raw(b"b"), link(&["l"], &["e", "a"])]));
    meta.files[2].symlink = Some("t/表/b".into());
    let old = ["t/_.1b4eaec6/a", "t/_.1b4eaec6/b", "t/l"].map(str::to_owned);
    meta.rename_files(old.clone().into_iter());
    assert_eq!(meta.files.iter().map(|f| f.path.clone()).collect::<Vec<_>>(), old);
    assert_eq!(
        (meta.files[2].symlink.as_deref(), meta.name.as_str()),
        (Some("t/_.1b4eaec6/b"), "t")
    );
    // A list with another number of paths is ignored.
    meta.rename_files(["x".to_owned()].into_iter());
    assert_eq!(meta.files[0].path, old[0]);
}

#[test]
fn a_torrent_with_an_empty_name_is_named_by_its_hash() {
    let meta = parsed(with(&multi(vec![file(1, &["a"])]), vec![("name", s(""))]));
    assert_eq!(meta.name, hex(&meta.info_hash_v1.unwrap()));
    assert_eq!(meta.files[0].path, format!("{}/a", meta.name));
}
