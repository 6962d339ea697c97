//! Playing during an import: what a player needs is fetched first, wherever it is in the file.

use std::{
    fs,
    io::Read,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    memory::{OVERHEAD, high_water},
    support::{
        KIB, LONG, MIB, Random,
        bae::{Bae, Running},
        peers::LibtorrentPeer,
        player::{Player, ask, curl, send},
        torrents::{Fixture, Recipe, Version},
    },
};

fn playing(bae: &Bae, torrent: &Fixture, peers: &LibtorrentPeer, options: &[&str]) -> Player {
    let mut all = vec!["--stream"];
    all.extend(options);
    Player::of(bae.start(bae.import_args(&torrent.torrent, peers.addrs(), &all)))
}

/// The bytes stored so far, as of the last progress event.
fn stored(running: &Running) -> u64 {
    let events = running.events();
    let last = events.iter().rev().find(|e| e["event"] == "progress");
    last.map_or(0, |e| e["stored"].as_u64().unwrap())
}

fn is_imported(running: &Running) -> bool {
    running.events().iter().any(|e| e["event"] == "imported")
}

#[test]
fn a_player_gets_the_end_of_a_film_long_before_it_is_imported() {
    let torrent = Recipe::single("coming.mkv", 48 * MIB).piece(256 * KIB).make();
    let film = fs::read(torrent.data()).unwrap();
    let (bae, seeder) = (Bae::new(), LibtorrentPeer::slow_seed(&torrent, 2 * MIB));
    let mut player = playing(&bae, &torrent, &seeder, &[]);
    let url = player.url("coming.mkv");
    player.running.event_where("progress", |e| e["downloaded"].as_u64().unwrap() > 0);
    // As players do: the index at the end first, then the middle.
    for from in [film.len() - 200_000, film.len() / 2] {
        let began = Instant::now();
        let range = format!("{from}-{}", from + 199_999);
        let got = curl(&["--range", &range], &url);
        let took = began.elapsed();
        assert!(got == film[from..from + 200_000]);
        assert!(!is_imported(&player.running), "it waited for the whole import");
        assert!(took < Duration::from_secs(6), "{took:?} for 200 kB at 2 MiB/s");
    }
    let so_far = stored(&player.running);
    assert!(so_far < 40 * MIB, "{so_far} were stored by then");
    // The whole file from its start during the import. Then the import is complete, and it is served until bae is
    // stopped.
    assert!(curl(&[], &url) == film);
    let imported = player.running.event("imported");
    let fetched = imported["downloaded"].as_u64().unwrap();
    assert!(fetched < 52 * MIB, "{fetched} fetched for 48 MiB");
    assert!(curl(&["--range", "5-9"], &url) == film[5..10]);
    player.running.interrupt();
    player.running.ended(LONG).expect(0);
    bae.assert_exact(imported["id"].as_str().unwrap(), &torrent);
}

#[test]
fn seeks_in_what_is_coming_neither_stall_the_import_nor_exceed_the_budget() {
    let torrent = Recipe::single("stormy.mkv", 160 * MIB).make();
    let film = fs::read(torrent.data()).unwrap();
    // Storage is slower than the peers, so memory is always full.
    let bae = Bae::new().storing_with("upload_limit=12MiB");
    let swarm = LibtorrentPeer::swarm(&torrent, 3, 0);
    let options = ["--memory", "32MiB"];
    let mut player = playing(&bae, &torrent, &swarm, &options);
    let (url, pid) = (player.url("stormy.mkv"), player.running.0.id());
    let seekers: Vec<_> = (0..3u64)
        .map(|n| {
            let (url, film) = (url.clone(), film.clone());
            thread::spawn(move || {
                let mut random = Random(n);
                for round in 0..12 {
                    let from = random.below(159 * MIB);
                    let range = format!("bytes={from}-");
                    let mut stream = send("GET", &url, &[("Range", &range)]);
                    // Every third request reads its bytes; the others close the connection.
                    let most = if round % 3 == 0 { 300_000 } else { 0 };
                    let mut bytes = vec![0; most + 1];
                    if stream.read_exact(&mut bytes).is_err() {
                        panic!("no answer at {from}");
                    }
                    let head = bytes.windows(4).position(|w| w == b"\r\n\r\n");
                    if let Some(head) = head {
                        let body = &bytes[head + 4..];
                        let from = from as usize;
                        assert!(body == &film[from..from + body.len()], "wrong bytes at {from}");
                    }
                }
            })
        })
        .collect();
    seekers.into_iter().for_each(|seeker| seeker.join().unwrap());
    let imported = player.running.event("imported");
    let peak = high_water(pid).unwrap();
    assert!(peak <= 32 * MIB + OVERHEAD, "{} MiB", peak / MIB);
    let held = imported["peak_held"].as_u64().unwrap();
    assert!(held <= 32 * MIB, "{held} held");
    player.running.interrupt();
    player.running.ended(LONG).expect(0);
    bae.assert_exact(imported["id"].as_str().unwrap(), &torrent);
}

#[test]
fn either_version_plays_while_it_comes_also_from_a_magnet() {
    for (version, magnet) in [(Version::V2, true), (Version::Hybrid, false)] {
        let list = [("extra.txt", 70_000), ("film.mkv", 10 * MIB + 3)];
        let list = list.map(|(path, len)| (path.to_owned(), len)).to_vec();
        let torrent = Recipe::folder("by magnet", list).piece(64 * KIB).version(version).make();
        let film = fs::read(torrent.data().join("film.mkv")).unwrap();
        let (bae, seeder) = (Bae::new(), LibtorrentPeer::slow_seed(&torrent, MIB));
        let file = torrent.torrent.to_str().unwrap().to_owned();
        let source = if magnet { torrent.magnet() } else { file };
        let args = bae.import_args(source, seeder.addrs(), &["--stream"]);
        let mut player = Player::of(bae.start(args));
        let url = player.url("film.mkv");
        let end = curl(&["--range", "-100000"], &url);
        assert!(end == film[film.len() - 100_000..], "{version:?}");
        assert!(!is_imported(&player.running), "{version:?}: it waited for the whole import");
        assert!(curl(&[], &url) == film, "{version:?}");
        player.running.event("imported");
        player.running.interrupt();
        player.running.ended(LONG).expect(0);
    }
}

#[test]
fn a_second_process_reads_what_another_has_stored_so_far() {
    let torrent = Recipe::single("of another.mkv", 24 * MIB).piece(64 * KIB).make();
    let film = fs::read(torrent.data()).unwrap();
    let bae = Bae::new().storing_with("chunk=1MiB");
    let seeder = LibtorrentPeer::slow_seed(&torrent, 2 * MIB);
    let mut importing =
        bae.start(bae.import_args(&torrent.torrent, seeder.addrs(), &["--sequential"]));
    let half_a_mib = |e: &Value| e["stored"].as_u64().unwrap() >= MIB;
    let id = importing.event_where("progress", half_a_mib)["id"].as_str().unwrap().to_owned();
    let player = Player::start(&bae, &id, &[]);
    let url = player.url("of another.mkv");
    let end = ask("GET", &url, &[("Range", "bytes=-10")]);
    assert_eq!((end.status, end.header("retry-after")), (503, Some("5")), "{}", end.text());
    assert!(end.text().contains("not stored yet"), "{}", end.text());
    importing.event("imported");
    importing.ended(LONG).expect(0);
    // The stream also finds what was stored after it was opened.
    thread::sleep(Duration::from_millis(1100));
    assert!(curl(&[], &url) == film);
}
