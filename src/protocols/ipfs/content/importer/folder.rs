//! The blocks of a folder: one block, or shards if that block would be too long.

use bytes::Bytes;

use super::{
    super::{
        dag_pb::{PbLink, PbNode},
        murmur3::murmur3,
        unixfs::{NodeType, UnixFs},
    },
    CidProfile, ImportedNode,
    file::BlockSink,
};

/// Maximum length of a folder in one block, in bytes. Longer folders are sharded.
const MAX_FOLDER: usize = 256 << 10;
/// Slots of a shard, and bits of the hash for each level.
const FANOUT: usize = 256;
const BITS: u32 = 8;
/// The code of murmur3-x64-64.
const MURMUR3: u64 = 0x22;

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderEntry {
    pub name: Bytes,
    pub node: ImportedNode,
}

impl FolderEntry {
    fn link(&self, name: Bytes) -> PbLink {
        PbLink { cid: self.node.cid.clone(), name, total_len: Some(self.node.total_len) }
    }
}

/// Computes the blocks of a folder. `None` if two names in a sharded folder have the same hash of 64 bits.
#[must_use]
pub fn import_folder(
    profile: CidProfile,
    mut entries: Vec<FolderEntry>,
    sink: BlockSink<'_>,
) -> Option<ImportedNode> {
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let links = entries.iter().map(|entry| entry.link(entry.name.clone())).collect();
    let data = UnixFs::new(NodeType::Folder).to_message();
    let node = PbNode { links, data: Some(data.into()) };
    let block = node.to_block();
    let len = match profile {
        // Kubo estimates the length by names and CIDs.
        CidProfile::UnixfsV0 | CidProfile::KuboV1 => {
            let link_len = |link: &PbLink| link.name.len() + link.cid.to_bytes().len();
            node.links.iter().map(link_len).sum()
        }
        CidProfile::UnixfsV1 => block.len(),
    };
    if len > MAX_FOLDER {
        return import_shard(profile, &entries.iter().collect::<Vec<_>>(), 0, sink);
    }
    Some(add_block(profile, &node, block, sink))
}

/// The shard of `entries` at `depth`, which is 0 for the first.
fn import_shard(
    profile: CidProfile,
    entries: &[&FolderEntry],
    depth: u32,
    sink: BlockSink<'_>,
) -> Option<ImportedNode> {
    let shift = 64u32.checked_sub(BITS * (depth + 1))?;
    let mut slots: Vec<Vec<&FolderEntry>> = vec![Vec::new(); FANOUT];
    for entry in entries {
        let [.., slot] = (murmur3(&entry.name) >> shift).to_be_bytes();
        slots[usize::from(slot)].push(*entry);
    }
    let (mut links, mut bitmap) = (Vec::new(), [0u8; FANOUT / 8]);
    for (slot, entries) in slots.iter().enumerate() {
        let prefix = format!("{slot:02X}");
        match entries.as_slice() {
            [] => continue,
            [entry] => links.push(entry.link([prefix.as_bytes(), &entry.name].concat().into())),
            several => {
                let node = import_shard(profile, several, depth + 1, sink)?;
                links.push(FolderEntry { name: Bytes::new(), node }.link(prefix.into()));
            }
        }
        // The bitmap is one number, the most significant byte first.
        bitmap[FANOUT / 8 - 1 - slot / 8] |= 1 << (slot % 8);
    }
    let first = bitmap.iter().position(|byte| *byte != 0).unwrap_or(bitmap.len());
    let unixfs = UnixFs {
        data: Bytes::copy_from_slice(&bitmap[first..]),
        hash_type: Some(MURMUR3),
        fanout: Some(FANOUT as u64),
        ..UnixFs::new(NodeType::HamtShard)
    };
    let node = PbNode { links, data: Some(unixfs.to_message().into()) };
    let block = node.to_block();
    Some(add_block(profile, &node, block, sink))
}

fn add_block(
    profile: CidProfile,
    node: &PbNode,
    block: Vec<u8>,
    sink: BlockSink<'_>,
) -> ImportedNode {
    let cid = profile.cid_of(&block);
    sink(&cid, &block);
    let below: u64 = node.links.iter().filter_map(|link| link.total_len).sum();
    ImportedNode { cid, len: 0, total_len: below + block.len() as u64 }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::protocols::ipfs::content::{
        cid::{Cid, RAW},
        file_node::parse_unixfs,
        hamt::{Shard, Slot},
        multihash::Multihash,
    };

    fn entry(name: &str) -> FolderEntry {
        let cid = Cid::v1(RAW, Multihash::sha2_256(name.as_bytes()));
        let node = ImportedNode { cid, len: 1, total_len: 1 };
        FolderEntry { name: Bytes::copy_from_slice(name.as_bytes()), node }
    }

    #[test]
    fn an_empty_folder_has_the_known_cid() {
        let root = import_folder(CidProfile::UnixfsV0, Vec::new(), &mut |_, _| {}).unwrap();
        assert_eq!(root.cid.to_string(), "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn");
    }

    #[test]
    fn every_entry_of_a_sharded_folder_is_found_and_listed() {
        let names: Vec<_> = (0..9000).map(|n| format!("file number {n}.bin")).collect();
        let mut blocks = HashMap::new();
        let mut sink = |cid: &Cid, block: &[u8]| {
            blocks.insert(cid.clone(), Bytes::copy_from_slice(block));
        };
        let entries = names.iter().map(|name| entry(name)).collect();
        let root = import_folder(CidProfile::UnixfsV1, entries, &mut sink).unwrap();
        assert!(blocks.len() > 256, "several levels");
        let shard = |cid: &Cid| {
            let (unixfs, node) = parse_unixfs(cid, &blocks[cid]).unwrap();
            Shard::parse(cid, &unixfs, node).unwrap()
        };
        for name in &names {
            let (mut cid, mut depth) = (root.cid.clone(), 0);
            let found = loop {
                match shard(&cid).find(name.as_bytes(), depth) {
                    Some(Slot::Shard(next)) => (cid, depth) = (next, depth + 1),
                    Some(Slot::Entry(link)) => break link,
                    None => panic!("{name} is not found"),
                }
            };
            assert_eq!(found.cid, entry(name).node.cid);
        }
        let (mut open, mut listed) = (vec![root.cid], Vec::new());
        while let Some(cid) = open.pop() {
            for slot in shard(&cid).into_slots() {
                match slot {
                    Slot::Shard(cid) => open.push(cid),
                    Slot::Entry(link) => {
                        listed.push(String::from_utf8(link.name.to_vec()).unwrap())
                    }
                }
            }
        }
        listed.sort();
        let mut names = names;
        names.sort();
        assert_eq!(listed, names);
    }
}
