//! `bae get -o -`: a file to standard output, in order and complete, or an exit code that reports an error.

use std::{
    io::Read,
    process::{Child, Stdio},
};

use crate::support::{
    MIB, OVERHEAD, bae::Bae, ftp_server::FtpServer, nginx::Nginx, process::peak_memory, random,
};

/// The output of a command, its exit code and its messages.
struct PipedOutput {
    bytes: Vec<u8>,
    code: Option<i32>,
    stderr: String,
}

fn args<'a>(url: &'a str, options: &[&'a str]) -> Vec<&'a str> {
    ["get", url, "-o", "-"].into_iter().chain(options.iter().copied()).collect()
}

fn start(bae: &Bae, url: &str, options: &[&str]) -> Child {
    let mut command = bae.command(args(url, options));
    command.current_dir(bae.home()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn run(bae: &Bae, url: &str, options: &[&str]) -> PipedOutput {
    let out = start(bae, url, options).wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(std::fs::read_dir(bae.home()).unwrap().count(), 0, "files were written");
    PipedOutput { bytes: out.stdout, code: out.status.code(), stderr }
}

#[test]
fn stdout_gets_the_complete_file_in_order_from_every_kind_of_server() {
    let (nginx, bae, data) = (Nginx::start(), Bae::new(), random(91, 5 * MIB + 3));
    nginx.serve("f.bin", &data);
    for location in ["f", "cuts", "norange", "noetag", "chunked", "flaky"] {
        let url = nginx.url(&format!("/{location}/f.bin"));
        let output = run(&bae, &url, &["-x", "4", "-m", "9"]);
        assert_eq!(output.code, Some(0), "{location}: {}", output.stderr);
        assert!(output.bytes == data, "{location}: {} bytes received", output.bytes.len());
    }
    let part = ["--range-start", "1MiB", "--range-end", "2097152"];
    let output = run(&bae, &nginx.url("/f/f.bin"), &part);
    assert!(output.bytes == data[MIB as usize..=2 * MIB as usize], "a part: {}", output.stderr);
}

#[test]
fn a_wrong_checksum_of_stdout_sets_the_exit_code() {
    let (nginx, bae, data) = (Nginx::start(), Bae::new(), random(92, MIB));
    nginx.serve("f.bin", &data);
    let url = nginx.url("/f/f.bin");
    let wrong = format!("sha-256={}", "0".repeat(64));
    let output = run(&bae, &url, &["--checksum", &wrong]);
    assert_eq!(output.code, Some(32), "{}", output.stderr);
    assert!(output.bytes == data, "the bytes are written before they are verified");
    nginx.serve("empty", b"");
    let md5 = "md5=d41d8cd98f00b204e9800998ecf8427e";
    let output = run(&bae, &nginx.url("/f/empty"), &["--checksum", md5]);
    assert_eq!((output.code, output.bytes.len()), (Some(0), 0), "{}", output.stderr);
    assert!(output.stderr.contains("md5 verified"), "{}", output.stderr);
}

#[test]
fn closing_stdout_early_ends_a_get_with_success() {
    let (nginx, bae) = (Nginx::start(), Bae::new());
    nginx.serve("f.bin", &random(93, 32 * MIB));
    let mut running = start(&bae, &nginx.url("/f/f.bin"), &[]);
    let mut head = [0; 1000];
    running.stdout.take().unwrap().read_exact(&mut head).unwrap();
    assert!(running.wait().unwrap().success());
}

#[test]
fn a_slow_reader_of_stdout_takes_no_more_memory() {
    let (nginx, bae, data) = (Nginx::start(), Bae::new(), random(94, 160 * MIB));
    nginx.serve("f.bin", &data);
    let mut running = start(&bae, &nginx.url("/f/f.bin"), &["-x", "8"]);
    let mut stdout = running.stdout.take().unwrap();
    let mut output = vec![0; data.len() - MIB as usize];
    stdout.read_exact(&mut output).unwrap();
    // bae still has the rest, because a pipe holds less than 1 MiB.
    let peak = peak_memory(running.id()).unwrap();
    assert!(peak < OVERHEAD, "{peak} bytes resident");
    stdout.read_to_end(&mut output).unwrap();
    assert!(running.wait().unwrap().success() && output == data);
}

#[test]
fn folders_json_and_several_files_are_refused_on_stdout() {
    let (server, bae) = (FtpServer::vsftpd(), Bae::new());
    server.served.write("top/f.bin", b"here");
    let url = server.url("ftp");
    for (url, options, message) in [
        (format!("{url}top/"), &[][..], "is a folder"),
        (format!("{url}top/f.bin"), &["--json"][..], "standard output"),
        (format!("{url}top/f.bin"), &["ftp://other/"][..], "-o names one file"),
    ] {
        let output = run(&bae, &url, options);
        assert_eq!((output.code, output.bytes.is_empty()), (Some(2), !options.contains(&"--json")));
        assert!(output.stderr.contains(message), "{}", output.stderr);
    }
    let output = run(&bae, &format!("{url}top/f.bin"), &[]);
    assert_eq!(
        (output.code, output.bytes.as_slice()),
        (Some(0), &b"here"[..]),
        "{}",
        output.stderr
    );
}
