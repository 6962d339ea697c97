//! The registry: which operation writes which import.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;

use super::{claim_key::ClaimKey, claim_lease::ClaimLease, running_import::RunningImport};
use crate::{
    catalog::{Catalog, ImportId, leases::Leases},
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
    /// `None` when the data folder is not open for writing.
    leases: Option<Leases>,
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
    /// A registry whose claims are leases too.
    pub(in crate::engine) fn with_leases(leases: Option<Leases>) -> Self {
        Self { state: Mutex::default(), leases }
    }

    /// Whether any claim has leases, which must be renewed.
    pub(super) fn has_leased_claims(&self) -> bool {
        let state = self.state.lock();
        self.leases.is_some() && state.owners.values().any(|owner| owner.purpose != Purpose::Seed)
    }

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
    pub(in crate::engine) async fn claim(
        self: &Arc<Self>,
        purpose: Purpose,
        keys: impl IntoIterator<Item = ClaimKey>,
    ) -> Result<Claim> {
        let claim = self.empty_claim(purpose)?;
        claim.add(keys).await?;
        Ok(claim)
    }

    /// A claim of nothing yet.
    fn empty_claim(self: &Arc<Self>, purpose: Purpose) -> Result<Claim> {
        // Seeding writes nothing, and several processes may do it at once.
        let leases = self.leases.clone().filter(|_| purpose != Purpose::Seed);
        let lease = leases.map(ClaimLease::new).transpose()?;
        let number = self.next_number();
        self.state.lock().owners.insert(number, Owner { purpose, import: None });
        Ok(Claim { registry: Arc::downgrade(self), number, lease })
    }

    /// Claims those of `imports` that are free. Returns which these are.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub(in crate::engine) async fn claim_free(
        self: &Arc<Self>,
        purpose: Purpose,
        imports: impl IntoIterator<Item = ImportId>,
    ) -> Result<(Claim, Vec<ImportId>)> {
        let claim = self.empty_claim(purpose)?;
        let mut keys = Vec::new();
        let mut free = Vec::new();
        for import in imports {
            let key = ClaimKey::Import(import.clone());
            if self.state.lock().add(claim.number, vec![key.clone()]).is_ok() {
                free.push(import);
                keys.push(key);
            }
        }
        if let Some(lease) = claim.lease.as_ref().filter(|_| !keys.is_empty()) {
            let taken = lease.take_each(&keys).await?;
            let mut taken = taken.into_iter();
            free.retain(|_| taken.next() == Some(true));
        }
        Ok((claim, free))
    }

    /// Claims an import.
    ///
    /// # Errors
    /// As [`Registry::claim`].
    pub(in crate::engine) async fn claim_import(
        self: &Arc<Self>,
        purpose: Purpose,
        import: &ImportId,
    ) -> Result<Claim> {
        self.claim(purpose, [ClaimKey::Import(import.clone())]).await
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
    /// Returns the keys that the owner did not have.
    fn add(&mut self, number: u64, keys: Vec<ClaimKey>) -> Result<Vec<ClaimKey>> {
        for key in &keys {
            let other = self.keys.get(key).filter(|owner| **owner != number);
            if let Some(owner) = other.and_then(|owner| self.owners.get(owner)) {
                return Err(taken(owner));
            }
        }
        let mut new = Vec::new();
        for key in keys {
            if let (ClaimKey::Import(id), Some(owner)) = (&key, self.owners.get_mut(&number)) {
                owner.import = Some(id.clone());
            }
            if self.keys.insert(key.clone(), number).is_none() {
                new.push(key);
            }
        }
        Ok(new)
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
    lease: Option<ClaimLease>,
}

impl Claim {
    /// Claims more keys of the same import, or none of them. Keys that it has already stay.
    ///
    /// # Errors
    /// `Unavailable` when another owner, or another process, has one of them.
    pub(in crate::engine) async fn add(
        &self,
        keys: impl IntoIterator<Item = ClaimKey>,
    ) -> Result<()> {
        let closed = || Error::new(Kind::Cancelled, "the engine is closed");
        let registry = self.registry.upgrade().ok_or_else(closed)?;
        let new = registry.state.lock().add(self.number, keys.into_iter().collect())?;
        let Some(lease) = &self.lease else { return Ok(()) };
        if let Err(e) = lease.take(&new).await {
            let mut state = registry.state.lock();
            state.keys.retain(|key, _| !new.contains(key));
            return Err(e);
        }
        Ok(())
    }

    /// A handle of the catalog whose writes fail once another process has taken the import over.
    pub(in crate::engine) fn fenced(&self, catalog: &Catalog) -> Catalog {
        self.lease.as_ref().map_or_else(|| catalog.clone(), |lease| lease.fenced(catalog))
    }

    /// The import is complete and is only seeded from now on: its leases end.
    pub(in crate::engine) fn continue_seeding(&self) {
        if let Some(lease) = &self.lease {
            lease.release();
        }
        if let Some(registry) = self.registry.upgrade()
            && let Some(owner) = registry.state.lock().owners.get_mut(&self.number)
        {
            owner.purpose = Purpose::Seed;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // The leases end first, so that they are free for the next owner of this engine.
        drop(self.lease.take());
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

    #[tokio::test]
    async fn an_import_has_one_writer_at_a_time() {
        let registry = Arc::new(Registry::default());
        let claim = registry.claim_import(Purpose::Import, &id("9c4e0001")).await.unwrap();
        let second = registry.claim_import(Purpose::Remove, &id("9c4e0001")).await.unwrap_err();
        assert_eq!(second.kind(), Kind::Unavailable);
        assert_eq!(second.report(), "import 9c4e0001 is running already");
        registry.claim_import(Purpose::Remove, &id("9c4e0002")).await.unwrap();
        claim.continue_seeding();
        let third = registry.claim_import(Purpose::Publish, &id("9c4e0001")).await.unwrap_err();
        assert_eq!(third.report(), "import 9c4e0001 is being seeded");
        drop(claim);
        registry.claim_import(Purpose::Publish, &id("9c4e0001")).await.unwrap();
    }

    #[tokio::test]
    async fn one_torrent_is_claimed_by_its_source_and_by_each_info_hash_before_it_is_recorded() {
        let registry = Arc::new(Registry::default());
        let source = |text: &str, storage: &str| ClaimKey::of_source(text, storage);
        let first = registry.claim(Purpose::Import, source("http://me:x@h/f", "a")).await.unwrap();
        let same =
            registry.claim(Purpose::Import, source(" http://me:y@h/f", "a")).await.unwrap_err();
        assert_eq!(same.report(), "an import of this source is running already");
        let other = registry.claim(Purpose::Import, source("http://me@h/f", "b")).await.unwrap();
        first.add(ClaimKey::of_torrent(Some([1; 20]), Some([2; 32]), "a")).await.unwrap();
        first.add(ClaimKey::of_torrent(Some([1; 20]), None, "a")).await.unwrap();
        other.add(ClaimKey::of_torrent(Some([1; 20]), None, "b")).await.unwrap();
        assert!(other.add(ClaimKey::of_torrent(None, Some([2; 32]), "a")).await.is_err());
        drop(first);
        other.add(ClaimKey::of_torrent(None, Some([2; 32]), "a")).await.unwrap();
        let inputs = ["-", "-"].map(|text| source(text, "a"));
        assert_eq!(inputs, [None, None], "each standard input is another source");
    }

    #[tokio::test]
    async fn a_refused_claim_takes_nothing() {
        let registry = Arc::new(Registry::default());
        let _held = registry.claim_import(Purpose::Import, &id("9c4e0001")).await.unwrap();
        let both = [id("9c4e0002"), id("9c4e0001")].map(ClaimKey::Import);
        assert!(registry.claim(Purpose::Sweep, both).await.is_err());
        registry.claim_import(Purpose::Remove, &id("9c4e0002")).await.unwrap();
    }
}
