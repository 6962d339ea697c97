//! Feeds: RSS and Atom lists on web servers whose items are added to the queue, by the rules of the config file.
//!
//! The path of an item: each feed has a task (`follow.rs`) that requests its document when it is due (`record.rs`), with
//! the validators of the version that was read before. The document is decoded (`text.rs`) and parsed (`parser/`); the
//! rules say which items are wanted (`judge.rs`). Those that were not added before become downloads, oldest first. The
//! download and the memory of its item are one transaction: a kill adds nothing twice and loses nothing. What then
//! happens to a link, retries included, is the queue's matter.
//!
//! An item is known by its guid, else by its link. Refused: documents above 8 MiB, links of schemes that could use the
//! logins of this machine, and private hosts unless the feed's section allows them. An item that cannot be added stops
//! no other one.

mod follow;
mod item;
mod judge;
mod parser;
mod preview;
mod record;
mod text;
mod view;

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use url::Url;

use self::record::{FeedRecord, fingerprint};
pub use self::{
    judge::SkipReason,
    preview::{ItemView, Preview},
    view::{FeedView, Refreshed},
};
use super::{download::DownloadId, values};
use crate::{
    catalog::{Catalog, FeedItemRow},
    config::{FeedOptions, check_feed_url},
    error::{Error, Kind, Result},
};

/// Most requests for feeds at once.
const MAX_REQUESTS: usize = 4;

/// All feeds of the config file.
#[derive(Debug)]
pub(super) struct Feeds {
    by_name: BTreeMap<String, Arc<Feed>>,
    slots: Semaphore,
}

/// A feed of the config file.
#[derive(Debug)]
struct Feed {
    name: String,
    options: FeedOptions,
    record: Mutex<FeedRecord>,
    /// Held during a request and the adding of its items.
    busy: tokio::sync::Mutex<()>,
}

impl Feeds {
    /// The feeds with what is remembered of them.
    pub(super) async fn read(
        catalog: &Catalog,
        options: &BTreeMap<String, FeedOptions>,
    ) -> Result<Self> {
        let mut by_name = BTreeMap::new();
        for (name, options) in options {
            let record = values::read(catalog, &record_name(name)).await?.unwrap_or_default();
            let feed = Feed {
                name: name.clone(),
                options: options.clone(),
                record: Mutex::new(record),
                busy: tokio::sync::Mutex::default(),
            };
            by_name.insert(name.clone(), Arc::new(feed));
        }
        Ok(Self { by_name, slots: Semaphore::new(MAX_REQUESTS) })
    }

    fn get(&self, name: &str) -> Result<Arc<Feed>> {
        self.by_name.get(name).cloned().ok_or_else(|| {
            Error::new(Kind::NotFound, format!("no feed {name:?}"))
                .hint("feeds are sections [feed.NAME] of the config file")
        })
    }
}

/// The name of the queue's value that is the record of a feed.
fn record_name(feed: &str) -> String {
    format!("feed.{feed}")
}

impl Feed {
    /// The URL. Its secret may be the answer of a program.
    async fn url(&self) -> Result<Url> {
        let secret = self.options.url.clone();
        let revealed = tokio::task::spawn_blocking(move || secret.reveal()).await;
        let text =
            revealed.map_err(|e| Error::new(Kind::Internal, "a feed's URL").because(e))??;
        check_feed_url(&text)
    }

    /// Compares the settings with those of the earlier run.
    fn take_settings(&self, url: &Url) {
        let mut record = self.record.lock();
        *record = std::mem::take(&mut *record).under(fingerprint(&self.options, url.as_str()));
    }
}

/// An item that a download is made from.
#[derive(Debug, Clone)]
pub(super) struct FeedItemKey {
    feed: String,
    item: String,
}

impl FeedItemKey {
    pub(super) fn row(self, download: &DownloadId, added_at: u64) -> FeedItemRow {
        let Self { feed, item } = self;
        FeedItemRow { feed, item, download: download.to_string(), added_at }
    }
}
