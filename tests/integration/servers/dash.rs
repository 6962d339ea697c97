//! Recorded streams of DASH from a real server, made by FFmpeg: audio and video become one file, packet by packet.

use std::fs;

use crate::support::{
    bae::Bae,
    get::{assert_file, event, get, out_path},
    media::{Streams, duration, packets},
    nginx::Nginx,
};

/// A server with a copy of the stream `name` at `/f/s/`.
fn serve(name: &str) -> Nginx {
    let nginx = Nginx::start();
    Streams::get().copy(name, &nginx.path_of("s"));
    nginx
}

const URL: &str = "/f/s/main.mpd";

fn edit(nginx: &Nginx, change: impl Fn(&str) -> String) {
    let manifest = fs::read_to_string(nginx.path_of("s/main.mpd")).unwrap();
    nginx.serve("s/main.mpd", change(&manifest).as_bytes());
}

#[test]
fn every_form_of_a_manifest_becomes_one_file_with_the_packets_of_all_segments() {
    // All of these contain the same packets.
    let source = Streams::get().folder("mp4").join("index.m3u8");
    let expected = packets(&source);
    for name in ["dash-number", "dash-time", "dash-list", "dash-single"] {
        let (nginx, bae) = (serve(name), Bae::new());
        get(&bae, &[&nginx.url(URL), "-x", "4"]).expect(0);
        let joined = out_path(&bae, "main.mp4");
        assert_eq!(packets(&joined), expected, "{name}");
        assert!((duration(&joined) - 12.0).abs() < 0.2, "{name}");
        let files = fs::read_dir(out_path(&bae, "")).unwrap().count();
        assert_eq!(files, 1, "{name}: other files are left");
    }
}

/// The last segment that the manifest counts does not exist, or there is one more.
#[test]
fn a_count_that_is_off_by_one_loses_no_segment() {
    let (nginx, bae) = (serve("dash-number"), Bae::new());
    get(&bae, &[&nginx.url(URL)]).expect(0);
    let expected = fs::read(out_path(&bae, "main.mp4")).unwrap();
    for seconds in ["PT11.5S", "PT13.9S"] {
        edit(&nginx, |text| {
            let (before, after) = text.split_once("mediaPresentationDuration=\"").unwrap();
            let after = after.split_once('"').unwrap().1;
            format!("{before}mediaPresentationDuration=\"{seconds}\"{after}")
        });
        let bae = Bae::new();
        get(&bae, &[&nginx.url(URL)]).expect(0);
        assert_file(&out_path(&bae, "main.mp4"), &expected);
    }
    let name = "s/chunk-stream0-00002.m4s";
    fs::remove_file(nginx.path_of(name)).unwrap();
    let output = get(&Bae::new(), &[&nginx.url(URL), "-m", "1"]).expect(3);
    output.expect_stderr("segment 2");
}

/// A manifest of two periods with three segments each of the stream `dash-list`. `segments` writes those of a track.
fn two_periods(segments: impl Fn(usize, std::ops::RangeInclusive<usize>) -> String) -> String {
    let period = |numbers: std::ops::RangeInclusive<usize>| {
        let track = |number: usize, kind: &str| {
            format!(
                "<AdaptationSet mimeType='{kind}/mp4'><Representation id='{number}' bandwidth='9'>{}\
                 </Representation></AdaptationSet>",
                segments(number, numbers.clone())
            )
        };
        format!("<Period duration='PT6S'>{}{}</Period>", track(0, "video"), track(1, "audio"))
    };
    format!("<MPD type='static'>{}{}</MPD>", period(1..=3), period(4..=6))
}

#[test]
fn periods_of_one_encoding_become_one_file() {
    let (nginx, bae) = (serve("dash-list"), Bae::new());
    get(&bae, &[&nginx.url(URL)]).expect(0);
    let expected = fs::read(out_path(&bae, "main.mp4")).unwrap();
    let listed = two_periods(|track, numbers| {
        let urls = numbers.map(|n| format!("<SegmentURL media='chunk-stream{track}-{n:05}.m4s'/>"));
        format!(
            "<SegmentList duration='2'><Initialization sourceURL='init-stream{track}.m4s'/>{}</SegmentList>",
            urls.collect::<String>()
        )
    });
    // The calculated number of segments includes one more in each period, which does not exist.
    let counted = two_periods(|track, numbers| {
        let period = if *numbers.start() == 1 { "a" } else { "b" };
        for (number, n) in (1..).zip(numbers) {
            let bytes = fs::read(nginx.path_of(&format!("s/chunk-stream{track}-{n:05}.m4s")));
            nginx.serve(&format!("s/{period}{track}-{number}.m4s"), &bytes.unwrap());
        }
        format!(
            "<SegmentTemplate duration='2' initialization='init-stream{track}.m4s' \
             media='{period}$RepresentationID$-$Number$.m4s'/>"
        )
    });
    for (manifest, is_same_file) in [(listed, true), (counted, false)] {
        nginx.serve("s/main.mpd", manifest.as_bytes());
        let other = Bae::new();
        get(&other, &[&nginx.url(URL)]).expect(0);
        let joined = out_path(&other, "main.mp4");
        assert_eq!(packets(&joined), packets(&out_path(&bae, "main.mp4")));
        // Fragments have other numbers where the manifest counts more segments than there are.
        assert_eq!(fs::read(&joined).unwrap() == expected, is_same_file);
    }
}

#[test]
fn missing_segments_of_a_manifest_are_skipped_on_request_and_counted() {
    let (nginx, bae) = (serve("dash-list"), Bae::new());
    fs::remove_file(nginx.path_of("s/chunk-stream0-00003.m4s")).unwrap();
    let list = [&nginx.url(URL), "-m", "1", "--skip-missing"];
    let output = get(&bae, &list).expect(32).expect_stderr("1 segment skipped");
    assert_eq!(event(&output, "fetched")["skipped"], 1);
    assert!(packets(&out_path(&bae, "main.mp4")).len() == 2);
}

#[test]
fn subtitles_of_a_manifest_are_a_file_next_to_the_video() {
    let (nginx, bae) = (serve("dash-time"), Bae::new());
    let subtitles = b"WEBVTT\n\n00:01.000 --> 00:02.000\nHello\n";
    nginx.serve("s/en.vtt", subtitles);
    edit(&nginx, |text| {
        let set = "<AdaptationSet contentType='text' mimeType='text/vtt' lang='en'>\
                   <Representation id='t' bandwidth='1'><BaseURL>en.vtt</BaseURL></Representation></AdaptationSet>";
        text.replace("</Period>", &format!("{set}</Period>"))
    });
    get(&bae, &[&nginx.url(URL), "--subtitles", "en"]).expect(0);
    assert_file(&out_path(&bae, "main/main.en.vtt"), subtitles);
    assert_eq!(packets(&out_path(&bae, "main/main.mp4")).len(), 2);
    get(&bae, &[&nginx.url(URL), "--subtitles", "de"]).expect(3);
    get(&bae, &[&nginx.url(URL), "--audio", "fr"]).expect(3);
}

#[test]
fn a_file_with_an_index_is_joined_and_one_without_stays_as_it_is() {
    let (nginx, bae) = (serve("dash-single"), Bae::new());
    get(&bae, &[&nginx.url(URL)]).expect(0);
    let expected = packets(&out_path(&bae, "main.mp4"));
    let names: Vec<_> = fs::read_dir(nginx.path_of("s"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".mpd"))
        .collect();
    let [video, audio] =
        ["stream0", "stream1"].map(|part| names.iter().find(|name| name.contains(part)).unwrap());
    let manifest = format!(
        "<MPD xmlns='urn:mpeg:dash:schema:mpd:2011' type='static' mediaPresentationDuration='PT12S'><Period>\
         <AdaptationSet mimeType='video/mp4'><Representation id='v' bandwidth='9'><BaseURL>{video}</BaseURL></Representation></AdaptationSet>\
         <AdaptationSet mimeType='audio/mp4' lang='en'><Representation id='a' bandwidth='1'><BaseURL>{audio}</BaseURL></Representation></AdaptationSet>\
         </Period></MPD>"
    );
    nginx.serve("s/plain.mpd", manifest.as_bytes());
    get(&bae, &[&nginx.url("/f/s/plain.mpd")]).expect(0);
    assert_file(
        &out_path(&bae, "plain/plain.mp4"),
        &fs::read(nginx.path_of(&format!("s/{video}"))).unwrap(),
    );
    assert_file(
        &out_path(&bae, "plain/plain.audio.en.m4a"),
        &fs::read(nginx.path_of(&format!("s/{audio}"))).unwrap(),
    );
    assert_eq!(expected.len(), 2);
}

#[test]
fn what_is_not_supported_is_refused_with_a_sentence() {
    let nginx = serve("dash-number");
    let manifest = fs::read_to_string(nginx.path_of("s/main.mpd")).unwrap();
    let widevine =
        "<ContentProtection schemeIdUri=\"urn:uuid:edef8ba9-79d6-4ace-a3c8-27dcd51d21ed\"/>";
    for (changed, word) in [
        (manifest.replace("type=\"static\"", "type=\"dynamic\""), "live streams of DASH"),
        (manifest.replace("<Period ", "<Period xlink:href=\"x\" "), "xlink"),
        (
            manifest.replacen("<Representation ", &format!("{widevine}<Representation "), 1),
            "Widevine",
        ),
    ] {
        nginx.serve("s/main.mpd", changed.as_bytes());
        get(&Bae::new(), &[&nginx.url(URL)]).expect(1).expect_stderr(word);
    }
    assert!(nginx.requests().iter().all(|line| !line.contains(".m4s")), "a segment was fetched");
}

#[test]
fn a_joined_stream_is_imported_and_resumed() {
    let (nginx, bae) = (serve("dash-time"), Bae::new());
    get(&bae, &[&nginx.url(URL)]).expect(0);
    let expected = fs::read(out_path(&bae, "main.mp4")).unwrap();
    let (url, storage) = (nginx.url(URL), bae.storage_url());
    let list = ["--json", "import", &url, "--storage", &storage];
    let summary = bae.run(list).expect(0).summary();
    assert!(bae.stdout_of(["cat", &summary.id]) == expected);
    assert_eq!(bae.run(list).expect(0).summary().downloaded, 0);
    let output = get(&bae, &[&nginx.url(URL)]).expect(0);
    assert_eq!(event(&output, "fetched")["downloaded"], 0);
}
