//! From objects to bytes: every read of an import, for peers, players, exports and checks.
//!
//! [`ImportReader`](reader::ImportReader) takes a range and answers from memory, the cache or objects: reader ->
//! [`window_grid`] (which windows) -> [`cache`] (memory, evicted by [`segmented_lru`]; then [`disk_cache`]) ->
//! a reservation of [`Share::Fetches`](crate::memory::Share::Fetches) -> [`verified_fetch`] (piece hashes, where the reader is a peer or an export) ->
//! [`fetch`] (one ranged GET per object) or [`range_streams`] (one long GET for a sequential reader, with [`readahead`]
//! and [`get_strategy`] deciding how long). A window is fetched once, however many readers wait for it.
//!
//! It refuses to hand out a byte that fails its hash, and holds no byte that no share of the memory budget covers.

pub(super) mod blocks;
pub mod cache;
pub(super) mod disk_cache;
pub(super) mod fetch;
pub(super) mod get_strategy;
pub(super) mod range_streams;
pub(super) mod readahead;
pub mod reader;
pub(super) mod segmented_lru;
pub(super) mod verified_fetch;
pub(super) mod window_grid;
