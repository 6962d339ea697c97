//! Streams that FFmpeg makes, once for all tests, and FFmpeg as the judge of what was downloaded.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use tempfile::TempDir;

use super::require_program;

/// Twelve seconds of a test picture and of two tones, with a key frame every second.
const SOURCE: &str = "-f lavfi -i testsrc2=size=320x180:rate=25:duration=12 \
    -f lavfi -i sine=frequency=440:duration=12 -f lavfi -i sine=frequency=880:duration=12 \
    -c:v libx264 -preset ultrafast -g 25 -keyint_min 25 -sc_threshold 0 -c:a aac -b:a 64k";
/// The same, encoded once.
const ENCODED: &str = "-i ../encoded.mp4 -c copy";
const HLS: &str = "-f hls -hls_time 2 -hls_playlist_type vod";
const DASH: &str = "-map 0:v -map 0:a:0 -f dash -seg_duration 2";

/// Key and IV of the encrypted stream.
pub(crate) const KEY: [u8; 16] = *b"0123456789abcdef";
pub(crate) const IV: &str = "00112233445566778899aabbccddeeff";

/// A folder of streams.
#[derive(Debug)]
pub(crate) struct Streams {
    dir: TempDir,
}

impl Streams {
    /// The streams of this run. They are made by the first caller.
    pub(crate) fn get() -> &'static Self {
        static STREAMS: OnceLock<Streams> = OnceLock::new();
        STREAMS.get_or_init(|| {
            require_program("ffmpeg", "ffmpeg");
            let streams = Streams { dir: tempfile::tempdir().unwrap() };
            streams.make();
            streams
        })
    }

    /// The folder of the stream `name`.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn make(&self) {
        let encoded = split(&format!("{SOURCE} -map 0 -map 1 -map 2 encoded.mp4"));
        run(ffmpeg(self.dir.path()).args(encoded));
        let ts = "-map 0:v -map 0:a:0";
        self.ffmpeg("ts", &format!("{ts} {HLS} -hls_segment_filename s%03d.ts index.m3u8"));
        let single = "-hls_flags single_file -hls_segment_filename";
        self.ffmpeg("ranges", &format!("{ts} {HLS} {single} all.ts index.m3u8"));
        let mp4 = "-hls_segment_type fmp4 -hls_fmp4_init_filename init.mp4";
        self.ffmpeg("mp4", &format!("{ts} {HLS} {mp4} -hls_segment_filename s%03d.m4s index.m3u8"));
        let groups = "v:0,agroup:au,name:v a:0,agroup:au,name:en,language:en,default:yes \
             a:1,agroup:au,name:de,language:de";
        for (name, kind, suffix) in
            [("groups-ts", "", "ts"), ("groups-mp4", "-hls_segment_type fmp4", "m4s")]
        {
            let mut args: Vec<String> =
                split(&format!("-map 0:v -map 0:a:0 -map 0:a:1 {HLS} {kind}"));
            args.extend(["-var_stream_map".into(), groups.into()]);
            args.extend(split(&format!(
                "-master_pl_name main.m3u8 -hls_segment_filename %v-%03d.{suffix} %v.m3u8"
            )));
            self.ffmpeg_args(name, ENCODED, &args);
        }
        let sizes = "-filter_complex [0:v]split=2[a][b];[a]scale=320:180[v0];[b]scale=160:90[v1] \
             -map [v0] -map [v1] -map 1:a -map 1:a";
        let mut args = split(&format!("{sizes} -b:v:0 500k -b:v:1 200k {HLS}"));
        args.extend(["-var_stream_map".into(), "v:0,a:0,name:hi v:1,a:1,name:lo".into()]);
        args.extend(split("-master_pl_name main.m3u8 -hls_segment_filename %v-%03d.ts %v.m3u8"));
        self.ffmpeg_args("sizes", SOURCE, &args);
        for (name, options) in [
            ("dash-number", "-use_template 1 -use_timeline 0"),
            ("dash-time", "-use_template 1 -use_timeline 1"),
            ("dash-list", "-use_template 0 -use_timeline 0"),
            ("dash-single", "-use_template 0 -single_file 1"),
        ] {
            self.ffmpeg(name, &format!("{DASH} {options} main.mpd"));
        }
        self.encrypt();
    }

    /// The stream `aes`: that of MPEG-TS, encrypted by OpenSSL.
    fn encrypt(&self) {
        let (from, to) = (self.folder("ts"), self.folder("aes"));
        fs::create_dir(&to).unwrap();
        fs::write(to.join("key"), KEY).unwrap();
        let playlist = fs::read_to_string(from.join("index.m3u8")).unwrap();
        let key = format!("#EXT-X-KEY:METHOD=AES-128,URI=\"key\",IV=0x{IV}\n#EXTINF");
        fs::write(to.join("index.m3u8"), playlist.replacen("#EXTINF", &key, 1)).unwrap();
        for path in files_of(&from, ".ts") {
            let encrypted = encrypt(&fs::read(&path).unwrap(), IV);
            fs::write(to.join(path.file_name().unwrap()), encrypted).unwrap();
        }
    }

    fn ffmpeg(&self, folder: &str, args: &str) {
        self.ffmpeg_args(folder, ENCODED, &split(args));
    }

    fn ffmpeg_args(&self, folder: &str, source: &str, args: &[String]) {
        let folder = self.folder(folder);
        fs::create_dir(&folder).unwrap();
        run(ffmpeg(&folder).args(split(source)).args(args));
    }

    /// Copies the stream `name` to the folder `to`.
    pub(crate) fn copy(&self, name: &str, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for path in files_of(&self.folder(name), "") {
            fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }

    /// The files of the stream `name` whose names end with `suffix`, joined in the order of their names.
    pub(crate) fn joined(&self, name: &str, suffix: &str) -> Vec<u8> {
        self.files(name, suffix).concat()
    }

    /// The same, one by one.
    pub(crate) fn files(&self, name: &str, suffix: &str) -> Vec<Vec<u8>> {
        files_of(&self.folder(name), suffix).iter().map(|path| fs::read(path).unwrap()).collect()
    }
}

/// FFmpeg, run in `folder`.
fn ffmpeg(folder: &Path) -> Command {
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-nostdin", "-y"]).current_dir(folder);
    command
}

fn split(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn files_of(folder: &Path, suffix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> =
        entries.filter(|path| path.to_str().unwrap().ends_with(suffix)).collect();
    paths.sort();
    paths
}

/// `plain` encrypted by AES-128 in CBC mode, with PKCS #7 padding.
pub(crate) fn encrypt(plain: &[u8], iv: &str) -> Vec<u8> {
    let key: String = KEY.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut openssl = Command::new("openssl")
        .args(["enc", "-aes-128-cbc", "-K", &key, "-iv", iv])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, plain) = (openssl.stdin.take().unwrap(), plain.to_vec());
    let writing = std::thread::spawn(move || stdin.write_all(&plain).unwrap());
    let done = openssl.wait_with_output().unwrap();
    writing.join().unwrap();
    assert!(done.status.success());
    done.stdout
}

/// Runs a program to its end. Returns its output.
fn run(command: &mut Command) -> String {
    let done = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{command:?}: {stderr}");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// The checksum of all packets of each track of a media file: its kind, and the checksum. Tracks are sorted.
pub(crate) fn packets(path: &Path) -> Vec<String> {
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-nostdin", "-i"]).arg(path);
    command.args(["-map", "0", "-c", "copy", "-f", "streamhash", "-hash", "md5", "-"]);
    // A line is `0,v,MD5=…`.
    let lines = run(&mut command);
    let mut tracks: Vec<_> =
        lines.lines().map(|line| line.split_once(',').unwrap().1.to_owned()).collect();
    tracks.sort();
    tracks
}

/// The duration of a media file in seconds.
pub(crate) fn duration(path: &Path) -> f64 {
    probe(path, "format=duration").trim().parse().unwrap()
}

/// Entries of a media file, as ffprobe prints them.
pub(crate) fn probe(path: &Path, entries: &str) -> String {
    let mut command = Command::new("ffprobe");
    command.args(["-v", "error", "-show_entries", entries, "-of", "csv=p=0"]).arg(path);
    run(&mut command)
}
