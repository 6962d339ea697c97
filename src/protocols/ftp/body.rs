//! The bytes of a range as they come, and the end of the transfer.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use tokio::io::AsyncReadExt;

use super::{
    errors::lost,
    pool::Pool,
    session::{Data, Session},
};
use crate::{
    error::{Error, Kind, Result},
    protocols::ByteStream,
};

/// Memory is asked for so much at a time, and handed out in what came at once.
const BUFFER: usize = 256 << 10;
/// Less than this is not worth a read.
const LEAST: usize = 32 << 10;

/// A transfer under way. Dropped, the data connection is closed and the session goes back to the pool.
pub(super) struct Body {
    pool: Arc<Pool>,
    session: Option<Session>,
    data: Option<Data>,
    /// What the error names.
    subject: String,
    /// Bytes still to come; `None` is as many as there are.
    left: Option<u64>,
    /// Nothing follows the range, so the server ends the transfer by itself.
    to_the_end: bool,
    buffer: BytesMut,
}

impl Body {
    pub(super) fn new(
        pool: &Arc<Pool>,
        session: Session,
        data: Data,
        subject: String,
        left: Option<u64>,
        to_the_end: bool,
    ) -> Self {
        let (session, data) = (Some(session), Some(data));
        Self {
            pool: pool.clone(),
            session,
            data,
            subject,
            left,
            to_the_end,
            buffer: BytesMut::new(),
        }
    }

    pub(super) fn stream(self) -> ByteStream {
        Box::pin(stream::try_unfold(self, |mut body| async move {
            let bytes = body.next().await?;
            Ok(bytes.map(|bytes| (bytes, body)))
        }))
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.left == Some(0) {
            self.finish().await;
            return Ok(None);
        }
        let (Some(session), Some(data)) = (&self.session, &mut self.data) else { return Ok(None) };
        if self.buffer.capacity() < LEAST {
            self.buffer = BytesMut::with_capacity(BUFFER);
        }
        let subject = &self.subject;
        let buffer = &mut self.buffer;
        let read = async { data.read_buf(buffer).await.map_err(|e| lost(subject.clone(), e)) };
        let n = session.patience().answer(|| subject.clone(), read).await?;
        if n == 0 {
            return self.ended().await;
        }
        let mut bytes = self.buffer.split();
        if let Some(left) = &mut self.left {
            let wanted = usize::try_from(*left).unwrap_or(usize::MAX);
            bytes.truncate(wanted);
            *left -= bytes.len() as u64;
        }
        Ok(Some(bytes.freeze()))
    }

    /// The server has closed the data connection. Whether that was all, it says on the other one.
    async fn ended(&mut self) -> Result<Option<Bytes>> {
        let (Some(mut session), Some(data)) = (self.session.take(), self.data.take()) else {
            return Ok(None);
        };
        session.end(data).await.map_err(|e| e.within(&self.subject))?;
        self.pool.give(session);
        match self.left {
            None => Ok(None),
            Some(left) => Err(Error::new(Kind::Corrupt, self.subject.clone())
                .because(format!("the file ended {left} bytes before it should"))),
        }
    }

    /// All that was wanted is here, so nothing that is wrong from here on matters to anybody but the session.
    async fn finish(&mut self) {
        if !self.to_the_end {
            return;
        }
        let (Some(mut session), Some(data)) = (self.session.take(), self.data.take()) else {
            return;
        };
        if session.end(data).await.is_ok() {
            self.pool.give(session);
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        // First this, so that the server hears of it.
        drop(self.data.take());
        if let Some(mut session) = self.session.take() {
            session.doubtful = true;
            self.pool.give(session);
        }
    }
}
