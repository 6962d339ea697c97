//! What all requests share.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{access::Access, logs::LogLines};
use crate::{
    config::ApiOptions,
    engine::{Engine, StreamedImport, Streams},
    error::Result,
    queue::{DownloadId, Queue},
};

/// The state of the API. Clones share it.
#[derive(Debug, Clone)]
pub struct ApiState(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Queue,
    options: ApiOptions,
    access: Access,
    logs: LogLines,
    started: Instant,
    run_id: String,
    is_ready: AtomicBool,
    /// Imports that were read last, the latest first.
    opened: Mutex<VecDeque<Arc<StreamedImport>>>,
}

/// Imports that stay open for readers. Each holds the map of its bytes.
const MAX_OPENED: usize = 16;

impl ApiState {
    /// The state for a queue, with the settings of its engine's config, and the log of this process. Makes the tokens at the first start.
    ///
    /// # Errors
    /// When the token files cannot be read or made.
    pub fn new(queue: Queue, logs: LogLines) -> Result<Self> {
        let config = queue.engine().config();
        let options = config.api.clone();
        let access = Access::open(&config.data_dir, &options)?;
        let run_id = DownloadId::random()?.to_string();
        Ok(Self(Arc::new(Shared {
            queue,
            options,
            access,
            logs,
            started: Instant::now(),
            run_id,
            is_ready: AtomicBool::new(false),
            opened: Mutex::default(),
        })))
    }

    #[must_use]
    pub fn queue(&self) -> &Queue {
        &self.0.queue
    }

    #[must_use]
    pub fn engine(&self) -> &Engine {
        self.0.queue.engine()
    }

    /// `[api]` in the config.
    #[must_use]
    pub fn options(&self) -> &ApiOptions {
        &self.0.options
    }

    #[must_use]
    pub fn access(&self) -> &Access {
        &self.0.access
    }

    /// The last lines of the log.
    #[must_use]
    pub fn logs(&self) -> &LogLines {
        &self.0.logs
    }

    /// When the daemon started.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.0.started
    }

    /// A random text of this run of the daemon: counts of another run have another one.
    #[must_use]
    pub fn run_id(&self) -> &str {
        &self.0.run_id
    }

    /// Whether all listeners accept connections, and the catalog answers.
    pub async fn answers(&self) -> bool {
        self.is_ready() && self.engine().catalog().flush().await.is_ok()
    }

    /// Whether all listeners accept connections.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.is_ready.load(Ordering::Relaxed)
    }

    /// Sets what [`ApiState::is_ready`] says.
    pub fn set_ready(&self, is_ready: bool) {
        self.0.is_ready.store(is_ready, Ordering::Relaxed);
    }

    /// Cancelled when the engine closes.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.engine().stopping()
    }

    /// An import that is open for reading, by its id. While a download fills it, missing bytes are fetched first.
    ///
    /// # Errors
    /// `NotFound`; otherwise the error of opening its storage.
    pub async fn streamed(&self, import: &str) -> Result<Arc<StreamedImport>> {
        if let Some(running) = self.queue().streams().find(import) {
            return Ok(running);
        }
        let known = self.0.opened.lock().iter().find(|opened| opened.id() == import).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let opened = self.engine().stream(import, &Streams::default()).await?;
        let mut all = self.0.opened.lock();
        all.retain(|other| other.id() != opened.id());
        all.push_front(Arc::clone(&opened));
        all.truncate(MAX_OPENED);
        Ok(opened)
    }
}
