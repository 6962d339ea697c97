//! Lists folders. A link counts as a file if it leads to a file below the same first folder. All other links are
//! skipped, so that nothing outside is fetched and no folder contains itself. Entries without a type in the listing are
//! inspected.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use url::Url;

use super::{
    address,
    client::Failure,
    connection::{Connection, show},
    errors::{is_missing, request},
    packet::{Attributes, Entry, FileKind},
    remote,
};
use crate::{
    error::{Error, Kind, Result},
    protocols::{Entry as ListedFile, Listing, walk::Walk},
};

/// Number of files of length 0 that are tested concurrently.
const AT_ONCE: usize = 32;

/// A listing in progress.
struct Folders<'a> {
    connection: &'a Arc<Connection>,
    /// The path of the first folder, without a slash at the end.
    top: &'a [u8],
    /// The real path of the first folder. It is resolved at the first link.
    real_top: Option<Vec<u8>>,
}

/// Lists all files below the folder `path`.
///
/// # Errors
/// As [`Protocol::probe`](crate::protocols::Protocol::probe).
pub(super) async fn list(connection: &Arc<Connection>, url: &Url, path: &[u8]) -> Result<Listing> {
    let top = path.strip_suffix(b"/").unwrap_or(path);
    let mut walk = Walk::new(url);
    let mut folders = Folders { connection, top, real_top: None };
    while let Some(below) = walk.next_folder() {
        let here = match (top, &below[..]) {
            (b"", []) => b"/".to_vec(),
            (top, []) => top.to_vec(),
            (top, below) => [top, b"/", below].concat(),
        };
        let Some(folder) = walk.listed(connection.open_folder(&here).await)? else { continue };
        while let Some(Some(some)) = walk.listed(folder.some(&here).await)? {
            for entry in some {
                match folders.of_entry(&here, &entry).await? {
                    Some((FileKind::Folder, _)) => walk.folder(&entry.name)?,
                    Some((_, attributes)) => {
                        walk.file(&entry.name, |url| remote(url, &attributes))?;
                    }
                    None => {}
                }
            }
        }
    }
    prove_empty_files(connection, walk.finish()).await
}

impl Folders<'_> {
    /// The folder or file of an entry; `None` for entries to skip.
    async fn of_entry(
        &mut self,
        here: &[u8],
        entry: &Entry,
    ) -> Result<Option<(FileKind, Attributes)>> {
        if matches!(&entry.name[..], b"." | b"..") {
            return Ok(None);
        }
        let slash: &[u8] = if here.ends_with(b"/") { b"" } else { b"/" };
        let path = [here, slash, &entry.name].concat();
        let (attributes, kind) = self.connection.typed(&path, Some(entry.attributes)).await?;
        Ok(match kind {
            FileKind::Folder | FileKind::File => Some((kind, attributes)),
            FileKind::Link => {
                self.file_below(&path).await?.map(|attributes| (FileKind::File, attributes))
            }
            // `typed` never returns `Unknown`.
            FileKind::Other | FileKind::Unknown => None,
        })
    }

    /// The attributes of a link's target, if that is a file below the first folder. A dangling link is not an error of
    /// the folder.
    async fn file_below(&mut self, link: &[u8]) -> Result<Option<Attributes>> {
        let real_top = match &self.real_top {
            Some(top) => top.clone(),
            None => {
                let top = [self.top, b"/"].concat();
                let found = self.connection.real_path(&top).await?;
                let failed = |e: Failure| {
                    let doing = format!("resolve {} on {}", show(&top), self.connection.address);
                    Error::within(request(doing, e), "links in a folder")
                };
                self.real_top.insert(found.map_err(failed)?.to_vec()).clone()
            }
        };
        let target = match self.connection.real_path(link).await? {
            Ok(target) => target,
            Err(e) if is_missing(&e) => return Ok(None),
            // The refusal is reported when the file is fetched.
            Err(_) => return Ok(Some(Attributes::default())),
        };
        let real_top = real_top.strip_suffix(b"/").unwrap_or(&real_top);
        let below = target.strip_prefix(real_top).is_some_and(|rest| rest.starts_with(b"/"));
        if !below {
            return Ok(None);
        }
        match self.connection.typed(link, None).await {
            Ok((attributes, FileKind::File)) => Ok(Some(attributes)),
            Ok(_) => Ok(None),
            Err(e) if e.kind() == Kind::NotFound => Ok(None),
            Err(e) if e.kind() == Kind::Network => Err(e),
            Err(_) => Ok(Some(Attributes::default())),
        }
    }
}

/// Tests the files that are listed with length 0. If a file is not empty or cannot be opened, its length is unknown.
async fn prove_empty_files(connection: &Arc<Connection>, mut listing: Listing) -> Result<Listing> {
    let is_empty = |file: &&mut ListedFile| file.remote.len == Some(0);
    let empty: Vec<_> = listing.files.iter_mut().filter(is_empty).collect();
    stream::iter(empty)
        .map(Ok::<_, Error>)
        .try_for_each_concurrent(AT_ONCE, |file| async move {
            let path = address::path(&file.remote.url)?;
            // The failure is reported when the file is fetched.
            if !matches!(connection.is_empty(&path).await, Ok(true)) {
                (file.remote.len, file.remote.validator) = (None, None);
            }
            Ok(())
        })
        .await?;
    Ok(listing)
}
