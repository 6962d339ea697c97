//! Real proxies: OpenSSH's client, which speaks SOCKS5 (`ssh -D`), and apache, which knows `CONNECT`.

use std::{
    fs,
    net::{SocketAddrV4, TcpStream},
    os::unix::fs::PermissionsExt,
    process::Command,
};

use tempfile::TempDir;

use super::{LONG, need, ports, process::Process, ssh_server::SshServer, wait_until};

/// A proxy that answers. Dropped, it is gone.
#[derive(Debug)]
pub(crate) struct ProxyServer {
    process: Process,
    pub(crate) addr: SocketAddrV4,
    _dir: TempDir,
}

impl ProxyServer {
    /// Reaches whatever `through` reaches.
    pub(crate) fn socks5(through: &SshServer) -> Self {
        let (dir, addr) = (tempfile::tempdir().unwrap(), ports::own());
        let mut command = Command::new("ssh");
        command.args([
            "-N",
            "-F",
            "none",
            "-o",
            "ExitOnForwardFailure=yes",
            "-D",
            &addr.to_string(),
        ]);
        command.arg("-o").arg(format!("UserKnownHostsFile={}", through.known_hosts().display()));
        command.arg("-i").arg(&through.identity).args(["-p", &through.addr.port().to_string()]);
        command.arg(through.addr.ip().to_string());
        Self::start("ssh -D", &command, addr, dir)
    }

    /// Lets through who says `bob:secret`.
    pub(crate) fn connect() -> Self {
        need("/usr/sbin/apache2", "apache2-bin");
        let (dir, addr) = (tempfile::tempdir().unwrap(), ports::own());
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let own = dir.path().display();
        let hash = Command::new("openssl").args(["passwd", "-apr1", "secret"]).output().unwrap();
        let hash = String::from_utf8(hash.stdout).unwrap();
        fs::write(dir.path().join("users"), format!("bob:{hash}")).unwrap();
        let modules = [
            "mpm_event",
            "authn_core",
            "authn_file",
            "authz_core",
            "authz_user",
            "auth_basic",
            "proxy",
            "proxy_connect",
        ];
        let load = |m| format!("LoadModule {m}_module /usr/lib/apache2/modules/mod_{m}.so\n");
        let user =
            if rustix::process::getuid().is_root() { "User nobody\nGroup nogroup\n" } else { "" };
        let config = format!(
            "ServerRoot {own}\nServerName localhost\nPidFile {own}/apache.pid\nErrorLog {own}/log\n\
             Listen {addr}\n{}{user}ProxyRequests On\nAllowCONNECT 1-65535\n<Proxy *>\nAuthType Basic\n\
             AuthName bae\nAuthUserFile {own}/users\nRequire valid-user\n</Proxy>\n",
            modules.map(load).concat()
        );
        let file = dir.path().join("apache.conf");
        fs::write(&file, config).unwrap();
        let mut command = Command::new("/usr/sbin/apache2");
        command.arg("-f").arg(&file).args(["-D", "FOREGROUND"]);
        Self::start("apache2", &command, addr, dir)
    }

    fn start(name: &str, command: &Command, addr: SocketAddrV4, dir: TempDir) -> Self {
        let mut process = Process::start(name, command);
        wait_until(&format!("{name} listens"), LONG, || {
            assert!(process.is_running(), "{name} ended\n{}", process.log());
            TcpStream::connect(addr).is_ok()
        });
        Self { process, addr, _dir: dir }
    }

    /// Ends it: what needs it fails from now on.
    pub(crate) fn stop(&self) {
        self.process.kill_family();
    }
}

impl Drop for ProxyServer {
    fn drop(&mut self) {
        self.process.end();
    }
}
