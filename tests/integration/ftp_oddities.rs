//! FTP servers with unusual answers. Answers that other clients understand are accepted; an answer that is not
//! understood is an error that quotes it.

use crate::{
    get::{args, get, out, random, same},
    support::{
        MIB,
        bae::{Bae, Ran},
        ftp_server::FtpServer,
        scripted_ftp::{Oddities, ScriptedFtp},
    },
};

/// Runs `get` for `path` of this server.
fn fetch(server: &ScriptedFtp, path: &str, options: &[&str]) -> (Bae, Ran) {
    let bae = Bae::new();
    let url = server.url(path);
    let ran = get(&bae, &[&[url.as_str()], options].concat());
    (bae, ran)
}

/// Panics unless `/a.bin` arrives unchanged.
fn comes_whole(what: &str, odd: Oddities, data: &[u8]) -> ScriptedFtp {
    let server = odd.start();
    let (bae, ran) = fetch(&server, "/a.bin", &["-m", "3"]);
    assert_eq!(ran.code, Some(0), "{what}: {}\n{:?}", ran.stderr, server.commands());
    same(&out(&bae, "a.bin"), data);
    server
}

fn line(name: &str) -> String {
    format!("-rw-r--r--   1 u g        5 Jan 12 07:08 {name}\r\n")
}

/// A folder `/f` with the files `a.txt` and `b.txt`. In its listing, the line of `a.txt` is `odd_line`.
fn folder(odd_line: &[u8]) -> Oddities {
    let odd = Oddities::file("/f/a.txt", b"hello").and_file("/f/b.txt", b"hello");
    odd.listing(&[odd_line, b"\r\n", line("b.txt").as_bytes()].concat())
}

#[test]
fn data_connections_are_made_in_every_form_that_servers_tell_them() {
    let data = random(81, 3 * MIB);
    let no = "500 unknown";
    for (what, epsv, pasv) in [
        ("without parentheses", no, "227 Entering Passive Mode 127,0,0,1,{high},{low}"),
        ("with spaces", no, "227 ok (127, 0, 0, 1, {high}, {low})"),
        ("another delimiter", "229 ok (!!!{port}!)", no),
        ("425 to EPSV", "425 no", "227 ok (127,0,0,1,{high},{low})"),
        ("a port that is closed", "229 ok (|||1|)", "227 ok (127,0,0,1,{high},{low})"),
        ("an address that is not the server's", no, "227 ok (192,0,2,1,{high},{low})"),
    ] {
        let odd = Oddities::file("/a.bin", &data).with("EPSV", epsv).with("PASV", pasv);
        comes_whole(what, odd, &data);
    }
}

#[test]
fn an_error_names_the_command_that_was_refused() {
    let refused = |command, reply| {
        let odd = Oddities::reply("/a.bin", b"hello", command, reply).with("EPSV", "502 no");
        let (_, ran) = fetch(&odd.start(), "/a.bin", &["-m", "1"]);
        assert_ne!(ran.code, Some(0));
        ran
    };
    refused("PASV", "425 not now").says("EPSV answered 502 no; PASV answered 425 not now");
    refused("PASV", "227 somewhere").says("PASV answered 227 somewhere");
    refused("TYPE", "504 no").says("TYPE answered 504 no");
    refused("PASS", "530 no").expect(24).says("PASS answered 530 no");
    refused("USER", "332 account").expect(24).says("USER answered 332 account");
}

#[test]
fn odd_answers_that_mean_yes_are_taken_as_such() {
    let data = random(82, 3 * MIB);
    let len = data.len();
    for (what, command, reply) in [
        ("SIZE with words", "SIZE", format!("213 {len} bytes")),
        ("a negative SIZE", "SIZE", "213 -1".to_owned()),
        ("PASS is superfluous", "PASS", "202 no need".to_owned()),
        ("no FEAT", "FEAT", "502 no".to_owned()),
        ("no MDTM", "MDTM", "502 no".to_owned()),
    ] {
        comes_whole(what, Oddities::reply("/a.bin", &data, command, &reply), &data);
    }
    for greeting in ["120 soon\r\n220 ready", "220", "220-terms\r\n of use\r\n220 ready"] {
        let odd = Oddities::file("/a.bin", &data);
        comes_whole(greeting, Oddities { greeting: Some(greeting), ..odd }, &data);
    }
    let odd = Oddities { knows_only_retr: true, ..Oddities::file("/a.bin", &data) };
    comes_whole("neither SIZE nor MDTM", odd, &data);
}

#[test]
fn a_length_of_nothing_is_believed_only_when_nothing_comes() {
    let data = random(83, MIB);
    let odd = || Oddities::reply("/a.bin", &data, "SIZE", "213 0");
    comes_whole("SIZE 0", odd(), &data);
    let server = comes_whole("a file of nothing", Oddities::file("/a.bin", b""), b"");
    assert!(server.commands().iter().any(|command| command == "RETR a.bin"));
    // The same with a file in a folder.
    let list = "-rw-r--r--   1 u g        0 Jan 12 07:08 a.bin\r\n";
    let odd = Oddities::reply("/f/a.bin", &data, "SIZE", "213 0").listing(list.as_bytes());
    let (bae, ran) = fetch(&odd.start(), "/f/", &[]);
    ran.expect(0);
    same(&out(&bae, "f/a.bin"), &data);
}

#[test]
fn a_length_that_is_too_small_is_an_error() {
    let data = random(84, MIB);
    let odd = Oddities::reply("/a.bin", &data, "SIZE", "213 1000");
    let (bae, ran) = fetch(&odd.start(), "/a.bin", &["-m", "2"]);
    ran.expect(32).says("sends more than it should");
    assert!(!out(&bae, "a.bin").exists());
    // The same when only the listing has a length.
    let odd = Oddities { knows_only_retr: true, ..folder(line("a.txt").trim_end().as_bytes()) };
    let odd = odd.and_file("/f/a.txt", b"hello and more");
    let (bae, ran) = fetch(&odd.start(), "/f/", &[]);
    ran.expect(32).says("sends more than it should");
    same(&out(&bae, "f/b.txt"), b"hello");
    assert!(!out(&bae, "f/a.txt").exists());
}

#[test]
fn a_transfer_that_brings_fewer_bytes_than_it_announces_is_not_whole() {
    let odd = || Oddities { knows_only_retr: true, ..Oddities::file("/a.bin", b"hello") };
    let announces = |reply| Oddities { opening: Some(reply), ..odd() };
    let (bae, ran) = fetch(&announces("150 a.bin (5000 bytes)").start(), "/a.bin", &["-m", "1"]);
    ran.expect(32).says("4995 bytes before it should");
    assert!(!out(&bae, "a.bin").exists());
    let (bae, ran) = fetch(&announces("150 a.bin (5 bytes)").start(), "/a.bin", &["-m", "1"]);
    ran.expect(0);
    same(&out(&bae, "a.bin"), b"hello");
}

#[test]
fn a_transfer_that_ends_short_of_the_length_is_gone_on_with() {
    let data = random(85, MIB + 1);
    let odd = Oddities { most_bytes: Some(400_000), ..Oddities::file("/a.bin", &data) };
    let (bae, ran) = fetch(&odd.start(), "/a.bin", &["-x", "1"]);
    ran.expect(0);
    same(&out(&bae, "a.bin"), &data);
    // The server has no more bytes, however often they are requested.
    let odd = Oddities::reply("/a.bin", b"hello", "SIZE", "213 5000");
    let (bae, ran) = fetch(&odd.start(), "/a.bin", &["-x", "1", "-m", "2"]);
    ran.expect(6).says("4995 bytes before it should");
    assert!(!out(&bae, "a.bin").exists());
}

#[test]
fn a_link_is_a_file_where_it_is_given() {
    let link = "lrwxrwxrwx   1 u g        5 Jan 12 07:08 a.txt -> b.txt";
    let dangling = "\r\nlrwxrwxrwx   1 u g        5 Jan 12 07:08 no.txt -> nothing";
    let odd = folder([link, dangling].concat().as_bytes()).with("SIZE", "550 not now");
    let (bae, ran) = fetch(&odd.start(), "/f/", &[]);
    ran.expect(0);
    same(&out(&bae, "f/a.txt"), b"hello");
    same(&out(&bae, "f/b.txt"), b"hello");
}

/// `MLSD` and `MDTM` of this server report different times for the same moment.
#[test]
fn dates_of_a_listing_count_only_where_a_file_is_known_again_by_them() {
    let facts = "type=file;size=5;modify=20200102050405; a.txt\r\n\
                 type=file;size=5;modify=20200102050405; b.txt\r\n";
    let odd = folder(b"").with("FEAT", "211-x\r\n MLSD\r\n MDTM\r\n211 End");
    let (bae, ran) = fetch(&Oddities { mlsd: Some(facts.into()), ..odd }.start(), "/f/", &[]);
    ran.expect(0);
    same(&out(&bae, "f/a.txt"), b"hello");
    same(&out(&bae, "f/b.txt"), b"hello");
}

#[test]
fn ranges_that_are_not_served_make_one_piece() {
    let data = random(85, 5 * MIB + 3);
    for (what, odd) in [
        ("refused", Oddities::reply("/a.bin", &data, "REST", "502 no")),
        ("not done", Oddities { ignores_rest: true, ..Oddities::file("/a.bin", &data) }),
    ] {
        let server = comes_whole(what, odd.clone(), &data);
        let commands = server.commands();
        let last = commands.iter().rposition(|command| command == "RETR a.bin").unwrap();
        let rest = commands[last - 1].starts_with("REST");
        assert!(!rest, "{what}: the file came in one piece: {commands:?}");
        // An import must not store a byte at a wrong offset either.
        let (bae, server) = (Bae::new(), odd.start());
        let storage = bae.storage_url();
        let url = server.url("/a.bin");
        let id = bae.run(["--json", "import", &url, "--storage", &storage]).expect(0).imported().id;
        bae.run(["export", &id, &out(&bae, "").display().to_string()]).expect(0);
        same(&out(&bae, "a.bin"), &data);
    }
}

#[test]
fn ranges_that_are_served_are_proven_once() {
    let data = random(86, 5 * MIB + 3);
    let server = comes_whole("honest", Oddities::file("/a.bin", &data), &data);
    let proof = format!("REST {}", data.len() - 1);
    let asked = server.commands().iter().filter(|command| **command == proof).count();
    assert_eq!(asked, 1, "{:?}", server.commands());
}

/// A login that was accepted once has the right password.
#[test]
fn further_logins_that_are_refused_mean_fewer_connections() {
    let data = random(87, 5 * MIB + 3);
    for refusal in [
        "530 Sorry, your account is restricted to 1 simultaneous logins.",
        "530 This server allows only one login per user.",
        "530 Login incorrect.",
        "421 Too many",
    ] {
        let odd = Oddities { most: Some((1, refusal)), ..Oddities::file("/a.bin", &data) };
        comes_whole(refusal, odd, &data);
    }
    // The refusal of the first login is reported as it is.
    let odd =
        Oddities { most: Some((0, "530 Login incorrect.")), ..Oddities::file("/a.bin", b"x") };
    fetch(&odd.start(), "/a.bin", &[]).1.expect(24);
    // The greeting is refused before the login, so the error may be temporary.
    let odd = Oddities { greeting: Some("530 no"), ..Oddities::file("/a.bin", b"x") };
    fetch(&odd.start(), "/a.bin", &["-m", "1"]).1.expect(5).says("the greeting answered 530 no");
}

#[test]
fn listings_of_many_kinds_are_read() {
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
        let (bae, ran) = fetch(&folder(odd_line.as_bytes()).start(), "/f/", &[]);
        assert_eq!(ran.code, Some(0), "{odd_line}: {}", ran.stderr);
        for name in ["f/a.txt", "f/b.txt"] {
            same(&out(&bae, name), b"hello");
        }
    }
    let mlsd = b" a.txt\r\nsize=5; b.txt\r\ntype=file;size=5; c.txt\r\n".to_vec();
    let odd = folder(b"").and_file("/f/c.txt", b"hello");
    let odd = Oddities { mlsd: Some(mlsd), ..odd.with("FEAT", "211-x\r\n MLSD\r\n211 End") };
    let (bae, ran) = fetch(&odd.start(), "/f/", &[]);
    ran.expect(0);
    for name in ["f/a.txt", "f/b.txt", "f/c.txt"] {
        same(&out(&bae, name), b"hello");
    }
}

#[test]
fn a_line_that_is_not_understood_is_an_error_that_quotes_it() {
    let odd_line = "README.TXT;1  2  12-JAN-2020 07:08:09 [GROUP,OWNER] (RWED)";
    let bae = Bae::new();
    let storage = bae.storage_url();
    let server = folder(odd_line.as_bytes()).start();
    let url = server.url("/f/");
    let told = |ran: Ran| ran.expect(1).says("README.TXT;1").says("is not understood");
    told(get(&bae, &[&url]));
    let import = ["import", &url, "--storage", &storage];
    told(bae.run(import));
    told(bae.run([&import[..], &["--dry-run"]].concat()));
    assert!(!out(&bae, "f").exists(), "something came of a folder that was not understood");
}

#[test]
fn names_keep_their_spaces() {
    for (list, name) in [
        (line(" lead.txt"), " lead.txt"),
        // This server puts two spaces between the date and every name.
        (line(" bare.txt"), "bare.txt"),
        (line("trail "), "trail "),
    ] {
        let odd = Oddities::file(&format!("/f/{name}"), b"hello").listing(list.as_bytes());
        let (bae, ran) = fetch(&odd.start(), "/f/", &[]);
        assert_eq!(ran.code, Some(0), "{name:?}: {}", ran.stderr);
        same(&out(&bae, &format!("f/{name}")), b"hello");
    }
}

#[test]
fn an_empty_folder_is_told_and_is_no_error() {
    for reply in [None, Some("450 No files found"), Some("550 No such file or directory")] {
        let odd = Oddities::file("/f/hidden", b"");
        let odd = reply.map_or(odd.clone(), |reply| odd.with("LIST", reply));
        let (_, ran) = fetch(&odd.start(), "/f/", &["-m", "1"]);
        ran.expect(0).says("a folder without files");
    }
    for (reply, code) in [("550 Permission denied", 24), ("450 busy", 5)] {
        let odd = Oddities::file("/f/hidden", b"").with("LIST", reply);
        fetch(&odd.start(), "/f/", &["-m", "1"]).1.expect(code).says("LIST answered");
    }
}

/// vsftpd reports success when it cannot list a folder.
#[test]
fn a_folder_that_may_not_be_listed_is_not_empty() {
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
fn names_in_other_encodings_come_by_their_bytes() {
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
        let fetched = |path: &str| {
            let url = format!("{url}{path}");
            get(&bae, &[&[url.as_str()], login].concat()).expect(0)
        };
        fetched("f/").says("not UTF-8");
        same(&out(&bae, "f/naïve.txt"), b"plain");
        fetched("f/na%EFve.txt");
        same(&out(&bae, "naïve.txt"), b"plain");
    }
}

/// pure-ftpd reports success when it lists only a part of a folder.
#[test]
fn a_truncated_listing_is_an_error() {
    for closing in [
        "226-Options: -a -l \r\n226 Output truncated to 2 matches",
        "226 Ausgabe auf 2 Treffer beschr\u{e4}nkt",
    ] {
        let odd = Oddities { closing: Some(closing), ..folder(line("a.txt").as_bytes()) };
        let (bae, ran) = fetch(&odd.start(), "/f/", &["-m", "1"]);
        ran.expect(1).says("226");
        assert!(!out(&bae, "f/a.txt").exists());
    }
}

/// One name in Latin-1 and one in UTF-8 decode to the same text.
#[test]
fn two_files_whose_names_decode_to_the_same_text_are_not_one() {
    let facts = b"type=file;size=5; caf\xe9.txt\r\ntype=file;size=5; caf\xc3\xa9.txt\r\n".to_vec();
    let odd = folder(b"").and_file("/f/caf\u{e9}.txt", b"hello");
    let odd = odd.with("FEAT", "211-x\r\n MLSD\r\n211 End");
    let (_, ran) = fetch(&Oddities { mlsd: Some(facts), ..odd }.start(), "/f/", &["-m", "1"]);
    ran.expect(1).says("another file of this folder has the same name");
}

#[test]
fn a_link_that_may_not_be_read_is_reported() {
    let link = "lrwxrwxrwx   1 u g        5 Jan 12 07:08 a.txt -> b.txt";
    let odd = Oddities::file("/f/b.txt", b"hello").listing(link.as_bytes());
    let odd = odd.with("SIZE", "550 a.txt: Permission denied");
    let odd = odd.with("RETR", "550 a.txt: Permission denied");
    let (_, ran) = fetch(&odd.start(), "/f/", &["-m", "1"]);
    ran.expect(24).says("Permission denied");
}
