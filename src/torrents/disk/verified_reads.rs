//! Verification of stored bytes for peers: every fetched window is checked against the torrent's hashes before a block
//! of it is sent.
//!
//! A peer that receives wrong bytes discards the piece and distrusts the sender. Bytes damaged by a disk, a network
//! link or another program must therefore not reach a peer. The torrent already has a hash of each piece. These hashes
//! need no space in the catalog, and they also cover objects that came by `attach` or were changed later.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;

use crate::{
    error::{Error, Kind, Result},
    hints::{Operation, hint},
    storage::PieceVerifier,
    torrents::metainfo::{Metainfo, check::PieceHashes},
};

/// The check that a reader applies to its windows.
pub(crate) fn piece_verifier(meta: Arc<Metainfo>) -> PieceVerifier {
    let piece_len = u64::from(meta.piece_length);
    PieceVerifier { piece_len, check: Box::new(move |range, bytes| check(&meta, &range, bytes)) }
}

/// Checks `parts` against the hashes of their pieces. `range` is whole pieces; each part lies in one piece.
fn check(meta: &Metainfo, range: &Range<u64>, parts: &[Bytes]) -> Result<()> {
    let hashes = PieceHashes::of(meta);
    let len = u64::from(meta.piece_length);
    let first = u32::try_from(range.start / len).unwrap_or(u32::MAX);
    let mut remaining = parts;
    for piece in first.. {
        if remaining.is_empty() {
            break;
        }
        let mut held = 0;
        let of_piece = remaining.iter().take_while(|part| {
            let is_of_piece = held < len;
            held += part.len() as u64;
            is_of_piece
        });
        let (data, rest) = remaining.split_at(of_piece.count());
        if !hashes.verify_again(piece, data.iter().map(|part| &part[..])) {
            let text = format!(
                "stored bytes of {} do not match the torrent's hash",
                describe_piece(meta, piece)
            );
            let hint = hint![Operation::Repair, " downloads damaged pieces again from the swarm"];
            return Err(Error::new(Kind::Corrupt, text).hint(hint));
        }
        remaining = rest;
    }
    Ok(())
}

/// The piece and up to three of its files: `piece 17 ("a/b.flac", "a/c.flac")`.
pub(super) fn describe_piece(meta: &Metainfo, piece: u32) -> String {
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
