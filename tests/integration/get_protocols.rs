//! `bae get` and `bae import` with every protocol except HTTP: files, folders, interruptions and errors.

use std::time::Duration;

use crate::{
    get::{args, event, get, out, random, same, start},
    support::{
        MIB,
        bae::Bae,
        dav_server::DavServer,
        ftp_server::{self, FtpServer},
        s3_server::S3Server,
        served::Served,
        ssh_server::SshServer,
    },
};

/// A server of one protocol, and the options that `bae` needs for it.
struct Place {
    name: &'static str,
    /// The URL of the served folder.
    url: String,
    options: Vec<String>,
    env: Vec<(String, String)>,
    keeper: Keeper,
}

/// The server that has the files.
enum Keeper {
    Ftp(FtpServer),
    Ssh(SshServer),
    Dav(DavServer),
    S3(String),
}

impl Place {
    fn ftp() -> Self {
        let server = FtpServer::proftpd();
        let ca = server.certificates.as_ref().unwrap().ca.display().to_string();
        Self {
            name: "ftpes",
            url: server.url("ftpes"),
            options: strings(&["-u", "bob:command:echo secret", "--cacert", &ca]),
            env: Vec::new(),
            keeper: Keeper::Ftp(server),
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
            keeper: Keeper::Ssh(server),
        }
    }

    fn dav() -> Self {
        let server = DavServer::apache();
        Self {
            name: "dav",
            url: server.url_of_anyone("digest/"),
            options: strings(&["-u", "bob:command:echo secret"]),
            env: Vec::new(),
            keeper: Keeper::Dav(server),
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
            keeper: Keeper::S3(bucket),
        }
    }

    fn all() -> [Self; 4] {
        [Self::ftp(), Self::sftp(), Self::dav(), Self::s3()]
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let served: &Served = match &self.keeper {
            Keeper::Ftp(server) => &server.served,
            Keeper::Ssh(server) => &server.served,
            Keeper::Dav(server) => &server.served,
            Keeper::S3(bucket) => return S3Server::seaweed().put(bucket, path, bytes.to_vec()),
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
        let objects = format!("file://{}", bae.objects().display());
        bae.storing_at(&objects, self.env.clone())
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
fn files_and_folders_come_whole_by_every_protocol() {
    for place in Place::all() {
        let (big, small) = (random(41, 20 * MIB + 3), random(42, 1000));
        place.write("a b/big.bin", &big);
        place.write("a b/sub #1/small.bin", &small);
        place.write("a b/sub #1/empty.bin", b"");
        let bae = place.bae();
        let file = place.url("a%20b/big.bin");
        let ran = get(&bae, &place.args(&file, &["-x", "4"])).expect(0);
        same(&out(&bae, "big.bin"), &big);
        assert_eq!(event(&ran, "fetched")["bytes"], big.len(), "{}", place.name);
        let folder = place.url("a%20b/");
        get(&bae, &place.args(&folder, &[])).expect(0);
        same(&out(&bae, "a b/big.bin"), &big);
        same(&out(&bae, "a b/sub #1/small.bin"), &small);
        same(&out(&bae, "a b/sub #1/empty.bin"), b"");
        let again = get(&bae, &place.args(&folder, &[])).expect(0);
        let fetched: u64 = again.json().iter().filter_map(|e| e["downloaded"].as_u64()).sum();
        assert_eq!(fetched, 0, "{}: fetched again", place.name);
    }
}

#[test]
fn a_killed_get_goes_on_by_every_protocol() {
    for place in Place::all() {
        let data = random(43, 24 * MIB);
        place.write("f.bin", &data);
        let (bae, url) = (place.bae(), place.url("f.bin"));
        let mut running = start(&bae, &place.args(&url, &["--limit-rate", "6MiB"]));
        running.event_where("fetching", |e| e["stored"].as_u64() > Some(6 * MIB));
        std::thread::sleep(Duration::from_millis(1100));
        running.kill();
        assert!(!out(&bae, "f.bin").exists(), "{}: a name for half a file", place.name);
        let ran = get(&bae, &place.args(&url, &[])).expect(0);
        let (found, fetched) = (event(&ran, "found"), event(&ran, "fetched"));
        let kept = found["stored"].as_u64().unwrap();
        assert!(kept > 2 * MIB, "{}: only {kept} bytes were kept", place.name);
        assert_eq!(
            fetched["downloaded"].as_u64(),
            Some(data.len() as u64 - kept),
            "{}",
            place.name
        );
        same(&out(&bae, "f.bin"), &data);
        // A new version is never combined with the old file.
        place.write("f.bin", &random(44, 24 * MIB));
        get(&bae, &place.args(&url, &[])).expect(1);
        same(&out(&bae, "f.bin"), &data);
    }
}

#[test]
fn folders_go_into_storage_by_every_protocol() {
    for place in Place::all() {
        let (one, two) = (random(45, 9 * MIB + 1), random(46, 3000));
        place.write("album/one.bin", &one);
        place.write("album/cd 2/two.bin", &two);
        let (bae, url) = (place.bae(), place.url("album/"));
        let storage = bae.storage_url();
        let import = place.args(&url, &["--storage", &storage, "--json"]);
        let done = bae.run(["import"].into_iter().chain(import.iter().copied())).expect(0);
        let done = done.imported();
        assert_eq!(done.bytes, (one.len() + two.len()) as u64, "{}", place.name);
        let exported = bae.home().join("exported");
        bae.run(["export", &done.id, exported.to_str().unwrap()]).expect(0);
        same(&exported.join("album/one.bin"), &one);
        same(&exported.join("album/cd 2/two.bin"), &two);
        let again = bae.run(["import"].into_iter().chain(import)).expect(0).imported();
        assert_eq!((again.id, again.downloaded), (done.id, 0), "{}: fetched again", place.name);
    }
}

#[test]
fn an_unknown_host_key_ends_with_24_and_the_flag_goes_on() {
    let place = Place::sftp();
    place.write("f.bin", b"here");
    let Keeper::Ssh(server) = &place.keeper else { panic!("not SSH") };
    let (bae, url, fingerprint) = (place.bae(), place.url("f.bin"), server.fingerprint());
    let nobody = bae.home().join("nobody");
    std::fs::write(&nobody, "").unwrap();
    let options = ["--known-hosts", nobody.to_str().unwrap()];
    let identity = ["--identity", server.identity.to_str().unwrap()];
    let list = [&[url.as_str()][..], &options, &identity].concat();
    get(&bae, &list).expect(24).says(&format!("--accept-host-key {fingerprint}"));
    get(&bae, &[&list[..], &["--accept-host-key", &fingerprint]].concat()).expect(0);
    same(&out(&bae, "f.bin"), b"here");
}

#[test]
fn a_wrong_ftp_password_ends_with_24_and_no_log_shows_one() {
    let server = FtpServer::pyftpd(false);
    server.served.write("f.bin", b"here");
    let (bae, url) = (Bae::new(), format!("{}f.bin", server.url("ftp")));
    let ours = "bae::protocols::ftp";
    for (password, code) in [("hunter2", 24), (ftp_server::PASSWORD, 0)] {
        let user = format!("bob:command:echo {password}");
        let mut command = bae.command(args(&bae, &[&url, "-u", &user]));
        let ran = command.env("RUST_LOG", "trace").output().unwrap();
        let said = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(code), "{said}");
        assert!(said.contains(ours), "the log is on: {said}");
        let shown = said.contains(&format!("PASS {password}")) || said.contains("hunter2");
        assert!(!shown, "the log shows the password");
    }
    same(&out(&bae, "f.bin"), b"here");
}
