//! `bae get` from a real web server: the file is whole and has the right name, whatever the server supports.

use std::{fs, path::Path, time::Duration};

use crate::support::{
    KIB, LONG, MIB,
    bae::Bae,
    get::{assert_file, event, get, out_path, ranged, start},
    nginx::Nginx,
    process::allocated_memory,
    random,
    scripted_http::ScriptedHttp,
    tmpfs::Tmpfs,
    wait_until,
};

fn files_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_file_is_fetched_completely_from_every_kind_of_server() {
    let (nginx, data) = (Nginx::start(), random(1, 24 * MIB + 77));
    nginx.serve("f.bin", &data);
    let locations =
        ["f", "norange", "noetag", "chunked", "limc", "limr", "flaky", "r301", "encoded"];
    for location in locations {
        let bae = Bae::new();
        let output = get(&bae, &[&nginx.url(&format!("/{location}/f.bin"))]).expect(0);
        assert_file(&out_path(&bae, "f.bin"), &data);
        assert_eq!(event(&output, "fetched")["bytes"], data.len(), "{location}");
        assert_eq!(files_in(&out_path(&bae, "")), ["f.bin"], "{location}: other files are left");
    }
    let bae = Bae::new();
    let ca = nginx.certificates.ca.to_str().unwrap();
    get(&bae, &[&nginx.tls_url("/f/f.bin"), "--cacert", ca]).expect(0);
    assert_file(&out_path(&bae, "f.bin"), &data);
}

#[test]
fn a_file_is_fetched_over_several_connections_and_no_byte_twice() {
    let (nginx, bae, data) = (Nginx::start(), Bae::new(), random(2, 16 * MIB));
    nginx.serve("f.bin", &data);
    let output = get(&bae, &[&nginx.url("/slow/f.bin"), "-x", "8", "-k", "256KiB"]).expect(0);
    assert_file(&out_path(&bae, "f.bin"), &data);
    assert_eq!(event(&output, "fetched")["downloaded"], data.len());
    // The first connection requests everything from 0 on. Each other connection requests its own eighth, in any
    // order. nginx logs a request when it ends.
    let eighth = |n: u64| match n {
        0 => " bytes=0-".to_owned(),
        _ => format!(" bytes={}-{}", n * 2 * MIB, (n + 1) * 2 * MIB - 1),
    };
    wait_until("the eighths are in the log", LONG, || {
        let requests = nginx.requests();
        (0..8).all(|n| requests.iter().any(|line| line.ends_with(&eighth(n))))
    });
    let max_connections = output.json().iter().filter_map(|e| e["connections"].as_u64()).max();
    assert_eq!(max_connections, Some(8));
}

#[test]
fn refused_connections_reduce_the_number_of_connections() {
    let (nginx, bae, data) = (Nginx::start(), Bae::new(), random(3, 24 * MIB));
    nginx.serve("f.bin", &data);
    let output = get(&bae, &[&nginx.url("/limc/f.bin"), "-x", "8"]).expect(0);
    assert_file(&out_path(&bae, "f.bin"), &data);
    let refused = nginx.requests().iter().filter(|line| line.contains(" 429 ")).count();
    assert!((1..=12).contains(&refused), "{refused} refusals");
    assert_eq!(event(&output, "fetched")["downloaded"], data.len());
}

#[test]
fn file_names_come_from_the_server_or_the_url_and_stay_in_the_folder() {
    let (nginx, bae) = (Nginx::start(), Bae::new());
    nginx.serve("a b%2e.bin", b"x");
    get(&bae, &[&nginx.url("/f/a%20b%252e.bin")]).expect(0);
    get(&bae, &[&nginx.url("/cd/a%20b%252e.bin")]).expect(0);
    assert_eq!(files_in(&out_path(&bae, "")), ["a b%2e.bin", "naïve.bin"]);

    let long = "n".repeat(300);
    for (sent_name, expected) in [
        ("../../../etc/passwd", Some("passwd")),
        ("..", Some("f")),
        ("a\\b\\c.txt", Some("c.txt")),
        ("CON", Some("CON")),
        (long.as_str(), None),
    ] {
        let header = format!("attachment; filename=\"{}\"", sent_name.replace('\\', "\\\\"));
        let server = ScriptedHttp::start(move |_, request| {
            Some(ranged(request, b"hello").with("Content-Disposition", &header))
        });
        let bae = Bae::new();
        get(&bae, &[&format!("{}/f", server.url())]).expect(0);
        let names = files_in(&out_path(&bae, ""));
        assert_eq!(names.len(), 1, "{sent_name}: {names:?}");
        assert!(names[0].len() <= 255 && expected.is_none_or(|name| names[0] == name), "{names:?}");
        assert_file(&out_path(&bae, &names[0]), b"hello");
    }
    let bae = Bae::new();
    let output = get(&bae, &[&nginx.url("/f/..%2F..%2Fpasswd")]);
    assert_ne!(output.code, Some(0));
    assert!(files_in(&out_path(&bae, "")).is_empty());
}

#[test]
fn an_existing_file_is_not_overwritten_without_the_flag() {
    let (nginx, bae, data) = (Nginx::start(), Bae::new(), random(4, 300 * KIB));
    nginx.serve("f.bin", &data);
    let url = nginx.url("/f/f.bin");
    get(&bae, &[&url]).expect(0);
    let second = get(&bae, &[&url]).expect(0);
    assert_eq!(event(&second, "fetched")["downloaded"], 0, "the same file was fetched again");
    fs::write(out_path(&bae, "f.bin"), b"mine").unwrap();
    get(&bae, &[&url]).expect(1).expect_stderr("--overwrite");
    assert_file(&out_path(&bae, "f.bin"), b"mine");
    get(&bae, &[&url, "--overwrite"]).expect(0);
    assert_file(&out_path(&bae, "f.bin"), &data);
    get(&bae, &[&url, "-o", "other"]).expect(0);
    assert_file(&out_path(&bae, "other"), &data);
}

#[test]
fn a_checksum_is_verified_before_the_file_gets_its_name() {
    let nginx = Nginx::start();
    nginx.serve("f.bin", b"abc");
    let url = nginx.url("/f/f.bin");
    let good = "sha-256=ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let bae = Bae::new();
    let output = get(&bae, &[&url, "--checksum", good]).expect(0);
    assert_eq!(event(&output, "fetched")["checked"][0], good);
    let bae = Bae::new();
    let bad = good.replace("ba78", "ba79");
    get(&bae, &[&url, "--checksum", &bad]).expect(32).expect_stderr("expected ba79");
    assert!(!out_path(&bae, "f.bin").exists());
    get(&bae, &[&url, "--checksum", "crc=1"]).expect(2);
    for (checksum, code) in [(good, 0), (&bad, 32)] {
        let line = format!("{}  f.bin\n", checksum.trim_start_matches("sha-256="));
        nginx.serve("f.bin.sha256", line.as_bytes());
        get(&Bae::new(), &[&url, "--checksum-beside"]).expect(code);
    }
    get(&Bae::new(), &[&nginx.url("/f/f.bin.sha256"), "--checksum-beside"])
        .expect(3)
        .expect_stderr("no checksum file next to");
    // A checksum from the server is verified too.
    let wrong_digest = ScriptedHttp::start(|_, request| {
        Some(
            ranged(request, b"abc").with("Repr-Digest", format!("md5=:{}:", "A".repeat(22) + "==")),
        )
    });
    get(&bae, &[&format!("{}/g", wrong_digest.url())]).expect(32).expect_stderr("md5");
}

#[test]
fn byte_ranges_and_mirrors_are_fetched_exactly() {
    let (nginx, bae, data) = (Nginx::start(), Bae::new(), random(5, 6 * MIB));
    nginx.serve("f.bin", &data);
    for location in ["f", "norange", "chunked"] {
        let url = nginx.url(&format!("/{location}/f.bin"));
        let part = ["--range-start", "1000", "--range-end", "2000999", "-o", location];
        get(&bae, &[&[url.as_str()][..], &part].concat()).expect(0);
        assert_file(&out_path(&bae, location), &data[1000..2_001_000]);
    }
    let (a, b, c) = (nginx.url("/slow/f.bin"), nginx.url("/f/f.bin"), nginx.url("/f/missing"));
    get(&bae, &[&a, &b, &c, "--mirror", "-o", "mirrored", "-k", "64KiB"]).expect(0);
    assert_file(&out_path(&bae, "mirrored"), &data);
    for location in ["/slow/", "/f/"] {
        let is_range = |line: &&String| line.starts_with(location) && line.contains(" 206 ");
        assert!(nginx.requests().iter().filter(is_range).count() > 1, "{location} was not used");
    }
    nginx.serve("other.bin", &data[1..]);
    let other = nginx.url("/f/other.bin");
    get(&bae, &[&b, &other, "--mirror", "-o", "x"]).expect(2).expect_stderr("different lengths");
}

#[test]
fn two_hundred_urls_are_fetched_at_once() {
    let (nginx, bae) = (Nginx::start(), Bae::new());
    let files: Vec<_> = (0..200u64).map(|n| (format!("{n}.bin"), random(n, n * 997))).collect();
    let mut list = String::from("# two hundred\n");
    for (name, data) in &files {
        nginx.serve(name, data);
        list += &format!("{}\n", nginx.url(&format!("/f/{name}")));
    }
    list += &format!("{}\n  out=renamed.bin\n", nginx.url("/f/7.bin"));
    let path = bae.home().join("list");
    fs::write(&path, list).unwrap();
    let output = get(&bae, &["-i", path.to_str().unwrap(), "-j", "200"]).expect(0);
    assert_eq!(output.json().iter().filter(|line| line["event"] == "fetched").count(), 201);
    for (name, data) in &files {
        assert_file(&out_path(&bae, name), data);
    }
    assert_file(&out_path(&bae, "renamed.bin"), &files[7].1);
    assert_eq!(files_in(&out_path(&bae, "")).len(), 201);
}

#[test]
fn one_failed_url_does_not_stop_the_others() {
    let (nginx, bae) = (Nginx::start(), Bae::new());
    nginx.serve("good.bin", b"good");
    let (bad, good) = (nginx.url("/f/none.bin"), nginx.url("/f/good.bin"));
    get(&bae, &[&bad, &good, "gopher://x/"]).expect_stderr("404").expect_stderr("gopher").expect(3);
    assert_file(&out_path(&bae, "good.bin"), b"good");
}

#[test]
fn a_full_disk_is_named_in_the_error() {
    let (nginx, bae) = (Nginx::start(), Bae::new());
    nginx.serve("f.bin", &random(6, 12 * MIB));
    let small = bae.home().join("small");
    let _disk = Tmpfs::mount(&small, "size=8m");
    let dir = small.to_str().unwrap();
    let get = |url: &str| bae.run(["get", url, "-d", dir]);
    get(&nginx.url("/f/f.bin")).expect(8).expect_stderr("free, the download needs");
    // These answers have no length, so the lack of space shows only while writing.
    get(&nginx.url("/chunked/f.bin")).expect(8).expect_stderr("no space left");
    get(&nginx.url("/endless/x")).expect(8).expect_stderr("no space left");
}

#[test]
fn memory_does_not_grow_with_file_size_or_connections() {
    let (nginx, data) = (Nginx::start(), random(7, 256 * MIB));
    nginx.serve("f.bin", &data);
    let peak = |connections: &str, url: &str, limit: &str| {
        let bae = Bae::new();
        let mut running = start(&bae, &[&nginx.url(url), "-x", connections, "--limit-rate", limit]);
        let (mut peak, pid) = (0, running.0.id());
        while running.0.is_running() {
            peak = peak.max(allocated_memory(pid).unwrap_or(0));
            std::thread::sleep(Duration::from_millis(5));
        }
        running.wait(LONG).expect(0);
        assert_file(&out_path(&bae, "f.bin"), &data);
        peak
    };
    for (connections, url) in [("1", "/f/f.bin"), ("16", "/f/f.bin"), ("1", "/chunked/f.bin")] {
        let peak = peak(connections, url, "100MiB");
        assert!(
            (1..=24 * MIB).contains(&peak),
            "{peak} bytes allocated with -x {connections} {url}"
        );
    }
    // Read sizes grow with the speed, up to a bound per connection. Here the download has no speed limit.
    let (one, many) = (peak("1", "/f/f.bin", "100GiB"), peak("16", "/f/f.bin", "100GiB"));
    assert!(many <= one + 12 * MIB, "{one} bytes allocated by one connection, {many} by 16");
}

#[test]
fn a_rate_limit_applies_to_all_connections_together() {
    let (nginx, bae, data) = (Nginx::start(), Bae::new(), random(8, 6 * MIB));
    nginx.serve("f.bin", &data);
    let start = std::time::Instant::now();
    get(&bae, &[&nginx.url("/f/f.bin"), "-x", "8", "--limit-rate", "2MiB"]).expect(0);
    // 6 MiB at 2 MiB/s, and the first read of each connection.
    assert!(start.elapsed() >= Duration::from_millis(2500), "{:?}", start.elapsed());
    assert_file(&out_path(&bae, "f.bin"), &data);
}
