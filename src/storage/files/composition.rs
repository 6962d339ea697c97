//! Plans how one file object is made of the stored objects: which parts the storage copies, and which are read and
//! sent. Pure.
//!
//! All parts but the last have the same length, copied ones too, because some storages accept nothing else. So the grid
//! of the parts is the grid of the chunks, which starts at each file's start, wherever a chunk is large enough to be a
//! part. A part then lies in one object, and the storage can copy it by itself.

use std::ops::Range;

use crate::storage::map::stored_run::StoredRun;
use crate::{
    backends::{Capabilities, CopySupport, Key, UploadLayout},
    error::{Error, Kind, Result},
    units::{KIB, MIB},
};

/// The smallest part on storages that declare none and take parts in any order: that of S3.
const MIN_PART: u64 = 5 * MIB;
/// The length of ordered parts must be a multiple of this.
pub(super) const ORDERED_STEP: u64 = 256 * KIB;

/// The source of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartSource {
    /// The storage copies `range` of the object by itself.
    Copy { key: Key, range: Range<u64> },
    /// These bytes of the file are read and sent.
    Send(Range<u64>),
}

/// The parts of an upload that makes a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Composition {
    pub layout: UploadLayout,
    /// One for each part of the layout, in order.
    pub parts: Vec<PartSource>,
}

impl Composition {
    /// The number of bytes that the storage copies by itself.
    #[must_use]
    pub fn copied_bytes(&self) -> u64 {
        let of = |part: &PartSource| match part {
            PartSource::Copy { range, .. } => range.end - range.start,
            PartSource::Send(_) => 0,
        };
        self.parts.iter().map(of).sum()
    }
}

/// The constraints of a composition.
#[derive(Debug, Clone, Copy)]
pub struct CompositionLimits {
    pub capabilities: Capabilities,
    /// The chunk length of the import.
    pub chunk_len: u64,
    /// The longest part to send, where the storage allows it: parts that are sent are held in memory.
    pub max_sent: u64,
}

/// Plans a file of `len` bytes made of `runs`, which are in order and without gaps.
///
/// # Errors
/// `Internal` when the runs leave a gap or do not end at `len`.
pub fn plan_composition(
    len: u64,
    runs: &[StoredRun],
    limits: &CompositionLimits,
) -> Result<Composition> {
    let end = runs.iter().try_fold(0, |at, run| {
        let in_object = run.offset + (run.range.end - run.range.start) <= run.object_len;
        (run.range.start == at && in_object).then_some(run.range.end)
    });
    if end != Some(len) {
        let text = format!("the stored runs do not cover the file of {len} bytes");
        return Err(Error::new(Kind::Internal, text));
    }
    let mut unit = limits.chunk_len.max(1);
    let mut best = compose_with_unit(len, runs, limits, unit);
    // Half a chunk also lies in one object, and is sent with half the memory.
    while longest_sent_part(&best) > limits.max_sent && unit > 1 {
        unit /= 2;
        let smaller = compose_with_unit(len, runs, limits, unit);
        if smaller.layout.part_len >= best.layout.part_len {
            break;
        }
        best = smaller;
    }
    Ok(best)
}

fn compose_with_unit(
    len: u64,
    runs: &[StoredRun],
    limits: &CompositionLimits,
    unit: u64,
) -> Composition {
    let layout = UploadLayout { len, part_len: part_len(len, limits, unit) };
    let mut at = 0;
    let part = |index| {
        let range = layout.part_range(index);
        while runs.get(at).is_some_and(|run| run.range.end <= range.start) {
            at += 1;
        }
        let is_last = index + 1 == layout.part_count();
        let is_only = layout.part_count() == 1;
        runs.get(at)
            .and_then(|run| copy_source(run, &range, is_last, is_only, limits.capabilities.copy))
            .unwrap_or(PartSource::Send(range))
    };
    let parts = (0..layout.part_count()).map(part).collect();
    Composition { layout, parts }
}

// ANCHOR: part_len
/// The smallest multiple of `unit` that the storage accepts as a part, or more where there would be too many parts.
fn part_len(len: u64, limits: &CompositionLimits, unit: u64) -> u64 {
    let min_len = match limits.capabilities.copy {
        CopySupport::Ranges { min_part } => min_part.max(1),
        CopySupport::No | CopySupport::Whole if limits.capabilities.ordered_parts => ORDERED_STEP,
        CopySupport::No | CopySupport::Whole => MIN_PART,
    };
    // Ordered parts need not follow the chunk grid: such a storage copies whole objects at most.
    let unit =
        if limits.capabilities.ordered_parts { unit.next_multiple_of(ORDERED_STEP) } else { unit };
    let min_len = min_len.max(len.div_ceil(UploadLayout::MAX_PARTS)).max(1);
    min_len.div_ceil(unit).saturating_mul(unit)
}
// ANCHOR_END: part_len

fn copy_source(
    run: &StoredRun,
    part: &Range<u64>,
    is_last: bool,
    is_only: bool,
    copying: CopySupport,
) -> Option<PartSource> {
    let is_within = run.range.start <= part.start && part.end <= run.range.end;
    if !is_within || part.is_empty() {
        return None;
    }
    let len = part.end - part.start;
    let start = run.offset + (part.start - run.range.start);
    let range = start..start + len;
    let whole = is_only && range == (0..run.object_len);
    let allowed = match copying {
        CopySupport::No => false,
        CopySupport::Whole => whole,
        CopySupport::Ranges { min_part } => {
            whole || run.object_len > min_part && (is_last || len >= min_part)
        }
    };
    allowed.then(|| PartSource::Copy { key: run.key.clone(), range })
}

fn longest_sent_part(plan: &Composition) -> u64 {
    let sent = plan.parts.iter().map(|part| match part {
        PartSource::Send(range) => range.end - range.start,
        PartSource::Copy { .. } => 0,
    });
    sent.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn capabilities(copy: CopySupport, ordered: bool) -> Capabilities {
        Capabilities {
            copy,
            ordered_parts: ordered,
            conditional_put: false,
            links: false,
            window: 1,
            body_in_blocks: false,
        }
    }

    fn key(n: usize) -> Key {
        Key::new(&format!("o{n}")).unwrap()
    }

    /// Objects of these lengths in order, each with bytes of the file only.
    fn whole_objects(lens: &[u64]) -> (u64, Vec<StoredRun>) {
        let mut at = 0;
        let run = |(n, len): (usize, &u64)| {
            let range = at..at + len;
            at += len;
            StoredRun { range, key: key(n), object_len: *len, offset: 0 }
        };
        let runs = lens.iter().enumerate().map(run).collect();
        (at, runs)
    }

    fn s3(chunk_len: u64) -> CompositionLimits {
        let capabilities = capabilities(CopySupport::Ranges { min_part: 5 * MIB }, false);
        CompositionLimits { capabilities, chunk_len, max_sent: 16 * MIB }
    }

    fn sent(plan: &Composition) -> Vec<usize> {
        let is_sent = |part: &PartSource| matches!(part, PartSource::Send(_));
        plan.parts.iter().enumerate().filter(|(_, p)| is_sent(p)).map(|(n, _)| n).collect()
    }

    #[test]
    fn whole_chunks_are_copied_by_the_storage() {
        let (len, runs) = whole_objects(&[16 * MIB, 16 * MIB, 16 * MIB, 3 * MIB]);
        let plan = plan_composition(len, &runs, &s3(16 * MIB)).unwrap();
        assert_eq!(plan.layout, UploadLayout { len, part_len: 16 * MIB });
        // The last object is too small for a range copy.
        assert_eq!(sent(&plan), [3]);
        assert_eq!(plan.parts[1], PartSource::Copy { key: key(1), range: 0..16 * MIB });
        let (len, runs) = whole_objects(&[16 * MIB, 6 * MIB]);
        assert!(sent(&plan_composition(len, &runs, &s3(16 * MIB)).unwrap()).is_empty());
        let (len, runs) = whole_objects(&[3 * MIB]);
        let plan = plan_composition(len, &runs, &s3(16 * MIB)).unwrap();
        assert_eq!(plan.parts, [PartSource::Copy { key: key(0), range: 0..len }], "a whole object");
    }

    #[test]
    fn chunks_below_the_smallest_part_are_sent_and_ordered_parts_are_aligned() {
        let (len, runs) = whole_objects(&[4 * MIB; 5]);
        let plan = plan_composition(len, &runs, &s3(4 * MIB)).unwrap();
        assert_eq!((plan.layout.part_len, sent(&plan)), (8 * MIB, vec![0, 1, 2]));
        let drive = CompositionLimits {
            capabilities: capabilities(CopySupport::Whole, true),
            chunk_len: 300 * KIB,
            ..s3(0)
        };
        let plan = plan_composition(len, &runs, &drive).unwrap();
        assert!(plan.layout.part_len.is_multiple_of(ORDERED_STEP));
        assert_eq!(sent(&plan).len() as u64, plan.layout.part_count());
    }

    #[test]
    fn ordered_parts_are_as_long_as_the_chunks_that_are_sent_as_they_arrive() {
        let (len, runs) = whole_objects(&[MIB; 6]);
        let capabilities = capabilities(CopySupport::Whole, true);
        let limits = CompositionLimits { capabilities, chunk_len: MIB, max_sent: MIB };
        let plan = plan_composition(len, &runs, &limits).unwrap();
        assert_eq!((plan.layout.part_len, longest_sent_part(&plan)), (MIB, MIB));
    }

    #[test]
    fn parts_shrink_to_the_memory_limit_and_grow_to_the_part_count_limit() {
        let mut runs = whole_objects(&[64 * MIB; 4]).1;
        // A packed object in the middle.
        runs[1].object_len += 1;
        runs.insert(2, StoredRun { range: 100 * MIB..128 * MIB, key: key(9), ..runs[1].clone() });
        runs[1].range.end = 100 * MIB;
        let plan = plan_composition(256 * MIB, &runs, &s3(64 * MIB)).unwrap();
        assert_eq!(plan.layout.part_len, 16 * MIB);
        assert_eq!(sent(&plan), [6], "only the part across two objects");
        let (len, runs) = whole_objects(&vec![16 * MIB; 12_000]);
        let more_memory = CompositionLimits { max_sent: 64 * MIB, ..s3(16 * MIB) };
        let plan = plan_composition(len, &runs, &more_memory).unwrap();
        assert_eq!((plan.layout.part_len, plan.layout.part_count()), (32 * MIB, 6_000));
    }

    #[test]
    fn an_empty_file_has_one_empty_part_and_gaps_are_refused() {
        let plan = plan_composition(0, &[], &s3(MIB)).unwrap();
        assert_eq!(plan.parts, [PartSource::Send(0..0)]);
        let (len, mut runs) = whole_objects(&[10, 10]);
        runs[1].range = 11..21;
        assert_eq!(plan_composition(len + 1, &runs, &s3(10)).unwrap_err().kind(), Kind::Internal);
        assert!(plan_composition(len, &runs[..1], &s3(10)).is_err());
    }

    fn copying() -> impl Strategy<Value = CopySupport> {
        prop_oneof![
            Just(CopySupport::No),
            Just(CopySupport::Whole),
            (1..40u64).prop_map(|min_part| CopySupport::Ranges { min_part }),
        ]
    }

    proptest! {
        #[test]
        fn parts_cover_the_file_in_order_within_the_limits(
            lens in prop::collection::vec((1..60u64, 0..20u64, 0..20u64), 0..20),
            copy in copying(),
            ordered: bool,
            chunk_len in 1..80u64,
            max_sent in 1..200u64,
        ) {
            let mut at = 0;
            let run = |(n, (len, offset, more)): (usize, &(u64, u64, u64))| {
                let range = at..at + len;
                at += len;
                StoredRun { range, key: key(n), object_len: offset + len + more, offset: *offset }
            };
            let runs: Vec<_> = lens.iter().enumerate().map(run).collect();
            let limits = CompositionLimits { capabilities: capabilities(copy, ordered), chunk_len, max_sent };
            let plan = plan_composition(at, &runs, &limits).unwrap();
            let Composition { layout, parts } = &plan;
            prop_assert_eq!(layout.len, at);
            prop_assert_eq!(parts.len() as u64, layout.part_count());
            prop_assert!(layout.part_count() <= UploadLayout::MAX_PARTS);
            prop_assert!(!ordered || layout.part_len.is_multiple_of(ORDERED_STEP));
            for (index, part) in (0u64..).zip(parts) {
                let wanted = layout.part_range(index);
                let (is_last, len) = (index + 1 == layout.part_count(), wanted.end - wanted.start);
                match part {
                    PartSource::Send(range) => prop_assert_eq!(range, &wanted),
                    PartSource::Copy { key, range } => {
                        let run = runs.iter().find(|run| run.key == *key).unwrap();
                        prop_assert!(run.range.start <= wanted.start && wanted.end <= run.range.end);
                        prop_assert_eq!(range.start, run.offset + wanted.start - run.range.start);
                        prop_assert_eq!(range.end - range.start, len);
                        let whole = layout.part_count() == 1 && *range == (0..run.object_len);
                        match copy {
                            CopySupport::No => prop_assert!(false),
                            CopySupport::Whole => prop_assert!(whole),
                            CopySupport::Ranges { min_part } => prop_assert!(
                                whole || run.object_len > min_part && (is_last || len >= min_part)
                            ),
                        }
                    }
                }
            }
        }
    }
}
