//! Random torrents: each is rejected or sound.

use super::*;

/// The guarantees of every accepted torrent.
fn assert_sound(meta: &Metainfo) {
    let mut end = 0;
    for file in &meta.files {
        assert_eq!(file.range.start, end);
        assert!(file.range.end >= end);
        end = file.range.end;
        assert!(file.path.split('/').all(|c| !matches!(c, "" | "." | "..")), "{:?}", file.path);
    }
    assert_eq!(end, meta.len);
    let real = meta.files.iter().filter(|f| !f.pad).map(|f| f.path.as_str());
    names::reject_collisions(real).unwrap();
    assert!(meta.len > 0 && meta.pieces() > 0 && meta.pieces() <= MAX_PIECES);
    let last = meta.piece_range(meta.pieces() - 1);
    assert!(!last.is_empty() && last.end == meta.len);
    assert_eq!(meta.roots.len(), meta.files.len());
    if meta.info_hash_v2.is_some() {
        let aligned = |f: &File| f.range.start.is_multiple_of(meta.piece_length.into());
        assert!(meta.files.iter().all(|f| f.pad || f.range.is_empty() || aligned(f)));
        assert!(u64::from(meta.piece_length) >= K);
    }
    let hashes = crate::torrents::metainfo::check::PieceHashes::of(meta);
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
            assert_sound(&meta);
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
            assert_sound(&meta);
        }
    }

    #[test]
    fn arbitrary_bytes_are_never_a_torrent(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Metainfo::parse(&bytes).is_err());
    }
}
