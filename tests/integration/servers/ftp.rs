//! FTP from real servers: the protocols' conformance suite with and without TLS, and what only FTP has.

use std::time::{Duration, Instant};

use bae::{
    Error, Kind,
    hints::Setting,
    protocols::{FetchOptions, RangeRequest, UrlTarget, next_bytes},
};

use crate::support::{
    LONG,
    ftp_server::{FtpServer, PASSWORD},
    s3_server::runtime,
    served_folder::protocol,
};

#[test]
fn vsftpd_passes_the_conformance_suite() {
    let server = FtpServer::vsftpd();
    server.last_conformance_folder(&server.url("ftp")).check(server.options());
}

#[test]
fn pyftpdlib_passes_the_conformance_suite_without_and_with_tls() {
    let server = FtpServer::pyftpd(false);
    server.conformance_folder(&server.url("ftp")).check(server.options());
    server.last_conformance_folder(&server.user_url("ftpes", PASSWORD)).check(server.options());
}

#[test]
fn pyftpdlib_passes_the_conformance_suite_with_implicit_tls() {
    let server = FtpServer::pyftpd(true);
    server.last_conformance_folder(&server.user_url("ftps", PASSWORD)).check(server.options());
}

#[test]
fn proftpd_passes_the_conformance_suite_without_and_with_tls() {
    let server = FtpServer::proftpd();
    server.conformance_folder(&server.user_url("ftp", PASSWORD)).check(server.options());
    server.last_conformance_folder(&server.user_url("ftpes", PASSWORD)).check(server.options());
}

#[test]
fn rclone_passes_the_conformance_suite_over_ftp() {
    let server = FtpServer::rclone();
    server.last_conformance_folder(&server.user_url("ftp", PASSWORD)).check(server.options());
}

#[test]
fn ftp_in_active_mode_passes_the_conformance_suite() {
    for server in [FtpServer::vsftpd(), FtpServer::pyftpd(false)] {
        let options = FetchOptions { ftp_active: true, ..server.options() };
        server.last_conformance_folder(&server.url("ftp")).check(options);
    }
}

/// One server does not know `EPSV`, the other is configured to refuse it.
#[test]
fn pasv_is_used_when_epsv_is_refused() {
    for server in [FtpServer::pyftpd_without_epsv(), FtpServer::vsftpd_with("cmds_denied=EPSV")] {
        server.last_conformance_folder(&server.url("ftp")).check(server.options());
    }
}

#[test]
fn ftp_works_over_ipv6() {
    let Some(server) = FtpServer::ipv6_pyftpd() else {
        return eprintln!("this machine has no IPv6: nothing is tested");
    };
    server.last_conformance_folder(&server.url("ftp")).check(server.options());
}

fn probe(url: &str, options: FetchOptions) -> Result<UrlTarget, Error> {
    runtime().block_on(protocol(url, options).probe(&url.parse().unwrap()))
}

/// No login is sent to a server without TLS, or to one whose certificate is not trusted.
#[test]
fn no_login_is_sent_without_trusted_tls() {
    let plain = FtpServer::vsftpd();
    let error = probe(&plain.url("ftpes"), plain.options()).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported, "{}", error.report());
    for (server, scheme) in [(FtpServer::pyftpd(false), "ftpes"), (FtpServer::pyftpd(true), "ftps")]
    {
        let url = server.user_url(scheme, PASSWORD);
        let error = probe(&url, FetchOptions::default()).unwrap_err();
        assert_eq!(error.kind(), Kind::Unauthenticated, "{scheme}: {}", error.report());
        let hint = error.typed_hint().unwrap();
        assert!(hint.names_setting(Setting::CaCertificates), "{hint}");
    }
}

#[test]
fn exceeding_the_connection_limit_of_an_ftp_server_is_a_temporary_error() {
    let server = FtpServer::vsftpd_with("max_clients=2");
    server.served.write("big.bin", &vec![7; 8 << 20]);
    let url = format!("{}big.bin", server.url("ftp"));
    let protocol = protocol(&url, server.options());
    runtime().block_on(async {
        let UrlTarget::File(remote) = protocol.probe(&url.parse().unwrap()).await.unwrap() else {
            panic!("no file")
        };
        let open = |start| protocol.open(&remote, RangeRequest { start, end: None });
        // The server notices some time later that a connection is closed.
        let open_when_free = async |start| {
            let end = Instant::now() + LONG;
            loop {
                match open(start).await {
                    Err(e) if e.kind().is_retryable() && Instant::now() < end => {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    opened => return opened.unwrap(),
                }
            }
        };
        let (first, second) = (open_when_free(0).await, open_when_free(1000).await);
        let error = open(2000).await.err().expect("the third is refused");
        assert!(error.kind().is_retryable(), "{}", error.report());
        drop(first);
        // Dropping a stream frees its connection for the next one.
        let mut third = open_when_free(2000).await;
        next_bytes(&mut third).await.unwrap().unwrap();
        drop(second);
    });
}
