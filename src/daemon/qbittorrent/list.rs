//! `torrents/info` and `torrents/count`; torrents by their hashes.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use serde_json::Value;

use super::{
    Dialect,
    answer::{Answer, Refusal, json, text},
    fields::TorrentFields,
    params::Params,
    sync::places,
    words,
};
use crate::{
    catalog::hex,
    queue::{Download, DownloadId},
};

/// Hashes that are looked up one by one. More of them are compared with all torrents at once.
const FEW: usize = 8;

impl Dialect {
    /// The torrent with the hash in the parameter `hash`.
    pub(super) fn torrent(&self, params: &Params) -> Result<Arc<Download>, Refusal> {
        let hash = params.required("hash")?.trim();
        self.queue().by_hash(hash).ok_or_else(Refusal::no_torrent)
    }

    /// The torrents in the parameter `hashes`, separated by `|`; `all` is all. Unknown ones are left out.
    pub(super) fn chosen(&self, params: &Params) -> Result<Vec<Arc<Download>>, Refusal> {
        let text = params.required("hashes")?.trim();
        if text.eq_ignore_ascii_case("all") {
            return Ok(self.torrents());
        }
        let hashes: HashSet<String> =
            text.split('|').map(|hash| hash.trim().to_ascii_lowercase()).collect();
        if hashes.len() <= FEW {
            let found = hashes.iter().filter_map(|hash| self.queue().by_hash(hash));
            let by_number: BTreeMap<u64, Arc<Download>> = found.map(|d| (d.number, d)).collect();
            return Ok(by_number.into_values().collect());
        }
        let is_chosen = |download: &Arc<Download>| {
            let v2 = download.hashes.v2.map(|hash| hex(&hash));
            let cut = v2.as_ref().and_then(|hash| hash.get(..40));
            download.hashes.v1.is_some_and(|hash| hashes.contains(&hex(&hash)))
                || cut.is_some_and(|hash| hashes.contains(hash))
                || v2.as_ref().is_some_and(|hash| hashes.contains(hash))
        };
        Ok(self.torrents().into_iter().filter(is_chosen).collect())
    }

    /// As [`Dialect::chosen`], their ids.
    pub(super) fn chosen_ids(&self, params: &Params) -> Result<Vec<DownloadId>, Refusal> {
        Ok(self.chosen(params)?.iter().map(|download| download.id.clone()).collect())
    }

    pub(super) fn count(&self) -> Answer {
        Ok(text(self.torrents().len().to_string()))
    }

    pub(super) fn info(&self, params: &Params) -> Answer {
        let sort = params.given("sort");
        if let Some(name) = sort.filter(|name| !TorrentFields::has_field(name)) {
            return Err(Refusal::bad(format!("no field is called {name:?}")));
        }
        let chosen = match params.given("hashes") {
            Some(_) => self.chosen(params)?,
            None => self.torrents(),
        };
        let categories = self.queue().categories();
        let places = places(&self.downloads());
        let mut found: Vec<TorrentFields> = chosen
            .iter()
            .filter(|download| is_wanted(download, params))
            .map(|download| {
                let place = places.get(&download.number).copied().unwrap_or_default();
                self.fields_of(download, &categories, place)
            })
            .filter(|fields| passes(fields, params))
            .collect();
        if let Some(name) = sort {
            sort_by_field(&mut found, name);
        }
        if params.flag("reverse") == Some(true) {
            found.reverse();
        }
        let page = page(found.len(), params.int("offset")?, params.int("limit")?);
        let with_trackers = params.flag("includeTrackers") == Some(true);
        if !with_trackers {
            return Ok(json(&&found[page]));
        }
        let shown = found[page].iter().map(|fields| self.with_trackers(fields));
        Ok(json(&shown.collect::<Vec<_>>()))
    }

    fn with_trackers(&self, fields: &TorrentFields) -> Value {
        let mut value = serde_json::to_value(fields).unwrap_or_default();
        let download = self.queue().by_hash(&fields.hash);
        if let (Some(object), Some(download)) = (value.as_object_mut(), download) {
            object.insert("trackers".into(), self.tracker_rows(&download).into());
        }
        value
    }
}

/// Conditions on the download itself.
fn is_wanted(download: &Download, params: &Params) -> bool {
    let settings = &download.settings;
    let category = params.get("category");
    let tag = params.get("tag");
    category.is_none_or(|wanted| wanted == settings.category.as_deref().unwrap_or_default())
        && tag.is_none_or(|wanted| match wanted.is_empty() {
            true => settings.tags.is_empty(),
            false => settings.tags.contains(wanted),
        })
}

/// Conditions on the fields.
fn passes(fields: &TorrentFields, params: &Params) -> bool {
    let filter = params.given("filter").unwrap_or("all");
    let upload_rate = u64::try_from(fields.upspeed).unwrap_or_default();
    words::is_in(filter, fields.state, upload_rate)
        && params.flag("private").is_none_or(|wanted| wanted == fields.private)
}

fn sort_by_field(found: &mut Vec<TorrentFields>, name: &str) {
    let mut keyed: Vec<_> =
        std::mem::take(found).into_iter().map(|fields| (fields.value(name), fields)).collect();
    keyed.sort_by(|(a, _), (b, _)| compare(a.as_ref(), b.as_ref()));
    found.extend(keyed.into_iter().map(|(_, fields)| fields));
}

fn compare(a: Option<&Value>, b: Option<&Value>) -> Ordering {
    match (a, b) {
        (Some(Value::Number(a)), Some(Value::Number(b))) => {
            a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(Ordering::Equal)
        }
        (Some(Value::String(a)), Some(Value::String(b))) => {
            a.to_lowercase().cmp(&b.to_lowercase()).then_with(|| a.cmp(b))
        }
        (Some(Value::Bool(a)), Some(Value::Bool(b))) => a.cmp(b),
        _ => Ordering::Equal,
    }
}

/// The range of a page. A negative offset counts from the end; a limit that is not above 0 is none.
fn page(len: usize, offset: Option<i64>, limit: Option<i64>) -> std::ops::Range<usize> {
    let offset = offset.unwrap_or(0);
    let distance = usize::try_from(offset.unsigned_abs()).unwrap_or(usize::MAX);
    let start = match offset < 0 {
        true => len.saturating_sub(distance),
        false => distance.min(len),
    };
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
    start..limit.map_or(len, |limit| start.saturating_add(limit).min(len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::qbittorrent::fields::test_download;

    #[test]
    fn pages_stay_within_the_list() {
        assert_eq!(page(10, None, None), 0..10);
        assert_eq!(page(10, Some(3), Some(4)), 3..7);
        assert_eq!(page(10, Some(-3), None), 7..10);
        for (offset, limit) in [(i64::MIN, i64::MAX), (i64::MAX, i64::MAX), (99, 1), (-99, -1)] {
            let range = page(10, Some(offset), Some(limit));
            assert!(range.start <= range.end && range.end <= 10, "{range:?}");
        }
    }

    #[test]
    fn fields_are_sorted_by_their_kind() {
        let names = ["b", "A", "c"];
        let with = |(name, speed): (&&str, i64)| TorrentFields {
            name: (*name).to_owned(),
            dlspeed: speed,
            ..TorrentFields::default()
        };
        let mut found: Vec<_> = names.iter().zip([10, 9, 100]).map(with).collect();
        let order = |found: &[TorrentFields]| -> Vec<String> {
            found.iter().map(|fields| fields.name.clone()).collect()
        };
        sort_by_field(&mut found, "name");
        assert_eq!(order(&found), ["A", "b", "c"]);
        sort_by_field(&mut found, "dlspeed");
        assert_eq!(order(&found), ["A", "b", "c"]);
        sort_by_field(&mut found, "state");
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn an_empty_category_or_tag_means_none() {
        let mut download = test_download();
        assert!(is_wanted(&download, &Params::of("category=&tag=")));
        assert!(is_wanted(&download, &Params::of("")));
        download.settings.category = Some("tv".into());
        download.settings.tags.insert("x".into());
        assert!(!is_wanted(&download, &Params::of("category=")));
        assert!(!is_wanted(&download, &Params::of("tag=")));
        assert!(is_wanted(&download, &Params::of("category=tv&tag=x")));
    }
}
