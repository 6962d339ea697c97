//! A certificate authority for one test, and its certificate for a server at an IP of 127.0.0.0/8.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
};

use super::require_program;

/// Paths of PEM files.
#[derive(Debug)]
pub(crate) struct Certificates {
    /// The certificate of the authority, which clients must trust.
    pub(crate) ca: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// Key and certificate of the server in one file.
    pub(crate) key_and_certificate: PathBuf,
}

impl Certificates {
    /// A certificate for a server at `ip` and at `localhost`.
    pub(crate) fn new(dir: &Path, ip: Ipv4Addr) -> Self {
        require_program("openssl", "openssl");
        let file = |name: &str| dir.join(name);
        let (ca, ca_key) = (file("ca.pem"), file("ca.key"));
        let (key, request, certificate) = (file("srv.key"), file("srv.csr"), file("srv.pem"));
        let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        openssl(
            Command::new("openssl")
                .args(["req", "-x509", "-days", "2", "-subj", "/CN=test CA"])
                .args(curve)
                .args(["-addext", "basicConstraints=critical,CA:TRUE"])
                .args(["-addext", "keyUsage=critical,keyCertSign,cRLSign"])
                .arg("-keyout")
                .arg(&ca_key)
                .arg("-out")
                .arg(&ca),
        );
        openssl(
            Command::new("openssl")
                .args(["req", "-subj", "/CN=localhost"])
                .args(curve)
                .arg("-keyout")
                .arg(&key)
                .arg("-out")
                .arg(&request),
        );
        let extensions = file("srv.ext");
        let text = format!(
            "subjectAltName=DNS:localhost,IP:{ip}\nextendedKeyUsage=serverAuth\n\
             basicConstraints=CA:FALSE\n"
        );
        fs::write(&extensions, text).unwrap();
        openssl(
            Command::new("openssl")
                .args(["x509", "-req", "-days", "2", "-CAcreateserial"])
                .arg("-in")
                .arg(&request)
                .arg("-CA")
                .arg(&ca)
                .arg("-CAkey")
                .arg(&ca_key)
                .arg("-out")
                .arg(&certificate)
                .arg("-extfile")
                .arg(&extensions),
        );
        let key_and_certificate = file("both.pem");
        let text = fs::read_to_string(&key).unwrap() + &fs::read_to_string(&certificate).unwrap();
        fs::write(&key_and_certificate, text).unwrap();
        Self { ca, certificate, key, key_and_certificate }
    }
}

fn openssl(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
}
