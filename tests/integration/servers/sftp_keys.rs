//! SFTP without key options, as users run it: keys from the usual files and from the agent.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use crate::support::{
    LONG,
    bae::{Bae, CommandOutput},
    get::{args, assert_file, out_path},
    process::Process,
    ssh_server::{SshServer, make_key},
    wait_until,
};

/// A home whose `.ssh` has the server's host key. The server has one file.
pub(crate) fn home(server: &SshServer) -> Bae {
    server.served.write("f.bin", b"here");
    let bae = Bae::new();
    let ssh = bae.home().join(".ssh");
    fs::create_dir(&ssh).unwrap();
    fs::write(ssh.join("known_hosts"), server.known_hosts_lines()).unwrap();
    bae
}

/// Gets the file without key options; `agent` is the socket of an agent.
fn get(bae: &Bae, server: &SshServer, agent: Option<&Path>) -> CommandOutput {
    let url = format!("{}f.bin", server.url(None));
    let env = agent.map(|path| ("SSH_AUTH_SOCK".to_owned(), path.display().to_string()));
    let mut command = bae.command(args(bae, &[&url, "--overwrite"]));
    let output = command.envs(env).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    CommandOutput {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

#[test]
fn the_default_key_files_are_used() {
    let server = SshServer::openssh();
    let bae = home(&server);
    get(&bae, &server, None).expect(24).expect_stderr("there was no login method to try");
    for kind in ["ed25519", "ecdsa", "rsa"] {
        let name = format!("id_{kind}");
        let key = make_key(&bae.home().join(".ssh"), &name, kind);
        get(&bae, &server, None)
            .expect(24)
            .expect_stderr(&format!("the server refused the key {}", key.display()));
        server.authorize(&key);
        get(&bae, &server, None).expect(0);
        assert_file(&out_path(&bae, "f.bin"), b"here");
        for file in [key.clone(), key.with_extension("pub")] {
            fs::remove_file(file).unwrap();
        }
    }
}

#[test]
fn ssh_config_sets_the_address_the_user_and_the_key_of_a_host() {
    let server = SshServer::openssh();
    let bae = home(&server);
    let ssh = bae.home().join(".ssh");
    let key = make_key(&ssh, "for nas", "ed25519");
    server.authorize(&key);
    let url = server.url(None);
    let (user, rest) = url.strip_prefix("sftp://").unwrap().split_once('@').unwrap();
    let path = rest.split_once('/').unwrap().1;
    let config = format!(
        "Host nas\n HostName {}\n Port {}\n User {user}\n IdentityFile \"~/.ssh/for nas\"\n",
        server.addr.ip(),
        server.addr.port(),
    );
    fs::write(ssh.join("config"), config).unwrap();
    bae.run(args(&bae, &[&format!("sftp://nas/{path}f.bin")])).expect(0);
    assert_file(&out_path(&bae, "f.bin"), b"here");
    // The user name in the URL wins.
    let with_user = args(&bae, &[&format!("sftp://no-such-user@nas/{path}f.bin"), "--overwrite"]);
    bae.run(with_user).expect(24).expect_stderr("no-such-user");
    fs::write(ssh.join("config"), "Host nas\n Port none\n").unwrap();
    bae.run(args(&bae, &[&format!("sftp://nas/{path}f.bin")]))
        .expect(2)
        .expect_stderr(".ssh/config");
}

/// An agent without keys.
pub(crate) fn start_agent(socket: &Path) -> Process {
    let mut command = Command::new("ssh-agent");
    command.arg("-D").arg("-a").arg(socket);
    let agent = Process::start("ssh-agent", &command);
    wait_until("the agent listens", LONG, || socket.exists());
    agent
}

/// Adds a key to the agent; `askpass` is a program that prints the passphrase of the key.
fn add_to_agent(socket: &Path, key: &Path, askpass: &Path) {
    let mut command = Command::new("ssh-add");
    command.arg("-q").arg(key).env("SSH_AUTH_SOCK", socket);
    command.env("SSH_ASKPASS", askpass).env("SSH_ASKPASS_REQUIRE", "force");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_agent_signs_with_encrypted_keys() {
    let server = SshServer::openssh();
    let bae = home(&server);
    let dir = tempfile::tempdir().unwrap();
    let (socket, askpass) = (dir.path().join("agent"), dir.path().join("ask"));
    fs::write(&askpass, "#!/bin/sh\necho a password\n").unwrap();
    fs::set_permissions(&askpass, fs::Permissions::from_mode(0o755)).unwrap();
    let _agent = start_agent(&socket);
    get(&bae, &server, Some(&socket)).expect(24).expect_stderr("there was no login method to try");
    for kind in ["ed25519", "rsa"] {
        let key = make_key(dir.path(), kind, kind);
        let mut lock = Command::new("ssh-keygen");
        lock.args(["-q", "-p", "-P", "", "-N", "a password", "-f"]).arg(&key);
        assert!(lock.status().unwrap().success());
        server.authorize(&key);
        get(&bae, &server, Some(&socket)).expect(24);
        add_to_agent(&socket, &key, &askpass);
        get(&bae, &server, Some(&socket)).expect(0);
        assert_file(&out_path(&bae, "f.bin"), b"here");
        get(&bae, &server, None).expect(24);
        // `--identity` cannot use such a key by itself, and the error says what to do.
        let url = format!("{}f.bin", server.url(None));
        let named = args(&bae, &[&url, "--identity", key.to_str().unwrap()]);
        bae.run(named).expect(2).expect_stderr("ssh-add");
    }
}
