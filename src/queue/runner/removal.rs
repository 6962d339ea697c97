//! Removal of a download that is out of the store already: its run ends, its data goes if requested, then its record.

use std::time::Duration;

use crate::{
    error::{Kind, Result},
    queue::{Queue, download::Download},
};

/// Delays between tries while the storage does not answer.
const DELAYS: [u64; 5] = [1, 10, 60, 300, 1800];

impl Queue {
    pub(in crate::queue) fn spawn_removal(&self, download: Download) {
        let queue = self.clone();
        self.spawn(async move {
            queue.stop_number(download.number);
            queue.wait_until_stopped(download.number).await;
            if let Some(import) = &download.import {
                queue.streams().remove(import);
            }
            let mut tries = 0;
            while let Err(e) = queue.remove_now(&download).await {
                tracing::warn!("download {}: not removed yet: {}", download.id, e.report());
                let delay = DELAYS[tries.min(DELAYS.len() - 1)];
                tries += 1;
                tokio::time::sleep(Duration::from_secs(delay)).await;
            }
        });
    }

    async fn remove_now(&self, download: &Download) -> Result<()> {
        if let (Some(true), Some(import)) = (download.removing, &download.import) {
            match self.0.engine.remove(import, false).await {
                Ok(_) => {}
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        self.catalog().remove_downloads(vec![download.number]).await
    }
}
