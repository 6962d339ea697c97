//! FTP from real servers: the suite of the protocols with and without TLS, and what only FTP has.

use std::{fs, os::unix::fs::PermissionsExt};

use bae::{
    Error, Kind,
    protocols::{FetchOptions, Found, Wanted, conformance, next},
};
use url::Url;

use crate::support::{
    ftp_server::{FtpServer, PASSWORD},
    s3_server::runtime,
    served::{Written, protocol},
};

/// What a client of `server` trusts.
fn options(server: &FtpServer) -> FetchOptions {
    let cacert = server.certificates.as_ref().map(|certificates| certificates.ca.clone());
    FetchOptions { cacert, ..FetchOptions::default() }
}

fn passes_the_suite(server: &FtpServer, url: &str, options: FetchOptions) {
    let ground = Written { served: &server.served, url: Url::parse(url).unwrap() };
    runtime().block_on(conformance::check(&*protocol(url, options), &ground));
}

#[test]
fn vsftpd_keeps_the_contract() {
    let server = FtpServer::vsftpd();
    passes_the_suite(&server, &server.url("ftp"), options(&server));
}

#[test]
fn pyftpdlib_keeps_the_contract_without_and_with_tls() {
    let server = FtpServer::pyftpd(false);
    passes_the_suite(&server, &server.url("ftp"), options(&server));
    passes_the_suite(&server, &server.url_of_user("ftpes", PASSWORD), options(&server));
}

#[test]
fn pyftpdlib_keeps_the_contract_with_tls_from_the_first_byte() {
    let server = FtpServer::pyftpd(true);
    passes_the_suite(&server, &server.url_of_user("ftps", PASSWORD), options(&server));
}

#[test]
fn proftpd_keeps_the_contract_without_and_with_tls() {
    let server = FtpServer::proftpd();
    passes_the_suite(&server, &server.url_of_user("ftp", PASSWORD), options(&server));
    passes_the_suite(&server, &server.url_of_user("ftpes", PASSWORD), options(&server));
}

#[test]
fn rclone_keeps_the_contract_over_ftp() {
    let server = FtpServer::rclone();
    passes_the_suite(&server, &server.url_of_user("ftp", PASSWORD), options(&server));
}

#[test]
fn servers_may_connect_to_us() {
    for server in [FtpServer::vsftpd(), FtpServer::pyftpd(false)] {
        let options = FetchOptions { ftp_active: true, ..options(&server) };
        passes_the_suite(&server, &server.url("ftp"), options);
    }
}

fn probe(url: &str, options: FetchOptions) -> Result<Found, Error> {
    runtime().block_on(protocol(url, options).probe(&url.parse().unwrap()))
}

#[test]
fn a_wrong_ftp_password_is_told_by_name() {
    let (vsftpd, pyftpd, proftpd, rclone) =
        (FtpServer::vsftpd(), FtpServer::pyftpd(false), FtpServer::proftpd(), FtpServer::rclone());
    for server in [&vsftpd, &pyftpd, &proftpd, &rclone] {
        let error = probe(&server.url_of_user("ftp", "hunter2"), options(server)).unwrap_err();
        assert_eq!(error.kind(), Kind::Unauthenticated, "{}", error.report());
        assert_eq!(error.kind().exit_code(), 24);
        assert!(!error.report().contains("hunter2"), "{}", error.report());
    }
}

#[test]
fn a_file_that_may_not_be_read_is_told_so() {
    // As root nothing is forbidden, so the server must not be root: proftpd changes to nobody.
    let server = FtpServer::proftpd();
    server.served.write("secret.bin", b"not for you");
    let file = server.served.dir().join("secret.bin");
    fs::set_permissions(file, fs::Permissions::from_mode(0o000)).unwrap();
    let url = format!("{}secret.bin", server.url_of_user("ftp", PASSWORD));
    let protocol = protocol(&url, options(&server));
    let error = runtime().block_on(async {
        match protocol.probe(&url.parse().unwrap()).await? {
            Found::File(remote) => protocol.open(&remote, Wanted::ALL).await.map(|_| ()),
            Found::Folder(_) => panic!("a file"),
        }
    });
    let error = error.expect_err("it may not be read");
    assert_eq!(error.kind(), Kind::PermissionDenied, "{}", error.report());
}

/// A server that has no TLS gets no login; one whose certificate nobody signed neither.
#[test]
fn without_tls_that_can_be_trusted_nothing_is_sent() {
    let plain = FtpServer::vsftpd();
    let error = probe(&plain.url("ftpes"), options(&plain)).unwrap_err();
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
    let protocol = protocol(&url, options(&server));
    runtime().block_on(async {
        let Found::File(remote) = protocol.probe(&url.parse().unwrap()).await.unwrap() else {
            panic!("no file")
        };
        let open = |start| protocol.open(&remote, Wanted { start, end: None });
        let (first, second) = (open(0).await.unwrap(), open(1000).await.unwrap());
        let error = open(2000).await.err().expect("the third is refused");
        assert!(error.kind().is_retryable(), "{}", error.report());
        drop(first);
        // A stream that was dropped has freed its connection, for whoever is next.
        let mut third = open(2000).await.unwrap();
        next(&mut third).await.unwrap().unwrap();
        drop(second);
    });
}

#[test]
fn an_ftp_server_that_goes_away_is_an_error_that_may_pass() {
    for mut server in [FtpServer::vsftpd(), FtpServer::pyftpd(false)] {
        server.served.write("big.bin", &vec![7; 64 << 20]);
        let url = format!("{}big.bin", server.url("ftp"));
        let protocol = protocol(&url, options(&server));
        runtime().block_on(async {
            let Found::File(remote) = protocol.probe(&url.parse().unwrap()).await.unwrap() else {
                panic!("no file")
            };
            let mut stream = protocol.open(&remote, Wanted::ALL).await.unwrap();
            next(&mut stream).await.unwrap().unwrap();
            server.process.kill_family();
            let error = loop {
                match next(&mut stream).await {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => break error,
                    None => panic!("the end of a file that did not come whole"),
                }
            };
            assert!(error.kind().is_retryable(), "{}", error.report());
            let error = protocol.open(&remote, Wanted::ALL).await.err().expect("nobody is there");
            assert!(error.kind().is_retryable(), "{}", error.report());
        });
    }
}
