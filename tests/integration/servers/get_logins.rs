//! `bae get`: logins, trusted certificates, and proxies of the environment.

use std::{
    fs,
    net::{Shutdown, SocketAddrV4, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::support::{
    LONG,
    bae::{Bae, CommandOutput},
    dav_server::DavServer,
    ftp_server::{FtpServer, PASSWORD, USER},
    get::{args, assert_file, get, out_path, ranged},
    nginx::Nginx,
    ports,
    process::Process,
    require_program, script,
    scripted_http::{Answer, ScriptedHttp},
    wait_until,
};

fn get_with_env(bae: &Bae, list: &[&str], env: &[(&str, &str)]) -> CommandOutput {
    let mut command = bae.command(args(bae, list));
    command.envs(env.iter().copied());
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    CommandOutput {
        code: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

/// A server that requires this Basic login.
fn requires_login(login: &'static str) -> ScriptedHttp {
    let wanted = format!("Basic {}", STANDARD.encode(login));
    ScriptedHttp::start(move |_, request| {
        Some(match request.header("authorization") == Some(wanted.as_str()) {
            true => ranged(request, b"hello"),
            false => Answer::new(401, "").with("WWW-Authenticate", "Basic realm=\"x\""),
        })
    })
}

fn sent_logins(server: &ScriptedHttp) -> Vec<String> {
    let requests = server.requests();
    requests.iter().filter_map(|r| r.header("authorization").map(str::to_owned)).collect()
}

#[test]
fn the_password_variable_applies_to_the_user_of_a_url() {
    let (server, bae) = (requires_login("bob:secret"), Bae::new());
    let url = format!("{}/f", server.url().replace("//", "//bob@"));
    get_with_env(&bae, &[&url], &[("BAE_PASSWORD", "secret")]).expect(0);
    assert_file(&out_path(&bae, "f"), b"hello");
    let count = sent_logins(&server).len();
    // No request is sent: it would count as a failed login.
    get(&bae, &[&url, "-o", "g"])
        .expect(24)
        .expect_stderr("no password")
        .expect_stderr("BAE_PASSWORD");
    assert_eq!(sent_logins(&server).len(), count);
    get_with_env(&bae, &[&url, "-o", "h", "-u", "eve"], &[("BAE_PASSWORD", "secret")])
        .expect(0)
        .expect_stderr("names user \"bob\"");
    let wrong = get_with_env(&bae, &[&url, "-o", "i"], &[("BAE_PASSWORD", "wrong")]).expect(24);
    assert!(wrong.stderr.contains("the login of \"bob\" is refused"), "{}", wrong.stderr);
}

#[test]
fn the_password_variable_applies_to_every_protocol() {
    let (ftp, dav, bae) = (FtpServer::pyftpd(false), DavServer::apache(), Bae::new());
    ftp.served.write("top/f.bin", b"by FTP");
    let url = ftp.user_url("ftp", PASSWORD).replace(&format!(":{PASSWORD}@"), "@");
    assert!(url.contains(&format!("{USER}@")), "{url}");
    let password = [("BAE_PASSWORD", PASSWORD)];
    get_with_env(&bae, &[&format!("{url}top/f.bin"), "-o", "ftp"], &password).expect(0);
    assert_file(&out_path(&bae, "ftp"), b"by FTP");
    get(&bae, &[&format!("{url}top/f.bin"), "-o", "ftp2"]).expect(24).expect_stderr("no password");
    dav.served.write("g.bin", b"by DAV");
    let url = dav.url(PASSWORD, "basic/g.bin").replace(&format!(":{PASSWORD}@"), "@");
    get_with_env(&bae, &[&url], &password).expect(0);
    assert_file(&out_path(&bae, "g.bin"), b"by DAV");
}

#[test]
fn a_terminal_user_is_prompted_for_the_password_of_the_user_of_a_url() {
    require_program("python3", "python3");
    let (server, bae) = (requires_login("bob:secret"), Bae::new());
    let url = format!("{}/f", server.url().replace("//", "//bob@"));
    let inner = bae.command(["get", &url, "-d", out_path(&bae, "").to_str().unwrap()]);
    let mut command = Command::new("python3");
    command.arg(script("at_terminal.py")).arg("secret");
    command.arg(inner.get_program()).args(inner.get_args());
    for (key, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    let output = command.output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{shown}");
    assert!(shown.contains("password of bob at 127."), "{shown}");
    assert!(!shown.contains("secret"), "{shown}");
    assert_file(&out_path(&bae, "f"), b"hello");
}

#[test]
fn a_netrc_file_may_have_several_logins_for_a_host() {
    let (server, bae) = (requires_login("bob:2"), Bae::new());
    let netrc = bae.home().join("netrc");
    let host = server.url().replace("http://", "");
    let host = host.split(':').next().unwrap();
    let text = format!("machine {host} login u password 1\nmachine {host} login bob password 2\n");
    fs::write(&netrc, text).unwrap();
    let url = format!("{}/f", server.url().replace("//", "//bob@"));
    get(&bae, &[&url, &format!("--netrc={}", netrc.display())]).expect(0);
    assert_file(&out_path(&bae, "f"), b"hello");
}

#[test]
fn an_unsupported_login_scheme_is_named_in_the_error() {
    for (offer, message, hint) in
        [("NTLM", "NTLM, which is not supported", ""), ("Bearer realm=\"x\"", "Bearer", "--header")]
    {
        let server = ScriptedHttp::start(move |_, _| {
            Some(Answer::new(401, "").with("WWW-Authenticate", offer))
        });
        let bae = Bae::new();
        let url = format!("{}/f", server.url());
        let output = get_with_env(&bae, &[&url, "-u", "bob"], &[("BAE_PASSWORD", "x")]).expect(24);
        output.expect_stderr(message).expect_stderr(hint);
    }
}

/// The server sends the file itself only to a client that accepts nothing else.
#[test]
fn an_accept_header_of_the_user_is_sent_and_a_range_header_is_refused() {
    let server = ScriptedHttp::start(|_, request| {
        Some(match request.header("accept") {
            Some("application/octet-stream") => ranged(request, b"the file"),
            _ => ranged(request, b"{}"),
        })
    });
    let (bae, url) = (Bae::new(), format!("{}/f", server.url()));
    get(&bae, &[&url, "--header", "Accept: application/octet-stream"]).expect(0);
    assert_file(&out_path(&bae, "f"), b"the file");
    let output = get(&bae, &[&url, "--header", "Range: bytes=0-1", "-o", "g"]).expect(2);
    output.expect_stderr("Range").expect_stderr("leave it out");
    assert!(!out_path(&bae, "g").exists());
}

/// The file has only the server's certificate, and not that of the authority that signed it.
#[test]
fn a_server_certificate_given_with_cacert_is_trusted() {
    let (nginx, dav, bae) = (Nginx::start(), DavServer::apache(), Bae::new());
    nginx.serve("f.bin", b"by TLS");
    let nginx_certificate = nginx.certificates.certificate.to_str().unwrap();
    get(&bae, &[&nginx.tls_url("/f/f.bin"), "--cacert", nginx_certificate]).expect(0);
    assert_file(&out_path(&bae, "f.bin"), b"by TLS");
    // Only this certificate is trusted.
    get(&bae, &[&nginx.expired_url("/f.bin"), "--cacert", nginx_certificate])
        .expect(24)
        .expect_stderr("certificate");
    let certificate = dav.certificates.as_ref().unwrap().certificate.to_str().unwrap();
    dav.served.write("g.bin", b"by DAV");
    let list = bae.home().join("list");
    // The URL is not on the command line, because it contains a password.
    fs::write(&list, dav.tls_url("basic/g.bin")).unwrap();
    get(&bae, &["-i", list.to_str().unwrap(), "--cacert", certificate]).expect(0);
    assert_file(&out_path(&bae, "g.bin"), b"by DAV");
    let ftp = FtpServer::pyftpd(false);
    ftp.served.write("h.bin", b"by FTP");
    let certificate = ftp.certificates.as_ref().unwrap().certificate.to_str().unwrap();
    let url = ftp.url("ftpes");
    get(&bae, &[&url, "-o", "all", "--cacert", certificate]).expect(0);
    assert_file(&out_path(&bae, "all").join("h.bin"), b"by FTP");
}

/// `openssl s_server`, which serves the files of its directory.
struct Tls {
    process: Process,
    addr: SocketAddrV4,
    certificate: PathBuf,
}

impl Tls {
    /// Starts a server with a self-signed certificate that is made with `request`. With `version_1`
    /// it has version 1 of X.509.
    fn start(dir: &Path, request: &[&str], version_1: bool, options: &[&str]) -> Self {
        require_program("openssl", "openssl");
        let (key, certificate) = (dir.join("key.pem"), dir.join("certificate.pem"));
        let run = |args: &[&str]| {
            let mut command = Command::new("openssl");
            let output = command.args(args).current_dir(dir).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        let new_key = ["-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem"];
        match version_1 {
            true => {
                run(&[&["req", "-new", "-out", "request.pem"][..], &new_key, request].concat());
                let self_signed = ["x509", "-req", "-in", "request.pem", "-signkey", "key.pem"];
                run(&[&self_signed[..], &["-days", "2", "-out", "certificate.pem"]].concat());
            }
            false => {
                let out = ["req", "-x509", "-days", "2", "-out", "certificate.pem"];
                run(&[&out[..], &new_key, request].concat());
            }
        }
        fs::write(dir.join("f.bin"), "by TLS").unwrap();
        let addr = ports::unused();
        let mut command = Command::new("openssl");
        command.args(["s_server", "-WWW", "-quiet", "-accept", &addr.to_string(), "-key"]);
        command.arg(&key).arg("-cert").arg(&certificate).args(options).current_dir(dir);
        let process = Process::start("openssl s_server", &command);
        wait_until("openssl s_server listens", LONG, || TcpStream::connect(addr).is_ok());
        Self { process, addr, certificate }
    }

    fn get(&self, trusting: bool) -> CommandOutput {
        let bae = Bae::new();
        let certificate = self.certificate.to_str().unwrap();
        let url = format!("https://{}/f.bin", self.addr);
        let mut list = vec![url.as_str(), "-m", "2"];
        if trusting {
            list.extend(["--cacert", certificate]);
        }
        let output = get(&bae, &list);
        assert_eq!(output.code == Some(0), out_path(&bae, "f.bin").exists(), "{}", output.stderr);
        output
    }
}

#[test]
fn self_signed_certificates_are_trusted_only_for_their_names() {
    let dir = tempfile::tempdir().unwrap();
    let named = ["-subj", "/CN=nas", "-addext", "subjectAltName=IP:127.0.0.0"];
    for version_1 in [false, true] {
        let folder = dir.path().join(format!("{version_1}"));
        fs::create_dir(&folder).unwrap();
        let request: &[&str] = if version_1 { &["-subj", "/CN=localhost"] } else { &named };
        let server = Tls::start(&folder, request, version_1, &[]);
        server.get(false).expect(24).expect_stderr("--cacert");
        server.get(true).expect(24).expect_stderr("it is for");
        drop(server.process);
    }
    let folder = dir.path().join("good");
    fs::create_dir(&folder).unwrap();
    for (version, version_1) in
        [("-tls1_2", false), ("-tls1_3", false), ("-tls1_2", true), ("-tls1_3", true)]
    {
        let request = ["-subj", "/CN=localhost"];
        let server = Tls::start(&folder, &request, version_1, &[version]);
        let bae = Bae::new();
        let certificate = server.certificate.to_str().unwrap();
        // The certificate is for localhost, and the server has another loopback address.
        let url = format!("https://localhost:{}/f.bin", relay(server.addr));
        let output = get(&bae, &[&url, "--cacert", certificate, "-m", "2"]);
        assert_eq!(output.code, Some(0), "{version} {version_1}: {}", output.stderr);
        assert_file(&out_path(&bae, "f.bin"), b"by TLS");
    }
}

/// Forwards connections from a port of 127.0.0.1 to `to`. Returns the port.
fn relay(to: SocketAddrV4) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(to) else { return };
            let reverse = (server.try_clone().unwrap(), client.try_clone().unwrap());
            for (mut from, mut to) in [(client, server), reverse] {
                thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    port
}

#[test]
fn tls_failures_are_explained_and_not_retried() {
    let dir = tempfile::tempdir().unwrap();
    let request = ["-subj", "/CN=localhost"];
    for (options, message) in [
        (&["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"][..], "neither TLS 1.2 nor 1.3"),
        (&["-tls1_2", "-cipher", "AES128-SHA"][..], "no cipher suite in common"),
        (&["-tls1_3", "-Verify", "1"][..], "certificate"),
    ] {
        let server = Tls::start(dir.path(), &request, false, options);
        let output = server.get(true);
        assert!(
            matches!(output.code, Some(1 | 24)),
            "{options:?}: {:?} {}",
            output.code,
            output.stderr
        );
        output.expect_stderr(message);
    }
    let (plain, bae) = (Nginx::start(), Bae::new());
    let url = plain.url("/f/f.bin").replace("http:", "https:");
    get(&bae, &[&url, "-m", "1"]).expect(1).expect_stderr("is not TLS");
    let broken = bae.home().join("broken.pem");
    fs::write(&broken, "-----BEGIN CERTIFICATE-----\nMAMC\n-----END CERTIFICATE-----\n").unwrap();
    get(&bae, &[&url, "--cacert", broken.to_str().unwrap()]).expect(2).expect_stderr("broken.pem");
}

#[test]
fn an_invalid_proxy_is_an_error_and_a_no_proxy_star_matches_addresses() {
    let server = ScriptedHttp::start(|_, request| Some(ranged(request, b"hello")));
    let url = format!("{}/f", server.url());
    for value in ["htp://127.0.0.1:1", "socks7://u:hunter2@127.0.0.1:1"] {
        let bae = Bae::new();
        let output = get_with_env(&bae, &[&url, "-m", "1"], &[("ALL_PROXY", value)]).expect(2);
        assert!(!output.stderr.contains("hunter2"), "{}", output.stderr);
        output.expect_stderr("ALL_PROXY");
    }
    let bae = Bae::new();
    for value in ["socks://127.0.0.1:1", "SOCKS5://127.0.0.1:1"] {
        let by_proxy = get_with_env(&bae, &[&url, "-m", "1"], &[("http_proxy", value)]).expect(6);
        by_proxy.expect_stderr("proxy socks5://127.0.0.1:1");
    }
    assert!(server.requests().is_empty(), "a request bypassed the proxy");
    let direct = [("http_proxy", "http://127.0.0.1:1"), ("NO_PROXY", "*"), ("BAE_PROXY", "")];
    get_with_env(&bae, &[&url], &direct).expect(0);
}
