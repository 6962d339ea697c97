//! From a torrent and a selection: which pieces and files are wanted, and which of them are durable. No I/O; the stored
//! ranges come from the [`ImportStore`].

use crate::{
    catalog::FileRow,
    error::Result,
    storage::{ImportStore, Layout, RangeSet},
    torrents::metainfo::{File, Metainfo, select},
};

/// The indices of the selected files: by the user, or else by the magnet link. `None` is all.
pub(in crate::engine) fn select_files(
    user_select: Option<&str>,
    link_select: Option<&str>,
    files: &[File],
) -> Result<Option<Vec<u32>>> {
    match (user_select, link_select) {
        (Some(spec), _) => select::select(spec, files).map(Some),
        (None, Some(spec)) => select::select_by_link(spec, files).map(Some),
        (None, None) => Ok(None),
    }
}

/// Wanted and durable pieces of an import.
#[derive(Debug)]
pub(in crate::engine) struct Plan {
    /// One entry per piece.
    pub(in crate::engine) wanted_pieces: Vec<bool>,
    /// One entry per piece: whether each of its bytes is durable or padding.
    pub(in crate::engine) have: Vec<bool>,
    /// Wanted ranges without padding. They consist of whole pieces, since only those can be verified.
    pub(in crate::engine) wanted: RangeSet,
}

impl Plan {
    pub(in crate::engine) fn new(
        meta: &Metainfo,
        selected: Option<&[u32]>,
        store: &ImportStore,
    ) -> Self {
        let (wanted_pieces, wanted) = wanted_pieces_and_ranges(meta, selected, store.layout());
        let have = (0..meta.pieces()).map(|p| store.is_durable(meta.piece_range(p))).collect();
        Self { wanted_pieces, have, wanted }
    }

    /// Wanted pieces that are not durable.
    pub(in crate::engine) fn missing(&self) -> impl Iterator<Item = u32> + '_ {
        (0u32..)
            .zip(self.wanted_pieces.iter().zip(&self.have))
            .filter(|(_, (w, h))| **w && !**h)
            .map(|x| x.0)
    }
}

/// The pieces of a selection, and the same as ranges without padding.
pub(in crate::engine) fn wanted_pieces_and_ranges(
    meta: &Metainfo,
    selected: Option<&[u32]>,
    layout: &Layout,
) -> (Vec<bool>, RangeSet) {
    let pieces = selected_pieces(meta, selected);
    let mut ranges = RangeSet::new();
    for (piece, _) in (0u32..).zip(&pieces).filter(|(_, wanted)| **wanted) {
        layout.unpadded(meta.piece_range(piece)).for_each(|range| ranges.insert(range));
    }
    (pieces, ranges)
}

fn selected_pieces(meta: &Metainfo, selected: Option<&[u32]>) -> Vec<bool> {
    match selected {
        Some(files) => select::wanted_pieces(meta, files),
        None => vec![true; meta.pieces() as usize],
    }
}

/// Bytes that a selection of a torrent takes in storage: those of its pieces, without padding.
pub(in crate::engine) fn bytes_to_store(meta: &Metainfo, selected: Option<&[u32]>) -> u64 {
    let pieces = selected_pieces(meta, selected);
    let wanted = (0u32..).zip(&pieces).filter(|(_, wanted)| **wanted);
    let ranges: RangeSet = wanted.map(|(piece, _)| meta.piece_range(piece)).collect();
    let pads = meta.files.iter().filter(|file| file.pad).map(|file| file.range.clone());
    ranges.minus(&pads.collect()).len()
}

/// The ranges of a selection in an import from a URL: exactly the selected files.
pub(in crate::engine) fn selected_ranges(files: &[File], selected: Option<&[u32]>) -> RangeSet {
    selected_files(files, selected).map(|file| file.range.clone()).collect()
}

/// A file of an import from a URL, in the form of a torrent's file.
pub(in crate::engine) fn file_of_row(row: FileRow) -> File {
    let range = row.start..row.start.saturating_add(row.len);
    File { path: row.path, range, pad: row.pad, executable: false, symlink: None }
}

/// The catalog rows of a torrent's files.
pub(in crate::engine) fn file_rows(meta: &Metainfo) -> Vec<FileRow> {
    meta.files.iter().map(file_row).collect()
}

/// The catalog row of a file.
pub(in crate::engine) fn file_row(file: &File) -> FileRow {
    FileRow {
        path: file.path.clone(),
        start: file.range.start,
        len: file.range.end - file.range.start,
        pad: file.pad,
    }
}

/// The selected files of an import, without padding.
pub(in crate::engine) fn selected_files<'a>(
    files: &'a [File],
    selected: Option<&'a [u32]>,
) -> impl Iterator<Item = &'a File> {
    let files = files.iter().enumerate();
    files.filter(move |(i, f)| !f.pad && is_selected(selected, *i)).map(|x| x.1)
}

/// Whether the selection has the file at `index`. `selected` is in ascending order, as `select`
/// returns it; `None` is all.
pub(in crate::engine) fn is_selected(selected: Option<&[u32]>, index: usize) -> bool {
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    selected.is_none_or(|s| s.binary_search(&index).is_ok())
}

/// Total length of the selected files in bytes. More may be stored: whole pieces, which can overlap other files.
pub(in crate::engine) fn selected_bytes(files: &[File], selected: Option<&[u32]>) -> u64 {
    selected_files(files, selected).map(|f| f.range.end - f.range.start).sum()
}

/// The selected files that can be objects. Symbolic links have no bytes, and not every storage can represent them.
pub(in crate::engine) fn publishable_files(
    files: &[File],
    selected: Option<&[u32]>,
) -> Vec<FileRow> {
    selected_files(files, selected).filter(|file| file.symlink.is_none()).map(file_row).collect()
}
