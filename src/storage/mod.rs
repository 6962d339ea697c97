//! Turns verified bytes at positions into durable objects, and reads them back.
//!
//! Write path: [`ImportWriter::write_at`] adds the bytes to the pending bytes of the import, where readers find them at
//! once, and notifies the writer's actor. The [`Assembly`](write::assembly::Assembly) knows which chunk of the
//! [`Layout`] the bytes belong to. It reports when a chunk is complete or, under [`Pressure`], which bytes to pack
//! together instead. The resulting plan becomes an object in three steps: the catalog records the intent, the backend
//! stores the blocks without copying them, and the catalog commits the object and its extents. Only then is the memory
//! freed and the range reported as durable.
//!
//! Published files: where each file becomes an object of its own, the [`Publisher`] makes that object from what is
//! stored. The storage copies the bytes itself where it can. One transaction moves the file's extents to the new
//! object. Where parts must be sent in order, a [`SequentialUpload`](files::sequential_upload::SequentialUpload) sends
//! large files part by part as they arrive, and [`DirectFiles`] stores a file of one chunk under its own name at once.
//!
//! Read path: [`ImportReader`] looks for the bytes in the [`WindowCache`] and in memory. On a miss it fetches the whole
//! window: padding, pending bytes and extents are looked up at one moment, and the objects are read with as few GETs as
//! possible. Windows for peers are verified against the torrent's hashes before they enter the cache. For sequential
//! readers the following windows are prefetched in runs. Long objects serve several runs from one long GET.
//!
//! Guarantees: unverified bytes are never stored, no extent names an object before it is durable, verified bytes are
//! never dropped while the process lives, and nothing here knows the source of the bytes.

pub mod estimate;
pub mod files;
pub mod map;
pub mod read;
pub mod recover;
mod retry_loop;
pub mod sweep;
pub mod write;

#[cfg(test)]
mod tests;

pub use self::files::background_publisher::BackgroundPublisher;
pub use self::files::direct_files::DirectFiles;
pub use self::files::file_names::FileObjects;
pub use self::files::publisher::{Published, Publisher};
pub use self::map::import_store::{ImportStore, MAX_GROWN_LEN};
pub use self::map::layout::{FileSpan, Layout};
pub use self::map::read_stats::ReadStats;
pub use self::read::cache::WindowCache;
pub use self::read::disk_cache::DiskCache;
pub use self::read::reader::ImportReader;
pub use self::read::verified_fetch::PieceVerifier;
pub use self::write::pause::PauseClock;
pub use self::write::pressure::Pressure;
pub use self::write::upload::{WriterEvent, WriterSink};
pub use self::write::writer::{ImportWriter, WriterOptions};
pub use crate::ranges::RangeSet;
