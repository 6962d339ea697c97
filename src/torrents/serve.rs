//! What stands between stored bytes and peers: every window that is fetched is held against the torrent's hashes before
//! a block of it goes out.
//!
//! A peer that gets wrong bytes throws the piece away and distrusts who sent it; so what a disk, a line or somebody else
//! spoilt behind bae's back must not reach one. The torrent has a hash of each piece already, which needs no place in
//! the catalog and holds for objects that came by `attach` or were changed since.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;

use super::{check::PieceHashes, metainfo::Metainfo};
use crate::{
    error::{Error, Kind, Result},
    storage::Checks,
};

/// What a reader holds its windows against.
pub(crate) fn checks_of(meta: Arc<Metainfo>) -> Checks {
    let piece_len = u64::from(meta.piece_length);
    Checks { piece_len, check: Box::new(move |range, bytes| check(&meta, &range, bytes)) }
}

/// `range` is whole pieces, and `parts` what came for it, each part in one piece.
fn check(meta: &Metainfo, range: &Range<u64>, parts: &[Bytes]) -> Result<()> {
    let hashes = PieceHashes::of(meta);
    let len = u64::from(meta.piece_length);
    let first = u32::try_from(range.start / len).unwrap_or(u32::MAX);
    let mut left = parts;
    for piece in first.. {
        if left.is_empty() {
            break;
        }
        let mut held = 0;
        let of_piece = left.iter().take_while(|part| {
            let is_of_piece = held < len;
            held += part.len() as u64;
            is_of_piece
        });
        let (data, rest) = left.split_at(of_piece.count());
        if !hashes.still(piece, data.iter().map(|part| &part[..])) {
            let text = format!("{} is stored otherwise than the torrent says", name(meta, piece));
            let hint = "`bae verify --repair` fetches what is wrong again from the swarm";
            return Err(Error::new(Kind::Corrupt, text).hint(hint));
        }
        left = rest;
    }
    Ok(())
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
