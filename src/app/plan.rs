//! What a torrent and a selection mean for an import: which pieces are wanted, which are here. Pure but for the store.

use crate::{
    catalog::FileRow,
    error::Result,
    storage::{ImportStore, Layout, RangeSet},
    torrents::{
        metainfo::{File, Metainfo},
        select,
    },
};

/// The files that are wanted: as the user says, or else as the magnet link does. `None` is all.
pub(super) fn selection(
    asked: Option<&str>,
    by_link: Option<&str>,
    files: &[File],
) -> Result<Option<Vec<u32>>> {
    match (asked, by_link) {
        (Some(spec), _) => select::select(spec, files).map(Some),
        (None, Some(spec)) => select::select_by_link(spec, files).map(Some),
        (None, None) => Ok(None),
    }
}

/// Piece by piece, what is wanted and what is durable.
#[derive(Debug)]
pub(super) struct Plan {
    /// One entry a piece.
    pub(super) wanted_pieces: Vec<bool>,
    /// One entry a piece: every byte of it is durable (or padding).
    pub(super) have: Vec<bool>,
    /// Wanted bytes, without padding: whole pieces, since only those can be verified.
    pub(super) wanted: RangeSet,
}

impl Plan {
    pub(super) fn new(meta: &Metainfo, selected: Option<&[u32]>, store: &ImportStore) -> Self {
        let (wanted_pieces, wanted) = wanted(meta, selected, store.layout());
        let have = (0..meta.pieces()).map(|p| store.covered(meta.piece_range(p))).collect();
        Self { wanted_pieces, have, wanted }
    }

    /// Wanted pieces that are not durable.
    pub(super) fn missing(&self) -> impl Iterator<Item = u32> + '_ {
        (0u32..)
            .zip(self.wanted_pieces.iter().zip(&self.have))
            .filter(|(_, (w, h))| **w && !**h)
            .map(|x| x.0)
    }
}

/// What a selection wants, piece by piece and as ranges without padding.
pub(super) fn wanted(
    meta: &Metainfo,
    selected: Option<&[u32]>,
    layout: &Layout,
) -> (Vec<bool>, RangeSet) {
    let pieces = match selected {
        Some(files) => select::wanted_pieces(meta, files),
        None => vec![true; meta.pieces() as usize],
    };
    let mut ranges = RangeSet::new();
    for (piece, _) in (0u32..).zip(&pieces).filter(|(_, wanted)| **wanted) {
        layout.stored(meta.piece_range(piece)).for_each(|range| ranges.insert(range));
    }
    (pieces, ranges)
}

/// What a selection wants of an import that is no torrent: its files, and nothing that they share with others.
pub(super) fn ranges_wanted(files: &[File], selected: Option<&[u32]>) -> RangeSet {
    files_wanted(files, selected).map(|file| file.range.clone()).collect()
}

/// A file of an import that is no torrent, as one of a torrent looks.
pub(super) fn plain_file(row: FileRow) -> File {
    let range = row.start..row.start.saturating_add(row.len);
    File { path: row.path, range, pad: row.pad, executable: false, symlink: None }
}

/// The files as the catalog records them.
pub(super) fn file_rows(meta: &Metainfo) -> Vec<FileRow> {
    meta.files.iter().map(file_row).collect()
}

/// A file as the catalog records it.
pub(super) fn file_row(file: &File) -> FileRow {
    FileRow {
        path: file.path.clone(),
        start: file.range.start,
        len: file.range.end - file.range.start,
        pad: file.pad,
    }
}

/// The real files that are wanted, of all those of an import.
pub(super) fn files_wanted<'a>(
    files: &'a [File],
    selected: Option<&'a [u32]>,
) -> impl Iterator<Item = &'a File> {
    let files = files.iter().enumerate();
    files.filter(move |(i, f)| !f.pad && is_selected(selected, *i)).map(|x| x.1)
}

/// Whether a selection (ascending, as `select` makes it; `None` is all) has the file at `index`.
pub(super) fn is_selected(selected: Option<&[u32]>, index: usize) -> bool {
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    selected.is_none_or(|s| s.binary_search(&index).is_ok())
}

/// The bytes of the files that are wanted. What is stored may be more: whole pieces, which reach into other files.
pub(super) fn bytes_wanted(files: &[File], selected: Option<&[u32]>) -> u64 {
    files_wanted(files, selected).map(|f| f.range.end - f.range.start).sum()
}
