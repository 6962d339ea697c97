//! Gateways that lie, cut, stall or refuse: a file is exact, or there is no file and the error names the block.

use std::{
    io::Read as _,
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use bae::protocols::{Cid, ImportedNode};

use crate::support::{
    KIB, MIB,
    bae::{Bae, CommandOutput},
    get::{assert_file, event, get, out_path, ranged},
    ipfs::{BlockFolder, Node, car, cid_of, raw_cid},
    nginx::Nginx,
    random,
    scripted_http::{Answer, Request, ScriptedHttp},
};

const RAW: &str = "application/vnd.ipld.raw";
const CAR: &str = "application/vnd.ipld.car; version=1; order=dfs; dups=y";

/// Blocks in a temporary folder, and the answers that a gateway without faults gives.
struct Store {
    dir: tempfile::TempDir,
    blocks: BlockFolder,
}

impl Store {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let blocks = BlockFolder::new(dir.path().to_owned());
        Self { dir, blocks }
    }

    /// A server whose answers are those of `script`; where that has none, the right ones.
    fn serve(
        &self,
        mut script: impl FnMut(usize, &Request) -> Option<Answer> + Send + 'static,
    ) -> ScriptedHttp {
        let dir = self.dir.path().to_owned();
        ScriptedHttp::start(move |number, request| {
            Some(script(number, request).unwrap_or_else(|| honest(&dir, request)))
        })
    }
}

fn honest(dir: &std::path::Path, request: &Request) -> Answer {
    let path = request.target.split('?').next().unwrap();
    match std::fs::read(dir.join(path.trim_start_matches('/'))) {
        Ok(block) => Answer::new(200, block).with("Content-Type", RAW),
        Err(_) => Answer::new(404, "not found"),
    }
}

/// The CID in the path of a request.
fn requested(request: &Request) -> &str {
    let path = request.target.split('?').next().unwrap();
    path.rsplit('/').next().unwrap()
}

fn is_car(request: &Request) -> bool {
    request.target.contains("format=car")
}

/// `get ipfs://CID` with these gateways, to `HOME/out/CID`.
fn fetch(bae: &Bae, cid: &Cid, gateways: &[String], more: &[&str]) -> CommandOutput {
    let url = format!("ipfs://{cid}");
    let list = gateways.join(",");
    get(bae, &[&[url.as_str(), "--ipfs-gateway", &list, "-m", "2"], more].concat())
}

#[test]
fn a_gateway_that_sends_a_wrong_block_is_not_used_again() {
    let (store, bae, data) = (Store::new(), Bae::new(), random(101, 6 * MIB));
    let root = store.blocks.file(&data);
    let other = store.blocks.file(b"another file");
    let liar = store.serve(|_, _| Some(Answer::new(200, "wrong").with("Content-Type", RAW)));
    let good = store.serve(|_, _| None);
    let list = bae.home().join("list");
    std::fs::write(&list, format!("ipfs://{}\nipfs://{}\n", root.cid, other.cid)).unwrap();
    let gateways = format!("{},{}", liar.url(), good.url());
    let list = list.display().to_string();
    get(&bae, &["-i", &list, "-j", "1", "--ipfs-gateway", &gateways])
        .expect(0)
        .expect_stderr("is not used again");
    assert_file(&out_path(&bae, &root.cid.to_string()), &data);
    assert_file(&out_path(&bae, &other.cid.to_string()), b"another file");
    assert_eq!(liar.requests().len(), 1);
}

#[test]
fn bytes_that_are_not_those_of_the_cid_are_never_written() {
    let (store, bae, data) = (Store::new(), Bae::new(), random(102, 300 * KIB));
    let root = store.blocks.file(&data);
    let mut changed = data.clone();
    changed[1000] ^= 1;
    let long = vec![b'x'; 3 << 20];
    for (answer, reason) in [
        (Answer::new(200, changed).with("Content-Type", RAW), "has another hash"),
        (Answer::new(200, "").with("Content-Type", RAW), "has another hash"),
        (
            Answer::new(200, "<html>login</html>").with("Content-Type", "text/html"),
            "not a trustless gateway",
        ),
        (Answer::new(200, long).with("Content-Type", "video/mp4"), "not a trustless gateway"),
    ] {
        let liar = ScriptedHttp::start(move |_, _| Some(answer.clone()));
        fetch(&bae, &root.cid, &[liar.url()], &[])
            .expect(32)
            .expect_stderr(reason)
            .expect_stderr(&root.cid.to_string());
        assert!(!out_path(&bae, &root.cid.to_string()).exists());
    }
}

/// A gateway that ignores `format=raw` and sends the file.
#[test]
fn a_file_that_a_gateway_assembled_is_not_used() {
    let (store, bae, data) = (Store::new(), Bae::new(), random(103, 4 * MIB));
    let root = store.blocks.file(&data);
    let plain = ScriptedHttp::start(move |_, request| Some(ranged(request, &data)));
    fetch(&bae, &root.cid, &[plain.url()], &[]).expect(32).expect_stderr("not a trustless gateway");
}

#[test]
fn a_block_of_more_than_2_mib_is_refused_before_it_is_read() {
    let (store, bae) = (Store::new(), Bae::new());
    let block = random(104, 3 * MIB);
    let cid = raw_cid(&block);
    store.blocks.put(&cid.to_string(), &block);
    let good = store.serve(|_, _| None);
    fetch(&bae, &cid, &[good.url()], &[]).expect(1).expect_stderr("more than 2 MiB");
    // Without a length, reading stops after 2 MiB.
    let endless = ScriptedHttp::start(move |_, _| {
        Some(Answer::without_length(200, block.clone()).with("Content-Type", RAW))
    });
    fetch(&bae, &cid, &[endless.url()], &[]).expect(1).expect_stderr("more than 2 MiB");
}

#[test]
fn a_gateway_without_the_block_is_followed_by_the_next_whatever_it_answers() {
    let (store, data) = (Store::new(), random(105, 2 * MIB));
    let root = store.blocks.file(&data);
    let good = store.serve(|_, _| None);
    for (status, body) in [
        (404, "<html>no</html>"),
        (410, ""),
        (451, "denied"),
        (403, ""),
        (500, "ipld: could not find node"),
        (500, "peer does not have it"),
        (500, "getting pieces containing cid x"),
        (500, "failed to load root node"),
        (502, "bad gateway"),
        (406, ""),
        (400, "no Accept"),
        (500, "oops"),
    ] {
        let bae = Bae::new();
        let other = ScriptedHttp::start(move |_, _| Some(Answer::new(status, body)));
        fetch(&bae, &root.cid, &[other.url(), good.url()], &[]).expect(0);
        assert_file(&out_path(&bae, &root.cid.to_string()), &data);
        assert!(!other.requests().is_empty(), "{status} {body}");
    }
}

#[test]
fn a_block_that_is_nowhere_is_reported_with_its_cid_and_the_gateways() {
    let (store, bae, data) = (Store::new(), Bae::new(), random(106, 3 * MIB));
    let root = store.blocks.file(&data);
    let missing = raw_cid(&data[MIB as usize..2 * MIB as usize]).to_string();
    store.blocks.remove(&missing);
    let (a, b) = (store.serve(|_, _| None), store.serve(|_, _| None));
    let output = fetch(&bae, &root.cid, &[a.url(), b.url()], &["-x", "1"]).expect(3);
    let output = output.expect_stderr(&missing).expect_stderr("--ipfs-router");
    for gateway in [&a, &b] {
        let host = gateway.url().replace("http://", "");
        assert!(output.stderr.contains(&host), "{}", output.stderr);
    }
    // The rest is kept, so that only the missing block is fetched later.
    store.blocks.put(&missing, &data[MIB as usize..2 * MIB as usize]);
    let output = fetch(&bae, &root.cid, &[a.url()], &[]).expect(0);
    assert_file(&out_path(&bae, &root.cid.to_string()), &data);
    assert!(event(&output, "found")["stored"].as_u64() >= Some(MIB));
}

#[test]
fn a_busy_gateway_is_asked_again_after_the_time_it_requests() {
    let (store, bae, data) = (Store::new(), Bae::new(), random(107, 100 * KIB));
    let root = store.blocks.file(&data);
    let busy = store.serve(|number, _| {
        (number == 0).then(|| Answer::new(429, "slow down").with("Retry-After", 1))
    });
    fetch(&bae, &root.cid, &[busy.url()], &[]).expect(0);
    assert_file(&out_path(&bae, &root.cid.to_string()), &data);
    let always = ScriptedHttp::start(|_, _| Some(Answer::new(429, "").with("Retry-After", 4000)));
    fetch(&Bae::new(), &root.cid, &[always.url()], &[]).expect(5).expect_stderr("429");
    // Another gateway is not held up by it.
    let good = store.serve(|_, _| None);
    fetch(&Bae::new(), &root.cid, &[always.url(), good.url()], &[]).expect(0);
}

#[test]
fn redirects_to_other_hosts_are_followed_without_the_login() {
    let (store, bae, data) = (Store::new(), Bae::new(), random(108, 2 * MIB));
    let root = store.blocks.file(&data);
    let good = store.serve(|_, _| None);
    let target = good.url();
    let moved = ScriptedHttp::start(move |_, request| {
        Some(Answer::new(301, "").with("Location", format!("{target}{}", request.target)))
    });
    let header = ["--header", "X-Key: env:IPFS_TEST_KEY"];
    let bae = bae.with_env(vec![("IPFS_TEST_KEY".into(), "hunter2".into())]);
    fetch(&bae, &root.cid, &[moved.url()], &header).expect(0);
    assert_file(&out_path(&bae, &root.cid.to_string()), &data);
    assert!(moved.requests().iter().all(|r| r.header("x-key") == Some("hunter2")));
    assert!(good.requests().iter().all(|r| r.header("x-key").is_none()));
}

/// A server that accepts connections and never answers.
fn silent_server() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let requests = Arc::clone(&count);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            requests.fetch_add(1, Ordering::Relaxed);
            thread::spawn(move || drain(stream));
        }
    });
    (url, count)
}

fn drain(mut stream: TcpStream) {
    let mut buffer = [0; 1024];
    while matches!(stream.read(&mut buffer), Ok(len) if len > 0) {}
}

#[test]
fn a_gateway_that_does_not_answer_is_overtaken_by_another() {
    let (nginx, bae, data) = (Nginx::start(), Bae::new(), random(109, 24 * MIB));
    let blocks = BlockFolder::new(nginx.served.dir());
    let root = blocks.file(&data);
    let (silent, requests) = silent_server();
    // The idle timeout is a minute, so a request that waited for it would show as a timeout.
    fetch(&bae, &root.cid, &[silent, nginx.url("")], &[]).expect(0);
    assert_file(&out_path(&bae, &root.cid.to_string()), &data);
    assert!((1..=8).contains(&requests.load(Ordering::Relaxed)));
}

#[test]
fn answers_that_break_off_are_fetched_from_another_gateway() {
    let (store, data) = (Store::new(), random(110, 5 * MIB));
    let root = store.blocks.file(&data);
    let good = store.serve(|_, _| None);
    let dir = store.dir.path().to_owned();
    let cuts = ScriptedHttp::start(move |_, request| Some(honest(&dir, request).truncated(100)));
    let bae = Bae::new();
    fetch(&bae, &root.cid, &[cuts.url(), good.url()], &[]).expect(0);
    assert_file(&out_path(&bae, &root.cid.to_string()), &data);
    fetch(&Bae::new(), &root.cid, &[cuts.url()], &[]).expect(6);
}

#[test]
fn a_file_whose_blocks_do_not_add_up_is_refused() {
    let (store, bae) = (Store::new(), Bae::new());
    let leaf = b"0123456789".to_vec();
    let cid = raw_cid(&leaf);
    store.blocks.put(&cid.to_string(), &leaf);
    let good = store.serve(|_, _| None);
    let deep = |depth: usize| {
        let mut node = store.blocks.node(&Node::file(&[(&cid, 10)]));
        for _ in 0..depth {
            node = store.blocks.node(&Node::file(&[(&node.cid, 10)]));
        }
        node
    };
    let mut more_links = Node::file(&[(&cid, 10)]);
    more_links.links.push((Vec::new(), cid.clone(), None));
    let mut named = Node::file(&[(&cid, 10)]);
    named.links[0].0 = b"name".to_vec();
    let wrong_sum = Node { file_len: Some(11), ..Node::file(&[(&cid, 10)]) };
    for (node, reason) in [
        (store.blocks.node(&Node::file(&[(&cid, 9)])), "it has 10 bytes"),
        (store.blocks.node(&Node::file(&[(&cid, 11)])), "it has 10 bytes"),
        (store.blocks.node(&Node::file(&[(&cid, u64::MAX), (&cid, 2)])), "too long"),
        (store.blocks.node(&more_links), "2 links and 1 lengths"),
        (store.blocks.node(&named), "has a name"),
        (store.blocks.node(&wrong_sum), "declares 11 bytes"),
        (deep(40), "levels"),
    ] {
        fetch(&bae, &node.cid, &[good.url()], &[]).expect(32).expect_stderr(reason);
        assert!(!out_path(&bae, &node.cid.to_string()).exists());
    }
    let nested = deep(20);
    fetch(&bae, &nested.cid, &[good.url()], &[]).expect(0);
    assert_file(&out_path(&bae, &nested.cid.to_string()), &leaf);
}

#[test]
fn empty_parts_by_the_thousand_are_not_fetched() {
    let (store, bae) = (Store::new(), Bae::new());
    let (empty, leaf) = (raw_cid(b""), raw_cid(b"end"));
    store.blocks.put(&leaf.to_string(), b"end");
    let mut parts = vec![(&empty, 0); 5000];
    parts.push((&leaf, 3));
    let node = store.blocks.node(&Node::file(&parts));
    let good = store.serve(|_, _| None);
    fetch(&bae, &node.cid, &[good.url()], &[]).expect(0);
    assert_file(&out_path(&bae, &node.cid.to_string()), b"end");
    assert!(good.requests().iter().all(|request| requested(request) != empty.to_string()));
}

/// A few blocks that declare more bytes than any storage has.
#[test]
fn a_file_of_impossible_length_is_refused_before_it_is_imported() {
    let (store, bae) = (Store::new(), Bae::new());
    let leaf = vec![0; 1 << 20];
    store.blocks.put(&raw_cid(&leaf).to_string(), &leaf);
    let (mut node, mut len) = (raw_cid(&leaf), MIB);
    for _ in 0..4 {
        node = store.blocks.node(&Node::file(&vec![(&node, len); 1000])).cid;
        len *= 1000;
    }
    let good = store.serve(|_, _| None);
    let url = format!("ipfs://{node}");
    let storage = bae.storage_url();
    bae.run(["import", &url, "--storage", &storage, "--ipfs-gateway", &good.url()])
        .expect(2)
        .expect_stderr("256 TiB");
    assert!(good.requests().len() < 10);
}

#[test]
fn an_identity_cid_is_read_without_a_gateway() {
    let bae = Bae::new();
    // The bytes `hello` themselves.
    let cid = Cid::from_binary(&[&[1, 0x55, 0, 5][..], b"hello"].concat()).unwrap();
    let nothing = ScriptedHttp::start(|_, _| Some(Answer::new(500, "")));
    fetch(&bae, &cid, &[nothing.url()], &[]).expect(0);
    assert_file(&out_path(&bae, &cid.to_string()), b"hello");
    assert!(nothing.requests().is_empty());
}

#[test]
fn data_that_is_not_a_file_is_refused_by_its_name() {
    let (store, bae) = (Store::new(), Bae::new());
    let good = store.serve(|_, _| None);
    fetch(&bae, &cid_of(0x71, b"\xa0"), &[good.url()], &[]).expect(1).expect_stderr("dag-cbor");
    let sha1 = Cid::from_binary(&[&[1, 0x55, 0x11, 20][..], &[7; 20]].concat()).unwrap();
    fetch(&bae, &sha1, &[good.url()], &[]).expect(1).expect_stderr("sha1");
    get(&bae, &["ipfs://hello"]).expect(2).expect_stderr("is not a CID");
    assert!(good.requests().is_empty());
    get(&bae, &[&format!("ipfs://{sha1}"), "--ipfs-gateway", "http://gw.example"])
        .expect(2)
        .expect_stderr("http is only for local hosts");
}

/// The parts of a file that a CAR test needs.
struct CarFile {
    store: Store,
    data: Vec<u8>,
    root: ImportedNode,
    /// All blocks in the order of the file, the root first.
    blocks: Vec<(Cid, Vec<u8>)>,
}

impl CarFile {
    fn new(seed: u64) -> Self {
        let (store, data) = (Store::new(), random(seed, 5 * MIB + 7));
        let root = store.blocks.file(&data);
        let block = std::fs::read(store.blocks.path_of(&root.cid.to_string())).unwrap();
        let mut blocks = vec![(root.cid.clone(), block)];
        blocks.extend(data.chunks(MIB as usize).map(|leaf| (raw_cid(leaf), leaf.to_vec())));
        Self { store, data, root, blocks }
    }

    fn car(&self) -> Vec<u8> {
        car(self.blocks.iter().map(|(cid, block)| (cid, block.as_slice())))
    }

    /// Fetches the file over one connection from a gateway that answers CARs with `answer`, and single blocks well.
    /// Returns the number of single leaves that were requested.
    fn fetch(&self, answer: Answer) -> usize {
        let gateway = self.store.serve(move |_, request| is_car(request).then(|| answer.clone()));
        let bae = Bae::new();
        let more = ["--ipfs-format", "car", "-x", "1"];
        fetch(&bae, &self.root.cid, &[gateway.url()], &more).expect(0);
        assert_file(&out_path(&bae, &self.root.cid.to_string()), &self.data);
        let requests = gateway.requests();
        assert!(requests.iter().any(is_car), "no CAR was requested");
        let single = requests.iter().filter(|r| !is_car(r));
        single.filter(|r| requested(r) != self.root.cid.to_string()).count()
    }
}

fn car_answer(body: Vec<u8>) -> Answer {
    Answer::new(200, body).with("Content-Type", CAR)
}

#[test]
fn a_car_brings_many_blocks_in_one_request() {
    let file = CarFile::new(111);
    assert_eq!(file.fetch(car_answer(file.car())), 0);
    let requests = Arc::new(Mutex::new(Vec::new()));
    let (seen, body) = (Arc::clone(&requests), file.car());
    let gateway = file.store.serve(move |_, request| {
        seen.lock().unwrap().push(request.clone());
        is_car(request).then(|| car_answer(body.clone()))
    });
    let bae = Bae::new();
    let part =
        ["--ipfs-format", "car", "-x", "1", "--range-start", "1000000", "--range-end", "3999999"];
    fetch(&bae, &file.root.cid, &[gateway.url()], &part).expect(0);
    assert_file(&out_path(&bae, &file.root.cid.to_string()), &file.data[1_000_000..4_000_000]);
    let requests = requests.lock().unwrap();
    let car = requests.iter().find(|request| is_car(request)).unwrap();
    assert!(car.target.contains("entity-bytes=1000000%3A3999999"), "{}", car.target);
    assert!(car.target.contains("dag-scope=entity"), "{}", car.target);
    assert_eq!(
        car.header("accept"),
        Some("application/vnd.ipld.car; version=1; order=dfs; dups=y")
    );
}

#[test]
fn the_order_and_the_completeness_of_a_car_are_not_relied_on() {
    let file = CarFile::new(112);
    let mut reversed = file.blocks.clone();
    reversed.reverse();
    let all =
        |blocks: &[(Cid, Vec<u8>)]| car(blocks.iter().map(|(cid, block)| (cid, block.as_slice())));
    assert_eq!(file.fetch(car_answer(all(&reversed))), 0);
    assert_eq!(file.fetch(car_answer(all(&[&reversed[..], &reversed].concat()))), 0);
    let without_one = [&file.blocks[..2], &file.blocks[3..]].concat();
    assert_eq!(file.fetch(car_answer(all(&without_one))), 1);
    assert_eq!(file.fetch(car_answer(all(&[]))), 6);
}

#[test]
fn a_car_that_is_cut_anywhere_is_completed_by_single_blocks() {
    let file = CarFile::new(113);
    let all = file.car();
    let mut ends: Vec<usize> = (0..=file.blocks.len())
        .map(|count| {
            car(file.blocks[..count].iter().map(|(cid, block)| (cid, block.as_slice()))).len()
        })
        .collect();
    // In the middle of the header, of a length, of a CID and of a block.
    ends.extend([0, 5, ends[1] + 1, ends[1] + 10, ends[2] + 100_000]);
    ends.sort_unstable();
    for end in ends {
        // The connection ends early, and the answer ends "well".
        file.fetch(car_answer(all.clone()).truncated(end));
        file.fetch(car_answer(all[..end].to_vec()));
    }
}

#[test]
fn the_text_of_a_truncated_answer_is_not_taken_for_content() {
    let file = CarFile::new(114);
    let mut body = car(file.blocks[..3].iter().map(|(cid, block)| (cid, block.as_slice())));
    body.extend_from_slice(b"\n\n[Gateway Error: Response truncated due to an unexpected error]");
    assert_eq!(file.fetch(car_answer(body)), 4);
}

#[test]
fn answers_that_are_no_car_lead_to_single_blocks() {
    let file = CarFile::new(115);
    let long = vec![0; 3 << 20];
    let too_long = car([(&raw_cid(&long), long.as_slice())]);
    for answer in [
        Answer::new(404, ""),
        Answer::new(400, ""),
        Answer::new(406, ""),
        Answer::new(501, ""),
        Answer::new(200, file.data.clone()).with("Content-Type", "application/octet-stream"),
        car_answer(b"<html></html>".to_vec()),
        car_answer(vec![0; 100]),
        car_answer(too_long),
        // Ten times what was requested.
        car_answer([file.car(), vec![file.car()[18..].to_vec(); 9].concat()].concat()),
    ] {
        file.fetch(answer);
    }
}

#[test]
fn a_wrong_block_in_a_car_ends_the_use_of_its_gateway() {
    let file = CarFile::new(116);
    let mut blocks = file.blocks.clone();
    blocks[2].1[5] ^= 1;
    let body = car(blocks.iter().map(|(cid, block)| (cid, block.as_slice())));
    let liar =
        file.store.serve(move |_, request| is_car(request).then(|| car_answer(body.clone())));
    let good = file.store.serve(|_, _| None);
    let bae = Bae::new();
    let more = ["--ipfs-format", "car", "-x", "1"];
    fetch(&bae, &file.root.cid, &[liar.url(), good.url()], &more)
        .expect(0)
        .expect_stderr("is not used again");
    assert_file(&out_path(&bae, &file.root.cid.to_string()), &file.data);
    fetch(&Bae::new(), &file.root.cid, &[liar.url()], &more).expect(32);
}

#[test]
fn a_gateway_that_limits_requests_is_asked_for_cars() {
    let file = CarFile::new(117);
    let body = file.car();
    let limited = file.store.serve(move |number, request| match number {
        0 => Some(Answer::new(429, "").with("Retry-After", 1)),
        _ => is_car(request).then(|| car_answer(body.clone())),
    });
    let bae = Bae::new();
    fetch(&bae, &file.root.cid, &[limited.url()], &["-x", "1"]).expect(0);
    assert!(limited.requests().iter().any(is_car));
    assert_file(&out_path(&bae, &file.root.cid.to_string()), &file.data);
}
