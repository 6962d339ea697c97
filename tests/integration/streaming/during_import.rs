//! Playing during an import: what a player needs is fetched first, wherever it is in the file.

use std::{fs, io::Read, thread};

use serde_json::Value;

use crate::support::{
    KIB, LONG, MIB, OVERHEAD, Random,
    bae::{Bae, Running},
    peers::LibtorrentPeer,
    process::peak_memory,
    streaming::{StreamServer, curl, request, send},
    torrents::{Fixture, Recipe, Version},
    wait_until,
};

fn start_streaming_import(
    bae: &Bae,
    torrent: &Fixture,
    peers: &LibtorrentPeer,
    options: &[&str],
) -> StreamServer {
    let mut all = vec!["--stream"];
    all.extend(options);
    StreamServer::of_running(bae.start(bae.import_args(&torrent.torrent, peers.addrs(), &all)))
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
fn a_player_gets_the_end_of_a_film_long_before_the_import_completes() {
    let torrent = Recipe::single("film.mkv", 48 * MIB).piece(256 * KIB).make();
    let film = fs::read(torrent.data()).unwrap();
    let (bae, mut seeder) = (Bae::new(), LibtorrentPeer::slow_seed(&torrent, 2 * MIB));
    let mut stream_server = start_streaming_import(&bae, &torrent, &seeder, &[]);
    let url = stream_server.url("film.mkv");
    stream_server.running.event_where("progress", |e| e["downloaded"].as_u64().unwrap() > 0);
    // As players do: the index at the end first, then the middle.
    for from in [film.len() - 200_000, film.len() / 2] {
        let before = seeder.sent();
        let range = format!("{from}-{}", from + 199_999);
        let got = curl(&["--range", &range], &url);
        let sent = seeder.sent() - before;
        assert!(got == film[from..from + 200_000]);
        assert!(!is_imported(&stream_server.running), "the range was served after the import");
        // What a peer has sent in six seconds.
        assert!(sent < 12 * MIB, "{sent} bytes were sent for 200 kB");
    }
    let so_far = stored(&stream_server.running);
    assert!(so_far < 40 * MIB, "{so_far} bytes were stored by then");
    // The whole file from its start during the import. Then the import is complete, and it is served until bae is
    // stopped.
    assert!(curl(&[], &url) == film);
    let imported = stream_server.running.event("imported");
    let fetched = imported["downloaded"].as_u64().unwrap();
    assert!(fetched < 52 * MIB, "{fetched} fetched for 48 MiB");
    assert!(curl(&["--range", "5-9"], &url) == film[5..10]);
    stream_server.running.interrupt();
    stream_server.running.wait(LONG).expect(0);
    bae.assert_exact(imported["id"].as_str().unwrap(), &torrent);
}

#[test]
fn seeks_during_an_import_neither_stall_it_nor_exceed_the_budget() {
    let torrent = Recipe::single("seeks.mkv", 160 * MIB).make();
    let film = fs::read(torrent.data()).unwrap();
    // Storage is slower than the peers, so memory is always full.
    let bae = Bae::new().with_storage_options("upload_limit=12MiB");
    let swarm = LibtorrentPeer::swarm(&torrent, 3, 0);
    let options = ["--memory", "32MiB"];
    let mut stream_server = start_streaming_import(&bae, &torrent, &swarm, &options);
    let (url, pid) = (stream_server.url("seeks.mkv"), stream_server.running.0.id());
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
                    let len = if round % 3 == 0 { 300_000 } else { 0 };
                    let mut bytes = vec![0; len + 1];
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
    let imported = stream_server.running.event("imported");
    let peak = peak_memory(pid).unwrap();
    assert!(peak <= 32 * MIB + OVERHEAD, "{} MiB", peak / MIB);
    let held = imported["peak_held"].as_u64().unwrap();
    assert!(held <= 32 * MIB, "{held} held");
    stream_server.running.interrupt();
    stream_server.running.wait(LONG).expect(0);
    bae.assert_exact(imported["id"].as_str().unwrap(), &torrent);
}

#[test]
fn v2_and_hybrid_torrents_play_during_the_import() {
    for (version, magnet) in [(Version::V2, true), (Version::Hybrid, false)] {
        let list = [("extra.txt", 70_000), ("film.mkv", 10 * MIB + 3)];
        let list = list.map(|(path, len)| (path.to_owned(), len)).to_vec();
        let torrent = Recipe::folder("by magnet", list).piece(64 * KIB).version(version).make();
        let film = fs::read(torrent.data().join("film.mkv")).unwrap();
        let (bae, seeder) = (Bae::new(), LibtorrentPeer::slow_seed(&torrent, MIB));
        let file = torrent.torrent.to_str().unwrap().to_owned();
        let source = if magnet { torrent.magnet() } else { file };
        let args = bae.import_args(source, seeder.addrs(), &["--stream"]);
        let mut stream_server = StreamServer::of_running(bae.start(args));
        let url = stream_server.url("film.mkv");
        let end = curl(&["--range", "-100000"], &url);
        assert!(end == film[film.len() - 100_000..], "{version:?}");
        assert!(
            !is_imported(&stream_server.running),
            "{version:?}: the range was served after the import"
        );
        assert!(curl(&[], &url) == film, "{version:?}");
        stream_server.running.event("imported");
        stream_server.running.interrupt();
        stream_server.running.wait(LONG).expect(0);
    }
}

#[test]
fn a_second_process_reads_the_stored_bytes_of_a_running_import() {
    let torrent = Recipe::single("of another.mkv", 24 * MIB).piece(64 * KIB).make();
    let film = fs::read(torrent.data()).unwrap();
    let bae = Bae::new().with_storage_options("chunk=1MiB");
    let seeder = LibtorrentPeer::slow_seed(&torrent, 2 * MIB);
    let mut importing =
        bae.start(bae.import_args(&torrent.torrent, seeder.addrs(), &["--sequential"]));
    let one_mib_is_stored = |e: &Value| e["stored"].as_u64().unwrap() >= MIB;
    let id =
        importing.event_where("progress", one_mib_is_stored)["id"].as_str().unwrap().to_owned();
    let stream_server = StreamServer::start(&bae, &id, &[]);
    let url = stream_server.url("of another.mkv");
    let end = request("GET", &url, &[("Range", "bytes=-10")]);
    assert_eq!((end.status, end.header("retry-after")), (503, Some("5")), "{}", end.text());
    assert!(end.text().contains("not stored yet"), "{}", end.text());
    importing.event("imported");
    importing.wait(LONG).expect(0);
    // The stream also finds what was stored after it was opened. It looks once a second.
    wait_until("the end is found", LONG, || {
        request("GET", &url, &[("Range", "bytes=-10")]).status == 206
    });
    assert!(curl(&[], &url) == film);
}
