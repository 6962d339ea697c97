//! Our own notices to the CLI, the API and tests: what happened to an import, in order, never lost.

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::mpsc;

use crate::error::Error;

/// Something that happened. Serialised as one JSON object with an `event` field.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// The import is known: its metadata is there and its row is in the catalog.
    Started(Started),
    /// How far it is; about four times a second while something runs.
    Progress(Progress),
    /// Storage refuses for now (full, no permission, down). What is verified stays in memory and is tried again.
    Paused { id: String, error: String, hint: Option<String> },
    /// Storage takes objects again.
    Resumed { id: String },
    /// Something worth a line that is not an error: a tracker that failed, a piece that did.
    Notice { id: Option<String>, text: String },
    /// Every wanted byte is acknowledged by storage and committed in the catalog.
    Imported(Imported),
}

#[derive(Debug, Clone, Serialize)]
pub struct Started {
    pub id: String,
    pub name: String,
    /// Bytes to be stored: whole pieces of the selection, without padding.
    pub bytes: u64,
    /// Of these, durable already.
    pub stored: u64,
    pub files: usize,
    pub info_hash: String,
    /// Where peers can reach us, when a port is open.
    pub listening: Vec<String>,
}

/// A snapshot. Rates are bytes a second over the last few seconds; counters are totals of this run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Progress {
    pub id: String,
    pub bytes: u64,
    /// ☁ acknowledged by storage and committed: the only figure that counts as done.
    pub stored: u64,
    /// ↓ payload received from peers in this run.
    pub downloaded: u64,
    pub download_rate: u64,
    pub store_rate: u64,
    /// ↑ payload sent to peers in this run.
    pub uploaded: u64,
    pub upload_rate: u64,
    pub peers: usize,
    pub seeds: usize,
    /// Payload bytes held in memory.
    pub held: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<u64>,
    /// `metadata`, `importing`, `seeding`, `paused`.
    pub state: &'static str,
}

/// The summary of an import; with `--json` its last line.
#[derive(Debug, Clone, Serialize)]
pub struct Imported {
    pub id: String,
    pub name: String,
    /// Bytes of the files wanted.
    pub bytes: u64,
    pub seconds: f64,
    pub files: usize,
    pub info_hash: String,
    /// Payload received from peers, whatever became of it.
    pub downloaded: u64,
    /// Most payload bytes held in memory at once.
    pub peak_held: u64,
    /// Payload thrown away to stay within the memory, and fetched again; of all imports of this run.
    pub evicted: u64,
    /// Bytes of this import in objects that hold parts of several chunks.
    pub packed: u64,
}

/// Where events go. Cheap to clone; sending never waits and never fails.
#[derive(Debug, Clone, Default)]
pub struct EventSink(Option<Arc<mpsc::UnboundedSender<Event>>>);

impl EventSink {
    /// A sink and the receiver it feeds.
    #[must_use]
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (tx, rx) = mpsc::unbounded_channel();
        (Self(Some(Arc::new(tx))), rx)
    }

    /// A sink that nobody listens to.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    pub fn send(&self, event: Event) {
        if let Some(tx) = &self.0 {
            // A listener that went away does not stop an import.
            let _ = tx.send(event);
        }
    }

    pub(crate) fn paused(&self, id: &str, error: &Error) {
        let hint = error.hint_text().map(str::to_owned);
        self.send(Event::Paused { id: id.to_owned(), error: error.report(), hint });
    }
}
