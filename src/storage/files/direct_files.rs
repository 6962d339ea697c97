//! Files that are stored as one object from the start. A file of one chunk is stored under its own name and needs no
//! second object. Where the storage takes parts in order, larger files are sent part by part as they arrive.

use std::{collections::HashMap, ops::Range, sync::Arc};

use super::sequential_files::SequentialFiles;
use crate::{
    catalog::{FileRow, ObjectRow},
    error::Result,
    storage::Publisher,
};

/// Which files the writer may store under their own names. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DirectFiles {
    publisher: Arc<Publisher>,
    /// By start position.
    files: Arc<HashMap<u64, FileRow>>,
}

impl DirectFiles {
    /// For `files` that `publisher` publishes.
    #[must_use]
    pub fn new(publisher: Arc<Publisher>, files: &[FileRow]) -> Self {
        let some = files.iter().filter(|file| file.len > 0);
        let files = some.map(|file| (file.start, file.clone())).collect();
        Self { publisher, files: Arc::new(files) }
    }

    pub(in crate::storage) fn publisher(&self) -> &Arc<Publisher> {
        &self.publisher
    }

    /// The files that are sent in order, with their progress.
    pub(in crate::storage) fn sequential_files(&self) -> SequentialFiles {
        let store = self.publisher.store();
        let mut files: Vec<_> = self.files.values().collect();
        files.sort_by_key(|file| file.start);
        let mut sequential_files = SequentialFiles::default();
        for file in files {
            let Some(upload) = self.publisher.upload_of(file) else { continue };
            let sent =
                store.uploaded_range_at(file.start).map_or(0, |range| range.end - range.start);
            sequential_files.push(file.clone(), upload, sent, store.layout());
        }
        sequential_files
    }

    /// Records an intent under the file's name when `runs` are exactly one whole file that is not stored yet. `None`
    /// otherwise: the writer then stores a chunk object.
    pub(in crate::storage) async fn intend(
        &self,
        runs: &[Range<u64>],
    ) -> Result<Option<ObjectRow>> {
        let [run] = runs else { return Ok(None) };
        let whole = self.files.get(&run.start).filter(|file| file.start + file.len == run.end);
        let Some(file) = whole else { return Ok(None) };
        let row = self.publisher.reserve_name(file).await?.row;
        // Bytes of a stored file arrive again only when its object was lost outside of bae.
        Ok((!row.is_stored()).then_some(row))
    }

    /// Records that the object is committed.
    pub(in crate::storage) fn mark_stored(&self, object: &ObjectRow) {
        self.publisher.record_stored(object);
    }
}
