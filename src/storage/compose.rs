//! Plans how one file object is made of the stored objects: which parts the storage copies, and which are read and
//! sent. Pure.
//!
//! All parts but the last have the same length, copied ones too, because some storages accept nothing else. So the grid
//! of the parts is the grid of the chunks, which starts at each file's start, wherever a chunk is large enough to be a
//! part. A part then lies in one object, and the storage can copy it by itself.

use std::ops::Range;

use crate::{
    backends::{Capabilities, Copying, Key, Shape},
    error::{Error, Kind, Result},
    units::{KIB, MIB},
};

/// The smallest part on storages that declare none: that of S3.
const LEAST_PART: u64 = 5 * MIB;
/// The length of ordered parts must be a multiple of this.
pub(super) const ORDERED_STEP: u64 = 256 * KIB;

/// A run of a file and the object that holds it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// In the file, from 0.
    pub range: Range<u64>,
    pub key: Key,
    pub object_len: u64,
    /// The offset of the run in the object.
    pub offset: u64,
}

/// The source of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The storage copies `range` of the object by itself.
    Copy { key: Key, range: Range<u64> },
    /// These bytes of the file are read and sent.
    Send(Range<u64>),
}

/// The parts of an upload that makes a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Composition {
    pub shape: Shape,
    /// One for each part of the shape, in order.
    pub parts: Vec<Part>,
}

impl Composition {
    /// The number of bytes that the storage copies by itself.
    #[must_use]
    pub fn copied(&self) -> u64 {
        let of = |part: &Part| match part {
            Part::Copy { range, .. } => range.end - range.start,
            Part::Send(_) => 0,
        };
        self.parts.iter().map(of).sum()
    }
}

/// The constraints of a composition.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    pub can: Capabilities,
    /// The chunk length of the import.
    pub chunk_len: u64,
    /// The longest part to send, where the storage allows it: parts that are sent are held in memory.
    pub most_sent: u64,
}

/// Plans a file of `len` bytes made of `pieces`, which are in order and without gaps.
///
/// # Errors
/// `Internal` when the pieces leave a gap or do not end at `len`.
pub fn compose(len: u64, pieces: &[Piece], rules: &Rules) -> Result<Composition> {
    let end = pieces.iter().try_fold(0, |at, piece| {
        let in_object = piece.offset + (piece.range.end - piece.range.start) <= piece.object_len;
        (piece.range.start == at && in_object).then_some(piece.range.end)
    });
    if end != Some(len) {
        let text = format!("what is stored of a file of {len} bytes does not cover it");
        return Err(Error::new(Kind::Internal, text));
    }
    let mut unit = rules.chunk_len.max(1);
    let mut best = with_unit(len, pieces, rules, unit);
    // Half a chunk also lies in one object, and is sent with half the memory.
    while longest_sent(&best) > rules.most_sent && unit > 1 {
        unit /= 2;
        let smaller = with_unit(len, pieces, rules, unit);
        if smaller.shape.part_len >= best.shape.part_len {
            break;
        }
        best = smaller;
    }
    Ok(best)
}

fn with_unit(len: u64, pieces: &[Piece], rules: &Rules, unit: u64) -> Composition {
    let shape = Shape { len, part_len: part_len(len, rules, unit) };
    let mut at = 0;
    let part = |index| {
        let range = shape.part(index);
        while pieces.get(at).is_some_and(|piece| piece.range.end <= range.start) {
            at += 1;
        }
        let last = index + 1 == shape.parts();
        let only = shape.parts() == 1;
        pieces
            .get(at)
            .and_then(|piece| copied(piece, &range, last, only, rules.can.copy))
            .unwrap_or(Part::Send(range))
    };
    let parts = (0..shape.parts()).map(part).collect();
    Composition { shape, parts }
}

/// The smallest multiple of `unit` that the storage accepts as a part, or more where there would be too many parts.
fn part_len(len: u64, rules: &Rules, unit: u64) -> u64 {
    let least = match rules.can.copy {
        Copying::Ranges { min_part } => min_part.max(1),
        Copying::No | Copying::Whole => LEAST_PART,
    };
    // Ordered parts need not follow the chunk grid: such a storage copies whole objects at most.
    let unit = if rules.can.ordered { unit.next_multiple_of(ORDERED_STEP) } else { unit };
    let least = least.max(len.div_ceil(Shape::MAX_PARTS)).max(1);
    least.div_ceil(unit).saturating_mul(unit)
}

fn copied(
    piece: &Piece,
    part: &Range<u64>,
    last: bool,
    only: bool,
    copying: Copying,
) -> Option<Part> {
    let within = piece.range.start <= part.start && part.end <= piece.range.end;
    if !within || part.is_empty() {
        return None;
    }
    let len = part.end - part.start;
    let start = piece.offset + (part.start - piece.range.start);
    let range = start..start + len;
    let whole = only && range == (0..piece.object_len);
    let allowed = match copying {
        Copying::No => false,
        Copying::Whole => whole,
        Copying::Ranges { min_part } => {
            whole || piece.object_len > min_part && (last || len >= min_part)
        }
    };
    allowed.then(|| Part::Copy { key: piece.key.clone(), range })
}

fn longest_sent(plan: &Composition) -> u64 {
    let sent = plan.parts.iter().map(|part| match part {
        Part::Send(range) => range.end - range.start,
        Part::Copy { .. } => 0,
    });
    sent.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn can(copy: Copying, ordered: bool) -> Capabilities {
        Capabilities {
            copy,
            ordered,
            conditional_put: false,
            links: false,
            window: 1,
            blocks: false,
        }
    }

    fn key(n: usize) -> Key {
        Key::new(&format!("o{n}")).unwrap()
    }

    /// Objects of these lengths in order, each with bytes of the file only.
    fn whole_objects(lens: &[u64]) -> (u64, Vec<Piece>) {
        let mut at = 0;
        let piece = |(n, len): (usize, &u64)| {
            let range = at..at + len;
            at += len;
            Piece { range, key: key(n), object_len: *len, offset: 0 }
        };
        let pieces = lens.iter().enumerate().map(piece).collect();
        (at, pieces)
    }

    fn s3(chunk_len: u64) -> Rules {
        let can = can(Copying::Ranges { min_part: 5 * MIB }, false);
        Rules { can, chunk_len, most_sent: 16 * MIB }
    }

    fn sent(plan: &Composition) -> Vec<usize> {
        let is_sent = |part: &Part| matches!(part, Part::Send(_));
        plan.parts.iter().enumerate().filter(|(_, p)| is_sent(p)).map(|(n, _)| n).collect()
    }

    #[test]
    fn whole_chunks_are_copied_as_they_are() {
        let (len, pieces) = whole_objects(&[16 * MIB, 16 * MIB, 16 * MIB, 3 * MIB]);
        let plan = compose(len, &pieces, &s3(16 * MIB)).unwrap();
        assert_eq!(plan.shape, Shape { len, part_len: 16 * MIB });
        // The last object is too small for a range copy.
        assert_eq!(sent(&plan), [3]);
        assert_eq!(plan.parts[1], Part::Copy { key: key(1), range: 0..16 * MIB });
        let (len, pieces) = whole_objects(&[16 * MIB, 6 * MIB]);
        assert!(sent(&compose(len, &pieces, &s3(16 * MIB)).unwrap()).is_empty());
        let (len, pieces) = whole_objects(&[3 * MIB]);
        let plan = compose(len, &pieces, &s3(16 * MIB)).unwrap();
        assert_eq!(plan.parts, [Part::Copy { key: key(0), range: 0..len }], "a whole object");
    }

    #[test]
    fn chunks_that_are_too_small_are_sent_and_ordered_places_get_even_parts() {
        let (len, pieces) = whole_objects(&[4 * MIB; 5]);
        let plan = compose(len, &pieces, &s3(4 * MIB)).unwrap();
        assert_eq!((plan.shape.part_len, sent(&plan)), (8 * MIB, vec![0, 1, 2]));
        let drive = Rules { can: can(Copying::Whole, true), chunk_len: 300 * KIB, ..s3(0) };
        let plan = compose(len, &pieces, &drive).unwrap();
        assert!(plan.shape.part_len.is_multiple_of(ORDERED_STEP));
        assert_eq!(sent(&plan).len() as u64, plan.shape.parts());
    }

    #[test]
    fn less_memory_makes_smaller_parts_and_many_parts_larger_ones() {
        let mut pieces = whole_objects(&[64 * MIB; 4]).1;
        // A packed object in the middle.
        pieces[1].object_len += 1;
        pieces.insert(2, Piece { range: 100 * MIB..128 * MIB, key: key(9), ..pieces[1].clone() });
        pieces[1].range.end = 100 * MIB;
        let plan = compose(256 * MIB, &pieces, &s3(64 * MIB)).unwrap();
        assert_eq!(plan.shape.part_len, 16 * MIB);
        assert_eq!(sent(&plan), [6], "only the part across two objects");
        let (len, pieces) = whole_objects(&vec![16 * MIB; 12_000]);
        let roomy = Rules { most_sent: 64 * MIB, ..s3(16 * MIB) };
        let plan = compose(len, &pieces, &roomy).unwrap();
        assert_eq!((plan.shape.part_len, plan.shape.parts()), (32 * MIB, 6_000));
    }

    #[test]
    fn empty_files_have_one_empty_part_and_gaps_are_refused() {
        let plan = compose(0, &[], &s3(MIB)).unwrap();
        assert_eq!(plan.parts, [Part::Send(0..0)]);
        let (len, mut pieces) = whole_objects(&[10, 10]);
        pieces[1].range = 11..21;
        assert_eq!(compose(len + 1, &pieces, &s3(10)).unwrap_err().kind(), Kind::Internal);
        assert!(compose(len, &pieces[..1], &s3(10)).is_err());
    }

    fn copying() -> impl Strategy<Value = Copying> {
        prop_oneof![
            Just(Copying::No),
            Just(Copying::Whole),
            (1..40u64).prop_map(|min_part| Copying::Ranges { min_part }),
        ]
    }

    proptest! {
        #[test]
        fn parts_cover_the_file_in_order_and_keep_the_rules(
            lens in prop::collection::vec((1..60u64, 0..20u64, 0..20u64), 0..20),
            copy in copying(),
            ordered: bool,
            chunk_len in 1..80u64,
            most_sent in 1..200u64,
        ) {
            let mut at = 0;
            let piece = |(n, (len, offset, more)): (usize, &(u64, u64, u64))| {
                let range = at..at + len;
                at += len;
                Piece { range, key: key(n), object_len: offset + len + more, offset: *offset }
            };
            let pieces: Vec<_> = lens.iter().enumerate().map(piece).collect();
            let rules = Rules { can: can(copy, ordered), chunk_len, most_sent };
            let plan = compose(at, &pieces, &rules).unwrap();
            let Composition { shape, parts } = &plan;
            prop_assert_eq!(shape.len, at);
            prop_assert_eq!(parts.len() as u64, shape.parts());
            prop_assert!(shape.parts() <= Shape::MAX_PARTS);
            prop_assert!(!ordered || shape.part_len.is_multiple_of(ORDERED_STEP));
            for (index, part) in (0u64..).zip(parts) {
                let wanted = shape.part(index);
                let (last, len) = (index + 1 == shape.parts(), wanted.end - wanted.start);
                match part {
                    Part::Send(range) => prop_assert_eq!(range, &wanted),
                    Part::Copy { key, range } => {
                        let piece = pieces.iter().find(|piece| piece.key == *key).unwrap();
                        prop_assert!(piece.range.start <= wanted.start && wanted.end <= piece.range.end);
                        prop_assert_eq!(range.start, piece.offset + wanted.start - piece.range.start);
                        prop_assert_eq!(range.end - range.start, len);
                        let whole = shape.parts() == 1 && *range == (0..piece.object_len);
                        match copy {
                            Copying::No => prop_assert!(false),
                            Copying::Whole => prop_assert!(whole),
                            Copying::Ranges { min_part } => prop_assert!(
                                whole || piece.object_len > min_part && (last || len >= min_part)
                            ),
                        }
                    }
                }
            }
        }
    }
}
