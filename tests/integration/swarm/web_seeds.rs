//! Web seeds: pieces from the servers that a torrent names, alone and together with peers.

use std::{fs, path::Path, sync::Arc};

use bae::{
    error::Kind,
    protocols::{FetchOptions, OutgoingOptions, Protocol, Protocols, RemoteFile},
};
use url::Url;

use crate::support::{
    KIB, LONG, LONG_TIMEOUT, MIB,
    bae::{Bae, CommandOutput},
    nginx::Nginx,
    peers::LibtorrentPeer,
    scripted_http::{Answer, ScriptedHttp},
    torrents::{Fixture, Recipe, Version},
    wait_until,
};

/// Copies the data of a torrent into the folder that nginx serves.
fn serve(nginx: &Nginx, torrent: &Fixture) {
    fn copy(nginx: &Nginx, top: &Path, path: &Path) {
        if path.is_dir() {
            fs::read_dir(path).unwrap().for_each(|entry| copy(nginx, top, &entry.unwrap().path()));
            return;
        }
        let name = path.strip_prefix(top).unwrap().to_str().unwrap();
        nginx.served.write(name, &fs::read(path).unwrap());
    }
    copy(nginx, &torrent.parent, &torrent.data());
}

fn request_count(nginx: &Nginx, folder: &str) -> usize {
    let log = fs::read_to_string(nginx.served.server_dir().join("access.log")).unwrap();
    log.lines().filter(|line| line.starts_with(folder)).count()
}

fn import(bae: &Bae, torrent: &Fixture, more: &[&str]) -> CommandOutput {
    bae.run(bae.import_args(&torrent.torrent, &[], &[&LONG_TIMEOUT, more].concat()))
}

fn album(version: Version) -> Recipe {
    let files = [("a b.flac", 3 * MIB + 17), ("art/cover #1.jpg", 70_000), ("ä.txt", 11)];
    let files = files.map(|(path, len)| (path.to_owned(), len)).to_vec();
    Recipe::folder("the album", files).version(version).piece(64 * KIB)
}

#[test]
fn a_web_seed_alone_completes_torrents_of_every_version() {
    let nginx = Nginx::start();
    let recipes = [
        album(Version::V1),
        album(Version::V1).padded().seed(2),
        album(Version::V2),
        album(Version::Hybrid),
    ];
    for recipe in recipes {
        let (original, bae) = (recipe.make(), Bae::new());
        serve(&nginx, &original);
        let url = format!("http://{}/f/", nginx.addr);
        let torrent = original.with_web_seeds(&[&url], bae.home());
        let summary = import(&bae, &torrent, &[]).expect(0).summary();
        assert_eq!(summary.bytes, torrent.bytes);
        bae.assert_exact(&summary.id, &original);
        bae.assert_verified(&summary.id);
        let info = bae.run(["info", &summary.id]).expect(0).stdout;
        assert!(info.contains(&format!("web seed    {url}")), "{info}");
    }
}

#[test]
fn a_web_seed_without_ranges_gets_only_a_few_requests() {
    let nginx = Nginx::start();
    let torrent = Recipe::single("whole.bin", 20 * MIB + 1).piece(256 * KIB).make();
    serve(&nginx, &torrent);
    let bae = Bae::new();
    let url = format!("http://{}/norange/whole.bin", nginx.addr);
    let seeded = torrent.with_web_seeds(&[&url], bae.home());
    let summary = import(&bae, &seeded, &[]).expect(0).summary();
    bae.assert_exact(&summary.id, &torrent);
    let requests = request_count(&nginx, "/norange/");
    assert!(requests <= 8, "{requests} requests for a server without ranges");
}

#[test]
fn a_web_seed_with_wrong_bytes_is_replaced_by_another() {
    let torrent = Recipe::single("wrong.bin", 4 * MIB).piece(128 * KIB).make();
    let nginx = Nginx::start();
    serve(&nginx, &torrent);
    let mut wrong = fs::read(torrent.data()).unwrap();
    wrong.iter_mut().step_by(1000).for_each(|byte| *byte ^= 1);
    nginx.served.write("other/wrong.bin", &wrong);
    let bae = Bae::new();
    let bad = format!("http://{}/f/other/wrong.bin", nginx.addr);
    let good = format!("http://{}/f/wrong.bin", nginx.addr);
    let seeded = torrent.with_web_seeds(&[&bad, &good], bae.home());
    let output = import(&bae, &seeded, &[]).expect(0);
    bae.assert_exact(&output.summary().id, &torrent);
    let notices: Vec<_> = output.json().into_iter().filter(|e| e["event"] == "notice").collect();
    let is_report = |e: &serde_json::Value| e["text"].as_str().unwrap().contains("wrong bytes");
    assert!(notices.iter().any(is_report), "{notices:?}");
    assert!(request_count(&nginx, "/f/other/") <= 2, "it got more requests");
    // When it is the only web seed, the final error names it.
    let alone = Bae::new();
    let seeded = torrent.with_web_seeds(&[&bad], alone.home());
    alone
        .run(alone.import_args(&seeded.torrent, &[], &["--timeout", "3s"]))
        .expect(6)
        .expect_stderr("has wrong bytes");
}

#[test]
fn web_seeds_and_peers_complete_an_import_together() {
    let torrent = Recipe::single("together.bin", 24 * MIB).piece(256 * KIB).make();
    let nginx = Nginx::start();
    serve(&nginx, &torrent);
    let mut peer = LibtorrentPeer::slow_seed(&torrent, 3 * MIB);
    let bae = Bae::new();
    let url = format!("http://{}/slow/", nginx.addr);
    let seeded = torrent.with_web_seeds(&[&url], bae.home());
    let summary =
        bae.run(bae.import_args(&seeded.torrent, &[peer.addr()], &[])).expect(0).summary();
    bae.assert_exact(&summary.id, &torrent);
    wait_until("the peer reports sent bytes", LONG, || peer.sent() > 0);
    wait_until("nginx logs a request", LONG, || request_count(&nginx, "/slow/") > 0);
    // Without coordination the web seed and the peer would fetch everything twice.
    assert!(summary.downloaded < torrent.bytes * 3 / 2, "{} bytes downloaded", summary.downloaded);
}

#[test]
fn switched_off_web_seeds_are_named_in_the_error() {
    let torrent = Recipe::single("off.bin", MIB).piece(128 * KIB).make();
    let nginx = Nginx::start();
    serve(&nginx, &torrent);
    let bae = Bae::new();
    let url = format!("http://{}/f/", nginx.addr);
    let seeded = torrent.with_web_seeds(&[&url], bae.home());
    let args = ["--no-web-seeds", "--timeout", "2s"];
    let args: Vec<_> = bae.import_args(&seeded.torrent, &[], &args).split_off(1);
    bae.run(args).expect(6).expect_stderr("not used: web seeds are disabled");
    assert_eq!(request_count(&nginx, "/f/"), 0);
}

#[test]
fn errors_of_a_web_seed_are_reported() {
    let torrent = Recipe::single("gone.bin", MIB).piece(128 * KIB).make();
    let nginx = Nginx::start();
    let bae = Bae::new();
    let url = format!("http://{}/f/gone.bin", nginx.addr);
    let seeded = torrent.with_web_seeds(&[&url], bae.home());
    let args = bae.import_args(&seeded.torrent, &[], &["--timeout", "2s"]);
    bae.run(args).expect(6).expect_stderr("404 Not Found");
    // Another file with that name.
    nginx.served.write("gone.bin", &vec![0; 1000]);
    let args = bae.import_args(&seeded.torrent, &[], &["--timeout", "2s"]);
    bae.run(args).expect(6).expect_stderr("does not have 1048576 bytes");
}

#[test]
fn a_web_seed_with_temporary_errors_is_retried() {
    let torrent = Recipe::single("flaky.bin", 9 * MIB).piece(256 * KIB).make();
    let nginx = Nginx::start();
    serve(&nginx, &torrent);
    for location in ["flaky", "cuts"] {
        let bae = Bae::new();
        let url = format!("http://{}/{location}/", nginx.addr);
        let seeded = torrent.with_web_seeds(&[&url], bae.home());
        let summary = import(&bae, &seeded, &[]).expect(0).summary();
        bae.assert_exact(&summary.id, &torrent);
    }
}

#[test]
fn a_torrent_cannot_call_services_of_this_machine() {
    let torrent = Recipe::single("calls.bin", MIB).piece(128 * KIB).make();
    let server = ScriptedHttp::start(|_, _| Some(Answer::new(200, "done")));
    let bae = Bae::new();
    let url = format!("{}/reboot?now=1", server.url());
    let seeded = torrent.with_web_seeds(&[&url], bae.home());
    let args = bae.import_args(&seeded.torrent, &[], &["--timeout", "2s"]);
    bae.run(args).expect(6).expect_stderr("query");
    assert_eq!(server.requests().len(), 0);
}

#[tokio::test]
async fn a_client_for_the_public_network_sends_nothing_to_this_machine() {
    let server = Arc::new(ScriptedHttp::start(|_, _| Some(Answer::new(200, "secret"))));
    let outgoing = OutgoingOptions { only_public: true, interface: None };
    let protocols = Protocols::new(FetchOptions { outgoing, ..FetchOptions::default() });
    let url: Url = server.url().parse().unwrap();
    let http: Arc<dyn Protocol> = protocols.for_url(&url, None).unwrap();
    let refused = http.open(&RemoteFile::from_url(url), (0..6).into()).await.err().unwrap();
    assert_eq!(refused.kind(), Kind::PermissionDenied, "{}", refused.report());
    assert_eq!(server.requests().len(), 0);
}
