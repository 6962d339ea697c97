//! A download as the fields of a torrent. Pure.

use std::path::Path;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{ids::hash_of, labels};
use crate::{
    daemon::content::{Content, shown_stored},
    queue::{Download, Priority, Seeding, State},
};

/// A download with all that its fields are made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown<'a> {
    pub(super) download: &'a Download,
    /// `None` while it is not known.
    pub(super) content: Option<&'a Content>,
    pub(super) folder: &'a str,
    /// Index in the order of the queue.
    pub(super) position: usize,
}

/// Fields that need the content of a download.
pub(super) const OF_CONTENT: &[&str] = &[
    "file-count",
    "fileStats",
    "files",
    "isPrivate",
    "pieceCount",
    "pieceSize",
    "pieces",
    "priorities",
    "trackerList",
    "trackerStats",
    "trackers",
    "wanted",
];
/// Unknown time left.
const NO_ETA: i64 = -1;

/// Transmission's states.
fn status(download: &Download) -> u8 {
    match (&download.state, download.seeding) {
        (State::Paused | State::Failed { .. }, _) => 0,
        (State::Queued | State::Retrying { .. }, _) => 3,
        // Files that are being exported cannot be used yet.
        (State::Starting | State::Downloading | State::Exporting, _) => 4,
        (State::Done, Seeding::Waiting) => 5,
        (State::Done, Seeding::Active) => 6,
        (State::Done, Seeding::Off | Seeding::Paused | Seeding::GoalReached) => 0,
    }
}

/// The priority of `-1`, `0` or `1`.
pub(super) fn priority_of(value: Option<&Value>) -> Priority {
    match value.and_then(Value::as_i64).unwrap_or(0) {
        ..0 => Priority::Low,
        0 => Priority::Normal,
        1.. => Priority::High,
    }
}

impl Shown<'_> {
    /// The value of a field; `None` when there is no such field.
    pub(super) fn field(&self, name: &str) -> Option<Value> {
        self.identity(name)
            .or_else(|| self.progress(name))
            .or_else(|| self.settings(name))
            .or_else(|| self.swarm(name))
            .or_else(|| self.content_field(name))
    }

    /// Name, place and times.
    fn identity(&self, name: &str) -> Option<Value> {
        let download = self.download;
        Some(match name {
            "id" => download.number.into(),
            "hashString" => hash_of(download).into(),
            "name" => self.name().into(),
            "downloadDir" => self.folder.into(),
            "addedDate" => download.added_at.into(),
            "startDate" => download.started_at.unwrap_or(0).into(),
            "doneDate" => download.finished_at.unwrap_or(0).into(),
            "activityDate" => download.last_activity.unwrap_or(0).into(),
            "editDate" => download.added_at.into(),
            "magnetLink" => download.shown_source().into(),
            // Texts of the torrent file are not kept.
            "comment" | "creator" | "torrentFile" | "group" | "primary-mime-type" => "".into(),
            "dateCreated" => 0.into(),
            _ => return None,
        })
    }

    /// State and figures.
    fn progress(&self, name: &str) -> Option<Value> {
        let (download, progress) = (self.download, &self.download.progress);
        let bytes = progress.bytes.unwrap_or(0);
        let stored = shown_stored(download);
        let left = bytes.saturating_sub(stored);
        let eta = progress.eta_seconds.and_then(|eta| i64::try_from(eta).ok());
        Some(match name {
            "status" => status(download).into(),
            "error" => if self.error().is_some() { 3 } else { 0 }.into(),
            "errorString" => self.error().unwrap_or_default().into(),
            "isFinished" => {
                let ended = matches!(download.seeding, Seeding::Off | Seeding::GoalReached);
                (download.state == State::Done && ended).into()
            }
            "isStalled" => {
                let runs = download.state == State::Downloading;
                (runs && progress.download_rate == 0).into()
            }
            "totalSize" | "sizeWhenDone" => bytes.into(),
            "haveValid" => stored.into(),
            "leftUntilDone" => left.into(),
            "desiredAvailable" => if progress.peers > 0 { left } else { 0 }.into(),
            "percentDone" | "percentComplete" => share(stored, progress.bytes).into(),
            "metadataPercentComplete" => u8::from(progress.bytes.is_some()).into(),
            "recheckProgress" | "haveUnchecked" | "corruptEver" => 0.into(),
            "downloadedEver" => progress.downloaded.into(),
            "uploadedEver" => progress.uploaded.into(),
            "uploadRatio" => {
                if bytes == 0 {
                    json!(-1)
                } else {
                    download.ratio().into()
                }
            }
            "rateDownload" => progress.download_rate.into(),
            "rateUpload" => progress.upload_rate.into(),
            "secondsDownloading" => progress.active_seconds.into(),
            "secondsSeeding" => progress.seeding_seconds.into(),
            "eta" => eta.unwrap_or(NO_ETA).into(),
            "etaIdle" => NO_ETA.into(),
            _ => return None,
        })
    }

    fn settings(&self, name: &str) -> Option<Value> {
        let settings = &self.download.settings;
        let (limits, ratio) = (settings.limits, settings.seed_limits.ratio);
        let kilobytes = |rate: Option<u64>| rate.unwrap_or(0).div_ceil(1000);
        Some(match name {
            "labels" => labels::shown(settings).into(),
            "queuePosition" => self.position.into(),
            "bandwidthPriority" => match settings.priority {
                Priority::High => 1,
                Priority::Normal => 0,
                Priority::Low => -1,
            }
            .into(),
            "downloadLimit" => kilobytes(limits.download).into(),
            "downloadLimited" => limits.download.is_some().into(),
            "uploadLimit" => kilobytes(limits.upload).into(),
            "uploadLimited" => limits.upload.is_some().into(),
            "honorsSessionLimits" => true.into(),
            "seedRatioLimit" => ratio.unwrap_or(0.0).into(),
            "seedRatioMode" => match ratio {
                None => 0,
                Some(ratio) if ratio > 0.0 => 1,
                Some(_) => 2,
            }
            .into(),
            "seedIdleLimit" | "seedIdleMode" => 0.into(),
            "sequential_download" | "sequentialDownload" => settings.sequential.into(),
            _ => return None,
        })
    }

    fn swarm(&self, name: &str) -> Option<Value> {
        let progress = &self.download.progress;
        let is_stored = self.download.state.is_stored();
        Some(match name {
            "peersConnected" => progress.peers.into(),
            "peersSendingToUs" => {
                if is_stored { 0 } else { progress.seeds.min(progress.peers) }.into()
            }
            "peersGettingFromUs" => {
                if progress.upload_rate > 0 { progress.peers } else { 0 }.into()
            }
            "peer-limit" | "maxConnectedPeers" => 50.into(),
            "webseedsSendingToUs" => 0.into(),
            // The addresses of peers are not followed.
            "peers" | "webseeds" => json!([]),
            "peersFrom" => json!({
                "fromCache": 0, "fromDht": 0, "fromIncoming": 0, "fromLpd": 0, "fromLtep": 0,
                "fromPex": 0, "fromTracker": progress.peers,
            }),
            "manualAnnounceTime" => (-1).into(),
            _ => return None,
        })
    }

    fn content_field(&self, name: &str) -> Option<Value> {
        if !OF_CONTENT.contains(&name) {
            return None;
        }
        let none = Content::default();
        let content = self.content.unwrap_or(&none);
        let files = || content.files.iter();
        Some(match name {
            "file-count" => content.files.len().into(),
            "files" => files().map(|file| self.file(file)).collect(),
            "fileStats" => files()
                .map(|file| {
                    let stored = file.stored(self.download);
                    json!({ "bytesCompleted": stored, "wanted": file.selected, "priority": 0 })
                })
                .collect(),
            "wanted" => files().map(|file| u8::from(file.selected)).collect::<Vec<_>>().into(),
            "priorities" => vec![0; content.files.len()].into(),
            "pieceCount" => content.pieces.into(),
            "pieceSize" => content.piece_len.into(),
            // Known only when it is complete.
            "pieces" if self.download.state == State::Done => bitfield(content.pieces).into(),
            "isPrivate" => content.private.into(),
            "trackers" => self.trackers(content, |tracker, id| {
                json!({
                    "id": id, "tier": id, "announce": tracker, "scrape": "",
                    "sitename": site_of(tracker),
                })
            }),
            "trackerStats" => self.trackers(content, tracker_stats),
            "trackerList" => content.trackers.join("\n\n").into(),
            _ => return None,
        })
    }

    fn trackers(&self, content: &Content, one: impl Fn(&str, usize) -> Value) -> Value {
        content.trackers.iter().enumerate().map(|(id, tracker)| one(tracker, id)).collect()
    }

    /// The name that the file or root folder has in the folder.
    fn name(&self) -> &str {
        let exported = self.download.exported.as_deref().and_then(Path::file_name);
        exported.and_then(|name| name.to_str()).unwrap_or(&self.download.name)
    }

    fn file(&self, file: &crate::daemon::content::ContentFile) -> Value {
        let path = match file.path.split_once('/') {
            Some((_, rest)) => format!("{}/{rest}", self.name()),
            None => self.name().to_owned(),
        };
        json!({ "name": path, "length": file.bytes, "bytesCompleted": file.stored(self.download) })
    }

    fn error(&self) -> Option<&str> {
        let failure = self.download.state.error().map(|error| error.message.as_str());
        failure.or(self.download.progress.trouble.as_deref())
    }
}

/// The stored part, 0 to 1.
#[allow(clippy::cast_precision_loss, reason = "a share for display")]
fn share(stored: u64, bytes: Option<u64>) -> f64 {
    match bytes {
        Some(0) => 1.0,
        Some(bytes) => stored as f64 / bytes as f64,
        None => 0.0,
    }
}

/// All bits set, the first piece in the highest bit.
fn bitfield(pieces: usize) -> String {
    let mut bytes = vec![0xff_u8; pieces.div_ceil(8)];
    if let (Some(last), rest @ 1..) = (bytes.last_mut(), pieces % 8) {
        *last = 0xff << (8 - rest);
    }
    STANDARD.encode(bytes)
}

fn site_of(tracker: &str) -> String {
    let host = url::Url::parse(tracker).ok().and_then(|url| url.host_str().map(str::to_owned));
    host.unwrap_or_default()
}

/// Trackers are announced to by the session; their answers are not followed.
fn tracker_stats(tracker: &str, id: usize) -> Value {
    let mut stats = json!({
        "id": id, "tier": id, "announce": tracker, "scrape": "", "sitename": site_of(tracker),
        "host": tracker, "announceState": 1, "scrapeState": 0,
    });
    let groups = [
        (&["isBackup", "hasAnnounced", "hasScraped", "lastAnnounceSucceeded"][..], json!(false)),
        (&["lastAnnounceTimedOut", "lastScrapeSucceeded", "lastScrapeTimedOut"], json!(false)),
        (&["lastAnnounceResult", "lastScrapeResult"], json!("")),
        (&["lastAnnouncePeerCount", "lastAnnounceStartTime", "lastAnnounceTime"], json!(0)),
        (&["lastScrapeStartTime", "lastScrapeTime", "nextAnnounceTime"], json!(0)),
        (&["nextScrapeTime"], json!(0)),
        (&["downloadCount", "leecherCount", "seederCount"], json!(-1)),
    ];
    if let Some(fields) = stats.as_object_mut() {
        for (names, value) in groups {
            fields.extend(names.iter().map(|name| ((*name).to_owned(), value.clone())));
        }
    }
    stats
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        daemon::content::ContentFile,
        error::Kind,
        queue::{Failure, SourceKind, example_download},
    };

    fn shown<'a>(download: &'a Download, content: Option<&'a Content>) -> Shown<'a> {
        Shown { download, content, folder: "/disk", position: 3 }
    }

    #[test]
    fn every_state_has_one_of_transmissions_seven() {
        let error = Failure { kind: Kind::NotFound, message: "gone".into(), hint: None };
        let mut download = example_download();
        download.progress.bytes = Some(100);
        for (state, seeding, status, finished) in [
            (State::Queued, Seeding::Off, 3, false),
            (State::Retrying { at: 1, error: error.clone() }, Seeding::Off, 3, false),
            (State::Starting, Seeding::Off, 4, false),
            (State::Downloading, Seeding::Off, 4, false),
            (State::Exporting, Seeding::Off, 4, false),
            (State::Paused, Seeding::Off, 0, false),
            (State::Failed { error }, Seeding::Off, 0, false),
            (State::Done, Seeding::Off, 0, true),
            (State::Done, Seeding::Waiting, 5, false),
            (State::Done, Seeding::Active, 6, false),
            (State::Done, Seeding::Paused, 0, false),
            (State::Done, Seeding::GoalReached, 0, true),
        ] {
            (download.state, download.seeding) = (state, seeding);
            let shown = shown(&download, None);
            assert_eq!(shown.field("status").unwrap(), status, "{download:?}");
            assert_eq!(shown.field("isFinished").unwrap(), finished, "{download:?}");
            let left = match download.state {
                State::Done => 0,
                // No client looks for files that are not there yet.
                State::Exporting => 1,
                _ => 100,
            };
            assert_eq!(shown.field("leftUntilDone").unwrap(), left, "{download:?}");
            let has_error = download.state.error().is_some();
            assert_eq!(shown.field("errorString").unwrap() == "gone", has_error);
            assert_eq!(shown.field("error").unwrap() == 3, has_error);
        }
    }

    /// Fields that clients request.
    const REQUESTED: &[&str] = &[
        "activityDate",
        "addedDate",
        "bandwidthPriority",
        "comment",
        "corruptEver",
        "creator",
        "dateCreated",
        "desiredAvailable",
        "doneDate",
        "downloadDir",
        "downloadedEver",
        "downloadLimit",
        "downloadLimited",
        "editDate",
        "error",
        "errorString",
        "eta",
        "etaIdle",
        "file-count",
        "files",
        "fileStats",
        "group",
        "hashString",
        "haveUnchecked",
        "haveValid",
        "honorsSessionLimits",
        "id",
        "isFinished",
        "isPrivate",
        "isStalled",
        "labels",
        "leftUntilDone",
        "magnetLink",
        "manualAnnounceTime",
        "maxConnectedPeers",
        "metadataPercentComplete",
        "name",
        "peer-limit",
        "peers",
        "peersConnected",
        "peersFrom",
        "peersGettingFromUs",
        "peersSendingToUs",
        "percentComplete",
        "percentDone",
        "pieceCount",
        "pieceSize",
        "primary-mime-type",
        "priorities",
        "queuePosition",
        "rateDownload",
        "rateUpload",
        "recheckProgress",
        "secondsDownloading",
        "secondsSeeding",
        "seedIdleLimit",
        "seedIdleMode",
        "seedRatioLimit",
        "seedRatioMode",
        "sizeWhenDone",
        "startDate",
        "status",
        "torrentFile",
        "totalSize",
        "trackerList",
        "trackers",
        "trackerStats",
        "uploadedEver",
        "uploadLimit",
        "uploadLimited",
        "uploadRatio",
        "wanted",
        "webseeds",
        "webseedsSendingToUs",
    ];

    #[test]
    fn all_fields_that_clients_request_exist_and_unknown_ones_do_not() {
        let download = example_download();
        let content = Content::default();
        let shown = shown(&download, Some(&content));
        for name in REQUESTED {
            assert!(shown.field(name).is_some(), "{name}");
        }
        for name in ["", "fileCount", "unknown", "pieces"] {
            assert!(shown.field(name).is_none(), "{name}");
        }
    }

    #[test]
    fn an_exported_torrent_is_at_its_folder_and_name() {
        let mut download = example_download();
        download.exported = Some("/exports/tv/Renamed".into());
        download.state = State::Done;
        let file = ContentFile { path: "t/a/b".into(), bytes: 5, selected: true };
        let content = Content { files: vec![file], pieces: 9, ..Content::default() };
        let shown = shown(&download, Some(&content));
        assert_eq!(shown.field("name").unwrap(), "Renamed");
        assert_eq!(shown.field("files").unwrap()[0]["name"], "Renamed/a/b");
        assert_eq!(shown.field("files").unwrap()[0]["bytesCompleted"], 5);
        let pieces = shown.field("pieces").unwrap();
        assert_eq!(STANDARD.decode(pieces.as_str().unwrap()).unwrap(), [0xff, 0x80]);
    }

    #[test]
    fn a_download_from_a_url_has_a_hash_of_40_digits_and_no_login() {
        let mut download = example_download();
        download.kind = SourceKind::Url;
        download.source = "http://user:hunter2@h/f?key=hunter3".into();
        let shown = shown(&download, None);
        let hash = shown.field("hashString").unwrap();
        assert_eq!(hash.as_str().unwrap().len(), 40);
        assert!(hash.as_str().unwrap().ends_with(download.id.as_str()));
        assert!(!shown.field("magnetLink").unwrap().to_string().contains("hunter"));
    }

    #[test]
    fn priorities_are_three() {
        for (number, priority) in
            [(-1, Priority::Low), (0, Priority::Normal), (1, Priority::High), (99, Priority::High)]
        {
            assert_eq!(priority_of(Some(&number.into())), priority);
        }
        assert_eq!(priority_of(Some(&"x".into())), Priority::Normal);
        assert_eq!(priority_of(None), Priority::Normal);
    }
}
