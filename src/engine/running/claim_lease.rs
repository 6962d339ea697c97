//! The lease behind a claim: it keeps other processes away, as the registry does within one engine.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{claim_key::ClaimKey, registry::Registry};
use crate::{
    catalog::{
        Catalog,
        leases::{Leases, RENEWAL_INTERVAL, Resource, Token},
    },
    engine::Engine,
    error::Result,
};

/// The leases of one claim, all with the same token.
#[derive(Debug)]
pub(super) struct ClaimLease {
    leases: Leases,
    token: Token,
    /// The newest one, which its writes check. `None` while there is none.
    newest: Mutex<Option<Resource>>,
}

impl ClaimLease {
    pub(super) fn new(leases: Leases) -> Result<Self> {
        Ok(Self { leases, token: Token::random()?, newest: Mutex::default() })
    }

    /// Takes a lease for each key, or none.
    ///
    /// # Errors
    /// `Unavailable` when another process has one of them.
    pub(super) async fn take(&self, keys: &[ClaimKey]) -> Result<()> {
        let resources: Vec<_> = keys.iter().map(ClaimKey::resource).collect();
        let Some(newest) = resources.last().cloned() else { return Ok(()) };
        self.leases.take(&self.token, resources).await?;
        *self.newest.lock() = Some(newest);
        Ok(())
    }

    /// Takes a lease for each key that no other process has. Returns which were taken.
    pub(super) async fn take_each(&self, keys: &[ClaimKey]) -> Result<Vec<bool>> {
        let resources: Vec<_> = keys.iter().map(ClaimKey::resource).collect();
        let taken = self.leases.take_each(&self.token, resources.clone()).await?;
        if let Some((newest, _)) = resources.into_iter().zip(&taken).rfind(|(_, taken)| **taken) {
            *self.newest.lock() = Some(newest);
        }
        Ok(taken)
    }

    /// Ends the leases.
    pub(super) fn release(&self) {
        if self.newest.lock().take().is_some() {
            self.leases.release(&self.token);
        }
    }

    /// A handle of the catalog whose writes fail once the leases are lost.
    pub(super) fn fenced(&self, catalog: &Catalog) -> Catalog {
        match &*self.newest.lock() {
            Some(newest) => catalog.fenced(newest.clone(), self.token.clone()),
            None => catalog.clone(),
        }
    }
}

impl Drop for ClaimLease {
    fn drop(&mut self) {
        self.release();
    }
}

impl Engine {
    /// Starts the task that renews the leases of all claims. It ends with the engine and does not keep it open.
    pub(in crate::engine) fn spawn_lease_renewal(&self, leases: Leases) {
        let (registry, stopping) = (Arc::downgrade(&self.running), self.stopping.clone());
        self.tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = stopping.cancelled() => return,
                    () = tokio::time::sleep(RENEWAL_INTERVAL) => {}
                }
                match registry.upgrade() {
                    Some(registry) => renew(&registry, &leases).await,
                    None => return,
                }
            }
        });
    }
}

/// Without claims nothing is written, so that an idle engine leaves its disk alone.
async fn renew(registry: &Registry, leases: &Leases) {
    if !registry.has_leased_claims() {
        return;
    }
    match leases.renew().await {
        Ok(true) => {}
        Ok(false) => tracing::warn!("the leases of this process were taken over by another bae"),
        Err(e) => tracing::warn!("the leases of this process cannot be renewed: {}", e.report()),
    }
}
