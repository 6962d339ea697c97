//! Maintenance of stored imports: verify, repair, adopt, attach, remove.
//!
//! Each module is one command: [`verify`] and [`verify_files`] read and hash, [`repair`] fetches bad pieces again,
//! [`adopt`] imports the user's own objects in place, [`attach`] restores imports from
//! their manifests, [`remove`] deletes imports and objects without an import. [`manifest`] keeps the manifest of an
//! import up to date.

pub(super) mod adopt;
pub(super) mod attach;
pub(super) mod manifest;
pub(super) mod remove;
pub(super) mod repair;
pub(super) mod verify;
pub(super) mod verify_files;
