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
    bae::{Bae, Ran},
    bencode::{Value, info_hash, info_of, pieces},
    peers::PayloadPeer,
    scripted::{Answer, Scripted},
};

const PIECE: usize = 32_768;
const GIVE_UP: [&str; 2] = ["--timeout", "20s"];

/// A torrent of one file, and a peer that has it.
struct One {
    bae: Bae,
    data: Vec<u8>,
    info: Vec<u8>,
    torrent: PathBuf,
    peer: PayloadPeer,
}

impl One {
    fn new() -> Self {
        let bae = Bae::new();
        let data: Vec<u8> = (0..100_000u32).map(|i| (i * 7 + i / 251) as u8).collect();
        let info = Value::Dict(vec![
            ("length", Value::Int(100_000)),
            ("name", "t.bin".into()),
            ("piece length", Value::Int(PIECE as i64)),
            ("pieces", Value::Bytes(pieces(&data, PIECE))),
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

    fn import(&self, source: impl AsRef<OsStr>) -> Ran {
        self.bae.run(self.bae.import_args(source, &[self.peer.addr()], &GIVE_UP))
    }

    /// Imports `source`, compares the bytes, and removes the import.
    fn comes_by(&self, source: impl AsRef<OsStr>) {
        let done = self.import(&source).expect(0).imported();
        assert_eq!(self.bae.bytes(["cat", &done.id]), self.data, "{:?}", source.as_ref());
        self.bae.run(["rm", &done.id]).expect(0);
    }
}

#[test]
fn links_of_every_spelling_are_the_same_torrent() {
    let one = One::new();
    let hash = info_hash(&one.info);
    let rest = format!("?xt=urn:btih:{hash}");
    for link in [
        format!("MAGNET:{rest}"),
        format!("magnet://{rest}"),
        format!(" magnet:{rest}\n"),
        format!("magnet:{rest}#x"),
        hash.clone(),
        hash.to_uppercase(),
    ] {
        one.comes_by(link);
    }
}

#[test]
fn files_are_named_as_other_programs_name_them() {
    let one = One::new();
    one.comes_by(format!("file://{}", one.torrent.display()));
    one.comes_by(format!(" FILE://localhost{}\n", one.torrent.display()));
    let odd = one.bae.home().join(OsStr::from_bytes(b"caf\xe9 1.torrent"));
    fs::copy(&one.torrent, &odd).unwrap();
    one.comes_by(&odd);
    one.comes_by(format!("{}\n", one.torrent.display()));
    one.import("file://elsewhere/x.torrent").expect(2).says("names no file on this machine");
    one.import(one.bae.home().join("no\u{e9}.torrent")).expect(3).says("no\u{e9}.torrent");
    let mut command = one.bae.command(one.bae.import_args("-", &[one.peer.addr()], &GIVE_UP));
    let out = command.stdin(File::open(&one.torrent).unwrap()).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn announce_urls_with_spaces_and_capitals_are_asked() {
    for change in
        [|url: &str| format!("{url}\n"), |url: &str| format!(" {}", url.replace("http", "HTTP"))]
    {
        let one = One::new();
        let peer = one.peer.addr();
        let tracker = Scripted::start(move |_, _| {
            let mut body = b"d8:intervali1800e5:peers6:".to_vec();
            body.extend(peer.ip().octets());
            body.extend(peer.port().to_be_bytes());
            Some(Answer::new(200, [body, b"e".to_vec()].concat()))
        });
        let announce = Value::Bytes(change(&format!("{}/announce", tracker.url())).into_bytes());
        let torrent =
            Value::Dict(vec![("announce", announce), ("info", Value::Raw(one.info.clone()))]);
        fs::write(&one.torrent, torrent.encode()).unwrap();
        one.bae.run(one.bae.import_args(&one.torrent, &[], &GIVE_UP)).expect(0);
        assert!(!tracker.requests().is_empty());
    }
}

#[test]
fn what_a_server_hands_out_as_a_torrent_is_one() {
    let one = One::new();
    let mut to = GzEncoder::new(Vec::new(), Compression::default());
    to.write_all(&One::file(&one.info)).unwrap();
    let (gzip, magnet) = (to.finish().unwrap(), one.magnet());
    let server = Scripted::start(move |_, request| {
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
        one.comes_by(format!("{}{path}", server.url()));
    }
    // A list of links is a file like any other.
    let links = one.import(format!("{}/links", server.url())).expect(0).imported();
    assert_eq!(links.info_hash, "");
    one.import(format!("{}/junk.torrent", server.url())).expect(2).says("compressed, and damaged");
    let get = one.bae.run(["get", &format!("{}/download?passkey=secret", server.url())]).expect(1);
    let get = get.says("magnet link").says("bae import");
    assert!(!get.stderr.contains("secret") && !get.stderr.contains("btih"), "{}", get.stderr);
}

#[test]
fn what_has_no_end_and_what_has_no_beginning_end() {
    let one = One::new();
    one.import("/dev/zero").expect(2).says("80000000");
    let pipe = one.bae.home().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let args = one.bae.import_args(&pipe, &[], &["--timeout", "1s"]);
    one.bae.run(args).expect(6).says("pipe: nothing arrived for 1 s");
}

#[test]
fn of_several_sources_each_that_fails_is_named() {
    let one = One::new();
    let broken = one.bae.home().join("broken.torrent");
    fs::write(&broken, "nonsense").unwrap();
    let never = format!(
        "magnet:?xt=urn:btih:{}&dn=never&tr=http%3A%2F%2F127.0.0.1%3A1%2Fpasskey",
        "0".repeat(40)
    );
    let mut args = one.bae.import_args(&one.torrent, &[one.peer.addr()], &["--timeout", "2s"]);
    args.extend([broken.clone().into(), never.into()]);
    for json in [true, false] {
        let args = args.iter().filter(|arg| json || *arg != "--json");
        let ran = one.bae.run(args).expect(2);
        let text = if json { &ran.stdout } else { &ran.stderr };
        for name in
            ["broken.torrent: not a usable torrent", &format!("{}&dn=never: ", "0".repeat(40))]
        {
            assert!(text.contains(name), "{name:?} in:\n{text}");
        }
        assert!(!text.contains("passkey"), "{text}");
    }
    let dry = ["import", "--dry-run", one.torrent.to_str().unwrap(), broken.to_str().unwrap()];
    one.bae.run(dry).expect(2).says("broken.torrent: not a usable torrent");
}

#[test]
fn a_magnet_link_selects_files_as_select_does() {
    let (a, b) = (vec![1; 400_000], vec![2; 50_000]);
    let (info, payload) = info_of(b"dir", &[(&[b"a.bin"], &a), (&[b"b.bin"], &b)], PIECE);
    let magnet = format!("magnet:?xt=urn:btih:{}", info_hash(&info));
    let bae = Bae::new();
    let peer = PayloadPeer::seed(&info, &payload, PIECE);
    let import = |link: String, more: &[&str]| {
        bae.run(bae.import_args(link, &[peer.addr()], &[&GIVE_UP[..], more].concat()))
    };
    for (so, why) in [
        ("-1", "\"-1\" is no number or range"),
        ("", "it is empty"),
        ("5", "there are only files 0 to 1"),
        ("0-4294967295", "there are only files 0 to 1"),
    ] {
        import(format!("{magnet}&so={so}"), &[]).expect(2).says(&format!("so={so}: {why}"));
        assert_eq!(peer.sent(), 0, "so={so}");
    }
    let only_b = import(format!("{magnet}&so=1"), &[]).expect(0).imported();
    assert_eq!(only_b.bytes, 50_000);
    // The pieces of the second file; the first file shares one of them.
    assert!(peer.sent() <= 3 * PIECE as u64, "{} bytes", peer.sent());
    assert_eq!(bae.bytes(["cat", &only_b.id, "b.bin"]), b);
    // The user's own selection takes precedence over the link.
    let both = import(format!("{magnet}&so=9"), &["--select", "1-2"]).expect(0).imported();
    assert_eq!((both.id, both.bytes), (only_b.id, 450_000));
}

#[test]
fn a_selection_by_the_path_that_info_shows() {
    let bae = Bae::new();
    let names: [&[&[u8]]; 4] = [
        &[b"[Group] Show - 01 [1080p].mkv"],
        &[b"x{1}.flac"],
        &[b"Sub", b"b, c.txt"],
        &[b"Sub", b"d.txt"],
    ];
    let files: Vec<(&[&[u8]], &[u8])> =
        names.iter().map(|name| (*name, &b"0123456789"[..])).collect();
    let (info, _) = info_of(b"show", &files, PIECE);
    let torrent = bae.home().join("x.torrent");
    fs::write(&torrent, One::file(&info)).unwrap();
    let chosen = |spec: &str| {
        let ran = bae.run(bae.import_args(&torrent, &[], &["--dry-run", "--select", spec]));
        ran.expect(0).json()[0]["files"].as_u64().unwrap()
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
    let nothing = bae.import_args(&torrent, &[], &["--dry-run", "--select", "show/Su"]);
    bae.run(nothing).expect(2).says("\"show/Su\" matches no file");
}

#[test]
fn a_link_to_a_known_torrent_is_used_with_its_peers_and_trackers() {
    let (a, b) = (vec![1; 400_000], vec![2; 50_000]);
    let (info, payload) = info_of(b"dir", &[(&[b"a.bin"], &a), (&[b"b.bin"], &b)], PIECE);
    let magnet = format!("magnet:?xt=urn:btih:{}", info_hash(&info));
    let (bae, peer) = (Bae::new(), PayloadPeer::seed(&info, &payload, PIECE));
    let import = |link: String, peers: &[SocketAddrV4]| {
        bae.run(bae.import_args(link, peers, &GIVE_UP)).expect(0).imported()
    };
    let part = import(format!("{magnet}&so=1"), &[peer.addr()]);
    let link = format!("{magnet}&tr=http%3A%2F%2F127.0.0.1%3A1%2Fkey&x.pe={}", peer.addr());
    let whole = import(link, &[]);
    assert_eq!((&whole.id, whole.bytes), (&part.id, 450_000));
    let info = bae.run(["info", &whole.id, "--json"]).expect(0).json().remove(0);
    assert_eq!(info["trackers"], serde_json::json!(["http://127.0.0.1:1"]));
}
