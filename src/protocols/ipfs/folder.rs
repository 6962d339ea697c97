//! Lists folders. A file in a separate block has the length that its link says, which is verified when the file is
//! opened; the first block of any other file is fetched for its length.
//!
//! A symbolic link counts as a file if it leads to a file below the same root. All other links are left out, as are
//! further entries of the same name. An entry that cannot be fetched, or whose name cannot be used, is reported.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use url::Url;

use super::{
    content::{
        MAX_BLOCK,
        cid::{Cid, RAW},
        dag_pb::PbLink,
        hamt::{Shard, Slot},
    },
    tree::{Folder, FoundFile, Node, Tree},
};
use crate::{
    error::{Error, Kind, Result},
    protocols::{Listing, MAX_ENTRIES, RemoteFile, display_url, folder_walk::FolderWalk},
};

/// Number of blocks that are fetched concurrently.
const MAX_CONCURRENT: usize = 16;

/// An entry of a folder.
enum Entry {
    File(FoundFile),
    Folder(Cid),
    Symlink(Vec<u8>),
    Refused(Error),
}

/// Lists all files below `folder`, which is the folder at `path` below the root of the tree. `describe` makes the
/// description of a file from its URL.
///
/// # Errors
/// Those of fetching blocks; `Unsupported` for too many entries.
pub(super) async fn list(
    tree: &Tree<'_>,
    path: &[Vec<u8>],
    url: &Url,
    folder: Folder,
    describe: impl Fn(Url, &FoundFile) -> RemoteFile,
) -> Result<Listing> {
    let mut walk = FolderWalk::new(url);
    let mut first = Some(folder);
    // Only the CIDs, because the blocks of all folders could take any amount of memory.
    let mut folders: HashMap<Vec<u8>, Cid> = HashMap::new();
    // Folders and shards can be linked again and again, so that few blocks are an endless folder.
    let mut visited_shards = 0;
    while let Some(below) = walk.next_folder() {
        let links = async {
            let folder = match (first.take(), folders.remove(&below)) {
                (Some(first), _) => first,
                (None, Some(cid)) => tree.folder(&cid).await?,
                (None, None) => return Ok(Vec::new()),
            };
            entries(tree, folder, &mut visited_shards).await
        };
        let Some(links) = walk.skip_if_refused(links.await)? else { continue };
        let links = usable_links(&mut walk, url, links)?;
        let described = stream::iter(links)
            .map(|link| async move { (entry(tree, &link).await, link.name) })
            .buffered(MAX_CONCURRENT);
        let mut described = std::pin::pin!(described);
        while let Some((entry, name)) = described.next().await {
            let file = match entry? {
                Entry::File(file) => file,
                Entry::Folder(cid) => {
                    walk.add_folder(&name)?;
                    folders.insert(join(&below, &name), cid);
                    continue;
                }
                Entry::Symlink(target) => {
                    let here = segments(path, &below);
                    match tree.link_target(&here, &target).await? {
                        Some(file) => file,
                        None => {
                            let (name, target) = (name.escape_ascii(), target.escape_ascii());
                            tracing::warn!(
                                "the symbolic link \"{name}\" to \"{target}\" is left out"
                            );
                            continue;
                        }
                    }
                }
                Entry::Refused(error) => {
                    let name = String::from_utf8_lossy(&name).into_owned();
                    walk.skip(&name, |url| error.with_context(display_url(&url)))?;
                    continue;
                }
            };
            walk.add_file(&name, |url| describe(url, &file))?;
        }
    }
    Ok(walk.finish())
}

/// The links of a folder, of all its shards.
async fn entries(
    tree: &Tree<'_>,
    folder: Folder,
    visited_shards: &mut usize,
) -> Result<Vec<PbLink>> {
    let mut level: Vec<Shard> = match folder {
        Folder::Plain(links) => return Ok(links),
        Folder::Sharded(shard) => vec![shard],
    };
    let mut links = Vec::new();
    while !level.is_empty() {
        let mut next: Vec<Cid> = Vec::new();
        for slot in level.drain(..).flat_map(Shard::into_slots) {
            match slot {
                Slot::Entry(link) => links.push(link),
                Slot::Shard(cid) => next.push(cid),
            }
        }
        *visited_shards += next.len();
        if links.len() > MAX_ENTRIES || *visited_shards > MAX_ENTRIES {
            let text = format!("{}: more than {MAX_ENTRIES} entries", tree.root);
            return Err(Error::new(Kind::Unsupported, text).hint("fetch its subfolders one by one"));
        }
        let shards = stream::iter(next).map(|cid| async move { tree.shard(&cid).await });
        level = shards.buffered(MAX_CONCURRENT).try_collect().await?;
    }
    Ok(links)
}

/// Leaves out further links of the same name, and reports names that no file can have.
fn usable_links(walk: &mut FolderWalk, url: &Url, links: Vec<PbLink>) -> Result<Vec<PbLink>> {
    let mut names: HashSet<Bytes> = HashSet::with_capacity(links.len());
    let mut usable = Vec::with_capacity(links.len());
    for link in links {
        if !names.insert(link.name.clone()) {
            continue;
        }
        let is_usable = !matches!(&link.name[..], b"" | b"." | b"..")
            && !link.name.iter().any(|byte| matches!(byte, b'/' | 0));
        if is_usable {
            usable.push(link);
            continue;
        }
        let shown = link.name.escape_ascii().to_string();
        walk.skip("\u{fffd}", |_| {
            let text = format!("{}: \"{shown}\" is not a valid name", display_url(url));
            Error::new(Kind::Unsupported, text)
        })?;
    }
    Ok(usable)
}

async fn entry(tree: &Tree<'_>, link: &PbLink) -> Result<Entry> {
    if let Err(error) = link.cid.check_supported() {
        return Ok(Entry::Refused(error));
    }
    // A raw block has nothing but bytes of the file, so its length is that of the file.
    if let (RAW, Some(len)) = (link.cid.codec(), link.total_len)
        && len <= MAX_BLOCK as u64
    {
        let (mode, modified) = (None, None);
        return Ok(Entry::File(FoundFile { cid: link.cid.detached(), len, mode, modified }));
    }
    match tree.node(&link.cid).await {
        Ok(Node::File(file)) => Ok(Entry::File(FoundFile { cid: file.cid.detached(), ..file })),
        Ok(Node::Folder(_)) => Ok(Entry::Folder(link.cid.detached())),
        Ok(Node::Symlink(target)) => Ok(Entry::Symlink(target)),
        Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Unsupported | Kind::Corrupt) => {
            Ok(Entry::Refused(e))
        }
        Err(e) => Err(e),
    }
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    match folder {
        [] => name.to_vec(),
        folder => [folder, b"/", name].concat(),
    }
}

/// The segments of a folder below `path`.
fn segments(path: &[Vec<u8>], below: &[u8]) -> Vec<Vec<u8>> {
    let below = below.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
    path.iter().cloned().chain(below.map(<[u8]>::to_vec)).collect()
}
