//! Which torrents a call is about.

use std::{sync::Arc, time::Instant};

use serde_json::{Map, Value};

use super::Transmission;
use crate::{
    error::{Error, Kind, Result},
    queue::{Download, DownloadId, Filter, Page},
};

/// Most ids in one call.
const MAX_IDS: usize = 100_000;
/// Before the id of a download that is no torrent, in the place of its hash.
const HASH_PREFIX: &str = "000000000000000000000000";

/// The torrents of a call, and those that were removed lately.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    pub(super) downloads: Vec<Arc<Download>>,
    pub(super) removed: Option<Vec<u64>>,
}

/// The hash of a download, or what stands for it.
pub(super) fn hash_of(download: &Download) -> String {
    download.hashes.text().unwrap_or_else(|| format!("{HASH_PREFIX}{}", download.id))
}

impl Transmission {
    /// The torrents of `ids`: numbers, hashes, `recently-active`, or all when it is missing. Unknown ones are left out.
    ///
    /// # Errors
    /// `InvalidInput` for any other value.
    pub(super) fn chosen(&self, arguments: &Map<String, Value>) -> Result<Chosen> {
        let queue = self.state().queue();
        let ids = match arguments.get("ids") {
            None => {
                let downloads = queue.list(&Filter::default(), Page::default()).downloads;
                return Ok(Chosen { downloads, removed: None });
            }
            Some(Value::String(text)) if matches!(text.as_str(), "recently-active") => {
                let revision = *queue.subscribe().borrow();
                let since = self.0.recent.since(Instant::now(), revision);
                let changed = queue.changes_since(since).changed;
                // Since revision 0, the queue lists everything and no removals. None comes before revision 2.
                let removed = queue.changes_since(since.max(1)).removed;
                let removed = removed.into_iter().map(|removal| removal.number).collect();
                return Ok(Chosen { downloads: changed, removed: Some(removed) });
            }
            Some(Value::Array(ids)) if ids.len() > MAX_IDS => {
                let text = format!("a call has at most {MAX_IDS} ids");
                return Err(Error::new(Kind::InvalidInput, text));
            }
            Some(Value::Array(ids)) => ids.as_slice(),
            Some(one) => std::slice::from_ref(one),
        };
        let mut downloads: Vec<Arc<Download>> = Vec::with_capacity(ids.len());
        let mut numbers = std::collections::HashSet::new();
        for id in ids {
            let found = match id {
                Value::Number(number) => number.as_u64().and_then(|n| queue.by_number(n)),
                Value::String(text) => self.by_hash(text),
                _ => return Err(Error::new(Kind::InvalidInput, "an id is a number or a hash")),
            };
            downloads.extend(found.filter(|download| numbers.insert(download.number)));
        }
        Ok(Chosen { downloads, removed: None })
    }

    fn by_hash(&self, text: &str) -> Option<Arc<Download>> {
        let queue = self.state().queue();
        if let Some(id) = text.strip_prefix(HASH_PREFIX) {
            let id: DownloadId = id.parse().ok()?;
            return queue.get(&id).ok().filter(|download| !download.hashes.is_torrent());
        }
        queue.by_hash(text).or_else(|| queue.by_number(text.parse().ok()?))
    }

    /// The ids of the torrents of a call that changes them.
    pub(super) fn chosen_ids(&self, arguments: &Map<String, Value>) -> Result<Vec<DownloadId>> {
        let chosen = self.chosen(arguments)?.downloads;
        Ok(chosen.iter().map(|download| download.id.clone()).collect())
    }
}
