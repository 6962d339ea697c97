//! Links the system's libtorrent-rasterbar; declares nothing itself.
//!
//! What a dependent's build script gets from `cargo` (the crate has `links = "torrent-rasterbar"`):
//! `DEP_TORRENT_RASTERBAR_INCLUDE` (paths, separated by `:`), `DEP_TORRENT_RASTERBAR_DEFINES`
//! (`NAME` or `NAME=VALUE`, separated by `;`) and `DEP_TORRENT_RASTERBAR_VERSION`.
//! The defines matter: without them the headers name other symbols than the library exports.
