//! Reserved file ids. Repeating a create with the same id makes no second file.

use reqwest::Method;
use serde::Deserialize;

use super::{
    client::{DriveCall, DriveClient},
    limits::QuotaCost,
};
use crate::error::{Error, Kind, Result};

/// Ids per request: enough for minutes of uploads.
const IDS_PER_REQUEST: &str = "200";

/// Ids that are reserved and not used yet.
#[derive(Debug, Default)]
pub(super) struct IdPool(tokio::sync::Mutex<Vec<String>>);

#[derive(Deserialize)]
struct GeneratedIds {
    ids: Vec<String>,
}

impl IdPool {
    /// Returns an id that was never returned before. Reserves more when none are left.
    pub(super) async fn take(&self, client: &DriveClient) -> Result<String> {
        let mut pool = self.0.lock().await;
        if pool.is_empty() {
            let query = [("count", IDS_PER_REQUEST), ("space", "drive"), ("type", "files")];
            let url = client.url("drive/v3/files/generateIds", &query);
            let call = DriveCall::new(Method::GET, url, "new ids", QuotaCost::Other);
            pool.append(&mut client.json::<GeneratedIds>(&call, |request| request).await?.ids);
        }
        let no_ids = || Error::new(Kind::Unavailable, "Google Drive returned no file ids");
        pool.pop().ok_or_else(no_ids)
    }
}
