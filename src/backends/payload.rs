//! The bytes of one object, and their form as an HTTP request body.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    vec,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::progress::Progress;

/// The bytes of one object, as the memory buffers they arrived in. Cloning copies no bytes.
#[derive(Debug, Clone, Default)]
pub struct Payload {
    parts: Vec<Bytes>,
    len: u64,
}

impl Payload {
    pub fn push(&mut self, part: Bytes) {
        self.len += part.len() as u64;
        self.parts.push(part);
    }

    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes as one buffer. Copies them only when there are several parts.
    #[must_use]
    pub fn joined(&self) -> Bytes {
        match &self.parts[..] {
            [one] => one.clone(),
            parts => parts.concat().into(),
        }
    }

    #[must_use]
    pub fn parts(&self) -> &[Bytes] {
        &self.parts
    }
}

impl FromIterator<Bytes> for Payload {
    fn from_iter<I: IntoIterator<Item = Bytes>>(parts: I) -> Self {
        let mut payload = Self::default();
        parts.into_iter().for_each(|p| payload.push(p));
        payload
    }
}

/// A payload as an HTTP request body. Each part is one frame, no bytes are copied, and the length is known at the
/// start.
#[derive(Debug)]
pub(super) struct PayloadBody {
    parts: vec::IntoIter<Bytes>,
    len: u64,
    left: u64,
    progress: Progress,
}

impl PayloadBody {
    /// Reports each buffer that is sent to `progress`.
    pub(super) fn new(payload: Payload, progress: Progress) -> Self {
        let len = payload.len;
        Self { len, left: len, parts: payload.parts.into_iter(), progress }
    }
}

impl Body for PayloadBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.parts.find(|part| !part.is_empty());
        self.left -= next.as_ref().map_or(0, |part| part.len() as u64);
        match self.left {
            0 => self.progress.all_sent(self.len),
            _ => self.progress.moved(),
        }
        Poll::Ready(next.map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
