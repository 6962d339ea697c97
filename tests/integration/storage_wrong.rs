//! Storage settings that can never work: an immediate error that names the setting, no secret in it, no panic.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    process::Output,
    thread,
};

use crate::support::{
    bae::Bae,
    ports,
    scripted::{Answer, Scripted},
};

/// Runs a command to its end with more environment variables. Returns the exit code and all output.
fn run(bae: &Bae, env: &[(&str, &str)], args: &[&str]) -> (i32, String) {
    let mut command = bae.command(args);
    command.envs(env.iter().copied());
    // The tests may run in a cloud whose metadata service would provide keys.
    command.env("AWS_EC2_METADATA_DISABLED", "true");
    let Output { status, stdout, stderr } = command.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(!said.contains("panicked"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
    (status.code().expect("no signal ended it"), said)
}

const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "AK"), ("AWS_SECRET_ACCESS_KEY", "SK")];

fn check(bae: &Bae, env: &[(&str, &str)], url: &str) -> (i32, String) {
    run(bae, env, &["storage", "check", url])
}

/// The number of requests to the bucket. A check also requests the server's time.
fn asked(server: &Scripted) -> usize {
    server.requests().iter().filter(|request| request.target.starts_with("/b")).count()
}

/// An empty bucket that accepts every PUT.
fn bucket() -> Scripted {
    Scripted::start(|_, request| {
        Some(match request.method.as_str() {
            "PUT" => Answer::new(200, "").with("ETag", "\"x\""),
            "HEAD" => Answer::head(404, 0),
            _ => Answer::new(200, "<ListBucketResult></ListBucketResult>"),
        })
    })
}

#[test]
fn what_no_header_can_hold_is_an_error_by_name_wherever_it_comes_from() {
    let (bae, server) = (Bae::new(), bucket());
    let url = format!("s3://b/p?endpoint={}", server.url());
    let key = format!("s3://b/hunter?endpoint={}", server.url());
    for (id, secret, region, token) in [
        ("hunter2\nX: y", "SK", "eu", ""),
        ("hunter2ü", "SK", "eu", ""),
        ("AK", "hunter2\nSK", "eu", ""),
        ("AK", "SK", "eu\nhunter2", ""),
        ("AK", "SK", "eu/hunter2", ""),
        ("AK", "SK", "eu", "hunter2\u{1}"),
    ] {
        let env = [
            ("AWS_ACCESS_KEY_ID", id),
            ("AWS_SECRET_ACCESS_KEY", secret),
            ("AWS_REGION", region),
            ("AWS_SESSION_TOKEN", token),
        ];
        for args in [
            &["storage", "check", &url][..],
            &["get", &key, "-o", "-"],
            &["import", &key],
            &["import", "--storage", &url, &key],
        ] {
            let (code, said) = run(&bae, &env, args);
            assert!([2, 24].contains(&code), "{args:?} {env:?}: {code}\n{said}");
        }
    }
    assert_eq!(asked(&server), 0, "nothing is asked with such keys");
}

#[test]
fn white_space_around_keys_and_regions_does_not_matter() {
    let (bae, server) = (Bae::new(), bucket());
    let url = format!("s3://b/p?endpoint={}&region=us-east-1%0A", server.url());
    let keys = [("AWS_ACCESS_KEY_ID", "AK\n"), ("AWS_SECRET_ACCESS_KEY", "SK\r\n")];
    check(&bae, &keys, &url);
    let url = format!("s3://b/p?endpoint={}", server.url());
    check(&bae, &[keys[0], keys[1], ("AWS_REGION", " eu-north-1\n")], &url);
    let signed: Vec<_> = server
        .requests()
        .iter()
        .filter_map(|r| r.header("authorization").map(str::to_owned))
        .collect();
    assert!(signed.iter().any(|s| s.contains("Credential=AK/") && s.contains("/us-east-1/")));
    assert!(signed.iter().any(|s| s.contains("/eu-north-1/")), "{signed:?}");
}

#[test]
fn a_secret_in_a_profile_may_have_white_space_around_it_and_no_second_line() {
    let (bae, server) = (Bae::new(), bucket());
    let config = bae.home().join("config/bae/config.toml");
    fs::create_dir_all(config.parent().unwrap()).unwrap();
    let profile = |id: &str| {
        format!(
            "[storage.m]\ntype = \"s3\"\nbucket = \"b\"\nendpoint = \"{}\"\nregion = \"eu\"\n\
             access_key_id = {id}\nsecret_access_key = {{ command = \"printf ' SK\\\\n'\" }}\n",
            server.url()
        )
    };
    fs::write(&config, profile("\" AK \"")).unwrap();
    check(&bae, &[], "m");
    assert!(server.requests()[0].header("authorization").unwrap().contains("Credential=AK/"));
    fs::write(&config, profile("{ command = \"printf 'AK\\\\nhunter2\\\\n'\" }")).unwrap();
    let before = asked(&server);
    let (code, said) = check(&bae, &[], "m");
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("access_key_id") && said.contains("second line"), "{said}");
    assert_eq!(asked(&server), before);
}

#[test]
fn a_token_for_drive_that_no_header_can_hold_is_an_error_by_name() {
    let (bae, server) = (Bae::new(), bucket());
    let endpoint = server.url();
    let env = [("BAE_DRIVE_TOKEN", "hunter2\nX: y"), ("BAE_DRIVE_ENDPOINT", endpoint.as_str())];
    let (code, said) = check(&bae, &env, "drive://FOLDER");
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("access token"), "{said}");
    assert!(server.requests().iter().all(|request| request.target == "/"));
}

fn page() -> Answer {
    let text = "<!doctype html><html><title>Console</title>";
    Answer::new(200, text).with("Content-Type", "text/html; charset=utf-8")
}

#[test]
fn a_web_page_in_place_of_a_storage_is_named_and_asked_for_once() {
    let (bae, server) = (Bae::new(), Scripted::start(|_, _| Some(page())));
    let url = format!("s3://b/p?endpoint={}&region=eu", server.url());
    let (code, said) = check(&bae, &KEYS, &url);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("this is not S3: a web page came"), "{said}");
    let import = [
        "import",
        "magnet:?xt=urn:btih:0123456789012345678901234567890123456789",
        "--storage",
        &url,
    ];
    let asked = server.requests().len();
    let (code, said) = run(&bae, &KEYS, &import);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("this is not S3") && said.contains("hint: is the endpoint"), "{said}");
    assert_eq!(server.requests().len(), asked + 1);

    let endpoint = server.url();
    let env = [("BAE_DRIVE_TOKEN", "t"), ("BAE_DRIVE_ENDPOINT", endpoint.as_str())];
    let (code, said) = check(&bae, &env, "drive://FOLDER");
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("this is not Google Drive: a web page came"), "{said}");
}

#[test]
fn other_things_that_are_no_storage_are_named_and_asked_for_once() {
    for (answer, says) in [
        (Answer::new(302, "").with("Location", "/login"), "this is not S3"),
        (
            Answer::new(200, "{\"ok\":true}").with("Content-Type", "application/json"),
            "this is not S3",
        ),
        (Answer::new(404, "404 page not found"), "404"),
    ] {
        let (bae, server) = (Bae::new(), Scripted::start(move |_, _| Some(answer.clone())));
        let url = format!("s3://b/p?endpoint={}&region=eu", server.url());
        let source = "magnet:?xt=urn:btih:0123456789012345678901234567890123456789";
        let (code, said) = run(&bae, &KEYS, &["import", source, "--storage", &url]);
        assert!([2, 3].contains(&code), "{code}\n{said}");
        assert!(said.contains(says) && said.contains("hint: is the endpoint"), "{said}");
        assert_eq!(server.requests().len(), 1, "{said}");
    }
}

/// A server that sends `text` on each connection.
fn speaks(text: &'static [u8]) -> std::net::SocketAddrV4 {
    let addr = ports::own();
    let listener = TcpListener::bind(addr).unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.write_all(text);
            let _ = stream.read(&mut [0; 4096]);
        }
    });
    addr
}

#[test]
fn the_wrong_protocol_at_an_endpoint_is_named_at_once() {
    let bae = Bae::new();
    // The answer of a server without TLS to anything.
    let plain = speaks(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
    let ssh = speaks(b"SSH-2.0-OpenSSH_9.9\r\n");
    for (endpoint, says) in [
        (format!("https://{plain}"), "the server speaks no TLS"),
        (format!("http://{ssh}"), "does not speak HTTP"),
        ("http://no-such-host.invalid".to_owned(), "no such host"),
    ] {
        let url = format!("s3://b/p?endpoint={endpoint}&region=eu");
        let source = "magnet:?xt=urn:btih:0123456789012345678901234567890123456789";
        let (code, said) = run(&bae, &KEYS, &["import", source, "--storage", &url]);
        assert_eq!(code, 2, "{said}");
        assert!(said.contains(says) && said.contains("hint:"), "{said}");
        let (code, said) = check(&bae, &KEYS, &url);
        assert_eq!(code, 2, "{said}");
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn a_proxy_that_storage_cannot_use_is_named_at_once_and_others_are_no_trouble() {
    let (bae, server) = (Bae::new(), bucket());
    let url = format!("s3://b/p?endpoint={}&region=eu", server.url());
    let proxy = ("ALL_PROXY", "socks5h://me:hunter2@127.0.0.1:1");
    let (code, said) = check(&bae, &[KEYS[0], KEYS[1], proxy], &url);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("socks5h://127.0.0.1:1") && said.contains("NO_PROXY"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
    assert_eq!(server.requests().len(), 0);
    check(&bae, &[KEYS[0], KEYS[1], proxy, ("NO_PROXY", "127.0.0.0/8")], &url);
    assert!(!server.requests().is_empty(), "what is excepted is asked");
}

#[test]
fn keys_that_are_missing_are_named_in_words_of_ours() {
    let (bae, server) = (Bae::new(), bucket());
    let url = format!("s3://b/p?endpoint={}&region=eu", server.url());
    let aws = bae.home().join(".aws");
    fs::create_dir(&aws).unwrap();
    let profiles = "[profile work]\nsso_session = s\nsso_account_id = 1\nsso_role_name = r\n\
                    [sso-session s]\nsso_region = eu-west-1\nsso_start_url = https://x.invalid\n";
    fs::write(aws.join("config"), profiles).unwrap();
    for (env, says) in [
        (("AWS_ACCESS_KEY_ID", "AK"), "AWS_SECRET_ACCESS_KEY is not"),
        (("AWS_SECRET_ACCESS_KEY", "hunter2"), "AWS_ACCESS_KEY_ID is not"),
        (("AWS_PROFILE", "nosuch"), "the AWS profile \"nosuch\" (AWS_PROFILE) is in none"),
        (
            ("AWS_PROFILE", "work"),
            "\"work\" uses SSO that is not supported: run `aws configure export",
        ),
    ] {
        let (code, said) = check(&bae, &[env], &url);
        assert_eq!(code, 24, "{said}");
        assert!(said.contains(says), "{said}");
        assert!(!said.contains("WARN") && !said.contains("cargo"), "{said}");
    }
    assert_eq!(asked(&server), 0);
}

#[test]
fn a_clock_that_stays_wrong_and_a_cap_are_named_with_what_to_do() {
    let bae = Bae::new();
    let cap = "<Error><Code>AccessDenied</Code><Message>Transaction cap exceeded, see the Caps \
               page to increase your cap.</Message></Error>";
    for (answer, code, says) in [
        (Answer::error(403, "RequestTimeTooSkewed"), 24, "the clock of this machine is off"),
        (Answer::new(403, cap), 8, "raise the cap"),
    ] {
        let server = Scripted::start(move |_, _| Some(answer.clone()));
        let url = format!("s3://b/p?endpoint={}&region=eu", server.url());
        let source = "magnet:?xt=urn:btih:0123456789012345678901234567890123456789";
        let (ended, said) = run(&bae, &KEYS, &["import", source, "--storage", &url]);
        assert_eq!(ended, code, "{said}");
        assert!(said.contains(says), "{said}");
        assert_eq!(server.requests().len(), 1);
    }
}

#[test]
fn a_home_folder_is_put_into_paths_where_no_shell_did_it() {
    let bae = Bae::new();
    let home = bae.home().join("home");
    fs::create_dir_all(&home).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_bae"));
    command.env_clear().env("HOME", &home).env("BAE_DATA_DIR", "~/data").args(["gc", "--json"]);
    assert!(command.output().unwrap().status.success());
    assert!(home.join("data/catalog.db").exists());
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_bae"));
    command.env_clear().env("HOME", &home).args(["--data-dir=~/other", "gc", "--json"]);
    assert!(command.output().unwrap().status.success());
    assert!(home.join("other/catalog.db").exists());
}
