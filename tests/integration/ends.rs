//! A permanent error ends a run. A temporary error ends it after the timeout that the user sets.

use std::{fs, process::Command, time::Duration};

use crate::support::{
    LONG, MIB,
    bae::{Bae, Ran, Running},
    fault_proxy::{Fault, FaultProxy, Request},
    need,
    peers::{LibtorrentPeer, Release},
    process::Process,
    s3_server::S3Server,
    torrents::{Fixture, Recipe},
};

/// Longer than any stop may take, and shorter than the usual wait for storage.
const STOPPED: Duration = Duration::from_secs(25);

fn torrent(name: &str) -> Fixture {
    Recipe::single(name, 24 * MIB + 5).piece(256 << 10).make()
}

/// A bae with a bucket whose requests have the faults of `plan`.
fn over_a_bucket(
    name: &str,
    plan: impl Fn(&Request) -> Fault + Send + Sync + 'static,
) -> (Bae, FaultProxy) {
    let server = S3Server::seaweed();
    let proxy = FaultProxy::start(server.addr());
    proxy.spoil(plan);
    let endpoint = format!("http://{}", proxy.addr());
    let url = server.storage_url_at(&endpoint, &server.bucket("ends"), name);
    (Bae::new().storing_at(&format!("{url}&chunk=8MiB"), server.env()), proxy)
}

fn refuse_puts(request: &Request) -> Fault {
    match request.method.as_str() {
        "PUT" => Fault::Refuse("403 Forbidden", "AccessDenied"),
        _ => Fault::None,
    }
}

/// Panics unless the run reported exactly `pauses` pauses and logged no retry at the default level.
fn assert_told_once(ran: &Ran, pauses: usize) {
    let paused = ran.json().iter().filter(|event| event["event"] == "paused").count();
    assert_eq!(paused, pauses, "{}", ran.stdout);
    assert!(!ran.stderr.contains("trying again"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("tried again in"), "{}", ran.stderr);
}

#[test]
fn a_timeout_ends_an_import_whose_storage_refuses_with_what_it_said() {
    let torrent = torrent("refused.bin");
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let (bae, _proxy) = over_a_bucket("timeout", refuse_puts);
    let args = bae.import_args(&torrent.torrent, &[seeder.addr()], &["--timeout", "3s"]);
    let ran = bae.start(args).ended(LONG).expect(24).says("nothing was stored for 3 s");
    assert!(ran.stderr.contains("s3:PutObject"), "{}", ran.stderr);
    assert_told_once(&ran, 1);
}

#[test]
fn a_timeout_ends_an_import_of_a_url_whose_storage_refuses_too() {
    let nginx = crate::support::nginx::Nginx::start();
    nginx.serve("f.bin", &vec![7; 24 << 20]);
    let (bae, _proxy) = over_a_bucket("timeout of a url", refuse_puts);
    let mut args =
        vec!["--json", "import"].into_iter().map(Into::into).collect::<Vec<std::ffi::OsString>>();
    args.extend([nginx.url("/f/f.bin").into(), "--storage".into(), bae.storage_url().into()]);
    args.extend(["--timeout".into(), "3s".into(), "--memory".into(), "32MiB".into()]);
    let ran = bae.start(args).ended(LONG).expect(24).says("nothing was stored for 3 s");
    assert_told_once(&ran, 1);
}

#[test]
fn ctrl_c_does_not_wait_for_a_storage_that_has_just_refused() {
    let torrent = torrent("interrupted.bin");
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    for layout in ["chunks", "files"] {
        let (bae, _proxy) = over_a_bucket(layout, refuse_puts);
        let options = ["--layout", layout];
        let args = bae.import_args(&torrent.torrent, &[seeder.addr()], &options);
        let mut running = bae.start(args);
        running.event("paused");
        running.interrupt();
        let ran = running.ended(STOPPED).expect(7);
        assert!(!ran.stderr.contains("waiting up to"), "{}", ran.stderr);
        assert_told_once(&ran, 1);
    }
}

#[test]
fn ctrl_c_says_what_it_waits_for_and_does_so_for_a_few_seconds() {
    let torrent = torrent("stalled.bin");
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let (bae, proxy) = over_a_bucket("stalled", |request| match request.method.as_str() {
        "PUT" => Fault::Stall(Duration::from_secs(300)),
        _ => Fault::None,
    });
    let args = bae.import_args(&torrent.torrent, &[seeder.addr()], &[]);
    let mut running = bae.start(args);
    running.event_where("progress", |e| e["downloaded"].as_u64() > Some(16 * MIB));
    crate::support::wait_until("a put", LONG, || proxy.seen().iter().any(|r| r.method == "PUT"));
    running.interrupt();
    running.ended(STOPPED).expect(7).says("waiting up to 5 s for storage to take");
}

fn in_a_folder(name: &str) -> (Bae, Fixture, LibtorrentPeer) {
    let torrent = Recipe::single(name, 48 * MIB).piece(256 << 10).make();
    let seeder = LibtorrentPeer::slow_seed(&torrent, 6 * MIB);
    (Bae::new().storing_with("chunk=1MiB"), torrent, seeder)
}

fn stored(running: &mut Running) {
    running.event_where("progress", |e| e["stored"].as_u64() > Some(0));
}

#[test]
fn a_data_folder_that_is_removed_under_way_ends_the_import_by_name() {
    let (bae, torrent, seeder) = in_a_folder("data gone.bin");
    let mut running = bae.start_import(&torrent, &[seeder.addr()]);
    stored(&mut running);
    fs::remove_dir_all(bae.data_dir()).unwrap();
    let ran = running.ended(LONG).expect(3).says("catalog.db");
    assert!(ran.stderr.contains("moved or removed"), "{}", ran.stderr);
    assert_told_once(&ran, 0);
}

#[test]
fn a_storage_folder_that_is_removed_under_way_ends_the_import_by_name() {
    let (bae, torrent, seeder) = in_a_folder("objects gone.bin");
    let mut running = bae.start_import(&torrent, &[seeder.addr()]);
    stored(&mut running);
    fs::remove_dir_all(bae.objects()).unwrap();
    let ran = running.ended(LONG).expect(3);
    assert!(ran.stderr.contains(&bae.objects().display().to_string()), "{}", ran.stderr);
    assert_told_once(&ran, 0);
}

#[test]
fn a_limit_of_open_files_and_folders_that_go_end_an_import() {
    need("prlimit", "util-linux");
    // From too few files to start, to enough for everything except the peers.
    for files in [16, 20, 24, 28, 32] {
        let (bae, torrent, seeder) = in_a_folder("few files.bin");
        let ours =
            bae.command(bae.import_args(&torrent.torrent, &[seeder.addr()], &["--timeout", "6s"]));
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={files}:{files}")).arg(ours.get_program());
        command.args(ours.get_args());
        for (name, value) in ours.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let running = Running(Process::start("bae", &command));
        // The folders are removed while bae starts, or after that. In both cases it must end.
        std::thread::sleep(Duration::from_millis(1500));
        let _ = fs::remove_dir_all(bae.data_dir());
        let _ = fs::remove_dir_all(bae.objects());
        let ran = running.ended(LONG);
        assert!(ran.code.is_some_and(|code| code != 0), "{files}: {ran:?}");
        assert!(!ran.stderr.contains("panicked"), "{files}: {}", ran.stderr);
    }
}

#[test]
fn a_whole_file_is_sent_where_the_storage_refuses_to_copy() {
    let torrent = torrent("not copied.bin");
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    for status in ["403 Forbidden", "400 Bad Request"] {
        // A copy is a PUT without a body.
        let (bae, proxy) = over_a_bucket("copies", move |r| match (r.method.as_str(), r.body) {
            ("PUT", 0) => Fault::Refuse(status, "InvalidRequest"),
            _ => Fault::None,
        });
        let args = bae.import_args(&torrent.torrent, &[seeder.addr()], &["--layout", "files"]);
        let ran = bae.run(args).expect(0);
        assert_told_once(&ran, 0);
        let sent: u64 = proxy.seen().iter().map(|r| r.body).sum();
        assert!(sent < 2 * torrent.bytes + 6 * MIB, "{sent} bytes were sent");
        bae.assert_exact(&ran.imported().id, &torrent);
        assert_nothing_left(&bae);
    }
}

#[test]
fn a_whole_file_whose_finish_is_refused_for_a_while_is_not_sent_again() {
    let torrent = torrent("not finished.bin");
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let refusals = std::sync::atomic::AtomicU64::new(0);
    let (bae, proxy) = over_a_bucket("finish", move |r| match (r.method.as_str(), r.body) {
        ("POST", 1..) if refusals.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 3 => {
            Fault::Refuse("403 Forbidden", "AccessDenied")
        }
        _ => Fault::None,
    });
    let args = bae.import_args(&torrent.torrent, &[seeder.addr()], &["--layout", "files"]);
    let ran = bae.run(args).expect(0);
    let begun = proxy.seen().iter().filter(|r| r.method == "POST" && r.body == 0).count();
    assert_eq!(begun, 1, "one upload for the file, whatever was refused");
    let sent: u64 = proxy.seen().iter().map(|r| r.body).sum();
    assert!(sent < torrent.bytes + 6 * MIB, "{sent} bytes were sent");
    bae.assert_exact(&ran.imported().id, &torrent);
    assert_nothing_left(&bae);
}

fn assert_nothing_left(bae: &Bae) {
    let left = bae.run(["--json", "gc"]).expect(0).json().pop().unwrap();
    assert_eq!((left["objects"].as_u64(), left["uploads"].as_u64()), (Some(0), Some(0)), "{left}");
}
