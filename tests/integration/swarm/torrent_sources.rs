//! The sources of an import: spellings of links and files, what servers send as a torrent, and selections of files.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Write as _,
    net::SocketAddrV4,
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
    process::Command,
};

use flate2::{Compression, write::GzEncoder};

use crate::support::{
    LONG_TIMEOUT,
    bae::{Bae, CommandOutput},
    bencode::{Value, info_hash, multi_file_info, piece_hashes},
    peers::PayloadPeer,
    scripted_http::{Answer, ScriptedHttp},
};

const PIECE: usize = 32_768;

/// A torrent of one file, and a peer that has it.
struct SingleFile {
    bae: Bae,
    data: Vec<u8>,
    info: Vec<u8>,
    torrent: PathBuf,
    peer: PayloadPeer,
}

impl SingleFile {
    fn new() -> Self {
        let bae = Bae::new();
        let data: Vec<u8> = (0..100_000u32).map(|i| (i * 7 + i / 251) as u8).collect();
        let info = Value::Dict(vec![
            ("length", Value::Int(100_000)),
            ("name", "t.bin".into()),
            ("piece length", Value::Int(PIECE as i64)),
            ("pieces", Value::Bytes(piece_hashes(&data, PIECE))),
        ])
        .encode();
        let torrent = bae.home().join("a.torrent");
        fs::write(&torrent, Self::file(&info)).unwrap();
        let peer = PayloadPeer::seed(&info, &data, PIECE);
        Self { bae, data, info, torrent, peer }
    }

    fn file(info: &[u8]) -> Vec<u8> {
        Value::Dict(vec![("info", Value::Raw(info.to_vec()))]).encode()
    }

    fn magnet(&self) -> String {
        format!("magnet:?xt=urn:btih:{}", info_hash(&self.info))
    }

    fn import(&self, source: impl AsRef<OsStr>) -> CommandOutput {
        self.bae.run(self.bae.import_args(source, &[self.peer.addr()], &LONG_TIMEOUT))
    }

    /// Imports `source`, compares the bytes, and removes the import.
    fn assert_imports(&self, source: impl AsRef<OsStr>) {
        let summary = self.import(&source).expect(0).summary();
        assert_eq!(self.bae.stdout_of(["cat", &summary.id]), self.data, "{:?}", source.as_ref());
        self.bae.run(["rm", &summary.id]).expect(0);
    }
}

#[test]
fn every_spelling_of_a_magnet_link_is_accepted() {
    let single = SingleFile::new();
    let hash = info_hash(&single.info);
    let rest = format!("?xt=urn:btih:{hash}");
    for link in [
        format!("MAGNET:{rest}"),
        format!("magnet://{rest}"),
        format!(" magnet:{rest}\n"),
        format!("magnet:{rest}#x"),
        hash.clone(),
        hash.to_uppercase(),
    ] {
        single.assert_imports(link);
    }
}

#[test]
fn torrent_files_are_accepted_as_paths_file_urls_and_stdin() {
    let single = SingleFile::new();
    single.assert_imports(format!("file://{}", single.torrent.display()));
    single.assert_imports(format!(" FILE://localhost{}\n", single.torrent.display()));
    let odd_path = single.bae.home().join(OsStr::from_bytes(b"caf\xe9 1.torrent"));
    fs::copy(&single.torrent, &odd_path).unwrap();
    single.assert_imports(&odd_path);
    single.assert_imports(format!("{}\n", single.torrent.display()));
    single
        .import("file://elsewhere/x.torrent")
        .expect(2)
        .expect_stderr("is not the URL of a local file");
    single
        .import(single.bae.home().join("no\u{e9}.torrent"))
        .expect(3)
        .expect_stderr("no\u{e9}.torrent");
    let mut command =
        single.bae.command(single.bae.import_args("-", &[single.peer.addr()], &LONG_TIMEOUT));
    let out = command.stdin(File::open(&single.torrent).unwrap()).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn announce_urls_with_spaces_and_capitals_are_used() {
    for change in
        [|url: &str| format!("{url}\n"), |url: &str| format!(" {}", url.replace("http", "HTTP"))]
    {
        let single = SingleFile::new();
        let peer = single.peer.addr();
        let tracker = ScriptedHttp::start(move |_, _| {
            let mut body = b"d8:intervali1800e5:peers6:".to_vec();
            body.extend(peer.ip().octets());
            body.extend(peer.port().to_be_bytes());
            Some(Answer::new(200, [body, b"e".to_vec()].concat()))
        });
        let announce = Value::Bytes(change(&format!("{}/announce", tracker.url())).into_bytes());
        let torrent =
            Value::Dict(vec![("announce", announce), ("info", Value::Raw(single.info.clone()))]);
        fs::write(&single.torrent, torrent.encode()).unwrap();
        single.bae.run(single.bae.import_args(&single.torrent, &[], &LONG_TIMEOUT)).expect(0);
        assert!(!tracker.requests().is_empty());
    }
}

#[test]
fn compressed_torrents_redirects_to_magnets_and_link_files_are_accepted() {
    let single = SingleFile::new();
    let mut to = GzEncoder::new(Vec::new(), Compression::default());
    to.write_all(&SingleFile::file(&single.info)).unwrap();
    let (gzip, magnet) = (to.finish().unwrap(), single.magnet());
    let server = ScriptedHttp::start(move |_, request| {
        Some(match request.target.split('?').next().unwrap() {
            "/gz.torrent" => Answer::new(200, gzip.clone()).with("Content-Encoding", "gzip"),
            "/download" => Answer::new(302, "").with("Location", &magnet),
            "/text.torrent" | "/link" => Answer::new(200, format!("{magnet}\n")),
            "/links" => Answer::new(200, format!("{magnet}\n{magnet}\n")),
            "/junk.torrent" => Answer::new(200, &b"\x1f\x8b\x08junk"[..]),
            _ => Answer::new(404, ""),
        })
    });
    for path in ["/gz.torrent", "/download?id=1&passkey=secret", "/text.torrent", "/link"] {
        single.assert_imports(format!("{}{path}", server.url()));
    }
    // A list of links is a file like any other.
    let links = single.import(format!("{}/links", server.url())).expect(0).summary();
    assert_eq!(links.info_hash, "");
    single
        .import(format!("{}/junk.torrent", server.url()))
        .expect(2)
        .expect_stderr("compressed torrent is damaged");
    let get =
        single.bae.run(["get", &format!("{}/download?passkey=secret", server.url())]).expect(1);
    let get = get.expect_stderr("magnet link").expect_stderr("bae import");
    assert!(!get.stderr.contains("secret") && !get.stderr.contains("btih"), "{}", get.stderr);
}

#[test]
fn endless_sources_are_refused_and_silent_sources_time_out() {
    let single = SingleFile::new();
    single.import("/dev/zero").expect(2).expect_stderr("80000000");
    let pipe = single.bae.home().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let args = single.bae.import_args(&pipe, &[], &["--timeout", "1s"]);
    single.bae.run(args).expect(6).expect_stderr("pipe: no data for 1 s");
}

#[test]
fn each_failed_source_is_named_in_the_error() {
    let single = SingleFile::new();
    let broken = single.bae.home().join("broken.torrent");
    fs::write(&broken, "nonsense").unwrap();
    let never = format!(
        "magnet:?xt=urn:btih:{}&dn=never&tr=http%3A%2F%2F127.0.0.1%3A1%2Fpasskey",
        "0".repeat(40)
    );
    let mut args =
        single.bae.import_args(&single.torrent, &[single.peer.addr()], &["--timeout", "5s"]);
    args.extend([broken.clone().into(), never.into()]);
    for json in [true, false] {
        let args = args.iter().filter(|arg| json || *arg != "--json");
        let output = single.bae.run(args).expect(2);
        let text = if json { &output.stdout } else { &output.stderr };
        for name in
            ["broken.torrent: not a usable torrent", &format!("{}&dn=never: ", "0".repeat(40))]
        {
            assert!(text.contains(name), "{name:?} in:\n{text}");
        }
        assert!(!text.contains("passkey"), "{text}");
    }
    let dry = ["import", "--dry-run", single.torrent.to_str().unwrap(), broken.to_str().unwrap()];
    single.bae.run(dry).expect(2).expect_stderr("broken.torrent: not a usable torrent");
}

#[test]
fn a_magnet_link_can_select_files() {
    let (a, b) = (vec![1; 400_000], vec![2; 50_000]);
    let (info, payload) = multi_file_info(b"dir", &[(&[b"a.bin"], &a), (&[b"b.bin"], &b)], PIECE);
    let magnet = format!("magnet:?xt=urn:btih:{}", info_hash(&info));
    let bae = Bae::new();
    let peer = PayloadPeer::seed(&info, &payload, PIECE);
    let import = |link: String, more: &[&str]| {
        bae.run(bae.import_args(link, &[peer.addr()], &[&LONG_TIMEOUT[..], more].concat()))
    };
    for (so, message) in [
        ("-1", "\"-1\" is not a number or range"),
        ("", "it is empty"),
        ("5", "there are only files 0 to 1"),
        ("0-4294967295", "there are only files 0 to 1"),
    ] {
        import(format!("{magnet}&so={so}"), &[])
            .expect(2)
            .expect_stderr(&format!("so={so}: {message}"));
        assert_eq!(peer.sent(), 0, "so={so}");
    }
    let only_b = import(format!("{magnet}&so=1"), &[]).expect(0).summary();
    assert_eq!(only_b.bytes, 50_000);
    // The pieces of the second file; the first file shares one of them.
    assert!(peer.sent() <= 3 * PIECE as u64, "{} bytes", peer.sent());
    assert_eq!(bae.stdout_of(["cat", &only_b.id, "b.bin"]), b);
    // The user's own selection takes precedence over the link.
    let both = import(format!("{magnet}&so=9"), &["--select", "1-2"]).expect(0).summary();
    assert_eq!((both.id, both.bytes), (only_b.id, 450_000));
}

#[test]
fn files_are_selected_by_the_path_that_info_shows() {
    let bae = Bae::new();
    let names: [&[&[u8]]; 4] = [
        &[b"[Group] Show - 01 [1080p].mkv"],
        &[b"x{1}.flac"],
        &[b"Sub", b"b, c.txt"],
        &[b"Sub", b"d.txt"],
    ];
    let files: Vec<(&[&[u8]], &[u8])> =
        names.iter().map(|name| (*name, &b"0123456789"[..])).collect();
    let (info, _) = multi_file_info(b"show", &files, PIECE);
    let torrent = bae.home().join("x.torrent");
    fs::write(&torrent, SingleFile::file(&info)).unwrap();
    let chosen = |spec: &str| {
        let output = bae.run(bae.import_args(&torrent, &[], &["--dry-run", "--select", spec]));
        output.expect(0).json()[0]["files"].as_u64().unwrap()
    };
    for (spec, count) in [
        ("show/[Group] Show - 01 [1080p].mkv", 1),
        ("[Group] Show - 01 [1080p].mkv,show/x{1}.flac", 2),
        ("show/Sub/b, c.txt,1", 2),
        ("show/Sub/", 2),
        ("Sub", 2),
        ("Sub/*", 2),
        ("show", 4),
    ] {
        assert_eq!(chosen(spec), count, "{spec}");
    }
    let no_match = bae.import_args(&torrent, &[], &["--dry-run", "--select", "show/Su"]);
    bae.run(no_match).expect(2).expect_stderr("\"show/Su\" matches no file");
}

#[test]
fn a_magnet_link_to_a_known_torrent_adds_its_peers_and_trackers() {
    let (a, b) = (vec![1; 400_000], vec![2; 50_000]);
    let (info, payload) = multi_file_info(b"dir", &[(&[b"a.bin"], &a), (&[b"b.bin"], &b)], PIECE);
    let magnet = format!("magnet:?xt=urn:btih:{}", info_hash(&info));
    let (bae, peer) = (Bae::new(), PayloadPeer::seed(&info, &payload, PIECE));
    let import = |link: String, peers: &[SocketAddrV4]| {
        bae.run(bae.import_args(link, peers, &LONG_TIMEOUT)).expect(0).summary()
    };
    let part = import(format!("{magnet}&so=1"), &[peer.addr()]);
    let link = format!("{magnet}&tr=http%3A%2F%2F127.0.0.1%3A1%2Fkey&x.pe={}", peer.addr());
    let whole = import(link, &[]);
    assert_eq!((&whole.id, whole.bytes), (&part.id, 450_000));
    let info = bae.run(["info", &whole.id, "--json"]).expect(0).json().remove(0);
    assert_eq!(info["trackers"], serde_json::json!(["http://127.0.0.1:1"]));
}
