//! `verify` of an import from a URL. Without a torrent there are no piece hashes, so each file counts as one piece,
//! with its index as number. Its objects must exist with the expected lengths. The bytes are verified where the import
//! is a single file with a known checksum.

use std::{collections::BTreeSet, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::{
    catalog::ImportRow,
    downloads::Checksums,
    engine::{
        BadPiece, Engine, ProgressFn, ReadStream, VerifyReport,
        import::source_record::SourceRecord,
        plan::{is_selected, selected_ranges},
    },
    error::{Error, Kind, Result},
    storage::ImportStore,
    torrents::metainfo::File,
};

impl Engine {
    /// Verifies all files. Payload is read only with `progress`.
    pub(in crate::engine) async fn verify_files(
        &self,
        row: &ImportRow,
        store: &Arc<ImportStore>,
        progress: Option<ProgressFn>,
        cancel: CancellationToken,
    ) -> Result<VerifyReport> {
        let storage = self.storage_of(row).await?;
        let files = self.files_of(row).await?;
        let selected = |n: &usize| is_selected(row.selected.as_deref(), *n);
        let stored: Vec<usize> = (0..files.len())
            .filter(|n| selected(n) && store.is_in_finished_objects(files[*n].range.clone()))
            .collect();
        let mut bad = BTreeSet::new();
        for lost in self.lost_ranges(row, &*storage.backend).await? {
            let touches = |n: &&usize| {
                let range = &files[**n].range;
                range.start < lost.end && lost.start < range.end
            };
            bad.extend(stored.iter().filter(touches).copied());
        }
        let lost = bad.len();
        let record = self.catalog.source_record(&row.id).await?;
        let checksums = SourceRecord::parse(record.as_deref()).checksums()?;
        if let (Some(progress), [file]) = (progress, files.as_slice()) {
            let checksums = Checksums::new(checksums);
            let reads = !checksums.is_empty() && bad.is_empty() && !stored.is_empty();
            if reads && !self.matches_checksums(store, file, &checksums, progress, cancel).await? {
                bad.insert(0);
            }
        }
        let piece = |n: usize| BadPiece {
            piece: u32::try_from(n).unwrap_or(u32::MAX),
            files: vec![files[n].path.clone()],
        };
        Ok(VerifyReport {
            pieces: stored.len(),
            lost,
            bad: bad.into_iter().map(piece).collect(),
            missing: store.missing(&selected_ranges(&files, row.selected.as_deref())).len(),
        })
    }

    async fn matches_checksums(
        &self,
        store: &Arc<ImportStore>,
        file: &File,
        checksums: &Checksums,
        progress: ProgressFn,
        cancel: CancellationToken,
    ) -> Result<bool> {
        let mut stream = ReadStream::new(self.reader(store), file.range.clone());
        let (mut check, total, mut done) = (checksums.verifier(), stream.len(), 0);
        loop {
            let bytes = tokio::select! {
                () = cancel.cancelled() => return Err(Error::new(Kind::Cancelled, "stopped")),
                bytes = stream.next() => bytes,
            };
            match bytes {
                Ok(Some(bytes)) => {
                    check.update(&bytes);
                    done += bytes.len() as u64;
                    progress(done, total);
                }
                Ok(None) => return Ok(check.finish(&file.path).is_ok()),
                Err(e) if e.kind().is_object_specific() => return Ok(false),
                Err(e) => return Err(e),
            }
        }
    }
}
