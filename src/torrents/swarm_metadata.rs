//! Fetches the metadata of a magnet link from peers.

use std::{future::pending, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    session::{Notice, Torrent},
    silence::Silence,
    trackers::Trackers,
};
use crate::{
    error::{Error, Kind, Result},
    events::{Event, EventSink, Progress},
};

/// Interval of progress events.
const TICK: Duration = Duration::from_millis(250);

/// Waits for the info dictionary of a magnet link, and reports progress and tracker refusals meanwhile.
///
/// # Errors
/// `Cancelled` when `stop` is cancelled; `Network` when no peer sent it within `timeout`; `InvalidInput` when
/// libtorrent reports that the torrent failed.
pub async fn metadata(
    torrent: &mut Torrent,
    stop: &CancellationToken,
    timeout: Option<Duration>,
    events: &EventSink,
) -> Result<Vec<u8>> {
    let limit = async {
        match timeout {
            Some(t) => tokio::time::sleep(t).await,
            None => pending().await,
        }
    };
    tokio::pin!(limit);
    let mut tick = tokio::time::interval(TICK);
    let (mut trackers, mut peers) = (Trackers::default(), 0);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Err(Error::new(Kind::Cancelled, "stopped")),
            () = &mut limit => {
                let timeout = timeout.unwrap_or_default();
                let silence = Silence { timeout, failed: 0, trackers: &trackers, web_seeds: None };
                return Err(silence.error("magnet link").hint("no peer sent the torrent's metadata: check the link, name a peer with --peer, or wait longer with --timeout"));
            }
            _ = tick.tick() => {
                for (text, is_all) in trackers.tick() {
                    events.send(match is_all {
                        true => Event::Warning { id: None, text },
                        false => Event::Notice { id: None, text },
                    });
                }
                let progress = Progress { state: "metadata", peers, ..Progress::default() };
                events.send(Event::Progress(progress));
            }
            notice = torrent.notice() => match notice {
                None => return Err(Error::new(Kind::Cancelled, "the torrent session has ended")),
                Some(Notice::Metadata(info)) => return Ok(info),
                Some(Notice::Failed(text)) => return Err(Error::new(Kind::InvalidInput, text).within("magnet link")),
                Some(Notice::TrackerAnswered { tracker, peers }) => trackers.answered(tracker, &peers),
                Some(Notice::TrackerFailed { tracker, text }) => {
                    trackers.refused(tracker, text);
                }
                Some(Notice::Status(status)) => peers = status.peers,
                Some(Notice::Trouble(_)) => {}
            },
        }
    }
}
