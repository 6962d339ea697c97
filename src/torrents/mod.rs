//! Torrents: what a `.torrent` says, and the session that fetches and seeds it through native libtorrent.
//!
//! The path of a byte in: a peer's block comes to [`disk`] on libtorrent's network thread and is copied once, into a
//! block of the memory budget, in its open [`piece`]; the ack is held. [`hashing`] follows the blocks; when libtorrent
//! asks for the digest it is mostly done. A piece that passes goes to the import's writer (`storage`), which assembles
//! chunks, puts objects and commits extents; then the piece is durable and its acks go out. On the way out a peer's
//! request is answered from the open piece, the writer's memory, the cache, or the backend, in that order.
//!
//! [`governor`] keeps all of it inside the budget, [`steering`] leads the picker so that chunks become whole,
//! [`demand`] puts what a player waits for before all that, [`web_seeds`] bring pieces that no peer sends, [`session`]
//! owns libtorrent, [`download`] joins one torrent to one import. [`ffi`] is the only bridge.
//!
//! What it refuses: to wait on the network thread, to believe libtorrent about what is stored (the catalog is the
//! truth), and features of library versions that peers could break ([`features`]).

pub mod bencode;
pub mod check;
mod content;
mod demand;
mod disk;
mod download;
mod features;
mod ffi;
mod geometry;
pub mod governor;
mod guide;
mod hashing;
mod kept_names;
pub mod layout;
mod listening;
pub mod merkle;
pub mod metainfo;
mod naming;
mod piece;
mod registry;
mod rewrite;
pub mod select;
mod sends;
mod serve;
mod session;
mod settings;
mod silence;
pub mod steering;
mod swarm_metadata;
mod torrent_disk;
mod trackers;
mod udp_tracker;
mod web_seeds;

pub(crate) use self::serve::checks_of;
pub use self::{
    content::{Content, Loader},
    demand::{Demand, Wanted},
    download::{Download, Goal, WriterEvents},
    features::{Feature, check_library, is_safe},
    session::{Notice, Origin, Start, Status, Torrent, Torrents},
    settings::check_interfaces,
    swarm_metadata::metadata,
    trackers::Trackers,
};

/// Has the C library keep a little of what is freed, for all threads together, in the whole process: for one that reads
/// fast from few threads. `cpp/heap.hpp` has the figures.
pub fn keep_heap_steady() {
    ffi::keep_heap_steady();
}
