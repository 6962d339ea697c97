//! Walks over the blocks of a file from the first byte of a range to its last. Pure.
//!
//! [`FileWalk::next`] returns bytes, or the block that is needed next. [`FileWalk::enter`] receives that block. A block
//! must be exactly as long as its parent declares. Blocks outside the range are never requested. Nodes may be nested
//! [`MAX_DEPTH`] deep: four levels hold a terabyte.

use std::{collections::VecDeque, ops::Range};

use bytes::Bytes;

use super::{
    cid::Cid,
    file_node::{FileNode, FilePart, invalid},
};
use crate::error::Result;

/// Maximum number of nested nodes. It ends chains of nodes that were made to be endless.
const MAX_DEPTH: usize = 32;
/// Maximum length of the bytes in one step. A block of 2 MiB would exceed buffers that are meant for network reads.
const MAX_STEP: usize = 128 << 10;

/// What follows in a walk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::protocols::ipfs) enum Step {
    /// The next bytes of the range; never empty.
    Bytes(Bytes),
    /// The block that [`FileWalk::enter`] must receive next.
    Block(Cid),
    End,
}

/// A walk in progress.
#[derive(Debug)]
pub(in crate::protocols::ipfs) struct FileWalk {
    /// Remaining range, in positions of the file.
    range: Range<u64>,
    /// Nodes from the root to the current one.
    stack: Vec<Frame>,
    /// Bytes that are known and not returned yet.
    ready: VecDeque<Bytes>,
}

/// A node, and how far the walk is in it.
#[derive(Debug)]
struct Frame {
    parts: Vec<FilePart>,
    /// Position of the node in the file.
    start: u64,
    /// Index of the next part.
    next: usize,
}

impl FileWalk {
    /// A walk over `range` of a file whose root block is known.
    pub(in crate::protocols::ipfs) fn new(root: FileNode, range: Range<u64>) -> Self {
        let mut walk = Self { range, stack: Vec::new(), ready: VecDeque::new() };
        walk.push(root, 0);
        walk
    }

    /// The next step. The same block is requested again until it is entered.
    pub(in crate::protocols::ipfs) fn next(&mut self) -> Step {
        if let Some(mut first) = self.ready.pop_front() {
            if first.len() > MAX_STEP {
                self.ready.push_front(first.split_off(MAX_STEP));
            }
            return Step::Bytes(first);
        }
        while let Some(frame) = self.stack.last() {
            match frame.parts.get(frame.next) {
                Some(part) if frame.start + part.start < self.range.end => {
                    return Step::Block(part.cid.clone());
                }
                Some(_) => break,
                None => _ = self.stack.pop(),
            }
        }
        Step::End
    }

    /// Position in the file of the block that is needed next, or of the start of the range in it.
    pub(in crate::protocols::ipfs) fn position(&self) -> u64 {
        let part = self
            .stack
            .last()
            .and_then(|frame| frame.parts.get(frame.next).map(|part| frame.start + part.start));
        part.unwrap_or(self.range.end).max(self.range.start)
    }

    /// Whether the range needs all bytes of the block that is needed next.
    pub(in crate::protocols::ipfs) fn needs_whole_block(&self) -> bool {
        self.stack.last().and_then(|frame| Some((frame, frame.parts.get(frame.next)?))).is_some_and(
            |(frame, part)| {
                self.range.start <= frame.start + part.start
                    && frame.start + part.end() <= self.range.end
            },
        )
    }

    /// Continues with the verified block that was requested.
    ///
    /// # Errors
    /// `Corrupt` if it is not valid, or not as long as declared.
    pub(in crate::protocols::ipfs) fn enter(&mut self, block: &Bytes) -> Result<()> {
        let frame = self.stack.last_mut().expect("a block was requested");
        let part = frame.parts[frame.next].clone();
        let start = frame.start + part.start;
        let node = FileNode::parse(&part.cid, block)?;
        if node.len != part.len {
            let (wanted, len) = (part.len, node.len);
            return Err(invalid(
                &part.cid,
                &format!("it has {len} bytes, and its parent says {wanted}"),
            ));
        }
        if self.stack.len() >= MAX_DEPTH {
            return Err(invalid(&part.cid, &format!("the file has more than {MAX_DEPTH} levels")));
        }
        self.stack.last_mut().expect("checked above").next += 1;
        self.push(node, start);
        Ok(())
    }

    /// The parts that will be requested after the current one, as far as they are known, with their number of bytes.
    pub(in crate::protocols::ipfs) fn upcoming(&self) -> impl Iterator<Item = (&Cid, u64)> {
        let end = self.range.end;
        let after = |(depth, frame): (usize, &'_ Frame)| {
            // The next part of the innermost node is the current one.
            let skipped = usize::from(depth == 0);
            (frame.next.saturating_add(skipped), frame.start)
        };
        self.stack.iter().rev().enumerate().flat_map(move |(depth, frame)| {
            let (first, start) = after((depth, frame));
            let rest = frame.parts.get(first..).unwrap_or_default();
            let inside = rest.iter().take_while(move |part| start + part.start < end);
            inside.map(|part| (&part.cid, part.len))
        })
    }

    fn push(&mut self, node: FileNode, start: u64) {
        let inline_end = start + node.inline.len() as u64;
        let wanted = self.range.start.max(start)..self.range.end.min(inline_end);
        if wanted.start < wanted.end {
            let at = |position: u64| usize::try_from(position - start).expect("inside of a block");
            self.ready.push_back(node.inline.slice(at(wanted.start)..at(wanted.end)));
        }
        let first = self.range.start.saturating_sub(start);
        let next = node.parts.partition_point(|part| part.end() <= first);
        if next < node.parts.len() {
            self.stack.push(Frame { parts: node.parts, start, next });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::{
        super::{
            cid::RAW,
            dag_pb::{PbLink, PbNode},
            multihash::Multihash,
            unixfs::{NodeType, UnixFs},
        },
        *,
    };
    use crate::error::Kind;

    /// A file of any layout.
    #[derive(Debug, Clone)]
    enum Tree {
        Raw(Vec<u8>),
        Node(Vec<u8>, Vec<Tree>),
    }

    fn tree() -> impl Strategy<Value = Tree> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..9);
        bytes().prop_map(Tree::Raw).prop_recursive(4, 40, 5, move |inner| {
            (bytes(), prop::collection::vec(inner, 0..5))
                .prop_map(|(data, parts)| Tree::Node(data, parts))
        })
    }

    #[derive(Default)]
    struct Blocks(HashMap<Cid, Bytes>);

    impl Blocks {
        /// Stores the blocks of a tree. Returns its CID and bytes.
        fn add(&mut self, tree: &Tree) -> (Cid, Vec<u8>) {
            let (cid, block, all) = match tree {
                Tree::Raw(data) => {
                    (Cid::v1(RAW, Multihash::sha2_256(data)), data.clone(), data.clone())
                }
                Tree::Node(data, parts) => {
                    let mut all = data.clone();
                    let mut unixfs = UnixFs::new(NodeType::File);
                    let mut links = Vec::new();
                    for part in parts {
                        let (cid, bytes) = self.add(part);
                        unixfs.block_lens.push(bytes.len() as u64);
                        all.extend(bytes);
                        links.push(PbLink { cid, name: Bytes::new(), total_len: None });
                    }
                    unixfs.data = data.clone().into();
                    unixfs.file_len = Some(all.len() as u64);
                    let block = PbNode { links, data: Some(unixfs.to_message().into()) }.to_block();
                    (Cid::v0(Multihash::sha2_256(&block)), block, all)
                }
            };
            self.0.insert(cid.clone(), block.into());
            (cid, all)
        }

        fn read(&self, root: &Cid, range: Range<u64>) -> Result<Vec<u8>> {
            let root = FileNode::parse(root, &self.0[root])?;
            let mut walk = FileWalk::new(root, range);
            let mut all = Vec::new();
            let mut expected: Option<Cid> = None;
            loop {
                match walk.next() {
                    Step::Bytes(bytes) => {
                        assert!(!bytes.is_empty() && bytes.len() <= MAX_STEP);
                        all.extend_from_slice(&bytes);
                    }
                    Step::Block(cid) => {
                        if let Some(expected) = expected.take() {
                            // Parts of the previous block come first.
                            let known = walk
                                .stack
                                .iter()
                                .any(|f| f.parts.iter().any(|p| p.cid == expected));
                            assert!(known || expected == cid);
                        }
                        expected = walk.upcoming().next().map(|(cid, _)| cid.clone());
                        walk.enter(&self.0[&cid])?;
                    }
                    Step::End => return Ok(all),
                }
            }
        }
    }

    #[test]
    fn long_blocks_are_returned_in_steps() {
        let mut blocks = Blocks::default();
        let data: Vec<u8> = (0u32..300_000).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let (root, all) = blocks.add(&Tree::Raw(data));
        assert_eq!(blocks.read(&root, 5..299_999).unwrap(), all[5..299_999]);
    }

    #[test]
    fn a_part_that_is_not_as_long_as_declared_is_refused() {
        for declared in [2, 4] {
            let mut blocks = Blocks::default();
            let (leaf, _) = blocks.add(&Tree::Raw(b"abc".to_vec()));
            let unixfs = UnixFs {
                file_len: Some(declared),
                block_lens: vec![declared],
                ..UnixFs::new(NodeType::File)
            };
            let links = vec![PbLink { cid: leaf, name: Bytes::new(), total_len: None }];
            let block = PbNode { links, data: Some(unixfs.to_message().into()) }.to_block();
            let root = Cid::v0(Multihash::sha2_256(&block));
            blocks.0.insert(root.clone(), block.into());
            let error = blocks.read(&root, 0..declared).unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt);
            assert!(error.report().contains("it has 3 bytes"), "{}", error.report());
        }
    }

    #[test]
    fn nodes_that_are_nested_too_deep_are_refused() {
        let chain = |depth: usize| {
            (0..depth).fold(Tree::Raw(b"x".to_vec()), |tree, _| Tree::Node(vec![], vec![tree]))
        };
        let mut blocks = Blocks::default();
        let (root, _) = blocks.add(&chain(MAX_DEPTH - 1));
        assert_eq!(blocks.read(&root, 0..1).unwrap(), b"x");
        let (root, _) = blocks.add(&chain(MAX_DEPTH + 1));
        assert!(blocks.read(&root, 0..1).unwrap_err().report().contains("levels"));
    }

    #[test]
    fn empty_parts_are_not_fetched() {
        let mut blocks = Blocks::default();
        let empty = Tree::Raw(Vec::new());
        let mut parts = vec![empty.clone(); 3000];
        parts.push(Tree::Raw(b"end".to_vec()));
        let (root, _) = blocks.add(&Tree::Node(vec![], parts));
        let (empty, _) = blocks.add(&empty);
        blocks.0.remove(&empty);
        assert_eq!(blocks.read(&root, 0..3).unwrap(), b"end");
    }

    proptest! {
        #[test]
        fn any_range_of_any_layout_has_the_right_bytes(tree in tree(), a in 0usize..60, b in 0usize..60) {
            let mut blocks = Blocks::default();
            let (root, all) = blocks.add(&tree);
            let (a, b) = (a.min(all.len()), b.min(all.len()));
            let (start, end) = (a.min(b), a.max(b));
            let got = blocks.read(&root, start as u64..end as u64).unwrap();
            prop_assert_eq!(got, &all[start..end]);
        }
    }
}
