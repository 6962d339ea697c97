//! Commands of the command line while a daemon holds the data folder.

use std::{fs::File, process::Command, time::Duration};

use super::{home, id_of, torrent_request};
use crate::support::{
    KIB, LONG, MIB, PYTHON,
    bae::{Bae, CommandOutput},
    daemon::Daemon,
    nginx::Nginx,
    peers::{LibtorrentPeer, Release},
    process::Process,
    script,
    torrents::Recipe,
};

fn text(output: &CommandOutput) -> (Option<i32>, String, String) {
    (output.code, output.stdout.clone(), output.stderr.clone())
}

#[test]
fn a_command_in_the_daemon_has_the_output_and_the_exit_code_of_one_without() {
    let torrent = Recipe::single("by command.bin", 2 * MIB + 9).piece(64 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let (alone, held) = (home(), home());
    let mut daemon = Daemon::start(&held, &[]);
    let both = |args: &[&str]| {
        let (alone, held) = (alone.run(args), held.run(args));
        assert_eq!(text(&alone), text(&held), "{args:?}");
        alone
    };
    both(&["rm", "nothing"]).expect(3);
    both(&["--json", "rm", "nothing"]).expect(3);
    both(&["gc"]).expect(0);
    both(&["attach", "main"]).expect(3);
    both(&["import", "missing.torrent", "--storage", "main"]);
    both(&["queue", "list"]).expect(0);
    both(&["queue", "pause", "nothing"]).expect(3);
    both(&["queue", "add", "/etc/passwd"]).expect(2);
    let import = |bae: &Bae| {
        let peer = seeder.addr().to_string();
        let args = ["import", "-q", "--storage", "main", "--peer", &peer, "--no-dht", "--no-lsd"];
        // A path that is relative to the folder of the client.
        let mut command = bae.command(args);
        command.arg(torrent.torrent.file_name().unwrap());
        command.arg("--listen").arg(bae.listen.to_string());
        command.current_dir(torrent.torrent.parent().unwrap());
        let mut process = Process::start("bae", &command);
        let code = process.wait(LONG).code();
        (code, process.stdout(), process.stderr())
    };
    assert_eq!(import(&alone), import(&held));
    let id = |bae: &Bae| {
        let listed = bae.run(["--json", "ls"]).expect(0).json();
        assert_eq!(listed[0]["state"], "imported", "{listed:?}");
        listed[0]["id"].as_str().unwrap().to_owned()
    };
    held.assert_exact(&id(&held), &torrent);
    let removed = held.run(["--json", "rm", &id(&held)]).expect(0).json();
    assert_eq!(removed[0]["event"], "removed");
    assert_eq!(held.object_count(), 0);
    assert!(daemon.process.0.is_running());
}

#[test]
fn a_command_in_the_daemon_reads_standard_input_and_prints_events() {
    let torrent = Recipe::single("piped.bin", MIB).piece(64 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let bae = home();
    let daemon = Daemon::start(&bae, &[seeder.addr()]);
    let mut command = bae.command(["--json", "import", "-", "--storage", "main"]);
    command.stdin(File::open(&torrent.torrent).unwrap());
    let output = command.output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
    let last: serde_json::Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    assert_eq!((&last["event"], &last["name"]), (&"imported".into(), &"piped.bin".into()));
    bae.assert_exact(last["id"].as_str().unwrap(), &torrent);
    drop(daemon);
}

#[test]
fn ctrl_c_stops_a_command_in_the_daemon_and_not_the_daemon() {
    let torrent = Recipe::single("stopped.bin", 8 * MIB).piece(64 * KIB).make();
    let seeder = LibtorrentPeer::slow_seed(&torrent, MIB);
    let bae = home();
    let mut daemon = Daemon::start(&bae, &[seeder.addr()]);
    let args = ["--json", "import", torrent.torrent.to_str().unwrap(), "--storage", "main"];
    let mut import = bae.start(args);
    import.event_where("progress", |e| e["stored"].as_u64() >= Some(MIB));
    import.interrupt();
    let stopped = import.wait(LONG).expect(7);
    assert!(stopped.stderr.contains("run the same command again"), "{}", stopped.stderr);
    let listed = bae.run(["--json", "ls"]).expect(0).json();
    assert!(listed[0]["stored"].as_u64() >= Some(MIB), "{listed:?}");
    // One whose client is killed ends, too: the import is free again.
    let mut killed = bae.start(args);
    killed.event_where("progress", |e| e["stored"].as_u64() >= Some(2 * MIB));
    killed.kill();
    let id = id_of(&daemon.add(&torrent_request(&torrent)));
    let done = daemon.wait_for_state(&id, "done");
    bae.assert_exact(done["import"].as_str().unwrap(), &torrent);
    assert!(daemon.process.0.is_running());
}

#[test]
fn progress_bars_of_a_command_in_the_daemon_are_on_its_own_terminal() {
    let torrent = Recipe::single("shown.bin", 4 * MIB).piece(64 * KIB).make();
    let seeder = LibtorrentPeer::slow_seed(&torrent, 2 * MIB);
    let bae = home();
    let daemon = Daemon::start(&bae, &[seeder.addr()]);
    let import = bae.command(["import", torrent.torrent.to_str().unwrap(), "--storage", "main"]);
    let mut command = Command::new(PYTHON);
    command.arg(script("at_terminal.py")).arg("-").arg(import.get_program());
    command.args(import.get_args());
    for (key, value) in import.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    let output = command.output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && shown.contains('☁'), "{shown}");
    assert!(shown.contains("imported "), "{shown}");
    drop(daemon);
}

#[test]
fn the_queue_is_changed_by_commands_with_a_daemon_and_without() {
    let server = Nginx::start();
    server.serve("f.bin", &[7; 100_000]);
    let bae = home();
    let url = server.url("/f.bin");
    let json = |args: &[&str]| bae.run([&["--json", "queue"], args].concat()).expect(0).json();
    let added = json(&["add", &url, "http://127.0.0.1:9/other", "--tag", "a,b"]);
    assert_eq!((&added[0]["event"], &added[0]["state"]), (&"added".into(), &"queued".into()));
    json(&["pause", "2"]);
    json(&["move", "2", "first"]);
    let listed = json(&["list"]);
    let states: Vec<_> = listed.iter().map(|line| line["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["paused", "queued"]);
    assert!(bae.run(["queue", "list"]).expect(0).stderr.contains("until `bae daemon` runs"));
    let daemon = Daemon::start(&bae, &[]);
    daemon.wait_for_state(added[0]["id"].as_str().unwrap(), "done");
    let again = json(&["add", &url]);
    assert_eq!((&again[0]["event"], &again[0]["id"]), (&"known".into(), &added[0]["id"]));
    assert_eq!(json(&["clear"]).len(), 1);
    assert_eq!(json(&["remove", "other", "--data"]).len(), 1);
    assert!(json(&["list"]).is_empty());
    assert_eq!(bae.run(["--json", "ls"]).expect(0).json().len(), 1, "the import stays");
}

#[test]
fn a_command_ends_with_an_error_when_the_daemon_is_killed() {
    let torrent = Recipe::single("orphan.bin", 8 * MIB).piece(64 * KIB).make();
    let seeder = LibtorrentPeer::slow_seed(&torrent, 256 * KIB);
    let bae = home();
    let mut daemon = Daemon::start(&bae, &[seeder.addr()]);
    let mut import =
        bae.start(["--json", "import", torrent.torrent.to_str().unwrap(), "--storage", "main"]);
    import.event("started");
    daemon.process.kill();
    import.wait(Duration::from_secs(30)).expect(5).expect_stderr("the daemon ended");
    // The socket of the killed daemon remains, and does no harm.
    bae.run(["gc"]).expect(0);
}
