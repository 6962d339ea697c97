//! The content of a torrent, once its metadata is known: the positions of its pieces, and access to its import.

use std::{ops::Range, sync::Arc};

use futures_util::future::BoxFuture;

use super::verified_reads;
use crate::{
    error::Result,
    storage::{ImportReader, ImportStore, ImportWriter, WindowCache},
    torrents::metainfo::{Metainfo, geometry::Geometry},
};

/// Everything about a torrent that needs its metadata.
pub struct Content {
    pub(in crate::torrents) geometry: Geometry,
    pub(in crate::torrents) meta: Arc<Metainfo>,
    pub(in crate::torrents) store: Arc<ImportStore>,
    pub(in crate::torrents) reader: ImportReader,
    /// `None` for an import that is only seeded.
    pub(in crate::torrents) writer: Option<Arc<ImportWriter>>,
}

/// Loads the content of a seeded torrent, when a peer first requests a byte of it. Runs again when loading failed.
pub type Loader = Box<dyn Fn() -> BoxFuture<'static, Result<Content>> + Send + Sync>;

impl Content {
    /// Content of an import. `writer` is `None` for an import that is only seeded.
    #[must_use]
    pub fn new(
        meta: Metainfo,
        store: Arc<ImportStore>,
        cache: Arc<WindowCache>,
        writer: Option<Arc<ImportWriter>>,
    ) -> Self {
        let (geometry, meta) = (Geometry::of(&meta), Arc::new(meta));
        let verifier = verified_reads::piece_verifier(Arc::clone(&meta));
        let reader = ImportReader::for_peers(Arc::clone(&store), cache, verifier);
        Self { geometry, meta, store, reader, writer }
    }

    /// The position in the import of `len` bytes at `start` in a piece.
    pub(in crate::torrents) fn block(&self, piece: u32, start: usize, len: usize) -> Range<u64> {
        let from = self.geometry.piece(piece).start + start as u64;
        from..from + len as u64
    }
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content").field("geometry", &self.geometry).finish_non_exhaustive()
    }
}
