//! Every storage that can be named, for people to choose from.

use serde::Serialize;

use super::{Config, Profile, settings::Settings};
use crate::error::Result;

/// One storage in one line; never with a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StorageInfo {
    pub name: String,
    /// `local`, `s3` or `drive`; as it is written where it is none of these.
    #[serde(rename = "type")]
    pub kind: String,
    /// As a URL.
    pub place: String,
    /// Bytes of a chunk.
    pub chunk: Option<u64>,
    /// Whether an import without `--storage` goes there.
    pub default: bool,
    /// File and line, or the variable, or `imports` for one without a name; `None` for the one that is always there.
    pub defined: Option<String>,
    /// Why it cannot be used.
    pub error: Option<String>,
}

impl Config {
    /// All storages with a name, those that cannot be used too, and `others`: those that imports know by their URLs.
    #[must_use]
    pub fn storages_and<'a>(&self, others: impl Iterator<Item = &'a str>) -> Vec<StorageInfo> {
        let named = self.storage_names();
        let mut list: Vec<_> =
            named.iter().map(|name| self.describe(name, self.profiles.get(*name))).collect();
        list.extend(others.filter(|other| !named.contains(other)).map(|other| {
            let defined = Some("imports".to_owned());
            StorageInfo { defined, ..self.describe(other, None) }
        }));
        list
    }

    fn describe(&self, name: &str, settings: Option<&Settings>) -> StorageInfo {
        let defined = settings.and_then(|s| s.origin()).map(str::to_owned);
        let default = name == self.default_storage;
        let base = StorageInfo {
            name: name.to_owned(),
            kind: String::new(),
            place: String::new(),
            chunk: None,
            default,
            defined,
            error: None,
        };
        let profile: Result<Profile> = self.storage(name);
        match profile {
            Ok(profile) => StorageInfo {
                kind: profile.type_name().to_owned(),
                place: profile.place(),
                chunk: Some(profile.chunk),
                ..base
            },
            Err(e) => {
                let kind = settings.and_then(|s| s.text("type")).unwrap_or_default().to_owned();
                StorageInfo { kind, error: Some(e.report()), ..base }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Env, File, Overrides};

    #[test]
    fn lists_what_can_be_named_also_what_is_broken_and_no_secret() {
        let toml = "[storage.music]\ntype='s3'\nbucket='b'\nsecret_access_key='hunter2'\n\
                    [storage.broken]\ntype='local'";
        let env = [
            ("HOME", "/h"),
            ("BAE_STORAGE", "music"),
            ("BAE_STORAGE_NAS_PATH", "/n"),
            ("BAE_STORAGE_NAS_TYPE", "local"),
        ];
        let file = File::parse(toml, Path::new("/c.toml")).unwrap();
        let env: Env = env.into_iter().collect();
        let list = Config::resolve(file, Overrides::default(), &env).unwrap();
        let list = list.storages_and(["music", "file:///x"].into_iter());
        let names: Vec<_> = list.iter().map(|s| (s.name.as_str(), s.default)).collect();
        let expected = [("file", false), ("broken", false), ("music", true), ("nas", false)];
        assert_eq!(names[..4], expected);
        assert_eq!((names[4].0, list[4].defined.as_deref()), ("file:///x", Some("imports")));
        assert_eq!(list[0].defined, None);
        assert_eq!(list[1].error.as_deref(), Some("storage \"broken\": has no path"));
        assert_eq!(list[2].defined.as_deref(), Some("/c.toml, line 2"));
        assert_eq!((list[2].kind.as_str(), list[2].place.as_str()), ("s3", "s3://b"));
        assert_eq!(list[3].defined.as_deref(), Some("BAE_STORAGE_NAS_TYPE"));
        assert!(!serde_json::to_string(&list).unwrap().contains("hunter2"));
    }
}
