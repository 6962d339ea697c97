//! HTTP, FTP and SFTP through real proxies. When a proxy is set, nothing is sent directly.

use bae::{
    Error, Kind,
    protocols::{FetchOptions, UrlTarget},
};

use crate::support::{
    bae::Bae,
    ftp_server::{FtpServer, PASSWORD},
    get::{args, assert_file, out_path},
    nginx::Nginx,
    proxies::ProxyServer,
    s3_server::runtime,
    served_folder::{ConformanceFolder, protocol},
    ssh_server::SshServer,
};

fn with_proxy(proxy: &str, options: &FetchOptions) -> FetchOptions {
    FetchOptions { proxy: Some(proxy.parse().unwrap()), ..options.clone() }
}

fn options_for(nginx: &Nginx) -> FetchOptions {
    FetchOptions { cacert: Some(nginx.certificates.ca.clone()), ..FetchOptions::default() }
}

fn probe(url: &str, options: FetchOptions) -> Result<UrlTarget, Error> {
    runtime().block_on(protocol(url, options).probe(&url.parse().unwrap()))
}

#[test]
fn ftp_and_sftp_work_through_socks5() {
    let (ssh, ftp) = (SshServer::openssh(), FtpServer::pyftpd(false));
    let proxy = ProxyServer::socks5(&ssh);
    for scheme in ["socks5", "socks5h"] {
        let url = format!("{scheme}://{}", proxy.addr);
        let explicit = ftp.user_url("ftpes", PASSWORD);
        ConformanceFolder::new(&ftp.served, &ftp.url("ftp"))
            .check(with_proxy(&url, &ftp.options()));
        ConformanceFolder::new(&ftp.served, &explicit).check(with_proxy(&url, &ftp.options()));
        ConformanceFolder::new(&ssh.served, &ssh.url(None)).check(with_proxy(&url, &ssh.options()));
    }
    proxy.stop();
    let url = format!("socks5://{}", proxy.addr);
    for error in [
        probe(&ftp.url("ftp"), with_proxy(&url, &ftp.options())).unwrap_err(),
        probe(&ssh.url(None), with_proxy(&url, &ssh.options())).unwrap_err(),
    ] {
        assert_eq!(error.kind(), Kind::Network, "{}", error.report());
        assert!(error.report().contains("proxy socks5://"), "{}", error.report());
    }
}

#[test]
fn ftp_and_sftp_work_through_http_connect() {
    let (ssh, ftp, proxy) = (SshServer::openssh(), FtpServer::vsftpd(), ProxyServer::connect());
    let url = format!("http://bob:secret@{}", proxy.addr);
    ConformanceFolder::new(&ftp.served, &ftp.url("ftp")).check(with_proxy(&url, &ftp.options()));
    ConformanceFolder::new(&ssh.served, &ssh.url(None)).check(with_proxy(&url, &ssh.options()));
    for login in ["", "bob:hunter2@"] {
        let url = format!("http://{login}{}", proxy.addr);
        let error = probe(&ssh.url(None), with_proxy(&url, &ssh.options())).unwrap_err();
        assert_eq!(error.kind(), Kind::Unauthenticated, "{}", error.report());
        assert!(!error.report().contains("hunter2"), "{}", error.report());
    }
}

#[test]
fn implicit_tls_and_active_ftp_through_a_proxy_are_refused() {
    let ftp = FtpServer::pyftpd(true);
    let options = with_proxy("socks5://127.0.0.1:1", &ftp.options());
    let error = probe(&ftp.user_url("ftps", PASSWORD), options.clone()).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported, "{}", error.report());
    let protocols = bae::protocols::Protocols::new(FetchOptions { ftp_active: true, ..options });
    let error = protocols.for_url(&"ftp://x/".parse().unwrap(), None).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidInput, "{}", error.report());
}

#[test]
fn http_works_through_socks5() {
    let ssh = SshServer::openssh();
    let proxy = ProxyServer::socks5(&ssh);
    for scheme in ["socks5", "socks5h"] {
        let url = format!("{scheme}://{}", proxy.addr);
        let (plain, second) = (Nginx::start(), Nginx::start());
        plain.conformance_folder(&plain.url("/f/")).check(with_proxy(&url, &options_for(&plain)));
        second
            .conformance_folder(&second.h2_url("/f/"))
            .check(with_proxy(&url, &options_for(&second)));
    }
    let nginx = Nginx::start();
    proxy.stop();
    let url = format!("socks5://{}", proxy.addr);
    for to in [nginx.url("/f/"), nginx.tls_url("/f/")] {
        let error = probe(&to, with_proxy(&url, &options_for(&nginx))).unwrap_err();
        assert_eq!(error.kind(), Kind::Network, "{}", error.report());
        assert!(error.report().contains("proxy socks5://"), "{}", error.report());
    }
}

#[test]
fn http_works_through_an_http_proxy_and_https_through_connect() {
    let (nginx, proxy) = (Nginx::start(), ProxyServer::connect());
    let url = format!("http://bob:secret@{}", proxy.addr);
    nginx.serve("f.bin", b"by a proxy");
    let found = probe(&nginx.url("/f/f.bin"), with_proxy(&url, &options_for(&nginx))).unwrap();
    assert!(matches!(found, UrlTarget::File(remote) if remote.len == Some(10)));
    for to in [nginx.url("/f/f.bin"), nginx.tls_url("/f/f.bin")] {
        for login in ["", "bob:hunter2@"] {
            let url = format!("http://{login}{}", proxy.addr);
            let error = probe(&to, with_proxy(&url, &options_for(&nginx))).unwrap_err();
            assert_eq!(error.kind(), Kind::Unauthenticated, "{}", error.report());
            assert!(error.hint_text().unwrap().contains("proxy"), "{:?}", error.hint_text());
            assert!(!error.report().contains("hunter2"), "{}", error.report());
        }
    }
    nginx.conformance_folder(&nginx.tls_url("/f/")).check(with_proxy(&url, &options_for(&nginx)));
}

#[test]
fn proxy_variables_of_the_environment_and_no_proxy_are_followed() {
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
    let run = |to: &str, name: &str, value: &str, no_proxy: &str, out: &str| {
        let list = [to, "-o", out, "--cacert", trusted.to_str().unwrap(), "-m", "1"];
        let mut command = bae.command(args(&bae, &list));
        command.env(name, value).env("NO_PROXY", no_proxy).output().unwrap()
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
    for (number, (to, name, value, no_proxy)) in good.into_iter().enumerate() {
        let output = run(to, name, &value, no_proxy, &number.to_string());
        assert!(
            output.status.success(),
            "{to} {value}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_file(&out_path(&bae, &number.to_string()), b"by the environment");
    }
    for (value, code) in [
        ("http://127.0.0.1:1".to_owned(), 6),
        ("socks5://127.0.0.1:1".to_owned(), 6),
        (format!("https://bob:hunter2@{tls}"), 24),
    ] {
        for to in [&http, &https] {
            let output = run(to, "ALL_PROXY", &value, "", "bad");
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{to} {value}: {stderr}");
            assert!(stderr.contains("proxy") && !stderr.contains("hunter2"), "{stderr}");
        }
    }
}
