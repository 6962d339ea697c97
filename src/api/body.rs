//! Response bodies: ranges of a file, read while the client receives them.
//!
//! For each body, one task reads a step, sends it frame by frame, and reads the next step when the last frame is taken.
//! Of a client that takes nothing for a while (a paused player) only the connection is kept: the unsent part of the
//! step is dropped, and the reader's memory is released for others. The step is read again when the client continues.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::{sync::mpsc, time::timeout};

use crate::{
    engine::FileRead,
    error::{Error, Kind, Result},
    memory::Reservation,
};

/// Maximum length of a frame. Frames are copied: a slice would keep its whole step in memory. One frame waits in the
/// channel, and the connection buffers up to two. That is the memory of a paused client.
const MAX_FRAME: usize = 32 << 10;
/// A client that takes no frame for this long is regarded as paused.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(5);
/// A client that stays paused for this long is regarded as disconnected.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// The body of a response.
#[derive(Debug)]
pub enum Body {
    /// The complete body; may be empty.
    Ready(Bytes),
    /// `remaining` bytes, sent as they are read.
    Streamed { frames: mpsc::Receiver<Result<Bytes>>, remaining: u64 },
}

impl Body {
    /// Sends `first`, which was read already, and then the rest of `read`. `memory` is that of a reader.
    pub(super) fn feed(read: FileRead, first: Option<Bytes>, memory: Reservation) -> Self {
        let remaining = read.remaining() + first.as_ref().map_or(0, |first| first.len() as u64);
        let (frames, frames_to_send) = mpsc::channel(1);
        let mut feeder = BodyFeeder { read, memory: Some(memory), frames };
        tokio::spawn(async move {
            if let Err(e) = feeder.run(first).await {
                tracing::warn!(error = %e.report(), "a stream ended early");
                // The head is sent already. The client only learns that the body is incomplete.
                let _ = feeder.frames.send(Err(e)).await;
            }
        });
        Self::Streamed { frames: frames_to_send, remaining }
    }
}

struct BodyFeeder {
    read: FileRead,
    memory: Option<Reservation>,
    frames: mpsc::Sender<Result<Bytes>>,
}

impl BodyFeeder {
    /// Returns `Ok` when all is sent, and also when the client has disconnected.
    async fn run(&mut self, first: Option<Bytes>) -> Result<()> {
        let mut step = first;
        loop {
            let bytes = match step.take() {
                Some(bytes) => bytes,
                None => match self.next().await? {
                    Some(bytes) => bytes,
                    None => return Ok(()),
                },
            };
            if !self.send_step(bytes).await {
                return Ok(());
            }
        }
    }

    /// The next step; `None` after the last, or when the client has disconnected.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.memory.is_none() {
            let memory = tokio::select! {
                memory = self.read.import().reserve_reader() => memory,
                () = self.frames.closed() => return Ok(None),
            };
            self.memory = Some(memory);
        }
        tokio::select! {
            step = self.read.next() => step,
            () = self.frames.closed() => Ok(None),
        }
    }

    /// Sends a step. Returns whether the client is still connected.
    async fn send_step(&mut self, mut bytes: Bytes) -> bool {
        while !bytes.is_empty() {
            match timeout(PAUSE_TIMEOUT, self.frames.reserve()).await {
                Ok(Ok(slot)) => {
                    let frame = bytes.split_to(bytes.len().min(MAX_FRAME));
                    slot.send(Ok(Bytes::copy_from_slice(&frame)));
                }
                Ok(Err(_)) => return false,
                Err(_) => {
                    self.read.put_back(bytes.len() as u64);
                    drop(bytes);
                    self.memory = None;
                    return matches!(
                        timeout(DISCONNECT_TIMEOUT, self.frames.reserve()).await,
                        Ok(Ok(_))
                    );
                }
            }
        }
        true
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>>>> {
        let frame = match &mut *self {
            Self::Ready(bytes) => {
                let all = std::mem::take(bytes);
                (!all.is_empty()).then_some(Ok(all))
            }
            Self::Streamed { frames, remaining } => match ready!(frames.poll_recv(cx)) {
                Some(Ok(bytes)) => {
                    *remaining = remaining.saturating_sub(bytes.len() as u64);
                    Some(Ok(bytes))
                }
                None if *remaining > 0 => {
                    Some(Err(Error::new(Kind::Cancelled, "the stream ended early")))
                }
                end => end,
            },
        };
        Poll::Ready(frame.map(|frame| frame.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Ready(bytes) => bytes.is_empty(),
            Self::Streamed { remaining, .. } => *remaining == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Ready(bytes) => bytes.len() as u64,
            Self::Streamed { remaining, .. } => *remaining,
        })
    }
}
