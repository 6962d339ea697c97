//! Running imports and seeding: their handles, and the registry that keeps two writers away from one import.
//!
//! An operation that fills an import is a [`RunningImport`], driven by a task of the engine ([`task`]). The task makes
//! attempts: the first when it starts, and one more after each pause. An attempt ends like a command at Ctrl-C:
//! verified bytes are flushed, and the next attempt fetches only the holes. Callers hold an [`ImportHandle`] or a
//! [`SeedHandle`]; dropping them stops nothing.
//!
//! [`registry`] holds the claims. A running import claims its source first, then the info-hash, and the import as soon
//! as it is known; `rm`, `publish`, repair, `gc` and seeding claim the import. A second claim of the same thing is
//! refused with `Unavailable`. Behind each claim except that of seeding is a lease in the catalog ([`claim_lease`]), which
//! keeps other processes away: the writes of its owner carry its token.
//!
//! Every later surface (the daemon, the library) works with these handles; the CLI does so already.

mod claim_key;
mod claim_lease;
mod handle;
mod registry;
mod running_import;
mod seed_handle;
mod task;

pub(in crate::engine) use self::{
    claim_key::ClaimKey,
    registry::{Claim, Purpose, Registry},
    running_import::RunningImport,
    seed_handle::RunningSeed,
    task::Attempt,
};
pub use self::{
    handle::ImportHandle,
    running_import::{ImportSettings, RunningState},
    seed_handle::{SeedHandle, SeedProgress},
};
