//! Names that lead to content of IPFS: IPNS records, DNSLink, routers and the RPC interface of a node.

use crate::support::{
    MIB,
    bae::{Bae, CommandOutput},
    get::{args, assert_file, get, out_path},
    ipfs::{BlockFolder, FUTURE, NameKey, Node, PAST, raw_cid},
    nginx::Nginx,
    random,
    scripted_http::{Answer, Request, ScriptedHttp},
};

const RECORD: &str = "application/vnd.ipfs.ipns-record";

/// nginx as a gateway, with blocks and names.
struct Gateway {
    nginx: Nginx,
    blocks: BlockFolder,
}

impl Gateway {
    fn start() -> Self {
        let nginx = Nginx::start();
        let blocks = BlockFolder::new(nginx.served.dir());
        Self { nginx, blocks }
    }

    fn url(&self) -> String {
        self.nginx.url("")
    }

    /// `get URL -o f` from these gateways.
    fn fetch(&self, bae: &Bae, url: &str, gateways: &[&str], more: &[&str]) -> CommandOutput {
        let list = gateways.join(",");
        let common = [url, "--ipfs-gateway", &list, "-o", "f", "--overwrite", "-m", "1"];
        get(bae, &[&common[..], more].concat())
    }
}

/// A gateway that has this record for every name.
fn record_server(record: Vec<u8>) -> ScriptedHttp {
    ScriptedHttp::start(move |_, _| {
        Some(Answer::new(200, record.clone()).with("Content-Type", RECORD))
    })
}

#[test]
fn a_name_leads_to_the_content_of_its_newest_valid_record() {
    let (gateway, bae, key) = (Gateway::start(), Bae::new(), NameKey::new(1));
    let (old, new) = (gateway.blocks.file(b"old"), gateway.blocks.file(b"new"));
    let url = format!("ipns://{}", key.name());
    let path = |node: &bae::protocols::ImportedNode| format!("/ipfs/{}", node.cid);
    gateway.blocks.publish(&key, &path(&old), 1);
    gateway.fetch(&bae, &url, &[&gateway.url()], &[]).expect(0);
    assert_file(&out_path(&bae, "f"), b"old");
    // A gateway with a newer record is followed, whatever the order.
    let newer = record_server(key.record(&path(&new), 2, FUTURE));
    for gateways in [[newer.url(), gateway.url()], [gateway.url(), newer.url()]] {
        let gateways = [gateways[0].as_str(), gateways[1].as_str()];
        gateway.fetch(&bae, &url, &gateways, &[]).expect(0);
        assert_file(&out_path(&bae, "f"), b"new");
    }
    // A folder below the name.
    let folder = gateway.blocks.folder([("a.txt", &new)]);
    gateway.blocks.publish(&key, &path(&folder), 3);
    gateway.fetch(&bae, &format!("{url}/a.txt"), &[&gateway.url()], &[]).expect(0);
    assert_file(&out_path(&bae, "f"), b"new");
}

#[test]
fn expired_forged_and_foreign_records_are_refused() {
    let (gateway, bae, key) = (Gateway::start(), Bae::new(), NameKey::new(1));
    let node = gateway.blocks.file(b"content");
    let value = format!("/ipfs/{}", node.cid);
    let url = format!("ipns://{}", key.name());
    let good = key.record(&value, 1, FUTURE);
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    let foreign = NameKey::new(2).record(&value, 9, FUTURE);
    for (record, code, reason) in [
        (key.record(&value, 1, PAST), 3, "expired at 2020"),
        (forged, 32, "signature is wrong"),
        (foreign.clone(), 32, "signature is wrong"),
        (vec![0; 20_000], 1, "more than 10240 bytes"),
        (b"no record".to_vec(), 32, "not valid"),
    ] {
        let server = record_server(record);
        gateway
            .fetch(&bae, &url, &[&server.url()], &[])
            .expect(code)
            .expect_stderr(reason)
            .expect_stderr(&key.name());
    }
    assert!(!out_path(&bae, "f").exists());
    // A valid record of another gateway is enough.
    let liar = record_server(foreign);
    gateway.blocks.publish(&key, &value, 1);
    gateway.fetch(&bae, &url, &[&liar.url(), &gateway.url()], &[]).expect(0);
    assert_file(&out_path(&bae, "f"), b"content");
    let unknown = NameKey::new(3).name();
    let unknown = format!("ipns://{unknown}");
    gateway.fetch(&bae, &unknown, &[&gateway.url()], &[]).expect(3);
}

/// In one run, a gateway sends a record with a lower sequence than one that was seen before.
#[test]
fn an_older_record_is_not_followed_after_a_newer_one() {
    let (gateway, bae, key) = (Gateway::start(), Bae::new(), NameKey::new(1));
    let (old, new) = (gateway.blocks.file(b"old"), gateway.blocks.file(b"new"));
    let old = key.record(&format!("/ipfs/{}", old.cid), 4, FUTURE);
    let new = key.record(&format!("/ipfs/{}", new.cid), 5, FUTURE);
    let dir = gateway.nginx.served.dir();
    let mut records = 0;
    let replay = ScriptedHttp::start(move |_, request| {
        if request.target.starts_with("/ipns/") {
            records += 1;
            let record = if records == 1 { new.clone() } else { old.clone() };
            return Some(Answer::new(200, record).with("Content-Type", RECORD));
        }
        let path = request.target.split('?').next().unwrap();
        let block = std::fs::read(dir.join(path.trim_start_matches('/'))).unwrap();
        Some(Answer::new(200, block).with("Content-Type", "application/vnd.ipld.raw"))
    });
    let name = key.name();
    let list = bae.home().join("list");
    let text = format!("ipns://{name}\n out=a\nipns://{name}/\n out=b\n");
    std::fs::write(&list, text).unwrap();
    let list = list.display().to_string();
    get(&bae, &["-i", &list, "-j", "1", "--ipfs-gateway", &replay.url()]).expect(0);
    assert_file(&out_path(&bae, "a"), b"new");
    assert_file(&out_path(&bae, "b"), b"new");
}

#[test]
fn names_may_lead_to_other_names_but_not_for_ever() {
    let (gateway, bae) = (Gateway::start(), Bae::new());
    let node = gateway.blocks.file(b"content");
    let folder = gateway.blocks.folder([("a", &node)]);
    let (first, second) = (NameKey::new(1), NameKey::new(2));
    gateway.blocks.publish(&second, &format!("/ipfs/{}", folder.cid), 1);
    gateway.blocks.publish(&first, &format!("/ipns/{}", second.name()), 1);
    let url = format!("ipns://{}/a", first.name());
    gateway.fetch(&bae, &url, &[&gateway.url()], &[]).expect(0);
    assert_file(&out_path(&bae, "f"), b"content");
    gateway.blocks.publish(&second, &format!("/ipns/{}", first.name()), 2);
    gateway.fetch(&bae, &url, &[&gateway.url()], &[]).expect(32).expect_stderr("32 other names");
}

/// A resolver by HTTPS that has these TXT records for every name.
fn resolver(texts: &[String]) -> ScriptedHttp {
    let texts = texts.to_vec();
    ScriptedHttp::start(move |_, request| {
        let query = request.target.split("dns=").nth(1).unwrap();
        let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let mut answer = base64::Engine::decode(&engine, query).unwrap();
        (answer[2], answer[3], answer[7]) = (0x81, 0x80, texts.len() as u8);
        for text in &texts {
            answer.extend([0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 60, 0, text.len() as u8 + 1]);
            answer.push(text.len() as u8);
            answer.extend_from_slice(text.as_bytes());
        }
        Some(Answer::new(200, answer).with("Content-Type", "application/dns-message"))
    })
}

fn queried_name(request: &Request) -> String {
    let query = request.target.split("dns=").nth(1).unwrap();
    let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let query = base64::Engine::decode(&engine, query).unwrap();
    let (mut name, mut rest) = (Vec::new(), &query[12..]);
    while rest[0] != 0 {
        let (label, after) = rest[1..].split_at(rest[0] as usize);
        name.push(String::from_utf8(label.to_vec()).unwrap());
        rest = after;
    }
    name.join(".")
}

#[test]
fn a_dns_name_leads_to_the_content_of_its_record() {
    let (gateway, bae) = (Gateway::start(), Bae::new());
    let node = gateway.blocks.file(b"content");
    let folder = gateway.blocks.folder([("a", &node)]);
    let dns = resolver(&["v=spf1".to_owned(), format!("dnslink=/ipfs/{}", folder.cid)]);
    let dns_url = format!("{}/dns-query", dns.url());
    let fetch =
        |url: &str, dns: &str| gateway.fetch(&bae, url, &[&gateway.url()], &["--ipfs-dns", dns]);
    fetch("ipns://Docs.example.org/a", &dns_url).expect(0);
    assert_file(&out_path(&bae, "f"), b"content");
    assert_eq!(queried_name(&dns.requests()[0]), "_dnslink.docs.example.org");
    let two =
        resolver(&[format!("dnslink=/ipfs/{}", folder.cid), format!("dnslink=/ipfs/{}", node.cid)]);
    fetch("ipns://example.org/a", &two.url()).expect(32).expect_stderr("2 DNSLink records");
    let none = resolver(&[]);
    fetch("ipns://example.org/a", &none.url()).expect(3).expect_stderr("_dnslink.example.org");
    // A record that leads to an IPNS name.
    let key = NameKey::new(1);
    gateway.blocks.publish(&key, &format!("/ipfs/{}", folder.cid), 1);
    let named = resolver(&[format!("dnslink=/ipns/{}", key.name())]);
    fetch("ipns://example.org/a", &named.url()).expect(0);
    fetch("ipns://example.org/a", "http://dns.example/").expect(2);
}

#[test]
fn the_url_of_a_gateway_is_fetched_from_that_gateway_and_verified() {
    let (gateway, bae) = (Gateway::start(), Bae::new());
    let data = random(121, 3 * MIB);
    let node = gateway.blocks.file(&data);
    let folder = gateway.blocks.folder([("a.bin", &node)]);
    let url = gateway.nginx.url(&format!("/ipfs/{}/a.bin", folder.cid));
    // The configured gateway is not asked.
    let other = ScriptedHttp::start(|_, _| Some(Answer::new(404, "")));
    let list = ["--protocol", "ipfs"];
    get(&bae, &[&[url.as_str(), "--ipfs-gateway", &other.url()], &list[..]].concat()).expect(0);
    assert_file(&out_path(&bae, "a.bin"), &data);
    assert!(other.requests().is_empty());
    gateway.blocks.put(&raw_cid(&data[..MIB as usize]).to_string(), b"changed");
    let bae = Bae::new();
    get(&bae, &[&[url.as_str()], &list[..]].concat()).expect(32).expect_stderr("another hash");
    get(&bae, &[&[gateway.nginx.url("/f/x").as_str()], &list[..]].concat())
        .expect(2)
        .expect_stderr("not one of an IPFS gateway");
}

#[test]
fn routers_name_the_gateways_of_content_that_no_configured_one_has() {
    let (gateway, bae) = (Gateway::start(), Bae::new());
    let data = random(122, 3 * MIB);
    let node = gateway.blocks.file(&data);
    let folder = gateway.blocks.folder([("a.bin", &node)]);
    let without = ScriptedHttp::start(|_, _| Some(Answer::new(404, "")));
    let (ip, port) = (gateway.nginx.addr.ip().to_string(), gateway.nginx.addr.port());
    let root = folder.cid.to_string();
    // Only the root of the folder is announced.
    let router = ScriptedHttp::start(move |_, request| {
        let answer = format!(
            "{{\"Providers\":[{{\"Schema\":\"peer\",\"ID\":\"x\",\"Addrs\":[\"/ip4/{ip}/tcp/{port}/http\"]}}]}}"
        );
        let is_root = request.target.starts_with(&format!("/routing/v1/providers/{root}?"));
        Some(if is_root { Answer::new(200, answer) } else { Answer::new(404, "") })
    });
    let url = format!("ipfs://{}/a.bin", folder.cid);
    let list = ["--ipfs-router", &router.url()];
    gateway.fetch(&bae, &url, &[&without.url()], &list).expect(0);
    assert_file(&out_path(&bae, "f"), &data);
    assert!(router.requests().len() <= 2, "{:?}", router.requests());
    // Without a router nothing else is asked.
    gateway.fetch(&bae, &url, &[&without.url()], &[]).expect(3);
    let unknown = format!("ipfs://{}", raw_cid(b"unknown"));
    gateway.fetch(&bae, &unknown, &[&without.url()], &list).expect(3);
    // Also the records of names.
    let key = NameKey::new(4);
    let record = key.record(&format!("/ipfs/{}", node.cid), 1, FUTURE);
    let name = key.name();
    let router = ScriptedHttp::start(move |_, request| {
        let is_name = request.target == format!("/routing/v1/ipns/{name}");
        assert!(is_name, "{}", request.target);
        Some(Answer::new(200, record.clone()).with("Content-Type", RECORD))
    });
    let url = format!("ipns://{}", key.name());
    gateway.fetch(&bae, &url, &[&gateway.url()], &["--ipfs-router", &router.url()]).expect(0);
    assert_file(&out_path(&bae, "f"), &data);
}

/// A node whose RPC interface requires the login `bob:secret`.
fn rpc_node(gateway: &Gateway, key: &NameKey, record: Vec<u8>) -> ScriptedHttp {
    let (dir, name) = (gateway.nginx.served.dir(), key.name());
    ScriptedHttp::start(move |_, request| {
        assert_eq!(request.method, "POST");
        if request.header("authorization") != Some("Basic Ym9iOnNlY3JldA==") {
            return Some(Answer::new(403, "Kubo RPC Access Denied"));
        }
        let argument = request.target.split("arg=").nth(1).unwrap().split('&').next().unwrap();
        Some(match request.target.split('?').next().unwrap() {
            "/api/v0/block/get" => match std::fs::read(dir.join("ipfs").join(argument)) {
                Ok(block) => Answer::new(200, block),
                Err(_) => {
                    Answer::new(500, "{\"Message\":\"block was not found locally\",\"Code\":0}")
                }
            },
            "/api/v0/name/get" if argument == name => Answer::new(200, record.clone()),
            other => panic!("{other}"),
        })
    })
}

#[test]
fn the_rpc_interface_of_a_node_is_used_with_its_login() {
    let (gateway, bae, key) = (Gateway::start(), Bae::new(), NameKey::new(5));
    let data = random(123, 2 * MIB + 5);
    let node = gateway.blocks.file(&data);
    let record = key.record(&format!("/ipfs/{}", node.cid), 1, FUTURE);
    let rpc = rpc_node(&gateway, &key, record);
    let without = ScriptedHttp::start(|_, _| Some(Answer::new(404, "")));
    let with_login = rpc.url().replace("//", "//bob:secret@");
    for url in [format!("ipfs://{}", node.cid), format!("ipns://{}", key.name())] {
        let list = args(&bae, &[&url, "--ipfs-gateway", &without.url(), "-o", "f", "--overwrite"]);
        let output = bae.command(list).env("BAE_IPFS_RPC", &with_login).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_file(&out_path(&bae, "f"), &data);
    }
    // Without the login it is refused, and the other sources are asked.
    let url = format!("ipfs://{}", node.cid);
    gateway.fetch(&bae, &url, &[&gateway.url()], &["--ipfs-rpc", &rpc.url()]).expect(0);
    gateway.fetch(&bae, &url, &[&without.url()], &["--ipfs-rpc", &rpc.url()]).expect(3);
    // A login on the command line is refused.
    let refused = gateway.fetch(&bae, &url, &[&gateway.url()], &["--ipfs-rpc", &with_login]);
    assert!(!refused.expect(2).stderr.contains("secret"));
    // A block that the node lacks comes from elsewhere.
    let other = gateway.blocks.node(&Node { kind: 2, ..Node::default() });
    let path = gateway.blocks.path_of(&other.cid.to_string());
    let block = std::fs::read(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    let elsewhere = ScriptedHttp::start(move |_, _| {
        Some(Answer::new(200, block.clone()).with("Content-Type", "application/vnd.ipld.raw"))
    });
    let list = args(
        &bae,
        &[&format!("ipfs://{}", other.cid), "--ipfs-gateway", &elsewhere.url(), "-o", "g"],
    );
    let output = bae.command(list).env("BAE_IPFS_RPC", &with_login).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_file(&out_path(&bae, "g"), b"");
}
