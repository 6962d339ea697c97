//! Every shape of torrent: imported from a libtorrent seeder, exported, and compared byte for byte.

use crate::support::{
    KIB, MIB,
    bae::{Bae, ImportSummary},
    peers::{LibtorrentPeer, Release},
    torrents::{Fixture, Recipe, Version},
};

const VERSIONS: [Version; 3] = [Version::V1, Version::V2, Version::Hybrid];

fn round_trip(recipe: &Recipe) -> (Fixture, ImportSummary) {
    let torrent = recipe.make();
    let (bae, seeder) = (Bae::new(), LibtorrentPeer::seed(Release::Debian, &torrent));
    let summary = bae.import(&torrent, &[seeder.addr()]);
    bae.assert_exact(&summary.id, &torrent);
    bae.assert_verified(&summary.id);
    (torrent, summary)
}

fn files(list: &[(&str, u64)]) -> Vec<(String, u64)> {
    list.iter().map(|(path, len)| ((*path).to_owned(), *len)).collect()
}

#[test]
fn single_files_of_each_version_round_trip() {
    for version in VERSIONS {
        round_trip(&Recipe::single("single.bin", 7 * MIB + 321).version(version).piece(256 * KIB));
    }
}

#[test]
fn odd_lengths_round_trip() {
    for len in [
        1,
        16 * KIB - 1,
        16 * KIB,
        16 * KIB + 1,
        64 * KIB - 1,
        64 * KIB + 1,
        5 * MIB + 16 * KIB + 1,
    ] {
        for version in VERSIONS {
            round_trip(&Recipe::single("odd length", len).version(version).piece(64 * KIB));
        }
    }
}

#[test]
fn pieces_from_16_kib_to_16_mib_round_trip() {
    for shift in [14, 15, 18, 20, 22, 24] {
        round_trip(&Recipe::single("pieces.bin", 37 * MIB + 4_242).piece(1 << shift));
    }
}

#[test]
fn pieces_of_16_mib_round_trip_in_v2_and_hybrid_torrents() {
    for version in [Version::V2, Version::Hybrid] {
        round_trip(
            &Recipe::single("large pieces.bin", 37 * MIB + 1).version(version).piece(16 * MIB),
        );
    }
}

#[test]
fn many_files_of_each_version_round_trip() {
    let list = (0..300u64).map(|i| (format!("{}/{}/f{i}.dat", i % 7, i % 3), i * i * 13 % 90_001));
    let list: Vec<_> = list.collect();
    for version in VERSIONS {
        round_trip(&Recipe::folder("many", list.clone()).version(version).piece(64 * KIB));
    }
}

#[test]
fn ten_thousand_small_files_round_trip() {
    let list =
        (0..10_000u64).map(|i| (format!("d{:02}/n{i:05}.txt", i % 100), 1 + i * 7919 % 4096));
    round_trip(&Recipe::folder("ten thousand", list.collect()).piece(256 * KIB));
}

#[test]
fn empty_files_round_trip() {
    let list = files(&[
        ("a first and empty", 0),
        ("b", 100_000),
        ("c empty", 0),
        ("d empty too", 0),
        ("sub/e", 1),
        ("z last and empty", 0),
    ]);
    for version in VERSIONS {
        round_trip(
            &Recipe::folder("with empty files", list.clone()).version(version).piece(16 * KIB),
        );
    }
}

#[test]
fn pad_files_are_never_stored_or_exported() {
    let list =
        files(&[("a", 100_001), ("b", 3 * MIB + 5), ("c", 7), ("d", 64 * KIB), ("e", 2 * MIB - 1)]);
    let recipe = Recipe::folder("padded", list).piece(64 * KIB);
    let (torrent, summary) = round_trip(&recipe.padded());
    assert_eq!(summary.bytes, torrent.bytes, "padding does not count");
}

#[test]
fn small_files_between_large_ones_round_trip() {
    let list = files(&[
        ("1 small", 10_000),
        ("2 large", 40 * MIB + 3),
        ("3 small", 20_000),
        ("4 at the limit", 5 * MIB),
        ("5 below it", 5 * MIB - 1),
        ("6 large", 17 * MIB),
    ]);
    round_trip(&Recipe::folder("mixed", list).piece(512 * KIB));
}

#[test]
fn names_in_every_script_and_of_every_length_round_trip() {
    let long = "é".repeat(110);
    let wide = "長".repeat(75);
    let list = vec![
        ("Ænima/Þórsmörk – été.flac".to_owned(), 70_000),
        ("日本語/音楽 🎵.mp3".to_owned(), 80_000),
        ("العربية/موسيقى.ogg".to_owned(), 60_000),
        ("e\u{301} composed differently".to_owned(), 5_000),
        (format!("{long}/{wide}.bin"), 90_000),
        (format!("{}/deep.txt", vec!["level"; 40].join("/")), 1_234),
        (" leading space, trailing dots..txt".to_owned(), 77),
        ("quotes ' and \" & $(echo) `x` %41 #?.txt".to_owned(), 78),
    ];
    for version in VERSIONS {
        round_trip(&Recipe::folder("Ünïcödé 名前", list.clone()).version(version).piece(32 * KIB));
    }
}
