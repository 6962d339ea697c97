//! `session-get`, `session-set`, `session-stats` and `free-space`.

use serde_json::{Map, Value, json};

use super::{Transmission, envelope::text};
use crate::{
    config::ActiveLimits,
    daemon::folders::Folders,
    error::{Error, Kind, Result},
    queue::{Filter, Page, RateLimits, Seeding, State, StateName},
};

/// The version that clients compare, and the real name.
const VERSION: &str = "4.0.6 (bae)";

/// What a client can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limits {
    rates: RateLimits,
    active: ActiveLimits,
}

impl Transmission {
    fn limits(&self) -> Limits {
        let queue = self.state().queue();
        Limits { rates: queue.rates(), active: queue.active_limits() }
    }

    pub(super) fn session_get(&self, arguments: &Map<String, Value>) -> Value {
        let all = self.session();
        let wanted = arguments.get("fields").and_then(Value::as_array);
        match (wanted, all) {
            (Some(wanted), Value::Object(mut all)) => {
                all.retain(|name, _| wanted.iter().any(|wanted| wanted == name.as_str()));
                Value::Object(all)
            }
            (_, all) => all,
        }
    }

    fn session(&self) -> Value {
        let config = self.state().engine().config();
        let folders = Folders::of(self.state());
        let free = folders.space(&Default::default(), self.state());
        let ratio = config.seeding.goal.ratio.filter(|ratio| ratio.is_finite());
        let mut session = constant_settings();
        let own = json!({
            "version": VERSION,
            "session-id": self.0.session_id,
            "download-dir": folders.default_folder(),
            "incomplete-dir": folders.default_folder(),
            "download-dir-free-space": free.map_or(json!(-1), |(free, _)| free.into()),
            "seedRatioLimit": ratio.unwrap_or(0.0),
            "seedRatioLimited": ratio.is_some(),
        });
        let limits = limit_settings(self.limits());
        if let Some(session) = session.as_object_mut() {
            for part in [own, limits] {
                session.extend(part.as_object().cloned().unwrap_or_default());
            }
        }
        session
    }

    /// Changes limits. Everything else is a setting of the config file, so that no client can set a program or a path.
    pub(super) async fn session_set(&self, arguments: &Map<String, Value>) -> Result<Value> {
        let (known, queue) = (self.limits(), self.state().queue());
        let wanted = changed(arguments, &self.session(), known)?;
        if wanted.rates != known.rates {
            queue.set_rates(wanted.rates).await?;
        }
        if wanted.active != known.active {
            queue.set_active_limits(wanted.active).await?;
        }
        Ok(json!({}))
    }

    pub(super) fn session_stats(&self) -> Value {
        let queue = self.state().queue();
        let all = queue.list(&Filter::default(), Page::default()).downloads;
        let (mut active, mut paused, mut down, mut up) = (0_usize, 0_usize, 0_u64, 0_u64);
        let (mut downloaded, mut uploaded) = (0_u64, 0_u64);
        for download in &all {
            let runs =
                matches!(download.state, State::Starting | State::Downloading | State::Exporting);
            active += usize::from(runs || download.seeding == Seeding::Active);
            paused += usize::from(download.state.name() == StateName::Paused);
            down += download.progress.download_rate;
            up += download.progress.upload_rate;
            downloaded += download.progress.downloaded;
            uploaded += download.progress.uploaded;
        }
        let totals = queue.totals();
        let stats = |down: u64, up: u64| {
            json!({
                "downloadedBytes": down, "uploadedBytes": up, "filesAdded": all.len(),
                "sessionCount": 1, "secondsActive": self.state().started().elapsed().as_secs(),
            })
        };
        json!({
            "activeTorrentCount": active,
            "pausedTorrentCount": paused,
            "torrentCount": all.len(),
            "downloadSpeed": down,
            "uploadSpeed": up,
            "cumulative-stats": stats(downloaded, uploaded),
            "current-stats": stats(totals.received, totals.sent),
        })
    }

    /// Free space behind a folder; -1 where it is not known.
    pub(super) fn free_space(&self, arguments: &Map<String, Value>) -> Result<Value> {
        let path = text(arguments, "path");
        let path = path.ok_or_else(|| Error::new(Kind::InvalidInput, "no path"))?;
        let folders = Folders::of(self.state());
        let target = folders.resolve(path)?;
        let space = folders.space(&target, self.state());
        let number = |number: Option<u64>| number.map_or(json!(-1), Value::from);
        Ok(json!({
            "path": path,
            "size-bytes": number(space.map(|(free, _)| free)),
            "total_size": number(space.map(|(_, total)| total)),
        }))
    }
}

/// Switches that are off in each session.
const OFF: &[&str] = &[
    "alt-speed-enabled",
    "alt-speed-time-enabled",
    "blocklist-enabled",
    "idle-seeding-limit-enabled",
    "incomplete-dir-enabled",
    "peer-port-random-on-start",
    "port-forwarding-enabled",
    "queue-stalled-enabled",
    "rename-partial-files",
    "script-torrent-added-enabled",
    "script-torrent-done-enabled",
    "script-torrent-done-seeding-enabled",
    "seed-queue-enabled",
    "trash-original-torrent-files",
];
const ON: &[&str] = &[
    "anti-brute-force-enabled",
    "dht-enabled",
    "lpd-enabled",
    "pex-enabled",
    "start-added-torrents",
    "tcp-enabled",
    "utp-enabled",
];
const ZERO: &[&str] = &[
    "alt-speed-down",
    "alt-speed-time-begin",
    "alt-speed-time-end",
    "alt-speed-up",
    "blocklist-size",
    "cache-size-mb",
    "idle-seeding-limit",
    "peer-port",
    "queue-stalled-minutes",
    "seed-queue-size",
];
const EMPTY: &[&str] = &[
    "blocklist-url",
    "config-dir",
    "default-trackers",
    "script-torrent-added-filename",
    "script-torrent-done-filename",
    "script-torrent-done-seeding-filename",
];

/// Settings that clients read, and that are the same in each session.
fn constant_settings() -> Value {
    let mut settings = json!({
        "rpc-version": 17,
        "rpc-version-minimum": 14,
        "rpc-version-semver": "5.3.0",
        "alt-speed-time-day": 127,
        "anti-brute-force-threshold": 5,
        "encryption": "preferred",
        "peer-limit-global": 200,
        "peer-limit-per-torrent": 50,
        "units": {
            "speed-units": ["kB/s", "MB/s", "GB/s", "TB/s"], "speed-bytes": 1000,
            "size-units": ["kB", "MB", "GB", "TB"], "size-bytes": 1000,
            "memory-units": ["KiB", "MiB", "GiB", "TiB"], "memory-bytes": 1024,
        },
    });
    let groups = [(OFF, json!(false)), (ON, json!(true)), (ZERO, json!(0)), (EMPTY, json!(""))];
    if let Some(fields) = settings.as_object_mut() {
        for (names, value) in groups {
            fields.extend(names.iter().map(|name| ((*name).to_owned(), value.clone())));
        }
    }
    settings
}

fn limit_settings(limits: Limits) -> Value {
    let Limits { rates, active } = limits;
    let kilobytes = |rate: Option<u64>| rate.unwrap_or(0).div_ceil(1000);
    let has_limit = active.overall != usize::MAX;
    json!({
        "speed-limit-down": kilobytes(rates.download),
        "speed-limit-down-enabled": rates.download.is_some(),
        "speed-limit-up": kilobytes(rates.upload),
        "speed-limit-up-enabled": rates.upload.is_some(),
        "download-queue-enabled": has_limit,
        "download-queue-size": if has_limit { active.overall } else { 0 },
    })
}

/// The limits after a change. A setting that has its value already may be given; one that no session has is left out,
/// except for programs.
fn changed(arguments: &Map<String, Value>, session: &Value, known: Limits) -> Result<Limits> {
    let mut limits = known;
    let rate = |name: &str, switch: &str, known: Option<u64>| -> Result<Option<u64>> {
        let given = number(arguments, name)?.map(|rate| rate.saturating_mul(1000));
        Ok(match arguments.get(switch).and_then(Value::as_bool) {
            Some(false) => None,
            Some(true) => given.or(known).filter(|rate| *rate > 0),
            None => known.and(given.or(known)),
        })
    };
    limits.rates.download =
        rate("speed-limit-down", "speed-limit-down-enabled", known.rates.download)?;
    limits.rates.upload = rate("speed-limit-up", "speed-limit-up-enabled", known.rates.upload)?;
    let size = number(arguments, "download-queue-size")?;
    let size = size.map(|size| usize::try_from(size).unwrap_or(usize::MAX).max(1));
    limits.active.overall = match arguments.get("download-queue-enabled").and_then(Value::as_bool) {
        Some(false) => usize::MAX,
        Some(true) if known.active.overall == usize::MAX => {
            size.unwrap_or(ActiveLimits::default().overall)
        }
        _ => size.unwrap_or(known.active.overall),
    };
    let settable = limit_settings(known);
    let is_foreign = |name: &str, value: &Value| match session.get(name) {
        _ if settable.get(name).is_some() => false,
        Some(known) => known != value,
        None => name.starts_with("script-"),
    };
    match arguments.iter().find(|(name, value)| is_foreign(name, value)) {
        Some((name, _)) => {
            let text = format!("{name} cannot be changed by a client");
            Err(Error::new(Kind::PermissionDenied, text).hint("change it in the config file"))
        }
        None => Ok(limits),
    }
}

fn number(arguments: &Map<String, Value>, name: &str) -> Result<Option<u64>> {
    let Some(value) = arguments.get(name) else { return Ok(None) };
    let malformed = || Error::new(Kind::InvalidInput, format!("{name} is no number"));
    value.as_u64().map(Some).ok_or_else(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(arguments: Value) -> Result<Limits> {
        let rates = RateLimits { download: Some(5000), upload: None };
        let known = Limits { rates, active: ActiveLimits::default() };
        let session = constant_settings();
        changed(arguments.as_object().unwrap(), &session, known)
    }

    #[test]
    fn limits_change_with_their_switches() {
        let down = |arguments| change(arguments).unwrap().rates.download;
        assert_eq!(down(json!({})), Some(5000));
        assert_eq!(down(json!({ "speed-limit-down": 7 })), Some(7000));
        assert_eq!(down(json!({ "speed-limit-down-enabled": false })), None);
        let both = json!({ "speed-limit-up": 9, "speed-limit-up-enabled": true });
        assert_eq!(change(both).unwrap().rates.upload, Some(9000));
        assert_eq!(change(json!({ "speed-limit-up": 9 })).unwrap().rates.upload, None);
        let overall = |arguments| change(arguments).unwrap().active.overall;
        assert_eq!(overall(json!({ "download-queue-size": 8 })), 8);
        assert_eq!(overall(json!({ "download-queue-enabled": false })), usize::MAX);
        assert!(change(json!({ "speed-limit-down": -1 })).is_err());
        assert!(change(json!({ "speed-limit-down": "x" })).is_err());
    }

    #[test]
    fn a_client_sets_no_program_and_no_path() {
        for (name, value) in [
            ("script-torrent-done-filename", json!("/bin/sh")),
            ("script-torrent-done-enabled", json!(true)),
            ("script-torrent-added-filename", json!("/bin/sh")),
            ("script-torrent-new-filename", json!("/bin/sh")),
            ("incomplete-dir-enabled", json!(true)),
            ("config-dir", json!("/etc")),
            ("blocklist-url", json!("http://169.254.169.254/")),
            ("default-trackers", json!("http://evil/")),
            ("dht-enabled", json!(false)),
        ] {
            let error = change(json!({ name: value })).unwrap_err();
            assert_eq!(error.kind(), Kind::PermissionDenied, "{name}");
        }
        let same = json!({ "script-torrent-done-enabled": false, "utp-enabled": true });
        change(same).unwrap();
        change(json!({ "theme": "dark" })).unwrap();
    }
}
