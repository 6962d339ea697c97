//! Web seeds: pieces from the servers that a torrent names, alone and together with peers.

use std::{fs, path::Path, sync::Arc};

use bae::{
    error::Kind,
    protocols::{FetchOptions, Outgoing, Protocol, Protocols, Remote},
};
use url::Url;

use crate::support::{
    KIB, LONG, MIB,
    bae::{Bae, Ran},
    nginx::Nginx,
    peers::LibtorrentPeer,
    scripted::{Answer, Scripted},
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

fn requests(nginx: &Nginx, folder: &str) -> usize {
    let log = fs::read_to_string(nginx.served.own().join("access.log")).unwrap();
    log.lines().filter(|line| line.starts_with(folder)).count()
}

fn import(bae: &Bae, torrent: &Fixture, more: &[&str]) -> Ran {
    bae.run(bae.import_args(&torrent.torrent, &[], &[&["--timeout", "20s"], more].concat()))
}

fn album(version: Version) -> Recipe {
    let files = [("a b.flac", 3 * MIB + 17), ("art/cover #1.jpg", 70_000), ("ä.txt", 11)];
    let files = files.map(|(path, len)| (path.to_owned(), len)).to_vec();
    Recipe::folder("the album", files).version(version).piece(64 * KIB)
}

#[test]
fn a_web_seed_alone_fills_torrents_of_every_version() {
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
        let done = import(&bae, &torrent, &[]).expect(0).imported();
        assert_eq!(done.bytes, torrent.bytes);
        bae.assert_exact(&done.id, &original);
        bae.assert_verified(&done.id);
        let info = bae.run(["info", &done.id]).expect(0).stdout;
        assert!(info.contains(&format!("web seed    {url}")), "{info}");
    }
}

#[test]
fn a_server_without_ranges_gives_its_file_once() {
    let nginx = Nginx::start();
    let torrent = Recipe::single("whole.bin", 20 * MIB + 1).piece(256 * KIB).make();
    serve(&nginx, &torrent);
    let bae = Bae::new();
    let url = format!("http://{}/norange/whole.bin", nginx.addr);
    let seeded = torrent.with_web_seeds(&[&url], bae.home());
    let done = import(&bae, &seeded, &[]).expect(0).imported();
    bae.assert_exact(&done.id, &torrent);
    let asked = requests(&nginx, "/norange/");
    assert!(asked <= 8, "{asked} requests for a file that comes whole each time");
}

#[test]
fn a_web_seed_with_wrong_bytes_is_left_for_another() {
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
    let ran = import(&bae, &seeded, &[]).expect(0);
    bae.assert_exact(&ran.imported().id, &torrent);
    let notices: Vec<_> = ran.json().into_iter().filter(|e| e["event"] == "notice").collect();
    let said = |e: &serde_json::Value| e["text"].as_str().unwrap().contains("wrong bytes");
    assert!(notices.iter().any(said), "{notices:?}");
    assert!(requests(&nginx, "/f/other/") <= 2, "it was asked on and on");
    // When it is the only web seed, the final error names it.
    let alone = Bae::new();
    let seeded = torrent.with_web_seeds(&[&bad], alone.home());
    alone
        .run(alone.import_args(&seeded.torrent, &[], &["--timeout", "3s"]))
        .expect(6)
        .says("came with wrong bytes");
}

#[test]
fn web_seeds_and_peers_fill_an_import_together() {
    let torrent = Recipe::single("together.bin", 24 * MIB).piece(256 * KIB).make();
    let nginx = Nginx::start();
    serve(&nginx, &torrent);
    let mut peer = LibtorrentPeer::slow_seed(&torrent, 3 * MIB);
    let bae = Bae::new();
    let url = format!("http://{}/slow/", nginx.addr);
    let seeded = torrent.with_web_seeds(&[&url], bae.home());
    let done = bae.run(bae.import_args(&seeded.torrent, &[peer.addr()], &[])).expect(0).imported();
    bae.assert_exact(&done.id, &torrent);
    wait_until("the peer says that it sent something", LONG, || peer.sent() > 0);
    wait_until("nginx says that it sent something", LONG, || requests(&nginx, "/slow/") > 0);
    // Without coordination the web seed and the peer would fetch everything twice.
    assert!(done.downloaded < torrent.bytes * 3 / 2, "{} bytes came", done.downloaded);
}

#[test]
fn web_seeds_can_be_switched_off_and_that_is_said() {
    let torrent = Recipe::single("off.bin", MIB).piece(128 * KIB).make();
    let nginx = Nginx::start();
    serve(&nginx, &torrent);
    let bae = Bae::new();
    let url = format!("http://{}/f/", nginx.addr);
    let seeded = torrent.with_web_seeds(&[&url], bae.home());
    let args = ["--no-web-seeds", "--timeout", "2s"];
    let args: Vec<_> = bae.import_args(&seeded.torrent, &[], &args).split_off(1);
    bae.run(args).expect(6).says("not used: they are switched off");
    assert_eq!(requests(&nginx, "/f/"), 0);
}

#[test]
fn what_a_web_seed_answers_is_told() {
    let torrent = Recipe::single("gone.bin", MIB).piece(128 * KIB).make();
    let nginx = Nginx::start();
    let bae = Bae::new();
    let url = format!("http://{}/f/gone.bin", nginx.addr);
    let seeded = torrent.with_web_seeds(&[&url], bae.home());
    let args = bae.import_args(&seeded.torrent, &[], &["--timeout", "2s"]);
    bae.run(args).expect(6).says("404 Not Found");
    // Another file with that name.
    nginx.served.write("gone.bin", &vec![0; 1000]);
    let args = bae.import_args(&seeded.torrent, &[], &["--timeout", "2s"]);
    bae.run(args).expect(6).says("has not 1048576 bytes");
}

#[test]
fn a_server_that_fails_now_and_then_is_asked_again() {
    let torrent = Recipe::single("flaky.bin", 9 * MIB).piece(256 * KIB).make();
    let nginx = Nginx::start();
    serve(&nginx, &torrent);
    for way in ["flaky", "cuts"] {
        let bae = Bae::new();
        let url = format!("http://{}/{way}/", nginx.addr);
        let seeded = torrent.with_web_seeds(&[&url], bae.home());
        let done = import(&bae, &seeded, &[]).expect(0).imported();
        bae.assert_exact(&done.id, &torrent);
    }
}

#[test]
fn a_torrent_makes_bae_call_no_service_of_this_machine() {
    let torrent = Recipe::single("calls.bin", MIB).piece(128 * KIB).make();
    let server = Scripted::start(|_, _| Some(Answer::new(200, "done")));
    let bae = Bae::new();
    let url = format!("{}/reboot?now=1", server.url());
    let seeded = torrent.with_web_seeds(&[&url], bae.home());
    let args = bae.import_args(&seeded.torrent, &[], &["--timeout", "2s"]);
    bae.run(args).expect(6).says("query");
    assert_eq!(server.requests().len(), 0);
}

#[tokio::test]
async fn a_client_for_the_public_network_sends_nothing_to_this_machine() {
    let server = Arc::new(Scripted::start(|_, _| Some(Answer::new(200, "secret"))));
    let outgoing = Outgoing { only_public: true, interface: None };
    let protocols = Protocols::new(FetchOptions { outgoing, ..FetchOptions::default() });
    let url: Url = server.url().parse().unwrap();
    let http: Arc<dyn Protocol> = protocols.of(&url, None).unwrap();
    let refused = http.open(&Remote::at(url), (0..6).into()).await.err().unwrap();
    assert_eq!(refused.kind(), Kind::PermissionDenied, "{}", refused.report());
    assert_eq!(server.requests().len(), 0);
}
