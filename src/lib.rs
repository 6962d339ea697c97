//! bae takes a torrent, a magnet link or a URL and puts its bytes straight into storage that the user owns: an S3
//! bucket, Google Drive, or a folder. No payload touches the local disk when the storage is remote, memory stays within
//! a budget, and what was stored survives a crash. From there it is read, seeded, streamed or exported.
//!
//! [`Bae`] is the start: it opens a data folder, imports sources, and opens files of imports for reading. An import
//! runs in the background and is held by an [`ImportHandle`]. [`Bae::events`] reports everything that happens, in order
//! and numbered. All other operations are methods of [`Engine`].
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use tokio::io::AsyncReadExt as _;
//!
//! let bae = bae::Bae::builder("/var/lib/player").open().await?;
//! let import = bae.import("magnet:?xt=urn:btih:…").start().await?;
//! let id = import.wait_started().await?;
//! for file in bae.info(&id).await?.files {
//!     let mut head = [0; 4];
//!     // Waits for the bytes, and has them fetched first.
//!     bae.open(&id, &file.path).await?.read_exact(&mut head).await?;
//! }
//! import.wait().await?;
//! bae.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! The Download Book (`docs/book`) explains how all of it works, and why it is built so.
//!
//! # Features
//! All are on by default. A program that embeds bae turns them off with `default-features = false`.
//! - `cli`: the program `bae`: arguments, progress bars, logging to the terminal.
//! - `ftp`, `sftp`: these protocols. HTTP, WebDAV and S3 are always there, and torrents.
//! - `grpc`: the gRPC API of the daemon.
//!
//! Off by default is `otel`: the program sends traces to a collector of OpenTelemetry.
//!
//! Building needs libtorrent-rasterbar 2.0.8 or later of version 2.0, with its headers, and a C++17 compiler.
//!
//! Modules that this page does not list are for the program and its tests; they change in any release.

#[doc(hidden)]
pub mod api;
#[doc(hidden)]
pub mod backends;
#[doc(hidden)]
pub mod calendar;
#[doc(hidden)]
pub mod catalog;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
pub mod clock;
#[doc(hidden)]
pub mod config;
pub mod content_root;
#[doc(hidden)]
pub mod daemon;
#[doc(hidden)]
pub mod downloads;
mod embedding;
#[doc(hidden)]
pub mod engine;
#[doc(hidden)]
pub mod error;
#[doc(hidden)]
pub mod events;
mod folders;
#[doc(hidden)]
pub mod hints;
#[doc(hidden)]
pub mod memory;
#[doc(hidden)]
pub mod names;
mod open_files;
#[doc(hidden)]
pub mod protocols;
#[doc(hidden)]
pub mod queue;
#[doc(hidden)]
pub mod ranges;
#[doc(hidden)]
pub mod rate;
mod redact;
#[doc(hidden)]
pub mod storage;
#[doc(hidden)]
pub mod text;
#[doc(hidden)]
pub mod torrents;
#[doc(hidden)]
pub mod units;

pub use backends::{
    BackendState, Body, Capabilities, CopySupport, InMemoryState, Key, MemoryBackend,
    MultipartUpload, ObjectInfo, ObjectVersion, Page, PageToken, Payload, StorageBackend,
    UnfinishedUpload, UploadId, UploadLayout,
};
pub use catalog::LayoutKind;
pub use config::{
    DriveProfile, Encryption, Profile, ProfileKind, Proxy, S3Profile, Secret, SeedGoal,
    SeedOptions, SessionOptions, TorrentOptions,
};
pub use embedding::{Bae, Builder, ImportBuilder};
pub use engine::{
    Engine, FileInfo, FileReader, ImportHandle, ImportInfo, ImportSettings, ImportSummary,
    RunningState, SeedHandle, SeedProgress,
};
pub use error::{Error, Kind, Result};
pub use events::{Event, EventLog, EventReader, Imported, Lagged, LoggedEvent, Progress, Started};
pub use hints::{Hint, HintPart, Operation, Setting};
pub use protocols::{
    ByteStream, Digest, FirstResponse, ListedFile, Listing, Protocol, RangeRequest, RemoteFile,
    SkippedEntry, UrlTarget, Validator,
};
