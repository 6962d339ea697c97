//! qBittorrent: configured by a profile directory that is written before the start, then driven by its web API.

use std::{
    fs,
    net::SocketAddrV4,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    LONG, http, ports, process::Process, require_program, torrents::Fixture, wait_until,
};

/// A running qbittorrent-nox, driven by its web API.
#[derive(Debug)]
pub(crate) struct QBittorrent {
    addr: SocketAddrV4,
    web: SocketAddrV4,
    _process: Process,
    dir: TempDir,
}

impl QBittorrent {
    pub(crate) fn seed(torrent: &Fixture) -> Self {
        let this = Self::start();
        this.add(torrent, &torrent.parent, true);
        wait_until("qbittorrent seeds", LONG, || this.progress() >= 1.0);
        this
    }

    /// Downloads from peers that dial it and from peers that the torrent's tracker names.
    pub(crate) fn leech(torrent: &Fixture) -> Self {
        let this = Self::start();
        this.add(torrent, this.dir.path(), false);
        this
    }

    pub(crate) fn addr(&self) -> SocketAddrV4 {
        self.addr
    }

    /// Makes qBittorrent dial the peer `to`.
    pub(crate) fn connect(&self, torrent: &Fixture, to: SocketAddrV4) {
        let body = format!("hashes={}&peers={to}", torrent.info_hash());
        let path = "/api/v2/torrents/addPeers";
        let kind = "application/x-www-form-urlencoded";
        wait_until("qbittorrent takes a peer", LONG, || {
            matches!(http::request(self.web, "POST", path, kind, body.as_bytes()), Some((200, _)))
        });
    }

    pub(crate) fn wait_done(&self) -> PathBuf {
        wait_until("qbittorrent downloads", LONG, || self.progress() >= 1.0);
        self.dir.path().to_owned()
    }

    fn start() -> Self {
        require_program("qbittorrent-nox", "qbittorrent-nox");
        let dir = tempfile::tempdir().unwrap();
        let (addr, web) = (ports::unused(), ports::unused());
        let config = dir.path().join("profile/qBittorrent/config");
        fs::create_dir_all(&config).unwrap();
        fs::write(config.join("qBittorrent.conf"), qbittorrent_config(addr, web)).unwrap();
        let mut command = Command::new("qbittorrent-nox");
        command.arg(format!("--profile={}", dir.path().join("profile").display()));
        let process = Process::start("qbittorrent-nox", &command);
        wait_until("qbittorrent answers", LONG, || {
            matches!(http::request(web, "GET", "/api/v2/app/version", "", b""), Some((200, _)))
        });
        Self { addr, web, dir, _process: process }
    }

    fn add(&self, torrent: &Fixture, save: &Path, complete: bool) {
        let bytes = fs::read(&torrent.torrent).unwrap();
        let fields = [
            ("savepath", save.to_str().unwrap()),
            ("skip_checking", if complete { "true" } else { "false" }),
            ("root_folder", "true"),
        ];
        let (kind, body) = http::form(("torrents", &bytes), &fields);
        let answer = http::request(self.web, "POST", "/api/v2/torrents/add", &kind, &body);
        assert!(matches!(&answer, Some((200, text)) if text.starts_with("Ok")), "{answer:?}");
    }

    fn progress(&self) -> f64 {
        let answer = http::request(self.web, "GET", "/api/v2/torrents/info", "", b"");
        let Some((200, text)) = answer else { return 0.0 };
        let list: Value = serde_json::from_str(&text).unwrap_or_default();
        list[0]["progress"].as_f64().unwrap_or_default()
    }
}

fn qbittorrent_config(addr: SocketAddrV4, web: SocketAddrV4) -> String {
    let (ip, port) = (addr.ip(), addr.port());
    format!(
        "[BitTorrent]\nSession\\BTProtocol=TCP\nSession\\DHTEnabled=false\nSession\\Interface=lo\n\
         Session\\InterfaceAddress={ip}\nSession\\InterfaceName=lo\nSession\\LSDEnabled=false\n\
         Session\\MultiConnectionsPerIp=true\nSession\\PeXEnabled=false\nSession\\Port={port}\n\
         Session\\QueueingSystemEnabled=false\n\n[LegalNotice]\nAccepted=true\n\n[Meta]\nMigrationVersion=4\n\n\
         [Network]\nPortForwardingEnabled=false\n\n[Preferences]\nWebUI\\Address={}\n\
         WebUI\\CSRFProtection=false\nWebUI\\HostHeaderValidation=false\nWebUI\\LocalHostAuth=false\n\
         WebUI\\Port={}\n",
        web.ip(),
        web.port()
    )
}
