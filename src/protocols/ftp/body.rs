//! Streams the bytes of a range from a data connection and handles the end of the transfer.

use std::{io, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use tokio::io::AsyncReadExt;

use super::{
    address::FtpAddress,
    errors::connection_lost,
    pool::SessionPool,
    session::{SYNC_TIMEOUT, Session, SizeReply, Transfer},
};
use crate::{
    error::{Error, Kind, Result},
    protocols::ByteStream,
};

/// Size of one buffer allocation in bytes. The bytes of each read are split off from it.
const BUFFER_LEN: usize = 256 << 10;
/// Minimum free capacity for a read, in bytes.
const MIN_READ_CAPACITY: usize = 32 << 10;

/// The parameters of a transfer.
pub(super) struct TransferSpec {
    /// The subject of error messages.
    pub(super) subject: String,
    pub(super) address: FtpAddress,
    pub(super) path: Vec<u8>,
    /// Bytes still to receive; `None` means until the end of the file.
    pub(super) remaining: Option<u64>,
    /// Bytes still to receive according to the reply that started the transfer. It detects a transfer that ends early.
    pub(super) remaining_announced: Option<u64>,
    /// Length of the file, if the range goes to its end. The server then ends the transfer itself.
    pub(super) file_len: Option<u64>,
}

/// A transfer in progress. Dropping it closes the data connection and returns the session to the pool.
pub(super) struct FtpStream {
    pool: Arc<SessionPool>,
    session: Option<Session>,
    transfer: Option<Transfer>,
    spec: TransferSpec,
    buffer: BytesMut,
}

/// Result of a read behind the last byte of a file.
enum TrailingData {
    Absent,
    Present,
    /// No result within the timeout.
    Unknown,
}

impl FtpStream {
    pub(super) fn new(
        pool: &Arc<SessionPool>,
        session: Session,
        transfer: Transfer,
        spec: TransferSpec,
    ) -> Self {
        let (session, transfer) = (Some(session), Some(transfer));
        Self { pool: Arc::clone(pool), session, transfer, spec, buffer: BytesMut::new() }
    }

    pub(super) fn stream(self) -> ByteStream {
        Box::pin(stream::try_unfold(self, |mut body| async move {
            let bytes = body.next_bytes().await?;
            Ok(bytes.map(|bytes| (bytes, body)))
        }))
    }

    async fn next_bytes(&mut self) -> Result<Option<Bytes>> {
        let (Some(session), Some(transfer)) = (&self.session, &mut self.transfer) else {
            return Ok(None);
        };
        if self.spec.remaining == Some(0) {
            return Ok(None);
        }
        if self.buffer.capacity() < MIN_READ_CAPACITY {
            self.buffer = BytesMut::with_capacity(BUFFER_LEN);
        }
        let subject = &self.spec.subject;
        let read = read(transfer, &mut self.buffer, subject);
        let n = session.timeouts().wait_for_answer(|| subject.clone(), read).await?;
        if n == 0 {
            return self.data_ended().await;
        }
        let mut bytes = self.buffer.split();
        let mut has_more = false;
        if let Some(announced) = &mut self.spec.remaining_announced {
            *announced = announced.saturating_sub(bytes.len() as u64);
        }
        if let Some(remaining) = &mut self.spec.remaining {
            let wanted = usize::try_from(*remaining).unwrap_or(usize::MAX);
            has_more = bytes.len() > wanted;
            bytes.truncate(wanted);
            *remaining -= bytes.len() as u64;
        }
        if let (Some(0), Some(len)) = (self.spec.remaining, self.spec.file_len) {
            // Checked before the last bytes are returned, because the caller may not poll again after them.
            self.finish_file(len, has_more).await?;
        }
        Ok(Some(bytes.freeze()))
    }

    /// Handles the end of the data connection. The reply on the control connection tells whether the transfer is
    /// complete.
    async fn data_ended(&mut self) -> Result<Option<Bytes>> {
        let (Some(mut session), Some(transfer)) = (self.session.take(), self.transfer.take())
        else {
            return Ok(None);
        };
        session.finish_transfer(transfer).await.map_err(|e| e.with_context(&self.spec.subject))?;
        self.pool.release(session);
        let announced = self.spec.remaining_announced.filter(|remaining| *remaining > 0);
        let Some(missing) = self.spec.remaining.or(announced) else {
            return Ok(None);
        };
        // A transfer short of the known length counts as a broken connection and is resumed, whatever the server says.
        let kind = if self.spec.remaining.is_some() { Kind::Network } else { Kind::Corrupt };
        Err(Error::new(kind, self.spec.subject.clone())
            .because(format!("the file ended {missing} bytes early")))
    }

    /// All requested bytes have arrived, up to the end of the file. Nothing may follow, unless the file has grown.
    async fn finish_file(&mut self, len: u64, has_more: bool) -> Result<()> {
        let (Some(mut session), Some(mut transfer)) = (self.session.take(), self.transfer.take())
        else {
            return Ok(());
        };
        let trailing =
            if has_more { TrailingData::Present } else { self.trailing_data(&mut transfer).await };
        match trailing {
            TrailingData::Absent => {
                let ended =
                    tokio::time::timeout(SYNC_TIMEOUT, session.finish_transfer(transfer)).await;
                if matches!(ended, Ok(Ok(_))) {
                    self.pool.release(session);
                }
                Ok(())
            }
            TrailingData::Unknown => {
                self.abort(session, transfer);
                Ok(())
            }
            TrailingData::Present => {
                self.abort(session, transfer);
                self.check_growth(len).await
            }
        }
    }

    async fn trailing_data(&mut self, transfer: &mut Transfer) -> TrailingData {
        self.buffer.reserve(1);
        let read = read(transfer, &mut self.buffer, &self.spec.subject);
        match tokio::time::timeout(SYNC_TIMEOUT, read).await {
            Ok(Ok(0)) => TrailingData::Absent,
            Ok(Ok(_)) => TrailingData::Present,
            _ => TrailingData::Unknown,
        }
    }

    fn abort(&self, mut session: Session, transfer: Transfer) {
        // The data connection is closed first, so that the server notices.
        drop(transfer);
        session.awaits_stale_reply = true;
        self.pool.release(session);
    }

    /// Called when more bytes arrive than the file has. Fails unless the file has grown.
    async fn check_growth(&self, len: u64) -> Result<()> {
        let mut session = self.pool.acquire(&self.spec.address).await?;
        let now = session.size(&self.spec.path).await?;
        self.pool.release(session);
        if matches!(now, SizeReply::Len(now) if now > len) {
            return Ok(());
        }
        Err(Error::new(Kind::Corrupt, self.spec.subject.clone())
            .because(format!("the server reports a length of {len} bytes, and sends more")))
    }
}

/// Reads some bytes; 0 at the end. TLS closed without close_notify counts as the end: the reply tells whether the
/// transfer is complete.
async fn read(transfer: &mut Transfer, buffer: &mut BytesMut, subject: &str) -> Result<usize> {
    match transfer.data.read_buf(buffer).await {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
        read => read.map_err(|e| connection_lost(subject, e)),
    }
}

impl Drop for FtpStream {
    fn drop(&mut self) {
        if let (Some(session), Some(transfer)) = (self.session.take(), self.transfer.take()) {
            self.abort(session, transfer);
        }
    }
}
