//! SFTP servers with oddities: binary handles, entries without a type, files of length 0, names in other encodings.
//! Also what `~/.ssh/config` says about keys and about the way to a host.

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt, process::Command};

use crate::{
    servers::sftp_keys::{home, start_agent},
    support::{
        MIB,
        bae::{Bae, CommandOutput},
        get::{args, assert_file, out_path},
        random,
        ssh_server::{SshServer, make_key},
    },
};

/// Gets `url` with the server's host key and an accepted key.
fn fetch(bae: &Bae, server: &SshServer, url: &str) -> CommandOutput {
    let (known, key) = (server.known_hosts(), server.identity.clone());
    let trust = ["--known-hosts", known.to_str().unwrap(), "--identity", key.to_str().unwrap()];
    bae.run(args(bae, &[&[url, "-m", "1"][..], &trust].concat()))
}

/// The server's handles are binary and never reused, and at most 100 may be open.
#[test]
fn binary_handles_are_accepted_and_closed() {
    let server = SshServer::with_oddity("handles");
    let big = random(91, 3 * MIB + 1);
    server.served.write("big.bin", &big);
    for n in 0..400 {
        server.served.write(&format!("sub/f{n}"), n.to_string().as_bytes());
    }
    server.served.write("sub/empty", b"");
    let bae = Bae::new();
    fetch(&bae, &server, &server.root_url("/")).expect(0);
    let dir = out_path(&bae, server.addr.ip().to_string().as_str());
    assert_file(&dir.join("big.bin"), &big);
    assert_file(&dir.join("sub/empty"), b"");
    for n in 0..400 {
        assert_file(&dir.join(format!("sub/f{n}")), n.to_string().as_bytes());
    }
}

#[test]
fn entries_without_a_type_are_queried() {
    for oddity in ["no-permissions", "no-types"] {
        let server = SshServer::with_oddity(oddity);
        server.served.write("a.txt", b"hello");
        server.served.write("sub/b.txt", b"there");
        let bae = Bae::new();
        fetch(&bae, &server, &server.root_url("/")).expect(0);
        let dir = out_path(&bae, server.addr.ip().to_string().as_str());
        assert_file(&dir.join("a.txt"), b"hello");
        assert_file(&dir.join("sub/b.txt"), b"there");
        fetch(&bae, &server, &server.root_url("/sub/b.txt")).expect(0);
        assert_file(&out_path(&bae, "b.txt"), b"there");
    }
}

#[test]
fn files_are_fetched_from_servers_without_fstat() {
    for oddity in ["no-fstat", "fstat-fails"] {
        let server = SshServer::with_oddity(oddity);
        server.served.write("sub/b.txt", b"there");
        let bae = Bae::new();
        fetch(&bae, &server, &server.root_url("/sub/b.txt")).expect(0);
        assert_file(&out_path(&bae, "b.txt"), b"there");
    }
}

#[test]
fn an_empty_read_is_not_the_end_of_a_file() {
    let server = SshServer::with_oddity("empty-reads");
    let data = random(93, MIB + 1);
    server.served.write("a.bin", &data);
    server.served.write("empty.bin", b"");
    let bae = Bae::new();
    fetch(&bae, &server, &server.root_url("/a.bin")).expect(0);
    assert_file(&out_path(&bae, "a.bin"), &data);
    fetch(&bae, &server, &server.root_url("/empty.bin")).expect(0);
    assert_file(&out_path(&bae, "empty.bin"), b"");
}

#[test]
fn output_of_a_shell_start_up_file_is_reported() {
    let server = SshServer::with_oddity("greeting");
    let output = fetch(&Bae::new(), &server, &server.root_url("/"));
    output.expect(1).expect_stderr("Welcome to this host!").expect_stderr("start-up file");
}

/// The system generates files of /proc when they are read; their length is 0.
#[test]
fn a_reported_length_of_zero_is_checked_by_reading_over_sftp() {
    let server = SshServer::openssh();
    let bae = Bae::new();
    fetch(&bae, &server, &server.root_url("/proc/version")).expect(0);
    assert_file(&out_path(&bae, "version"), &fs::read("/proc/version").unwrap());
    server.served.write("empty.bin", b"");
    fetch(&bae, &server, &format!("{}empty.bin", server.url(None))).expect(0);
    assert_file(&out_path(&bae, "empty.bin"), b"");
}

#[test]
fn a_reported_length_that_is_too_small_is_an_error_over_sftp() {
    let server = SshServer::with_oddity("small-size");
    for (name, len) in [("small.bin", 2000), ("big.bin", MIB + 1)] {
        server.served.write(name, &random(92, len));
        let bae = Bae::new();
        let output = fetch(&bae, &server, &server.root_url(&format!("/{name}"))).expect(32);
        output.expect_stderr("and sends more");
        assert!(!out_path(&bae, name).exists());
    }
}

#[test]
fn names_that_are_not_utf_8_are_fetched_by_their_bytes_over_sftp() {
    let server = SshServer::openssh();
    server.served.write("f/plain.txt", b"plain");
    // The name of the other file as it would be if its invalid byte were replaced.
    server.served.write("f/na\u{fffd}ve.txt", b"another");
    let folder = server.served.dir().join("f");
    let name = OsStr::from_bytes(b"na\xefve.txt");
    fs::rename(folder.join("plain.txt"), folder.join(name)).unwrap();
    let bae = Bae::new();
    fetch(&bae, &server, &format!("{}f", server.url(None))).expect(0).expect_stderr("not UTF-8");
    assert_file(&out_path(&bae, "f/naïve.txt"), b"plain");
    assert_file(&out_path(&bae, "f/na\u{fffd}ve.txt"), b"another");
    fetch(&bae, &server, &format!("{}f/na%EFve.txt", server.url(None))).expect(0);
    assert_file(&out_path(&bae, "naïve.txt"), b"plain");
}

/// The settings of a user, in a home whose agent has many keys. The right key is the last.
#[test]
fn keys_named_in_ssh_config_are_tried_before_those_of_the_agent() {
    let server = SshServer::openssh_with_config("MaxAuthTries 3");
    let bae = home(&server);
    let ssh = bae.home().join(".ssh");
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent");
    let _agent = start_agent(&socket);
    let add = |file: &std::path::Path| {
        let mut command = Command::new("ssh-add");
        assert!(
            command.arg("-q").arg(file).env("SSH_AUTH_SOCK", &socket).status().unwrap().success()
        );
    };
    for n in 0..6 {
        add(&make_key(dir.path(), &format!("other{n}"), "ed25519"));
    }
    let right = make_key(&ssh, "right", "ed25519");
    add(&right);
    server.authorize(&right);
    let url = format!("{}f.bin", server.url(None));
    let get = || {
        let mut command = bae.command(args(&bae, &[&url, "--overwrite"]));
        let output = command.env("SSH_AUTH_SOCK", &socket).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        CommandOutput {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    };
    // Without a setting, the server disconnects before the right key, and the error names the keys that were tried.
    get().expect(24).expect_stderr("the agent's key SHA256:");
    let config = |text: &str| fs::write(ssh.join("config"), text).unwrap();
    config("Host *\n IdentityFile ~/.ssh/right\n");
    get().expect(0);
    // The public key alone is enough when the agent has the private key.
    config("Host *\n IdentityFile ~/.ssh/right.pub\n IdentitiesOnly yes\n");
    get().expect(0);
    fs::remove_file(&right).unwrap();
    config("Host *\n IdentityFile ~/.ssh/right\n");
    fs::rename(ssh.join("right.pub"), ssh.join("elsewhere.pub")).unwrap();
    config("Host *\n IdentityFile ~/.ssh/elsewhere.pub\n");
    get().expect(0);
    // With `IdentitiesOnly` only the key in the settings is tried.
    make_key(&ssh, "wrong", "ed25519");
    config("Host *\n IdentityFile ~/.ssh/wrong\n IdentitiesOnly yes\n");
    let output = get().expect(24).expect_stderr("the server refused the key");
    assert!(!output.stderr.contains("SHA256:"), "{}", output.stderr);
}

/// The address is valid behind the other host. Here it may be another machine's.
#[test]
fn proxy_jump_and_proxy_command_are_refused() {
    let server = SshServer::openssh();
    let bae = home(&server);
    let ssh = bae.home().join(".ssh");
    fs::create_dir(ssh.join("config.d")).unwrap();
    fs::write(ssh.join("config"), "Include config.d/*\n").unwrap();
    for detour in ["ProxyJump bastion", "ProxyCommand nc %h %p"] {
        let (ip, port) = (server.addr.ip(), server.addr.port());
        let text = format!("Host nas\n HostName {ip}\n Port {port}\n {detour}\n");
        fs::write(ssh.join("config.d/nas"), text).unwrap();
        bae.run(args(&bae, &["sftp://nas/f.bin"]))
            .expect(1)
            .expect_stderr(detour)
            .expect_stderr("--proxy");
    }
}
