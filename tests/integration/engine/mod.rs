//! The engine as a library: handles of running imports, one session, the seeder, and the orderly stop.
//!
//! The peers are real clients and the servers real servers. Tests wait for states and for counted bytes, never for a
//! time.

mod close;
mod handles;
mod one_session;
mod seeder;

use std::{
    future::Future,
    net::{SocketAddr, SocketAddrV4},
    path::Path,
    sync::Mutex,
    time::Duration,
};

use bae::{
    config::{Config, Overrides, SessionOptions, TorrentOptions},
    engine::{Access, Engine, EngineOptions, ImportHandle, ImportRequest, ImportSummary},
    events::Progress,
};
use tempfile::TempDir;

use crate::support::{LONG, torrents::Fixture};

/// A data folder, a storage folder, and the peers of its torrents.
struct Home(TempDir, Mutex<Vec<SocketAddr>>);

impl Home {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("objects")).unwrap();
        Self(home, Mutex::default())
    }

    fn config(&self) -> Config {
        let home = self.0.path();
        let overrides = Overrides { data_dir: Some(home.join("data")), ..Overrides::default() };
        let env = [("HOME", home.to_str().unwrap())].into_iter().collect();
        Config::load(overrides, &env).unwrap()
    }

    fn storage(&self) -> String {
        format!("file://{}", self.0.path().join("objects").display())
    }

    /// An engine that listens on loopback and knows only these peers.
    async fn open(&self, peers: &[SocketAddrV4]) -> Engine {
        *self.1.lock().unwrap() = peers.iter().map(|peer| (*peer).into()).collect();
        let session = SessionOptions {
            listen: Some(vec!["127.0.0.1:0".to_owned()]),
            dht: false,
            lsd: false,
            pex: false,
            ..SessionOptions::default()
        };
        let options = EngineOptions::new(Access::Write).session(session);
        Engine::open(self.config(), options).await.unwrap()
    }

    fn request(&self, torrent: &Fixture) -> ImportRequest {
        self.request_of(torrent.torrent.to_str().unwrap())
    }

    fn request_of(&self, source: &str) -> ImportRequest {
        let peers = self.1.lock().unwrap().clone();
        let torrent = TorrentOptions { peers, ..TorrentOptions::default() };
        ImportRequest { torrent, ..ImportRequest::new(source, self.storage()) }
    }
}

/// Waits for `step`, and fails when a busy machine would have done it long ago.
async fn within<T>(what: &str, step: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, step).await.unwrap_or_else(|_| panic!("{what} takes too long"))
}

/// Waits until the progress of an import is like this.
async fn wait_for_progress(import: &ImportHandle, is_wanted: impl FnMut(&Progress) -> bool) {
    let mut progress = import.progress();
    drop(within("progress", progress.wait_for(is_wanted)).await.unwrap());
}

async fn only_import(engine: &Engine) -> ImportSummary {
    let mut imports = engine.list().await.unwrap();
    assert_eq!(imports.len(), 1, "{imports:?}");
    imports.remove(0)
}

/// Exports an import, and compares it with the data of the torrent.
async fn assert_exact(engine: &Engine, id: &str, torrent: &Fixture) {
    let dir = tempfile::tempdir().unwrap();
    let report = export(engine, id, dir.path()).await;
    assert_eq!(report, 0, "files that were not exported");
    torrent.assert_same(&dir.path().join(&torrent.name));
}

async fn export(engine: &Engine, id: &str, dir: &Path) -> usize {
    let (options, cancel) = Default::default();
    let progress = Box::new(|_, _| {});
    let done = engine.export(id, dir, options, progress, cancel);
    within("the export", done).await.unwrap().failed
}

/// Long enough that no step of a test reaches it.
const NEVER: Duration = Duration::from_secs(3600);
