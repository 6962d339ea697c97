//! SFTP servers with oddities: binary handles, entries without a type, files of length 0, names in other encodings.
//! Also what `~/.ssh/config` says about keys and about the way to a host.

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt, process::Command};

use crate::{
    get::{args, out, random, same},
    sftp_keys::{agent, home},
    support::{
        MIB,
        bae::{Bae, Ran},
        ssh_server::{SshServer, make_key},
    },
};

/// Gets `url` with the server's host key and an accepted key.
fn fetch(bae: &Bae, server: &SshServer, url: &str) -> Ran {
    let (known, key) = (server.known_hosts(), server.identity.clone());
    let trust = ["--known-hosts", known.to_str().unwrap(), "--identity", key.to_str().unwrap()];
    bae.run(args(bae, &[&[url, "-m", "1"][..], &trust].concat()))
}

/// The server's handles are binary and never reused, and at most 100 may be open.
#[test]
fn handles_are_bytes_and_are_closed() {
    let server = SshServer::odd("handles");
    let big = random(91, 3 * MIB + 1);
    server.served.write("big.bin", &big);
    for n in 0..400 {
        server.served.write(&format!("sub/f{n}"), n.to_string().as_bytes());
    }
    server.served.write("sub/empty", b"");
    let bae = Bae::new();
    fetch(&bae, &server, &server.odd_url("/")).expect(0);
    let dir = out(&bae, server.addr.ip().to_string().as_str());
    same(&dir.join("big.bin"), &big);
    same(&dir.join("sub/empty"), b"");
    for n in 0..400 {
        same(&dir.join(format!("sub/f{n}")), n.to_string().as_bytes());
    }
}

#[test]
fn entries_without_a_type_are_looked_at() {
    for oddity in ["none", "typeless"] {
        let server = SshServer::odd(oddity);
        server.served.write("a.txt", b"hello");
        server.served.write("sub/b.txt", b"there");
        let bae = Bae::new();
        fetch(&bae, &server, &server.odd_url("/")).expect(0);
        let dir = out(&bae, server.addr.ip().to_string().as_str());
        same(&dir.join("a.txt"), b"hello");
        same(&dir.join("sub/b.txt"), b"there");
        fetch(&bae, &server, &server.odd_url("/sub/b.txt")).expect(0);
        same(&out(&bae, "b.txt"), b"there");
    }
}

#[test]
fn a_server_that_knows_files_by_their_name_only_gives_them() {
    for oddity in ["nameless", "broken"] {
        let server = SshServer::odd(oddity);
        server.served.write("sub/b.txt", b"there");
        let bae = Bae::new();
        fetch(&bae, &server, &server.odd_url("/sub/b.txt")).expect(0);
        same(&out(&bae, "b.txt"), b"there");
    }
}

#[test]
fn an_answer_without_bytes_is_not_the_end_of_a_file() {
    let server = SshServer::odd("pauses");
    let data = random(93, MIB + 1);
    server.served.write("a.bin", &data);
    server.served.write("empty.bin", b"");
    let bae = Bae::new();
    fetch(&bae, &server, &server.odd_url("/a.bin")).expect(0);
    same(&out(&bae, "a.bin"), &data);
    fetch(&bae, &server, &server.odd_url("/empty.bin")).expect(0);
    same(&out(&bae, "empty.bin"), b"");
}

#[test]
fn what_a_shell_prints_is_told() {
    let server = SshServer::odd("greeting");
    let ran = fetch(&Bae::new(), &server, &server.odd_url("/"));
    ran.expect(1).says("Welcome to this host!").says("start-up file");
}

/// The system generates files of /proc when they are read; their length is 0.
#[test]
fn a_length_of_nothing_is_believed_only_when_nothing_comes_by_sftp() {
    let server = SshServer::openssh();
    let bae = Bae::new();
    fetch(&bae, &server, &server.odd_url("/proc/version")).expect(0);
    same(&out(&bae, "version"), &fs::read("/proc/version").unwrap());
    server.served.write("empty.bin", b"");
    fetch(&bae, &server, &format!("{}empty.bin", server.url(None))).expect(0);
    same(&out(&bae, "empty.bin"), b"");
}

#[test]
fn a_length_that_is_too_small_is_an_error_by_sftp() {
    let server = SshServer::odd("short");
    for (name, len) in [("small.bin", 2000), ("big.bin", MIB + 1)] {
        server.served.write(name, &random(92, len));
        let bae = Bae::new();
        let ran = fetch(&bae, &server, &server.odd_url(&format!("/{name}"))).expect(32);
        ran.says("sends more than it should");
        assert!(!out(&bae, name).exists());
    }
}

#[test]
fn names_in_other_encodings_come_by_their_bytes_by_sftp() {
    let server = SshServer::openssh();
    server.served.write("f/plain.txt", b"plain");
    // The name of the other file as it would be if its invalid byte were replaced.
    server.served.write("f/na\u{fffd}ve.txt", b"another");
    let folder = server.served.dir().join("f");
    let name = OsStr::from_bytes(b"na\xefve.txt");
    fs::rename(folder.join("plain.txt"), folder.join(name)).unwrap();
    let bae = Bae::new();
    fetch(&bae, &server, &format!("{}f", server.url(None))).expect(0).says("not UTF-8");
    same(&out(&bae, "f/naïve.txt"), b"plain");
    same(&out(&bae, "f/na\u{fffd}ve.txt"), b"another");
    fetch(&bae, &server, &format!("{}f/na%EFve.txt", server.url(None))).expect(0);
    same(&out(&bae, "naïve.txt"), b"plain");
}

/// The settings of a user, in a home whose agent has many keys. The right key is the last.
#[test]
fn keys_that_the_settings_name_come_before_those_of_the_agent() {
    let server = SshServer::openssh_configured("MaxAuthTries 3");
    let bae = home(&server);
    let ssh = bae.home().join(".ssh");
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent");
    let _agent = agent(&socket);
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
    server.let_in(&right);
    let url = format!("{}f.bin", server.url(None));
    let get = || {
        let mut command = bae.command(args(&bae, &[&url, "--overwrite"]));
        let ran = command.env("SSH_AUTH_SOCK", &socket).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran { code: ran.status.code(), stdout: text(ran.stdout), stderr: text(ran.stderr) }
    };
    // Without a setting, the server disconnects before the right key, and the error names the keys that were tried.
    get().expect(24).says("the agent's key SHA256:");
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
    let ran = get().expect(24).says("it refused the key");
    assert!(!ran.stderr.contains("SHA256:"), "{}", ran.stderr);
}

/// The address is valid behind the other host. Here it may be another machine's.
#[test]
fn a_host_behind_another_is_refused_by_name() {
    let server = SshServer::openssh();
    let bae = home(&server);
    let ssh = bae.home().join(".ssh");
    fs::create_dir(ssh.join("config.d")).unwrap();
    fs::write(ssh.join("config"), "Include config.d/*\n").unwrap();
    for detour in ["ProxyJump bastion", "ProxyCommand nc %h %p"] {
        let (ip, port) = (server.addr.ip(), server.addr.port());
        let text = format!("Host nas\n HostName {ip}\n Port {port}\n {detour}\n");
        fs::write(ssh.join("config.d/nas"), text).unwrap();
        bae.run(args(&bae, &["sftp://nas/f.bin"])).expect(1).says(detour).says("--proxy");
    }
}
