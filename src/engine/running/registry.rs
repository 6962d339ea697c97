//! The registry: which operation writes which import.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;

use super::{claim_key::ClaimKey, running_import::RunningImport};
use crate::{
    catalog::ImportId,
    error::{Error, Kind, Result},
};

/// What the owner of a claim does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Purpose {
    Import,
    Repair,
    Publish,
    Adopt,
    Remove,
    Sweep,
    Seed,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Import => "is running already",
            Self::Repair => "is being repaired",
            Self::Publish => "is being published",
            Self::Adopt => "is being adopted",
            Self::Remove => "is being removed",
            Self::Sweep => "is being cleaned up",
            Self::Seed => "is being seeded",
        })
    }
}

/// All claims and running imports of an engine.
#[derive(Debug, Default)]
pub(in crate::engine) struct Registry {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last_number: u64,
    keys: HashMap<ClaimKey, u64>,
    owners: HashMap<u64, Owner>,
    imports: BTreeMap<u64, Arc<RunningImport>>,
}

#[derive(Debug)]
struct Owner {
    purpose: Purpose,
    import: Option<ImportId>,
}

impl Registry {
    /// A number for a new handle, from 1.
    pub(in crate::engine) fn next_number(&self) -> u64 {
        let mut state = self.state.lock();
        state.last_number += 1;
        state.last_number
    }

    /// Claims all `keys`, or none.
    ///
    /// # Errors
    /// `Unavailable` when another owner has one of them.
    pub(in crate::engine) fn claim(
        self: &Arc<Self>,
        purpose: Purpose,
        keys: impl IntoIterator<Item = ClaimKey>,
    ) -> Result<Claim> {
        let number = self.next_number();
        self.state.lock().owners.insert(number, Owner { purpose, import: None });
        let claim = Claim { registry: Arc::downgrade(self), number };
        claim.add(keys)?;
        Ok(claim)
    }

    /// Claims an import.
    ///
    /// # Errors
    /// As [`Registry::claim`].
    pub(in crate::engine) fn claim_import(
        self: &Arc<Self>,
        purpose: Purpose,
        import: &ImportId,
    ) -> Result<Claim> {
        self.claim(purpose, [ClaimKey::Import(import.clone())])
    }

    pub(in crate::engine) fn add_import(&self, running: &Arc<RunningImport>) {
        self.state.lock().imports.insert(running.number(), Arc::clone(running));
    }

    pub(in crate::engine) fn remove_import(&self, number: u64) {
        self.state.lock().imports.remove(&number);
    }

    /// The imports that have not ended, oldest first.
    pub(in crate::engine) fn imports(&self) -> Vec<Arc<RunningImport>> {
        self.state.lock().imports.values().cloned().collect()
    }
}

impl State {
    fn add(&mut self, number: u64, keys: Vec<ClaimKey>) -> Result<()> {
        for key in &keys {
            let other = self.keys.get(key).filter(|owner| **owner != number);
            if let Some(owner) = other.and_then(|owner| self.owners.get(owner)) {
                return Err(taken(owner));
            }
        }
        for key in keys {
            if let (ClaimKey::Import(id), Some(owner)) = (&key, self.owners.get_mut(&number)) {
                owner.import = Some(id.clone());
            }
            self.keys.insert(key, number);
        }
        Ok(())
    }

    fn release(&mut self, number: u64) {
        self.owners.remove(&number);
        self.keys.retain(|_, owner| *owner != number);
    }
}

fn taken(owner: &Owner) -> Error {
    let what = match &owner.import {
        Some(id) => format!("import {id}"),
        None => "an import of this source".to_owned(),
    };
    Error::new(Kind::Unavailable, format!("{what} {}", owner.purpose))
}

/// The right to write an import. Ends when it is dropped.
#[derive(Debug)]
pub(in crate::engine) struct Claim {
    registry: Weak<Registry>,
    number: u64,
}

impl Claim {
    /// Claims more keys of the same import, or none of them. Keys that it has already stay.
    ///
    /// This is the one place where an import is claimed, and [`Claim::drop`] the one where it is released: a lease in
    /// the catalog, which keeps other processes away, belongs to both.
    ///
    /// # Errors
    /// `Unavailable` when another owner has one of them.
    pub(in crate::engine) fn add(&self, keys: impl IntoIterator<Item = ClaimKey>) -> Result<()> {
        match self.registry.upgrade() {
            Some(registry) => registry.state.lock().add(self.number, keys.into_iter().collect()),
            None => Err(Error::new(Kind::Cancelled, "the engine is closed")),
        }
    }

    /// Changes the purpose that errors of other claims name.
    pub(in crate::engine) fn set_purpose(&self, purpose: Purpose) {
        if let Some(registry) = self.registry.upgrade()
            && let Some(owner) = registry.state.lock().owners.get_mut(&self.number)
        {
            owner.purpose = purpose;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(registry) = self.registry.upgrade() {
            registry.state.lock().release(self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> ImportId {
        text.parse().unwrap()
    }

    #[test]
    fn an_import_has_one_writer_at_a_time() {
        let registry = Arc::new(Registry::default());
        let claim = registry.claim_import(Purpose::Import, &id("9c4e0001")).unwrap();
        let second = registry.claim_import(Purpose::Remove, &id("9c4e0001")).unwrap_err();
        assert_eq!(second.kind(), Kind::Unavailable);
        assert_eq!(second.report(), "import 9c4e0001 is running already");
        registry.claim_import(Purpose::Remove, &id("9c4e0002")).unwrap();
        claim.set_purpose(Purpose::Seed);
        let third = registry.claim_import(Purpose::Publish, &id("9c4e0001")).unwrap_err();
        assert_eq!(third.report(), "import 9c4e0001 is being seeded");
        drop(claim);
        registry.claim_import(Purpose::Publish, &id("9c4e0001")).unwrap();
    }

    #[test]
    fn one_torrent_is_claimed_by_its_source_and_by_each_info_hash_before_it_is_recorded() {
        let registry = Arc::new(Registry::default());
        let source = |text: &str, storage: &str| ClaimKey::of_source(text, storage);
        let first = registry.claim(Purpose::Import, source("http://me:x@h/f", "a")).unwrap();
        let same = registry.claim(Purpose::Import, source(" http://me:y@h/f", "a")).unwrap_err();
        assert_eq!(same.report(), "an import of this source is running already");
        let other = registry.claim(Purpose::Import, source("http://me@h/f", "b")).unwrap();
        first.add(ClaimKey::of_torrent(Some([1; 20]), Some([2; 32]), "a")).unwrap();
        first.add(ClaimKey::of_torrent(Some([1; 20]), None, "a")).unwrap();
        other.add(ClaimKey::of_torrent(Some([1; 20]), None, "b")).unwrap();
        assert!(other.add(ClaimKey::of_torrent(None, Some([2; 32]), "a")).is_err());
        drop(first);
        other.add(ClaimKey::of_torrent(None, Some([2; 32]), "a")).unwrap();
        let inputs = ["-", "-"].map(|text| source(text, "a"));
        assert_eq!(inputs, [None, None], "each standard input is another source");
    }

    #[test]
    fn a_refused_claim_takes_nothing() {
        let registry = Arc::new(Registry::default());
        let _held = registry.claim_import(Purpose::Import, &id("9c4e0001")).unwrap();
        let both = [id("9c4e0002"), id("9c4e0001")].map(ClaimKey::Import);
        assert!(registry.claim(Purpose::Sweep, both).is_err());
        registry.claim_import(Purpose::Remove, &id("9c4e0002")).unwrap();
    }
}
