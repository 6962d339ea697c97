//! Live streams of HLS: they are followed to their end, what is lost is counted, and Ctrl-C keeps a complete file.

use std::fs;

use super::hls_faults::segment_answer;
use crate::support::{
    LONG,
    bae::Bae,
    get::{assert_file, event, get, out_path, start},
    media::Streams,
    scripted_http::{Answer, ScriptedHttp},
    wait_until,
};

/// A playlist of the segments `numbers`; `is_last` adds its end.
fn playlist(numbers: std::ops::Range<usize>, is_last: bool) -> String {
    let lines = numbers.clone().map(|n| format!("#EXTINF:2,\n{n}.ts\n"));
    let end = if is_last { "#EXT-X-ENDLIST\n" } else { "" };
    let first = numbers.start;
    // A short target duration: the tests must not wait for long.
    format!(
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:{first}\n{}{end}",
        lines.collect::<String>()
    )
}

/// A server of the stream of MPEG-TS. The nth request for its list gets the nth playlist, and later ones the last.
fn live_server(playlists: Vec<Option<String>>) -> ScriptedHttp {
    let segments = Streams::get().files("ts", ".ts");
    let mut served = 0;
    ScriptedHttp::start(move |_, request| {
        if request.target.starts_with("/live") {
            let playlist = &playlists[served.min(playlists.len() - 1)];
            served += 1;
            return playlist.clone().map(|text| Answer::new(200, text));
        }
        let number: usize = request.target[1..].split('.').next().unwrap().parse().unwrap();
        match segments.get(number) {
            Some(segment) => Some(segment_answer(request, segment)),
            None => Some(Answer::new(404, "gone")),
        }
    })
}

fn segments(numbers: &[usize]) -> Vec<u8> {
    let all = Streams::get().files("ts", ".ts");
    numbers.iter().flat_map(|n| all[*n].clone()).collect()
}

fn url(server: &ScriptedHttp) -> String {
    format!("{}/live.m3u8", server.url())
}

#[test]
fn a_live_stream_is_recorded_until_its_end() {
    let (bae, list) = (
        Bae::new(),
        vec![
            playlist(0..2, false),
            playlist(1..4, false),
            playlist(1..4, false),
            playlist(3..6, true),
        ],
    );
    let server = live_server(list.into_iter().map(Some).collect());
    let output = get(&bae, &[&url(&server)]).expect(0);
    assert_file(&out_path(&bae, "live.ts"), &segments(&[0, 1, 2, 3, 4, 5]));
    assert!(event(&output, "fetched").get("lost").is_none());
}

#[test]
fn segments_that_leave_the_list_are_counted_as_lost() {
    let bae = Bae::new();
    let lists = [playlist(0..1, false), playlist(3..4, false), playlist(3..6, true)];
    let server = live_server(lists.map(Some).into());
    let output = get(&bae, &[&url(&server)]).expect(32).expect_stderr("2 segments lost");
    assert_file(&out_path(&bae, "live.ts"), &segments(&[0, 3, 4, 5]));
    assert_eq!(event(&output, "fetched")["lost"], 2);
    // A segment that the server does not have is lost too.
    let bae = Bae::new();
    let server = live_server(vec![Some(playlist(4..6, false)), Some(playlist(4..8, true))]);
    let output = get(&bae, &[&url(&server), "-m", "1"]).expect(32);
    assert_file(&out_path(&bae, "live.ts"), &segments(&[4, 5]));
    assert_eq!(event(&output, "fetched")["lost"], 2);
}

/// A server of a stream of three segments whose list does not end. The next one is due in a minute.
fn endless_server() -> ScriptedHttp {
    let list = playlist(0..3, false).replace("TARGETDURATION:1", "TARGETDURATION:60");
    live_server(vec![Some(list)])
}

#[test]
fn ctrl_c_ends_a_recording_with_a_complete_file() {
    let (bae, recorded) = (Bae::new(), segments(&[0, 1, 2]));
    let server = endless_server();
    let mut running = start(&bae, &[&url(&server)]);
    let len = recorded.len() as u64;
    running.event_where("fetching", |event| event["stored"].as_u64() >= Some(len));
    running.interrupt();
    let output = running.wait(LONG).expect(0);
    assert_file(&out_path(&bae, "live.ts"), &recorded);
    assert_eq!(event(&output, "fetched")["bytes"], len);
}

#[test]
fn a_recording_ends_after_its_duration_and_when_nothing_new_comes() {
    let bae = Bae::new();
    let server = live_server(vec![Some(playlist(0..2, false)), Some(playlist(0..6, false))]);
    get(&bae, &[&url(&server), "--duration", "5s"]).expect(0);
    assert_file(&out_path(&bae, "live.ts"), &segments(&[0, 1, 2]));
    let bae = Bae::new();
    let server = live_server(vec![Some(playlist(0..2, false))]);
    get(&bae, &[&url(&server)]).expect(0).expect_stderr("the stream has ended");
    assert_file(&out_path(&bae, "live.ts"), &segments(&[0, 1]));
}

#[test]
fn a_list_that_starts_again_continues_the_recording() {
    let bae = Bae::new();
    let renamed = |numbers: std::ops::Range<usize>| {
        let text = playlist(numbers, true);
        text.replace("#EXT-X-MEDIA-SEQUENCE:4", "#EXT-X-MEDIA-SEQUENCE:0")
    };
    let server = live_server(vec![Some(playlist(1..4, false)), Some(renamed(4..6))]);
    get(&bae, &[&url(&server)]).expect(0).expect_stderr("started again");
    assert_file(&out_path(&bae, "live.ts"), &segments(&[1, 2, 3, 4, 5]));
}

#[test]
fn a_server_that_stops_leaves_the_recording_and_an_error() {
    let bae = Bae::new();
    let server = live_server(vec![Some(playlist(0..2, false)), None]);
    let output = get(&bae, &[&url(&server)]);
    assert_eq!(output.code, Some(6), "{}", output.stderr);
    let output = output.expect_stderr("ended early");
    assert_file(&out_path(&bae, "live.ts"), &segments(&[0, 1]));
    assert_eq!(event(&output, "fetched")["bytes"], segments(&[0, 1]).len());
}

#[test]
fn a_killed_recording_keeps_its_bytes_and_the_next_one_does_not_replace_them() {
    let (bae, server, recorded) = (Bae::new(), endless_server(), segments(&[0, 1, 2]));
    let mut running = start(&bae, &[&url(&server)]);
    let part = out_path(&bae, "live.ts.part");
    wait_until("three segments are written", LONG, || {
        fs::metadata(&part).is_ok_and(|found| found.len() == recorded.len() as u64)
    });
    running.kill();
    let output = get(&bae, &[&url(&server)]).expect(1).expect_stderr("interrupted recording");
    output.expect_stderr("--fresh");
    assert_file(&part, &recorded);
    assert!(!out_path(&bae, "live.ts").exists());
    get(&bae, &[&url(&server), "--fresh", "--duration", "3s"]).expect(0);
    assert_file(&out_path(&bae, "live.ts"), &segments(&[0, 1]));
    assert!(!part.exists());
}

#[test]
fn a_killed_import_of_a_live_stream_is_as_long_as_what_is_stored() {
    let bae = Bae::new().with_storage_options("chunk=64KiB");
    let (server, recorded) = (endless_server(), segments(&[0, 1, 2]));
    let (url, storage) = (url(&server), bae.storage_url());
    let list = ["--json", "import", &url, "--storage", &storage];
    let mut running = bae.start(list);
    running.event_where("progress", |event| event["stored"].as_u64() > Some(64 << 10));
    running.kill();
    let imports = bae.run(["ls", "--json"]).expect(0).json();
    let (id, len) = (imports[0]["id"].as_str().unwrap(), imports[0]["bytes"].as_u64().unwrap());
    assert!((1..=recorded.len() as u64).contains(&len), "{}", imports[0]);
    assert!(bae.stdout_of(["cat", id]) == recorded[..usize::try_from(len).unwrap()]);
    // The stream cannot be fetched again from its start, so the next recording is another import.
    let next = bae.run([&list[..], &["--duration", "3s"]].concat()).expect(0).summary();
    assert_ne!(next.id, id);
    assert!(bae.stdout_of(["cat", &next.id]) == segments(&[0, 1]));
    bae.run(["--json", "rm", id]).expect(0);
}

#[test]
fn a_live_stream_is_imported_and_ctrl_c_keeps_the_recording() {
    let bae = Bae::new();
    let lists = vec![Some(playlist(0..2, false)), Some(playlist(0..4, true))];
    let server = live_server(lists);
    let (url, storage) = (url(&server), bae.storage_url());
    let summary = bae.run(["--json", "import", &url, "--storage", &storage]).expect(0).summary();
    let expected = segments(&[0, 1, 2, 3]);
    assert_eq!(summary.bytes, expected.len() as u64);
    assert!(bae.stdout_of(["cat", &summary.id]) == expected);

    let bae = Bae::new();
    let growing = endless_server();
    let (url, storage) = (format!("{}/live.m3u8", growing.url()), bae.storage_url());
    let mut running = bae.start(["--json", "import", &url, "--storage", &storage]);
    let expected = segments(&[0, 1, 2]);
    let len = expected.len() as u64;
    running.event_where("progress", |event| event["downloaded"].as_u64() >= Some(len));
    running.interrupt();
    let summary = running.wait(LONG).expect(0).summary();
    assert_eq!(summary.bytes, len);
    assert!(bae.stdout_of(["cat", &summary.id]) == expected);
    wait_until("the server was used", LONG, || !growing.requests().is_empty());
}
