//! Objects and the catalog: no durable byte is lost, whatever storage, the disk or a `kill -9` does.
//!
//! S3 is tested on real servers, often behind `support::fault_proxy`, which fails the nth request. Drive is a strict
//! fake server. File operations fail by a preloaded library (`support::file_faults`). A kill comes at a counted
//! step: the nth event, the nth request or the nth object.
//!
//! `kept` has the catalogs and buckets of earlier versions, which every later version opens.

mod adopt;
mod attach;
mod cloud_faults;
mod crash;
mod drive;
mod errors;
mod full;
mod invalid_settings;
mod kept_catalogs;
mod local_faults;
mod memory;
mod repair;
mod s3;
mod s3_false_success;
mod s3_faults;
mod usage;
mod whole_files;
