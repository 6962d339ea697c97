//! A block of a file: its own bytes, and the blocks of the bytes that follow.
//!
//! Positions come from the lengths that the block declares for its parts. A part is exactly as long as declared, or the
//! file is refused: neither the length of the whole nor that of the linked blocks is used for a position.

use bytes::Bytes;

use super::{
    cid::{Cid, RAW},
    dag_pb::PbNode,
    unixfs::{NodeType, UnixFs},
};
use crate::error::{Error, Kind, Result};

/// A block of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::protocols::ipfs) struct FileNode {
    /// The first bytes.
    pub(in crate::protocols::ipfs) inline: Bytes,
    /// The parts that follow, in order. Empty parts are left out.
    pub(in crate::protocols::ipfs) parts: Vec<FilePart>,
    /// Length of the inline bytes and all parts.
    pub(in crate::protocols::ipfs) len: u64,
}

/// A part of a file, as a separate block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::protocols::ipfs) struct FilePart {
    pub(in crate::protocols::ipfs) cid: Cid,
    /// Position in the node.
    pub(in crate::protocols::ipfs) start: u64,
    /// At least 1.
    pub(in crate::protocols::ipfs) len: u64,
}

impl FilePart {
    pub(in crate::protocols::ipfs) fn end(&self) -> u64 {
        self.start + self.len
    }
}

/// The UnixFS node in a dag-pb block.
///
/// # Errors
/// `Corrupt` if the block is not valid.
pub(in crate::protocols::ipfs) fn parse_unixfs(
    cid: &Cid,
    block: &Bytes,
) -> Result<(UnixFs, PbNode)> {
    let node = PbNode::parse(block).map_err(|_| invalid(cid, "it is not dag-pb"))?;
    let data = node.data.as_ref().ok_or_else(|| invalid(cid, "it has no UnixFS data"))?;
    let unixfs = UnixFs::parse(data).map_err(|_| invalid(cid, "its data is not UnixFS"))?;
    Ok((unixfs, node))
}

impl FileNode {
    /// Parses the verified block of `cid`, which belongs to a file.
    ///
    /// # Errors
    /// `Corrupt` if the block is not valid; `Unsupported` if it is not one of a file.
    pub(in crate::protocols::ipfs) fn parse(cid: &Cid, block: &Bytes) -> Result<Self> {
        if cid.codec() == RAW {
            return Ok(Self::leaf(block.clone()));
        }
        let (unixfs, node) = parse_unixfs(cid, block)?;
        Self::from_unixfs(cid, unixfs, node)
    }

    fn leaf(inline: Bytes) -> Self {
        let len = inline.len() as u64;
        Self { inline, parts: Vec::new(), len }
    }

    /// # Errors
    /// As [`FileNode::parse`].
    pub(in crate::protocols::ipfs) fn from_unixfs(
        cid: &Cid,
        unixfs: UnixFs,
        node: PbNode,
    ) -> Result<Self> {
        if !matches!(unixfs.node_type, NodeType::File | NodeType::Raw) {
            let text = format!("block {cid} is not a part of a file");
            return Err(Error::new(Kind::Unsupported, text));
        }
        if node.links.len() != unixfs.block_lens.len() {
            let (links, lens) = (node.links.len(), unixfs.block_lens.len());
            return Err(invalid(cid, &format!("it has {links} links and {lens} lengths")));
        }
        // ANCHOR: parts
        let mut position = unixfs.data.len() as u64;
        let mut parts = Vec::with_capacity(node.links.len());
        for (link, len) in node.links.into_iter().zip(unixfs.block_lens) {
            if !link.name.is_empty() {
                return Err(invalid(cid, "a part of the file has a name"));
            }
            let start = position;
            position = position.checked_add(len).ok_or_else(|| invalid(cid, "it is too long"))?;
            if len > 0 {
                parts.push(FilePart { cid: link.cid, start, len });
            }
        }
        if unixfs.file_len.unwrap_or(0) != position {
            let declared = unixfs.file_len.unwrap_or(0);
            let text = format!("it declares {declared} bytes and has {position}");
            return Err(invalid(cid, &text));
        }
        Ok(Self { inline: unixfs.data, parts, len: position })
        // ANCHOR_END: parts
    }
}

/// The error of a block that has the right hash, and content that cannot be used.
pub(in crate::protocols::ipfs) fn invalid(cid: &Cid, reason: &str) -> Error {
    Error::new(Kind::Corrupt, format!("block {cid} is not valid: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::{super::dag_pb::PbLink, super::multihash::Multihash, *};

    fn block(
        node_type: NodeType,
        inline: &'static [u8],
        lens: &[u64],
        file_len: Option<u64>,
    ) -> PbNode {
        let data = UnixFs {
            data: Bytes::from_static(inline),
            file_len,
            block_lens: lens.to_vec(),
            ..UnixFs::new(node_type)
        };
        let link = |n: usize| PbLink {
            cid: Cid::v1(RAW, Multihash::sha2_256(&[u8::try_from(n).unwrap()])),
            name: Bytes::new(),
            total_len: None,
        };
        PbNode { links: (0..lens.len()).map(link).collect(), data: Some(data.to_message().into()) }
    }

    fn parse(node: &PbNode) -> Result<FileNode> {
        let block = Bytes::from(node.to_block());
        FileNode::parse(&Cid::v0(Multihash::sha2_256(&block)), &block)
    }

    #[test]
    fn positions_come_from_the_lengths_of_the_parts() {
        let node = parse(&block(NodeType::File, b"abc", &[5, 0, 7], Some(15))).unwrap();
        assert_eq!((&node.inline[..], node.len), (&b"abc"[..], 15));
        let parts: Vec<_> = node.parts.iter().map(|part| (part.start, part.end())).collect();
        assert_eq!(parts, [(3, 8), (8, 15)], "the empty part is left out");
        let raw = Cid::v1(RAW, Multihash::sha2_256(b"abc"));
        let leaf = FileNode::parse(&raw, &Bytes::from_static(b"abc")).unwrap();
        assert_eq!((leaf.len, leaf.parts.len()), (3, 0));
        assert_eq!(parse(&block(NodeType::File, b"", &[], None)).unwrap().len, 0);
        assert_eq!(parse(&block(NodeType::Raw, b"x", &[], Some(1))).unwrap().len, 1);
    }

    #[test]
    fn blocks_whose_lengths_do_not_add_up_are_refused() {
        let mut extra = block(NodeType::File, b"", &[5], Some(5));
        extra.links.push(extra.links[0].clone());
        let mut named = block(NodeType::File, b"", &[5], Some(5));
        named.links[0].name = Bytes::from_static(b"x");
        for (node, reason) in [
            (block(NodeType::File, b"abc", &[5], Some(5)), "declares 5 bytes and has 8"),
            (block(NodeType::File, b"", &[5], None), "declares 0 bytes and has 5"),
            (block(NodeType::File, b"", &[u64::MAX, 1], Some(0)), "too long"),
            (extra, "2 links and 1 lengths"),
            (named, "has a name"),
            (PbNode { data: None, ..PbNode::default() }, "no UnixFS data"),
            (PbNode { data: Some(Bytes::from_static(b"?")), ..PbNode::default() }, "not UnixFS"),
        ] {
            let error = parse(&node).unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt);
            assert!(error.report().contains(reason), "{}", error.report());
        }
        for other in [NodeType::Folder, NodeType::Symlink, NodeType::HamtShard, NodeType::Metadata]
        {
            let error = parse(&block(other, b"", &[], Some(0))).unwrap_err();
            assert_eq!(error.kind(), Kind::Unsupported);
        }
    }
}
