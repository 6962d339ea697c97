//! What to request next, and how much of it: pure policies over libtorrent's piece picker.
//!
//! [`chunk_priorities`] raises the priority of pieces whose chunk is already open, [`read_deadlines`] brings the pieces
//! that readers wait for to the front, [`suggester`] suggests pieces to peers so that they read in one shared order,
//! [`governor`] limits requests and rates by the memory that is held, [`request_budget`] shares the requests among the
//! peers, [`peer_limits`] bounds what a single peer costs, and [`download_limit`] shares a limit between peers and web
//! seeds. They decide; `disk`, `session` and `download` apply.

pub mod chunk_priorities;
pub(super) mod download_limit;
pub mod governor;
pub(super) mod peer_limits;
pub(super) mod read_deadlines;
pub(super) mod request_budget;
pub(super) mod suggester;
