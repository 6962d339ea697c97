//! The manifest of an import: a copy of its catalog rows in its storage, from which a lost catalog can be rebuilt.
//!
//! A manifest is one object beside the import's chunks. It has a header line with its format, its length and a SHA-256,
//! and then JSON with everything that the catalog knows of the import: its torrent, its files, its objects and their
//! extents. So an import is restored without reading payload. The manifest is written when the import is complete, when
//! it stops before that, and whenever its objects change. Each version has a new key, since a key is written only once.
//! The version before is deleted when the new one is committed.
//!
//! A manifest of a newer bae is refused, because half-understood data could be lost. So is any manifest with content
//! that the catalog would reject, because others may be able to write to the storage.

mod body;
mod check;
mod write;

#[cfg(test)]
mod tests;

use std::ops::Range;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

pub use self::write::write_manifest;

use crate::{
    backends::Key,
    catalog::{Encoding, FileRow, ImportId, ImportState, LayoutKind, Role, hex},
    content_root::Root,
    error::{Error, Kind, Result},
};

/// The format that this version writes. Format 1 has no keys with random digits, and of objects no encoding, content
/// root or sharing.
const FORMAT: u64 = 2;
/// The longest header line in bytes: two numbers and a digest.
const MAX_HEADER: usize = 256;
/// The longest manifest. 100,000 chunks (1.5 TiB) take about 12 MiB. The torrent file takes a third more than its own
/// length.
pub const MAX_MANIFEST: u64 = 256 << 20;

/// Everything that the catalog knows of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The catalog that wrote the manifest.
    pub catalog: String,
    pub import: ImportId,
    pub name: String,
    /// Without a password.
    pub source: String,
    pub info_hash_v1: Option<[u8; 20]>,
    pub info_hash_v2: Option<[u8; 32]>,
    /// Length in bytes, padding included.
    pub len: u64,
    pub chunk_len: u64,
    pub layout: LayoutKind,
    /// Indices into `files`; `None` for all.
    pub selected: Option<Vec<u32>>,
    /// `Importing` or `Imported`.
    pub state: ImportState,
    /// Seconds since 1970.
    pub created_at: i64,
    pub completed_at: Option<i64>,
    /// The torrent file; empty if there is none.
    pub metainfo: Vec<u8>,
    /// For an import that is not a torrent: the stored record of the servers it was fetched from.
    pub remote: Option<String>,
    /// Covering `[0, len)` in order.
    pub files: Vec<FileRow>,
    pub objects: Vec<ManifestObject>,
}

/// An object that holds bytes of the import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestObject {
    pub key: Key,
    pub len: u64,
    pub role: Role,
    pub packed: bool,
    /// Ranges of the import, each with its offset in the object.
    pub extents: Vec<(Range<u64>, u64)>,
    /// For an adopted object: the tag that changes with its bytes.
    pub tag: Option<String>,
    pub encoding: Encoding,
    /// The content root, where it is known.
    pub root: Option<Root>,
    /// Whether other imports refer to it too.
    pub shared: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    bae_manifest: u64,
    sha256: String,
    bytes: u64,
}

/// The number of the format only, since a newer header may have other fields.
#[derive(Deserialize)]
struct Version {
    bae_manifest: u64,
}

/// A manifest encoded as the bytes of an object.
#[derive(Debug)]
pub struct Encoded {
    pub bytes: Vec<u8>,
    /// SHA-256 of the JSON body: equal manifests have equal digests.
    pub digest: String,
}

impl Manifest {
    /// Encodes the manifest as an object.
    ///
    /// # Errors
    /// `Unsupported` when it is longer than [`MAX_MANIFEST`].
    pub fn encode(&self) -> Result<Encoded> {
        let json = |e| Error::new(Kind::Internal, "cannot encode the manifest as JSON").because(e);
        let body = body::encode(self)?;
        let sha256 = hex(digest(&SHA256, &body).as_ref());
        let header =
            Header { bae_manifest: FORMAT, sha256: sha256.clone(), bytes: body.len() as u64 };
        let mut bytes = serde_json::to_vec(&header).map_err(json)?;
        bytes.push(b'\n');
        bytes.extend_from_slice(&body);
        if bytes.len() as u64 > MAX_MANIFEST {
            let text = format!("the manifest of import {} is too long", self.import);
            return Err(Error::new(Kind::Unsupported, text));
        }
        Ok(Encoded { bytes, digest: sha256 })
    }

    /// Decodes an object that claims to be a manifest.
    ///
    /// # Errors
    /// `Unsupported` when a newer bae made it; `Corrupt`, with the reason, when it is damaged or not a manifest.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let line = bytes.iter().take(MAX_HEADER).position(|b| *b == b'\n');
        let line = line.ok_or_else(|| corrupt("no header line"))?;
        let (header, body) = (&bytes[..line], &bytes[line + 1..]);
        let version: Version =
            serde_json::from_slice(header).map_err(|e| corrupt("invalid header").because(e))?;
        if version.bae_manifest > FORMAT {
            let text = format!("format {} was made by a newer bae", version.bae_manifest);
            return Err(Error::new(Kind::Unsupported, text).hint("update bae"));
        }
        let header: Header =
            serde_json::from_slice(header).map_err(|e| corrupt("invalid header").because(e))?;
        if header.bae_manifest == 0 || header.bytes != body.len() as u64 {
            return Err(corrupt("the length differs from that in the header"));
        }
        if hex(digest(&SHA256, body).as_ref()) != header.sha256 {
            return Err(corrupt("the SHA-256 differs from that in the header"));
        }
        let manifest = body::decode(body)?;
        manifest.check()?;
        Ok(manifest)
    }
}

fn corrupt(text: impl Into<String>) -> Error {
    Error::new(Kind::Corrupt, text)
}
