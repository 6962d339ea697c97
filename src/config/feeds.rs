//! `[feed.NAME]`: lists of items on web servers whose links are added to the queue.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;
use url::Url;

use super::{
    Secret,
    file::{duration, size},
    secret::SettingValue,
    title_pattern::TitlePattern,
};
use crate::{
    error::{Error, Kind, Result},
    units::ByteSize,
};

/// Time between two requests, unless the feed's section says otherwise.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(30 * 60);
/// Shortest time between two requests.
const MIN_INTERVAL: Duration = Duration::from_secs(5 * 60);
const MAX_FEEDS: usize = 1000;
const MAX_PATTERNS: usize = 1000;
const MAX_NAME: usize = 100;

/// A feed of the config file.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedOptions {
    /// It may contain a passkey.
    pub url: Secret,
    /// Time between two requests.
    pub interval: Duration,
    /// Category of its downloads.
    pub category: Option<String>,
    pub rules: FeedRules,
    /// Whether its downloads wait for a request to start.
    pub paused: bool,
    /// Whether the feed and its items may lead to hosts outside the public network.
    pub private_hosts: bool,
}

/// Which items of a feed are added.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FeedRules {
    /// One of them must match the title; none is all items.
    pub include: Vec<TitlePattern>,
    /// None of them may match the title.
    pub exclude: Vec<TitlePattern>,
    /// Items of a known smaller size, in bytes, are left out.
    pub min_size: Option<u64>,
    /// Items of a known larger size, in bytes, are left out.
    pub max_size: Option<u64>,
}

impl FeedRules {
    /// Rules from patterns as written.
    ///
    /// # Errors
    /// `InvalidInput` for a pattern that is not usable.
    pub fn parse(include: &[String], exclude: &[String]) -> Result<Self> {
        let parse = |texts: &[String]| -> Result<Vec<_>> {
            if texts.len() > MAX_PATTERNS {
                let text = format!("more than {MAX_PATTERNS} patterns");
                return Err(Error::new(Kind::InvalidInput, text));
            }
            texts.iter().map(|text| TitlePattern::parse(text)).collect()
        };
        Ok(Self { include: parse(include)?, exclude: parse(exclude)?, ..Self::default() })
    }
}

/// `[feed.NAME]` in the config file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FeedSection {
    url: SettingValue,
    #[serde(default, deserialize_with = "duration")]
    interval: Option<Duration>,
    category: Option<String>,
    #[serde(default)]
    include: Vec<String>,
    #[serde(default)]
    exclude: Vec<String>,
    #[serde(default, deserialize_with = "size")]
    min_size: Option<ByteSize>,
    #[serde(default, deserialize_with = "size")]
    max_size: Option<ByteSize>,
    #[serde(default)]
    paused: bool,
    private_hosts: Option<bool>,
}

impl std::fmt::Debug for FeedSection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FeedSection").field("category", &self.category).finish_non_exhaustive()
    }
}

/// Checks the sections of all feeds. `private_hosts` is for those that do not say.
pub(super) fn resolve(
    sections: BTreeMap<String, FeedSection>,
    private_hosts: bool,
) -> Result<BTreeMap<String, FeedOptions>> {
    if sections.len() > MAX_FEEDS {
        let text = format!("the config file has more than {MAX_FEEDS} feeds");
        return Err(Error::new(Kind::InvalidInput, text));
    }
    let resolved = sections.into_iter().map(|(name, section)| {
        check_name(&name)?;
        let feed = section.resolve(private_hosts);
        Ok((name.clone(), feed.map_err(|e| e.with_context(format!("feed {name:?}")))?))
    });
    resolved.collect()
}

/// A name is a part of paths of the API.
fn check_name(name: &str) -> Result<()> {
    let is_part = |c: char| c.is_alphanumeric() || "-_. ".contains(c);
    let is_dots = name.chars().all(|c| c == '.');
    if name.is_empty() || name.len() > MAX_NAME || is_dots || !name.chars().all(is_part) {
        let text = format!("{name:?} is not usable as the name of a feed");
        return Err(Error::new(Kind::InvalidInput, text)
            .hint("use letters, digits, spaces, dots, dashes and underscores"));
    }
    Ok(())
}

impl FeedSection {
    fn resolve(self, private_hosts: bool) -> Result<FeedOptions> {
        let url = match self.url {
            SettingValue::Text(text) => {
                check_url(&text)?;
                Secret::Text(text)
            }
            SettingValue::Secret(secret) => secret,
        };
        let interval = self.interval.unwrap_or(DEFAULT_INTERVAL);
        if interval < MIN_INTERVAL {
            let text = "the interval is shorter than 5 minutes";
            return Err(Error::new(Kind::InvalidInput, text));
        }
        let (min_size, max_size) = (self.min_size.map(|s| s.0), self.max_size.map(|s| s.0));
        if let (Some(min), Some(max)) = (min_size, max_size)
            && min > max
        {
            return Err(Error::new(Kind::InvalidInput, "min_size is above max_size"));
        }
        let rules = FeedRules::parse(&self.include, &self.exclude)?;
        Ok(FeedOptions {
            url,
            interval,
            category: self.category,
            rules: FeedRules { min_size, max_size, ..rules },
            paused: self.paused,
            private_hosts: self.private_hosts.unwrap_or(private_hosts),
        })
    }
}

/// Parses the URL of a feed.
///
/// # Errors
/// `InvalidInput`, without the text, which may contain a passkey.
pub fn check_url(text: &str) -> Result<Url> {
    let url = Url::parse(text.trim()).ok();
    let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    url.ok_or_else(|| Error::new(Kind::InvalidInput, "the URL of a feed begins with http or https"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(toml: &str) -> Result<FeedOptions> {
        let section = toml::from_str::<FeedSection>(toml).unwrap();
        let mut resolved = resolve([("f".to_owned(), section)].into(), false)?;
        Ok(resolved.remove("f").unwrap())
    }

    #[test]
    fn a_feed_has_an_interval_with_a_floor_and_rules() {
        let plain = feed("url = 'https://x/rss'").unwrap();
        assert_eq!((plain.interval, plain.paused), (DEFAULT_INTERVAL, false));
        let full = "url = { env = 'FEED' }\ninterval = '1h'\ninclude = ['a b', 'c*']\n\
                    exclude = ['beta']\nmin_size = '1MiB'\nmax_size = '2GiB'\npaused = true";
        let full = feed(full).unwrap();
        assert_eq!((full.rules.include.len(), full.rules.max_size), (2, Some(2 << 30)));
        for bad in ["interval = '4m'", "include = ['']", "min_size = '2G'\nmax_size = '1G'"] {
            assert!(feed(&format!("url = 'https://x/rss'\n{bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_url_of_a_feed_is_never_shown() {
        let e = feed("url = 'ftp://u:hunter2@x/rss'").unwrap_err();
        assert!(!e.report().contains("hunter2"), "{}", e.report());
        let shown = feed("url = 'https://x/rss?passkey=hunter2'").unwrap();
        assert!(!format!("{shown:?}").contains("hunter2"));
    }

    #[test]
    fn names_of_feeds_are_no_paths() {
        for good in ["linux", "Linux ISOs", "a.b-c_d", "été"] {
            check_name(good).unwrap();
        }
        for bad in ["", ".", "..", "a/b", "a\\b", "a\nb", "a?b", &"x".repeat(101)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
