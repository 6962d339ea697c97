//! Faults between `bae get` and a server: the file is exact, or there is no file and the error names the reason.

use std::net::SocketAddr;

use crate::support::{
    LONG, MIB, Random,
    bae::{Bae, Running},
    fault_proxy::{Fault, FaultProxy},
    file_faults::{FileFaults, KillStep},
    get::{args, assert_file, event, get, out_path, ranged, recorded_bytes, start},
    nginx::Nginx,
    process::Process,
    random,
    scripted_http::{Answer, ScriptedHttp},
    wait_until,
};

#[test]
fn a_killed_get_resumes_and_fetches_only_missing_bytes() {
    let (nginx, data) = (Nginx::start(), random(11, 40 * MIB));
    nginx.serve("f.bin", &data);
    let url = nginx.url("/slow/f.bin");
    let list = [url.as_str(), "-x", "4"];
    let faults_of = |bae: &Bae| FileFaults::in_folders(&[&bae.home().join("out")]);
    // Runs until step number `at`; returns whether it was killed.
    let get_until = |bae: &Bae, faults: &FileFaults, step: KillStep<'_>, at: u64| {
        let mut command = bae.command(args(bae, &list));
        faults.kill(&mut command, step, at);
        let mut running = Running(Process::start("bae", &command));
        let killed = running.wait_until_killed();
        let found = running.events().into_iter().find(|e| e["event"] == "found");
        (killed, found.and_then(|found| found["stored"].as_u64()))
    };
    let counted = Bae::new();
    let faults = faults_of(&counted);
    assert!(!get_until(&counted, &faults, KillStep::AnyChange, 0).0);
    let total = faults.operation_count();
    let mut random = Random::of_this_run();
    for _ in 0..2 {
        let (bae, mut recorded) = (Bae::new(), 0);
        // Each checkpoint replaces the state file. The first run is killed at its third rename: after the empty state
        // and one checkpoint. The others are killed anywhere in what is a quarter of a whole run.
        let any = KillStep::AnyChange;
        let (second, third) = (1 + random.below(total / 4), 1 + random.below(total / 4));
        eprintln!("killed before the third rename, then before the changes {second} and {third}");
        for (step, at) in [(KillStep::Each("rename"), 3), (any, second), (any, third)] {
            let (killed, found) = get_until(&bae, &faults_of(&bae), step, at);
            assert!(killed, "it was not killed at {step:?} {at}");
            assert!(
                found.is_none_or(|found| found >= recorded),
                "{recorded} bytes were recorded, {found:?} found"
            );
            assert!(!out_path(&bae, "f.bin").exists(), "an incomplete file has its final name");
            recorded = recorded_bytes(&bae, "f.bin");
            assert!(recorded > 0, "the first checkpoint is lost");
        }
        let output = get(&bae, &list).expect(0);
        let (found, fetched) = (event(&output, "found"), event(&output, "fetched"));
        assert_eq!(found["stored"], recorded);
        assert_eq!(fetched["downloaded"].as_u64(), Some(data.len() as u64 - recorded));
        assert_file(&out_path(&bae, "f.bin"), &data);
    }
}

#[test]
fn ctrl_c_stops_a_get_cleanly_and_keeps_fetched_bytes() {
    let (nginx, bae, data) = (Nginx::start(), Bae::new(), random(12, 24 * MIB));
    nginx.serve("f.bin", &data);
    let url = nginx.url("/slow/f.bin");
    let mut running = start(&bae, &[&url]);
    running.event_where("fetching", |e| e["stored"].as_u64() > Some(3 * MIB));
    running.interrupt();
    running.wait(LONG).expect(7).expect_stderr("run the same command again");
    let recorded = recorded_bytes(&bae, "f.bin");
    assert!(recorded > 2 * MIB, "{recorded}");
    let output = get(&bae, &[&url]).expect(0);
    assert_eq!(
        event(&output, "fetched")["downloaded"].as_u64(),
        Some(data.len() as u64 - recorded)
    );
    assert_file(&out_path(&bae, "f.bin"), &data);
}

#[test]
fn a_changed_file_is_reported_and_versions_are_never_mixed() {
    let (nginx, bae) = (Nginx::start(), Bae::new());
    let (old, new) = (random(13, 24 * MIB), random(14, 24 * MIB));
    nginx.serve("f.bin", &old);
    let url = nginx.url("/slow/f.bin");
    let mut running = start(&bae, &[&url]);
    running.event_where("fetching", |e| e["stored"].as_u64() > Some(MIB));
    running.interrupt();
    running.wait(LONG).expect(7);
    nginx.serve("f.bin", &new);
    get(&bae, &[&url]).expect(1).expect_stderr("--fresh");
    assert!(!out_path(&bae, "f.bin").exists());
    get(&bae, &[&nginx.url("/f/f.bin"), "--fresh"]).expect(0);
    assert_file(&out_path(&bae, "f.bin"), &new);

    // The file changes during the download: the first answer breaks off, and the ranges after it are of another
    // version.
    let server = ScriptedHttp::start(move |n, request| {
        let answer = ranged(request, &[1; 3_000_000]).with("ETag", format!("\"{}\"", n.min(1)));
        Some(if n == 0 { answer.truncated(2_000_000) } else { answer })
    });
    let bae = Bae::new();
    get(&bae, &[&format!("{}/g", server.url())]).expect(1).expect_stderr("--fresh");
    assert!(!out_path(&bae, "g").exists());
}

#[test]
fn a_file_without_a_validator_is_restarted_unless_continue_is_given() {
    let (nginx, bae, data) = (Nginx::start(), Bae::new(), random(15, 16 * MIB));
    nginx.serve("f.bin", &data);
    let url = nginx.url("/noetag-slow/f.bin");
    let stop = |list: &[&str]| {
        let mut running = start(&bae, list);
        running.event_where("fetching", |e| e["stored"].as_u64() > Some(3 * MIB));
        running.interrupt();
        running.wait(LONG).expect(7);
    };
    stop(&[&url]);
    stop(&[&url, "-c"]);
    let recorded = recorded_bytes(&bae, "f.bin");
    let output = get(&bae, &[&url, "-c"]).expect(0);
    assert_eq!(
        event(&output, "fetched")["downloaded"].as_u64(),
        Some(data.len() as u64 - recorded)
    );
    assert_file(&out_path(&bae, "f.bin"), &data);
    let bae = Bae::new();
    // Slow enough that the download is not done before the kill.
    let mut running = start(&bae, &[&url, "--limit-rate", "1MiB"]);
    running.event_where("fetching", |e| e["stored"].as_u64() > Some(MIB));
    wait_until("something is recorded", LONG, || recorded_bytes(&bae, "f.bin") > 0);
    running.kill();
    let output =
        get(&bae, &[&nginx.url("/noetag/f.bin")]).expect(0).expect_stderr("from the start");
    assert_eq!(event(&output, "found")["stored"], 0);
    assert_file(&out_path(&bae, "f.bin"), &data);
}

#[test]
fn a_fetched_file_is_exact_whichever_request_fails() {
    let (nginx, data) = (Nginx::start(), random(16, 5 * MIB));
    nginx.serve("f.bin", &data);
    let proxy = FaultProxy::start(SocketAddr::V4(nginx.addr));
    let url = format!("http://{}/f/f.bin", proxy.addr());
    for fault in [Fault::Reset, Fault::LoseAnswer, Fault::CutAnswer, Fault::Hold, Fault::Busy(0)] {
        for faulty in 0..4 {
            proxy.set_faults(move |request| match request.number == faulty {
                true => fault,
                false => Fault::None,
            });
            let bae = Bae::new();
            let list = [url.as_str(), "-x", "3", "--timeout", "2s"];
            let output = get(&bae, &list);
            assert_eq!(output.code, Some(0), "{fault:?} of request {faulty}: {}", output.stderr);
            assert_file(&out_path(&bae, "f.bin"), &data);
        }
    }
}

#[test]
fn downloads_over_repeatedly_cut_connections_are_resumed() {
    let (nginx, bae, data) = (Nginx::start(), Bae::new(), random(17, 12 * MIB));
    nginx.serve("f.bin", &data);
    let output = get(&bae, &[&nginx.url("/cuts/f.bin"), "-x", "2", "-m", "4"]).expect(0);
    assert_file(&out_path(&bae, "f.bin"), &data);
    assert_eq!(
        event(&output, "fetched")["downloaded"],
        data.len(),
        "received bytes were discarded"
    );
}

#[test]
fn lasting_server_errors_end_with_the_right_exit_code() {
    let (nginx, bae) = (Nginx::start(), Bae::new());
    nginx.serve("f.bin", &random(18, 3 * MIB));
    let ca = nginx.certificates.ca.to_str().unwrap().to_owned();
    let table: Vec<(String, i32, &str)> = vec![
        (nginx.url("/busy"), 5, "503"),
        (nginx.url("/loop"), 1, "redirects"),
        (nginx.url("/f/nothing"), 3, "404"),
        (nginx.url("/auth/f.bin"), 24, "401"),
        (nginx.tls_url("/down/f.bin"), 1, "from https to http"),
        (nginx.expired_url("/f.bin"), 24, "certificate"),
        ("http://127.0.0.1:1/f".to_owned(), 6, "127.0.0.1:1/f"),
        ("http://".to_owned(), 2, "URL"),
        ("nonsense://x/".to_owned(), 1, "known schemes: http"),
    ];
    for (url, code, message) in table {
        let output = get(&bae, &[&url, "-m", "2", "--cacert", &ca]);
        assert_eq!(output.code, Some(code), "{url}\n{}", output.stderr);
        output.expect_stderr(message);
    }
    get(&bae, &[&nginx.tls_url("/f/f.bin")]).expect(24).expect_stderr("--cacert");
}

#[test]
fn an_answer_with_another_range_is_never_used() {
    let body = random(19, 3 * MIB);
    // The first answer breaks off, and later ranges are ignored: then the whole file comes in one answer.
    let ignores = ScriptedHttp::start({
        let body = body.clone();
        move |n, request| match n {
            0 => Some(ranged(request, &body).truncated(2_000_000)),
            _ => Some(Answer::new(200, &*body)),
        }
    });
    let bae = Bae::new();
    get(&bae, &[&format!("{}/f", ignores.url())]).expect(0);
    assert_file(&out_path(&bae, "f"), &body);

    let other_range = |text: &'static str| {
        let body = body.clone();
        ScriptedHttp::start(move |n, request| match n {
            0 => Some(ranged(request, &body).truncated(2_000_000)),
            _ => Some(Answer::new(206, &body[2_000_000..]).with("Content-Range", text)),
        })
    };
    let (last, total) = (body.len() - 1, body.len());
    for case in [
        format!("bytes 1999999-{}/{total}", last - 1),
        format!("bytes 2000001-{last}/{total}"),
        format!("bytes 2000000-{last}/{}", total + 1),
        "nonsense".to_owned(),
    ] {
        let case: &'static str = case.leak();
        let (server, bae) = (other_range(case), Bae::new());
        let output = get(&bae, &[&format!("{}/f", server.url()), "-x", "1", "-m", "2"]);
        assert_eq!(output.code, Some(1), "{case}: {}", output.stderr);
        assert!(!out_path(&bae, "f").exists(), "{case}");
    }
}

/// The server answers with a page of its own after the first answer broke off: for example, for a login.
#[test]
fn a_web_page_in_place_of_the_rest_is_refused_and_fetched_bytes_are_kept() {
    let body = random(20, 3 * MIB);
    for ranges in [true, false] {
        let served = body.clone();
        let server = ScriptedHttp::start(move |n, request| {
            Some(match (n, ranges) {
                (0, true) => ranged(request, &served).with("ETag", "\"a\"").truncated(2_000_000),
                (0, false) => Answer::new(200, &*served).with("ETag", "\"a\"").truncated(2_000_000),
                _ => Answer::without_length(200, "<html>log in</html>"),
            })
        });
        let bae = Bae::new();
        get(&bae, &[&format!("{}/f", server.url())]).expect(1).expect_stderr("--fresh");
        assert!(!out_path(&bae, "f").exists(), "ranges {ranges}");
        assert!(
            !ranges || recorded_bytes(&bae, "f") == 2_000_000,
            "{} kept",
            recorded_bytes(&bae, "f")
        );
    }
}

#[test]
fn headers_of_several_megabytes_are_refused() {
    let server = ScriptedHttp::start(|_, request| {
        Some(ranged(request, b"x").with("X-Huge", "a".repeat(3 << 20)))
    });
    let bae = Bae::new();
    get(&bae, &[&format!("{}/f", server.url()), "-m", "2"]).expect(1).expect_stderr("headers");
}

#[test]
fn logins_and_headers_are_not_sent_to_another_host() {
    let other = ScriptedHttp::start(|_, request| Some(ranged(request, b"abc")));
    let other_url = format!("{}/moved", other.url());
    let challenge = "Digest realm=\"r\", nonce=\"n\", qop=\"auth\", algorithm=SHA-256";
    let first = ScriptedHttp::start(move |_, request| {
        Some(match request.header("authorization") {
            None => Answer::new(401, "").with("WWW-Authenticate", challenge),
            Some(_) => Answer::new(302, "").with("Location", &other_url),
        })
    });
    let bae = Bae::new();
    let mut command = bae.command(args(
        &bae,
        &[&format!("{}/f", first.url()), "-u", "bob", "--header", "X-Token: 1", "-o", "f"],
    ));
    let output = command.env("BAE_PASSWORD", "hunter2").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_file(&out_path(&bae, "f"), b"abc");
    let requests = first.requests();
    let login = requests[1].header("authorization").unwrap();
    assert!(
        login.starts_with("Digest username=\"bob\"") && login.contains("nc=00000001"),
        "{login}"
    );
    assert!(requests.iter().all(|request| request.header("x-token") == Some("1")));
    for request in other.requests() {
        assert_eq!(request.header("authorization"), None);
        assert_eq!(request.header("x-token"), None);
    }
}

#[test]
fn a_wrong_password_is_refused_and_no_password_is_shown() {
    let (nginx, bae) = (Nginx::start(), Bae::new());
    nginx.serve("f.bin", b"secret things");
    let url = nginx.url("/auth/f.bin");
    for (password, code) in [("secret", 0), ("hunter2", 24)] {
        let name = format!("with {password}");
        let mut command = bae.command(args(&bae, &[&url, "-u", "bob", "-vv", "-o", &name]));
        let output = command.env("BAE_PASSWORD", password).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(!String::from_utf8_lossy(&output.stderr).contains("hunter2"));
    }
    assert_file(&out_path(&bae, "with secret"), b"secret things");
    let netrc = bae.home().join("netrc");
    let host = nginx.addr.ip();
    std::fs::write(&netrc, format!("machine {host} login bob password secret\n")).unwrap();
    let flag = format!("--netrc={}", netrc.display());
    get(&bae, &[&url, &flag, "-o", "by netrc"]).expect(0);
    assert_file(&out_path(&bae, "by netrc"), b"secret things");
}
