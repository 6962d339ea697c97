//! The event log: numbers every event, keeps the last ones for a while, and lets any number of readers follow.
//!
//! A sender takes a lock for a few map operations and never waits for a reader. A reader has only a position. It starts
//! at the next event, or at the number of an event that it saw before (replay). The log is bounded by count and by
//! bytes, so a reader that is too slow loses events: it gets [`Lagged`] with the numbers it missed, and continues.
//!
//! # Invariants
//! - Numbers start at 1 and increase by 1 with each event.
//! - Progress events have a separate share of the limits ([`LogLimits`]), and never displace other events. When that
//!   share is half full, new progress of an import replaces the older one. Slower readers do not get the older one.
//! - All other events are removed oldest first, and only then does a reader lag.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem::size_of,
    sync::Arc,
    time::SystemTime,
};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Event, EventSink};

/// How much a log keeps: of progress and of all other events each half of this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// Number of events.
    pub events: usize,
    /// Approximate memory in bytes.
    pub bytes: usize,
}

impl Default for LogLimits {
    /// 4,096 events in at most 4 MiB: 10 minutes of 10 imports with a notice a second each.
    fn default() -> Self {
        Self { events: 4096, bytes: 4 << 20 }
    }
}

/// One event of the log.
#[derive(Debug, Clone)]
pub struct LoggedEvent {
    /// Its number in this log, from 1.
    pub seq: u64,
    pub time: SystemTime,
    /// The number of the handle of the import or of seeding that it belongs to. An event of an import that is not in
    /// the catalog yet has only this.
    pub handle: Option<u64>,
    pub event: Arc<Event>,
}

// ANCHOR: lagged
/// Events were removed from the log before the reader got to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lagged {
    /// How many numbers the reader missed. Some may have been progress that was replaced.
    pub missed: u64,
    /// The number at which the reader continues.
    pub next: u64,
}
// ANCHOR_END: lagged

/// The log of one engine. Clones share it.
#[derive(Debug, Clone)]
pub struct EventLog {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    ring: Mutex<Ring>,
    /// The number of the next event. Wakes the readers.
    next: watch::Sender<u64>,
}

impl Default for EventLog {
    fn default() -> Self {
        Self::new(LogLimits::default())
    }
}

impl EventLog {
    #[must_use]
    pub fn new(limits: LogLimits) -> Self {
        let shared = Shared { ring: Mutex::new(Ring::new(limits)), next: watch::Sender::new(1) };
        Self { shared: Arc::new(shared) }
    }

    /// A sink whose events belong to no handle.
    #[must_use]
    pub fn sink(&self) -> EventSink {
        EventSink::to_log(self.clone(), None)
    }

    /// Appends an event. Never waits for a reader.
    pub fn send(&self, event: Event) {
        self.send_from(event, None);
    }

    pub(super) fn send_from(&self, event: Event, handle: Option<u64>) {
        let next = self.shared.ring.lock().push(event, handle, SystemTime::now());
        // A later sender may have been faster: the number never decreases.
        self.shared.next.send_if_modified(|known| {
            let later = next > *known;
            *known = (*known).max(next);
            later
        });
    }

    /// A reader of the events from now on.
    #[must_use]
    pub fn subscribe(&self) -> EventReader {
        let position = self.shared.ring.lock().next;
        self.reader(position)
    }

    /// A reader that starts at the event `seq`. If that is no longer kept, the reader first gets [`Lagged`].
    #[must_use]
    pub fn replay_from(&self, seq: u64) -> EventReader {
        self.reader(seq.max(1))
    }

    /// The number of the next event.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.shared.ring.lock().next
    }

    fn reader(&self, position: u64) -> EventReader {
        let arrivals = self.shared.next.subscribe();
        EventReader { log: self.clone(), position, arrivals, handle: None }
    }
}

/// A position in an [`EventLog`].
#[derive(Debug, Clone)]
pub struct EventReader {
    log: EventLog,
    position: u64,
    arrivals: watch::Receiver<u64>,
    /// Only events of this handle.
    handle: Option<u64>,
}

impl EventReader {
    /// Leaves out the events of all other handles.
    #[must_use]
    pub fn only_handle(self, handle: u64) -> Self {
        Self { handle: Some(handle), ..self }
    }

    /// The number from which another reader would continue like this one.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Waits for the next event. Cancel safe.
    ///
    /// # Errors
    /// [`Lagged`], once, when events were removed before the reader got to them. The next call continues behind them.
    pub async fn next(&mut self) -> Result<LoggedEvent, Lagged> {
        loop {
            // Marked as seen before the ring is read, so that an event that arrives in between wakes the reader.
            self.arrivals.borrow_and_update();
            if let Some(next) = self.try_next() {
                return next;
            }
            // This cannot fail: the reader keeps the log, and with it the sender.
            let _ = self.arrivals.changed().await;
        }
    }

    /// The next event, if there is one already.
    pub fn try_next(&mut self) -> Option<Result<LoggedEvent, Lagged>> {
        let ring = self.log.shared.ring.lock();
        if self.position <= ring.removed_through {
            let next = ring.removed_through + 1;
            let missed = next - self.position;
            self.position = next;
            return Some(Err(Lagged { missed, next }));
        }
        let is_wanted = |event: &LoggedEvent| self.handle.is_none() || self.handle == event.handle;
        let mut rest = ring.events.range(self.position..).map(|(_, kept)| &kept.event);
        let found = rest.find(|event| is_wanted(event)).cloned();
        self.position = found.as_ref().map_or(ring.next.max(self.position), |event| event.seq + 1);
        found.map(Ok)
    }
}

/// An event and the memory that it takes.
#[derive(Debug)]
struct Kept {
    event: LoggedEvent,
    bytes: usize,
}

/// What progress is about: an import or file, or a handle without an import.
type Subject = (Option<u64>, String);

#[derive(Debug)]
struct Ring {
    /// Of each of the two kinds.
    limits: LogLimits,
    next: u64,
    /// All events up to this number are removed. Only progress may be missing above it.
    removed_through: u64,
    events: BTreeMap<u64, Kept>,
    /// Bytes of events that are no progress.
    bytes: usize,
    progress: BTreeSet<u64>,
    progress_bytes: usize,
    latest: HashMap<Subject, u64>,
}

impl Ring {
    fn new(limits: LogLimits) -> Self {
        let limits = LogLimits { events: (limits.events / 2).max(1), bytes: limits.bytes / 2 };
        Self {
            limits,
            next: 1,
            removed_through: 0,
            events: BTreeMap::new(),
            bytes: 0,
            progress: BTreeSet::new(),
            progress_bytes: 0,
            latest: HashMap::new(),
        }
    }

    /// Returns the number of the next event.
    fn push(&mut self, event: Event, handle: Option<u64>, time: SystemTime) -> u64 {
        let seq = self.next;
        self.next += 1;
        let bytes = size_of::<Kept>() + size_of::<Event>() + event.text_len();
        let subject = event.progress_subject().map(|subject| (handle, subject.to_owned()));
        let event = LoggedEvent { seq, time, handle, event: Arc::new(event) };
        match subject {
            Some(subject) => self.add_progress(seq, subject, bytes),
            None => self.bytes += bytes,
        }
        self.events.insert(seq, Kept { event, bytes });
        self.shrink();
        self.next
    }

    fn add_progress(&mut self, seq: u64, subject: Subject, bytes: usize) {
        let is_hot = self.progress.len() * 2 >= self.limits.events
            || self.progress_bytes * 2 >= self.limits.bytes;
        let before = self.latest.insert(subject, seq);
        if let Some(before) = before.filter(|_| is_hot) {
            self.remove_progress(before);
        }
        self.progress.insert(seq);
        self.progress_bytes += bytes;
    }

    fn remove_progress(&mut self, seq: u64) {
        if !self.progress.remove(&seq) {
            return;
        }
        let Some(kept) = self.events.remove(&seq) else { return };
        self.progress_bytes -= kept.bytes;
        if let Some(subject) = kept.event.event.progress_subject() {
            let subject = (kept.event.handle, subject.to_owned());
            if self.latest.get(&subject) == Some(&seq) {
                self.latest.remove(&subject);
            }
        }
    }

    /// Removes what exceeds the limits.
    fn shrink(&mut self) {
        while self.progress.len() > self.limits.events || self.progress_bytes > self.limits.bytes {
            let Some(&oldest) = self.progress.first() else { break };
            self.remove_progress(oldest);
        }
        while self.events.len() - self.progress.len() > self.limits.events
            || self.bytes > self.limits.bytes
        {
            if !self.remove_oldest() {
                break;
            }
        }
    }

    /// Removes the oldest event that is no progress, and the progress before it. Returns whether there was one.
    fn remove_oldest(&mut self) -> bool {
        while let Some((&seq, _)) = self.events.first_key_value() {
            if self.progress.contains(&seq) {
                self.remove_progress(seq);
                continue;
            }
            if let Some(kept) = self.events.remove(&seq) {
                self.bytes -= kept.bytes;
            }
            self.removed_through = seq;
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Progress, *};

    fn notice(n: u64) -> Event {
        Event::Notice { id: None, text: n.to_string() }
    }

    fn progress(id: &str, stored: u64) -> Event {
        Event::Progress(Progress { id: id.to_owned(), stored, ..Progress::default() })
    }

    fn small(events: usize) -> EventLog {
        EventLog::new(LogLimits { events, bytes: 1 << 20 })
    }

    /// The numbers of all events that the reader gets now.
    fn seqs(reader: &mut EventReader) -> Vec<u64> {
        std::iter::from_fn(|| reader.try_next()).filter_map(Result::ok).map(|e| e.seq).collect()
    }

    #[test]
    fn events_are_numbered_from_1_and_each_reader_gets_them_from_its_own_start() {
        let log = EventLog::default();
        let mut all = log.subscribe();
        log.send(notice(1));
        let mut late = log.subscribe();
        log.send(notice(2));
        assert_eq!(seqs(&mut all), [1, 2]);
        assert_eq!(seqs(&mut late), [2]);
        assert_eq!(seqs(&mut log.replay_from(2)), [2]);
        assert_eq!(seqs(&mut log.replay_from(0)), [1, 2]);
        assert_eq!(log.next_seq(), 3);
        log.send(notice(3));
        assert_eq!(seqs(&mut all), [3]);
    }

    #[test]
    fn a_slow_reader_gets_the_numbers_it_missed_and_continues_behind_them() {
        let log = small(8);
        let mut slow = log.subscribe();
        for n in 0..100 {
            log.send(notice(n));
        }
        assert_eq!(slow.try_next().unwrap().unwrap_err(), Lagged { missed: 96, next: 97 });
        assert_eq!(seqs(&mut slow), [97, 98, 99, 100]);
        assert!(slow.try_next().is_none());
        let replay = log.replay_from(50).try_next().unwrap().unwrap_err();
        assert_eq!(replay, Lagged { missed: 47, next: 97 });
    }

    #[test]
    fn the_log_keeps_within_its_bytes() {
        let log = EventLog::new(LogLimits { events: 1000, bytes: 200_000 });
        let mut reader = log.subscribe();
        for _ in 0..100 {
            log.send(Event::Notice { id: None, text: "x".repeat(10_000) });
        }
        assert!(reader.try_next().unwrap().is_err());
        let kept = seqs(&mut reader).len();
        assert!((1..10).contains(&kept), "{kept} kept");
        let ring = log.shared.ring.lock();
        assert!(ring.bytes <= 100_000 && ring.progress_bytes == 0, "{}", ring.bytes);
    }

    #[test]
    fn progress_displaces_no_other_event_and_the_latest_of_each_import_is_kept() {
        let log = small(8);
        log.send(notice(0));
        let mut reader = log.replay_from(1);
        for n in 0..1000 {
            log.send(progress("a", n));
            log.send(progress("b", n));
        }
        let events: Vec<_> = std::iter::from_fn(|| reader.try_next()).map(Result::unwrap).collect();
        assert!(matches!(*events[0].event, Event::Notice { .. }));
        assert!(events.len() <= 5, "{}", events.len());
        let last = |id: &str| {
            let mut all = events.iter().rev().filter_map(|e| match &*e.event {
                Event::Progress(p) if p.id == id => Some(p.stored),
                _ => None,
            });
            all.next()
        };
        assert_eq!((last("a"), last("b")), (Some(999), Some(999)));
    }

    #[test]
    fn other_events_leave_room_for_progress() {
        let log = small(8);
        (0..100).for_each(|n| log.send(notice(n)));
        let mut reader = log.subscribe();
        log.send(progress("a", 1));
        assert_eq!(seqs(&mut reader), [101]);
    }

    #[test]
    fn a_reader_of_one_handle_gets_only_its_events() {
        let log = EventLog::default();
        let mut of_two = log.subscribe().only_handle(2);
        log.send_from(notice(1), Some(1));
        log.send_from(notice(2), Some(2));
        log.send(notice(3));
        assert_eq!(seqs(&mut of_two), [2]);
        assert_eq!(of_two.position(), 4);
    }

    #[tokio::test]
    async fn a_waiting_reader_is_woken_by_the_next_event() {
        let log = EventLog::default();
        let mut reader = log.subscribe();
        let waiting = tokio::spawn(async move { reader.next().await.unwrap().seq });
        tokio::task::yield_now().await;
        log.send(notice(1));
        assert_eq!(waiting.await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_sender_is_not_slowed_by_readers_that_do_not_read() {
        let log = small(64);
        let mut idle: Vec<_> = (0..100).map(|_| log.subscribe()).collect();
        for n in 0..10_000 {
            log.send(notice(n));
        }
        for reader in &mut idle {
            assert_eq!(reader.next().await.unwrap_err(), Lagged { missed: 9968, next: 9969 });
            assert_eq!(reader.next().await.unwrap().seq, 9969);
        }
        assert!(log.shared.ring.lock().events.len() <= 64);
    }
}
