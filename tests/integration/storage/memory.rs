//! Memory stays within the budget, however fast bytes arrive and however slowly storage accepts them.

use crate::support::{
    LONG, MIB,
    bae::Bae,
    peers::LibtorrentPeer,
    torrents::{Fixture, Recipe},
};

/// Memory besides the payload: the program, libtorrent, SQLite and socket buffers. A build without optimisation
/// needs somewhat more than the release build that `scripts/bench` measures.
pub(crate) const OVERHEAD: u64 = 80 * MIB;

/// Imports with a memory budget of 64 MiB and checks that it holds.
fn assert_stays_within_64_mib(torrent: &Fixture, peers: usize, storage_options: &str) {
    let budget = 64 * MIB;
    let swarm = LibtorrentPeer::swarm(torrent, peers, 0);
    let bae = Bae::new().with_storage_options(storage_options);
    let args = bae.import_args(&torrent.torrent, swarm.addrs(), &["--memory", "64MiB"]);
    let mut running = bae.start(args);
    let (mut peak, pid) = (0, running.0.id());
    let mut held = 0;
    let done = loop {
        let event = running.next_event();
        peak = peak.max(peak_memory(pid).unwrap_or(0));
        held = held.max(event["held"].as_u64().unwrap_or(0));
        if event["event"] == "imported" {
            break event;
        }
    };
    running.wait(LONG).expect(0);
    assert!(done["peak_held"].as_u64().unwrap() <= budget, "{done}");
    assert!(
        held <= budget && peak > 0 && peak <= budget + OVERHEAD,
        "{held} held, {peak} resident"
    );
    bae.assert_exact(done["id"].as_str().unwrap(), torrent);
}

/// The peak resident memory of a process, in bytes.
pub(crate) fn peak_memory(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

#[test]
fn memory_stays_within_the_budget_whatever_the_piece_size() {
    for piece in [MIB / 64, MIB, 16 * MIB] {
        let name = format!("pieces of {piece}.bin");
        assert_stays_within_64_mib(&Recipe::single(&name, 192 * MIB).piece(piece).make(), 8, "");
    }
}

#[test]
fn a_slow_storage_neither_stalls_an_import_nor_exceeds_the_budget() {
    let torrent = Recipe::single("slow storage.bin", 160 * MIB).make();
    for peers in [1, 8] {
        assert_stays_within_64_mib(&torrent, peers, "upload_limit=20MiB");
    }
}
