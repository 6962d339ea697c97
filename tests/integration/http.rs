//! HTTP from real servers: the protocols' conformance suite with every login, over TLS, HTTP/2 and IPv6.

use bae::protocols::FetchOptions;

use crate::{
    get::{get, out, random, same},
    support::{MIB, bae::Bae, dav_server, dav_server::DavServer, nginx::Nginx},
};

fn options(nginx: &Nginx) -> FetchOptions {
    FetchOptions { cacert: Some(nginx.certificates.ca.clone()), ..FetchOptions::default() }
}

#[test]
fn nginx_keeps_the_contract() {
    let nginx = Nginx::start();
    nginx.ground(&nginx.url("/f/")).check(options(&nginx));
}

#[test]
fn nginx_keeps_the_contract_over_tls() {
    let nginx = Nginx::start();
    nginx.ground(&nginx.tls_url("/f/")).check(options(&nginx));
}

/// Long ranges get their own connection and ask for HTTP/1.1 first, which such a server refuses.
#[test]
fn a_server_that_speaks_only_http_2_keeps_the_contract() {
    let nginx = Nginx::start();
    nginx.ground(&nginx.h2_url("/f/")).check(options(&nginx));
}

#[test]
fn http_goes_by_ipv6() {
    let nginx = Nginx::start();
    let Some(url) = nginx.ipv6_url("/f/") else {
        return eprintln!("this machine has no IPv6: nothing is tested");
    };
    nginx.ground(&url).check(options(&nginx));
}

#[test]
fn nginx_keeps_the_contract_with_a_login() {
    let nginx = Nginx::start();
    let url = nginx.url("/auth/").replace("//", "//bob:secret@");
    nginx.ground(&url).check(options(&nginx));
}

#[test]
fn apache_keeps_the_contract_of_http_with_digest_logins() {
    let server = DavServer::apache();
    let url = server.url(dav_server::PASSWORD, "digest/").replace("dav:", "http:");
    server.ground(&url).check(server.options());
}

#[test]
fn a_cookie_that_a_redirect_sets_opens_the_file() {
    let (nginx, bae, data) = (Nginx::start(), Bae::new(), random(81, 5 * MIB));
    nginx.serve("f.bin", &data);
    get(&bae, &[&nginx.url("/members/f.bin")]).expect(24);
    get(&bae, &[&nginx.url("/login/f.bin"), "-x", "4"]).expect(0);
    same(&out(&bae, "f.bin"), &data);
    // Cookies are not kept after the run.
    get(&bae, &[&nginx.url("/members/f.bin"), "--overwrite"]).expect(24);
}
