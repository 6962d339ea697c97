//! The states of a download. Pure.
//!
//! ```text
//! queued -> probing -> running -> done
//!   ^ |        |          |
//!   | +--------+----------+--> paused --+
//!   |          +----------+--> failed --+
//!   +-----------------------------------+
//! ```
//!
//! Invariants:
//! - `done` is final. Every other state can lead to `done`.
//! - Only `probing` and `running` can fail, since no other state does any work.
//! - A paused or failed download starts with a probe again, since the file may have changed meanwhile.

pub use crate::events::DownloadState;

/// Inputs of the state machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DownloadInput {
    /// A slot is free.
    Start,
    /// The server has described the file.
    Found,
    /// The last byte is written and verified.
    Complete,
    Fail,
    Pause,
    /// Return to the queue.
    Resume,
}

impl DownloadState {
    /// The next state; `None` when `input` is not valid in this state.
    #[must_use]
    pub fn on(self, input: DownloadInput) -> Option<Self> {
        match (self, input) {
            (Self::Queued, DownloadInput::Start) => Some(Self::Probing),
            (Self::Probing, DownloadInput::Found) => Some(Self::Running),
            (Self::Running, DownloadInput::Complete) => Some(Self::Done),
            (Self::Probing | Self::Running, DownloadInput::Fail) => Some(Self::Failed),
            (Self::Queued | Self::Probing | Self::Running, DownloadInput::Pause) => {
                Some(Self::Paused)
            }
            (Self::Paused | Self::Failed, DownloadInput::Resume) => Some(Self::Queued),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INPUTS: [DownloadInput; 6] = [
        DownloadInput::Start,
        DownloadInput::Found,
        DownloadInput::Complete,
        DownloadInput::Fail,
        DownloadInput::Pause,
        DownloadInput::Resume,
    ];

    proptest! {
        #[test]
        fn the_invariants_hold_for_any_inputs(inputs in prop::collection::vec(0usize..6, 0..60)) {
            let mut state = DownloadState::default();
            for input in inputs.into_iter().map(|n| INPUTS[n]) {
                let Some(next) = state.on(input) else { continue };
                prop_assert!(state != DownloadState::Done, "done is final");
                if next == DownloadState::Failed {
                    prop_assert!(matches!(state, DownloadState::Probing | DownloadState::Running));
                }
                if next == DownloadState::Running {
                    prop_assert_eq!(state, DownloadState::Probing);
                }
                state = next;
            }
            let inputs = [DownloadInput::Resume, DownloadInput::Start, DownloadInput::Found, DownloadInput::Complete];
            let end = inputs.into_iter().fold(state, |state, input| state.on(input).unwrap_or(state));
            prop_assert_eq!(end, DownloadState::Done);
        }
    }
}
