//! What an import will ask of a place, counted before it begins. Pure.
//!
//! It counts what happens when memory allows (every slot becomes one object) and nothing fails: an import under
//! pressure packs, and one on a bad line repeats.

use std::ops::Range;

use serde::Serialize;

use super::{
    cache::WINDOW,
    layout::{FileSpan, Layout},
    ranges::RangeSet,
};
use crate::{
    backends::{Capabilities, Copying, Shape},
    catalog::LayoutKind,
};

/// Requests by what they do. Those of a place that has other words for them are the nearest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Requests {
    /// Whole objects.
    pub put: u64,
    /// Objects begun that are made part by part, and as many finished.
    pub begin: u64,
    /// Parts sent.
    pub part: u64,
    /// Parts, or objects, copied within the place.
    pub copy: u64,
    pub finish: u64,
    pub delete: u64,
    pub list: u64,
}

impl Requests {
    #[must_use]
    pub fn total(&self) -> u64 {
        let Self { put, begin, part, copy, finish, delete, list } = *self;
        put + begin + part + copy + finish + delete + list
    }
}

/// What an import comes to in its place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Bytes sent, which are those that stay: no padding, nothing that is there already, no manifest.
    pub payload: u64,
    /// Objects that hold them in the end.
    pub objects: u64,
    pub requests: Requests,
    /// Requests for reading all of it back once, in order.
    pub reads: u64,
}

/// Counts what storing `missing` of an import takes. `files` are those that become objects of their own when `kind` is
/// [`LayoutKind::Files`]: complete in the end, no padding.
#[must_use]
pub fn tally(
    layout: &Layout,
    missing: &RangeSet,
    kind: LayoutKind,
    files: &[FileSpan],
    can: Capabilities,
) -> Tally {
    let missing: RangeSet = missing.iter().flat_map(|run| layout.stored(run)).collect();
    let whole: Vec<Range<u64>> = match kind {
        LayoutKind::Chunks => Vec::new(),
        LayoutKind::Files => files
            .iter()
            .filter(|file| !file.pad && missing.overlaps(&file.range))
            .map(|file| file.range.clone())
            .collect(),
    };
    let mut tally = Tally { payload: missing.len(), ..Tally::default() };
    let ordered = can.copy == Copying::No;
    let of_files: RangeSet = whole.iter().cloned().collect();
    let chunked = if ordered { missing.minus(&of_files) } else { missing };
    tally.chunks(layout, &chunked, &of_files);
    for file in &whole {
        tally.file(file.end - file.start, layout.chunk_len(), can);
    }
    tally
}

impl Tally {
    /// The slots that hold something of `stored`; those all in `passing` are only stations on the way to a file.
    fn chunks(&mut self, layout: &Layout, stored: &RangeSet, passing: &RangeSet) {
        for slot in layout.slots() {
            let held: u64 = stored.len_within(slot.clone());
            if held == 0 {
                continue;
            }
            self.requests.put += 1;
            if stored.within(slot.clone()).all(|run| passing.contains(&run)) {
                self.requests.delete += 1;
            } else {
                self.objects += 1;
                self.reads += held.div_ceil(WINDOW);
            }
        }
    }

    /// One file as one object, copied from its chunks or sent in order.
    fn file(&mut self, len: u64, chunk_len: u64, can: Capabilities) {
        self.objects += 1;
        self.reads += len.div_ceil(WINDOW);
        let parts = Shape { len, part_len: chunk_len }.parts();
        let requests = &mut self.requests;
        match can.copy {
            Copying::Whole | Copying::Ranges { .. } if parts == 1 => requests.copy += 1,
            Copying::Ranges { .. } => {
                requests.begin += 1;
                requests.copy += parts;
                requests.finish += 1;
            }
            // A copy of the whole is of no use for what lies in several chunks: these are sent in order.
            Copying::No | Copying::Whole => {
                requests.begin += 1;
                requests.part += parts;
                requests.finish += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        storage::assembly::Assembly,
        units::{KIB, MIB},
    };

    const CHUNK: u64 = 16 * MIB;
    const CAN: Capabilities = Capabilities {
        copy: Copying::Ranges { min_part: 5 * MIB },
        ordered: false,
        conditional_put: false,
        links: true,
    };
    const CANNOT: Capabilities = Capabilities { copy: Copying::No, ordered: true, ..CAN };

    fn spans(lens: &[u64]) -> Vec<FileSpan> {
        let mut at = 0;
        let span = |len: &u64| {
            at += len;
            FileSpan { range: at - len..at, pad: false }
        };
        lens.iter().map(span).collect()
    }

    fn layout(files: &[FileSpan], kind: LayoutKind) -> Layout {
        let len = files.last().map_or(0, |file| file.range.end);
        Layout::new(len, files.iter().cloned(), CHUNK, kind).unwrap()
    }

    fn all(lens: &[u64], kind: LayoutKind, can: Capabilities) -> Tally {
        let files = spans(lens);
        let layout = layout(&files, kind);
        tally(&layout, &layout.all_stored(), kind, &files, can)
    }

    #[test]
    fn chunks_are_one_put_each() {
        let found = all(&[MIB, MIB, 40 * MIB], LayoutKind::Chunks, CAN);
        assert_eq!((found.objects, found.payload, found.reads), (4, 42 * MIB, 42));
        assert_eq!(found.requests, Requests { put: 4, ..Requests::default() });
        assert_eq!(all(&[], LayoutKind::Chunks, CAN), Tally::default());
    }

    #[test]
    fn files_are_copied_from_their_chunks_which_then_go() {
        let found = all(&[MIB, MIB, 40 * MIB], LayoutKind::Files, CAN);
        assert_eq!((found.objects, found.payload), (3, 42 * MIB));
        let copied =
            Requests { put: 5, begin: 1, copy: 5, finish: 1, delete: 5, ..Requests::default() };
        assert_eq!(found.requests, copied);
    }

    #[test]
    fn files_are_sent_in_order_where_nothing_can_be_copied() {
        let found = all(&[MIB, 40 * MIB], LayoutKind::Files, CANNOT);
        assert_eq!((found.objects, found.payload), (2, 41 * MIB));
        assert_eq!(
            found.requests,
            Requests { begin: 2, part: 4, finish: 2, ..Requests::default() }
        );
    }

    #[test]
    fn only_what_is_missing_counts() {
        let files = spans(&[40 * MIB]);
        let layout = layout(&files, LayoutKind::Chunks);
        let missing = RangeSet::from(20 * MIB..40 * MIB);
        let found = tally(&layout, &missing, LayoutKind::Chunks, &files, CAN);
        assert_eq!((found.objects, found.payload), (2, 20 * MIB));
    }

    #[test]
    fn what_a_selection_takes_of_other_files_stays_in_chunks() {
        let files = spans(&[40 * MIB, 40 * MIB]);
        let layout = layout(&files, LayoutKind::Files);
        // The first file and the piece that it shares with the second.
        let wanted = RangeSet::from(0..41 * MIB);
        let found = tally(&layout, &wanted, LayoutKind::Files, &files[..1], CAN);
        assert_eq!(found.objects, 2);
        assert_eq!((found.requests.put, found.requests.delete), (4, 3));
    }

    /// The figure to keep at 16 MiB chunks. It cannot hold for files that end soon after a chunk began (17 MiB is two
    /// objects), of which a torrent would have to have many.
    fn bound(payload: u64, files: u64) -> u64 {
        payload / (12 * MIB) + files / 64 + 20
    }

    proptest! {
        #[test]
        fn large_files_and_runs_of_small_ones_need_few_puts(
            groups in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(48 * MIB..500 * MIB, 1..4),
                    prop::collection::vec(0..5 * MIB, 1..300),
                ],
                0..8,
            ),
        ) {
            let lens = groups.concat();
            let found = all(&lens, LayoutKind::Chunks, CAN);
            prop_assert!(found.requests.put <= bound(found.payload, lens.len() as u64), "{:?}", found);
            prop_assert_eq!(found.requests.total(), found.requests.put);
        }

        #[test]
        fn no_torrent_needs_more_than_a_put_a_chunk_and_two_a_large_file(
            lens in prop::collection::vec(prop_oneof![0..6 * MIB, 0..100 * MIB], 0..200),
        ) {
            let found = all(&lens, LayoutKind::Chunks, CAN);
            let large = lens.iter().filter(|len| **len >= 5 * MIB).count() as u64;
            // Beside a chunk there is at most the rest of each large file and the small ones before it.
            prop_assert!(found.requests.put <= found.payload / (11 * MIB) + 2 * large + 1);
        }

        #[test]
        fn the_tally_is_what_the_assembly_makes(
            lens in prop::collection::vec(0..200 * KIB, 1..20),
            wanted in (0..4 * MIB, 0..4 * MIB),
        ) {
            let files = spans(&lens);
            let len: u64 = lens.iter().sum();
            let layout = Arc::new(Layout::new(len, files.clone(), 128 * KIB, LayoutKind::Chunks).unwrap());
            let wanted = RangeSet::from(wanted.0.min(wanted.1).min(len)..wanted.0.max(wanted.1).min(len));
            let found = tally(&layout, &wanted, LayoutKind::Chunks, &files, CAN);
            let mut assembly = Assembly::new(Arc::clone(&layout), &wanted, RangeSet::new());
            wanted.iter().for_each(|run| assembly.add(run));
            let made: Vec<_> = std::iter::from_fn(|| assembly.take_full()).collect();
            prop_assert_eq!(found.objects, made.len() as u64);
            prop_assert_eq!(found.payload, made.iter().map(|plan| plan.len()).sum::<u64>());
        }
    }
}
