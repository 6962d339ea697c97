//! Real SSH servers with SFTP: OpenSSH's, which accepts a key of the user of the tests, and rclone's, which has a
//! user with a password.

use std::{
    fs,
    net::{SocketAddr, SocketAddrV4, TcpStream},
    path::{Path, PathBuf},
    process::Command,
};

use bae::protocols::{FetchOptions, HostKeys, conformance::WRONG};

use super::{
    LONG, PYTHON, need,
    pam::PamWrapper,
    ports,
    process::Process,
    script,
    served::{Served, Visitor, Written},
    tools::tool,
    wait_until,
};

pub(crate) const USER: &str = "bob";
pub(crate) const PASSWORD: &str = "secret";
/// The SFTP server that is built into sshd.
const INTERNAL: &str = "internal-sftp";

/// A running server. Dropping it stops the server and removes its files.
#[derive(Debug)]
pub(crate) struct SshServer {
    pub(crate) process: Process,
    pub(crate) addr: SocketAddrV4,
    /// More addresses of OpenSSH: first one where it refuses to open files, then its IPv6 address, if the machine
    /// has IPv6. Empty for rclone.
    others: Vec<SocketAddr>,
    pub(crate) served: Served,
    /// A private key that the server accepts. The public key is next to it.
    pub(crate) identity: PathBuf,
    /// The private host key of the server.
    host_key: PathBuf,
    user: String,
    /// Dropped after `process`, which uses it.
    #[allow(dead_code, reason = "held for its drop")]
    pam: Option<PamWrapper>,
}

impl SshServer {
    pub(crate) fn openssh() -> Self {
        Self::openssh_with(Served::new(), ports::own(), "ed25519")
    }

    /// A server of the same folder with another host key, of the given kind.
    pub(crate) fn openssh_with(served: Served, addr: SocketAddrV4, kind: &str) -> Self {
        let sign_in = "UsePAM no\nKbdInteractiveAuthentication no\n";
        Self::sshd(served, addr, kind, sign_in, &Command::new("/usr/sbin/sshd"), INTERNAL)
    }

    /// OpenSSH with `odd_sftp.py` as its SFTP server, with this oddity and the folder as root.
    pub(crate) fn odd(oddity: &str) -> Self {
        let served = Served::new();
        let (script, dir) = (script("odd_sftp.py"), served.dir());
        let sftp = format!("{PYTHON} {} {oddity} {}", script.display(), dir.display());
        Self::openssh_running(served, "", &sftp)
    }

    /// OpenSSH with more lines of configuration.
    pub(crate) fn openssh_configured(lines: &str) -> Self {
        Self::openssh_running(Served::new(), lines, INTERNAL)
    }

    fn openssh_running(served: Served, lines: &str, sftp: &str) -> Self {
        let sign_in = format!("UsePAM no\nKbdInteractiveAuthentication no\n{lines}\n");
        let sshd = Command::new("/usr/sbin/sshd");
        Self::sshd(served, ports::own(), "ed25519", &sign_in, &sshd, sftp)
    }

    /// OpenSSH that prompts for [`PASSWORD`] (keyboard-interactive) and allows no other login. It runs with its own
    /// PAM, [`PamWrapper`], whose user has this password.
    pub(crate) fn openssh_asking() -> Self {
        let served = Served::new();
        let pam = PamWrapper::new(served.own(), &whoami(), PASSWORD, "sshd");
        let sshd = pam.command("/usr/sbin/sshd");
        let sign_in = "UsePAM yes\nKbdInteractiveAuthentication yes\nPubkeyAuthentication no\n";
        let server = Self::sshd(served, ports::own(), "ed25519", sign_in, &sshd, INTERNAL);
        Self { pam: Some(pam), ..server }
    }

    fn sshd(
        served: Served,
        addr: SocketAddrV4,
        kind: &str,
        sign_in: &str,
        sshd: &Command,
        sftp: &str,
    ) -> Self {
        need("/usr/sbin/sshd", "openssh-server");
        let own = served.own().to_owned();
        let host_key = make_key(&own, "host", kind);
        let identity = make_key(&own, "identity", "ed25519");
        fs::copy(identity.with_extension("pub"), own.join("authorized_keys")).unwrap();
        if rustix::process::getuid().is_root() {
            // The directory of sshd's privilege separation; sshd does not start without it.
            fs::create_dir_all("/run/sshd").unwrap();
        }
        let (forbids, ipv6) = (ports::own(), ports::ipv6());
        let others: Vec<SocketAddr> =
            std::iter::once(forbids.into()).chain(ipv6.map(Into::into)).collect();
        let listen: String = others.iter().map(|addr| format!("ListenAddress {addr}\n")).collect();
        let config = format!(
            "ListenAddress {addr}\n{listen}HostKey {host}\nPidFile none\nStrictModes no\n{sign_in}\
             AuthorizedKeysFile {own}/authorized_keys\n\
             PasswordAuthentication no\nPermitRootLogin yes\n\
             UseDNS no\nMaxStartups 100\nSubsystem sftp {sftp}\nForceCommand {sftp}\n\
             Match LocalPort {forbidding}\nForceCommand internal-sftp -P open\n",
            host = host_key.display(),
            own = own.display(),
            forbidding = forbids.port(),
        );
        let file = own.join("sshd_config");
        fs::write(&file, config).unwrap();
        let mut command = Command::new(sshd.get_program());
        command.args(sshd.get_args()).args(["-D", "-e", "-f"]).arg(&file);
        let user = whoami();
        let process = Self::started("sshd", &command, addr);
        Self { process, addr, others, served, identity, host_key, user, pam: None }
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
        let process = Self::started("rclone serve sftp", &command, addr);
        let (others, user) = (Vec::new(), USER.to_owned());
        Self { process, addr, others, served, identity, host_key, user, pam: None }
    }

    fn started(name: &str, command: &Command, addr: SocketAddrV4) -> Process {
        let mut process = Process::start(name, command);
        wait_until(&format!("{name} listens"), LONG, || {
            assert!(process.is_running(), "{name} ended\n{}", process.log());
            TcpStream::connect(addr).is_ok()
        });
        process
    }

    /// The URL of a path on an odd server, whose root is the folder.
    pub(crate) fn odd_url(&self, path: &str) -> String {
        format!("sftp://{}@{}{path}", self.user, self.addr)
    }

    /// The URL of the served folder, with the password if there is one.
    pub(crate) fn url(&self, password: Option<&str>) -> String {
        self.url_at(self.addr.into(), password)
    }

    fn url_at(&self, addr: SocketAddr, password: Option<&str>) -> String {
        let password = password.map(|password| format!(":{password}")).unwrap_or_default();
        // OpenSSH serves the whole file system, rclone the folder.
        let dir = match self.user.as_str() {
            USER => String::new(),
            _ => self.served.dir().display().to_string(),
        };
        format!("sftp://{}{password}@{addr}{dir}/", self.user)
    }

    /// The URL of the same folder of OpenSSH at its IPv6 address; `None` on a machine without IPv6.
    pub(crate) fn ipv6_url(&self) -> Option<String> {
        self.others.get(1).map(|addr| self.url_at(*addr, None))
    }

    /// The folder as ground of the conformance suite. The suite kills the server, so this must be its last use.
    pub(crate) fn ground(&self) -> Written<'_> {
        let is_openssh = !self.others.is_empty();
        let (url, stranger, forbidden) = if is_openssh {
            let stranger = make_key(self.served.own(), "stranger", "ed25519");
            let stranger = FetchOptions { identities: vec![stranger], ..self.options() };
            let forbidden = Visitor::new(self.url_at(self.others[0], None), self.options());
            (self.url(None), Visitor::new(self.url(None), stranger), Some(forbidden))
        } else {
            let options = FetchOptions { identities: Vec::new(), ..self.options() };
            (self.url(Some(PASSWORD)), Visitor::new(self.url(Some(WRONG)), options), None)
        };
        let process = Some(&self.process);
        Written { stranger: Some(stranger), forbidden, process, ..Written::new(&self.served, &url) }
    }

    /// Accepts the private key `file` and no other.
    pub(crate) fn let_in(&self, file: &Path) {
        let authorized = self.served.own().join("authorized_keys");
        fs::copy(file.with_extension("pub"), authorized).unwrap();
    }

    /// The lines of a `known_hosts` file for this server.
    pub(crate) fn known_hosts_lines(&self) -> String {
        let key = fs::read_to_string(self.host_key.with_extension("pub")).unwrap();
        let all = std::iter::once(SocketAddr::from(self.addr)).chain(self.others.iter().copied());
        all.map(|addr| format!("[{}]:{} {key}", addr.ip(), addr.port())).collect()
    }

    pub(crate) fn fingerprint(&self) -> String {
        let listed = output(Command::new("ssh-keygen").args(["-l", "-f"]).arg(&self.host_key));
        listed.split(' ').nth(1).unwrap().to_owned()
    }

    /// Writes a `known_hosts` file with this server's host key.
    pub(crate) fn known_hosts(&self) -> PathBuf {
        let file = self.served.own().join("known_hosts");
        fs::write(&file, self.known_hosts_lines()).unwrap();
        file
    }

    /// Fetch options with the server's host key and an accepted private key.
    pub(crate) fn options(&self) -> FetchOptions {
        FetchOptions {
            identities: vec![self.identity.clone()],
            host_keys: HostKeys { known_hosts: Some(self.known_hosts()), accept: None },
            ..FetchOptions::default()
        }
    }
}

fn whoami() -> String {
    output(Command::new("id").arg("-un"))
}

/// Makes a private key without a passphrase. The public key is next to it.
pub(crate) fn make_key(dir: &Path, name: &str, kind: &str) -> PathBuf {
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
