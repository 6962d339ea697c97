//! A download as aria2 shows it: every value is a string, and what is unknown is left out. Pure.

use std::{collections::HashSet, path::Path};

use serde_json::{Map, Value, json};

use crate::{
    daemon::content::{Content, shown_stored},
    error::Kind,
    queue::{Download, Seeding, SourceKind, State},
};

/// aria2's states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Active,
    Waiting,
    Paused,
    Error,
    Complete,
    Removed,
}

impl Status {
    /// A finished torrent that is seeded is active.
    pub(super) fn of(download: &Download) -> Self {
        match (&download.state, download.seeding) {
            (State::Queued | State::Retrying { .. }, _) => Self::Waiting,
            (State::Starting | State::Downloading | State::Exporting, _) => Self::Active,
            (State::Paused, _) => Self::Paused,
            (State::Failed { .. }, _) => Self::Error,
            (State::Done, Seeding::Waiting | Seeding::Active) => Self::Active,
            (State::Done, Seeding::Paused) => Self::Paused,
            (State::Done, Seeding::Off | Seeding::GoalReached) => Self::Complete,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Waiting => "waiting",
            Self::Paused => "paused",
            Self::Error => "error",
            Self::Complete => "complete",
            Self::Removed => "removed",
        }
    }

    /// Whether it is in the list of stopped downloads.
    pub(super) fn is_stopped(self) -> bool {
        matches!(self, Self::Error | Self::Complete | Self::Removed)
    }
}

/// The fields that a client wants; empty is all.
#[derive(Debug, Clone, Default)]
pub(super) struct Keys(HashSet<String>);

impl Keys {
    pub(super) fn new(keys: &[&str]) -> Self {
        Self(keys.iter().map(|key| (*key).to_owned()).collect())
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.0.is_empty() || self.0.contains(key)
    }

    /// Whether the content of a download is needed.
    pub(super) fn need_content(&self) -> bool {
        ["files", "numPieces", "pieceLength", "bittorrent", "bitfield"].iter().any(|k| self.has(k))
    }
}

/// A download with all that its fields are made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown<'a> {
    pub(super) download: &'a Download,
    pub(super) status: Status,
    /// `None` while it is not known.
    pub(super) content: Option<&'a Content>,
    pub(super) dir: &'a str,
}

/// Length of the pieces of what has none.
const NOMINAL_PIECE: u64 = 1 << 20;

impl Shown<'_> {
    /// The fields of `tellStatus`.
    pub(super) fn fields(&self, keys: &Keys) -> Value {
        let mut fields = Map::new();
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value.filter(|_| keys.has(key)) {
                fields.insert(key.to_owned(), value);
            }
        };
        let (download, progress) = (self.download, &self.download.progress);
        let number = |number: u64| Some(Value::String(number.to_string()));
        let is_torrent = download.is_torrent();
        put("gid", Some(download.id.as_str().into()));
        put("status", Some(self.status.as_str().into()));
        put("totalLength", number(progress.bytes.unwrap_or(0)));
        put("completedLength", number(shown_stored(download)));
        put("uploadLength", number(progress.uploaded));
        put("downloadSpeed", number(progress.download_rate));
        put("uploadSpeed", number(progress.upload_rate));
        put("connections", number(progress.peers as u64));
        put("dir", Some(self.dir.into()));
        put("numPieces", number(self.pieces()));
        put("pieceLength", number(self.piece_len()));
        put("bitfield", self.bitfield());
        put("infoHash", download.hashes.text().map(Value::String));
        if is_torrent {
            put("numSeeders", number(progress.seeds as u64));
            put("seeder", Some((download.state == State::Done).to_string().into()));
            put("bittorrent", Some(self.bittorrent()));
        }
        let error = download.state.error();
        let code = match (self.status, error) {
            (_, Some(error)) => Some(error_code(error.kind)),
            (Status::Removed, None) => Some(31),
            (Status::Complete, None) => Some(0),
            _ => None,
        };
        put("errorCode", code.and_then(number));
        let message = error.map(|error| error.message.as_str()).or(progress.trouble.as_deref());
        put("errorMessage", message.map(Value::from));
        if keys.has("files") {
            fields.insert("files".to_owned(), self.files());
        }
        Value::Object(fields)
    }

    fn piece_len(&self) -> u64 {
        match self.content {
            Some(content) if content.piece_len > 0 => content.piece_len,
            _ => NOMINAL_PIECE,
        }
    }

    fn pieces(&self) -> u64 {
        match self.content {
            Some(content) if content.piece_len > 0 => content.pieces as u64,
            _ => self.download.progress.bytes.unwrap_or(0).div_ceil(NOMINAL_PIECE),
        }
    }

    /// Known only when it is complete.
    fn bitfield(&self) -> Option<Value> {
        let pieces = usize::try_from(self.pieces()).ok()?;
        (self.download.state == State::Done && pieces > 0).then(|| {
            let mut digits = "f".repeat(pieces / 4);
            if pieces % 4 > 0 {
                digits.push(['8', 'c', 'e'][pieces % 4 - 1]);
            }
            if digits.len() % 2 == 1 {
                digits.push('0');
            }
            Value::String(digits)
        })
    }

    fn bittorrent(&self) -> Value {
        let trackers = self.content.map(|content| content.trackers.as_slice()).unwrap_or_default();
        let tiers: Vec<Value> = trackers.iter().map(|tracker| json!([tracker])).collect();
        let is_single = self.content.is_some_and(|content| content.files.len() == 1);
        let mode = if is_single { "single" } else { "multi" };
        match self.content {
            Some(_) => {
                let info = json!({ "name": self.download.name });
                json!({ "announceList": tiers, "mode": mode, "info": info })
            }
            // A magnet link without metadata.
            None => json!({ "announceList": tiers }),
        }
    }

    /// The fields of `getFiles`.
    pub(super) fn files(&self) -> Value {
        let progress = &self.download.progress;
        let Some(content) = self.content else {
            let path = match (self.download.kind, progress.bytes) {
                (SourceKind::Magnet, None) => format!("[METADATA]{}", self.download.name),
                _ => self.path(&self.download.name),
            };
            let (bytes, stored) = (progress.bytes.unwrap_or(0), shown_stored(self.download));
            return Value::Array(vec![self.file(1, path, bytes, stored, true)]);
        };
        let files = (1..).zip(&content.files).map(|(index, file)| {
            let stored = file.stored(self.download);
            self.file(index, self.path(&file.path), file.bytes, stored, file.selected)
        });
        Value::Array(files.collect())
    }

    fn file(&self, index: usize, path: String, bytes: u64, stored: u64, selected: bool) -> Value {
        json!({
            "index": index.to_string(),
            "path": path,
            "length": bytes.to_string(),
            "completedLength": stored.to_string(),
            "selected": selected.to_string(),
            "uris": self.uris(),
        })
    }

    /// The fields of `getUris`.
    pub(super) fn uris(&self) -> Value {
        match self.download.is_torrent() {
            true => json!([]),
            false => json!([{ "uri": self.download.shown_source(), "status": "used" }]),
        }
    }

    /// The path of a file. An export may have given the root another name.
    fn path(&self, path: &str) -> String {
        let exported = self.download.exported.as_deref().and_then(Path::to_str);
        match exported {
            Some(root) => match path.split_once('/') {
                Some((_, rest)) => format!("{root}/{rest}"),
                None => root.to_owned(),
            },
            None => format!("{}/{path}", self.dir),
        }
    }
}

/// aria2's exit status for an error.
fn error_code(kind: Kind) -> u64 {
    match kind {
        Kind::NotFound => 3,
        Kind::Network => 6,
        Kind::Changed => 8,
        Kind::NoSpace => 9,
        Kind::AlreadyExists => 13,
        Kind::Unauthenticated | Kind::PermissionDenied => 24,
        Kind::InvalidInput | Kind::Unsupported => 28,
        Kind::RateLimited | Kind::Unavailable | Kind::SessionExpired => 29,
        Kind::Cancelled => 31,
        Kind::Corrupt => 32,
        Kind::Internal => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        daemon::content::ContentFile,
        queue::{Failure, InfoHashes, example_download},
    };

    fn shown<'a>(download: &'a Download, content: Option<&'a Content>) -> Shown<'a> {
        Shown { download, status: Status::of(download), content, dir: "/disk" }
    }

    fn content(files: &[(&str, u64)]) -> Content {
        let file = |(path, bytes): &(&str, u64)| ContentFile {
            path: (*path).to_owned(),
            bytes: *bytes,
            selected: true,
        };
        let files = files.iter().map(file).collect();
        Content { piece_len: 100, pieces: 5, files, ..Content::default() }
    }

    #[test]
    fn every_state_has_one_of_aria2s_six() {
        let error = Failure { kind: Kind::NotFound, message: "gone".into(), hint: None };
        let mut download = example_download();
        for (state, seeding, status) in [
            (State::Queued, Seeding::Off, "waiting"),
            (State::Retrying { at: 1, error: error.clone() }, Seeding::Off, "waiting"),
            (State::Starting, Seeding::Off, "active"),
            (State::Downloading, Seeding::Off, "active"),
            (State::Exporting, Seeding::Off, "active"),
            (State::Paused, Seeding::Off, "paused"),
            (State::Failed { error }, Seeding::Off, "error"),
            (State::Done, Seeding::Off, "complete"),
            (State::Done, Seeding::Active, "active"),
            (State::Done, Seeding::Waiting, "active"),
            (State::Done, Seeding::Paused, "paused"),
            (State::Done, Seeding::GoalReached, "complete"),
        ] {
            (download.state, download.seeding) = (state, seeding);
            let fields = shown(&download, None).fields(&Keys::default());
            assert_eq!(fields["status"], status, "{download:?}");
            let has_code =
                ["error", "complete"].contains(&status) || download.state.error().is_some();
            assert_eq!(fields.get("errorCode").is_some(), has_code, "{download:?}");
        }
    }

    /// Every leaf is a string, as in aria2's answers.
    fn assert_strings(value: &Value) {
        match value {
            Value::String(_) => {}
            Value::Array(items) => items.iter().for_each(assert_strings),
            Value::Object(fields) => fields.values().for_each(assert_strings),
            other => panic!("{other} is no string"),
        }
    }

    #[test]
    fn every_value_is_a_string_and_unknown_ones_are_left_out() {
        let mut download = example_download();
        download.progress.bytes = Some(500);
        download.hashes = InfoHashes { v1: Some([0xab; 20]), v2: None };
        let content = content(&[("t/a", 300), ("t/b", 200)]);
        let fields = shown(&download, Some(&content)).fields(&Keys::default());
        assert_strings(&fields);
        assert!(fields.get("errorMessage").is_none() && fields.get("followedBy").is_none());
        assert_eq!(fields["infoHash"], "ab".repeat(20));
        assert_eq!(fields["numPieces"], "5");
        assert_eq!(fields["files"][1]["path"], "/disk/t/b");
        assert_eq!(fields["bittorrent"]["mode"], "multi");
        let keys = Keys::new(&["gid", "status", "unknown"]);
        let some = shown(&download, None).fields(&keys);
        assert_eq!(some.as_object().unwrap().len(), 2);
        assert!(!keys.need_content() && Keys::default().need_content());
    }

    #[test]
    fn a_magnet_link_without_metadata_is_marked_as_aria2_does() {
        let mut download = example_download();
        download.name = "film".into();
        let fields = shown(&download, None).fields(&Keys::default());
        assert_eq!(fields["files"][0]["path"], "[METADATA]film");
        assert_eq!(fields["totalLength"], "0");
    }

    #[test]
    fn an_exported_file_has_its_path_on_disk() {
        let mut download = example_download();
        download.exported = Some("/exports/tv/Renamed".into());
        download.state = State::Done;
        let many = content(&[("t/a", 300), ("t/s/b", 200)]);
        let files = shown(&download, Some(&many)).files();
        assert_eq!(files[1]["path"], "/exports/tv/Renamed/s/b");
        assert_eq!(files[1]["completedLength"], "200");
        let one = content(&[("t", 500)]);
        assert_eq!(shown(&download, Some(&one)).files()[0]["path"], "/exports/tv/Renamed");
        let fields = shown(&download, Some(&one)).fields(&Keys::default());
        assert_eq!(fields["bitfield"], "f8");
    }

    #[test]
    fn logins_in_a_url_are_not_shown() {
        let mut download = example_download();
        download.kind = SourceKind::Url;
        download.source = "http://user:hunter2@h/f?token=hunter3".into();
        let text = shown(&download, None).fields(&Keys::default()).to_string();
        assert!(text.contains("http://") && !text.contains("hunter"), "{text}");
    }
}
