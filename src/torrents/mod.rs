//! Torrents: reads `.torrent` files, and runs the native libtorrent session that downloads and seeds them.
//!
//! The path of a byte in: a block from a peer reaches [`disk`] on libtorrent's network thread. It is copied once, into
//! a block of the memory budget that belongs to its open [`piece`](disk::piece); its ack is held. [Hash
//! workers](disk::hash_workers) hash blocks as they arrive, so most of the digest is ready when libtorrent requests it.
//! A libtorrent plugin reports each piece that passed its hash. The bytes of that piece go to the import's writer
//! (`storage`), which assembles chunks, puts objects and commits extents. The piece is then durable and its acks are
//! released.
//!
//! The path of a byte out: a peer's request is answered from the open piece, the cache, the writer's memory or the
//! backend, in that order.
//!
//! [`picker::governor`] keeps memory inside the budget. [`picker::chunk_priorities`] sets piece priorities so that
//! chunks become complete. [`picker::read_deadlines`] puts the pieces that a player waits for before all others.
//! [`picker::suggester`] suggests pieces to peers that download from bae. [`web_seeds`] fetch pieces that no peer
//! sends. [`session`] owns libtorrent, [`download`] joins one torrent to one import, and [`disk::ffi`] is the only
//! bridge.
//!
//! Guarantees: the network thread never waits. The catalog decides what is stored; libtorrent's view of it is not
//! trusted. Features of library versions that a peer could exploit stay off ([`session::features`]).

mod disk;
mod download;
mod idle_timeout;
pub mod metainfo;
pub mod picker;
mod session;
mod swarm_metadata;
mod trackers;
mod web_seeds;

pub(crate) use self::disk::verified_reads::piece_verifier;
pub use self::{
    disk::content::{Content, Loader},
    download::{Download, DownloadGoal, WriterEvents},
    picker::read_deadlines::{ReadDeadlines, ReaderPosition},
    session::{
        Origin, Start, Status, Torrent, TorrentControl, TorrentEvent, TorrentSession,
        features::{Feature, check_library, is_safe},
        settings::check_interfaces,
    },
    swarm_metadata::wait_for_metadata,
    trackers::Trackers,
};

/// Configures the C library's heap for the whole process: one heap for all threads, which keeps a few MiB of freed
/// memory. For a process that reads fast from few threads; `cpp/process.hpp` has the figures.
pub fn configure_heap() {
    disk::ffi::configure_heap();
}

/// Lets programs that are started from now on inherit the standard streams only, and no socket of a session.
pub fn close_files_on_exec() {
    disk::ffi::close_files_on_exec();
}
