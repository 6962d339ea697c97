//! From verified bytes to durable objects: the one writer of all sources.
//!
//! [`ImportWriter::write_at`](writer::ImportWriter::write_at) accepts verified bytes at any position. [`assembly`]
//! collects them into chunks; under memory pressure ([`pressure`]) it packs parts of several chunks into one object, so
//! that bytes always drain. [`upload`] records the intent, puts the object, and commits its extents; only then the
//! bytes are durable and their memory is freed. [`RetryLoop`](super::retry_loop::RetryLoop) repeats what may pass, with
//! growing pauses, and ends with the errors that cannot. [`pause`] tells how long an import has been without progress.

pub mod assembly;
pub mod pause;
pub mod pressure;
pub(super) mod upload;
pub mod writer;
