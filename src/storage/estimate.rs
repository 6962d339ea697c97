//! Counts the requests and bytes of an import before it begins. Pure.
//!
//! The counts assume that memory allows every chunk to become one object, or one part of a file that is sent in order,
//! and that nothing fails. An import under memory pressure packs, and one on a bad connection repeats requests.

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    files::{
        composition::{CompositionLimits, PartSource, plan_composition},
        sequential_upload,
    },
    map::layout::{FileSpan, Layout},
    read::window_grid::WINDOW,
};
use crate::storage::map::stored_run::StoredRun;
use crate::{backends::Key, error::Result, ranges::RangeSet};

/// Requests by kind. For a storage with other kinds of requests, the nearest kind counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
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
/// `Internal` when a file cannot be composed of the chunks of `layout`: both are cut from the same files.
pub fn tally(
    layout: &Layout,
    missing: &RangeSet,
    files: &[FileSpan],
    limits: &CompositionLimits,
) -> Result<Tally> {
    let missing: RangeSet = missing.iter().flat_map(|run| layout.unpadded(run)).collect();
    let whole_files: Vec<_> = files
        .iter()
        .filter(|file| !file.pad && (file.range.is_empty() || missing.overlaps(&file.range)))
        .collect();
    let sequential: RangeSet = whole_files
        .iter()
        .filter(|file| {
            sequential_upload::upload_layout(&file.range, limits.chunk_len, limits.capabilities)
                .is_some()
        })
        .map(|file| file.range.clone())
        .collect();
    let transient: RangeSet = whole_files.iter().map(|file| file.range.clone()).collect();
    let mut tally = Tally { payload: missing.len(), ..Tally::default() };
    for chunk in layout.chunks() {
        let len = missing.len_within(chunk.clone());
        if len == 0 {
            continue;
        }
        if sequential.contains(chunk) {
            // Sent into its file's own object.
            tally.requests.part += 1;
            continue;
        }
        tally.requests.put += 1;
        if whole_files.iter().any(|file| file.range == *chunk) {
            // A file of one chunk is stored under its own name at once.
        } else if missing.within(chunk.clone()).all(|run| transient.contains(&run)) {
            tally.requests.delete += 1;
        } else {
            tally.add_object(len);
        }
    }
    // The listing that checks whether the torrent's names are taken.
    tally.requests.list += u64::from(!whole_files.is_empty());
    for file in whole_files {
        tally.add_file(layout, file, limits)?;
    }
    Ok(tally)
}

impl Tally {
    /// Counts a read of `len` bytes to verify a checksum.
    pub fn add_verification(&mut self, len: u64) {
        self.checked += len;
        self.requests.get += len.div_ceil(WINDOW);
    }

    fn add_object(&mut self, len: u64) {
        self.objects += 1;
        self.reads += len.div_ceil(WINDOW);
    }

    /// Counts the requests that make one file object of its chunks.
    fn add_file(
        &mut self,
        layout: &Layout,
        file: &FileSpan,
        limits: &CompositionLimits,
    ) -> Result<()> {
        let (start, end) = (file.range.start, file.range.end);
        self.add_object(end - start);
        if sequential_upload::upload_layout(&file.range, limits.chunk_len, limits.capabilities)
            .is_some()
        {
            self.requests.get += 1;
            self.requests.begin += 1;
            self.requests.finish += 1;
            return Ok(());
        }
        let key = Key::new("chunk")?;
        let chunks = layout.chunks().iter().skip_while(|chunk| chunk.end <= start);
        let runs: Vec<StoredRun> = chunks
            .take_while(|chunk| chunk.start < end)
            .map(|chunk| StoredRun {
                range: chunk.start.max(start) - start..chunk.end.min(end) - start,
                key: key.clone(),
                object_len: layout.unpadded(chunk.clone()).map(|run| run.end - run.start).sum(),
                offset: layout
                    .unpadded(chunk.start..start.max(chunk.start))
                    .map(|run| run.end - run.start)
                    .sum(),
            })
            .collect();
        let plan = plan_composition(end - start, &runs, limits)?;
        let requests = &mut self.requests;
        if layout.chunks().contains(&file.range) {
            return Ok(());
        }
        requests.get += 1;
        let send = |part: &PartSource| match part {
            PartSource::Send(range) => Some(range.end - range.start),
            PartSource::Copy { .. } => None,
        };
        let sent: Vec<u64> = plan.parts.iter().filter_map(send).collect();
        self.resent += sent.iter().sum::<u64>();
        requests.get += sent.iter().map(|len| len.div_ceil(WINDOW)).sum::<u64>();
        if let ([PartSource::Send(_)], [_]) = (&plan.parts[..], &sent[..]) {
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
        backends::{Capabilities, CopySupport},
        catalog::LayoutKind,
        storage::write::assembly::Assembly,
        units::{KIB, MIB},
    };

    const CHUNK: u64 = 16 * MIB;
    const S3: Capabilities = Capabilities {
        copy: CopySupport::Ranges { min_part: 5 * MIB },
        ordered_parts: false,
        conditional_put: false,
        links: true,
        window: MIB,
        body_in_blocks: false,
    };
    const ORDERED: Capabilities = Capabilities { copy: CopySupport::No, ordered_parts: true, ..S3 };

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

    fn limits(capabilities: Capabilities) -> CompositionLimits {
        CompositionLimits { capabilities, chunk_len: CHUNK, max_sent: 2 * CHUNK }
    }

    fn tally_chunks(lens: &[u64]) -> Tally {
        let layout = layout(&spans(lens), LayoutKind::Chunks);
        tally(&layout, &layout.all_unpadded(), &[], &limits(S3)).unwrap()
    }

    fn tally_files(lens: &[u64], capabilities: Capabilities) -> Tally {
        let files = spans(lens);
        let layout = layout(&files, LayoutKind::Files);
        tally(&layout, &layout.all_unpadded(), &files, &limits(capabilities)).unwrap()
    }

    #[test]
    fn chunks_are_one_put_each() {
        let total = tally_chunks(&[MIB, MIB, 40 * MIB]);
        assert_eq!((total.objects, total.payload, total.reads), (4, 42 * MIB, 42));
        assert_eq!(total.requests, Requests { put: 4, ..Requests::default() });
        assert_eq!(tally_chunks(&[]), Tally::default());
    }

    #[test]
    fn files_are_copied_from_their_chunks_which_are_then_deleted() {
        let total = tally_files(&[MIB, 40 * MIB, 0], S3);
        assert_eq!((total.objects, total.payload, total.resent), (3, 41 * MIB, 0));
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
        assert_eq!(total.requests, wanted);
    }

    #[test]
    fn files_are_sent_in_order_once_where_nothing_can_be_copied() {
        let total = tally_files(&[MIB, 40 * MIB], ORDERED);
        assert_eq!((total.objects, total.payload, total.resent), (2, 41 * MIB, 0));
        let wanted = Requests {
            put: 1,
            begin: 1,
            part: 3,
            finish: 1,
            list: 1,
            get: 1,
            ..Requests::default()
        };
        assert_eq!(total.requests, wanted);
    }

    #[test]
    fn files_are_read_back_and_sent_again_where_parts_have_no_order() {
        let capabilities = Capabilities { ordered_parts: false, ..ORDERED };
        let total = tally_files(&[MIB, 40 * MIB], capabilities);
        assert_eq!((total.objects, total.payload, total.resent), (2, 41 * MIB, 40 * MIB));
        assert_eq!((total.requests.put, total.requests.delete), (4, 3));
        assert_eq!((total.requests.begin, total.requests.part, total.requests.copy), (1, 3, 0));
        assert_eq!(total.requests.get, 1 + 40);
    }

    #[test]
    fn verifying_a_checksum_reads_every_byte_once_more() {
        let mut total = tally_chunks(&[40 * MIB + 1]);
        total.add_verification(40 * MIB + 1);
        assert_eq!((total.checked, total.requests.get, total.reads), (40 * MIB + 1, 41, 41));
    }

    #[test]
    fn only_missing_bytes_count() {
        let layout = layout(&spans(&[40 * MIB]), LayoutKind::Chunks);
        let missing = RangeSet::from(20 * MIB..40 * MIB);
        let total = tally(&layout, &missing, &[], &limits(S3)).unwrap();
        assert_eq!((total.objects, total.payload), (2, 20 * MIB));
    }

    #[test]
    fn bytes_of_unselected_files_stay_in_chunks() {
        let files = spans(&[40 * MIB, 40 * MIB]);
        let layout = layout(&files, LayoutKind::Files);
        // The first file, and the piece that it shares with the second.
        let wanted = RangeSet::from(0..41 * MIB);
        let total = tally(&layout, &wanted, &files[..1], &limits(S3)).unwrap();
        assert_eq!(total.objects, 2);
        assert_eq!((total.requests.put, total.requests.delete), (4, 3));
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
            let total = tally_chunks(&lens);
            prop_assert!(total.requests.put <= bound(total.payload, lens.len() as u64), "{:?}", total);
            prop_assert_eq!(total.requests.total(), total.requests.put);
        }

        #[test]
        fn puts_are_bounded_by_chunks_and_two_per_large_file(
            lens in prop::collection::vec(prop_oneof![0..6 * MIB, 0..100 * MIB], 0..200),
        ) {
            let total = tally_chunks(&lens);
            let large = lens.iter().filter(|len| **len >= 5 * MIB).count() as u64;
            // Besides its full chunks, each large file adds at most its own rest and the small files before it.
            prop_assert!(total.requests.put <= total.payload / (11 * MIB) + 2 * large + 1);
        }

        #[test]
        fn the_tally_matches_the_plans_of_the_assembly(
            lens in prop::collection::vec(0..200 * KIB, 1..20),
            wanted in (0..4 * MIB, 0..4 * MIB),
        ) {
            let files = spans(&lens);
            let len: u64 = lens.iter().sum();
            let layout = Arc::new(Layout::new(len, files, 128 * KIB, LayoutKind::Chunks).unwrap());
            let wanted = RangeSet::from(wanted.0.min(wanted.1).min(len)..wanted.0.max(wanted.1).min(len));
            let total = tally(&layout, &wanted, &[], &limits(S3)).unwrap();
            let mut assembly = Assembly::new(Arc::clone(&layout), &wanted, RangeSet::new());
            wanted.iter().for_each(|run| assembly.add(run));
            let made: Vec<_> = std::iter::from_fn(|| assembly.take_full()).collect();
            prop_assert_eq!(total.objects, made.len() as u64);
            prop_assert_eq!(total.payload, made.iter().map(|plan| plan.len()).sum::<u64>());
        }
    }
}
