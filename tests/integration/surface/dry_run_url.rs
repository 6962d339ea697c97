//! `import --dry-run` of URLs reports what the import then does, and fetches no file.

use serde_json::Value;

use crate::support::{MIB, bae::Bae, ftp_server::FtpServer, nginx::Nginx, random};

fn args<'a>(bae: &Bae, url: &'a str, options: &[&'a str]) -> Vec<String> {
    let storage = bae.storage_url();
    let mut args = vec!["--json", "import", url, "--storage", &storage];
    args.extend(options);
    args.into_iter().map(str::to_owned).collect()
}

/// The one line that a dry run of this URL prints.
fn estimate(bae: &Bae, url: &str, options: &[&str]) -> Value {
    let options = [&["--dry-run"], options].concat();
    let lines = bae.run(args(bae, url, &options)).expect(0).json();
    let [line] = lines.as_slice() else { panic!("one line for one source: {lines:?}") };
    assert_eq!(line["event"], "estimate");
    line.clone()
}

/// Runs a dry run and then the import, and compares their figures. Returns the line of the dry run.
fn assert_predicts_the_import(bae: &Bae, url: &str, options: &[&str]) -> Value {
    let before = estimate(bae, url, options);
    assert!(!bae.data_dir().exists() && !bae.storage_dir().exists(), "files were written");
    let id = bae.run(args(bae, url, options)).expect(0).summary().id;
    let info = bae.run(["info", &id, "--json"]).expect(0).json().remove(0);
    let (objects, predicted) = (info["objects"].as_u64(), before["objects"].as_u64());
    // With little memory, chunks are stored before they are full if storage is slow at that time.
    let may_flush_early = options.contains(&"--memory");
    assert!(
        if may_flush_early { objects >= predicted } else { objects == predicted },
        "{options:?}: {before}, {info}"
    );
    assert_eq!(info["stored"], before["payload"], "{options:?}: {before}");
    assert_eq!(info["bytes"], before["bytes"], "{options:?}: {before}");
    assert_eq!(info["chunk_len"], before["chunk_len"], "{options:?}: {before}");
    let second = estimate(bae, url, options);
    assert_eq!(second["stored"], info["stored"]);
    assert_eq!((second["payload"].as_u64(), second["objects"].as_u64()), (Some(0), Some(0)));
    before
}

#[test]
fn a_dry_run_of_a_file_url_predicts_its_import() {
    let (nginx, data) = (Nginx::start(), random(71, 40 * MIB + 1));
    nginx.serve("f.bin", &data);
    for options in [&[][..], &["--memory", "64MiB"], &["--layout", "files"]] {
        let line = assert_predicts_the_import(&Bae::new(), &nginx.url("/f/f.bin"), options);
        assert_eq!((line["name"].as_str(), line["info_hash"].as_str()), (Some("f.bin"), Some("")));
    }
}

#[test]
fn a_dry_run_of_a_folder_url_predicts_its_import() {
    let server = FtpServer::vsftpd();
    for (name, len) in [("a.flac", 20 * MIB + 1), ("cd 2/b.flac", 5 * MIB), ("c.jpg", 3), ("d", 0)]
    {
        server.served.write(&format!("album/{name}"), &random(72, len));
    }
    let url = format!("{}album/", server.url("ftp"));
    for options in [&[][..], &["--select", "*.jpg"], &["--layout", "files"]] {
        let line = assert_predicts_the_import(&Bae::new(), &url, options);
        assert_eq!(line["files"], if options.contains(&"--select") { 1 } else { 4 });
    }
}

#[test]
fn a_dry_run_of_a_url_fetches_at_most_64_bytes() {
    let (nginx, bae, data) = (Nginx::start(), Bae::new(), random(73, 9 * MIB));
    let bae = bae.with_storage_url("s3://no-such-bucket", Vec::new());
    nginx.serve("f.bin", &data);
    let line = estimate(&bae, &nginx.url("/f/f.bin"), &[]);
    assert_eq!(line["bytes"], 9 * MIB);
    assert!(!line["costs"].as_array().unwrap().is_empty());
    // Only the first bytes are fetched, to see whether the file is a torrent.
    let bytes = |line: &String| line.split(' ').nth(2).unwrap().parse::<u64>().unwrap();
    let received: u64 = nginx.requests().iter().map(bytes).sum();
    assert!(received <= 64, "{:?}", nginx.requests());
}

#[test]
fn a_checksum_adds_the_cost_of_reading_the_stored_bytes() {
    let (nginx, bae, data) = (Nginx::start(), Bae::new(), random(74, 3 * MIB + 1));
    nginx.serve("f.bin", &data);
    let plain = estimate(&bae, &nginx.url("/f/f.bin"), &[]);
    let checksum = format!("sha-256={}", "0".repeat(64));
    let checked = estimate(&bae, &nginx.url("/f/f.bin"), &["--checksum", &checksum]);
    assert_eq!((plain["checked"].as_u64(), plain["requests"]["get"].as_u64()), (Some(0), Some(0)));
    assert_eq!(checked["checked"], 3 * MIB + 1);
    assert_eq!(checked["requests"]["get"], 4);
}

#[test]
fn a_dry_run_of_a_url_fails_where_the_import_would_fail() {
    let (nginx, data) = (Nginx::start(), random(75, 2 * MIB));
    nginx.serve("f.bin", &data);
    let url = nginx.url("/f/f.bin");
    let bae = Bae::new();
    bae.run(args(&bae, &url, &[])).expect(0);
    nginx.serve("f.bin", &random(76, 2 * MIB + 1));
    let was = bae.run(["ls", "--json"]).expect(0).stdout;
    for (url, options, code, message) in [
        (&url, &[][..], 1, "--fresh"),
        (&url, &["--fresh", "--seed"], 2, "leave out --seed"),
        (&url, &["--fresh", "--select", "9"], 2, "9"),
        (&nginx.url("/f/missing"), &[], 3, "missing"),
    ] {
        let dry = [options, &["--dry-run"]].concat();
        bae.run(args(&bae, url, &dry)).expect(code).expect_stderr(message);
        bae.run(args(&bae, url, options)).expect(code).expect_stderr(message);
    }
    assert_eq!(bae.run(["ls", "--json"]).expect(0).stdout, was);
    let fresh = estimate(&bae, &url, &["--fresh"]);
    assert_eq!((fresh["stored"].as_u64(), fresh["payload"].as_u64()), (Some(0), Some(2 * MIB + 1)));
    let unknown = nginx.url("/chunked/f.bin");
    let output = bae.run(args(&bae, &unknown, &["--dry-run"])).expect(1);
    output.expect_stderr("does not report the length");
}
