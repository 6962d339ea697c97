//! Counts the requests and bytes of an import before it begins. Pure.
//!
//! The counts assume that memory allows every slot to become one object, or one part of a file that is sent in order,
//! and that nothing fails. An import under memory pressure packs, and one on a bad connection repeats requests.

use serde::Serialize;

use super::{
    compose::{Part, Piece, Rules, compose},
    layout::{FileSpan, Layout},
    ranges::RangeSet,
    stream,
    windows::WINDOW,
};
use crate::{backends::Key, error::Result};

/// Requests by kind. For a storage with other kinds of requests, the nearest kind counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Requests {
    /// Whole objects.
    pub put: u64,
    /// Multipart uploads started. As many are finished.
    pub begin: u64,
    /// Parts sent.
    pub part: u64,
    /// Parts copied within the storage.
    pub copy: u64,
    pub finish: u64,
    pub delete: u64,
    pub list: u64,
    /// Lookups of what exists, and reads of bytes that are sent again.
    pub get: u64,
}

impl Requests {
    #[must_use]
    pub fn total(&self) -> u64 {
        let Self { put, begin, part, copy, finish, delete, list, get } = *self;
        put + begin + part + copy + finish + delete + list + get
    }
}

/// The totals of an import in its storage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Bytes that will be stored for good: without padding, existing bytes and manifests. Each is sent once.
    pub payload: u64,
    /// Bytes that are read back and sent again, where the storage cannot compose whole files of chunks.
    pub resent: u64,
    /// Bytes that are read back at the end to verify a checksum.
    pub checked: u64,
    /// Objects that hold the payload at the end.
    pub objects: u64,
    pub requests: Requests,
    /// The number of GETs to read everything once, in order.
    pub reads: u64,
}

/// Counts what it takes to store the `missing` ranges of an import, and to publish those of `files` that they complete.
///
/// # Errors
/// `Internal` when a file cannot be composed of the slots of `layout`: both are cut from the same files.
pub fn tally(
    layout: &Layout,
    missing: &RangeSet,
    files: &[FileSpan],
    rules: &Rules,
) -> Result<Tally> {
    let missing: RangeSet = missing.iter().flat_map(|run| layout.stored(run)).collect();
    let whole: Vec<_> = files
        .iter()
        .filter(|file| !file.pad && (file.range.is_empty() || missing.overlaps(&file.range)))
        .collect();
    let streamed: RangeSet = whole
        .iter()
        .filter(|file| stream::shape(&file.range, rules.chunk_len, rules.can).is_some())
        .map(|file| file.range.clone())
        .collect();
    let passing: RangeSet = whole.iter().map(|file| file.range.clone()).collect();
    let mut tally = Tally { payload: missing.len(), ..Tally::default() };
    for slot in layout.slots() {
        let held = missing.len_within(slot.clone());
        if held == 0 {
            continue;
        }
        if streamed.contains(slot) {
            // Sent into its file's own object.
            tally.requests.part += 1;
            continue;
        }
        tally.requests.put += 1;
        if whole.iter().any(|file| file.range == *slot) {
            // A file of one chunk is stored under its own name at once.
        } else if missing.within(slot.clone()).all(|run| passing.contains(&run)) {
            tally.requests.delete += 1;
        } else {
            tally.keep(held);
        }
    }
    // The listing that checks whether the torrent's names are taken.
    tally.requests.list += u64::from(!whole.is_empty());
    for file in whole {
        tally.compose(layout, file, rules)?;
    }
    Ok(tally)
}

impl Tally {
    /// Counts a read of `len` bytes to verify a checksum.
    pub fn check(&mut self, len: u64) {
        self.checked += len;
        self.requests.get += len.div_ceil(WINDOW);
    }

    fn keep(&mut self, len: u64) {
        self.objects += 1;
        self.reads += len.div_ceil(WINDOW);
    }

    /// Counts the requests that make one file object of its chunks.
    fn compose(&mut self, layout: &Layout, file: &FileSpan, rules: &Rules) -> Result<()> {
        let (start, end) = (file.range.start, file.range.end);
        self.keep(end - start);
        if stream::shape(&file.range, rules.chunk_len, rules.can).is_some() {
            self.requests.get += 1;
            self.requests.begin += 1;
            self.requests.finish += 1;
            return Ok(());
        }
        let key = Key::new("chunk")?;
        let slots = layout.slots().iter().skip_while(|slot| slot.end <= start);
        let pieces: Vec<Piece> = slots
            .take_while(|slot| slot.start < end)
            .map(|slot| Piece {
                range: slot.start.max(start) - start..slot.end.min(end) - start,
                key: key.clone(),
                object_len: layout.stored(slot.clone()).map(|run| run.end - run.start).sum(),
                offset: layout
                    .stored(slot.start..start.max(slot.start))
                    .map(|run| run.end - run.start)
                    .sum(),
            })
            .collect();
        let plan = compose(end - start, &pieces, rules)?;
        let requests = &mut self.requests;
        if layout.slots().contains(&file.range) {
            return Ok(());
        }
        requests.get += 1;
        let send = |part: &Part| match part {
            Part::Send(range) => Some(range.end - range.start),
            Part::Copy { .. } => None,
        };
        let sent: Vec<u64> = plan.parts.iter().filter_map(send).collect();
        self.resent += sent.iter().sum::<u64>();
        requests.get += sent.iter().map(|len| len.div_ceil(WINDOW)).sum::<u64>();
        if let ([Part::Send(_)], [_]) = (&plan.parts[..], &sent[..]) {
            requests.put += 1;
            return Ok(());
        }
        requests.begin += 1;
        requests.part += sent.len() as u64;
        requests.copy += (plan.parts.len() - sent.len()) as u64;
        requests.finish += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        backends::{Capabilities, Copying},
        catalog::LayoutKind,
        storage::assembly::Assembly,
        units::{KIB, MIB},
    };

    const CHUNK: u64 = 16 * MIB;
    const CAN: Capabilities = Capabilities {
        copy: Copying::Ranges { min_part: 5 * MIB },
        ordered: false,
        conditional_put: false,
        links: true,
        window: MIB,
        blocks: false,
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

    fn rules(can: Capabilities) -> Rules {
        Rules { can, chunk_len: CHUNK, most_sent: 2 * CHUNK }
    }

    fn chunks(lens: &[u64]) -> Tally {
        let layout = layout(&spans(lens), LayoutKind::Chunks);
        tally(&layout, &layout.all_stored(), &[], &rules(CAN)).unwrap()
    }

    fn files(lens: &[u64], can: Capabilities) -> Tally {
        let files = spans(lens);
        let layout = layout(&files, LayoutKind::Files);
        tally(&layout, &layout.all_stored(), &files, &rules(can)).unwrap()
    }

    #[test]
    fn chunks_are_one_put_each() {
        let found = chunks(&[MIB, MIB, 40 * MIB]);
        assert_eq!((found.objects, found.payload, found.reads), (4, 42 * MIB, 42));
        assert_eq!(found.requests, Requests { put: 4, ..Requests::default() });
        assert_eq!(chunks(&[]), Tally::default());
    }

    #[test]
    fn files_are_copied_from_their_chunks_which_then_go() {
        let found = files(&[MIB, 40 * MIB, 0], CAN);
        assert_eq!((found.objects, found.payload, found.resent), (3, 41 * MIB, 0));
        let wanted = Requests {
            put: 4 + 1,
            begin: 1,
            copy: 3,
            finish: 1,
            delete: 3,
            list: 1,
            get: 2,
            ..Requests::default()
        };
        assert_eq!(found.requests, wanted);
    }

    #[test]
    fn files_are_sent_in_order_once_where_nothing_can_be_copied() {
        let found = files(&[MIB, 40 * MIB], CANNOT);
        assert_eq!((found.objects, found.payload, found.resent), (2, 41 * MIB, 0));
        let wanted = Requests {
            put: 1,
            begin: 1,
            part: 3,
            finish: 1,
            list: 1,
            get: 1,
            ..Requests::default()
        };
        assert_eq!(found.requests, wanted);
    }

    #[test]
    fn files_go_through_here_once_more_where_parts_cannot_be_chunks() {
        let can = Capabilities { ordered: false, ..CANNOT };
        let found = files(&[MIB, 40 * MIB], can);
        assert_eq!((found.objects, found.payload, found.resent), (2, 41 * MIB, 40 * MIB));
        assert_eq!((found.requests.put, found.requests.delete), (4, 3));
        assert_eq!((found.requests.begin, found.requests.part, found.requests.copy), (1, 3, 0));
        assert_eq!(found.requests.get, 1 + 40);
    }

    #[test]
    fn what_is_held_against_a_checksum_is_read_once_more() {
        let mut found = chunks(&[40 * MIB + 1]);
        found.check(40 * MIB + 1);
        assert_eq!((found.checked, found.requests.get, found.reads), (40 * MIB + 1, 41, 41));
    }

    #[test]
    fn only_what_is_missing_counts() {
        let layout = layout(&spans(&[40 * MIB]), LayoutKind::Chunks);
        let missing = RangeSet::from(20 * MIB..40 * MIB);
        let found = tally(&layout, &missing, &[], &rules(CAN)).unwrap();
        assert_eq!((found.objects, found.payload), (2, 20 * MIB));
    }

    #[test]
    fn what_a_selection_takes_of_other_files_stays_in_chunks() {
        let files = spans(&[40 * MIB, 40 * MIB]);
        let layout = layout(&files, LayoutKind::Files);
        // The first file, and the piece that it shares with the second.
        let wanted = RangeSet::from(0..41 * MIB);
        let found = tally(&layout, &wanted, &files[..1], &rules(CAN)).unwrap();
        assert_eq!(found.objects, 2);
        assert_eq!((found.requests.put, found.requests.delete), (4, 3));
    }

    /// The limit on PUTs at 16 MiB chunks. It cannot hold for a torrent of many files that end soon after the start of
    /// a chunk (17 MiB is two objects).
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
            let found = chunks(&lens);
            prop_assert!(found.requests.put <= bound(found.payload, lens.len() as u64), "{:?}", found);
            prop_assert_eq!(found.requests.total(), found.requests.put);
        }

        #[test]
        fn no_torrent_needs_more_than_a_put_a_chunk_and_two_a_large_file(
            lens in prop::collection::vec(prop_oneof![0..6 * MIB, 0..100 * MIB], 0..200),
        ) {
            let found = chunks(&lens);
            let large = lens.iter().filter(|len| **len >= 5 * MIB).count() as u64;
            // Besides its full chunks, each large file adds at most its own rest and the small files before it.
            prop_assert!(found.requests.put <= found.payload / (11 * MIB) + 2 * large + 1);
        }

        #[test]
        fn the_tally_is_what_the_assembly_makes(
            lens in prop::collection::vec(0..200 * KIB, 1..20),
            wanted in (0..4 * MIB, 0..4 * MIB),
        ) {
            let files = spans(&lens);
            let len: u64 = lens.iter().sum();
            let layout = Arc::new(Layout::new(len, files, 128 * KIB, LayoutKind::Chunks).unwrap());
            let wanted = RangeSet::from(wanted.0.min(wanted.1).min(len)..wanted.0.max(wanted.1).min(len));
            let found = tally(&layout, &wanted, &[], &rules(CAN)).unwrap();
            let mut assembly = Assembly::new(Arc::clone(&layout), &wanted, RangeSet::new());
            wanted.iter().for_each(|run| assembly.add(run));
            let made: Vec<_> = std::iter::from_fn(|| assembly.take_full()).collect();
            prop_assert_eq!(found.objects, made.len() as u64);
            prop_assert_eq!(found.payload, made.iter().map(|plan| plan.len()).sum::<u64>());
        }
    }
}
