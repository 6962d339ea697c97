//! HTTP, FTP and SFTP through real proxies. When a proxy is set, nothing is sent directly.

use bae::{
    Error, Kind,
    protocols::{FetchOptions, Found},
};

use crate::{
    get::{args, out, same},
    support::{
        bae::Bae,
        ftp_server::{FtpServer, PASSWORD},
        nginx::Nginx,
        proxies::ProxyServer,
        s3_server::runtime,
        served::{Written, protocol},
        ssh_server::SshServer,
    },
};

fn through(proxy: &str, options: &FetchOptions) -> FetchOptions {
    FetchOptions { proxy: Some(proxy.parse().unwrap()), ..options.clone() }
}

fn trusting(nginx: &Nginx) -> FetchOptions {
    FetchOptions { cacert: Some(nginx.certificates.ca.clone()), ..FetchOptions::default() }
}

fn probe(url: &str, options: FetchOptions) -> Result<Found, Error> {
    runtime().block_on(protocol(url, options).probe(&url.parse().unwrap()))
}

#[test]
fn ftp_and_sftp_go_by_socks5() {
    let (ssh, ftp) = (SshServer::openssh(), FtpServer::pyftpd(false));
    let proxy = ProxyServer::socks5(&ssh);
    for scheme in ["socks5", "socks5h"] {
        let url = format!("{scheme}://{}", proxy.addr);
        let explicit = ftp.url_of_user("ftpes", PASSWORD);
        Written::new(&ftp.served, &ftp.url("ftp")).check(through(&url, &ftp.options()));
        Written::new(&ftp.served, &explicit).check(through(&url, &ftp.options()));
        Written::new(&ssh.served, &ssh.url(None)).check(through(&url, &ssh.options()));
    }
    proxy.stop();
    let url = format!("socks5://{}", proxy.addr);
    for error in [
        probe(&ftp.url("ftp"), through(&url, &ftp.options())).unwrap_err(),
        probe(&ssh.url(None), through(&url, &ssh.options())).unwrap_err(),
    ] {
        assert_eq!(error.kind(), Kind::Network, "{}", error.report());
        assert!(error.report().contains("proxy socks5://"), "{}", error.report());
    }
}

#[test]
fn ftp_and_sftp_go_by_http_connect() {
    let (ssh, ftp, proxy) = (SshServer::openssh(), FtpServer::vsftpd(), ProxyServer::connect());
    let url = format!("http://bob:secret@{}", proxy.addr);
    Written::new(&ftp.served, &ftp.url("ftp")).check(through(&url, &ftp.options()));
    Written::new(&ssh.served, &ssh.url(None)).check(through(&url, &ssh.options()));
    for login in ["", "bob:hunter2@"] {
        let url = format!("http://{login}{}", proxy.addr);
        let error = probe(&ssh.url(None), through(&url, &ssh.options())).unwrap_err();
        assert_eq!(error.kind(), Kind::Unauthenticated, "{}", error.report());
        assert!(!error.report().contains("hunter2"), "{}", error.report());
    }
}

#[test]
fn what_cannot_go_by_a_proxy_is_refused() {
    let ftp = FtpServer::pyftpd(true);
    let options = through("socks5://127.0.0.1:1", &ftp.options());
    let error = probe(&ftp.url_of_user("ftps", PASSWORD), options.clone()).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported, "{}", error.report());
    let protocols = bae::protocols::Protocols::new(FetchOptions { ftp_active: true, ..options });
    let error = protocols.of(&"ftp://x/".parse().unwrap(), None).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidInput, "{}", error.report());
}

#[test]
fn http_goes_by_socks5() {
    let ssh = SshServer::openssh();
    let proxy = ProxyServer::socks5(&ssh);
    for scheme in ["socks5", "socks5h"] {
        let url = format!("{scheme}://{}", proxy.addr);
        let (plain, second) = (Nginx::start(), Nginx::start());
        plain.ground(&plain.url("/f/")).check(through(&url, &trusting(&plain)));
        second.ground(&second.h2_url("/f/")).check(through(&url, &trusting(&second)));
    }
    let nginx = Nginx::start();
    proxy.stop();
    let url = format!("socks5://{}", proxy.addr);
    for to in [nginx.url("/f/"), nginx.tls_url("/f/")] {
        let error = probe(&to, through(&url, &trusting(&nginx))).unwrap_err();
        assert_eq!(error.kind(), Kind::Network, "{}", error.report());
        assert!(error.report().contains("proxy socks5://"), "{}", error.report());
    }
}

#[test]
fn http_goes_by_http_proxies_as_it_is_and_https_by_connect() {
    let (nginx, proxy) = (Nginx::start(), ProxyServer::connect());
    let url = format!("http://bob:secret@{}", proxy.addr);
    nginx.serve("f.bin", b"by a proxy");
    let found = probe(&nginx.url("/f/f.bin"), through(&url, &trusting(&nginx))).unwrap();
    assert!(matches!(found, Found::File(remote) if remote.len == Some(10)));
    for to in [nginx.url("/f/f.bin"), nginx.tls_url("/f/f.bin")] {
        for login in ["", "bob:hunter2@"] {
            let url = format!("http://{login}{}", proxy.addr);
            let error = probe(&to, through(&url, &trusting(&nginx))).unwrap_err();
            assert_eq!(error.kind(), Kind::Unauthenticated, "{}", error.report());
            assert!(error.hint_text().unwrap().contains("proxy"), "{:?}", error.hint_text());
            assert!(!error.report().contains("hunter2"), "{}", error.report());
        }
    }
    nginx.ground(&nginx.tls_url("/f/")).check(through(&url, &trusting(&nginx)));
}

#[test]
fn proxies_of_the_environment_are_used_but_where_it_says_not_to() {
    let (nginx, proxy, bae) = (Nginx::start(), ProxyServer::connect(), Bae::new());
    let ssh = SshServer::openssh();
    let socks = ProxyServer::socks5(&ssh);
    nginx.serve("f.bin", b"by the environment");
    let (tls, certificates) = proxy.tls.as_ref().unwrap();
    // Two certificate authorities in one file.
    let trusted = bae.home().join("ca.pem");
    let read = |path| std::fs::read_to_string(path).unwrap();
    std::fs::write(&trusted, read(&certificates.ca) + &read(&nginx.certificates.ca)).unwrap();
    let host = nginx.addr.ip().to_string();
    let run = |to: &str, name: &str, value: &str, no: &str, out: &str| {
        let list = [to, "-o", out, "--cacert", trusted.to_str().unwrap(), "-m", "1"];
        let mut command = bae.command(args(&bae, &list));
        command.env(name, value).env("NO_PROXY", no).output().unwrap()
    };
    let (http, https) = (nginx.url("/f/f.bin"), nginx.tls_url("/f/f.bin"));
    let clear = format!("http://bob:secret@{}", proxy.addr);
    let good = [
        (&http, "http_proxy", clear.clone(), ""),
        (&https, "HTTPS_PROXY", clear, ""),
        (&http, "ALL_PROXY", format!("https://bob:secret@{tls}"), ""),
        (&https, "all_proxy", format!("https://bob:s%65cret@{tls}"), ""),
        (&http, "ALL_PROXY", format!("socks4://{}", socks.addr), ""),
        (&https, "ALL_PROXY", format!("socks4a://{}", socks.addr), ""),
        // These proxies do not exist. The requests must not use them.
        (&http, "http_proxy", "http://127.0.0.1:1".to_owned(), host.as_str()),
        (&https, "http_proxy", "http://127.0.0.1:1".to_owned(), ""),
    ];
    for (number, (to, name, value, no)) in good.into_iter().enumerate() {
        let ran = run(to, name, &value, no, &number.to_string());
        assert!(ran.status.success(), "{to} {value}: {}", String::from_utf8_lossy(&ran.stderr));
        same(&out(&bae, &number.to_string()), b"by the environment");
    }
    for (value, code) in [
        ("http://127.0.0.1:1".to_owned(), 6),
        ("socks5://127.0.0.1:1".to_owned(), 6),
        (format!("https://bob:hunter2@{tls}"), 24),
    ] {
        for to in [&http, &https] {
            let ran = run(to, "ALL_PROXY", &value, "", "bad");
            let says = String::from_utf8_lossy(&ran.stderr);
            assert_eq!(ran.status.code(), Some(code), "{to} {value}: {says}");
            assert!(says.contains("proxy") && !says.contains("hunter2"), "{says}");
        }
    }
}
