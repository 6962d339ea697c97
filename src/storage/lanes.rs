//! Whose turn it is among the slots of files that are sent in order. Pure but for the streams it hands out.
//!
//! Invariants:
//! - The parts of a lane are planned in order, each once; `planned` counts those that are not sent yet.
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

/// The lanes of an import, by position.
#[derive(Debug, Default)]
pub(super) struct Lanes(Vec<Lane>);

/// A part of a file, as it was planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) lane: usize,
    /// Of the file, from 0.
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

    /// Whether the slot is to be sent in its turn.
    pub(super) fn holds(&self, slot: usize) -> bool {
        let at = self.0.partition_point(|lane| lane.slots.end <= slot);
        self.0.get(at).is_some_and(|lane| !lane.over && lane.slots.contains(&slot))
    }

    /// The slots whose turn it is: `any`, or those of lanes of which nothing is planned.
    pub(super) fn next(&self, any: bool) -> impl Iterator<Item = (usize, usize)> + '_ {
        let turns = self.0.iter().enumerate().filter(move |(_, lane)| {
            !lane.over && lane.next < lane.slots.end && (any || lane.planned == 0)
        });
        turns.map(|(n, lane)| (n, lane.next))
    }

    /// Plans the slot whose turn it is in `lane`.
    pub(super) fn plan(&mut self, lane: usize) -> Turn {
        let at = &mut self.0[lane];
        let part = (at.next - at.slots.start) as u64;
        at.next += 1;
        at.planned += 1;
        Turn { lane, part }
    }

    /// Unplans the part, if it is the last one planned of its lane: it is to be stored otherwise before its turn comes.
    pub(super) fn take_back(&mut self, turn: Turn) -> bool {
        let lane = &mut self.0[turn.lane];
        let last = (lane.next - lane.slots.start) as u64 == turn.part + 1;
        if last {
            lane.next -= 1;
            lane.planned -= 1;
        }
        last
    }

    /// A planned part is sent, or is stored otherwise when the lane is `over`.
    pub(super) fn done(&mut self, turn: Turn, over: bool) {
        let lane = &mut self.0[turn.lane];
        lane.planned -= 1;
        lane.over |= over;
    }
}
