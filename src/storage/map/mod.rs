//! Which byte of an import is where: in memory, in which object, or nowhere.
//!
//! [`ImportStore`](import_store::ImportStore) is the state that the writer and the readers of one import share. It
//! holds the extents as the catalog has them ([`extent_map`]), the chunk grid of the files ([`layout`]), and the
//! accepted bytes that are not durable yet ([`pending`]). A byte moves from `pending` to the extents once its object is
//! committed. An adopted object belongs to the user, so [`change_detecting`] checks its version before each read.
//!
//! Nothing here sends a request by itself, apart from these version checks.

pub(super) mod change_detecting;
pub mod extent_map;
pub mod generated_key;
pub mod import_store;
pub mod layout;
pub(super) mod pending;
pub mod read_stats;
pub mod stored_run;
