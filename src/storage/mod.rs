//! Turns verified bytes at positions into durable objects, and reads them back.
//!
//! Write path: [`ImportWriter::write_at`] adds the bytes to the pending bytes of the import, where readers find them at
//! once, and notifies the writer's actor. The [`Assembly`](assembly::Assembly) knows which slot of the [`Layout`] the
//! bytes belong to. It reports when a slot is complete or, under [`Pressure`], which bytes to pack together instead.
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
mod blocks;
mod bringing;
pub mod cache;
pub mod compose;
mod direct;
mod disk_cache;
pub mod estimate;
pub mod extent;
mod fetch;
mod file_names;
pub mod import;
mod kept;
mod lanes;
pub mod layout;
mod long_get;
pub mod manifest;
pub mod matching;
mod pace;
pub mod pause;
mod pending;
pub mod place_names;
pub mod presence;
pub mod pressure;
pub mod publish;
pub mod publishing;
pub mod ranges;
mod readahead;
pub mod reader;
pub mod stream;
pub mod sweep;
pub mod traffic;
mod trouble;
mod under_way;
mod upload;
mod watched;
mod windows;
pub mod writer;

#[cfg(test)]
mod crash;
#[cfg(test)]
mod model;
#[cfg(test)]
mod one_case;
#[cfg(test)]
mod publish_tests;
#[cfg(test)]
mod read_tests;
#[cfg(test)]
mod stream_tests;
#[cfg(test)]
mod strict;
#[cfg(test)]
mod tests;

pub use bringing::Checks;
pub use cache::WindowCache;
pub use direct::DirectFiles;
pub use disk_cache::DiskCache;
pub use file_names::WholeFiles;
pub use import::ImportStore;
pub use layout::{FileSpan, Layout};
pub use pause::PauseClock;
pub use pressure::Pressure;
pub use publish::{Published, Publisher};
pub use publishing::Publishing;
pub use ranges::RangeSet;
pub use reader::ImportReader;
pub use traffic::Traffic;
pub use upload::{WriterEvent, WriterSink};
pub use writer::{ImportWriter, WriterOptions};
