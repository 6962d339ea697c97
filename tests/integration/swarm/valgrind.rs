//! The bridge under valgrind: every byte that crosses between libtorrent and Rust is inside a live buffer.
//!
//! A canary with two such errors runs first with the same options, and valgrind must report both.

use std::{ffi::OsStr, fs, net::SocketAddrV4, process::Command, time::Duration};

use crate::support::{
    KIB, MIB, Random,
    bae::Bae,
    peers::{LibtorrentPeer, Release},
    process::Process,
    require_program, script,
    torrents::{Fixture, Recipe, Version},
};

/// The exit code of valgrind when it found an error.
const ERROR_FOUND: i32 = 99;
/// A timeout for programs under valgrind, which makes them twenty to fifty times slower.
const SLOW: Duration = Duration::from_secs(300);

fn valgrind(program: impl AsRef<OsStr>) -> Command {
    require_program("valgrind", "valgrind");
    let mut command = Command::new("valgrind");
    command.args(["--quiet", &format!("--error-exitcode={ERROR_FOUND}"), "--num-callers=30"]);
    command.arg(program);
    command
}

fn import(bae: &Bae, torrent: &Fixture, peers: &[SocketAddrV4]) -> Command {
    let mut command = valgrind(env!("CARGO_BIN_EXE_bae"));
    command.arg("--data-dir").arg(bae.data_dir());
    command.args(bae.import_args(&torrent.torrent, peers, &["--timeout", "120s"]));
    command
}

fn assert_clean(mut running: Process) {
    let status = running.wait(SLOW);
    assert_eq!(status.code(), Some(0), "{}", running.log());
}

#[test]
fn valgrind_finds_the_errors_of_the_canary() {
    let dir = tempfile::tempdir().unwrap();
    let canary = dir.path().join("canary");
    let built = Command::new("c++")
        .args(["-O0", "-g", "-w"])
        .arg(script("canary.cpp"))
        .arg("-o")
        .arg(&canary)
        .status()
        .unwrap();
    assert!(built.success());
    let output = valgrind(&canary).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(ERROR_FOUND), "{stderr}");
    assert_eq!(stderr.matches("Invalid read").count(), 2, "{stderr}");
}

#[test]
fn valgrind_finds_no_error_while_importing_and_seeding() {
    let torrent = Recipe::single("valgrind.bin", 5 * MIB + 77)
        .version(Version::Hybrid)
        .piece(128 * KIB)
        .make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let bae = Bae::new();
    assert_clean(Process::start("bae", &import(&bae, &torrent, &[seeder.addr()])));
    drop(seeder);
    let mut seed = valgrind(env!("CARGO_BIN_EXE_bae"));
    seed.arg("--data-dir").arg(bae.data_dir()).args(["--json", "seed", "--no-dht", "--no-lsd"]);
    seed.args(["--listen", &bae.listen.to_string()]);
    let mut running = Process::start("bae", &seed);
    running.wait_for("started", SLOW, |line| line.contains("\"started\"").then_some(()));
    let mut leecher = LibtorrentPeer::leech(Release::Debian, &torrent, bae.listen);
    torrent.assert_same(&leecher.wait_done().join(&torrent.name));
    running.signal(libc::SIGINT);
    assert_clean(running);
}

/// The peer also refuses to send block hashes, which corrupts the heap of an unguarded libtorrent before 2.0.14.
#[test]
fn valgrind_finds_no_error_while_a_peer_sends_wrong_bytes_of_a_v2_torrent() {
    let torrent = Recipe::single("wrong.bin", 4 * MIB).version(Version::V2).piece(64 * KIB).make();
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = fs::read(torrent.data()).unwrap();
    let mut random = Random(3);
    for _ in 0..12 {
        let at = random.below(bytes.len() as u64) as usize;
        bytes[at] ^= 0xFF;
    }
    fs::write(dir.path().join(&torrent.name), bytes).unwrap();
    let bad = LibtorrentPeer::corrupting(&torrent, dir.path());
    let good = LibtorrentPeer::slow_seed(&torrent, 512 * KIB);
    let bae = Bae::new();
    let mut running = Process::start("bae", &import(&bae, &torrent, &[bad.addr(), good.addr()]));
    running.wait_for("a failed piece", SLOW, |line| line.contains("hash for piece").then_some(()));
    assert_clean(running);
    let list = bae.run(["ls", "--json"]).expect(0).json();
    bae.assert_exact(list[0]["id"].as_str().unwrap(), &torrent);
}
