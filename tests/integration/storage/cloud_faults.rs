//! A bucket behind a bad connection: whichever request fails in whichever way, the import is exact and leaves no
//! garbage.

use std::{sync::Arc, thread};

use serde_json::Value;

use crate::support::{
    KIB, LONG, LONG_TIMEOUT, MIB, Random,
    bae::Bae,
    fault_proxy::{Fault, FaultProxy, Request},
    gate::Gate,
    peers::{LibtorrentPeer, Release},
    process::bytes_written,
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
        Bae::new().with_storage_url(&url, self.server.env())
    }

    fn url(&self, prefix: &str) -> String {
        let endpoint = format!("http://{}", self.proxy.addr());
        self.server.storage_url_at(&endpoint, &self.bucket, prefix)
    }
}

fn torrent(name: &str) -> Fixture {
    torrent_with_len(name, 12 * MIB + 5)
}

/// The torrent's first file has `len` bytes.
fn torrent_with_len(name: &str, len: u64) -> Fixture {
    let files = [("one.bin", len), ("two.bin", 5 * MIB), ("small/a", 3), ("small/b", 70_000)];
    let files = files.map(|(path, len)| (path.to_owned(), len)).to_vec();
    Recipe::folder(name, files).piece(256 * KIB).make()
}

/// The summary of `gc`: what it would remove.
fn leftovers(bae: &Bae) -> Value {
    let output = bae.run(["--json", "gc"]).expect(0);
    output.json().pop().expect("gc prints a summary")
}

fn assert_clean(bae: &Bae, case: &str) {
    let report = leftovers(bae);
    assert_eq!(
        (report["objects"].as_u64(), report["uploads"].as_u64()),
        (Some(0), Some(0)),
        "{case}: {report}"
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
fn fail_each_request(name: &str, options: &[&str], seed: u64) {
    let torrent = torrent(name);
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let cloud = Cloud::new();
    let import = |prefix: &str, plan: Box<dyn Fn(&Request) -> Fault + Send + Sync>| {
        let bae = cloud.bae(prefix);
        cloud.proxy.set_faults(plan);
        let args = bae.import_args(&torrent.torrent, &[seeder.addr()], options);
        let summary = bae.run(args).expect(0).summary();
        let requests = cloud.proxy.requests().len() as u64;
        cloud.proxy.clear_faults();
        bae.assert_exact(&summary.id, &torrent);
        (bae, requests)
    };
    let (_, requests) = import("clean", Box::new(|_| Fault::None));
    assert!(requests > 4, "only {requests} requests");
    let mut random = Random(seed);
    for n in 0..requests {
        let fault = FAULTS[random.below(FAULTS.len() as u64) as usize];
        eprintln!("seed {seed}: request {n} of {requests}: {fault:?}");
        let plan = move |r: &Request| if r.number == n { fault } else { Fault::None };
        let (bae, _) = import(&format!("fault-{n}"), Box::new(plan));
        assert_clean(&bae, &format!("request {n}, {fault:?}"));
    }
}

#[test]
fn an_import_is_exact_whichever_request_fails() {
    fail_each_request("faulty chunks", &[], 3);
}

#[test]
fn whole_files_are_exact_whichever_request_fails() {
    fail_each_request("faulty files", &["--layout", "files"], 4);
}

/// Kills the program at its first request, in the next run at the second, and so on until an import ends. In every
/// other run the request does not reach the server; in the others the server carries it out.
fn kill_at_each_request(name: &str, options: &[&str]) {
    // Run `n` gets `n` requests through. Eleven chunks are more than the first five runs can store.
    let torrent = torrent_with_len(name, 50 * MIB + 5);
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let cloud = Cloud::new();
    let bae = cloud.bae("killed");
    let args = || bae.import_args(&torrent.torrent, &[seeder.addr()], options);
    let mut n = 0;
    let done = loop {
        let even = n % 2 == 0;
        // Every run gets one request further than the run before, and does not fetch again what that run stored.
        cloud.proxy.set_faults(move |r| match r.number < n {
            true => Fault::None,
            false if even => Fault::Hold,
            false => Fault::HoldAnswer,
        });
        let mut running = bae.start(args());
        let mut ended = false;
        wait_until("a request or the end", LONG, || {
            ended = !running.0.is_running();
            ended || cloud.proxy.held() > 0
        });
        if ended {
            break running.wait(LONG).expect(0).summary();
        }
        running.kill();
        cloud.proxy.clear_faults();
        n += 1;
        assert!(n < 200, "the import never completes");
    };
    cloud.proxy.clear_faults();
    assert!(n >= 5, "only killed {n} times");
    bae.assert_exact(&done.id, &torrent);
    bae.run(["gc", "--yes"]).expect(0);
    assert_clean(&bae, "after gc");
    bae.assert_exact(&done.id, &torrent);
}

#[test]
fn kills_between_requests_lose_no_durable_bytes_and_gc_finds_all_garbage() {
    kill_at_each_request("killed chunks", &[]);
}

#[test]
fn kills_while_files_are_composed_lose_no_durable_bytes() {
    kill_at_each_request("killed files", &["--layout", "files"]);
}

#[test]
fn an_exhausted_quota_pauses_an_import_with_a_hint_until_it_is_freed() {
    let torrent = torrent("quota");
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let cloud = Cloud::new();
    let bae = cloud.bae("quota");
    cloud.proxy.set_faults(|r| match r.method.as_str() {
        "PUT" if r.number > 1 => Fault::Refuse("403 Forbidden", "QuotaExceeded"),
        _ => Fault::None,
    });
    let mut running = bae.start_import(&torrent, &[seeder.addr()]);
    let paused = running.event("paused");
    let error = paused["error"].as_str().unwrap();
    assert!(error.contains("QuotaExceeded") || error.contains("quota"), "{paused}");
    assert!(paused["hint"].is_string(), "{paused}");
    let refused = cloud.proxy.requests().len();
    wait_until("more refusals", LONG, || cloud.proxy.requests().len() >= refused + 2);
    assert!(running.0.is_running(), "a used-up quota ended the import");
    cloud.proxy.clear_faults();
    running.event("resumed");
    let summary = running.event("imported");
    bae.assert_exact(summary["id"].as_str().unwrap(), &torrent);
    assert_clean(&bae, "after the quota was freed");
}

#[test]
fn objects_lost_with_a_bucket_during_an_import_are_found_and_refetched() {
    let torrent = Recipe::single("bucket gone.bin", 30 * MIB).piece(256 * KIB).make();
    let seeder = LibtorrentPeer::slow_seed(&torrent, 12 * MIB);
    let cloud = Cloud::new();
    let bae = cloud.bae("gone");
    let mut running = bae.start_import(&torrent, &[seeder.addr()]);
    running.event_where("progress", |e| e["stored"].as_u64() > Some(0));
    // SeaweedFS creates a missing bucket when an object is put, so the proxy sends the answer of other servers.
    cloud.proxy.set_faults(|_| Fault::Refuse("404 Not Found", "NoSuchBucket"));
    let paused = running.event("paused");
    assert!(paused["error"].as_str().unwrap().contains(&cloud.bucket), "{paused}");
    assert!(paused["hint"].as_str().unwrap().contains("bucket"), "{paused}");
    cloud.server.empty_bucket(&cloud.bucket);
    cloud.proxy.clear_faults();
    running.event("resumed");
    let id = running.event("imported")["id"].as_str().unwrap().to_owned();
    running.wait(LONG).expect(0);
    bae.run(["verify", &id]).expect(32).expect_stderr("bucket gone.bin");
    let peer = seeder.addr().to_string();
    let listen = bae.listen.to_string();
    let repair = ["verify", &id, "--repair", "--peer", &peer, "--listen", &listen, "--no-dht"];
    bae.run(repair).expect(0);
    bae.assert_verified(&id);
    bae.assert_exact(&id, &torrent);
}

#[test]
fn two_catalogs_can_share_a_prefix() {
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
fn a_wrong_region_or_key_is_reported_before_anything_is_fetched() {
    let torrent = torrent("refused");
    let cloud = Cloud::new();
    let url = cloud.url("x");
    let wrong_key = [
        ("AWS_ACCESS_KEY_ID".into(), "unknown".into()),
        ("AWS_SECRET_ACCESS_KEY".into(), "x".into()),
    ];
    let bae = Bae::new().with_storage_url(&url, wrong_key.to_vec());
    let output = bae.run(bae.import_args(&torrent.torrent, &[], &LONG_TIMEOUT)).expect(24);
    assert!(output.stderr.contains("hint:"), "{}", output.stderr);
    cloud.proxy.set_faults(|_| Fault::Refuse("400 Bad Request", "AuthorizationHeaderMalformed"));
    let bae = cloud.bae("y");
    bae.run(bae.import_args(&torrent.torrent, &[], &LONG_TIMEOUT))
        .expect(2)
        .expect_stderr("region");
}

#[test]
fn payload_is_never_written_to_disk_or_sent_twice() {
    let torrent = Recipe::single("payload.bin", 160 * MIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let cloud = Cloud::new();
    let bae = Bae::new().with_storage_url(&cloud.url("payload"), cloud.server.env());
    let mut running = bae.start_import(&torrent, &[seeder.addr()]);
    let pid = running.0.id();
    let mut written = 0;
    let done = loop {
        let event = running.next_event();
        written = written.max(bytes_written(pid).unwrap_or(0));
        if event["event"] == "imported" {
            break event;
        }
    };
    assert!(written <= 8 * MIB, "{written} bytes were written to the local disk");
    let requests = cloud.proxy.requests();
    let puts: Vec<_> = requests.iter().filter(|r| r.method == "PUT").collect();
    let sent: u64 = requests.iter().map(|r| r.body).sum();
    assert!(sent <= torrent.bytes + torrent.bytes / 100, "{sent} bytes sent");
    assert!(puts.len() as u64 <= torrent.bytes / (12 * MIB) + 20, "{} PUTs", puts.len());
    running.wait(LONG).expect(0);
    bae.assert_exact(done["id"].as_str().unwrap(), &torrent);
}

#[test]
fn a_stalled_request_is_abandoned_and_sent_again() {
    let torrent = Recipe::single("stalled.bin", 300 * KIB).piece(64 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let cloud = Cloud::new();
    let bae = cloud.bae("stalled");
    let gate = Arc::new(Gate::default());
    let put_gate = Arc::clone(&gate);
    cloud.proxy.set_faults(move |r| {
        if (r.number, r.method.as_str()) == (1, "PUT") {
            put_gate.wait();
        }
        Fault::None
    });
    // The request stalls until the import has ended. So the import did not wait for it.
    let summary = bae.import(&torrent, &[seeder.addr()]);
    assert!(cloud.proxy.requests().len() > 3, "nothing was sent again");
    gate.open();
    bae.assert_exact(&summary.id, &torrent);
}
