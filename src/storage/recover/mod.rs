//! What is in a storage without being in the catalog: manifests, attached imports, and the user's own objects.
//!
//! [`manifest`] is the copy of an import's catalog rows beside its chunks; [`attach`] lists manifests and adds
//! their imports to a catalog. [`object_matching`] finds the user's own objects that hold the files of a torrent, for
//! `bae adopt`. [`presence`] checks that the objects of the catalog exist.
//!
//! Manifests and listings are untrusted: each is bounded, parsed strictly, and refused with the reason.

pub mod attach;
pub mod manifest;
pub mod object_matching;
pub mod presence;
