//! Periodic status lines for runs without a terminal, as under cron or a service manager: seeding imports, listen
//! addresses, import progress, and the last warning of an idle import. Pure: the caller passes the time.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::output::plain;
use crate::{
    events::{Event, Progress, Started},
    units::ByteSize,
};

/// Interval between status lines of an import.
const IMPORTING: Duration = Duration::from_secs(60);
/// Interval between status lines of seeding.
const SEEDING: Duration = Duration::from_secs(3600);
/// Number of imports whose seeding is announced by name.
const NAMED: usize = 10;

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
    pub(super) fn new(now: Instant) -> Self {
        Self { last: now, trouble: None, started: 0, seeding: HashMap::new() }
    }

    /// The status lines due after `event`.
    pub(super) fn lines(&mut self, event: &Event, now: Instant) -> Vec<String> {
        match event {
            Event::Started(started) if started.state == "seeding" => self.seeds(started),
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

    fn seeds(&mut self, started: &Started) -> Vec<String> {
        self.started += 1;
        let mut lines = Vec::new();
        if self.started == 1 && !started.listening.is_empty() {
            lines.push(format!("listening on {}", started.listening.join(", ")));
        }
        if self.started <= NAMED {
            let Started { id, name, bytes, .. } = started;
            lines.push(format!("seeding {id} {}: {}", plain(name), ByteSize(*bytes)));
        } else if self.started == NAMED + 1 {
            lines.push("seeding more; the next line counts them".to_owned());
        }
        lines
    }

    fn progress(&mut self, progress: &Progress, now: Instant) -> Option<String> {
        let seeds = progress.state == "seeding" || self.seeding.contains_key(&progress.id);
        if seeds {
            self.seeding.insert(progress.id.clone(), progress.clone());
        }
        let every = if seeds { SEEDING } else { IMPORTING };
        if now.duration_since(self.last) < every {
            return None;
        }
        self.last = now;
        Some(if seeds { self.all_seeded() } else { self.far(progress) })
    }

    fn all_seeded(&self) -> String {
        let count = self.started.max(self.seeding.len());
        let all = self.seeding.values();
        let (sent, peers) =
            all.fold((0, 0), |(sent, peers), p| (sent + p.uploaded, peers + p.peers));
        let imports = if count == 1 { "import" } else { "imports" };
        let (sent, peers) = (ByteSize(sent), counted(peers, "peer"));
        format!("seeding {count} {imports}: {sent} to peers in this run, {peers}")
    }

    /// Status of an import: `9c4e: 0 B of 390.6 KiB stored, 0 peers; tracker http://t: unregistered torrent`.
    fn far(&self, p: &Progress) -> String {
        let who = match p.state {
            "fetching" => counted(p.peers, "connection"),
            _ => counted(p.peers, "peer"),
        };
        let web = match p.web_seeds {
            0 => String::new(),
            n => format!(", {}", counted(n, "web seed")),
        };
        let done = match p.state {
            "metadata" => "waiting for the torrent's metadata".to_owned(),
            state => {
                let paused = if state == "paused" { "paused, " } else { "" };
                let (stored, bytes) = (ByteSize(p.stored), ByteSize(p.bytes));
                format!("{}: {paused}{stored} of {bytes} stored", p.id)
            }
        };
        let idle = p.download_rate == 0 && p.stored < p.bytes || p.state == "metadata";
        let trouble = self.trouble.as_ref().filter(|_| idle);
        let trouble = trouble.map(|text| format!("; {}", plain(text))).unwrap_or_default();
        format!("{done}, {who}{web}{trouble}")
    }
}

fn counted(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(state: &'static str) -> Event {
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
            state: "seeding",
        })
    }

    #[test]
    fn an_import_that_stands_still_says_so_once_a_minute() {
        let begun = Instant::now();
        let mut beat = Heartbeat::new(begun);
        let mut at = |seconds: u64, event: Event| {
            beat.lines(&event, begun + Duration::from_secs(seconds)).join("\n")
        };
        assert_eq!(at(59, progress("importing")), "");
        let text = "tracker http://t: unregistered torrent".to_owned();
        assert_eq!(at(59, Event::Warning { id: None, text }), "");
        let line = "9c4e: 0 B of 390.6 KiB stored, 0 peers; tracker http://t: unregistered torrent";
        assert_eq!(at(60, progress("importing")), line);
        assert_eq!(at(119, progress("importing")), "");
        assert!(
            at(120, progress("metadata"))
                .starts_with("waiting for the torrent's metadata, 0 peers")
        );
    }

    #[test]
    fn seeding_says_what_and_where_and_then_a_line_an_hour() {
        let begun = Instant::now();
        let mut beat = Heartbeat::new(begun);
        let mut at = |seconds: u64, event: Event| {
            beat.lines(&event, begun + Duration::from_secs(seconds)).join("\n")
        };
        let first = "listening on 0.0.0.0:6881\nseeding id1 na\u{fffd}me: 1 MiB";
        assert_eq!(at(0, started(1)), first);
        let told: Vec<String> =
            (2..100).map(|n| at(0, started(n))).filter(|l| !l.is_empty()).collect();
        assert_eq!(told.len(), NAMED);
        assert_eq!(at(3599, progress("seeding")), "");
        assert_eq!(
            at(3600, progress("seeding")),
            "seeding 99 imports: 1 KiB to peers in this run, 0 peers"
        );
        assert_eq!(at(7199, progress("seeding")), "");
    }
}
