//! opentracker: HTTP and UDP in one process, a process for each test.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

use std::net::{SocketAddrV4, TcpStream};

use tempfile::TempDir;

use super::{LONG, ports, process::Process, require_program, torrents::Fixture, wait_until};

/// A running tracker. Debian's build answers only for the info-hashes on its whitelist.
#[derive(Debug)]
pub(crate) struct Tracker {
    addr: SocketAddrV4,
    dir: TempDir,
    process: Process,
}

impl Tracker {
    pub(crate) fn start(whitelist: &[&Fixture]) -> Self {
        require_program("opentracker", "opentracker");
        let dir = tempfile::tempdir().unwrap();
        // opentracker changes its user to `nobody` and its directory to this one before it reads the whitelist.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let list: String =
            whitelist.iter().map(|t| format!("{}\n", t.v1.as_ref().unwrap())).collect();
        fs::write(dir.path().join("whitelist.txt"), list).unwrap();
        let addr = ports::unused();
        let process = launch(addr, &dir);
        Self { addr, dir, process }
    }

    pub(crate) fn http(&self) -> String {
        format!("http://{}/announce", self.addr)
    }

    pub(crate) fn udp(&self) -> String {
        format!("udp://{}/announce", self.addr)
    }

    /// Restarts the tracker with an empty list of peers; otherwise it returns killed clients for minutes.
    pub(crate) fn restart(&mut self) {
        self.process.kill();
        self.process = launch(self.addr, &self.dir);
    }

    /// The fixture with this tracker in its .torrent file. The file is removed when the tracker is dropped.
    pub(crate) fn torrent(&self, fixture: &Fixture) -> Fixture {
        fixture.with_tracker(&self.http(), self.dir.path())
    }
}

fn launch(addr: SocketAddrV4, dir: &TempDir) -> Process {
    let port = addr.port().to_string();
    let mut command = Command::new("opentracker");
    command.args(["-i", &addr.ip().to_string(), "-p", &port, "-P", &port, "-d"]);
    command.arg(dir.path()).args(["-u", "nobody", "-w", "whitelist.txt"]);
    let process = Process::start("opentracker", &command);
    wait_until("opentracker listens", LONG, || TcpStream::connect(addr).is_ok());
    process
}
