//! Where `bae get` writes: devices and pipes are written to as they are, files are replaced atomically, and other
//! files are not touched.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::support::{
    bae::Bae,
    ftp_server::FtpServer,
    get::{args, assert_file, event, get, out_path, ranged},
    scripted_http::ScriptedHttp,
    tmpfs::is_root,
};

fn server() -> ScriptedHttp {
    ScriptedHttp::start(|_, request| Some(ranged(request, b"hello").with("ETag", "\"a\"")))
}

fn make_pipe(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

/// A home with an empty output folder, and a function that returns paths in that folder.
fn home() -> (Bae, impl Fn(&str) -> PathBuf) {
    let bae = Bae::new();
    let dir = out_path(&bae, "");
    fs::create_dir_all(&dir).unwrap();
    (bae, move |name: &str| dir.join(name))
}

fn file_names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let mut file_names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
    file_names.sort();
    file_names
}

#[test]
fn pipes_and_devices_are_written_to_and_never_replaced() {
    let server = server();
    let url = format!("{}/f", server.url());
    for flags in [&[][..], &["--overwrite"][..], &["--fresh"][..]] {
        let (bae, at) = home();
        make_pipe(&at("pipe"));
        symlink("pipe", at("link")).unwrap();
        symlink("/dev/null", at("null")).unwrap();
        for name in ["pipe", "link"] {
            let reader = thread::spawn({
                let path = at("pipe");
                move || fs::read(path).unwrap()
            });
            let list = [&[url.as_str(), "-o", name][..], flags].concat();
            let output = get(&bae, &list).expect(0);
            assert_eq!(event(&output, "fetched")["bytes"], 5);
            assert_eq!(reader.join().unwrap(), b"hello", "{name} {flags:?}");
        }
        let list = [&[url.as_str(), "-o", "null"][..], flags].concat();
        get(&bae, &list).expect(0);
        assert_eq!(fs::read_link(at("null")).unwrap(), Path::new("/dev/null"));
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
        if is_root() {
            let device = rustix::fs::makedev(1, 3);
            mknodat(CWD, at("device"), FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, device)
                .unwrap();
            get(&bae, &[&[url.as_str(), "-o", "device"][..], flags].concat()).expect(0);
            assert!(fs::symlink_metadata(at("device")).unwrap().file_type().is_char_device());
        }
        assert!(fs::symlink_metadata(at("pipe")).unwrap().file_type().is_fifo());
        assert!(fs::symlink_metadata(at("link")).unwrap().is_symlink());
        assert!(
            !file_names(&at("")).iter().any(|name| name.contains("part")),
            "{:?}",
            file_names(&at(""))
        );
    }
}

#[test]
fn dev_stdout_gets_only_the_bytes_of_the_file() {
    let (server, bae) = (server(), Bae::new());
    let url = format!("{}/f", server.url());
    for name in ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
        let piped = bae.command(["get", &url, "-o", name]).output().unwrap();
        assert_eq!(piped.stdout, b"hello", "{name}: {}", String::from_utf8_lossy(&piped.stderr));
        // When stdout is a file, the bytes are written at the position of the shell.
        let file = bae.home().join("all");
        let mut command = Command::new("sh");
        command.args(["-c", "echo before; \"$@\"; echo after", "sh"]);
        let inner = bae.command(["get", &url, "-o", name]);
        command.arg(inner.get_program()).args(inner.get_args());
        for (key, value) in inner.get_envs() {
            value.map(|value| command.env(key, value));
        }
        command.stdout(fs::File::create(&file).unwrap()).stderr(Stdio::null());
        assert!(command.status().unwrap().success());
        assert_eq!(fs::read(&file).unwrap(), b"before\nhelloafter\n", "{name}");
    }
    assert!(fs::symlink_metadata("/dev/stdout").unwrap().is_symlink());
}

#[test]
fn unwritable_targets_are_refused_and_left_unchanged() {
    let server = server();
    let url = format!("{}/f", server.url());
    let (bae, at) = home();
    fs::create_dir(at("folder")).unwrap();
    symlink("nowhere", at("dead")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    let before = file_names(&at(""));
    for flags in [&[][..], &["--overwrite"][..]] {
        let run = |name: &str| get(&bae, &[&[url.as_str(), "-o", name][..], flags].concat());
        run("folder").expect(2).expect_stderr("is a folder").expect_stderr("-d");
        run("socket").expect(1).expect_stderr("is a socket");
        assert_eq!(file_names(&at("")), before, "files were left or removed");
    }
    get(&bae, &[&url, "-o", "dead"]).expect(1).expect_stderr("dangling symbolic link");
    assert_eq!(fs::read_link(at("dead")).unwrap(), Path::new("nowhere"));
    let dir = |dir: &str| bae.run(["get", &url, "-d", dir]);
    dir("/dev/null").expect(2).expect_stderr("/dev/null");
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
}

#[test]
fn part_files_of_other_programs_are_left_unchanged() {
    let server = server();
    let url = format!("{}/f", server.url());
    let (bae, at) = home();
    fs::write(at("victim"), "precious").unwrap();
    for flags in [&[][..], &["--fresh", "--overwrite"][..]] {
        let run = || get(&bae, &[&[url.as_str()][..], flags].concat());
        fs::write(at("f.part"), "half of something").unwrap();
        run().expect(1).expect_stderr("f.part");
        assert_file(&at("f.part"), b"half of something");
        fs::remove_file(at("f.part")).unwrap();
        for name in ["f.part", "f.bae-part", "f.bae-part~"] {
            symlink("victim", at(name)).unwrap();
            run().expect(1).expect_stderr(name);
            assert!(fs::symlink_metadata(at(name)).unwrap().is_symlink(), "{name}");
            assert_file(&at("victim"), b"precious");
            fs::remove_file(at(name)).unwrap();
            make_pipe(&at(name));
            run().expect(1).expect_stderr(name);
            assert!(fs::symlink_metadata(at(name)).unwrap().file_type().is_fifo(), "{name}");
            fs::remove_file(at(name)).unwrap();
        }
    }
    get(&bae, &[&url]).expect(0);
    assert_file(&at("f"), b"hello");
    assert_eq!(file_names(&at("")), ["f", "victim"]);
}

#[test]
fn a_failed_fetch_leaves_no_file() {
    let server = ScriptedHttp::start(|_, request| Some(ranged(request, &[7; 3000]).truncated(0)));
    let (bae, at) = home();
    get(&bae, &[&format!("{}/f", server.url()), "-m", "1"]).expect(6);
    assert_eq!(file_names(&at("")), Vec::<String>::new());
}

#[test]
fn one_invalid_name_does_not_stop_the_rest_of_a_folder() {
    let server = FtpServer::pyftpd(false);
    for name in ["good.txt", "aux", "CON", "back\\slash", "tab\tname"] {
        server.served.write(&format!("odd/{name}"), name.as_bytes());
    }
    let (bae, at) = home();
    let output = get(&bae, &[&format!("{}odd/", server.url("ftp"))]);
    for name in ["good.txt", "aux", "CON", "back\\slash"] {
        assert_file(&at("odd").join(name), name.as_bytes());
    }
    assert_eq!(output.code, Some(1), "{}", output.stderr);
    output.expect_stderr("control character").expect_stderr("odd/tab");
    // A single file may have such a name too.
    get(&bae, &[&format!("{}odd/aux", server.url("ftp"))]).expect(0);
    assert_file(&at("aux"), b"aux");
}

#[test]
fn a_repeated_url_is_fetched_once_and_two_files_of_one_name_are_an_error() {
    let server = server();
    let (bae, at) = home();
    let (one, two) = (format!("{}/a/f", server.url()), format!("{}/b/f", server.url()));
    get(&bae, &[&one, &one]).expect(0);
    assert_file(&at("f"), b"hello");
    fs::remove_file(at("f")).unwrap();
    let output =
        get(&bae, &[&one, &two]).expect(2).expect_stderr("is the target of").expect_stderr("out=");
    assert!(!output.stderr.contains("another bae"), "{}", output.stderr);
    assert_file(&at("f"), b"hello");
}

#[test]
fn the_last_component_of_an_escaped_path_is_the_file_name() {
    let server = server();
    let (bae, at) = home();
    get(&bae, &[&format!("{}/x/a%2Fb.txt", server.url())]).expect(0);
    assert_file(&at("b.txt"), b"hello");
}

#[test]
fn url_lists_with_a_byte_order_mark_and_crlf_are_read() {
    let server = server();
    let (bae, at) = home();
    let list = bae.home().join("list");
    fs::write(&list, format!("\u{feff}{}/one\r\n", server.url())).unwrap();
    get(&bae, &["-i", list.to_str().unwrap()]).expect(0);
    assert_file(&at("one"), b"hello");
    fs::write(&list, b"http://x.example/\nhttp://\xff/\n").unwrap();
    get(&bae, &["-i", list.to_str().unwrap()]).expect(2).expect_stderr("line 2 is not UTF-8");
}

#[test]
fn an_invalid_line_of_a_url_list_does_not_stop_the_others() {
    let server = server();
    let (bae, at) = home();
    let list = bae.home().join("list");
    let url = server.url();
    fs::write(&list, format!("{url}/one\nhttp://[nowhere\n{url}/two\n")).unwrap();
    get(&bae, &["-i", list.to_str().unwrap()]).expect(2).expect_stderr("is not a URL");
    assert_file(&at("one"), b"hello");
    assert_file(&at("two"), b"hello");
}

#[test]
fn usage_errors_are_json_events_and_magnet_links_are_refused() {
    let bae = Bae::new();
    let output = bae.run(["--json", "get", "--no-such-flag"]).expect(2);
    let error = event(&output, "error");
    assert_eq!(error["kind"], "invalid_input");
    assert!(error["error"].as_str().unwrap().contains("--no-such-flag"), "{error}");
    assert!(bae.run(["get", "--no-such-flag"]).expect(2).stdout.is_empty());
    get(&bae, &["magnet:?xt=urn:btih:0"]).expect(2).expect_stderr("bae import");
    let reversed = ["http://127.0.0.1:1/", "--range-start", "10", "--range-end", "5"];
    get(&bae, &reversed).expect(2).expect_stderr("before --range-start");
}

#[test]
fn more_parallel_downloads_than_file_descriptors_all_succeed() {
    let server = server();
    let (bae, at) = home();
    let list = bae.home().join("list");
    let line = |n: usize| format!("{}/{n}\n", server.url());
    fs::write(&list, (0..150).map(line).collect::<String>()).unwrap();
    let inner = bae.command(args(&bae, &["-i", list.to_str().unwrap(), "-j", "150"]));
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 128; exec \"$@\"", "sh"]);
    command.arg(inner.get_program()).args(inner.get_args());
    for (key, value) in inner.get_envs() {
        value.map(|value| command.env(key, value));
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(file_names(&at("")).len(), 150);
}
