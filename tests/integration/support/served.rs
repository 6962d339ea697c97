//! A folder of this machine that a server of some protocol serves.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bae::protocols::{FetchOptions, Protocol, Protocols, conformance::Ground};
use bytes::Bytes;
use tempfile::TempDir;
use url::Url;

/// The folder. Everybody may read it: servers that are started by root do not stay root.
#[derive(Debug)]
pub(crate) struct Served {
    root: TempDir,
}

impl Served {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let served = Self { root };
        open_up(served.root.path());
        fs::create_dir(served.dir()).unwrap();
        open_up(&served.dir());
        served
    }

    /// What is served.
    pub(crate) fn dir(&self) -> PathBuf {
        self.root.path().join("pub")
    }

    /// Where the server has its own files.
    pub(crate) fn own(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn write(&self, path: &str, bytes: &[u8]) {
        // Servers tell dates to the second, and tests write faster than that.
        static WRITTEN: AtomicU64 = AtomicU64::new(0);
        let file = self.dir().join(path);
        let mut folder = self.dir();
        for part in Path::new(path).parent().unwrap().components() {
            folder.push(part);
            fs::create_dir_all(&folder).unwrap();
            open_up(&folder);
        }
        fs::write(&file, bytes).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let ago = Duration::from_secs(100_000 - WRITTEN.fetch_add(1, Ordering::Relaxed));
        let file = fs::File::options().write(true).open(file).unwrap();
        file.set_modified(SystemTime::now() - ago).unwrap();
    }
}

fn open_up(dir: &Path) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The served folder, as the suite of the protocols writes into it.
#[derive(Debug)]
pub(crate) struct Written<'a> {
    pub(crate) served: &'a Served,
    pub(crate) url: Url,
}

#[async_trait]
impl Ground for Written<'_> {
    async fn write(&self, path: &str, bytes: Bytes) {
        self.served.write(path, &bytes);
    }

    async fn remove(&self, path: &str) {
        fs::remove_file(self.served.dir().join(path)).unwrap();
    }

    fn url(&self) -> Url {
        self.url.clone()
    }
}

/// What speaks for `url`.
pub(crate) fn protocol(url: &str, options: FetchOptions) -> std::sync::Arc<dyn Protocol> {
    Protocols::new(options).of(&url.parse().unwrap(), None).unwrap()
}
