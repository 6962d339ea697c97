//! Events of imports and downloads for the CLI, the API and tests.
//!
//! An operation reports through an [`EventSink`], which never blocks. A sink leads into an [`EventLog`], which numbers
//! the events and keeps the last ones for any number of readers, or into a channel for one receiver that gets every
//! event.

mod log;

use std::{fmt, path::Path, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

pub use self::log::{EventLog, EventReader, Lagged, LogLimits, LoggedEvent};
use crate::{
    error::{Error, Kind},
    hints::{Hint, Operation, hint},
};

/// One event. Serialised as one JSON object with an `event` field; a program that reads the output of `--json` can
/// deserialise its lines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// The metadata of the import is known and its row is in the catalog.
    Started(Started),
    /// Progress of an import, about four times a second while it runs.
    Progress(Progress),
    /// Storage rejects writes for now (full, no permission, down). Verified data stays in memory and is retried.
    Paused { id: String, error: String, hint: Option<Hint> },
    /// Storage accepts objects again.
    Resumed { id: String },
    /// A message that is not an error, such as a failed tracker or a failed piece.
    Notice { id: Option<String>, text: String },
    /// A notice about a cause that stops an import, shown to every user. Serialised as `notice`, and so deserialised
    /// as [`Event::Notice`].
    #[serde(rename = "notice", skip_deserializing)]
    Warning { id: Option<String>, text: String },
    /// Stored bytes that a peer requested cannot be read. Serialised as `notice`, and so deserialised as
    /// [`Event::Notice`].
    #[serde(rename = "notice", skip_deserializing)]
    Unreadable { id: Option<String>, text: String, hint: Option<Hint> },
    /// Every wanted byte is acknowledged by storage and committed in the catalog.
    Imported(Imported),
    /// The server described the file at a URL, and the output path is known.
    Found(FoundFile),
    /// Progress of a file, about four times a second.
    Fetching(Fetching),
    /// A file is complete, verified, and has its final name.
    Fetched(FetchedFile),
    /// An import or a file failed for good; sent once. A stop on request is no failure. Serialised as `error`.
    #[serde(rename = "error")]
    Failed(Failed),
    /// A download was added to the queue, changed its state, or was removed.
    Download(DownloadChanged),
    /// A feed was requested.
    Feed(FeedChecked),
    /// An event that this version does not know. Only deserialised.
    #[serde(other)]
    Unknown,
}

/// What a running import does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Activity {
    /// Waits for the torrent's metadata.
    #[default]
    Metadata,
    /// Fetches from peers and web seeds.
    Importing,
    /// Fetches from servers.
    Fetching,
    /// Everything is fetched; whole files get their names.
    Publishing,
    Seeding,
    /// Storage rejects writes for now, or seeding is paused.
    Paused,
}

impl Activity {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Metadata => "metadata",
            Self::Importing => "importing",
            Self::Fetching => "fetching",
            Self::Publishing => "publishing",
            Self::Seeding => "seeding",
            Self::Paused => "paused",
        }
    }
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The state of a download. Its transitions are in `downloads/state.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DownloadState {
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

/// A change of a download in the queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DownloadChanged {
    /// Id of the download.
    pub download: String,
    pub number: u64,
    pub name: String,
    /// Its state now, by the name in the API; `removed` after its removal.
    pub state: String,
    /// Its state before; `None` when it was added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// The import, once it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub import: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A request for a feed, and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeedChecked {
    /// The name of the feed.
    pub feed: String,
    /// Whether the server sent nothing new.
    pub unchanged: bool,
    /// Items in the document.
    pub items: usize,
    /// Items that were added to the queue.
    pub added: usize,
    /// Why the request failed, or the first item that could not be added did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A failure of an import or of a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failed {
    /// The import; `None` for a file, and for an import that failed before it was recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The local path of the file, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    pub kind: Kind,
    pub error: String,
    pub hint: Option<Hint>,
}

impl From<&Error> for Failed {
    fn from(error: &Error) -> Self {
        let (kind, hint) = (error.kind(), error.typed_hint().cloned());
        Self { id: None, path: None, kind, error: error.report(), hint }
    }
}

/// A file that will be fetched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
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
    pub state: DownloadState,
    /// The file divided into equal parts: `=` present, `>` being fetched, `!` failed and waiting, `.` missing.
    pub map: String,
    /// The last error, while a retry is pending.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// Summary of a file; the last line about it in `--json` output.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FetchedFile {
    pub url: String,
    pub path: String,
    pub bytes: u64,
    pub seconds: f64,
    /// Bytes received in this run, including bytes that were discarded.
    pub downloaded: u64,
    /// Checksums that were verified, like `sha-256=…`.
    pub checked: Vec<String>,
    /// Segments of a stream that the server does not have, and that were left out on request.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped: u64,
    /// Segments of a live stream that were not fetched in time.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost: u64,
    /// Segments that the list of a stream declares as missing.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gaps: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// [`Activity::Importing`], or [`Activity::Seeding`] for an import that is already stored.
    pub state: Activity,
}

/// A snapshot of an import. Rates are bytes per second over the last few seconds; counters are totals of this run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
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
    /// Payload bytes held in memory, of every kind.
    pub held: u64,
    /// The part of `held` that is in the read cache. It is evicted when other bytes need the memory.
    #[serde(default)]
    pub cached: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<u64>,
    pub state: Activity,
    /// For an import of a URL: the last error, while a retry is pending.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// Summary of an import; the last line about it in `--json` output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// Peak of payload bytes held in memory, of every kind.
    pub peak_held: u64,
    /// Payload discarded to stay within the memory budget and fetched again; total over all imports of this run.
    pub evicted: u64,
    /// Bytes of this import in packed objects, which hold parts of several chunks.
    pub packed: u64,
}

impl Event {
    /// The id of the import that the event is about, once the import has one.
    #[must_use]
    pub fn import_id(&self) -> Option<&str> {
        let id = match self {
            Self::Started(started) => Some(started.id.as_str()),
            Self::Progress(progress) => Some(progress.id.as_str()),
            Self::Imported(imported) => Some(imported.id.as_str()),
            Self::Paused { id, .. } | Self::Resumed { id } => Some(id.as_str()),
            Self::Notice { id, .. } | Self::Warning { id, .. } | Self::Unreadable { id, .. } => {
                id.as_deref()
            }
            Self::Failed(failed) => failed.id.as_deref(),
            Self::Download(changed) => changed.import.as_deref(),
            Self::Found(_)
            | Self::Fetching(_)
            | Self::Fetched(_)
            | Self::Feed(_)
            | Self::Unknown => None,
        };
        id.filter(|id| !id.is_empty())
    }

    /// The import or file whose progress this is. A later event about the same one makes it worthless.
    fn progress_subject(&self) -> Option<&str> {
        match self {
            Self::Progress(progress) => Some(&progress.id),
            Self::Fetching(file) => Some(&file.path),
            _ => None,
        }
    }

    /// Bytes of its longest texts, which come from torrents and servers.
    fn text_len(&self) -> usize {
        match self {
            Self::Started(started) => {
                started.name.len() + started.listening.iter().map(String::len).sum::<usize>()
            }
            Self::Progress(progress) => progress.trouble.as_ref().map_or(0, String::len),
            Self::Paused { error, .. } => error.len(),
            Self::Resumed { .. } | Self::Unknown => 0,
            Self::Notice { text, .. }
            | Self::Warning { text, .. }
            | Self::Unreadable { text, .. } => text.len(),
            Self::Imported(imported) => imported.name.len(),
            Self::Found(found) => found.url.len() + found.path.len(),
            Self::Fetching(file) => file.path.len() + file.map.len(),
            Self::Fetched(file) => file.url.len() + file.path.len(),
            Self::Failed(failed) => failed.error.len(),
            Self::Feed(checked) => {
                checked.feed.len() + checked.error.as_ref().map_or(0, String::len)
            }
            Self::Download(changed) => {
                changed.name.len() + changed.error.as_ref().map_or(0, String::len)
            }
        }
    }
}

/// Called with each event of a sink, on the thread that sends it. Must return quickly.
type Observer = Arc<dyn Fn(&Event) + Send + Sync>;

/// Takes the events of an operation. Cheap to clone; sending never blocks and never fails.
#[derive(Clone, Default)]
pub struct EventSink {
    target: Target,
    observer: Option<Observer>,
}

#[derive(Clone, Default)]
enum Target {
    #[default]
    None,
    Channel(mpsc::UnboundedSender<Event>),
    Log {
        log: EventLog,
        handle: Option<u64>,
    },
}

impl fmt::Debug for EventSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventSink").finish_non_exhaustive()
    }
}

impl EventSink {
    /// A sink and its receiver, which gets every event in order. The channel grows when the receiver is slow.
    #[must_use]
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (tx, rx) = mpsc::unbounded_channel();
        (Self { target: Target::Channel(tx), observer: None }, rx)
    }

    /// A sink that discards all events.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    pub(crate) fn to_log(log: EventLog, handle: Option<u64>) -> Self {
        Self { target: Target::Log { log, handle }, observer: None }
    }

    /// Also calls `observer` with each event, before it is sent.
    pub(crate) fn observed_by(self, observer: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Self { observer: Some(Arc::new(observer)), ..self }
    }

    pub fn send(&self, event: Event) {
        if let Some(observer) = &self.observer {
            observer(&event);
        }
        match &self.target {
            Target::None => {}
            // A dropped receiver does not stop an import.
            Target::Channel(tx) => drop(tx.send(event)),
            Target::Log { log, handle } => log.send_from(event, *handle),
        }
    }

    pub(crate) fn paused(&self, id: &str, error: &Error) {
        let hint = error.typed_hint().cloned().unwrap_or_else(|| default_hint(error.kind()));
        let hint = hint.then("; verified data is kept, and the import resumes by itself");
        self.send(Event::Paused { id: id.to_owned(), error: error.report(), hint: Some(hint) });
    }

    pub(crate) fn unreadable(&self, id: &str, error: &Error) {
        let (id, hint) = (Some(id.to_owned()), error.typed_hint().cloned());
        self.send(Event::Unreadable { id, text: error.report(), hint });
    }

    /// Reports that an import failed for good. `id` is `None` if it failed before it was recorded.
    pub(crate) fn import_failed(&self, id: Option<String>, error: &Error) {
        self.failed(error, |failed| failed.id = id);
    }

    /// Reports that a file failed for good. `path` is `None` if it failed before its local path was known.
    pub(crate) fn file_failed(&self, path: Option<&Path>, error: &Error) {
        self.failed(error, |failed| failed.path = path.map(|path| path.display().to_string()));
    }

    /// A stop on request is not reported: it is no failure.
    fn failed(&self, error: &Error, name: impl FnOnce(&mut Failed)) {
        if error.kind() != Kind::Cancelled {
            let mut failed = Failed::from(error);
            name(&mut failed);
            self.send(Event::Failed(failed));
        }
    }
}

/// The hint for a storage error that has none.
fn default_hint(kind: Kind) -> Hint {
    match kind {
        Kind::NoSpace => "free some space in the storage, or raise its quota".into(),
        Kind::PermissionDenied => hint![
            "allow writing to the storage; ",
            Operation::CheckStorage,
            " shows what else is missing",
        ],
        Kind::Unauthenticated => hint![
            "sign in again, or correct the credentials; ",
            Operation::CheckStorage,
            " tests them",
        ],
        Kind::NotFound => "the bucket or folder no longer exists: create it again".into(),
        Kind::RateLimited => "the storage limits the request rate".into(),
        Kind::Unavailable | Kind::Network => {
            "the storage does not respond: check the connection".into()
        }
        _ => hint![Operation::CheckStorage, " tests every operation that bae needs"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint_of(error: &Error) -> String {
        let (sink, mut events) = EventSink::channel();
        sink.paused("9c4e", error);
        match events.try_recv().unwrap() {
            Event::Paused { hint: Some(hint), .. } => hint.to_string(),
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

    fn started() -> Started {
        Started {
            id: "9c4e".into(),
            name: "a".into(),
            bytes: 3,
            stored: 1,
            files: 1,
            info_hash: "ab".into(),
            listening: vec!["0.0.0.0:6881".into()],
            state: Activity::Importing,
        }
    }

    fn progress() -> Progress {
        Progress { id: "9c4e".into(), state: Activity::Fetching, ..Progress::default() }
    }

    fn imported() -> Imported {
        Imported {
            id: "9c4e".into(),
            name: "a".into(),
            bytes: 3,
            seconds: 0.25,
            files: 1,
            info_hash: "ab".into(),
            downloaded: 4,
            peak_held: 5,
            evicted: 0,
            packed: 3,
        }
    }

    fn fetching() -> Fetching {
        let trouble = Some("x: 503".into());
        Fetching { path: "f".into(), state: DownloadState::Running, trouble, ..Fetching::default() }
    }

    fn fetched() -> FetchedFile {
        FetchedFile {
            url: "x/f".into(),
            path: "f".into(),
            bytes: 3,
            seconds: 0.5,
            downloaded: 3,
            checked: vec!["sha-256=00".into()],
            ..FetchedFile::default()
        }
    }

    fn every_event() -> Vec<Event> {
        let (id, text) = (Some("9c4e".to_owned()), "t".to_owned());
        let error = Error::new(Kind::NoSpace, "put k").hint("free some space");
        let found = FoundFile { url: "x/f".into(), path: "f".into(), bytes: None, stored: 0 };
        let hint = error.typed_hint().cloned();
        vec![
            Event::Started(started()),
            Event::Progress(progress()),
            Event::Paused { id: "9c4e".into(), error: "put k".into(), hint },
            Event::Resumed { id: "9c4e".into() },
            Event::Notice { id, text },
            Event::Imported(imported()),
            Event::Found(found),
            Event::Fetching(fetching()),
            Event::Fetched(fetched()),
            Event::Failed(Failed { id: Some("9c4e".into()), ..Failed::from(&error) }),
            Event::Failed(Failed { path: Some("f".into()), ..Failed::from(&error) }),
        ]
    }

    #[test]
    fn each_event_is_read_back_from_its_json() {
        for event in every_event() {
            let json = serde_json::to_string(&event).unwrap();
            let read: Event = serde_json::from_str(&json).unwrap();
            assert_eq!(read, event, "{json}");
        }
    }

    #[test]
    fn a_warning_is_read_back_as_a_notice() {
        let warning = Event::Warning { id: None, text: "t".into() };
        let json = serde_json::to_string(&warning).unwrap();
        assert_eq!(json, r#"{"event":"notice","id":null,"text":"t"}"#);
        let read: Event = serde_json::from_str(&json).unwrap();
        assert_eq!(read, Event::Notice { id: None, text: "t".into() });
        let unreadable = Event::Unreadable { id: None, text: "t".into(), hint: Some("h".into()) };
        let read: Event =
            serde_json::from_value(serde_json::to_value(unreadable).unwrap()).unwrap();
        assert_eq!(read, Event::Notice { id: None, text: "t".into() });
    }

    #[test]
    fn an_event_of_a_newer_version_is_read_as_unknown() {
        let read: Event = serde_json::from_str(r#"{"event":"streaming","url":"x"}"#).unwrap();
        assert_eq!(read, Event::Unknown);
    }

    #[test]
    fn states_have_stable_names_in_json() {
        use Activity as A;
        use DownloadState as D;
        let all = [A::Metadata, A::Importing, A::Fetching, A::Publishing, A::Seeding, A::Paused];
        for state in all {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
        let states = [D::Queued, D::Probing, D::Running, D::Paused, D::Failed, D::Done];
        let names = states.map(|state| serde_json::to_value(state).unwrap());
        assert_eq!(names, ["queued", "probing", "running", "paused", "failed", "done"]);
    }

    #[test]
    fn a_failure_is_sent_with_its_kind_and_a_stop_is_not_sent() {
        let (sink, mut events) = EventSink::channel();
        sink.import_failed(None, &Error::new(Kind::Cancelled, "stopped"));
        sink.import_failed(Some("9c4e".into()), &Error::new(Kind::NoSpace, "put k"));
        let json = serde_json::to_string(&events.try_recv().unwrap()).unwrap();
        let expected =
            r#"{"event":"error","id":"9c4e","kind":"no_space","error":"put k","hint":null}"#;
        assert_eq!(json, expected);
        assert!(events.try_recv().is_err());
    }
}
