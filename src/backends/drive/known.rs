//! Maps keys to file ids, in the notes, or in memory when the notes cannot be written.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use crate::{
    backends::{Key, Notes},
    error::Result,
};

/// The known file ids by key.
#[derive(Debug)]
pub(super) struct Known {
    notes: Arc<dyn Notes>,
    /// Ids that could not be noted. A catalog that is open for reading only must not make a read fail.
    unwritten: Mutex<HashMap<Key, String>>,
}

impl Known {
    pub(super) fn new(notes: Arc<dyn Notes>) -> Self {
        Self { notes, unwritten: Mutex::default() }
    }

    pub(super) fn get(&self, key: &Key) -> Result<Option<String>> {
        if let Some(id) = self.unwritten.lock().get(key) {
            return Ok(Some(id.clone()));
        }
        self.notes.get(&note(key))
    }

    pub(super) async fn remember(&self, key: &Key, id: &str) {
        if let Err(e) = self.notes.set(&note(key), Some(id.to_owned())).await {
            tracing::debug!("the file of {key} is not noted: {}", e.report());
            self.unwritten.lock().insert(key.clone(), id.to_owned());
        }
    }

    pub(super) async fn forget(&self, key: &Key) {
        self.unwritten.lock().remove(key);
        if let Err(e) = self.notes.set(&note(key), None).await {
            tracing::debug!("the file of {key} is still noted: {}", e.report());
        }
    }
}

fn note(key: &Key) -> String {
    format!("id:{key}")
}
