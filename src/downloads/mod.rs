//! Downloads files from servers: which ranges are fetched when, over how many connections, and what happens after a
//! failure.
//!
//! The path of a byte: a [`Protocol`](crate::protocols::Protocol) opens a range that [`Holes`](holes::Holes) has
//! assigned to a worker. The bytes pass the rate limits and are written to the [`Target`] at their positions.
//!
//! The first request already starts the download. If its response carries the bytes of the file, the first worker reads
//! it, and other workers start in parallel. That response stays in use until it ends, whatever the server answers to
//! other requests. An idle worker takes the second half of the longest remaining run, so that all workers finish
//! together. A server that rejects a further connection gets fewer. A server without range requests gets one
//! connection, and the file is read in one pass.
//!
//! Guarantees: the socket is read only when the target has capacity, different versions of a file are not mixed,
//! retries are limited, and a file gets its name only when it is complete and matches its checksums.

mod beside;
pub mod checksum;
mod existing;
mod fetch;
pub mod holes;
mod import;
mod part;
mod part_state;
mod pipe;
mod source;
pub mod state;
mod stream;
mod target;
mod worker;

pub use beside::beside;
pub use checksum::Checksums;
pub use existing::{Existing, is_stdout, open_stream};
pub use fetch::{Effort, Fetch, Fetched, Snapshot};
pub use import::ImportTarget;
pub use part::{PartFile, PartPlan, Resume, WriteRoom, beside_it};
pub use pipe::{PipeTarget, Sink};
pub use source::{Asking, Mirror, Source, Waits};
pub use state::State;
pub use target::Target;
