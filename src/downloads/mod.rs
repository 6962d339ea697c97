//! Downloads files from servers: which ranges are fetched when, over how many connections, and what happens after a
//! failure.
//!
//! The path of a byte: a [`Protocol`](crate::protocols::Protocol) opens a range that
//! [`RangeScheduler`](range_scheduler::RangeScheduler) has assigned to a worker. The bytes pass the rate limits and are
//! written to the [`Target`] at their positions.
//!
//! The first request already starts the download. If its response carries the bytes of the file, the first worker reads
//! it, and other workers start in parallel. That response stays in use until it ends, whatever the server answers to
//! other requests. An idle worker takes the second half of the longest remaining run, so that all workers finish
//! together. A server that rejects a further connection gets fewer. A server without range requests gets one
//! connection, and the file is read in one pass.
//!
//! Guarantees: the socket is read only when the target has capacity and the memory budget has room, different versions of a file are not mixed,
//! retries are limited, and a file gets its name only when it is complete and matches its checksums.

pub mod checksum;
mod file_download;
mod import_target;
mod one_pass;
mod partial_file;
mod path_kind;
mod pipe_target;
pub mod range_scheduler;
mod resume_state;
mod sidecar_checksum;
mod source;
pub mod state;
mod target;
mod worker;

pub use checksum::Checksums;
pub use file_download::{DownloadSummary, FetchLimits, FileDownload, Snapshot};
pub use import_target::ImportTarget;
pub use partial_file::{PartialFile, PartialFileOptions, ResumePolicy, partial_paths};
pub use path_kind::{PathKind, is_stdout, open_stream};
pub use pipe_target::{PipeTarget, Sink};
pub use sidecar_checksum::fetch_sidecar_digest;
pub use source::{DownloadSource, FirstRequest, Mirror, OnWait};
pub use state::DownloadState;
pub use target::Target;
