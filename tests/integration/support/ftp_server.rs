//! Real FTP servers, each with its own folder and address. They run as the user of the tests (proftpd, started by
//! root, as `nobody`).
//!
//! vsftpd has no `MLSD` and here only anonymous users, because others need PAM. pyftpdlib and proftpd have both,
//! and TLS. rclone supports few commands.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
};

use bae::protocols::{FetchOptions, conformance::WRONG_PASSWORD};

use super::{
    LONG,
    certificates::Certificates,
    ports,
    process::Process,
    require_program, script,
    served_folder::{Client, ConformanceFolder, FORBIDDEN, ServedFolder},
    tools::{cache, tool},
    wait_until,
};

pub(crate) const USER: &str = "bob";
pub(crate) const PASSWORD: &str = "secret";

/// A running server. Dropping it stops the server and removes its files.
#[derive(Debug)]
pub(crate) struct FtpServer {
    pub(crate) process: Process,
    pub(crate) addr: SocketAddr,
    pub(crate) served: ServedFolder,
    pub(crate) certificates: Option<Certificates>,
    /// The user that may not read the forbidden file; `None` for rclone.
    restricted_user: Option<&'static str>,
}

impl FtpServer {
    pub(crate) fn vsftpd() -> Self {
        Self::vsftpd_with("")
    }

    /// vsftpd with more lines of configuration.
    pub(crate) fn vsftpd_with(lines: &str) -> Self {
        let (served, addr) = (ServedFolder::new(), ports::unused());
        let config = format!(
            "listen=YES\nlisten_address={ip}\nlisten_port={port}\nbackground=NO\n\
             run_as_launching_user=YES\nlocal_enable=NO\nanonymous_enable=YES\nno_anon_password=YES\n\
             anon_root={dir}\nanon_world_readable_only=NO\nallow_writeable_chroot=YES\n\
             seccomp_sandbox=NO\nisolate=NO\nisolate_network=NO\nconnect_from_port_20=NO\n\
             port_promiscuous=YES\npasv_address={ip}\nxferlog_enable=NO\n\
             deny_file={FORBIDDEN}\n{lines}\n",
            ip = addr.ip(),
            port = addr.port(),
            dir = served.dir().display(),
        );
        let file = served.server_dir().join("vsftpd.conf");
        fs::write(&file, config).unwrap();
        let mut command = Command::new(tool("vsftpd", "vsftpd", "test"));
        command.arg(&file);
        let server = Self::start("vsftpd", &command, addr, served, None);
        Self { restricted_user: Some("anonymous"), ..server }
    }

    /// pyftpdlib with explicit TLS (on request), or with implicit TLS (from the first byte).
    pub(crate) fn pyftpd(implicit: bool) -> Self {
        Self::pyftpd_at(ports::unused().into(), implicit.then_some("implicit"))
    }

    /// pyftpdlib without `EPSV`.
    pub(crate) fn pyftpd_without_epsv() -> Self {
        Self::pyftpd_at(ports::unused().into(), Some("no-epsv"))
    }

    /// pyftpdlib at an IPv6 address; `None` on a machine without IPv6.
    pub(crate) fn ipv6_pyftpd() -> Option<Self> {
        ports::ipv6().map(|addr| Self::pyftpd_at(addr.into(), None))
    }

    fn pyftpd_at(addr: SocketAddr, mode: Option<&str>) -> Self {
        let served = ServedFolder::new();
        let ip = match addr {
            SocketAddr::V4(addr) => *addr.ip(),
            SocketAddr::V6(_) => Ipv4Addr::LOCALHOST,
        };
        let certificates = Certificates::new(served.server_dir(), ip);
        let _ = tool("cloud", "ftpbench", "test");
        let mut command = Command::new(cache().join("tools/cloud/bin/python"));
        command.arg(script("pyftpd.py")).args([addr.ip().to_string(), addr.port().to_string()]);
        command.arg(served.dir()).arg(&certificates.key_and_certificate);
        command.args(mode);
        let server = Self::start("pyftpdlib", &command, addr, served, Some(certificates));
        Self { restricted_user: Some("restricted"), ..server }
    }

    pub(crate) fn proftpd() -> Self {
        require_program("/usr/sbin/proftpd", "proftpd-core");
        require_program("/usr/lib/proftpd/mod_tls.so", "proftpd-mod-crypto");
        let (served, addr) = (ServedFolder::new(), ports::unused());
        let certificates = Certificates::new(served.server_dir(), *addr.ip());
        let server_dir = served.server_dir().display().to_string();
        let file = served.server_dir().join("proftpd.conf");
        fs::write(&file, proftpd_config(&server_dir, addr, &certificates)).unwrap();
        let passwd = served.server_dir().join("passwd");
        let hash = Command::new("openssl").args(["passwd", "-6", PASSWORD]).output().unwrap();
        let hash = String::from_utf8(hash.stdout).unwrap();
        let (uid, gid) = server_ids();
        let line = format!("{USER}:{}:{uid}:{gid}::{server_dir}/pub:/bin/false\n", hash.trim());
        fs::write(&passwd, line).unwrap();
        make_private(&passwd);
        make_private(&certificates.key);
        let mut command = Command::new("/usr/sbin/proftpd");
        command.arg("-n").arg("-c").arg(&file);
        let server = Self::start("proftpd", &command, addr, served, Some(certificates));
        Self { restricted_user: Some(USER), ..server }
    }

    pub(crate) fn rclone() -> Self {
        let (served, addr) = (ServedFolder::new(), ports::unused());
        let mut command = Command::new(tool("cloud", "rclone", "test"));
        command.args(["serve", "ftp"]).arg(served.dir()).args(["--addr", &addr.to_string()]);
        command.args(["--user", USER, "--pass", PASSWORD, "--dir-cache-time", "0s"]);
        command.env("RCLONE_CONFIG", served.server_dir().join("rclone.conf"));
        Self::start("rclone serve ftp", &command, addr, served, None)
    }

    fn start(
        name: &str,
        command: &Command,
        addr: impl Into<SocketAddr>,
        served: ServedFolder,
        certificates: Option<Certificates>,
    ) -> Self {
        let addr = addr.into();
        let mut process = Process::start(name, command);
        wait_until(&format!("{name} listens"), LONG, || {
            assert!(process.is_running(), "{name} ended\n{}", process.log());
            TcpStream::connect(addr).is_ok()
        });
        Self { process, addr, served, certificates, restricted_user: None }
    }

    /// The URL without a login.
    pub(crate) fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}/", self.addr)
    }

    pub(crate) fn user_url(&self, scheme: &str, password: &str) -> String {
        format!("{scheme}://{USER}:{password}@{}/", self.addr)
    }

    /// Fetch options that trust the server's certificate authority.
    pub(crate) fn options(&self) -> FetchOptions {
        let cacert = self.certificates.as_ref().map(|certificates| certificates.ca.clone());
        FetchOptions { cacert, ..FetchOptions::default() }
    }

    /// The folder at `url` for the conformance suite.
    pub(crate) fn conformance_folder(&self, url: &str) -> ConformanceFolder<'_> {
        let scheme = url.split(':').next().expect("a URL has a scheme");
        let client = |url: String| Some(Client::new(url, self.options()));
        ConformanceFolder {
            rejected: client(self.user_url(scheme, WRONG_PASSWORD)),
            forbidden: self
                .restricted_user
                .as_ref()
                .and_then(|user| client(format!("{scheme}://{user}:{PASSWORD}@{}/", self.addr))),
            ..ConformanceFolder::new(&self.served, url)
        }
    }

    /// [`FtpServer::conformance_folder`] for the last use of this server: the suite kills it.
    pub(crate) fn last_conformance_folder(&self, url: &str) -> ConformanceFolder<'_> {
        ConformanceFolder { process: Some(&self.process), ..self.conformance_folder(url) }
    }
}

/// The user and group ids of proftpd's user. For root these are the ids of `nobody`.
fn server_ids() -> (u32, u32) {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    if uid == 0 { (65_534, 65_534) } else { (uid, gid) }
}

fn make_private(file: &Path) {
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

fn proftpd_config(server_dir: &str, addr: SocketAddrV4, certificates: &Certificates) -> String {
    let name = |flag| {
        let output = Command::new("id").arg(flag).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    // Only root can change the root directory; other users start in the user's folder.
    let (user, group, top) = match rustix::process::getuid().is_root() {
        true => {
            ("nobody".to_owned(), "nogroup".to_owned(), format!("DefaultRoot {server_dir}/pub\n"))
        }
        false => (name("-un"), name("-gn"), String::new()),
    };
    // Debian 13 has transfers and listings in modules, Debian 12 in the program.
    let is_module = |name: &&str| Path::new(&format!("/usr/lib/proftpd/{name}.so")).exists();
    let modules = ["mod_tls", "mod_xfer", "mod_ls"].into_iter().filter(is_module);
    let modules: String = modules.map(|name| format!("LoadModule {name}.c\n")).collect();
    format!(
        "{modules}ServerName test\nServerType standalone\nUseIPv6 off\n\
         DefaultAddress {ip}\nSocketBindTight on\nPort {port}\nUser {user}\nGroup {group}\n\
         PidFile {server_dir}/proftpd.pid\nScoreboardFile {server_dir}/scoreboard\nSystemLog {server_dir}/proftpd.log\n\
         TransferLog none\nWtmpLog off\n<IfModule mod_delay.c>\nDelayEngine off\n</IfModule>\nRequireValidShell off\nUseFtpUsers off\n\
         AuthOrder mod_auth_file.c\nAuthUserFile {server_dir}/passwd\n{top}\
         UseReverseDNS off\nTLSEngine on\nTLSRequired off\nTLSECCertificateFile {cert}\n\
         TLSECCertificateKeyFile {key}\nTLSLog {server_dir}/tls.log\n",
        ip = addr.ip(),
        port = addr.port(),
        cert = certificates.certificate.display(),
        key = certificates.key.display(),
    )
}
