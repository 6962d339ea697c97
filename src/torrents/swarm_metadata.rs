//! Fetches the metadata of a magnet link from peers.

use std::{future::pending, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    idle_timeout::IdleTimeout,
    session::{Torrent, TorrentEvent},
    trackers::Trackers,
};
use crate::{
    error::{Error, Kind, Result},
    events::{Activity, Event, EventSink, Progress},
    hints::{Setting, hint},
};

/// Interval of progress events.
const TICK: Duration = Duration::from_millis(250);

/// Waits for the info dictionary of a magnet link, and reports progress and tracker refusals meanwhile.
///
/// # Errors
/// `Cancelled` when `stop` is cancelled; `Network` when no peer sent it within `timeout`; `InvalidInput` when
/// libtorrent reports that the torrent failed.
pub async fn wait_for_metadata(
    torrent: &mut Torrent,
    stop: &CancellationToken,
    timeout: Option<Duration>,
    events: &EventSink,
) -> Result<Vec<u8>> {
    let deadline = async {
        match timeout {
            Some(t) => tokio::time::sleep(t).await,
            None => pending().await,
        }
    };
    tokio::pin!(deadline);
    let mut tick = tokio::time::interval(TICK);
    let (mut trackers, mut peers) = (Trackers::default(), 0);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Err(Error::new(Kind::Cancelled, "stopped")),
            () = &mut deadline => {
                let timeout = timeout.unwrap_or_default();
                let idle = IdleTimeout { timeout, failed_pieces: 0, trackers: &trackers, web_seeds: None };
                return Err(idle.into_error("magnet link").hint(hint![
                    "no peer sent the torrent's metadata: check the link, add a peer with ",
                    Setting::Peer,
                    ", or wait longer with ",
                    Setting::Timeout,
                ]));
            }
            _ = tick.tick() => {
                for (text, none_answered) in trackers.tick() {
                    events.send(match none_answered {
                        true => Event::Warning { id: None, text },
                        false => Event::Notice { id: None, text },
                    });
                }
                let progress = Progress { state: Activity::Metadata, peers, ..Progress::default() };
                events.send(Event::Progress(progress));
            }
            event = torrent.next_event() => match event {
                None => return Err(Error::new(Kind::Cancelled, "the torrent session has ended")),
                Some(TorrentEvent::Metadata) => return torrent.info_dictionary().await,
                Some(TorrentEvent::Failed(text)) => return Err(Error::new(Kind::InvalidInput, text).with_context("magnet link")),
                Some(TorrentEvent::TrackerAnswered { tracker, peers }) => trackers.answered(tracker, &peers),
                Some(TorrentEvent::TrackerFailed { tracker, text }) => {
                    trackers.refused(tracker, text);
                }
                Some(TorrentEvent::Status(status)) => peers = status.peers,
                Some(TorrentEvent::NonFatal(_)) => {}
            },
        }
    }
}
