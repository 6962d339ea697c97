//! Streams the bytes of a range: keeps many reads in flight and returns their answers in order.
//!
//! One read is 32 KiB, which every server answers in full. The number of reads in flight limits the rate over long
//! round trips. It starts at [`FIRST`] and doubles with every round trip, up to 4 MiB per stream, and 8 MiB for all
//! streams of a server together. If an answer is shorter than its read, the rest is requested and returned before any
//! later bytes.

use std::{future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures_util::{
    StreamExt,
    stream::{self, FuturesOrdered},
};

use super::{connection::OpenFile, server::Lease};
use crate::{
    error::{Error, Kind, Result},
    protocols::ByteStream,
};

/// Length of one read in bytes. Servers may shorten longer reads, but all answer this length.
const READ: u32 = 32 << 10;
/// Reads in flight of a new stream.
const FIRST: usize = 16;
/// Maximum reads in flight of one stream: 4 MiB, which gives 80 MiB/s at 50 ms.
const AHEAD: usize = 128;
/// Maximum reads in flight of all streams of a server together. Their answers are held in memory.
const ALL_AHEAD: usize = 256;
/// Minimum reads in flight of a stream, however many streams there are.
const LEAST: usize = 16;

/// A read and its answer.
struct Answer {
    start: u64,
    len: u32,
    bytes: Option<Bytes>,
}

type Asked = Pin<Box<dyn Future<Output = Result<Answer>> + Send>>;

/// A transfer in progress. Dropping it discards later answers and closes the file.
pub(super) struct Body {
    lease: Lease,
    file: Arc<OpenFile>,
    subject: Arc<str>,
    asked: FuturesOrdered<Asked>,
    /// Position of the next read.
    next: u64,
    /// Position of the next byte to return.
    at: u64,
    /// `None` means the end of the file.
    end: Option<u64>,
    /// The range ends where the file ends, by the length that the server declares. No bytes may follow.
    is_to_the_end: bool,
    window: usize,
}

impl Body {
    pub(super) fn new(
        lease: Lease,
        file: OpenFile,
        subject: String,
        start: u64,
        (end, len): (Option<u64>, Option<u64>),
    ) -> Self {
        Self {
            lease,
            file: Arc::new(file),
            subject: subject.into(),
            asked: FuturesOrdered::new(),
            next: start,
            at: start,
            end,
            is_to_the_end: end.is_some() && end == len,
            window: FIRST,
        }
    }

    pub(super) fn stream(self) -> ByteStream {
        Box::pin(stream::try_unfold(self, |mut body| async move {
            let bytes = body.next().await?;
            Ok(bytes.map(|bytes| (bytes, body)))
        }))
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        self.ask_ahead();
        let Some(answer) = self.asked.next().await else { return Ok(None) };
        let Answer { start, len, bytes } = answer?;
        self.window = (self.window + 1).min(AHEAD);
        let Some(mut bytes) = bytes else { return self.ended() };
        // More bytes than requested cannot be trusted.
        bytes.truncate(len as usize);
        let got = u32::try_from(bytes.len()).expect("cut to the length of a read");
        self.at += u64::from(got);
        if got == len && self.is_to_the_end && Some(self.at) == self.end {
            // Checked before the last bytes are returned, because the caller may not poll again after them.
            self.prove_the_end().await?;
        }
        if got < len {
            let rest = self.ask(start + u64::from(got), len - got);
            self.asked.push_front(rest);
        }
        Ok(Some(bytes))
    }

    /// Checks that a read behind the end returns nothing, unless the file has grown.
    async fn prove_the_end(&mut self) -> Result<()> {
        let Some(behind) = self.asked.next().await else { return Ok(()) };
        if behind?.bytes.is_none() || self.file.is_longer_than(&self.subject, self.at).await? {
            return Ok(());
        }
        Err(Error::new(Kind::Corrupt, self.subject.to_string()).because(format!(
            "the server says that the file has {} bytes, and sends more than it should",
            self.at
        )))
    }

    fn ended(&self) -> Result<Option<Bytes>> {
        match self.end {
            None => Ok(None),
            Some(end) => Err(Error::new(Kind::Corrupt, self.subject.to_string())
                .because(format!("the file ended {} bytes before it should", end - self.at))),
        }
    }

    fn ask_ahead(&mut self) {
        let share = (ALL_AHEAD / self.lease.streams()).max(LEAST);
        let window = self.window.min(share);
        while self.asked.len() < window {
            let left = self.end.map_or(u64::MAX, |end| end.saturating_sub(self.next));
            let len = u32::try_from(left).unwrap_or(u32::MAX).min(READ);
            if len == 0 {
                if self.is_to_the_end && self.end == Some(self.next) {
                    let behind = self.ask(self.next, 1);
                    self.asked.push_back(behind);
                    self.next += 1;
                }
                break;
            }
            let read = self.ask(self.next, len);
            self.asked.push_back(read);
            self.next += u64::from(len);
        }
    }

    fn ask(&self, start: u64, len: u32) -> Asked {
        let (file, subject) = (Arc::clone(&self.file), Arc::clone(&self.subject));
        Box::pin(
            async move { Ok(Answer { start, len, bytes: file.read(&subject, start, len).await? }) },
        )
    }
}
