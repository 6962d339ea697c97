//! Seeding from storage: every client gets exact bytes, whatever storage does, and the usage has what it cost.

use std::{
    collections::HashSet,
    fs,
    io::Write,
    net::{SocketAddrV4, TcpStream},
    path::{Path, PathBuf},
};

use bae::catalog::{Catalog, FileRow, ImportState, NewImport};
use serde_json::Value;

use crate::support::{
    KIB, LONG, MIB,
    bae::{Bae, Running},
    bencode,
    fault_proxy::{Fault, FaultProxy, Request},
    peers::{Aria2, LibtorrentPeer, QBittorrent, Release, Transmission},
    process::peak_memory,
    s3_server::{S3Server, runtime},
    scripted_http::{Answer, ScriptedHttp},
    torrents::{Fixture, Recipe, Version},
    tracker::Tracker,
    wait_until,
};

/// Files that begin anywhere in pieces and in chunks.
fn album(name: &str) -> Recipe {
    let track = |i: u64| (format!("disc {}/track {i:02}.flac", i % 2), 700_000 + i * 130_003);
    let mut files: Vec<_> = (0..12).map(track).collect();
    files.push(("booklet.pdf".into(), 11 * MIB + 3));
    Recipe::folder(name, files).piece(256 * KIB)
}

/// An import in its own bucket, behind a proxy.
pub(crate) struct BucketImport {
    pub(crate) bae: Bae,
    pub(crate) id: String,
    proxy: FaultProxy,
    /// The storage URL of the import.
    url: String,
}

impl BucketImport {
    pub(crate) fn new(torrent: &Fixture) -> Self {
        let server = S3Server::seaweed();
        let bucket = server.bucket("seeding");
        let proxy = FaultProxy::start(server.addr());
        let endpoint = format!("http://{}", proxy.addr());
        let url = format!("{}&chunk=5MiB", server.storage_url_at(&endpoint, &bucket, "s"));
        let bae = Bae::new().with_storage_url(&url, server.env());
        let seeder = LibtorrentPeer::seed(Release::Debian, torrent);
        let id = bae.import(torrent, &[seeder.addr()]).id;
        Self { bae, id, proxy, url }
    }

    /// The usage by seeding, from the catalog.
    pub(crate) fn usage(&self) -> Value {
        let info = self.bae.run(["--json", "info", &self.id]).expect(0).json().remove(0);
        info["seeded"].clone()
    }
}

/// A libtorrent leecher gets the whole torrent, and no piece that fails its hash.
fn assert_leech_is_exact(bae: &Bae, torrent: &Fixture) {
    let mut leecher = LibtorrentPeer::leech(Release::Newest, torrent, bae.listen);
    torrent.assert_same(&leecher.wait_done().join(&torrent.name));
    assert!(!leecher.has_note("hash_failed"), "wrong bytes reached a peer");
}

pub(crate) fn stop(running: Running) {
    running.interrupt();
    running.wait(LONG).expect(0);
}

#[test]
fn every_client_downloads_exact_bytes_from_a_seeded_bucket() {
    let plain = album("From a bucket").make();
    let tracker = Tracker::start(&[&plain]);
    let torrent = tracker.torrent(&plain);
    let import = BucketImport::new(&torrent);
    let (bae, id) = (&import.bae, import.id.as_str());
    {
        let _running = bae.seed(id, &[]);
        for release in [Release::Debian, Release::Newest] {
            let mut leecher = LibtorrentPeer::leech(release, &torrent, bae.listen);
            torrent.assert_same(&leecher.wait_done().join(&torrent.name));
        }
        let qbittorrent = QBittorrent::leech(&torrent);
        qbittorrent.connect(&torrent, bae.listen);
        torrent.assert_same(&qbittorrent.wait_done().join(&torrent.name));
        let mut aria2 = Aria2::leech(&torrent);
        torrent.assert_same(&aria2.wait_done().join(&torrent.name));
    }
    // Transmission never dials 127/8, so bae dials it.
    let transmission = Transmission::leech(&torrent);
    let _running = bae.seed(id, &[transmission.addr()]);
    torrent.assert_same(&transmission.wait_done().join(&torrent.name));
}

#[test]
fn torrents_of_each_version_are_seeded_from_a_bucket() {
    for version in [Version::V1, Version::V2, Version::Hybrid] {
        let torrent = album(&format!("Each version {version:?}")).version(version).make();
        let import = BucketImport::new(&torrent);
        let _running = import.bae.seed(&import.id, &[]);
        assert_leech_is_exact(&import.bae, &torrent);
    }
}

#[test]
fn wrong_bytes_from_storage_reach_no_peer() {
    let torrent = album("Faulty answers").make();
    let import = BucketImport::new(&torrent);
    let faults = [
        Fault::Flip,
        Fault::WrongRange,
        Fault::CutAnswer,
        Fault::Reset,
        Fault::Busy(0),
        Fault::Refuse("500 Internal Server Error", "InternalError"),
    ];
    for fault in faults {
        // Every third request.
        let plan = move |r: &Request| if r.number % 3 == 1 { fault } else { Fault::None };
        import.proxy.set_faults(plan);
        let running = import.bae.seed(&import.id, &[]);
        assert_leech_is_exact(&import.bae, &torrent);
        stop(running);
        assert!(import.proxy.requests().len() > 3, "{fault:?}: {:?}", import.proxy.requests());
    }
}

#[test]
fn a_storage_outage_only_delays_peers() {
    let torrent = album("An outage").make();
    let import = BucketImport::new(&torrent);
    import.proxy.set_faults(|r| match r.number % 2 {
        0 => Fault::Busy(1),
        // No answer as long as the outage lasts.
        _ => Fault::Hold,
    });
    let mut running = import.bae.seed(&import.id, &[]);
    let mut leecher = LibtorrentPeer::leech(Release::Newest, &torrent, import.bae.listen);
    wait_until("the first request arrives", LONG, || !import.proxy.requests().is_empty());
    wait_until("requests are repeated", LONG, || import.proxy.requests().len() > 3);
    assert_eq!(leecher.received(), 0);
    import.proxy.clear_faults();
    torrent.assert_same(&leecher.wait_done().join(&torrent.name));
    assert!(running.0.is_running());
    let notices: Vec<_> = running.events().into_iter().filter(|e| e["event"] == "notice").collect();
    assert!(notices.is_empty(), "temporary errors are shown: {notices:?}");
}

/// The chunks of a local storage, the largest first.
fn chunks(bae: &Bae) -> Vec<PathBuf> {
    let mut open = vec![bae.storage_dir().to_owned()];
    let mut found = Vec::new();
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            let is_manifest = path.to_string_lossy().contains("manifest-");
            if path.is_dir() {
                open.push(path)
            } else if !is_manifest {
                found.push(path)
            }
        }
    }
    found.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).unwrap().len()));
    found
}

fn import_locally(torrent: &Fixture) -> (Bae, String) {
    let bae = Bae::new().with_storage_options("chunk=5MiB");
    let seeder = LibtorrentPeer::seed(Release::Debian, torrent);
    let id = bae.import(torrent, &[seeder.addr()]).id;
    (bae, id)
}

#[test]
fn a_lost_object_is_reported_by_file_and_piece_and_the_rest_is_served() {
    let torrent = album("A lost object").make();
    let (bae, id) = import_locally(&torrent);
    let object = chunks(&bae).remove(0);
    let lost_bytes = fs::metadata(&object).unwrap().len();
    fs::remove_file(object).unwrap();
    let mut running = bae.seed(&id, &[]);
    let leecher = LibtorrentPeer::leech(Release::Newest, &torrent, bae.listen);
    let notice = running.event_where("notice", |e| e["text"].as_str().unwrap().contains("piece "));
    let text = notice["text"].as_str().unwrap();
    assert!(text.contains(".flac\"") || text.contains("booklet.pdf\""), "{text}");
    // Everything except the lost object and the pieces that overlap it.
    let rest = torrent.bytes - lost_bytes - 2 * 256 * KIB;
    wait_until("the rest is served", LONG, || leecher.received() >= rest);
}

#[test]
fn changed_bytes_in_storage_reach_no_peer_and_are_reported() {
    for version in [Version::V1, Version::V2] {
        let torrent = album(&format!("Changed {version:?}")).version(version).make();
        let (bae, id) = import_locally(&torrent);
        let changed = chunks(&bae).remove(0);
        let mut bytes = fs::read(&changed).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&changed, bytes).unwrap();
        let mut running = bae.seed(&id, &[]);
        let leecher = LibtorrentPeer::leech(Release::Newest, &torrent, bae.listen);
        let notice = running.event_where("notice", |e| {
            e["text"].as_str().unwrap().contains("do not match the torrent's hash")
        });
        assert!(notice["text"].as_str().unwrap().contains("verify --repair"), "{notice}");
        // Everything except the wrong piece.
        let rest = torrent.bytes - 256 * KIB;
        wait_until("the rest is served", LONG, || leecher.received() >= rest);
        assert!(!leecher.has_note("hash_failed"), "wrong bytes reached a peer");
    }
}

#[test]
fn seeding_reads_storage_only_for_peers_and_counts_the_usage() {
    let torrent = album("The usage").make();
    let import = BucketImport::new(&torrent);
    assert_eq!(import.usage()["served"], 0);
    import.proxy.set_faults(|_| Fault::None);
    for run in 1..=2 {
        let mut running = import.bae.seed(&import.id, &[]);
        if run == 1 {
            // Four a second.
            running.wait_for_events("progress", 4);
            assert!(import.proxy.requests().is_empty(), "{:?}", import.proxy.requests());
        }
        assert_leech_is_exact(&import.bae, &torrent);
        stop(running);
        let usage = import.usage();
        let count = |name: &str| usage[name].as_u64().unwrap();
        assert!(count("served") >= run * torrent.bytes, "{usage}");
        FaultProxy::assert_gets_match(&usage["gets"], import.proxy.requests().len() as u64);
        // More than the payload where a piece extends into the next chunk. Hardly anything is fetched twice in a
        // run.
        let payload = run * torrent.bytes;
        assert!((payload..payload + payload / 5).contains(&count("fetched")), "{usage}");
    }
    assert_eq!(import.usage()["dollars"], 0.0, "a self-hosted server is free");
    assert!(import.url.starts_with("s3://"));
}

/// The files of a cache directory.
fn cache_files(dir: &Path) -> Vec<PathBuf> {
    let folders = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let files = folders.flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
    files.map(|entry| entry.path()).collect()
}

#[test]
fn a_cache_folder_saves_fetches_and_may_be_damaged_or_deleted_at_any_time() {
    let torrent = album("A cache folder").make();
    let import = BucketImport::new(&torrent);
    let dir = import.bae.home().join("cache");
    let flags = ["--cache-dir", dir.to_str().unwrap()];
    // The bytes that a new run fetches from the bucket for one leecher; `during_download` is called during the
    // download.
    let fetched = || import.usage()["fetched"].as_u64().unwrap();
    let fetched_by_run = |during_download: &dyn Fn()| {
        let before = fetched();
        let running = import.bae.seed_with(&import.id, &[], &flags);
        let mut leecher = LibtorrentPeer::leech(Release::Newest, &torrent, import.bae.listen);
        during_download();
        torrent.assert_same(&leecher.wait_done().join(&torrent.name));
        assert!(!leecher.has_note("hash_failed"), "wrong bytes reached a peer");
        stop(running);
        fetched() - before
    };
    let all = fetched_by_run(&|| ());
    assert!(all >= torrent.bytes && cache_files(&dir).len() > 20, "{all} bytes");
    assert_eq!(fetched_by_run(&|| ()), 0, "bytes of the cache folder were fetched again");
    for (n, path) in cache_files(&dir).iter().enumerate() {
        let mut bytes = fs::read(path).unwrap();
        match n % 3 {
            0 => bytes[1000] ^= 1,
            1 => bytes.truncate(1000),
            _ => continue,
        }
        fs::write(path, bytes).unwrap();
    }
    // Two thirds of the windows, and what is fetched together with them.
    let some = fetched_by_run(&|| ());
    assert!(some > all / 2 && some < all + all / 4, "{some} of {all}");
    fetched_by_run(&|| fs::remove_dir_all(&dir).unwrap());
    // With space for a few windows.
    let small = ["--cache-dir", dir.to_str().unwrap(), "--cache-size", "5MiB"];
    stop(import.bae.seed_with(&import.id, &[], &small));
    let remaining: u64 =
        cache_files(&dir).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(remaining <= 5 * MIB, "{remaining} bytes remain");
}

#[test]
fn reaching_a_seed_goal_ends_seeding() {
    let torrent = album("A goal").make();
    let (bae, id) = import_locally(&torrent);
    let mut running = bae.seed_with(&id, &[], &["--seed-ratio", "1"]);
    assert_leech_is_exact(&bae, &torrent);
    let notice = running.event("notice");
    assert!(notice["text"].as_str().unwrap().contains("seed ratio 1 reached"), "{notice}");
    running.wait(LONG).expect(0);
}

#[test]
fn an_exhausted_cloud_budget_stops_seeding_but_no_import() {
    let torrent = album("A budget").make();
    let import = BucketImport::new(&torrent);
    let budget = ["--cloud-budget", "4MiB"];
    let mut running = import.bae.seed_with(&import.id, &[], &budget);
    let leecher = LibtorrentPeer::leech(Release::Newest, &torrent, import.bae.listen);
    running.event_where("notice", |e| e["text"].as_str().unwrap().contains("seeding is paused"));
    drop(leecher);
    stop(running);
    // The next run has the spent budget too.
    let mut running = import.bae.seed_with(&import.id, &[], &budget);
    running.event_where("notice", |e| e["text"].as_str().unwrap().contains("seeding is paused"));
    let leecher = LibtorrentPeer::leech(Release::Newest, &torrent, import.bae.listen);
    // Three seconds of both sides at least: the leecher connects at once.
    running.wait_for_events("progress", 12);
    wait_until("reports of the leecher", LONG, || leecher.reports() >= 12);
    assert_eq!(leecher.received(), 0);
    stop(running);
    let another = album("Past the budget").seed(7).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &another);
    import.bae.import(&another, &[seeder.addr()]);
}

/// The number of open connections of a process at the address on which it listens.
fn connections(running: &Running, listen: SocketAddrV4) -> usize {
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(listen.ip().octets()), listen.port());
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let (listens, inode) = ("0A", 9);
    let inodes: HashSet<String> = rows
        .filter(|row| row.get(1) == Some(&local.as_str()) && row[3] != listens)
        .map(|row| format!("socket:[{}]", row[inode]))
        .collect();
    let files = fs::read_dir(format!("/proc/{}/fd", running.0.id())).unwrap().flatten();
    let links = files.filter_map(|file| fs::read_link(file.path()).ok());
    links.filter(|to| inodes.contains(to.to_str().unwrap_or_default())).count()
}

#[test]
fn peers_that_disconnect_leave_no_connections_and_no_memory_in_use() {
    let torrent = album("Disconnecting peers").make();
    let import = BucketImport::new(&torrent);
    let mut running = import.bae.seed(&import.id, &[]);
    let hash = torrent.v1.as_ref().unwrap();
    let digit = |at: usize| u8::from_str_radix(&hash[at..at + 2], 16).unwrap();
    let mut hello = b"\x13BitTorrent protocol\0\0\0\0\0\x10\0\x05".to_vec();
    hello.extend((0..40).step_by(2).map(digit));
    hello.extend(b"-XX0000-000000000000");
    // `interested`, and requests for some blocks that are never read.
    hello.extend(b"\0\0\0\x01\x02");
    for block in 0..8u32 {
        hello.extend(b"\0\0\0\x0d\x06\0\0\0\x01");
        hello.extend((block * 16_384).to_be_bytes());
        hello.extend(16_384u32.to_be_bytes());
    }
    for n in 0..500 {
        // A connection that is refused because there are too many counts as one that ends at once.
        if let Ok(mut peer) = TcpStream::connect(import.bae.listen) {
            let _ = peer.write_all(&hello[..if n % 3 == 0 { 40 } else { hello.len() }]);
        }
    }
    // Waits for a free connection slot: a leecher that finds none retries only a minute later.
    wait_until("the connections are closed", LONG, || {
        connections(&running, import.bae.listen) == 0
    });
    assert_leech_is_exact(&import.bae, &torrent);
    assert!(running.0.is_running());
    // All that is held is in the read cache.
    running.event_where("progress", |e| e["peers"] == 0 && e["held"] == e["cached"]);
    wait_until("the last connection is closed", LONG, || {
        connections(&running, import.bae.listen) == 0
    });
    let peak = peak_memory(running.0.id()).unwrap();
    assert!(peak < (128 + 80) * MIB, "{peak} bytes were resident");
}

/// A .torrent of `pieces` pieces of 16 MiB. Its payload does not exist.
fn torrent_without_payload(name: &str, pieces: usize) -> Vec<u8> {
    let hashes: Vec<u8> = (0..pieces * 20).map(|n| (n * 7 + name.len()) as u8).collect();
    let info = bencode::Value::Dict(vec![
        ("length", ((pieces as i64) << 24).into()),
        ("name", name.into()),
        ("piece length", (16 << 20).into()),
        ("pieces", bencode::Value::Bytes(hashes)),
    ]);
    bencode::Value::Dict(vec![("info", info)]).encode()
}

#[test]
fn a_thousand_imports_are_seeded_at_once_without_storage_requests() {
    let (count, pieces) = (1000, 6400);
    let server = ScriptedHttp::start(|_, _| Some(Answer::error(503, "SlowDown")));
    let env = [("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "s")];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let endpoint = server.url().replace(':', "%3A").replace('/', "%2F");
    let url = format!("s3://b/p?endpoint={endpoint}&path_style=true&region=r");
    let bae = Bae::new().with_storage_url(&url, env);
    runtime().block_on(async {
        let catalog = Catalog::open(&bae.data_dir()).await.unwrap();
        for n in 0..count {
            let name = format!("import {n}");
            let metainfo = torrent_without_payload(&name, pieces);
            let len = (pieces as u64) << 24;
            let hash = format!("{n:020}").into_bytes().try_into().unwrap();
            let new = NewImport {
                files: vec![FileRow { path: name.clone(), start: 0, len, pad: false }],
                name,
                source: "test".into(),
                info_hash_v1: Some(hash),
                len,
                storage: url.clone(),
                chunk_len: 16 << 20,
                metainfo,
                ..NewImport::default()
            };
            let row = catalog.create_import(new).await.unwrap();
            catalog.set_state(&row.id, ImportState::Imported).await.unwrap();
        }
    });
    let mut running = bae.seed_all();
    running.wait_for_events("started", count);
    let peak = peak_memory(running.0.id()).unwrap();
    assert!(peak < 300 * MIB, "{peak} bytes were resident");
    assert_eq!(server.requests().len(), 0);
    stop(running);
}
