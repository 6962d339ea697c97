//! Files and folders below a root: loads nodes, and follows paths and symbolic links.

use std::{collections::VecDeque, time::SystemTime};

use super::{
    content::{
        cid::{Cid, RAW},
        dag_pb::{PbLink, PbNode},
        file_node::{FileNode, invalid, parse_unixfs},
        hamt::{Shard, Slot},
        unixfs::{NodeType, UnixFs},
    },
    gateways::blocks::{Blocks, Keep},
};
use crate::error::{Error, Kind, Result};

/// Maximum number of symbolic links on a path, as for Linux.
const MAX_LINKS: usize = 40;
/// Maximum number of shards on the way to an entry: a level takes at least 3 of the 64 bits of a hash.
const MAX_LEVELS: u32 = 22;

/// A file, a folder or a symbolic link.
#[derive(Debug, Clone)]
pub(super) enum Node {
    File(FoundFile),
    Folder(Folder),
    /// The target.
    Symlink(Vec<u8>),
}

/// A file, as its root block describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FoundFile {
    pub(super) cid: Cid,
    pub(super) len: u64,
    pub(super) mode: Option<u32>,
    pub(super) modified: Option<SystemTime>,
}

/// A folder.
#[derive(Debug, Clone)]
pub(super) enum Folder {
    Plain(Vec<PbLink>),
    Sharded(Shard),
}

/// The content below a root.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tree<'a> {
    pub(super) blocks: &'a Blocks,
    pub(super) root: &'a Cid,
}

/// Where a path leads that goes through symbolic links.
enum Follow {
    To(Node),
    /// It leaves the tree, or goes in a circle.
    Outside,
    Missing,
}

impl Tree<'_> {
    /// Loads the node of `cid`.
    ///
    /// # Errors
    /// Those of fetching its block; `Unsupported` and `Corrupt` if it is neither a file nor a folder.
    pub(super) async fn node(&self, cid: &Cid) -> Result<Node> {
        cid.check_supported()?;
        let block = self.blocks.get(cid, Some(self.root), Keep::Yes).await?;
        if cid.codec() == RAW {
            let file =
                FoundFile { cid: cid.clone(), len: block.len() as u64, mode: None, modified: None };
            return Ok(Node::File(file));
        }
        let (unixfs, node) = parse_unixfs(cid, &block)?;
        from_unixfs(cid, unixfs, node)
    }

    /// The CID of the entry `name`; `None` if the folder does not have it.
    ///
    /// # Errors
    /// As [`Tree::node`].
    async fn entry(&self, folder: &Folder, name: &[u8]) -> Result<Option<Cid>> {
        let mut shard = match folder {
            Folder::Plain(links) => {
                return Ok(links
                    .iter()
                    .find(|link| link.name == name)
                    .map(|link| link.cid.clone()));
            }
            Folder::Sharded(shard) => shard.clone(),
        };
        for level in 0..MAX_LEVELS {
            match shard.find(name, level) {
                None => return Ok(None),
                Some(Slot::Entry(link)) => return Ok(Some(link.cid)),
                Some(Slot::Shard(cid)) => shard = self.shard(&cid).await?,
            }
        }
        Ok(None)
    }

    /// Loads a folder.
    ///
    /// # Errors
    /// As [`Tree::node`]; `Corrupt` for another node.
    pub(super) async fn folder(&self, cid: &Cid) -> Result<Folder> {
        match self.node(cid).await? {
            Node::Folder(folder) => Ok(folder),
            _ => Err(invalid(cid, "it is not a folder")),
        }
    }

    /// Loads a shard of a folder.
    ///
    /// # Errors
    /// As [`Tree::node`]; `Corrupt` for another node.
    pub(super) async fn shard(&self, cid: &Cid) -> Result<Shard> {
        match self.node(cid).await? {
            Node::Folder(Folder::Sharded(shard)) => Ok(shard),
            _ => Err(invalid(cid, "it is not a shard of a folder")),
        }
    }

    /// The node at a path below the root.
    ///
    /// # Errors
    /// `NotFound` if there is none; `Unsupported` if a symbolic link leads out of the tree; as [`Tree::node`].
    pub(super) async fn find(&self, path: &[Vec<u8>]) -> Result<Node> {
        let shown = || {
            let path = path.join(&b'/');
            format!("{}/{}", self.root, String::from_utf8_lossy(&path).escape_debug())
        };
        match self.follow(&[], path).await? {
            Follow::To(node) => Ok(node),
            Follow::Missing => {
                Err(Error::new(Kind::NotFound, format!("{} does not exist", shown())))
            }
            Follow::Outside => {
                let text =
                    format!("{} is a symbolic link that leads nowhere below the CID", shown());
                Err(Error::new(Kind::Unsupported, text))
            }
        }
    }

    /// The file that a symbolic link in `folder` leads to, if that is below the root.
    ///
    /// # Errors
    /// As [`Tree::node`].
    pub(super) async fn link_target(
        &self,
        folder: &[Vec<u8>],
        target: &[u8],
    ) -> Result<Option<FoundFile>> {
        let Some(path) = target_segments(target) else { return Ok(None) };
        match self.follow(folder, &path).await? {
            Follow::To(Node::File(file)) => Ok(Some(file)),
            _ => Ok(None),
        }
    }

    /// Follows `path` from `start`, which is the path of a folder below the root.
    async fn follow(&self, start: &[Vec<u8>], path: &[Vec<u8>]) -> Result<Follow> {
        let mut remaining: VecDeque<Vec<u8>> = start.iter().chain(path).cloned().collect();
        // The nodes from the root to the current one.
        let mut nodes = vec![self.node(self.root).await?];
        let mut links = 0;
        // The root itself may be a link, which leads nowhere.
        if matches!(nodes[0], Node::Symlink(_)) {
            return Ok(Follow::Outside);
        }
        while let Some(name) = remaining.pop_front() {
            if name == b".." {
                nodes.pop();
                if nodes.is_empty() {
                    return Ok(Follow::Outside);
                }
                continue;
            }
            let Some(Node::Folder(folder)) = nodes.last() else { return Ok(Follow::Missing) };
            let Some(cid) = self.entry(folder, &name).await? else { return Ok(Follow::Missing) };
            match self.node(&cid).await? {
                Node::Symlink(target) => {
                    links += 1;
                    let segments = target_segments(&target).filter(|_| links <= MAX_LINKS);
                    let Some(segments) = segments else { return Ok(Follow::Outside) };
                    segments.into_iter().rev().for_each(|name| remaining.push_front(name));
                }
                node => nodes.push(node),
            }
        }
        Ok(nodes.pop().map_or(Follow::Outside, Follow::To))
    }
}

fn from_unixfs(cid: &Cid, unixfs: UnixFs, node: PbNode) -> Result<Node> {
    Ok(match unixfs.node_type {
        NodeType::File | NodeType::Raw => {
            let (mode, modified) = (unixfs.mode, unixfs.modified);
            let len = FileNode::from_unixfs(cid, unixfs, node)?.len;
            Node::File(FoundFile { cid: cid.clone(), len, mode, modified })
        }
        NodeType::Folder => Node::Folder(Folder::Plain(node.links)),
        NodeType::HamtShard => Node::Folder(Folder::Sharded(Shard::parse(cid, &unixfs, node)?)),
        NodeType::Symlink => Node::Symlink(unixfs.data.to_vec()),
        NodeType::Metadata => {
            return Err(Error::new(Kind::Unsupported, format!("{cid} is a metadata block")));
        }
    })
}

/// The segments of the target of a link. `None` for an absolute target.
fn target_segments(target: &[u8]) -> Option<Vec<Vec<u8>>> {
    if target.starts_with(b"/") || target.is_empty() {
        return None;
    }
    let segments = target.split(|byte| *byte == b'/').filter(|name| !matches!(*name, [] | [b'.']));
    Some(segments.map(<[u8]>::to_vec).collect())
}
