//! Streams of HLS from a real server, made by FFmpeg: each becomes a file with exactly the bytes of its segments.

use std::{fs, io::Write as _, path::Path, sync::Arc};

use async_trait::async_trait;
use bae::protocols::{
    FetchOptions, Protocol, Protocols,
    conformance::{self, ConformanceTarget, TargetAccess, WRONG_PASSWORD},
};
use bytes::Bytes;
use url::Url;

use super::import_url::imported_within_64_mib;
use crate::support::{
    bae::Bae,
    get::{assert_file, event, get, out_path},
    media::{IV, Streams, duration, encrypt, packets, probe},
    nginx::Nginx,
    random,
    s3_server::{S3Server, runtime},
};

/// A server with a copy of the stream `name` at `/f/s/`.
pub(crate) fn serve(name: &str) -> Nginx {
    let nginx = Nginx::start();
    Streams::get().copy(name, &nginx.path_of("s"));
    nginx
}

/// Changes the playlist `s/index.m3u8` of a server.
pub(crate) fn edit(nginx: &Nginx, change: impl Fn(&str) -> String) {
    let playlist = fs::read_to_string(nginx.path_of("s/index.m3u8")).unwrap();
    nginx.serve("s/index.m3u8", change(&playlist).as_bytes());
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn every_form_of_a_stream_becomes_one_file_with_the_bytes_of_all_segments() {
    let streams = Streams::get();
    let mp4 = [streams.joined("mp4", "init.mp4"), streams.joined("mp4", ".m4s")].concat();
    for (name, file, expected) in [
        ("ts", "index.ts", streams.joined("ts", ".ts")),
        ("ranges", "index.ts", streams.joined("ranges", "all.ts")),
        ("mp4", "index.mp4", mp4),
        ("aes", "index.ts", streams.joined("ts", ".ts")),
    ] {
        let (nginx, bae) = (serve(name), Bae::new());
        let output = get(&bae, &[&nginx.url("/f/s/index.m3u8"), "-x", "4"]).expect(0);
        assert_file(&out_path(&bae, file), &expected);
        let fetched = event(&output, "fetched");
        assert_eq!(fetched["bytes"], expected.len(), "{name}");
        assert!(fetched.get("skipped").is_none(), "{fetched}");
        assert!((duration(&out_path(&bae, file)) - 12.0).abs() < 0.2, "{name}");
        assert_eq!(names_in(&out_path(&bae, "")), [file], "{name}: other files are left");
        let again = get(&bae, &[&nginx.url("/f/s/index.m3u8")]).expect(0);
        assert_eq!(event(&again, "fetched")["downloaded"], 0, "{name}: fetched again");
    }
}

#[test]
fn a_stream_is_recognised_by_its_content_and_its_list_is_kept_on_request() {
    let (nginx, bae) = (serve("ts"), Bae::new());
    let playlist = fs::read(nginx.path_of("s/index.m3u8")).unwrap();
    nginx.serve("s/stream", &playlist);
    get(&bae, &[&nginx.url("/f/s/stream")]).expect(0);
    let expected = Streams::get().joined("ts", ".ts");
    assert_file(&out_path(&bae, "stream.ts"), &expected);
    get(&bae, &[&nginx.url("/f/s/stream"), "--protocol", "hls", "-o", "named.ts"]).expect(0);
    assert_file(&out_path(&bae, "named.ts"), &expected);
    get(&bae, &[&nginx.url("/f/s/index.m3u8"), "--protocol", "http"]).expect(0);
    assert_file(&out_path(&bae, "index.m3u8"), &playlist);
    // A playlist of a music player is a file.
    let music = b"#EXTM3U\n#EXTINF:123,Song\nsong.mp3\n";
    nginx.serve("s/music.m3u8", music);
    get(&bae, &[&nginx.url("/f/s/music.m3u8")]).expect(0);
    assert_file(&out_path(&bae, "music.m3u8"), music);
}

/// A change of a playlist.
type Change = Box<dyn Fn(&str) -> Vec<u8>>;

#[test]
fn unusual_playlists_give_the_same_file() {
    let expected = Streams::get().joined("ts", ".ts");
    let gzip = |text: &str| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let plain = |change: fn(&str) -> String| move |text: &str| change(text).into_bytes();
    let changes: Vec<(&str, Change)> = vec![
        ("CRLF", Box::new(plain(|text| text.replace('\n', "\r\n")))),
        ("CR", Box::new(plain(|text| text.replace('\n', "\r")))),
        ("byte order mark", Box::new(plain(|text| format!("\u{feff}{text}")))),
        (
            "no durations",
            Box::new(plain(|text| {
                let lines: Vec<_> =
                    text.lines().filter(|line| !line.starts_with("#EXTINF")).collect();
                lines.join("\n")
            })),
        ),
        (
            "no target duration",
            Box::new(plain(|text| text.replace("#EXT-X-TARGETDURATION:2\n", ""))),
        ),
        ("blanks and comments", Box::new(plain(|text| text.replace('\n', " \n# x\n\n")))),
        (
            "variables",
            Box::new(plain(|text| {
                let text = text.replace("s00", "{$name}00");
                text.replace(
                    "#EXT-X-VERSION:3",
                    "#EXT-X-VERSION:8\n#EXT-X-DEFINE:NAME=\"name\",VALUE=\"s\"",
                )
            })),
        ),
        (
            "variable of the query",
            Box::new(plain(|text| {
                let text = text.replace("s00", "{$q}00");
                text.replace("#EXT-X-VERSION:3", "#EXT-X-DEFINE:QUERYPARAM=\"q\"")
            })),
        ),
        ("no end, but complete", Box::new(plain(|text| text.replace("#EXT-X-ENDLIST\n", "")))),
        ("tokens", Box::new(plain(|text| text.replace(".ts\n", ".ts?token=a/b&c=%20\n")))),
        ("a gap in names", Box::new(plain(|text| text.replace("\ns00", "\n./../s/s00")))),
        ("gzip", Box::new(gzip)),
    ];
    let nginx = serve("ts");
    let playlist = fs::read_to_string(nginx.path_of("s/index.m3u8")).unwrap();
    for (name, change) in changes {
        nginx.serve("s/index.m3u8", &change(&playlist));
        let bae = Bae::new();
        let output = get(&bae, &[&nginx.url("/f/s/index.m3u8?q=s")]);
        assert_eq!(output.code, Some(0), "{name}: {}", output.stderr);
        assert_file(&out_path(&bae, "index.ts"), &expected);
    }
    nginx.serve("s/index.m3u8", playlist.as_bytes());
    let bae = Bae::new();
    get(&bae, &[&nginx.url("/r301/s/index.m3u8")]).expect(0);
    assert_file(&out_path(&bae, "index.ts"), &expected);
}

/// Encrypts the segments of the stream of MPEG-TS with the IVs of `ivs`; `None` leaves a segment clear.
fn encrypt_segments(nginx: &Nginx, ivs: &[Option<String>]) {
    for (number, (segment, iv)) in Streams::get().files("ts", ".ts").iter().zip(ivs).enumerate() {
        if let Some(iv) = iv {
            nginx.serve(&format!("s/s{number:03}.ts"), &encrypt(segment, iv));
        }
    }
}

#[test]
fn keys_rotate_end_and_have_an_implicit_iv() {
    let expected = Streams::get().joined("ts", ".ts");
    let number = |number: usize| Some(format!("{number:032x}"));
    // The IV is the media sequence number.
    let nginx = serve("aes");
    edit(&nginx, |text| {
        let text = text.replace(&format!(",IV=0x{IV}"), "");
        text.replace("#EXT-X-MEDIA-SEQUENCE:0", "#EXT-X-MEDIA-SEQUENCE:7")
    });
    encrypt_segments(&nginx, &(7..13).map(number).collect::<Vec<_>>());
    let bae = Bae::new();
    get(&bae, &[&nginx.url("/f/s/index.m3u8")]).expect(0);
    assert_file(&out_path(&bae, "index.ts"), &expected);

    // A key between the duration and its segment, a short IV, clear segments in between, and a key in a data: URL.
    let nginx = serve("aes");
    edit(&nginx, |text| {
        let text = text.replace(&format!(",IV=0x{IV}"), ",IV=0xA5");
        let text = text.replace("s002.ts", "#EXT-X-KEY:METHOD=NONE\ns002.ts");
        let key =
            "#EXT-X-KEY:METHOD=AES-128,URI=\"data:;base64,MDEyMzQ1Njc4OWFiY2RlZg==\"\ns004.ts";
        text.replace("s004.ts", key)
    });
    let short = Some(format!("{:032x}", 0xa5));
    encrypt_segments(&nginx, &[short.clone(), short, None, None, number(4), number(5)]);
    for (index, segment) in Streams::get().files("ts", ".ts").iter().enumerate().skip(2).take(2) {
        nginx.serve(&format!("s/s{index:03}.ts"), segment);
    }
    let bae = Bae::new();
    get(&bae, &[&nginx.url("/f/s/index.m3u8")]).expect(0);
    assert_file(&out_path(&bae, "index.ts"), &expected);
}

#[test]
fn an_encrypted_segment_after_a_map_has_its_own_number_as_iv() {
    let (nginx, bae) = (serve("mp4"), Bae::new());
    let segments = Streams::get().files("mp4", ".m4s");
    for (number, segment) in segments.iter().enumerate() {
        nginx.serve(&format!("s/s{number:03}.m4s"), &encrypt(segment, &format!("{number:032x}")));
    }
    nginx.serve("s/key", b"0123456789abcdef");
    edit(&nginx, |text| {
        text.replacen("#EXTINF", "#EXT-X-KEY:METHOD=AES-128,URI=\"key\"\n#EXTINF", 1)
    });
    get(&bae, &[&nginx.url("/f/s/index.m3u8")]).expect(0);
    let expected = [Streams::get().joined("mp4", "init.mp4"), segments.concat()].concat();
    assert_file(&out_path(&bae, "index.mp4"), &expected);
}

#[test]
fn the_best_variant_is_chosen_unless_a_height_or_bandwidth_is_given() {
    let (nginx, bae) = (serve("sizes"), Bae::new());
    let url = nginx.url("/f/s/main.m3u8");
    let streams = Streams::get();
    let low = streams.files("sizes", ".ts").len() / 2;
    let low = streams.files("sizes", ".ts")[low..].concat();
    let height = |file: &str| probe(&out_path(&bae, file), "stream=height");
    get(&bae, &[&url]).expect(0);
    assert!(height("main.ts").starts_with("180"), "{}", height("main.ts"));
    get(&bae, &[&url, "--height", "100", "-o", "low.ts"]).expect(0);
    assert_file(&out_path(&bae, "low.ts"), &low);
    get(&bae, &[&url, "--bandwidth", "400K", "-o", "narrow.ts"]).expect(0);
    assert_file(&out_path(&bae, "narrow.ts"), &low);
    get(&bae, &[&url, "--height", "50"]).expect(3).expect_stderr("160x90");
    get(&bae, &[&url, "--codec", "av01"]).expect(3).expect_stderr("avc1");
}

#[test]
fn separate_audio_and_video_of_mp4_are_joined_packet_by_packet() {
    let (nginx, bae) = (serve("groups-mp4"), Bae::new());
    let url = nginx.url("/f/s/main.m3u8");
    let folder = Streams::get().folder("groups-mp4");
    let tracks = |name: &str| packets(&folder.join(name));
    get(&bae, &[&url, "-x", "4"]).expect(0);
    let joined = out_path(&bae, "main.mp4");
    let expected = [tracks("en.m3u8"), tracks("v.m3u8")].concat();
    assert_eq!(packets(&joined), expected);
    assert!((duration(&joined) - 12.0).abs() < 0.2);
    get(&bae, &[&url, "--audio", "de", "-o", "de.mp4"]).expect(0);
    let expected = [tracks("de.m3u8"), tracks("v.m3u8")].concat();
    assert_eq!(packets(&out_path(&bae, "de.mp4")), expected);
    get(&bae, &[&url, "--audio", "fr"]).expect(3).expect_stderr("en");
    // Any part of the joined file is the same.
    let whole = fs::read(&joined).unwrap();
    get(&bae, &[&url, "--range-start", "70001", "--range-end", "200000", "-o", "part"]).expect(0);
    assert_file(&out_path(&bae, "part"), &whole[70_001..200_001]);
}

#[test]
fn separate_audio_of_mpeg_ts_is_joined_by_an_installed_ffmpeg_or_stays_a_file() {
    let (nginx, streams) = (serve("groups-ts"), Streams::get());
    let url = nginx.url("/f/s/main.m3u8");
    let bae = Bae::new();
    get(&bae, &[&url]).expect(0);
    let joined = out_path(&bae, "main.ts");
    let tracks = |name: &str| packets(&streams.folder("groups-ts").join(name));
    assert_eq!(packets(&joined), [tracks("en.m3u8"), tracks("v.m3u8")].concat());
    assert!((duration(&joined) - 12.0).abs() < 0.2);
    let storage = bae.storage_url();
    let id = bae.run(["--json", "import", &url, "--storage", &storage]).expect(0).summary().id;
    assert!(bae.stdout_of(["cat", &id]) == fs::read(&joined).unwrap(), "another file is stored");
    // A segment that is missing is an error, whatever FFmpeg makes of the rest.
    fs::rename(nginx.path_of("s/en-003.ts"), nginx.path_of("s/kept")).unwrap();
    get(&Bae::new(), &[&url, "-m", "1"]).expect(3).expect_stderr("segment 3");
    fs::rename(nginx.path_of("s/kept"), nginx.path_of("s/en-003.ts")).unwrap();

    let bae = Bae::new().with_env(vec![("PATH".into(), "/nonexistent".into())]);
    get(&bae, &[&url]).expect(0).expect_stderr("ffmpeg");
    let files = |start: &str| {
        let folder = streams.folder("groups-ts");
        let names = names_in(&folder);
        let names = names.iter().filter(|name| name.starts_with(start) && name.ends_with(".ts"));
        names.flat_map(|name| fs::read(folder.join(name)).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(names_in(&out_path(&bae, "main")), ["main.audio.en.ts", "main.ts"]);
    assert_file(&out_path(&bae, "main/main.ts"), &files("v-"));
    assert_file(&out_path(&bae, "main/main.audio.en.ts"), &files("en-"));
}

#[test]
fn another_encoding_after_a_discontinuity_begins_a_second_file() {
    let (nginx, bae) = (serve("mp4"), Bae::new());
    let streams = Streams::get();
    let (other, init) = (streams.files("groups-mp4", ".m4s"), streams.files("groups-mp4", ".mp4"));
    let segments = streams.files("mp4", ".m4s");
    nginx.serve("s/other.mp4", &init[0]);
    nginx.serve("s/other.m4s", &other[0]);
    edit(&nginx, |text| {
        let ad = "#EXT-X-DISCONTINUITY\n#EXT-X-MAP:URI=\"other.mp4\"\n#EXTINF:2,\nother.m4s\n";
        let again = "#EXT-X-DISCONTINUITY\n#EXT-X-MAP:URI=\"init.mp4\"\n#EXTINF:2,\ns003.m4s";
        text.replace("#EXTINF:2.000000,\ns003.m4s", &format!("{ad}{again}"))
    });
    get(&bae, &[&nginx.url("/f/s/index.m3u8")]).expect(0);
    let main = streams.joined("mp4", "init.mp4");
    let file = |name: &str| out_path(&bae, &format!("index/{name}"));
    assert_file(&file("index.mp4"), &[main.clone(), segments[..3].concat()].concat());
    assert_file(&file("index.2.mp4"), &[&init[0][..], &other[0]].concat());
    assert_file(&file("index.3.mp4"), &[main, segments[3..].concat()].concat());
    // The same initialization section again is not another encoding.
    nginx.serve("s/copy.mp4", &streams.joined("mp4", "init.mp4"));
    Streams::get().copy("mp4", &nginx.path_of("s"));
    edit(&nginx, |text| {
        text.replace(
            "#EXTINF:2.000000,\ns003.m4s",
            "#EXT-X-MAP:URI=\"copy.mp4\"\n#EXTINF:2,\ns003.m4s",
        )
    });
    let bae = Bae::new();
    get(&bae, &[&nginx.url("/f/s/index.m3u8")]).expect(0);
    let expected = [streams.joined("mp4", "init.mp4"), segments.concat()].concat();
    assert_file(&out_path(&bae, "index.mp4"), &expected);
}

#[test]
fn subtitles_are_merged_into_one_file() {
    let (nginx, bae) = (serve("ts"), Bae::new());
    let main = "#EXTM3U\n\
         #EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID=\"s\",NAME=\"English\",LANGUAGE=\"en\",URI=\"subs.m3u8\"\n\
         #EXT-X-STREAM-INF:BANDWIDTH=500000,SUBTITLES=\"s\"\nindex.m3u8\n";
    let subs =
        "#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\n1.vtt\n#EXTINF:6,\n2.vtt\n#EXT-X-ENDLIST\n";
    let header = "WEBVTT\nX-TIMESTAMP-MAP=MPEGTS:126000,LOCAL:00:00:00.000\n\n";
    nginx.serve("s/talk.m3u8", main.as_bytes());
    nginx.serve("s/subs.m3u8", subs.as_bytes());
    let cues = [
        "00:01.000 --> 00:02.000\nHello\n\n00:05.000 --> 00:06.000\nLong\n",
        "00:06.000 --> 00:07.500\nLong\n",
    ];
    for (name, cues) in ["1", "2"].iter().zip(cues) {
        nginx.serve(&format!("s/{name}.vtt"), format!("{header}{cues}").as_bytes());
    }
    get(&bae, &[&nginx.url("/f/s/talk.m3u8"), "--subtitles", "en"]).expect(0);
    let expected =
        "WEBVTT\n\n00:00:01.000 --> 00:00:02.000\nHello\n\n00:00:05.000 --> 00:00:07.500\nLong\n";
    assert_file(&out_path(&bae, "talk/talk.en.vtt"), expected.as_bytes());
    assert_file(&out_path(&bae, "talk/talk.ts"), &Streams::get().joined("ts", ".ts"));
    get(&bae, &[&nginx.url("/f/s/talk.m3u8"), "--subtitles", "de"]).expect(3);
}

#[test]
fn a_duration_ends_a_stream_after_its_last_wanted_segment() {
    let (nginx, bae) = (serve("ts"), Bae::new());
    get(&bae, &[&nginx.url("/f/s/index.m3u8"), "--duration", "5s"]).expect(0);
    let expected = Streams::get().files("ts", ".ts")[..3].concat();
    assert_file(&out_path(&bae, "index.ts"), &expected);
}

#[test]
fn a_mirror_keeps_a_stream_that_plays_from_its_folder() {
    let streams = Streams::get();
    let (nginx, bae) = (serve("groups-mp4"), Bae::new());
    get(&bae, &[&nginx.url("/f/s/main.m3u8"), "--mirror"]).expect(0);
    let folder = out_path(&bae, "main");
    assert_eq!(names_in(&folder), ["audio", "audio.m3u8", "main.m3u8", "video", "video.m3u8"]);
    let original = streams.folder("groups-mp4");
    let expected = [packets(&original.join("en.m3u8")), packets(&original.join("v.m3u8"))].concat();
    assert_eq!(packets(&folder.join("main.m3u8")), expected);
    for name in ["main.m3u8", "audio.m3u8", "video.m3u8"] {
        let text = fs::read_to_string(folder.join(name)).unwrap();
        assert!(!text.contains("http"), "{name}:\n{text}");
    }
    // Encrypted segments stay encrypted, and the key is kept.
    let (nginx, bae) = (serve("aes"), Bae::new());
    get(&bae, &[&nginx.url("/f/s/index.m3u8"), "--mirror"]).expect(0);
    let folder = out_path(&bae, "index");
    assert_eq!(names_in(&folder), ["index.m3u8", "video"]);
    assert_file(&folder.join("video/00000"), b"0123456789abcdef");
    assert_file(&folder.join("video/00001.ts"), &streams.files("aes", ".ts")[0]);
    // A storage holds the stream too.
    let (url, storage) = (nginx.url("/f/s/index.m3u8"), bae.storage_url());
    let list = ["--json", "import", &url, "--storage", &storage, "--mirror"];
    let id = bae.run(list).expect(0).summary().id;
    let exported = bae.home().join("exported");
    bae.run(["export", &id, exported.to_str().unwrap()]).expect(0);
    assert_file(&exported.join("index/video/00001.ts"), &streams.files("aes", ".ts")[0]);
}

/// A served folder in which each file is a stream: its path is that of the playlist.
#[derive(Debug)]
struct StreamFolder<'a> {
    nginx: &'a Nginx,
    url: Url,
    options: FetchOptions,
}

/// Bytes of each segment, not a multiple of any block size.
const SEGMENT_LEN: usize = 400_003;

impl StreamFolder<'_> {
    fn segment(path: &str, number: usize) -> String {
        let name: String = path.bytes().map(|byte| format!("{byte:02x}")).collect();
        // A file name has at most 255 bytes.
        format!("segments/{}-{number}", &name[name.len().saturating_sub(200)..])
    }

    fn protocol(&self) -> Arc<dyn Protocol> {
        Protocols::new(self.options.clone()).for_url(&self.url, Some("hls")).unwrap()
    }
}

#[async_trait]
impl ConformanceTarget for StreamFolder<'_> {
    async fn write(&self, path: &str, bytes: Bytes) {
        let mut playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:4\n".to_owned();
        for (number, part) in bytes.chunks(SEGMENT_LEN).enumerate() {
            let name = Self::segment(path, number);
            self.nginx.served.write(&name, part);
            let root = self.url.path();
            playlist.push_str(&format!("#EXTINF:4,\n{root}{name}\n"));
        }
        playlist.push_str("#EXT-X-ENDLIST\n");
        self.nginx.served.write(path, playlist.as_bytes());
    }

    async fn remove(&self, path: &str) {
        fs::remove_file(self.nginx.path_of(path)).unwrap();
        let segments = (0..).map(|number| self.nginx.path_of(&Self::segment(path, number)));
        segments.map_while(|path| fs::remove_file(path).ok()).for_each(drop);
    }

    fn url(&self) -> Url {
        self.url.clone()
    }

    fn has_folders(&self) -> bool {
        false
    }

    fn has_empty_files(&self) -> bool {
        false
    }

    fn with_wrong_login(&self) -> Option<TargetAccess> {
        let mut url = self.url.clone();
        url.password()?;
        url.set_password(Some(WRONG_PASSWORD)).unwrap();
        Some(TargetAccess { protocol: self.protocol(), url })
    }

    async fn forbidden_file(&self) -> Option<TargetAccess> {
        None
    }

    fn is_content_addressed(&self) -> bool {
        false
    }

    fn can_stop(&self) -> bool {
        true
    }

    async fn stop(&self) {
        self.nginx.process.kill_tree();
    }
}

#[test]
fn streams_pass_the_conformance_suite_of_files() {
    for (location, login) in [("/f/", ""), ("/auth/", "bob:secret@")] {
        let nginx = Nginx::start();
        let url = nginx.url(location).replace("//", &format!("//{login}"));
        let options = FetchOptions::default();
        let folder = StreamFolder { nginx: &nginx, url: url.parse().unwrap(), options };
        runtime().block_on(conformance::check(&*folder.protocol(), &folder));
    }
}

/// Segments of MPEG-TS of about 4 MB each, with packets of random bytes.
fn long_segments(count: u64) -> Vec<Vec<u8>> {
    let segment = |seed| {
        let mut bytes = random(seed, 188 * 22_000);
        bytes.iter_mut().step_by(188).for_each(|first| *first = 0x47);
        bytes
    };
    (0..count).map(segment).collect()
}

#[test]
fn a_stream_into_a_bucket_stays_off_the_disk_and_within_its_budget() {
    let (server, nginx) = (S3Server::seaweed(), Nginx::start());
    let segments = long_segments(24);
    let mut list = "#EXTM3U\n#EXT-X-TARGETDURATION:4\n".to_owned();
    for (number, segment) in segments.iter().enumerate() {
        nginx.serve(&format!("{number}.ts"), segment);
        list.push_str(&format!("#EXTINF:4,\n{number}.ts\n"));
    }
    nginx.serve("long.m3u8", format!("{list}#EXT-X-ENDLIST\n").as_bytes());
    // With known lengths, and without.
    for location in ["f", "chunked"] {
        let bucket = server.bucket(location);
        let bae = Bae::new().with_storage_url(&server.storage_url(&bucket, "p"), server.env());
        let (storage, url) = (bae.storage_url(), nginx.url(&format!("/{location}/long.m3u8")));
        let args = ["--json", "import", &url, "--storage", &storage];
        let running = bae.start([&args[..], &["--memory", "64MiB", "-x", "8"]].concat());
        let done = imported_within_64_mib(running);
        assert!(bae.stdout_of(["cat", done["id"].as_str().unwrap()]) == segments.concat());
    }
}

#[test]
fn a_dry_run_lists_all_renditions_and_downloads_nothing() {
    let (nginx, bae) = (serve("groups-mp4"), Bae::new());
    let url = nginx.url("/f/s/main.m3u8");
    let lines = get(&bae, &[&url, "--dry-run", "--audio", "de"]).expect(0).json();
    assert_eq!(lines[0]["event"], "found");
    assert!(lines[0]["bytes"].as_u64() > Some(100_000), "{}", lines[0]);
    let chosen = |kind: &str| {
        let all = lines[1..].iter().filter(|line| line["kind"] == kind);
        all.map(|line| (line["language"].as_str(), line["chosen"] == true)).collect::<Vec<_>>()
    };
    assert_eq!(chosen("audio"), [(Some("en"), false), (Some("de"), true)]);
    assert_eq!(chosen("video"), [(None, true)]);
    assert!(!out_path(&bae, "").exists());
    let storage = bae.storage_url();
    let list = ["import", &url, "--storage", &storage, "--dry-run"];
    let output = bae.run(list).expect(0);
    assert!(
        output.stdout.contains("* video") && output.stdout.contains("  audio"),
        "{}",
        output.stdout
    );
    let plain = bae.run(["get", &url, "--dry-run"]).expect(0).stdout;
    assert!(plain.starts_with("main.mp4: ") && plain.contains("\n* audio     en"), "{plain}");
}
