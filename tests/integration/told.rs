//! The messages when nothing arrives, and what ends a run.

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
    KIB, LONG, MIB,
    bae::{Bae, Ran},
    peers::{LibtorrentPeer, Release},
    raw_peer::RawPeer,
    scripted::{Answer, Scripted},
    torrents::{Fixture, Recipe},
    wait_until,
};

fn small(name: &str) -> Fixture {
    Recipe::single(name, 256 * KIB).piece(64 * KIB).make()
}

/// `import` as a user types it, without `--json` and `-v`.
fn plain_import(bae: &Bae, torrent: &Fixture, peers: &[SocketAddrV4], more: &[&str]) -> Ran {
    bae.run(bae.import_args(&torrent.torrent, peers, more).split_off(1))
}

#[test]
fn what_a_tracker_says_is_told() {
    let torrent = small("tracked.bin");
    let refusal = "d14:failure reason43:Unregistered torrent: check your passkey ab";
    let cases: [(Answer, &str); 3] = [
        (Answer::new(200, format!("{refusal}e")), "Unregistered torrent: check your passkey"),
        (Answer::new(403, "<html>no</html>"), "403 X"),
        (Answer::new(200, "<html>this domain is for sale</html>"), "not a tracker's"),
    ];
    for (answer, said) in cases {
        let server = Scripted::start(move |_, _| Some(answer.clone()));
        let bae = Bae::new();
        let passkey = "0123456789abcdef0123456789abcdef";
        let url = format!("{}/announce?passkey={passkey}", server.url());
        let tracked = torrent.with_tracker(&url, bae.home());
        let ran = plain_import(&bae, &tracked, &[], &["--timeout", "5s"]).expect(6).says(said);
        // Once while it waits, and once in the error.
        assert_eq!(ran.stderr.matches(said).count(), 2, "{}", ran.stderr);
        assert!(!ran.stderr.contains(passkey), "{}", ran.stderr);
    }
}

#[test]
fn peers_with_wrong_bytes_alone_are_told_as_such() {
    let torrent = small("only wrong.bin");
    let peer = RawPeer::start(&torrent, 4, |line, asked| {
        line.give(asked, &vec![0xee; asked.len as usize])
    });
    let bae = Bae::new();
    let ran = plain_import(&bae, &torrent, &[peer.addr()], &["--timeout", "4s"]);
    ran.expect(6).says("wrong bytes").says("banned");
}

#[test]
fn a_peer_slower_than_a_block_in_the_timeout_is_not_nothing() {
    let torrent = Recipe::single("slow.bin", 40_000).piece(64 * KIB).make();
    let payload = std::fs::read(torrent.data()).unwrap();
    let peer = RawPeer::start(&torrent, 1, move |line, asked| {
        let start = asked.start as usize;
        let block = &payload[start..start + asked.len as usize];
        let mut message = (9 + asked.len).to_be_bytes().to_vec();
        message.push(7);
        message.extend(asked.piece.to_be_bytes());
        message.extend(asked.start.to_be_bytes());
        message.extend_from_slice(block);
        // Half a block takes longer than the timeout.
        for part in message.chunks(2048) {
            line.write(part)?;
            thread::sleep(Duration::from_secs(1));
        }
        Ok(())
    });
    let bae = Bae::new();
    let ran = plain_import(&bae, &torrent, &[peer.addr()], &["--timeout", "4s"]);
    ran.expect(0);
}

#[test]
fn an_interface_that_is_not_there_ends_an_import_before_it_begins() {
    let torrent = small("interface.bin");
    let bae = Bae::new();
    plain_import(&bae, &torrent, &[], &["--interface", "nosuch0"]).expect(2).says("nosuch0");
    let args = ["import".into(), torrent.torrent.clone().into_os_string()];
    let args = args.into_iter().chain(["--listen".into(), "nosuch1:0".into()]);
    bae.run(args).expect(2).says("nosuch1");
    assert!(bae.run(["ls", "--json"]).expect(0).json().is_empty(), "an import was begun");
}

#[test]
fn an_interface_is_used_for_what_it_is_asked_for() {
    let torrent = small("loopback.bin");
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let bae = Bae::new();
    let more = ["--interface", "lo", "--timeout", "60s"];
    plain_import(&bae, &torrent, &[seeder.addr()], &more).expect(0);
}

#[test]
fn a_hangup_ends_an_import_as_a_stop_does() {
    let torrent = small("hangup.bin");
    let bae = Bae::new();
    let mut running = bae.start_import(&torrent, &[]);
    running.event("started");
    running.0.signal(libc::SIGHUP);
    running.ended(LONG).expect(7).says("stopping");
}

#[test]
fn a_seed_time_is_kept_to_the_second() {
    let torrent = small("seed time.bin");
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let bae = Bae::new();
    let id = bae.import(&torrent, &[seeder.addr()]).id;
    let running = bae.seed_with(&id, &[], &["--seed-time", "2s"]);
    running.ended(LONG).expect(0);
    let info = bae.run(["--json", "info", &id]).expect(0).json().remove(0);
    let seconds = info["seeded"]["seconds"].as_u64().unwrap();
    assert!((2..30).contains(&seconds), "{seconds} s are in the books");
}

#[test]
fn seeding_without_a_terminal_says_what_and_where() {
    let torrent = small("service.bin");
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let bae = Bae::new();
    let id = bae.import(&torrent, &[seeder.addr()]).id;
    let listen = bae.listen.to_string();
    let args = ["seed", "--listen", &listen, "--no-dht", "--no-lsd", "--seed-time", "2s"];
    let ran = bae.run(args).expect(0);
    let ran = ran.says(&format!("listening on {listen}"));
    ran.says(&format!("seeding {id} service.bin: 256 KiB"));
}

#[test]
fn a_peer_that_chokes_without_end_is_hung_up_on() {
    let torrent = Recipe::single("storm.bin", MIB).piece(64 * KIB).make();
    let storms = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&storms);
    let peer = RawPeer::start(&torrent, 16, move |line, _| {
        count.fetch_add(1, Ordering::Relaxed);
        line.say(0, &[])?;
        line.say(1, &[])
    });
    let bae = Bae::new();
    let running = bae.start_import(&torrent, &[peer.addr()]);
    // A connection ends after a hundred chokes and the few that were in flight.
    wait_until("it is connected to again", LONG, || peer.connections() >= 2);
    let each = storms.load(Ordering::Relaxed) / peer.connections();
    assert!(each < 2000, "{each} chokes a connection");
    running.interrupt();
    running.ended(LONG).expect(7);
}

#[test]
fn a_peer_that_reads_no_answers_is_hung_up_on() {
    const AT_ONCE: usize = 200;
    let torrent = small("unread.bin");
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let bae = Bae::new();
    let id = bae.import(&torrent, &[seeder.addr()]).id;
    let running = bae.seed(&id, &[]);
    let mut stream = TcpStream::connect(bae.listen).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
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
    let ask = message(b"\x02d8:msg_typei0e5:piecei0ee").repeat(AT_ONCE);
    let most = 1_000_000 / AT_ONCE;
    let asked = (0..most).take_while(|_| stream.write_all(&ask).is_ok()).count();
    assert!(asked < most, "a million questions were taken");
    // The answers in flight arrive, then the connection ends.
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut buffer = [0; 65536];
    while stream.read(&mut buffer).is_ok_and(|len| len > 0) {}
    running.interrupt();
    running.ended(LONG).expect(0);
}
