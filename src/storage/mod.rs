//! From verified bytes at positions to durable objects, and back.
//!
//! The path of a byte in: [`ImportWriter::write_at`] puts it into the import's pending bytes, where readers find it
//! at once, and tells the writer's actor. The [`Assembly`](assembly::Assembly) knows which slot of the
//! [`Layout`] it belongs to and says when a slot is whole, or, under [`Pressure`], what to pack together instead.
//! That plan becomes an object: intent in the catalog, put into the backend as the very blocks it arrived in, then
//! object and extents committed. Only then is its memory given back and the range told to be durable.
//!
//! Where files are to be objects of their own, the [`Publisher`] makes each of what is stored of it, by the place itself
//! where it can, and the file's extents move to it in one transaction.
//!
//! The path of a byte out: [`ImportReader`] finds it in the [`WindowCache`] or in memory, or has its window fetched: what
//! padding, pending bytes and extents say of it at one moment, by as few gets as will do. Windows for peers are held
//! against the torrent's hashes before they are kept, and what follows is fetched for those who read in order: run by run,
//! the runs of one long get where an object is long.
//!
//! What it refuses: bytes nobody verified, naming an object before it is durable, giving up on verified bytes while
//! the process lives, and any knowledge of where bytes come from.

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
