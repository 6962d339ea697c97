//! Feeds as APIs show them, without their URLs, which may contain passkeys.

use schemars::JsonSchema;
use serde::Serialize;

use super::Feed;
use crate::queue::{Queue, state::Failure};

/// A feed of the config file. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct FeedView {
    pub name: String,
    /// The title that the feed gives itself; empty until it was read.
    pub title: String,
    pub category: Option<String>,
    /// Whether its downloads wait for a request to start.
    pub paused: bool,
    pub interval_seconds: u64,
    /// The last request.
    pub fetched_at: Option<u64>,
    /// The last request that was answered.
    pub answered_at: Option<u64>,
    pub next_at: u64,
    /// Items in the last document.
    pub items: usize,
    /// Items that were added to the queue, over all time.
    pub added: u64,
    /// Failures since the last answer.
    pub failures: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// The outcome of a request for a feed.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Refreshed {
    pub feed: FeedView,
    /// Whether the server sent nothing new.
    pub unchanged: bool,
    /// Ids of the downloads that were added.
    pub added: Vec<String>,
}

impl Feed {
    pub(super) fn view(&self) -> FeedView {
        let record = self.record.lock();
        FeedView {
            name: self.name.clone(),
            title: record.title.clone(),
            category: self.options.category.clone(),
            paused: self.options.paused,
            interval_seconds: self.options.interval.as_secs(),
            fetched_at: record.fetched_at,
            answered_at: record.answered_at,
            next_at: record.next_at,
            items: record.items,
            added: record.added,
            failures: record.failures,
            error: record.error.clone(),
        }
    }
}

impl Queue {
    /// The feeds of the config file, by name.
    #[must_use]
    pub fn feeds(&self) -> Vec<FeedView> {
        self.0.feeds.by_name.values().map(|feed| feed.view()).collect()
    }

    /// # Errors
    /// `NotFound`.
    pub fn feed(&self, name: &str) -> crate::error::Result<FeedView> {
        Ok(self.0.feeds.get(name)?.view())
    }
}
