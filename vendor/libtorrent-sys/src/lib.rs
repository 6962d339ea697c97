//! Links the system's libtorrent-rasterbar; declares nothing itself.
//!
//! `cargo` passes these variables to the build script of a dependent crate (because of `links = "torrent-rasterbar"`):
//! `DEP_TORRENT_RASTERBAR_INCLUDE` (paths, separated by `:`), `DEP_TORRENT_RASTERBAR_DEFINES` (`NAME` or `NAME=VALUE`,
//! separated by `;`) and `DEP_TORRENT_RASTERBAR_VERSION`.
//! The defines are required: without them, the headers name other symbols than the library exports.
