//! Paths that clients see and send.
//!
//! What is exported has the path of its export. What stays in its storage has a path below `/bae/STORAGE`: it names the
//! storage, and a client that sees the storage elsewhere, as a mount, can map it. A path from a client chooses at most a
//! storage; no other folder can be named.

use std::path::{Path, PathBuf};

use super::{Dialect, answer::Refusal, facts::TorrentFacts};
use crate::queue::Download;

/// The folder whose parts are the storages.
const STORAGES: &str = "/bae";

/// The paths of a torrent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Paths {
    pub(super) save: String,
    /// The file of a torrent with one, else its folder. Empty while it is not known.
    pub(super) content: String,
    /// The folder of the torrent; empty for a torrent without one.
    pub(super) root: String,
}

/// The path that stands for a storage.
pub(super) fn storage_folder(storage: &str) -> String {
    format!("{STORAGES}/{storage}")
}

/// The paths of a download. `export` is the export folder of its category.
pub(super) fn paths_of(
    download: &Download,
    export: Option<&Path>,
    facts: Option<&TorrentFacts>,
) -> Paths {
    let in_storage = || PathBuf::from(storage_folder(&download.settings.storage));
    let exported = download.exported.as_deref();
    let save = exported.and_then(Path::parent).or(export).map_or_else(in_storage, Path::to_owned);
    let root = exported.map(Path::to_owned).or_else(|| Some(save.join(&facts?.root)));
    let has_folder = facts.is_some_and(|facts| facts.has_folder);
    let only_file = facts.and_then(|facts| facts.only_file.as_ref());
    let content = root.as_ref().map(|root| match only_file {
        Some(file) if has_folder => root.join(file),
        _ => root.clone(),
    });
    let shown = |path: Option<PathBuf>| path.map(|path| path.display().to_string());
    Paths {
        save: save.display().to_string(),
        content: shown(content).unwrap_or_default(),
        root: shown(root.filter(|_| has_folder)).unwrap_or_default(),
    }
}

impl Dialect {
    /// The path of a category: its export folder, else its storage.
    pub(super) fn category_folder(&self, name: &str) -> String {
        let category = self.queue().category(name).unwrap_or_default();
        match (category.export, category.storage) {
            (Some(export), _) => export.display().to_string(),
            (None, Some(storage)) => storage_folder(&storage),
            (None, None) => storage_folder(self.default_storage()),
        }
    }

    /// The storage of downloads that name none.
    pub(super) fn default_storage(&self) -> &str {
        let config = self.api().engine().config();
        config.queue.storage.as_deref().unwrap_or(config.default_storage())
    }

    /// The storage that a path from a client chooses. `None` leaves the choice to the category.
    ///
    /// # Errors
    /// 400 for a path that is not one of those that clients are told, nor the name of a storage.
    pub(super) fn storage_of_path(&self, path: Option<&str>) -> Result<Option<String>, Refusal> {
        let Some(path) = path else { return Ok(None) };
        let path = path.trim_end_matches('/');
        let config = self.api().engine().config();
        let name = path.strip_prefix(STORAGES).and_then(|rest| rest.strip_prefix('/'));
        let name = name.unwrap_or(path);
        if config.storage_names().contains(&name) {
            return Ok(Some(name.to_owned()));
        }
        let given = Path::new(path);
        let categories = self.queue().categories();
        let mut exports = categories.values().filter_map(|category| category.export.as_deref());
        let is_root = config.api.export_root.as_deref() == Some(given);
        if is_root || path == STORAGES || exports.any(|export| export == given) {
            return Ok(None);
        }
        Err(Refusal::bad(
            "files go to storages, not to folders: leave the path empty, or give the name of a storage",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::qbittorrent::fields::test_download;

    fn facts(only_file: Option<&str>, has_folder: bool) -> TorrentFacts {
        TorrentFacts {
            root: "A Show".into(),
            only_file: only_file.map(str::to_owned),
            has_folder,
            ..TorrentFacts::default()
        }
    }

    #[test]
    fn an_exported_torrent_has_the_path_of_its_export() {
        let mut download = test_download();
        download.exported = Some("/srv/tv/A Show".into());
        let several = paths_of(&download, None, Some(&facts(None, true)));
        assert_eq!(
            (several.save.as_str(), several.content.as_str()),
            ("/srv/tv", "/srv/tv/A Show")
        );
        assert_eq!(several.root, "/srv/tv/A Show");
        let nested = paths_of(&download, None, Some(&facts(Some("s1/e1.mkv"), true)));
        assert_eq!(nested.content, "/srv/tv/A Show/s1/e1.mkv");
        assert_eq!(nested.root, "/srv/tv/A Show");
        let single = paths_of(&download, None, Some(&facts(Some(""), false)));
        assert_eq!((single.content.as_str(), single.root.as_str()), ("/srv/tv/A Show", ""));
        assert_eq!(paths_of(&download, None, None).content, "/srv/tv/A Show");
    }

    #[test]
    fn the_path_is_never_made_from_the_name_of_the_torrent() {
        let mut download = test_download();
        download.name = "renamed".into();
        download.settings.storage = "music".into();
        let unknown = paths_of(&download, None, None);
        assert_eq!((unknown.save.as_str(), unknown.content.as_str()), ("/bae/music", ""));
        let known = paths_of(&download, None, Some(&facts(None, true)));
        assert_eq!(known.content, "/bae/music/A Show");
        let exports = paths_of(&download, Some(Path::new("/srv/tv")), Some(&facts(None, true)));
        assert_eq!(exports.content, "/srv/tv/A Show");
        assert_ne!(exports.content, exports.save);
    }
}
