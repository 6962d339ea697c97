//! Decides which slot of each file that is sent in order may be uploaded next. Pure, apart from the streams it hands
//! out.
//!
//! Invariants:
//! - The parts of a lane are planned in order, each once. `planned` counts the planned parts that are not sent yet.
//! - A lane that is over plans nothing: its slots become chunks like all others.

use std::{ops::Range, sync::Arc};

use super::{Layout, stream::Stream};
use crate::catalog::FileRow;

/// A file that is sent slot by slot.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) stream: Arc<Stream>,
    pub(super) file: FileRow,
    slots: Range<usize>,
    /// The slot to plan next.
    next: usize,
    planned: usize,
    over: bool,
}

/// The lanes of an import, sorted by position.
#[derive(Debug, Default)]
pub(super) struct Lanes(Vec<Lane>);

/// A planned part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) lane: usize,
    /// Index within the file, from 0.
    pub(super) part: u64,
}

impl Lanes {
    pub(super) fn push(&mut self, file: FileRow, stream: Arc<Stream>, sent: u64, layout: &Layout) {
        let Range { start, end } = *stream.file();
        let first = layout.slots().partition_point(|slot| slot.end <= start);
        let slots = first..layout.slots().partition_point(|slot| slot.start < end);
        let next = layout.slots().partition_point(|slot| slot.end <= start + sent).max(first);
        let next = if sent >= end - start { slots.end } else { next };
        let exact = slots
            .clone()
            .enumerate()
            .all(|(part, slot)| layout.slots().get(slot) == Some(&stream.part(part as u64)));
        if exact {
            self.0.push(Lane { stream, file, slots, next, planned: 0, over: false });
        }
    }

    pub(super) fn lane(&self, turn: Turn) -> &Lane {
        &self.0[turn.lane]
    }

    /// Whether the slot belongs to a lane that is not over.
    pub(super) fn holds(&self, slot: usize) -> bool {
        let at = self.0.partition_point(|lane| lane.slots.end <= slot);
        self.0.get(at).is_some_and(|lane| !lane.over && lane.slots.contains(&slot))
    }

    /// The next slot of each lane, as (lane, slot): of all lanes that are not over, or without `any` only of those with
    /// nothing planned.
    pub(super) fn next(&self, any: bool) -> impl Iterator<Item = (usize, usize)> + '_ {
        let turns = self.0.iter().enumerate().filter(move |(_, lane)| {
            !lane.over && lane.next < lane.slots.end && (any || lane.planned == 0)
        });
        turns.map(|(n, lane)| (n, lane.next))
    }

    /// Plans the next slot of `lane`.
    pub(super) fn plan(&mut self, lane: usize) -> Turn {
        let at = &mut self.0[lane];
        let part = (at.next - at.slots.start) as u64;
        at.next += 1;
        at.planned += 1;
        Turn { lane, part }
    }

    /// Cancels a planned part if it is the last planned one of its lane. The caller then stores it as a chunk.
    pub(super) fn take_back(&mut self, turn: Turn) -> bool {
        let lane = &mut self.0[turn.lane];
        let last = (lane.next - lane.slots.start) as u64 == turn.part + 1;
        if last {
            lane.next -= 1;
            lane.planned -= 1;
        }
        last
    }

    /// A planned part is sent. With `over` it was stored as a chunk instead, and the lane ends.
    pub(super) fn done(&mut self, turn: Turn, over: bool) {
        let lane = &mut self.0[turn.lane];
        lane.planned -= 1;
        lane.over |= over;
    }
}
