//! The environment as a value, so that resolving settings is a pure function of its arguments.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::settings::{KEYS, ProfileSettings};
use crate::error::{Error, Kind, Result};

const STORAGE: &str = "BAE_STORAGE_";

/// Environment variables. Those that are not UTF-8 are left out; no setting needs one.
#[derive(Clone, Default)]
pub struct Env(BTreeMap<String, String>);

impl std::fmt::Debug for Env {
    /// Names only, since a value may be a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Env {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(vars: I) -> Self {
        Self(vars.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}

impl Env {
    /// The environment of this process.
    #[must_use]
    pub fn process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self(std::env::vars_os().filter_map(text).collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(super) fn config_home(&self) -> Option<PathBuf> {
        self.xdg("XDG_CONFIG_HOME", ".config")
    }

    pub(super) fn data_home(&self) -> Option<PathBuf> {
        self.xdg("XDG_DATA_HOME", ".local/share")
    }

    /// Makes a path from a flag or variable absolute. A leading `~/` is expanded here, since not every shell does that.
    pub(super) fn absolute_from_cwd(&self, path: &Path) -> Result<PathBuf> {
        if path.starts_with("~") {
            return self.absolute(path);
        }
        std::path::absolute(path).map_err(|e| Error::io(path.display().to_string(), e))
    }

    /// Expands a leading `~/`. Other relative paths are an error.
    pub(super) fn absolute(&self, path: &Path) -> Result<PathBuf> {
        let found = match path.strip_prefix("~") {
            Ok(rest) => self.absolute_dir("HOME").map(|home| home.join(rest)),
            Err(_) => path.is_absolute().then(|| path.to_owned()),
        };
        found.ok_or_else(|| {
            Error::new(Kind::InvalidInput, format!("path {path:?} is not absolute"))
                .hint("start it with / or ~/")
        })
    }

    /// As the XDG specification requires, a relative value is ignored.
    fn xdg(&self, name: &str, below_home: &str) -> Option<PathBuf> {
        self.absolute_dir(name).or_else(|| Some(self.absolute_dir("HOME")?.join(below_home)))
    }

    fn absolute_dir(&self, name: &str) -> Option<PathBuf> {
        self.0.get(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }

    /// Applies every `BAE_STORAGE_<NAME>_<KEY>` over `profiles`. An unknown name creates a new profile.
    pub(super) fn add_profiles(
        &self,
        profiles: &mut BTreeMap<String, ProfileSettings>,
    ) -> Result<()> {
        for (variable, value) in &self.0 {
            let Some(rest) = variable.strip_prefix(STORAGE) else { continue };
            let (name, key) = split_name_and_key(rest).ok_or_else(|| {
                Error::new(Kind::InvalidInput, format!("{variable}: unknown storage key"))
                    .hint(format!("write {STORAGE}<NAME>_<KEY>; keys: {}", KEYS.join(", ")))
            })?;
            let existing = profiles.keys().find(|profile| as_variable(profile) == name).cloned();
            let profile = existing.unwrap_or_else(|| name.to_ascii_lowercase());
            profiles.entry(profile).or_default().set(key, value, variable.clone());
        }
        for settings in profiles.values_mut() {
            settings.expand_home(|path| self.absolute(path));
        }
        Ok(())
    }
}

/// Splits at the longest matching key: `MUSIC_REFRESH_TOKEN` is the key `refresh_token` of `MUSIC`, not the key `token`
/// of `MUSIC_REFRESH`.
fn split_name_and_key(rest: &str) -> Option<(&str, &'static str)> {
    let fits = |key: &&'static str| {
        let name = rest.strip_suffix(as_variable(key).as_str())?.strip_suffix('_')?;
        (!name.is_empty()).then_some((name, *key))
    };
    KEYS.iter().filter_map(fits).max_by_key(|(_, key)| key.len())
}

pub(super) fn as_variable(name: &str) -> String {
    name.replace('-', "_").to_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_split_at_the_longest_matching_key() {
        assert_eq!(split_name_and_key("MUSIC_REFRESH_TOKEN"), Some(("MUSIC", "refresh_token")));
        assert_eq!(split_name_and_key("MUSIC_TOKEN"), Some(("MUSIC", "token")));
        assert_eq!(split_name_and_key("A_B_SECRET_ACCESS_KEY"), Some(("A_B", "secret_access_key")));
        assert_eq!(split_name_and_key("PATH"), None);
        assert_eq!(split_name_and_key("MUSIC_PAHT"), None);
    }

    #[test]
    fn a_misspelt_variable_is_named() {
        let env: Env = [("BAE_STORAGE_MUSIC_PAHT", "/x")].into_iter().collect();
        let e = env.add_profiles(&mut BTreeMap::new()).unwrap_err();
        assert!(e.report().contains("BAE_STORAGE_MUSIC_PAHT"));
    }
}
