//! Segments and playlists that lie: the file is exact, or there is none and the error names the segment.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::hls::{edit, serve};
use crate::support::{
    bae::Bae,
    get::{assert_file, event, get, out_path, ranged, start},
    media::{IV, Streams},
    nginx::Nginx,
    scripted_http::{Answer, Request, ScriptedHttp},
};

const URL: &str = "/f/s/index.m3u8";

/// Fails to get the stream: no file, this exit code, and this text in the error.
fn expect_failure(nginx: &Nginx, code: i32, text: &str) {
    let bae = Bae::new();
    get(&bae, &[&nginx.url(URL), "-m", "2"]).expect(code).expect_stderr(text);
    assert!(!out_path(&bae, "index.ts").exists(), "{text}");
}

#[test]
fn a_missing_cut_or_false_segment_is_an_error_that_names_it() {
    let segment = || Streams::get().files("ts", ".ts")[2].clone();
    let nginx = serve("ts");
    fs::remove_file(nginx.path_of("s/s002.ts")).unwrap();
    expect_failure(&nginx, 3, "segment 2");
    for (bytes, text) in [
        (segment()[..segment().len() - 100].to_vec(), "188"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>".to_vec(), "HTML"),
        (b"{\"error\":\"expired\"}".to_vec(), "JSON"),
        (Vec::new(), "empty"),
        (Streams::get().files("mp4", ".m4s")[0].clone(), "MP4"),
    ] {
        nginx.serve("s/s002.ts", &bytes);
        expect_failure(&nginx, 32, "segment 2");
        expect_failure(&nginx, 32, text);
    }
    let nginx = serve("mp4");
    let segment = Streams::get().files("mp4", ".m4s")[2].clone();
    nginx.serve("s/s002.m4s", &segment[..segment.len() - 100]);
    expect_failure(&nginx, 32, "segment 2");
    let nginx = serve("aes");
    let segment = fs::read(nginx.path_of("s/s002.ts")).unwrap();
    nginx.serve("s/s002.ts", &segment[..segment.len() - 16 * 9]);
    expect_failure(&nginx, 32, "segment 2");
    nginx.serve("s/key", b"0123456789abcdef\n");
    expect_failure(&nginx, 1, "17 bytes");
    nginx.serve("s/key", b"0123456789abcdeX");
    expect_failure(&nginx, 32, "padding");
}

#[test]
fn missing_segments_are_skipped_on_request_and_counted() {
    let (nginx, bae) = (serve("ts"), Bae::new());
    fs::remove_file(nginx.path_of("s/s002.ts")).unwrap();
    nginx.serve("s/s004.ts", b"<html>not here</html>");
    let output = get(&bae, &[&nginx.url(URL), "-m", "2", "--skip-missing"]).expect(32);
    let output = output.expect_stderr("2 segments skipped");
    let segments = Streams::get().files("ts", ".ts");
    let expected: Vec<u8> = [0, 1, 3, 5].iter().flat_map(|n| segments[*n].clone()).collect();
    assert_file(&out_path(&bae, "index.ts"), &expected);
    assert_eq!(event(&output, "fetched")["skipped"], 2);
}

#[test]
fn a_declared_gap_is_left_out_and_reported() {
    let (nginx, bae) = (serve("ts"), Bae::new());
    fs::remove_file(nginx.path_of("s/s002.ts")).unwrap();
    edit(&nginx, |text| text.replace("s002.ts", "#EXT-X-GAP\ns002.ts"));
    let output = get(&bae, &[&nginx.url(URL)]).expect(0).expect_stderr("segment 2 is a gap");
    let segments = Streams::get().files("ts", ".ts");
    let expected: Vec<u8> = [0, 1, 3, 4, 5].iter().flat_map(|n| segments[*n].clone()).collect();
    assert_file(&out_path(&bae, "index.ts"), &expected);
    assert_eq!(event(&output, "fetched")["gaps"], 1);
}

#[test]
fn an_image_before_each_segment_is_cut_off_with_a_word() {
    let png = [b"\x89PNG\r\n\x1a\n".to_vec(), vec![7; 112]].concat();
    for location in ["f", "norange", "chunked"] {
        let (nginx, bae) = (serve("ts"), Bae::new());
        for (number, segment) in Streams::get().files("ts", ".ts").iter().enumerate() {
            nginx.serve(&format!("s/s{number:03}.ts"), &[&png[..], segment].concat());
        }
        let output = get(&bae, &[&nginx.url(&format!("/{location}/s/index.m3u8"))]).expect(0);
        output.expect_stderr("an image of 120 bytes");
        assert_file(&out_path(&bae, "index.ts"), &Streams::get().joined("ts", ".ts"));
    }
}

#[test]
fn streams_are_exact_from_every_kind_of_server() {
    for location in ["norange", "noetag", "chunked", "limc", "flaky", "cuts"] {
        for name in ["ts", "aes"] {
            let (nginx, bae) = (serve(name), Bae::new());
            get(&bae, &[&nginx.url(&format!("/{location}/s/index.m3u8")), "-x", "3"]).expect(0);
            assert_file(&out_path(&bae, "index.ts"), &Streams::get().joined("ts", ".ts"));
        }
    }
    // A server that ignores ranges would send the whole file for each segment.
    let (nginx, bae) = (serve("ranges"), Bae::new());
    get(&bae, &[&nginx.url("/norange/s/index.m3u8")])
        .expect(1)
        .expect_stderr("only the whole file");
    assert!(!out_path(&bae, "index.ts").exists());
    let short =
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-BYTERANGE:99999999@0\nall.ts\n#EXT-X-ENDLIST\n";
    nginx.serve("s/index.m3u8", short.as_bytes());
    get(&bae, &[&nginx.url("/f/s/index.m3u8"), "-m", "1"]).expect(32).expect_stderr("segment 0");
}

#[test]
fn protected_streams_are_refused_by_the_name_of_the_system() {
    let nginx = serve("aes");
    let playlist = fs::read_to_string(nginx.path_of("s/index.m3u8")).unwrap();
    let key = format!("METHOD=AES-128,URI=\"key\",IV=0x{IV}");
    for (other, name) in [
        (
            "METHOD=SAMPLE-AES,URI=\"skd://1\",KEYFORMAT=\"com.apple.streamingkeydelivery\"",
            "FairPlay",
        ),
        ("METHOD=SAMPLE-AES,URI=\"key\"", "SAMPLE-AES"),
        (
            "METHOD=SAMPLE-AES-CTR,URI=\"data:,x\",KEYFORMAT=\"urn:uuid:edef8ba9-79d6-4ace-a3c8-27dcd51d21ed\"",
            "Widevine",
        ),
        (
            "METHOD=SAMPLE-AES-CTR,URI=\"data:,x\",KEYFORMAT=\"com.microsoft.playready\"",
            "PlayReady",
        ),
    ] {
        // Also where only some segments are protected.
        let protected = playlist.replace("s004.ts", &format!("#EXT-X-KEY:{other}\ns004.ts"));
        nginx.serve(
            "s/index.m3u8",
            protected.replace(&format!("#EXT-X-KEY:{key}\n"), "").as_bytes(),
        );
        expect_failure(&nginx, 1, name);
    }
    assert!(nginx.requests().iter().all(|line| !line.contains(".ts")), "a segment was fetched");
}

#[test]
fn a_playlist_may_name_only_files_on_web_servers() {
    let nginx = serve("ts");
    for uri in ["file:///etc/passwd", "ftp://127.0.0.1/x", "javascript:x"] {
        edit(&nginx, |text| text.replace("s002.ts", uri));
        expect_failure(&nginx, 24, "scheme");
        Streams::get().copy("ts", &nginx.path_of("s"));
    }
}

/// A proxy plays the public server, because tests reach loopback only.
#[test]
fn a_public_playlist_may_not_name_hosts_of_private_networks() {
    let secret = serve("ts");
    for uri in [
        secret.url("/f/s/s001.ts"),
        "http://192.168.0.1/s001.ts".into(),
        "http://localhost/x.ts".into(),
    ] {
        let playlist =
            format!("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{uri}\n#EXT-X-ENDLIST\n");
        let proxy = ScriptedHttp::start(move |_, _| Some(Answer::new(200, playlist.clone())));
        let bae = Bae::new();
        let url = "http://stream.example/list.m3u8";
        get(&bae, &[url, "--proxy", &proxy.url(), "-m", "1"])
            .expect(24)
            .expect_stderr("private host");
        assert_eq!(proxy.requests().len(), 1);
    }
    assert!(secret.requests().is_empty(), "a private host was reached");
}

/// The answer of a server with a segment.
pub(crate) fn segment_answer(request: &Request, segment: &[u8]) -> Answer {
    ranged(request, segment).with("ETag", "\"v\"")
}

/// A server of the stream of MPEG-TS whose URLs contain a token that is valid for `uses` requests of segments.
fn token_server(uses: usize) -> (ScriptedHttp, Arc<AtomicUsize>) {
    let (token, used) = (Arc::<AtomicUsize>::default(), AtomicUsize::new(0));
    let given = Arc::clone(&token);
    let segments = Streams::get().files("ts", ".ts");
    let server = ScriptedHttp::start(move |_, request| {
        let now = given.load(Ordering::Relaxed);
        if request.target.starts_with("/list") {
            used.store(0, Ordering::Relaxed);
            let now = given.fetch_add(1, Ordering::Relaxed) + 1;
            let lines = (0..segments.len()).map(|n| format!("#EXTINF:2,\n{n}.ts?token={now}\n"));
            let text: String = lines.collect();
            let text = format!("#EXTM3U\n#EXT-X-TARGETDURATION:2\n{text}#EXT-X-ENDLIST\n");
            return Some(Answer::new(200, text));
        }
        if used.fetch_add(1, Ordering::Relaxed) >= uses
            || !request.target.ends_with(&format!("={now}"))
        {
            return Some(Answer::new(403, "expired"));
        }
        let number: usize = request.target[1..].split('.').next().unwrap().parse().unwrap();
        Some(segment_answer(request, &segments[number]))
    });
    (server, token)
}

#[test]
fn expired_tokens_are_renewed_by_fetching_the_list_again() {
    let bae = Bae::new();
    // Six requests measure the segments, and eight more fit.
    let (server, token) = token_server(8);
    get(&bae, &[&format!("{}/list.m3u8", server.url()), "-x", "2"]).expect(0);
    assert_file(&out_path(&bae, "list.ts"), &Streams::get().joined("ts", ".ts"));
    let lists = token.load(Ordering::Relaxed);
    assert!((2..=4).contains(&lists), "the list was fetched {lists} times");
    // Tokens that never work end the download.
    let bae = Bae::new();
    let (server, _) = token_server(6);
    get(&bae, &[&format!("{}/list.m3u8", server.url())]).expect(0);
    let (server, _) = token_server(0);
    get(&Bae::new(), &[&format!("{}/list.m3u8", server.url())]).expect(24).expect_stderr("403");
}

#[test]
fn a_killed_stream_resumes_and_fetches_only_missing_bytes() {
    for (name, list, target) in [
        ("ts", "index.m3u8", "index.ts"),
        ("aes", "index.m3u8", "index.ts"),
        ("groups-mp4", "main.m3u8", "main.mp4"),
        ("dash-number", "main.mpd", "main.mp4"),
    ] {
        let (nginx, bae) = (serve(name), Bae::new());
        let list = nginx.url(&format!("/f/s/{list}"));
        get(&bae, &[&list]).expect(0);
        let whole = fs::read(out_path(&bae, target)).unwrap();
        let bae = Bae::new();
        let slow = ["--limit-rate", "100KiB", "-x", "2"];
        let all: Vec<_> = [&[list.as_str()], &slow[..]].concat();
        let mut running = start(&bae, &all);
        let at_least = 150_000;
        running.event_where("fetching", |event| event["stored"].as_u64() >= Some(at_least));
        // The next state is written within a second.
        let state = out_path(&bae, &format!("{target}.bae-part"));
        crate::support::wait_until("the state has ranges", crate::support::LONG, || {
            recorded(&state) > 0
        });
        running.kill();
        let kept = recorded(&state);
        assert!(kept > 0 && kept < whole.len() as u64, "{name}: {kept} bytes are kept");
        let output = get(&bae, &[&list]).expect(0);
        assert_file(&out_path(&bae, target), &whole);
        assert_eq!(event(&output, "found")["stored"], kept, "{name}");
        assert_eq!(event(&output, "fetched")["downloaded"], whole.len() as u64 - kept, "{name}");
    }
}

fn recorded(path: &std::path::Path) -> u64 {
    let Ok(text) = fs::read(path) else { return 0 };
    let state: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let runs = state["done"].as_array().unwrap().iter();
    runs.map(|run| run[1].as_u64().unwrap() - run[0].as_u64().unwrap()).sum()
}

#[test]
fn a_stream_that_changed_is_never_mixed_with_the_earlier_one() {
    let (nginx, bae) = (serve("ts"), Bae::new());
    let list = nginx.url(URL);
    let mut running = start(&bae, &[&list, "--limit-rate", "100KiB"]);
    let state = out_path(&bae, "index.ts.bae-part");
    crate::support::wait_until("the state has ranges", crate::support::LONG, || {
        recorded(&state) > 0
    });
    running.kill();
    let other = Streams::get().files("sizes", ".ts")[0].clone();
    nginx.serve("s/s005.ts", &other);
    get(&bae, &[&list]).expect(1).expect_stderr("--fresh");
    get(&bae, &[&list, "--fresh"]).expect(0);
    let expected = [Streams::get().files("ts", ".ts")[..5].concat(), other].concat();
    assert_file(&out_path(&bae, "index.ts"), &expected);
}

#[test]
fn a_stream_is_imported_straight_into_storage() {
    for name in ["ts", "aes", "mp4"] {
        let (nginx, bae) = (serve(name), Bae::new());
        let expected = match name {
            "mp4" => [Streams::get().joined(name, "init.mp4"), Streams::get().joined(name, ".m4s")]
                .concat(),
            _ => Streams::get().joined("ts", ".ts"),
        };
        for location in ["f", "chunked"] {
            let url = nginx.url(&format!("/{location}/s/index.m3u8"));
            let storage = bae.storage_url();
            let list = ["--json", "import", &url, "--storage", &storage, "-x", "3"];
            let summary = bae.run(list).expect(0).summary();
            assert_eq!(summary.bytes, expected.len() as u64);
            assert!(bae.stdout_of(["cat", &summary.id]) == expected, "{name} {location}");
            let again = bae.run(list).expect(0).summary();
            assert_eq!((again.id, again.downloaded), (summary.id, 0), "{name} {location}");
        }
    }
}
