//! The last lines of the daemon's log, for clients that cannot read its standard error.
//!
//! The lines are those of the log itself: the same events, with the same secrets left out. Their number and their bytes are
//! bounded; the oldest are dropped. A line has a number, so that a client continues where it was.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most lines, and most bytes of their texts.
const MAX_LINES: usize = 4000;
const MAX_BYTES: usize = 1 << 20;
/// Longest text of a line in bytes; longer ones are cut.
const MAX_TEXT: usize = 4 << 10;

/// The severity of a line, the most severe first.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<tracing::Level> for LogLevel {
    fn from(level: tracing::Level) -> Self {
        match level {
            tracing::Level::ERROR => Self::Error,
            tracing::Level::WARN => Self::Warn,
            tracing::Level::INFO => Self::Info,
            tracing::Level::DEBUG => Self::Debug,
            _ => Self::Trace,
        }
    }
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct LogLine {
    /// Counts up from 0.
    pub seq: u64,
    /// Seconds since 1970.
    pub time: f64,
    pub level: LogLevel,
    /// The module that wrote it.
    pub target: String,
    pub text: String,
}

/// A part of the log.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct LogPage {
    /// The number to continue from.
    pub next: u64,
    /// Lines from the requested number on that are dropped already, of all levels.
    pub missed: u64,
    pub lines: Vec<LogLine>,
}

/// The last lines of the log. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct LogLines(Arc<Mutex<Ring>>);

#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<LogLine>,
    next: u64,
    bytes: usize,
}

impl LogLines {
    /// Adds a line.
    pub fn push(&self, level: LogLevel, target: &str, text: &str) {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let text = text.trim_end();
        let text = text[..text.floor_char_boundary(MAX_TEXT)].to_owned();
        let mut ring = self.0.lock();
        let seq = ring.next;
        ring.next += 1;
        ring.bytes += text.len();
        ring.lines.push_back(LogLine { seq, time, level, target: target.to_owned(), text });
        while ring.lines.len() > MAX_LINES || ring.bytes > MAX_BYTES {
            let dropped = ring.lines.pop_front().map_or(0, |line| line.text.len());
            ring.bytes -= dropped;
        }
    }

    /// At most `limit` lines of `level` or a more severe one: from number `from` on, or the last ones.
    #[must_use]
    pub fn page(&self, from: Option<u64>, limit: usize, level: LogLevel) -> LogPage {
        let ring = self.0.lock();
        let oldest = ring.lines.front().map_or(ring.next, |line| line.seq);
        let wanted = |line: &&LogLine| line.level <= level;
        let Some(from) = from else {
            let mut lines: Vec<_> =
                ring.lines.iter().rev().filter(wanted).take(limit).cloned().collect();
            lines.reverse();
            return LogPage { next: ring.next, missed: 0, lines };
        };
        let missed = oldest.saturating_sub(from);
        let later = ring.lines.iter().filter(|line| line.seq >= from).filter(wanted);
        let mut lines: Vec<LogLine> = later.take(limit.saturating_add(1)).cloned().collect();
        // The next page begins with the first line that has no room.
        let next = match lines.len() > limit {
            true => lines.pop().map_or(ring.next, |line| line.seq),
            false => ring.next,
        };
        LogPage { next, missed, lines }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(page: &LogPage) -> Vec<&str> {
        page.lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn a_client_reads_the_last_lines_and_continues_from_a_number() {
        let log = LogLines::default();
        for (level, text) in [
            (LogLevel::Info, "a\n"),
            (LogLevel::Warn, "b"),
            (LogLevel::Error, "c"),
            (LogLevel::Debug, "d"),
        ] {
            log.push(level, "bae::queue", text);
        }
        let all = log.page(None, 100, LogLevel::Trace);
        assert_eq!((texts(&all), all.next), (vec!["a", "b", "c", "d"], 4));
        assert_eq!(texts(&log.page(None, 1, LogLevel::Warn)), ["c"]);
        let page = log.page(Some(0), 1, LogLevel::Warn);
        assert_eq!((texts(&page), page.next), (vec!["b"], 2));
        let page = log.page(Some(page.next), 1, LogLevel::Warn);
        assert_eq!((texts(&page), page.next), (vec!["c"], 4));
        let end = log.page(Some(4), 10, LogLevel::Trace);
        assert_eq!((end.lines.len(), end.next, end.missed), (0, 4, 0));
        assert_eq!(log.page(Some(u64::MAX), usize::MAX, LogLevel::Trace).lines.len(), 0);
    }

    #[test]
    fn the_oldest_lines_are_dropped_and_counted_as_missed() {
        let log = LogLines::default();
        (0..MAX_LINES + 10).for_each(|n| log.push(LogLevel::Info, "t", &n.to_string()));
        let page = log.page(Some(3), usize::MAX, LogLevel::Info);
        assert_eq!((page.lines.len(), page.missed, page.lines[0].seq), (MAX_LINES, 7, 10));
        let long = "é".repeat(MAX_TEXT);
        (0..1000).for_each(|_| log.push(LogLevel::Info, "t", &long));
        let page = log.page(None, usize::MAX, LogLevel::Info);
        assert!(page.lines.iter().map(|line| line.text.len()).sum::<usize>() <= MAX_BYTES);
        assert!(page.lines.len() >= MAX_BYTES / MAX_TEXT);
    }
}
