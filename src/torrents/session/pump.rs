//! The background tasks of a session: the pump, and the waker of waiting peers.
//!
//! The pump wakes when libtorrent has alerts, and four times a second. It pops alerts and forwards each to its torrent,
//! requests statuses, and applies the limits of the memory governor. None of its calls waits for the network thread.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{TorrentSession, alerts, settings};
use crate::{
    rate::Rate,
    torrents::picker::governor::{Marks, Sample, SessionLimits},
};

/// Interval of status requests and memory samples.
const TICK: Duration = Duration::from_millis(250);

/// Runs until the session stops.
pub(super) async fn run(session: Arc<TorrentSession>) {
    tokio::select! {
        () = session.stopping.cancelled() => {}
        () = pump(&session) => {}
        () = wake_peers(&session) => {}
    }
}

/// Wakes peers that wait for memory, after each drain of sealed bytes in any writer.
async fn wake_peers(session: &TorrentSession) {
    loop {
        // Before the check, so that no drain is missed.
        let freed = session.pressure.freed();
        session.disk.on_drained();
        freed.await;
    }
}

async fn pump(session: &Arc<TorrentSession>) {
    let mut governor = Governor::new(session);
    let mut tick = tokio::time::interval(TICK);
    loop {
        let ticked = tokio::select! {
            _ = tick.tick() => true,
            () = session.disk.alerts_ready().notified() => false,
        };
        let (mut alerts, mut statuses) = (Vec::new(), Vec::new());
        let popped = session.native.call(|s| s.pop_alerts(&mut alerts, &mut statuses));
        if let Err(e) = popped {
            tracing::error!(error = %e.report(), "cannot read libtorrent's alerts");
        }
        alerts.into_iter().for_each(|alert| alerts::on_alert(session, alert));
        statuses.iter().for_each(|status| alerts::on_status(session, status));
        if ticked {
            if session.listen_failures.lock().take_pause_end(Instant::now()) {
                session.set_listen_addresses(Some(&session.options));
            }
            let _ = session.native.call(|s| s.post_updates());
            governor.govern(session);
        }
    }
}

/// Samples memory for the governor, and applies its limits when they change.
struct Governor {
    marks: Marks,
    drain_rate: Rate,
    started: Instant,
    last: Option<SessionLimits>,
}

impl Governor {
    fn new(session: &TorrentSession) -> Self {
        let marks = Marks::new(session.pool.budget());
        Self { marks, drain_rate: Rate::default(), started: Instant::now(), last: None }
    }

    fn govern(&mut self, session: &TorrentSession) {
        let now = self.started.elapsed().as_secs_f64();
        let limits = self.marks.limits(Sample {
            held: session.pool.level(),
            in_flight: session.pressure.in_flight(),
            drain_rate: self.drain_rate.sample(now, session.pressure.drained()),
        });
        let user_limit = session.limits.lock().download;
        let download_limit = limits.download_limit.into_iter().chain(user_limit).min();
        let limits = SessionLimits { download_limit, ..limits };
        let mut from_peers = 0;
        for torrent in session.disk.registry().all() {
            let received = torrent.received_from_peers();
            torrent.download_limit().sample(now, received);
            from_peers += received;
        }
        session.download_limit.set(limits.download_limit);
        session.download_limit.sample(now, from_peers);
        if self.last == Some(limits) {
            return;
        }
        session.disk.requests().set_blocks(limits.requests);
        let applied =
            session.native.call(|s| s.apply(&settings::download_limit(limits.download_limit)));
        match applied {
            Ok(()) => self.last = Some(limits),
            Err(e) => tracing::warn!(error = %e.report(), "cannot change the download limit"),
        }
    }
}
