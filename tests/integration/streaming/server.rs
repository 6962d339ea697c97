//! Players: any range of any file of an import over HTTP, and only with the token.

use std::{fs, io::Read, net::TcpStream, thread};

use crate::support::{
    KIB, LONG, MIB, OVERHEAD, Random,
    bae::Bae,
    fault_proxy::{Fault, FaultProxy},
    peers::{LibtorrentPeer, Release},
    process::peak_memory,
    s3_server::S3Server,
    streaming::{StreamServer, curl, request, send},
    torrents::{Fixture, Recipe},
    wait_until,
};

fn album(name: &str) -> Fixture {
    let list = [("film.mkv", 9 * MIB + 5), ("Jóga & <co>.flac", 300_000), ("empty.txt", 0)];
    let list = list.map(|(path, len)| (path.to_owned(), len)).to_vec();
    Recipe::folder(name, list).piece(64 * KIB).make()
}

/// A completed import in a folder, and the bae that streams it.
fn start_stream(torrent: &Fixture) -> (Bae, StreamServer) {
    let (bae, seeder) = (Bae::new(), LibtorrentPeer::seed(Release::Debian, torrent));
    let id = bae.import(torrent, &[seeder.addr()]).id;
    let stream_server = StreamServer::start(&bae, &id, &[]);
    (bae, stream_server)
}

fn bytes_of(torrent: &Fixture, path: &str) -> Vec<u8> {
    fs::read(torrent.data().join(path)).unwrap()
}

#[test]
fn curl_reads_any_range_of_a_streamed_file() {
    let torrent = album("streamed");
    let (_bae, stream_server) = start_stream(&torrent);
    let (film, url) = (bytes_of(&torrent, "film.mkv"), stream_server.url("film.mkv"));
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
    let flac = stream_server.url("<co>.flac");
    assert!(curl(&[], &flac) == bytes_of(&torrent, "Jóga & <co>.flac"));
    assert!(curl(&[], &stream_server.url("empty.txt")).is_empty());
    // A download that broke off can be resumed.
    let part = tempfile::tempdir().unwrap();
    let part = part.path().join("film.mkv");
    fs::write(&part, &film[..4_000_001]).unwrap();
    curl(&["--continue-at", "-", "--output", part.to_str().unwrap()], &url);
    assert!(fs::read(&part).unwrap() == film);
}

#[test]
fn ranges_conditions_and_head_requests_follow_the_rfc() {
    let torrent = album("by the rfc");
    let (_bae, stream_server) = start_stream(&torrent);
    let (film, url) = (bytes_of(&torrent, "film.mkv"), stream_server.url("film.mkv"));
    let whole = request("GET", &url, &[]);
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

    let part = request("GET", &url, &[("Range", "bytes=10-19")]);
    assert_eq!((part.status, &part.body[..]), (206, &film[10..20]));
    let expected = format!("bytes 10-19/{}", film.len());
    assert_eq!(part.header("content-range"), Some(expected.as_str()));
    assert_eq!(part.header("content-length"), Some("10"));
    let last = request("GET", &url, &[("Range", "bytes=-5")]);
    assert_eq!((last.status, &last.body[..]), (206, &film[film.len() - 5..]));
    for beyond in [format!("bytes={}-", film.len()), "bytes=-0".into()] {
        let beyond = request("GET", &url, &[("Range", &beyond)]);
        assert_eq!((beyond.status, beyond.body.len()), (416, 0));
        let total = format!("bytes */{}", film.len());
        assert_eq!(beyond.header("content-range"), Some(total.as_str()));
    }
    for ignored in ["bytes=0-1,5-6", "bytes=5-1", "pieces=1-2"] {
        let whole = request("GET", &url, &[("Range", ignored)]);
        assert_eq!((whole.status, whole.body.len()), (200, film.len()), "{ignored}");
    }

    let range = ("Range", "bytes=0-9");
    assert_eq!(request("GET", &url, &[range, ("If-Range", &tag)]).status, 206);
    let other = request("GET", &url, &[range, ("If-Range", "\"another\"")]);
    assert_eq!((other.status, other.body.len()), (200, film.len()));
    let unchanged = request("GET", &url, &[("If-None-Match", &tag)]);
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
    assert_eq!(request("GET", &url, &[("If-Match", "\"another\"")]).status, 412);

    let head = request("HEAD", &url, &[range]);
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), whole.header("content-length"));
    assert_eq!(head.header("etag"), Some(tag.as_str()));
    let refused = request("DELETE", &url, &[]);
    assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD")));
    assert_eq!(request("GET", &format!("{url}x"), &[]).status, 404);
    assert_eq!(
        request("GET", &format!("{}../../catalog.db", stream_server.page()), &[]).status,
        404
    );
}

#[test]
fn a_stream_requires_the_token() {
    let torrent = album("private");
    let (bae, stream_server) = start_stream(&torrent);
    let url = stream_server.url("film.mkv");
    let id = &*stream_server.event["import"].as_str().unwrap().to_owned();
    let page = stream_server.page();
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
        let refused = request("GET", &url, &headers);
        assert_eq!(refused.status, 401, "{url} {headers:?}");
        assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
    }
    let bearer = format!("bearer {token}");
    let one = ("Range", "bytes=0-0");
    assert_eq!(request("GET", &bare, &[("Authorization", &bearer), one]).status, 206);
    assert_eq!(request("GET", &format!("{bare}?token={token}"), &[one]).status, 206);
    // The links on a page have the token when the page was requested with it in the query.
    let listed = request("GET", &format!("{server}/{id}/?token={token}"), &[]).text();
    assert!(listed.contains(&format!("film.mkv?token={token}")), "{listed}");
    let stderr = stream_server.running.0.stderr();
    assert!(!stderr.contains(token), "{stderr}");
    drop(stream_server);

    let chosen = |token: &str| {
        let mut command = bae.command(["--json", "stream", id]);
        command.env("BAE_STREAM_TOKEN", token);
        command
    };
    let short = chosen("hunter2").output().unwrap();
    assert_eq!(short.status.code(), Some(2));
    assert!(!String::from_utf8_lossy(&short.stderr).contains("hunter2"));
    let process = crate::support::process::Process::start("bae", &chosen("my-own-long-token-1"));
    let stream_server = StreamServer::of_running(crate::support::bae::Running(process));
    assert!(stream_server.page().contains("/my-own-long-token-1/"), "{}", stream_server.event);
}

#[test]
fn a_stream_listens_on_loopback_and_lists_its_files() {
    let torrent = album("a list");
    let (bae, stream_server) = start_stream(&torrent);
    let page = stream_server.page();
    assert!(page.starts_with("http://127.0.0.1:"), "{page}");
    let listed = request("GET", &page, &[]);
    assert_eq!(listed.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(listed.header("referrer-policy"), Some("no-referrer"));
    let html = listed.text();
    assert!(html.contains("a list/J\u{f3}ga &amp; &lt;co&gt;.flac"), "{html}");
    let all = request("GET", page.trim_end_matches('/').rsplit_once('/').unwrap().0, &[]).text();
    assert!(all.contains("a list</a>"), "{all}");

    let playlist = request("GET", stream_server.event["playlist"].as_str().unwrap(), &[]).text();
    let titles: Vec<_> = playlist.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(titles, [stream_server.url("film.mkv"), stream_server.url(".flac")], "{playlist}");
    assert!(curl(&[], titles[1]) == bytes_of(&torrent, "Jóga & <co>.flac"));

    // Text output: one URL per line, and only the named file. Ctrl-C ends it with exit code 0.
    let id = stream_server.event["import"].as_str().unwrap();
    let mut running = bae.start(["stream", id, "film.mkv"]);
    let url = running.0.wait_for("an address", LONG, |line| Some(line.to_owned()));
    assert!(url.ends_with("/a%20list/film.mkv"), "{url}");
    assert_eq!(curl(&["--range", "0-3"], &url).len(), 4);
    running.interrupt();
    running.wait(LONG).expect(0);
    bae.run(["stream", id, "nothing.mkv"]).expect(3);
    bae.run(["stream", "nothing"]).expect(3);
    bae.run(["stream", id, "--listen", "here"]).expect(2);
}

#[test]
fn an_uncached_range_of_one_mib_takes_at_most_two_requests() {
    let torrent = Recipe::single("cold.mkv", 40 * MIB).make();
    let (server, seeder) = (S3Server::seaweed(), LibtorrentPeer::seed(Release::Debian, &torrent));
    let proxy = FaultProxy::start(server.addr());
    let endpoint = format!("http://{}", proxy.addr());
    let bucket = server.bucket("stream");
    let url = server.storage_url_at(&endpoint, &bucket, "cold");
    let bae = Bae::new().with_storage_url(&url, server.env());
    let id = bae.import(&torrent, &[seeder.addr()]).id;
    let film = fs::read(torrent.data()).unwrap();
    let mut random = Random(7);
    let ends = [16 * MIB - 300_000, 0, 39 * MIB];
    for n in 0..8 {
        // A new process has an empty cache.
        let stream_server = StreamServer::start(&bae, &id, &[]);
        let from = ends.get(n).copied().unwrap_or_else(|| random.below(39 * MIB));
        proxy.set_faults(|_| Fault::None);
        let range = format!("{from}-{}", from + MIB - 1);
        let got = curl(&["--range", &range], &stream_server.url("cold.mkv"));
        let requests = proxy.requests();
        assert!(got == film[from as usize..(from + MIB) as usize], "{range}");
        assert!((1..=2).contains(&requests.len()), "{range}: {requests:?}");
    }
    // The whole file takes no more than one request per MiB.
    let stream_server = StreamServer::start(&bae, &id, &[]);
    proxy.set_faults(|_| Fault::None);
    assert!(curl(&[], &stream_server.url("cold.mkv")) == film);
    assert!(proxy.requests().len() <= 40, "{} requests for 40 MiB", proxy.requests().len());
}

#[test]
fn a_failed_read_sets_the_status_of_the_answer() {
    let torrent = album("lost");
    let (bae, stream_server) = start_stream(&torrent);
    for entry in fs::read_dir(bae.storage_dir()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with(".tmp") {
            fs::remove_dir_all(path).unwrap();
        }
    }
    let answer = request("GET", &stream_server.url("film.mkv"), &[]);
    assert_eq!(answer.status, 404, "{}", answer.text());
    // HEAD is still answered, and the server still runs.
    assert_eq!(request("HEAD", &stream_server.url("film.mkv"), &[]).status, 200);
}

/// Reads up to `most` bytes of the answer and closes the connection.
fn read_some(url: &str, from: u64, limit: usize) {
    let range = format!("bytes={from}-");
    let mut stream = send("GET", url, &[("Range", &range)]);
    let mut remaining = limit;
    let mut buffer = [0; 16 << 10];
    while remaining > 0 {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(n) => remaining = remaining.saturating_sub(n),
        }
    }
}

#[test]
fn many_seeks_stay_within_the_budget_and_the_server_keeps_answering() {
    let torrent = Recipe::single("seeks.mkv", 160 * MIB).make();
    let (bae, seeder) = (Bae::new(), LibtorrentPeer::seed(Release::Debian, &torrent));
    let id = bae.import(&torrent, &[seeder.addr()]).id;
    let stream_server = StreamServer::start(&bae, &id, &["--memory", "32MiB"]);
    let url = stream_server.url("seeks.mkv");
    // Players that read nothing need almost no memory.
    let paused: Vec<TcpStream> = (0..3).map(|_| send("GET", &url, &[])).collect();
    let threads: Vec<_> = (0..8u64)
        .map(|n| {
            let url = url.clone();
            thread::spawn(move || {
                let mut random = Random(n);
                for _ in 0..60 {
                    let (from, limit) = (random.below(159 * MIB), random.below(600_000));
                    read_some(&url, from, limit as usize);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let peak = peak_memory(stream_server.running.0.id()).unwrap();
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
fn idle_connections_do_not_block_players() {
    let torrent = album("held open");
    let (_bae, stream_server) = start_stream(&torrent);
    let url = stream_server.url("film.mkv");
    let host = url.strip_prefix("http://").unwrap().split('/').next().unwrap().to_owned();
    let held: Vec<_> = (0..128).map(|_| TcpStream::connect(&host).unwrap()).collect();
    let mut answered = false;
    wait_until("a player is answered", LONG, || {
        answered = answered || request("GET", &url, &[("Range", "bytes=0-0")]).status == 206;
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
