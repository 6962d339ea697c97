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
    scripted_http::{Answer, ScriptedHttp},
};

/// Runs a command to its end with more environment variables. Returns the exit code and all output.
fn run(bae: &Bae, env: &[(&str, &str)], args: &[&str]) -> (i32, String) {
    let mut command = bae.command(args);
    command.envs(env.iter().copied());
    // The tests may run in a cloud whose metadata service would provide keys.
    command.env("AWS_EC2_METADATA_DISABLED", "true");
    let Output { status, stdout, stderr } = command.output().unwrap();
    let output =
        format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(!output.contains("panicked"), "{output}");
    assert!(!output.contains("hunter2"), "{output}");
    (status.code().expect("no signal ended it"), output)
}

const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "AK"), ("AWS_SECRET_ACCESS_KEY", "SK")];

fn check(bae: &Bae, env: &[(&str, &str)], url: &str) -> (i32, String) {
    run(bae, env, &["storage", "check", url])
}

/// The number of requests to the bucket. A check also requests the server's time.
fn bucket_requests(server: &ScriptedHttp) -> usize {
    server.requests().iter().filter(|request| request.target.starts_with("/b")).count()
}

/// An empty bucket that accepts every PUT.
fn bucket() -> ScriptedHttp {
    ScriptedHttp::start(|_, request| {
        Some(match request.method.as_str() {
            "PUT" => Answer::new(200, "").with("ETag", "\"x\""),
            "HEAD" => Answer::head(404, 0),
            _ => Answer::new(200, "<ListBucketResult></ListBucketResult>"),
        })
    })
}

#[test]
fn credentials_that_no_header_can_hold_are_an_error() {
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
            let (code, output) = run(&bae, &env, args);
            assert!([2, 24].contains(&code), "{args:?} {env:?}: {code}\n{output}");
        }
    }
    assert_eq!(bucket_requests(&server), 0, "a request was sent with such keys");
}

#[test]
fn white_space_around_keys_and_regions_is_ignored() {
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
fn a_secret_in_a_profile_is_trimmed_and_must_be_one_line() {
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
    let before = bucket_requests(&server);
    let (code, output) = check(&bae, &[], "m");
    assert_eq!(code, 2, "{output}");
    assert!(output.contains("access_key_id") && output.contains("second line"), "{output}");
    assert_eq!(bucket_requests(&server), before);
}

#[test]
fn a_drive_token_that_no_header_can_hold_is_an_error() {
    let (bae, server) = (Bae::new(), bucket());
    let endpoint = server.url();
    let env = [("BAE_DRIVE_TOKEN", "hunter2\nX: y"), ("BAE_DRIVE_ENDPOINT", endpoint.as_str())];
    let (code, output) = check(&bae, &env, "drive://FOLDER");
    assert_eq!(code, 2, "{output}");
    assert!(output.contains("access token"), "{output}");
    assert!(server.requests().iter().all(|request| request.target == "/"));
}

fn web_page() -> Answer {
    let text = "<!doctype html><html><title>Console</title>";
    Answer::new(200, text).with("Content-Type", "text/html; charset=utf-8")
}

#[test]
fn a_web_page_in_place_of_a_storage_is_reported_after_one_request() {
    let (bae, server) = (Bae::new(), ScriptedHttp::start(|_, _| Some(web_page())));
    let url = format!("s3://b/p?endpoint={}&region=eu", server.url());
    let (code, output) = check(&bae, &KEYS, &url);
    assert_eq!(code, 2, "{output}");
    assert!(output.contains("this is not S3: the server sent a web page"), "{output}");
    let import = [
        "import",
        "magnet:?xt=urn:btih:0123456789012345678901234567890123456789",
        "--storage",
        &url,
    ];
    let count = server.requests().len();
    let (code, output) = run(&bae, &KEYS, &import);
    assert_eq!(code, 2, "{output}");
    assert!(
        output.contains("this is not S3") && output.contains("hint: check that the endpoint"),
        "{output}"
    );
    assert_eq!(server.requests().len(), count + 1);

    let endpoint = server.url();
    let env = [("BAE_DRIVE_TOKEN", "t"), ("BAE_DRIVE_ENDPOINT", endpoint.as_str())];
    let (code, output) = check(&bae, &env, "drive://FOLDER");
    assert_eq!(code, 2, "{output}");
    assert!(output.contains("this is not Google Drive: the server sent a web page"), "{output}");
}

#[test]
fn other_servers_in_place_of_a_storage_are_reported_after_one_request() {
    for (answer, message) in [
        (Answer::new(302, "").with("Location", "/login"), "this is not S3"),
        (
            Answer::new(200, "{\"ok\":true}").with("Content-Type", "application/json"),
            "this is not S3",
        ),
        (Answer::new(404, "404 page not found"), "404"),
    ] {
        let (bae, server) = (Bae::new(), ScriptedHttp::start(move |_, _| Some(answer.clone())));
        let url = format!("s3://b/p?endpoint={}&region=eu", server.url());
        let source = "magnet:?xt=urn:btih:0123456789012345678901234567890123456789";
        let (code, output) = run(&bae, &KEYS, &["import", source, "--storage", &url]);
        assert!([2, 3].contains(&code), "{code}\n{output}");
        assert!(
            output.contains(message) && output.contains("hint: check that the endpoint"),
            "{output}"
        );
        assert_eq!(server.requests().len(), 1, "{output}");
    }
}

/// A server that sends `text` on each connection.
fn server_sending(text: &'static [u8]) -> std::net::SocketAddrV4 {
    let addr = ports::unused();
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
fn the_wrong_protocol_at_an_endpoint_is_reported_at_once() {
    let bae = Bae::new();
    // The answer of a server without TLS to anything.
    let plain = server_sending(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
    let ssh = server_sending(b"SSH-2.0-OpenSSH_9.9\r\n");
    for (endpoint, message) in [
        (format!("https://{plain}"), "the server does not use TLS"),
        (format!("http://{ssh}"), "does not speak HTTP"),
        ("http://no-such-host.invalid".to_owned(), "no such host"),
    ] {
        let url = format!("s3://b/p?endpoint={endpoint}&region=eu");
        let source = "magnet:?xt=urn:btih:0123456789012345678901234567890123456789";
        let (code, output) = run(&bae, &KEYS, &["import", source, "--storage", &url]);
        assert_eq!(code, 2, "{output}");
        assert!(output.contains(message) && output.contains("hint:"), "{output}");
        let (code, output) = check(&bae, &KEYS, &url);
        assert_eq!(code, 2, "{output}");
        assert!(output.contains(message), "{output}");
    }
}

#[test]
fn an_unsupported_proxy_is_reported_at_once_unless_the_storage_is_excepted() {
    let (bae, server) = (Bae::new(), bucket());
    let url = format!("s3://b/p?endpoint={}&region=eu", server.url());
    let proxy = ("ALL_PROXY", "socks5h://me:hunter2@127.0.0.1:1");
    let (code, output) = check(&bae, &[KEYS[0], KEYS[1], proxy], &url);
    assert_eq!(code, 2, "{output}");
    assert!(output.contains("socks5h://127.0.0.1:1") && output.contains("NO_PROXY"), "{output}");
    assert!(!output.contains("hunter2"), "{output}");
    assert_eq!(server.requests().len(), 0);
    check(&bae, &[KEYS[0], KEYS[1], proxy, ("NO_PROXY", "127.0.0.0/8")], &url);
    assert!(!server.requests().is_empty(), "the excepted server gets no request");
}

#[test]
fn missing_keys_are_named_in_the_error() {
    let (bae, server) = (Bae::new(), bucket());
    let url = format!("s3://b/p?endpoint={}&region=eu", server.url());
    let aws = bae.home().join(".aws");
    fs::create_dir(&aws).unwrap();
    let profiles = "[profile work]\nsso_session = s\nsso_account_id = 1\nsso_role_name = r\n\
                    [sso-session s]\nsso_region = eu-west-1\nsso_start_url = https://x.invalid\n";
    fs::write(aws.join("config"), profiles).unwrap();
    for (env, message) in [
        (("AWS_ACCESS_KEY_ID", "AK"), "AWS_SECRET_ACCESS_KEY is not"),
        (("AWS_SECRET_ACCESS_KEY", "hunter2"), "AWS_ACCESS_KEY_ID is not"),
        (("AWS_PROFILE", "nosuch"), "the AWS profile \"nosuch\" (AWS_PROFILE) is in none"),
        (
            ("AWS_PROFILE", "work"),
            "\"work\" uses SSO, which is not supported: run `aws configure export",
        ),
    ] {
        let (code, output) = check(&bae, &[env], &url);
        assert_eq!(code, 24, "{output}");
        assert!(output.contains(message), "{output}");
        assert!(!output.contains("WARN") && !output.contains("cargo"), "{output}");
    }
    assert_eq!(bucket_requests(&server), 0);
}

#[test]
fn a_wrong_clock_and_a_spending_cap_are_reported_with_a_hint() {
    let bae = Bae::new();
    let cap = "<Error><Code>AccessDenied</Code><Message>Transaction cap exceeded, see the Caps \
               page to increase your cap.</Message></Error>";
    for (answer, code, message) in [
        (Answer::error(403, "RequestTimeTooSkewed"), 24, "the clock of this machine is off"),
        (Answer::new(403, cap), 8, "raise the cap"),
    ] {
        let server = ScriptedHttp::start(move |_, _| Some(answer.clone()));
        let url = format!("s3://b/p?endpoint={}&region=eu", server.url());
        let source = "magnet:?xt=urn:btih:0123456789012345678901234567890123456789";
        let (exit_code, output) = run(&bae, &KEYS, &["import", source, "--storage", &url]);
        assert_eq!(exit_code, code, "{output}");
        assert!(output.contains(message), "{output}");
        assert_eq!(server.requests().len(), 1);
    }
}

#[test]
fn a_tilde_in_a_path_is_expanded_to_the_home_folder() {
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
