//! Reads of a real player: FFmpeg's libraries open a film by its URL, seek in it, and decode it.

use std::{fs, path::Path, process::Command, time::Duration};

use tempfile::TempDir;

use crate::support::{
    KIB, MIB,
    bae::Bae,
    peers::{LibtorrentPeer, Release},
    player::Player,
    s3_server::S3Server,
    script,
    tools::tool,
    torrents::{Fixture, Recipe},
};

const NAME: &str = "film.mp4";

fn avplay(args: &[&str]) -> String {
    let mut command = Command::new(tool("cloud", "python", "test"));
    command.arg(script("avplay.py")).args(args).env("no_proxy", "*");
    let out = command.output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "playing failed (without PyAV: `scripts/setup test`): {said}");
    String::from_utf8(out.stdout).unwrap()
}

/// The frames when one second is played at several positions, the end first, and then the whole film.
fn seen(place: &str) -> String {
    avplay(&["play", place, "15", "2", "9", "10", "4"])
}

/// A film of 15 MB with its index at the end, and its torrent.
fn film() -> (TempDir, Fixture) {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("data").join(NAME);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    avplay(&["make", path.to_str().unwrap(), "16"]);
    let len = fs::metadata(&path).unwrap().len();
    assert!(len > 10 * MIB, "{len} bytes");
    let torrent = Recipe::single(NAME, len).piece(64 * KIB).make_of(place.path());
    (place, torrent)
}

fn seen_here(torrent: &Fixture) -> String {
    let path: &Path = &torrent.data();
    let seen = seen(path.to_str().unwrap());
    assert!(seen.contains("\"frames\": 400"), "{seen}");
    seen
}

fn stop(player: Player) {
    player.running.interrupt();
    player.running.ended(Duration::from_secs(30)).expect(0);
}

fn in_a_bucket() -> Bae {
    let server = S3Server::seaweed();
    let url = format!("{}&chunk=5MiB", server.storage_url(&server.bucket("film"), "f"));
    Bae::new().storing_at(&url, server.env())
}

#[test]
fn a_player_seeks_and_plays_a_film_out_of_a_bucket() {
    let (_place, torrent) = film();
    let (bae, seeder) = (in_a_bucket(), LibtorrentPeer::seed(Release::Debian, &torrent));
    let id = bae.import(&torrent, &[seeder.addr()]).id;
    let player = Player::start(&bae, &id, &[]);
    assert_eq!(seen(&player.url(NAME)), seen_here(&torrent));
    stop(player);
}

#[test]
fn a_player_seeks_and_plays_a_film_while_it_comes() {
    let (_place, torrent) = film();
    // The download takes seconds, piece by piece, and the player needs the end first.
    let (bae, seeder) = (in_a_bucket(), LibtorrentPeer::slow_seed(&torrent, 2 * MIB));
    let args = bae.import_args(&torrent.torrent, &[seeder.addr()], &["--stream"]);
    let player = Player::of(bae.start(args));
    assert_eq!(seen(&player.url(NAME)), seen_here(&torrent));
    stop(player);
}
