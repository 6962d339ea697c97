//! Standard error: log lines, and all other output that is not data.
//!
//! A progress bar occupies the last lines of the terminal, so direct writes would corrupt it. All output to standard
//! error goes through [`Stderr`], which hides the bars, writes, and draws them again.
//!
//! Log lines of other crates below `warn` are dropped unless `RUST_LOG` enables them. Their debug lines show whole
//! URLs, and the URL of a private tracker contains the user's passkey.

use std::{
    fmt,
    io::{self, Write},
    str::FromStr,
    sync::LazyLock,
};

use indicatif::MultiProgress;
use tracing::Metadata;
use tracing_subscriber::{
    EnvFilter, Layer, fmt::MakeWriter, layer::SubscriberExt as _, registry, registry::LookupSpan,
    util::SubscriberInitExt as _,
};

use super::streams::Streams;
use crate::{
    daemon::{LogLevel, LogLines},
    error::{Error, Kind, Result},
};

/// Standard error, shared by log lines, messages and progress bars. Cheap to clone; all clones share the same bars.
#[derive(Debug, Clone, Default)]
pub(super) struct Stderr {
    bars: MultiProgress,
    streams: Streams,
}

impl Stderr {
    /// Of these streams.
    pub(super) fn new(streams: Streams) -> Self {
        Self { bars: MultiProgress::with_draw_target(streams.draw_target()), streams }
    }

    /// The streams that it is a part of.
    pub(super) fn streams(&self) -> &Streams {
        &self.streams
    }

    /// The progress bars; add new ones here.
    #[must_use]
    pub(super) fn bars(&self) -> &MultiProgress {
        &self.bars
    }

    /// Writes one line. Errors are ignored, as standard error may be closed.
    pub(super) fn line(&self, text: impl fmt::Display) {
        let _ = self.write_above_bars(format!("{text}\n").as_bytes());
    }

    /// Writes a prompt without a line end; the answer is typed on the same line.
    pub(super) fn prompt(&self, text: impl fmt::Display) {
        let _ = self.write_above_bars(text.to_string().as_bytes());
    }

    fn write_above_bars(&self, bytes: &[u8]) -> io::Result<()> {
        self.bars.suspend(|| self.streams.write_stderr(bytes))
    }
}

impl Write for Stderr {
    /// The log layer passes one whole line per call.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_above_bars(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum LogFormat {
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl LogFormat {
    pub(super) const NAMES: [&str; 2] = ["text", "json"];
}

impl FromStr for LogFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(Error::new(Kind::InvalidInput, format!("unknown log format {text:?}"))
                .hint(format!("one of {}", Self::NAMES.join(", ")))),
        }
    }
}

/// Sends log lines to `stderr` from now on. A non-empty `RUST_LOG` overrides `verbose` and `quiet`.
///
/// # Errors
/// `InvalidInput` when `RUST_LOG` does not parse; `Internal` on a second call.
pub(super) fn init(stderr: &Stderr, verbose: u8, quiet: bool, format: LogFormat) -> Result<()> {
    let from_env = std::env::var("RUST_LOG").ok().filter(|text| !text.trim().is_empty());
    let directives = from_env.as_deref().unwrap_or_else(|| directives(verbose, quiet));
    // The debug lines of yup_oauth2 contain whole requests and responses of the token server. The last directive for a
    // target wins.
    let filter = EnvFilter::try_new(format!("{directives},{FORCED_DIRECTIVES}")).map_err(|e| {
        Error::new(Kind::InvalidInput, format!("RUST_LOG={directives:?}"))
            .because(e)
            .hint("write it like info, or bae=debug,warn")
    })?;
    let colour = stderr.streams().stderr_is_terminal() && !no_color();
    let lines = tracing_subscriber::fmt::layer().with_writer(stderr.clone()).with_ansi(colour);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    // A filter of these layers alone: it must not hide spans from traces.
    let lines = lines.and_then(kept_lines(log_lines())).with_filter(filter);
    let subscriber = registry().with(lines);
    #[cfg(feature = "otel")]
    let subscriber = subscriber.with(super::traces::layer()?);
    subscriber.try_init().map_err(|e| Error::new(Kind::Internal, "start of logging").because(e))
}

/// The last lines of the log of this process.
pub(super) fn log_lines() -> LogLines {
    static LINES: LazyLock<LogLines> = LazyLock::new(LogLines::default);
    LINES.clone()
}

/// Keeps the messages of the log, without what [`LogLine`](crate::daemon::LogLine) has in fields of its own.
fn kept_lines<S>(lines: LogLines) -> impl Layer<S>
where
    S: tracing::Subscriber + for<'span> LookupSpan<'span>,
{
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).without_time();
    layer.with_level(false).with_target(false).with_writer(KeptLines(lines))
}

/// Makes a writer for each line.
struct KeptLines(LogLines);

/// A line with its level and the module that wrote it.
struct KeptLine {
    lines: LogLines,
    level: LogLevel,
    target: String,
}

impl MakeWriter<'_> for KeptLines {
    type Writer = KeptLine;

    fn make_writer(&self) -> KeptLine {
        KeptLine { lines: self.0.clone(), level: LogLevel::Info, target: String::new() }
    }

    fn make_writer_for(&self, metadata: &Metadata<'_>) -> KeptLine {
        let level = LogLevel::from(*metadata.level());
        KeptLine { lines: self.0.clone(), level, target: metadata.target().to_owned() }
    }
}

impl Write for KeptLine {
    /// The log layer passes one whole line per call.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lines.push(self.level, &self.target, &String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Directives that `RUST_LOG` cannot override. Untrusted certificates are reported by the code that opens the
/// connection.
const FORCED_DIRECTIVES: &str = "rustls_platform_verifier=off,yup_oauth2=warn,yup_oauth2::authenticator=warn,\
                         yup_oauth2::service_account=warn";

fn directives(verbose: u8, quiet: bool) -> &'static str {
    match (quiet, verbose) {
        (true, _) => "error",
        // Credential errors are reported by the caller; aws_config logs the same error first, in hundreds of
        // characters.
        (_, 0) => "warn,aws_config=error",
        (_, 1) => "warn,aws_config=error,bae=info",
        _ => "warn,aws_config=error,bae=debug",
    }
}

/// <https://no-color.org>: set and not empty.
fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_kept_with_the_level_and_module_of_each_line() {
        let lines = LogLines::default();
        let subscriber = tracing_subscriber::registry().with(kept_lines(lines.clone()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(count = 3, "a feed failed");
            tracing::info!("second\u{1b}[31m line");
        });
        let page = lines.page(None, 10, LogLevel::Info);
        let shown: Vec<_> =
            page.lines.iter().map(|line| (line.level, line.text.as_str())).collect();
        assert_eq!(shown[0], (LogLevel::Warn, "a feed failed count=3"));
        assert!(shown.len() == 2 && !shown[1].1.contains('\u{1b}'), "{shown:?}");
        assert_eq!(page.lines[0].target, "bae::cli::telemetry::tests");
    }

    #[test]
    fn every_level_is_valid_and_keeps_other_crates_at_warn() {
        for (verbose, quiet) in [(0, false), (1, false), (2, false), (9, false), (2, true)] {
            let text = directives(verbose, quiet);
            assert!(EnvFilter::try_new(format!("{text},{FORCED_DIRECTIVES}")).is_ok(), "{text}");
            assert!(
                ["warn", "error"].contains(&text.split(',').next().unwrap_or_default()),
                "{text}"
            );
        }
    }
}
