//! The formats of IPFS: identifiers, blocks, files, folders and archives. Pure: nothing here reads or writes anything.
//!
//! A block is at most 2 MiB and is named by its [`cid::Cid`]: a hash, and the encoding of the block. A file is a tree of
//! blocks, read by [`file_walk`]; a folder is one block ([`dag_pb`]) or a tree of shards ([`hamt`]). [`importer`]
//! computes the blocks and the CID of a file, as other programs do.
//!
//! Everything here parses untrusted bytes. Lengths and counts are checked before anything is allocated, and a block
//! whose parts do not add up is refused.

pub(in crate::protocols::ipfs) mod car;
pub(in crate::protocols::ipfs) mod cid;
pub(in crate::protocols::ipfs) mod dag_pb;
pub(in crate::protocols::ipfs) mod file_node;
pub(in crate::protocols::ipfs) mod file_walk;
pub(in crate::protocols::ipfs) mod hamt;
pub(in crate::protocols::ipfs) mod importer;
pub(in crate::protocols::ipfs) mod multibase;
pub(in crate::protocols::ipfs) mod multihash;
mod murmur3;
pub(in crate::protocols::ipfs) mod protobuf;
pub(in crate::protocols::ipfs) mod unixfs;
pub(in crate::protocols::ipfs) mod varint;

/// Maximum length of a block in bytes. Longer blocks are not exchanged in the network.
pub(in crate::protocols::ipfs) const MAX_BLOCK: usize = 2 << 20;
