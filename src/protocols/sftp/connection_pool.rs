//! The connections to one server, shared by all transfers from it.
//!
//! The first connection is opened for the first request. A stream that would have to share a connection gets a new one,
//! up to [`MAX_CONNECTIONS`]. Over long round trips the system's send buffer limits each connection (4 MiB at most on
//! Linux, which gives 50 MiB/s at 50 ms), so several connections are several times as fast. If the server refuses a
//! further connection, the existing ones are used.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;

use super::{address::SftpAddress, connection::SftpConnection};
use crate::{error::Result, protocols::FetchOptions};

/// Maximum number of connections, equal to the default number of streams per file.
const MAX_CONNECTIONS: usize = 4;

#[derive(Debug)]
pub(super) struct ConnectionPool {
    address: SftpAddress,
    options: Arc<FetchOptions>,
    connections: Mutex<Connections>,
    /// Held while the first connection is opened; other callers wait for it.
    first_connection: tokio::sync::Mutex<()>,
    /// Number of open streams, over all connections.
    streams: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Connections {
    open: Vec<Arc<SftpConnection>>,
    opening: usize,
    /// Maximum number of connections. It falls when the server refuses one.
    max: usize,
}

/// A connection that is used by one stream.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) connection: Arc<SftpConnection>,
    pool_streams: Arc<AtomicUsize>,
}

impl Lease {
    /// The number of streams of this server, including this one.
    pub(super) fn streams(&self) -> usize {
        self.pool_streams.load(Ordering::Acquire).max(1)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.connection.streams.fetch_sub(1, Ordering::AcqRel);
        self.pool_streams.fetch_sub(1, Ordering::AcqRel);
    }
}

impl ConnectionPool {
    pub(super) fn new(address: SftpAddress, options: Arc<FetchOptions>) -> Self {
        let connections = Connections { open: Vec::new(), opening: 0, max: MAX_CONNECTIONS };
        let (connections, first_connection) =
            (Mutex::new(connections), tokio::sync::Mutex::default());
        Self { address, options, connections, first_connection, streams: Arc::default() }
    }

    fn lease_on(&self, connection: Arc<SftpConnection>) -> Lease {
        connection.streams.fetch_add(1, Ordering::AcqRel);
        self.streams.fetch_add(1, Ordering::AcqRel);
        Lease { connection, pool_streams: Arc::clone(&self.streams) }
    }

    /// A connection for a single request.
    pub(super) async fn connection(&self) -> Result<Arc<SftpConnection>> {
        if let Some(connection) = self.connections.lock().least_used() {
            return Ok(connection);
        }
        let _guard = self.first_connection.lock().await;
        if let Some(connection) = self.connections.lock().least_used() {
            return Ok(connection);
        }
        let opened = Arc::new(SftpConnection::open(&self.address, &self.options).await?);
        self.connections.lock().open.push(Arc::clone(&opened));
        Ok(opened)
    }

    /// A connection for a stream: an unused one, else a new one, else the least used one.
    pub(super) async fn lease(&self) -> Result<Lease> {
        let least_used = self.connection().await?;
        // The stream is counted under the lock of the choice, so that the next caller sees it.
        let slot = {
            let mut connections = self.connections.lock();
            if least_used.streams.load(Ordering::Acquire) == 0 || !connections.reserve() {
                return Ok(self.lease_on(least_used));
            }
            OpeningSlot { pool: self }
        };
        let opened = SftpConnection::open(&self.address, &self.options).await.map(Arc::new);
        drop(slot);
        let mut connections = self.connections.lock();
        match opened {
            Ok(connection) => {
                connections.open.push(Arc::clone(&connection));
                Ok(self.lease_on(connection))
            }
            Err(e) => {
                tracing::debug!("no further connection to {}: {}", self.address, e.report());
                connections.max = connections.open.len().max(1);
                Ok(self.lease_on(least_used))
            }
        }
    }
}

/// Counts a connection that is being opened. Dropped when that succeeds, fails or is cancelled.
struct OpeningSlot<'a> {
    pool: &'a ConnectionPool,
}

impl Drop for OpeningSlot<'_> {
    fn drop(&mut self) {
        self.pool.connections.lock().opening -= 1;
    }
}

impl Connections {
    fn least_used(&mut self) -> Option<Arc<SftpConnection>> {
        self.open.retain(|connection| connection.is_usable());
        let stream_count =
            |connection: &&Arc<SftpConnection>| connection.streams.load(Ordering::Acquire);
        self.open.iter().min_by_key(stream_count).cloned()
    }

    /// Whether one more connection may be opened. If so, it is counted.
    fn reserve(&mut self) -> bool {
        let is_allowed = self.open.len() + self.opening < self.max;
        self.opening += usize::from(is_allowed);
        is_allowed
    }
}
