//! Events of imports and downloads for the CLI, the API and tests, delivered in order and never dropped.

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::mpsc;

use crate::error::{Error, Kind};

/// One event. Serialised as one JSON object with an `event` field.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// The metadata of the import is known and its row is in the catalog.
    Started(Started),
    /// Progress of an import, about four times a second while it runs.
    Progress(Progress),
    /// Storage rejects writes for now (full, no permission, down). Verified data stays in memory and is retried.
    Paused { id: String, error: String, hint: Option<String> },
    /// Storage accepts objects again.
    Resumed { id: String },
    /// A message that is not an error, such as a failed tracker or a failed piece.
    Notice { id: Option<String>, text: String },
    /// A notice about a cause that stops an import. Shown without `--verbose`; serialised as `notice`.
    #[serde(rename = "notice")]
    Warning { id: Option<String>, text: String },
    /// Every wanted byte is acknowledged by storage and committed in the catalog.
    Imported(Imported),
    /// The server described the file at a URL, and the output path is known.
    Found(FoundFile),
    /// Progress of a file, about four times a second.
    Fetching(Fetching),
    /// A file is complete, verified, and has its final name.
    Fetched(FetchedFile),
}

/// A file that will be fetched.
#[derive(Debug, Clone, Serialize)]
pub struct FoundFile {
    /// The URL without user, password and query.
    pub url: String,
    pub path: String,
    /// Length, if the server reports one.
    pub bytes: Option<u64>,
    /// Bytes already present locally.
    pub stored: u64,
}

/// A snapshot of a running download. Rates are bytes per second over the last few seconds.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Fetching {
    pub path: String,
    pub bytes: Option<u64>,
    /// Bytes present locally.
    pub stored: u64,
    /// Bytes received in this run.
    pub downloaded: u64,
    pub download_rate: u64,
    pub connections: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<u64>,
    /// `queued`, `probing`, `running`, `paused`, `failed`, `done`.
    pub state: &'static str,
    /// The file divided into equal parts: `=` present, `>` being fetched, `!` failed and waiting, `.` missing.
    pub map: String,
    /// The last error, while a retry is pending.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// Summary of a file; the last line about it in `--json` output.
#[derive(Debug, Clone, Serialize)]
pub struct FetchedFile {
    pub url: String,
    pub path: String,
    pub bytes: u64,
    pub seconds: f64,
    /// Bytes received in this run, including bytes that were discarded.
    pub downloaded: u64,
    /// Checksums that were verified, like `sha-256=…`.
    pub checked: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Started {
    pub id: String,
    pub name: String,
    /// Bytes to store: whole pieces of the selection, without padding.
    pub bytes: u64,
    /// Bytes of these that are already durable.
    pub stored: u64,
    pub files: usize,
    pub info_hash: String,
    /// Addresses at which peers can reach us, when a port is open.
    pub listening: Vec<String>,
    /// `importing`, or `seeding` for an import that is already stored.
    pub state: &'static str,
}

/// A snapshot of an import. Rates are bytes per second over the last few seconds; counters are totals of this run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Progress {
    pub id: String,
    pub bytes: u64,
    /// ☁ bytes acknowledged by storage and committed: the only figure that counts as done.
    pub stored: u64,
    /// ↓ payload received from peers and web seeds in this run.
    pub downloaded: u64,
    pub download_rate: u64,
    pub store_rate: u64,
    /// ↑ payload sent to peers in this run.
    pub uploaded: u64,
    pub upload_rate: u64,
    /// Connected peers; for an import of a URL, connections to servers.
    pub peers: usize,
    pub seeds: usize,
    /// Usable web seeds of the torrent.
    pub web_seeds: usize,
    /// Payload bytes held in memory.
    pub held: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<u64>,
    /// `metadata`, `importing` (from peers), `fetching` (from servers), `publishing`, `seeding`, `paused`.
    pub state: &'static str,
    /// For an import of a URL: the last error, while a retry is pending.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// Summary of an import; the last line about it in `--json` output.
#[derive(Debug, Clone, Serialize)]
pub struct Imported {
    pub id: String,
    pub name: String,
    /// Bytes of the selected files.
    pub bytes: u64,
    pub seconds: f64,
    pub files: usize,
    pub info_hash: String,
    /// Payload received from peers and web seeds, including discarded bytes.
    pub downloaded: u64,
    /// Peak of payload bytes held in memory.
    pub peak_held: u64,
    /// Payload discarded to stay within the memory budget and fetched again; total over all imports of this run.
    pub evicted: u64,
    /// Bytes of this import in packed objects, which hold parts of several chunks.
    pub packed: u64,
}

/// Sends events to a receiver. Cheap to clone; sending never blocks and never fails.
#[derive(Debug, Clone, Default)]
pub struct EventSink(Option<Arc<mpsc::UnboundedSender<Event>>>);

impl EventSink {
    /// A sink and its receiver.
    #[must_use]
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (tx, rx) = mpsc::unbounded_channel();
        (Self(Some(Arc::new(tx))), rx)
    }

    /// A sink that discards all events.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    pub fn send(&self, event: Event) {
        if let Some(tx) = &self.0 {
            // A dropped receiver does not stop an import.
            let _ = tx.send(event);
        }
    }

    pub(crate) fn paused(&self, id: &str, error: &Error) {
        let hint = error.hint_text().unwrap_or_else(|| default_hint(error.kind()));
        let hint = Some(format!("{hint}; verified data is kept, and the import resumes by itself"));
        self.send(Event::Paused { id: id.to_owned(), error: error.report(), hint });
    }
}

/// The hint for a storage error that has none.
fn default_hint(kind: Kind) -> &'static str {
    match kind {
        Kind::NoSpace => "free some space in the storage, or raise its quota",
        Kind::PermissionDenied => {
            "allow writing to the storage; `bae storage check` shows what else is missing"
        }
        Kind::Unauthenticated => {
            "sign in again, or correct the credentials; `bae storage check` tests them"
        }
        Kind::NotFound => "the bucket or folder no longer exists: create it again",
        Kind::RateLimited => "the storage limits the request rate",
        Kind::Unavailable | Kind::Network => "the storage does not respond: check the connection",
        _ => "`bae storage check` tests every operation that bae needs",
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
    fn a_pause_always_has_a_hint_and_says_that_verified_data_is_kept() {
        let full = Error::new(Kind::NoSpace, "put k: 507");
        assert_eq!(
            hint_of(&full),
            "free some space in the storage, or raise its quota; verified data is kept, and the import resumes by itself"
        );
        let hinted = Error::new(Kind::PermissionDenied, "put k").hint("allow s3:PutObject");
        assert!(hint_of(&hinted).starts_with("allow s3:PutObject; verified data is kept"));
        for kind in [Kind::Unauthenticated, Kind::Network, Kind::Internal, Kind::NotFound] {
            assert!(!hint_of(&Error::new(kind, "put k")).starts_with(';'), "{kind:?}");
        }
    }
}
