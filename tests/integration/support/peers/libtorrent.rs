//! libtorrent through its Python bindings: `ltpeer.py` in the parent directory.

use std::{
    net::SocketAddrV4,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    LONG, PYTHON, ports, process::Process, require_program, script, torrents::Fixture,
};

/// The libtorrent version of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Release {
    /// Debian's python3-libtorrent (2.0.8).
    Debian,
    /// The newest wheel, fetched by `scripts/setup test`.
    Newest,
}

/// One or more libtorrent sessions in a Python process.
#[derive(Debug)]
pub(crate) struct LibtorrentPeer {
    addrs: Vec<SocketAddrV4>,
    process: Process,
    /// The download directory of a leecher.
    dir: Option<TempDir>,
}

impl LibtorrentPeer {
    pub(crate) fn seed(release: Release, torrent: &Fixture) -> Self {
        Self::seed_with(release, torrent, 1, &[])
    }

    /// A seeder that sends at most `rate` bytes/s.
    pub(crate) fn slow_seed(torrent: &Fixture, rate: u64) -> Self {
        Self::seed_with(Release::Debian, torrent, 1, &["--up-limit", &rate.to_string()])
    }

    /// A seeder that uses uTP only.
    pub(crate) fn utp_seed(torrent: &Fixture) -> Self {
        Self::seed_with(Release::Newest, torrent, 1, &["--only-utp"])
    }

    /// `count` seeders, each with its own IP, that send at most `rate_each` bytes/s each.
    pub(crate) fn swarm(torrent: &Fixture, count: usize, rate_each: u64) -> Self {
        Self::seed_with(Release::Debian, torrent, count, &["--up-limit", &rate_each.to_string()])
    }

    fn seed_with(release: Release, torrent: &Fixture, count: usize, options: &[&str]) -> Self {
        let from = torrent.parent.clone();
        Self::start(release, "seed", &torrent.torrent, &from, count, options, None)
    }

    /// A peer that claims every piece and serves the bytes of `broken`, a copy of the data with errors.
    pub(crate) fn corrupting(torrent: &Fixture, broken: &Path) -> Self {
        Self::start(Release::Debian, "seed", &torrent.torrent, broken, 1, &["--unverified"], None)
    }

    /// A leecher that dials `from` and downloads into its own directory.
    pub(crate) fn leech(release: Release, torrent: &Fixture, from: SocketAddrV4) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let save = dir.path().to_owned();
        let peer = from.to_string();
        Self::start(release, "get", &torrent.torrent, &save, 1, &["--peer", &peer], Some(dir))
    }

    /// A leecher that downloads at most `rate` bytes/s. It knows no peer until [`LibtorrentPeer::connect`].
    pub(crate) fn leech_without_peers(release: Release, torrent: &Fixture, rate: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let save = dir.path().to_owned();
        let options = ["--down-limit", &rate.to_string()];
        Self::start(release, "get", &torrent.torrent, &save, 1, &options, Some(dir))
    }

    fn start(
        release: Release,
        mode: &str,
        torrent: &Path,
        save: &Path,
        count: usize,
        options: &[&str],
        dir: Option<TempDir>,
    ) -> Self {
        require_program(PYTHON, "python3-libtorrent");
        let addrs: Vec<_> = (0..count).map(|_| ports::unused()).collect();
        let mut command = Command::new(PYTHON);
        command.arg("-W").arg("ignore").arg(script("ltpeer.py")).arg(mode).arg(torrent).arg(save);
        for addr in &addrs {
            command.arg("--listen").arg(addr.to_string());
        }
        command.args(options).env_remove("PYTHONPATH");
        if release == Release::Newest {
            command.env("PYTHONPATH", newest_wheel());
        }
        let mut process = Process::start("libtorrent", &command);
        let version = process.wait_for("ready", LONG, |line| {
            event(line, "ready").map(|e| e["version"].as_str().unwrap_or_default().to_owned())
        });
        assert_eq!(release == Release::Debian, version.starts_with("2.0."), "version {version}");
        Self { addrs, process, dir }
    }

    /// The address of the first session.
    pub(crate) fn addr(&self) -> SocketAddrV4 {
        self.addrs[0]
    }

    pub(crate) fn addrs(&self) -> &[SocketAddrV4] {
        &self.addrs
    }

    /// Waits until a leecher has the whole torrent; returns its directory.
    pub(crate) fn wait_done(&mut self) -> PathBuf {
        self.process.wait_for("done", LONG, |line| event(line, "done"));
        self.dir.as_ref().expect("a leecher").path().to_owned()
    }

    /// Payload bytes sent by all its sessions. Waits for the next progress event.
    pub(crate) fn sent(&mut self) -> u64 {
        self.process.wait_for("progress", LONG, |line| event(line, "progress")?["up"].as_u64())
    }

    /// Payload bytes received by all its sessions, as of the last progress event.
    pub(crate) fn received(&self) -> u64 {
        self.last_report("down").unwrap_or(0)
    }

    /// The number of connected peers of all its sessions, as of the last progress event.
    pub(crate) fn peers(&self) -> Option<u64> {
        self.last_report("peers")
    }

    fn last_report(&self, field: &str) -> Option<u64> {
        let output = self.process.stdout();
        output.lines().rev().find_map(|line| event(line, "progress")?[field].as_u64())
    }

    /// The number of progress events so far. They come four times a second.
    pub(crate) fn reports(&self) -> usize {
        self.process.stdout().lines().filter(|line| event(line, "progress").is_some()).count()
    }

    /// Whether a `note` event so far contains `name`.
    pub(crate) fn has_note(&self, name: &str) -> bool {
        self.process
            .stdout()
            .lines()
            .any(|line| event(line, "note").is_some() && line.contains(name))
    }

    pub(crate) fn pause(&mut self) {
        self.process.send_line("pause");
    }

    pub(crate) fn resume(&mut self) {
        self.process.send_line("resume");
    }

    pub(crate) fn connect(&mut self, to: SocketAddrV4) {
        self.process.send_line(&format!("connect {to}"));
    }
}

fn newest_wheel() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| {
        let home = std::env::var_os("HOME")?;
        Some(Path::new(&home).join(".cache"))
    });
    let dir = cache.unwrap_or_default().join("bae/pylt");
    assert!(dir.join("libtorrent").is_dir(), "no libtorrent wheel: run `scripts/setup test`");
    dir
}

fn event(line: &str, name: &str) -> Option<Value> {
    let value: Value = serde_json::from_str(line).ok()?;
    (value["event"] == name).then_some(value)
}
