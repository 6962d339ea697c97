//! Irregular torrents that are accepted, as other clients accept them.

use super::*;

#[test]
fn irregularities_that_other_clients_accept_are_accepted_with_a_note() {
    let good = torrent(single());
    let hash = Metainfo::parse(&good).unwrap().info_hash_v1;
    for (tail, notes) in
        [("\n", vec![]), ("<!-- ad -->", vec!["11 bytes after the end of the torrent are ignored"])]
    {
        let (meta, trimmed) =
            Metainfo::parse_trimmed([&good[..], tail.as_bytes()].concat()).unwrap();
        assert_eq!(
            (meta.info_hash_v1, trimmed, meta.notes),
            (hash, good.clone(), notes.into_iter().map(str::to_owned).collect())
        );
    }
    // The info dictionary from peers must be exactly the bytes that the hash covers.
    let info = Metainfo::parse(&good).unwrap().info;
    assert!(Metainfo::parse_info(&[&good[info], b"\n"].concat()).is_err());
    let odd = b"d4:infod6:lengthi03e6:lengthi9e4:name01:z12:piece lengthi016e6:pieces20:aaaaaaaaaaaaaaaaaaaaee";
    let meta = Metainfo::parse(odd).unwrap();
    assert_eq!((meta.len, meta.name.as_str(), meta.piece_length), (3, "z", 16));
    let note = "duplicate key in the dictionary at byte 7 of the torrent: its first value is used";
    assert_eq!(meta.notes, [note]);
}

#[test]
fn tracker_urls_are_trimmed_and_their_schemes_lowercased() {
    let tiers = L(vec![L(vec![s(" UDP://a:1/x\n"), s("HTTPS://B/p ")])]);
    let outside = bencode(&D(vec![("announce-list", tiers), ("info", D(single()))]));
    let meta = Metainfo::parse(&outside).unwrap();
    assert_eq!(meta.trackers, [["udp://a:1/x", "https://B/p"]]);
}

#[test]
fn an_invalid_meta_version_counts_as_v1() {
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
fn a_torrent_rebuilt_from_its_info_dictionary_keeps_its_hash() {
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
        // Piece layers are outside the info dictionary: only a file longer than a piece lacks its hashes.
        assert_eq!(again.piece_v2(0).is_some(), (7..9).contains(&i), "torrent {i}");
    }
    assert_eq!(torrent_file(b"de", &[], &[]), b"d4:infodee");
    let seeds = ["http://w/f".to_owned()];
    assert_eq!(torrent_file(b"de", &[], &seeds), b"d4:infode8:url-listl10:http://w/fee");
}

#[test]
fn a_hybrid_without_a_pad_at_the_end_is_accepted() {
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
