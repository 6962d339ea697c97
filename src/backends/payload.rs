//! The bytes of one object, and their form as an HTTP request body.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    vec,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::idle_timer::IdleTimer;

/// The bytes of one object, as the memory buffers they arrived in. Cloning copies no bytes.
#[derive(Debug, Clone, Default)]
pub struct Payload {
    buffers: Vec<Bytes>,
    len: u64,
}

impl Payload {
    pub fn push(&mut self, buffer: Bytes) {
        self.len += buffer.len() as u64;
        self.buffers.push(buffer);
    }

    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes as one buffer. Copies them only when there are several buffers.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        match &self.buffers[..] {
            [one] => one.clone(),
            buffers => buffers.concat().into(),
        }
    }

    #[must_use]
    pub fn buffers(&self) -> &[Bytes] {
        &self.buffers
    }
}

impl FromIterator<Bytes> for Payload {
    fn from_iter<I: IntoIterator<Item = Bytes>>(buffers: I) -> Self {
        let mut payload = Self::default();
        buffers.into_iter().for_each(|p| payload.push(p));
        payload
    }
}

/// A payload as an HTTP request body. Each buffer is one frame, no bytes are copied, and the length is known at the
/// start.
#[derive(Debug)]
pub(super) struct PayloadBody {
    buffers: vec::IntoIter<Bytes>,
    len: u64,
    remaining: u64,
    idle_timer: IdleTimer,
}

impl PayloadBody {
    /// Reports each buffer that is sent to `idle_timer`.
    pub(super) fn new(payload: Payload, idle_timer: IdleTimer) -> Self {
        let len = payload.len;
        Self { len, remaining: len, buffers: payload.buffers.into_iter(), idle_timer }
    }
}

impl Body for PayloadBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.buffers.find(|buffer| !buffer.is_empty());
        self.remaining -= next.as_ref().map_or(0, |buffer| buffer.len() as u64);
        match self.remaining {
            0 => self.idle_timer.all_sent(self.len),
            _ => self.idle_timer.reset(),
        }
        Poll::Ready(next.map(|buffer| Ok(Frame::data(buffer))))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}
