//! What to request next, and how much of it: pure policies over libtorrent's piece picker.
//!
//! [`chunk_priorities`] raises the priority of pieces whose chunk is already open, [`read_deadlines`] brings the pieces
//! that readers wait for to the front, [`suggester`] suggests pieces to peers so that they read in one shared order,
//! and [`governor`] limits requests and rates by the memory that is held. They decide; `session` and `download` apply.

pub mod chunk_priorities;
pub mod governor;
pub(super) mod read_deadlines;
pub(super) mod suggester;
