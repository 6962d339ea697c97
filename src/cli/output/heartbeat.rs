//! Periodic status lines for runs without a terminal, as under cron or a service manager: seeding imports, listen
//! addresses, import progress, and the last warning of an idle import. Pure: the caller passes the time.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::sanitize;
use crate::{
    events::{Activity, Event, Progress, Started},
    units::{ByteSize, pluralize},
};

/// Interval between status lines of an import.
const IMPORT_INTERVAL: Duration = Duration::from_secs(60);
/// Interval between status lines of seeding.
const SEED_INTERVAL: Duration = Duration::from_secs(3600);
/// Number of imports whose seeding is announced by name.
const MAX_NAMED: usize = 10;

/// The state behind the status lines.
#[derive(Debug)]
pub(super) struct Heartbeat {
    last: Instant,
    /// The last warning of the running import.
    trouble: Option<String>,
    /// Number of imports that started seeding.
    started: usize,
    /// The last progress of each seeding import.
    seeding: HashMap<String, Progress>,
}

impl Heartbeat {
    pub(in crate::cli) fn new(now: Instant) -> Self {
        Self { last: now, trouble: None, started: 0, seeding: HashMap::new() }
    }

    /// The status lines due after `event`.
    pub(in crate::cli) fn lines(&mut self, event: &Event, now: Instant) -> Vec<String> {
        match event {
            Event::Started(started) if started.state == Activity::Seeding => {
                self.seeding_started(started)
            }
            Event::Warning { text, .. } => {
                self.trouble = Some(text.clone());
                Vec::new()
            }
            Event::Imported(_) => {
                self.trouble = None;
                Vec::new()
            }
            Event::Progress(progress) => self.progress(progress, now).into_iter().collect(),
            _ => Vec::new(),
        }
    }

    fn seeding_started(&mut self, started: &Started) -> Vec<String> {
        self.started += 1;
        let mut lines = Vec::new();
        if self.started == 1 && !started.listening.is_empty() {
            lines.push(format!("listening on {}", started.listening.join(", ")));
        }
        if self.started <= MAX_NAMED {
            let Started { id, name, bytes, .. } = started;
            lines.push(format!("seeding {id} {}: {}", sanitize(name), ByteSize(*bytes)));
        } else if self.started == MAX_NAMED + 1 {
            lines.push("seeding more imports".to_owned());
        }
        lines
    }

    fn progress(&mut self, progress: &Progress, now: Instant) -> Option<String> {
        let is_seeding =
            progress.state == Activity::Seeding || self.seeding.contains_key(&progress.id);
        if is_seeding {
            self.seeding.insert(progress.id.clone(), progress.clone());
        }
        let interval = if is_seeding { SEED_INTERVAL } else { IMPORT_INTERVAL };
        if now.duration_since(self.last) < interval {
            return None;
        }
        self.last = now;
        Some(if is_seeding { self.seeding_status() } else { self.import_status(progress) })
    }

    fn seeding_status(&self) -> String {
        let count = self.started.max(self.seeding.len());
        let all = self.seeding.values();
        let (sent, peers) =
            all.fold((0, 0), |(sent, peers), p| (sent + p.uploaded, peers + p.peers));
        let imports = pluralize(count, "import");
        let (sent, peers) = (ByteSize(sent), pluralize(peers, "peer"));
        format!("seeding {imports}: {sent} sent to peers in this run, {peers}")
    }

    /// Status of an import: `9c4e: 0 B of 390.6 KiB stored, 0 peers; tracker http://t: unregistered torrent`.
    fn import_status(&self, p: &Progress) -> String {
        let sources = match p.state {
            Activity::Fetching => pluralize(p.peers, "connection"),
            _ => pluralize(p.peers, "peer"),
        };
        let web = match p.web_seeds {
            0 => String::new(),
            n => format!(", {}", pluralize(n, "web seed")),
        };
        let done = match p.state {
            Activity::Metadata => "waiting for the torrent's metadata".to_owned(),
            state => {
                let paused = if state == Activity::Paused { "paused, " } else { "" };
                let (stored, bytes) = (ByteSize(p.stored), ByteSize(p.bytes));
                format!("{}: {paused}{stored} of {bytes} stored", p.id)
            }
        };
        let idle = p.download_rate == 0 && p.stored < p.bytes || p.state == Activity::Metadata;
        let trouble = self.trouble.as_ref().filter(|_| idle);
        let trouble = trouble.map(|text| format!("; {}", sanitize(text))).unwrap_or_default();
        format!("{done}, {sources}{web}{trouble}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(state: Activity) -> Event {
        let id = "9c4e".to_owned();
        Event::Progress(Progress {
            id,
            bytes: 400_000,
            state,
            uploaded: 1024,
            ..Progress::default()
        })
    }

    fn started(n: usize) -> Event {
        Event::Started(Started {
            id: format!("id{n}"),
            name: "na\u{1b}me".into(),
            bytes: 1 << 20,
            stored: 1 << 20,
            files: 1,
            info_hash: String::new(),
            listening: vec!["0.0.0.0:6881".into()],
            state: Activity::Seeding,
        })
    }

    #[test]
    fn an_idle_import_has_a_status_line_per_minute_with_the_last_warning() {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(start);
        let mut at = |seconds: u64, event: Event| {
            heartbeat.lines(&event, start + Duration::from_secs(seconds)).join("\n")
        };
        assert_eq!(at(59, progress(Activity::Importing)), "");
        let text = "tracker http://t: unregistered torrent".to_owned();
        assert_eq!(at(59, Event::Warning { id: None, text }), "");
        let line = "9c4e: 0 B of 390.6 KiB stored, 0 peers; tracker http://t: unregistered torrent";
        assert_eq!(at(60, progress(Activity::Importing)), line);
        assert_eq!(at(119, progress(Activity::Importing)), "");
        assert!(
            at(120, progress(Activity::Metadata))
                .starts_with("waiting for the torrent's metadata, 0 peers")
        );
    }

    #[test]
    fn seeding_announces_imports_and_then_has_a_status_line_per_hour() {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(start);
        let mut at = |seconds: u64, event: Event| {
            heartbeat.lines(&event, start + Duration::from_secs(seconds)).join("\n")
        };
        let first = "listening on 0.0.0.0:6881\nseeding id1 na\u{fffd}me: 1 MiB";
        assert_eq!(at(0, started(1)), first);
        let lines: Vec<String> =
            (2..100).map(|n| at(0, started(n))).filter(|l| !l.is_empty()).collect();
        assert_eq!(lines.len(), MAX_NAMED);
        assert_eq!(at(3599, progress(Activity::Seeding)), "");
        assert_eq!(
            at(3600, progress(Activity::Seeding)),
            "seeding 99 imports: 1 KiB sent to peers in this run, 0 peers"
        );
        assert_eq!(at(7199, progress(Activity::Seeding)), "");
    }
}
