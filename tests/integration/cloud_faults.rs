//! A bucket behind a bad connection: whichever request fails in whichever way, the import is exact and leaves no
//! garbage.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::support::{
    KIB, MIB, Random,
    bae::Bae,
    fault_proxy::{Fault, FaultProxy, Request},
    gate::Gate,
    peers::{LibtorrentPeer, Release},
    s3_server::S3Server,
    torrents::{Fixture, Recipe},
    wait_until,
};

/// A new bucket on the shared server, behind a proxy.
struct Cloud {
    server: &'static S3Server,
    bucket: String,
    proxy: FaultProxy,
}

impl Cloud {
    fn new() -> Self {
        let server = S3Server::seaweed();
        let proxy = FaultProxy::start(server.addr());
        Self { server, bucket: server.bucket("faults"), proxy }
    }

    /// A bae that stores under `prefix` through the proxy. Its chunks are small, so that a small torrent has
    /// several objects.
    fn bae(&self, prefix: &str) -> Bae {
        let url = format!("{}&chunk=5MiB", self.url(prefix));
        Bae::new().storing_at(&url, self.server.env())
    }

    fn url(&self, prefix: &str) -> String {
        let endpoint = format!("http://{}", self.proxy.addr());
        self.server.storage_url_at(&endpoint, &self.bucket, prefix)
    }
}

fn torrent(name: &str) -> Fixture {
    torrent_of(name, 12 * MIB + 5)
}

/// The torrent's first file has `len` bytes.
fn torrent_of(name: &str, len: u64) -> Fixture {
    let files = [("one.bin", len), ("two.bin", 5 * MIB), ("small/a", 3), ("small/b", 70_000)];
    let files = files.map(|(path, len)| (path.to_owned(), len)).to_vec();
    Recipe::folder(name, files).piece(256 * KIB).make()
}

/// The summary of `gc`: what it would remove.
fn leftovers(bae: &Bae) -> Value {
    let ran = bae.run(["--json", "gc"]).expect(0);
    ran.json().pop().expect("gc prints a summary")
}

fn assert_clean(bae: &Bae, what: &str) {
    let left = leftovers(bae);
    assert_eq!(
        (left["objects"].as_u64(), left["uploads"].as_u64()),
        (Some(0), Some(0)),
        "{what}: {left}"
    );
}

const FAULTS: [Fault; 6] = [
    Fault::Reset,
    Fault::CutRequest,
    Fault::LoseAnswer,
    Fault::CutAnswer,
    Fault::Busy(0),
    Fault::Refuse("500 Internal Server Error", "InternalError"),
];

/// Imports once to count the requests, then once for each request, which gets a fault.
fn sweep(name: &str, options: &[&str], seed: u64) {
    let torrent = torrent(name);
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let cloud = Cloud::new();
    let import = |prefix: &str, plan: Box<dyn Fn(&Request) -> Fault + Send + Sync>| {
        let bae = cloud.bae(prefix);
        cloud.proxy.spoil(plan);
        let args = bae.import_args(&torrent.torrent, &[seeder.addr()], options);
        let done = bae.run(args).expect(0).imported();
        let requests = cloud.proxy.seen().len() as u64;
        cloud.proxy.mend();
        bae.assert_exact(&done.id, &torrent);
        (bae, requests)
    };
    let (_, requests) = import("clean", Box::new(|_| Fault::None));
    assert!(requests > 4, "only {requests} requests");
    let mut random = Random(seed);
    for n in 0..requests {
        let fault = FAULTS[random.below(FAULTS.len() as u64) as usize];
        eprintln!("seed {seed}: request {n} of {requests}: {fault:?}");
        let plan = move |r: &Request| if r.number == n { fault } else { Fault::None };
        let (bae, _) = import(&format!("spoilt-{n}"), Box::new(plan));
        assert_clean(&bae, &format!("request {n}, {fault:?}"));
    }
}

#[test]
fn an_import_ends_exact_whichever_request_is_spoilt() {
    sweep("spoilt chunks", &[], 3);
}

#[test]
fn whole_files_end_exact_whichever_request_is_spoilt() {
    sweep("spoilt files", &["--layout", "files"], 4);
}

/// Kills the program at its first request, in the next run at the second, and so on until an import ends. In every
/// other run the request does not reach the server; in the others the server carries it out.
fn killed_at_each_request(name: &str, options: &[&str]) {
    // Run `n` gets `n` requests through. Eleven chunks are more than the first five runs can store.
    let torrent = torrent_of(name, 50 * MIB + 5);
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let cloud = Cloud::new();
    let bae = cloud.bae("killed");
    let args = || bae.import_args(&torrent.torrent, &[seeder.addr()], options);
    let mut n = 0;
    let done = loop {
        let reached = Arc::new(AtomicBool::new(false));
        let (flag, even) = (Arc::clone(&reached), n % 2 == 0);
        // Every run gets one request further than the run before, and does not fetch again what that run stored.
        cloud.proxy.spoil(move |r| {
            if r.number < n {
                return Fault::None;
            }
            flag.store(true, Ordering::Relaxed);
            if even { Fault::Stall(Duration::from_secs(30)) } else { Fault::LoseAnswer }
        });
        let mut running = bae.start(args());
        let mut ended = false;
        wait_until("a request or the end", Duration::from_secs(60), || {
            ended = !running.0.is_running();
            ended || reached.load(Ordering::Relaxed)
        });
        if ended {
            break running.ended(Duration::from_secs(10)).expect(0).imported();
        }
        thread::sleep(Duration::from_millis(30));
        running.kill();
        cloud.proxy.mend();
        n += 1;
        assert!(n < 200, "it never ends");
    };
    cloud.proxy.mend();
    assert!(n >= 5, "killed {n} times only");
    bae.assert_exact(&done.id, &torrent);
    bae.run(["gc", "--yes"]).expect(0);
    assert_clean(&bae, "after gc");
    bae.assert_exact(&done.id, &torrent);
}

#[test]
fn kills_between_requests_lose_nothing_durable_and_leave_nothing_gc_cannot_find() {
    killed_at_each_request("killed chunks", &[]);
}

#[test]
fn kills_while_files_are_composed_lose_nothing() {
    killed_at_each_request("killed files", &["--layout", "files"]);
}

#[test]
fn a_used_up_quota_pauses_with_a_hint_and_goes_on_when_freed() {
    let torrent = torrent("quota");
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let cloud = Cloud::new();
    let bae = cloud.bae("quota");
    cloud.proxy.spoil(|r| match r.method.as_str() {
        "PUT" if r.number > 1 => Fault::Refuse("403 Forbidden", "QuotaExceeded"),
        _ => Fault::None,
    });
    let mut running = bae.start_import(&torrent, &[seeder.addr()]);
    let paused = running.event("paused");
    let error = paused["error"].as_str().unwrap();
    assert!(error.contains("QuotaExceeded") || error.contains("quota"), "{paused}");
    assert!(paused["hint"].is_string(), "{paused}");
    thread::sleep(Duration::from_secs(2));
    assert!(running.0.is_running(), "a used-up quota ended the import");
    cloud.proxy.mend();
    running.event("resumed");
    let done = running.event("imported");
    bae.assert_exact(done["id"].as_str().unwrap(), &torrent);
    assert_clean(&bae, "after the quota was freed");
}

#[test]
fn what_a_bucket_deleted_under_way_lost_is_found_and_fetched_again() {
    let torrent = Recipe::single("bucket gone.bin", 30 * MIB).piece(256 * KIB).make();
    let seeder = LibtorrentPeer::slow_seed(&torrent, 12 * MIB);
    let cloud = Cloud::new();
    let bae = cloud.bae("gone");
    let mut running = bae.start_import(&torrent, &[seeder.addr()]);
    running.event_where("progress", |e| e["stored"].as_u64() > Some(0));
    // SeaweedFS creates a missing bucket when an object is put, so the proxy sends the answer of other servers.
    cloud.proxy.spoil(|_| Fault::Refuse("404 Not Found", "NoSuchBucket"));
    let paused = running.event("paused");
    assert!(paused["error"].as_str().unwrap().contains(&cloud.bucket), "{paused}");
    assert!(paused["hint"].as_str().unwrap().contains("bucket"), "{paused}");
    cloud.server.empty_bucket(&cloud.bucket);
    cloud.proxy.mend();
    running.event("resumed");
    let id = running.event("imported")["id"].as_str().unwrap().to_owned();
    running.ended(Duration::from_secs(30)).expect(0);
    bae.run(["verify", &id]).expect(32).says("bucket gone.bin");
    let peer = seeder.addr().to_string();
    let listen = bae.listen.to_string();
    let mend = ["verify", &id, "--repair", "--peer", &peer, "--listen", &listen, "--no-dht"];
    bae.run(mend).expect(0);
    bae.assert_verified(&id);
    bae.assert_exact(&id, &torrent);
}

#[test]
fn two_catalogs_share_a_prefix() {
    let torrents = [torrent("shared one"), torrent("shared two")];
    let seeders = torrents.each_ref().map(|t| LibtorrentPeer::seed(Release::Debian, t));
    let cloud = Cloud::new();
    let homes = [cloud.bae("shared"), cloud.bae("shared")];
    // Both homes import both torrents at the same time, so the prefix also gets equal torrents.
    thread::scope(|scope| {
        for bae in &homes {
            scope.spawn(|| {
                for (torrent, seeder) in torrents.iter().zip(&seeders) {
                    bae.import(torrent, &[seeder.addr()]);
                }
            });
        }
    });
    let (first, second) = (&homes[0], &homes[1]);
    for torrent in &torrents {
        first.run(["rm", &torrent.name]).expect(0);
    }
    first.run(["gc", "--yes"]).expect(0);
    for torrent in &torrents {
        second.assert_verified(&torrent.name);
        second.assert_exact(&torrent.name, torrent);
    }
}

#[test]
fn a_wrong_region_or_key_is_named_before_anything_is_fetched() {
    let torrent = torrent("refused");
    let cloud = Cloud::new();
    let url = cloud.url("x");
    let wrong_key = [
        ("AWS_ACCESS_KEY_ID".into(), "nobody".into()),
        ("AWS_SECRET_ACCESS_KEY".into(), "x".into()),
    ];
    let bae = Bae::new().storing_at(&url, wrong_key.to_vec());
    let ran = bae.run(bae.import_args(&torrent.torrent, &[], &["--timeout", "20s"])).expect(24);
    assert!(ran.stderr.contains("hint:"), "{}", ran.stderr);
    cloud.proxy.spoil(|_| Fault::Refuse("400 Bad Request", "AuthorizationHeaderMalformed"));
    let bae = cloud.bae("y");
    bae.run(bae.import_args(&torrent.torrent, &[], &["--timeout", "20s"])).expect(2).says("region");
}

#[test]
fn nothing_of_the_payload_touches_the_disk_or_is_sent_twice() {
    let torrent = Recipe::single("straight.bin", 160 * MIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let cloud = Cloud::new();
    let bae = Bae::new().storing_at(&cloud.url("straight"), cloud.server.env());
    let mut running = bae.start_import(&torrent, &[seeder.addr()]);
    let pid = running.0.id();
    let mut written = 0;
    let done = loop {
        let event = running.any_event();
        written = written.max(write_bytes(pid).unwrap_or(0));
        if event["event"] == "imported" {
            break event;
        }
    };
    assert!(written <= 8 * MIB, "{written} bytes were written to the local disk");
    let seen = cloud.proxy.seen();
    let puts: Vec<_> = seen.iter().filter(|r| r.method == "PUT").collect();
    let sent: u64 = seen.iter().map(|r| r.body).sum();
    assert!(sent <= torrent.bytes + torrent.bytes / 100, "{sent} bytes sent");
    assert!(puts.len() as u64 <= torrent.bytes / (12 * MIB) + 20, "{} PUTs", puts.len());
    running.ended(Duration::from_secs(30)).expect(0);
    bae.assert_exact(done["id"].as_str().unwrap(), &torrent);
}

#[test]
fn a_request_that_stalls_is_given_up_and_sent_again() {
    let torrent = Recipe::single("stalled.bin", 300 * KIB).piece(64 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let cloud = Cloud::new();
    let bae = cloud.bae("stalled");
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    cloud.proxy.spoil(move |r| {
        if (r.number, r.method.as_str()) == (1, "PUT") {
            held.wait();
        }
        Fault::None
    });
    // The request stalls until the import has ended. So the import did not wait for it.
    let done = bae.import(&torrent, &[seeder.addr()]);
    assert!(cloud.proxy.seen().len() > 3, "nothing was sent again");
    gate.open();
    bae.assert_exact(&done.id, &torrent);
}

/// The bytes that a process has sent to the disks.
fn write_bytes(pid: u32) -> Option<u64> {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    io.lines().find_map(|l| l.strip_prefix("write_bytes: "))?.trim().parse().ok()
}
