//! Sharded folders: the entries of a large folder, distributed over blocks by the hashes of their names.
//!
//! The name of each link begins with its slot in hexadecimal digits, as many as the last slot has. After them comes the
//! name of the entry; without a name the link leads to the shard of the next level. A level takes the next bits of the
//! hash, the most significant first.

use super::{
    cid::Cid,
    dag_pb::{PbLink, PbNode},
    file_node::invalid,
    murmur3::murmur3,
    unixfs::UnixFs,
};
use crate::error::Result;

/// Slots of a shard. More would make blocks that are no longer small.
const MAX_FANOUT: u64 = 1024;
/// Fewer are of no use, and the slots would not fill the bytes of the bitmap.
const MIN_FANOUT: u64 = 8;
/// The code of the hash function of names, murmur3-x64-64.
const MURMUR3: u64 = 0x22;

/// A shard of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::protocols::ipfs) struct Shard {
    links: Vec<PbLink>,
    /// Bits of the hash for each level.
    bits: u32,
    /// Hexadecimal digits before each name.
    digits: usize,
}

/// What a slot holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::protocols::ipfs) enum Slot {
    Entry(PbLink),
    /// The shard of the next level.
    Shard(Cid),
}

impl Shard {
    /// # Errors
    /// `Corrupt` for a shard that is not valid.
    pub(in crate::protocols::ipfs) fn parse(
        cid: &Cid,
        unixfs: &UnixFs,
        node: PbNode,
    ) -> Result<Self> {
        let fanout = unixfs.fanout.unwrap_or(0);
        if !(MIN_FANOUT..=MAX_FANOUT).contains(&fanout) || !fanout.is_power_of_two() {
            return Err(invalid(cid, &format!("a shard has {fanout} slots")));
        }
        if unixfs.hash_type != Some(MURMUR3) {
            return Err(invalid(cid, "its entries are not distributed by murmur3"));
        }
        if unixfs.data.len() as u64 > fanout / 8 {
            return Err(invalid(cid, "its bitmap is too long"));
        }
        let digits = format!("{:X}", fanout - 1).len();
        for link in &node.links {
            let slot = link.name.get(..digits).and_then(|text| std::str::from_utf8(text).ok());
            let slot = slot.and_then(|text| u64::from_str_radix(text, 16).ok());
            if slot.is_none_or(|slot| slot >= fanout) {
                return Err(invalid(cid, "a link has no slot"));
            }
        }
        Ok(Self { links: node.links, bits: fanout.ilog2(), digits })
    }

    /// All slots, in the order of the block.
    pub(in crate::protocols::ipfs) fn into_slots(self) -> impl Iterator<Item = Slot> {
        let digits = self.digits;
        self.links.into_iter().map(move |link| slot(link, digits))
    }

    /// The slot for `name` in a shard at `depth`, which is 0 for the first. `None` if the folder has no such entry.
    pub(in crate::protocols::ipfs) fn find(&self, name: &[u8], depth: u32) -> Option<Slot> {
        let shift = 64u32.checked_sub(self.bits * (depth + 1))?;
        let index = murmur3(name) >> shift & ((1 << self.bits) - 1);
        let prefix = format!("{index:0width$X}", width = self.digits);
        let in_slot = self.links.iter().filter(|link| link.name.starts_with(prefix.as_bytes()));
        let is_wanted = |link: &&PbLink| {
            let rest = &link.name[self.digits..];
            rest.is_empty() || rest == name
        };
        in_slot.into_iter().find(is_wanted).map(|link| slot(link.clone(), self.digits))
    }
}

fn slot(link: PbLink, digits: usize) -> Slot {
    match link.name.slice(digits..) {
        rest if rest.is_empty() => Slot::Shard(link.cid),
        name => Slot::Entry(PbLink { name, ..link }),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{super::cid::RAW, super::multihash::Multihash, super::unixfs::NodeType, *};
    use crate::error::Kind;

    fn shard(fanout: Option<u64>, hash_type: u64, bitmap: usize, names: &[&str]) -> Result<Shard> {
        let unixfs = UnixFs {
            fanout,
            hash_type: Some(hash_type),
            data: vec![1; bitmap].into(),
            ..UnixFs::new(NodeType::HamtShard)
        };
        let link = |name: &&str| PbLink {
            cid: Cid::v1(RAW, Multihash::sha2_256(name.as_bytes())),
            name: Bytes::copy_from_slice(name.as_bytes()),
            total_len: None,
        };
        let links = names.iter().map(link).collect();
        let cid = Cid::v0(Multihash::sha2_256(b""));
        Shard::parse(&cid, &unixfs, PbNode { links, data: None })
    }

    #[test]
    fn entries_are_found_by_the_most_significant_bits_of_their_hash() {
        // The hash of `hello` begins with CBD8.
        let first = shard(Some(256), MURMUR3, 32, &["01x", "CB", "FFz"]).unwrap();
        assert!(matches!(first.find(b"hello", 0), Some(Slot::Shard(_))));
        let second = shard(Some(256), MURMUR3, 32, &["D8other", "D8hello"]).unwrap();
        let Some(Slot::Entry(link)) = second.find(b"hello", 1) else { panic!("not found") };
        assert_eq!(&link.name[..], b"hello");
        assert_eq!(second.find(b"hello", 0), None);
        assert_eq!(second.find(b"hello", 8), None, "the hash has no more bits");
        // 0xCBD8 begins with the three bits 110, and with the ten bits 1100101111.
        assert!(shard(Some(8), MURMUR3, 1, &["6hello"]).unwrap().find(b"hello", 0).is_some());
        assert!(shard(Some(1024), MURMUR3, 1, &["32Fhello"]).unwrap().find(b"hello", 0).is_some());
        let slots: Vec<_> = first.into_slots().collect();
        assert!(matches!(&slots[0], Slot::Entry(link) if link.name == "x"));
        assert!(matches!(&slots[1], Slot::Shard(_)));
    }

    #[test]
    fn shards_that_are_not_valid_are_refused() {
        for result in [
            shard(None, MURMUR3, 1, &[]),
            shard(Some(4), MURMUR3, 0, &[]),
            shard(Some(2048), MURMUR3, 1, &[]),
            shard(Some(100), MURMUR3, 1, &[]),
            shard(Some(256), 0x12, 1, &[]),
            shard(Some(256), MURMUR3, 33, &[]),
            shard(Some(256), MURMUR3, 1, &["0"]),
            shard(Some(256), MURMUR3, 1, &["GGx"]),
            shard(Some(8), MURMUR3, 1, &["8x"]),
            shard(Some(256), MURMUR3, 1, &["é"]),
        ] {
            assert_eq!(result.unwrap_err().kind(), Kind::Corrupt);
        }
    }
}
