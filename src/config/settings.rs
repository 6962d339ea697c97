//! The unparsed keys of one storage profile, each with its origin: where it is defined.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use super::secret::{Secret, SettingValue};
use crate::error::{Error, Kind, Result};

/// Every key of any profile type.
pub(super) const KEYS: &[&str] = &[
    "type",
    "path",
    "bucket",
    "prefix",
    "endpoint",
    "region",
    "path_style",
    "access_key_id",
    "secret_access_key",
    "public_url",
    "folder",
    "client_id",
    "client_secret",
    "refresh_token",
    "token",
    "service_account",
    "token_uri",
    "chunk",
    "upload_concurrency",
    "upload_limit",
];

/// Keys that are rejected in a URL, since URLs are typed, logged and recorded.
pub(super) const SECRET_KEYS: &[&str] =
    &["secret_access_key", "client_secret", "refresh_token", "token", "service_account"];

/// Key → value of one profile. Taking a key removes it; keys left at the end are unknown.
#[derive(Clone, Default)]
pub(super) struct ProfileSettings(BTreeMap<String, Setting>);

#[derive(Clone)]
struct Setting {
    value: SettingValue,
    /// `config.toml, line 7`, or the variable's name.
    origin: String,
}

impl fmt::Debug for ProfileSettings {
    /// Keys only, since a value may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl ProfileSettings {
    pub(super) fn set(&mut self, key: &str, value: &str, origin: String) {
        self.set_value(key, SettingValue::Text(value.to_owned()), origin);
    }

    pub(super) fn set_value(&mut self, key: &str, value: SettingValue, origin: String) {
        self.0.insert(key.to_owned(), Setting { value, origin });
    }

    /// Returns a text without removing it.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match &self.0.get(key)?.value {
            SettingValue::Text(text) => Some(text),
            SettingValue::Secret(_) => None,
        }
    }

    /// Sets a key that is not set yet.
    pub(super) fn set_default(&mut self, key: &str, value: &str, origin: &str) {
        if !self.0.contains_key(key) {
            self.set(key, value, origin.to_owned());
        }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// Where the profile is defined: the origin of its type, else of its first key.
    pub(super) fn origin(&self) -> Option<&str> {
        let first = self.0.get("type").or_else(|| self.0.values().next())?;
        Some(&first.origin)
    }

    /// Every key with its value.
    pub(super) fn values(&self) -> impl Iterator<Item = (&str, &SettingValue)> {
        self.0.iter().map(|(key, setting)| (key.as_str(), &setting.value))
    }

    pub(super) fn has_any(&self, keys: &[&str]) -> bool {
        keys.iter().any(|key| self.0.contains_key(*key))
    }

    /// Whether all keys come from a file of this name.
    pub(super) fn is_only_from(&self, file: &str) -> bool {
        !self.0.is_empty() && self.0.values().all(|setting| setting.origin.ends_with(file))
    }

    /// Expands a leading `~/` in paths to the home folder. A path that cannot be expanded stays as it is and fails when
    /// used.
    pub(super) fn expand_home(&mut self, absolute: impl Fn(&Path) -> Result<PathBuf>) {
        for key in ["path", "service_account"] {
            let Some(Setting { value: SettingValue::Text(text), .. }) = self.0.get_mut(key) else {
                continue;
            };
            let path = Path::new(text.as_str());
            let expanded = if path.starts_with("~") { absolute(path).ok() } else { None };
            if let Some(path) = expanded.and_then(|path| path.into_os_string().into_string().ok()) {
                *text = path;
            }
        }
    }

    pub(super) fn take_text(&mut self, key: &str) -> Result<Option<String>> {
        self.take_parsed(key, |text| Ok(text.to_owned()))
    }

    /// Removes `key` and parses it. An error names the key and where it is defined.
    pub(super) fn take_parsed<T>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T>,
    ) -> Result<Option<T>> {
        let Some(Setting { value, origin }) = self.0.remove(key) else { return Ok(None) };
        let parsed = match value {
            SettingValue::Text(text) => parse(&text),
            SettingValue::Secret(_) => {
                Err(Error::new(Kind::InvalidInput, "only a secret can have env or command"))
            }
        };
        parsed.map(Some).map_err(|e| e.with_context(format!("{key} ({origin})")))
    }

    pub(super) fn take_secret(&mut self, key: &str) -> Option<Secret> {
        match self.0.remove(key)?.value {
            SettingValue::Text(text) => Some(Secret::Text(text)),
            SettingValue::Secret(secret) => Some(secret),
        }
    }

    /// # Errors
    /// `InvalidInput` that names a key which was not taken.
    pub(super) fn finish(self, kind: &str) -> Result<()> {
        match self.0.into_iter().next() {
            None => Ok(()),
            Some((key, setting)) => Err(Error::new(
                Kind::InvalidInput,
                format!("{key} ({}): unknown key of a storage of type {kind:?}", setting.origin),
            )),
        }
    }
}
