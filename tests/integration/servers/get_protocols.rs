//! `bae get` and `bae import` with every protocol except HTTP: files, folders, interruptions and errors.

use crate::support::{
    LONG, MIB,
    bae::Bae,
    dav_server::DavServer,
    ftp_server::{self, FtpServer},
    get::{args, assert_file, event, get, out_path, recorded_bytes, start},
    random,
    s3_server::S3Server,
    served_folder::ServedFolder,
    ssh_server::SshServer,
    wait_until,
};

/// A server of one protocol, and the options that `bae` needs for it.
struct Source {
    name: &'static str,
    /// The URL of the served folder.
    url: String,
    options: Vec<String>,
    env: Vec<(String, String)>,
    server: Server,
}

/// The server that has the files.
enum Server {
    Ftp(FtpServer),
    Ssh(SshServer),
    Dav(DavServer),
    S3(String),
}

impl Source {
    fn ftp() -> Self {
        let server = FtpServer::proftpd();
        let ca = server.certificates.as_ref().unwrap().ca.display().to_string();
        Self {
            name: "ftpes",
            url: server.url("ftpes"),
            options: strings(&["-u", "bob:command:echo secret", "--cacert", &ca]),
            env: Vec::new(),
            server: Server::Ftp(server),
        }
    }

    fn sftp() -> Self {
        let server = SshServer::openssh();
        let (known, key) = (server.known_hosts(), server.identity.clone());
        let options =
            ["--known-hosts", known.to_str().unwrap(), "--identity", key.to_str().unwrap()];
        Self {
            name: "sftp",
            url: server.url(None),
            options: strings(&options),
            env: Vec::new(),
            server: Server::Ssh(server),
        }
    }

    fn dav() -> Self {
        let server = DavServer::apache();
        Self {
            name: "dav",
            url: server.anonymous_url("digest/"),
            options: strings(&["-u", "bob:command:echo secret"]),
            env: Vec::new(),
            server: Server::Dav(server),
        }
    }

    fn s3() -> Self {
        let server = S3Server::seaweed();
        let bucket = server.bucket("get");
        Self {
            name: "s3",
            url: server.storage_url(&bucket, ""),
            options: Vec::new(),
            env: server.env(),
            server: Server::S3(bucket),
        }
    }

    fn all() -> [Self; 4] {
        [Self::ftp(), Self::sftp(), Self::dav(), Self::s3()]
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let served: &ServedFolder = match &self.server {
            Server::Ftp(server) => &server.served,
            Server::Ssh(server) => &server.served,
            Server::Dav(server) => &server.served,
            Server::S3(bucket) => return S3Server::seaweed().put(bucket, path, bytes.to_vec()),
        };
        served.write(path, bytes);
    }

    fn url(&self, path: &str) -> String {
        let mut url = url::Url::parse(&self.url).unwrap();
        url.set_path(&format!("{}{path}", url.path()));
        url.into()
    }

    /// A new home with the server's variables in the environment.
    fn bae(&self) -> Bae {
        let bae = Bae::new();
        let objects = format!("file://{}", bae.storage_dir().display());
        bae.with_storage_url(&objects, self.env.clone())
    }

    /// `url`, the server's options and `more`.
    fn args<'a>(&'a self, url: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let options = self.options.iter().map(String::as_str);
        [url].into_iter().chain(options).chain(more.iter().copied()).collect()
    }
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn files_and_folders_are_fetched_completely_with_every_protocol() {
    for source in Source::all() {
        let (big, small) = (random(41, 20 * MIB + 3), random(42, 1000));
        source.write("a b/big.bin", &big);
        source.write("a b/sub #1/small.bin", &small);
        source.write("a b/sub #1/empty.bin", b"");
        let bae = source.bae();
        let file = source.url("a%20b/big.bin");
        let output = get(&bae, &source.args(&file, &["-x", "4"])).expect(0);
        assert_file(&out_path(&bae, "big.bin"), &big);
        assert_eq!(event(&output, "fetched")["bytes"], big.len(), "{}", source.name);
        let folder = source.url("a%20b/");
        get(&bae, &source.args(&folder, &[])).expect(0);
        assert_file(&out_path(&bae, "a b/big.bin"), &big);
        assert_file(&out_path(&bae, "a b/sub #1/small.bin"), &small);
        assert_file(&out_path(&bae, "a b/sub #1/empty.bin"), b"");
        let second = get(&bae, &source.args(&folder, &[])).expect(0);
        let fetched: u64 = second.json().iter().filter_map(|e| e["downloaded"].as_u64()).sum();
        assert_eq!(fetched, 0, "{}: fetched again", source.name);
    }
}

#[test]
fn a_killed_get_resumes_with_every_protocol() {
    for source in Source::all() {
        let data = random(43, 24 * MIB);
        source.write("f.bin", &data);
        let (bae, url) = (source.bae(), source.url("f.bin"));
        let mut running = start(&bae, &source.args(&url, &["--limit-rate", "6MiB"]));
        running.event_where("fetching", |e| e["stored"].as_u64() > Some(6 * MIB));
        wait_until("a checkpoint", LONG, || recorded_bytes(&bae, "f.bin") > 2 * MIB);
        running.kill();
        assert!(
            !out_path(&bae, "f.bin").exists(),
            "{}: an incomplete file has its final name",
            source.name
        );
        let output = get(&bae, &source.args(&url, &[])).expect(0);
        let (found, fetched) = (event(&output, "found"), event(&output, "fetched"));
        let resumed = found["stored"].as_u64().unwrap();
        assert!(resumed > 2 * MIB, "{}: only {resumed} bytes were kept", source.name);
        assert_eq!(
            fetched["downloaded"].as_u64(),
            Some(data.len() as u64 - resumed),
            "{}",
            source.name
        );
        assert_file(&out_path(&bae, "f.bin"), &data);
        // A new version is never combined with the old file.
        source.write("f.bin", &random(44, 24 * MIB));
        get(&bae, &source.args(&url, &[])).expect(1);
        assert_file(&out_path(&bae, "f.bin"), &data);
    }
}

#[test]
fn folders_are_imported_with_every_protocol() {
    for source in Source::all() {
        let (one, two) = (random(45, 9 * MIB + 1), random(46, 3000));
        source.write("album/one.bin", &one);
        source.write("album/cd 2/two.bin", &two);
        let (bae, url) = (source.bae(), source.url("album/"));
        let storage = bae.storage_url();
        let import = source.args(&url, &["--storage", &storage, "--json"]);
        let done = bae.run(["import"].into_iter().chain(import.iter().copied())).expect(0);
        let summary = done.summary();
        assert_eq!(summary.bytes, (one.len() + two.len()) as u64, "{}", source.name);
        let exported = bae.home().join("exported");
        bae.run(["export", &summary.id, exported.to_str().unwrap()]).expect(0);
        assert_file(&exported.join("album/one.bin"), &one);
        assert_file(&exported.join("album/cd 2/two.bin"), &two);
        let second = bae.run(["import"].into_iter().chain(import)).expect(0).summary();
        assert_eq!(
            (second.id, second.downloaded),
            (summary.id, 0),
            "{}: fetched again",
            source.name
        );
    }
}

#[test]
fn an_unknown_host_key_exits_with_24_until_the_flag_accepts_it() {
    let source = Source::sftp();
    source.write("f.bin", b"here");
    let Server::Ssh(server) = &source.server else { panic!("not SSH") };
    let (bae, url, fingerprint) = (source.bae(), source.url("f.bin"), server.fingerprint());
    let empty = bae.home().join("empty");
    std::fs::write(&empty, "").unwrap();
    let options = ["--known-hosts", empty.to_str().unwrap()];
    let identity = ["--identity", server.identity.to_str().unwrap()];
    let list = [&[url.as_str()][..], &options, &identity].concat();
    get(&bae, &list).expect(24).expect_stderr(&format!("--accept-host-key {fingerprint}"));
    get(&bae, &[&list[..], &["--accept-host-key", &fingerprint]].concat()).expect(0);
    assert_file(&out_path(&bae, "f.bin"), b"here");
}

#[test]
fn a_wrong_ftp_password_exits_with_24_and_no_password_is_logged() {
    let server = FtpServer::pyftpd(false);
    server.served.write("f.bin", b"here");
    let (bae, url) = (Bae::new(), format!("{}f.bin", server.url("ftp")));
    let log_target = "bae::protocols::ftp";
    for (password, code) in [("hunter2", 24), (ftp_server::PASSWORD, 0)] {
        let user = format!("bob:command:echo {password}");
        let mut command = bae.command(args(&bae, &[&url, "-u", &user]));
        let output = command.env("RUST_LOG", "trace").output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains(log_target), "the log is on: {stderr}");
        let shown = stderr.contains(&format!("PASS {password}")) || stderr.contains("hunter2");
        assert!(!shown, "the log shows the password");
    }
    assert_file(&out_path(&bae, "f.bin"), b"here");
}
