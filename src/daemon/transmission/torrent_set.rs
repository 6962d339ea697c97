//! `torrent-set`.

use std::{collections::BTreeSet, slice};

use serde_json::{Map, Value, json};

use super::{
    Transmission,
    envelope::{flag, texts},
    fields::priority_of,
    labels,
};
use crate::{
    error::{Error, Kind, Result},
    queue::{Change, Download, Move, SeedLimits, Settings},
};

/// Most numbers of files in one call.
const MAX_FILES: usize = 200_000;
/// Settings that no torrent has here.
const NOT_SUPPORTED: &[&str] =
    &["location", "trackerAdd", "trackerRemove", "trackerReplace", "trackerList", "group"];

impl Transmission {
    pub(super) async fn torrent_set(&self, arguments: &Map<String, Value>) -> Result<Value> {
        let is_set = |name: &&&str| match arguments.get(**name) {
            None | Some(Value::Null) => false,
            // Clients that send all of their fields leave these empty.
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Array(list)) => !list.is_empty(),
            Some(_) => true,
        };
        if let Some(name) = NOT_SUPPORTED.iter().find(is_set) {
            return Err(Error::new(
                Kind::Unsupported,
                format!("{name} of a torrent cannot be set"),
            ));
        }
        let queue = self.state().queue();
        let chosen = self.chosen(arguments)?.downloads;
        for download in &chosen {
            let files = match needs_files(arguments) {
                true => self.0.contents.of(self.state(), download).await?,
                false => None,
            };
            let known = files.map(|content| {
                content.files.iter().map(|file| file.selected).collect::<Vec<bool>>()
            });
            let is_category = |name: &str| queue.category(name).is_some();
            let change = change(arguments, download, known, is_category)?;
            queue.update(slice::from_ref(&download.id), &change).await?;
        }
        if let Some(position) = arguments.get("queuePosition").and_then(Value::as_u64) {
            let ids: Vec<_> = chosen.iter().map(|download| download.id.clone()).collect();
            let position = usize::try_from(position).unwrap_or(usize::MAX);
            queue.move_to(&ids, Move::To(position)).await?;
        }
        Ok(json!({}))
    }
}

fn needs_files(arguments: &Map<String, Value>) -> bool {
    ["files-wanted", "files-unwanted"].iter().any(|name| arguments.contains_key(*name))
}

/// The change that a call makes to a download. `selected` has its files.
fn change(
    arguments: &Map<String, Value>,
    download: &Download,
    selected: Option<Vec<bool>>,
    is_category: impl Fn(&str) -> bool,
) -> Result<Change> {
    let settings = &download.settings;
    let mut change = Change {
        limits: Some(limits(arguments, settings)),
        seed_limits: Some(seed_limits(arguments, settings)?),
        sequential: flag(arguments, "sequential_download"),
        ..Change::default()
    };
    if let Some(priority) = arguments.get("bandwidthPriority") {
        change.priority = Some(priority_of(Some(priority)));
    }
    if let Some(labels) = texts(arguments, "labels")? {
        let (category, tags) = labels::parse(&labels, is_category)?;
        change.remove_tags = settings.tags.difference(&tags).cloned().collect::<BTreeSet<_>>();
        change.category = Some(category);
        change.add_tags = tags;
    }
    if needs_files(arguments) {
        change.select = Some(selection(arguments, selected)?);
    }
    Ok(change)
}

/// Limits in kB/s, each with a flag whether it holds.
fn limits(arguments: &Map<String, Value>, settings: &Settings) -> crate::queue::RateLimits {
    let limit = |value: &str, switch: &str, known: Option<u64>| {
        let given =
            arguments.get(value).and_then(Value::as_u64).map(|rate| rate.saturating_mul(1000));
        match flag(arguments, switch) {
            Some(false) => None,
            Some(true) => given.or(known),
            // A limit that does not hold is not kept.
            None => known.and(given.or(known)),
        }
    };
    crate::queue::RateLimits {
        download: limit("downloadLimit", "downloadLimited", settings.limits.download),
        upload: limit("uploadLimit", "uploadLimited", settings.limits.upload),
    }
}

/// The ratio with its mode: 0 is the goal of the category, 1 this one, 2 none.
fn seed_limits(arguments: &Map<String, Value>, settings: &Settings) -> Result<SeedLimits> {
    let known = settings.seed_limits;
    let given = checked_ratio(arguments)?;
    let ratio = match arguments.get("seedRatioMode").and_then(Value::as_u64) {
        Some(0) => None,
        Some(2) => Some(0.0),
        Some(_) => given.or(known.ratio),
        None => given.or(known.ratio),
    };
    Ok(SeedLimits { ratio, ..known })
}

/// # Errors
/// `InvalidInput` for a ratio that is no number of 0 or more.
pub(super) fn checked_ratio(arguments: &Map<String, Value>) -> Result<Option<f64>> {
    let Some(value) = arguments.get("seedRatioLimit") else { return Ok(None) };
    let ratio = value.as_f64().filter(|ratio| ratio.is_finite() && *ratio >= 0.0);
    let malformed = || Error::new(Kind::InvalidInput, "seedRatioLimit is no number of 0 or more");
    ratio.map(Some).ok_or_else(malformed)
}

/// The files to store, as the queue names them: numbers from 1, as ranges. `None` is all. `selected` are the known files
/// of a torrent; without them, only `files-wanted` can be used.
///
/// # Errors
/// `InvalidInput` for numbers that are none, or unknown files.
pub(super) fn selection(
    arguments: &Map<String, Value>,
    selected: Option<Vec<bool>>,
) -> Result<Option<String>> {
    let (wanted, unwanted) =
        (numbers(arguments, "files-wanted")?, numbers(arguments, "files-unwanted")?);
    let mut selected = match (selected, &wanted, &unwanted) {
        (_, None, None) => return Ok(None),
        (Some(selected), ..) => selected,
        (None, Some(wanted), None) if !wanted.is_empty() => {
            vec![false; wanted.iter().max().map_or(0, |last| last + 1)]
        }
        (None, ..) => {
            let text = "the files of the torrent are not known yet";
            return Err(Error::new(Kind::Unavailable, text));
        }
    };
    let all = selected.len();
    for (list, is_wanted) in [(unwanted, false), (wanted, true)] {
        let Some(list) = list else { continue };
        // An empty list means all files.
        let list = if list.is_empty() { (0..all).collect() } else { list };
        for number in list {
            let unknown = || Error::new(Kind::InvalidInput, format!("no file {number}"));
            *selected.get_mut(number).ok_or_else(unknown)? = is_wanted;
        }
    }
    if selected.iter().all(|on| !on) {
        return Err(Error::new(Kind::InvalidInput, "no file of the torrent is wanted"));
    }
    Ok(Some(ranges(&selected)))
}

fn numbers(arguments: &Map<String, Value>, name: &str) -> Result<Option<Vec<usize>>> {
    let Some(value) = arguments.get(name) else { return Ok(None) };
    let malformed = || Error::new(Kind::InvalidInput, format!("{name} is no list of numbers"));
    let list = value.as_array().filter(|list| list.len() <= MAX_FILES).ok_or_else(malformed)?;
    let number = |value: &Value| {
        let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
        number.filter(|number| *number < MAX_FILES).ok_or_else(malformed)
    };
    list.iter().map(number).collect::<Result<_>>().map(Some)
}

/// `1-3,7` for the marked files.
fn ranges(selected: &[bool]) -> String {
    let mut out: Vec<String> = Vec::new();
    let mut at = 0;
    while at < selected.len() {
        let len = selected[at..].iter().take_while(|on| **on).count();
        match len {
            0 => at += 1,
            1 => out.push((at + 1).to_string()),
            _ => out.push(format!("{}-{}", at + 1, at + len)),
        }
        at += len;
    }
    out.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::{Priority, RateLimits, example_download};

    fn changed(arguments: Value) -> Result<Change> {
        let mut download = example_download();
        download.settings.limits.download = Some(5000);
        download.settings.tags = ["old".to_owned()].into();
        let files = Some(vec![true; 4]);
        change(arguments.as_object().unwrap(), &download, files, |name| name == "tv")
    }

    #[test]
    fn limits_hold_while_their_switch_is_on() {
        let limits = |arguments| changed(arguments).unwrap().limits.unwrap();
        let known = RateLimits { download: Some(5000), upload: None };
        assert_eq!(limits(json!({})), known);
        assert_eq!(limits(json!({ "downloadLimited": false })).download, None);
        assert_eq!(limits(json!({ "uploadLimit": 7, "uploadLimited": true })).upload, Some(7000));
        assert_eq!(limits(json!({ "uploadLimit": 7 })).upload, None);
        assert_eq!(limits(json!({ "downloadLimit": u64::MAX })).download, Some(u64::MAX));
        assert_eq!(limits(json!({ "downloadLimit": -1 })), known);
    }

    #[test]
    fn labels_replace_category_and_tags() {
        let change = changed(json!({ "labels": ["tv", "new"] })).unwrap();
        assert_eq!(change.category, Some(Some("tv".into())));
        assert_eq!(
            (change.add_tags, change.remove_tags),
            (["new".into()].into(), ["old".into()].into())
        );
        assert_eq!(changed(json!({ "labels": [] })).unwrap().category, Some(None));
        assert_eq!(changed(json!({})).unwrap().category, None);
        assert!(changed(json!({ "labels": "tv" })).is_err());
    }

    #[test]
    fn ratios_and_priorities_have_their_modes() {
        let ratio = |arguments| changed(arguments).map(|change| change.seed_limits.unwrap().ratio);
        assert_eq!(ratio(json!({ "seedRatioLimit": 2, "seedRatioMode": 1 })).unwrap(), Some(2.0));
        assert_eq!(ratio(json!({ "seedRatioLimit": 2, "seedRatioMode": 0 })).unwrap(), None);
        assert_eq!(ratio(json!({ "seedRatioMode": 2 })).unwrap(), Some(0.0));
        assert!(ratio(json!({ "seedRatioLimit": -1 })).is_err());
        assert!(ratio(json!({ "seedRatioLimit": "NaN" })).is_err());
        let change = changed(json!({ "bandwidthPriority": 1 })).unwrap();
        assert_eq!(change.priority, Some(Priority::High));
    }

    #[test]
    fn files_are_selected_by_ranges() {
        let select = |arguments| changed(arguments).map(|change| change.select);
        assert_eq!(select(json!({})).unwrap(), None);
        assert_eq!(select(json!({ "files-unwanted": [1] })).unwrap(), Some(Some("1,3-4".into())));
        let both = json!({ "files-unwanted": [], "files-wanted": [0, 1, 3] });
        assert_eq!(select(both).unwrap(), Some(Some("1-2,4".into())));
        for bad in [
            json!({ "files-unwanted": [] }),
            json!({ "files-wanted": [4] }),
            json!({ "files-wanted": [-1] }),
            json!({ "files-wanted": [u64::MAX] }),
            json!({ "files-wanted": vec![0; MAX_FILES + 1] }),
            json!({ "files-wanted": "1" }),
        ] {
            assert!(
                select(bad.clone()).is_err(),
                "{}",
                &bad.to_string()[..30.min(bad.to_string().len())]
            );
        }
        let only_wanted = json!({ "files-wanted": [2, 0] });
        let only_wanted = only_wanted.as_object().unwrap();
        assert_eq!(selection(only_wanted, None).unwrap(), Some("1,3".into()));
    }
}
