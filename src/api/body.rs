//! The body of an answer: bytes of a file, read while the client takes them.
//!
//! One task a body reads a step, hands it on frame by frame, and reads the next when the last frame is taken. A client
//! that takes nothing for a while (a player that is paused) keeps its connection and nothing else: what is read for it
//! is dropped, its turn is given to others, and it is read again when the client goes on.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::timeout,
};

use crate::{
    app::{FileRead, Streams},
    error::{Error, Kind, Result},
};

/// The most that is handed to the connection at once, in memory of its own: a slice would keep its whole step alive. One
/// waits to be taken, and the connection holds up to two: that is what a paused client costs.
const FRAME: usize = 32 << 10;
/// A client that takes nothing for so long is paused.
const PAUSED: Duration = Duration::from_secs(5);
/// One that stays paused for so long has gone without a word.
const GONE: Duration = Duration::from_secs(30 * 60);

/// What is sent after the head.
#[derive(Debug)]
pub(super) enum Body {
    /// All of it; nothing when it is empty.
    Ready(Bytes),
    /// So many bytes, as they come.
    Fed { frames: mpsc::Receiver<Result<Bytes>>, left: u64 },
}

impl Body {
    /// What `read` gives, after `first`, which it gave already. `turn` is held while something is read for it.
    pub(super) fn of(
        read: FileRead,
        first: Option<Bytes>,
        streams: Streams,
        turn: OwnedSemaphorePermit,
    ) -> Self {
        let left = read.left() + first.as_ref().map_or(0, |first| first.len() as u64);
        let (frames, taken) = mpsc::channel(1);
        let mut feeding = Feeding { read, streams, turn: Some(turn), frames };
        tokio::spawn(async move {
            if let Err(e) = feeding.run(first).await {
                tracing::warn!(error = %e.report(), "a stream broke off");
                // All the client can be told now is that not everything came.
                let _ = feeding.frames.send(Err(e)).await;
            }
        });
        Self::Fed { frames: taken, left }
    }
}

struct Feeding {
    read: FileRead,
    streams: Streams,
    turn: Option<OwnedSemaphorePermit>,
    frames: mpsc::Sender<Result<Bytes>>,
}

impl Feeding {
    /// Ends well when all is sent, and when the client is gone.
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
            if !self.hand_on(bytes).await {
                return Ok(());
            }
        }
    }

    /// The next step; `None` after the last, or when nobody is there to take it.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.turn.is_none() {
            let turn = tokio::select! {
                turn = self.streams.turn() => turn?,
                () = self.frames.closed() => return Ok(None),
            };
            self.turn = Some(turn);
        }
        tokio::select! {
            step = self.read.next() => step,
            () = self.frames.closed() => Ok(None),
        }
    }

    /// Whether the client is still there.
    async fn hand_on(&mut self, mut bytes: Bytes) -> bool {
        while !bytes.is_empty() {
            match timeout(PAUSED, self.frames.reserve()).await {
                Ok(Ok(slot)) => {
                    let frame = bytes.split_to(bytes.len().min(FRAME));
                    slot.send(Ok(Bytes::copy_from_slice(&frame)));
                }
                Ok(Err(_)) => return false,
                Err(_) => {
                    self.read.put_back(bytes.len() as u64);
                    drop(bytes);
                    self.turn = None;
                    return matches!(timeout(GONE, self.frames.reserve()).await, Ok(Ok(_)));
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
            Self::Fed { frames, left } => match ready!(frames.poll_recv(cx)) {
                Some(Ok(bytes)) => {
                    *left = left.saturating_sub(bytes.len() as u64);
                    Some(Ok(bytes))
                }
                None if *left > 0 => Some(Err(Error::new(Kind::Cancelled, "the stream ended"))),
                end => end,
            },
        };
        Poll::Ready(frame.map(|frame| frame.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Ready(bytes) => bytes.is_empty(),
            Self::Fed { left, .. } => *left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Ready(bytes) => bytes.len() as u64,
            Self::Fed { left, .. } => *left,
        })
    }
}
