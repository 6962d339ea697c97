//! Uploads to peers from storage: exact bytes for every client, and few, long gets for many of them.
//!
//! The leechers are real clients. The bucket is behind a proxy that counts its requests, because each get costs money:
//! the tests compare the counts with the usage that bae reports.

mod cases;
mod from_storage;
mod goals;
mod suggestions;
