//! TLS under FTP, as the library wants it: a connector, and a stream that leaves nothing behind in its buffer.
//!
//! The library writes a command and waits for the answer, without a flush between. A TLS stream takes what is written
//! also when the socket takes nothing just then (or when the runtime thinks that the task had its share), and keeps it for
//! a flush: the server would wait for the command, and we for the answer. So a read flushes first what was written.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use rustls::{ClientConfig, pki_types::ServerName};
use suppaftp::{
    FtpError, FtpResult,
    tokio::{AsyncTlsConnector, TokioTlsStream},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client};

use crate::protocols::tls::handshake;

/// What all connections of a session are.
pub(super) type TlsStream = Flushed<client::TlsStream<TcpStream>>;

/// Makes them, with one memory of TLS sessions.
pub(super) struct Connector(TlsConnector);

impl Connector {
    pub(super) fn new(config: Arc<ClientConfig>) -> Self {
        Self(config.into())
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connector")
    }
}

#[async_trait::async_trait]
impl AsyncTlsConnector for Connector {
    type Stream = TlsStream;

    async fn connect(&self, domain: &str, stream: TcpStream) -> FtpResult<TlsStream> {
        let no_host = |e| FtpError::ConnectionError(io::Error::new(io::ErrorKind::InvalidInput, e));
        let refused = |e| FtpError::ConnectionError(io::Error::other(handshake(&e)));
        let name = ServerName::try_from(domain.to_owned()).map_err(no_host)?;
        let stream = self.0.connect(name, stream).await.map_err(refused)?;
        Ok(Flushed { inner: stream, unsent: false })
    }
}

/// A stream whose reads first send what was written to it.
#[derive(Debug)]
pub(super) struct Flushed<S> {
    inner: S,
    unsent: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Flushed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unsent
            && let Poll::Ready(flushed) = Pin::new(&mut self.inner).poll_flush(cx)
        {
            flushed?;
            self.unsent = false;
        }
        // Where the flush is not done yet, it wakes this task too.
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Flushed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.unsent = true;
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl TokioTlsStream for TlsStream {
    type InnerStream = client::TlsStream<TcpStream>;

    fn tcp_stream(self) -> FtpResult<TcpStream> {
        Ok(self.inner.into_inner().0)
    }

    fn get_ref(&self) -> &TcpStream {
        self.inner.get_ref().0
    }

    fn mut_ref(&mut self) -> &mut Self::InnerStream {
        &mut self.inner
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, BufStream};

    use super::*;

    #[tokio::test]
    async fn whoever_waits_for_an_answer_has_sent_the_question() {
        let (ours, mut theirs) = tokio::io::duplex(1000);
        let mut ours = Flushed { inner: BufStream::new(ours), unsent: false };
        let asked = async {
            ours.write_all(b"NOOP\r\n").await.unwrap();
            let mut answer = [0; 3];
            ours.read_exact(&mut answer).await.unwrap();
            answer
        };
        let answered = async {
            let mut question = [0; 6];
            theirs.read_exact(&mut question).await.unwrap();
            theirs.write_all(b"200").await.unwrap();
            question
        };
        let (answer, question) = tokio::join!(asked, answered);
        assert_eq!((&question, &answer), (b"NOOP\r\n", b"200"));
    }
}
