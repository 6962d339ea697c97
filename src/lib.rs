//! bae downloads a torrent or a URL and writes its bytes straight into storage that the user owns.

pub mod api;
pub mod backends;
pub mod calendar;
pub mod catalog;
#[cfg(feature = "cli")]
pub mod cli;
pub mod config;
pub mod downloads;
pub mod engine;
pub mod error;
pub mod events;
mod folders;
pub mod hints;
pub mod memory;
pub mod names;
mod open_files;
pub mod protocols;
pub mod ranges;
pub mod rate;
mod redact;
pub mod storage;
pub mod text;
pub mod torrents;
pub mod units;

pub use error::{Error, Kind, Result};
