//! Real proxies: OpenSSH's client as a SOCKS5 proxy (`ssh -D`), and apache as an HTTP proxy with `CONNECT`.

use std::{
    fs,
    net::{SocketAddrV4, TcpStream},
    os::unix::fs::PermissionsExt,
    process::Command,
};

use tempfile::TempDir;

use super::{
    LONG, certificates::Certificates, ports, process::Process, require_program,
    ssh_server::SshServer, wait_until,
};

/// A running proxy. Dropping it stops the proxy.
#[derive(Debug)]
pub(crate) struct ProxyServer {
    process: Process,
    pub(crate) addr: SocketAddrV4,
    /// The TLS address of the proxy, and the certificates for it.
    pub(crate) tls: Option<(SocketAddrV4, Certificates)>,
    _dir: TempDir,
}

impl ProxyServer {
    /// A SOCKS5 proxy that connects from the host of `through`.
    pub(crate) fn socks5(through: &SshServer) -> Self {
        let (dir, addr) = (tempfile::tempdir().unwrap(), ports::unused());
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
        Self::start("ssh -D", &command, addr, None, dir)
    }

    /// An HTTP proxy that requires the login `bob:secret`, at a plain-text and a TLS address.
    pub(crate) fn connect() -> Self {
        require_program("/usr/sbin/apache2", "apache2-bin");
        let (dir, addr, tls) = (tempfile::tempdir().unwrap(), ports::unused(), ports::unused());
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let dir_path = dir.path().display();
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
            "proxy_http",
            "ssl",
        ];
        let load = |m| format!("LoadModule {m}_module /usr/lib/apache2/modules/mod_{m}.so\n");
        let user =
            if rustix::process::getuid().is_root() { "User nobody\nGroup nogroup\n" } else { "" };
        let certificates = Certificates::new(dir.path(), *tls.ip());
        let config = format!(
            "ServerRoot {dir_path}\nServerName localhost\nPidFile {dir_path}/apache.pid\nErrorLog {dir_path}/log\n\
             Listen {addr}\n{}{user}ProxyRequests On\nAllowCONNECT 1-65535\n<Proxy *>\nAuthType Basic\n\
             AuthName bae\nAuthUserFile {dir_path}/users\nRequire valid-user\n</Proxy>\n\
             Listen {tls}\n<VirtualHost {tls}>\nSSLEngine on\nSSLCertificateFile {certificate}\n\
             SSLCertificateKeyFile {key}\nProxyRequests On\nAllowCONNECT 1-65535\n</VirtualHost>\n",
            modules.map(load).concat(),
            certificate = certificates.certificate.display(),
            key = certificates.key.display(),
        );
        let file = dir.path().join("apache.conf");
        fs::write(&file, config).unwrap();
        let mut command = Command::new("/usr/sbin/apache2");
        command.arg("-f").arg(&file).args(["-D", "FOREGROUND"]);
        Self::start("apache2", &command, addr, Some((tls, certificates)), dir)
    }

    fn start(
        name: &str,
        command: &Command,
        addr: SocketAddrV4,
        tls: Option<(SocketAddrV4, Certificates)>,
        dir: TempDir,
    ) -> Self {
        let mut process = Process::start(name, command);
        wait_until(&format!("{name} listens"), LONG, || {
            assert!(process.is_running(), "{name} ended\n{}", process.log());
            TcpStream::connect(addr).is_ok()
        });
        Self { process, addr, tls, _dir: dir }
    }

    /// Kills the proxy. Requests through it fail from now on.
    pub(crate) fn stop(&self) {
        self.process.kill_tree();
    }
}

impl Drop for ProxyServer {
    fn drop(&mut self) {
        self.process.terminate();
    }
}
