//! Downloads the files of a folder on a server. A file that fails does not affect the others.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{GetItem, Getter, file::FileJob, with_name_hint};
use crate::{
    downloads::{DownloadSource, Mirror, PathKind},
    error::{Error, Kind, Result},
    events::{EventSink, FetchedFile},
    hints::{Setting, hint},
    names,
    protocols::{ListedFile, Listing, display_url},
};

impl Getter {
    /// Checks that the target of a folder is a folder, or does not exist.
    fn check_folder(folder: &Path) -> Result<()> {
        match PathKind::at(folder)? {
            PathKind::Missing | PathKind::Folder => Ok(()),
            _ => {
                let text =
                    format!("cannot download a folder to {}: it is not a folder", folder.display());
                Err(Error::new(Kind::InvalidInput, text).hint(hint![
                    "name another path with ",
                    Setting::OutName,
                    " or ",
                    Setting::OutFolder,
                ]))
            }
        }
    }

    /// The local folder for a folder on the server.
    pub(super) fn target_folder(
        &self,
        item: &GetItem,
        url: &Url,
        listing: &Listing,
    ) -> Result<PathBuf> {
        if !item.checksums.is_empty() || self.options.sidecar {
            let text = format!("{} is a folder, and a checksum is of one file", display_url(url));
            return Err(Error::new(Kind::InvalidInput, text));
        }
        let folder = match &item.out {
            Some(out) => item.dir.join(out),
            None => item.dir.join(folder_name(listing)?),
        };
        Self::check_folder(&folder)?;
        Ok(folder)
    }

    pub(super) async fn get_folder(
        &self,
        folder: &Path,
        url: Url,
        listing: Listing,
        events: &EventSink,
        cancel: &CancellationToken,
    ) -> Result<Vec<FetchedFile>> {
        if listing.files.is_empty() && listing.skipped.is_empty() {
            tracing::warn!("{} is a folder without files", display_url(&url));
        }
        let (paths, wanted) = (local_paths(&listing), listing.files.len());
        let mut skipped: Vec<Error> = listing.skipped.into_iter().map(Error::from).collect();
        let mut running: JoinSet<Result<Option<FetchedFile>>> = JoinSet::new();
        let protocol = self.protocols.for_url(&url, self.options.protocol.as_deref())?;
        for (entry, path) in listing.files.into_iter().zip(paths) {
            let path = match path {
                Ok(path) => path,
                Err(e) => {
                    skipped.push(e);
                    continue;
                }
            };
            // The permit is taken before the task is started, because a folder may have a million files.
            let Ok(permit) = self.permit(cancel).await else { break };
            let (getter, protocol) = (self.clone(), Arc::clone(&protocol));
            let (path, events, cancel) = (folder.join(path), events.clone(), cancel.clone());
            running.spawn(async move {
                let _permit = permit;
                let source = DownloadSource::new(vec![Mirror::new(protocol, entry.remote)])?;
                let checksums = Vec::new();
                let (getter, events, cancel) = (&getter, &events, &cancel);
                FileJob { getter, source, path, checksums, events, cancel }.run().await
            });
        }
        let started = running.len();
        let fetched = wait_all(running, skipped, events).await?;
        // A recording of several renditions is complete when it is stopped.
        match cancel.is_cancelled() && started < wanted {
            true => Err(Error::new(Kind::Cancelled, "stopped")),
            false => Ok(fetched),
        }
    }
}

/// Waits for all files, even when some fail. All errors are logged, and the first is returned. `skipped` has the errors
/// of files that could not be started.
async fn wait_all(
    mut running: JoinSet<Result<Option<FetchedFile>>>,
    skipped: Vec<Error>,
    events: &EventSink,
) -> Result<Vec<FetchedFile>> {
    let (mut fetched, mut failed) = (Vec::new(), None);
    for error in skipped {
        tracing::warn!("{}", error.report());
        events.file_failed(None, &error);
        failed.get_or_insert(error);
    }
    while let Some(ended) = running.join_next().await {
        let ended = ended.unwrap_or_else(|e| {
            let error = Error::new(Kind::Internal, "downloading a file panicked").because(e);
            events.file_failed(None, &error);
            Err(error)
        });
        match ended {
            Ok(file) => fetched.extend(file),
            Err(e) => {
                if e.kind() != Kind::Cancelled {
                    tracing::warn!("{}", e.report());
                }
                failed.get_or_insert(e);
            }
        }
    }
    failed.map_or(Ok(fetched), Err)
}

/// For each file of a folder, its safe path relative to that folder, or the error why it has none.
pub(in crate::engine) fn local_paths(listing: &Listing) -> Vec<Result<String>> {
    let with_url = |file: &ListedFile, e: Error| {
        Error::new(Kind::Unsupported, e.report()).with_context(display_url(&file.remote.url))
    };
    let safe_path =
        |file: &ListedFile| names::server_path(&file.path).map_err(|e| with_url(file, e));
    let paths: Vec<_> = listing.files.iter().map(safe_path).collect();
    let mut folders = HashSet::new();
    for path in paths.iter().flatten() {
        folders.extend(path.match_indices('/').map(|(end, _)| path[..end].to_owned()));
    }
    let mut seen = HashSet::new();
    let unique_path = |(path, file): (Result<String>, &ListedFile)| {
        let path = path?;
        let refused = |reason: &str| with_url(file, Error::new(Kind::Unsupported, reason));
        if folders.contains(&path) {
            return Err(refused("a folder has the same name"));
        }
        match seen.insert(path.clone()) {
            true => Ok(path),
            false => Err(refused("another file of the folder has the same local name")),
        }
    };
    paths.into_iter().zip(&listing.files).map(unique_path).collect()
}

pub(in crate::engine) fn folder_name(listing: &Listing) -> Result<String> {
    let host = || listing.url.host_str().unwrap_or("folder").to_owned();
    let name = names::server_component(listing.name.as_bytes());
    Ok(name.map_err(with_name_hint)?.unwrap_or_else(host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocols::RemoteFile;

    #[test]
    fn a_file_without_a_safe_path_does_not_affect_the_others() {
        let url: Url = "ftp://h/f/".parse().unwrap();
        let entry = |path: &&str| {
            let remote = RemoteFile::from_url(url.join(path).unwrap());
            ListedFile { path: (*path).to_owned(), remote }
        };
        let paths = ["a/b", "a", "aux", "bad\tname", "x\u{200e}", "x"];
        let listing = Listing {
            files: paths.iter().map(entry).collect(),
            url: url.clone(),
            name: "f".into(),
            skipped: Vec::new(),
        };
        let found = local_paths(&listing);
        let result = |at: usize| found[at].as_ref().map_err(Error::report).cloned();
        assert_eq!(result(0).unwrap(), "a/b");
        assert!(result(1).unwrap_err().contains("a folder has the same name"));
        assert_eq!(result(2).unwrap(), "aux");
        assert!(result(3).unwrap_err().starts_with("h/f/bad"), "{:?}", result(3));
        assert_eq!(result(4).unwrap(), "x");
        assert!(result(5).unwrap_err().contains("another file"));
    }
}
