//! The words for states, and the filters over them. No I/O.

use crate::{
    error::Kind,
    events::Activity,
    queue::{Download, Seeding, State},
};

/// The word for the state of a download. `is_readable` says whether the files of a finished one are at their path.
pub(super) fn word(download: &Download, is_readable: bool) -> &'static str {
    let has_metadata = has_metadata(download);
    match &download.state {
        State::Paused => "stoppedDL",
        State::Queued => "queuedDL",
        State::Starting if has_metadata => "checkingResumeData",
        State::Starting => "metaDL",
        State::Downloading => downloading_word(download, has_metadata),
        // The next try comes by itself.
        State::Retrying { .. } => "stalledDL",
        State::Failed { error }
            if download.finished_at.is_some()
                && matches!(error.kind, Kind::NotFound | Kind::Corrupt) =>
        {
            "missingFiles"
        }
        State::Failed { .. } => "error",
        State::Exporting => "moving",
        State::Done if !is_readable => "moving",
        State::Done => seeding_word(download),
    }
}

/// Whether the files of a torrent are known.
pub(super) fn has_metadata(download: &Download) -> bool {
    download.progress.bytes.is_some() || download.import.is_some()
}

fn downloading_word(download: &Download, has_metadata: bool) -> &'static str {
    let progress = &download.progress;
    let is_forced = download.settings.forced;
    if progress.trouble.is_some() {
        return "stalledDL";
    }
    match progress.activity {
        Some(Activity::Metadata) if !has_metadata && is_forced => "forcedMetaDL",
        Some(Activity::Metadata) if !has_metadata => "metaDL",
        Some(Activity::Publishing) => "moving",
        Some(Activity::Paused) => "stalledDL",
        _ if progress.download_rate == 0 && progress.store_rate == 0 => "stalledDL",
        _ if is_forced => "forcedDL",
        _ => "downloading",
    }
}

fn seeding_word(download: &Download) -> &'static str {
    match download.seeding {
        Seeding::Active if download.settings.forced => "forcedUP",
        Seeding::Active if download.progress.peers > 0 => "uploading",
        Seeding::Active => "stalledUP",
        Seeding::Waiting => "queuedUP",
        Seeding::Off | Seeding::Paused | Seeding::GoalReached => "stoppedUP",
    }
}

/// Whether the state `word` belongs to a filter. A filter is a class of states. An unknown one is all, as in qBittorrent.
pub(super) fn is_in(filter: &str, word: &str, upload_rate: u64) -> bool {
    let is_stopped = word.starts_with("stopped");
    let is_up = word.ends_with("UP") || word == "uploading";
    let is_active = match word {
        "stalledDL" => upload_rate > 0,
        other => matches!(
            other,
            "metaDL"
                | "forcedMetaDL"
                | "downloading"
                | "forcedDL"
                | "uploading"
                | "forcedUP"
                | "moving"
        ),
    };
    match filter.to_ascii_lowercase().as_str() {
        "downloading" => word.ends_with("DL") || word == "downloading",
        "seeding" => is_up && !is_stopped,
        "completed" => is_up,
        "stopped" | "paused" => is_stopped,
        "running" | "resumed" => !is_stopped,
        "active" => is_active,
        "inactive" => !is_active,
        "stalled" => word.starts_with("stalled"),
        "stalled_uploading" => word == "stalledUP",
        "stalled_downloading" => word == "stalledDL",
        "checking" => word.starts_with("checking"),
        "moving" => word == "moving",
        "errored" => matches!(word, "error" | "missingFiles"),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{daemon::qbittorrent::fields::test_download, queue::Failure};

    fn failed(kind: Kind) -> State {
        State::Failed { error: Failure { kind, message: String::new(), hint: None } }
    }

    #[test]
    fn each_state_has_its_word() {
        let mut download = test_download();
        let word_of = |download: &Download| word(download, true);
        assert_eq!(word_of(&download), "queuedDL");
        download.state = State::Starting;
        assert_eq!(word_of(&download), "metaDL");
        download.progress.bytes = Some(10);
        assert_eq!(word_of(&download), "checkingResumeData");
        download.state = State::Downloading;
        assert_eq!(word_of(&download), "stalledDL");
        download.progress.download_rate = 5;
        assert_eq!(word_of(&download), "downloading");
        download.settings.forced = true;
        assert_eq!(word_of(&download), "forcedDL");
        download.progress.trouble = Some("no room".into());
        assert_eq!(word_of(&download), "stalledDL");
        download.state = State::Exporting;
        assert_eq!(word_of(&download), "moving");
        download.state = failed(Kind::NotFound);
        assert_eq!(word_of(&download), "error");
        download.finished_at = Some(5);
        assert_eq!(word_of(&download), "missingFiles");
        download.state = State::Paused;
        assert_eq!(word_of(&download), "stoppedDL");
    }

    #[test]
    fn a_finished_torrent_is_removable_only_when_it_stopped() {
        let mut download = test_download();
        download.state = State::Done;
        for (seeding, expected) in [
            (Seeding::Waiting, "queuedUP"),
            (Seeding::Active, "stalledUP"),
            (Seeding::GoalReached, "stoppedUP"),
            (Seeding::Paused, "stoppedUP"),
            (Seeding::Off, "stoppedUP"),
        ] {
            download.seeding = seeding;
            assert_eq!(word(&download, true), expected);
            assert_eq!(word(&download, false), "moving", "it is not at its path yet");
        }
        download.seeding = Seeding::Active;
        download.progress.peers = 1;
        assert_eq!(word(&download, true), "uploading");
    }

    #[test]
    fn filters_are_classes_of_states() {
        let words = [
            "metaDL",
            "forcedMetaDL",
            "queuedDL",
            "checkingResumeData",
            "downloading",
            "forcedDL",
            "stalledDL",
            "stoppedDL",
            "moving",
            "uploading",
            "forcedUP",
            "stalledUP",
            "queuedUP",
            "stoppedUP",
            "error",
            "missingFiles",
        ];
        let of =
            |filter: &str| words.into_iter().filter(|w| is_in(filter, w, 0)).collect::<Vec<_>>();
        assert_eq!(of("all").len(), words.len());
        assert_eq!(of("nonsense").len(), words.len());
        let downloading = [
            "metaDL",
            "forcedMetaDL",
            "queuedDL",
            "downloading",
            "forcedDL",
            "stalledDL",
            "stoppedDL",
        ];
        assert_eq!(of("downloading"), downloading);
        assert_eq!(of("seeding"), ["uploading", "forcedUP", "stalledUP", "queuedUP"]);
        assert_eq!(of("completed").len(), 5);
        assert_eq!(of("paused"), ["stoppedDL", "stoppedUP"]);
        assert_eq!(of("stopped"), of("paused"));
        assert_eq!(of("running").len() + 2, words.len());
        assert_eq!(of("active").len() + of("inactive").len(), words.len());
        assert_eq!(of("stalled"), ["stalledDL", "stalledUP"]);
        assert_eq!(of("errored"), ["error", "missingFiles"]);
        assert!(is_in("active", "stalledDL", 1) && !is_in("active", "stalledDL", 0));
    }
}
