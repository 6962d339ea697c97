//! SFTP from real servers: the protocols' conformance suite, host keys, logins, and symlinks.

use std::{fs, os::unix::fs::symlink};

use bae::{
    Error, Kind,
    protocols::{FetchOptions, Found, HostKeys},
};

use crate::support::{
    ports,
    s3_server::runtime,
    served::{Served, Written, protocol},
    ssh_server::{PASSWORD, SshServer},
};

/// Probes `url` with these options.
fn probe(url: &str, options: FetchOptions) -> Result<Found, Error> {
    runtime().block_on(protocol(url, options).probe(&url.parse().unwrap()))
}

fn refused(url: &str, options: FetchOptions) -> Error {
    let error = probe(url, options).expect_err("a refusal was wanted");
    assert!(!error.report().contains(PASSWORD), "{}", error.report());
    error
}

#[test]
fn openssh_keeps_the_contract() {
    let server = SshServer::openssh();
    server.ground().check(server.options());
}

#[test]
fn rclone_keeps_the_contract_over_sftp() {
    let server = SshServer::rclone();
    let options = FetchOptions { identities: Vec::new(), ..server.options() };
    server.ground().check(options);
}

#[test]
fn sftp_goes_by_ipv6() {
    let server = SshServer::openssh();
    let Some(url) = server.ipv6_url() else {
        return eprintln!("this machine has no IPv6: nothing is tested");
    };
    Written::new(&server.served, &url).check(server.options());
}

#[test]
fn an_unknown_host_key_is_refused_with_the_flag_that_accepts_it() {
    let server = SshServer::openssh();
    let nobody = server.served.own().join("nobody");
    fs::write(&nobody, "# nobody\n").unwrap();
    let keys = |accept| HostKeys { known_hosts: Some(nobody.clone()), accept };
    let options = |accept| FetchOptions { host_keys: keys(accept), ..server.options() };
    let error = refused(&server.url(None), options(None));
    assert_eq!((error.kind(), error.kind().exit_code()), (Kind::Unauthenticated, 24));
    let fingerprint = server.fingerprint();
    let hint = error.hint_text().unwrap();
    assert!(hint.contains(&format!("--accept-host-key {fingerprint}")), "{hint}");
    assert!(error.report().contains(&fingerprint), "{}", error.report());
    probe(&server.url(None), options(Some(fingerprint))).expect("the key is accepted");
}

#[test]
fn a_changed_host_key_is_refused_whatever_is_accepted() {
    let first = SshServer::openssh();
    let known = first.known_hosts_lines();
    let addr = first.addr;
    drop(first);
    let second = SshServer::openssh_with(Served::new(), addr, "ed25519");
    let file = second.served.own().join("known before");
    fs::write(&file, known).unwrap();
    let keys = HostKeys { known_hosts: Some(file), accept: Some(second.fingerprint()) };
    let error = refused(&second.url(None), FetchOptions { host_keys: keys, ..second.options() });
    assert_eq!(error.kind(), Kind::Unauthenticated);
    assert!(error.report().contains("known before:1"), "{}", error.report());
    assert!(!error.hint_text().unwrap().contains("--accept"), "{:?}", error.hint_text());
}

#[test]
fn servers_with_keys_of_other_kinds_and_hashed_names_are_known() {
    for kind in ["rsa", "ecdsa"] {
        let server = SshServer::openssh_with(Served::new(), ports::own(), kind);
        let options = server.options();
        let file = options.host_keys.known_hosts.clone().unwrap();
        let hashed =
            std::process::Command::new("ssh-keygen").args(["-H", "-f"]).arg(&file).output();
        assert!(hashed.unwrap().status.success());
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("|1|"), "{text}");
        probe(&server.url(None), options).unwrap_or_else(|e| panic!("{kind}: {}", e.report()));
    }
}

#[test]
fn a_wrong_password_is_told_by_name() {
    let server = SshServer::rclone();
    let options = || FetchOptions { identities: Vec::new(), ..server.options() };
    let error = refused(&server.url(Some("wrong")), options());
    assert_eq!((error.kind(), error.kind().exit_code()), (Kind::Unauthenticated, 24));
    assert!(error.report().contains("refused the password"), "{}", error.report());
    assert!(!error.report().contains("wrong"), "{}", error.report());
    probe(&server.url(Some(PASSWORD)), options()).expect("the right one is taken");
}

/// As with PAM: a password is not accepted by itself, only as the answer to a prompt.
#[test]
fn a_server_that_asks_for_the_password_gets_it() {
    let server = SshServer::openssh_asking();
    server.served.write("f.bin", b"here");
    let options = || FetchOptions { identities: Vec::new(), ..server.options() };
    let url = |password| format!("{}f.bin", server.url(Some(password)));
    let Found::File(remote) = probe(&url(PASSWORD), options()).unwrap() else { panic!("no file") };
    assert_eq!(remote.len, Some(4));
    let error = refused(&url("wrong"), options());
    assert_eq!((error.kind(), error.kind().exit_code()), (Kind::Unauthenticated, 24));
    assert!(error.report().contains("refused the password"), "{}", error.report());
    let error = refused(&format!("{}f.bin", server.url(None)), options());
    assert_eq!(error.kind(), Kind::Unauthenticated, "{}", error.report());
}

#[test]
fn an_unknown_key_of_ours_is_told_by_name() {
    let server = SshServer::openssh();
    fs::write(server.served.own().join("authorized_keys"), "").unwrap();
    let error = refused(&server.url(None), server.options());
    assert_eq!(error.kind(), Kind::Unauthenticated);
    assert!(error.report().contains("identity"), "{}", error.report());
    let none = vec!["/nonexistent/key".into()];
    let error = refused(&server.url(None), FetchOptions { identities: none, ..server.options() });
    assert_eq!(error.kind(), Kind::InvalidInput, "{}", error.report());
}

#[test]
fn links_out_of_a_folder_are_not_followed_and_loops_end() {
    let server = SshServer::openssh();
    server.served.write("top/inside.bin", b"inside");
    server.served.write("outside.bin", b"outside");
    let top = server.served.dir().join("top");
    symlink("../outside.bin", top.join("out")).unwrap();
    symlink("/etc/hostname", top.join("far out")).unwrap();
    symlink("inside.bin", top.join("in")).unwrap();
    symlink(".", top.join("loop")).unwrap();
    symlink("nowhere", top.join("dangling")).unwrap();
    let found = probe(&format!("{}top", server.url(None)), server.options()).unwrap();
    let Found::Folder(listing) = found else { panic!("no folder") };
    let files: Vec<_> = listing.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(files, ["in", "inside.bin"]);
}
