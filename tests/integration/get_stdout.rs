//! `bae get -o -`: a file to standard output, in order and complete, or an exit code that reports an error.

use std::{
    io::Read,
    process::{Child, Stdio},
};

use crate::{
    get::random,
    memory::{OVERHEAD, high_water},
    support::{MIB, bae::Bae, ftp_server::FtpServer, nginx::Nginx},
};

/// The output of a command, its exit code and its messages.
struct Piped {
    bytes: Vec<u8>,
    code: Option<i32>,
    said: String,
}

fn args<'a>(url: &'a str, options: &[&'a str]) -> Vec<&'a str> {
    ["get", url, "-o", "-"].into_iter().chain(options.iter().copied()).collect()
}

fn start(bae: &Bae, url: &str, options: &[&str]) -> Child {
    let mut command = bae.command(args(url, options));
    command.current_dir(bae.home()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn piped(bae: &Bae, url: &str, options: &[&str]) -> Piped {
    let out = start(bae, url, options).wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(std::fs::read_dir(bae.home()).unwrap().count(), 0, "something was written");
    Piped { bytes: out.stdout, code: out.status.code(), said }
}

#[test]
fn a_file_comes_whole_and_in_order_whatever_the_server_does() {
    let (nginx, bae, data) = (Nginx::start(), Bae::new(), random(91, 5 * MIB + 3));
    nginx.serve("f.bin", &data);
    for place in ["f", "cuts", "norange", "noetag", "chunked", "flaky"] {
        let url = nginx.url(&format!("/{place}/f.bin"));
        let got = piped(&bae, &url, &["-x", "4", "-m", "9"]);
        assert_eq!(got.code, Some(0), "{place}: {}", got.said);
        assert!(got.bytes == data, "{place}: {} bytes came", got.bytes.len());
    }
    let part = ["--range-start", "1MiB", "--range-end", "2097152"];
    let got = piped(&bae, &nginx.url("/f/f.bin"), &part);
    assert!(got.bytes == data[MIB as usize..=2 * MIB as usize], "a part: {}", got.said);
}

#[test]
fn a_checksum_that_differs_is_told_by_the_exit_code() {
    let (nginx, bae, data) = (Nginx::start(), Bae::new(), random(92, MIB));
    nginx.serve("f.bin", &data);
    let url = nginx.url("/f/f.bin");
    let wrong = format!("sha-256={}", "0".repeat(64));
    let got = piped(&bae, &url, &["--checksum", &wrong]);
    assert_eq!(got.code, Some(32), "{}", got.said);
    assert!(got.bytes == data, "the bytes were passed on before it was known");
    nginx.serve("empty", b"");
    let md5 = "md5=d41d8cd98f00b204e9800998ecf8427e";
    let got = piped(&bae, &nginx.url("/f/empty"), &["--checksum", md5]);
    assert_eq!((got.code, got.bytes.len()), (Some(0), 0), "{}", got.said);
    assert!(got.said.contains("md5 as it should be"), "{}", got.said);
}

#[test]
fn a_reader_that_has_seen_enough_ends_it_well() {
    let (nginx, bae) = (Nginx::start(), Bae::new());
    nginx.serve("f.bin", &random(93, 32 * MIB));
    let mut running = start(&bae, &nginx.url("/f/f.bin"), &[]);
    let mut head = [0; 1000];
    running.stdout.take().unwrap().read_exact(&mut head).unwrap();
    assert!(running.wait().unwrap().success());
}

#[test]
fn a_slow_reader_costs_no_memory() {
    let (nginx, bae, data) = (Nginx::start(), Bae::new(), random(94, 160 * MIB));
    nginx.serve("f.bin", &data);
    let mut running = start(&bae, &nginx.url("/f/f.bin"), &["-x", "8"]);
    let mut stdout = running.stdout.take().unwrap();
    let mut got = vec![0; data.len() - MIB as usize];
    stdout.read_exact(&mut got).unwrap();
    // bae still has the rest, because a pipe holds less than 1 MiB.
    let peak = high_water(running.id()).unwrap();
    assert!(peak < OVERHEAD, "{peak} bytes resident");
    stdout.read_to_end(&mut got).unwrap();
    assert!(running.wait().unwrap().success() && got == data);
}

#[test]
fn what_cannot_be_one_file_on_standard_output_is_refused() {
    let (server, bae) = (FtpServer::vsftpd(), Bae::new());
    server.served.write("top/f.bin", b"here");
    let url = server.url("ftp");
    for (url, options, says) in [
        (format!("{url}top/"), &[][..], "is a folder"),
        (format!("{url}top/f.bin"), &["--json"][..], "standard output"),
        (format!("{url}top/f.bin"), &["ftp://other/"][..], "one name for several"),
    ] {
        let got = piped(&bae, &url, options);
        assert_eq!((got.code, got.bytes.is_empty()), (Some(2), !options.contains(&"--json")));
        assert!(got.said.contains(says), "{}", got.said);
    }
    let got = piped(&bae, &format!("{url}top/f.bin"), &[]);
    assert_eq!((got.code, got.bytes.as_slice()), (Some(0), &b"here"[..]), "{}", got.said);
}
