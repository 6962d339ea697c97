//! Faults between `bae get` and a server: the file is exact, or there is no file and the error names the reason.

use std::{net::SocketAddr, time::Duration};

use crate::{
    get::{args, event, get, out, random, ranged, same, start},
    support::{
        LONG, MIB, Random,
        bae::Bae,
        fault_proxy::{Fault, FaultProxy},
        nginx::Nginx,
        scripted::{Answer, Scripted},
        wait_until,
    },
};

#[test]
fn a_killed_get_goes_on_and_fetches_only_what_is_missing() {
    let (nginx, data) = (Nginx::start(), random(11, 40 * MIB));
    nginx.serve("f.bin", &data);
    let url = nginx.url("/slow/f.bin");
    for seed in 0..2 {
        let mut random = Random(seed);
        let (bae, mut kept) = (Bae::new(), 0);
        let list = [url.as_str(), "-x", "4"];
        for _ in 0..3 {
            let mut running = start(&bae, &list);
            let found = running.event("found");
            assert!(found["stored"].as_u64() >= Some(kept), "{kept} were here: {found}");
            std::thread::sleep(Duration::from_millis(900 + random.below(1200)));
            running.kill();
            assert!(!out(&bae, "f.bin").exists(), "a name for half a file");
            kept = done_of(&bae, "f.bin");
        }
        let ran = get(&bae, &list).expect(0);
        let (found, fetched) = (event(&ran, "found"), event(&ran, "fetched"));
        assert_eq!(found["stored"], kept);
        assert!(kept > 0, "seed {seed}: nothing was kept of three runs");
        assert_eq!(fetched["downloaded"].as_u64(), Some(data.len() as u64 - kept));
        same(&out(&bae, "f.bin"), &data);
    }
}

/// The bytes that the state file of `name` records as done.
fn done_of(bae: &Bae, name: &str) -> u64 {
    let Ok(text) = std::fs::read(out(bae, &format!("{name}.bae-part"))) else { return 0 };
    let state: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let runs = state["done"].as_array().unwrap().iter();
    runs.map(|run| run[1].as_u64().unwrap() - run[0].as_u64().unwrap()).sum()
}

#[test]
fn ctrl_c_stops_cleanly_and_keeps_what_came() {
    let (nginx, bae, data) = (Nginx::start(), Bae::new(), random(12, 24 * MIB));
    nginx.serve("f.bin", &data);
    let url = nginx.url("/slow/f.bin");
    let mut running = start(&bae, &[&url]);
    running.event_where("fetching", |e| e["stored"].as_u64() > Some(3 * MIB));
    running.interrupt();
    running.ended(Duration::from_secs(20)).expect(7).says("run the same command again");
    let kept = done_of(&bae, "f.bin");
    assert!(kept > 2 * MIB, "{kept}");
    let ran = get(&bae, &[&url]).expect(0);
    assert_eq!(event(&ran, "fetched")["downloaded"].as_u64(), Some(data.len() as u64 - kept));
    same(&out(&bae, "f.bin"), &data);
}

#[test]
fn a_file_that_changed_is_told_and_never_stitched() {
    let (nginx, bae) = (Nginx::start(), Bae::new());
    let (old, new) = (random(13, 24 * MIB), random(14, 24 * MIB));
    nginx.serve("f.bin", &old);
    let url = nginx.url("/slow/f.bin");
    let mut running = start(&bae, &[&url]);
    running.event_where("fetching", |e| e["stored"].as_u64() > Some(MIB));
    running.interrupt();
    running.ended(Duration::from_secs(20)).expect(7);
    std::thread::sleep(Duration::from_millis(1100));
    nginx.serve("f.bin", &new);
    get(&bae, &[&url]).expect(1).says("--fresh");
    assert!(!out(&bae, "f.bin").exists());
    get(&bae, &[&nginx.url("/f/f.bin"), "--fresh"]).expect(0);
    same(&out(&bae, "f.bin"), &new);

    // The file changes during the download: the first answer breaks off, and the ranges after it are of another
    // version.
    let server = Scripted::start(move |n, request| {
        let answer = ranged(request, &[1; 3_000_000]).with("ETag", format!("\"{}\"", n.min(1)));
        Some(if n == 0 { answer.cut(2_000_000) } else { answer })
    });
    let bae = Bae::new();
    get(&bae, &[&format!("{}/g", server.url())]).expect(1).says("--fresh");
    assert!(!out(&bae, "g").exists());
}

#[test]
fn without_a_sign_of_the_version_a_file_begins_anew_unless_told_to_go_on() {
    let (nginx, bae, data) = (Nginx::start(), Bae::new(), random(15, 16 * MIB));
    nginx.serve("f.bin", &data);
    let url = nginx.url("/noetag-slow/f.bin");
    let stop = |list: &[&str]| {
        let mut running = start(&bae, list);
        running.event_where("fetching", |e| e["stored"].as_u64() > Some(3 * MIB));
        running.interrupt();
        running.ended(Duration::from_secs(20)).expect(7);
    };
    stop(&[&url]);
    stop(&[&url, "-c"]);
    let kept = done_of(&bae, "f.bin");
    let ran = get(&bae, &[&url, "-c"]).expect(0);
    assert_eq!(event(&ran, "fetched")["downloaded"].as_u64(), Some(data.len() as u64 - kept));
    same(&out(&bae, "f.bin"), &data);
    let bae = Bae::new();
    // Slow enough that the download is not done before the kill.
    let mut running = start(&bae, &[&url, "--limit-rate", "1MiB"]);
    running.event_where("fetching", |e| e["stored"].as_u64() > Some(MIB));
    wait_until("something is recorded", LONG, || done_of(&bae, "f.bin") > 0);
    running.kill();
    let ran = get(&bae, &[&nginx.url("/noetag/f.bin")]).expect(0).says("from the start");
    assert_eq!(event(&ran, "found")["stored"], 0);
    same(&out(&bae, "f.bin"), &data);
}

#[test]
fn a_file_is_exact_whichever_request_is_spoilt() {
    let (nginx, data) = (Nginx::start(), random(16, 5 * MIB));
    nginx.serve("f.bin", &data);
    let proxy = FaultProxy::start(SocketAddr::V4(nginx.addr));
    let url = format!("http://{}/f/f.bin", proxy.addr());
    let stall = Fault::Stall(Duration::from_secs(30));
    for fault in [Fault::Reset, Fault::LoseAnswer, Fault::CutAnswer, stall, Fault::Busy(0)] {
        for spoilt in 0..4 {
            proxy.spoil(move |request| match request.number == spoilt {
                true => fault,
                false => Fault::None,
            });
            let bae = Bae::new();
            let list = [url.as_str(), "-x", "3", "--timeout", "2s"];
            let ran = get(&bae, &list);
            assert_eq!(ran.code, Some(0), "{fault:?} of request {spoilt}: {}", ran.stderr);
            same(&out(&bae, "f.bin"), &data);
        }
    }
}

#[test]
fn connections_that_are_cut_again_and_again_are_gone_on_with() {
    let (nginx, bae, data) = (Nginx::start(), Bae::new(), random(17, 12 * MIB));
    nginx.serve("f.bin", &data);
    let ran = get(&bae, &[&nginx.url("/cuts/f.bin"), "-x", "2", "-m", "4"]).expect(0);
    same(&out(&bae, "f.bin"), &data);
    assert_eq!(event(&ran, "fetched")["downloaded"], data.len(), "what came was kept");
}

#[test]
fn servers_that_do_not_recover_are_given_up_with_the_right_code() {
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
        ("nonsense://x/".to_owned(), 1, "there are: http"),
    ];
    std::thread::sleep(Duration::from_secs(2));
    for (url, code, words) in table {
        let ran = get(&bae, &[&url, "-m", "2", "--cacert", &ca]);
        assert_eq!(ran.code, Some(code), "{url}\n{}", ran.stderr);
        ran.says(words);
    }
    get(&bae, &[&nginx.tls_url("/f/f.bin")]).expect(24).says("--cacert");
}

#[test]
fn what_is_not_the_range_is_never_taken_for_it() {
    let body = random(19, 3 * MIB);
    // The first answer breaks off, and later ranges are ignored: then the whole file comes in one answer.
    let ignores = Scripted::start({
        let body = body.clone();
        move |n, request| match n {
            0 => Some(ranged(request, &body).cut(2_000_000)),
            _ => Some(Answer::new(200, &*body)),
        }
    });
    let bae = Bae::new();
    get(&bae, &[&format!("{}/f", ignores.url())]).expect(0);
    same(&out(&bae, "f"), &body);

    let other_range = |text: &'static str| {
        let body = body.clone();
        Scripted::start(move |n, request| match n {
            0 => Some(ranged(request, &body).cut(2_000_000)),
            _ => Some(Answer::new(206, &body[2_000_000..]).with("Content-Range", text)),
        })
    };
    let (last, total) = (body.len() - 1, body.len());
    for what in [
        format!("bytes 1999999-{}/{total}", last - 1),
        format!("bytes 2000001-{last}/{total}"),
        format!("bytes 2000000-{last}/{}", total + 1),
        "nonsense".to_owned(),
    ] {
        let what: &'static str = what.leak();
        let (server, bae) = (other_range(what), Bae::new());
        let ran = get(&bae, &[&format!("{}/f", server.url()), "-x", "1", "-m", "2"]);
        assert_eq!(ran.code, Some(1), "{what}: {}", ran.stderr);
        assert!(!out(&bae, "f").exists(), "{what}");
    }
}

/// The server answers with a page of its own after the first answer broke off: for example, for a login.
#[test]
fn a_page_in_place_of_the_rest_is_not_the_file_and_takes_nothing_of_it() {
    let body = random(20, 3 * MIB);
    for ranges in [true, false] {
        let served = body.clone();
        let server = Scripted::start(move |n, request| {
            Some(match (n, ranges) {
                (0, true) => ranged(request, &served).with("ETag", "\"a\"").cut(2_000_000),
                (0, false) => Answer::new(200, &*served).with("ETag", "\"a\"").cut(2_000_000),
                _ => Answer::unmeasured(200, "<html>log in</html>"),
            })
        });
        let bae = Bae::new();
        get(&bae, &[&format!("{}/f", server.url())]).expect(1).says("--fresh");
        assert!(!out(&bae, "f").exists(), "ranges {ranges}");
        assert!(!ranges || done_of(&bae, "f") == 2_000_000, "{} kept", done_of(&bae, "f"));
    }
}

#[test]
fn headers_of_megabytes_are_refused() {
    let server = Scripted::start(|_, request| {
        Some(ranged(request, b"x").with("X-Huge", "a".repeat(3 << 20)))
    });
    let bae = Bae::new();
    get(&bae, &[&format!("{}/f", server.url()), "-m", "2"]).expect(1).says("headers");
}

#[test]
fn logins_headers_and_cookies_stay_with_their_host() {
    let elsewhere = Scripted::start(|_, request| Some(ranged(request, b"abc")));
    let there = format!("{}/moved", elsewhere.url());
    let asks = "Digest realm=\"r\", nonce=\"n\", qop=\"auth\", algorithm=SHA-256";
    let first = Scripted::start(move |_, request| {
        Some(match request.header("authorization") {
            None => Answer::new(401, "").with("WWW-Authenticate", asks),
            Some(_) => Answer::new(302, "").with("Location", &there),
        })
    });
    let bae = Bae::new();
    let mut command = bae.command(args(
        &bae,
        &[&format!("{}/f", first.url()), "-u", "bob", "--header", "X-Token: 1", "-o", "f"],
    ));
    let done = command.env("BAE_PASSWORD", "hunter2").output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    same(&out(&bae, "f"), b"abc");
    let asked = first.requests();
    let login = asked[1].header("authorization").unwrap();
    assert!(
        login.starts_with("Digest username=\"bob\"") && login.contains("nc=00000001"),
        "{login}"
    );
    assert!(asked.iter().all(|request| request.header("x-token") == Some("1")));
    for request in elsewhere.requests() {
        assert_eq!(request.header("authorization"), None);
        assert_eq!(request.header("x-token"), None);
    }
}

#[test]
fn a_right_password_opens_and_a_wrong_one_is_told_and_never_shown() {
    let (nginx, bae) = (Nginx::start(), Bae::new());
    nginx.serve("f.bin", b"secret things");
    let url = nginx.url("/auth/f.bin");
    for (password, code) in [("secret", 0), ("hunter2", 24)] {
        let name = format!("with {password}");
        let mut command = bae.command(args(&bae, &[&url, "-u", "bob", "-vv", "-o", &name]));
        let ran = command.env("BAE_PASSWORD", password).output().unwrap();
        assert_eq!(ran.status.code(), Some(code), "{}", String::from_utf8_lossy(&ran.stderr));
        assert!(!String::from_utf8_lossy(&ran.stderr).contains("hunter2"));
    }
    same(&out(&bae, "with secret"), b"secret things");
    let netrc = bae.home().join("netrc");
    let host = nginx.addr.ip();
    std::fs::write(&netrc, format!("machine {host} login bob password secret\n")).unwrap();
    let flag = format!("--netrc={}", netrc.display());
    get(&bae, &[&url, &flag, "-o", "by netrc"]).expect(0);
    same(&out(&bae, "by netrc"), b"secret things");
}
