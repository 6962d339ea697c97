//! Players: any range of any file of an import over HTTP, and only with the token.

use std::{fs, io::Read, net::TcpStream, thread, time::Duration};

use crate::{
    memory::{OVERHEAD, high_water},
    support::{
        KIB, LONG, MIB, Random,
        bae::Bae,
        fault_proxy::{Fault, FaultProxy},
        peers::{LibtorrentPeer, Release},
        player::{Player, ask, curl, send},
        s3_server::S3Server,
        torrents::{Fixture, Recipe},
        wait_until,
    },
};

fn album(name: &str) -> Fixture {
    let list = [("film.mkv", 9 * MIB + 5), ("Jóga & <co>.flac", 300_000), ("empty.txt", 0)];
    let list = list.map(|(path, len)| (path.to_owned(), len)).to_vec();
    Recipe::folder(name, list).piece(64 * KIB).make()
}

/// A completed import in a folder, and the bae that streams it.
fn streamed(torrent: &Fixture) -> (Bae, Player) {
    let (bae, seeder) = (Bae::new(), LibtorrentPeer::seed(Release::Debian, torrent));
    let id = bae.import(torrent, &[seeder.addr()]).id;
    let player = Player::start(&bae, &id, &[]);
    (bae, player)
}

fn bytes_of(torrent: &Fixture, path: &str) -> Vec<u8> {
    fs::read(torrent.data().join(path)).unwrap()
}

#[test]
fn curl_reads_any_range_of_a_streamed_file() {
    let torrent = album("streamed");
    let (_bae, player) = streamed(&torrent);
    let (film, url) = (bytes_of(&torrent, "film.mkv"), player.url("film.mkv"));
    assert!(curl(&[], &url) == film);
    for (range, expected) in [
        ("0-0", &film[..1]),
        ("5-1048580", &film[5..=1_048_580]),
        ("3000000-", &film[3_000_000..]),
        ("-70000", &film[film.len() - 70_000..]),
        ("9437000-99999999", &film[9_437_000..]),
    ] {
        assert!(curl(&["--range", range], &url) == expected, "{range}");
    }
    let flac = player.url("<co>.flac");
    assert!(curl(&[], &flac) == bytes_of(&torrent, "Jóga & <co>.flac"));
    assert!(curl(&[], &player.url("empty.txt")).is_empty());
    // A download that broke off can be resumed.
    let part = tempfile::tempdir().unwrap();
    let part = part.path().join("film.mkv");
    fs::write(&part, &film[..4_000_001]).unwrap();
    curl(&["--continue-at", "-", "--output", part.to_str().unwrap()], &url);
    assert!(fs::read(&part).unwrap() == film);
}

#[test]
fn ranges_conditions_and_heads_are_answered_by_the_rfc() {
    let torrent = album("by the rfc");
    let (_bae, player) = streamed(&torrent);
    let (film, url) = (bytes_of(&torrent, "film.mkv"), player.url("film.mkv"));
    let whole = ask("GET", &url, &[]);
    assert_eq!((whole.status, whole.body.len()), (200, film.len()));
    let tag = whole.header("etag").unwrap().to_owned();
    assert_eq!(tag, format!("\"{}-0\"", torrent.info_hash()));
    let headers = [
        ("accept-ranges", "bytes"),
        ("content-type", "video/x-matroska"),
        ("content-disposition", "inline; filename*=UTF-8''film.mkv"),
        ("x-content-type-options", "nosniff"),
    ];
    for (name, value) in headers {
        assert_eq!(whole.header(name), Some(value));
    }

    let part = ask("GET", &url, &[("Range", "bytes=10-19")]);
    assert_eq!((part.status, &part.body[..]), (206, &film[10..20]));
    let expected = format!("bytes 10-19/{}", film.len());
    assert_eq!(part.header("content-range"), Some(expected.as_str()));
    assert_eq!(part.header("content-length"), Some("10"));
    let last = ask("GET", &url, &[("Range", "bytes=-5")]);
    assert_eq!((last.status, &last.body[..]), (206, &film[film.len() - 5..]));
    for beyond in [format!("bytes={}-", film.len()), "bytes=-0".into()] {
        let beyond = ask("GET", &url, &[("Range", &beyond)]);
        assert_eq!((beyond.status, beyond.body.len()), (416, 0));
        let total = format!("bytes */{}", film.len());
        assert_eq!(beyond.header("content-range"), Some(total.as_str()));
    }
    for ignored in ["bytes=0-1,5-6", "bytes=5-1", "pieces=1-2"] {
        let whole = ask("GET", &url, &[("Range", ignored)]);
        assert_eq!((whole.status, whole.body.len()), (200, film.len()), "{ignored}");
    }

    let range = ("Range", "bytes=0-9");
    assert_eq!(ask("GET", &url, &[range, ("If-Range", &tag)]).status, 206);
    let other = ask("GET", &url, &[range, ("If-Range", "\"another\"")]);
    assert_eq!((other.status, other.body.len()), (200, film.len()));
    let unchanged = ask("GET", &url, &[("If-None-Match", &tag)]);
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
    assert_eq!(ask("GET", &url, &[("If-Match", "\"another\"")]).status, 412);

    let head = ask("HEAD", &url, &[range]);
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), whole.header("content-length"));
    assert_eq!(head.header("etag"), Some(tag.as_str()));
    let refused = ask("DELETE", &url, &[]);
    assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD")));
    assert_eq!(ask("GET", &format!("{url}x"), &[]).status, 404);
    assert_eq!(ask("GET", &format!("{}../../catalog.db", player.page()), &[]).status, 404);
}

#[test]
fn nobody_without_the_token_reads_a_stream() {
    let torrent = album("for nobody else");
    let (bae, player) = streamed(&torrent);
    let url = player.url("film.mkv");
    let id = &*player.told["import"].as_str().unwrap().to_owned();
    let page = player.page();
    let base = page.strip_suffix(&format!("{id}/")).unwrap().trim_end_matches('/');
    let (server, token) = base.rsplit_once('/').unwrap();
    assert_eq!(token.len(), 32);

    let bare = url.replace(&format!("/{token}/"), "/");
    let wrong = token.replace(|c: char| c.is_ascii_digit(), "f").replace('a', "b");
    for (url, headers) in [
        (bare.clone(), vec![]),
        (format!("{server}/"), vec![]),
        (url.replace(token, &wrong), vec![]),
        (url.replace(token, &token[..31]), vec![]),
        (format!("{bare}?token={wrong}"), vec![]),
        (format!("{bare}?token="), vec![]),
        (bare.clone(), vec![("Authorization", format!("Bearer {wrong}"))]),
        (bare.clone(), vec![("Authorization", format!("Basic {token}"))]),
    ] {
        let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let refused = ask("GET", &url, &headers);
        assert_eq!(refused.status, 401, "{url} {headers:?}");
        assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
    }
    let bearer = format!("bearer {token}");
    let one = ("Range", "bytes=0-0");
    assert_eq!(ask("GET", &bare, &[("Authorization", &bearer), one]).status, 206);
    assert_eq!(ask("GET", &format!("{bare}?token={token}"), &[one]).status, 206);
    // The links on a page have the token when the page was requested with it in the query.
    let listed = ask("GET", &format!("{server}/{id}/?token={token}"), &[]).text();
    assert!(listed.contains(&format!("film.mkv?token={token}")), "{listed}");
    let stderr = player.running.0.stderr();
    assert!(!stderr.contains(token), "{stderr}");
    drop(player);

    let chosen = |token: &str| {
        let mut command = bae.command(["--json", "stream", id]);
        command.env("BAE_STREAM_TOKEN", token);
        command
    };
    let short = chosen("hunter2").output().unwrap();
    assert_eq!(short.status.code(), Some(2));
    assert!(!String::from_utf8_lossy(&short.stderr).contains("hunter2"));
    let process = crate::support::process::Process::start("bae", &chosen("my-own-long-token-1"));
    let player = Player::of(crate::support::bae::Running(process));
    assert!(player.page().contains("/my-own-long-token-1/"), "{}", player.told);
}

#[test]
fn a_stream_listens_on_loopback_and_lists_what_it_has() {
    let torrent = album("a list");
    let (bae, player) = streamed(&torrent);
    let page = player.page();
    assert!(page.starts_with("http://127.0.0.1:"), "{page}");
    let listed = ask("GET", &page, &[]);
    assert_eq!(listed.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(listed.header("referrer-policy"), Some("no-referrer"));
    let html = listed.text();
    assert!(html.contains("a list/J\u{f3}ga &amp; &lt;co&gt;.flac"), "{html}");
    let all = ask("GET", page.trim_end_matches('/').rsplit_once('/').unwrap().0, &[]).text();
    assert!(all.contains("a list</a>"), "{all}");

    let playlist = ask("GET", player.told["playlist"].as_str().unwrap(), &[]).text();
    let titles: Vec<_> = playlist.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(titles, [player.url("film.mkv"), player.url(".flac")], "{playlist}");
    assert!(curl(&[], titles[1]) == bytes_of(&torrent, "Jóga & <co>.flac"));

    // Text output: one URL per line, and only the named file. Ctrl-C ends it with exit code 0.
    let id = player.told["import"].as_str().unwrap();
    let mut running = bae.start(["stream", id, "film.mkv"]);
    let url = running.0.wait_for("an address", LONG, |line| Some(line.to_owned()));
    assert!(url.ends_with("/a%20list/film.mkv"), "{url}");
    assert_eq!(curl(&["--range", "0-3"], &url).len(), 4);
    running.interrupt();
    running.ended(Duration::from_secs(10)).expect(0);
    bae.run(["stream", id, "nothing.mkv"]).expect(3);
    bae.run(["stream", "nothing"]).expect(3);
    bae.run(["stream", id, "--listen", "here"]).expect(2);
}

#[test]
fn a_cold_range_of_one_mib_takes_two_requests_to_a_bucket_at_most() {
    let torrent = Recipe::single("cold.mkv", 40 * MIB).make();
    let (server, seeder) = (S3Server::seaweed(), LibtorrentPeer::seed(Release::Debian, &torrent));
    let proxy = FaultProxy::start(server.addr());
    let endpoint = format!("http://{}", proxy.addr());
    let bucket = server.bucket("stream");
    let url = server.storage_url_at(&endpoint, &bucket, "cold");
    let bae = Bae::new().storing_at(&url, server.env());
    let id = bae.import(&torrent, &[seeder.addr()]).id;
    let film = fs::read(torrent.data()).unwrap();
    let mut random = Random(7);
    let ends = [16 * MIB - 300_000, 0, 39 * MIB];
    for n in 0..8 {
        // A new process has an empty cache.
        let player = Player::start(&bae, &id, &[]);
        let from = ends.get(n).copied().unwrap_or_else(|| random.below(39 * MIB));
        proxy.spoil(|_| Fault::None);
        let range = format!("{from}-{}", from + MIB - 1);
        let got = curl(&["--range", &range], &player.url("cold.mkv"));
        let requests = proxy.seen();
        assert!(got == film[from as usize..(from + MIB) as usize], "{range}");
        assert!((1..=2).contains(&requests.len()), "{range}: {requests:?}");
    }
    // The whole file takes no more than one request per MiB.
    let player = Player::start(&bae, &id, &[]);
    proxy.spoil(|_| Fault::None);
    assert!(curl(&[], &player.url("cold.mkv")) == film);
    assert!(proxy.seen().len() <= 40, "{} requests for 40 MiB", proxy.seen().len());
}

#[test]
fn what_cannot_be_read_is_said_in_the_head_of_the_answer() {
    let torrent = album("gone");
    let (bae, player) = streamed(&torrent);
    for entry in fs::read_dir(bae.objects()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with(".tmp") {
            fs::remove_dir_all(path).unwrap();
        }
    }
    let answer = ask("GET", &player.url("film.mkv"), &[]);
    assert_eq!(answer.status, 404, "{}", answer.text());
    // HEAD is still answered, and the server still runs.
    assert_eq!(ask("HEAD", &player.url("film.mkv"), &[]).status, 200);
}

/// Reads up to `most` bytes of the answer and closes the connection.
fn read_a_little(url: &str, from: u64, most: usize) {
    let range = format!("bytes={from}-");
    let mut stream = send("GET", url, &[("Range", &range)]);
    let mut left = most;
    let mut buffer = [0; 16 << 10];
    while left > 0 {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(n) => left = left.saturating_sub(n),
        }
    }
}

#[test]
fn a_storm_of_seeks_stays_in_memory_and_leaves_a_server_that_answers() {
    let torrent = Recipe::single("stormy.mkv", 160 * MIB).make();
    let (bae, seeder) = (Bae::new(), LibtorrentPeer::seed(Release::Debian, &torrent));
    let id = bae.import(&torrent, &[seeder.addr()]).id;
    let player = Player::start(&bae, &id, &["--memory", "32MiB"]);
    let url = player.url("stormy.mkv");
    // Players that read nothing need almost no memory.
    let paused: Vec<TcpStream> = (0..3).map(|_| send("GET", &url, &[])).collect();
    let threads: Vec<_> = (0..8u64)
        .map(|n| {
            let url = url.clone();
            thread::spawn(move || {
                let mut random = Random(n);
                for _ in 0..60 {
                    let (from, most) = (random.below(159 * MIB), random.below(600_000));
                    read_a_little(&url, from, most as usize);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let peak = high_water(player.running.0.id()).unwrap();
    assert!(peak <= 32 * MIB + OVERHEAD, "{} MiB", peak / MIB);
    let film = fs::read(torrent.data()).unwrap();
    let last = curl(&["--range", "-1000"], &url);
    assert!(last == film[film.len() - 1000..]);
    // The paused players resume where they stopped.
    for mut stream in paused {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        assert!(bytes.ends_with(&film), "{} bytes", bytes.len());
    }
}

#[test]
fn strangers_that_hold_connections_open_do_not_keep_players_out() {
    let torrent = album("held open");
    let (_bae, player) = streamed(&torrent);
    let url = player.url("film.mkv");
    let host = url.strip_prefix("http://").unwrap().split('/').next().unwrap().to_owned();
    let held: Vec<_> = (0..128).map(|_| TcpStream::connect(&host).unwrap()).collect();
    let mut answered = false;
    wait_until("a player is answered", Duration::from_secs(40), || {
        answered = answered || ask("GET", &url, &[("Range", "bytes=0-0")]).status == 206;
        answered
    });
    drop(held);
    let long = "x".repeat(200_000);
    let mut stream = send("GET", &url, &[("X-Long", &long)]);
    let mut answer = Vec::new();
    // It is refused by an answer or by closing the connection, and not served.
    let _ = stream.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}
