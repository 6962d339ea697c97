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

/// The state of a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum State {
    /// Waits for a slot.
    #[default]
    Queued,
    /// Probes the server.
    Probing,
    /// Fetches bytes.
    Running,
    /// Stopped; can be resumed.
    Paused,
    /// Given up; can be resumed.
    Failed,
    /// Complete, verified, and under its final name.
    Done,
}

/// Inputs of the state machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
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

impl State {
    /// The next state; `None` when `input` is not valid in this state.
    #[must_use]
    pub fn on(self, input: Input) -> Option<Self> {
        match (self, input) {
            (Self::Queued, Input::Start) => Some(Self::Probing),
            (Self::Probing, Input::Found) => Some(Self::Running),
            (Self::Running, Input::Complete) => Some(Self::Done),
            (Self::Probing | Self::Running, Input::Fail) => Some(Self::Failed),
            (Self::Queued | Self::Probing | Self::Running, Input::Pause) => Some(Self::Paused),
            (Self::Paused | Self::Failed, Input::Resume) => Some(Self::Queued),
            _ => None,
        }
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Probing => "probing",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Failed => "failed",
            Self::Done => "done",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INPUTS: [Input; 6] =
        [Input::Start, Input::Found, Input::Complete, Input::Fail, Input::Pause, Input::Resume];

    proptest! {
        #[test]
        fn whatever_happens_the_invariants_hold(inputs in prop::collection::vec(0usize..6, 0..60)) {
            let mut state = State::default();
            for input in inputs.into_iter().map(|n| INPUTS[n]) {
                let Some(next) = state.on(input) else { continue };
                prop_assert!(state != State::Done, "done is for ever");
                if next == State::Failed {
                    prop_assert!(matches!(state, State::Probing | State::Running));
                }
                if next == State::Running {
                    prop_assert_eq!(state, State::Probing);
                }
                state = next;
            }
            let way = [Input::Resume, Input::Start, Input::Found, Input::Complete];
            let end = way.into_iter().fold(state, |state, input| state.on(input).unwrap_or(state));
            prop_assert_eq!(end, State::Done);
        }
    }
}
