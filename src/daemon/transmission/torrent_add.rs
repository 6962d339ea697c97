//! `torrent-add`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::{
    Transmission,
    envelope::{flag, text, texts},
    fields::priority_of,
    ids::hash_of,
    labels,
    torrent_set::{checked_ratio, selection},
};
use crate::{
    daemon::folders::Folders,
    error::{Error, Kind, Result},
    queue::{FetchSettings, NewDownload, NewSource, SeedLimits, Settings},
};

impl Transmission {
    /// Adds a torrent from `metainfo` or `filename`. Answers with `torrent-added`, or `torrent-duplicate` for one that is
    /// there already.
    pub(super) async fn torrent_add(&self, arguments: &Map<String, Value>) -> Result<Value> {
        let new = self.new_download(arguments)?;
        let added = self.state().queue().add(new).await?;
        let download = &added.download;
        let name = if added.is_new { "torrent-added" } else { "torrent-duplicate" };
        let shown = json!({
            "id": download.number,
            "name": download.name,
            "hashString": hash_of(download),
        });
        Ok(json!({ name: shown }))
    }

    fn new_download(&self, arguments: &Map<String, Value>) -> Result<NewDownload> {
        let invalid = |text: &str| Error::new(Kind::InvalidInput, text.to_owned());
        let source = match (text(arguments, "metainfo"), text(arguments, "filename")) {
            (Some(metainfo), _) => {
                // Some clients break the lines.
                let encoded: String = metainfo.split_ascii_whitespace().collect();
                let torrent = STANDARD.decode(encoded);
                NewSource::Torrent(torrent.map_err(|_| invalid("metainfo is no base64"))?)
            }
            // A path of this machine is no source: the queue refuses it.
            (None, Some(filename)) => NewSource::Link(filename.to_owned()),
            (None, None) => return Err(invalid("no filename or metainfo specified")),
        };
        let folder = text(arguments, "download-dir").unwrap_or_default();
        let target = Folders::of(self.state()).resolve(folder)?;
        let labels = texts(arguments, "labels")?.unwrap_or_default();
        let queue = self.state().queue();
        let (category, tags) = labels::parse(&labels, |name| queue.category(name).is_some())?;
        let cookies = text(arguments, "cookies").filter(|cookies| !cookies.is_empty());
        let headers = cookies.map(|cookies| ("Cookie".to_owned(), cookies.to_owned()));
        Ok(NewDownload {
            source,
            paused: flag(arguments, "paused").unwrap_or(false),
            settings: Settings {
                storage: target.storage.unwrap_or_default(),
                category: category.or(target.category),
                tags,
                priority: priority_of(arguments.get("bandwidthPriority")),
                select: selection(arguments, None)?,
                seed_limits: SeedLimits { ratio: checked_ratio(arguments)?, seconds: None },
                sequential: flag(arguments, "sequential_download").unwrap_or(false),
                fetch: FetchSettings {
                    headers: headers.into_iter().collect(),
                    ..FetchSettings::default()
                },
                only_public: !self.state().options().private_hosts,
                ..Settings::default()
            },
            ..NewDownload::default()
        })
    }
}
