//! What a backend must remember of a key from one run to the next.

use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
use parking_lot::RwLock;

use crate::error::Result;

/// A few durable words per name, for the backend of one place: Drive's file ids, uploads under way.
///
/// Names are the backend's own (a key with a word before it, say). Values may be secrets (a session URI lets whoever
/// holds it write), so they are never logged. Losing the notes loses no data: a backend finds what it needs again,
/// only slower.
#[async_trait]
pub trait Notes: Send + Sync + fmt::Debug {
    /// What was last noted under `name`.
    ///
    /// # Errors
    /// When the notes cannot be read.
    fn get(&self, name: &str) -> Result<Option<String>>;

    /// Every name that begins with `prefix`, with its value, in order.
    ///
    /// # Errors
    /// When the notes cannot be read.
    fn list(&self, prefix: &str) -> Result<Vec<(String, String)>>;

    /// Notes `value`, or forgets the name with `None`. Durable when it returns.
    ///
    /// # Errors
    /// When the notes cannot be written.
    async fn set(&self, name: &str, value: Option<String>) -> Result<()>;
}

/// Notes that end with the process: for tests, and for a place that is only looked at.
#[derive(Debug, Default, Clone)]
pub struct MemoryNotes(Arc<RwLock<BTreeMap<String, String>>>);

#[async_trait]
impl Notes for MemoryNotes {
    fn get(&self, name: &str) -> Result<Option<String>> {
        Ok(self.0.read().get(name).cloned())
    }

    fn list(&self, prefix: &str) -> Result<Vec<(String, String)>> {
        let notes = self.0.read();
        let found = notes.iter().filter(|(name, _)| name.starts_with(prefix));
        Ok(found.map(|(name, value)| (name.clone(), value.clone())).collect())
    }

    async fn set(&self, name: &str, value: Option<String>) -> Result<()> {
        let mut notes = self.0.write();
        match value {
            Some(value) => notes.insert(name.into(), value),
            None => notes.remove(name),
        };
        Ok(())
    }
}
