//! Real WebDAV servers: apache's mod_dav (Basic and Digest logins, TLS) and rclone's.

use std::{
    fs,
    net::{SocketAddrV4, TcpStream},
    os::unix::fs::PermissionsExt,
    process::Command,
};

use bae::protocols::{FetchOptions, conformance::WRONG_PASSWORD};
use md5::{Digest, Md5};

use super::{
    LONG,
    certificates::Certificates,
    ports,
    process::Process,
    require_program,
    served_folder::{Client, ConformanceFolder, ServedFolder},
    tools::tool,
    wait_until,
};

pub(crate) const USER: &str = "bob";
pub(crate) const PASSWORD: &str = "secret";
const MODULES: &str = "/usr/lib/apache2/modules";

/// A running server. Dropping it stops the server and removes its files.
#[derive(Debug)]
pub(crate) struct DavServer {
    pub(crate) process: Process,
    addr: SocketAddrV4,
    /// The HTTPS address of apache; `None` for rclone.
    tls: Option<SocketAddrV4>,
    pub(crate) served: ServedFolder,
    pub(crate) certificates: Option<Certificates>,
}

impl DavServer {
    /// apache, which serves the same folder as `/basic/`, `/digest/` and `/public/`, each with the login of its
    /// name.
    pub(crate) fn apache() -> Self {
        require_program("/usr/sbin/apache2", "apache2-bin");
        let (served, addr, tls) = (ServedFolder::new(), ports::unused(), ports::unused());
        let certificates = Certificates::new(served.server_dir(), *tls.ip());
        let server_dir = served.server_dir();
        // Started by root, apache runs as `nobody`, which must be able to create its lock files.
        let locks = server_dir.join("locks");
        fs::create_dir(&locks).unwrap();
        fs::set_permissions(&locks, fs::Permissions::from_mode(0o777)).unwrap();
        let hash = Command::new("openssl").args(["passwd", "-apr1", PASSWORD]).output().unwrap();
        let hash = String::from_utf8(hash.stdout).unwrap();
        fs::write(server_dir.join("basic"), format!("{USER}:{}\n", hash.trim())).unwrap();
        let digest = Md5::digest(format!("{USER}:bae:{PASSWORD}"));
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(server_dir.join("digest"), format!("{USER}:bae:{digest}\n")).unwrap();
        let file = server_dir.join("apache.conf");
        fs::write(&file, apache_config(&served, addr, tls, &certificates)).unwrap();
        let mut command = Command::new("/usr/sbin/apache2");
        command.arg("-f").arg(&file).args(["-D", "FOREGROUND"]);
        Self::start("apache2", &command, addr, Some(tls), served, Some(certificates))
    }

    pub(crate) fn rclone() -> Self {
        let (served, addr) = (ServedFolder::new(), ports::unused());
        let mut command = Command::new(tool("cloud", "rclone", "test"));
        command.args(["serve", "webdav"]).arg(served.dir()).args(["--addr", &addr.to_string()]);
        command.args(["--user", USER, "--pass", PASSWORD, "--dir-cache-time", "0s"]);
        command.env("RCLONE_CONFIG", served.server_dir().join("rclone.conf"));
        Self::start("rclone serve webdav", &command, addr, None, served, None)
    }

    fn start(
        name: &str,
        command: &Command,
        addr: SocketAddrV4,
        tls: Option<SocketAddrV4>,
        served: ServedFolder,
        certificates: Option<Certificates>,
    ) -> Self {
        let mut process = Process::start(name, command);
        wait_until(&format!("{name} listens"), LONG, || {
            assert!(process.is_running(), "{name} ended\n{}", process.log());
            TcpStream::connect(addr).is_ok()
        });
        Self { process, addr, tls, served, certificates }
    }

    pub(crate) fn url(&self, password: &str, path: &str) -> String {
        format!("dav://{USER}:{password}@{}/{path}", self.addr)
    }

    pub(crate) fn anonymous_url(&self, path: &str) -> String {
        format!("dav://{}/{path}", self.addr)
    }

    /// Fetch options that trust the server's certificate authority.
    pub(crate) fn options(&self) -> FetchOptions {
        let cacert = self.certificates.as_ref().map(|certificates| certificates.ca.clone());
        FetchOptions { cacert, ..FetchOptions::default() }
    }

    /// The folder at `url` for the conformance suite. The suite kills the server, so this must be its last use.
    pub(crate) fn conformance_folder(&self, url: &str) -> ConformanceFolder<'_> {
        let client = |url: &str| Some(Client::new(url.to_owned(), self.options()));
        ConformanceFolder {
            folders: url.starts_with("dav"),
            rejected: client(
                &url.replace(&format!(":{PASSWORD}@"), &format!(":{WRONG_PASSWORD}@")),
            ),
            // rclone runs as the user of the tests; for root no file is forbidden.
            forbidden: self.tls.and_then(|_| client(url)),
            process: Some(&self.process),
            ..ConformanceFolder::new(&self.served, url)
        }
    }

    pub(crate) fn tls_url(&self, path: &str) -> String {
        format!("davs://{USER}:{PASSWORD}@{}/{path}", self.tls.expect("apache's"))
    }
}

impl Drop for DavServer {
    fn drop(&mut self) {
        self.process.terminate();
    }
}

fn apache_config(
    served: &ServedFolder,
    addr: SocketAddrV4,
    tls: SocketAddrV4,
    certificates: &Certificates,
) -> String {
    let (server_dir, dir) = (served.server_dir().display(), served.dir());
    let modules = [
        "mpm_event",
        "authn_core",
        "authn_file",
        "authz_core",
        "authz_user",
        "auth_basic",
        "auth_digest",
        "alias",
        "ssl",
        "dav",
        "dav_fs",
    ];
    let modules: String =
        modules.map(|m| format!("LoadModule {m}_module {MODULES}/mod_{m}.so\n")).concat();
    let user =
        if rustix::process::getuid().is_root() { "User nobody\nGroup nogroup\n" } else { "" };
    let location = |name: &str, login: &str| {
        format!(
            "Alias /{name} {dir}\n<Location /{name}>\nDav On\n{login}</Location>\n",
            dir = dir.display()
        )
    };
    let basic = format!(
        "AuthType Basic\nAuthName bae\nAuthUserFile {server_dir}/basic\nRequire valid-user\n"
    );
    let digest = format!(
        "AuthType Digest\nAuthName bae\nAuthDigestProvider file\nAuthUserFile {server_dir}/digest\n\
         Require valid-user\n"
    );
    let locations =
        [location("basic", &basic), location("digest", &digest), location("public", "")].concat();
    format!(
        "ServerRoot {server_dir}\nServerName localhost\nPidFile {server_dir}/apache.pid\n\
         ErrorLog {server_dir}/apache.log\nListen {addr}\nListen {tls}\n{modules}{user}\
         Mutex file:{server_dir}/locks default\nDavLockDB {server_dir}/locks/dav\nDocumentRoot {dir}\n\
         <Directory {dir}>\nRequire all granted\n</Directory>\n{locations}\
         <VirtualHost {tls}>\nSSLEngine on\nSSLCertificateFile {certificate}\n\
         SSLCertificateKeyFile {key}\n</VirtualHost>\n",
        dir = dir.display(),
        certificate = certificates.certificate.display(),
        key = certificates.key.display(),
    )
}
