//! Ids for files that are not made yet. A create that is repeated with its id makes no second file.

use reqwest::Method;
use serde::Deserialize;

use super::{
    client::{Call, Client},
    limits::Cost,
};
use crate::error::{Error, Kind, Result};

/// Ids asked for at once: a request for minutes of uploads.
const AT_ONCE: &str = "200";

/// Ids that nobody has used yet.
#[derive(Debug, Default)]
pub(super) struct IdPool(tokio::sync::Mutex<Vec<String>>);

#[derive(Deserialize)]
struct Ids {
    ids: Vec<String>,
}

impl IdPool {
    /// One that was never given out.
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
