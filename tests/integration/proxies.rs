//! FTP and SFTP by real proxies, and by nothing else when one was named.

use bae::{
    Error, Kind,
    protocols::{FetchOptions, Found},
};

use crate::support::{
    ftp_server::{FtpServer, PASSWORD},
    proxies::ProxyServer,
    s3_server::runtime,
    served::{Written, protocol},
    ssh_server::SshServer,
};

fn through(proxy: &str, options: &FetchOptions) -> FetchOptions {
    FetchOptions { proxy: Some(proxy.parse().unwrap()), ..options.clone() }
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
