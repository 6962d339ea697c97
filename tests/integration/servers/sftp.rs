//! SFTP from real servers: the protocols' conformance suite, host keys, logins, and symlinks.

use std::{fs, os::unix::fs::symlink};

use bae::{
    Error, Kind,
    hints::Setting,
    protocols::{FetchOptions, HostKeyPolicy, UrlTarget},
};

use crate::support::{
    ports,
    s3_server::runtime,
    served_folder::{ConformanceFolder, ServedFolder, protocol},
    ssh_server::{PASSWORD, SshServer},
};

/// Probes `url` with these options.
fn probe(url: &str, options: FetchOptions) -> Result<UrlTarget, Error> {
    runtime().block_on(protocol(url, options).probe(&url.parse().unwrap()))
}

fn probe_error(url: &str, options: FetchOptions) -> Error {
    let error = probe(url, options).expect_err("no refusal");
    assert!(!error.report().contains(PASSWORD), "{}", error.report());
    error
}

#[test]
fn openssh_passes_the_conformance_suite() {
    let server = SshServer::openssh();
    server.conformance_folder().check(server.options());
}

#[test]
fn rclone_passes_the_conformance_suite_over_sftp() {
    let server = SshServer::rclone();
    let options = FetchOptions { identities: Vec::new(), ..server.options() };
    server.conformance_folder().check(options);
}

#[test]
fn sftp_works_over_ipv6() {
    let server = SshServer::openssh();
    let Some(url) = server.ipv6_url() else {
        return eprintln!("this machine has no IPv6: nothing is tested");
    };
    ConformanceFolder::new(&server.served, &url).check(server.options());
}

#[test]
fn an_unknown_host_key_is_refused_with_a_hint_to_the_flag_that_accepts_it() {
    let server = SshServer::openssh();
    let empty = server.served.server_dir().join("empty");
    fs::write(&empty, "# empty\n").unwrap();
    let keys =
        |accept| HostKeyPolicy { known_hosts: Some(empty.clone()), accepted_fingerprint: accept };
    let options = |accept| FetchOptions { host_keys: keys(accept), ..server.options() };
    let error = probe_error(&server.url(None), options(None));
    assert_eq!((error.kind(), error.kind().exit_code()), (Kind::Unauthenticated, 24));
    let fingerprint = server.fingerprint();
    let hint = error.typed_hint().unwrap();
    assert!(hint.parts().contains(&Setting::AcceptHostKey.with(&fingerprint)), "{hint}");
    assert!(error.report().contains(&fingerprint), "{}", error.report());
    probe(&server.url(None), options(Some(fingerprint))).expect("the key is accepted");
}

#[test]
fn a_changed_host_key_is_refused_even_when_a_flag_accepts_it() {
    let first = SshServer::openssh();
    let known = first.known_hosts_lines();
    let addr = first.addr;
    drop(first);
    let second = SshServer::openssh_with_host_key(ServedFolder::new(), addr, "ed25519");
    let file = second.served.server_dir().join("known hosts before");
    fs::write(&file, known).unwrap();
    let keys =
        HostKeyPolicy { known_hosts: Some(file), accepted_fingerprint: Some(second.fingerprint()) };
    let error =
        probe_error(&second.url(None), FetchOptions { host_keys: keys, ..second.options() });
    assert_eq!(error.kind(), Kind::Unauthenticated);
    assert!(error.report().contains("known hosts before:1"), "{}", error.report());
    let hint = error.typed_hint().unwrap();
    assert!(!hint.names_setting(Setting::AcceptHostKey), "{hint}");
}

#[test]
fn rsa_and_ecdsa_host_keys_and_hashed_known_hosts_are_accepted() {
    for kind in ["rsa", "ecdsa"] {
        let server = SshServer::openssh_with_host_key(ServedFolder::new(), ports::unused(), kind);
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
fn a_wrong_password_is_named_in_the_error() {
    let server = SshServer::rclone();
    let options = || FetchOptions { identities: Vec::new(), ..server.options() };
    let error = probe_error(&server.url(Some("wrong")), options());
    assert_eq!((error.kind(), error.kind().exit_code()), (Kind::Unauthenticated, 24));
    assert!(error.report().contains("refused the password"), "{}", error.report());
    assert!(!error.report().contains("wrong"), "{}", error.report());
    probe(&server.url(Some(PASSWORD)), options()).expect("the right password is accepted");
}

/// As with PAM: a password is not accepted by itself, only as the answer to a prompt.
#[test]
fn a_keyboard_interactive_prompt_gets_the_password() {
    let server = SshServer::openssh_with_prompt();
    server.served.write("f.bin", b"here");
    let options = || FetchOptions { identities: Vec::new(), ..server.options() };
    let url = |password| format!("{}f.bin", server.url(Some(password)));
    let UrlTarget::File(remote) = probe(&url(PASSWORD), options()).unwrap() else {
        panic!("no file")
    };
    assert_eq!(remote.len, Some(4));
    let error = probe_error(&url("wrong"), options());
    assert_eq!((error.kind(), error.kind().exit_code()), (Kind::Unauthenticated, 24));
    assert!(error.report().contains("refused the password"), "{}", error.report());
    let error = probe_error(&format!("{}f.bin", server.url(None)), options());
    assert_eq!(error.kind(), Kind::Unauthenticated, "{}", error.report());
}

#[test]
fn a_refused_private_key_is_named_in_the_error() {
    let server = SshServer::openssh();
    fs::write(server.served.server_dir().join("authorized_keys"), "").unwrap();
    let error = probe_error(&server.url(None), server.options());
    assert_eq!(error.kind(), Kind::Unauthenticated);
    assert!(error.report().contains("identity"), "{}", error.report());
    let none = vec!["/nonexistent/key".into()];
    let error =
        probe_error(&server.url(None), FetchOptions { identities: none, ..server.options() });
    assert_eq!(error.kind(), Kind::InvalidInput, "{}", error.report());
}

#[test]
fn symlinks_out_of_a_folder_are_not_followed_and_loops_end() {
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
    let UrlTarget::Folder(listing) = found else { panic!("no folder") };
    let files: Vec<_> = listing.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(files, ["in", "inside.bin"]);
}
