//! Storage that refuses for a while: the import waits, loses nothing, needs no more memory, and resumes by itself.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use crate::support::{
    LONG, MIB,
    bae::{Bae, Running},
    need,
    peers::{LibtorrentPeer, Release},
    process::Process,
    torrents::Recipe,
};

/// The maximum file size until [`make_room`]: enough for the catalog, too little for a chunk.
const FULL_AT: u64 = 6 * MIB;

/// Starts bae with the maximum file size [`FULL_AT`]. A larger write fails with EFBIG and without a signal; bae
/// handles it like a full disk.
fn start_without_room(bae: &Bae, args: Vec<std::ffi::OsString>) -> Running {
    need("prlimit", "util-linux");
    let ours = bae.command(args);
    let mut command = Command::new("prlimit");
    command.arg(format!("--fsize={FULL_AT}:")).args(["env", "--ignore-signal=XFSZ"]);
    command.arg(ours.get_program()).args(ours.get_args());
    for (name, value) in ours.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    Running(Process::start("bae", &command))
}

fn make_room(pid: u32) {
    let pid = pid.to_string();
    let done = Command::new("prlimit").args(["--fsize=unlimited:", "--pid", &pid]).status();
    assert!(done.unwrap().success());
}

#[test]
fn an_import_into_a_full_place_pauses_and_goes_on_when_there_is_room() {
    let torrent = Recipe::single("full.bin", 160 * MIB).piece(MIB).make();
    let (bae, seeder) = (Bae::new(), LibtorrentPeer::seed(Release::Debian, &torrent));
    let budget = 64 * MIB;
    let args = bae.import_args(&torrent.torrent, &[seeder.addr()], &["--memory", "64MiB"]);
    let mut running = start_without_room(&bae, args);

    let paused = running.event("paused");
    assert!(paused["error"].as_str().unwrap().contains("too large"), "{paused}");
    let hint = paused["hint"].as_str().unwrap();
    assert!(hint.contains("free some room") && hint.contains("goes on by itself"), "{hint}");

    // What is in memory is kept, and no more is downloaded.
    let began = Instant::now();
    let mut last = running.event_where("progress", |e| e["state"] == "paused");
    let mut still_since = Instant::now();
    while still_since.elapsed() < Duration::from_secs(4) {
        assert!(began.elapsed() < LONG, "the download does not stop: {last}");
        let now = running.event("progress");
        assert!(now["held"].as_u64().unwrap() <= budget, "{now}");
        if now["downloaded"] != last["downloaded"] {
            still_since = Instant::now();
        }
        last = now;
    }
    assert_eq!(last["stored"], 0, "{last}");
    assert_eq!(last["state"], "paused", "{last}");
    assert!(last["held"].as_u64() > Some(budget / 4), "verified bytes are kept: {last}");

    make_room(running.0.id());
    running.event("resumed");
    let done = running.event("imported");
    running.ended(LONG).expect(0);
    assert!(done["peak_held"].as_u64().unwrap() <= budget, "{done}");
    assert!(
        done["downloaded"].as_u64().unwrap() < torrent.bytes + 16 * MIB,
        "fetched again: {done}"
    );
    bae.assert_exact(done["id"].as_str().unwrap(), &torrent);
}
