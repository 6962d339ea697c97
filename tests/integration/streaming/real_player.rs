//! Reads of a real player: FFmpeg's libraries open a film by its URL, seek in it, and decode it.

use std::{fs, path::Path, process::Command};

use tempfile::TempDir;

use crate::support::{
    KIB, LONG, MIB,
    bae::Bae,
    peers::{LibtorrentPeer, Release},
    s3_server::S3Server,
    script,
    streaming::StreamServer,
    tools::tool,
    torrents::{Fixture, Recipe},
};

const NAME: &str = "film.mp4";

fn avplay(args: &[&str]) -> String {
    let mut command = Command::new(tool("cloud", "python", "test"));
    command.arg(script("avplay.py")).args(args).env("no_proxy", "*");
    let out = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "playing failed (without PyAV: `scripts/setup test`): {stderr}");
    String::from_utf8(out.stdout).unwrap()
}

/// The frames when one second is played at several positions, the end first, and then the whole film.
fn played_frames(input: &str) -> String {
    avplay(&["play", input, "15", "2", "9", "10", "4"])
}

/// A film of 15 MB with its index at the end, and its torrent.
fn film() -> (TempDir, Fixture) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data").join(NAME);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    avplay(&["make", path.to_str().unwrap(), "16"]);
    let len = fs::metadata(&path).unwrap().len();
    assert!(len > 10 * MIB, "{len} bytes");
    let torrent = Recipe::single(NAME, len).piece(64 * KIB).make_from(dir.path());
    (dir, torrent)
}

fn played_from_disk(torrent: &Fixture) -> String {
    let path: &Path = &torrent.data();
    let frames = played_frames(path.to_str().unwrap());
    assert!(frames.contains("\"frames\": 400"), "{frames}");
    frames
}

fn stop(stream_server: StreamServer) {
    stream_server.running.interrupt();
    stream_server.running.wait(LONG).expect(0);
}

fn bae_with_bucket() -> Bae {
    let server = S3Server::seaweed();
    let url = format!("{}&chunk=5MiB", server.storage_url(&server.bucket("film"), "f"));
    Bae::new().with_storage_url(&url, server.env())
}

#[test]
fn a_player_seeks_and_plays_a_film_from_a_bucket() {
    let (_dir, torrent) = film();
    let (bae, seeder) = (bae_with_bucket(), LibtorrentPeer::seed(Release::Debian, &torrent));
    let id = bae.import(&torrent, &[seeder.addr()]).id;
    let stream_server = StreamServer::start(&bae, &id, &[]);
    assert_eq!(played_frames(&stream_server.url(NAME)), played_from_disk(&torrent));
    stop(stream_server);
}

#[test]
fn a_player_seeks_and_plays_a_film_during_the_import() {
    let (_dir, torrent) = film();
    // The download takes seconds, piece by piece, and the player needs the end first.
    let (bae, seeder) = (bae_with_bucket(), LibtorrentPeer::slow_seed(&torrent, 2 * MIB));
    let args = bae.import_args(&torrent.torrent, &[seeder.addr()], &["--stream"]);
    let stream_server = StreamServer::of_running(bae.start(args));
    assert_eq!(played_frames(&stream_server.url(NAME)), played_from_disk(&torrent));
    stop(stream_server);
}
