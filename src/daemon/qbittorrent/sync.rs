//! `sync/maindata` and `sync/torrentPeers`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use serde_json::{Value, json};

use super::{
    Dialect,
    answer::{Answer, Refusal, json as json_answer, json_text},
    fields::{Surroundings, TorrentFields},
    folders::paths_of,
    params::Params,
    view::Update,
};
use crate::{
    config::{Category, SeedGoal},
    error::{Error, Kind},
    queue::Download,
};

impl Dialect {
    pub(super) async fn maindata(&self, params: &Params) -> Answer {
        let rid = params.get("rid").and_then(|rid| rid.trim().parse().ok()).unwrap_or(0);
        let all = self.downloads();
        let server_state = self.server_state(&all).await;
        let answer = {
            let mut view = self.0.view.lock();
            let mut random = [0; 4];
            let _ = getrandom::fill(&mut random);
            view.begin(u32::from_le_bytes(random));
            let changes = self.queue().changes_since(view.revision);
            view.revision = changes.revision;
            let fresh = self.0.facts.take_fresh();
            let has_members = !fresh.is_empty() || changes.is_full || !changes.removed.is_empty();
            let mut changed = changes.changed;
            if !changes.is_full {
                let fresh =
                    fresh.iter().filter(|number| !changed.iter().any(|d| d.number == **number));
                let fresh: Vec<_> =
                    fresh.filter_map(|number| self.queue().by_number(*number)).collect();
                changed.extend(fresh);
            }
            let is_idle = changed.is_empty() && changes.removed.is_empty() && !changes.is_full;
            let places = (!is_idle).then(|| places(&all));
            let categories = self.queue().categories();
            let torrents = changed.iter().filter(|download| download.hashes.is_torrent());
            let torrents = torrents.map(|d| (d.number, self.fields_of(d, &categories, 0)));
            view.update(Update {
                is_full: changes.is_full,
                torrents: torrents.collect(),
                removed: changes.removed.iter().map(|removed| removed.number).collect(),
                places,
                categories: self.shown_categories(),
                tags: self.queue().tags().into_iter().map(|tag| (tag, Value::Null)).collect(),
                server_state,
            });
            if has_members {
                let trackers = self.hashes_by_tracker(view.hashes());
                view.set_trackers(trackers);
            }
            serde_json::to_string(&view.since(rid))
        };
        let internal = |e| Error::new(Kind::Internal, "cannot encode the torrents").because(e);
        Ok(json_text(answer.map_err(internal)?))
    }

    fn hashes_by_tracker<'a>(
        &self,
        torrents: impl Iterator<Item = (u64, &'a str)>,
    ) -> BTreeMap<String, Value> {
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (number, hash) in torrents {
            let Some(facts) = self.0.facts.get(number) else { continue };
            for tracker in &facts.trackers {
                let hashes = found.entry(tracker.clone()).or_default();
                if hashes.last().is_none_or(|last| last != hash) {
                    hashes.push(hash.to_owned());
                }
            }
        }
        found.into_iter().map(|(tracker, hashes)| (tracker, json!(hashes))).collect()
    }

    /// The fields of a download, with its place in the queue.
    pub(super) fn fields_of(
        &self,
        download: &Download,
        categories: &BTreeMap<String, Category>,
        place: i64,
    ) -> TorrentFields {
        let category = download.settings.category.as_ref().and_then(|name| categories.get(name));
        let facts = self.0.facts.get(download.number);
        let export = category.and_then(|category| category.export.as_deref());
        let paths = paths_of(download, export, facts.as_deref());
        let around = Surroundings {
            facts: facts.as_deref(),
            paths: &paths,
            category_goal: category.map(|category| category.goal).unwrap_or_default(),
            global_goal: self.global_goal(),
            priority: place,
        };
        TorrentFields::of(download, around)
    }

    /// The seed goal of the config.
    pub(super) fn global_goal(&self) -> SeedGoal {
        let seeding = &self.api().engine().config().seeding;
        seeding.from_flags.or(seeding.goal)
    }

    /// The peers of a torrent. The engine does not report them one by one.
    pub(super) fn torrent_peers(&self, params: &Params) -> Answer {
        let hash = params.required("hash")?;
        self.queue().by_hash(hash).ok_or_else(Refusal::no_torrent)?;
        Ok(json_answer(&json!({
            "rid": 1,
            "full_update": true,
            "show_flags": true,
            "peers": {},
        })))
    }
}

/// The places in the queue from 1, by the number of the download. Finished downloads have none.
pub(super) fn places(all: &[Arc<Download>]) -> HashMap<u64, i64> {
    let waits = |d: &&Arc<Download>| d.hashes.is_torrent() && !d.state.is_stored();
    let order = |d: &Arc<Download>| (d.settings.priority, d.position, d.number);
    let mut order: Vec<_> = all.iter().filter(waits).map(order).collect();
    order.sort_unstable();
    order.into_iter().zip(1..).map(|((.., number), place)| (number, place)).collect()
}
