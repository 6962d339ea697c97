//! `verify`: what is stored, hashed again against the torrent.

use tokio_util::sync::CancellationToken;

use super::{App, BadPiece, ProgressFn, VerifyReport, plan::Plan};
use crate::{
    error::{Error, Kind, Result},
    storage::ImportReader,
    torrents::{
        check::{PieceDigests, PieceHashes},
        metainfo::Metainfo,
    },
    units::MIB,
};

impl App {
    /// Reads and hashes every stored piece.
    ///
    /// # Errors
    /// `Cancelled`; what the backend says when it cannot be asked. A piece that is lost or wrong is in the report.
    pub async fn verify(
        &self,
        needle: &str,
        progress: ProgressFn,
        cancel: CancellationToken,
    ) -> Result<VerifyReport> {
        let row = self.catalog.find(needle)?;
        let place = self.place_of(&row).await?;
        let store = self.open_store(&row, &place)?;
        let (_, meta) = self.metainfo_of(&row)?;
        let plan = Plan::new(&meta, row.selected.as_deref(), &store);
        let hashes = PieceHashes::of(&meta);
        let reader = self.reader(&store);
        let here = || (0..meta.pieces()).filter(|&p| plan.have[p as usize] && hashes.is_known(p));
        let total = here().map(|p| length(&meta, p)).sum();
        let mut report =
            VerifyReport { pieces: 0, bad: Vec::new(), missing: store.missing(&plan.wanted).len() };
        let mut done = 0;
        for piece in here() {
            let good = tokio::select! {
                () = cancel.cancelled() => return Err(Error::new(Kind::Cancelled, "stopped")),
                digests = hash(&reader, &meta, piece) => digests?.is_some_and(|d| hashes.verify(piece, &d)),
            };
            report.pieces += 1;
            if !good {
                report.bad.push(BadPiece { piece, files: files_of(&meta, piece) });
            }
            done += length(&meta, piece);
            progress(done, total);
        }
        Ok(report)
    }
}

fn length(meta: &Metainfo, piece: u32) -> u64 {
    let range = meta.piece_range(piece);
    range.end - range.start
}

/// The digests of a stored piece, read a MiB at a time; `None` when its object is gone or cut short.
async fn hash(reader: &ImportReader, meta: &Metainfo, piece: u32) -> Result<Option<PieceDigests>> {
    let mut range = meta.piece_range(piece);
    let mut hasher = PieceHashes::of(meta).hasher(piece);
    while !range.is_empty() {
        let end = range.end.min(range.start + MIB);
        match reader.read_at(range.start..end).await {
            Ok(payload) => payload.parts().iter().for_each(|p| hasher.update(p)),
            Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Corrupt) => {
                tracing::warn!(piece, error = %e.report(), "a stored piece cannot be read");
                return Ok(None);
            }
            Err(e) => return Err(e),
        }
        range.start = end;
    }
    Ok(Some(hasher.finish()))
}

fn files_of(meta: &Metainfo, piece: u32) -> Vec<String> {
    let range = meta.piece_range(piece);
    let touches = |f: &&crate::torrents::metainfo::File| {
        !f.pad && f.range.start < range.end && range.start < f.range.end
    };
    meta.files.iter().filter(touches).map(|f| f.path.clone()).collect()
}
