//! The fields of a torrent, from a download. No I/O.

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Value, json};

use super::{facts::TorrentFacts, folders::Paths, limits, words};
use crate::{catalog::hex, config::SeedGoal, queue::Download};

/// The time left, in seconds, when it is not known.
const UNKNOWN_ETA: i64 = 8_640_000;

/// Declares [`TorrentFields`], with the access to its fields by name and by number.
macro_rules! torrent_fields {
    ($($name:ident: $type:ty),* $(,)?) => {
        /// A torrent as clients see it: bytes, seconds, Unix times.
        #[derive(Debug, Clone, Default, PartialEq, Serialize)]
        #[allow(clippy::struct_excessive_bools, reason = "the fields are those of the API")]
        pub(super) struct TorrentFields { $(pub(super) $name: $type),* }

        type Getter = fn(&TorrentFields) -> Value;

        /// Names and values, in order.
        const GETTERS: &[(&str, Getter)] = &[$((stringify!($name), |fields| json!(fields.$name))),*];

        impl TorrentFields {
            /// The fields in which both differ, as bits by the number of the field.
            pub(super) fn differences(&self, other: &Self) -> u64 {
                let differs = [$(self.$name != other.$name),*];
                differs.iter().rev().fold(0, |bits, differs| bits << 1 | u64::from(*differs))
            }

            /// Writes the fields with a bit in `bits`.
            fn serialize_into<M: SerializeMap>(&self, bits: u64, map: &mut M) -> Result<(), M::Error> {
                let mut number = 0_u32;
                $(
                    if bits >> number & 1 == 1 {
                        map.serialize_entry(stringify!($name), &self.$name)?;
                    }
                    number += 1;
                )*
                let _ = number;
                Ok(())
            }
        }
    };
}

torrent_fields! {
    hash: String,
    infohash_v1: String,
    infohash_v2: String,
    name: String,
    state: &'static str,
    category: String,
    tags: String,
    save_path: String,
    content_path: String,
    root_path: String,
    download_path: String,
    magnet_uri: String,
    tracker: String,
    comment: String,
    created_by: String,
    size: i64,
    total_size: i64,
    completed: i64,
    amount_left: i64,
    downloaded: i64,
    uploaded: i64,
    downloaded_session: i64,
    uploaded_session: i64,
    dlspeed: i64,
    upspeed: i64,
    dl_limit: i64,
    up_limit: i64,
    eta: i64,
    added_on: i64,
    completion_on: i64,
    seen_complete: i64,
    last_activity: i64,
    time_active: i64,
    seeding_time: i64,
    priority: i64,
    num_seeds: i64,
    num_complete: i64,
    num_leechs: i64,
    num_incomplete: i64,
    trackers_count: i64,
    reannounce: i64,
    seeding_time_limit: i64,
    max_seeding_time: i64,
    inactive_seeding_time_limit: i64,
    max_inactive_seeding_time: i64,
    progress: f64,
    ratio: f64,
    max_ratio: f64,
    ratio_limit: f64,
    availability: f64,
    popularity: f64,
    auto_tmm: bool,
    f_l_piece_prio: bool,
    seq_dl: bool,
    force_start: bool,
    super_seeding: bool,
    private: bool,
    has_metadata: bool,
}

/// The number of fields.
pub(super) const FIELDS: usize = GETTERS.len();
const _: () = assert!(FIELDS <= 64, "a change is a word of 64 bits");

/// What the fields take from elsewhere than the download.
#[derive(Debug, Clone, Copy)]
pub(super) struct Surroundings<'a> {
    pub(super) facts: Option<&'a TorrentFacts>,
    pub(super) paths: &'a Paths,
    /// The seed goal of the category.
    pub(super) category_goal: SeedGoal,
    /// The seed goal of the config.
    pub(super) global_goal: SeedGoal,
    /// Place in the queue from 1; 0 when it is not in it.
    pub(super) priority: i64,
}

impl TorrentFields {
    pub(super) fn of(download: &Download, around: Surroundings<'_>) -> Self {
        let mut fields = Self::default();
        fields.set_names(download, around);
        fields.set_progress(download);
        fields.set_times(download);
        fields.set_limits(download, around);
        fields.priority = around.priority;
        fields
    }

    fn set_names(&mut self, download: &Download, around: Surroundings<'_>) {
        let (hashes, settings) = (&download.hashes, &download.settings);
        self.hash = hashes.text().unwrap_or_default();
        self.infohash_v1 = hashes.v1.map(|hash| hex(&hash)).unwrap_or_default();
        self.infohash_v2 = hashes.v2.map(|hash| hex(&hash)).unwrap_or_default();
        self.name.clone_from(&download.name);
        let is_readable = !around.paths.content.is_empty();
        self.state = words::word(download, is_readable);
        self.category = settings.category.clone().unwrap_or_default();
        self.tags = settings.tags.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        self.save_path.clone_from(&around.paths.save);
        self.content_path.clone_from(&around.paths.content);
        self.root_path.clone_from(&around.paths.root);
        // Without trackers and logins.
        let source = download.shown_source();
        self.magnet_uri = match source.starts_with("magnet:") {
            true => source,
            false => format!("magnet:?xt=urn:btih:{}", self.hash),
        };
        let trackers = around.facts.map(|facts| facts.trackers.as_slice()).unwrap_or_default();
        self.tracker = trackers.first().cloned().unwrap_or_default();
        self.trackers_count = int(trackers.len() as u64);
        self.comment = around.facts.map(|facts| facts.comment.clone()).unwrap_or_default();
        self.private = around.facts.is_some_and(|facts| facts.private);
        // The category decides where the files go.
        self.auto_tmm = true;
        self.seq_dl = settings.sequential;
        self.force_start = settings.forced;
        self.has_metadata = words::has_metadata(download);
    }

    fn set_progress(&mut self, download: &Download) {
        let progress = &download.progress;
        let is_stored = download.state.is_stored();
        self.size = progress.bytes.map_or(-1, int);
        self.total_size = self.size;
        self.completed = int(progress.stored);
        self.amount_left = (self.size - self.completed).max(0);
        self.downloaded = int(progress.downloaded);
        self.uploaded = int(progress.uploaded);
        self.downloaded_session = int(progress.downloaded_now);
        self.uploaded_session = int(progress.uploaded_now);
        self.dlspeed = int(progress.download_rate);
        self.upspeed = int(progress.upload_rate);
        self.progress = if is_stored { 1.0 } else { progress.share() };
        self.availability = if is_stored { -1.0 } else { 0.0 };
        self.ratio = download.ratio();
        let leeches = progress.peers.saturating_sub(progress.seeds);
        (self.num_seeds, self.num_complete) =
            (int(progress.seeds as u64), int(progress.seeds as u64));
        (self.num_leechs, self.num_incomplete) = (int(leeches as u64), int(leeches as u64));
        let is_known = !is_stored && progress.download_rate > 0;
        let eta = progress.eta_seconds.filter(|_| is_known).map_or(UNKNOWN_ETA, int);
        self.eta = eta.min(UNKNOWN_ETA);
    }

    fn set_times(&mut self, download: &Download) {
        let progress = &download.progress;
        self.added_on = int(download.added_at);
        self.completion_on = download.finished_at.map_or(-1, int);
        self.seen_complete = self.completion_on;
        let last = download.last_activity.or(download.finished_at).or(download.started_at);
        self.last_activity = int(last.unwrap_or(download.added_at));
        self.time_active = int(progress.active_seconds.saturating_add(progress.seeding_seconds));
        self.seeding_time = int(progress.seeding_seconds);
    }

    fn set_limits(&mut self, download: &Download, around: Surroundings<'_>) {
        let settings = &download.settings;
        let rate = |rate: Option<u64>| rate.filter(|rate| *rate > 0).map_or(-1, int);
        self.dl_limit = rate(settings.limits.download);
        self.up_limit = rate(settings.limits.upload);
        let own = settings.seed_limits;
        self.ratio_limit = limits::shown_ratio(own.ratio, around.category_goal);
        self.seeding_time_limit = limits::shown_minutes(own.seconds, around.category_goal);
        self.max_ratio = limits::effective_ratio(self.ratio_limit, around.global_goal);
        self.max_seeding_time =
            limits::effective_minutes(self.seeding_time_limit, around.global_goal);
        (self.inactive_seeding_time_limit, self.max_inactive_seeding_time) = (-2, -1);
        limits::show_reached(self, download.seeding);
    }

    /// The value of a field; `None` for an unknown name.
    pub(super) fn value(&self, name: &str) -> Option<Value> {
        GETTERS.iter().find(|(known, _)| *known == name).map(|(_, value)| value(self))
    }

    pub(super) fn has_field(name: &str) -> bool {
        GETTERS.iter().any(|(known, _)| *known == name)
    }

    /// The fields with a bit in `bits`. The hash is left out: it is the key of the torrent.
    pub(super) fn selected(&self, bits: u64) -> Selected<'_> {
        Selected { fields: self, bits: bits & !1 }
    }
}

/// Some fields of a torrent.
#[derive(Debug)]
pub(super) struct Selected<'a> {
    fields: &'a TorrentFields,
    bits: u64,
}

impl Serialize for Selected<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.fields.serialize_into(self.bits, &mut map)?;
        map.end()
    }
}

/// Numbers beyond the range are not seen in practice.
pub(super) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
pub(super) fn test_download() -> Download {
    serde_json::from_value(json!({
        "id": "0123456789abcdef",
        "name": "a name",
        "kind": "magnet",
        "source": "magnet:?xt=urn:btih:abababababababababababababababababababab&tr=http://t/passkey",
        "hashes": { "v1": "ab".repeat(20), "v2": "cd".repeat(32) },
        "state": "queued",
        "added_at": 1000,
    }))
    .expect("a download")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::{Seeding, State};

    fn fields_with(download: &Download, category_goal: SeedGoal) -> TorrentFields {
        let paths =
            Paths { save: "/srv/tv".into(), content: "/srv/tv/a".into(), root: String::new() };
        let global_goal = SeedGoal::default();
        let around =
            Surroundings { facts: None, paths: &paths, category_goal, global_goal, priority: 3 };
        TorrentFields::of(download, around)
    }

    fn fields(download: &Download) -> TorrentFields {
        fields_with(download, SeedGoal::default())
    }

    #[test]
    fn a_hybrid_torrent_has_its_v1_hash_and_shows_no_tracker() {
        let fields = fields(&test_download());
        assert_eq!(fields.hash, "ab".repeat(20));
        assert_eq!(fields.infohash_v2, "cd".repeat(32));
        assert!(!fields.magnet_uri.contains("passkey"), "{}", fields.magnet_uri);
    }

    #[test]
    fn an_unknown_size_and_time_have_the_values_that_clients_expect() {
        let fields = fields(&test_download());
        assert_eq!((fields.size, fields.amount_left, fields.eta), (-1, 0, UNKNOWN_ETA));
        assert_eq!((fields.completion_on, fields.last_activity), (-1, 1000));
        assert_eq!((fields.dl_limit, fields.ratio_limit, fields.max_ratio), (-1, -2.0, -1.0));
        assert_eq!((fields.priority, fields.state), (3, "queuedDL"));
    }

    #[test]
    fn changed_fields_are_found() {
        let mut download = test_download();
        let before = fields(&download);
        assert_eq!(before.differences(&before.clone()), 0);
        download.progress.download_rate = 9;
        download.state = State::Downloading;
        let now = fields(&download);
        let changed = serde_json::to_value(now.selected(now.differences(&before))).unwrap();
        assert_eq!(changed, json!({ "dlspeed": 9, "state": "downloading" }));
        let all = serde_json::to_value(now.selected(u64::MAX)).unwrap();
        assert_eq!(all.as_object().unwrap().len(), FIELDS - 1);
        assert!(all.get("hash").is_none());
    }

    #[test]
    fn a_reached_goal_is_reported_as_reached() {
        let mut download = test_download();
        (download.state, download.seeding) = (State::Done, Seeding::GoalReached);
        download.progress.seeding_seconds = 50;
        let goal = SeedGoal { ratio: Some(2.0), time: Some(std::time::Duration::from_secs(60)) };
        let shown = fields_with(&download, goal);
        assert_eq!((shown.ratio_limit, shown.seeding_time_limit), (2.0, 1));
        assert!(shown.ratio >= shown.ratio_limit || shown.seeding_time >= 60);
        download.seeding = Seeding::Active;
        assert_eq!(fields_with(&download, goal).seeding_time, 50);
    }
}
