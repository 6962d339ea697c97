//! FTP from real servers: the protocols' conformance suite with and without TLS, and what only FTP has.

use std::time::{Duration, Instant};

use bae::{
    Error, Kind,
    protocols::{FetchOptions, Found, Wanted, next},
};

use crate::support::{
    LONG,
    ftp_server::{FtpServer, PASSWORD},
    s3_server::runtime,
    served::protocol,
};

#[test]
fn vsftpd_keeps_the_contract() {
    let server = FtpServer::vsftpd();
    server.last_ground(&server.url("ftp")).check(server.options());
}

#[test]
fn pyftpdlib_keeps_the_contract_without_and_with_tls() {
    let server = FtpServer::pyftpd(false);
    server.ground(&server.url("ftp")).check(server.options());
    server.last_ground(&server.url_of_user("ftpes", PASSWORD)).check(server.options());
}

#[test]
fn pyftpdlib_keeps_the_contract_with_tls_from_the_first_byte() {
    let server = FtpServer::pyftpd(true);
    server.last_ground(&server.url_of_user("ftps", PASSWORD)).check(server.options());
}

#[test]
fn proftpd_keeps_the_contract_without_and_with_tls() {
    let server = FtpServer::proftpd();
    server.ground(&server.url_of_user("ftp", PASSWORD)).check(server.options());
    server.last_ground(&server.url_of_user("ftpes", PASSWORD)).check(server.options());
}

#[test]
fn rclone_keeps_the_contract_over_ftp() {
    let server = FtpServer::rclone();
    server.last_ground(&server.url_of_user("ftp", PASSWORD)).check(server.options());
}

#[test]
fn servers_may_connect_to_us() {
    for server in [FtpServer::vsftpd(), FtpServer::pyftpd(false)] {
        let options = FetchOptions { ftp_active: true, ..server.options() };
        server.last_ground(&server.url("ftp")).check(options);
    }
}

/// One server does not know `EPSV`, the other is configured to refuse it.
#[test]
fn where_epsv_is_refused_pasv_is_used() {
    for server in [FtpServer::old_pyftpd(), FtpServer::vsftpd_with("cmds_denied=EPSV")] {
        server.last_ground(&server.url("ftp")).check(server.options());
    }
}

#[test]
fn ftp_goes_by_ipv6() {
    let Some(server) = FtpServer::ipv6_pyftpd() else {
        return eprintln!("this machine has no IPv6: nothing is tested");
    };
    server.last_ground(&server.url("ftp")).check(server.options());
}

fn probe(url: &str, options: FetchOptions) -> Result<Found, Error> {
    runtime().block_on(protocol(url, options).probe(&url.parse().unwrap()))
}

/// No login is sent to a server without TLS, or to one whose certificate is not trusted.
#[test]
fn without_tls_that_can_be_trusted_nothing_is_sent() {
    let plain = FtpServer::vsftpd();
    let error = probe(&plain.url("ftpes"), plain.options()).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported, "{}", error.report());
    for (server, scheme) in [(FtpServer::pyftpd(false), "ftpes"), (FtpServer::pyftpd(true), "ftps")]
    {
        let url = server.url_of_user(scheme, PASSWORD);
        let error = probe(&url, FetchOptions::default()).unwrap_err();
        assert_eq!(error.kind(), Kind::Unauthenticated, "{scheme}: {}", error.report());
        assert!(error.hint_text().unwrap().contains("--cacert"), "{:?}", error.hint_text());
    }
}

#[test]
fn more_connections_than_an_ftp_server_allows_may_pass() {
    let server = FtpServer::vsftpd_with("max_clients=2");
    server.served.write("big.bin", &vec![7; 8 << 20]);
    let url = format!("{}big.bin", server.url("ftp"));
    let protocol = protocol(&url, server.options());
    runtime().block_on(async {
        let Found::File(remote) = protocol.probe(&url.parse().unwrap()).await.unwrap() else {
            panic!("no file")
        };
        let open = |start| protocol.open(&remote, Wanted { start, end: None });
        // The server notices some time later that a connection is closed.
        let open_in_time = async |start| {
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
        let (first, second) = (open_in_time(0).await, open_in_time(1000).await);
        let error = open(2000).await.err().expect("the third is refused");
        assert!(error.kind().is_retryable(), "{}", error.report());
        drop(first);
        // Dropping a stream frees its connection for the next one.
        let mut third = open_in_time(2000).await;
        next(&mut third).await.unwrap().unwrap();
        drop(second);
    });
}
