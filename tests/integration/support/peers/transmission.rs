//! Transmission: a daemon with a settings file that is written before the start, driven by transmission-remote.

use std::{
    fs,
    net::{SocketAddrV4, TcpStream},
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::support::{
    LONG, ports, process::Process, require_program, torrents::Fixture, wait_until,
};

/// A running transmission-daemon. It never dials 127/8, so the other side must dial, whether it seeds or leeches.
#[derive(Debug)]
pub(crate) struct Transmission {
    addr: SocketAddrV4,
    rpc: SocketAddrV4,
    _process: Process,
    dir: TempDir,
}

impl Transmission {
    pub(crate) fn start() -> Self {
        require_program("transmission-daemon", "transmission-daemon");
        require_program("transmission-remote", "transmission-cli");
        let dir = tempfile::tempdir().unwrap();
        let (addr, rpc) = (ports::unused(), ports::unused());
        let settings = serde_json::json!({
            "rpc-enabled": true, "rpc-bind-address": rpc.ip().to_string(), "rpc-port": rpc.port(),
            "rpc-authentication-required": false, "rpc-whitelist-enabled": false,
            "rpc-host-whitelist-enabled": false, "bind-address-ipv4": addr.ip().to_string(),
            "bind-address-ipv6": "::1", "peer-port": addr.port(), "peer-port-random-on-start": false,
            "port-forwarding-enabled": false, "dht-enabled": false, "lpd-enabled": false,
            "pex-enabled": false, "utp-enabled": false, "encryption": 1, "ratio-limit-enabled": false,
            "download-dir": dir.path(), "incomplete-dir-enabled": false, "watch-dir-enabled": false,
        });
        fs::create_dir(dir.path().join("cfg")).unwrap();
        fs::write(dir.path().join("cfg/settings.json"), settings.to_string()).unwrap();
        let mut command = Command::new("transmission-daemon");
        command.args(["-f", "-g"]).arg(dir.path().join("cfg"));
        let process = Process::start("transmission-daemon", &command);
        wait_until("transmission answers", LONG, || TcpStream::connect(rpc).is_ok());
        Self { addr, rpc, dir, _process: process }
    }

    pub(crate) fn seed(torrent: &Fixture) -> Self {
        let this = Self::start();
        this.add(torrent, &torrent.parent);
        this.remote(&["-t", "1", "-v"]);
        wait_until("transmission verifies", LONG, || this.percent() == "100%");
        wait_until("transmission listens", LONG, || TcpStream::connect(this.addr).is_ok());
        this
    }

    /// A leecher that waits for a peer to dial it.
    pub(crate) fn leech(torrent: &Fixture) -> Self {
        let this = Self::start();
        this.add(torrent, this.dir.path());
        wait_until("transmission listens", LONG, || TcpStream::connect(this.addr).is_ok());
        this
    }

    pub(crate) fn addr(&self) -> SocketAddrV4 {
        self.addr
    }

    pub(crate) fn wait_done(&self) -> PathBuf {
        wait_until("transmission downloads", LONG, || {
            // A file has a temporary name until its last piece is verified.
            self.percent() == "100%"
        });
        self.dir.path().to_owned()
    }

    fn add(&self, torrent: &Fixture, save: &Path) {
        self.remote(&["-a", torrent.torrent.to_str().unwrap(), "-w", save.to_str().unwrap()]);
    }

    fn percent(&self) -> String {
        let info = self.remote(&["-t", "1", "-i"]);
        let line = info.lines().find_map(|line| line.trim().strip_prefix("Percent Done: "));
        line.unwrap_or_default().to_owned()
    }

    fn remote(&self, args: &[&str]) -> String {
        let output = Command::new("transmission-remote")
            .arg(self.rpc.to_string())
            .args(args)
            .output()
            .unwrap();
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "transmission-remote {args:?}: {out}");
        out
    }
}
