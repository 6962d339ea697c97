//! The control connection: sends commands and reads replies.

use std::{io, net::SocketAddr, sync::Arc};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::reply::{LONGEST, NoReply, Reply, ReplyLines};

/// A connection, with TLS or without.
pub(super) trait Connection: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Connection for T {}

/// The reason why there is no reply.
#[derive(Debug)]
pub(super) enum Broken {
    Io(io::Error),
    NoReply(NoReply),
}

impl From<io::Error> for Broken {
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
    pub(super) fn plain(stream: TcpStream) -> io::Result<Self> {
        let (peer, local) = (stream.peer_addr()?, stream.local_addr()?);
        Ok(Self { stream: BufReader::new(Box::new(stream)), peer, local })
    }

    /// Starts TLS on the connection.
    pub(super) async fn secured(self, config: &Arc<ClientConfig>, host: &str) -> io::Result<Self> {
        if !self.stream.buffer().is_empty() {
            // Text that arrived before TLS must not be taken for a reply inside TLS.
            return Err(io::Error::other("the server sent more before TLS began"));
        }
        let stream = secure(self.stream.into_inner(), config, host).await?;
        Ok(Self { stream: BufReader::new(stream), ..self })
    }

    /// Sends a command and appends the line break.
    pub(super) async fn send(&mut self, command: &[u8]) -> io::Result<()> {
        if command.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)) {
            let text = "a line break in a command would be a second command";
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

    pub(super) async fn reply(&mut self) -> Result<Reply, Broken> {
        let mut lines = ReplyLines::default();
        let mut line = Vec::new();
        loop {
            line.clear();
            let room = (LONGEST + 1).saturating_sub(lines.len()) as u64;
            let read = (&mut self.stream).take(room).read_until(b'\n', &mut line).await?;
            if read == 0 {
                let text = "the server closed the connection";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text).into());
            }
            if let Some(reply) = lines.push(&line).map_err(Broken::NoReply)? {
                return Ok(reply);
            }
        }
    }
}

/// Starts TLS on a plain connection.
pub(super) async fn secure(
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
    async fn a_command_is_sent_whole_before_its_reply_is_awaited() {
        let (ours, mut theirs) = tokio::io::duplex(1000);
        let mut control = control(tokio::io::BufStream::new(ours));
        let asked = async {
            control.send(b"CWD a\xff").await.unwrap();
            control.reply().await.unwrap().code
        };
        let answered = async {
            let mut question = [0; 9];
            theirs.read_exact(&mut question).await.unwrap();
            theirs.write_all(b"250 ok\r\n").await.unwrap();
            question
        };
        let (code, question) = tokio::join!(asked, answered);
        assert_eq!((code, &question), (250, b"CWD a\xff\xff\r\n"));
    }

    #[tokio::test]
    async fn no_command_has_another_in_it() {
        let mut control = control(tokio::io::duplex(1000).0);
        for command in [&b"SIZE a\r\nDELE b"[..], b"SIZE a\nDELE b", b"SIZE a\0"] {
            let error = control.send(command).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[tokio::test]
    async fn replies_without_end_and_other_protocols_are_noticed() {
        let (ours, mut theirs) = tokio::io::duplex(LONGEST * 2);
        theirs.write_all(b"220-").await.unwrap();
        theirs.write_all(&[b'x'; LONGEST + 10]).await.unwrap();
        let broken = control(ours).reply().await.unwrap_err();
        assert!(matches!(broken, Broken::NoReply(NoReply::TooLong)), "{broken:?}");
        let (ours, mut theirs) = tokio::io::duplex(100);
        theirs.write_all(b"SSH-2.0-x\r\n").await.unwrap();
        let broken = control(ours).reply().await.unwrap_err();
        assert!(matches!(broken, Broken::NoReply(NoReply::Foreign(_))), "{broken:?}");
        let (ours, theirs) = tokio::io::duplex(100);
        drop(theirs);
        let broken = control(ours).reply().await.unwrap_err();
        assert!(matches!(broken, Broken::Io(_)), "{broken:?}");
    }
}
