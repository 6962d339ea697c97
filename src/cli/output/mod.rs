//! All printing of the CLI: data to standard output, everything else to standard error.

pub(super) mod fetch_progress;
pub(super) mod heartbeat;
pub(super) mod progress;
pub(super) mod wording;

use std::{
    fmt::Display,
    io::{self, Write},
};

use serde::Serialize;

use crate::{
    cli::{streams::Streams, telemetry::Stderr},
    error::{Error, Kind},
    events::{Event, Failed},
};

/// Why a command ended early.
#[derive(Debug)]
pub(super) enum Failure {
    Error(Error),
    /// An error that was already printed.
    Reported(Kind),
    /// The reader of standard output closed the pipe.
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
            _ => Self::Error(Error::io("cannot write to standard output", error)),
        }
    }
}

/// What is printed, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct OutputOptions {
    /// One JSON object per line.
    pub(super) json: bool,
    /// Errors only.
    pub(super) quiet: bool,
    /// Notices too.
    pub(super) verbose: bool,
}

/// The output streams and the output format.
#[derive(Debug, Clone)]
pub(super) struct Output {
    stderr: Stderr,
    options: OutputOptions,
    /// Standard output carries the bytes of a file and nothing else.
    stdout_is_data: bool,
}

impl Output {
    pub(super) fn new(options: OutputOptions, stderr: Stderr) -> Self {
        Self { stderr, options, stdout_is_data: false }
    }

    /// A copy with result lines on standard error, because standard output carries the bytes of a file.
    pub(super) fn with_results_on_stderr(&self) -> Self {
        Self { stdout_is_data: true, ..self.clone() }
    }

    pub(super) fn is_json(&self) -> bool {
        self.options.json
    }

    pub(super) fn is_verbose(&self) -> bool {
        self.options.verbose && !self.options.quiet
    }

    pub(super) fn stderr(&self) -> &Stderr {
        &self.stderr
    }

    pub(super) fn streams(&self) -> &Streams {
        self.stderr.streams()
    }

    /// Whether progress bars are shown: standard error is a terminal, without `--json` and `--quiet`.
    pub(super) fn shows_bars(&self) -> bool {
        !self.options.json && !self.options.quiet && self.streams().stderr_is_terminal()
    }

    /// Whether a prompt can be answered: standard input and standard error are terminals, without `--json`.
    pub(super) fn can_prompt(&self) -> bool {
        !self.options.json
            && self.streams().stdin_is_terminal()
            && self.streams().stderr_is_terminal()
    }

    /// Writes bytes unchanged to standard output.
    pub(super) fn raw(&self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.raw_io(bytes)?)
    }

    /// As [`Self::raw`], for callers that handle the I/O error themselves.
    pub(super) fn raw_io(&self, bytes: &[u8]) -> io::Result<()> {
        self.streams().write_stdout(bytes)
    }

    /// Writes one line of data.
    pub(super) fn line(&self, text: impl Display) -> Result<(), Failure> {
        self.raw(format!("{text}\n").as_bytes())
    }

    /// Writes the result line of a command, unless `--quiet` is given.
    pub(super) fn result(&self, text: impl Display) -> Result<(), Failure> {
        match (self.options.quiet, self.stdout_is_data) {
            (true, _) => Ok(()),
            (false, false) => self.line(text),
            (false, true) => {
                self.note(text);
                Ok(())
            }
        }
    }

    /// Writes one JSON object on one line.
    pub(super) fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(value)
            .map_err(|e| Error::new(Kind::Internal, "cannot encode a report as JSON").because(e))?;
        self.line(text)
    }

    /// Writes a message for the user to standard error, unless `--quiet` is given.
    pub(super) fn note(&self, text: impl Display) {
        if !self.options.quiet {
            self.stderr.line(text);
        }
    }

    /// Prints an error and its hint on standard error; with `--json` on standard output too.
    pub(super) fn error(&self, error: &Error) {
        self.stderr.line(format_args!("bae: {}", sanitize(&error.report())));
        let hint = wording::hint_of(error);
        if let Some(hint) = &hint {
            self.stderr.line(format_args!("hint: {}", sanitize(hint)));
        }
        if self.options.json {
            let failed = Failed { hint: hint.map(Into::into), ..Failed::from(error) };
            // Ignored: the error is already on standard error.
            let _ = self.json(&Event::Failed(failed));
        }
    }

    /// Prompts for yes or no; any answer but yes counts as no. Reads the answer on a blocking thread.
    pub(super) async fn confirm(&self, question: &str) -> io::Result<bool> {
        self.stderr.prompt(format_args!("{question} [y/N] "));
        let streams = self.streams().clone();
        let answer = tokio::task::spawn_blocking(move || streams.read_line());
        let answer = answer.await.map_err(io::Error::other)??;
        Ok(["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()))
    }
}

/// Prints a usage error as a JSON event. `text` is clap's message.
pub(super) fn print_usage_error_json(text: &str) {
    let message = text.split("\n\nUsage:").next().unwrap_or_default();
    let words: Vec<_> = message.split_whitespace().collect();
    let error = words.join(" ").trim_start_matches("error: ").to_owned();
    let error = Error::new(Kind::InvalidInput, error).hint("see --help");
    if let Ok(json) = serde_json::to_string(&Event::Failed(Failed::from(&error))) {
        // Ignored: the error is already on standard error.
        let _ = io::stdout().lock().write_all(format!("{json}\n").as_bytes());
    }
}

/// Replaces characters that move the cursor, end the line or change the writing direction. Names come from untrusted
/// torrents.
pub(super) fn sanitize(text: &str) -> String {
    let harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if harmful(c) { '\u{fffd}' } else { c }).collect()
}

/// Alignment of a column and its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// Formats rows as aligned columns. The last column is not padded: it holds names, whose width on screen is unknown.
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
    fn columns_are_aligned_and_the_last_is_not_padded() {
        let columns = [("ID", Align::Left), ("SIZE", Align::Right), ("NAME", Align::Left)];
        let rows = [["9c4e", "1 GiB", "a long name"], ["1", "512 B", "b"]];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(
            table(&columns, &rows),
            ["ID     SIZE  NAME", "9c4e  1 GiB  a long name", "1     512 B  b"]
        );
    }

    #[test]
    fn control_and_direction_characters_are_replaced() {
        assert_eq!(
            sanitize("a\x1b[2Jb\nc\u{202e}gpj.exe é漢"),
            "a\u{fffd}[2Jb\u{fffd}c\u{fffd}gpj.exe é漢"
        );
    }
}
