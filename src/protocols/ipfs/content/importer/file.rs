//! The blocks of a file.

use bytes::Bytes;

use super::{
    super::{
        cid::{Cid, RAW},
        dag_pb::{PbLink, PbNode},
        multihash::Multihash,
        unixfs::{NodeType, UnixFs},
    },
    CidProfile,
};

/// A file, a folder or a part of one, once its blocks are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedNode {
    pub cid: Cid,
    /// Bytes of the file in this node.
    pub len: u64,
    /// Length of the block and of all blocks below it.
    pub total_len: u64,
}

/// Called with each block and its CID.
pub type BlockSink<'a> = &'a mut dyn FnMut(&Cid, &[u8]);

/// Computes the blocks of a file from its bytes in order.
#[derive(Debug)]
pub struct FileImporter {
    profile: CidProfile,
    /// The beginning of the next chunk.
    chunk: Vec<u8>,
    /// Unfinished nodes: of each level the parts of the next one. Level 0 is of the chunks.
    levels: Vec<Vec<ImportedNode>>,
}

impl FileImporter {
    #[must_use]
    pub fn new(profile: CidProfile) -> Self {
        Self { profile, chunk: Vec::new(), levels: vec![Vec::new()] }
    }

    /// Adds the next bytes.
    pub fn update(&mut self, mut bytes: &[u8], sink: BlockSink<'_>) {
        let chunk_len = self.profile.chunk_len();
        while !bytes.is_empty() {
            if self.chunk.len() == chunk_len {
                self.end_chunk(sink);
            }
            let (now, later) = bytes.split_at(bytes.len().min(chunk_len - self.chunk.len()));
            self.chunk.extend_from_slice(now);
            bytes = later;
        }
    }

    /// The root of the file, after all bytes.
    #[must_use]
    pub fn finish(mut self, sink: BlockSink<'_>) -> ImportedNode {
        let has_chunks = self.levels.iter().any(|level| !level.is_empty());
        // An empty file is one empty chunk.
        if !self.chunk.is_empty() || !has_chunks {
            self.end_chunk(sink);
        }
        let mut level = 0;
        loop {
            let is_top = self.levels[level + 1..].iter().all(Vec::is_empty);
            if is_top && self.levels[level].len() == 1 {
                return self.levels[level].pop().expect("it has one node");
            }
            // The last node of a level may have a single part: all chunks are equally deep.
            if !self.levels[level].is_empty() {
                self.end_node(level, sink);
            }
            level += 1;
        }
    }

    fn end_chunk(&mut self, sink: BlockSink<'_>) {
        let chunk = std::mem::take(&mut self.chunk);
        let len = chunk.len() as u64;
        let (cid, block) = if self.profile.has_raw_leaves() {
            (Cid::v1(RAW, Multihash::sha2_256(&chunk)), chunk)
        } else {
            let unixfs =
                UnixFs { data: chunk.into(), file_len: Some(len), ..UnixFs::new(NodeType::File) };
            let node = PbNode { links: Vec::new(), data: Some(unixfs.to_message().into()) };
            let block = node.to_block();
            (self.profile.cid_of(&block), block)
        };
        sink(&cid, &block);
        let total_len = block.len() as u64;
        if self.profile.has_raw_leaves() {
            // The buffer is used again.
            self.chunk = block;
            self.chunk.clear();
        }
        self.add(0, ImportedNode { cid, len, total_len }, sink);
    }

    /// Adds a part to the node of its level. A node that is full is completed first: only a part that follows shows
    /// that the node is not the root.
    fn add(&mut self, level: usize, part: ImportedNode, sink: BlockSink<'_>) {
        if self.levels.len() == level {
            self.levels.push(Vec::new());
        }
        if self.levels[level].len() == self.profile.width() {
            self.end_node(level, sink);
        }
        self.levels[level].push(part);
    }

    fn end_node(&mut self, level: usize, sink: BlockSink<'_>) {
        let parts = std::mem::take(&mut self.levels[level]);
        let len = parts.iter().map(|part| part.len).sum();
        let unixfs = UnixFs {
            file_len: Some(len),
            block_lens: parts.iter().map(|part| part.len).collect(),
            ..UnixFs::new(NodeType::File)
        };
        let below: u64 = parts.iter().map(|part| part.total_len).sum();
        let link = |part: ImportedNode| PbLink {
            cid: part.cid,
            name: Bytes::new(),
            total_len: Some(part.total_len),
        };
        let links = parts.into_iter().map(link).collect();
        let block = PbNode { links, data: Some(unixfs.to_message().into()) }.to_block();
        let cid = self.profile.cid_of(&block);
        sink(&cid, &block);
        let total_len = below + block.len() as u64;
        self.add(level + 1, ImportedNode { cid, len, total_len }, sink);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::protocols::ipfs::content::{
        file_node::FileNode,
        file_walk::{FileWalk, Step},
    };

    type Blocks = HashMap<Cid, Bytes>;

    fn import(profile: CidProfile, data: &[u8], piece: usize) -> (ImportedNode, Blocks) {
        let (mut importer, mut blocks) = (FileImporter::new(profile), Blocks::new());
        let mut sink = |cid: &Cid, block: &[u8]| {
            blocks.insert(cid.clone(), Bytes::copy_from_slice(block));
        };
        data.chunks(piece).for_each(|piece| importer.update(piece, &mut sink));
        let root = importer.finish(&mut sink);
        (root, blocks)
    }

    fn read(root: &Cid, blocks: &Blocks) -> Vec<u8> {
        let node = FileNode::parse(root, &blocks[root]).unwrap();
        let len = node.len;
        let (mut walk, mut all) = (FileWalk::new(node, 0..len), Vec::new());
        loop {
            match walk.next() {
                Step::Bytes(bytes) => all.extend_from_slice(&bytes),
                Step::Block(cid) => walk.enter(&blocks[&cid]).unwrap(),
                Step::End => return all,
            }
        }
    }

    fn cid(profile: CidProfile, data: &[u8]) -> String {
        import(profile, data, 100_000).0.cid.to_string()
    }

    #[test]
    fn cids_equal_those_of_other_programs() {
        use CidProfile::{KuboV1, UnixfsV0, UnixfsV1};
        let hello = b"hello world";
        assert_eq!(
            cid(UnixfsV1, hello),
            "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
        );
        assert_eq!(
            cid(KuboV1, hello),
            "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
        );
        assert_eq!(cid(UnixfsV0, hello), "Qmf412jQZiuVUtdgnB36FXFX7xg5V6KEbSJ4dpQuhkLyfD");
        assert_eq!(
            cid(UnixfsV1, b""),
            "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
        );
        assert_eq!(cid(UnixfsV0, b""), "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH");
    }

    #[test]
    fn the_blocks_of_a_file_hold_its_bytes_in_every_profile() {
        let data: Vec<u8> = (0u64..3_500_000).map(|n| u8::try_from(n * n % 251).unwrap()).collect();
        for profile in CidProfile::ALL {
            for len in [1, 256 << 10, (256 << 10) + 1, 1 << 20, (1 << 20) + 1, data.len()] {
                let (root, blocks) = import(profile, &data[..len], 77_777);
                assert!(blocks.iter().all(|(cid, block)| cid.hash().verifies(block)));
                assert!(read(&root.cid, &blocks) == data[..len], "{profile:?} {len}");
                assert_eq!(root.len, len as u64);
                let total: usize = blocks.values().map(Bytes::len).sum();
                assert!(root.total_len >= total as u64, "equal blocks count each time");
                assert_eq!(import(profile, &data[..len], 1_000_000).0, root);
            }
        }
    }

    #[test]
    fn a_lone_last_part_is_as_deep_as_the_others() {
        // 175 chunks of Kubo: two nodes below the root, the second with one part.
        let chunk = 256 << 10;
        let data = vec![7; 174 * chunk];
        let (full, blocks) = import(CidProfile::KuboV1, &data, 1 << 20);
        assert_eq!(FileNode::parse(&full.cid, &blocks[&full.cid]).unwrap().parts.len(), 174);
        let data = [data, vec![1]].concat();
        let (root, blocks) = import(CidProfile::KuboV1, &data, 1 << 20);
        let node = FileNode::parse(&root.cid, &blocks[&root.cid]).unwrap();
        assert_eq!(node.parts.len(), 2);
        let last = FileNode::parse(&node.parts[1].cid, &blocks[&node.parts[1].cid]).unwrap();
        assert_eq!((last.parts.len(), last.len), (1, 1));
        assert!(read(&root.cid, &blocks) == data);
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_make_the_same_file(len in 0usize..700_000, piece in 1usize..300_000) {
            let data = vec![3; len];
            let whole = import(CidProfile::UnixfsV0, &data, 1 << 20).0;
            prop_assert_eq!(import(CidProfile::UnixfsV0, &data, piece).0, whole);
        }
    }
}
