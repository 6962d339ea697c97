//! libtorrent's alerts as events of the torrents that they are about.

use std::sync::Arc;

use super::{Status, TorrentEvent, TorrentSession, udp_tracker};
use crate::{
    redact,
    torrents::disk::ffi::{AlertInfo, AlertKind, TorrentStatus, TrackerFailure},
};

/// The most tracker messages that are remembered.
const MAX_TRACKER_MESSAGES: usize = 1000;

/// Forwards an alert to its torrent. A refusal whose message libtorrent has lost is forwarded once the tracker was
/// queried for it.
pub(super) fn on_alert(session: &Arc<TorrentSession>, mut alert: AlertInfo) {
    if alert.kind == AlertKind::TrackerError {
        if alert.failure == TrackerFailure::Refused && alert.reason.is_empty() {
            return query_tracker_message(session, alert);
        }
        alert.text = tracker_error(&alert);
    }
    forward(session, alert);
}

/// The message about a tracker's failure, without its URL.
fn tracker_error(alert: &AlertInfo) -> String {
    let text = match alert.failure {
        _ if !alert.reason.is_empty() => &alert.reason,
        TrackerFailure::NotBencoded => "the answer is not from a tracker, perhaps a web page",
        _ => &alert.text,
    };
    match alert.failure {
        // The text of an HTTP status says little by itself.
        TrackerFailure::HttpStatus => format!("{} {text}", alert.code),
        _ => text.to_owned(),
    }
}

/// Forwards a refusal once the tracker's message is known. The tracker is queried once per torrent.
fn query_tracker_message(session: &Arc<TorrentSession>, mut alert: AlertInfo) {
    let key = (alert.torrent, alert.url.clone());
    let known = session.tracker_messages.lock().get(&key).cloned();
    if let Some(message) = known {
        alert.text = message;
        return forward(session, alert);
    }
    let session = Arc::clone(session);
    tokio::spawn(async move {
        let message = udp_tracker::refusal(&alert.url, &alert.info_hash, &session.options).await;
        if let Some(message) = message.filter(|message| !message.is_empty()) {
            alert.text = message;
        }
        let mut known = session.tracker_messages.lock();
        if known.len() < MAX_TRACKER_MESSAGES {
            known.insert(key, alert.text.clone());
        }
        drop(known);
        forward(&session, alert);
    });
}

fn forward(session: &TorrentSession, alert: AlertInfo) {
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
        AlertKind::Metadata => TorrentEvent::Metadata,
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
    session.send_event(alert.torrent, event);
}

pub(super) fn on_status(session: &TorrentSession, status: &TorrentStatus) {
    let event = Status {
        downloaded: status.downloaded,
        uploaded: status.uploaded,
        upload_rate: status.upload_rate,
        peers: status.peers as usize,
        seeds: status.seeds as usize,
        paused: status.paused,
    };
    session.send_event(status.torrent, TorrentEvent::Status(event));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_of_a_tracker_comes_before_that_of_libtorrent() {
        let text = |failure, reason: &str| {
            let (text, url) = ("Not Found".to_owned(), "http://t/announce?key=secret".to_owned());
            let (kind, info_hash) = (AlertKind::TrackerError, Vec::new());
            let reason = reason.to_owned();
            let alert =
                AlertInfo { kind, torrent: 1, text, url, failure, code: 404, reason, info_hash };
            tracker_error(&alert)
        };
        assert_eq!(text(TrackerFailure::Other, ""), "Not Found");
        assert_eq!(text(TrackerFailure::Other, "banned"), "banned");
        assert_eq!(text(TrackerFailure::HttpStatus, ""), "404 Not Found");
        assert_eq!(text(TrackerFailure::HttpStatus, "banned"), "404 banned");
        assert!(text(TrackerFailure::NotBencoded, "").contains("a web page"));
        assert_eq!(text(TrackerFailure::Refused, "banned"), "banned");
    }
}
