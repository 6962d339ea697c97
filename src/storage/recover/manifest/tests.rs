//! Manifests encoded and decoded, and bytes that are no manifest.

use proptest::prelude::*;

use super::*;

fn import() -> ImportId {
    "9c4e01ab".parse().unwrap()
}

const CATALOG: &str = "0123456789abcdef";

fn chunk(number: u64, extents: Vec<(Range<u64>, u64)>) -> ManifestObject {
    let key = Key::new(&format!("{CATALOG}/{}/{number:08x}", import())).unwrap();
    let len = extents.iter().map(|(range, at)| at + range.end - range.start).max().unwrap_or(0);
    ManifestObject {
        key,
        len,
        role: Role::Chunk,
        packed: extents.len() > 1,
        extents,
        tag: None,
        encoding: Encoding { format: 0, header: Some(vec![1, 2, 3]) },
        root: Some([5; 32]),
        shared: number == 1,
    }
}

fn sample() -> Manifest {
    let file = |path: &str, start, len, pad| FileRow { path: path.into(), start, len, pad };
    let named = |key: &str, len, extents| ManifestObject {
        key: Key::new(key).unwrap(),
        len,
        role: Role::File,
        packed: false,
        extents,
        tag: None,
        encoding: Encoding::default(),
        root: None,
        shared: false,
    };
    let adopted = |key: &str, len, extents| ManifestObject {
        role: Role::Adopted,
        tag: Some("\"e-tag\"".into()),
        ..named(key, len, extents)
    };
    Manifest {
        catalog: CATALOG.into(),
        import: import(),
        name: "An Album".into(),
        source: "https://x.example/a.torrent?key=1".into(),
        info_hash_v1: Some([7; 20]),
        info_hash_v2: Some([9; 32]),
        len: 100,
        chunk_len: 16 << 20,
        layout: LayoutKind::Files,
        selected: Some(vec![0, 2]),
        state: ImportState::Imported,
        created_at: 1_700_000_000,
        completed_at: Some(1_700_000_100),
        metainfo: b"d4:infodee".to_vec(),
        remote: None,
        files: vec![
            file("An Album/Bj\u{f6}rk \"x\".flac", 0, 60, false),
            file("An Album/.pad/10", 60, 10, true),
            file("An Album/b", 70, 30, false),
            file("An Album/empty", 100, 0, false),
        ],
        objects: vec![
            chunk(1, vec![(0..10, 5), (80..90, 15)]),
            chunk(2, vec![(70..80, 0)]),
            named("An Album/a.flac", 50, vec![(10..60, 0)]),
            named("An Album/empty", 0, vec![]),
            adopted("mine/b", 30, vec![(90..100, 20)]),
        ],
    }
}

fn encoded(manifest: &Manifest) -> Vec<u8> {
    manifest.encode().unwrap().bytes
}

#[test]
fn a_manifest_is_decoded_as_it_was_encoded() {
    let manifest = sample();
    let bytes = encoded(&manifest);
    let line = bytes.split(|b| *b == b'\n').next().unwrap();
    assert!(line.starts_with(br#"{"bae_manifest":2,"sha256":""#));
    assert_eq!(Manifest::decode(&bytes).unwrap(), manifest);
    assert_eq!(manifest.encode().unwrap().digest, sample().encode().unwrap().digest);
    let bare = Manifest { metainfo: vec![], selected: None, completed_at: None, ..manifest };
    assert_eq!(Manifest::decode(&encoded(&bare)).unwrap(), bare);
}

#[test]
fn a_manifest_of_a_newer_bae_differs_from_a_damaged_one() {
    let newer = b"{\"bae_manifest\":3,\"blake3\":\"00\"}\nwhatever";
    let refused = Manifest::decode(newer).unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported);
    assert!(refused.report().contains("made by a newer bae"), "{}", refused.report());
    let bytes = encoded(&sample());
    for damaged in [&bytes[..bytes.len() - 1], &bytes[1..], b"", b"\n", b"{}\n{}", &[0; 1000]] {
        assert_eq!(Manifest::decode(damaged).unwrap_err().kind(), Kind::Corrupt);
    }
    let mut flipped = bytes.clone();
    *flipped.last_mut().unwrap() = b' ';
    assert!(Manifest::decode(&flipped).unwrap_err().report().contains("the SHA-256 differs"));
}

#[test]
fn content_that_the_catalog_would_reject_is_refused() {
    let bad: &[fn(&mut Manifest)] = &[
        |m| m.catalog = "../../etc".into(),
        |m| m.name = "a/b".into(),
        |m| m.name = "..".into(),
        |m| m.len = 99,
        |m| m.len = u64::MAX,
        |m| m.chunk_len = 0,
        |m| {
            m.files[3].len = 1 << 40;
            m.len += 1 << 40;
            m.chunk_len = 1;
        },
        |m| m.state = ImportState::Removing,
        |m| m.created_at = -1,
        |m| m.selected = Some(vec![4]),
        |m| m.selected = Some(vec![1, 1]),
        |m| m.files[0].path = "../x".into(),
        |m| m.files[0].len = u64::MAX,
        |m| m.objects[1] = m.objects[0].clone(),
        |m| m.objects[0].extents[0].0 = 0..11,
        |m| m.objects[0].extents[0].0 = 5..5,
        |m| m.objects[0].extents[0].1 = u64::MAX,
        |m| m.objects[0].len = 20,
        |m| m.objects[0].extents.clear(),
        |m| m.objects[0].role = Role::File,
        |m| m.objects[0].role = Role::Manifest,
        |m| m.objects[2].role = Role::Chunk,
        |m| m.objects[0].role = Role::Adopted,
        |m| m.objects[2].tag = Some("1".into()),
        |m| m.objects[4].extents.clear(),
        |m| m.objects[2].extents[0].0 = 60..110,
    ];
    for (n, spoil) in bad.iter().enumerate() {
        let mut manifest = sample();
        spoil(&mut manifest);
        let refused = Manifest::decode(&encoded(&manifest)).unwrap_err();
        assert_eq!(refused.kind(), Kind::Corrupt, "case {n}");
    }
}

/// Adds a header that fits the body, so that the body is what is tested.
fn with_header(body: &[u8]) -> Vec<u8> {
    let sha256 = hex(digest(&SHA256, body).as_ref());
    let header = Header { bae_manifest: FORMAT, sha256, bytes: body.len() as u64 };
    let mut bytes = serde_json::to_vec(&header).unwrap();
    bytes.push(b'\n');
    bytes.extend_from_slice(body);
    bytes
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        framed in any::<bool>(),
    ) {
        let bytes = if framed { with_header(&bytes) } else { bytes };
        prop_assert!(Manifest::decode(&bytes).is_err());
    }

    #[test]
    fn a_changed_manifest_is_valid_or_refused(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3usize), 1..6),
    ) {
        let whole = encoded(&sample());
        let at = whole.iter().position(|b| *b == b'\n').unwrap();
        let mut body = whole[at + 1..].to_vec();
        for (index, byte, how) in changes {
            let at = index.index(body.len());
            match how {
                0 => body[at] = byte,
                1 => body[at] = b"0123456789"[usize::from(byte % 10)],
                _ => drop(body.remove(at)),
            }
        }
        if let Ok(manifest) = Manifest::decode(&with_header(&body)) {
            let decoded = Manifest::decode(&encoded(&manifest)).unwrap();
            prop_assert_eq!(decoded, manifest);
        }
    }
}
