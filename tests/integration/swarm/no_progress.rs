//! Imports without progress: what they report, and what ends a run.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddrV4, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use crate::support::{
    KIB, LONG, LONG_TIMEOUT, MIB,
    bae::{Bae, CommandOutput},
    peers::{LibtorrentPeer, Release},
    scripted_http::{Answer, ScriptedHttp},
    scripted_peer::ScriptedPeer,
    torrents::{Fixture, Recipe},
    wait_until,
};

fn small_torrent(name: &str) -> Fixture {
    Recipe::single(name, 256 * KIB).piece(64 * KIB).make()
}

/// `import` as a user types it, without `--json` and `-v`.
fn plain_import(
    bae: &Bae,
    torrent: &Fixture,
    peers: &[SocketAddrV4],
    options: &[&str],
) -> CommandOutput {
    bae.run(bae.import_args(&torrent.torrent, peers, options).split_off(1))
}

#[test]
fn errors_of_a_tracker_are_reported() {
    let torrent = small_torrent("tracked.bin");
    let refusal = "d14:failure reason43:Unregistered torrent: check your passkey ab";
    let cases: [(Answer, &str); 3] = [
        (Answer::new(200, format!("{refusal}e")), "Unregistered torrent: check your passkey"),
        (Answer::new(403, "<html>no</html>"), "403 X"),
        (Answer::new(200, "<html>this domain is for sale</html>"), "not from a tracker"),
    ];
    for (answer, message) in cases {
        let server = ScriptedHttp::start(move |_, _| Some(answer.clone()));
        let bae = Bae::new();
        let passkey = "0123456789abcdef0123456789abcdef";
        let url = format!("{}/announce?passkey={passkey}", server.url());
        let tracked = torrent.with_tracker(&url, bae.home());
        let output = plain_import(&bae, &tracked, &[], &["--timeout", "5s"])
            .expect(6)
            .expect_stderr(message);
        // Once while it waits, and once in the error.
        assert_eq!(output.stderr.matches(message).count(), 2, "{}", output.stderr);
        assert!(!output.stderr.contains(passkey), "{}", output.stderr);
    }
}

#[test]
fn an_import_from_corrupting_peers_only_reports_wrong_bytes() {
    let torrent = small_torrent("only wrong.bin");
    let peer = ScriptedPeer::start(&torrent, 4, |peer, request| {
        peer.send_block(request, &vec![0xee; request.len as usize])
    });
    let bae = Bae::new();
    let output = plain_import(&bae, &torrent, &[peer.addr()], &["--timeout", "4s"]);
    output.expect(6).expect_stderr("wrong bytes").expect_stderr("banned");
}

#[test]
fn a_peer_slower_than_one_block_per_timeout_counts_as_progress() {
    let torrent = Recipe::single("slow.bin", 40_000).piece(64 * KIB).make();
    let payload = std::fs::read(torrent.data()).unwrap();
    let peer = ScriptedPeer::start(&torrent, 1, move |peer, request| {
        let start = request.start as usize;
        let block = &payload[start..start + request.len as usize];
        let mut message = (9 + request.len).to_be_bytes().to_vec();
        message.push(7);
        message.extend(request.piece.to_be_bytes());
        message.extend(request.start.to_be_bytes());
        message.extend_from_slice(block);
        // Half a block takes longer than the timeout.
        for part in message.chunks(2048) {
            peer.write(part)?;
            thread::sleep(Duration::from_secs(1));
        }
        Ok(())
    });
    let bae = Bae::new();
    let output = plain_import(&bae, &torrent, &[peer.addr()], &["--timeout", "4s"]);
    output.expect(0);
}

#[test]
fn a_missing_interface_ends_an_import_before_it_starts() {
    let torrent = small_torrent("interface.bin");
    let bae = Bae::new();
    plain_import(&bae, &torrent, &[], &["--interface", "nosuch0"])
        .expect(2)
        .expect_stderr("nosuch0");
    let args = ["import".into(), torrent.torrent.clone().into_os_string()];
    let args = args.into_iter().chain(["--listen".into(), "nosuch1:0".into()]);
    bae.run(args).expect(2).expect_stderr("nosuch1");
    assert!(bae.run(["ls", "--json"]).expect(0).json().is_empty(), "an import was started");
}

#[test]
fn an_import_works_over_a_named_interface() {
    let torrent = small_torrent("loopback.bin");
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let bae = Bae::new();
    let options = [&["--interface", "lo"], &LONG_TIMEOUT[..]].concat();
    plain_import(&bae, &torrent, &[seeder.addr()], &options).expect(0);
}

#[test]
fn sighup_stops_an_import_like_ctrl_c() {
    let torrent = small_torrent("hangup.bin");
    let bae = Bae::new();
    let mut running = bae.start_import(&torrent, &[]);
    running.event("started");
    running.0.signal(libc::SIGHUP);
    running.wait(LONG).expect(7).expect_stderr("stopping");
}

#[test]
fn seeding_ends_within_seconds_of_the_seed_time() {
    let torrent = small_torrent("seed time.bin");
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let bae = Bae::new();
    let id = bae.import(&torrent, &[seeder.addr()]).id;
    let running = bae.seed_with(&id, &[], &["--seed-time", "2s"]);
    running.wait(LONG).expect(0);
    let info = bae.run(["--json", "info", &id]).expect(0).json().remove(0);
    let seconds = info["seeded"]["seconds"].as_u64().unwrap();
    assert!((2..30).contains(&seconds), "{seconds} s are counted");
}

#[test]
fn seeding_without_a_terminal_logs_the_import_and_the_address() {
    let torrent = small_torrent("service.bin");
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let bae = Bae::new();
    let id = bae.import(&torrent, &[seeder.addr()]).id;
    let listen = bae.listen.to_string();
    let args = ["seed", "--listen", &listen, "--no-dht", "--no-lsd", "--seed-time", "2s"];
    let output = bae.run(args).expect(0);
    let output = output.expect_stderr(&format!("listening on {listen}"));
    output.expect_stderr(&format!("seeding {id} service.bin: 256 KiB"));
}

#[test]
fn a_peer_that_chokes_endlessly_is_disconnected() {
    let torrent = Recipe::single("chokes.bin", MIB).piece(64 * KIB).make();
    let chokes = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&chokes);
    let peer = ScriptedPeer::start(&torrent, 16, move |peer, _| {
        count.fetch_add(1, Ordering::Relaxed);
        peer.send(0, &[])?;
        peer.send(1, &[])
    });
    let bae = Bae::new();
    let running = bae.start_import(&torrent, &[peer.addr()]);
    // A connection ends after a hundred chokes and the few that were in flight.
    wait_until("bae reconnects to the peer", LONG, || peer.connections() >= 2);
    let each = chokes.load(Ordering::Relaxed) / peer.connections();
    assert!(each < 2000, "{each} chokes a connection");
    running.interrupt();
    running.wait(LONG).expect(7);
}

fn has_timed_out(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

#[test]
fn a_peer_that_reads_no_answers_is_disconnected() {
    const AT_ONCE: usize = 200;
    let torrent = small_torrent("unread.bin");
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let bae = Bae::new();
    let id = bae.import(&torrent, &[seeder.addr()]).id;
    let running = bae.seed(&id, &[]);
    let mut stream = TcpStream::connect(bae.listen).unwrap();
    stream.set_write_timeout(Some(LONG)).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    let hash = torrent.info_hash();
    let hash: Vec<u8> =
        (0..20).map(|i| u8::from_str_radix(&hash[2 * i..2 * i + 2], 16).unwrap()).collect();
    stream.write_all(b"\x13BitTorrent protocol\0\0\0\0\0\x10\0\0").unwrap();
    stream.write_all(&[&hash[..], b"-XX0001-123456789012"].concat()).unwrap();
    let message = |body: &[u8]| {
        let head = (body.len() as u32 + 1).to_be_bytes();
        [&head[..], &[20], body].concat()
    };
    stream.write_all(&message(b"\0d1:md11:ut_metadatai3ee13:metadata_sizei100ee")).unwrap();
    let batch = message(b"\x02d8:msg_typei0e5:piecei0ee").repeat(AT_ONCE);
    let limit = 1_000_000 / AT_ONCE;
    let refused = (0..limit).find_map(|_| stream.write_all(&batch).err());
    let refused = refused.expect("a million requests were accepted");
    assert!(!has_timed_out(&refused), "the connection stays open: {refused}");
    // The answers in flight arrive, then the connection ends.
    let mut buffer = [0; 65536];
    let end = loop {
        match stream.read(&mut buffer) {
            Ok(0) => break None,
            Ok(_) => {}
            Err(e) => break Some(e),
        }
    };
    assert!(!end.is_some_and(|e| has_timed_out(&e)), "the connection stays open");
    running.interrupt();
    running.wait(LONG).expect(0);
}
