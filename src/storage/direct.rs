//! Files that are one object from the start: those that arrive as one chunk need no second one made of it, and where parts
//! must come in order the larger ones are sent as they come.

use std::{collections::HashMap, ops::Range, sync::Arc};

use super::{Publisher, lanes::Lanes};
use crate::{
    catalog::{FileRow, ObjectRow},
    error::Result,
};

/// What a writer asks before it stores bytes as a chunk. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DirectFiles {
    publisher: Arc<Publisher>,
    /// By where they begin.
    files: Arc<HashMap<u64, FileRow>>,
}

impl DirectFiles {
    /// For files that are to be published by `publisher`.
    #[must_use]
    pub fn new(publisher: Arc<Publisher>, files: &[FileRow]) -> Self {
        let some = files.iter().filter(|file| file.len > 0);
        let files = some.map(|file| (file.start, file.clone())).collect();
        Self { publisher, files: Arc::new(files) }
    }

    pub(super) fn publisher(&self) -> &Arc<Publisher> {
        &self.publisher
    }

    /// The files that are sent in order, and how far they are.
    pub(super) fn lanes(&self) -> Lanes {
        let store = self.publisher.store();
        let mut files: Vec<_> = self.files.values().collect();
        files.sort_by_key(|file| file.start);
        let mut lanes = Lanes::default();
        for file in files {
            let Some(stream) = self.publisher.stream(file) else { continue };
            let sent = store.streamed_at(file.start).map_or(0, |range| range.end - range.start);
            lanes.push(file.clone(), stream, sent, store.layout());
        }
        lanes
    }

    /// Takes the name of the file that `runs` are all of; `None` when they are not one whole file.
    pub(super) async fn intend(&self, runs: &[Range<u64>]) -> Result<Option<ObjectRow>> {
        let [run] = runs else { return Ok(None) };
        let whole = self.files.get(&run.start).filter(|file| file.start + file.len == run.end);
        let Some(file) = whole else { return Ok(None) };
        let row = self.publisher.take_name(file).await?.row;
        // Bytes of a file that is stored come again only when its object was lost behind our back.
        Ok((!row.stored).then_some(row))
    }

    /// Notes that the object is committed.
    pub(super) fn stored(&self, object: &ObjectRow) {
        self.publisher.made(object);
    }
}
