//! A local folder that a server of some protocol serves.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bae::protocols::{
    FetchOptions, Protocol, Protocols, conformance,
    conformance::{ConformanceTarget, TargetAccess},
};
use bytes::Bytes;
use tempfile::TempDir;
use url::Url;

use super::{process::Process, s3_server::runtime};

/// The folder. Every user may read it: servers that are started by root change to another user.
#[derive(Debug)]
pub(crate) struct ServedFolder {
    root: TempDir,
}

impl ServedFolder {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let served = Self { root };
        make_readable(served.root.path());
        fs::create_dir(served.dir()).unwrap();
        make_readable(&served.dir());
        served
    }

    /// The folder that is served.
    pub(crate) fn dir(&self) -> PathBuf {
        self.root.path().join("pub")
    }

    /// The directory for the server's own files.
    pub(crate) fn server_dir(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn write(&self, path: &str, bytes: &[u8]) {
        let file = self.dir().join(path);
        let mut folder = self.dir();
        for part in Path::new(path).parent().unwrap().components() {
            folder.push(part);
            fs::create_dir_all(&folder).unwrap();
            make_readable(&folder);
        }
        let readable = || fs::set_permissions(&file, fs::Permissions::from_mode(0o644));
        // The file may exist with mode 000. An error because it does not exist is ignored.
        let _ = readable();
        fs::write(&file, bytes).unwrap();
        readable().unwrap();
        let file = fs::File::options().write(true).open(file).unwrap();
        file.set_modified(next_date()).unwrap();
    }
}

/// The modification time of the next written file. Servers report dates in whole seconds, some file systems keep every
/// second one, and tests write more often. So each write gets a date two seconds after the last.
pub(super) fn next_date() -> SystemTime {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    static FIRST: OnceLock<SystemTime> = OnceLock::new();
    let first = *FIRST.get_or_init(|| SystemTime::now() - Duration::from_secs(100_000));
    first + Duration::from_secs(2 * WRITTEN.fetch_add(1, Ordering::Relaxed))
}

fn make_readable(dir: &Path) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The name of the file that [`ConformanceFolder`] makes unreadable. Servers that run as root refuse it by this
/// name.
pub(crate) const FORBIDDEN: &str = "secret.bin";

/// The served folder as [`Ground`] of the protocols' conformance suite.
#[derive(Debug)]
pub(crate) struct ConformanceFolder<'a> {
    pub(crate) served: &'a ServedFolder,
    pub(crate) url: Url,
    pub(crate) folders: bool,
    /// The folder with credentials that the server rejects.
    pub(crate) rejected: Option<Client>,
    /// The folder for a user that may not read [`FORBIDDEN`].
    pub(crate) forbidden: Option<Client>,
    /// The server, if this is its last use: the suite kills it.
    pub(crate) process: Option<&'a Process>,
}

/// A client: a URL, which may contain a login, and its fetch options.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) url: String,
    pub(crate) options: FetchOptions,
}

impl Client {
    pub(crate) fn new(url: String, options: FetchOptions) -> Self {
        Self { url, options }
    }

    /// The visit of `path` below the URL.
    pub(crate) fn target(&self, path: &str) -> TargetAccess {
        let mut url: Url = self.url.parse().unwrap();
        url.set_path(&format!("{}{path}", url.path()));
        TargetAccess { protocol: protocol(&self.url, self.options.clone()), url }
    }
}

impl<'a> ConformanceFolder<'a> {
    /// For a server without access control.
    pub(crate) fn new(served: &'a ServedFolder, url: &str) -> Self {
        let url = url.parse().unwrap();
        Self { served, url, folders: true, rejected: None, forbidden: None, process: None }
    }

    /// Runs the conformance suite with these options.
    pub(crate) fn check(&self, options: FetchOptions) {
        let protocol = protocol(self.url.as_str(), options);
        runtime().block_on(conformance::check(&*protocol, self));
    }
}

#[async_trait]
impl ConformanceTarget for ConformanceFolder<'_> {
    async fn write(&self, path: &str, bytes: Bytes) {
        self.served.write(path, &bytes);
    }

    async fn remove(&self, path: &str) {
        fs::remove_file(self.served.dir().join(path)).unwrap();
    }

    fn url(&self) -> Url {
        self.url.clone()
    }

    fn has_folders(&self) -> bool {
        self.folders
    }

    fn with_wrong_login(&self) -> Option<TargetAccess> {
        self.rejected.as_ref().map(|client| client.target(""))
    }

    async fn forbidden_file(&self) -> Option<TargetAccess> {
        let client = self.forbidden.as_ref()?;
        self.served.write(FORBIDDEN, b"not for you");
        let file = self.served.dir().join(FORBIDDEN);
        fs::set_permissions(file, fs::Permissions::from_mode(0o000)).unwrap();
        Some(client.target(FORBIDDEN))
    }

    fn is_content_addressed(&self) -> bool {
        false
    }

    fn can_stop(&self) -> bool {
        self.process.is_some()
    }

    async fn stop(&self) {
        self.process.expect("it may be stopped").kill_tree();
    }
}

/// The protocol that handles `url`.
pub(crate) fn protocol(url: &str, options: FetchOptions) -> std::sync::Arc<dyn Protocol> {
    Protocols::new(options).for_url(&url.parse().unwrap(), None).unwrap()
}
