//! Wrappers: a backend around another one that adds one behaviour.
//!
//! From the outside in, `engine::storages` stacks them as [`retry`] (what may pass is tried again), [`hedged`] (a
//! second request for a slow read), [`adaptive`] (concurrency by the answers of the server), [`throttled`] (the user's
//! rate limit) and [`metered`] (counted requests and bytes). [`faulty`] injects failures, for tests. Each passes the
//! conformance suite.

pub mod adaptive;
pub mod faulty;
pub mod hedged;
pub mod metered;
pub mod retry;
pub(super) mod rng;
pub mod throttled;
