//! Reserved file ids. Repeating a create with the same id makes no second file.

use reqwest::Method;
use serde::Deserialize;

use super::{
    client::{Call, Client},
    limits::Cost,
};
use crate::error::{Error, Kind, Result};

/// Ids per request: enough for minutes of uploads.
const AT_ONCE: &str = "200";

/// Ids that are reserved and not used yet.
#[derive(Debug, Default)]
pub(super) struct IdPool(tokio::sync::Mutex<Vec<String>>);

#[derive(Deserialize)]
struct Ids {
    ids: Vec<String>,
}

impl IdPool {
    /// Returns an id that was never returned before. Reserves more when none are left.
    pub(super) async fn take(&self, client: &Client) -> Result<String> {
        let mut pool = self.0.lock().await;
        if pool.is_empty() {
            let query = [("count", AT_ONCE), ("space", "drive"), ("type", "files")];
            let url = client.url("drive/v3/files/generateIds", &query);
            let call = Call::new(Method::GET, url, "new ids", Cost::Other);
            pool.append(&mut client.json::<Ids>(&call, |request| request).await?.ids);
        }
        let none = || Error::new(Kind::Unavailable, "Google Drive gave no ids");
        pool.pop().ok_or_else(none)
    }
}
