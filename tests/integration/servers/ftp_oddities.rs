//! FTP servers with unusual answers. Answers that other clients understand are accepted; an answer that is not
//! understood is an error that quotes it.

use crate::support::{
    MIB,
    bae::{Bae, CommandOutput},
    ftp_server::FtpServer,
    get::{args, assert_file, get, out_path},
    random,
    scripted_ftp::{Oddities, ScriptedFtp},
};

/// Runs `get` for `path` of this server.
fn fetch(server: &ScriptedFtp, path: &str, options: &[&str]) -> (Bae, CommandOutput) {
    let bae = Bae::new();
    let url = server.url(path);
    let output = get(&bae, &[&[url.as_str()], options].concat());
    (bae, output)
}

/// Panics unless `/a.bin` arrives unchanged.
fn assert_fetched(case: &str, oddities: Oddities, data: &[u8]) -> ScriptedFtp {
    let server = oddities.start();
    let (bae, output) = fetch(&server, "/a.bin", &["-m", "3"]);
    assert_eq!(output.code, Some(0), "{case}: {}\n{:?}", output.stderr, server.commands());
    assert_file(&out_path(&bae, "a.bin"), data);
    server
}

fn line(name: &str) -> String {
    format!("-rw-r--r--   1 u g        5 Jan 12 07:08 {name}\r\n")
}

/// A folder `/f` with the files `a.txt` and `b.txt`. In its listing, the line of `a.txt` is `odd_line`.
fn folder(odd_line: &[u8]) -> Oddities {
    let oddities = Oddities::file("/f/a.txt", b"hello").and_file("/f/b.txt", b"hello");
    oddities.listing(&[odd_line, b"\r\n", line("b.txt").as_bytes()].concat())
}

#[test]
fn data_connections_are_opened_for_every_format_of_reply() {
    let data = random(81, 3 * MIB);
    let unknown = "500 unknown";
    for (case, epsv, pasv) in [
        ("without parentheses", unknown, "227 Entering Passive Mode 127,0,0,1,{high},{low}"),
        ("with spaces", unknown, "227 ok (127, 0, 0, 1, {high}, {low})"),
        ("another delimiter", "229 ok (!!!{port}!)", unknown),
        ("425 to EPSV", "425 no", "227 ok (127,0,0,1,{high},{low})"),
        ("a port that is closed", "229 ok (|||1|)", "227 ok (127,0,0,1,{high},{low})"),
        ("an address that is not the server's", unknown, "227 ok (192,0,2,1,{high},{low})"),
    ] {
        let oddities = Oddities::file("/a.bin", &data).with("EPSV", epsv).with("PASV", pasv);
        assert_fetched(case, oddities, &data);
    }
}

#[test]
fn an_error_names_the_command_that_was_refused() {
    let refused = |command, reply| {
        let oddities = Oddities::reply("/a.bin", b"hello", command, reply).with("EPSV", "502 no");
        let (_, output) = fetch(&oddities.start(), "/a.bin", &["-m", "1"]);
        assert_ne!(output.code, Some(0));
        output
    };
    refused("PASV", "425 not now").expect_stderr("EPSV answered 502 no; PASV answered 425 not now");
    refused("PASV", "227 somewhere").expect_stderr("PASV answered 227 somewhere");
    refused("TYPE", "504 no").expect_stderr("TYPE answered 504 no");
    refused("PASS", "530 no").expect(24).expect_stderr("PASS answered 530 no");
    refused("USER", "332 account").expect(24).expect_stderr("USER answered 332 account");
}

#[test]
fn unusual_success_replies_are_accepted() {
    let data = random(82, 3 * MIB);
    let len = data.len();
    for (case, command, reply) in [
        ("SIZE with words", "SIZE", format!("213 {len} bytes")),
        ("a negative SIZE", "SIZE", "213 -1".to_owned()),
        ("PASS is superfluous", "PASS", "202 no need".to_owned()),
        ("no FEAT", "FEAT", "502 no".to_owned()),
        ("no MDTM", "MDTM", "502 no".to_owned()),
    ] {
        assert_fetched(case, Oddities::reply("/a.bin", &data, command, &reply), &data);
    }
    for greeting in ["120 soon\r\n220 ready", "220", "220-terms\r\n of use\r\n220 ready"] {
        let oddities = Oddities::file("/a.bin", &data);
        assert_fetched(greeting, Oddities { greeting: Some(greeting), ..oddities }, &data);
    }
    let oddities = Oddities { only_retr: true, ..Oddities::file("/a.bin", &data) };
    assert_fetched("neither SIZE nor MDTM", oddities, &data);
}

#[test]
fn a_reported_length_of_zero_is_checked_by_reading() {
    let data = random(83, MIB);
    let oddities = || Oddities::reply("/a.bin", &data, "SIZE", "213 0");
    assert_fetched("SIZE 0", oddities(), &data);
    let server = assert_fetched("an empty file", Oddities::file("/a.bin", b""), b"");
    assert!(server.commands().iter().any(|command| command == "RETR a.bin"));
    // The same with a file in a folder.
    let list = "-rw-r--r--   1 u g        0 Jan 12 07:08 a.bin\r\n";
    let oddities = Oddities::reply("/f/a.bin", &data, "SIZE", "213 0").listing(list.as_bytes());
    let (bae, output) = fetch(&oddities.start(), "/f/", &[]);
    output.expect(0);
    assert_file(&out_path(&bae, "f/a.bin"), &data);
}

#[test]
fn a_reported_length_that_is_too_small_is_an_error() {
    let data = random(84, MIB);
    let oddities = Oddities::reply("/a.bin", &data, "SIZE", "213 1000");
    let (bae, output) = fetch(&oddities.start(), "/a.bin", &["-m", "2"]);
    output.expect(32).expect_stderr("and sends more");
    assert!(!out_path(&bae, "a.bin").exists());
    // The same when only the listing has a length.
    let oddities = Oddities { only_retr: true, ..folder(line("a.txt").trim_end().as_bytes()) };
    let oddities = oddities.and_file("/f/a.txt", b"hello and more");
    let (bae, output) = fetch(&oddities.start(), "/f/", &[]);
    output.expect(32).expect_stderr("and sends more");
    assert_file(&out_path(&bae, "f/b.txt"), b"hello");
    assert!(!out_path(&bae, "f/a.txt").exists());
}

#[test]
fn a_transfer_shorter_than_announced_is_an_error() {
    let oddities = || Oddities { only_retr: true, ..Oddities::file("/a.bin", b"hello") };
    let announces = |reply| Oddities { opening: Some(reply), ..oddities() };
    let (bae, output) = fetch(&announces("150 a.bin (5000 bytes)").start(), "/a.bin", &["-m", "1"]);
    output.expect(32).expect_stderr("4995 bytes early");
    assert!(!out_path(&bae, "a.bin").exists());
    let (bae, output) = fetch(&announces("150 a.bin (5 bytes)").start(), "/a.bin", &["-m", "1"]);
    output.expect(0);
    assert_file(&out_path(&bae, "a.bin"), b"hello");
}

#[test]
fn a_transfer_that_ends_early_is_continued() {
    let data = random(85, MIB + 1);
    let oddities = Oddities { transfer_limit: Some(400_000), ..Oddities::file("/a.bin", &data) };
    let (bae, output) = fetch(&oddities.start(), "/a.bin", &["-x", "1"]);
    output.expect(0);
    assert_file(&out_path(&bae, "a.bin"), &data);
    // The server has no more bytes, however often they are requested.
    let oddities = Oddities::reply("/a.bin", b"hello", "SIZE", "213 5000");
    let (bae, output) = fetch(&oddities.start(), "/a.bin", &["-x", "1", "-m", "2"]);
    output.expect(6).expect_stderr("4995 bytes early");
    assert!(!out_path(&bae, "a.bin").exists());
}

#[test]
fn symlinks_to_files_are_fetched_and_dangling_ones_are_skipped() {
    let link = "lrwxrwxrwx   1 u g        5 Jan 12 07:08 a.txt -> b.txt";
    let dangling = "\r\nlrwxrwxrwx   1 u g        5 Jan 12 07:08 no.txt -> nothing";
    let oddities = folder([link, dangling].concat().as_bytes()).with("SIZE", "550 not now");
    let (bae, output) = fetch(&oddities.start(), "/f/", &[]);
    output.expect(0);
    assert_file(&out_path(&bae, "f/a.txt"), b"hello");
    assert_file(&out_path(&bae, "f/b.txt"), b"hello");
}

/// `MLSD` and `MDTM` of this server report different times for the same moment.
#[test]
fn different_dates_in_mlsd_and_mdtm_do_not_mean_a_changed_file() {
    let facts = "type=file;size=5;modify=20200102050405; a.txt\r\n\
                 type=file;size=5;modify=20200102050405; b.txt\r\n";
    let oddities = folder(b"").with("FEAT", "211-x\r\n MLSD\r\n MDTM\r\n211 End");
    let (bae, output) =
        fetch(&Oddities { mlsd: Some(facts.into()), ..oddities }.start(), "/f/", &[]);
    output.expect(0);
    assert_file(&out_path(&bae, "f/a.txt"), b"hello");
    assert_file(&out_path(&bae, "f/b.txt"), b"hello");
}

#[test]
fn a_file_is_fetched_in_one_transfer_when_ranges_are_not_served() {
    let data = random(85, 5 * MIB + 3);
    for (case, oddities) in [
        ("refused", Oddities::reply("/a.bin", &data, "REST", "502 no")),
        ("not done", Oddities { ignores_rest: true, ..Oddities::file("/a.bin", &data) }),
    ] {
        let server = assert_fetched(case, oddities.clone(), &data);
        let commands = server.commands();
        let last = commands.iter().rposition(|command| command == "RETR a.bin").unwrap();
        let used_range = commands[last - 1].starts_with("REST");
        assert!(!used_range, "{case}: the last transfer is a range: {commands:?}");
        // An import must not store a byte at a wrong offset either.
        let (bae, server) = (Bae::new(), oddities.start());
        let storage = bae.storage_url();
        let url = server.url("/a.bin");
        let id = bae.run(["--json", "import", &url, "--storage", &storage]).expect(0).summary().id;
        bae.run(["export", &id, &out_path(&bae, "").display().to_string()]).expect(0);
        assert_file(&out_path(&bae, "a.bin"), &data);
    }
}

#[test]
fn support_for_ranges_is_tested_once() {
    let data = random(86, 5 * MIB + 3);
    let server = assert_fetched("honest", Oddities::file("/a.bin", &data), &data);
    let range_test = format!("REST {}", data.len() - 1);
    let count = server.commands().iter().filter(|command| **command == range_test).count();
    assert_eq!(count, 1, "{:?}", server.commands());
}

/// A login that was accepted once has the right password.
#[test]
fn refused_additional_logins_reduce_the_number_of_connections() {
    let data = random(87, 5 * MIB + 3);
    for refusal in [
        "530 Sorry, your account is restricted to 1 simultaneous logins.",
        "530 This server allows only one login per user.",
        "530 Login incorrect.",
        "421 Too many",
    ] {
        let oddities =
            Oddities { session_limit: Some((1, refusal)), ..Oddities::file("/a.bin", &data) };
        assert_fetched(refusal, oddities, &data);
    }
    // The refusal of the first login is reported as it is.
    let oddities = Oddities {
        session_limit: Some((0, "530 Login incorrect.")),
        ..Oddities::file("/a.bin", b"x")
    };
    fetch(&oddities.start(), "/a.bin", &[]).1.expect(24);
    // The greeting is refused before the login, so the error may be temporary.
    let oddities = Oddities { greeting: Some("530 no"), ..Oddities::file("/a.bin", b"x") };
    fetch(&oddities.start(), "/a.bin", &["-m", "1"])
        .1
        .expect(5)
        .expect_stderr("the greeting answered 530 no");
}

#[test]
fn listings_in_many_formats_are_parsed() {
    for odd_line in [
        "-rw-r--r--+  1 u g        5 Jan 12 07:08 a.txt",
        "-rw-r--r--   1 owner        5 Jan 12 07:08 a.txt",
        "-rw-r--r--   1 owner Domain Users        5 Jan 12 07:08 a.txt",
        "-rw-r--r--   1 u g        5 12 Jan 07:08 a.txt",
        "-rw-r--r--   1 u g        5 2020-01-12 07:08 a.txt",
        "-rw-r--r--   1 u g        5 Mär 12 07:08 a.txt",
        "01-12-2020  05:08PM                    5 a.txt",
        "+i8388621.48594,m825718503,r,s5,\ta.txt",
        "a.txt",
    ] {
        let (bae, output) = fetch(&folder(odd_line.as_bytes()).start(), "/f/", &[]);
        assert_eq!(output.code, Some(0), "{odd_line}: {}", output.stderr);
        for name in ["f/a.txt", "f/b.txt"] {
            assert_file(&out_path(&bae, name), b"hello");
        }
    }
    let mlsd = b" a.txt\r\nsize=5; b.txt\r\ntype=file;size=5; c.txt\r\n".to_vec();
    let oddities = folder(b"").and_file("/f/c.txt", b"hello");
    let oddities =
        Oddities { mlsd: Some(mlsd), ..oddities.with("FEAT", "211-x\r\n MLSD\r\n211 End") };
    let (bae, output) = fetch(&oddities.start(), "/f/", &[]);
    output.expect(0);
    for name in ["f/a.txt", "f/b.txt", "f/c.txt"] {
        assert_file(&out_path(&bae, name), b"hello");
    }
}

#[test]
fn an_unparsable_line_of_a_listing_is_an_error_that_quotes_it() {
    let odd_line = "README.TXT;1  2  12-JAN-2020 07:08:09 [GROUP,OWNER] (RWED)";
    let bae = Bae::new();
    let storage = bae.storage_url();
    let server = folder(odd_line.as_bytes()).start();
    let url = server.url("/f/");
    let assert_quotes_line = |output: CommandOutput| {
        output.expect(1).expect_stderr("README.TXT;1").expect_stderr("has an unknown format")
    };
    assert_quotes_line(get(&bae, &[&url]));
    let import = ["import", &url, "--storage", &storage];
    assert_quotes_line(bae.run(import));
    assert_quotes_line(bae.run([&import[..], &["--dry-run"]].concat()));
    assert!(!out_path(&bae, "f").exists(), "files of an unparsable listing were fetched");
}

#[test]
fn names_in_listings_keep_their_spaces() {
    for (list, name) in [
        (line(" lead.txt"), " lead.txt"),
        // This server puts two spaces between the date and every name.
        (line(" bare.txt"), "bare.txt"),
        (line("trail "), "trail "),
    ] {
        let oddities = Oddities::file(&format!("/f/{name}"), b"hello").listing(list.as_bytes());
        let (bae, output) = fetch(&oddities.start(), "/f/", &[]);
        assert_eq!(output.code, Some(0), "{name:?}: {}", output.stderr);
        assert_file(&out_path(&bae, &format!("f/{name}")), b"hello");
    }
}

#[test]
fn an_empty_folder_is_reported_and_is_not_an_error() {
    for reply in [None, Some("450 No files found"), Some("550 No such file or directory")] {
        let oddities = Oddities::file("/f/hidden", b"");
        let oddities = reply.map_or(oddities.clone(), |reply| oddities.with("LIST", reply));
        let (_, output) = fetch(&oddities.start(), "/f/", &["-m", "1"]);
        output.expect(0).expect_stderr("a folder without files");
    }
    for (reply, code) in [("550 Permission denied", 24), ("450 busy", 5)] {
        let oddities = Oddities::file("/f/hidden", b"").with("LIST", reply);
        fetch(&oddities.start(), "/f/", &["-m", "1"]).1.expect(code).expect_stderr("LIST answered");
    }
}

/// vsftpd reports success when it cannot list a folder.
#[test]
fn a_folder_that_cannot_be_listed_is_an_error() {
    use std::os::unix::fs::PermissionsExt;
    if rustix::process::getuid().is_root() {
        return eprintln!("root may list everything: nothing is tested");
    }
    let server = FtpServer::vsftpd();
    server.served.write("f/a.txt", b"hello");
    let folder = server.served.dir().join("f");
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o311)).unwrap();
    let bae = Bae::new();
    let url = format!("{}f/", server.url("ftp"));
    bae.run(args(&bae, &[&url])).expect(24);
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn names_that_are_not_utf_8_are_fetched_by_their_bytes() {
    use std::os::unix::ffi::OsStrExt;
    for server in [FtpServer::vsftpd(), FtpServer::proftpd()] {
        let name = std::ffi::OsStr::from_bytes(b"na\xefve.txt");
        server.served.write("f/plain.txt", b"plain");
        let folder = server.served.dir().join("f");
        std::fs::rename(folder.join("plain.txt"), folder.join(name)).unwrap();
        let (url, bae) = (server.url("ftp"), Bae::new());
        let login = match server.certificates {
            Some(_) => &["-u", "bob:command:echo secret"][..],
            None => &[],
        };
        let fetch = |path: &str| {
            let url = format!("{url}{path}");
            get(&bae, &[&[url.as_str()], login].concat()).expect(0)
        };
        fetch("f/").expect_stderr("not UTF-8");
        assert_file(&out_path(&bae, "f/naïve.txt"), b"plain");
        fetch("f/na%EFve.txt");
        assert_file(&out_path(&bae, "naïve.txt"), b"plain");
    }
}

/// pure-ftpd reports success when it lists only a part of a folder.
#[test]
fn a_truncated_listing_is_an_error() {
    for closing in [
        "226-Options: -a -l \r\n226 Output truncated to 2 matches",
        "226 Ausgabe auf 2 Treffer beschr\u{e4}nkt",
    ] {
        let oddities = Oddities { closing: Some(closing), ..folder(line("a.txt").as_bytes()) };
        let (bae, output) = fetch(&oddities.start(), "/f/", &["-m", "1"]);
        output.expect(1).expect_stderr("226");
        assert!(!out_path(&bae, "f/a.txt").exists());
    }
}

/// One name in Latin-1 and one in UTF-8 decode to the same text.
#[test]
fn two_names_that_decode_to_the_same_text_are_an_error() {
    let facts = b"type=file;size=5; caf\xe9.txt\r\ntype=file;size=5; caf\xc3\xa9.txt\r\n".to_vec();
    let oddities = folder(b"").and_file("/f/caf\u{e9}.txt", b"hello");
    let oddities = oddities.with("FEAT", "211-x\r\n MLSD\r\n211 End");
    let (_, output) =
        fetch(&Oddities { mlsd: Some(facts), ..oddities }.start(), "/f/", &["-m", "1"]);
    output.expect(1).expect_stderr("another file of the folder has the same local name");
}

#[test]
fn an_unreadable_symlink_is_reported() {
    let link = "lrwxrwxrwx   1 u g        5 Jan 12 07:08 a.txt -> b.txt";
    let oddities = Oddities::file("/f/b.txt", b"hello").listing(link.as_bytes());
    let oddities = oddities.with("SIZE", "550 a.txt: Permission denied");
    let oddities = oddities.with("RETR", "550 a.txt: Permission denied");
    let (_, output) = fetch(&oddities.start(), "/f/", &["-m", "1"]);
    output.expect(24).expect_stderr("Permission denied");
}
