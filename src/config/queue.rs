//! Settings of the queue: limits, the bandwidth schedule, categories, hooks.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use url::Url;

use super::{
    Env, SeedGoal, check_ratio,
    file::{duration, rate},
    network::OneOrMore,
};
use crate::error::{Error, Kind, Result};

/// The queue's settings.
#[derive(Debug, Clone, Default)]
pub struct QueueOptions {
    pub active: ActiveLimits,
    /// Storage of downloads that name none.
    pub storage: Option<String>,
    /// Whether downloads that name no layout are stored as whole files.
    pub whole_files: bool,
    /// Whether finished torrents are seeded, until their goals are reached.
    pub seed: bool,
    /// Tries of a download before it fails for good.
    pub max_tries: u32,
    pub schedule: Vec<ScheduleEntry>,
    /// By name.
    pub categories: BTreeMap<String, Category>,
    pub hooks: Hooks,
}

/// Maximum numbers of active downloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActiveLimits {
    pub overall: usize,
    pub per_storage: usize,
    /// Per server of downloads from URLs.
    pub per_host: usize,
}

impl Default for ActiveLimits {
    fn default() -> Self {
        Self { overall: 5, per_storage: usize::MAX, per_host: 3 }
    }
}

/// A part of the week with rate limits of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScheduleEntry {
    /// Monday first.
    pub days: [bool; 7],
    /// Minute of the day at which it begins.
    pub from: u16,
    /// Minute of the day at which it ends, up to 1440. One that is not after `from` is on the next day.
    pub to: u16,
    /// Bytes per second; 0 stops all downloads, `None` is no limit.
    pub download: Option<u64>,
    /// Bytes per second; `None` is no limit.
    pub upload: Option<u64>,
}

/// Settings of the downloads of a category.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Category {
    /// Name of the storage.
    pub storage: Option<String>,
    /// Overrides the queue's `whole_files`.
    pub whole_files: Option<bool>,
    /// Folder into which finished downloads are exported.
    pub export: Option<PathBuf>,
    /// Folder whose torrent files, links and lists of URLs are added.
    pub watch: Option<PathBuf>,
    /// Overrides the queue's `seed`.
    pub seed: Option<bool>,
    pub goal: SeedGoal,
    pub tags: Vec<String>,
}

/// What is called when a download ends. Only the config file can set it.
#[derive(Debug, Clone, Default)]
pub struct Hooks {
    /// Program and arguments.
    pub on_complete: Option<Vec<String>>,
    /// Program and arguments.
    pub on_error: Option<Vec<String>>,
    pub webhooks: Vec<Url>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Layout {
    Chunks,
    Files,
}

/// `[queue]` in the config file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct QueueSection {
    active: Option<usize>,
    active_per_storage: Option<usize>,
    active_per_host: Option<usize>,
    storage: Option<String>,
    layout: Option<Layout>,
    seed: Option<bool>,
    max_tries: Option<u32>,
    schedule: Vec<ScheduleSection>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScheduleSection {
    #[serde(default)]
    days: Option<String>,
    #[serde(default)]
    from: Option<String>,
    #[serde(default)]
    to: Option<String>,
    #[serde(default, deserialize_with = "rate")]
    download: Option<u64>,
    #[serde(default, deserialize_with = "rate")]
    upload: Option<u64>,
}

/// `[category.NAME]` in the config file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct CategorySection {
    storage: Option<String>,
    layout: Option<Layout>,
    export: Option<PathBuf>,
    watch: Option<PathBuf>,
    seed: Option<bool>,
    seed_ratio: Option<f64>,
    #[serde(deserialize_with = "duration")]
    seed_time: Option<Duration>,
    tags: Vec<String>,
}

/// `[hooks]` in the config file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct HooksSection {
    on_complete: Option<Vec<String>>,
    on_error: Option<Vec<String>>,
    webhook: Option<OneOrMore>,
}

impl QueueSection {
    pub(super) fn resolve(
        self,
        categories: BTreeMap<String, CategorySection>,
        hooks: HooksSection,
        export_root: Option<&Path>,
        env: &Env,
    ) -> Result<QueueOptions> {
        let defaults = ActiveLimits::default();
        // Zero is no limit, as in other settings.
        let limit = |given: Option<usize>, default| match given {
            Some(0) => usize::MAX,
            given => given.unwrap_or(default),
        };
        let mut schedule = Vec::with_capacity(self.schedule.len());
        for entry in self.schedule {
            schedule.push(entry.resolve().map_err(|e| e.with_context("queue.schedule"))?);
        }
        let mut resolved = BTreeMap::new();
        for (name, section) in categories {
            check_category_name(&name)?;
            let category = section.resolve(export_root, env);
            let category = category.map_err(|e| e.with_context(format!("category {name:?}")))?;
            resolved.insert(name, category);
        }
        Ok(QueueOptions {
            active: ActiveLimits {
                overall: limit(self.active, defaults.overall),
                per_storage: limit(self.active_per_storage, defaults.per_storage),
                per_host: limit(self.active_per_host, defaults.per_host),
            },
            storage: self.storage,
            whole_files: self.layout == Some(Layout::Files),
            seed: self.seed.unwrap_or(true),
            max_tries: self.max_tries.unwrap_or(DEFAULT_MAX_TRIES).max(1),
            schedule,
            categories: resolved,
            hooks: hooks.resolve()?,
        })
    }
}

/// About two hours of retries.
const DEFAULT_MAX_TRIES: u32 = 12;
const MAX_CATEGORY_NAME: usize = 255;

/// Checks the name of a category: APIs use it as a part of paths.
///
/// # Errors
/// `InvalidInput` for an empty or long name, one with control characters, and one with an empty or dotted path part.
pub fn check_category_name(name: &str) -> Result<()> {
    let bad_part =
        |part: &str| part.is_empty() || part == "." || part == ".." || part.trim() != part;
    let is_bad = name.len() > MAX_CATEGORY_NAME
        || name.split('/').any(bad_part)
        || name.chars().any(|c| c.is_control() || c == '\\');
    if is_bad {
        let text = format!("{name:?} is not usable as the name of a category");
        return Err(Error::new(Kind::InvalidInput, text)
            .hint("use letters, digits and spaces, with / between the parts"));
    }
    Ok(())
}

impl CategorySection {
    fn resolve(self, export_root: Option<&Path>, env: &Env) -> Result<Category> {
        let export = match (self.export, export_root) {
            (Some(path), Some(root)) if path.is_relative() && !path.starts_with("~") => {
                Some(env.absolute(&root.join(path))?)
            }
            (Some(path), _) => Some(env.absolute(&path)?),
            (None, _) => None,
        };
        if let (Some(path), Some(root)) = (&export, export_root) {
            let leaves = path.components().any(|part| part.as_os_str() == "..");
            if leaves || !path.starts_with(root) {
                let text = format!("export folder {} is not below export_root", path.display());
                return Err(Error::new(Kind::InvalidInput, text));
            }
        }
        Ok(Category {
            storage: self.storage,
            whole_files: self.layout.map(|layout| layout == Layout::Files),
            export,
            watch: self.watch.map(|path| env.absolute(&path)).transpose()?,
            seed: self.seed,
            goal: SeedGoal {
                ratio: self.seed_ratio.map(check_ratio).transpose()?,
                time: self.seed_time,
            },
            tags: self.tags,
        })
    }
}

impl HooksSection {
    fn resolve(self) -> Result<Hooks> {
        for argv in [&self.on_complete, &self.on_error].into_iter().flatten() {
            if argv.first().is_none_or(|program| program.is_empty()) {
                let text = "a hook is a list of a program and its arguments";
                return Err(Error::new(Kind::InvalidInput, text));
            }
        }
        let urls = self.webhook.map(OneOrMore::into_vec).unwrap_or_default();
        let parse = |text: &String| {
            let url = Url::parse(text).ok().filter(|url| ["http", "https"].contains(&url.scheme()));
            url.ok_or_else(|| {
                Error::new(Kind::InvalidInput, "hooks.webhook is not an http or https URL")
            })
        };
        Ok(Hooks {
            on_complete: self.on_complete,
            on_error: self.on_error,
            webhooks: urls.iter().map(parse).collect::<Result<_>>()?,
        })
    }
}

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl ScheduleSection {
    fn resolve(self) -> Result<ScheduleEntry> {
        let days = self.days.as_deref().map_or(Ok([true; 7]), parse_days)?;
        let from = self.from.as_deref().map_or(Ok(0), parse_minute)?;
        let to = self.to.as_deref().map_or(Ok(1440), parse_minute)?;
        let upload = self.upload.filter(|rate| *rate > 0);
        Ok(ScheduleEntry { days, from, to, download: self.download, upload })
    }
}

/// Parses `mon-fri`, `sat,sun`, `daily`.
fn parse_days(text: &str) -> Result<[bool; 7]> {
    let bad = || {
        Error::new(Kind::InvalidInput, format!("{text:?} is not a list of days"))
            .hint("write it like mon-fri, sat,sun or daily")
    };
    let lower = text.to_ascii_lowercase();
    if lower == "daily" {
        return Ok([true; 7]);
    }
    let index = |day: &str| DAYS.iter().position(|known| *known == day.trim()).ok_or_else(bad);
    let mut days = [false; 7];
    for part in lower.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (mut day, last) = (index(first)?, index(last)?);
        loop {
            days[day] = true;
            if day == last {
                break;
            }
            day = (day + 1) % 7;
        }
    }
    Ok(days)
}

/// Parses `08:30` and `24:00` to a minute of the day.
fn parse_minute(text: &str) -> Result<u16> {
    let parsed = text.trim().split_once(':').and_then(|(hour, minute)| {
        let (hour, minute) = (hour.parse::<u16>().ok()?, minute.parse::<u16>().ok()?);
        (hour <= 24 && minute < 60 && hour * 60 + minute <= 1440).then_some(hour * 60 + minute)
    });
    parsed.ok_or_else(|| {
        Error::new(Kind::InvalidInput, format!("{text:?} is not a time of day"))
            .hint("write it like 08:30")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(toml: &str) -> Result<QueueOptions> {
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct File {
            queue: QueueSection,
            category: BTreeMap<String, CategorySection>,
            hooks: HooksSection,
        }
        let file: File = toml::from_str(toml).unwrap();
        let root = Path::new("/srv/export");
        file.queue.resolve(file.category, file.hooks, Some(root), &Env::default())
    }

    #[test]
    fn a_schedule_has_days_and_times() {
        let text =
            "[[queue.schedule]]\ndays = 'fri-mon'\nfrom = '22:30'\nto = '6:00'\ndownload = 0";
        let entry = resolve(text).unwrap().schedule[0];
        assert_eq!(entry.days, [true, false, false, false, true, true, true]);
        assert_eq!((entry.from, entry.to, entry.download), (1350, 360, Some(0)));
        for bad in ["days = 'someday'", "from = '25:00'", "to = '8'", "from = '24:01'"] {
            assert!(resolve(&format!("[[queue.schedule]]\n{bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_export_folder_stays_below_the_root() {
        let export = |path: &str| {
            let options = resolve(&format!("[category.tv]\nexport = '{path}'"))?;
            Ok::<_, Error>(options.categories["tv"].export.clone())
        };
        assert_eq!(export("tv").unwrap(), Some(PathBuf::from("/srv/export/tv")));
        assert_eq!(export("/srv/export/x").unwrap(), Some(PathBuf::from("/srv/export/x")));
        for bad in ["/etc", "../x", "/srv/export/../x"] {
            assert!(export(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn category_names_are_no_paths() {
        for good in ["tv", "TV 4K", "tv/uhd", "été"] {
            check_category_name(good).unwrap();
        }
        for bad in ["", "/tv", "tv/", "a//b", "../x", "a\\b", "a\nb", " a", &"x".repeat(256)] {
            assert!(check_category_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_hook_needs_a_program() {
        assert!(resolve("[hooks]\non_complete = []").is_err());
        assert!(resolve("[hooks]\nwebhook = 'file:///x'").is_err());
        let hooks =
            resolve("[hooks]\non_error = ['/bin/x', '-v']\nwebhook = 'http://h/x'").unwrap();
        assert_eq!(hooks.hooks.webhooks.len(), 1);
    }
}
