//! `bae get`: logins, trusted certificates, and proxies of the environment.

use std::{
    fs,
    net::{Shutdown, SocketAddrV4, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    get::{args, get, out, ranged, same},
    support::{
        LONG,
        bae::{Bae, Ran},
        dav_server::DavServer,
        ftp_server::{FtpServer, PASSWORD, USER},
        need,
        nginx::Nginx,
        ports,
        process::Process,
        script,
        scripted::{Answer, Scripted},
        wait_until,
    },
};

fn with(bae: &Bae, list: &[&str], env: &[(&str, &str)]) -> Ran {
    let mut command = bae.command(args(bae, list));
    command.envs(env.iter().copied());
    let done = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: done.status.code(), stdout: text(&done.stdout), stderr: text(&done.stderr) }
}

/// A server that requires this Basic login.
fn wants(login: &'static str) -> Scripted {
    let wanted = format!("Basic {}", STANDARD.encode(login));
    Scripted::start(move |_, request| {
        Some(match request.header("authorization") == Some(wanted.as_str()) {
            true => ranged(request, b"hello"),
            false => Answer::new(401, "").with("WWW-Authenticate", "Basic realm=\"x\""),
        })
    })
}

fn sent(server: &Scripted) -> Vec<String> {
    let requests = server.requests();
    requests.iter().filter_map(|r| r.header("authorization").map(str::to_owned)).collect()
}

#[test]
fn the_user_of_a_url_has_the_password_of_the_variable() {
    let (server, bae) = (wants("bob:secret"), Bae::new());
    let url = format!("{}/f", server.url().replace("//", "//bob@"));
    with(&bae, &[&url], &[("BAE_PASSWORD", "secret")]).expect(0);
    same(&out(&bae, "f"), b"hello");
    let seen = sent(&server).len();
    // No request is sent: it would count as a failed login.
    get(&bae, &[&url, "-o", "g"]).expect(24).says("no password").says("BAE_PASSWORD");
    assert_eq!(sent(&server).len(), seen);
    with(&bae, &[&url, "-o", "h", "-u", "eve"], &[("BAE_PASSWORD", "secret")])
        .expect(0)
        .says("names \"bob\"");
    let wrong = with(&bae, &[&url, "-o", "i"], &[("BAE_PASSWORD", "wrong")]).expect(24);
    assert!(wrong.stderr.contains("the login of \"bob\" is refused"), "{}", wrong.stderr);
}

#[test]
fn the_password_of_the_variable_is_for_every_protocol() {
    let (ftp, dav, bae) = (FtpServer::pyftpd(false), DavServer::apache(), Bae::new());
    ftp.served.write("top/f.bin", b"by FTP");
    let url = ftp.url_of_user("ftp", PASSWORD).replace(&format!(":{PASSWORD}@"), "@");
    assert!(url.contains(&format!("{USER}@")), "{url}");
    let password = [("BAE_PASSWORD", PASSWORD)];
    with(&bae, &[&format!("{url}top/f.bin"), "-o", "ftp"], &password).expect(0);
    same(&out(&bae, "ftp"), b"by FTP");
    get(&bae, &[&format!("{url}top/f.bin"), "-o", "ftp2"]).expect(24).says("no password");
    dav.served.write("g.bin", b"by DAV");
    let url = dav.url(PASSWORD, "basic/g.bin").replace(&format!(":{PASSWORD}@"), "@");
    with(&bae, &[&url], &password).expect(0);
    same(&out(&bae, "g.bin"), b"by DAV");
}

#[test]
fn a_person_at_a_terminal_is_asked_for_the_password_of_a_urls_user() {
    need("python3", "python3");
    let (server, bae) = (wants("bob:secret"), Bae::new());
    let url = format!("{}/f", server.url().replace("//", "//bob@"));
    let inner = bae.command(["get", &url, "-d", out(&bae, "").to_str().unwrap()]);
    let mut command = Command::new("python3");
    command.arg(script("at_terminal.py")).arg("secret");
    command.arg(inner.get_program()).args(inner.get_args());
    for (key, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    let ran = command.output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}");
    assert!(said.contains("password of bob at 127."), "{said}");
    assert!(!said.contains("secret"), "{said}");
    same(&out(&bae, "f"), b"hello");
}

#[test]
fn a_netrc_file_may_have_several_logins_for_a_host() {
    let (server, bae) = (wants("bob:2"), Bae::new());
    let netrc = bae.home().join("netrc");
    let host = server.url().replace("http://", "");
    let host = host.split(':').next().unwrap();
    let text = format!("machine {host} login u password 1\nmachine {host} login bob password 2\n");
    fs::write(&netrc, text).unwrap();
    let url = format!("{}/f", server.url().replace("//", "//bob@"));
    get(&bae, &[&url, &format!("--netrc={}", netrc.display())]).expect(0);
    same(&out(&bae, "f"), b"hello");
}

#[test]
fn a_login_that_is_not_spoken_is_named() {
    for (offer, says, hint) in
        [("NTLM", "NTLM, which is not spoken", ""), ("Bearer realm=\"x\"", "Bearer", "--header")]
    {
        let server =
            Scripted::start(move |_, _| Some(Answer::new(401, "").with("WWW-Authenticate", offer)));
        let bae = Bae::new();
        let url = format!("{}/f", server.url());
        let ran = with(&bae, &[&url, "-u", "bob"], &[("BAE_PASSWORD", "x")]).expect(24);
        ran.says(says).says(hint);
    }
}

/// The server sends the file itself only to a client that accepts nothing else.
#[test]
fn what_the_user_accepts_is_told_to_the_server() {
    let server = Scripted::start(|_, request| {
        Some(match request.header("accept") {
            Some("application/octet-stream") => ranged(request, b"the file"),
            _ => ranged(request, b"{}"),
        })
    });
    let (bae, url) = (Bae::new(), format!("{}/f", server.url()));
    get(&bae, &[&url, "--header", "Accept: application/octet-stream"]).expect(0);
    same(&out(&bae, "f"), b"the file");
    let ran = get(&bae, &[&url, "--header", "Range: bytes=0-1", "-o", "g"]).expect(2);
    ran.says("Range").says("leave it out");
    assert!(!out(&bae, "g").exists());
}

/// The file has only the server's certificate, and not that of the authority that signed it.
#[test]
fn a_servers_own_certificate_is_trusted_when_its_file_is_named() {
    let (nginx, dav, bae) = (Nginx::start(), DavServer::apache(), Bae::new());
    nginx.serve("f.bin", b"by TLS");
    let own = nginx.certificates.certificate.to_str().unwrap();
    get(&bae, &[&nginx.tls_url("/f/f.bin"), "--cacert", own]).expect(0);
    same(&out(&bae, "f.bin"), b"by TLS");
    // Only this certificate is trusted.
    get(&bae, &[&nginx.expired_url("/f.bin"), "--cacert", own]).expect(24).says("certificate");
    let certificate = dav.certificates.as_ref().unwrap().certificate.to_str().unwrap();
    dav.served.write("g.bin", b"by DAV");
    let list = bae.home().join("list");
    // The URL is not on the command line, because it contains a password.
    fs::write(&list, dav.tls_url("basic/g.bin")).unwrap();
    get(&bae, &["-i", list.to_str().unwrap(), "--cacert", certificate]).expect(0);
    same(&out(&bae, "g.bin"), b"by DAV");
    let ftp = FtpServer::pyftpd(false);
    ftp.served.write("h.bin", b"by FTP");
    let certificate = ftp.certificates.as_ref().unwrap().certificate.to_str().unwrap();
    let url = ftp.url("ftpes");
    get(&bae, &[&url, "-o", "all", "--cacert", certificate]).expect(0);
    same(&out(&bae, "all").join("h.bin"), b"by FTP");
}

/// `openssl s_server`, which serves the files of its directory.
struct Tls {
    process: Process,
    addr: SocketAddrV4,
    certificate: PathBuf,
}

impl Tls {
    /// Starts a server with a self-signed certificate that is made with `request`. With `first` it has version 1 of
    /// X.509.
    fn start(dir: &Path, request: &[&str], first: bool, options: &[&str]) -> Self {
        need("openssl", "openssl");
        let (key, certificate) = (dir.join("key.pem"), dir.join("certificate.pem"));
        let run = |args: &[&str]| {
            let mut command = Command::new("openssl");
            let done = command.args(args).current_dir(dir).output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        };
        let made = ["-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem"];
        match first {
            true => {
                run(&[&["req", "-new", "-out", "request.pem"][..], &made, request].concat());
                let signed = ["x509", "-req", "-in", "request.pem", "-signkey", "key.pem"];
                run(&[&signed[..], &["-days", "2", "-out", "certificate.pem"]].concat());
            }
            false => {
                let out = ["req", "-x509", "-days", "2", "-out", "certificate.pem"];
                run(&[&out[..], &made, request].concat());
            }
        }
        fs::write(dir.join("f.bin"), "by TLS").unwrap();
        let addr = ports::own();
        let mut command = Command::new("openssl");
        command.args(["s_server", "-WWW", "-quiet", "-accept", &addr.to_string(), "-key"]);
        command.arg(&key).arg("-cert").arg(&certificate).args(options).current_dir(dir);
        let process = Process::start("openssl s_server", &command);
        wait_until("openssl s_server listens", LONG, || TcpStream::connect(addr).is_ok());
        Self { process, addr, certificate }
    }

    fn get(&self, trusting: bool) -> Ran {
        let bae = Bae::new();
        let certificate = self.certificate.to_str().unwrap();
        let url = format!("https://{}/f.bin", self.addr);
        let mut list = vec![url.as_str(), "-m", "2"];
        if trusting {
            list.extend(["--cacert", certificate]);
        }
        let ran = get(&bae, &list);
        assert_eq!(ran.code == Some(0), out(&bae, "f.bin").exists(), "{}", ran.stderr);
        ran
    }
}

#[test]
fn certificates_that_sign_themselves_are_trusted_for_their_names_alone() {
    let dir = tempfile::tempdir().unwrap();
    let named = ["-subj", "/CN=nas", "-addext", "subjectAltName=IP:127.0.0.0"];
    for first in [false, true] {
        let folder = dir.path().join(format!("{first}"));
        fs::create_dir(&folder).unwrap();
        let request: &[&str] = if first { &["-subj", "/CN=localhost"] } else { &named };
        let server = Tls::start(&folder, request, first, &[]);
        server.get(false).expect(24).says("--cacert");
        server.get(true).expect(24).says("it is for");
        drop(server.process);
    }
    let folder = dir.path().join("good");
    fs::create_dir(&folder).unwrap();
    for (version, first) in
        [("-tls1_2", false), ("-tls1_3", false), ("-tls1_2", true), ("-tls1_3", true)]
    {
        let request = ["-subj", "/CN=localhost"];
        let server = Tls::start(&folder, &request, first, &[version]);
        let bae = Bae::new();
        let certificate = server.certificate.to_str().unwrap();
        // The certificate is for localhost, and the server has another loopback address.
        let url = format!("https://localhost:{}/f.bin", relay(server.addr));
        let ran = get(&bae, &[&url, "--cacert", certificate, "-m", "2"]);
        assert_eq!(ran.code, Some(0), "{version} {first}: {}", ran.stderr);
        same(&out(&bae, "f.bin"), b"by TLS");
    }
}

/// Forwards connections from a port of 127.0.0.1 to `to`. Returns the port.
fn relay(to: SocketAddrV4) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            let Ok(far) = TcpStream::connect(to) else { return };
            let back = (far.try_clone().unwrap(), near.try_clone().unwrap());
            for (mut from, mut into) in [(near, far), back] {
                thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut into);
                    let _ = into.shutdown(Shutdown::Write);
                });
            }
        }
    });
    port
}

#[test]
fn what_tls_cannot_do_is_said_in_plain_words_and_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let request = ["-subj", "/CN=localhost"];
    for (options, says) in [
        (&["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"][..], "neither TLS 1.2 nor 1.3"),
        (&["-tls1_2", "-cipher", "AES128-SHA"][..], "no cipher suite in common"),
        (&["-tls1_3", "-Verify", "1"][..], "certificate"),
    ] {
        let server = Tls::start(dir.path(), &request, false, options);
        let ran = server.get(true);
        assert!(matches!(ran.code, Some(1 | 24)), "{options:?}: {:?} {}", ran.code, ran.stderr);
        ran.says(says);
    }
    let (plain, bae) = (Nginx::start(), Bae::new());
    let url = plain.url("/f/f.bin").replace("http:", "https:");
    get(&bae, &[&url, "-m", "1"]).expect(1).says("is not TLS");
    let broken = bae.home().join("broken.pem");
    fs::write(&broken, "-----BEGIN CERTIFICATE-----\nMAMC\n-----END CERTIFICATE-----\n").unwrap();
    get(&bae, &[&url, "--cacert", broken.to_str().unwrap()]).expect(2).says("broken.pem");
}

#[test]
fn a_proxy_that_is_none_is_an_error_and_star_is_for_addresses_too() {
    let server = Scripted::start(|_, request| Some(ranged(request, b"hello")));
    let url = format!("{}/f", server.url());
    for value in ["htp://127.0.0.1:1", "socks7://u:hunter2@127.0.0.1:1"] {
        let bae = Bae::new();
        let ran = with(&bae, &[&url, "-m", "1"], &[("ALL_PROXY", value)]).expect(2);
        assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
        ran.says("ALL_PROXY");
    }
    let bae = Bae::new();
    for value in ["socks://127.0.0.1:1", "SOCKS5://127.0.0.1:1"] {
        let by_proxy = with(&bae, &[&url, "-m", "1"], &[("http_proxy", value)]).expect(6);
        by_proxy.says("proxy socks5://127.0.0.1:1");
    }
    assert!(server.requests().is_empty(), "nothing goes direct");
    let direct = [("http_proxy", "http://127.0.0.1:1"), ("NO_PROXY", "*"), ("BAE_PROXY", "")];
    with(&bae, &[&url], &direct).expect(0);
}
