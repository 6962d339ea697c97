//! `bae storage`: adding, listing and checking a storage.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::Value;

use crate::support::{
    LONG, MIB,
    bae::{Bae, Running},
    peers::{LibtorrentPeer, Release},
    process::Process,
    torrents::Recipe,
};

fn config_file(bae: &Bae) -> PathBuf {
    bae.home().join("config/bae/config.toml")
}

fn probes(lines: &[Value]) -> Vec<(String, String)> {
    let text = |line: &Value, key: &str| line[key].as_str().unwrap().to_owned();
    let probes = lines.iter().filter(|line| line["event"] == "probe");
    probes.map(|line| (text(line, "probe"), text(line, "outcome"))).collect()
}

#[test]
fn a_storage_can_be_added_listed_checked_and_used() {
    let bae = Bae::new();
    let dir = bae.home().join("nas");
    let url = format!("file://{}?chunk=4MiB", dir.display());
    bae.run(["storage", "add", "nas", &url]).expect(0).expect_stderr("bae storage check nas");
    let list = bae.run(["storage", "list", "--json"]).expect(0).json();
    assert_eq!(list.len(), 2, "{list:?}");
    assert_eq!((&list[0]["name"], &list[0]["default"]), (&"file".into(), &true.into()));
    let nas = &list[1];
    assert_eq!((&nas["name"], &nas["type"]), (&"nas".into(), &"local".into()));
    assert_eq!(nas["place"], format!("file://{}", dir.display()));
    assert_eq!(nas["chunk"], 4 * MIB);
    assert!(nas["defined"].as_str().unwrap().contains("config.toml, line 2"), "{nas}");
    assert!(bae.run(["storage", "list"]).expect(0).stdout.contains("nas"));

    let lines = bae.run(["storage", "check", "nas", "--json"]).expect(0).json();
    let last = lines.last().unwrap();
    assert_eq!((&last["event"], &last["failures"]), (&"checked".into(), &0.into()));
    assert!(last["latency_ms"].is_u64(), "{last}");
    let names: Vec<_> = probes(&lines).into_iter().map(|(name, _)| name).collect();
    for name in ["place", "write", "read", "head", "list", "parts", "copy", "abort", "delete"] {
        assert!(names.iter().any(|other| other == name), "{name} is not among {names:?}");
    }
    let text = bae.run(["storage", "check", "nas", "--speed"]).expect(0).stdout;
    assert!(text.contains("/s up") && text.contains("nas is ready"), "{text}");
    let leftovers: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(leftovers, [".tmp"], "a check leaves files");

    let torrent = Recipe::single("small.bin", MIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let args = bae.import_args(&torrent.torrent, &[seeder.addr()], &[]);
    let args =
        args.into_iter().map(|arg| if arg == *bae.storage_url() { "nas".into() } else { arg });
    let summary = bae.run(args).expect(0).summary();
    bae.assert_exact(&summary.id, &torrent);
}

#[test]
fn storage_add_keeps_the_rest_of_the_config_and_replaces_only_with_force() {
    let bae = Bae::new();
    let file = config_file(&bae);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "# mine\nmemory = \"64MiB\"\n").unwrap();
    bae.run(["storage", "add", "a", "--type", "local", "path=/first"]).expect(0);
    bae.run(["storage", "add", "a", "--type", "local", "path=/second"])
        .expect(1)
        .expect_stderr("--force");
    bae.run(["storage", "add", "a", "--type", "local", "path=/second", "--force"]).expect(0);
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(
        text,
        "# mine\nmemory = \"64MiB\"\n\n[storage.a]\ntype = \"local\"\npath = \"/second\"\n"
    );
    for bad in [
        &["a/b", "file:///d"][..],
        &["b", "--type", "local"],
        &["b", "s3://b", "colour=blue"],
        &["b"],
    ] {
        bae.run(["storage", "add"].iter().chain(bad)).expect(2);
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), text, "a refused command changed the file");
    let elsewhere = bae.home().join("new/other.toml");
    let other = elsewhere.to_str().unwrap();
    bae.run(["--config", other, "storage", "add", "b", "file:///d"]).expect(0);
    assert!(bae.run(["--config", other, "storage", "list"]).expect(0).stdout.contains("file:///d"));
}

#[test]
fn a_secret_is_read_from_a_pipe_or_a_variable_and_refused_on_the_command_line() {
    let bae = Bae::new();
    let args = ["storage", "add", "m", "s3://b", "secret_access_key=hunter2"];
    let refused = bae.run(args).expect(2).expect_stderr("command line");
    assert!(!refused.stderr.contains("hunter2"), "{}", refused.stderr);
    assert!(!config_file(&bae).exists());

    let mut command = bae.command(["storage", "add", "m", "s3://b", "access_key_id=AK"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"hunter2\n").unwrap();
    assert!(child.wait_with_output().unwrap().status.success());
    let text = fs::read_to_string(config_file(&bae)).unwrap();
    assert!(text.contains("secret_access_key = \"hunter2\""), "{text}");
    let mode = fs::metadata(config_file(&bae)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "others can read the file");
    let list = bae.run(["storage", "list", "--json"]).expect(0);
    assert!(list.stdout.contains("\"m\"") && !list.stdout.contains("hunter2"), "{}", list.stdout);

    bae.run(["storage", "add", "n", "s3://b", "secret_access_key=env:KEY"]).expect(0);
    let text = fs::read_to_string(config_file(&bae)).unwrap();
    assert!(text.contains("secret_access_key = { env = \"KEY\" }"), "{text}");
}

#[test]
fn a_check_of_an_unwritable_storage_fails_with_a_hint() {
    // Root can write everywhere, except into the directories of the kernel.
    let locked = tempfile::tempdir().unwrap();
    fs::set_permissions(locked.path(), fs::Permissions::from_mode(0o555)).unwrap();
    let is_root = rustix::process::getuid().is_root();
    let parent = if is_root { Path::new("/sys") } else { locked.path() };
    let url = format!("file://{}/bae", parent.display());
    let bae = Bae::new();
    let output = bae.run(["storage", "check", &url, "--json"]).expect(24);
    let lines = output.json();
    assert_eq!(probes(&lines), [("place".to_owned(), "fail".to_owned())]);
    assert_eq!(lines[0]["kind"], "permission_denied");
    assert!(lines[0]["hint"].as_str().unwrap().contains("allow this user to write"));
    let text = bae.run(["storage", "check", &url]).expect(24);
    assert!(text.stdout.starts_with("FAIL  place"), "{}", text.stdout);
    bae.run(["storage", "check", "nowhere"]).expect(3).expect_stderr("storages: file");

    let below_a_file = bae.home().join("file");
    fs::write(&below_a_file, "").unwrap();
    let url = format!("file://{}/below", below_a_file.display());
    let output = bae.run(["storage", "check", &url]).expect(2);
    assert!(output.stdout.contains("is a file, not a folder"), "{}", output.stdout);
}

#[test]
fn an_interrupted_check_leaves_no_objects() {
    let bae = Bae::new();
    let dir = bae.home().join("slow");
    // The parts take 80 s at this rate.
    let url = format!("file://{}?upload_limit=64KiB", dir.display());
    let mut running = bae.start(["storage", "check", &url, "--json"]);
    running.event_where("probe", |probe| probe["probe"] == "list");
    running.interrupt();
    running.wait(LONG).expect(7);
    let leftovers: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(leftovers, [".tmp"]);
    assert_eq!(fs::read_dir(dir.join(".tmp")).unwrap().count(), 0);
}

#[test]
fn a_check_of_an_unreachable_server_ends_with_a_network_error() {
    let bae = Bae::new();
    // The port is released again, so nothing listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("s3://b?endpoint=http://127.0.0.1:{port}&region=eu");
    let mut command = bae.command(["storage", "check", &url]);
    command.env("AWS_ACCESS_KEY_ID", "A").env("AWS_SECRET_ACCESS_KEY", "S");
    let checking = Running(Process::start("bae", &command));
    let stdout = checking.wait(LONG).expect(6).stdout;
    assert!(stdout.contains("FAIL") && stdout.contains("endpoint"), "{stdout}");
}

#[test]
fn an_unconfigured_storage_type_hints_how_to_add_one() {
    let bae = Bae::new();
    for (storage_type, hint) in
        [("s3", "bae storage add NAME s3://BUCKET"), ("drive", "bae storage login")]
    {
        bae.run(["storage", "check", storage_type]).expect(3).expect_stderr(hint);
    }
}
