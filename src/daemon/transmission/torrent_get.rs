//! `torrent-get`.

use std::{collections::HashMap, sync::Arc};

use serde_json::{Map, Value, json};

use super::{
    Transmission,
    envelope::{text, texts},
    fields::{OF_CONTENT, Shown},
    ids::Chosen,
};
use crate::{
    daemon::folders::Folders,
    error::{Error, Kind, Result},
    queue::{Download, Filter, Order, Page},
};

/// Most fields in one call.
const MAX_FIELDS: usize = 200;

impl Transmission {
    pub(super) async fn torrent_get(&self, arguments: &Map<String, Value>) -> Result<Value> {
        let fields = texts(arguments, "fields")?.unwrap_or_default();
        if fields.is_empty() || fields.len() > MAX_FIELDS {
            let text = format!("a call names 1 to {MAX_FIELDS} fields");
            return Err(Error::new(Kind::InvalidInput, text));
        }
        let is_table = text(arguments, "format") == Some("table");
        let Chosen { downloads, removed } = self.chosen(arguments)?;
        let positions = match fields.contains(&"queuePosition") {
            true => self.positions(),
            false => HashMap::new(),
        };
        let folders = Folders::of(self.state());
        let mut torrents = Vec::with_capacity(downloads.len() + 1);
        if is_table {
            torrents.push(Value::from(fields.clone()));
        }
        for download in &downloads {
            let content = match fields.iter().any(|field| OF_CONTENT.contains(field)) {
                true => self.0.contents.of(self.state(), download).await?,
                false => None,
            };
            let shown = Shown {
                download,
                content: content.as_deref(),
                folder: &folders.of_download(download),
                position: positions.get(&download.number).copied().unwrap_or(0),
            };
            torrents.push(match is_table {
                true => fields.iter().map(|name| shown.field(name).unwrap_or_default()).collect(),
                false => {
                    let pairs = fields
                        .iter()
                        .filter_map(|name| Some(((*name).to_owned(), shown.field(name)?)));
                    Value::Object(pairs.collect())
                }
            });
        }
        let mut answer = json!({ "torrents": torrents });
        if let (Some(removed), Some(fields)) = (removed, answer.as_object_mut()) {
            fields.insert("removed".to_owned(), removed.into());
        }
        Ok(answer)
    }

    /// The index of each download in the order of the queue.
    fn positions(&self) -> HashMap<u64, usize> {
        let page = Page { order: Order::Queue, ..Page::default() };
        let all: Vec<Arc<Download>> = self.state().queue().list(&Filter::default(), page).downloads;
        all.iter().enumerate().map(|(at, download)| (download.number, at)).collect()
    }
}
