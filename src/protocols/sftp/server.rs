//! The connections to one server, shared by all transfers from it.
//!
//! The first connection is opened for the first request. A stream that would have to share a connection gets a new one,
//! up to [`CONNECTIONS`]. Over long round trips the system's send buffer limits each connection (4 MiB at most on
//! Linux, which gives 50 MiB/s at 50 ms), so several connections are several times as fast. If the server refuses a
//! further connection, the existing ones are used.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;

use super::{address::Address, connection::Connection};
use crate::{error::Result, protocols::FetchOptions};

/// Maximum number of connections, equal to the default number of streams per file.
const CONNECTIONS: usize = 4;

#[derive(Debug)]
pub(super) struct Server {
    address: Address,
    options: Arc<FetchOptions>,
    connections: Mutex<Connections>,
    /// Held while the first connection is opened; other callers wait for it.
    first: tokio::sync::Mutex<()>,
    /// Number of open streams, over all connections.
    streams: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Connections {
    made: Vec<Arc<Connection>>,
    being_made: usize,
    /// Maximum number of connections. It falls when the server refuses one.
    most: usize,
}

/// A connection that is used by one stream.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) connection: Arc<Connection>,
    all: Arc<AtomicUsize>,
}

impl Lease {
    /// The number of streams of this server, including this one.
    pub(super) fn streams(&self) -> usize {
        self.all.load(Ordering::Acquire).max(1)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.connection.streams.fetch_sub(1, Ordering::AcqRel);
        self.all.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Server {
    pub(super) fn new(address: Address, options: Arc<FetchOptions>) -> Self {
        let connections = Connections { made: Vec::new(), being_made: 0, most: CONNECTIONS };
        let (connections, first) = (Mutex::new(connections), tokio::sync::Mutex::default());
        Self { address, options, connections, first, streams: Arc::default() }
    }

    fn leased(&self, connection: Arc<Connection>) -> Lease {
        connection.streams.fetch_add(1, Ordering::AcqRel);
        self.streams.fetch_add(1, Ordering::AcqRel);
        Lease { connection, all: Arc::clone(&self.streams) }
    }

    /// A connection for a single request.
    pub(super) async fn connection(&self) -> Result<Arc<Connection>> {
        if let Some(connection) = self.connections.lock().least_used() {
            return Ok(connection);
        }
        let _only = self.first.lock().await;
        if let Some(connection) = self.connections.lock().least_used() {
            return Ok(connection);
        }
        let made = Arc::new(Connection::open(&self.address, &self.options).await?);
        self.connections.lock().made.push(Arc::clone(&made));
        Ok(made)
    }

    /// A connection for a stream: an unused one, else a new one, else the least used one.
    pub(super) async fn lease(&self) -> Result<Lease> {
        let least_used = self.connection().await?;
        // The stream is counted under the lock of the choice, so that the next caller sees it.
        let reserved = {
            let mut connections = self.connections.lock();
            if least_used.streams.load(Ordering::Acquire) == 0 || !connections.reserve() {
                return Ok(self.leased(least_used));
            }
            Reserved { server: self }
        };
        let made = Connection::open(&self.address, &self.options).await.map(Arc::new);
        drop(reserved);
        let mut connections = self.connections.lock();
        match made {
            Ok(made) => {
                connections.made.push(Arc::clone(&made));
                Ok(self.leased(made))
            }
            Err(e) => {
                tracing::debug!("no further connection to {}: {}", self.address, e.report());
                connections.most = connections.made.len().max(1);
                Ok(self.leased(least_used))
            }
        }
    }
}

/// Counts a connection that is being opened. Dropped when that succeeds, fails or is cancelled.
struct Reserved<'a> {
    server: &'a Server,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.server.connections.lock().being_made -= 1;
    }
}

impl Connections {
    fn least_used(&mut self) -> Option<Arc<Connection>> {
        self.made.retain(|connection| connection.is_of_use());
        let used = |connection: &&Arc<Connection>| connection.streams.load(Ordering::Acquire);
        self.made.iter().min_by_key(used).cloned()
    }

    /// Whether one more connection may be opened. If so, it is counted.
    fn reserve(&mut self) -> bool {
        let may = self.made.len() + self.being_made < self.most;
        self.being_made += usize::from(may);
        may
    }
}
