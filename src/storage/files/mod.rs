//! Whole files: objects under the files' own names, with `--layout files` and `bae publish`.
//!
//! [`file_names`] chooses the names, after [`name_probe`] has found out which names the storage can hold.
//! [`publisher`] turns a stored file into one object: [`composition`] plans server-side copies of chunks where the
//! backend has them, and what cannot be copied is read and sent by a [`sequential_upload`]. During an import,
//! [`direct_files`] and [`sequential_files`] send long files in order without chunks first, and
//! [`background_publisher`] publishes the others while the import goes on.
//!
//! A file's object replaces its chunks in the catalog in one transaction, after the storage has acknowledged it; an
//! existing object that is not of this import is never overwritten.

pub mod background_publisher;
pub mod composition;
pub(super) mod direct_files;
pub(super) mod file_names;
pub mod name_probe;
pub mod publisher;
pub(super) mod sequential_files;
pub mod sequential_upload;
