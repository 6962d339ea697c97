//! Which items of a feed are added, and why others are not. Pure.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

use super::item::Item;
use crate::{config::FeedRules, units::ByteSize};

/// Schemes of links that are added. Others could use the logins of this machine.
const SCHEMES: [&str; 3] = ["http", "https", "magnet"];

/// Why an item is not added. JSON has its name in snake case, as `skip`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "skip", rename_all = "snake_case")]
pub enum SkipReason {
    /// It has no link that could be added.
    NoLink,
    /// Its link is of a scheme that feeds may not use.
    Scheme { scheme: String },
    /// Its link is not usable.
    Unusable { error: String },
    /// It was added before.
    Added {
        /// Id of the download, which may be gone.
        download: String,
    },
    /// An item before it in the feed has the same identity.
    Duplicate,
    /// No pattern of `include` matches.
    NotIncluded,
    /// A pattern of `exclude` matches.
    Excluded { pattern: String },
    /// Smaller than `min_size`.
    TooSmall { bytes: u64 },
    /// Larger than `max_size`.
    TooLarge { bytes: u64 },
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLink => f.write_str("no link"),
            Self::Scheme { scheme } => write!(f, "links of the scheme {scheme:?} are not added"),
            Self::Unusable { error } => write!(f, "not usable: {error}"),
            Self::Added { download } => write!(f, "added before as {download}"),
            Self::Duplicate => f.write_str("the same identity as another item"),
            Self::NotIncluded => f.write_str("no include pattern matches"),
            Self::Excluded { pattern } => write!(f, "excluded by {pattern:?}"),
            Self::TooSmall { bytes } => write!(f, "too small: {}", ByteSize(*bytes)),
            Self::TooLarge { bytes } => write!(f, "too large: {}", ByteSize(*bytes)),
        }
    }
}

/// What the rules say about an item, whether or not it was added before.
///
/// # Errors
/// The reason for which it is not added.
pub(super) fn judge(item: &Item, rules: &FeedRules) -> Result<String, SkipReason> {
    if !rules.include.is_empty() && !rules.include.iter().any(|p| p.matches(&item.title)) {
        return Err(SkipReason::NotIncluded);
    }
    if let Some(pattern) = rules.exclude.iter().find(|pattern| pattern.matches(&item.title)) {
        return Err(SkipReason::Excluded { pattern: pattern.as_str().to_owned() });
    }
    if let Some(bytes) = item.size() {
        if rules.min_size.is_some_and(|min| bytes < min) {
            return Err(SkipReason::TooSmall { bytes });
        }
        if rules.max_size.is_some_and(|max| bytes > max) {
            return Err(SkipReason::TooLarge { bytes });
        }
    }
    let source = item.source().ok_or(SkipReason::NoLink)?;
    // An info-hash has no scheme.
    match source.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase()) {
        Some(scheme) if !SCHEMES.contains(&scheme.as_str()) => Err(SkipReason::Scheme { scheme }),
        _ => Ok(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(title: &str, size: Option<u64>, link: &str) -> Item {
        Item { title: title.into(), size, link: link.parse().ok(), ..Item::default() }
    }

    fn rules(include: &[&str], exclude: &[&str]) -> FeedRules {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        FeedRules::parse(&owned(include), &owned(exclude)).unwrap()
    }

    #[test]
    fn an_item_needs_an_included_title_a_size_within_the_limits_and_a_link() {
        let rules = FeedRules {
            min_size: Some(100),
            max_size: Some(200),
            ..rules(&["debian netinst", "ubuntu"], &["beta", "*rc*"])
        };
        let judge = |title: &str, size, link: &str| judge(&item(title, size, link), &rules);
        let link = "http://x/a";
        assert_eq!(judge("Debian 12 netinst", Some(150), link).unwrap(), link);
        assert_eq!(judge("Ubuntu", None, link).unwrap(), link, "a size that is not known passes");
        assert_eq!(judge("Fedora", None, link), Err(SkipReason::NotIncluded));
        let excluded = |pattern: &str| Err(SkipReason::Excluded { pattern: pattern.into() });
        assert_eq!(judge("Ubuntu Beta", None, link), excluded("beta"));
        assert_eq!(judge("Ubuntu RC1", None, link), excluded("*rc*"));
        assert_eq!(judge("Ubuntu", Some(99), link), Err(SkipReason::TooSmall { bytes: 99 }));
        assert_eq!(judge("Ubuntu", Some(201), link), Err(SkipReason::TooLarge { bytes: 201 }));
        assert_eq!(judge("Ubuntu", None, ""), Err(SkipReason::NoLink));
    }

    #[test]
    fn links_of_other_schemes_are_not_added() {
        let none = FeedRules::default();
        for link in
            ["file:///etc/passwd", "s3://bucket/key", "sftp://host/x", "javascript:alert(1)"]
        {
            let judged = judge(&item("t", None, link), &none);
            assert!(matches!(judged, Err(SkipReason::Scheme { .. })), "{link}: {judged:?}");
        }
        let hash = Item { info_hash: Some("ab".repeat(20)), ..Item::default() };
        assert!(judge(&hash, &none).is_ok());
    }
}
