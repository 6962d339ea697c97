//! Decides which chunk of each file that is sent in order may be uploaded next. Pure, apart from the uploads it hands
//! out.
//!
//! Invariants:
//! - The parts of a file are planned in order, each once. `planned` counts the planned parts that are not sent yet.
//! - A file that has ended plans nothing: its chunks become chunk objects like all others.

use std::{ops::Range, sync::Arc};

use super::sequential_upload::SequentialUpload;
use crate::{catalog::FileRow, storage::Layout};

/// A file that is sent chunk by chunk, each as one part.
#[derive(Debug)]
pub(in crate::storage) struct SequentialFile {
    pub(in crate::storage) upload: Arc<SequentialUpload>,
    pub(in crate::storage) row: FileRow,
    chunks: Range<usize>,
    /// The chunk to plan next.
    next_chunk: usize,
    planned: usize,
    ended: bool,
}

/// The sequential files of an import, sorted by position.
#[derive(Debug, Default)]
pub(in crate::storage) struct SequentialFiles(Vec<SequentialFile>);

/// A planned part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::storage) struct PlannedPart {
    /// Index in [`SequentialFiles`].
    pub(in crate::storage) file: usize,
    /// Index within the file, from 0.
    pub(in crate::storage) part: u64,
}

impl SequentialFiles {
    pub(in crate::storage) fn push(
        &mut self,
        row: FileRow,
        upload: Arc<SequentialUpload>,
        sent: u64,
        layout: &Layout,
    ) {
        let Range { start, end } = *upload.file();
        let first = layout.chunks().partition_point(|chunk| chunk.end <= start);
        let chunks = first..layout.chunks().partition_point(|chunk| chunk.start < end);
        let next = layout.chunks().partition_point(|chunk| chunk.end <= start + sent).max(first);
        let next = if sent >= end - start { chunks.end } else { next };
        let exact = chunks
            .clone()
            .enumerate()
            .all(|(part, chunk)| layout.chunks().get(chunk) == Some(&upload.part(part as u64)));
        if exact {
            self.0.push(SequentialFile {
                upload,
                row,
                chunks,
                next_chunk: next,
                planned: 0,
                ended: false,
            });
        }
    }

    pub(in crate::storage) fn file(&self, index: usize) -> &SequentialFile {
        &self.0[index]
    }

    /// Whether the chunk belongs to a file that has not ended.
    pub(in crate::storage) fn contains_chunk(&self, chunk: usize) -> bool {
        let at = self.0.partition_point(|file| file.chunks.end <= chunk);
        self.0.get(at).is_some_and(|file| !file.ended && file.chunks.contains(&chunk))
    }

    /// The next chunk of each file that has not ended, as (file, chunk). Without `include_busy` only of files with
    /// nothing planned.
    pub(in crate::storage) fn next_chunks(
        &self,
        include_busy: bool,
    ) -> impl Iterator<Item = (usize, usize)> + '_ {
        let next = self.0.iter().enumerate().filter(move |(_, file)| {
            !file.ended && file.next_chunk < file.chunks.end && (include_busy || file.planned == 0)
        });
        next.map(|(n, file)| (n, file.next_chunk))
    }

    /// Plans the next chunk of a file.
    pub(in crate::storage) fn plan_next(&mut self, index: usize) -> PlannedPart {
        let file = &mut self.0[index];
        let part = (file.next_chunk - file.chunks.start) as u64;
        file.next_chunk += 1;
        file.planned += 1;
        PlannedPart { file: index, part }
    }

    /// Cancels a planned part if it is the last planned one of its file. The caller then stores it as a chunk object.
    pub(in crate::storage) fn unplan(&mut self, planned_part: PlannedPart) -> bool {
        let file = &mut self.0[planned_part.file];
        let is_last = (file.next_chunk - file.chunks.start) as u64 == planned_part.part + 1;
        if is_last {
            file.next_chunk -= 1;
            file.planned -= 1;
        }
        is_last
    }

    /// Records that a planned part was sent. With `ended` it was stored as a chunk object instead, and the file ends.
    pub(in crate::storage) fn finish_part(&mut self, planned_part: PlannedPart, ended: bool) {
        let file = &mut self.0[planned_part.file];
        file.planned -= 1;
        file.ended |= ended;
    }
}
