//! The task of each feed: waits until it is due, requests it, adds its new items.

use std::{sync::Arc, time::Duration};

use super::{
    Feed, Refreshed,
    preview::{Judged, Selection},
    record_name,
};
use crate::{
    error::{Error, Result},
    events::{Event, FeedChecked},
    protocols::{DocumentAnswer, DocumentVersion},
    queue::Queue,
};

/// The longest time between two looks at the clock, which may jump.
const LONGEST_WAIT: u64 = 60;

/// What a request brought.
#[derive(Debug, Default)]
struct Found {
    unchanged: bool,
    title: String,
    items: usize,
    ttl_minutes: Option<u64>,
    version: DocumentVersion,
    /// Ids of downloads.
    added: Vec<String>,
    /// The first item that could not be added, though its link is usable.
    failure: Option<Error>,
}

impl Queue {
    /// The names of all feeds.
    pub(in crate::queue) fn feed_names(&self) -> Vec<String> {
        self.0.feeds.by_name.keys().cloned().collect()
    }

    /// Requests a feed whenever it is due.
    pub(in crate::queue) async fn follow_feed(&self, name: &str) {
        let Ok(feed) = self.0.feeds.get(name) else { return };
        if let Ok(url) = feed.url().await {
            feed.take_settings(&url);
        }
        loop {
            let wait = feed.record.lock().next_at.saturating_sub(self.now());
            if wait > 0 {
                tokio::time::sleep(Duration::from_secs(wait.min(LONGEST_WAIT))).await;
                continue;
            }
            let _busy = feed.busy.lock().await;
            // A client may have requested it in the meantime.
            if feed.record.lock().next_at > self.now() {
                continue;
            }
            if let Err(e) = self.check_feed(&feed).await {
                match feed.record.lock().failures {
                    0 | 1 => tracing::warn!("feed {name:?}: {}", e.report()),
                    _ => tracing::info!("feed {name:?}: {}", e.report()),
                }
            }
        }
    }

    /// Requests a feed now, and adds its new items.
    ///
    /// # Errors
    /// `NotFound`; `RateLimited` while the server wants to be left alone; otherwise the error of the request.
    pub async fn refresh_feed(&self, name: &str) -> Result<Refreshed> {
        let feed = self.0.feeds.get(name)?;
        let _busy = feed.busy.lock().await;
        feed.record.lock().check_not_before(self.now())?;
        self.check_feed(&feed).await
    }

    /// Requests a feed, adds its new items, and records what came of it. Called with `busy` held.
    async fn check_feed(&self, feed: &Arc<Feed>) -> Result<Refreshed> {
        let outcome = self.request_feed(feed).await;
        let now = self.now();
        let record = {
            let mut record = feed.record.lock();
            match &outcome {
                Ok(found) => {
                    record.answered(&feed.options, found.ttl_minutes, now);
                    if !found.unchanged {
                        record.title.clone_from(&found.title);
                        record.items = found.items;
                        record.version = found.version.clone();
                    }
                    record.added += found.added.len() as u64;
                    record.error = found.failure.as_ref().map(Into::into);
                }
                Err(error) => record.failed(&feed.options, error, now),
            }
            record.clone()
        };
        self.report_feed(feed, &outcome, record.items);
        self.write_value(&record_name(&feed.name), &record).await?;
        let Found { unchanged, added, .. } = outcome?;
        Ok(Refreshed { feed: feed.view(), unchanged, added })
    }

    async fn request_feed(&self, feed: &Feed) -> Result<Found> {
        let url = feed.url().await?;
        feed.take_settings(&url);
        let version = feed.record.lock().version.clone();
        let known = Some(&version).filter(|version| **version != DocumentVersion::default());
        let answer = self.fetch_feed(&url, feed.options.private_hosts, known).await?;
        let DocumentAnswer::Document(document) = answer else {
            return Ok(Found { unchanged: true, ..Found::default() });
        };
        let version = document.version.clone();
        let judged = self.judge_document(document, Selection::of(feed)).await?;
        let found = Found {
            title: judged.title.clone(),
            items: judged.items.len(),
            ttl_minutes: judged.ttl_minutes,
            ..Found::default()
        };
        let is_whole = judged.damage.is_none();
        if let Some(damage) = &judged.damage {
            tracing::info!("feed {:?}: the document is damaged: {damage}", feed.name);
        }
        let (added, failure) = self.add_items(judged).await;
        if !added.is_empty() {
            self.catalog().trim_feed_items(&feed.name).await?;
        }
        // The rest of a damaged document, and items that were not added, are read again.
        let is_complete = is_whole && failure.is_none();
        let version = if is_complete { version } else { DocumentVersion::default() };
        Ok(Found { version, added, failure, ..found })
    }

    /// Adds the wanted items, the last of the document first: feeds list the newest first.
    async fn add_items(&self, judged: Judged) -> (Vec<String>, Option<Error>) {
        let (mut added, mut failure) = (Vec::new(), None);
        for item in judged.items.into_iter().rev() {
            let Ok((key, new)) = item.verdict else { continue };
            match self.add_from(new, Some(key)).await {
                Ok(download) if download.is_new => added.push(download.download.id.to_string()),
                Ok(_) => {}
                Err(error) => drop(failure.get_or_insert(error)),
            }
        }
        (added, failure)
    }

    fn report_feed(&self, feed: &Feed, outcome: &Result<Found>, items: usize) {
        let error = match outcome {
            Ok(found) => found.failure.as_ref(),
            Err(error) => Some(error),
        };
        let found = outcome.as_ref().ok();
        self.0.engine.events().send(Event::Feed(FeedChecked {
            feed: feed.name.clone(),
            unchanged: found.is_some_and(|found| found.unchanged),
            items,
            added: found.map_or(0, |found| found.added.len()),
            error: error.map(Error::report),
        }));
    }
}
