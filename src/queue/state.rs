//! The states of a download.
//!
//! ```text
//! Queued -> Starting -> Downloading -> Exporting -> Done
//!   ^  \       |            |             |
//!   |   \      +------------+-------------+--> Retrying -> Queued
//!   |    v                                 \-> Failed
//!   +-- Paused  (from every state but Done; resume and retry lead back to Queued)
//! ```
//!
//! # Invariants
//! - `Starting` and `Downloading` are recorded, but after a restart they are `Queued`: nothing runs then.
//! - `Done` means that every byte is durable, and exported if the category has an export folder.
//! - `Failed` is left only by a request.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind};

/// The state of a download.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    #[default]
    Queued,
    /// The source is being resolved.
    Starting,
    Downloading,
    Paused,
    /// Will be tried again.
    Retrying {
        /// Seconds since 1970.
        at: u64,
        error: Failure,
    },
    Failed {
        error: Failure,
    },
    /// Every byte is durable; the files are being exported.
    Exporting,
    Done,
}

/// Why a download failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Failure {
    pub kind: Kind,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Self { kind: error.kind(), message: error.report(), hint: error.hint_text() }
    }
}

/// The name of a state, for filters and events.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum StateName {
    Queued,
    Starting,
    Downloading,
    Paused,
    Retrying,
    Failed,
    Exporting,
    Done,
}

impl StateName {
    pub const ALL: [Self; 8] = [
        Self::Queued,
        Self::Starting,
        Self::Downloading,
        Self::Paused,
        Self::Retrying,
        Self::Failed,
        Self::Exporting,
        Self::Done,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Starting => "starting",
            Self::Downloading => "downloading",
            Self::Paused => "paused",
            Self::Retrying => "retrying",
            Self::Failed => "failed",
            Self::Exporting => "exporting",
            Self::Done => "done",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|name| name.as_str() == text)
    }
}

impl State {
    #[must_use]
    pub fn name(&self) -> StateName {
        match self {
            Self::Queued => StateName::Queued,
            Self::Starting => StateName::Starting,
            Self::Downloading => StateName::Downloading,
            Self::Paused => StateName::Paused,
            Self::Retrying { .. } => StateName::Retrying,
            Self::Failed { .. } => StateName::Failed,
            Self::Exporting => StateName::Exporting,
            Self::Done => StateName::Done,
        }
    }

    #[must_use]
    pub fn error(&self) -> Option<&Failure> {
        match self {
            Self::Retrying { error, .. } | Self::Failed { error } => Some(error),
            _ => None,
        }
    }

    /// Whether all bytes are durable.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        matches!(self, Self::Exporting | Self::Done)
    }

    /// The state after a restart of the process.
    #[must_use]
    pub(super) fn after_restart(self) -> Self {
        match self {
            Self::Starting | Self::Downloading => Self::Queued,
            other => other,
        }
    }
}

/// What a finished torrent does for the swarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Seeding {
    /// It is not complete, or its category does not seed.
    #[default]
    Off,
    /// It is to be seeded, and is not in the session.
    Waiting,
    Active,
    /// Stopped on request.
    Paused,
    /// A seed goal is reached.
    GoalReached,
}

impl Seeding {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Waiting => "waiting",
            Self::Active => "active",
            Self::Paused => "paused",
            Self::GoalReached => "goal_reached",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_state_is_read_back() {
        let error = Failure { kind: Kind::Network, message: "m".into(), hint: None };
        for state in [
            State::Queued,
            State::Exporting,
            State::Retrying { at: 7, error: error.clone() },
            State::Failed { error },
        ] {
            let json = serde_json::to_string(&state).unwrap();
            assert!(json.contains(state.name().as_str()), "{json}");
            assert_eq!(serde_json::from_str::<State>(&json).unwrap(), state);
        }
        assert!(StateName::ALL.iter().all(|name| StateName::parse(name.as_str()) == Some(*name)));
    }

    #[test]
    fn what_ran_is_queued_after_a_restart() {
        assert_eq!(State::Downloading.after_restart(), State::Queued);
        assert_eq!(State::Starting.after_restart(), State::Queued);
        assert_eq!(State::Exporting.after_restart(), State::Exporting);
        assert_eq!(State::Paused.after_restart(), State::Paused);
    }
}
