//! The network use of bae: what it sends, and where it listens.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use crate::support::{
    KIB, LONG, LONG_TIMEOUT, MIB, PYTHON,
    bae::Bae,
    peers::{LibtorrentPeer, Release},
    ports,
    process::Process,
    torrents::{Fixture, Recipe, Version},
    wait_until,
};

/// A DHT node that knows no other node, and at most one peer. It records all queries.
struct DhtNode {
    addr: SocketAddrV4,
    stop: Arc<AtomicBool>,
    queries: Arc<Mutex<Vec<Vec<u8>>>>,
    thread: Option<JoinHandle<()>>,
}

impl DhtNode {
    fn start(peer: Option<SocketAddrV4>) -> Self {
        let addr = ports::unused();
        let socket = UdpSocket::bind(addr).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::clone(&stop);
        let queries = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let received = Arc::clone(&queries);
        let thread = std::thread::spawn(move || {
            let mut buf = [0; 2048];
            while !done.load(Ordering::Relaxed) {
                let Ok((len, from)) = socket.recv_from(&mut buf) else { continue };
                let query = buf[..len].to_vec();
                if let Some(reply) = reply(&query, peer) {
                    let _ = socket.send_to(&reply, from);
                }
                received.lock().unwrap().push(query);
            }
        });
        Self { addr, stop, queries, thread: Some(thread) }
    }

    /// Whether a query for the peers of `torrent` has arrived.
    fn was_queried_for(&self, torrent: &Fixture) -> bool {
        let hash = torrent.info_hash();
        let hash: Vec<u8> =
            (0..20).map(|i| u8::from_str_radix(&hash[2 * i..2 * i + 2], 16).unwrap()).collect();
        let queries = self.queries.lock().unwrap();
        queries.iter().any(|query| query.windows(20).any(|w| w == hash))
    }

    fn query_count(&self) -> usize {
        self.queries.lock().unwrap().len()
    }
}

impl Drop for DhtNode {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The reply to a query, with its transaction id: the node's id, no other nodes, a token, and the peer for
/// `get_peers`.
fn reply(query: &[u8], peer: Option<SocketAddrV4>) -> Option<Vec<u8>> {
    let find = |pattern: &[u8]| query.windows(pattern.len()).position(|w| w == pattern);
    find(b"1:y1:q")?;
    let at = find(b"1:t")? + 3;
    let colon = at + query[at..].iter().position(|b| *b == b':')?;
    let len: usize = std::str::from_utf8(&query[at..colon]).ok()?.parse().ok()?;
    let id = query.get(colon + 1..colon + 1 + len)?;
    let mut out = b"d1:rd2:id20:BAEBAEBAEBAEBAEBAEBA5:nodes0:5:token4:bae!".to_vec();
    if let (Some(peer), Some(_)) = (peer, find(b"9:get_peers")) {
        out.extend_from_slice(b"6:valuesl6:");
        out.extend_from_slice(&peer.ip().octets());
        out.extend_from_slice(&peer.port().to_be_bytes());
        out.push(b'e');
    }
    out.extend_from_slice(b"e1:t");
    out.extend_from_slice(format!("{len}:").as_bytes());
    out.extend_from_slice(id);
    out.extend_from_slice(b"1:y1:re");
    Some(out)
}

/// `import` with `node` as the way into the DHT.
fn dht_import(bae: &Bae, torrent: &Fixture, node: &DhtNode, timeout: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bae"));
    command.arg("--data-dir").arg(bae.data_dir()).args(["import", "--no-lsd"]);
    command.args(["--timeout", timeout, "--dht-bootstrap", &node.addr.to_string()]);
    command.args(["--listen", &bae.listen.to_string()]).arg(&torrent.torrent);
    command
}

#[test]
fn a_private_torrent_uses_only_its_trackers() {
    let recipe = Recipe::single("dht.bin", 256 * KIB).piece(64 * KIB);
    let (public, private) = (recipe.clone().make(), recipe.private().make());
    let (bae, node) = (Bae::new(), DhtNode::start(None));
    let running = Process::start("bae", &dht_import(&bae, &public, &node, LONG_TIMEOUT[1]));
    wait_until("a public torrent queries the DHT", LONG, || node.was_queried_for(&public));
    drop(running);

    let (bae, node) = (Bae::new(), DhtNode::start(None));
    let output = dht_import(&bae, &private, &node, "8s").output().unwrap();
    assert_eq!(output.status.code(), Some(6), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(node.query_count() > 0, "the session did not enter the DHT at all");
    assert!(!node.was_queried_for(&private), "a private torrent queried the DHT for peers");
}

#[test]
fn peers_are_found_through_the_dht() {
    let torrent = Recipe::single("found.bin", MIB).piece(128 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let node = DhtNode::start(Some(seeder.addr()));
    let bae = Bae::new();
    let output = dht_import(&bae, &torrent, &node, LONG_TIMEOUT[1]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let list = bae.run(["ls", "--json"]).expect(0).json();
    bae.assert_exact(list[0]["id"].as_str().unwrap(), &torrent);
}

#[test]
fn an_import_works_with_required_encryption_and_sequential_order() {
    let torrent = Recipe::single("encrypted.bin", 3 * MIB).piece(256 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let bae = Bae::new();
    let options = ["--encryption", "required", "--sequential"];
    let done = bae.run(bae.import_args(&torrent.torrent, &[seeder.addr()], &options)).expect(0);
    bae.assert_exact(&done.summary().id, &torrent);
}

#[test]
fn a_torrent_file_is_fetched_from_a_url() {
    let torrent = Recipe::single("by url.bin", MIB).piece(128 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let addr = ports::unused();
    let mut server = Command::new(PYTHON);
    server.args(["-u", "-m", "http.server", "--bind", &addr.ip().to_string()]);
    server.arg("--directory").arg(torrent.torrent.parent().unwrap()).arg(addr.port().to_string());
    let mut server = Process::start("http.server", &server);
    server.wait_for("its first line", LONG, |line| line.contains("Serving").then_some(()));
    let bae = Bae::new();
    let url = format!("http://{addr}/x.torrent?passkey=secret");
    let summary = bae.run(bae.import_args(&url, &[seeder.addr()], &[])).expect(0).summary();
    bae.assert_exact(&summary.id, &torrent);
    let listing = bae.run(["ls", "--json"]).expect(0).stdout;
    assert!(listing.contains("/x.torrent") && !listing.contains("secret"), "{listing}");
    let missing = format!("http://{addr}/none.torrent");
    bae.run(bae.import_args(&missing, &[], &[])).expect(3);
    drop(server);
    bae.run(bae.import_args(&url, &[], &[])).expect(6);
}

/// A SOCKS5 proxy without a login. `connections` counts the connections that it opened.
fn socks5(listener: TcpListener, connections: Arc<AtomicU32>) {
    for client in listener.incoming() {
        let connections = Arc::clone(&connections);
        std::thread::spawn(move || {
            let mut client = client.unwrap();
            let mut head = [0; 2];
            client.read_exact(&mut head).unwrap();
            let mut methods = vec![0; head[1] as usize];
            client.read_exact(&mut methods).unwrap();
            client.write_all(&[5, 0]).unwrap();
            let mut request = [0; 10];
            client.read_exact(&mut request).unwrap();
            assert_eq!(request[..2], [5, 1], "only CONNECT is served");
            assert_eq!(request[3], 1, "only IPv4 is served");
            let ip = Ipv4Addr::new(request[4], request[5], request[6], request[7]);
            let port = u16::from_be_bytes([request[8], request[9]]);
            let Ok(server) = TcpStream::connect((ip, port)) else { return };
            connections.fetch_add(1, Ordering::Relaxed);
            client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            let (mut server, mut client) = (server, client);
            let _ = std::io::copy(&mut server, &mut client);
        });
    }
}

#[test]
fn peers_are_reached_through_a_socks5_proxy() {
    let torrent = Recipe::single("proxied.bin", 3 * MIB).piece(256 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let addr = ports::unused();
    let connections = Arc::new(AtomicU32::new(0));
    let listener = TcpListener::bind(addr).unwrap();
    std::thread::spawn({
        let connections = Arc::clone(&connections);
        move || socks5(listener, connections)
    });
    let bae = Bae::new();
    let proxy = format!("socks5://{addr}");
    let output = bae.run(bae.import_args(&torrent.torrent, &[seeder.addr()], &["--proxy", &proxy]));
    bae.assert_exact(&output.expect(0).summary().id, &torrent);
    assert!(connections.load(Ordering::Relaxed) > 0, "the proxy was not used");
}

#[test]
fn only_the_peer_port_listens() {
    let torrent = Recipe::single("listens.bin", 64 * MIB).make();
    let seeder = LibtorrentPeer::slow_seed(&torrent, 4 * MIB);
    let bae = Bae::new();
    let mut running = bae.start_import(&torrent, &[seeder.addr()]);
    running.event_where("progress", |e| {
        e["stored"].as_u64() > Some(0) || e["held"].as_u64() > Some(0)
    });
    let open = listening(running.0.id());
    assert_eq!(open, vec![SocketAddr::V4(bae.listen)], "only --listen's address may be open");
    running.interrupt();
    running.wait(LONG);
}

/// The TCP addresses on which a process listens.
fn listening(pid: u32) -> Vec<SocketAddr> {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let sockets: Vec<String> = fds
        .filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok())
        .filter_map(|l| l.to_str()?.strip_prefix("socket:[")?.strip_suffix(']').map(str::to_owned))
        .collect();
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap();
    let listening = table.lines().skip(1).map(|l| l.split_whitespace().collect::<Vec<_>>());
    // 0A is LISTEN; field 1 is the local address, field 9 the socket's inode.
    let mine = listening.filter(|f| f[3] == "0A" && sockets.iter().any(|s| s == f[9]));
    let address = |f: Vec<&str>| {
        let (ip, port) = f[1].split_once(':').unwrap();
        let ip = Ipv4Addr::from(u32::from_str_radix(ip, 16).unwrap().swap_bytes());
        SocketAddr::from((ip, u16::from_str_radix(port, 16).unwrap()))
    };
    mine.map(address).collect()
}

#[test]
fn metadata_of_a_magnet_link_is_fetched_once() {
    let torrent = Recipe::single("magnet.bin", 2 * MIB).piece(256 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let bae = Bae::new();
    let import = |peers: &[SocketAddrV4], timeout: &str| {
        let magnet = torrent.magnet();
        let mut args =
            vec!["--json".into(), "import".into(), magnet, "--no-dht".into(), "--no-lsd".into()];
        args.extend(["--timeout".into(), timeout.into(), "--storage".into(), bae.storage_url()]);
        args.extend(["--listen".into(), bae.listen.to_string()]);
        args.extend(peers.iter().flat_map(|p| ["--peer".to_owned(), p.to_string()]));
        bae.run(args)
    };
    let first = import(&[seeder.addr()], LONG_TIMEOUT[1]).expect(0).summary();
    bae.assert_exact(&first.id, &torrent);
    drop(seeder);
    // There is no peer any more, and none is needed.
    let second = import(&[], "3s").expect(0).summary();
    assert_eq!((second.id, second.downloaded), (first.id, 0));
}

#[test]
fn a_v2_magnet_link_is_imported_from_a_slow_peer() {
    let torrent = Recipe::single("slowly.bin", 8 * MIB + 3).piece(64 * KIB);
    let torrent = torrent.version(Version::V2).make();
    let seeder = LibtorrentPeer::slow_seed(&torrent, MIB);
    let bae = Bae::new();
    let args = bae.import_args(torrent.magnet(), seeder.addrs(), &LONG_TIMEOUT);
    let done = bae.run(args).expect(0);
    let summary = done.summary();
    bae.assert_exact(&summary.id, &torrent);
    bae.assert_verified(&summary.id);
}
