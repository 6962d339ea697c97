//! The TOML config file: its structure, reading it, and errors with file and line.

use std::{collections::BTreeMap, fmt, fs, io, path::Path, path::PathBuf, time::Duration};

use serde::{Deserialize, Deserializer, de};
use toml::Spanned;

use super::{
    api::ApiSection,
    feeds::FeedSection,
    ipfs::IpfsSection,
    network::NetworkSection,
    queue::{CategorySection, HooksSection, QueueSection},
    secret::SettingValue,
    seeding::{CloudBudget, SeedingSection},
    settings::ProfileSettings,
};
use crate::{
    error::{Error, Kind, Result},
    units::{ByteSize, parse_duration},
};

/// The settings in the config file.
#[derive(Debug, Default)]
pub(super) struct ConfigFile {
    pub(super) data_dir: Option<PathBuf>,
    pub(super) memory: Option<ByteSize>,
    pub(super) cache_dir: Option<PathBuf>,
    pub(super) cache_size: Option<ByteSize>,
    pub(super) limit_rate: Option<u64>,
    pub(super) upload_limit: Option<u64>,
    pub(super) timeout: Option<Duration>,
    pub(super) network: NetworkSection,
    pub(super) seeding: SeedingSection,
    pub(super) ipfs: IpfsSection,
    pub(super) api: ApiSection,
    pub(super) queue: QueueSection,
    pub(super) categories: BTreeMap<String, CategorySection>,
    pub(super) hooks: HooksSection,
    pub(super) feeds: BTreeMap<String, FeedSection>,
    pub(super) profiles: BTreeMap<String, ProfileSettings>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawConfigFile {
    data_dir: Option<PathBuf>,
    #[serde(deserialize_with = "size")]
    memory: Option<ByteSize>,
    cache_dir: Option<PathBuf>,
    #[serde(deserialize_with = "size")]
    cache_size: Option<ByteSize>,
    #[serde(deserialize_with = "rate")]
    limit_rate: Option<u64>,
    #[serde(deserialize_with = "rate")]
    upload_limit: Option<u64>,
    #[serde(deserialize_with = "duration")]
    timeout: Option<Duration>,
    network: NetworkSection,
    seeding: SeedingSection,
    ipfs: IpfsSection,
    api: ApiSection,
    queue: QueueSection,
    category: BTreeMap<String, CategorySection>,
    hooks: HooksSection,
    feed: BTreeMap<String, FeedSection>,
    storage: BTreeMap<String, BTreeMap<String, Spanned<SettingValue>>>,
}

impl ConfigFile {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let context = || format!("config file {}", path.display());
        let text = fs::read_to_string(path).map_err(|e| Error::io(context(), e))?;
        Self::parse(&text, path)
    }

    pub(super) fn read_if_exists(path: &Path) -> Result<Self> {
        match fs::metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            _ => Self::read(path),
        }
    }

    pub(super) fn parse(text: &str, path: &Path) -> Result<Self> {
        let line = |at: usize| text.bytes().take(at).filter(|b| *b == b'\n').count() + 1;
        let raw: RawConfigFile = toml::from_str(text).map_err(|e| {
            let at = e.span().map_or(String::new(), |span| format!(", line {}", line(span.start)));
            let location = format!("config file {}{at}", path.display());
            // Only the message: the long form quotes the line, which may contain a secret.
            Error::new(Kind::InvalidInput, format!("{location}: {}", e.message().trim()))
        })?;
        let mut profiles = BTreeMap::new();
        for (name, keys) in raw.storage {
            let mut settings = ProfileSettings::default();
            for (key, value) in keys {
                let origin = format!("{}, line {}", path.display(), line(value.span().start));
                settings.set_value(&key, value.into_inner(), origin);
            }
            profiles.insert(name, settings);
        }
        Ok(Self {
            data_dir: raw.data_dir,
            memory: raw.memory,
            cache_dir: raw.cache_dir,
            cache_size: raw.cache_size,
            limit_rate: raw.limit_rate,
            upload_limit: raw.upload_limit,
            timeout: raw.timeout,
            network: raw.network,
            seeding: raw.seeding,
            ipfs: raw.ipfs,
            api: raw.api,
            queue: raw.queue,
            categories: raw.category,
            hooks: raw.hooks,
            feeds: raw.feed,
            profiles,
        })
    }
}

/// Parses a rate in bytes per second: `5M`, `5MiB/s`.
pub(crate) fn parse_rate(text: &str) -> Result<u64> {
    let number = text.trim().strip_suffix("/s").unwrap_or(text);
    number.parse::<ByteSize>().map(|size| size.0)
}

pub(super) fn size<'de, D: Deserializer<'de>>(d: D) -> Result<Option<ByteSize>, D::Error> {
    scalar(d, |text| text.parse())
}

pub(super) fn budget<'de, D: Deserializer<'de>>(d: D) -> Result<Option<CloudBudget>, D::Error> {
    scalar(d, |text| text.parse())
}

pub(super) fn rate<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    scalar(d, parse_rate)
}

pub(super) fn duration<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    scalar(d, parse_duration)
}

/// Deserializes text, or an integer that is parsed like the same text.
fn scalar<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    parse: impl Fn(&str) -> Result<T>,
) -> Result<Option<T>, D::Error> {
    struct Scalar;
    impl de::Visitor<'_> for Scalar {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("text or a whole number")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<String, E> {
            Ok(number.to_string())
        }
    }
    let text = deserializer.deserialize_any(Scalar)?;
    parse(&text).map(Some).map_err(|e| match e.hint_text() {
        Some(hint) => de::Error::custom(format!("{}; {hint}", e.report())),
        None => de::Error::custom(e.report()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        let e = ConfigFile::parse(text, Path::new("/c/config.toml")).unwrap_err();
        assert_eq!(e.kind(), Kind::InvalidInput);
        e.report()
    }

    #[test]
    fn errors_name_the_file_and_the_line() {
        assert!(
            error("memory = '64M'\nlimit_rate = = 3")
                .starts_with("config file /c/config.toml, line 2: ")
        );
        assert!(
            error("\n\nmemory = 'much'")
                .starts_with("config file /c/config.toml, line 3: size \"much\"")
        );
        assert!(error("memry = '64M'").contains("line 1: unknown field `memry`"));
        assert!(error("[network]\ndht = 'yes'").contains("line 2"));
        assert!(error("[storage.a]\nsecret_access_key = { file = '/x' }").contains("line 2"));
    }

    #[test]
    fn errors_do_not_quote_the_line() {
        assert!(!error("[storage.a]\nsecret_access_key = 'hunter2' x").contains("hunter2"));
    }

    #[test]
    fn a_missing_file_is_an_error_only_if_it_must_exist() {
        let path = Path::new("/nonexistent/config.toml");
        assert!(ConfigFile::read_if_exists(path).is_ok());
        assert_eq!(ConfigFile::read(path).unwrap_err().kind(), Kind::NotFound);
    }
}
