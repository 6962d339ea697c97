//! IPFS from nginx as a trustless gateway: the protocols' conformance suite, files of every layout, folders and names.

use bae::protocols::{CidProfile, FetchOptions, ImportedNode, Protocols, conformance::check};

use super::import_url::imported_within_64_mib;
use crate::support::{
    LONG, MIB,
    bae::{Bae, CommandOutput},
    get::{assert_file, event, get, out_path, start},
    ipfs::{BlockFolder, ConformanceRoot, NameKey, Node, cid_of, raw_cid},
    nginx::Nginx,
    random,
    s3_server::{S3Server, runtime},
    wait_until,
};

/// Options that use `gateway` alone.
fn options(gateway: &str) -> FetchOptions {
    let mut options = FetchOptions::default();
    options.ipfs.gateways = vec![gateway.to_owned()];
    options
}

fn check_conformance(nginx: &Nginx, blocks: &BlockFolder, key: Option<&NameKey>, prefix: &str) {
    let root = ConformanceRoot::new(blocks, key, prefix, &nginx.process);
    let protocols = Protocols::new(options(&nginx.url("")));
    let protocol = protocols.for_url(&"ipfs://x".parse().unwrap(), None).unwrap();
    runtime().block_on(check(&*protocol, &root));
}

#[test]
fn a_trustless_gateway_passes_the_conformance_suite() {
    let nginx = Nginx::start();
    let blocks = BlockFolder::new(nginx.served.dir());
    check_conformance(&nginx, &blocks, None, "ipfs://");
}

#[test]
fn a_trustless_gateway_passes_the_conformance_suite_with_cids_of_version_0() {
    let nginx = Nginx::start();
    let blocks = BlockFolder::with_profile(nginx.served.dir(), CidProfile::UnixfsV0);
    check_conformance(&nginx, &blocks, None, "ipfs://");
}

#[test]
fn a_trustless_gateway_passes_the_conformance_suite_by_an_ipns_name() {
    let (nginx, key) = (Nginx::start(), NameKey::new(1));
    let blocks = BlockFolder::new(nginx.served.dir());
    check_conformance(&nginx, &blocks, Some(&key), "ipns://");
}

#[test]
fn the_url_of_a_gateway_passes_the_conformance_suite() {
    let nginx = Nginx::start();
    let blocks = BlockFolder::new(nginx.served.dir());
    check_conformance(&nginx, &blocks, None, &nginx.url("/ipfs/"));
}

/// `get` from the gateway at nginx.
fn fetch(bae: &Bae, nginx: &Nginx, url: &str, more: &[&str]) -> CommandOutput {
    get(bae, &[&[url, "--ipfs-gateway", &nginx.url("")], more].concat())
}

#[test]
fn a_file_is_fetched_by_its_cid_and_no_block_twice() {
    let (nginx, bae, data) = (Nginx::start(), Bae::new(), random(91, 20 * MIB + 3));
    let blocks = BlockFolder::new(nginx.served.dir());
    let cid = blocks.file(&data).cid.to_string();
    let output = fetch(&bae, &nginx, &format!("ipfs://{cid}"), &["-x", "1"]).expect(0);
    assert_file(&out_path(&bae, &cid), &data);
    let fetched = event(&output, "fetched");
    assert_eq!(
        (&fetched["downloaded"], &fetched["bytes"]),
        (&data.len().into(), &data.len().into())
    );
    // The root, 20 leaves of 1 MiB and one of 3 bytes. nginx logs a request when it ends.
    wait_until("all requests are in the log", LONG, || nginx.requests().len() >= 22);
    let requests = nginx.requests();
    let mut requested: Vec<_> =
        requests.iter().map(|line| line.split(' ').next().unwrap()).collect();
    requested.sort_unstable();
    let count = requested.len();
    requested.dedup();
    assert_eq!((requested.len(), count), (22, 22), "{requests:?}");
    // The same again fetches only the root.
    let again = fetch(&bae, &nginx, &format!("ipfs://{cid}"), &["--overwrite"]).expect(0);
    assert_eq!(event(&again, "fetched")["bytes"], data.len());
}

#[test]
fn the_gateway_comes_from_the_flag_then_the_config_then_other_programs() {
    let (nginx, data) = (Nginx::start(), random(92, 10_000));
    let blocks = BlockFolder::new(nginx.served.dir());
    let url = format!("ipfs://{}", blocks.file(&data).cid);
    let wrong = "http://127.0.0.1:9".to_owned();
    let get = |bae: &Bae, more: &[&str]| {
        get(bae, &[&[url.as_str(), "-o", "f", "-m", "1"], more].concat())
    };
    let variable = |value: &str| vec![("IPFS_GATEWAY".to_owned(), value.to_owned())];
    let bae = Bae::new().with_env(variable(&nginx.url("")));
    get(&bae, &[]).expect(0);
    assert_file(&out_path(&bae, "f"), &data);
    let bae = Bae::new();
    std::fs::create_dir(bae.home().join(".ipfs")).unwrap();
    std::fs::write(bae.home().join(".ipfs/gateway"), format!("{}\n", nginx.url(""))).unwrap();
    get(&bae, &[]).expect(0);
    let bae = Bae::new().with_env(variable(&wrong));
    let config = bae.home().join("c.toml");
    std::fs::write(&config, format!("[ipfs]\ngateway = [\"{}\"]\n", nginx.url(""))).unwrap();
    get(&bae, &["--config", config.to_str().unwrap()]).expect(0);
    let bae = Bae::new().with_env(vec![("BAE_IPFS_GATEWAY".into(), nginx.url(""))]);
    get(&bae, &[]).expect(0);
    get(&Bae::new().with_env(variable(&wrong)), &[]).expect(6).expect_stderr("127.0.0.1:9");
}

#[test]
fn a_folder_of_a_thousand_shards_and_its_single_files_are_fetched() {
    let (nginx, bae) = (Nginx::start(), Bae::new());
    let blocks = BlockFolder::new(nginx.served.dir());
    // Names long enough for more than 256 KiB in one block.
    let names: Vec<_> = (0..1000).map(|n| format!("{n}-{}.bin", "x".repeat(220))).collect();
    let nodes: Vec<_> = names.iter().map(|name| blocks.file(name.as_bytes())).collect();
    let root = blocks.folder(names.iter().map(String::as_str).zip(&nodes));
    assert!(blocks.cids().len() > 1100, "the folder is not sharded");
    let url = format!("ipfs://{}", root.cid);
    let output = fetch(&bae, &nginx, &url, &["-j", "8"]).expect(0);
    assert_eq!(output.json().iter().filter(|line| line["event"] == "fetched").count(), 1000);
    let folder = out_path(&bae, &root.cid.to_string());
    for name in &names {
        assert_file(&folder.join(name), name.as_bytes());
    }
    let one = format!("{url}/{}", names[500]);
    fetch(&bae, &nginx, &one, &[]).expect(0);
    assert_file(&out_path(&bae, &names[500]), names[500].as_bytes());
    fetch(&bae, &nginx, &format!("{url}/missing"), &[]).expect(3).expect_stderr("does not exist");
}

#[test]
fn entries_that_cannot_be_files_are_reported_and_the_others_are_fetched() {
    let (nginx, bae) = (Nginx::start(), Bae::new());
    let blocks = BlockFolder::new(nginx.served.dir());
    let (first, second) = (blocks.file(b"first"), blocks.file(b"second"));
    let cbor = ImportedNode { cid: cid_of(0x71, b"\xa0"), len: 1, total_len: 1 };
    let lost = ImportedNode { cid: cid_of(0x70, b"lost"), len: 1, total_len: 9 };
    let node = Node::folder(&[
        (b"good", &first),
        (b"good", &second),
        (b"../escape", &first),
        (b"..", &first),
        (b".", &first),
        (b"", &first),
        (b"nul\0nul", &first),
        (b"a/b", &first),
        (b"data.cbor", &cbor),
        (b"lost.bin", &lost),
        (b"line\nbreak", &first),
        ("日本 é".as_bytes(), &second),
    ]);
    let root = blocks.node(&node).cid;
    let output = fetch(&bae, &nginx, &format!("ipfs://{root}"), &["-o", "d"]);
    assert_ne!(output.code, Some(0));
    for reason in ["../escape", "nul\\x00nul", "a/b", "dag-cbor", "lost.bin", "not a valid name"] {
        assert!(output.stderr.contains(reason), "{reason}: {}", output.stderr);
    }
    assert_file(&out_path(&bae, "d/good"), b"first");
    assert_file(&out_path(&bae, "d/日本 é"), b"second");
    let mut names = std::fs::read_dir(out_path(&bae, "d")).unwrap().count();
    assert_eq!(names, 2);
    names = std::fs::read_dir(out_path(&bae, "")).unwrap().count();
    assert_eq!(names, 1, "an entry left its folder");
    // An import has all files of its folder, or none.
    let storage = bae.storage_url();
    let url = format!("ipfs://{root}");
    bae.run(["import", &url, "--storage", &storage, "--ipfs-gateway", &nginx.url("")]);
    assert_eq!(bae.object_count(), 0);
}

#[test]
fn links_inside_a_folder_are_followed_and_others_are_left_out() {
    let (nginx, bae) = (Nginx::start(), Bae::new());
    let blocks = BlockFolder::new(nginx.served.dir());
    let target = blocks.file(b"target");
    let link = |to: &str| blocks.node(&Node::symlink(to));
    let (inside, deep, outside, absolute, dangling, circle, folder) = (
        link("sub/target"),
        link("../sub/./target"),
        link("../../etc/passwd"),
        link("/etc/passwd"),
        link("nothing"),
        link("circle"),
        link("sub"),
    );
    let sub = blocks.folder([("target", &target), ("up", &deep), ("out", &outside)]);
    let root = blocks.folder([
        ("sub", &sub),
        ("inside", &inside),
        ("absolute", &absolute),
        ("dangling", &dangling),
        ("circle", &circle),
        ("folder", &folder),
    ]);
    let url = format!("ipfs://{}", root.cid);
    fetch(&bae, &nginx, &url, &["-o", "d"]).expect(0).expect_stderr("/etc/passwd");
    for path in ["d/sub/target", "d/inside", "d/sub/up"] {
        assert_file(&out_path(&bae, path), b"target");
    }
    for path in ["d/absolute", "d/dangling", "d/circle", "d/folder", "d/sub/out"] {
        assert!(!out_path(&bae, path).exists(), "{path}");
    }
    // In a URL, links are followed too, but not out of the root.
    fetch(&bae, &nginx, &format!("{url}/folder/target"), &["-o", "e"]).expect(0);
    assert_file(&out_path(&bae, "e"), b"target");
    for (path, code) in [("sub/out", 1), ("absolute", 1), ("circle", 1), ("dangling", 3)] {
        fetch(&bae, &nginx, &format!("{url}/{path}"), &["-o", "f"]).expect(code);
    }
    // A folder with links is imported without those that lead nowhere.
    let storage = bae.storage_url();
    bae.run(["import", &url, "--storage", &storage, "--ipfs-gateway", &nginx.url("")]).expect(0);
}

#[test]
fn a_file_gets_the_time_and_the_safe_part_of_its_mode() {
    use std::os::unix::fs::MetadataExt as _;
    let (nginx, bae) = (Nginx::start(), Bae::new());
    let blocks = BlockFolder::new(nginx.served.dir());
    let make = |mode| {
        let node = Node { mode, modified: Some(1_600_000_000), ..Node::default() };
        blocks.node(&Node { kind: 2, data: b"#!/bin/sh".to_vec(), file_len: Some(9), ..node }).cid
    };
    for (mode, wanted) in [(Some(0o104_777), 0o755), (Some(0), 0o600), (Some(0o644), 0o644)] {
        let url = format!("ipfs://{}", make(mode));
        fetch(&bae, &nginx, &url, &["-o", "f", "--overwrite"]).expect(0);
        let found = std::fs::metadata(out_path(&bae, "f")).unwrap();
        assert_eq!((found.mode() & 0o7777, found.mtime()), (wanted, 1_600_000_000), "{mode:?}");
    }
}

/// The ranges that the state file of a download records as done.
fn recorded_ranges(bae: &Bae, name: &str) -> Vec<std::ops::Range<u64>> {
    let text = std::fs::read(out_path(bae, &format!("{name}.bae-part"))).unwrap_or_default();
    let Ok(state) = serde_json::from_slice::<serde_json::Value>(&text) else { return Vec::new() };
    let runs = state["done"].as_array().unwrap().iter();
    runs.map(|run| run[0].as_u64().unwrap()..run[1].as_u64().unwrap()).collect()
}

fn total(ranges: &[std::ops::Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

#[test]
fn a_killed_download_by_cid_fetches_only_missing_bytes() {
    let (nginx, bae, data) = (Nginx::start(), Bae::new(), random(93, 40 * MIB));
    let blocks = BlockFolder::new(nginx.served.dir());
    let cid = blocks.file(&data).cid.to_string();
    let url = format!("ipfs://{cid}");
    let gateway = nginx.url("/slow");
    let list = [url.as_str(), "--ipfs-gateway", &gateway, "-o", "f", "-x", "2"];
    let mut running = start(&bae, &list);
    // The state is saved every second.
    wait_until("bytes are recorded", LONG, || {
        assert!(running.0.is_running(), "{}", running.0.log());
        total(&recorded_ranges(&bae, "f")) > 4 * MIB
    });
    running.kill();
    let recorded = recorded_ranges(&bae, "f");
    assert!(total(&recorded) < data.len() as u64 && !out_path(&bae, "f").exists());
    // Leaves that are recorded completely are not needed again.
    for (n, leaf) in (0..).zip(data.chunks(MIB as usize)) {
        let is_in =
            |range: &std::ops::Range<u64>| range.start <= n * MIB && (n + 1) * MIB <= range.end;
        if recorded.iter().any(is_in) {
            blocks.remove(&raw_cid(leaf).to_string());
        }
    }
    let output = fetch(&bae, &nginx, &url, &["-o", "f"]).expect(0);
    let stored = total(&recorded);
    assert_eq!(event(&output, "found")["stored"], stored);
    assert_eq!(event(&output, "fetched")["downloaded"], data.len() as u64 - stored);
    assert_file(&out_path(&bae, "f"), &data);
}

#[test]
fn a_killed_import_by_cid_fetches_only_missing_bytes() {
    let (nginx, data) = (Nginx::start(), random(94, 32 * MIB));
    let bae = Bae::new().with_storage_options("chunk=1MiB");
    let blocks = BlockFolder::new(nginx.served.dir());
    let url = format!("ipfs://{}", blocks.file(&data).cid);
    let args = |gateway: &str| -> Vec<String> {
        let storage = bae.storage_url();
        let args = ["--json", "import", &url, "--storage", &storage, "--ipfs-gateway", gateway];
        args.iter().map(|arg| (*arg).to_owned()).collect()
    };
    let mut running = bae.start(args(&nginx.url("/slow")));
    running.event_where("progress", |e| e["stored"].as_u64() > Some(4 * MIB));
    running.kill();
    let output = bae.run(args(&nginx.url(""))).expect(0);
    let stored = event(&output, "started")["stored"].as_u64().unwrap();
    assert!(stored >= 4 * MIB);
    let summary = output.summary();
    assert_eq!(
        (summary.bytes, summary.downloaded),
        (data.len() as u64, data.len() as u64 - stored)
    );
    assert!(bae.stdout_of(["cat", &summary.id]) == data);
    let again = bae.run(args(&nginx.url(""))).expect(0).summary();
    assert_eq!((again.id, again.downloaded), (summary.id, 0));
}

#[test]
fn a_folder_of_ipfs_is_one_import_with_many_files() {
    let (nginx, bae) = (Nginx::start(), Bae::new());
    let blocks = BlockFolder::new(nginx.served.dir());
    let (big, small) = (random(95, 9 * MIB), random(96, 1000));
    let (a, b, empty) = (blocks.file(&big), blocks.file(&small), blocks.file(b""));
    let sub = blocks.folder([("small.bin", &b), ("empty", &empty)]);
    let root = blocks.folder([("big.bin", &a), ("sub", &sub)]);
    let (url, storage) = (format!("ipfs://{}/", root.cid), bae.storage_url());
    let list = ["--json", "import", &url, "--storage", &storage, "--ipfs-gateway", &nginx.url("")];
    let id = bae.run(list).expect(0).summary().id;
    let top = root.cid.to_string();
    assert!(bae.stdout_of(["cat", &id, &format!("{top}/big.bin")]) == big);
    assert!(bae.stdout_of(["cat", &id, &format!("{top}/sub/small.bin")]) == small);
    // The CIDs of what is stored are those of what was fetched.
    let cids = bae.run(["--json", "info", "--cid", &id]).expect(0).json();
    let cid_of = |path: &str| {
        let line = cids.iter().find(|line| line["path"] == path).unwrap();
        line["cid"].as_str().unwrap().to_owned()
    };
    assert_eq!(cid_of(&format!("{top}/big.bin")), a.cid.to_string());
    assert_eq!(cid_of(&top), root.cid.to_string());
    assert_eq!(cids.len(), 4);
    let one = bae.run(["info", "--cid", &id, "sub/small.bin"]).expect(0).stdout;
    assert!(one.starts_with(&b.cid.to_string()), "{one}");
    let old = ["info", "--cid", "--cid-profile", "unixfs-v0-2015", &id, "big.bin"];
    assert!(bae.run(old).expect(0).stdout.starts_with("Qm"));
    bae.run(["info", &id, "big.bin"]).expect(2);
}

#[test]
fn a_file_from_any_server_is_verified_against_a_cid() {
    let (nginx, data) = (Nginx::start(), random(97, 3 * MIB));
    nginx.serve("f.bin", &data);
    let url = nginx.url("/f/f.bin");
    for profile in CidProfile::ALL {
        let dir = tempfile::tempdir().unwrap();
        let cid = BlockFolder::with_profile(dir.path().into(), profile).file(&data).cid;
        let checksum = format!("ipfs={cid}");
        let bae = Bae::new();
        let output = get(&bae, &[&url, "--checksum", &checksum]).expect(0);
        assert_eq!(event(&output, "fetched")["checked"][0], checksum);
        let storage = bae.storage_url();
        let import = ["--json", "import", &url, "--storage", &storage, "--checksum", &checksum];
        let id = bae.run(import).expect(0).summary().id;
        bae.assert_verified(&id);
    }
    let dir = tempfile::tempdir().unwrap();
    let other = BlockFolder::new(dir.path().into()).file(&data[1..]).cid;
    let bae = Bae::new();
    get(&bae, &[&url, "--checksum", &format!("ipfs={other}")])
        .expect(32)
        .expect_stderr(&format!("expected {other}"))
        .expect_stderr("other settings");
    assert!(!out_path(&bae, "f.bin").exists());
    get(&bae, &[&url, "--checksum", "ipfs=hello"]).expect(2).expect_stderr("is not a CID");
}

#[test]
fn an_import_by_cid_into_a_bucket_stays_off_the_disk_and_within_its_budget() {
    let (server, nginx) = (S3Server::seaweed(), Nginx::start());
    let data = random(98, 120 * MIB);
    let blocks = BlockFolder::new(nginx.served.dir());
    let url = format!("ipfs://{}", blocks.file(&data).cid);
    let bucket = server.bucket("from-ipfs");
    let bae = Bae::new().with_storage_url(&server.storage_url(&bucket, "p"), server.env());
    let (storage, gateway) = (bae.storage_url(), nginx.url(""));
    let args = ["--json", "import", &url, "--storage", &storage, "--ipfs-gateway", &gateway];
    let running = bae.start([&args[..], &["--memory", "64MiB", "-x", "8"]].concat());
    let done = imported_within_64_mib(running);
    assert!(bae.stdout_of(["cat", done["id"].as_str().unwrap()]) == data);
}
