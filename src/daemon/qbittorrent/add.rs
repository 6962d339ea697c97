//! `torrents/add`.

use std::collections::BTreeSet;

use axum::http::StatusCode;

use super::{
    Dialect,
    answer::{Answer, Refusal, text},
    limits,
    params::Params,
};
use crate::{
    error::{Error, Kind},
    queue::{NewDownload, NewSource, RateLimits, SeedLimits, Settings},
};

/// Most torrents in one request.
const MAX_SOURCES: usize = 1000;
/// Marks a name that a client chose: the torrent's own does not replace it.
pub(super) const NAME_MARK: &str = "name";

impl Dialect {
    pub(super) async fn add(&self, params: &Params) -> Answer {
        let template = self.template(params).await?;
        let links = params.list("urls", '\n').into_iter().map(NewSource::Link);
        let files = params.files.iter().cloned().map(NewSource::Torrent);
        let sources: Vec<NewSource> = files.chain(links).take(MAX_SOURCES + 1).collect();
        if sources.len() > MAX_SOURCES {
            return Err(Refusal::bad(format!("more than {MAX_SOURCES} torrents")));
        }
        let (mut is_any_new, mut first_refusal) = (false, None);
        for source in sources {
            let is_file = matches!(source, NewSource::Torrent(_));
            match self.queue().add(NewDownload { source, ..template.clone() }).await {
                Ok(added) => {
                    is_any_new |= added.is_new;
                    // Clients ask for its properties at once.
                    if added.is_new {
                        self.read_facts(&added.download).await;
                    }
                }
                Err(error) => drop(first_refusal.get_or_insert_with(|| refusal(error, is_file))),
            }
        }
        match (is_any_new, first_refusal) {
            (true, _) => Ok(text("Ok.")),
            (false, Some(refusal)) => Err(refusal),
            // A duplicate, or no source at all.
            (false, None) => Ok(text("Fails.")),
        }
    }

    /// The settings for all torrents of the request.
    async fn template(&self, params: &Params) -> Result<NewDownload, Refusal> {
        let mut storage = self.storage_of_path(params.given("savepath"))?;
        if params.flag("useDownloadPath") == Some(true) {
            self.storage_of_path(params.given("downloadPath"))?;
        }
        let category = params.given("category").map(str::to_owned);
        if let Some(name) = &category {
            self.ensure_category(name).await?;
        }
        // With automatic management the category decides.
        if params.flag("autoTMM") == Some(true) && category.is_some() {
            storage = None;
        }
        let name = params.given("rename").map(str::to_owned);
        let rate = |name| -> Result<Option<u64>, Refusal> {
            let rate = params.int(name)?.and_then(|rate| u64::try_from(rate).ok());
            Ok(rate.filter(|rate| *rate > 0))
        };
        let tags: BTreeSet<String> = params.list("tags", ',').into_iter().collect();
        let seed_limits = limits::changed(
            SeedLimits::default(),
            params.float("ratioLimit")?,
            params.int("seedingTimeLimit")?,
        );
        let mark = name.iter().map(|_| (NAME_MARK.to_owned(), "given".to_owned()));
        Ok(NewDownload {
            settings: Settings {
                storage: storage.unwrap_or_default(),
                category,
                tags,
                forced: params.flag("forced") == Some(true),
                limits: RateLimits { download: rate("dlLimit")?, upload: rate("upLimit")? },
                seed_limits,
                sequential: params.flag("sequentialDownload") == Some(true),
                only_public: !self.api().options().private_hosts,
                extra: mark.collect(),
                ..Settings::default()
            },
            name,
            paused: params.flag("stopped").or(params.flag("paused")) == Some(true),
            first: params.flag("addToTopOfQueue") == Some(true),
            ..NewDownload::default()
        })
    }

    /// Makes a category that does not exist, as qBittorrent does.
    async fn ensure_category(&self, name: &str) -> Result<(), Refusal> {
        if self.queue().category(name).is_some() {
            return Ok(());
        }
        match self.queue().create_category(name, None).await {
            Err(e) if e.kind() != Kind::AlreadyExists => Err(e.into()),
            _ => Ok(()),
        }
    }
}

/// A file that is no torrent has a status of its own.
fn refusal(error: Error, is_file: bool) -> Refusal {
    let is_unusable = error.kind() == Kind::InvalidInput;
    let refusal = Refusal::from(error);
    match is_file && is_unusable {
        true => Refusal { status: StatusCode::UNSUPPORTED_MEDIA_TYPE, ..refusal },
        false => refusal,
    }
}
