//! Terminal output of a running download.

use std::time::Duration;

use indicatif::ProgressStyle;

use super::{output::plain, progress::short_time};
use crate::{
    events::{FetchedFile, Fetching, FoundFile},
    units::ByteSize,
};

/// A file of unknown length has no percentage.
pub(super) fn style(file: &Fetching) -> ProgressStyle {
    let template =
        if file.bytes.is_some() { "{percent:>3}% {wide_msg}" } else { "     {wide_msg}" };
    ProgressStyle::with_template(template).expect("the templates are constants and parse")
}

/// Whether the bar is removed: the file is done, failed or paused, or its probe is answered.
pub(super) fn is_over(file: &Fetching) -> bool {
    let asked = file.state == "probing" && file.connections == 0 && file.trouble.is_none();
    asked || ["done", "failed", "paused"].contains(&file.state)
}

/// The map of parts: present (`=`), being fetched (`>`), failed (`!`) and missing (`.`). Then figures and the name.
/// Usually fits a terminal of 100 columns; otherwise the name is cut.
pub(super) fn message(file: &Fetching) -> String {
    let name = plain(file.path.rsplit('/').next().unwrap_or_default());
    let map = if file.map.is_empty() { String::new() } else { format!("[{}] ", file.map) };
    if let Some(trouble) = &file.trouble {
        return format!("{map}waiting: {} {name}", plain(trouble));
    }
    if file.state == "probing" {
        return format!("waiting for the server's first answer {name}");
    }
    let size = match file.bytes {
        Some(bytes) => format!("{}/{}", ByteSize(file.stored), ByteSize(bytes)),
        None => ByteSize(file.stored).to_string(),
    };
    let eta = file.eta_seconds.map(|s| format!(" ETA {}", short_time(s))).unwrap_or_default();
    let rate = ByteSize(file.download_rate);
    format!("{map}↓ {rate}/s {size}{eta} {}× {name}", file.connections)
}

pub(super) fn found(file: &FoundFile) -> String {
    let FoundFile { url, path, bytes, stored } = file;
    let size = bytes.map_or_else(|| "of unknown length".to_owned(), |b| ByteSize(b).to_string());
    let here = match stored {
        0 => String::new(),
        stored => format!(", {} here already", ByteSize(*stored)),
    };
    format!("fetching {} to {}: {size}{here}", plain(url), plain(path))
}

pub(super) fn fetched(file: &FetchedFile) -> String {
    let FetchedFile { path, bytes, seconds, downloaded, checked, .. } = file;
    let time = short_time(Duration::try_from_secs_f64(*seconds).unwrap_or_default().as_secs());
    let names: Vec<_> = checked.iter().filter_map(|text| text.split('=').next()).collect();
    let checked = match names.as_slice() {
        [] => String::new(),
        names => format!(", {} as it should be", names.join(" and ")),
    };
    let how = if *downloaded == 0 && *bytes > 0 { "have" } else { "fetched" };
    format!("{how} {}: {}, {time}{checked}", plain(path), ByteSize(*bytes))
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
            state: "running",
            map: "=>..".into(),
            ..Fetching::default()
        }
    }

    #[test]
    fn the_bar_shows_which_parts_are_here_and_what_is_waited_for() {
        assert_eq!(message(&file()), "[=>..] ↓ 100 MiB/s 1 GiB/4 GiB ETA 30s 4× f.iso");
        let unknown = Fetching { bytes: None, map: String::new(), eta_seconds: None, ..file() };
        assert_eq!(message(&unknown), "↓ 100 MiB/s 1 GiB 4× f.iso");
        let asks = Fetching { state: "probing", bytes: None, map: String::new(), ..file() };
        assert_eq!(message(&asks), "waiting for the server's first answer f.iso");
        let refused = Fetching { connections: 0, trouble: Some("x: 503".into()), ..asks.clone() };
        assert_eq!(message(&refused), "waiting: x: 503 f.iso");
        assert!(!is_over(&asks) && !is_over(&refused));
        assert!(is_over(&Fetching { connections: 0, ..asks }));
        let waits = Fetching { trouble: Some("x: 503".into()), ..file() };
        assert_eq!(message(&waits), "[=>..] waiting: x: 503 f.iso");
    }

    #[test]
    fn the_summary_says_what_was_held_against_a_checksum() {
        let file = FetchedFile {
            url: "x/f".into(),
            path: "f".into(),
            bytes: 1024,
            seconds: 3.4,
            downloaded: 1024,
            checked: vec!["sha-256=00".into()],
        };
        assert_eq!(fetched(&file), "fetched f: 1 KiB, 3s, sha-256 as it should be");
        let here = FetchedFile { downloaded: 0, checked: Vec::new(), ..file };
        assert_eq!(fetched(&here), "have f: 1 KiB, 3s");
    }
}
