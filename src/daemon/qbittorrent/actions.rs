//! Changes of torrents.

use std::collections::BTreeMap;

use serde_json::json;

use super::{
    Dialect,
    add::NAME_MARK,
    answer::{Answer, Refusal, done, json as json_answer},
    limits,
    params::Params,
};
use crate::queue::{Change, Download, DownloadId, Move, RateLimits};

impl Dialect {
    pub(super) async fn stop(&self, params: &Params) -> Answer {
        self.queue().pause(&self.chosen_ids(params)?).await?;
        Ok(done())
    }

    /// Also tries failed ones again.
    pub(super) async fn start(&self, params: &Params) -> Answer {
        let chosen = self.chosen(params)?;
        let ids: Vec<DownloadId> = chosen.iter().map(|download| download.id.clone()).collect();
        let failed = chosen.iter().filter(|download| download.state.error().is_some());
        let failed: Vec<DownloadId> = failed.map(|download| download.id.clone()).collect();
        self.queue().resume(&ids).await?;
        self.queue().retry(&failed).await?;
        Ok(done())
    }

    /// Without `deleteFiles` the data stays: clients leave it out to keep the data.
    pub(super) async fn delete(&self, params: &Params) -> Answer {
        let with_data = params.flag("deleteFiles") == Some(true);
        self.queue().remove(&self.chosen_ids(params)?, with_data).await?;
        Ok(done())
    }

    /// Looks for bytes of finished torrents that are missing. Others are checked by their hashes anyway.
    pub(super) async fn recheck(&self, params: &Params) -> Answer {
        self.queue().retry(&self.chosen_ids(params)?).await?;
        Ok(done())
    }

    pub(super) async fn move_to(&self, params: &Params, to: Move) -> Answer {
        self.queue().move_to(&self.chosen_ids(params)?, to).await?;
        Ok(done())
    }

    async fn update(&self, params: &Params, change: Change) -> Answer {
        self.queue().update(&self.chosen_ids(params)?, &change).await?;
        Ok(done())
    }

    /// Applies to each torrent a change of its own.
    async fn update_each(&self, params: &Params, change: impl Fn(&Download) -> Change) -> Answer {
        for download in self.chosen(params)? {
            let ids = std::slice::from_ref(&download.id);
            self.queue().update(ids, &change(&download)).await?;
        }
        Ok(done())
    }

    pub(super) async fn set_rate(&self, params: &Params, is_upload: bool) -> Answer {
        let limit =
            params.int("limit")?.ok_or_else(|| Refusal::bad("the parameter limit is missing"))?;
        let rate = u64::try_from(limit).ok().filter(|rate| *rate > 0);
        self.update_each(params, |download| {
            let limits = download.settings.limits;
            let limits = match is_upload {
                true => RateLimits { upload: rate, ..limits },
                false => RateLimits { download: rate, ..limits },
            };
            Change { limits: Some(limits), ..Change::default() }
        })
        .await
    }

    /// The limits of torrents by hash; 0 is none.
    pub(super) fn rates(&self, params: &Params, is_upload: bool) -> Answer {
        let chosen = self.chosen(params)?;
        let rates = chosen.iter().filter_map(|download| {
            let limits = download.settings.limits;
            let rate = if is_upload { limits.upload } else { limits.download };
            Some((download.hashes.text()?, json!(rate.unwrap_or(0))))
        });
        Ok(json_answer(&rates.collect::<BTreeMap<_, _>>()))
    }

    /// A limit for inactive seeding is accepted and has no effect.
    pub(super) async fn set_share_limits(&self, params: &Params) -> Answer {
        let (ratio, minutes) = (params.float("ratioLimit")?, params.int("seedingTimeLimit")?);
        if ratio.is_none() && minutes.is_none() {
            return Err(Refusal::bad("the parameter ratioLimit is missing"));
        }
        self.update_each(params, |download| {
            let seed_limits = limits::changed(download.settings.seed_limits, ratio, minutes);
            Change { seed_limits: Some(seed_limits), ..Change::default() }
        })
        .await
    }

    pub(super) async fn set_category(&self, params: &Params) -> Answer {
        let name = params.required("category")?.trim();
        if !name.is_empty() && self.queue().category(name).is_none() {
            return Err(Refusal::conflict(format!("no category {name:?}")));
        }
        let category = (!name.is_empty()).then(|| name.to_owned());
        self.update(params, Change { category: Some(category), ..Change::default() }).await
    }

    pub(super) async fn add_tags(&self, params: &Params) -> Answer {
        let add_tags = params.list("tags", ',').into_iter().collect();
        self.update(params, Change { add_tags, ..Change::default() }).await
    }

    /// Without tags, all are removed.
    pub(super) async fn remove_tags(&self, params: &Params) -> Answer {
        let tags = params.list("tags", ',');
        self.update_each(params, |download| Change {
            remove_tags: match tags.is_empty() {
                true => download.settings.tags.clone(),
                false => tags.iter().cloned().collect(),
            },
            ..Change::default()
        })
        .await
    }

    pub(super) async fn set_tags(&self, params: &Params) -> Answer {
        let tags: std::collections::BTreeSet<String> =
            params.list("tags", ',').into_iter().collect();
        self.update_each(params, |download| Change {
            remove_tags: download.settings.tags.difference(&tags).cloned().collect(),
            add_tags: tags.clone(),
            ..Change::default()
        })
        .await
    }

    pub(super) async fn rename(&self, params: &Params) -> Answer {
        let download = self.torrent(params)?;
        let name = params.required("name")?.trim();
        if name.is_empty() {
            return Err(Refusal::conflict("the name is empty"));
        }
        let change = Change {
            name: Some(name.to_owned()),
            extra: [(NAME_MARK.to_owned(), "given".to_owned())].into(),
            ..Change::default()
        };
        self.queue().update(std::slice::from_ref(&download.id), &change).await?;
        Ok(done())
    }

    pub(super) async fn set_forced(&self, params: &Params) -> Answer {
        let forced = params.flag("value") == Some(true);
        self.update(params, Change { forced: Some(forced), ..Change::default() }).await?;
        // A forced torrent is not paused.
        if forced { self.start(params).await } else { Ok(done()) }
    }

    pub(super) async fn toggle_sequential(&self, params: &Params) -> Answer {
        self.update_each(params, |download| Change {
            sequential: Some(!download.settings.sequential),
            ..Change::default()
        })
        .await
    }

    /// A torrent stays where it is. Its own path is accepted.
    pub(super) fn set_location(&self, params: &Params) -> Answer {
        let path = params.given("location").or(params.given("path"));
        let path = path.ok_or_else(|| Refusal::bad("the parameter location is missing"))?;
        let storage = self.storage_of_path(Some(path))?;
        let chosen = match params.get("hashes") {
            Some(_) => self.chosen(params)?,
            None => Vec::new(),
        };
        let stays = |d: &std::sync::Arc<Download>| {
            storage.as_ref().is_none_or(|s| *s == d.settings.storage)
        };
        match chosen.iter().all(stays) {
            true => Ok(done()),
            false => Err(Refusal::conflict("a torrent cannot move to another storage")),
        }
    }

    /// A request for something that bae decides itself. The hashes are checked, and nothing changes.
    pub(super) fn accept(&self, params: &Params) -> Answer {
        if params.get("hashes").is_some() {
            self.chosen(params)?;
        } else if params.get("hash").is_some() {
            self.torrent(params)?;
        }
        Ok(done())
    }
}
