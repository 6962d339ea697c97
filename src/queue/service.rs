//! [`Queue`]: opening it, adding to it, and reading from it.

use std::{collections::HashMap, fmt, sync::Arc};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};

use super::{
    add::{self, NewDownload},
    categories::{Categories, check_storage_name, unknown},
    clock::{Clock, SystemClock},
    download::{Download, DownloadId, InfoHashes, Progress},
    feeds::{FeedItemKey, Feeds},
    filter::{Filter, Listed, Page},
    hooks::HookRunner,
    runner::Runs,
    state::{Seeding, State},
    store::{Changes, Store},
    totals::Totals,
    values::Values,
};
use crate::{
    catalog::{Catalog, LayoutKind, NewDownloadRow},
    config::{Category, QueueOptions},
    engine::{Engine, SourceIdentity, Streams},
    error::{Error, Kind, Result},
    events::{DownloadChanged, Event},
};

/// Idempotency keys are kept for a day.
const KEY_LIFETIME: u64 = 24 * 3600;

/// The queue of an engine. Clones share it.
#[derive(Clone)]
pub struct Queue(pub(super) Arc<Inner>);

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("downloads", &self.0.store.read().len()).finish()
    }
}

pub(super) struct Inner {
    pub(super) engine: Engine,
    pub(super) options: QueueOptions,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) store: RwLock<Store>,
    /// Held while a change is committed: changes are made one after the other.
    pub(super) changes: tokio::sync::Mutex<()>,
    /// The store's revision. Wakes watchers.
    pub(super) revision: watch::Sender<u64>,
    /// Wakes the scheduler.
    pub(super) wake: Notify,
    pub(super) runs: Runs,
    /// Imports that are being filled, for players.
    pub(super) streams: Streams,
    pub(super) hooks: HookRunner,
    pub(super) totals: Mutex<Totals>,
    pub(super) categories: RwLock<Categories>,
    pub(super) values: RwLock<Values>,
    /// Idempotency keys with the download and the time of the request.
    pub(super) keys: Mutex<HashMap<String, (DownloadId, u64)>>,
    pub(super) feeds: Feeds,
}

/// Answer to a request to add a download.
#[derive(Debug, Clone)]
pub struct Added {
    pub download: Arc<Download>,
    /// Whether it is new. Otherwise it was in the queue already.
    pub is_new: bool,
}

impl Queue {
    /// Opens the queue of an engine, with the settings of the engine's config, and starts its scheduler. The downloads
    /// that ran when the last process ended go on.
    ///
    /// # Errors
    /// When the catalog cannot be read, or has a download that this version cannot read.
    pub async fn open(engine: Engine) -> Result<Self> {
        Self::open_with_clock(engine, Arc::new(SystemClock)).await
    }

    /// As [`Queue::open`], with another source of the time.
    ///
    /// # Errors
    /// As [`Queue::open`].
    pub async fn open_with_clock(engine: Engine, clock: Arc<dyn Clock>) -> Result<Self> {
        let (queue, removing) = Self::read(engine, clock).await?;
        queue.spawn_runner(removing);
        Ok(queue)
    }

    /// As [`Queue::open`], but nothing starts: for a process that only changes the list. A removal that was requested
    /// ends when the queue is opened next.
    ///
    /// # Errors
    /// As [`Queue::open`].
    pub async fn open_idle(engine: Engine) -> Result<Self> {
        Ok(Self::read(engine, Arc::new(SystemClock)).await?.0)
    }

    /// Reads the downloads, and those whose removal has not ended.
    async fn read(engine: Engine, clock: Arc<dyn Clock>) -> Result<(Self, Vec<Download>)> {
        let options = engine.config().queue.clone();
        let catalog = engine.catalog();
        catalog.add_queue().await?;
        let mut store = Store::default();
        let mut removing = Vec::new();
        for row in catalog.downloads().await? {
            let read: Download = serde_json::from_str(&row.record).map_err(|e| {
                let text = format!("download {} in the catalog is malformed", row.id);
                Error::new(Kind::Corrupt, text).because(e)
            })?;
            let state = read.state.after_restart();
            let mut download = Download { number: row.number, state, ..read };
            if download.seeding == Seeding::Active {
                download.seeding = Seeding::Waiting;
            }
            match download.removing {
                Some(_) => removing.push(download),
                None => drop(store.put(download)),
            }
        }
        let now = clock.now().unix;
        let keys = catalog.download_keys(now.saturating_sub(KEY_LIFETIME)).await?;
        let keys = keys
            .into_iter()
            .filter_map(|k| Some((k.key, (k.download.parse().ok()?, k.created_at))));
        let values = Values::read(catalog, options.active).await?;
        let feeds = Feeds::read(catalog, &engine.config().feeds).await?;
        let mut categories = Categories::new(options.categories.clone());
        categories.from_clients = values.categories.clone();
        let queue = Self(Arc::new(Inner {
            revision: watch::Sender::new(store.revision()),
            store: RwLock::new(store),
            changes: tokio::sync::Mutex::default(),
            wake: Notify::new(),
            runs: Runs::default(),
            streams: Streams::default(),
            hooks: HookRunner::new(options.hooks.clone()),
            totals: Mutex::default(),
            categories: RwLock::new(categories),
            values: RwLock::new(values),
            keys: Mutex::new(keys.collect()),
            feeds,
            engine,
            options,
            clock,
        }));
        Ok((queue, removing))
    }

    /// Records the totals of all downloads. Called before the engine closes.
    pub async fn close(&self) {
        self.record_running_progress().await;
    }

    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// The imports of running downloads, for players.
    #[must_use]
    pub fn streams(&self) -> &Streams {
        &self.0.streams
    }

    pub(super) fn catalog(&self) -> &Catalog {
        self.0.engine.catalog()
    }

    /// Seconds since 1970.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.0.clock.now().unix
    }

    /// Adds a download. It is committed and visible when this returns. A torrent that is in the queue already, in
    /// whichever storage, and a URL that is in the queue for the same storage, are not added again; a failed one is
    /// tried again.
    ///
    /// # Errors
    /// `InvalidInput` when the source or a setting is not usable; `Unsupported` for an unknown scheme; `NotFound` for
    /// an unknown storage or category; `PermissionDenied` for a private host where only public ones are allowed.
    pub async fn add(&self, new: NewDownload) -> Result<Added> {
        self.add_from(new, None).await
    }

    /// As [`Queue::add`], for the item of a feed. The download and the item are recorded in one transaction. A failed
    /// download that is there already is not tried again.
    pub(super) async fn add_from(
        &self,
        new: NewDownload,
        feed_item: Option<FeedItemKey>,
    ) -> Result<Added> {
        add::check(&new)?;
        let source_len = new.torrent_len();
        // Parsing a large torrent takes a while.
        let (new, identified) = if source_len > LARGE_TORRENT {
            let work = move || {
                let identified = add::identify(&new);
                (new, identified)
            };
            tokio::task::spawn_blocking(work)
                .await
                .map_err(|e| Error::new(Kind::Internal, "reading a torrent panicked").because(e))?
        } else {
            let identified = add::identify(&new);
            (new, identified)
        };
        let (kind, identity) = identified?;
        let category = self.category_of(&new)?;
        let storage = self.storage_for(&new, category.as_ref())?;
        let _changes = self.0.changes.lock().await;
        if let Some(known) = self.known(&new, &identity, &storage)? {
            let Some(item) = feed_item else { return self.added_again(known).await };
            self.catalog().remember_feed_item(item.row(&known.id, self.now())).await?;
            return Ok(Added { download: known, is_new: false });
        }
        let mut settings = new.settings;
        settings.tags.extend(category.iter().flat_map(|category| category.tags.iter().cloned()));
        settings.storage = storage;
        settings.layout = new.layout.unwrap_or_else(|| self.layout_for(category.as_ref()));
        let (first, last) = self.0.store.read().position_range();
        let now = self.now();
        let torrent_file = identity.torrent_file.as_ref().map(|bytes| bytes.to_vec());
        let mut download = Download {
            id: DownloadId::random()?,
            number: 0,
            name: new.name.unwrap_or(identity.name),
            kind,
            source: identity.source,
            hashes: InfoHashes { v1: identity.info_hash_v1, v2: identity.info_hash_v2 },
            host: identity.host,
            settings,
            position: if new.first { first - 1 } else { last + 1 },
            state: if new.paused { State::Paused } else { State::Queued },
            seeding: Seeding::Off,
            import: None,
            exported: None,
            progress: Progress { bytes: identity.bytes, ..Progress::default() },
            tries: 0,
            added_at: now,
            started_at: None,
            finished_at: None,
            last_activity: None,
            removing: None,
            revision: 0,
        };
        let key = new.idempotency_key.map(|key| (key, now));
        let row = NewDownloadRow {
            id: download.id.to_string(),
            record: record(&download)?,
            torrent_file,
            key: key.clone(),
            feed_item: feed_item.map(|item| item.row(&download.id, now)),
        };
        let numbers = self.catalog().add_downloads(vec![row]).await?;
        download.number = numbers.first().copied().unwrap_or_default();
        if let Some((key, now)) = key {
            self.0.keys.lock().insert(key, (download.id.clone(), now));
        }
        let download = self.publish(download, None);
        self.0.wake.notify_one();
        Ok(Added { download, is_new: true })
    }

    /// The download that the request would make again.
    pub(super) fn known(
        &self,
        new: &NewDownload,
        identity: &SourceIdentity,
        storage: &str,
    ) -> Result<Option<Arc<Download>>> {
        let store = self.0.store.read();
        let hashes = InfoHashes { v1: identity.info_hash_v1, v2: identity.info_hash_v2 };
        let same_source = match hashes.is_torrent() {
            true => store.by_hashes(&hashes),
            false => store.by_url(&identity.source, storage),
        };
        if let Some(key) = &new.idempotency_key {
            let oldest = self.now().saturating_sub(KEY_LIFETIME);
            let mut keys = self.0.keys.lock();
            keys.retain(|_, (_, at)| *at >= oldest);
            let by_key = keys.get(key).and_then(|(id, _)| store.by_id(id));
            if let Some(download) = by_key {
                let is_same = match hashes.is_torrent() {
                    true => download.hashes.overlap(&hashes),
                    false => download.source == identity.source,
                };
                if !is_same {
                    let text = "the idempotency key belongs to a request with another source";
                    return Err(Error::new(Kind::InvalidInput, text));
                }
                return Ok(Some(Arc::clone(download)));
            }
        }
        Ok(same_source.cloned())
    }

    /// Answers a request for a download that is in the queue. A failed one is tried again. Called with `changes` held.
    async fn added_again(&self, known: Arc<Download>) -> Result<Added> {
        let download = match known.state {
            State::Failed { .. } | State::Retrying { .. } => {
                let mut download = Download::clone(&known);
                (download.state, download.tries) = (State::Queued, 0);
                self.commit_one(download).await?
            }
            _ => known,
        };
        Ok(Added { download, is_new: false })
    }

    pub(super) fn category_of(&self, new: &NewDownload) -> Result<Option<Category>> {
        let Some(name) = &new.settings.category else { return Ok(None) };
        self.category(name).map(Some).ok_or_else(|| unknown(name))
    }

    pub(super) fn storage_for(
        &self,
        new: &NewDownload,
        category: Option<&Category>,
    ) -> Result<String> {
        let config = self.0.engine.config();
        if !new.settings.storage.is_empty() {
            check_storage_name(config, &new.settings.storage)?;
            return Ok(new.settings.storage.clone());
        }
        let storage = category.and_then(|category| category.storage.as_deref());
        let storage = storage.or(self.0.options.storage.as_deref());
        Ok(storage.unwrap_or(config.default_storage()).to_owned())
    }

    pub(super) fn layout_for(&self, category: Option<&Category>) -> LayoutKind {
        let whole_files = category.and_then(|category| category.whole_files);
        match whole_files.unwrap_or(self.0.options.whole_files) {
            true => LayoutKind::Files,
            false => LayoutKind::Chunks,
        }
    }

    /// The downloads that match, a page of them.
    #[must_use]
    pub fn list(&self, filter: &Filter, page: Page) -> Listed {
        self.0.store.read().list(filter, page)
    }

    /// # Errors
    /// `NotFound`.
    pub fn get(&self, id: &DownloadId) -> Result<Arc<Download>> {
        self.0.store.read().by_id(id).cloned().ok_or_else(|| not_found(id))
    }

    /// The download with this number.
    #[must_use]
    pub fn by_number(&self, number: u64) -> Option<Arc<Download>> {
        self.0.store.read().get(number).cloned()
    }

    /// The download of the torrent with this hash: v1, v2, or v2 cut to the length of v1, in hexadecimal.
    #[must_use]
    pub fn by_hash(&self, hash: &str) -> Option<Arc<Download>> {
        self.0.store.read().by_hash_text(hash).cloned()
    }

    /// The download that fills this import.
    #[must_use]
    pub fn by_import(&self, import: &str) -> Option<Arc<Download>> {
        let store = self.0.store.read();
        store.all().find(|download| download.import.as_deref() == Some(import)).cloned()
    }

    /// The download that a user means: by id or the start of one (4 digits or more), number, info-hash, id of its
    /// import, or name.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` when several match.
    pub fn find(&self, text: &str) -> Result<Arc<Download>> {
        if let Ok(id) = text.parse::<DownloadId>()
            && let Ok(found) = self.get(&id)
        {
            return Ok(found);
        }
        if let Some(found) = self.by_hash(text) {
            return Ok(found);
        }
        let store = self.0.store.read();
        if let Some(found) = text.parse().ok().and_then(|number| store.get(number)) {
            return Ok(Arc::clone(found));
        }
        let is_start = |d: &Download| text.len() >= 4 && d.id.as_str().starts_with(text);
        let is_it =
            |d: &&Arc<Download>| is_start(d) || d.import.as_deref() == Some(text) || d.name == text;
        let mut found = store.all().filter(is_it);
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(Arc::clone(one)),
            (None, _) => Err(not_found(text)),
            (Some(_), Some(_)) => {
                let text = format!("several downloads match {text:?}");
                Err(Error::new(Kind::InvalidInput, text).hint("give the id"))
            }
        }
    }

    /// What changed since a revision; 0 is everything.
    #[must_use]
    pub fn changes_since(&self, revision: u64) -> Changes {
        self.0.store.read().changes_since(revision)
    }

    /// Follows the revision, which grows with each change of a download, progress included. A watcher that is slow
    /// misses nothing: it asks for [`Queue::changes_since`] its last one.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.revision.subscribe()
    }

    /// Puts a committed download into the store, and reports a change of its state.
    pub(super) fn publish(&self, download: Download, previous: Option<&Download>) -> Arc<Download> {
        let download = {
            let mut store = self.0.store.write();
            let download = store.put(download);
            self.0.revision.send_replace(store.revision());
            download
        };
        let state = download.state.name();
        if previous.is_none_or(|previous| previous.state.name() != state) {
            self.report(&download, state.as_str(), previous);
            self.call_hooks(&download);
        }
        if let Some(previous) = previous {
            self.count(previous, &download);
        }
        download
    }

    pub(super) fn report(&self, download: &Download, state: &str, previous: Option<&Download>) {
        self.0.engine.events().send(Event::Download(DownloadChanged {
            download: download.id.to_string(),
            number: download.number,
            name: download.name.clone(),
            state: state.to_owned(),
            previous: previous.map(|previous| previous.state.name().as_str().to_owned()),
            import: download.import.clone(),
            error: download.state.error().map(|error| error.message.clone()),
        }));
    }
}

/// Torrents above this are parsed on another thread.
const LARGE_TORRENT: usize = 256 << 10;

impl NewDownload {
    fn torrent_len(&self) -> usize {
        match &self.source {
            add::NewSource::Torrent(bytes) => bytes.len(),
            add::NewSource::Link(_) => 0,
        }
    }
}

pub(super) fn not_found(what: impl fmt::Display) -> Error {
    Error::new(Kind::NotFound, format!("no download {:?}", what.to_string()))
}

/// The text that the catalog keeps of a download.
pub(super) fn record(download: &Download) -> Result<String> {
    serde_json::to_string(download)
        .map_err(|e| Error::new(Kind::Internal, "cannot encode a download").because(e))
}
