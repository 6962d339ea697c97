//! Streams the bytes of a range: keeps many reads in flight and returns their answers in order.
//!
//! One read is 32 KiB, which every server answers in full. The number of reads in flight limits the rate over long
//! round trips. It starts at [`FIRST_WINDOW`] and doubles with every round trip, up to 4 MiB per stream, and 8 MiB for
//! all streams of a server together. If an answer is shorter than its read, the rest is requested and returned before
//! any later bytes.

use std::{future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures_util::{
    StreamExt,
    stream::{self, FuturesOrdered},
};

use super::{connection::OpenFile, connection_pool::Lease};
use crate::{
    error::{Error, Kind, Result},
    protocols::ByteStream,
};

// ANCHOR: windows
/// Length of one read in bytes. Servers may shorten longer reads, but all answer this length.
const READ_LEN: u32 = 32 << 10;
/// Reads in flight of a new stream.
const FIRST_WINDOW: usize = 16;
/// Maximum reads in flight of one stream: 4 MiB, which gives 80 MiB/s at 50 ms.
const MAX_WINDOW: usize = 128;
/// Maximum reads in flight of all streams of a server together. Their answers are held in memory.
const MAX_TOTAL_WINDOW: usize = 256;
/// Minimum reads in flight of a stream, however many streams there are.
const MIN_WINDOW: usize = 16;
// ANCHOR_END: windows

/// A read and its answer.
struct ReadAnswer {
    start: u64,
    len: u32,
    bytes: Option<Bytes>,
}

type PendingRead = Pin<Box<dyn Future<Output = Result<ReadAnswer>> + Send>>;

/// A transfer in progress. Dropping it discards later answers and closes the file.
pub(super) struct SftpStream {
    lease: Lease,
    file: Arc<OpenFile>,
    subject: Arc<str>,
    pending: FuturesOrdered<PendingRead>,
    /// Position of the next read.
    next_request: u64,
    /// Position of the next byte to return.
    position: u64,
    /// `None` means the end of the file.
    end: Option<u64>,
    /// The range ends where the file ends, by the length that the server declares. No bytes may follow.
    reaches_file_end: bool,
    window: usize,
}

impl SftpStream {
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
            pending: FuturesOrdered::new(),
            next_request: start,
            position: start,
            end,
            reaches_file_end: end.is_some() && end == len,
            window: FIRST_WINDOW,
        }
    }

    pub(super) fn stream(self) -> ByteStream {
        Box::pin(stream::try_unfold(self, |mut body| async move {
            let bytes = body.next_bytes().await?;
            Ok(bytes.map(|bytes| (bytes, body)))
        }))
    }

    async fn next_bytes(&mut self) -> Result<Option<Bytes>> {
        self.fill_window();
        let Some(answer) = self.pending.next().await else { return Ok(None) };
        let ReadAnswer { start, len, bytes } = answer?;
        self.window = (self.window + 1).min(MAX_WINDOW);
        let Some(mut bytes) = bytes else { return self.file_ended() };
        // More bytes than requested cannot be trusted.
        bytes.truncate(len as usize);
        let received = u32::try_from(bytes.len()).expect("cut to the length of a read");
        self.position += u64::from(received);
        if received == len && self.reaches_file_end && Some(self.position) == self.end {
            // Checked before the last bytes are returned, because the caller may not poll again after them.
            self.check_file_end().await?;
        }
        if received < len {
            let rest = self.read(start + u64::from(received), len - received);
            self.pending.push_front(rest);
        }
        Ok(Some(bytes))
    }

    /// Checks that a read behind the end returns nothing, unless the file has grown.
    async fn check_file_end(&mut self) -> Result<()> {
        let Some(past_end) = self.pending.next().await else { return Ok(()) };
        if past_end?.bytes.is_none()
            || self.file.is_longer_than(&self.subject, self.position).await?
        {
            return Ok(());
        }
        Err(Error::new(Kind::Corrupt, self.subject.to_string()).because(format!(
            "the server reports a length of {} bytes, and sends more",
            self.position
        )))
    }

    fn file_ended(&self) -> Result<Option<Bytes>> {
        match self.end {
            None => Ok(None),
            Some(end) => Err(Error::new(Kind::Corrupt, self.subject.to_string())
                .because(format!("the file ended {} bytes early", end - self.position))),
        }
    }

    fn fill_window(&mut self) {
        let share = (MAX_TOTAL_WINDOW / self.lease.streams()).max(MIN_WINDOW);
        let window = self.window.min(share);
        while self.pending.len() < window {
            let left = self.end.map_or(u64::MAX, |end| end.saturating_sub(self.next_request));
            let len = u32::try_from(left).unwrap_or(u32::MAX).min(READ_LEN);
            if len == 0 {
                if self.reaches_file_end && self.end == Some(self.next_request) {
                    let past_end = self.read(self.next_request, 1);
                    self.pending.push_back(past_end);
                    self.next_request += 1;
                }
                break;
            }
            let read = self.read(self.next_request, len);
            self.pending.push_back(read);
            self.next_request += u64::from(len);
        }
    }

    fn read(&self, start: u64, len: u32) -> PendingRead {
        let (file, subject) = (Arc::clone(&self.file), Arc::clone(&self.subject));
        Box::pin(async move {
            Ok(ReadAnswer { start, len, bytes: file.read(&subject, start, len).await? })
        })
    }
}
