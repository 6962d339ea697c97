//! Leases: the right of one process to write an import, kept in the catalog and checked by each of its writes.
//!
//! A process is one holder, with one time of expiry for all of its leases, which it renews. A lease is of a resource: an
//! import by its id, or a torrent or source in a storage. It has a random token. [`Catalog::fenced`] gives a handle that
//! checks the token in the transaction of each write, so a process that slept through the expiry of its leases changes
//! nothing when it wakes. The check is one look-up by key; it adds no transaction and no sync.
//!
//! Invariants: a resource has at most one lease. Leases of a holder that expired are taken over all together, so its
//! tokens become invalid at once. An expired lease that was not taken over is still valid. Opening the catalog for
//! writing ends all leases: the lock of the data folder shows that their processes are gone.

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

use super::{
    Catalog, is_catalog_failure,
    modules::Module,
    random_hex,
    sql::{Row, Sql, first, scalar, values},
    sql_int,
};
use crate::{
    clock::Clock,
    error::{Error, Kind, Result},
};

/// The tables of leases.
pub(super) static MODULE: Module = Module {
    name: "leases",
    steps: &["
        CREATE TABLE lease_holders(
            holder TEXT NOT NULL PRIMARY KEY,
            process BIGINT NOT NULL,
            expires_at BIGINT NOT NULL
        );
        CREATE TABLE leases(
            resource TEXT NOT NULL PRIMARY KEY,
            token TEXT NOT NULL,
            holder TEXT NOT NULL REFERENCES lease_holders(holder) ON DELETE CASCADE
        );
        CREATE INDEX leases_by_token ON leases(token);
        CREATE INDEX leases_by_holder ON leases(holder);
    "],
};

/// How long leases last without renewal. A process that is stopped for longer loses them.
const LIFETIME: Duration = Duration::from_secs(60);
/// The interval of the renewals, a third of the lifetime.
pub(crate) const RENEWAL_INTERVAL: Duration = Duration::from_secs(20);

/// Marks the error of a write whose lease is lost.
#[derive(Debug)]
struct LeaseLost;

impl fmt::Display for LeaseLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("its lease is lost")
    }
}

impl StdError for LeaseLost {}

/// Whether a write was refused because another process may write the import now. Repeating it cannot succeed.
pub(crate) fn is_lease_lost(error: &Error) -> bool {
    StdError::source(error).is_some_and(|source| source.is::<LeaseLost>())
}

/// What a lease is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resource {
    /// Unique among all resources.
    pub(crate) key: String,
    /// Its name in errors.
    pub(crate) name: String,
}

/// The proof that a lease is held. Random for each claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token(Arc<str>);

impl Token {
    /// # Errors
    /// `Internal` when the system has no randomness.
    pub(crate) fn random() -> Result<Self> {
        Ok(Self(random_hex::<8>()?.into()))
    }
}

/// What each write through a fenced handle checks.
#[derive(Debug)]
pub(super) struct Fence {
    resource: Resource,
    token: Token,
}

impl Fence {
    /// # Errors
    /// `Changed` when the token is not valid any more.
    pub(super) fn check(&self, db: &dyn Sql) -> Result<()> {
        let query = "SELECT 1 FROM leases WHERE resource = ? AND token = ?";
        let held: Option<i64> = scalar(db, query, values![&self.resource.key, &*self.token.0])?;
        if held.is_some() {
            return Ok(());
        }
        let text = format!("{} was taken over by another bae", self.resource.name);
        Err(Error::new(Kind::Changed, text).because(LeaseLost))
    }
}

/// The leases of one process. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Leases {
    catalog: Catalog,
    holder: Arc<str>,
    clock: Clock,
}

impl Leases {
    /// # Errors
    /// `Internal` when the system has no randomness.
    pub(crate) fn new(catalog: Catalog, clock: Clock) -> Result<Self> {
        Ok(Self { catalog, holder: random_hex::<8>()?.into(), clock })
    }

    /// Takes a lease of each resource, or of none. Those that the token has already stay.
    ///
    /// # Errors
    /// `Unavailable` when another process has one of them.
    pub(crate) async fn take(&self, token: &Token, resources: Vec<Resource>) -> Result<()> {
        let (holder, token) = (Arc::clone(&self.holder), token.clone());
        let now = self.clock.now();
        let take = move |db: &dyn Sql| take(db, (&holder, &token), &resources, now);
        self.catalog.write(take).await
    }

    /// Takes a lease of each resource that no other process has. Returns which were taken.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub(crate) async fn take_each(
        &self,
        token: &Token,
        resources: Vec<Resource>,
    ) -> Result<Vec<bool>> {
        let (holder, token) = (Arc::clone(&self.holder), token.clone());
        let now = self.clock.now();
        self.catalog
            .write(move |db| {
                let take_one = |resource: &Resource| match take(
                    db,
                    (&holder, &token),
                    std::slice::from_ref(resource),
                    now,
                ) {
                    Err(e) if e.kind() == Kind::Unavailable && !is_catalog_failure(&e) => Ok(false),
                    taken => taken.map(|()| true),
                };
                resources.iter().map(take_one).collect()
            })
            .await
    }

    /// Renews all leases of this process. Returns whether it still has them.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub(crate) async fn renew(&self) -> Result<bool> {
        let (holder, expires) = (Arc::clone(&self.holder), expiry(self.clock.now())?);
        let sql = "UPDATE lease_holders SET expires_at = ? WHERE holder = ?";
        self.catalog.write(move |db| Ok(db.execute(sql, values![expires, &*holder])? > 0)).await
    }

    /// Ends the leases of a token, before all writes that are queued after this call.
    pub(crate) fn release(&self, token: &Token) {
        let (holder, token) = (Arc::clone(&self.holder), token.clone());
        self.catalog.inner.post(move |db| {
            db.execute("DELETE FROM leases WHERE token = ?", values![&*token.0])?;
            let sql = "DELETE FROM lease_holders WHERE holder = ?1
                AND NOT EXISTS(SELECT 1 FROM leases WHERE holder = ?1)";
            db.execute(sql, values![&*holder]).map(drop)
        });
    }
}

fn expiry(now: Duration) -> Result<i64> {
    sql_int(u64::try_from((now + LIFETIME).as_millis()).unwrap_or(u64::MAX))
}

fn take(
    db: &dyn Sql,
    (holder, token): (&str, &Token),
    resources: &[Resource],
    now: Duration,
) -> Result<()> {
    let now_ms = sql_int(u64::try_from(now.as_millis()).unwrap_or(u64::MAX))?;
    for resource in resources {
        let query = "SELECT l.holder, h.expires_at, h.process FROM leases l
            JOIN lease_holders h ON h.holder = l.holder WHERE l.resource = ?";
        let columns =
            |row: &Row<'_>| Ok((row.get::<String>(0)?, row.get::<i64>(1)?, row.get::<u32>(2)?));
        match first(db, query, values![&resource.key], columns)? {
            Some((other, expires_at, process)) if other != holder && expires_at > now_ms => {
                let text =
                    format!("{} is written by another bae (process {process})", resource.name);
                return Err(Error::new(Kind::Unavailable, text));
            }
            Some((other, ..)) if other != holder => {
                tracing::info!("{}: its lease expired and is taken over", resource.name);
                db.execute("DELETE FROM leases WHERE holder = ?", values![&other])?;
                db.execute("DELETE FROM lease_holders WHERE holder = ?", values![&other])?;
            }
            _ => {}
        }
    }
    let sql = "INSERT INTO lease_holders(holder, process, expires_at) VALUES(?, ?, ?)
        ON CONFLICT(holder) DO UPDATE SET expires_at = excluded.expires_at";
    db.execute(sql, values![holder, std::process::id(), expiry(now)?])?;
    for resource in resources {
        let sql = "INSERT INTO leases(resource, token, holder) VALUES(?, ?, ?)
            ON CONFLICT(resource) DO UPDATE SET token = excluded.token";
        db.execute(sql, values![&resource.key, &*token.0, holder])?;
    }
    Ok(())
}

impl Catalog {
    /// A handle whose writes are refused with `Changed` once `token` has no lease of `resource` any more.
    pub(crate) fn fenced(&self, resource: Resource, token: Token) -> Self {
        let fence = Some(Arc::new(Fence { resource, token }));
        Self { inner: Arc::clone(&self.inner), fence }
    }

    /// Ends the leases of all processes.
    pub(super) async fn end_leases(&self) -> Result<()> {
        let any = "SELECT 1 FROM lease_holders LIMIT 1";
        if self.read(move |db| scalar::<i64>(db, any, values![])).await?.is_none() {
            return Ok(());
        }
        self.write(|db| db.execute_script("DELETE FROM leases; DELETE FROM lease_holders")).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Extent, ImportId, ImportState, NewImport};

    fn resource(id: &ImportId) -> Resource {
        Resource { key: format!("import {id}"), name: format!("import {id}") }
    }

    /// Two processes that share one catalog and a clock, and an import.
    async fn rig() -> (tempfile::TempDir, [Leases; 2], Clock, ImportId) {
        let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::by_hand());
        let catalog = Catalog::open(dir.path()).await.unwrap();
        let new = NewImport { len: 100, storage: "file".into(), ..NewImport::default() };
        let id = catalog.create_import(new).await.unwrap().id;
        let other = Catalog::open_shared(dir.path()).await.unwrap();
        let leases = [catalog, other].map(|catalog| Leases::new(catalog, clock.clone()).unwrap());
        (dir, leases, clock, id)
    }

    async fn claim(leases: &Leases, id: &ImportId) -> Result<(Token, Catalog)> {
        let token = Token::random().unwrap();
        leases.take(&token, vec![resource(id)]).await?;
        Ok((token.clone(), leases.catalog.fenced(resource(id), token)))
    }

    #[tokio::test]
    async fn an_import_has_one_lease_over_all_processes_until_it_is_released() {
        let (_dir, [a, b], _clock, id) = rig().await;
        let (token, catalog) = claim(&a, &id).await.unwrap();
        let refused = claim(&b, &id).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Unavailable);
        assert!(refused.report().contains("another bae (process "), "{}", refused.report());
        catalog.set_state(&id, ImportState::Importing).await.unwrap();
        a.release(&token);
        a.catalog.flush().await.unwrap();
        let (_, other) = claim(&b, &id).await.unwrap();
        other.set_state(&id, ImportState::Imported).await.unwrap();
        let late = catalog.set_state(&id, ImportState::Importing).await.unwrap_err();
        assert!(is_lease_lost(&late), "{}", late.report());
    }

    #[tokio::test]
    async fn a_holder_that_slept_past_its_expiry_commits_nothing() {
        let (_dir, [a, b], clock, id) = rig().await;
        let (_, zombie) = claim(&a, &id).await.unwrap();
        let object = zombie.intend(&id, 10, false).await.unwrap().num;
        clock.advance(LIFETIME - Duration::from_secs(1));
        assert!(a.renew().await.unwrap());
        clock.advance(LIFETIME - Duration::from_secs(1));
        assert!(claim(&b, &id).await.is_err(), "the lease was renewed");
        clock.advance(Duration::from_secs(2));
        // Late, but still the only holder.
        zombie.set_state(&id, ImportState::Importing).await.unwrap();
        let (_, owner) = claim(&b, &id).await.unwrap();
        let extent = Extent { range: 0..10, object, offset: 0 };
        let refused = zombie.commit_object(object, vec![extent]).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Changed);
        assert_eq!(
            refused.report(),
            format!("import {id} was taken over by another bae: its lease is lost")
        );
        assert!(!a.renew().await.unwrap(), "its leases are gone");
        let new = owner.intend(&id, 10, false).await.unwrap().num;
        let extent = Extent { range: 0..10, object: new, offset: 0 };
        owner.commit_object(new, vec![extent.clone()]).await.unwrap();
        assert_eq!(owner.extents(&id).await.unwrap(), [extent]);
        assert!(claim(&a, &id).await.is_err());
    }

    #[tokio::test]
    async fn of_several_processes_one_gets_the_lease() {
        let (_dir, [a, b], _clock, id) = rig().await;
        for _ in 0..20 {
            let (first, second) = tokio::join!(claim(&a, &id), claim(&b, &id));
            let won = [first.as_ref().ok(), second.as_ref().ok()].map(|won| won.is_some());
            assert_eq!(won.into_iter().filter(|won| *won).count(), 1);
            for (leases, claim) in [(&a, first), (&b, second)] {
                if let Ok((token, _)) = claim {
                    leases.release(&token);
                    leases.catalog.flush().await.unwrap();
                }
            }
        }
    }

    #[tokio::test]
    async fn the_leases_of_a_killed_process_end_when_the_catalog_is_opened_for_writing() {
        let (dir, [a, b], _clock, id) = rig().await;
        let (_, zombie) = claim(&a, &id).await.unwrap();
        let again = Catalog::open(dir.path()).await.unwrap();
        let next = Leases::new(again, Clock::by_hand()).unwrap();
        claim(&next, &id).await.unwrap();
        let late = zombie.set_state(&id, ImportState::Kept).await.unwrap_err();
        assert!(is_lease_lost(&late));
        drop(b);
    }
}
