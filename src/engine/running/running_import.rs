//! One running import: what its task, its handles and its events share.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::seed_handle::SeedHandle;
use crate::{
    error::{Kind, Result},
    events::{Event, EventLog, EventSink, Imported, Progress},
};

/// The state of a running import.
///
/// ```text
/// Starting -> Running -> Imported | Failed | Cancelled
///     ^          |
///     |          v
///     +------ Pausing -> Paused      (resume leads from both back to Starting)
/// ```
///
/// # Invariants
/// - `Imported`, `Failed` and `Cancelled` are final.
/// - In `Paused` nothing of the import runs: its verified bytes are durable, and its torrent has left the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RunningState {
    /// The source is being resolved.
    Starting,
    /// The import is in the catalog and being filled.
    Running,
    /// Verified bytes are being flushed.
    Pausing,
    Paused,
    Imported,
    Failed,
    /// Stopped by [`ImportHandle::cancel`](super::ImportHandle::cancel), or because the engine was closed.
    Cancelled,
}

impl RunningState {
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Imported | Self::Failed | Self::Cancelled)
    }
}

/// Settings of one import that can change while it runs. Those of the session apply besides them.
///
/// The selection, the layout and the storage cannot change: they decide which objects are being written. Cancel the
/// import, and start it again with the new ones; durable bytes are not fetched again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImportSettings {
    /// Bytes per second from peers or servers; `None` is no limit. Web seeds keep only to the limit of the session.
    pub download_limit: Option<u64>,
    /// Bytes per second to peers; `None` is no limit.
    pub upload_limit: Option<u64>,
    /// Whether to request the pieces of a torrent in order; `None` leaves it as the request had it. Files from servers
    /// are always fetched in order.
    pub sequential: Option<bool>,
}

/// What the callers want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Control {
    Run,
    Pause,
    Cancel,
}

#[derive(Debug)]
pub(in crate::engine) struct RunningImport {
    number: u64,
    log: EventLog,
    state: watch::Sender<RunningState>,
    /// The import's id, once it is in the catalog.
    id: watch::Sender<Option<String>>,
    progress: watch::Sender<Progress>,
    settings: watch::Sender<ImportSettings>,
    control: watch::Sender<Control>,
    /// Stops the current attempt.
    attempt: Mutex<CancellationToken>,
    result: watch::Sender<Option<Result<Imported>>>,
    seeding: Mutex<Option<SeedHandle>>,
}

impl RunningImport {
    pub(in crate::engine) fn new(number: u64, log: EventLog) -> Arc<Self> {
        Arc::new(Self {
            number,
            log,
            state: watch::Sender::new(RunningState::Starting),
            id: watch::Sender::new(None),
            progress: watch::Sender::new(Progress::default()),
            settings: watch::Sender::new(ImportSettings::default()),
            control: watch::Sender::new(Control::Run),
            attempt: Mutex::default(),
            result: watch::Sender::new(None),
            seeding: Mutex::default(),
        })
    }

    pub(in crate::engine) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn log(&self) -> &EventLog {
        &self.log
    }

    /// The sink of this import. Its events also update the state and the progress.
    pub(in crate::engine) fn sink(self: &Arc<Self>) -> EventSink {
        let running = Arc::downgrade(self);
        EventSink::to_log(self.log.clone(), Some(self.number)).observed_by(move |event| {
            if let Some(running) = running.upgrade() {
                running.observe(event);
            }
        })
    }

    fn observe(&self, event: &Event) {
        match event {
            Event::Progress(progress) => drop(self.progress.send_replace(progress.clone())),
            Event::Started(started) => {
                self.set_id(&started.id);
                self.change_state(|state| {
                    (state == RunningState::Starting).then_some(RunningState::Running)
                });
            }
            Event::Imported(imported) => self.set_id(&imported.id),
            _ => {}
        }
    }

    /// Records the import's id, as soon as it is known.
    pub(in crate::engine) fn set_id(&self, id: &str) {
        self.id.send_if_modified(|known| {
            let is_new = known.as_deref() != Some(id);
            if is_new {
                *known = Some(id.to_owned());
            }
            is_new
        });
    }

    pub(super) fn id(&self) -> watch::Receiver<Option<String>> {
        self.id.subscribe()
    }

    pub(super) fn state(&self) -> watch::Receiver<RunningState> {
        self.state.subscribe()
    }

    pub(super) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    pub(super) fn result(&self) -> watch::Receiver<Option<Result<Imported>>> {
        self.result.subscribe()
    }

    pub(in crate::engine) fn settings(&self) -> watch::Receiver<ImportSettings> {
        self.settings.subscribe()
    }

    pub(super) fn change_settings(&self, change: impl FnOnce(&mut ImportSettings)) {
        self.settings.send_modify(change);
    }

    fn change_state(&self, next: impl FnOnce(RunningState) -> Option<RunningState>) {
        self.state.send_if_modified(|state| match next(*state).filter(|next| next != state) {
            Some(next) if !state.is_final() => {
                *state = next;
                true
            }
            _ => false,
        });
    }

    pub(super) fn pause(&self) {
        self.change_control(Control::Run, Control::Pause);
        if *self.control.borrow() != Control::Pause {
            return;
        }
        self.change_state(|state| (state != RunningState::Paused).then_some(RunningState::Pausing));
        self.attempt.lock().cancel();
    }

    pub(super) fn resume(&self) {
        self.change_control(Control::Pause, Control::Run);
    }

    pub(super) fn cancel(&self) {
        self.control.send_replace(Control::Cancel);
        self.attempt.lock().cancel();
        if let Some(seeding) = self.seeding() {
            seeding.stop();
        }
    }

    fn change_control(&self, from: Control, to: Control) {
        self.control.send_if_modified(|control| {
            let changes = *control == from;
            if changes {
                *control = to;
            }
            changes
        });
    }

    /// The token of a new attempt. Cancelled already if the caller wants no attempt any more.
    pub(super) fn begin_attempt(&self, stopping: &CancellationToken) -> CancellationToken {
        let token = stopping.child_token();
        *self.attempt.lock() = token.clone();
        // After the token is in place: a pause from here on cancels it.
        if *self.control.borrow() == Control::Run {
            self.change_state(|_| Some(RunningState::Starting));
        } else {
            token.cancel();
        }
        token
    }

    /// Waits, after an attempt was stopped, until the next one is wanted. Returns false when there is none.
    pub(super) async fn wait_for_resume(&self, stopping: &CancellationToken) -> bool {
        let mut control = self.control.subscribe();
        if *control.borrow() == Control::Pause && !stopping.is_cancelled() {
            self.change_state(|_| Some(RunningState::Paused));
        }
        tokio::select! {
            biased;
            () = stopping.cancelled() => false,
            next = control.wait_for(|control| *control != Control::Pause) => {
                next.is_ok_and(|control| *control == Control::Run)
            }
        }
    }

    pub(super) fn finish(self: &Arc<Self>, result: Result<Imported>) {
        if let Err(error) = &result {
            let id = self.id.borrow().clone();
            self.sink().import_failed(id, error);
        }
        let state = match &result {
            Ok(imported) => {
                self.set_id(&imported.id);
                RunningState::Imported
            }
            Err(e) if e.kind() == Kind::Cancelled => RunningState::Cancelled,
            Err(_) => RunningState::Failed,
        };
        self.change_state(|_| Some(state));
        self.result.send_replace(Some(result));
    }

    pub(super) fn has_ended(&self) -> bool {
        self.result.borrow().is_some()
    }

    /// Records that the import goes on as a member of the seeder.
    pub(in crate::engine) fn set_seeding(&self, seeding: SeedHandle) {
        *self.seeding.lock() = Some(seeding);
    }

    pub(super) fn seeding(&self) -> Option<SeedHandle> {
        self.seeding.lock().clone()
    }
}
