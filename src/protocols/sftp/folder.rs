//! Folders. A link in one is a file of it when it leads to a file below the same folder; all other links are passed over,
//! so that nothing outside comes along and no folder is in itself.

use std::sync::Arc;

use russh_sftp::protocol::{File, FileAttributes};
use url::Url;

use super::{connection::Connection, remote};
use crate::{
    error::Result,
    protocols::{Listing, walk::Walk},
};

/// All files below the folder `path`.
///
/// # Errors
/// As [`Protocol::probe`](crate::protocols::Protocol::probe).
pub(super) async fn list(connection: &Arc<Connection>, url: &Url, path: &str) -> Result<Listing> {
    let top = path.trim_end_matches('/');
    let mut walk = Walk::new(url);
    // Asked for when there is a link.
    let mut real_top = None;
    while let Some(below) = walk.next_folder() {
        let here = if below.is_empty() { top.to_owned() } else { format!("{top}/{below}") };
        let here = if here.is_empty() { "/".to_owned() } else { here };
        let folder = connection.open_folder(&here).await?;
        while let Some(some) = folder.some(&here).await? {
            for File { filename, attrs, .. } in some {
                let kind = attrs.file_type();
                if kind.is_dir() {
                    walk.folder(&filename)?;
                } else if kind.is_file() {
                    walk.file(&filename, |url| remote(url, &attrs))?;
                } else if kind.is_symlink() {
                    let link = format!("{here}/{filename}");
                    let real_top = match &real_top {
                        Some(top) => top,
                        None => real_top.insert(connection.real_path(&format!("{top}/")).await?),
                    };
                    if let Some(attrs) = file_below(connection, &link, real_top).await {
                        walk.file(&filename, |url| remote(url, &attrs))?;
                    }
                }
            }
        }
    }
    Ok(walk.finish())
}

/// What a link leads to, where that is a file below `top`. A link that leads nowhere is no error of the folder.
async fn file_below(connection: &Connection, link: &str, top: &str) -> Option<FileAttributes> {
    let target = connection.real_path(link).await.ok()?;
    let below = target.strip_prefix(top.trim_end_matches('/'))?.starts_with('/');
    let attributes = connection.stat(link).await.ok()?;
    (below && attributes.file_type().is_file()).then_some(attributes)
}
