//! What `sync/maindata` shows, with the changes between two of its answers. No I/O.
//!
//! All clients share one view. Each field of a torrent has the version in which it changed last, so a client that is slow
//! or many clients cost nothing: an answer is what changed since the version that the client names. The versions of a
//! process begin at a random number; a number of another process, or 0, gets everything.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde::{Serialize, Serializer, ser::SerializeMap as _};
use serde_json::Value;

use super::fields::{FIELDS, Selected, TorrentFields};

/// Removals that are remembered. A client that missed more gets everything.
const MAX_REMOVALS: usize = 16 * 1024;
/// The first version of a process is below this. Some clients have numbers of 32 bits.
const MAX_FIRST: u32 = 1 << 30;

/// Values by name, with the version in which each changed.
#[derive(Debug, Default)]
struct Versioned {
    values: BTreeMap<String, (Value, u32)>,
    removals: Removals,
}

/// Names that were removed, oldest first.
#[derive(Debug, Default)]
struct Removals {
    names: VecDeque<(u32, String)>,
    /// Removals up to this version are forgotten.
    forgotten: u32,
}

impl Removals {
    fn push(&mut self, version: u32, name: String) {
        if self.names.len() == MAX_REMOVALS
            && let Some((version, _)) = self.names.pop_front()
        {
            self.forgotten = version;
        }
        self.names.push_back((version, name));
    }

    fn since(&self, version: u32) -> Vec<&str> {
        let names = self.names.iter().filter(|(removed, _)| *removed > version);
        names.map(|(_, name)| name.as_str()).collect()
    }
}

impl Versioned {
    /// Replaces all values. Returns whether something changed.
    fn replace(&mut self, values: BTreeMap<String, Value>, version: u32) -> bool {
        let mut changed = false;
        let gone: Vec<String> =
            self.values.keys().filter(|name| !values.contains_key(*name)).cloned().collect();
        for name in gone {
            self.values.remove(&name);
            self.removals.push(version, name);
            changed = true;
        }
        for (name, value) in values {
            if self.values.get(&name).is_none_or(|(known, _)| *known != value) {
                self.values.insert(name, (value, version));
                changed = true;
            }
        }
        changed
    }

    fn since(&self, version: u32) -> BTreeMap<&str, &Value> {
        let newer = self.values.iter().filter(|(_, (_, changed))| *changed > version);
        newer.map(|(name, (value, _))| (name.as_str(), value)).collect()
    }
}

#[derive(Debug)]
struct Torrent {
    hash: String,
    fields: TorrentFields,
    /// The version in which each field changed.
    changed: [u32; FIELDS],
    newest: u32,
}

/// What changed in the queue.
#[derive(Debug, Default)]
pub(super) struct Update {
    /// Everything is in `torrents`: those that are not are gone.
    pub(super) is_full: bool,
    /// New and changed torrents, by the number of their download.
    pub(super) torrents: Vec<(u64, TorrentFields)>,
    pub(super) removed: Vec<u64>,
    /// Places in the queue, of those that have one. `None`: as before.
    pub(super) places: Option<HashMap<u64, i64>>,
    pub(super) categories: BTreeMap<String, Value>,
    pub(super) tags: BTreeMap<String, Value>,
    pub(super) server_state: BTreeMap<String, Value>,
}

/// The shared view.
#[derive(Debug, Default)]
pub(super) struct View {
    /// The version before the first change; 0 before the first update.
    first: u32,
    version: u32,
    torrents: BTreeMap<u64, Torrent>,
    removals: Removals,
    categories: Versioned,
    tags: Versioned,
    trackers: Versioned,
    server_state: Versioned,
    /// The queue's revision that the view has.
    pub(super) revision: u64,
}

impl View {
    /// Gives the versions their random beginning, once.
    pub(super) fn begin(&mut self, random: u32) {
        if self.first == 0 {
            self.first = random % MAX_FIRST + 1;
            self.version = self.first;
        }
    }

    pub(super) fn update(&mut self, update: Update) {
        let version = self.version + 1;
        let mut changed = false;
        let mut removed = update.removed;
        if update.is_full {
            let listed: std::collections::HashSet<u64> =
                update.torrents.iter().map(|(number, _)| *number).collect();
            removed.extend(self.torrents.keys().filter(|number| !listed.contains(number)));
        }
        for number in removed {
            if let Some(torrent) = self.torrents.remove(&number) {
                self.removals.push(version, torrent.hash);
                changed = true;
            }
        }
        for (number, fields) in update.torrents {
            changed |= self.put(number, fields, version);
        }
        if let Some(places) = &update.places {
            changed |= self.set_places(places, version);
        }
        changed |= self.categories.replace(update.categories, version);
        changed |= self.tags.replace(update.tags, version);
        changed |= self.server_state.replace(update.server_state, version);
        if changed {
            self.version = version;
        }
    }

    /// Sets the hashes by tracker.
    pub(super) fn set_trackers(&mut self, trackers: BTreeMap<String, Value>) {
        let version = self.version + 1;
        if self.trackers.replace(trackers, version) {
            self.version = version;
        }
    }

    fn put(&mut self, number: u64, mut fields: TorrentFields, version: u32) -> bool {
        match self.torrents.get_mut(&number) {
            Some(torrent) if torrent.hash == fields.hash => {
                // The places come after.
                fields.priority = torrent.fields.priority;
                let bits = fields.differences(&torrent.fields);
                torrent.set(fields, bits, version);
                bits != 0
            }
            known => {
                // A hash that was learned later is the name of another torrent for clients.
                let old = known.map(|torrent| torrent.hash.clone());
                old.into_iter().for_each(|hash| self.removals.push(version, hash));
                let hash = fields.hash.clone();
                let torrent = Torrent { hash, fields, changed: [version; FIELDS], newest: version };
                self.torrents.insert(number, torrent);
                true
            }
        }
    }

    fn set_places(&mut self, places: &HashMap<u64, i64>, version: u32) -> bool {
        let mut changed = false;
        for (number, torrent) in &mut self.torrents {
            let place = places.get(number).copied().unwrap_or_default();
            if torrent.fields.priority != place {
                let fields = TorrentFields { priority: place, ..torrent.fields.clone() };
                let bits = fields.differences(&torrent.fields);
                torrent.set(fields, bits, version);
                changed = true;
            }
        }
        changed
    }

    /// The hashes of the torrents, by the number of their download.
    pub(super) fn hashes(&self) -> impl Iterator<Item = (u64, &str)> {
        self.torrents.iter().map(|(number, torrent)| (*number, torrent.hash.as_str()))
    }

    /// The answer to a client whose last one had this number.
    pub(super) fn since(&self, number: i64) -> Delta<'_> {
        let known = u32::try_from(number).ok().filter(|number| {
            (self.first..=self.version).contains(number) && *number >= self.oldest_complete()
        });
        Delta { view: self, known }
    }

    fn oldest_complete(&self) -> u32 {
        let others = [&self.categories, &self.tags, &self.trackers, &self.server_state];
        let others = others.into_iter().map(|values| values.removals.forgotten);
        others.chain([self.removals.forgotten]).max().unwrap_or_default()
    }
}

/// What changed since a version; everything without one.
#[derive(Debug)]
pub(super) struct Delta<'a> {
    view: &'a View,
    known: Option<u32>,
}

impl Serialize for Delta<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (view, since) = (self.view, self.known.unwrap_or(0));
        let is_full = self.known.is_none();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("rid", &view.version)?;
        if is_full {
            map.serialize_entry("full_update", &true)?;
        }
        if is_full || view.torrents.values().any(|torrent| torrent.newest > since) {
            map.serialize_entry("torrents", &Torrents { view, since })?;
        }
        for (name, values) in [
            ("categories", &view.categories),
            ("trackers", &view.trackers),
            ("server_state", &view.server_state),
        ] {
            let values = values.since(since);
            if is_full || !values.is_empty() {
                map.serialize_entry(name, &values)?;
            }
        }
        let tags = view.tags.since(since);
        if is_full || !tags.is_empty() {
            map.serialize_entry("tags", &tags.keys().collect::<Vec<_>>())?;
        }
        for (name, removals) in [
            ("torrents_removed", &view.removals),
            ("categories_removed", &view.categories.removals),
            ("tags_removed", &view.tags.removals),
            ("trackers_removed", &view.trackers.removals),
        ] {
            let names = removals.since(since);
            if !is_full && !names.is_empty() {
                map.serialize_entry(name, &names)?;
            }
        }
        map.end()
    }
}

/// The torrents that changed, by hash.
struct Torrents<'a> {
    view: &'a View,
    since: u32,
}

impl Serialize for Torrents<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let all = self.view.torrents.values();
        let newer = all.filter(|torrent| torrent.newest > self.since);
        serializer.collect_map(newer.map(|torrent| (&torrent.hash, torrent.since(self.since))))
    }
}

impl Torrent {
    fn set(&mut self, fields: TorrentFields, bits: u64, version: u32) {
        if bits == 0 {
            return;
        }
        self.fields = fields;
        self.newest = version;
        for (number, changed) in self.changed.iter_mut().enumerate() {
            if bits >> number & 1 == 1 {
                *changed = version;
            }
        }
    }

    fn since(&self, version: u32) -> Selected<'_> {
        let newer = self.changed.iter().rev();
        let bits = newer.fold(0, |bits, changed| bits << 1 | u64::from(*changed > version));
        self.fields.selected(bits)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn torrent(hash: &str, speed: i64) -> TorrentFields {
        TorrentFields { hash: hash.into(), dlspeed: speed, ..TorrentFields::default() }
    }

    impl View {
        fn value_since(&self, number: i64) -> Value {
            serde_json::to_value(self.since(number)).unwrap()
        }
    }

    fn view() -> View {
        let mut view = View::default();
        view.begin(41);
        view
    }

    fn put(view: &mut View, torrents: Vec<(u64, TorrentFields)>) {
        view.update(Update { torrents, ..Update::default() });
    }

    fn rid(answer: &Value) -> i64 {
        answer["rid"].as_i64().unwrap()
    }

    #[test]
    fn an_answer_has_only_what_changed() {
        let mut view = view();
        put(&mut view, vec![(1, torrent("aa", 5)), (2, torrent("bb", 6))]);
        let all = view.value_since(0);
        assert_eq!(all["full_update"], true);
        assert_eq!(all["torrents"]["aa"]["dlspeed"], 5);
        assert_eq!(all["torrents"]["aa"].as_object().unwrap().len(), FIELDS - 1);
        assert_eq!(view.value_since(rid(&all)), json!({ "rid": rid(&all) }), "nothing changed");
        put(&mut view, vec![(1, torrent("aa", 7)), (2, torrent("bb", 6))]);
        let delta = view.value_since(rid(&all));
        let expected = json!({ "rid": rid(&all) + 1, "torrents": { "aa": { "dlspeed": 7 } } });
        assert_eq!(delta, expected);
        assert_eq!(view.value_since(rid(&all)), expected, "the same number gets the same changes");
    }

    #[test]
    fn removed_torrents_are_named_once() {
        let mut view = view();
        put(&mut view, vec![(1, torrent("aa", 5)), (2, torrent("bb", 6))]);
        let first = rid(&view.value_since(0));
        view.update(Update { removed: vec![1, 99], ..Update::default() });
        let delta = view.value_since(first);
        assert_eq!(delta["torrents_removed"], json!(["aa"]));
        assert_eq!(view.value_since(rid(&delta)), json!({ "rid": rid(&delta) }));
        let torrents = vec![(3, torrent("cc", 1))];
        view.update(Update { is_full: true, torrents, ..Update::default() });
        assert_eq!(view.value_since(rid(&delta))["torrents_removed"], json!(["bb"]));
        assert!(view.value_since(0).get("torrents_removed").is_none());
    }

    #[test]
    fn an_unknown_number_gets_everything() {
        let mut view = view();
        put(&mut view, vec![(1, torrent("aa", 5))]);
        let now = rid(&view.value_since(0));
        for unknown in [0, -1, now + 1, i64::MAX, i64::MIN, 1] {
            assert_eq!(view.value_since(unknown)["full_update"], true, "{unknown}");
        }
    }

    #[test]
    fn a_hash_that_is_learned_later_is_another_torrent() {
        let mut view = view();
        put(&mut view, vec![(1, torrent("v2", 5))]);
        let first = rid(&view.value_since(0));
        put(&mut view, vec![(1, torrent("v1", 5))]);
        let delta = view.value_since(first);
        assert_eq!(delta["torrents_removed"], json!(["v2"]));
        assert_eq!(delta["torrents"]["v1"]["dlspeed"], 5);
    }

    #[test]
    fn categories_tags_and_places_change_too() {
        let mut view = view();
        let named = |names: &[&str]| -> BTreeMap<String, Value> {
            names.iter().map(|name| ((*name).to_owned(), json!({ "name": name }))).collect()
        };
        put(&mut view, vec![(1, torrent("aa", 5))]);
        let first = rid(&view.value_since(0));
        view.update(Update {
            categories: named(&["tv"]),
            tags: named(&["x"]),
            places: Some([(1, 4)].into()),
            ..Update::default()
        });
        let delta = view.value_since(first);
        assert_eq!(delta["categories"]["tv"]["name"], "tv");
        assert_eq!(delta["tags"], json!(["x"]));
        assert_eq!(delta["torrents"]["aa"], json!({ "priority": 4 }));
        view.update(Update { places: Some([(1, 4)].into()), ..Update::default() });
        let delta = view.value_since(rid(&delta));
        assert_eq!(delta["categories_removed"], json!(["tv"]));
        assert_eq!(delta["tags_removed"], json!(["x"]));
        assert!(delta.get("torrents").is_none());
    }

    #[test]
    fn a_client_that_missed_removals_gets_everything() {
        let mut view = view();
        put(&mut view, vec![(1, torrent("aa", 5))]);
        let first = rid(&view.value_since(0));
        for number in 0..=MAX_REMOVALS as u64 {
            put(&mut view, vec![(number + 2, torrent(&format!("{number}"), 1))]);
            view.update(Update { removed: vec![number + 2], ..Update::default() });
        }
        assert_eq!(view.value_since(first)["full_update"], true);
    }
}
