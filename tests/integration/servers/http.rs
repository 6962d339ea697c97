//! HTTP from real servers: the protocols' conformance suite with every login, over TLS, HTTP/2 and IPv6.

use bae::protocols::FetchOptions;

use crate::support::{
    MIB,
    bae::Bae,
    dav_server,
    dav_server::DavServer,
    get::{assert_file, get, out_path},
    nginx::Nginx,
    random,
};

fn options(nginx: &Nginx) -> FetchOptions {
    FetchOptions { cacert: Some(nginx.certificates.ca.clone()), ..FetchOptions::default() }
}

#[test]
fn nginx_passes_the_conformance_suite() {
    let nginx = Nginx::start();
    nginx.conformance_folder(&nginx.url("/f/")).check(options(&nginx));
}

#[test]
fn nginx_passes_the_conformance_suite_over_tls() {
    let nginx = Nginx::start();
    nginx.conformance_folder(&nginx.tls_url("/f/")).check(options(&nginx));
}

/// Long ranges get their own connection and ask for HTTP/1.1 first, which such a server refuses.
#[test]
fn a_server_that_speaks_only_http_2_passes_the_conformance_suite() {
    let nginx = Nginx::start();
    nginx.conformance_folder(&nginx.h2_url("/f/")).check(options(&nginx));
}

#[test]
fn http_works_over_ipv6() {
    let nginx = Nginx::start();
    let Some(url) = nginx.ipv6_url("/f/") else {
        return eprintln!("this machine has no IPv6: nothing is tested");
    };
    nginx.conformance_folder(&url).check(options(&nginx));
}

#[test]
fn nginx_passes_the_conformance_suite_with_a_login() {
    let nginx = Nginx::start();
    let url = nginx.url("/auth/").replace("//", "//bob:secret@");
    nginx.conformance_folder(&url).check(options(&nginx));
}

#[test]
fn apache_passes_the_http_conformance_suite_with_digest_logins() {
    let server = DavServer::apache();
    let url = server.url(dav_server::PASSWORD, "digest/").replace("dav:", "http:");
    server.conformance_folder(&url).check(server.options());
}

#[test]
fn a_cookie_set_by_a_redirect_is_sent_for_the_file() {
    let (nginx, bae, data) = (Nginx::start(), Bae::new(), random(81, 5 * MIB));
    nginx.serve("f.bin", &data);
    get(&bae, &[&nginx.url("/members/f.bin")]).expect(24);
    get(&bae, &[&nginx.url("/login/f.bin"), "-x", "4"]).expect(0);
    assert_file(&out_path(&bae, "f.bin"), &data);
    // Cookies are not kept after the run.
    get(&bae, &[&nginx.url("/members/f.bin"), "--overwrite"]).expect(24);
}
