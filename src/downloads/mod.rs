//! Files at servers brought here: what is fetched when, over how many connections, and what happens after a failure.
//!
//! The first request is the download: where its answer has the bytes, the first worker reads it on, and the others begin
//! beside it. Whatever a server says to them, that answer is the file as long as it goes on.
//!
//! The path of a byte: a [`Protocol`](crate::protocols::Protocol) opens a range that a worker was given by the
//! [`Holes`](holes::Holes); the bytes pass the rate limits and go to the [`Target`], at their positions. A worker
//! without work takes the second half of the longest run that another still has before it, so that all end together. A
//! server that refuses a further connection gets fewer; one without ranges gets one, and is read in one pass.
//!
//! What it refuses: to read from a socket what the target has no room for, to go on with another version of a file, to
//! try for ever, and to give a file its name before all of it is there and is what its checksums say.

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
