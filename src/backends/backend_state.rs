//! Durable state that a backend keeps per key between runs.

use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
use parking_lot::RwLock;

use crate::error::Result;

/// A durable map from names to short values, private to one backend: Google Drive file ids, uploads in progress.
///
/// The backend chooses the names (for example a key with a prefix word). Values may be secrets (anyone with an upload
/// session URI can write to it), so they are never logged. Losing the state loses no data: the backend finds the
/// information again, only slower.
#[async_trait]
pub trait BackendState: Send + Sync + fmt::Debug {
    /// The last value set under `name`.
    ///
    /// # Errors
    /// When the state cannot be read.
    async fn get(&self, name: &str) -> Result<Option<String>>;

    /// All names that start with `prefix`, with their values, ordered by name.
    ///
    /// # Errors
    /// When the state cannot be read.
    async fn list(&self, prefix: &str) -> Result<Vec<(String, String)>>;

    /// Sets the value of `name`, or removes it with `None`. Durable when it returns.
    ///
    /// # Errors
    /// When the state cannot be written.
    async fn set(&self, name: &str, value: Option<String>) -> Result<()>;
}

/// State that lasts as long as the process: for tests, and for a storage that is only read.
#[derive(Debug, Default, Clone)]
pub struct InMemoryState(Arc<RwLock<BTreeMap<String, String>>>);

#[async_trait]
impl BackendState for InMemoryState {
    async fn get(&self, name: &str) -> Result<Option<String>> {
        Ok(self.0.read().get(name).cloned())
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, String)>> {
        let entries = self.0.read();
        let found = entries.iter().filter(|(name, _)| name.starts_with(prefix));
        Ok(found.map(|(name, value)| (name.clone(), value.clone())).collect())
    }

    async fn set(&self, name: &str, value: Option<String>) -> Result<()> {
        let mut entries = self.0.write();
        match value {
            Some(value) => entries.insert(name.into(), value),
            None => entries.remove(name),
        };
        Ok(())
    }
}
