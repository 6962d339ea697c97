//! Terminal output of a running download.

use std::time::Duration;

use indicatif::ProgressStyle;

use super::{progress::short_time, sanitize};
use crate::{
    events::{DownloadState, FetchedFile, Fetching, FoundFile},
    units::ByteSize,
};

/// A file of unknown length has no percentage.
pub(in crate::cli) fn style(file: &Fetching) -> ProgressStyle {
    let template =
        if file.bytes.is_some() { "{percent:>3}% {wide_msg}" } else { "     {wide_msg}" };
    ProgressStyle::with_template(template).expect("the templates are constants and parse")
}

/// Whether the bar is removed: the file is done, failed or paused, or its probe is answered.
pub(in crate::cli) fn is_finished(file: &Fetching) -> bool {
    match file.state {
        DownloadState::Probing => file.connections == 0 && file.trouble.is_none(),
        DownloadState::Done | DownloadState::Failed | DownloadState::Paused => true,
        DownloadState::Queued | DownloadState::Running => false,
    }
}

/// The map of parts: present (`=`), being fetched (`>`), failed (`!`) and missing (`.`). Then figures and the name.
/// Usually fits a terminal of 100 columns; otherwise the name is cut.
pub(super) fn bar_message(file: &Fetching) -> String {
    let name = sanitize(file.path.rsplit('/').next().unwrap_or_default());
    let map = if file.map.is_empty() { String::new() } else { format!("[{}] ", file.map) };
    if let Some(trouble) = &file.trouble {
        return format!("{map}waiting to retry: {} {name}", sanitize(trouble));
    }
    if file.state == DownloadState::Probing {
        return format!("waiting for the server's first response: {name}");
    }
    let size = match file.bytes {
        Some(bytes) => format!("{}/{}", ByteSize(file.stored), ByteSize(bytes)),
        None => ByteSize(file.stored).to_string(),
    };
    let eta = file.eta_seconds.map(|s| format!(" ETA {}", short_time(s))).unwrap_or_default();
    let rate = ByteSize(file.download_rate);
    format!("{map}↓ {rate}/s {size}{eta} {}× {name}", file.connections)
}

pub(super) fn found_text(file: &FoundFile) -> String {
    let FoundFile { url, path, bytes, stored } = file;
    let size = bytes.map_or_else(|| "of unknown length".to_owned(), |b| ByteSize(b).to_string());
    let present = match stored {
        0 => String::new(),
        stored => format!(", {} present already", ByteSize(*stored)),
    };
    format!("fetching {} to {}: {size}{present}", sanitize(url), sanitize(path))
}

pub(super) fn fetched_text(file: &FetchedFile) -> String {
    let FetchedFile { path, bytes, seconds, downloaded, checked, .. } = file;
    let missing = missing_text(file);
    let time = short_time(Duration::try_from_secs_f64(*seconds).unwrap_or_default().as_secs());
    let names: Vec<_> = checked.iter().filter_map(|text| text.split('=').next()).collect();
    let checked = match names.as_slice() {
        [] => String::new(),
        names => format!(", {} verified", names.join(" and ")),
    };
    let (path, size) = (sanitize(path), ByteSize(*bytes));
    match *downloaded == 0 && *bytes > 0 {
        true => format!("already complete: {path}, {size}, {time}{checked}"),
        false => format!("fetched {path}: {size}, {time}{checked}{missing}"),
    }
}

/// What is missing from a stream.
fn missing_text(file: &FetchedFile) -> String {
    let counts = [
        (file.skipped, "segment skipped", "segments skipped"),
        (file.lost, "segment lost", "segments lost"),
        (file.gaps, "gap in the list", "gaps in the list"),
    ];
    let text = |(count, one, many): &(u64, &str, &str)| match count {
        0 => String::new(),
        1 => format!(", 1 {one}"),
        count => format!(", {count} {many}"),
    };
    counts.iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Fetching {
        Fetching {
            path: "/x/f.iso".into(),
            bytes: Some(4 << 30),
            stored: 1 << 30,
            download_rate: 100 << 20,
            connections: 4,
            eta_seconds: Some(30),
            state: DownloadState::Running,
            map: "=>..".into(),
            ..Fetching::default()
        }
    }

    #[test]
    fn the_bar_shows_the_parts_and_the_reason_for_waiting() {
        assert_eq!(bar_message(&file()), "[=>..] ↓ 100 MiB/s 1 GiB/4 GiB ETA 30s 4× f.iso");
        let unknown = Fetching { bytes: None, map: String::new(), eta_seconds: None, ..file() };
        assert_eq!(bar_message(&unknown), "↓ 100 MiB/s 1 GiB 4× f.iso");
        let probing =
            Fetching { state: DownloadState::Probing, bytes: None, map: String::new(), ..file() };
        assert_eq!(bar_message(&probing), "waiting for the server's first response: f.iso");
        let refused =
            Fetching { connections: 0, trouble: Some("x: 503".into()), ..probing.clone() };
        assert_eq!(bar_message(&refused), "waiting to retry: x: 503 f.iso");
        assert!(!is_finished(&probing) && !is_finished(&refused));
        assert!(is_finished(&Fetching { connections: 0, ..probing }));
        let retrying = Fetching { trouble: Some("x: 503".into()), ..file() };
        assert_eq!(bar_message(&retrying), "[=>..] waiting to retry: x: 503 f.iso");
    }

    #[test]
    fn the_result_line_names_the_verified_checksums() {
        let file = FetchedFile {
            url: "x/f".into(),
            path: "f".into(),
            bytes: 1024,
            seconds: 3.4,
            downloaded: 1024,
            checked: vec!["sha-256=00".into()],
            ..FetchedFile::default()
        };
        assert_eq!(fetched_text(&file), "fetched f: 1 KiB, 3s, sha-256 verified");
        let complete = FetchedFile { downloaded: 0, checked: Vec::new(), ..file };
        assert_eq!(fetched_text(&complete), "already complete: f, 1 KiB, 3s");
        let stream = FetchedFile { downloaded: 1, lost: 2, gaps: 1, ..complete };
        let expected = "fetched f: 1 KiB, 3s, 2 segments lost, 1 gap in the list";
        assert_eq!(fetched_text(&stream), expected);
    }
}
