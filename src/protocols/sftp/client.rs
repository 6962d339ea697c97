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

use super::packet::{self, Attributes, FolderEntry, Packet, Response, Status, take_packet};

/// Minimum free capacity of a read in bytes. When the buffer is used up, an incomplete packet is copied to a new one.
const READ_CAPACITY: usize = 256 << 10;
/// Maximum size in bytes up to which requests are combined into one write.
const MAX_COMBINED_WRITE: usize = 16 << 10;
/// The flag that opens a file for reading.
const READ_ONLY: u32 = 1;

/// The reason why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RequestFailure {
    Status(Status),
    /// The connection is no longer usable.
    ConnectionLost(String),
}

pub(super) type RequestResult<T> = Result<T, RequestFailure>;

/// The requests that wait for a response.
#[derive(Debug, Default)]
struct PendingRequests {
    by_id: HashMap<u32, oneshot::Sender<DeliveredResponse>>,
    /// The reason why no more responses arrive.
    end_reason: Option<String>,
}

/// A response on its way to the waiting caller.
#[derive(Debug)]
enum DeliveredResponse {
    Handle(Handle),
    Other(Response),
}

/// Sends requests and assigns their ids.
#[derive(Debug)]
struct RequestSender {
    queue: mpsc::UnboundedSender<Bytes>,
    next_id: AtomicU32,
    pending: Mutex<PendingRequests>,
}

impl RequestSender {
    fn next_id(&self) -> u32 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    async fn send_request(&self, id: u32, packet: Packet) -> RequestResult<DeliveredResponse> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut pending = self.pending.lock();
            if let Some(reason) = &pending.end_reason {
                return Err(RequestFailure::ConnectionLost(reason.clone()));
            }
            pending.by_id.insert(id, sender);
        }
        // An error means that the writer has ended. The reader then ends too and fails this request.
        let _ = self.queue.send(packet.finish());
        match receiver.await {
            Ok(response) => Ok(response),
            Err(_) => Err(RequestFailure::ConnectionLost(self.end_reason())),
        }
    }

    fn end_reason(&self) -> String {
        self.pending.lock().end_reason.clone().unwrap_or_else(|| "the connection ended".to_owned())
    }

    fn end(&self, reason: String) {
        let mut pending = self.pending.lock();
        pending.end_reason.get_or_insert(reason);
        pending.by_id.clear();
    }
}

/// A file or folder that is open on the server. Dropping it closes it.
#[derive(Debug)]
pub(super) struct Handle {
    bytes: Bytes,
    sender: Arc<RequestSender>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        // No caller waits for the response.
        let close = Packet::new(packet::CLOSE, self.sender.next_id()).string(&self.bytes);
        let _ = self.sender.queue.send(close.finish());
    }
}

/// An SFTP client on a connection. Dropping it ends both tasks and fails all waiting requests.
#[derive(Debug)]
pub(super) struct SftpClient {
    sender: Arc<RequestSender>,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
}

impl SftpClient {
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
        let mut buffer = BytesMut::with_capacity(READ_CAPACITY);
        let first = loop {
            let not_sftp = |text| format!("the server's first bytes are not SFTP: {text:?}");
            if let Some(packet) = take_packet(&mut buffer).map_err(not_sftp)? {
                break packet;
            }
            if stream.read_buf(&mut buffer).await.map_err(lost)? == 0 {
                return Err("the server closed SFTP before it started".to_owned());
            }
        };
        packet::parse_version(first).ok_or("the server's first packet has no SFTP version")?;
        let (queue, requests) = mpsc::unbounded_channel();
        let (next_id, pending) = (AtomicU32::new(1), Mutex::default());
        let sender = Arc::new(RequestSender { queue, next_id, pending });
        let (input, output) = tokio::io::split(stream);
        let reader = tokio::spawn(read_responses(input, buffer, Arc::clone(&sender)));
        let writer = tokio::spawn(write_requests(output, requests));
        Ok(Self { sender, reader, writer })
    }

    async fn request(
        &self,
        kind: u8,
        fill: impl FnOnce(Packet) -> Packet,
    ) -> RequestResult<DeliveredResponse> {
        let id = self.sender.next_id();
        self.sender.send_request(id, fill(Packet::new(kind, id))).await
    }

    pub(super) async fn stat(&self, path: &[u8]) -> RequestResult<Attributes> {
        expect_attributes(self.request(packet::STAT, |packet| packet.string(path)).await?)
    }

    pub(super) async fn lstat(&self, path: &[u8]) -> RequestResult<Attributes> {
        expect_attributes(self.request(packet::LSTAT, |packet| packet.string(path)).await?)
    }

    pub(super) async fn fstat(&self, handle: &Handle) -> RequestResult<Attributes> {
        expect_attributes(self.request(packet::FSTAT, |packet| packet.string(&handle.bytes)).await?)
    }

    pub(super) async fn real_path(&self, path: &[u8]) -> RequestResult<Bytes> {
        let response = self.request(packet::REALPATH, |packet| packet.string(path)).await?;
        let first = expect_names(response)?.into_iter().next();
        first.map(|entry| entry.name).ok_or_else(unexpected_response)
    }

    pub(super) async fn open(&self, path: &[u8]) -> RequestResult<Handle> {
        // No attributes are set.
        let fill = |packet: Packet| packet.string(path).u32(READ_ONLY).u32(0);
        expect_handle(self.request(packet::OPEN, fill).await?)
    }

    pub(super) async fn open_folder(&self, path: &[u8]) -> RequestResult<Handle> {
        expect_handle(self.request(packet::OPENDIR, |packet| packet.string(path)).await?)
    }

    pub(super) async fn read(&self, handle: &Handle, start: u64, len: u32) -> RequestResult<Bytes> {
        let fill = |packet: Packet| packet.string(&handle.bytes).u64(start).u32(len);
        match self.request(packet::READ, fill).await? {
            DeliveredResponse::Other(Response::Data(bytes)) => Ok(bytes),
            other => Err(failure_of(other)),
        }
    }

    pub(super) async fn read_folder(&self, handle: &Handle) -> RequestResult<Vec<FolderEntry>> {
        expect_names(self.request(packet::READDIR, |packet| packet.string(&handle.bytes)).await?)
    }
}

impl Drop for SftpClient {
    fn drop(&mut self) {
        self.reader.abort();
        self.writer.abort();
        self.sender.end("the connection was closed".to_owned());
    }
}

fn expect_attributes(response: DeliveredResponse) -> RequestResult<Attributes> {
    match response {
        DeliveredResponse::Other(Response::Attributes(attributes)) => Ok(attributes),
        other => Err(failure_of(other)),
    }
}

fn expect_names(response: DeliveredResponse) -> RequestResult<Vec<FolderEntry>> {
    match response {
        DeliveredResponse::Other(Response::Names(names)) => Ok(names),
        other => Err(failure_of(other)),
    }
}

fn expect_handle(response: DeliveredResponse) -> RequestResult<Handle> {
    match response {
        DeliveredResponse::Handle(handle) => Ok(handle),
        other => Err(failure_of(other)),
    }
}

/// The failure of a request whose response has the wrong type.
fn failure_of(response: DeliveredResponse) -> RequestFailure {
    match response {
        DeliveredResponse::Other(Response::Status(status)) => RequestFailure::Status(status),
        _ => unexpected_response(),
    }
}

fn unexpected_response() -> RequestFailure {
    RequestFailure::ConnectionLost("the server's answer does not match the request".to_owned())
}

async fn write_requests<S: AsyncWrite>(
    mut output: WriteHalf<S>,
    mut queue: mpsc::UnboundedReceiver<Bytes>,
) {
    while let Some(first) = queue.recv().await {
        let mut batch = BytesMut::from(first);
        while batch.len() < MAX_COMBINED_WRITE
            && let Ok(next) = queue.try_recv()
        {
            batch.extend_from_slice(&next);
        }
        if output.write_all(&batch).await.is_err() || output.flush().await.is_err() {
            // The reader notices the failure too, and reports it.
            return;
        }
    }
}

async fn read_responses<S: AsyncRead>(
    mut input: ReadHalf<S>,
    mut buffer: BytesMut,
    sender: Arc<RequestSender>,
) {
    let reason = loop {
        match take_packet(&mut buffer) {
            Ok(Some(packet)) => {
                if let Err(reason) = deliver(packet, &sender) {
                    break reason;
                }
                continue;
            }
            Ok(None) => {}
            Err(text) => break format!("the server sent data that is not SFTP: {text:?}"),
        }
        buffer.reserve(READ_CAPACITY);
        match input.read_buf(&mut buffer).await {
            Ok(0) => break "the server closed the connection".to_owned(),
            Ok(_) => {}
            Err(e) => break e.to_string(),
        }
    };
    sender.end(reason);
}

fn deliver(packet: Bytes, sender: &Arc<RequestSender>) -> Result<(), String> {
    let not_a_response = || "the server sent a packet that is not a response".to_owned();
    let (id, response) = packet::parse_response(packet).ok_or_else(not_a_response)?;
    let response = match response {
        Response::Handle(bytes) => {
            DeliveredResponse::Handle(Handle { bytes, sender: Arc::clone(sender) })
        }
        other => DeliveredResponse::Other(other),
    };
    let caller = sender.pending.lock().by_id.remove(&id);
    // No caller waits for the response to a close, or to an abandoned request.
    if let Some(caller) = caller {
        let _ = caller.send(response);
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

    async fn started() -> (SftpClient, DuplexStream) {
        let (ours, mut server) = tokio::io::duplex(1 << 20);
        let greet = async {
            let (kind, version, _) = request(&mut server).await;
            assert_eq!((kind, version), (packet::INIT, 3));
            answer(&mut server, Packet::new(packet::SSH_FXP_VERSION, 3)).await;
            server
        };
        let (client, server) = tokio::join!(SftpClient::start(ours), greet);
        (client.unwrap(), server)
    }

    #[tokio::test]
    async fn a_handle_is_sent_back_and_closed_unchanged() {
        let (client, mut server) = started().await;
        let requests = async {
            let handle = client.open(b"na\xefve").await.unwrap();
            client.read(&handle, 7, 9).await.unwrap()
        };
        let answers = async {
            let (kind, id, body) = request(&mut server).await;
            assert_eq!((kind, &body[..9]), (packet::OPEN, &b"\0\0\0\x05na\xefve"[..]));
            answer(&mut server, Packet::new(102, id).string(HANDLE)).await;
            let (kind, id, body) = request(&mut server).await;
            assert_eq!((kind, &body[4..8]), (packet::READ, HANDLE));
            answer(&mut server, Packet::new(103, id).string(b"bytes")).await;
            let (kind, _, body) = request(&mut server).await;
            assert_eq!((kind, &body[4..]), (packet::CLOSE, HANDLE));
        };
        let (bytes, ()) = tokio::join!(requests, answers);
        assert_eq!(&bytes[..], b"bytes");
    }

    #[tokio::test]
    async fn the_handle_of_an_abandoned_request_is_closed() {
        let (client, mut server) = started().await;
        let open = client.open(b"x");
        let id = tokio::select! {
            _ = open => panic!("there was no answer yet"),
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
    async fn a_status_is_returned_and_a_closed_connection_fails_all_requests() {
        let (client, mut server) = started().await;
        let answers = async {
            let (_, id, _) = request(&mut server).await;
            answer(&mut server, Packet::new(101, id).u32(2).string(b"no such file")).await;
        };
        let (failed, ()) = tokio::join!(client.stat(b"x"), answers);
        let status = Status { code: 2, message: "no such file".into() };
        assert_eq!(failed, Err(RequestFailure::Status(status)));
        let (one, two, ()) =
            tokio::join!(client.stat(b"a"), client.lstat(b"b"), async { drop(server) });
        assert!(matches!(
            (one, two),
            (Err(RequestFailure::ConnectionLost(_)), Err(RequestFailure::ConnectionLost(_)))
        ));
        assert!(matches!(client.stat(b"c").await, Err(RequestFailure::ConnectionLost(_))));
    }

    #[tokio::test]
    async fn text_of_a_shell_is_refused_as_sftp() {
        let (ours, mut server) = tokio::io::duplex(1000);
        server.write_all(b"Welcome to this host!\r\n").await.unwrap();
        let reason = SftpClient::start(ours).await.unwrap_err();
        assert!(reason.contains("Welcome to this host!"), "{reason}");
    }
}
