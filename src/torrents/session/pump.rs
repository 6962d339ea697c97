//! The pump: pops libtorrent's alerts and forwards each to its torrent, requests statuses, and applies the limits of the
//! memory governor.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Status, TorrentEvent, TorrentSession, settings, udp_tracker};
use crate::{
    rate::Rate,
    redact,
    torrents::{
        disk::ffi::{AlertInfo, AlertKind, TorrentStatus},
        picker::governor::{Marks, Sample, SessionLimits},
    },
};

/// Interval of status requests and memory samples.
const TICK: Duration = Duration::from_millis(250);

/// Bytes per second that web seeds always get, even while peers use the whole limit, so that a running request still
/// shows whether its server answers.
const MIN_WEB_SEED_RATE: u64 = 1024;

/// The most tracker messages that are remembered.
const MAX_TRACKER_MESSAGES: usize = 1000;

/// Wakes when libtorrent has alerts, and every [`TICK`].
pub(super) async fn pump(session: Arc<TorrentSession>) {
    let mut governor = Governor::new(&session);
    let mut tick = tokio::time::interval(TICK);
    loop {
        let ticked = tokio::select! {
            () = session.stopping.cancelled() => return,
            _ = tick.tick() => true,
            () = session.disk.alerts_ready().notified() => false,
        };
        let (mut alerts, mut statuses) = (Vec::new(), Vec::new());
        let popped = session.call(|s| s.get_mut().pop_alerts(&mut alerts, &mut statuses));
        if let Err(e) = popped {
            tracing::error!(error = %e.report(), "cannot read libtorrent's alerts");
        }
        alerts.into_iter().for_each(|a| match a.kind {
            AlertKind::TrackerError if !a.data.is_empty() => query_tracker_message(&session, a),
            _ => forward_alert(&session, a),
        });
        statuses.iter().for_each(|s| forward_status(&session, s));
        if ticked {
            if session.listen_failures.lock().take_pause_end(Instant::now()) {
                session.set_listen_addresses(Some(&session.options));
            }
            let _ = session.call(|s| s.get_mut().post_updates());
            governor.govern(&session);
        }
    }
}

/// Forwards a refusal once the tracker's message is known. The tracker is queried once per torrent.
fn query_tracker_message(session: &Arc<TorrentSession>, mut alert: AlertInfo) {
    let key = (alert.torrent, alert.url.clone());
    let known = session.tracker_messages.lock().get(&key).cloned();
    if let Some(message) = known {
        alert.text = message;
        return forward_alert(session, alert);
    }
    let session = Arc::clone(session);
    tokio::spawn(async move {
        let message = udp_tracker::refusal(&alert.url, &alert.data, &session.options).await;
        if let Some(message) = message.filter(|message| !message.is_empty()) {
            alert.text = message;
        }
        let mut known = session.tracker_messages.lock();
        if known.len() < MAX_TRACKER_MESSAGES {
            known.insert(key, alert.text.clone());
        }
        drop(known);
        forward_alert(&session, alert);
    });
}

fn forward_alert(session: &TorrentSession, alert: AlertInfo) {
    let event = match alert.kind {
        AlertKind::Listening => {
            let mut addresses = session.listen_addresses.lock();
            // The same again, after a pause of listening.
            if !addresses.contains(&alert.text) {
                addresses.push(alert.text);
            }
            drop(addresses);
            return session.listening.notify_waiters();
        }
        AlertKind::ListenFailed => return session.on_listen_failure(&alert.text),
        AlertKind::Metadata => TorrentEvent::Metadata(alert.data),
        AlertKind::TrackerError => TorrentEvent::TrackerFailed {
            tracker: redact::tracker_origin(&alert.url),
            text: redact::tracker_message(&alert.url, &alert.text),
        },
        AlertKind::TrackerReply => TorrentEvent::TrackerAnswered {
            tracker: redact::tracker_origin(&alert.url),
            peers: alert.text,
        },
        AlertKind::TrackerWarning => TorrentEvent::NonFatal(format!(
            "tracker {} warns: {}",
            redact::tracker_origin(&alert.url),
            redact::tracker_message(&alert.url, &alert.text)
        )),
        AlertKind::NonFatalError => TorrentEvent::NonFatal(alert.text),
        AlertKind::TorrentError => TorrentEvent::Failed(alert.text),
        _ => return,
    };
    if let Some(sender) = session.event_senders.lock().get(&alert.torrent) {
        // Sending fails when the torrent's owner is gone and the torrent is being removed.
        let _ = sender.send(event);
    }
}

fn forward_status(session: &TorrentSession, status: &TorrentStatus) {
    let status_event = Status {
        downloaded: status.downloaded,
        uploaded: status.uploaded,
        upload_rate: status.upload_rate,
        peers: status.peers as usize,
        seeds: status.seeds as usize,
        paused: status.paused,
    };
    if let Some(sender) = session.event_senders.lock().get(&status.torrent) {
        let _ = sender.send(TorrentEvent::Status(status_event));
    }
}

/// Samples memory for the governor, and applies its limits when they change.
struct Governor {
    marks: Marks,
    drain_rate: Rate,
    /// The rate at which peers send.
    peer_rate: Rate,
    started: Instant,
    last: Option<SessionLimits>,
}

impl Governor {
    fn new(session: &TorrentSession) -> Self {
        let marks = Marks::new(session.pool.budget());
        let (drain_rate, peer_rate) = (Rate::default(), Rate::default());
        Self { marks, drain_rate, peer_rate, started: Instant::now(), last: None }
    }

    fn govern(&mut self, session: &TorrentSession) {
        session.on_drained();
        let limits = self.marks.limits(Sample {
            held: session.pool.level(),
            in_flight: session.pressure.in_flight(),
            drain_rate: self
                .drain_rate
                .sample(self.started.elapsed().as_secs_f64(), session.pressure.drained()),
        });
        let user_limit = session.limits.lock().download;
        let download_limit = limits.download_limit.into_iter().chain(user_limit).min();
        let limits = SessionLimits { download_limit, ..limits };
        // Web seeds get what peers leave of the limit, so that both keep to it together.
        let received =
            session.disk.registry().all().iter().map(|t| t.received_from_peers()).sum::<u64>();
        let peer_rate = self.peer_rate.sample(self.started.elapsed().as_secs_f64(), received);
        let remaining = |limit: u64| limit.saturating_sub(peer_rate).max(MIN_WEB_SEED_RATE);
        session.web_limit.set(limits.download_limit.map(remaining));
        if self.last == Some(limits) {
            return;
        }
        let applied = session.call(|s| {
            s.get().set_requests(limits.requests);
            s.get_mut().apply(&settings::download_limit(limits.download_limit))
        });
        match applied {
            Ok(()) => self.last = Some(limits),
            Err(e) => tracing::warn!(error = %e.report(), "cannot change the download limit"),
        }
    }
}
