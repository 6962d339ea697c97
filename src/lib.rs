//! bae takes a torrent and puts its bytes straight into storage the user owns.

pub mod app;
pub mod backends;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod error;
pub mod events;
pub mod memory;
pub mod protocols;
mod redact;
pub mod storage;
pub mod telemetry;
pub mod torrents;
pub mod units;

pub use error::{Error, Kind, Result};
