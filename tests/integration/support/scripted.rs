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
    sent: usize,
}

impl Answer {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n", body.len());
        Self { head, sent: body.len(), body }
    }

    /// An answer without `Content-Length`.
    pub(crate) fn unmeasured(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self { head: format!("HTTP/1.1 {status} X\r\n"), sent: body.len(), body }
    }

    /// Exactly these bytes, which need not be HTTP.
    pub(crate) fn raw(bytes: impl Into<String>) -> Self {
        Self { head: bytes.into(), body: Vec::new(), sent: 0 }
    }

    /// An error in S3's XML format.
    pub(crate) fn error(status: u16, code: &str) -> Self {
        let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>");
        Self::new(status, body)
    }

    /// An answer to HEAD: it declares a body of `len` bytes and sends none.
    pub(crate) fn head(status: u16, len: usize) -> Self {
        Self { sent: 0, ..Self::new(status, vec![0; len]) }
    }

    pub(crate) fn with(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.head.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    /// Closes the connection after `sent` bytes of the body.
    pub(crate) fn cut(self, sent: usize) -> Self {
        Self { sent, ..self }
    }

    fn write(&self, mut stream: &TcpStream, more: &str) -> std::io::Result<()> {
        let head = format!("{}{more}\r\n", self.head);
        stream.write_all(&[head.as_bytes(), &self.body[..self.sent]].concat())
    }
}

/// A server that takes each answer from `script`. `None` closes the connection without an answer.
#[derive(Debug)]
pub(crate) struct Scripted {
    addr: SocketAddrV4,
    requests: Arc<Mutex<Vec<Request>>>,
    over: Arc<AtomicBool>,
}

impl Scripted {
    /// `script` gets the number of earlier requests and the request. Each connection serves one request.
    pub(crate) fn start(
        script: impl FnMut(usize, &Request) -> Option<Answer> + Send + 'static,
    ) -> Self {
        Self::serve(script, false)
    }

    /// Connections stay open. They are served one at a time, the next when the one before is closed.
    pub(crate) fn keeping(
        script: impl FnMut(usize, &Request) -> Option<Answer> + Send + 'static,
    ) -> Self {
        Self::serve(script, true)
    }

    fn serve(
        mut script: impl FnMut(usize, &Request) -> Option<Answer> + Send + 'static,
        keeps: bool,
    ) -> Self {
        let (addr, listener) = listen();
        let (requests, over) = (Arc::<Mutex<Vec<Request>>>::default(), Arc::default());
        let (seen, ends) = (Arc::clone(&requests), Arc::<AtomicBool>::clone(&over));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if ends.load(Ordering::Acquire) {
                    return;
                }
                // A connection that is kept open has no read timeout: it lasts until the client closes it.
                let limit = (!keeps).then_some(Duration::from_secs(10));
                stream.set_read_timeout(limit).unwrap();
                while let Some(request) = Request::read(&stream) {
                    let answer = script(seen.lock().unwrap().len(), &request);
                    seen.lock().unwrap().push(request);
                    let more = if keeps { "" } else { "Connection: close\r\n" };
                    let written = answer.is_some_and(|answer| answer.write(&stream, more).is_ok());
                    if !keeps || !written {
                        break;
                    }
                }
            }
        });
        Self { addr, requests, over }
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
        let addr = ports::own();
        if let Ok(listener) = TcpListener::bind(addr) {
            return (addr, listener);
        }
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.addr);
    }
}
