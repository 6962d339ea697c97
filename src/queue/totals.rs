//! Counts since the start of the process.

use std::collections::BTreeMap;

use super::{
    Queue,
    download::Download,
    state::{State, StateName},
};

/// Counts that only grow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes received from peers and servers.
    pub received: u64,
    /// Bytes sent to peers.
    pub sent: u64,
    pub completed: u64,
    /// Failed tries, by the name of the error's kind.
    pub failures: BTreeMap<String, u64>,
}

impl Queue {
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.0.totals.lock().clone()
    }

    /// Counts a change of a download.
    pub(super) fn count(&self, before: &Download, now: &Download) {
        let mut totals = self.0.totals.lock();
        totals.received += now.progress.downloaded.saturating_sub(before.progress.downloaded);
        totals.sent += now.progress.uploaded.saturating_sub(before.progress.uploaded);
        if before.state.name() == now.state.name() {
            return;
        }
        totals.completed += u64::from(now.state.name() == StateName::Done);
        if let State::Retrying { error, .. } | State::Failed { error } = &now.state {
            let kind = serde_json::to_value(error.kind).ok();
            let kind = kind.as_ref().and_then(|kind| kind.as_str()).unwrap_or("internal");
            *totals.failures.entry(kind.to_owned()).or_default() += 1;
        }
    }
}
