//! The memory budget: the one owner of `--memory`.
//!
//! Every payload byte in memory is counted in one of the [`Share`]s of a [`Budget`]. [`shares`] is the table of their
//! lengths. The lengths add up to the budget, so all shares can be full at once.
//!
//! The path of a byte in: a block from a peer, a web seed or a server is a block of a [`BlockPool`]. It is counted in
//! [`Share::Incoming`] until its last clone is dropped, when its object is durable. Before that, the body of a server's
//! response is counted in [`Share::Bodies`].
//!
//! The path of a byte out: a fetch from storage reserves its bytes before they arrive ([`Share::Fetches`]). The fetched
//! window is counted while it is cached ([`Share::Windows`]). A block that libtorrent sends is counted until it is sent
//! ([`Share::Sends`]), and the bytes that a player, `cat` or `export` works on are counted in [`Share::Readers`].
//!
//! Three ways to count: [`Budget::reserve`] waits, in the order of the calls, until the bytes fit into their share and
//! the whole. [`Budget::try_reserve`] does not wait. [`Budget::charge`] and the blocks of [`Share::Incoming`] count bytes
//! that have arrived already, so they never fail; their callers wait before they take more
//! ([`BlockPool::wait_below`], [`Budget::wait_for_room`], the governor of the torrents). Waiting is by wake-up: each
//! release wakes the tasks that it may let go on.
//!
//! Cached windows give way: bytes that would not fit into the budget evict windows first ([`EvictWindows`]).
//!
//! # Invariants
//! - The sum of all shares never exceeds the budget, except that a share that holds nothing grants one reservation in
//!   any case, and one cached window always stays. Without the first rule a piece longer than a share could not be
//!   fetched, and shares could wait for each other.
//! - A reservation is not overtaken by a later one of the same share.
//! - `held` is the sum of all shares, and `peak` the highest it has been.
//!
//! Not counted: buffers of sockets, TLS and protocols. Each connection bounds its own.

mod blocks;
mod budget;
mod ledger;
mod reservation;
pub mod shares;
#[cfg(test)]
mod tests;

pub use self::{
    blocks::{BLOCK_LEN, BlockPool, OpenBlock},
    budget::{Budget, ImportGuard, ShareView},
    ledger::EvictWindows,
    reservation::Reservation,
    shares::{Mark, Share},
};
