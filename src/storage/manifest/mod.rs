//! What an import leaves in its storage, so that a lost catalog can be rebuilt from the place alone.
//!
//! A manifest is one object beside the import's chunks: a header line that says which format it is and how long, with
//! a SHA-256, and then JSON with everything the catalog knows of the import: its torrent, its files, its objects and
//! which bytes they hold. So an import comes back without a byte of payload being read. It is written when the import
//! is complete, when it stops in the middle, and whenever its objects changed; each time under a new key, since a key
//! is written once, and the one before goes when the new one is committed.
//!
//! What it refuses: a manifest of a newer bae (half understood it could lose something), and anything in one that the
//! catalog would not hold: it comes from a place that others may write to.

mod body;
mod check;
mod key;
mod write;

#[cfg(test)]
mod tests;

use std::ops::Range;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

pub use key::OwnKey;
pub use write::write_manifest;

use crate::{
    backends::Key,
    catalog::{FileRow, ImportId, ImportState, LayoutKind, Role, hex},
    error::{Error, Kind, Result},
};

/// The format of this version.
const FORMAT: u64 = 1;
/// The longest header line: three numbers and a digest.
const MAX_HEADER: usize = 256;
/// The longest manifest. 100,000 chunks (1.5 TiB) take about 12 MiB, the torrent's own file a third more than it has.
pub const MAX_MANIFEST: u64 = 256 << 20;

/// Everything there is to know of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The catalog that wrote it.
    pub catalog: String,
    pub import: ImportId,
    pub name: String,
    /// Without a password.
    pub source: String,
    pub info_hash_v1: Option<[u8; 20]>,
    pub info_hash_v2: Option<[u8; 32]>,
    /// Bytes, padding included.
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
    /// The torrent file, or empty.
    pub metainfo: Vec<u8>,
    /// What is kept of the servers that it came from, where it is no torrent.
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
    /// Each a range of the import, and where in the object it begins.
    pub extents: Vec<(Range<u64>, u64)>,
    /// Of an adopted one, what tells its bytes from others.
    pub tag: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    bae_manifest: u64,
    sha256: String,
    bytes: u64,
}

/// Only the number of the format: a newer header may have other fields.
#[derive(Deserialize)]
struct Version {
    bae_manifest: u64,
}

/// A manifest as the bytes of an object.
#[derive(Debug)]
pub struct Encoded {
    pub bytes: Vec<u8>,
    /// Of what it says: equal manifests have equal ones.
    pub digest: String,
}

impl Manifest {
    /// Its object.
    ///
    /// # Errors
    /// `Unsupported` when it is longer than [`MAX_MANIFEST`].
    pub fn encode(&self) -> Result<Encoded> {
        let json = |e| Error::new(Kind::Internal, "a manifest as JSON").because(e);
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

    /// Reads an object that claims to be a manifest.
    ///
    /// # Errors
    /// `Unsupported` when a newer bae made it; `Corrupt`, saying what is wrong, when it is none or is damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let line = bytes.iter().take(MAX_HEADER).position(|b| *b == b'\n');
        let line = line.ok_or_else(|| bad("it has no header line"))?;
        let (header, body) = (&bytes[..line], &bytes[line + 1..]);
        let version: Version =
            serde_json::from_slice(header).map_err(|e| bad("its header is none").because(e))?;
        if version.bae_manifest > FORMAT {
            let text = format!("it has format {}, made by a newer bae", version.bae_manifest);
            return Err(Error::new(Kind::Unsupported, text).hint("update bae"));
        }
        let header: Header =
            serde_json::from_slice(header).map_err(|e| bad("its header is none").because(e))?;
        if header.bae_manifest != FORMAT || header.bytes != body.len() as u64 {
            return Err(bad("its length is not what its header says"));
        }
        if hex(digest(&SHA256, body).as_ref()) != header.sha256 {
            return Err(bad("its bytes are not what its header says"));
        }
        let manifest = body::decode(body)?;
        manifest.check()?;
        Ok(manifest)
    }
}

fn bad(text: impl Into<String>) -> Error {
    Error::new(Kind::Corrupt, text)
}
