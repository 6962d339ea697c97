//! Calls that change the state of torrents.

use serde_json::{Map, Value, json};

use super::{
    Transmission,
    envelope::{flag, text},
};
use crate::{
    daemon::folders::Folders,
    error::{Error, Kind, Result},
    queue::{Change, DownloadId, Move, State},
};

impl Transmission {
    /// Lets torrents go on, or tries failed ones again. `now` ignores the limits of active downloads.
    pub(super) async fn start(&self, arguments: &Map<String, Value>, now: bool) -> Result<Value> {
        let chosen = self.chosen(arguments)?.downloads;
        let ids: Vec<DownloadId> = chosen.iter().map(|download| download.id.clone()).collect();
        let queue = self.state().queue();
        if now {
            let change = Change { forced: Some(true), ..Change::default() };
            queue.update(&ids, &change).await?;
        }
        let failed = chosen.iter().filter(|download| {
            matches!(download.state, State::Failed { .. } | State::Retrying { .. })
        });
        let failed: Vec<DownloadId> = failed.map(|download| download.id.clone()).collect();
        queue.retry(&failed).await?;
        queue.resume(&ids).await?;
        Ok(json!({}))
    }

    pub(super) async fn stop(&self, arguments: &Map<String, Value>) -> Result<Value> {
        self.state().queue().pause(&self.chosen_ids(arguments)?).await?;
        Ok(json!({}))
    }

    /// Looks for missing bytes again, and fetches them.
    pub(super) async fn verify(&self, arguments: &Map<String, Value>) -> Result<Value> {
        self.state().queue().retry(&self.chosen_ids(arguments)?).await?;
        Ok(json!({}))
    }

    /// Removes torrents from the queue; with `delete-local-data` also what is stored of them.
    pub(super) async fn remove(&self, arguments: &Map<String, Value>) -> Result<Value> {
        if !arguments.contains_key("ids") {
            let text = "the torrents to remove are not named";
            return Err(Error::new(Kind::InvalidInput, text));
        }
        let with_data = flag(arguments, "delete-local-data").unwrap_or(false);
        self.state().queue().remove(&self.chosen_ids(arguments)?, with_data).await?;
        Ok(json!({}))
    }

    pub(super) async fn move_to(&self, arguments: &Map<String, Value>, to: Move) -> Result<Value> {
        self.state().queue().move_to(&self.chosen_ids(arguments)?, to).await?;
        Ok(json!({}))
    }

    /// The bytes of a torrent stay in their storage. A category with the same storage can be chosen.
    pub(super) async fn set_location(&self, arguments: &Map<String, Value>) -> Result<Value> {
        let location = text(arguments, "location");
        let location = location.ok_or_else(|| Error::new(Kind::InvalidInput, "no location"))?;
        let folders = Folders::of(self.state());
        let target = folders.resolve(location)?;
        let chosen = self.chosen(arguments)?.downloads;
        let storage = folders.storage_of(&target);
        if chosen.iter().any(|download| download.settings.storage != storage) {
            let text = "the bytes of a torrent stay in its storage";
            return Err(Error::new(Kind::Unsupported, text));
        }
        if let Some(category) = target.category {
            let change = Change { category: Some(Some(category)), ..Change::default() };
            let ids: Vec<DownloadId> = chosen.iter().map(|download| download.id.clone()).collect();
            self.state().queue().update(&ids, &change).await?;
        }
        Ok(json!({}))
    }
}
