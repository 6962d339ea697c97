//! Streams the bytes of a range from a data connection and handles the end of the transfer.

use std::{io, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use tokio::io::AsyncReadExt;

use super::{
    address::Address,
    errors::lost,
    pool::Pool,
    session::{IN_STEP, Session, Size, Transfer},
};
use crate::{
    error::{Error, Kind, Result},
    protocols::ByteStream,
};

/// Size of one buffer allocation in bytes. The bytes of each read are split off from it.
const BUFFER: usize = 256 << 10;
/// Minimum free capacity for a read, in bytes.
const LEAST: usize = 32 << 10;

/// The parameters of a transfer.
pub(super) struct Order {
    /// The subject of error messages.
    pub(super) subject: String,
    pub(super) address: Address,
    pub(super) path: Vec<u8>,
    /// Bytes still to receive; `None` means until the end of the file.
    pub(super) left: Option<u64>,
    /// Bytes still to receive according to the reply that started the transfer. It detects a transfer that ends early.
    pub(super) announced: Option<u64>,
    /// Length of the file, if the range goes to its end. The server then ends the transfer itself.
    pub(super) ends_at: Option<u64>,
}

/// A transfer in progress. Dropping it closes the data connection and returns the session to the pool.
pub(super) struct Body {
    pool: Arc<Pool>,
    session: Option<Session>,
    transfer: Option<Transfer>,
    order: Order,
    buffer: BytesMut,
}

/// Result of a read behind the last byte of a file.
enum After {
    Nothing,
    More,
    /// No result within the timeout.
    Unknown,
}

impl Body {
    pub(super) fn new(
        pool: &Arc<Pool>,
        session: Session,
        transfer: Transfer,
        order: Order,
    ) -> Self {
        let (session, transfer) = (Some(session), Some(transfer));
        Self { pool: Arc::clone(pool), session, transfer, order, buffer: BytesMut::new() }
    }

    pub(super) fn stream(self) -> ByteStream {
        Box::pin(stream::try_unfold(self, |mut body| async move {
            let bytes = body.next().await?;
            Ok(bytes.map(|bytes| (bytes, body)))
        }))
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        let (Some(session), Some(transfer)) = (&self.session, &mut self.transfer) else {
            return Ok(None);
        };
        if self.order.left == Some(0) {
            return Ok(None);
        }
        if self.buffer.capacity() < LEAST {
            self.buffer = BytesMut::with_capacity(BUFFER);
        }
        let subject = &self.order.subject;
        let read = read(transfer, &mut self.buffer, subject);
        let n = session.patience().answer(|| subject.clone(), read).await?;
        if n == 0 {
            return self.ended().await;
        }
        let mut bytes = self.buffer.split();
        let mut more = false;
        if let Some(announced) = &mut self.order.announced {
            *announced = announced.saturating_sub(bytes.len() as u64);
        }
        if let Some(left) = &mut self.order.left {
            let wanted = usize::try_from(*left).unwrap_or(usize::MAX);
            more = bytes.len() > wanted;
            bytes.truncate(wanted);
            *left -= bytes.len() as u64;
        }
        if let (Some(0), Some(len)) = (self.order.left, self.order.ends_at) {
            // Checked before the last bytes are returned, because the caller may not poll again after them.
            self.finish(len, more).await?;
        }
        Ok(Some(bytes.freeze()))
    }

    /// Handles the end of the data connection. The reply on the control connection tells whether the transfer is
    /// complete.
    async fn ended(&mut self) -> Result<Option<Bytes>> {
        let (Some(mut session), Some(transfer)) = (self.session.take(), self.transfer.take())
        else {
            return Ok(None);
        };
        session.end(transfer).await.map_err(|e| e.within(&self.order.subject))?;
        self.pool.give(session);
        let Some(left) = self.order.left.or(self.order.announced.filter(|left| *left > 0)) else {
            return Ok(None);
        };
        // A transfer short of the known length counts as a broken connection and is resumed, whatever the server says.
        let kind = if self.order.left.is_some() { Kind::Network } else { Kind::Corrupt };
        Err(Error::new(kind, self.order.subject.clone())
            .because(format!("the file ended {left} bytes before it should")))
    }

    /// All requested bytes have arrived, up to the end of the file. Nothing may follow, unless the file has grown.
    async fn finish(&mut self, len: u64, more: bool) -> Result<()> {
        let (Some(mut session), Some(mut transfer)) = (self.session.take(), self.transfer.take())
        else {
            return Ok(());
        };
        let after = if more { After::More } else { self.after(&mut transfer).await };
        match after {
            After::Nothing => {
                let ended = tokio::time::timeout(IN_STEP, session.end(transfer)).await;
                if matches!(ended, Ok(Ok(_))) {
                    self.pool.give(session);
                }
                Ok(())
            }
            After::Unknown => {
                self.hang_up(session, transfer);
                Ok(())
            }
            After::More => {
                self.hang_up(session, transfer);
                self.has_grown(len).await
            }
        }
    }

    async fn after(&mut self, transfer: &mut Transfer) -> After {
        self.buffer.reserve(1);
        let read = read(transfer, &mut self.buffer, &self.order.subject);
        match tokio::time::timeout(IN_STEP, read).await {
            Ok(Ok(0)) => After::Nothing,
            Ok(Ok(_)) => After::More,
            _ => After::Unknown,
        }
    }

    fn hang_up(&self, mut session: Session, transfer: Transfer) {
        // The data connection is closed first, so that the server notices.
        drop(transfer);
        session.doubtful = true;
        self.pool.give(session);
    }

    /// Called when more bytes arrive than the file has. Fails unless the file has grown.
    async fn has_grown(&self, len: u64) -> Result<()> {
        let mut session = self.pool.take(&self.order.address).await?;
        let now = session.size(&self.order.path).await?;
        self.pool.give(session);
        if matches!(now, Size::Is(now) if now > len) {
            return Ok(());
        }
        Err(Error::new(Kind::Corrupt, self.order.subject.clone()).because(format!(
            "the server says that the file has {len} bytes, and sends more than it should"
        )))
    }
}

/// Reads some bytes; 0 at the end. TLS closed without close_notify counts as the end: the reply tells whether the
/// transfer is complete.
async fn read(transfer: &mut Transfer, buffer: &mut BytesMut, subject: &str) -> Result<usize> {
    match transfer.data.read_buf(buffer).await {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
        read => read.map_err(|e| lost(subject, e)),
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let (Some(session), Some(transfer)) = (self.session.take(), self.transfer.take()) {
            self.hang_up(session, transfer);
        }
    }
}
