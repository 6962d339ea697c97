//! The only printing: data to standard output, everything else to standard error.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
};

use serde::Serialize;

use super::args::GlobalArgs;
use crate::{
    error::{Error, Kind},
    telemetry::Stderr,
};

/// Why a command ends before it is done.
#[derive(Debug)]
pub(super) enum Failure {
    Error(Error),
    /// An error that was shown already, where it happened.
    Reported(Kind),
    /// Nobody reads our output any more.
    PipeClosed,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::PipeClosed,
            _ => Self::Error(Error::io("standard output", error)),
        }
    }
}

/// Where lines go, and in which form.
#[derive(Debug, Clone)]
pub(super) struct Output {
    stderr: Stderr,
    json: bool,
    quiet: bool,
    verbose: bool,
    /// Standard output carries a file, and nothing else.
    piped: bool,
}

impl Output {
    pub(super) fn new(global: &GlobalArgs, stderr: Stderr) -> Self {
        let GlobalArgs { json, quiet, verbose, .. } = *global;
        Self { stderr, json, quiet, verbose: verbose > 0, piped: false }
    }

    /// The same, with everything but a file's bytes on standard error.
    pub(super) fn piped(&self) -> Self {
        Self { piped: true, ..self.clone() }
    }

    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    pub(super) fn is_verbose(&self) -> bool {
        self.verbose && !self.quiet
    }

    pub(super) fn stderr(&self) -> &Stderr {
        &self.stderr
    }

    /// Whether progress bars have a place to be.
    pub(super) fn shows_bars(&self) -> bool {
        !self.json && !self.quiet && io::stderr().is_terminal()
    }

    /// Whether there is somebody to answer a question.
    pub(super) fn can_ask(&self) -> bool {
        !self.json && io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Bytes as they are.
    pub(super) fn raw(&self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.raw_io(bytes)?)
    }

    /// The same for whoever has an error of their own to make of it.
    pub(super) fn raw_io(&self, bytes: &[u8]) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        stdout.flush()
    }

    /// One line of data.
    pub(super) fn line(&self, text: impl Display) -> Result<(), Failure> {
        self.raw(format!("{text}\n").as_bytes())
    }

    /// One line of data that says how a command ended: not with `--quiet`.
    pub(super) fn done(&self, text: impl Display) -> Result<(), Failure> {
        match (self.quiet, self.piped) {
            (true, _) => Ok(()),
            (false, false) => self.line(text),
            (false, true) => {
                self.note(text);
                Ok(())
            }
        }
    }

    /// One JSON object on one line.
    pub(super) fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(value)
            .map_err(|e| Error::new(Kind::Internal, "a report as JSON").because(e))?;
        self.line(text)
    }

    /// A line for the person at the terminal.
    pub(super) fn note(&self, text: impl Display) {
        if !self.quiet {
            self.stderr.line(text);
        }
    }

    /// What went wrong and what to do, on standard error; with `--json` on standard output too.
    pub(super) fn error(&self, error: &Error) {
        self.stderr.line(format_args!("bae: {}", plain(&error.report())));
        if let Some(hint) = error.hint_text() {
            self.stderr.line(format_args!("hint: {}", plain(hint)));
        }
        if self.json {
            let line = ErrorLine {
                event: "error",
                kind: kind_name(error.kind()),
                error: error.report(),
                hint: error.hint_text(),
            };
            // The error is told on standard error whatever became of standard output.
            let _ = self.json(&line);
        }
    }

    /// Asks a yes-or-no question; anything but yes is no. Waits for the answer on a thread of its own.
    pub(super) async fn ask(&self, question: &str) -> io::Result<bool> {
        self.stderr.prompt(format_args!("{question} [y/N] "));
        let answer = tokio::task::spawn_blocking(|| {
            let mut answer = String::new();
            io::stdin().read_line(&mut answer).map(|_| answer)
        });
        let answer = answer.await.map_err(io::Error::other)??;
        Ok(["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()))
    }
}

/// The event of a command line that cannot be understood. `text` is what clap says of it.
pub(super) fn usage_as_json(text: &str) {
    let said = text.split("\n\nUsage:").next().unwrap_or_default();
    let words: Vec<_> = said.split_whitespace().collect();
    let error = words.join(" ").trim_start_matches("error: ").to_owned();
    let kind = kind_name(Kind::InvalidInput);
    let line = ErrorLine { event: "error", kind, error, hint: Some("see --help") };
    if let Ok(json) = serde_json::to_string(&line) {
        // It is told on standard error whatever became of standard output.
        let _ = io::stdout().lock().write_all(format!("{json}\n").as_bytes());
    }
}

#[derive(Serialize)]
struct ErrorLine<'a> {
    event: &'static str,
    kind: String,
    error: String,
    hint: Option<&'a str>,
}

/// `NotFound` as `not_found`.
pub(super) fn kind_name(kind: Kind) -> String {
    let mut name = String::new();
    for c in format!("{kind:?}").chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_lowercase());
    }
    name
}

/// `text` without characters that would move the cursor or end the line: names come from strangers' torrents.
pub(super) fn plain(text: &str) -> String {
    let harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if harmful(c) { '\u{fffd}' } else { c }).collect()
}

/// How a column stands under its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// Lines of aligned columns. The last column is not padded: it is the place for names, whose width on screen nobody knows.
pub(super) fn table(columns: &[(&str, Align)], rows: &[Vec<String>]) -> Vec<String> {
    let head: Vec<String> = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
    let all = || std::iter::once(&head).chain(rows);
    let width =
        |at: usize| all().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns.len()).map(|at| width(at).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let mut text = String::new();
        for (at, ((cell, (_, align)), width)) in row.iter().zip(columns).zip(&widths).enumerate() {
            let width = *width;
            text.push_str(&match align {
                Align::Right => format!("{cell:>width$}"),
                Align::Left if at + 1 == columns.len() => cell.clone(),
                Align::Left => format!("{cell:<width$}"),
            });
            text.push_str("  ");
        }
        text.trim_end().to_owned()
    };
    all().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_the_last_is_as_long_as_it_likes() {
        let columns = [("ID", Align::Left), ("SIZE", Align::Right), ("NAME", Align::Left)];
        let rows = [["9c4e", "1 GiB", "a long name"], ["1", "512 B", "b"]];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(
            table(&columns, &rows),
            ["ID     SIZE  NAME", "9c4e  1 GiB  a long name", "1     512 B  b"]
        );
    }

    #[test]
    fn a_name_cannot_move_the_cursor_or_hide_its_end() {
        assert_eq!(
            plain("a\x1b[2Jb\nc\u{202e}gpj.exe é漢"),
            "a\u{fffd}[2Jb\u{fffd}c\u{fffd}gpj.exe é漢"
        );
    }

    #[test]
    fn kinds_are_named_in_snake_case() {
        assert_eq!(kind_name(Kind::NotFound), "not_found");
        assert_eq!(kind_name(Kind::Corrupt), "corrupt");
    }
}
