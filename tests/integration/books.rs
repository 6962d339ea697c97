//! Usage: every get that is sent to a storage is counted, whatever it is for and however it ends.

use std::{fs, time::Duration};

use serde_json::Value;

use crate::support::{
    KIB, MIB,
    bae::Bae,
    fault_proxy::{Fault, FaultProxy, Request},
    peers::{LibtorrentPeer, Release},
    player::{Player, curl},
    s3_server::S3Server,
    torrents::{Fixture, Recipe},
};

/// An import in a bucket behind a proxy.
struct Stored {
    bae: Bae,
    id: String,
    torrent: Fixture,
    proxy: FaultProxy,
}

impl Stored {
    fn new(name: &str) -> Self {
        let torrent = Recipe::single(name, 9 * MIB + 11).piece(256 * KIB).make();
        let server = S3Server::seaweed();
        let bucket = server.bucket("books");
        let proxy = FaultProxy::start(server.addr());
        let endpoint = format!("http://{}", proxy.addr());
        let url = format!("{}&chunk=5MiB", server.storage_url_at(&endpoint, &bucket, "b"));
        let bae = Bae::new().storing_at(&url, server.env());
        let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
        let id = bae.import(&torrent, &[seeder.addr()]).id;
        proxy.spoil(|_| Fault::None);
        Self { bae, id, torrent, proxy }
    }

    fn info(&self) -> Value {
        self.bae.run(["--json", "info", &self.id]).expect(0).json().remove(0)
    }

    /// The line of `storage list` about the bucket.
    fn listed(&self) -> Value {
        let lines = self.bae.run(["--json", "storage", "list"]).expect(0).json();
        let found = lines.iter().find(|line| line["name"].as_str().unwrap().starts_with("s3://"));
        found.unwrap_or_else(|| panic!("no bucket in {lines:?}")).clone()
    }

    fn gets(&self) -> u64 {
        self.proxy.seen().len() as u64
    }
}

#[test]
fn what_commands_and_players_read_is_in_the_books_also_beside_a_bae_that_seeds() {
    let stored = Stored::new("read.bin");
    let (bae, id) = (&stored.bae, stored.id.as_str());
    assert_eq!(stored.info()["read"]["gets"], 0, "an import reads nothing");
    let data = fs::read(stored.torrent.data()).unwrap();
    let read = || {
        assert!(bae.bytes(["cat", id, "--range", "0-99"]) == data[..100]);
        bae.assert_verified(id);
        bae.assert_exact(id, &stored.torrent);
        let player = Player::start(bae, id, &[]);
        assert!(curl(&["--range", "3000000-"], &player.url("read.bin")) == data[3_000_000..]);
        player.running.interrupt();
        player.running.ended(Duration::from_secs(30)).expect(0);
    };
    read();
    let (books, all) = (stored.info()["read"].clone(), stored.torrent.bytes);
    FaultProxy::assert_counted(&books["gets"], stored.gets());
    let fetched = books["fetched"].as_u64().unwrap();
    assert!((2 * all + 6 * MIB..4 * all).contains(&fetched), "{books}");
    assert_eq!(books["dollars"], 0.0, "a server of one's own costs nothing");
    assert_eq!(stored.info()["seeded"]["gets"], 0);
    let listed = stored.listed();
    assert_eq!((&listed["type"], &listed["defined"]), (&"s3".into(), &"imports".into()));
    for span in ["month", "total"] {
        assert_eq!(listed[span]["gets"], books["gets"], "{listed}");
        assert_eq!(listed[span]["fetched"], books["fetched"], "{listed}");
    }
    let shown = bae.run(["info", id]).expect(0).stdout;
    assert!(shown.contains("gets from storage"), "{shown}");

    let running = bae.seed(id, &[]);
    read();
    running.interrupt();
    running.ended(Duration::from_secs(30)).expect(0);
    FaultProxy::assert_counted(&stored.info()["read"]["gets"], stored.gets());
    // `--cloud-budget` covers all reads: seeding stops although nothing was fetched for peers.
    assert_eq!(stored.info()["seeded"]["fetched"], 0);
    let mut running = bae.seed_with(id, &[], &["--cloud-budget", "1MiB"]);
    running.event_where("notice", |e| e["text"].as_str().unwrap().contains("seeding stops"));
    running.interrupt();
    running.ended(Duration::from_secs(30)).expect(0);
    // The total keeps what was spent when the import is removed.
    let before = stored.listed()["total"].clone();
    bae.run(["rm", id, "--yes"]).expect(0);
    assert_eq!(stored.listed()["total"], before);
}

#[test]
fn gets_that_were_repeated_are_in_the_books_as_often_as_they_were_asked() {
    let stored = Stored::new("repeated.bin");
    let busy = |r: &Request| if r.number.is_multiple_of(2) { Fault::Busy(0) } else { Fault::None };
    stored.proxy.spoil(busy);
    stored.bae.assert_verified(&stored.id);
    let books = stored.info()["read"].clone();
    let asked = stored.gets();
    // About half of the requests are refused.
    assert!(asked > 12, "{asked} requests");
    FaultProxy::assert_counted(&books["gets"], asked);
    // A refused get fetches no bytes.
    let (fetched, bytes) = (books["fetched"].as_u64().unwrap(), stored.torrent.bytes);
    assert!((bytes..bytes + bytes / 5).contains(&fetched), "{books}");

    stored.proxy.spoil(busy);
    let running = stored.bae.seed(&stored.id, &[]);
    let mut leecher = LibtorrentPeer::leech(Release::Newest, &stored.torrent, stored.bae.listen);
    stored.torrent.assert_same(&leecher.wait_done().join(&stored.torrent.name));
    running.interrupt();
    running.ended(Duration::from_secs(30)).expect(0);
    let info = stored.info();
    FaultProxy::assert_counted(&info["seeded"]["gets"], stored.gets());
    let few = info["read"]["gets"].as_u64().unwrap() - books["gets"].as_u64().unwrap();
    assert!(
        few <= 2,
        "what is for peers is no other read, but what was under way at the end: {info}"
    );
    let month = stored.listed()["month"].clone();
    FaultProxy::assert_counted(&month["gets"], asked + stored.gets());
}
