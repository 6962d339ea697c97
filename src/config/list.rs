//! Lists every storage that a user can name.

use schemars::JsonSchema;
use serde::Serialize;

use super::{Config, Profile, settings::ProfileSettings};
use crate::error::Result;

/// One storage, for display. Never contains a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct StorageInfo {
    pub name: String,
    /// `local`, `s3` or `drive`; another type as it is written.
    #[serde(rename = "type")]
    pub kind: String,
    /// The location as a URL.
    #[serde(rename = "place")]
    pub location: String,
    /// Chunk size in bytes.
    pub chunk: Option<u64>,
    /// Whether an import without `--storage` uses it.
    pub default: bool,
    /// Where it is defined: file and line, a variable, or `imports` for one without a name. `None` for the built-in
    /// one.
    pub defined: Option<String>,
    /// Why it is not usable.
    pub error: Option<String>,
}

impl Config {
    /// All named storages, including unusable ones, and `others`: storages that imports record by URL.
    #[must_use]
    pub fn list_storages<'a>(&self, others: impl Iterator<Item = &'a str>) -> Vec<StorageInfo> {
        let named = self.storage_names();
        let mut list: Vec<_> =
            named.iter().map(|name| self.describe(name, self.profiles.get(*name))).collect();
        list.extend(others.filter(|other| !named.contains(other)).map(|other| {
            let defined = Some("imports".to_owned());
            StorageInfo { defined, ..self.describe(other, None) }
        }));
        list
    }

    fn describe(&self, name: &str, settings: Option<&ProfileSettings>) -> StorageInfo {
        let defined = settings.and_then(|s| s.origin()).map(str::to_owned);
        let default = name == self.default_storage;
        let base = StorageInfo {
            name: name.to_owned(),
            kind: String::new(),
            location: String::new(),
            chunk: None,
            default,
            defined,
            error: None,
        };
        let profile: Result<Profile> = self.storage(name);
        match profile {
            Ok(profile) => StorageInfo {
                kind: profile.type_name().to_owned(),
                location: profile.location(),
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
    use crate::config::{ConfigFile, Env, Overrides};

    #[test]
    fn the_list_has_all_storages_also_broken_ones_and_no_secret() {
        let toml = "[storage.music]\ntype='s3'\nbucket='b'\nsecret_access_key='hunter2'\n\
                    [storage.broken]\ntype='local'";
        let env = [
            ("HOME", "/h"),
            ("BAE_STORAGE", "music"),
            ("BAE_STORAGE_NAS_PATH", "/n"),
            ("BAE_STORAGE_NAS_TYPE", "local"),
        ];
        let file = ConfigFile::parse(toml, Path::new("/c.toml")).unwrap();
        let env: Env = env.into_iter().collect();
        let list = Config::resolve(file, Overrides::default(), &env).unwrap();
        let list = list.list_storages(["music", "file:///x"].into_iter());
        let names: Vec<_> = list.iter().map(|s| (s.name.as_str(), s.default)).collect();
        let expected = [("file", false), ("broken", false), ("music", true), ("nas", false)];
        assert_eq!(names[..4], expected);
        assert_eq!((names[4].0, list[4].defined.as_deref()), ("file:///x", Some("imports")));
        assert_eq!(list[0].defined, None);
        assert_eq!(list[1].error.as_deref(), Some("storage \"broken\": path is missing"));
        assert_eq!(list[2].defined.as_deref(), Some("/c.toml, line 2"));
        assert_eq!((list[2].kind.as_str(), list[2].location.as_str()), ("s3", "s3://b"));
        assert_eq!(list[3].defined.as_deref(), Some("BAE_STORAGE_NAS_TYPE"));
        assert!(!serde_json::to_string(&list).unwrap().contains("hunter2"));
    }
}
