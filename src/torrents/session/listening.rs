//! Waiting for the first listen address of a session.

use std::time::Duration;

use super::TorrentSession;

/// Timeout for the first listen address, which is shown to the user.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(2);

impl TorrentSession {
    /// As [`TorrentSession::listen_addresses`], after waiting for the first one. The system assigns the port shortly
    /// after the start of the session.
    pub async fn wait_listening(&self) -> Vec<String> {
        let first = async {
            loop {
                let mut changed = std::pin::pin!(self.listening.notified());
                // Registered before the check, so that no address is missed.
                changed.as_mut().enable();
                if !self.listen_addresses.lock().is_empty() {
                    return;
                }
                changed.await;
            }
        };
        // A session that cannot listen still downloads.
        let _ = tokio::time::timeout(LISTEN_TIMEOUT, first).await;
        self.listen_addresses()
    }
}
