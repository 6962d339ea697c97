//! The control connection: sends commands and reads replies.

use std::{io, net::SocketAddr, sync::Arc};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::reply::{InvalidReply, MAX_REPLY_LEN, Reply, ReplyLines};

/// A connection, with TLS or without.
pub(super) trait Connection: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Connection for T {}

/// The reason why there is no reply.
#[derive(Debug)]
pub(super) enum ReplyFailure {
    Io(io::Error),
    Invalid(InvalidReply),
}

impl From<io::Error> for ReplyFailure {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

pub(super) struct Control {
    stream: BufReader<Box<dyn Connection>>,
    /// The address of the server. Data connections go to the same host.
    pub(super) peer: SocketAddr,
    /// Our address, to which the server connects in active mode.
    pub(super) local: SocketAddr,
}

impl Control {
    /// A control connection without TLS.
    pub(super) fn new(stream: TcpStream) -> io::Result<Self> {
        let (peer, local) = (stream.peer_addr()?, stream.local_addr()?);
        Ok(Self { stream: BufReader::new(Box::new(stream)), peer, local })
    }

    /// Starts TLS on the connection.
    pub(super) async fn with_tls(self, config: &Arc<ClientConfig>, host: &str) -> io::Result<Self> {
        if !self.stream.buffer().is_empty() {
            // Text that arrived before TLS must not be taken for a reply inside TLS.
            return Err(io::Error::other("the server sent data before TLS started"));
        }
        let stream = start_tls(self.stream.into_inner(), config, host).await?;
        Ok(Self { stream: BufReader::new(stream), ..self })
    }

    /// Sends a command and appends the line break.
    pub(super) async fn send(&mut self, command: &[u8]) -> io::Result<()> {
        if command.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)) {
            let text = "a command contains a line break";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let mut line = Vec::with_capacity(command.len() + 2);
        for byte in command {
            // The escape byte of Telnet is doubled.
            line.extend(std::iter::repeat_n(*byte, if *byte == 0xff { 2 } else { 1 }));
        }
        line.extend_from_slice(b"\r\n");
        self.stream.write_all(&line).await?;
        // TLS buffers what the socket does not accept at once, and the server would wait for the rest.
        self.stream.flush().await
    }

    pub(super) async fn reply(&mut self) -> Result<Reply, ReplyFailure> {
        let mut lines = ReplyLines::default();
        let mut line = Vec::new();
        loop {
            line.clear();
            let limit = (MAX_REPLY_LEN + 1).saturating_sub(lines.len()) as u64;
            let read = (&mut self.stream).take(limit).read_until(b'\n', &mut line).await?;
            if read == 0 {
                let text = "the server closed the connection";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text).into());
            }
            if let Some(reply) = lines.push(&line).map_err(ReplyFailure::Invalid)? {
                return Ok(reply);
            }
        }
    }
}

/// Starts TLS on a plain connection.
pub(super) async fn start_tls(
    stream: Box<dyn Connection>,
    config: &Arc<ClientConfig>,
    host: &str,
) -> io::Result<Box<dyn Connection>> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let connector = TlsConnector::from(Arc::clone(config));
    Ok(Box::new(connector.connect(name, stream).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(stream: impl Connection + 'static) -> Control {
        let addr = SocketAddr::from(([127, 0, 0, 1], 1));
        Control { stream: BufReader::new(Box::new(stream)), peer: addr, local: addr }
    }

    #[tokio::test]
    async fn a_whole_command_is_sent_before_its_reply_is_awaited() {
        let (ours, mut theirs) = tokio::io::duplex(1000);
        let mut control = control(tokio::io::BufStream::new(ours));
        let client = async {
            control.send(b"CWD a\xff").await.unwrap();
            control.reply().await.unwrap().code
        };
        let server = async {
            let mut request = [0; 9];
            theirs.read_exact(&mut request).await.unwrap();
            theirs.write_all(b"250 ok\r\n").await.unwrap();
            request
        };
        let (code, request) = tokio::join!(client, server);
        assert_eq!((code, &request), (250, b"CWD a\xff\xff\r\n"));
    }

    #[tokio::test]
    async fn a_command_with_a_line_break_is_refused() {
        let mut control = control(tokio::io::duplex(1000).0);
        for command in [&b"SIZE a\r\nDELE b"[..], b"SIZE a\nDELE b", b"SIZE a\0"] {
            let error = control.send(command).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[tokio::test]
    async fn endless_replies_and_other_protocols_are_detected() {
        let (ours, mut theirs) = tokio::io::duplex(MAX_REPLY_LEN * 2);
        theirs.write_all(b"220-").await.unwrap();
        theirs.write_all(&[b'x'; MAX_REPLY_LEN + 10]).await.unwrap();
        let failure = control(ours).reply().await.unwrap_err();
        assert!(matches!(failure, ReplyFailure::Invalid(InvalidReply::TooLong)), "{failure:?}");
        let (ours, mut theirs) = tokio::io::duplex(100);
        theirs.write_all(b"SSH-2.0-x\r\n").await.unwrap();
        let failure = control(ours).reply().await.unwrap_err();
        assert!(matches!(failure, ReplyFailure::Invalid(InvalidReply::NotFtp(_))), "{failure:?}");
        let (ours, theirs) = tokio::io::duplex(100);
        drop(theirs);
        let failure = control(ours).reply().await.unwrap_err();
        assert!(matches!(failure, ReplyFailure::Io(_)), "{failure:?}");
    }
}
