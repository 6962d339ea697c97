//! Real S3 servers, each with its own directory and address.
//!
//! SeaweedFS and s3s-fs install and start fast, so every test run uses them. Garage, Ceph and moto are for
//! `scripts/test --all`.

use std::{
    fs,
    net::{SocketAddr, SocketAddrV4},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use aws_sdk_s3::{
    Client, Config,
    config::{BehaviorVersion, Credentials, Region, retry::RetryConfig},
};
use bae::backends::S3Settings;
use tempfile::TempDir;
use url::Url;

use super::{LONG, ceph, ports, process::Process, tools::tool, wait_until};

/// A running server. Dropping it stops the server and removes its files.
#[derive(Debug)]
pub(crate) struct S3Server {
    pub(crate) endpoint: String,
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
    pub(crate) region: &'static str,
    /// The bucket of a server that creates its only bucket when it starts.
    only_bucket: Option<&'static str>,
    /// Stopped in reverse order of their start.
    processes: Vec<Process>,
    _dir: ServerDir,
}

/// The directory of a server. A temporary one is removed on drop. The one of the shared server, which is never
/// dropped, is removed by the next test process.
#[derive(Debug)]
enum ServerDir {
    Temporary(#[allow(dead_code, reason = "held for its drop")] TempDir),
    PerProcess,
}

const ACCESS: &str = "GK0123456789abcdef01234567";
const SECRET: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
/// The access key of a SeaweedFS user that may list objects and read none. Its secret key is the server's.
pub(crate) const LIST_ONLY_KEY: &str = "GKlistonly0000000000000000";
/// The bucket of a SeaweedFS that is readable without credentials.
pub(crate) const PUBLIC_BUCKET: &str = "public";

impl S3Server {
    /// The SeaweedFS that all tests of this process share, because its start takes longer than most tests.
    pub(crate) fn seaweed() -> &'static Self {
        static SHARED: OnceLock<S3Server> = OnceLock::new();
        SHARED.get_or_init(|| {
            let (started, server) = mpsc::channel();
            // A child process is killed when the thread that started it ends, so this thread must outlive the first
            // test.
            let starter = thread::Builder::new().name("seaweed".into());
            let starter = starter.spawn(move || {
                let dir = process_dir("seaweed");
                started.send(Self::start_seaweed(&dir, ServerDir::PerProcess)).unwrap();
                loop {
                    thread::park();
                }
            });
            drop(starter.unwrap());
            server.recv().expect("SeaweedFS starts")
        })
    }

    /// A SeaweedFS for one test alone, which may kill or fill it.
    #[allow(dead_code, reason = "for tests that kill or fill the server")]
    pub(crate) fn dedicated_seaweed() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        Self::start_seaweed(&path, ServerDir::Temporary(dir))
    }

    fn start_seaweed(dir: &Path, server_dir: ServerDir) -> Self {
        let config = serde_json::json!({"identities": [
            {
                "name": "bae",
                "credentials": [{"accessKey": ACCESS, "secretKey": SECRET}],
                "actions": ["Admin", "Read", "Write", "List", "Tagging"],
            },
            {
                "name": "list-only",
                "credentials": [{"accessKey": LIST_ONLY_KEY, "secretKey": SECRET}],
                "actions": ["List"],
            },
            {"name": "anonymous", "actions": [format!("Read:{PUBLIC_BUCKET}"), format!("List:{PUBLIC_BUCKET}")]},
        ]});
        let config_file = dir.join("s3.json");
        fs::write(&config_file, config.to_string()).unwrap();
        let (data, s3) = (dir.join("data"), ports::unused());
        fs::create_dir(&data).unwrap();
        let mut command = Command::new(tool("cloud", "weed", "test"));
        command.arg("server").arg(format!("-dir={}", data.display())).current_dir(dir);
        command.args([format!("-ip={}", s3.ip()), format!("-ip.bind={}", s3.ip())]);
        for part in ["master", "volume", "filer"] {
            command.arg(format!("-{part}.port={}", free_port(s3)));
        }
        for part in ["master", "volume", "filer", "s3"] {
            command.arg(format!("-{part}.port.grpc={}", free_port(s3)));
        }
        command.args(["-s3", "-s3.port.iceberg=0", "-s3.port.lance=0"]);
        command.arg(format!("-s3.port={}", s3.port()));
        command.arg(format!("-s3.config={}", config_file.display()));
        // The default sockets are in /tmp and named after the port alone.
        for part in ["filer", "s3"] {
            let socket = dir.join(format!("{part}.sock"));
            command.arg(format!("-{part}.localSocket={}", socket.display()));
        }
        // Each bucket has its own volumes, seven by default. One is enough, and there are many buckets.
        command.env("WEED_MASTER_VOLUME_GROWTH_COPY_1", "1");
        command.args(["-master.volumeSizeLimitMB=512", "-volume.max=500"]);
        // Compaction, every 14 minutes by default, makes volumes read-only for its time: long on a slow disk.
        command.arg("-master.vacuumIntervalSeconds=86400");
        // The default, 1 % of the disk, is gigabytes on a large one: below it the server refuses every write.
        command.args(["-master.telemetry=false", "-volume.minFreeSpace=100MiB"]);
        let process = Process::start("SeaweedFS", &command);
        Self::new(s3, "us-east-1", None, vec![process], server_dir).wait_until_ready()
    }

    /// s3s-fs: buckets are directories, and requests are validated strictly.
    pub(crate) fn s3s() -> Self {
        let (dir, addr) = (tempfile::tempdir().unwrap(), ports::unused());
        let mut command = Command::new(tool("s3s", "s3s-fs", "test"));
        command.args(["--host", &addr.ip().to_string(), "--port", &addr.port().to_string()]);
        command.args(["--access-key", ACCESS, "--secret-key", SECRET]).arg(dir.path());
        let process = Process::start("s3s-fs", &command);
        Self::new(addr, "us-east-1", None, vec![process], ServerDir::Temporary(dir))
            .wait_until_ready()
    }

    /// Garage: accepts small parts and ignores conditional headers. Its region is `garage`.
    pub(crate) fn garage() -> Self {
        let (dir, addr) = (tempfile::tempdir().unwrap(), ports::unused());
        let path = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "metadata_dir = {:?}\ndata_dir = {:?}\ndb_engine = \"lmdb\"\nreplication_factor = 1\n\
             rpc_bind_addr = \"{}:{}\"\nrpc_secret = {SECRET:?}\n\
             [s3_api]\ns3_region = \"garage\"\napi_bind_addr = \"{addr}\"\n",
            path("meta"),
            path("data"),
            addr.ip(),
            free_port(addr)
        );
        let config_file = dir.path().join("garage.toml");
        fs::write(&config_file, config).unwrap();
        let mut command = Command::new(tool("garage", "garage", "all-servers"));
        command.arg("-c").arg(&config_file).args(["server", "--single-node", "--default-bucket"]);
        command.env("GARAGE_DEFAULT_ACCESS_KEY", ACCESS).env("GARAGE_DEFAULT_SECRET_KEY", SECRET);
        command.env("GARAGE_DEFAULT_BUCKET", "bae");
        let process = Process::start("Garage", &command);
        let server_dir = ServerDir::Temporary(dir);
        Self::new(addr, "garage", Some("bae"), vec![process], server_dir).wait_until_ready()
    }

    /// moto: checks neither access keys nor checksums.
    pub(crate) fn moto() -> Self {
        let (dir, addr) = (tempfile::tempdir().unwrap(), ports::unused());
        let mut command = Command::new(tool("cloud", "moto_server", "all-servers"));
        command.args(["-H", &addr.ip().to_string(), "-p", &addr.port().to_string()]);
        let process = Process::start("moto", &command);
        Self::new(addr, "us-east-1", None, vec![process], ServerDir::Temporary(dir))
            .wait_until_ready()
    }

    /// Ceph's S3 gateway, the best of the older servers.
    pub(crate) fn ceph() -> Self {
        let (dir, addr) = (tempfile::tempdir().unwrap(), ports::unused());
        let processes = ceph::start(dir.path(), addr, ACCESS, SECRET);
        Self::new(addr, "us-east-1", None, processes, ServerDir::Temporary(dir)).wait_until_ready()
    }

    fn new(
        addr: SocketAddrV4,
        region: &'static str,
        only_bucket: Option<&'static str>,
        processes: Vec<Process>,
        dir: ServerDir,
    ) -> Self {
        let (endpoint, access_key) = (format!("http://{addr}"), ACCESS.to_owned());
        let secret_key = SECRET.to_owned();
        Self { endpoint, access_key, secret_key, region, only_bucket, processes, _dir: dir }
    }

    /// Waits until a PUT succeeds: a server that accepts connections is often not ready for that.
    fn wait_until_ready(mut self) -> Self {
        let (client, runtime) = (self.client(), runtime());
        let bucket = self.only_bucket.unwrap_or("ready");
        // SeaweedFS needs ten seconds, and more on a busy machine.
        wait_until("an S3 server is ready", LONG, || {
            for process in &mut self.processes {
                assert!(process.is_running(), "a server ended\n{}", process.log());
            }
            let put = || client.put_object().bucket(bucket).key("ready").body(b"x".to_vec().into());
            runtime.block_on(async {
                if self.only_bucket.is_none() {
                    let _ = client.create_bucket().bucket(bucket).send().await;
                }
                let put = tokio::time::timeout(Duration::from_secs(10), put().send()).await;
                matches!(put, Ok(Ok(_)))
            })
        });
        self
    }

    fn client(&self) -> Client {
        let keys = Credentials::new(&self.access_key, &self.secret_key, None, None, "test");
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(self.region))
            .endpoint_url(&self.endpoint)
            .force_path_style(true)
            .retry_config(RetryConfig::disabled())
            .credentials_provider(keys);
        Client::from_conf(config.build())
    }

    /// Kills all processes of the server.
    pub(crate) fn kill(&self) {
        self.processes.iter().for_each(Process::kill_tree);
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.endpoint.trim_start_matches("http://").parse().unwrap()
    }

    /// Creates a bucket of exactly this name.
    pub(crate) fn make_bucket(&self, bucket: &str) {
        let client = self.client();
        let created = block_on(client.create_bucket().bucket(bucket).send());
        created.unwrap_or_else(|e| panic!("create bucket {bucket}: {e:?}"));
    }

    /// A new bucket whose name begins with `name`, or the only bucket of a server that has just one.
    pub(crate) fn bucket(&self, name: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if let Some(only) = self.only_bucket {
            return only.to_owned();
        }
        let bucket = format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.make_bucket(&bucket);
        bucket
    }

    /// Removes the objects of a bucket (of one listing page, at most 1000).
    pub(crate) fn empty_bucket(&self, bucket: &str) {
        let client = self.client();
        block_on(async {
            let listed = client.list_objects_v2().bucket(bucket).send().await.unwrap();
            for object in listed.contents() {
                let key = object.key().unwrap();
                client.delete_object().bucket(bucket).key(key).send().await.unwrap();
            }
        });
    }

    /// Puts an object that is not bae's. Returns when the server answers with this version of it.
    pub(crate) fn put(&self, bucket: &str, key: &str, body: Vec<u8>) {
        let client = self.client();
        let put = block_on(client.put_object().bucket(bucket).key(key).body(body.into()).send());
        let put = put.unwrap_or_else(|e| panic!("put {key}: {e:?}"));
        wait_until("the object is the new one", LONG, || {
            let head = block_on(client.head_object().bucket(bucket).key(key).send());
            head.is_ok_and(|head| head.e_tag == put.e_tag)
        });
    }

    pub(crate) fn remove(&self, bucket: &str, key: &str) {
        let client = self.client();
        let removed = block_on(client.delete_object().bucket(bucket).key(key).send());
        removed.unwrap_or_else(|e| panic!("remove {key}: {e:?}"));
    }

    /// The keys and lengths of the objects in a bucket, sorted.
    pub(crate) fn objects(&self, bucket: &str) -> Vec<(String, u64)> {
        let client = self.client();
        block_on(async {
            let mut pages = client.list_objects_v2().bucket(bucket).into_paginator().send();
            let mut found = Vec::new();
            while let Some(page) = pages.next().await {
                for object in page.unwrap().contents() {
                    let len = u64::try_from(object.size().unwrap()).unwrap();
                    found.push((object.key().unwrap().to_owned(), len));
                }
            }
            found.sort();
            found
        })
    }

    /// A URL for `--storage`. The credentials are passed in the environment: [`S3Server::env`].
    pub(crate) fn storage_url(&self, bucket: &str, prefix: &str) -> String {
        self.storage_url_at(&self.endpoint, bucket, prefix)
    }

    /// The storage URL with the endpoint of a proxy.
    pub(crate) fn storage_url_at(&self, endpoint: &str, bucket: &str, prefix: &str) -> String {
        let mut url = Url::parse(&format!("s3://{bucket}/{prefix}")).unwrap();
        url.query_pairs_mut()
            .append_pair("endpoint", endpoint)
            .append_pair("path_style", "true")
            .append_pair("region", self.region);
        url.into()
    }

    /// The environment variables with the server's credentials.
    pub(crate) fn env(&self) -> Vec<(String, String)> {
        let pairs = [
            ("AWS_ACCESS_KEY_ID", self.access_key.as_str()),
            ("AWS_SECRET_ACCESS_KEY", self.secret_key.as_str()),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    pub(crate) fn settings(&self, bucket: &str, prefix: &str) -> S3Settings {
        S3Settings {
            bucket: bucket.to_owned(),
            prefix: Some(prefix.to_owned()),
            endpoint: Some(Url::parse(&self.endpoint).unwrap()),
            region: Some(self.region.to_owned()),
            path_style: None,
            access_key_id: Some(self.access_key.clone()),
            secret_access_key: Some(self.secret_key.clone()),
            public_url: None,
            anonymous: false,
            authorities: Vec::new(),
        }
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        while let Some(process) = self.processes.pop() {
            drop(process);
        }
    }
}

/// Runs `work` to its end on its own thread and runtime, so that async tests can call this too.
fn block_on<T: Send>(work: impl Future<Output = T> + Send) -> T {
    thread::scope(|scope| scope.spawn(|| runtime().block_on(work)).join().unwrap())
}

/// A runtime for a test that is not async.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A port on the same IP that was free a moment ago. No other server has this IP.
fn free_port(addr: SocketAddrV4) -> u16 {
    std::net::TcpListener::bind((*addr.ip(), 0)).unwrap().local_addr().unwrap().port()
}

/// A directory named after this process. Directories of processes that have ended are removed.
fn process_dir(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("servers");
    fs::create_dir_all(&root).unwrap();
    for entry in fs::read_dir(&root).unwrap().flatten() {
        let file_name = entry.file_name();
        let pid = file_name.to_str().and_then(|n| n.rsplit('-').next()?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let dir = root.join(format!("{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir(&dir).unwrap();
    dir
}
