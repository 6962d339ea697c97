//! Usage: every get that is sent to a storage is counted, whatever it is for and however it ends.

use std::fs;

use serde_json::Value;

use crate::support::{
    KIB, LONG, MIB,
    bae::Bae,
    fault_proxy::{Fault, FaultProxy, Request},
    peers::{LibtorrentPeer, Release},
    s3_server::S3Server,
    streaming::{StreamServer, curl},
    torrents::{Fixture, Recipe},
};

/// An import in a bucket behind a proxy.
struct BucketImport {
    bae: Bae,
    id: String,
    torrent: Fixture,
    proxy: FaultProxy,
}

impl BucketImport {
    fn new(name: &str) -> Self {
        let torrent = Recipe::single(name, 9 * MIB + 11).piece(256 * KIB).make();
        let server = S3Server::seaweed();
        let bucket = server.bucket("usage");
        let proxy = FaultProxy::start(server.addr());
        let endpoint = format!("http://{}", proxy.addr());
        let url = format!("{}&chunk=5MiB", server.storage_url_at(&endpoint, &bucket, "b"));
        let bae = Bae::new().with_storage_url(&url, server.env());
        let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
        let id = bae.import(&torrent, &[seeder.addr()]).id;
        proxy.set_faults(|_| Fault::None);
        Self { bae, id, torrent, proxy }
    }

    fn info(&self) -> Value {
        self.bae.run(["--json", "info", &self.id]).expect(0).json().remove(0)
    }

    /// The line of `storage list` about the bucket.
    fn storage_entry(&self) -> Value {
        let lines = self.bae.run(["--json", "storage", "list"]).expect(0).json();
        let found = lines.iter().find(|line| line["name"].as_str().unwrap().starts_with("s3://"));
        found.unwrap_or_else(|| panic!("no bucket in {lines:?}")).clone()
    }

    fn request_count(&self) -> u64 {
        self.proxy.requests().len() as u64
    }
}

#[test]
fn reads_of_commands_and_players_are_counted_also_while_another_process_seeds() {
    let import = BucketImport::new("read.bin");
    let (bae, id) = (&import.bae, import.id.as_str());
    assert_eq!(import.info()["read"]["gets"], 0, "an import counts as reading");
    let data = fs::read(import.torrent.data()).unwrap();
    let read_all = || {
        assert!(bae.stdout_of(["cat", id, "--range", "0-99"]) == data[..100]);
        bae.assert_verified(id);
        bae.assert_exact(id, &import.torrent);
        let stream_server = StreamServer::start(bae, id, &[]);
        assert!(
            curl(&["--range", "3000000-"], &stream_server.url("read.bin")) == data[3_000_000..]
        );
        stream_server.running.interrupt();
        stream_server.running.wait(LONG).expect(0);
    };
    read_all();
    let (usage, len) = (import.info()["read"].clone(), import.torrent.bytes);
    FaultProxy::assert_gets_match(&usage["gets"], import.request_count());
    let fetched = usage["fetched"].as_u64().unwrap();
    assert!((2 * len + 6 * MIB..4 * len).contains(&fetched), "{usage}");
    assert_eq!(usage["dollars"], 0.0, "a self-hosted server is free");
    assert_eq!(import.info()["seeded"]["gets"], 0);
    let storage_entry = import.storage_entry();
    assert_eq!(
        (&storage_entry["type"], &storage_entry["defined"]),
        (&"s3".into(), &"imports".into())
    );
    for span in ["month", "total"] {
        assert_eq!(storage_entry[span]["gets"], usage["gets"], "{storage_entry}");
        assert_eq!(storage_entry[span]["fetched"], usage["fetched"], "{storage_entry}");
    }
    let shown = bae.run(["info", id]).expect(0).stdout;
    assert!(shown.contains("gets from storage"), "{shown}");

    let running = bae.seed(id, &[]);
    read_all();
    running.interrupt();
    running.wait(LONG).expect(0);
    FaultProxy::assert_gets_match(&import.info()["read"]["gets"], import.request_count());
    // `--cloud-budget` covers all reads: seeding stops although nothing was fetched for peers.
    assert_eq!(import.info()["seeded"]["fetched"], 0);
    let mut running = bae.seed_with(id, &[], &["--cloud-budget", "1MiB"]);
    running.event_where("notice", |e| e["text"].as_str().unwrap().contains("seeding is paused"));
    running.interrupt();
    running.wait(LONG).expect(0);
    // The total keeps what was spent when the import is removed.
    let before = import.storage_entry()["total"].clone();
    bae.run(["rm", id, "--yes"]).expect(0);
    assert_eq!(import.storage_entry()["total"], before);
}

#[test]
fn every_retry_of_a_get_is_counted() {
    let import = BucketImport::new("repeated.bin");
    let every_other_busy =
        |r: &Request| if r.number.is_multiple_of(2) { Fault::Busy(0) } else { Fault::None };
    import.proxy.set_faults(every_other_busy);
    import.bae.assert_verified(&import.id);
    let usage = import.info()["read"].clone();
    let sent = import.request_count();
    // About half of the requests are refused.
    assert!(sent > 12, "{sent} requests");
    FaultProxy::assert_gets_match(&usage["gets"], sent);
    // A refused get fetches no bytes.
    let (fetched, bytes) = (usage["fetched"].as_u64().unwrap(), import.torrent.bytes);
    assert!((bytes..bytes + bytes / 5).contains(&fetched), "{usage}");

    import.proxy.set_faults(every_other_busy);
    let running = import.bae.seed(&import.id, &[]);
    let mut leecher = LibtorrentPeer::leech(Release::Newest, &import.torrent, import.bae.listen);
    import.torrent.assert_same(&leecher.wait_done().join(&import.torrent.name));
    running.interrupt();
    running.wait(LONG).expect(0);
    let info = import.info();
    FaultProxy::assert_gets_match(&info["seeded"]["gets"], import.request_count());
    let late_reads = info["read"]["gets"].as_u64().unwrap() - usage["gets"].as_u64().unwrap();
    assert!(late_reads <= 2, "reads for peers are counted as other reads: {info}");
    let month = import.storage_entry()["month"].clone();
    FaultProxy::assert_gets_match(&month["gets"], sent + import.request_count());
}
