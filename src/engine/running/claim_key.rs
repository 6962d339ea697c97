//! What a claim is for.

use crate::{
    catalog::{ImportId, hex, leases::Resource},
    redact,
};

/// What only one operation at a time may write. One import may have several keys: before its row exists, only those of
/// its source are known.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::engine) enum ClaimKey {
    Import(ImportId),
    /// A torrent in a storage.
    InfoHashV1([u8; 20], String),
    InfoHashV2([u8; 32], String),
    /// A source in a storage, in the form that the catalog records.
    Source(String, String),
}

impl ClaimKey {
    /// `None` for standard input, which is another source each time.
    pub(in crate::engine) fn of_source(source: &str, storage: &str) -> Option<Self> {
        let source = source.trim();
        (source != "-").then(|| Self::Source(redact::without_password(source), storage.to_owned()))
    }

    pub(in crate::engine) fn of_torrent(
        v1: Option<[u8; 20]>,
        v2: Option<[u8; 32]>,
        storage: &str,
    ) -> Vec<Self> {
        let v1 = v1.map(|hash| Self::InfoHashV1(hash, storage.to_owned()));
        let v2 = v2.map(|hash| Self::InfoHashV2(hash, storage.to_owned()));
        v1.into_iter().chain(v2).collect()
    }

    /// What a lease of this key is of.
    pub(super) fn resource(&self) -> Resource {
        let (key, name) = match self {
            Self::Import(id) => (format!("import {id}"), format!("import {id}")),
            Self::InfoHashV1(hash, storage) => {
                (format!("v1 {} in {storage}", hex(hash)), of_torrent(hash))
            }
            Self::InfoHashV2(hash, storage) => {
                (format!("v2 {} in {storage}", hex(hash)), of_torrent(hash))
            }
            Self::Source(source, storage) => {
                (format!("source {source} in {storage}"), "an import of this source".to_owned())
            }
        };
        Resource { key, name }
    }
}

fn of_torrent(hash: &[u8]) -> String {
    format!("an import of torrent {}", hex(hash))
}
