//! A set of windows, one bit each, so that a search skips 64 windows in one step.

/// Windows of one torrent.
#[derive(Debug)]
pub(super) struct WindowSet {
    words: Vec<u64>,
}

impl WindowSet {
    /// An empty set for windows below `windows`.
    pub(super) fn new(windows: u32) -> Self {
        Self { words: vec![0; (windows as usize).div_ceil(64)] }
    }

    pub(super) fn contains(&self, window: u32) -> bool {
        self.words.get(window as usize / 64).is_some_and(|word| word & bit(window) != 0)
    }

    /// Returns whether the window is new. A window that the torrent does not have is never added.
    pub(super) fn insert(&mut self, window: u32) -> bool {
        let Some(word) = self.words.get_mut(window as usize / 64) else { return false };
        let is_new = *word & bit(window) == 0;
        *word |= bit(window);
        is_new
    }

    /// Returns whether the window was in the set.
    pub(super) fn remove(&mut self, window: u32) -> bool {
        let Some(word) = self.words.get_mut(window as usize / 64) else { return false };
        let was_in = *word & bit(window) != 0;
        *word &= !bit(window);
        was_in
    }

    /// The first window from `from` on, below `end`, that is not in the set.
    pub(super) fn next_absent(&self, from: u32, end: u32) -> Option<u32> {
        let mut at = from;
        while at < end {
            let word = self.words.get(at as usize / 64)?;
            let skipped = (!word >> (at % 64)).trailing_zeros();
            if skipped < 64 {
                return Some(at + skipped).filter(|found| *found < end);
            }
            at = at - at % 64 + 64;
        }
        None
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }
}

fn bit(window: u32) -> u64 {
    1 << (window % 64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_window_set_is_a_set(
            windows in 1u32..300,
            steps in proptest::collection::vec((any::<bool>(), 0u32..300), 0..400),
            (from, end) in (0u32..400, 0u32..400),
        ) {
            let (mut set, mut model) = (WindowSet::new(windows), BTreeSet::new());
            for (add, window) in steps.into_iter().filter(|(_, window)| *window < windows) {
                match add {
                    true => prop_assert_eq!(set.insert(window), model.insert(window)),
                    false => prop_assert_eq!(set.remove(window), model.remove(&window)),
                }
                prop_assert_eq!(set.contains(window), add);
            }
            prop_assert_eq!(set.len(), model.len());
            let absent = (from..end.min(windows)).find(|window| !model.contains(window));
            prop_assert_eq!(set.next_absent(from, end.min(windows)), absent);
            prop_assert!(!set.contains(100_000) && !set.insert(100_000) && !set.remove(100_000));
        }
    }
}
