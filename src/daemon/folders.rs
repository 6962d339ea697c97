//! Folders of the dialects that have folders where bae has storages and categories.
//!
//! A client names a storage or a category, with or without a slash before it, or a folder that the config file names for
//! exports. Any other text is refused, so that no client can name a path. The other way round, a download is shown in its
//! export folder, or in `/STORAGE`; a client can use what it was shown.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use rustix::fs::statvfs;
use url::Url;

use super::state::ApiState;
use crate::{
    config::Category,
    error::{Error, Kind, Result},
    queue::Download,
};

/// What a folder stands for. Both empty is the default storage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) storage: Option<String>,
    pub(super) category: Option<String>,
}

/// All names that a folder may be.
#[derive(Debug, Clone, Default)]
pub(super) struct Folders {
    storages: Vec<String>,
    categories: BTreeMap<String, Category>,
    default_storage: String,
    export_root: Option<PathBuf>,
}

impl Folders {
    pub(super) fn of(state: &ApiState) -> Self {
        let config = state.engine().config();
        let default_storage = config.queue.storage.as_deref();
        Self {
            storages: config.storage_names().into_iter().map(str::to_owned).collect(),
            categories: state.queue().categories(),
            default_storage: default_storage.unwrap_or(config.default_storage()).to_owned(),
            export_root: state.options().export_root.clone(),
        }
    }

    /// What `text` stands for.
    ///
    /// # Errors
    /// `InvalidInput` for every text that is no known name.
    pub(super) fn resolve(&self, text: &str) -> Result<Target> {
        let trimmed = text.trim_end_matches('/');
        if trimmed.is_empty() || trimmed == self.default_folder() {
            return Ok(Target::default());
        }
        let name = trimmed.strip_prefix('/').unwrap_or(trimmed);
        if self.storages.iter().any(|known| known == name) {
            return Ok(Target { storage: Some(name.to_owned()), category: None });
        }
        let in_root = self.export_root.as_ref().and_then(|root| {
            let rest = trimmed.strip_prefix(root.to_str()?.trim_end_matches('/'))?;
            rest.strip_prefix('/')
        });
        let names = [Some(name), in_root];
        let by_name = names.into_iter().flatten().find(|name| self.categories.contains_key(*name));
        let by_export = || {
            let mut all = self.categories.iter();
            let exports = |category: &Category| {
                let export = category.export.as_deref().and_then(Path::to_str);
                export.is_some_and(|export| export.trim_end_matches('/') == trimmed)
            };
            all.find(|(_, category)| exports(category)).map(|(name, _)| name.as_str())
        };
        match by_name.or_else(by_export) {
            Some(category) => Ok(Target { storage: None, category: Some(category.to_owned()) }),
            None => {
                let text = "the folder is neither the name of a storage nor of a category";
                let names = self.storages.join(", ");
                Err(Error::new(Kind::InvalidInput, text).hint(format!("storages: {names}")))
            }
        }
    }

    /// The folder that contains the file or root folder of a download.
    pub(super) fn of_download(&self, download: &Download) -> String {
        let exported = download.exported.as_deref().and_then(Path::parent);
        let category = download.settings.category.as_ref();
        let export = category.and_then(|name| self.categories.get(name)?.export.as_deref());
        match exported.or(export) {
            Some(folder) => folder.to_string_lossy().into_owned(),
            None => format!("/{}", download.settings.storage),
        }
    }

    /// The folder of downloads for which the client names none.
    pub(super) fn default_folder(&self) -> String {
        match &self.export_root {
            Some(root) => root.to_string_lossy().trim_end_matches('/').to_owned(),
            None => format!("/{}", self.default_storage),
        }
    }

    /// The storage of a target.
    pub(super) fn storage_of<'a>(&'a self, target: &'a Target) -> &'a str {
        let category = target.category.as_ref().and_then(|name| self.categories.get(name));
        let storage = target.storage.as_deref();
        storage.or(category.and_then(|c| c.storage.as_deref())).unwrap_or(&self.default_storage)
    }

    /// The local folder behind a target: the export folder, or that of a local storage.
    fn local_folder(&self, target: &Target, state: &ApiState) -> Option<PathBuf> {
        let category = target.category.as_ref().and_then(|name| self.categories.get(name));
        if let Some(export) = category.and_then(|category| category.export.clone()) {
            return Some(export);
        }
        let storages = state.engine().config().list_storages(std::iter::empty());
        let storage = self.storage_of(target);
        let local = storages.into_iter().find(|s| s.name == storage && s.kind == "local")?;
        Url::parse(&local.location).ok()?.to_file_path().ok()
    }

    /// Free bytes and all bytes of the file system behind a target; `None` for a storage that is not local.
    pub(super) fn space(&self, target: &Target, state: &ApiState) -> Option<(u64, u64)> {
        let folder = self.local_folder(target, state)?;
        // Folders are made when they are first needed.
        let existing = folder.ancestors().find(|folder| folder.exists())?;
        let stat = statvfs(existing).ok()?;
        Some((stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize))
    }
}

#[cfg(test)]
impl Folders {
    /// Two storages, of which `disk` is the default, and two categories: `tv`, exported, and `music`, in `cloud`.
    pub(super) fn example() -> Self {
        let tv = Category { export: Some("/exports/series".into()), ..Category::default() };
        let music = Category { storage: Some("cloud".into()), ..Category::default() };
        Self {
            storages: vec!["disk".into(), "cloud".into()],
            categories: [("tv".to_owned(), tv), ("music".to_owned(), music)].into(),
            default_storage: "disk".into(),
            export_root: Some("/exports".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_the_name_of_a_storage_or_of_a_category() {
        let folders = Folders::example();
        let storage = |name: &str| Target { storage: Some(name.into()), category: None };
        let category = |name: &str| Target { storage: None, category: Some(name.into()) };
        for (text, target) in [
            ("", Target::default()),
            ("/exports/", Target::default()),
            ("cloud", storage("cloud")),
            ("/cloud", storage("cloud")),
            ("/cloud/", storage("cloud")),
            ("tv", category("tv")),
            ("/tv", category("tv")),
            ("/exports/tv", category("tv")),
            ("/exports/series", category("tv")),
            ("/exports/series/", category("tv")),
        ] {
            assert_eq!(folders.resolve(text).unwrap(), target, "{text}");
        }
        assert_eq!(folders.storage_of(&category("music")), "cloud");
        assert_eq!(folders.storage_of(&category("tv")), "disk");
    }

    #[test]
    fn no_folder_names_a_path_or_a_url() {
        let folders = Folders::example();
        for text in [
            "/etc",
            "//cloud",
            "../cloud",
            "/cloud/..",
            "/cloud/../../etc",
            "cloud/x",
            "/exports/../etc",
            "/exports/tv/..",
            "/exports/other",
            "/exportstv",
            "~",
            "~/cloud",
            "..\\cloud",
            "%2e%2e%2f",
            "/cloud\0",
            "file:///etc",
            "s3://bucket/x?endpoint=http://169.254.169.254",
            "{command=id}",
            "env:HOME",
            "CLOUD",
        ] {
            assert_eq!(folders.resolve(text).unwrap_err().kind(), Kind::InvalidInput, "{text}");
        }
    }

    #[test]
    fn a_client_can_use_the_folder_that_it_was_shown() {
        let folders = Folders::example();
        let mut download = crate::queue::example_download();
        download.settings.storage = "cloud".into();
        let shown = folders.of_download(&download);
        assert_eq!(
            (shown.as_str(), folders.resolve(&shown).unwrap().storage),
            ("/cloud", Some("cloud".into()))
        );
        download.settings.category = Some("tv".into());
        let shown = folders.of_download(&download);
        assert_eq!(folders.resolve(&shown).unwrap().category.as_deref(), Some("tv"));
        download.exported = Some("/exports/series/Name".into());
        assert_eq!(folders.of_download(&download), "/exports/series");
    }
}
