//! aria2: one process per torrent.

use std::{
    net::{SocketAddrV4, TcpStream},
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::support::{
    LONG, ports, process::Process, require_program, torrents::Fixture, wait_until,
};

/// A running aria2c. It finds peers only through the tracker of the torrent.
#[derive(Debug)]
pub(crate) struct Aria2 {
    addr: SocketAddrV4,
    process: Process,
    dir: TempDir,
}

impl Aria2 {
    pub(crate) fn seed(torrent: &Fixture) -> Self {
        let options = ["--seed-ratio=0.0", "--bt-seed-unverified=true", "--allow-overwrite=true"];
        let this = Self::start(torrent, Some(&torrent.parent), &options);
        wait_until("aria2 listens", LONG, || TcpStream::connect(this.addr).is_ok());
        this
    }

    pub(crate) fn leech(torrent: &Fixture) -> Self {
        Self::start(torrent, None, &["--seed-time=0"])
    }

    fn start(torrent: &Fixture, save: Option<&Path>, options: &[&str]) -> Self {
        require_program("aria2c", "aria2");
        let dir = tempfile::tempdir().unwrap();
        let addr = ports::unused();
        let mut command = Command::new("aria2c");
        command.args([
            "--no-conf=true",
            "--enable-dht=false",
            "--enable-dht6=false",
            "--bt-enable-lpd=false",
            "--enable-peer-exchange=false",
            "--disable-ipv6=true",
            "--file-allocation=none",
            "--summary-interval=0",
            "--bt-tracker-interval=1",
        ]);
        command.arg(format!("--listen-port={}", addr.port()));
        command.arg(format!("--interface={}", addr.ip()));
        command.args(options).arg("-d").arg(save.unwrap_or(dir.path())).arg(&torrent.torrent);
        let process = Process::start("aria2c", &command);
        Self { addr, dir, process }
    }

    pub(crate) fn addr(&self) -> SocketAddrV4 {
        self.addr
    }

    pub(crate) fn wait_done(&mut self) -> PathBuf {
        let status = self.process.wait(LONG);
        assert!(status.success(), "aria2c: {status}\n{}", self.process.log());
        self.dir.path().to_owned()
    }
}
