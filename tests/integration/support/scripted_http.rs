//! An HTTP server that sends the test's answers byte for byte, for faults that are rare with real servers.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddrV4, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use super::ports;

/// A received request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    fn read(stream: &TcpStream) -> Option<Self> {
        let mut reader = BufReader::new(stream);
        let mut line = || {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
            Some(line.trim_end().to_owned())
        };
        let first = line()?;
        let mut words = first.split(' ').map(str::to_owned);
        let (method, target) = (words.next()?, words.next()?);
        let mut headers = Vec::new();
        loop {
            let line = line()?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_lowercase(), value.trim().to_owned()));
        }
        let mut request = Self { method, target, headers, body: Vec::new() };
        let len = request.header("content-length").map_or(0, |len| len.parse().unwrap());
        request.body.resize(len, 0);
        reader.read_exact(&mut request.body).ok()?;
        Some(request)
    }
}

/// An answer of the server.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    head: String,
    body: Vec<u8>,
    /// How many bytes of the body are sent.
    sent_len: usize,
}

impl Answer {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n", body.len());
        Self { head, sent_len: body.len(), body }
    }

    /// An answer without `Content-Length`.
    pub(crate) fn without_length(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self { head: format!("HTTP/1.1 {status} X\r\n"), sent_len: body.len(), body }
    }

    /// Exactly these bytes, which need not be HTTP.
    pub(crate) fn raw(bytes: impl Into<String>) -> Self {
        Self { head: bytes.into(), body: Vec::new(), sent_len: 0 }
    }

    /// An error in S3's XML format.
    pub(crate) fn error(status: u16, code: &str) -> Self {
        let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>");
        Self::new(status, body)
    }

    /// An answer to HEAD: it declares a body of `len` bytes and sends none.
    pub(crate) fn head(status: u16, len: usize) -> Self {
        Self { sent_len: 0, ..Self::new(status, vec![0; len]) }
    }

    pub(crate) fn with(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.head.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    /// Closes the connection after `sent_len` bytes of the body.
    pub(crate) fn truncated(self, sent_len: usize) -> Self {
        Self { sent_len, ..self }
    }

    fn write(&self, mut stream: &TcpStream, connection_header: &str) -> std::io::Result<()> {
        let head = format!("{}{connection_header}\r\n", self.head);
        stream.write_all(&[head.as_bytes(), &self.body[..self.sent_len]].concat())
    }
}

/// A server that takes each answer from `script`. `None` closes the connection without an answer.
#[derive(Debug)]
pub(crate) struct ScriptedHttp {
    addr: SocketAddrV4,
    requests: Arc<Mutex<Vec<Request>>>,
    stopped: Arc<AtomicBool>,
}

impl ScriptedHttp {
    /// `script` gets the number of earlier requests and the request. Each connection serves one request.
    pub(crate) fn start(
        script: impl FnMut(usize, &Request) -> Option<Answer> + Send + 'static,
    ) -> Self {
        Self::serve(script, false)
    }

    /// Connections stay open. They are served one at a time, the next when the one before is closed.
    pub(crate) fn keep_alive(
        script: impl FnMut(usize, &Request) -> Option<Answer> + Send + 'static,
    ) -> Self {
        Self::serve(script, true)
    }

    fn serve(
        mut script: impl FnMut(usize, &Request) -> Option<Answer> + Send + 'static,
        keep_alive: bool,
    ) -> Self {
        let (addr, listener) = listen();
        let (requests, stopped) = (Arc::<Mutex<Vec<Request>>>::default(), Arc::default());
        let (received, is_stopped) = (Arc::clone(&requests), Arc::<AtomicBool>::clone(&stopped));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if is_stopped.load(Ordering::Acquire) {
                    return;
                }
                // A connection that is kept open has no read timeout: it lasts until the client closes it.
                let limit = (!keep_alive).then_some(Duration::from_secs(10));
                stream.set_read_timeout(limit).unwrap();
                while let Some(request) = Request::read(&stream) {
                    let answer = script(received.lock().unwrap().len(), &request);
                    received.lock().unwrap().push(request);
                    let connection_header = if keep_alive { "" } else { "Connection: close\r\n" };
                    let written = answer
                        .is_some_and(|answer| answer.write(&stream, connection_header).is_ok());
                    if !keep_alive || !written {
                        break;
                    }
                }
            }
        });
        Self { addr, requests, stopped }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The requests so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

/// Another program may take the port before this one binds it; then another port is used.
fn listen() -> (SocketAddrV4, TcpListener) {
    loop {
        let addr = ports::unused();
        if let Ok(listener) = TcpListener::bind(addr) {
            return (addr, listener);
        }
    }
}

impl Drop for ScriptedHttp {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.addr);
    }
}
