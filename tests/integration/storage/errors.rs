//! A permanent error ends a run. A temporary error ends it after the timeout that the user sets.

use std::{fs, process::Command};

use crate::support::{
    LONG, MIB,
    bae::{Bae, CommandOutput, Running},
    fault_proxy::{Fault, FaultProxy, Request},
    peers::{LibtorrentPeer, Release},
    process::Process,
    require_program,
    s3_server::S3Server,
    torrents::{Fixture, Recipe},
    wait_until,
};

fn torrent(name: &str) -> Fixture {
    Recipe::single(name, 24 * MIB + 5).piece(256 << 10).make()
}

/// A home with a bucket whose requests have the faults of `plan`.
fn bae_with_bucket(
    name: &str,
    plan: impl Fn(&Request) -> Fault + Send + Sync + 'static,
) -> (Bae, FaultProxy) {
    let server = S3Server::seaweed();
    let proxy = FaultProxy::start(server.addr());
    proxy.set_faults(plan);
    let endpoint = format!("http://{}", proxy.addr());
    let url = server.storage_url_at(&endpoint, &server.bucket("storage-errors"), name);
    (Bae::new().with_storage_url(&format!("{url}&chunk=8MiB"), server.env()), proxy)
}

fn refuse_puts(request: &Request) -> Fault {
    match request.method.as_str() {
        "PUT" => Fault::Refuse("403 Forbidden", "AccessDenied"),
        _ => Fault::None,
    }
}

/// Panics unless the run reported exactly `pauses` pauses and logged no retry at the default level.
fn assert_pauses(output: &CommandOutput, pauses: usize) {
    let paused = output.json().iter().filter(|event| event["event"] == "paused").count();
    assert_eq!(paused, pauses, "{}", output.stdout);
    assert!(!output.stderr.contains("trying again"), "{}", output.stderr);
    assert!(!output.stderr.contains("retrying in"), "{}", output.stderr);
}

#[test]
fn a_timeout_ends_an_import_with_the_refusal_of_its_storage() {
    let torrent = torrent("refused.bin");
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let (bae, _proxy) = bae_with_bucket("timeout", refuse_puts);
    let args = bae.import_args(&torrent.torrent, &[seeder.addr()], &["--timeout", "3s"]);
    let output = bae.start(args).wait(LONG).expect(24).expect_stderr("nothing was stored for 3 s");
    assert!(output.stderr.contains("s3:PutObject"), "{}", output.stderr);
    assert_pauses(&output, 1);
}

#[test]
fn a_timeout_ends_an_import_of_a_url_whose_storage_refuses() {
    let nginx = crate::support::nginx::Nginx::start();
    nginx.serve("f.bin", &vec![7; 24 << 20]);
    let (bae, _proxy) = bae_with_bucket("timeout of a url", refuse_puts);
    let mut args =
        vec!["--json", "import"].into_iter().map(Into::into).collect::<Vec<std::ffi::OsString>>();
    args.extend([nginx.url("/f/f.bin").into(), "--storage".into(), bae.storage_url().into()]);
    args.extend(["--timeout".into(), "3s".into(), "--memory".into(), "32MiB".into()]);
    let output = bae.start(args).wait(LONG).expect(24).expect_stderr("nothing was stored for 3 s");
    assert_pauses(&output, 1);
}

#[test]
fn ctrl_c_does_not_wait_for_a_storage_that_has_just_refused() {
    let torrent = torrent("interrupted.bin");
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    for layout in ["chunks", "files"] {
        let (bae, _proxy) = bae_with_bucket(layout, refuse_puts);
        let options = ["--layout", layout];
        let args = bae.import_args(&torrent.torrent, &[seeder.addr()], &options);
        let mut running = bae.start(args);
        running.event("paused");
        running.interrupt();
        let output = running.wait(LONG).expect(7);
        assert!(!output.stderr.contains("waiting up to"), "{}", output.stderr);
        assert_pauses(&output, 1);
    }
}

#[test]
fn ctrl_c_reports_that_it_waits_for_storage_for_a_few_seconds() {
    let torrent = torrent("stalled.bin");
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let (bae, proxy) = bae_with_bucket("stalled", |request| match request.method.as_str() {
        "PUT" => Fault::Hold,
        _ => Fault::None,
    });
    let args = bae.import_args(&torrent.torrent, &[seeder.addr()], &[]);
    let mut running = bae.start(args);
    running.event_where("progress", |e| e["downloaded"].as_u64() > Some(16 * MIB));
    wait_until("a put", LONG, || proxy.held() > 0);
    running.interrupt();
    running.wait(LONG).expect(7).expect_stderr("waiting up to 5 s for storage to take");
}

fn bae_with_folder(name: &str) -> (Bae, Fixture, LibtorrentPeer) {
    let torrent = Recipe::single(name, 48 * MIB).piece(256 << 10).make();
    let seeder = LibtorrentPeer::slow_seed(&torrent, 6 * MIB);
    (Bae::new().with_storage_options("chunk=1MiB"), torrent, seeder)
}

fn wait_until_something_is_stored(running: &mut Running) {
    running.event_where("progress", |e| e["stored"].as_u64() > Some(0));
}

#[test]
fn an_import_ends_with_an_error_when_its_data_folder_is_removed() {
    let (bae, torrent, seeder) = bae_with_folder("data gone.bin");
    let mut running = bae.start_import(&torrent, &[seeder.addr()]);
    wait_until_something_is_stored(&mut running);
    fs::remove_dir_all(bae.data_dir()).unwrap();
    let output = running.wait(LONG).expect(3).expect_stderr("catalog.db");
    assert!(output.stderr.contains("moved or removed"), "{}", output.stderr);
    assert_pauses(&output, 0);
}

#[test]
fn an_import_ends_with_an_error_when_its_storage_folder_is_removed() {
    let (bae, torrent, seeder) = bae_with_folder("objects gone.bin");
    let mut running = bae.start_import(&torrent, &[seeder.addr()]);
    wait_until_something_is_stored(&mut running);
    fs::remove_dir_all(bae.storage_dir()).unwrap();
    let output = running.wait(LONG).expect(3);
    assert!(output.stderr.contains(&bae.storage_dir().display().to_string()), "{}", output.stderr);
    assert_pauses(&output, 0);
}

#[test]
fn an_import_with_few_file_descriptors_ends_when_its_folders_are_removed() {
    require_program("prlimit", "util-linux");
    // From too few files to start, to enough for everything except the peers.
    for files in [16, 20, 24, 28, 32] {
        let (bae, torrent, seeder) = bae_with_folder("few files.bin");
        let plain =
            bae.command(bae.import_args(&torrent.torrent, &[seeder.addr()], &["--timeout", "6s"]));
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={files}:{files}")).arg(plain.get_program());
        command.args(plain.get_args());
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let mut running = Running(Process::start("bae", &command));
        // With the fewest files bae ends before its first event.
        wait_until("an event or the end", LONG, || {
            !running.0.is_running() || !running.events().is_empty()
        });
        let _ = fs::remove_dir_all(bae.data_dir());
        let _ = fs::remove_dir_all(bae.storage_dir());
        let output = running.wait(LONG);
        assert!(output.code.is_some_and(|code| code != 0), "{files}: {output:?}");
        assert!(!output.stderr.contains("panicked"), "{files}: {}", output.stderr);
    }
}

#[test]
fn a_whole_file_is_uploaded_when_the_storage_refuses_to_copy() {
    let torrent = torrent("not copied.bin");
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    for status in ["403 Forbidden", "400 Bad Request"] {
        // A copy is a PUT without a body.
        let (bae, proxy) = bae_with_bucket("copies", move |r| match (r.method.as_str(), r.body) {
            ("PUT", 0) => Fault::Refuse(status, "InvalidRequest"),
            _ => Fault::None,
        });
        let args = bae.import_args(&torrent.torrent, &[seeder.addr()], &["--layout", "files"]);
        let output = bae.run(args).expect(0);
        assert_pauses(&output, 0);
        let sent: u64 = proxy.requests().iter().map(|r| r.body).sum();
        assert!(sent < 2 * torrent.bytes + 6 * MIB, "{sent} bytes were sent");
        bae.assert_exact(&output.summary().id, &torrent);
        assert_no_leftovers(&bae);
    }
}

#[test]
fn a_whole_file_is_not_sent_again_when_finishing_it_is_refused_for_a_while() {
    let torrent = torrent("not finished.bin");
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let refusals = std::sync::atomic::AtomicU64::new(0);
    let (bae, proxy) = bae_with_bucket("finish", move |r| match (r.method.as_str(), r.body) {
        ("POST", 1..) if refusals.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 3 => {
            Fault::Refuse("403 Forbidden", "AccessDenied")
        }
        _ => Fault::None,
    });
    let args = bae.import_args(&torrent.torrent, &[seeder.addr()], &["--layout", "files"]);
    let output = bae.run(args).expect(0);
    let uploads = proxy.requests().iter().filter(|r| r.method == "POST" && r.body == 0).count();
    assert_eq!(uploads, 1, "the file has more than one upload");
    let sent: u64 = proxy.requests().iter().map(|r| r.body).sum();
    assert!(sent < torrent.bytes + 6 * MIB, "{sent} bytes were sent");
    bae.assert_exact(&output.summary().id, &torrent);
    assert_no_leftovers(&bae);
}

fn assert_no_leftovers(bae: &Bae) {
    let report = bae.run(["--json", "gc"]).expect(0).json().pop().unwrap();
    assert_eq!(
        (report["objects"].as_u64(), report["uploads"].as_u64()),
        (Some(0), Some(0)),
        "{report}"
    );
}
