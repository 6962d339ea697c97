//! What stands between stored bytes and peers: every window that is fetched is held against the torrent's hashes before
//! a block of it goes out.
//!
//! A peer that gets wrong bytes throws the piece away and distrusts who sent it; so what a disk, a line or somebody else
//! spoilt behind bae's back must not reach one. The torrent has a hash of each piece already, which needs no place in
//! the catalog and holds for objects that came by `attach` or were changed since.

use std::{ops::Range, sync::Arc};

use super::{check::PieceHashes, metainfo::Metainfo};
use crate::{
    error::{Error, Kind, Result},
    storage::Checks,
};

/// What a reader for peers holds its windows against.
pub(super) fn checks_of(meta: Arc<Metainfo>) -> Checks {
    let piece_len = u64::from(meta.piece_length);
    Checks { piece_len, check: Box::new(move |range, bytes| check(&meta, &range, bytes)) }
}

/// `range` is whole pieces, and `bytes` what came for it.
fn check(meta: &Metainfo, range: &Range<u64>, bytes: &[u8]) -> Result<()> {
    let hashes = PieceHashes::of(meta);
    let len = u64::from(meta.piece_length);
    let first = u32::try_from(range.start / len).unwrap_or(u32::MAX);
    let pieces = bytes.chunks(meta.piece_length as usize);
    match (first..).zip(pieces).find(|(piece, data)| !hashes.still(*piece, data)) {
        None => Ok(()),
        Some((piece, _)) => {
            let text = format!("{} is stored otherwise than the torrent says", name(meta, piece));
            let hint = "`bae verify --repair` fetches what is wrong again from the swarm";
            Err(Error::new(Kind::Corrupt, text).hint(hint))
        }
    }
}

/// `piece 17 ("a/b.flac", "a/c.flac")`: the piece, and the files it is part of.
pub(super) fn name(meta: &Metainfo, piece: u32) -> String {
    let range = meta.piece_range(piece);
    let files = meta
        .files
        .iter()
        .filter(|file| !file.pad && file.range.start < range.end && range.start < file.range.end);
    let mut names: Vec<_> = files.map(|file| format!("{:?}", file.path)).take(4).collect();
    if names.len() == 4 {
        names[3] = "…".to_owned();
    }
    format!("piece {piece} ({})", names.join(", "))
}
