//! Our own notices to the CLI, the API and tests: what happened to an import, in order, never lost.

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::mpsc;

use crate::error::{Error, Kind};

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
    /// As a notice (and called so), of what keeps an import from going on: shown although nobody asked for more words.
    #[serde(rename = "notice")]
    Warning { id: Option<String>, text: String },
    /// Every wanted byte is acknowledged by storage and committed in the catalog.
    Imported(Imported),
    /// What is at a URL is known, and which file it becomes.
    Found(FoundFile),
    /// How far a file is; about four times a second.
    Fetching(Fetching),
    /// A file is whole, verified, and under its name.
    Fetched(FetchedFile),
}

/// A file that is to be fetched.
#[derive(Debug, Clone, Serialize)]
pub struct FoundFile {
    /// Without user, password and query.
    pub url: String,
    pub path: String,
    /// Where the server tells.
    pub bytes: Option<u64>,
    /// Of these, here already.
    pub stored: u64,
}

/// A snapshot of a file on its way. The rate is bytes a second over the last few seconds.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Fetching {
    pub path: String,
    pub bytes: Option<u64>,
    /// Bytes that are here.
    pub stored: u64,
    /// Bytes that came in this run.
    pub downloaded: u64,
    pub download_rate: u64,
    pub connections: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<u64>,
    /// `queued`, `probing`, `running`, `paused`, `failed`, `done`.
    pub state: &'static str,
    /// The file in parts of the same length: `=` here, `>` being fetched, `!` failed and waiting, `.` not here.
    pub map: String,
    /// Why nothing arrives, while it is to be tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// The summary of a file; with `--json` the last line of it.
#[derive(Debug, Clone, Serialize)]
pub struct FetchedFile {
    pub url: String,
    pub path: String,
    pub bytes: u64,
    pub seconds: f64,
    /// Bytes that came in this run, whatever became of them.
    pub downloaded: u64,
    /// What its bytes were held against, like `sha-256=…`.
    pub checked: Vec<String>,
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
    /// `importing`, or `seeding` for what is there already.
    pub state: &'static str,
}

/// A snapshot. Rates are bytes a second over the last few seconds; counters are totals of this run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Progress {
    pub id: String,
    pub bytes: u64,
    /// ☁ acknowledged by storage and committed: the only figure that counts as done.
    pub stored: u64,
    /// ↓ payload received from peers and web seeds in this run.
    pub downloaded: u64,
    pub download_rate: u64,
    pub store_rate: u64,
    /// ↑ payload sent to peers in this run.
    pub uploaded: u64,
    pub upload_rate: u64,
    /// Of an import of a URL: connections to servers.
    pub peers: usize,
    pub seeds: usize,
    /// Web seeds of the torrent that can be asked.
    pub web_seeds: usize,
    /// Payload bytes held in memory.
    pub held: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<u64>,
    /// `metadata`, `importing` (from peers), `fetching` (from servers), `publishing`, `seeding`, `paused`.
    pub state: &'static str,
    /// Of an import of a URL: why nothing arrives, while it is to be tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
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
    /// Payload received from peers and web seeds, whatever became of it.
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
        let hint = error.hint_text().unwrap_or_else(|| what_to_do(error.kind()));
        let hint = Some(format!("{hint}; what is verified is kept, and it goes on by itself"));
        self.send(Event::Paused { id: id.to_owned(), error: error.report(), hint });
    }
}

/// For a storage that refuses without a word of advice.
fn what_to_do(kind: Kind) -> &'static str {
    match kind {
        Kind::NoSpace => "make room there, or raise the quota",
        Kind::PermissionDenied => {
            "allow writing there; `bae storage check` says what else is missing"
        }
        Kind::Unauthenticated => {
            "sign in again, or correct the keys; `bae storage check` tries them"
        }
        Kind::NotFound => "the bucket or folder is gone: make it again",
        Kind::RateLimited => "storage asks for patience",
        Kind::Unavailable | Kind::Network => "storage does not answer: is the connection up?",
        _ => "`bae storage check` tries everything that storage has to do",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint_of(error: &Error) -> String {
        let (sink, mut events) = EventSink::channel();
        sink.paused("9c4e", error);
        match events.try_recv().unwrap() {
            Event::Paused { hint: Some(hint), .. } => hint,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_pause_always_says_what_to_do_and_that_nothing_is_lost() {
        let full = Error::new(Kind::NoSpace, "put k: 507");
        assert_eq!(
            hint_of(&full),
            "make room there, or raise the quota; what is verified is kept, and it goes on by itself"
        );
        let hinted = Error::new(Kind::PermissionDenied, "put k").hint("allow s3:PutObject");
        assert!(hint_of(&hinted).starts_with("allow s3:PutObject; what is verified is kept"));
        for kind in [Kind::Unauthenticated, Kind::Network, Kind::Internal, Kind::NotFound] {
            assert!(!hint_of(&Error::new(kind, "put k")).starts_with(';'), "{kind:?}");
        }
    }
}
