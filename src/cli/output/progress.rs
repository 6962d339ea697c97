//! Progress output: a bar on a terminal, every event with `--json`, first and last lines with `-v`, and periodic status
//! lines without a terminal.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    future::Future,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::{sync::mpsc::UnboundedReceiver, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Failure, Output, fetch_progress, heartbeat::Heartbeat, sanitize, wording};
use crate::{
    engine::ProgressFn,
    events::{Activity, Event, EventReader, Fetching, Imported, Lagged, Progress, Started},
    hints::Hint,
    units::{ByteSize, pluralize},
};

/// Prints events.
pub(super) struct Reporter {
    out: Output,
    bars: HashMap<String, ProgressBar>,
    heartbeat: Heartbeat,
    /// Warnings already printed: one tracker may send the same warning for many imports.
    warned: HashSet<String>,
}

/// The events of a command.
pub(in crate::cli) enum Events {
    /// Of `get`, which has no engine.
    Channel(UnboundedReceiver<Event>),
    Log(EventReader),
}

impl Events {
    /// Waits for the next event; `None` when no more can come. Cancel safe.
    async fn next(&mut self) -> Option<Result<Arc<Event>, Lagged>> {
        match self {
            Self::Channel(receiver) => receiver.recv().await.map(|event| Ok(Arc::new(event))),
            Self::Log(reader) => Some(reader.next().await.map(|logged| logged.event)),
        }
    }

    fn try_next(&mut self) -> Option<Result<Arc<Event>, Lagged>> {
        match self {
            Self::Channel(receiver) => receiver.try_recv().ok().map(|event| Ok(Arc::new(event))),
            Self::Log(reader) => Some(reader.try_next()?.map(|logged| logged.event)),
        }
    }
}

impl From<UnboundedReceiver<Event>> for Events {
    fn from(receiver: UnboundedReceiver<Event>) -> Self {
        Self::Channel(receiver)
    }
}

impl From<EventReader> for Events {
    fn from(reader: EventReader) -> Self {
        Self::Log(reader)
    }
}

/// Runs `work` to its end and prints its `events` meanwhile. When standard output is closed, cancels `work` and waits
/// for it; stored data is kept, as after Ctrl-C.
pub(in crate::cli) async fn follow<T>(
    out: &Output,
    events: impl Into<Events>,
    cancel: &CancellationToken,
    work: impl Future<Output = crate::Result<T>>,
) -> Result<T, Failure> {
    let mut events = events.into();
    let mut reporter = Reporter::new(out);
    let mut shown = Ok(());
    let mut work = pin!(work);
    let done = loop {
        // Branches are polled in random order, so that endless events cannot starve the work.
        tokio::select! {
            Some(event) = events.next(), if shown.is_ok() => {
                shown = reporter.show_next(event);
                if shown.is_err() {
                    cancel.cancel();
                }
            }
            done = &mut work => break done,
        }
    };
    while let Some(event) = events.try_next() {
        shown = shown.and_then(|()| reporter.show_next(event));
    }
    reporter.finish();
    match (shown, done) {
        // The work failed and standard output is closed: only the exit code can report it.
        (Err(Failure::PipeClosed), Err(error)) => Err(Failure::Reported(error.kind())),
        (shown, done) => shown.and(done.map_err(Failure::Error)),
    }
}

impl Reporter {
    fn new(out: &Output) -> Self {
        let heartbeat = Heartbeat::new(Instant::now());
        Self { out: out.clone(), bars: HashMap::new(), heartbeat, warned: HashSet::new() }
    }

    fn show_next(&mut self, event: Result<Arc<Event>, Lagged>) -> Result<(), Failure> {
        match event {
            Ok(event) => self.show(&event),
            Err(Lagged { missed, .. }) => {
                let events = pluralize(missed, "event");
                self.out.note(format_args!("output is too slow: {events} are not shown"));
                Ok(())
            }
        }
    }

    fn show(&mut self, event: &Event) -> Result<(), Failure> {
        if self.out.is_json() {
            return json_event(event).map_or(Ok(()), |event| self.out.json(&*event));
        }
        let is_shown_below = self.out.is_verbose() && matches!(event, Event::Started(_));
        if !self.out.shows_bars() && !is_shown_below {
            let lines = self.heartbeat.lines(event, Instant::now());
            lines.iter().for_each(|line| self.out.note(line));
        }
        match event {
            Event::Started(started) => self.started(started),
            Event::Progress(progress) => self.progress(progress),
            Event::Paused { id, error, hint } => {
                let hint = hint
                    .as_ref()
                    .map(|hint| format!("\nhint: {}", sanitize(&wording::hint_text(hint))))
                    .unwrap_or_default();
                self.out.note(format_args!("paused {id}: {}{hint}", sanitize(error)));
            }
            Event::Resumed { id } => self.out.note(format_args!("resumed {id}")),
            Event::Notice { text, .. } => self.notice(text),
            Event::Unreadable { text, hint, .. } => self.notice(&with_hint(text, hint.as_ref())),
            Event::Warning { text, .. } => {
                if self.warned.insert(text.clone()) {
                    self.out.note(sanitize(text));
                }
            }
            Event::Imported(imported) => return self.imported(imported),
            Event::Found(found) if self.out.is_verbose() => {
                self.out.note(fetch_progress::found_text(found));
            }
            Event::Found(_) => {}
            Event::Fetching(file) => self.fetching(file),
            Event::Fetched(file) => {
                if let Some(bar) = self.bars.remove(&file.path) {
                    bar.finish_and_clear();
                }
                return self.out.result(fetch_progress::fetched_text(file));
            }
            // The command prints its errors itself.
            Event::Failed(_) | Event::Download(_) | Event::Feed(_) | Event::Unknown => {}
        }
        Ok(())
    }

    /// Shows a notice with `--verbose`, and on a terminal.
    fn notice(&self, text: &str) {
        if self.out.is_verbose() || self.out.shows_bars() {
            self.out.note(sanitize(text));
        }
    }

    fn started(&mut self, started: &Started) {
        // The bar of the metadata download, which is complete now.
        if let Some(bar) = self.bars.remove("") {
            bar.finish_and_clear();
        }
        if self.out.is_verbose() {
            let Started { id, name, bytes, stored, files, .. } = started;
            let (bytes, stored) = (ByteSize(*bytes), ByteSize(*stored));
            let (name, state) = (sanitize(name), started.state);
            self.out.note(format_args!(
                "{state} {id} {name}: {bytes} in {}, {stored} already stored",
                pluralize(*files, "file")
            ));
            if !started.listening.is_empty() {
                self.out.note(format_args!("listening on {}", started.listening.join(", ")));
            }
        }
        // An import that is stored already is only seeded; its bar appears when a peer connects.
        if self.out.shows_bars() && started.stored < started.bytes {
            self.bar(&started.id, started.bytes).set_position(started.stored);
        }
    }

    fn progress(&mut self, progress: &Progress) {
        let has_bar = self.bars.contains_key(&progress.id) || progress.state != Activity::Seeding;
        if self.out.shows_bars() && (has_bar || progress.peers > 0) {
            let bar = self.bar(&progress.id, progress.bytes);
            bar.set_length(progress.bytes);
            bar.set_position(progress.stored);
            bar.set_message(bar_message(progress));
        }
    }

    fn fetching(&mut self, file: &Fetching) {
        if !self.out.shows_bars() {
            return;
        }
        if fetch_progress::is_finished(file) {
            if let Some(bar) = self.bars.remove(&file.path) {
                bar.finish_and_clear();
            }
            return;
        }
        let bar = self.bar(&file.path, file.bytes.unwrap_or(0));
        bar.set_style(fetch_progress::style(file));
        bar.set_position(file.stored);
        bar.set_message(fetch_progress::bar_message(file));
    }

    /// The bar of one import or file, created on first use.
    fn bar(&mut self, id: &str, len: u64) -> &ProgressBar {
        let bars = self.out.stderr().bars();
        self.bars.entry(id.to_owned()).or_insert_with(|| {
            let bar = bars.add(ProgressBar::new(len));
            bar.set_style(style());
            bar
        })
    }

    fn imported(&mut self, imported: &Imported) -> Result<(), Failure> {
        if let Some(bar) = self.bars.remove(&imported.id) {
            bar.finish_and_clear();
        }
        let Imported { id, name, bytes, files, seconds, .. } = imported;
        let (name, bytes) = (sanitize(name), ByteSize(*bytes));
        let time = short_time(Duration::try_from_secs_f64(*seconds).unwrap_or_default().as_secs());
        let files = pluralize(*files, "file");
        self.out.result(format_args!("imported {id} {name}: {bytes} in {files}, {time}"))
    }

    fn finish(self) {
        self.bars.into_values().for_each(|bar| bar.finish_and_clear());
    }
}

/// The event that `--json` prints, with its hint in the words of the command line.
fn json_event(event: &Event) -> Option<Cow<'_, Event>> {
    match event {
        // The command prints its errors itself.
        Event::Failed(_) => None,
        Event::Paused { id, error, hint } => {
            let hint = hint.as_ref().map(|hint| wording::hint_text(hint).into());
            Some(Cow::Owned(Event::Paused { id: id.clone(), error: error.clone(), hint }))
        }
        Event::Unreadable { id, text, hint } => {
            let text = with_hint(text, hint.as_ref());
            Some(Cow::Owned(Event::Notice { id: id.clone(), text }))
        }
        _ => Some(Cow::Borrowed(event)),
    }
}

/// The text, followed by the hint in the words of the command line.
fn with_hint(text: &str, hint: Option<&Hint>) -> String {
    match hint {
        Some(hint) => format!("{text}; {}", wording::hint_text(hint)),
        None => text.to_owned(),
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{percent:>3}% [{bar:8}] {wide_msg}")
        .expect("the template is a constant and parses")
        .progress_chars("=> ")
}

/// Usually fits a terminal of 80 columns.
fn bar_message(p: &Progress) -> String {
    let rate = |rate: u64| format!("{}/s", ByteSize(rate));
    if p.state == Activity::Metadata {
        return format!("waiting for the torrent's metadata, {}", pluralize(p.peers, "peer"));
    }
    if let Some(trouble) = &p.trouble {
        let stored = format!("{}/{}", ByteSize(p.stored), ByteSize(p.bytes));
        return format!("☁ {stored} waiting to retry: {}", sanitize(trouble));
    }
    let eta = p.eta_seconds.map(|s| format!(" ETA {}", short_time(s))).unwrap_or_default();
    let state = match p.state {
        Activity::Paused => " paused",
        Activity::Seeding => " seeding",
        Activity::Publishing => " publishing",
        _ => "",
    };
    let stored = format!("{}/{}", ByteSize(p.stored), ByteSize(p.bytes));
    let (down, up) = (rate(p.download_rate), rate(p.upload_rate));
    if p.state == Activity::Fetching {
        return format!("↓ {down} ☁ {stored}{eta} {}", pluralize(p.peers, "connection"));
    }
    let web = match p.web_seeds {
        0 => String::new(),
        count => format!(", {}", pluralize(count, "web seed")),
    };
    format!("↓ {down} ☁ {stored} ↑ {up}{eta} {}{web}{state}", pluralize(p.peers, "peer"))
}

/// A duration as `45s`, `3m20s`, `2h05m` or `3d4h`.
pub(in crate::cli) fn short_time(seconds: u64) -> String {
    let (m, h, d) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (d, h, m) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{m}m{:02}s", seconds % 60),
        (0, _, _) => format!("{h}h{:02}m", m % 60),
        _ => format!("{d}d{}h", h % 24),
    }
}

/// A progress bar in bytes for commands without events. The bar disappears when the callback is dropped.
pub(in crate::cli) fn bytes_bar(out: &Output, what: &'static str) -> ProgressFn {
    if !out.shows_bars() {
        return Box::new(|_, _| {});
    }
    let bar = out.stderr().bars().add(ProgressBar::new(0));
    bar.set_style(style());
    let bar = ClearedOnDrop(bar);
    Box::new(move |done, total| {
        bar.0.set_length(total);
        bar.0.set_position(done);
        bar.0.set_message(format!("{what} {} of {}", ByteSize(done), ByteSize(total)));
    })
}

struct ClearedOnDrop(ProgressBar);

impl Drop for ClearedOnDrop {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::{super::OutputOptions, *};
    use crate::{
        cli::telemetry::Stderr,
        error::Kind,
        events::EventSink,
        hints::{Operation, hint},
    };

    #[tokio::test]
    async fn follow_returns_the_result_of_the_work() {
        let options = OutputOptions { json: false, quiet: true, verbose: false };
        let out = Output::new(options, Stderr::default());
        let cancel = CancellationToken::new();
        let (sink, events) = EventSink::channel();
        let work = async move {
            sink.send(Event::Progress(Progress::default()));
            drop(sink);
            tokio::task::yield_now().await;
            Ok(7)
        };
        assert_eq!(follow(&out, events, &cancel, work).await.unwrap(), 7);

        let (_sink, events) = EventSink::channel();
        let work = async { Err::<(), _>(crate::Error::new(Kind::Network, "no response")) };
        let failed = follow(&out, events, &cancel, work).await.unwrap_err();
        assert!(matches!(failed, Failure::Error(e) if e.kind() == Kind::Network));
        assert!(!cancel.is_cancelled());
    }

    #[test]
    fn json_has_hints_in_the_words_of_the_command_line() {
        let (sink, mut events) = EventSink::channel();
        sink.paused("9c4e", &crate::Error::new(Kind::Corrupt, "put k"));
        let event = events.try_recv().unwrap();
        let json = serde_json::to_value(json_event(&event).unwrap()).unwrap();
        assert_eq!(
            json["hint"],
            "`bae storage check` tests every operation that bae needs; \
             verified data is kept, and the import resumes by itself"
        );
        let unreadable =
            crate::Error::new(Kind::Corrupt, "bad").hint(hint!["see ", Operation::Get]);
        sink.unreadable("9c4e", &unreadable);
        let event = events.try_recv().unwrap();
        let json = serde_json::to_string(&json_event(&event).unwrap()).unwrap();
        assert_eq!(json, r#"{"event":"notice","id":"9c4e","text":"bad; see `bae get`"}"#);
        sink.import_failed(None, &crate::Error::new(Kind::Corrupt, "put k"));
        assert!(json_event(&events.try_recv().unwrap()).is_none());
    }

    #[test]
    fn the_bar_shows_rates_stored_bytes_and_peers() {
        let progress = Progress {
            bytes: 1 << 30,
            stored: 512 << 20,
            download_rate: 12 << 20,
            store_rate: 10 << 20,
            upload_rate: 1 << 10,
            peers: 12,
            eta_seconds: Some(80),
            state: Activity::Importing,
            ..Progress::default()
        };
        assert_eq!(
            bar_message(&progress),
            "↓ 12 MiB/s ☁ 512 MiB/1 GiB ↑ 1 KiB/s ETA 1m20s 12 peers"
        );
        let url = Progress { state: Activity::Fetching, ..progress };
        let retrying = Progress { trouble: Some("x: 503".into()), ..url.clone() };
        assert_eq!(bar_message(&retrying), "☁ 512 MiB/1 GiB waiting to retry: x: 503");
        assert_eq!(bar_message(&url), "↓ 12 MiB/s ☁ 512 MiB/1 GiB ETA 1m20s 12 connections");
    }

    #[test]
    fn durations_have_a_short_form() {
        let shown = [5, 65, 3725, 90_000].map(short_time);
        assert_eq!(shown, ["5s", "1m05s", "1h02m", "1d1h"]);
    }
}
