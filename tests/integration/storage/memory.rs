//! Memory stays within the budget, however fast bytes arrive and however slowly storage accepts them.

use std::{
    fs,
    io::Read,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use crate::support::{
    LONG, MIB, OVERHEAD, Random,
    bae::Bae,
    peers::{LibtorrentPeer, Release},
    process::peak_memory,
    s3_server::S3Server,
    streaming::{StreamServer, send},
    torrents::{Fixture, Recipe},
};

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

/// Reads ranges of the file at `url` until `ends`, as players that seek. Returns the number of bytes read.
fn play(url: &str, film: &[u8], seed: u64, ends: &AtomicBool) -> u64 {
    let (mut random, mut read) = (Random(seed), 0);
    while !ends.load(Ordering::Relaxed) {
        let from = random.below(film.len() as u64 - 700_000) as usize;
        let mut stream = send("GET", url, &[("Range", &format!("bytes={from}-"))]);
        let mut bytes = vec![0; 600_000];
        // bae may end the connection when it stops.
        if stream.read_exact(&mut bytes).is_err() {
            continue;
        }
        let Some(head) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        let body = &bytes[head + 4..];
        assert!(body == &film[from..from + body.len()], "wrong bytes at {from}");
        read += body.len() as u64;
    }
    read
}

/// Peers send to bae, other peers download from it, players seek, and storage is slower than all of them.
fn assert_budget_holds_for_all_at_once(budget: u64) {
    let torrent = Recipe::single(&format!("all at once in {budget}.mkv"), 96 * MIB).make();
    let film = Arc::new(fs::read(torrent.data()).unwrap());
    let (server, swarm) = (S3Server::seaweed(), LibtorrentPeer::swarm(&torrent, 3, 0));
    let url = format!("{}&upload_limit=12MiB", server.storage_url(&server.bucket("at-once"), "p"));
    let bae = Bae::new().with_storage_url(&url, server.env());
    let memory = budget.to_string();
    // Without PEX the leechers know bae alone, so that it uploads to them.
    let options = ["--stream", "--seed", "--no-pex", "--memory", &memory];
    let args = bae.import_args(&torrent.torrent, swarm.addrs(), &options);
    let mut stream_server = StreamServer::of_running(bae.start(args));
    let (film_url, pid) = (stream_server.url(".mkv"), stream_server.running.0.id());
    let mut leechers =
        [(); 2].map(|()| LibtorrentPeer::leech(Release::Newest, &torrent, bae.listen));
    let ends = Arc::new(AtomicBool::new(false));
    let players: Vec<_> = (0..3)
        .map(|seed| {
            let (url, film, ends) = (film_url.clone(), Arc::clone(&film), Arc::clone(&ends));
            thread::spawn(move || play(&url, &film, seed, &ends))
        })
        .collect();
    let imported = stream_server.running.event("imported");
    for leecher in &mut leechers {
        torrent.assert_same(&leecher.wait_done().join(&torrent.name));
    }
    ends.store(true, Ordering::Relaxed);
    let played: u64 = players.into_iter().map(|player| player.join().unwrap()).sum();
    let peak = peak_memory(pid).unwrap();
    // An event that was printed after all players and peers had begun.
    stream_server.running.event_where("progress", |e| e["state"] == "seeding");
    let events = stream_server.running.events();
    let highest = |field: &str| events.iter().filter_map(|e| e[field].as_u64()).max().unwrap_or(0);
    let (held, cached, uploaded) = (highest("held"), highest("cached"), highest("uploaded"));
    eprintln!("{budget}: {held} held, {cached} cached, {peak} resident, {played} played");
    assert!(played > 0 && cached > 0 && uploaded > 0, "{played} {cached} {uploaded}");
    assert!(imported["peak_held"].as_u64().unwrap() <= budget, "{imported}");
    assert!(held <= budget, "{held} held");
    assert!(peak <= budget + OVERHEAD, "{peak} resident");
    stream_server.running.interrupt();
    stream_server.running.wait(LONG).expect(0);
    bae.assert_exact(imported["id"].as_str().unwrap(), &torrent);
}

#[test]
fn importing_seeding_and_playing_at_once_stay_within_the_budget() {
    for budget in [32 * MIB, 64 * MIB, 128 * MIB] {
        assert_budget_holds_for_all_at_once(budget);
    }
}
