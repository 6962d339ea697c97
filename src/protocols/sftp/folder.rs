//! Lists folders. A link counts as a file if it leads to a file below the same first folder. All other links are
//! skipped, so that nothing outside is fetched and no folder contains itself. Entries without a type in the listing are
//! inspected.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use url::Url;

use super::{
    address,
    client::RequestFailure,
    connection::{SftpConnection, quote_path},
    errors::{is_not_found, request_error},
    packet::{Attributes, FileKind, FolderEntry},
    remote_file,
};
use crate::{
    error::{Error, Kind, Result},
    protocols::{ListedFile, Listing, folder_walk::FolderWalk},
};

/// Number of files of length 0 that are tested concurrently.
const MAX_CONCURRENT_CHECKS: usize = 32;

/// A listing in progress.
struct FolderLister<'a> {
    connection: &'a Arc<SftpConnection>,
    /// The path of the first folder, without a slash at the end.
    top: &'a [u8],
    /// The real path of the first folder. It is resolved at the first link.
    real_top: Option<Vec<u8>>,
}

/// Lists all files below the folder `path`.
///
/// # Errors
/// As [`Protocol::probe`](crate::protocols::Protocol::probe).
pub(super) async fn list(
    connection: &Arc<SftpConnection>,
    url: &Url,
    path: &[u8],
) -> Result<Listing> {
    let top = path.strip_suffix(b"/").unwrap_or(path);
    let mut walk = FolderWalk::new(url);
    let mut lister = FolderLister { connection, top, real_top: None };
    while let Some(below) = walk.next_folder() {
        let path = match (top, &below[..]) {
            (b"", []) => b"/".to_vec(),
            (top, []) => top.to_vec(),
            (top, below) => [top, b"/", below].concat(),
        };
        let Some(folder) = walk.skip_if_refused(connection.open_folder(&path).await)? else {
            continue;
        };
        while let Some(Some(entries)) = walk.skip_if_refused(folder.next_entries(&path).await)? {
            for entry in entries {
                match lister.resolve_entry(&path, &entry).await? {
                    Some((FileKind::Folder, _)) => walk.add_folder(&entry.name)?,
                    Some((_, attributes)) => {
                        walk.add_file(&entry.name, |url| remote_file(url, &attributes))?;
                    }
                    None => {}
                }
            }
        }
    }
    check_empty_files(connection, walk.finish()).await
}

impl FolderLister<'_> {
    /// The folder or file of an entry; `None` for entries to skip.
    async fn resolve_entry(
        &mut self,
        folder: &[u8],
        entry: &FolderEntry,
    ) -> Result<Option<(FileKind, Attributes)>> {
        if matches!(&entry.name[..], b"." | b"..") {
            return Ok(None);
        }
        let slash: &[u8] = if folder.ends_with(b"/") { b"" } else { b"/" };
        let path = [folder, slash, &entry.name].concat();
        let (attributes, kind) =
            self.connection.stat_with_kind(&path, Some(entry.attributes)).await?;
        Ok(match kind {
            FileKind::Folder | FileKind::File => Some((kind, attributes)),
            FileKind::Link => {
                self.link_target(&path).await?.map(|attributes| (FileKind::File, attributes))
            }
            // `stat_with_kind` never returns `Unknown`.
            FileKind::Other | FileKind::Unknown => None,
        })
    }

    /// The attributes of a link's target, if that is a file below the first folder. A dangling link is not an error of
    /// the folder.
    async fn link_target(&mut self, link: &[u8]) -> Result<Option<Attributes>> {
        let real_top = match &self.real_top {
            Some(top) => top.clone(),
            None => {
                let top = [self.top, b"/"].concat();
                let found = self.connection.real_path(&top).await?;
                let failed = |e: RequestFailure| {
                    let action =
                        format!("resolve {} on {}", quote_path(&top), self.connection.address);
                    Error::with_context(request_error(action, e), "links in a folder")
                };
                self.real_top.insert(found.map_err(failed)?.to_vec()).clone()
            }
        };
        let target = match self.connection.real_path(link).await? {
            Ok(target) => target,
            Err(e) if is_not_found(&e) => return Ok(None),
            // The refusal is reported when the file is fetched.
            Err(_) => return Ok(Some(Attributes::default())),
        };
        let real_top = real_top.strip_suffix(b"/").unwrap_or(&real_top);
        let below = target.strip_prefix(real_top).is_some_and(|rest| rest.starts_with(b"/"));
        if !below {
            return Ok(None);
        }
        match self.connection.stat_with_kind(link, None).await {
            Ok((attributes, FileKind::File)) => Ok(Some(attributes)),
            Ok(_) => Ok(None),
            Err(e) if e.kind() == Kind::NotFound => Ok(None),
            Err(e) if e.kind() == Kind::Network => Err(e),
            Err(_) => Ok(Some(Attributes::default())),
        }
    }
}

/// Tests the files that are listed with length 0. If a file is not empty or cannot be opened, its length is unknown.
async fn check_empty_files(
    connection: &Arc<SftpConnection>,
    mut listing: Listing,
) -> Result<Listing> {
    let is_empty = |file: &&mut ListedFile| file.remote.len == Some(0);
    let empty: Vec<_> = listing.files.iter_mut().filter(is_empty).collect();
    stream::iter(empty)
        .map(Ok::<_, Error>)
        .try_for_each_concurrent(MAX_CONCURRENT_CHECKS, |file| async move {
            let path = address::server_path(&file.remote.url)?;
            // The failure is reported when the file is fetched.
            if !matches!(connection.is_empty(&path).await, Ok(true)) {
                (file.remote.len, file.remote.validator) = (None, None);
            }
            Ok(())
        })
        .await?;
    Ok(listing)
}
