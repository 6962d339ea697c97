//! A full storage: the import waits, loses nothing, needs no more memory, and resumes by itself.

use std::process::Command;

use crate::support::{
    LONG, MIB,
    bae::{Bae, Running},
    peers::{LibtorrentPeer, Release},
    process::Process,
    require_program,
    torrents::Recipe,
};

/// The maximum file size until [`lift_size_limit`]: enough for the catalog, too little for a chunk.
const SIZE_LIMIT: u64 = 6 * MIB;

/// Progress events in a row without a downloaded byte, four a second, after which the download has stopped.
const SETTLED: u32 = 16;

/// Starts bae with the maximum file size [`SIZE_LIMIT`]. A larger write fails with EFBIG and without a signal; bae
/// handles it like a full disk.
fn start_with_size_limit(bae: &Bae, args: Vec<std::ffi::OsString>) -> Running {
    require_program("prlimit", "util-linux");
    let plain = bae.command(args);
    let mut command = Command::new("prlimit");
    command.arg(format!("--fsize={SIZE_LIMIT}:")).args(["env", "--ignore-signal=XFSZ"]);
    command.arg(plain.get_program()).args(plain.get_args());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    Running(Process::start("bae", &command))
}

fn lift_size_limit(pid: u32) {
    let pid = pid.to_string();
    let status = Command::new("prlimit").args(["--fsize=unlimited:", "--pid", &pid]).status();
    assert!(status.unwrap().success());
}

#[test]
fn an_import_into_a_full_storage_pauses_and_resumes_when_space_is_freed() {
    let torrent = Recipe::single("full.bin", 160 * MIB).piece(MIB).make();
    let (bae, seeder) = (Bae::new(), LibtorrentPeer::seed(Release::Debian, &torrent));
    let budget = 64 * MIB;
    let args = bae.import_args(&torrent.torrent, &[seeder.addr()], &["--memory", "64MiB"]);
    let mut running = start_with_size_limit(&bae, args);

    let paused = running.event("paused");
    assert!(paused["error"].as_str().unwrap().contains("too large"), "{paused}");
    let hint = paused["hint"].as_str().unwrap();
    assert!(hint.contains("free some space") && hint.contains("resumes by itself"), "{hint}");

    // What is in memory is kept, and no more is downloaded: the download stops before the torrent's end.
    let mut last = running.event_where("progress", |e| e["state"] == "paused");
    let mut unchanged = 0;
    while unchanged < SETTLED {
        let progress = running.event("progress");
        assert!(progress["held"].as_u64().unwrap() <= budget, "{progress}");
        let is_same = progress["downloaded"] == last["downloaded"];
        unchanged = if is_same { unchanged + 1 } else { 0 };
        last = progress;
    }
    assert_eq!(last["stored"], 0, "{last}");
    assert_eq!(last["state"], "paused", "{last}");
    assert!(last["held"].as_u64() > Some(budget / 4), "verified bytes were dropped: {last}");

    lift_size_limit(running.0.id());
    running.event("resumed");
    let summary = running.event("imported");
    running.wait(LONG).expect(0);
    assert!(summary["peak_held"].as_u64().unwrap() <= budget, "{summary}");
    assert!(
        summary["downloaded"].as_u64().unwrap() < torrent.bytes + 16 * MIB,
        "fetched again: {summary}"
    );
    bae.assert_exact(summary["id"].as_str().unwrap(), &torrent);
}
