//! What a document means for the queue: which of its items would be added, and why others are not.

use std::{collections::HashSet, sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::Serialize;
use url::Url;

use super::{
    Feed, FeedItemKey, SkipReason,
    item::{Item, shown_link},
    judge::judge,
    parser,
    text::decode,
};
use crate::{
    config::{FeedRules, check_feed_url},
    error::{Error, Kind, Result},
    protocols::{
        Document, DocumentAnswer, DocumentRequest, DocumentVersion, FetchOptions, OutgoingOptions,
        fetch_document,
    },
    queue::{NewDownload, Queue, Settings, add},
};

/// Largest document, in bytes.
const MAX_DOCUMENT: usize = 8 << 20;
/// Time for a document. A request of a client waits for it.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(45);
const ACCEPT: &str = "application/rss+xml, application/atom+xml, application/rdf+xml;q=0.9, \
                      application/xml;q=0.8, text/xml;q=0.8, */*;q=0.1";

/// A dry run of a feed.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Preview {
    pub title: String,
    /// In the order of the document.
    pub items: Vec<ItemView>,
    /// What is wrong with the document behind the last item.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
    /// Whether the document has more items than are read.
    pub is_cut: bool,
}

/// An item of a feed.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct ItemView {
    pub title: String,
    /// The link that would be added, without what may be secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date: Option<u64>,
    /// Bytes, if the feed tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Whether it would be added.
    pub add: bool,
    /// Why not.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub reason: Option<SkipReason>,
}

/// Which items are wanted, and where they go.
#[derive(Debug, Clone)]
pub(super) struct Selection {
    /// The feed whose items are remembered; `None` remembers nothing.
    feed: Option<String>,
    rules: FeedRules,
    category: Option<String>,
    paused: bool,
    private_hosts: bool,
}

impl Selection {
    pub(super) fn of(feed: &Feed) -> Self {
        let options = &feed.options;
        Self {
            feed: Some(feed.name.clone()),
            rules: options.rules.clone(),
            category: options.category.clone(),
            paused: options.paused,
            private_hosts: options.private_hosts,
        }
    }

    fn download(&self, item: &Item, source: String) -> NewDownload {
        NewDownload {
            name: Some(item.title.clone()).filter(|title| !title.is_empty()),
            paused: self.paused,
            settings: Settings {
                category: self.category.clone(),
                only_public: !self.private_hosts,
                ..Settings::default()
            },
            ..NewDownload::link(source)
        }
    }
}

/// A document whose items are judged.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) title: String,
    pub(super) items: Vec<JudgedItem>,
    pub(super) ttl_minutes: Option<u64>,
    pub(super) damage: Option<String>,
    is_cut: bool,
}

#[derive(Debug)]
pub(super) struct JudgedItem {
    item: Item,
    pub(super) verdict: Result<(FeedItemKey, NewDownload), SkipReason>,
}

impl Queue {
    /// Reads a feed of the config file, and says which items would be added. Adds and remembers nothing.
    ///
    /// # Errors
    /// `NotFound`; `RateLimited` while the server wants to be left alone; otherwise the error of the request.
    pub async fn preview_feed(&self, name: &str) -> Result<Preview> {
        let feed = self.0.feeds.get(name)?;
        let _busy = feed.busy.lock().await;
        feed.record.lock().check_not_before(self.now())?;
        let url = feed.url().await?;
        self.preview(&url, Selection::of(&feed)).await
    }

    /// As [`Queue::preview_feed`], for any URL, which the user of this machine names.
    ///
    /// # Errors
    /// `InvalidInput` for another scheme than http or https; otherwise the error of the request.
    pub async fn preview_feed_url(&self, url: &str, rules: FeedRules) -> Result<Preview> {
        let url = check_feed_url(url)?;
        let (feed, category) = (None, None);
        let selection = Selection { feed, rules, category, paused: false, private_hosts: true };
        self.preview(&url, selection).await
    }

    async fn preview(&self, url: &Url, selection: Selection) -> Result<Preview> {
        match self.fetch_feed(url, selection.private_hosts, None).await? {
            DocumentAnswer::Document(document) => {
                Ok(self.judge_document(document, selection).await?.preview())
            }
            DocumentAnswer::Unchanged => {
                let text = "the server of the feed sent no document";
                Err(Error::new(Kind::Unsupported, text))
            }
        }
    }

    /// Requests the document of a feed.
    pub(super) async fn fetch_feed(
        &self,
        url: &Url,
        private_hosts: bool,
        known: Option<&DocumentVersion>,
    ) -> Result<DocumentAnswer> {
        let closed = |_| Error::new(Kind::Cancelled, "the queue is closing");
        let _slot = self.0.feeds.slots.acquire().await.map_err(closed)?;
        let config = self.0.engine.config();
        let session = &config.network.session;
        let options = Arc::new(FetchOptions {
            user_agent: session.user_agent.clone(),
            proxy: session.proxy.clone(),
            connect_timeout: config.timeout,
            idle_timeout: config.timeout,
            outgoing: OutgoingOptions {
                interface: session.first_interface().map(str::to_owned),
                only_public: !private_hosts,
            },
            ..FetchOptions::default()
        });
        let request = DocumentRequest {
            url,
            accept: ACCEPT,
            known,
            max_len: MAX_DOCUMENT,
            timeout: DOCUMENT_TIMEOUT,
        };
        fetch_document(&options, request).await.map_err(|e| without_path(url, &e))
    }

    /// Parses a document and applies the rules, and finds out what was added before.
    pub(super) async fn judge_document(
        &self,
        document: Document,
        selection: Selection,
    ) -> Result<Judged> {
        let feed = selection.feed.clone();
        // A document of 8 MiB and hundreds of patterns take a while.
        let work = move || judged(&document, &selection);
        let judged = tokio::task::spawn_blocking(work).await;
        let mut judged = judged
            .map_err(|e| Error::new(Kind::Internal, "reading a feed panicked").because(e))??;
        let Some(feed) = feed else { return Ok(judged) };
        let wanted = judged.items.iter().filter_map(|item| item.verdict.as_ref().ok());
        let keys = wanted.map(|(key, _)| key.item.clone()).collect();
        let added = self.catalog().added_feed_items(&feed, keys).await?;
        for item in &mut judged.items {
            let known = item.verdict.as_ref().ok().and_then(|(key, _)| added.get(&key.item));
            if let Some(download) = known {
                item.verdict = Err(SkipReason::Added { download: download.clone() });
            }
        }
        Ok(judged)
    }
}

fn judged(document: &Document, selection: &Selection) -> Result<Judged> {
    let Document { url, bytes, content_type, .. } = document;
    let text = decode(bytes, content_type.as_deref());
    let parsed = parser::parse(&text, url).map_err(|e| without_path(url, &e))?;
    let mut seen = HashSet::new();
    let items = parsed.items.into_iter().map(|item| {
        let verdict = verdict(&item, selection, &mut seen);
        JudgedItem { item, verdict }
    });
    Ok(Judged {
        title: parsed.title,
        items: items.collect(),
        ttl_minutes: parsed.ttl_minutes,
        damage: parsed.damage,
        is_cut: parsed.is_cut,
    })
}

/// Whether an item would be added if it were new. `seen` has the keys of the items before it.
fn verdict(
    item: &Item,
    selection: &Selection,
    seen: &mut HashSet<String>,
) -> Result<(FeedItemKey, NewDownload), SkipReason> {
    let source = judge(item, &selection.rules)?;
    let key = item.key().ok_or(SkipReason::NoLink)?;
    if !seen.insert(key.clone()) {
        return Err(SkipReason::Duplicate);
    }
    let new = selection.download(item, source);
    let usable = add::check(&new).and_then(|()| add::identify(&new));
    usable.map_err(|e| SkipReason::Unusable { error: e.report() })?;
    let feed = selection.feed.clone().unwrap_or_default();
    Ok((FeedItemKey { feed, item: key }, new))
}

impl Judged {
    fn preview(self) -> Preview {
        let view = |JudgedItem { item, verdict }| ItemView {
            link: item.source().map(|source| shown_link(&source)),
            size: item.size(),
            date: item.date,
            title: item.title,
            add: verdict.is_ok(),
            reason: verdict.err(),
        };
        let Self { title, items, damage, is_cut, .. } = self;
        Preview { title, items: items.into_iter().map(view).collect(), damage, is_cut }
    }
}

/// An error of a feed's server without the path of the URL, which may be a passkey.
fn without_path(url: &Url, error: &Error) -> Error {
    let host = url.host_str().unwrap_or("the server");
    let text = match url.path() {
        "" | "/" => error.report(),
        path => error.report().replace(path, "/…"),
    };
    let hidden = Error::new(error.kind(), format!("feed at {host}: {text}")).hint_of(error);
    match error.requested_wait() {
        Some(wait) => hidden.retry_after(wait),
        None => hidden,
    }
}
