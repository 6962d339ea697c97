//! Computes the blocks of files and folders, and so their CIDs. One pass over the bytes in order; in memory are one
//! chunk and the unfinished nodes of each level.
//!
//! The CID of a file depends on how it is split. A [`CidProfile`] names one way; the CIDs of other ways differ although
//! the bytes are the same.

mod file;
mod folder;
mod verifier;

pub use self::{
    file::{BlockSink, FileImporter, ImportedNode},
    folder::{FolderEntry, import_folder},
    verifier::CidVerifier,
};
use super::cid::Cid;

/// A way to split files into blocks and to link them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CidProfile {
    /// CIDs of version 1, chunks of 1 MiB, 1024 links: the profile of 2025.
    UnixfsV1,
    /// CIDs of version 0, chunks of 256 KiB, 174 links: the default of Kubo since 2015.
    UnixfsV0,
    /// CIDs of version 1, chunks of 256 KiB, 174 links: Kubo with `--cid-version=1`.
    KuboV1,
}

impl CidProfile {
    pub const ALL: [Self; 3] = [Self::UnixfsV1, Self::UnixfsV0, Self::KuboV1];

    /// The name in the specifications, where the profile has one.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::UnixfsV1 => "unixfs-v1-2025",
            Self::UnixfsV0 => "unixfs-v0-2015",
            Self::KuboV1 => "kubo-cid-v1",
        }
    }

    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.name() == name)
    }

    /// The profiles that could have made `cid`, which is of a node with links.
    fn candidates(cid: &Cid) -> &'static [Self] {
        match cid.is_version_0() {
            true => &[Self::UnixfsV0],
            false => &[Self::UnixfsV1, Self::KuboV1],
        }
    }

    fn chunk_len(self) -> usize {
        match self {
            Self::UnixfsV1 => 1 << 20,
            Self::UnixfsV0 | Self::KuboV1 => 256 << 10,
        }
    }

    /// Maximum number of links of a node.
    fn width(self) -> usize {
        match self {
            Self::UnixfsV1 => 1024,
            Self::UnixfsV0 | Self::KuboV1 => 174,
        }
    }

    fn has_raw_leaves(self) -> bool {
        self != Self::UnixfsV0
    }

    /// The CID of a dag-pb block.
    fn cid_of(self, block: &[u8]) -> Cid {
        let hash = super::multihash::Multihash::sha2_256(block);
        match self {
            Self::UnixfsV0 => Cid::v0(hash),
            _ => Cid::v1(super::cid::DAG_PB, hash),
        }
    }
}
