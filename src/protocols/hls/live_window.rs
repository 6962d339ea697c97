//! Decides which segments of a live playlist are new. Pure.
//!
//! Segments are known by their numbers, because names may repeat. A playlist may also be older than one that was seen
//! before: then nothing is new. It has started again if numbers that were seen now have other names, or if it ends long
//! before them.

use std::collections::VecDeque;

use super::media_playlist::MediaSegment;

/// Names of segments that are remembered.
const MAX_NAMES: usize = 64;

/// The position in a live stream.
#[derive(Debug, Default)]
pub(super) struct LiveWindow {
    /// The number of the next segment.
    next: Option<u64>,
    /// The last segments: number, and name without its query.
    names: VecDeque<(u64, String)>,
}

/// The new segments of a playlist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct NewSegments {
    /// Index of the first new segment; the length of the playlist if there is none.
    pub(super) first: usize,
    /// Segments between those that were seen and the first one of the playlist.
    pub(super) lost: u64,
    pub(super) has_restarted: bool,
}

impl LiveWindow {
    /// The number of the next segment.
    pub(super) fn next_sequence(&self) -> Option<u64> {
        self.next
    }

    /// Moves to the end of a playlist.
    pub(super) fn advance(&mut self, segments: &[MediaSegment]) -> NewSegments {
        let Some((first, last)) = segments.first().zip(segments.last()) else {
            return NewSegments::default();
        };
        let end = last.sequence.saturating_add(1);
        let found = match self.next {
            None => NewSegments::default(),
            Some(next) if self.has_restarted(segments, next, end) => {
                self.names.clear();
                NewSegments { has_restarted: true, ..NewSegments::default() }
            }
            Some(next) if end <= next => {
                NewSegments { first: segments.len(), ..Default::default() }
            }
            Some(next) => NewSegments {
                first: usize::try_from(next.saturating_sub(first.sequence)).unwrap_or(usize::MAX),
                lost: first.sequence.saturating_sub(next),
                has_restarted: false,
            },
        };
        if found.first < segments.len() {
            self.next = Some(end);
        }
        for segment in &segments[found.first..] {
            self.names.push_back((segment.sequence, name_of(segment)));
        }
        let excess = self.names.len().saturating_sub(MAX_NAMES);
        self.names.drain(..excess);
        found
    }

    fn has_restarted(&self, segments: &[MediaSegment], next: u64, end: u64) -> bool {
        let known = |segment: &MediaSegment| {
            self.names.iter().find(|(number, _)| *number == segment.sequence)
        };
        let overlapping =
            segments.iter().filter_map(|segment| Some((known(segment)?, name_of(segment))));
        let mut overlapping = overlapping.peekable();
        match overlapping.peek() {
            Some(_) => overlapping.all(|((_, before), now)| *before != now),
            None => end.saturating_add(segments.len() as u64) < next,
        }
    }
}

fn name_of(segment: &MediaSegment) -> String {
    segment.uri.split(['?', '#']).next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::protocols::hls::key::Keys;

    fn playlist(numbers: std::ops::Range<u64>, name: &str) -> Vec<MediaSegment> {
        let segment = |number: u64| MediaSegment {
            uri: format!("{name}{number}.ts?token={}", number * 7),
            range: None,
            duration: Duration::from_secs(2),
            sequence: number,
            is_gap: false,
            follows_discontinuity: false,
            keys: Keys::default(),
            map: None,
        };
        numbers.map(segment).collect()
    }

    fn advance(window: &mut LiveWindow, segments: &[MediaSegment]) -> (usize, u64, bool) {
        let NewSegments { first, lost, has_restarted } = window.advance(segments);
        (segments.len() - first, lost, has_restarted)
    }

    #[test]
    fn each_segment_is_new_once() {
        let mut window = LiveWindow::default();
        assert_eq!(advance(&mut window, &playlist(5..9, "s")), (4, 0, false));
        assert_eq!(advance(&mut window, &playlist(5..9, "s")), (0, 0, false));
        assert_eq!(advance(&mut window, &playlist(7..11, "s")), (2, 0, false));
        assert_eq!(advance(&mut window, &playlist(6..10, "s")), (0, 0, false), "an older playlist");
        assert_eq!(advance(&mut window, &[]), (0, 0, false));
        assert_eq!(window.next_sequence(), Some(11));
        assert_eq!(advance(&mut window, &playlist(14..16, "s")), (2, 3, false), "three are lost");
    }

    #[test]
    fn a_playlist_that_starts_again_is_new_as_a_whole() {
        let mut window = LiveWindow::default();
        advance(&mut window, &playlist(100..104, "s"));
        assert_eq!(advance(&mut window, &playlist(0..3, "s")), (3, 0, true));
        assert_eq!(advance(&mut window, &playlist(0..4, "s")), (1, 0, false));
        assert_eq!(
            advance(&mut window, &playlist(1..4, "other")),
            (3, 0, true),
            "with other names"
        );
    }

    proptest! {
        #[test]
        fn segments_are_new_in_order_and_lost_ones_are_counted(
            steps in prop::collection::vec((0_u64..8, 1_u64..6), 1..30),
        ) {
            let (mut window, mut start, mut seen, mut lost) = (LiveWindow::default(), 0, Vec::new(), 0);
            for (step, len) in steps {
                start += step;
                let segments = playlist(start..start + len, "s");
                let found = window.advance(&segments);
                lost += found.lost;
                seen.extend(segments[found.first..].iter().map(|segment| segment.sequence));
                prop_assert!(!found.has_restarted);
            }
            prop_assert!(seen.is_sorted_by(|a, b| a < b));
            let (first, last) = (seen[0], seen[seen.len() - 1]);
            prop_assert_eq!(seen.len() as u64 + lost, last - first + 1);
        }
    }
}
