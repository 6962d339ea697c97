//! `bae import URL`: files from a server are stored like files from the swarm.

use std::{ffi::OsStr, fs};

use bae::catalog::{Catalog, ObjectRow};
use serde_json::Value;

use crate::support::{
    LONG, MIB, OVERHEAD,
    bae::{Bae, CommandOutput, Running},
    ftp_server::FtpServer,
    get::{event, ranged},
    nginx::Nginx,
    process::{bytes_written, peak_memory},
    random,
    s3_server::{S3Server, runtime},
    scripted_http::ScriptedHttp,
    torrents::Recipe,
};

fn args<'a>(bae: &Bae, url: &'a str, options: &[&'a str]) -> Vec<String> {
    let storage = bae.storage_url();
    let mut args = vec!["--json", "import", url, "--storage", &storage];
    args.extend(options);
    args.into_iter().map(str::to_owned).collect()
}

fn import(bae: &Bae, url: &str, options: &[&str]) -> CommandOutput {
    bae.run(args(bae, url, options))
}

/// Panics unless the exported file at `path` and the output of `cat` are `wanted`.
fn assert_exact(bae: &Bae, id: &str, path: &str, expected: &[u8]) {
    let out = tempfile::tempdir_in(bae.home()).unwrap();
    bae.run([OsStr::new("export"), id.as_ref(), out.path().as_os_str()]).expect(0);
    assert!(
        fs::read(out.path().join(path)).unwrap() == expected,
        "{path} differs from the served file"
    );
    assert!(bae.stdout_of(["cat", id]) == expected, "cat prints other bytes");
}

fn started_event(output: &CommandOutput) -> Value {
    event(output, "started")
}

#[test]
fn urls_of_every_kind_of_server_are_imported_exactly() {
    let (nginx, data) = (Nginx::start(), random(31, 21 * MIB + 5));
    nginx.serve("f.bin", &data);
    for location in ["f", "norange", "noetag", "chunked", "limc", "cuts", "encoded"] {
        let bae = Bae::new();
        let output =
            import(&bae, &nginx.url(&format!("/{location}/f.bin")), &["-x", "3"]).expect(0);
        let summary = output.summary();
        assert_eq!(
            (summary.bytes, summary.info_hash.as_str()),
            (data.len() as u64, ""),
            "{location}"
        );
        assert_exact(&bae, &summary.id, "f.bin", &data);
        bae.assert_verified(&summary.id);
        let second =
            import(&bae, &nginx.url(&format!("/{location}/f.bin")), &[]).expect(0).summary();
        assert_eq!((second.id, second.downloaded), (summary.id, 0), "{location}: fetched again");
    }
}

#[test]
fn every_command_works_on_an_import_of_a_url() {
    let (nginx, bae, data) = (Nginx::start(), Bae::new(), random(32, 9 * MIB));
    nginx.serve("f.bin", &data);
    let id =
        import(&bae, &format!("{}?key=hunter2", nginx.url("/f/f.bin")), &[]).expect(0).summary().id;
    let list = bae.run(["ls", "--json"]).expect(0).json();
    assert_eq!(
        (list[0]["name"].as_str(), list[0]["state"].as_str()),
        (Some("f.bin"), Some("imported"))
    );
    assert_eq!(list[0]["source"], nginx.url("/f/f.bin"), "the query is shown");
    let info = bae.run(["info", &id, "--json"]).expect(0).json().remove(0);
    assert_eq!(
        (info["pieces"].as_u64(), info["file_list"][0]["bytes"].as_u64()),
        (Some(0), Some(9 * MIB))
    );
    bae.run(["info", "f.bin"]).expect(0);
    assert!(bae.stdout_of(["cat", &id, "--range", "5-9"]) == data[5..10]);
    bae.run(["verify", &id, "--quick"]).expect(0);
    bae.run(["seed", &id]).expect(2).expect_stderr("is from a URL and has no swarm");
    bae.run(["seed"]).expect(3);
    bae.run(["publish", &id]).expect(0);
    assert!(
        fs::read(bae.storage_dir().join("f.bin")).unwrap() == data,
        "the published file differs"
    );
    assert_exact(&bae, &id, "f.bin", &data);
    bae.run(["rm", &id, "--yes"]).expect(0);
    bae.run(["gc", "--yes"]).expect(0);
    assert_eq!(bae.object_count(), 0);
}

#[test]
fn files_of_known_and_unknown_length_are_stored_as_whole_files() {
    let (nginx, data) = (Nginx::start(), random(33, 18 * MIB));
    nginx.serve("f.bin", &data);
    for location in ["f", "chunked"] {
        let bae = Bae::new();
        let url = nginx.url(&format!("/{location}/f.bin"));
        let id = import(&bae, &url, &["--layout", "files"]).expect(0).summary().id;
        assert!(fs::read(bae.storage_dir().join("f.bin")).unwrap() == data, "{location}");
        assert_exact(&bae, &id, "f.bin", &data);
    }
}

#[test]
fn a_killed_import_of_a_url_fetches_only_missing_bytes() {
    let (nginx, data) = (Nginx::start(), random(34, 40 * MIB));
    nginx.serve("f.bin", &data);
    let bae = Bae::new().with_storage_options("chunk=1MiB");
    let url = nginx.url("/slow/f.bin");
    let mut durable = 0;
    for _ in 0..2 {
        let mut running = bae.start(args(&bae, &url, &[]));
        let started_event = running.event("started");
        assert!(
            started_event["stored"].as_u64() >= Some(durable),
            "{durable} were durable: {started_event}"
        );
        let target = durable + 4 * MIB;
        running.event_where("progress", |e| e["stored"].as_u64() > Some(target));
        running.kill();
        let stored = running.events();
        durable = stored.iter().filter_map(|e| e["stored"].as_u64()).max().unwrap();
    }
    let output = import(&bae, &nginx.url("/slow/f.bin"), &[]).expect(0);
    let at_start = started_event(&output)["stored"].as_u64().unwrap();
    assert!(at_start >= durable, "{at_start} of {durable}");
    assert_eq!(output.summary().downloaded, data.len() as u64 - at_start);
    assert_exact(&bae, &output.summary().id, "f.bin", &data);
    bae.run(["gc", "--yes"]).expect(0);
    assert_exact(&bae, &output.summary().id, "f.bin", &data);
}

#[test]
fn a_changed_source_is_reported_and_never_mixed_into_an_import() {
    let nginx = Nginx::start();
    let (old, new) = (random(35, 24 * MIB), random(36, 24 * MIB));
    nginx.serve("f.bin", &old);
    let bae = Bae::new().with_storage_options("chunk=1MiB");
    let url = nginx.url("/slow/f.bin");
    let mut running = bae.start(args(&bae, &url, &[]));
    running.event_where("progress", |e| e["stored"].as_u64() > Some(2 * MIB));
    running.interrupt();
    running.wait(LONG).expect(7);
    nginx.serve("f.bin", &new);
    import(&bae, &url, &[]).expect(1).expect_stderr("--fresh");
    let id = import(&bae, &url, &["--fresh"]).expect(0).summary().id;
    assert_exact(&bae, &id, "f.bin", &new);
}

#[test]
fn a_wrong_checksum_leaves_nothing_stored() {
    let (nginx, bae) = (Nginx::start(), Bae::new());
    nginx.serve("f.bin", &random(37, 3 * MIB));
    let bad = format!("md5={}", "0".repeat(32));
    import(&bae, &nginx.url("/f/f.bin"), &["--checksum", &bad])
        .expect(32)
        .expect_stderr("expected 0000");
    let list = bae.run(["ls", "--json"]).expect(0).json();
    assert_eq!(
        (list[0]["state"].as_str(), list[0]["stored"].as_u64()),
        (Some("importing"), Some(0))
    );
    nginx.serve("g.bin", b"abc");
    let good = "md5=900150983cd24fb0d6963f7d28e17f72";
    let id = import(&bae, &nginx.url("/f/g.bin"), &["--checksum", good]).expect(0).summary().id;
    bae.assert_verified(&id);
}

/// The objects of an import in the catalog.
fn objects(bae: &Bae, id: &str) -> Vec<ObjectRow> {
    runtime().block_on(async {
        let catalog = Catalog::open_read_only(&bae.data_dir()).await.unwrap();
        catalog.objects(&id.parse().unwrap()).await.unwrap()
    })
}

#[test]
fn a_lost_object_of_a_url_is_refetched_and_a_lost_catalog_is_restored() {
    let (nginx, data) = (Nginx::start(), random(38, 6 * MIB));
    nginx.serve("f.bin", &data);
    let bae = Bae::new().with_storage_options("chunk=1MiB");
    let id = import(&bae, &nginx.url("/f/f.bin"), &[]).expect(0).summary().id;
    let objects = objects(&bae, &id);
    let chunk = objects.iter().find(|object| object.len == MIB).unwrap();
    fs::remove_file(bae.storage_dir().join(&chunk.key)).unwrap();
    bae.run(["verify", &id]).expect(32).expect_stderr("does not match its hashes");
    bae.run(["verify", &id, "--repair"]).expect(0);
    assert_exact(&bae, &id, "f.bin", &data);

    fs::remove_dir_all(bae.data_dir()).unwrap();
    let attached = bae.run(["attach", &bae.storage_url(), "--json"]).expect(0).json();
    assert_eq!(attached[0]["event"], "attached", "{attached:?}");
    let id = attached[0]["id"].as_str().unwrap();
    assert_exact(&bae, id, "f.bin", &data);
    let second = import(&bae, &nginx.url("/f/f.bin"), &[]).expect(0).summary();
    assert_eq!((second.id.as_str(), second.downloaded), (id, 0));
}

#[test]
fn a_torrent_at_a_url_is_recognised_whatever_its_name() {
    let (nginx, bae) = (Nginx::start(), Bae::new());
    let torrent = Recipe::single("by url.bin", MIB).make();
    let bytes = fs::read(&torrent.torrent).unwrap();
    nginx.serve("download", &bytes);
    nginx.serve("x.torrent", &bytes);
    for name in ["download", "x.torrent"] {
        let output = bae.run(["--json", "import", "--dry-run", &nginx.url(&format!("/f/{name}"))]);
        let line = output.expect(0).json().remove(0);
        assert_eq!((&line["event"], &line["name"]), (&"estimate".into(), &"by url.bin".into()));
    }
    nginx.serve("d20 dice.txt", b"d20 dice, and their rules, which are long");
    import(&bae, &nginx.url("/f/d20%20dice.txt"), &[]).expect(0);
    bae.run(["import", &nginx.url("/f/passkey/none.torrent")])
        .expect(3)
        .expect_stderr("torrent from");
    let hidden = bae.run(["import", &nginx.url("/f/passkey/none.torrent")]).expect(3).stderr;
    assert!(!hidden.contains("passkey"), "{hidden}");
}

/// Waits for an import with a memory budget of 64 MiB, and checks its memory and that it wrote no payload to the disk.
/// Returns its last event.
pub(super) fn imported_within_64_mib(mut running: Running) -> Value {
    let (mut peak, mut written, pid) = (0, 0, running.0.id());
    let done = loop {
        let event = running.next_event();
        peak = peak.max(peak_memory(pid).unwrap_or(0));
        written = written.max(bytes_written(pid).unwrap_or(0));
        if event["event"] == "imported" {
            break event;
        }
    };
    running.wait(LONG).expect(0);
    assert!(done["peak_held"].as_u64() <= Some(64 * MIB), "{done}");
    assert!((1..=64 * MIB + OVERHEAD).contains(&peak), "{peak} resident");
    assert!(written < 16 * MIB, "{written} bytes were written to the disk");
    done
}

#[test]
fn an_import_of_a_url_into_a_bucket_stays_off_the_disk_and_within_its_budget() {
    let (server, nginx) = (S3Server::seaweed(), Nginx::start());
    let data = random(39, 160 * MIB);
    nginx.serve("f.bin", &data);
    let bucket = server.bucket("from-a-url");
    let bae = Bae::new().with_storage_url(&server.storage_url(&bucket, "p"), server.env());
    let running = bae.start(args(&bae, &nginx.url("/f/f.bin"), &["--memory", "64MiB", "-x", "8"]));
    let done = imported_within_64_mib(running);
    let id = done["id"].as_str().unwrap();
    assert!(bae.stdout_of(["cat", id]) == data);
}

#[test]
fn a_slow_storage_neither_stalls_an_import_of_a_url_nor_exceeds_the_budget() {
    let (nginx, data) = (Nginx::start(), random(40, 96 * MIB));
    nginx.serve("f.bin", &data);
    let bae = Bae::new().with_storage_options("upload_limit=20MiB");
    let output = import(&bae, &nginx.url("/f/f.bin"), &["--memory", "32MiB", "-x", "16"]).expect(0);
    let done = event(&output, "imported");
    assert!(done["peak_held"].as_u64() <= Some(32 * MIB), "{done}");
    assert_exact(&bae, done["id"].as_str().unwrap(), "f.bin", &data);
}

#[test]
fn a_login_is_not_stored_with_an_import() {
    let bae = Bae::new();
    let server = ScriptedHttp::start(|_, request| {
        Some(ranged(request, b"not much, but it has to be long enough"))
    });
    let url = format!("{}/f?token=hunter2", server.url()).replace("http://", "http://me@");
    let mut command = bae.command(args(&bae, &url, &["-u", "me"]));
    let output = command.env("BAE_PASSWORD", "hunter3").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(!printed.contains("hunter"), "{printed}");
    for file in fs::read_dir(bae.data_dir()).unwrap() {
        let bytes = fs::read(file.unwrap().path()).unwrap_or_default();
        assert!(!bytes.windows(7).any(|part| part == b"hunter3"));
    }
}

/// Changes one byte of the only object that holds bytes of the import.
fn damage_object(bae: &Bae, id: &str) {
    let objects = objects(bae, id);
    let path = bae.storage_dir().join(&objects.iter().find(|o| o.len == 3).unwrap().key);
    let mut bytes = fs::read(&path).unwrap();
    bytes[1] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_checksum_that_was_given_once_is_verified_in_later_runs() {
    let (nginx, bae) = (Nginx::start(), Bae::new());
    nginx.serve("g.bin", b"abc");
    let url = nginx.url("/f/g.bin");
    let good = "md5=900150983cd24fb0d6963f7d28e17f72";
    let id = import(&bae, &url, &["--checksum", good]).expect(0).summary().id;
    assert_eq!(import(&bae, &url, &[]).expect(0).summary().id, id);
    for _ in 0..2 {
        damage_object(&bae, &id);
        bae.run(["verify", &id]).expect(32);
        bae.run(["verify", &id, "--repair"]).expect(0);
        assert_exact(&bae, &id, "g.bin", b"abc");
    }
    import(&bae, &url, &["--fresh"]).expect(0);
    damage_object(&bae, &id);
    bae.run(["verify", &id]).expect(0);
}

#[test]
fn a_repair_fetches_only_the_selected_files_of_a_folder() {
    let (server, bae) = (FtpServer::vsftpd(), Bae::new());
    for (name, data) in [("a", &b"abc"[..]), ("b", b"not wanted"), ("c", b"wanted")] {
        server.served.write(&format!("album/{name}"), data);
    }
    let url = format!("{}album/", server.url("ftp"));
    let options = ["--select", "a,c", "--layout", "files"];
    let id = import(&bae, &url, &options).expect(0).summary().id;
    fs::remove_file(bae.storage_dir().join("album/c")).unwrap();
    bae.run(["verify", &id]).expect(32);
    bae.run(["verify", &id, "--repair"]).expect(0);
    assert_eq!(fs::read(bae.storage_dir().join("album/c")).unwrap(), b"wanted");
    assert!(
        !bae.storage_dir().join("album/b").exists(),
        "a file that was not selected was fetched"
    );
    let list = bae.run(["ls", "--json"]).expect(0).json();
    assert_eq!((list[0]["files"].as_u64(), list[0]["bytes"].as_u64()), (Some(2), Some(9)));
}
