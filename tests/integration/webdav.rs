//! WebDAV from real servers: the suite of the protocols with every login, and answers that are none.

use bae::{Error, Kind, protocols::FetchOptions};

use crate::support::{
    dav_server::{DavServer, PASSWORD},
    s3_server::runtime,
    scripted::{Answer, Scripted},
    served::protocol,
};

fn refused(url: &str, options: FetchOptions) -> Error {
    let probe = runtime().block_on(protocol(url, options).probe(&url.parse().unwrap()));
    let error = probe.expect_err("a refusal was wanted");
    assert!(!error.report().contains(PASSWORD), "{}", error.report());
    error
}

#[test]
fn apache_keeps_the_contract_with_basic_logins() {
    let server = DavServer::apache();
    server.ground(&server.url(PASSWORD, "basic/")).check(server.options());
}

#[test]
fn apache_keeps_the_contract_with_digest_logins() {
    let server = DavServer::apache();
    server.ground(&server.url(PASSWORD, "digest/")).check(server.options());
}

#[test]
fn apache_keeps_the_contract_over_tls() {
    let server = DavServer::apache();
    server.ground(&server.tls_url("basic/")).check(server.options());
}

#[test]
fn rclone_keeps_the_contract_over_webdav() {
    let server = DavServer::rclone();
    server.ground(&server.url(PASSWORD, "")).check(server.options());
}

#[test]
fn a_webdav_server_that_wants_a_login_is_told_by_name() {
    let server = DavServer::apache();
    for place in ["basic/", "digest/"] {
        let error = refused(&server.url_of_anyone(place), server.options());
        assert_eq!(error.kind(), Kind::Unauthenticated, "{place}: {}", error.report());
        assert_eq!(error.kind().exit_code(), 24);
    }
}

#[test]
fn a_certificate_that_nobody_signed_is_refused_over_webdav() {
    let server = DavServer::apache();
    let error = refused(&server.tls_url("basic/"), FetchOptions::default());
    assert_eq!(error.kind(), Kind::Unauthenticated, "{}", error.report());
    assert!(error.hint_text().unwrap().contains("--cacert"));
}

const ANSWER: &str = "<?xml version=\"1.0\"?><multistatus xmlns=\"DAV:\"><response><href>";

/// A server that says that what it is asked for is a folder, and that `href` is one in it.
fn server_with(href: &'static str) -> Scripted {
    Scripted::start(move |_, request| {
        let href = if request.header("depth") == Some("0") { "/top/" } else { href };
        let body = format!(
            "{ANSWER}{href}</href><propstat><prop><resourcetype><collection/></resourcetype></prop>\
             <status>HTTP/1.1 200 OK</status></propstat></response></multistatus>"
        );
        Some(Answer::new(207, body))
    })
}

fn dav_url(server: &Scripted, path: &str) -> String {
    format!("{}/{path}", server.url().replace("http:", "dav:"))
}

#[test]
fn a_listing_that_leads_elsewhere_is_refused() {
    for (href, why) in [
        ("/etc/", "which is not in it"),
        ("/top/../other/", "which is not in it"),
        ("/top/..%2F..%2Fetc/", "which is no name"),
    ] {
        let server = server_with(href);
        let error = refused(&dav_url(&server, "top/"), FetchOptions::default());
        assert_eq!(error.kind(), Kind::Unsupported, "{href}: {}", error.report());
        assert!(error.report().contains(why), "{href}: {}", error.report());
    }
}

#[test]
fn a_place_without_webdav_is_told_so() {
    let server = Scripted::start(|_, _| Some(Answer::new(200, "<html>")));
    let error = refused(&dav_url(&server, "x"), FetchOptions::default());
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.report().contains("WebDAV is not spoken here"), "{}", error.report());
}
