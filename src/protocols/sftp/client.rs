//! SFTP on a stream: sends requests at once and assigns responses to requests by their id.
//!
//! One task writes, and combines requests that are made together into one write; another task reads. A caller may stop
//! waiting for a response at any time: a handle that no caller receives is closed.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::packet::{self, Attributes, Entry, Packet, Response, Status, take_packet};

/// Minimum free capacity of a read in bytes. When the buffer is used up, an incomplete packet is copied to a new one.
const BUFFER: usize = 256 << 10;
/// Maximum size in bytes up to which requests are combined into one write.
const TOGETHER: usize = 16 << 10;
/// The flag that opens a file for reading.
const READ_ONLY: u32 = 1;

/// The reason why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    Status(Status),
    /// The connection is no longer usable.
    Broken(String),
}

pub(super) type Answer<T> = Result<T, Failure>;

/// The requests that wait for a response.
#[derive(Debug, Default)]
struct Waiting {
    by_id: HashMap<u32, oneshot::Sender<Given>>,
    /// The reason why no more responses arrive.
    ended: Option<String>,
}

/// A response on its way to the waiting caller.
#[derive(Debug)]
enum Given {
    Handle(Handle),
    Other(Response),
}

/// Sends requests and assigns their ids.
#[derive(Debug)]
struct Sender {
    queue: mpsc::UnboundedSender<Bytes>,
    next_id: AtomicU32,
    waiting: Mutex<Waiting>,
}

impl Sender {
    fn id(&self) -> u32 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    async fn ask(&self, id: u32, packet: Packet) -> Answer<Given> {
        let (tell, told) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            if let Some(why) = &waiting.ended {
                return Err(Failure::Broken(why.clone()));
            }
            waiting.by_id.insert(id, tell);
        }
        // An error means that the writer has ended. The reader then ends too and fails this request.
        let _ = self.queue.send(packet.finish());
        match told.await {
            Ok(given) => Ok(given),
            Err(_) => Err(Failure::Broken(self.why())),
        }
    }

    fn why(&self) -> String {
        self.waiting.lock().ended.clone().unwrap_or_else(|| "the connection ended".to_owned())
    }

    fn end(&self, why: String) {
        let mut waiting = self.waiting.lock();
        waiting.ended.get_or_insert(why);
        waiting.by_id.clear();
    }
}

/// A file or folder that is open on the server. Dropping it closes it.
#[derive(Debug)]
pub(super) struct Handle {
    bytes: Bytes,
    sender: Arc<Sender>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        // No caller waits for the response.
        let close = Packet::new(packet::CLOSE, self.sender.id()).string(&self.bytes);
        let _ = self.sender.queue.send(close.finish());
    }
}

/// An SFTP client on a connection. Dropping it ends both tasks and fails all waiting requests.
#[derive(Debug)]
pub(super) struct Client {
    sender: Arc<Sender>,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
}

impl Client {
    /// Negotiates the version and starts the tasks.
    ///
    /// # Errors
    /// The reason why the stream is not SFTP.
    pub(super) async fn start<S>(mut stream: S) -> Result<Self, String>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let lost = |e: std::io::Error| e.to_string();
        // In this packet the version replaces the request id.
        let init = Packet::new(packet::INIT, packet::VERSION).finish();
        stream.write_all(&init).await.map_err(lost)?;
        stream.flush().await.map_err(lost)?;
        let mut came = BytesMut::with_capacity(BUFFER);
        let first = loop {
            let foreign = |text| format!("the server's first words are not SFTP: {text:?}");
            if let Some(packet) = take_packet(&mut came).map_err(foreign)? {
                break packet;
            }
            if stream.read_buf(&mut came).await.map_err(lost)? == 0 {
                return Err("the server ended SFTP before it began".to_owned());
            }
        };
        packet::version(first).ok_or("the server does not answer with its version of SFTP")?;
        let (queue, requests) = mpsc::unbounded_channel();
        let (next_id, waiting) = (AtomicU32::new(1), Mutex::default());
        let sender = Arc::new(Sender { queue, next_id, waiting });
        let (input, output) = tokio::io::split(stream);
        let reader = tokio::spawn(read(input, came, Arc::clone(&sender)));
        let writer = tokio::spawn(write(output, requests));
        Ok(Self { sender, reader, writer })
    }

    async fn ask(&self, kind: u8, fill: impl FnOnce(Packet) -> Packet) -> Answer<Given> {
        let id = self.sender.id();
        self.sender.ask(id, fill(Packet::new(kind, id))).await
    }

    pub(super) async fn stat(&self, path: &[u8]) -> Answer<Attributes> {
        attributes(self.ask(packet::STAT, |packet| packet.string(path)).await?)
    }

    pub(super) async fn lstat(&self, path: &[u8]) -> Answer<Attributes> {
        attributes(self.ask(packet::LSTAT, |packet| packet.string(path)).await?)
    }

    pub(super) async fn fstat(&self, handle: &Handle) -> Answer<Attributes> {
        attributes(self.ask(packet::FSTAT, |packet| packet.string(&handle.bytes)).await?)
    }

    pub(super) async fn real_path(&self, path: &[u8]) -> Answer<Bytes> {
        let given = self.ask(packet::REALPATH, |packet| packet.string(path)).await?;
        let first = names(given)?.into_iter().next();
        first.map(|entry| entry.name).ok_or_else(unexpected)
    }

    pub(super) async fn open(&self, path: &[u8]) -> Answer<Handle> {
        // No attributes are set.
        let fill = |packet: Packet| packet.string(path).u32(READ_ONLY).u32(0);
        handle(self.ask(packet::OPEN, fill).await?)
    }

    pub(super) async fn open_folder(&self, path: &[u8]) -> Answer<Handle> {
        handle(self.ask(packet::OPENDIR, |packet| packet.string(path)).await?)
    }

    pub(super) async fn read(&self, handle: &Handle, start: u64, len: u32) -> Answer<Bytes> {
        let fill = |packet: Packet| packet.string(&handle.bytes).u64(start).u32(len);
        match self.ask(packet::READ, fill).await? {
            Given::Other(Response::Data(bytes)) => Ok(bytes),
            other => Err(no(other)),
        }
    }

    pub(super) async fn read_folder(&self, handle: &Handle) -> Answer<Vec<Entry>> {
        names(self.ask(packet::READDIR, |packet| packet.string(&handle.bytes)).await?)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.reader.abort();
        self.writer.abort();
        self.sender.end("the connection was closed".to_owned());
    }
}

fn attributes(given: Given) -> Answer<Attributes> {
    match given {
        Given::Other(Response::Attributes(attributes)) => Ok(attributes),
        other => Err(no(other)),
    }
}

fn names(given: Given) -> Answer<Vec<Entry>> {
    match given {
        Given::Other(Response::Names(names)) => Ok(names),
        other => Err(no(other)),
    }
}

fn handle(given: Given) -> Answer<Handle> {
    match given {
        Given::Handle(handle) => Ok(handle),
        other => Err(no(other)),
    }
}

/// The failure of a request whose response has the wrong type.
fn no(given: Given) -> Failure {
    match given {
        Given::Other(Response::Status(status)) => Failure::Status(status),
        _ => unexpected(),
    }
}

fn unexpected() -> Failure {
    Failure::Broken("the server's answer does not fit the question".to_owned())
}

async fn write<S: AsyncWrite>(mut output: WriteHalf<S>, mut queue: mpsc::UnboundedReceiver<Bytes>) {
    while let Some(first) = queue.recv().await {
        let mut together = BytesMut::from(first);
        while together.len() < TOGETHER
            && let Ok(next) = queue.try_recv()
        {
            together.extend_from_slice(&next);
        }
        if output.write_all(&together).await.is_err() || output.flush().await.is_err() {
            // The reader notices the failure too, and reports it.
            return;
        }
    }
}

async fn read<S: AsyncRead>(mut input: ReadHalf<S>, mut came: BytesMut, sender: Arc<Sender>) {
    let why = loop {
        match take_packet(&mut came) {
            Ok(Some(packet)) => {
                if let Err(why) = deliver(packet, &sender) {
                    break why;
                }
                continue;
            }
            Ok(None) => {}
            Err(text) => break format!("the server sent something that is not SFTP: {text:?}"),
        }
        came.reserve(BUFFER);
        match input.read_buf(&mut came).await {
            Ok(0) => break "the server closed the connection".to_owned(),
            Ok(_) => {}
            Err(e) => break e.to_string(),
        }
    };
    sender.end(why);
}

fn deliver(packet: Bytes, sender: &Arc<Sender>) -> Result<(), String> {
    let no_response = || "the server sent something that is no response".to_owned();
    let (id, response) = packet::response(packet).ok_or_else(no_response)?;
    let given = match response {
        Response::Handle(bytes) => Given::Handle(Handle { bytes, sender: Arc::clone(sender) }),
        other => Given::Other(other),
    };
    let waits = sender.waiting.lock().by_id.remove(&id);
    // No caller waits for the response to a close, or to an abandoned request.
    if let Some(waits) = waits {
        let _ = waits.send(given);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::DuplexStream;

    use super::*;

    const HANDLE: &[u8] = b"\x00\x00\x00\x80";

    /// The next request: its type, its id, and the rest of its bytes.
    async fn request(server: &mut DuplexStream) -> (u8, u32, Vec<u8>) {
        let len = server.read_u32().await.unwrap();
        let mut body = vec![0; len as usize];
        server.read_exact(&mut body).await.unwrap();
        let id = u32::from_be_bytes(body[1..5].try_into().unwrap());
        (body[0], id, body.split_off(5))
    }

    async fn answer(server: &mut DuplexStream, packet: Packet) {
        server.write_all(&packet.finish()).await.unwrap();
    }

    async fn started() -> (Client, DuplexStream) {
        let (ours, mut server) = tokio::io::duplex(1 << 20);
        let greet = async {
            let (kind, version, _) = request(&mut server).await;
            assert_eq!((kind, version), (packet::INIT, 3));
            answer(&mut server, Packet::new(packet::SSH_FXP_VERSION, 3)).await;
            server
        };
        let (client, server) = tokio::join!(Client::start(ours), greet);
        (client.unwrap(), server)
    }

    #[tokio::test]
    async fn a_handle_is_used_and_closed_byte_for_byte() {
        let (client, mut server) = started().await;
        let asked = async {
            let handle = client.open(b"na\xefve").await.unwrap();
            client.read(&handle, 7, 9).await.unwrap()
        };
        let answered = async {
            let (kind, id, body) = request(&mut server).await;
            assert_eq!((kind, &body[..9]), (packet::OPEN, &b"\0\0\0\x05na\xefve"[..]));
            answer(&mut server, Packet::new(102, id).string(HANDLE)).await;
            let (kind, id, body) = request(&mut server).await;
            assert_eq!((kind, &body[4..8]), (packet::READ, HANDLE));
            answer(&mut server, Packet::new(103, id).string(b"bytes")).await;
            let (kind, _, body) = request(&mut server).await;
            assert_eq!((kind, &body[4..]), (packet::CLOSE, HANDLE));
        };
        let (bytes, ()) = tokio::join!(asked, answered);
        assert_eq!(&bytes[..], b"bytes");
    }

    #[tokio::test]
    async fn a_handle_that_nobody_waits_for_any_more_is_closed() {
        let (client, mut server) = started().await;
        let open = client.open(b"x");
        let id = tokio::select! {
            _ = open => panic!("nobody has answered"),
            (kind, id, _) = request(&mut server) => {
                assert_eq!(kind, packet::OPEN);
                id
            }
        };
        answer(&mut server, Packet::new(102, id).string(HANDLE)).await;
        let (kind, _, body) = request(&mut server).await;
        assert_eq!((kind, &body[4..]), (packet::CLOSE, HANDLE));
    }

    #[tokio::test]
    async fn a_status_is_told_and_an_end_reaches_all_that_wait() {
        let (client, mut server) = started().await;
        let answered = async {
            let (_, id, _) = request(&mut server).await;
            answer(&mut server, Packet::new(101, id).u32(2).string(b"no such file")).await;
        };
        let (failed, ()) = tokio::join!(client.stat(b"x"), answered);
        let status = Status { code: 2, message: "no such file".into() };
        assert_eq!(failed, Err(Failure::Status(status)));
        let (one, two, ()) =
            tokio::join!(client.stat(b"a"), client.lstat(b"b"), async { drop(server) });
        assert!(matches!((one, two), (Err(Failure::Broken(_)), Err(Failure::Broken(_)))));
        assert!(matches!(client.stat(b"c").await, Err(Failure::Broken(_))));
    }

    #[tokio::test]
    async fn a_greeting_of_a_shell_is_no_sftp() {
        let (ours, mut server) = tokio::io::duplex(1000);
        server.write_all(b"Welcome to this host!\r\n").await.unwrap();
        let why = Client::start(ours).await.unwrap_err();
        assert!(why.contains("Welcome to this host!"), "{why}");
    }
}
