//! What all requests share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use super::access::Access;
use crate::{config::ApiOptions, engine::Engine, error::Result, queue::Queue};

/// The state of the API. Clones share it.
#[derive(Debug, Clone)]
pub struct ApiState(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Queue,
    options: ApiOptions,
    access: Access,
    started: Instant,
    is_ready: AtomicBool,
}

impl ApiState {
    /// The state for a queue, with the settings of its engine's config. Makes the tokens at the first start.
    ///
    /// # Errors
    /// When the token files cannot be read or made.
    pub fn new(queue: Queue) -> Result<Self> {
        let config = queue.engine().config();
        let options = config.api.clone();
        let access = Access::open(&config.data_dir, &options)?;
        Ok(Self(Arc::new(Shared {
            queue,
            options,
            access,
            started: Instant::now(),
            is_ready: AtomicBool::new(false),
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

    /// When the daemon started.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.0.started
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
}
