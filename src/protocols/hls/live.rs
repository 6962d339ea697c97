//! Follows the playlist of a live stream: fetches it again and again, and passes on the segments that are new.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use url::Url;

use super::{
    live_window::{LiveWindow, NewSegments},
    media_playlist::MediaPlaylist,
    plan::{Fetched, PlannedFile, located},
    playlist::Playlist,
    tracks::{Track, fetch_playlist},
};
use crate::{
    error::{Error, Kind, Result},
    protocols::segments::{ListClient, LiveSource, Outcome, Segment},
};

/// Segments that may wait to be fetched. A slower connection loses segments.
const MAX_WAITING: usize = 256;
/// Without a new segment for this many target durations a stream has ended.
const MAX_IDLE_TARGETS: u32 = 3;
/// The least time between two requests for a playlist.
const MIN_RELOAD_INTERVAL: Duration = Duration::from_millis(500);

/// A live track.
pub(super) struct LiveTrack {
    client: Arc<ListClient>,
    /// The track with its first playlist.
    track: Track,
    /// The stream was read before, so that its first playlist is old.
    is_old: AtomicBool,
}

impl std::fmt::Debug for LiveTrack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LiveTrack").finish_non_exhaustive()
    }
}

impl LiveTrack {
    pub(super) fn new(client: &Arc<ListClient>, track: Track) -> Self {
        Self { client: Arc::clone(client), track, is_old: AtomicBool::new(false) }
    }
}

#[async_trait]
impl LiveSource for LiveTrack {
    async fn follow(
        &self,
        outcome: Arc<Outcome>,
        stop: CancellationToken,
    ) -> Result<BoxStream<'static, Segment>> {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        let mut follower = Follower {
            client: Arc::clone(&self.client),
            track: self.track.clone(),
            outcome,
            sender,
            fetched: Fetched::default(),
            window: LiveWindow::default(),
            init: None,
            recorded: Duration::ZERO,
        };
        if self.is_old.swap(true, Ordering::Relaxed) {
            follower.track.playlist = follower.reload(false).await?;
        }
        let task = tokio::spawn(async move {
            let stopped = stop.cancelled();
            tokio::select! {
                () = stopped => {}
                ended = follower.run() => if let Err(error) = ended {
                    follower.outcome.fail(error);
                },
            }
        });
        let state = (receiver, AbortOnDropHandle::new(task));
        Ok(Box::pin(stream::unfold(state, |(mut receiver, task)| async move {
            receiver.recv().await.map(|segment| (segment, (receiver, task)))
        })))
    }
}

struct Follower {
    client: Arc<ListClient>,
    track: Track,
    outcome: Arc<Outcome>,
    sender: mpsc::Sender<Segment>,
    fetched: Fetched,
    window: LiveWindow,
    /// The initialization section of the recording, after the first segment.
    init: Option<Option<Bytes>>,
    /// Duration of the segments that were passed on.
    recorded: Duration,
}

impl Follower {
    /// Runs until the stream ends.
    async fn run(&mut self) -> Result<()> {
        let mut last_change = Instant::now();
        let mut trouble = None;
        loop {
            let (added, is_done) = self.pass_new_segments().await?;
            let playlist = &self.track.playlist;
            if is_done || playlist.is_complete {
                return Ok(());
            }
            let target = playlist.target_duration;
            let now = Instant::now();
            if added {
                last_change = now;
            } else if now.duration_since(last_change) >= target * MAX_IDLE_TARGETS {
                return self.gone_idle(trouble);
            }
            let can_block = playlist.can_block_reload && added;
            if !can_block {
                let wait = if added { target } else { target / 2 };
                sleep(wait.max(MIN_RELOAD_INTERVAL)).await;
            }
            trouble = match self.reload(can_block).await {
                Ok(playlist) => {
                    self.track.playlist = playlist;
                    None
                }
                Err(error) => {
                    tracing::warn!("cannot fetch the playlist: {}", error.report());
                    Some(error)
                }
            };
        }
    }

    /// The end of a stream that is not continued.
    fn gone_idle(&self, trouble: Option<Error>) -> Result<()> {
        match trouble {
            Some(error) => Err(error),
            None => {
                tracing::warn!(
                    "the playlist has had no new segment for {MAX_IDLE_TARGETS} target durations: the stream has ended"
                );
                Ok(())
            }
        }
    }

    /// Fetches the playlist again. With `can_block` the server answers when the next segment is there.
    async fn reload(&self, can_block: bool) -> Result<MediaPlaylist> {
        // The URL before redirects: that of one server may be valid for a short time only.
        let mut url: Url = self.track.requested_url.clone();
        if let Some(next) = self.window.next_sequence().filter(|_| can_block) {
            url.query_pairs_mut().append_pair("_HLS_msn", &next.to_string());
        }
        let fetched = fetch_playlist(&self.client, &url, &self.track.imported).await?;
        match fetched.playlist {
            Playlist::Media(playlist) => Ok(playlist),
            Playlist::Multivariant(_) => {
                Err(Error::new(Kind::Unsupported, "the playlist of a rendition has variants"))
            }
        }
    }

    /// Passes on the segments that are new in the playlist. Returns whether there were any, and whether the recording
    /// is complete.
    async fn pass_new_segments(&mut self) -> Result<(bool, bool)> {
        let NewSegments { first, lost, has_restarted } =
            self.window.advance(&self.track.playlist.segments);
        if lost > 0 {
            self.outcome.add_lost(lost, "they left the playlist before they were fetched");
        }
        if has_restarted {
            tracing::warn!("the playlist has started again: timestamps may jump in the recording");
        }
        let new = self.track.playlist.segments[first..].to_vec();
        if new.is_empty() {
            return Ok((false, false));
        }
        self.fetched.add(&self.client, &self.track, &new).await?;
        for media in new {
            if self.client.options.duration.is_some_and(|limit| self.recorded >= limit) {
                return Ok((true, true));
            }
            self.recorded += media.duration;
            if media.is_gap {
                self.outcome.add_gap(&located(&self.track, &media)?.label);
                continue;
            }
            let init = self.fetched.init_of(&self.track, &media)?;
            let segment = self.fetched.segment(&self.track, &media)?;
            self.pass_init(init).await?;
            self.pass(segment);
        }
        let limit = self.client.options.duration;
        Ok((true, limit.is_some_and(|limit| self.recorded >= limit)))
    }

    /// Passes on the initialization section before the first segment.
    async fn pass_init(&mut self, init: Option<Bytes>) -> Result<()> {
        match &self.init {
            Some(before) if *before == init => return Ok(()),
            Some(_) => {
                let text = "the encoding of the stream has changed, which one file cannot hold";
                return Err(Error::new(Kind::Unsupported, text).hint("start a new recording"));
            }
            None => {}
        }
        self.init = Some(init.clone());
        let file = PlannedFile { init, segments: Vec::new() };
        for segment in file.into_segments() {
            // Fails only if the whole stream was dropped.
            let _ = self.sender.send(segment).await;
        }
        Ok(())
    }

    fn pass(&self, segment: Segment) {
        if let Err(mpsc::error::TrySendError::Full(segment)) = self.sender.try_send(segment) {
            let reason = format!("{}: the connection is slower than the stream", segment.label);
            self.outcome.add_lost(1, &reason);
        }
    }
}
