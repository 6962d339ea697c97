//! Maps keys to file ids, in the backend state, or in memory when the state cannot be written.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use crate::{
    backends::{BackendState, Key},
    error::Result,
};

/// The known file ids by key.
#[derive(Debug)]
pub(super) struct FileIds {
    backend_state: Arc<dyn BackendState>,
    /// Ids that could not be saved. A catalog that is open for reading only must not make a read fail.
    unsaved: Mutex<HashMap<Key, String>>,
}

impl FileIds {
    pub(super) fn new(backend_state: Arc<dyn BackendState>) -> Self {
        Self { backend_state, unsaved: Mutex::default() }
    }

    pub(super) async fn get(&self, key: &Key) -> Result<Option<String>> {
        let unsaved = self.unsaved.lock().get(key).cloned();
        match unsaved {
            Some(id) => Ok(Some(id)),
            None => self.backend_state.get(&entry_name(key)).await,
        }
    }

    pub(super) async fn remember(&self, key: &Key, id: &str) {
        if let Err(e) = self.backend_state.set(&entry_name(key), Some(id.to_owned())).await {
            tracing::debug!("cannot save the file id of {key}: {}", e.report());
            self.unsaved.lock().insert(key.clone(), id.to_owned());
        }
    }

    pub(super) async fn forget(&self, key: &Key) {
        self.unsaved.lock().remove(key);
        if let Err(e) = self.backend_state.set(&entry_name(key), None).await {
            tracing::debug!("cannot delete the file id of {key}: {}", e.report());
        }
    }
}

fn entry_name(key: &Key) -> String {
    format!("id:{key}")
}
