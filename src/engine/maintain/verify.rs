//! `verify`: checks the stored pieces against the hashes of the torrent, or only that their objects exist.

use std::{
    collections::{BTreeSet, HashSet},
    ops::Range,
};

use tokio_util::sync::CancellationToken;

use crate::{
    backends::{Key, ObjectVersion, StorageBackend},
    catalog::{ImportId, ImportRow, ObjectNum, ObjectRow, Role},
    engine::{BadPiece, Engine, ProgressFn, VerifyReport, plan::Plan},
    error::{Error, Kind, Result},
    memory::Share,
    storage::{ImportReader, recover::presence::find_missing},
    torrents::metainfo::{
        Metainfo,
        check::{PieceDigests, PieceHashes},
    },
};

/// The length of the steps in which pieces are read, in bytes.
const STEP: usize = 1 << 20;

impl Engine {
    /// Reads and hashes every stored piece.
    ///
    /// # Errors
    /// `Cancelled`; the error of a backend that does not answer. Pieces that are lost or wrong are in the report.
    pub async fn verify(
        &self,
        import_ref: &str,
        progress: ProgressFn,
        cancel: CancellationToken,
    ) -> Result<VerifyReport> {
        let row = self.catalog.find(import_ref).await?;
        let storage = self.storage_of(&row).await?;
        let store = self.open_store(&row, &storage).await?;
        if !row.is_torrent() {
            return self.verify_files(&row, &store, Some(progress), cancel).await;
        }
        let (_, meta) = self.metainfo_of(&row).await?;
        let plan = Plan::new(&meta, row.selected.as_deref(), &store);
        let hashes = PieceHashes::of(&meta);
        let reader = self.reader(&store);
        let _step = self.memory.reserve(Share::Readers, STEP).await;
        let readable =
            |p| plan.have[p as usize] && store.is_in_finished_objects(meta.piece_range(p));
        let stored_pieces = || (0..meta.pieces()).filter(|&p| readable(p) && hashes.is_known(p));
        let total = stored_pieces().map(|p| piece_len(&meta, p)).sum();
        let missing = store.missing(&plan.wanted).len();
        let mut report = VerifyReport { pieces: 0, bad: Vec::new(), lost: 0, missing };
        let mut done = 0;
        for piece in stored_pieces() {
            let good = tokio::select! {
                () = cancel.cancelled() => return Err(Error::new(Kind::Cancelled, "stopped")),
                digests = hash_piece(&reader, &meta, piece) => match digests? {
                    PieceRead::Complete(digests) => hashes.verify(piece, &digests),
                    PieceRead::Damaged => false,
                    PieceRead::Lost => {
                        report.lost += 1;
                        false
                    }
                },
            };
            report.pieces += 1;
            if !good {
                report.bad.push(BadPiece { piece, files: files_of(&meta, piece) });
            }
            done += piece_len(&meta, piece);
            progress(done, total);
        }
        Ok(report)
    }
}

impl Engine {
    /// Checks that the objects of an import exist and have the expected lengths. Payload is not read, so bytes that
    /// changed in place are not noticed. Of adopted objects, the ETag or modification time is compared as well.
    ///
    /// # Errors
    /// The error of a backend that does not answer. Pieces in lost objects are in the report.
    pub async fn verify_quick(&self, import_ref: &str) -> Result<VerifyReport> {
        let row = self.catalog.find(import_ref).await?;
        let storage = self.storage_of(&row).await?;
        let store = self.open_store(&row, &storage).await?;
        if !row.is_torrent() {
            return self.verify_files(&row, &store, None, CancellationToken::new()).await;
        }
        let (_, meta) = self.metainfo_of(&row).await?;
        let plan = Plan::new(&meta, row.selected.as_deref(), &store);
        let mut bad = BTreeSet::new();
        for range in self.lost_ranges(&row, &*storage.backend).await? {
            bad.extend(pieces_of(&meta, &range));
        }
        Ok(VerifyReport {
            lost: bad.len(),
            pieces: plan.have.iter().filter(|have| **have).count(),
            bad: bad
                .into_iter()
                .map(|p| BadPiece { piece: p, files: files_of(&meta, p) })
                .collect(),
            missing: store.missing(&plan.wanted).len(),
        })
    }
}

impl Engine {
    /// Adopted objects that changed since they were verified, as far as the storage can tell.
    async fn changed_objects(
        &self,
        import: &ImportId,
        objects: &[ObjectRow],
        backend: &dyn StorageBackend,
    ) -> Result<Vec<ObjectNum>> {
        let mut changed_objects = Vec::new();
        for (key, len, tag) in self.catalog.adopted_objects(import).await? {
            let now = backend.version(&Key::new(&key)?).await?;
            if now.is_none_or(|now| !now.matches(&ObjectVersion { len, tag })) {
                let found = objects.iter().find(|o| o.role == Role::Adopted && o.key == key);
                changed_objects.extend(found.map(|object| object.num));
            }
        }
        Ok(changed_objects)
    }

    /// Ranges of an import whose objects are missing, have another length, or (if adopted) have changed.
    pub(super) async fn lost_ranges(
        &self,
        row: &ImportRow,
        backend: &dyn StorageBackend,
    ) -> Result<Vec<Range<u64>>> {
        let mut objects = self.catalog.objects(&row.id).await?;
        objects.retain(|object| object.is_stored() && object.role != Role::Manifest);
        let expected: Vec<_> = objects.iter().map(|o| (o.key.as_str(), o.len)).collect();
        let absent = find_missing(backend, &expected).await?;
        let mut absent: HashSet<ObjectNum> = absent.into_iter().map(|n| objects[n].num).collect();
        absent.extend(self.changed_objects(&row.id, &objects, backend).await?);
        let extents = self.catalog.extents(&row.id).await?.into_iter();
        let lost = extents.filter(|extent| absent.contains(&extent.object));
        Ok(lost.map(|extent| extent.range).collect())
    }
}

/// The pieces that overlap a range.
fn pieces_of(meta: &Metainfo, range: &Range<u64>) -> Range<u32> {
    let len = u64::from(meta.piece_length);
    let piece = |n: u64| u32::try_from(n).unwrap_or(u32::MAX).min(meta.pieces());
    piece(range.start / len)..piece(range.end.div_ceil(len))
}

fn piece_len(meta: &Metainfo, piece: u32) -> u64 {
    let range = meta.piece_range(piece);
    range.end - range.start
}

/// Result of reading a stored piece.
enum PieceRead {
    Complete(PieceDigests),
    /// Its object is truncated or damaged.
    Damaged,
    /// Its object is missing.
    Lost,
}

/// Hashes a stored piece, which is read in steps.
async fn hash_piece(reader: &ImportReader, meta: &Metainfo, piece: u32) -> Result<PieceRead> {
    let mut range = meta.piece_range(piece);
    let mut hasher = PieceHashes::of(meta).hasher(piece);
    while !range.is_empty() {
        let end = range.end.min(range.start + STEP as u64);
        match reader.read_at(range.start..end).await {
            Ok(payload) => payload.buffers().iter().for_each(|p| hasher.update(p)),
            Err(e) if e.kind().is_object_specific() => {
                tracing::warn!(piece, error = %e.report(), "a stored piece cannot be read");
                return Ok(if e.kind() == Kind::NotFound {
                    PieceRead::Lost
                } else {
                    PieceRead::Damaged
                });
            }
            Err(e) => return Err(e),
        }
        range.start = end;
    }
    Ok(PieceRead::Complete(hasher.finish()))
}

fn files_of(meta: &Metainfo, piece: u32) -> Vec<String> {
    let range = meta.piece_range(piece);
    let touches = |f: &&crate::torrents::metainfo::File| {
        !f.pad && f.range.start < range.end && range.start < f.range.end
    };
    meta.files.iter().filter(touches).map(|f| f.path.clone()).collect()
}
