//! Real SSH servers with SFTP: OpenSSH's, which lets in whoever runs the tests by a key, and rclone's, which has a user
//! with a password.

use std::{
    fs,
    net::{SocketAddrV4, TcpStream},
    path::{Path, PathBuf},
    process::Command,
};

use bae::protocols::{FetchOptions, HostKeys};

use super::{LONG, need, ports, process::Process, served::Served, tools::tool, wait_until};

pub(crate) const USER: &str = "bob";
pub(crate) const PASSWORD: &str = "secret";

/// A server that answers. Dropped, it is gone with everything in it.
#[derive(Debug)]
pub(crate) struct SshServer {
    pub(crate) process: Process,
    pub(crate) addr: SocketAddrV4,
    pub(crate) served: Served,
    /// A private key that is let in, beside its public half.
    pub(crate) identity: PathBuf,
    /// The server's own.
    host_key: PathBuf,
    user: String,
}

impl SshServer {
    pub(crate) fn openssh() -> Self {
        Self::openssh_with(Served::new(), ports::own(), "ed25519")
    }

    /// The same served again, by a server with a key of another kind, or another key of the same.
    pub(crate) fn openssh_with(served: Served, addr: SocketAddrV4, kind: &str) -> Self {
        need("/usr/sbin/sshd", "openssh-server");
        let own = served.own().to_owned();
        let host_key = make_key(&own, "host", kind);
        let identity = make_key(&own, "identity", "ed25519");
        fs::copy(identity.with_extension("pub"), own.join("authorized_keys")).unwrap();
        if rustix::process::getuid().is_root() {
            // Where sshd locks itself up before anybody has signed in; it does not start without.
            fs::create_dir_all("/run/sshd").unwrap();
        }
        let config = format!(
            "ListenAddress {addr}\nHostKey {host}\nPidFile none\nStrictModes no\nUsePAM no\n\
             AuthorizedKeysFile {own}/authorized_keys\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nPermitRootLogin yes\nUseDNS no\nMaxStartups 100\n\
             Subsystem sftp internal-sftp\nForceCommand internal-sftp\n",
            host = host_key.display(),
            own = own.display(),
        );
        let file = own.join("sshd_config");
        fs::write(&file, config).unwrap();
        let mut command = Command::new("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f"]).arg(&file);
        let user = output(Command::new("id").arg("-un"));
        Self::start("sshd", &command, addr, served, identity, host_key, user)
    }

    pub(crate) fn rclone() -> Self {
        let (served, addr) = (Served::new(), ports::own());
        let own = served.own().to_owned();
        let host_key = make_key(&own, "host", "ed25519");
        let identity = make_key(&own, "identity", "ed25519");
        let mut command = Command::new(tool("cloud", "rclone", "test"));
        command.args(["serve", "sftp"]).arg(served.dir()).args(["--addr", &addr.to_string()]);
        command.args(["--user", USER, "--pass", PASSWORD, "--dir-cache-time", "0s", "--key"]);
        command.arg(&host_key).env("RCLONE_CONFIG", own.join("rclone.conf"));
        Self::start("rclone serve sftp", &command, addr, served, identity, host_key, USER.into())
    }

    fn start(
        name: &str,
        command: &Command,
        addr: SocketAddrV4,
        served: Served,
        identity: PathBuf,
        host_key: PathBuf,
        user: String,
    ) -> Self {
        let mut process = Process::start(name, command);
        wait_until(&format!("{name} listens"), LONG, || {
            assert!(process.is_running(), "{name} ended\n{}", process.log());
            TcpStream::connect(addr).is_ok()
        });
        Self { process, addr, served, identity, host_key, user }
    }

    /// The folder that is served, with a login where `password` is one.
    pub(crate) fn url(&self, password: Option<&str>) -> String {
        let password = password.map(|password| format!(":{password}")).unwrap_or_default();
        // OpenSSH serves the whole machine, rclone its folder.
        let dir = match self.user.as_str() {
            USER => String::new(),
            _ => self.served.dir().display().to_string(),
        };
        format!("sftp://{}{password}@{}{dir}/", self.user, self.addr)
    }

    /// The line of a `known_hosts` file for this server.
    pub(crate) fn known_hosts_line(&self) -> String {
        let key = fs::read_to_string(self.host_key.with_extension("pub")).unwrap();
        format!("[{}]:{} {key}", self.addr.ip(), self.addr.port())
    }

    pub(crate) fn fingerprint(&self) -> String {
        let listed = output(Command::new("ssh-keygen").args(["-l", "-f"]).arg(&self.host_key));
        listed.split(' ').nth(1).unwrap().to_owned()
    }

    /// A file that knows this server.
    pub(crate) fn known_hosts(&self) -> PathBuf {
        let file = self.served.own().join("known_hosts");
        fs::write(&file, self.known_hosts_line()).unwrap();
        file
    }

    /// Of a client that knows the server and has the key.
    pub(crate) fn options(&self) -> FetchOptions {
        FetchOptions {
            identities: vec![self.identity.clone()],
            host_keys: HostKeys { known_hosts: Some(self.known_hosts()), accept: None },
            ..FetchOptions::default()
        }
    }
}

fn make_key(dir: &Path, name: &str, kind: &str) -> PathBuf {
    need("ssh-keygen", "openssh-client");
    let file = dir.join(name);
    for old in [file.clone(), file.with_extension("pub")] {
        let _ = fs::remove_file(old);
    }
    output(Command::new("ssh-keygen").args(["-q", "-N", "", "-t", kind, "-f"]).arg(&file));
    file
}

fn output(command: &mut Command) -> String {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}
