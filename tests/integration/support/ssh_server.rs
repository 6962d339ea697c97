//! Real SSH servers with SFTP: OpenSSH's, which accepts a key of the user of the tests, and rclone's, which has a
//! user with a password.

use std::{
    fs,
    net::{SocketAddr, SocketAddrV4, TcpStream},
    path::{Path, PathBuf},
    process::Command,
};

use bae::protocols::{FetchOptions, HostKeyPolicy, conformance::WRONG_PASSWORD};

use super::{
    LONG, PYTHON,
    pam::PamWrapper,
    ports,
    process::Process,
    require_program, script,
    served_folder::{Client, ConformanceFolder, ServedFolder},
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
    more_addrs: Vec<SocketAddr>,
    pub(crate) served: ServedFolder,
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
        Self::openssh_with_host_key(ServedFolder::new(), ports::unused(), "ed25519")
    }

    /// A server of the same folder with another host key, of the given kind.
    pub(crate) fn openssh_with_host_key(
        served: ServedFolder,
        addr: SocketAddrV4,
        kind: &str,
    ) -> Self {
        let login_config = "UsePAM no\nKbdInteractiveAuthentication no\n";
        Self::sshd(served, addr, kind, login_config, &Command::new("/usr/sbin/sshd"), INTERNAL)
    }

    /// OpenSSH with `odd_sftp.py` as its SFTP server, with this oddity and the folder as root.
    pub(crate) fn with_oddity(oddity: &str) -> Self {
        let served = ServedFolder::new();
        let (script, dir) = (script("odd_sftp.py"), served.dir());
        let sftp = format!("{PYTHON} {} {oddity} {}", script.display(), dir.display());
        Self::openssh_with_sftp(served, "", &sftp)
    }

    /// OpenSSH with more lines of configuration.
    pub(crate) fn openssh_with_config(lines: &str) -> Self {
        Self::openssh_with_sftp(ServedFolder::new(), lines, INTERNAL)
    }

    fn openssh_with_sftp(served: ServedFolder, lines: &str, sftp: &str) -> Self {
        let login_config = format!("UsePAM no\nKbdInteractiveAuthentication no\n{lines}\n");
        let sshd = Command::new("/usr/sbin/sshd");
        Self::sshd(served, ports::unused(), "ed25519", &login_config, &sshd, sftp)
    }

    /// OpenSSH that prompts for [`PASSWORD`] (keyboard-interactive) and allows no other login. It runs with its own
    /// PAM, [`PamWrapper`], whose user has this password.
    pub(crate) fn openssh_with_prompt() -> Self {
        let served = ServedFolder::new();
        let pam = PamWrapper::new(served.server_dir(), &current_user(), PASSWORD, "sshd");
        let sshd = pam.command("/usr/sbin/sshd");
        let login_config =
            "UsePAM yes\nKbdInteractiveAuthentication yes\nPubkeyAuthentication no\n";
        let server = Self::sshd(served, ports::unused(), "ed25519", login_config, &sshd, INTERNAL);
        Self { pam: Some(pam), ..server }
    }

    fn sshd(
        served: ServedFolder,
        addr: SocketAddrV4,
        kind: &str,
        login_config: &str,
        sshd: &Command,
        sftp: &str,
    ) -> Self {
        require_program("/usr/sbin/sshd", "openssh-server");
        let server_dir = served.server_dir().to_owned();
        let host_key = make_key(&server_dir, "host", kind);
        let identity = make_key(&server_dir, "identity", "ed25519");
        fs::copy(identity.with_extension("pub"), server_dir.join("authorized_keys")).unwrap();
        if rustix::process::getuid().is_root() {
            // The directory of sshd's privilege separation; sshd does not start without it.
            fs::create_dir_all("/run/sshd").unwrap();
        }
        let (restricted, ipv6) = (ports::unused(), ports::ipv6());
        let more_addrs: Vec<SocketAddr> =
            std::iter::once(restricted.into()).chain(ipv6.map(Into::into)).collect();
        let listen: String =
            more_addrs.iter().map(|addr| format!("ListenAddress {addr}\n")).collect();
        let config = format!(
            "ListenAddress {addr}\n{listen}HostKey {host}\nPidFile none\nStrictModes no\n{login_config}\
             AuthorizedKeysFile {server_dir}/authorized_keys\n\
             PasswordAuthentication no\nPermitRootLogin yes\n\
             UseDNS no\nMaxStartups 100\n{penalties}Subsystem sftp {sftp}\nForceCommand {sftp}\n\
             Match LocalPort {forbidding}\nForceCommand internal-sftp -P open\n",
            host = host_key.display(),
            server_dir = server_dir.display(),
            penalties = without_source_penalties(),
            forbidding = restricted.port(),
        );
        let file = server_dir.join("sshd_config");
        fs::write(&file, config).unwrap();
        let mut command = Command::new(sshd.get_program());
        command.args(sshd.get_args()).args(["-D", "-e", "-f"]).arg(&file);
        let user = current_user();
        let process = Self::start("sshd", &command, addr);
        Self { process, addr, more_addrs, served, identity, host_key, user, pam: None }
    }

    pub(crate) fn rclone() -> Self {
        let (served, addr) = (ServedFolder::new(), ports::unused());
        let server_dir = served.server_dir().to_owned();
        let host_key = make_key(&server_dir, "host", "ed25519");
        let identity = make_key(&server_dir, "identity", "ed25519");
        let mut command = Command::new(tool("cloud", "rclone", "test"));
        command.args(["serve", "sftp"]).arg(served.dir()).args(["--addr", &addr.to_string()]);
        command.args(["--user", USER, "--pass", PASSWORD, "--dir-cache-time", "0s", "--key"]);
        command.arg(&host_key).env("RCLONE_CONFIG", server_dir.join("rclone.conf"));
        let process = Self::start("rclone serve sftp", &command, addr);
        let (more_addrs, user) = (Vec::new(), USER.to_owned());
        Self { process, addr, more_addrs, served, identity, host_key, user, pam: None }
    }

    fn start(name: &str, command: &Command, addr: SocketAddrV4) -> Process {
        let mut process = Process::start(name, command);
        wait_until(&format!("{name} listens"), LONG, || {
            assert!(process.is_running(), "{name} ended\n{}", process.log());
            TcpStream::connect(addr).is_ok()
        });
        process
    }

    /// The URL of a path on an odd server, whose root is the folder.
    pub(crate) fn root_url(&self, path: &str) -> String {
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
        self.more_addrs.get(1).map(|addr| self.url_at(*addr, None))
    }

    /// The folder for the conformance suite. The suite kills the server, so this must be its last use.
    pub(crate) fn conformance_folder(&self) -> ConformanceFolder<'_> {
        let is_openssh = !self.more_addrs.is_empty();
        let (url, rejected, forbidden) = if is_openssh {
            let rejected = make_key(self.served.server_dir(), "rejected", "ed25519");
            let rejected = FetchOptions { identities: vec![rejected], ..self.options() };
            let forbidden = Client::new(self.url_at(self.more_addrs[0], None), self.options());
            (self.url(None), Client::new(self.url(None), rejected), Some(forbidden))
        } else {
            let options = FetchOptions { identities: Vec::new(), ..self.options() };
            (self.url(Some(PASSWORD)), Client::new(self.url(Some(WRONG_PASSWORD)), options), None)
        };
        let process = Some(&self.process);
        ConformanceFolder {
            rejected: Some(rejected),
            forbidden,
            process,
            ..ConformanceFolder::new(&self.served, &url)
        }
    }

    /// Accepts the private key `file` and no other.
    pub(crate) fn authorize(&self, file: &Path) {
        let authorized = self.served.server_dir().join("authorized_keys");
        fs::copy(file.with_extension("pub"), authorized).unwrap();
    }

    /// The lines of a `known_hosts` file for this server.
    pub(crate) fn known_hosts_lines(&self) -> String {
        let key = fs::read_to_string(self.host_key.with_extension("pub")).unwrap();
        let all =
            std::iter::once(SocketAddr::from(self.addr)).chain(self.more_addrs.iter().copied());
        all.map(|addr| format!("[{}]:{} {key}", addr.ip(), addr.port())).collect()
    }

    pub(crate) fn fingerprint(&self) -> String {
        let fingerprint = output(Command::new("ssh-keygen").args(["-l", "-f"]).arg(&self.host_key));
        fingerprint.split(' ').nth(1).unwrap().to_owned()
    }

    /// Writes a `known_hosts` file with this server's host key.
    pub(crate) fn known_hosts(&self) -> PathBuf {
        let file = self.served.server_dir().join("known_hosts");
        fs::write(&file, self.known_hosts_lines()).unwrap();
        file
    }

    /// Fetch options with the server's host key and an accepted private key.
    pub(crate) fn options(&self) -> FetchOptions {
        FetchOptions {
            identities: vec![self.identity.clone()],
            host_keys: HostKeyPolicy {
                known_hosts: Some(self.known_hosts()),
                accepted_fingerprint: None,
            },
            ..FetchOptions::default()
        }
    }
}

fn current_user() -> String {
    output(Command::new("id").arg("-un"))
}

/// Makes a private key without a passphrase. The public key is next to it.
pub(crate) fn make_key(dir: &Path, name: &str, kind: &str) -> PathBuf {
    require_program("ssh-keygen", "openssh-client");
    let file = dir.join(name);
    for old in [file.clone(), file.with_extension("pub")] {
        let _ = fs::remove_file(old);
    }
    output(Command::new("ssh-keygen").args(["-q", "-N", "", "-t", kind, "-f"]).arg(&file));
    file
}

/// The setting with which sshd answers a client again whose logins failed. Since 9.8 it refuses such clients for a
/// while, and all clients of a test have one address; before, the setting does not exist.
fn without_source_penalties() -> &'static str {
    let version = Command::new("ssh").arg("-V").output().expect("ssh starts").stderr;
    let version = String::from_utf8_lossy(&version).into_owned();
    let numbers = version.strip_prefix("OpenSSH_").expect("OpenSSH tells its version");
    let mut numbers = numbers.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= (9, 8) { "PerSourcePenalties no\n" } else { "" }
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
