//! Turns verified bytes at positions into durable objects, and reads them back.
//!
//! Write path: [`ImportWriter::write_at`] adds the bytes to the pending bytes of the import, where readers find them at
//! once, and notifies the writer's actor. The [`Assembly`](assembly::Assembly) knows which chunk of the [`Layout`] the
//! bytes belong to. It reports when a chunk is complete or, under [`Pressure`], which bytes to pack together instead.
//! The resulting plan becomes an object in three steps: the catalog records the intent, the backend stores the blocks
//! without copying them, and the catalog commits the object and its extents. Only then is the memory freed and the
//! range reported as durable.
//!
//! Published files: where each file becomes an object of its own, the [`Publisher`] makes that object from what is
//! stored. The storage copies the bytes itself where it can. One transaction moves the file's extents to the new
//! object. Where parts must be sent in order, the [`stream`] module sends large files part by part as they arrive, and
//! [`DirectFiles`] stores a file of one chunk under its own name at once.
//!
//! Read path: [`ImportReader`] looks for the bytes in the [`WindowCache`] and in memory. On a miss it fetches the whole
//! window: padding, pending bytes and extents are looked up at one moment, and the objects are read with as few GETs as
//! possible. Windows for peers are verified against the torrent's hashes before they enter the cache. For sequential
//! readers the following windows are prefetched in runs. Long objects serve several runs from one long GET.
//!
//! Guarantees: unverified bytes are never stored, no extent names an object before it is durable, verified bytes are
//! never dropped while the process lives, and nothing here knows the source of the bytes.

pub mod assembly;
pub mod attach;
pub mod background_publisher;
mod blocks;
pub mod cache;
mod change_detecting;
pub mod composition;
mod direct_files;
mod disk_cache;
pub mod estimate;
pub mod extent_map;
mod fetch;
mod fetch_budget;
mod file_names;
mod get_strategy;
pub mod import_store;
pub mod layout;
pub mod manifest;
pub mod name_probe;
pub mod object_matching;
pub mod pause;
mod pending;
pub mod presence;
pub mod pressure;
pub mod publisher;
mod range_streams;
pub mod ranges;
pub mod read_stats;
mod readahead;
pub mod reader;
mod retry_loop;
mod segmented_lru;
mod sequential_files;
pub mod sequential_upload;
pub mod sweep;
mod upload;
mod verified_fetch;
mod window_grid;
pub mod writer;

#[cfg(test)]
mod case_insensitive;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod publish_tests;
#[cfg(test)]
mod read_tests;
#[cfg(test)]
mod sequential_upload_tests;
#[cfg(test)]
mod strict_backend;
#[cfg(test)]
mod tests;

pub use background_publisher::BackgroundPublisher;
pub use cache::WindowCache;
pub use direct_files::DirectFiles;
pub use disk_cache::DiskCache;
pub use file_names::FileObjects;
pub use import_store::ImportStore;
pub use layout::{FileSpan, Layout};
pub use pause::PauseClock;
pub use pressure::Pressure;
pub use publisher::{Published, Publisher};
pub use ranges::RangeSet;
pub use read_stats::ReadStats;
pub use reader::ImportReader;
pub use upload::{WriterEvent, WriterSink};
pub use verified_fetch::PieceVerifier;
pub use writer::{ImportWriter, WriterOptions};
