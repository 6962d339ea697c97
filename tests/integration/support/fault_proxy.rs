//! A proxy in front of a real HTTP server. It counts requests and breaks those that a test picks.
//!
//! It forwards HTTP/1.1 request by request, so that a test can name "the third PUT". Without a fault it changes no
//! byte. Signatures stay valid, because clients use the proxy's address and the `Host` header names the proxy from
//! the start.

use std::{
    fmt,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// The fault of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// The connection is reset before the request reaches the server.
    Reset,
    /// Half of the request's body reaches the server, then both connections end.
    CutRequest,
    /// The server carries out the request, and the answer is lost.
    LoseAnswer,
    /// The server carries out the request, and the answer ends in the middle.
    CutAnswer,
    /// The request is not forwarded. The connection stays open until the client closes it or the faults change.
    Hold,
    /// The server carries out the request. The answer is kept back, like that of [`Fault::Hold`].
    HoldAnswer,
    /// The answer has one wrong bit in the middle of its body.
    Flip,
    /// The `Content-Range` of the answer is not the range of the request.
    WrongRange,
    /// The request does not reach the server: 503 with this `Retry-After` in seconds.
    Busy(u64),
    /// The request does not reach the server: an answer with this status line and S3 error code.
    Refuse(&'static str, &'static str),
}

/// The properties of a request by which tests pick it.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Counted from 0 over all connections.
    pub(crate) number: u64,
    pub(crate) method: String,
    pub(crate) body: u64,
}

/// How often a held connection looks for the end of its fault.
const HOLD_POLL: Duration = Duration::from_millis(20);

type Plan = Box<dyn Fn(&Request) -> Fault + Send + Sync>;

struct Shared {
    upstream: SocketAddr,
    plan: Mutex<Arc<Plan>>,
    requests: Mutex<Vec<Request>>,
    next: AtomicU64,
    /// The number of requests that were held since the last [`FaultProxy::set_faults`].
    held: AtomicU64,
    /// Changes with the faults.
    generation: AtomicU64,
    ended: AtomicBool,
}

/// A running proxy. It stops when it is dropped.
pub(crate) struct FaultProxy {
    shared: Arc<Shared>,
    addr: SocketAddr,
}

impl fmt::Debug for FaultProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultProxy").field("addr", &self.addr).finish_non_exhaustive()
    }
}

impl FaultProxy {
    pub(crate) fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let plan: Plan = Box::new(|_| Fault::None);
        let shared = Arc::new(Shared {
            upstream,
            plan: Mutex::new(Arc::new(plan)),
            requests: Mutex::default(),
            next: AtomicU64::new(0),
            held: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.ended.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&accepting);
                // An error means that a connection ended, which needs no handling here.
                thread::spawn(move || serve(&shared, &client).map_err(drop));
            }
        });
        Self { shared, addr }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on requests have the faults that `plan` returns. Their numbers start at 0 again.
    pub(crate) fn set_faults(&self, plan: impl Fn(&Request) -> Fault + Send + Sync + 'static) {
        self.change_plan(Box::new(plan));
        self.shared.requests.lock().unwrap().clear();
        self.shared.next.store(0, Ordering::Relaxed);
        self.shared.held.store(0, Ordering::Relaxed);
    }

    fn change_plan(&self, plan: Plan) {
        *self.shared.plan.lock().unwrap() = Arc::new(plan);
        self.shared.generation.fetch_add(1, Ordering::Release);
    }

    /// Forwards every request without a fault again.
    pub(crate) fn clear_faults(&self) {
        self.change_plan(Box::new(|_| Fault::None));
    }

    /// How many requests were held so far by [`Fault::Hold`] or [`Fault::HoldAnswer`].
    pub(crate) fn held(&self) -> u64 {
        self.shared.held.load(Ordering::Acquire)
    }

    /// Panics unless `gets`, a count of the usage, is within 5 % and 2 of `requests`. (`requests` may be the sum
    /// over several [`FaultProxy::set_faults`].) They can differ because a late get is hedged, and the loser may be
    /// cancelled before it reaches the proxy.
    pub(crate) fn assert_gets_match(gets: &serde_json::Value, requests: u64) {
        let gets = gets.as_u64().unwrap();
        let tolerance = requests / 20 + 2;
        assert!(gets.abs_diff(requests) <= tolerance, "{gets} gets counted, {requests} requests");
    }

    /// The requests since the last [`FaultProxy::set_faults`], including those with a fault.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        // Wakes the accepting thread, which then sees `ended`.
        let _ = TcpStream::connect(self.addr);
    }
}

/// The lines of a request or an answer up to the empty line, and the framing of its body.
struct Head {
    bytes: Vec<u8>,
    body: Body,
    closes: bool,
}

#[derive(Clone, Copy)]
enum Body {
    Length(u64),
    Chunked,
    UntilClose,
}

impl Head {
    /// `None` at the end of the connection.
    fn read(from: &mut impl BufRead, default: Body) -> io::Result<Option<Self>> {
        let mut head = Self { bytes: Vec::new(), body: default, closes: false };
        loop {
            let at = head.bytes.len();
            if from.read_until(b'\n', &mut head.bytes)? == 0 {
                return Ok(None);
            }
            let line = String::from_utf8_lossy(&head.bytes[at..]).trim().to_ascii_lowercase();
            if line.is_empty() {
                return Ok(Some(head));
            }
            match line.split_once(':').map(|(name, value)| (name, value.trim())) {
                Some(("content-length", n)) => head.body = Body::Length(n.parse().unwrap()),
                Some(("transfer-encoding", "chunked")) => head.body = Body::Chunked,
                Some(("connection", "close")) => head.closes = true,
                _ => {}
            }
        }
    }

    fn first_line(&self) -> String {
        let end = self.bytes.iter().position(|b| *b == b'\r').unwrap_or(self.bytes.len());
        String::from_utf8_lossy(&self.bytes[..end]).into_owned()
    }

    /// Changes every digit of the range in `Content-Range`.
    fn change_content_range(&mut self) {
        let text = String::from_utf8_lossy(&self.bytes).to_ascii_lowercase();
        let Some(at) = text.find("content-range:") else { return };
        let end = at + text[at..].find('/').unwrap_or(0);
        for digit in self.bytes[at..end].iter_mut().filter(|b| b.is_ascii_digit()) {
            *digit = b'0' + (*digit - b'0' + 1) % 10;
        }
    }

    fn expects_continue(&self) -> bool {
        String::from_utf8_lossy(&self.bytes).to_ascii_lowercase().contains("100-continue")
    }
}

fn serve(shared: &Shared, client: &TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut requests = BufReader::new(client);
    let mut upstream: Option<TcpStream> = None;
    while let Some(head) = Head::read(&mut requests, Body::Length(0))? {
        let generation = shared.generation.load(Ordering::Acquire);
        let (request, fault) = record(shared, &head);
        match fault {
            Fault::Reset => return reset(client),
            Fault::Hold => return hold(shared, &mut requests, client, generation),
            Fault::Busy(seconds) => {
                discard_body(&mut requests, &head)?;
                let wait = format!("Retry-After: {seconds}\r\n");
                refuse(client, "503 Slow Down", "SlowDown", &wait)?;
                continue;
            }
            Fault::Refuse(status, code) => {
                discard_body(&mut requests, &head)?;
                refuse(client, status, code, "")?;
                continue;
            }
            Fault::None
            | Fault::CutRequest
            | Fault::HoldAnswer
            | Fault::LoseAnswer
            | Fault::CutAnswer
            | Fault::Flip
            | Fault::WrongRange => {}
        }
        let server = match upstream.take() {
            Some(server) => server,
            None => TcpStream::connect(shared.upstream)?,
        };
        if head.expects_continue() {
            (&mut &*client).write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        (&server).write_all(&head.bytes)?;
        if fault == Fault::CutRequest {
            forward_body(&mut requests, &server, Body::Length(request.body / 2))?;
            server.shutdown(Shutdown::Both)?;
            return reset(client);
        }
        forward_body(&mut requests, &server, head.body)?;
        if !forward_answer(&server, client, &request, fault)? {
            return Ok(());
        }
        if fault == Fault::HoldAnswer {
            return hold(shared, &mut requests, client, generation);
        }
        upstream = Some(server);
    }
    Ok(())
}

/// Takes what the client sends and answers nothing, until the client closes the connection or the faults change.
fn hold(
    shared: &Shared,
    requests: &mut impl Read,
    client: &TcpStream,
    generation: u64,
) -> io::Result<()> {
    shared.held.fetch_add(1, Ordering::AcqRel);
    client.set_read_timeout(Some(HOLD_POLL))?;
    let mut bytes = [0; 16 << 10];
    while shared.generation.load(Ordering::Acquire) == generation
        && !shared.ended.load(Ordering::Relaxed)
    {
        match requests.read(&mut bytes) {
            Ok(0) => break,
            Ok(_) => {}
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(e) => return Err(e),
        }
    }
    reset(client)
}

fn record(shared: &Shared, head: &Head) -> (Request, Fault) {
    let line = head.first_line();
    let method = line.split(' ').next().unwrap_or_default().to_owned();
    let body = if let Body::Length(n) = head.body { n } else { 0 };
    let number = shared.next.fetch_add(1, Ordering::Relaxed);
    let request = Request { number, method, body };
    shared.requests.lock().unwrap().push(request.clone());
    let plan = Arc::clone(&shared.plan.lock().unwrap());
    let fault = plan(&request);
    (request, fault)
}

/// Forwards the answer as far as the fault allows. Returns whether the connection can be used again.
fn forward_answer(
    server: &TcpStream,
    client: &TcpStream,
    request: &Request,
    fault: Fault,
) -> io::Result<bool> {
    let mut answers = BufReader::new(server);
    loop {
        let Some(mut head) = Head::read(&mut answers, Body::UntilClose)? else { return Ok(false) };
        let status = head.first_line();
        let interim = status.contains(" 100 ");
        if request.method == "HEAD"
            || interim
            || status.contains(" 204 ")
            || status.contains(" 304 ")
        {
            head.body = Body::Length(0);
        }
        if interim {
            // The client has `100 Continue` from the proxy already.
            continue;
        }
        if fault == Fault::HoldAnswer {
            forward_body(&mut answers, io::sink(), head.body)?;
            return Ok(true);
        }
        if fault == Fault::LoseAnswer {
            forward_body(&mut answers, io::sink(), head.body)?;
            reset(client)?;
            return Ok(false);
        }
        if fault == Fault::CutAnswer {
            let half = if let Body::Length(n) = head.body { n / 2 } else { 0 };
            let text = if half == 0 { head.bytes.len() / 2 } else { head.bytes.len() };
            (&mut &*client).write_all(&head.bytes[..text])?;
            forward_body(&mut answers, client, Body::Length(half))?;
            client.shutdown(Shutdown::Both)?;
            return Ok(false);
        }
        if fault == Fault::WrongRange {
            head.change_content_range();
        }
        (&mut &*client).write_all(&head.bytes)?;
        match (fault, head.body) {
            (Fault::Flip, Body::Length(len)) if len > 0 => {
                forward_body(&mut answers, client, Body::Length(len / 2))?;
                let mut wrong = [0];
                answers.read_exact(&mut wrong)?;
                (&mut &*client).write_all(&[wrong[0] ^ 1])?;
                forward_body(&mut answers, client, Body::Length(len - len / 2 - 1))?;
            }
            (_, body) => forward_body(&mut answers, client, body)?,
        }
        let reusable = !head.closes && !matches!(head.body, Body::UntilClose);
        if !reusable {
            client.shutdown(Shutdown::Both)?;
        }
        return Ok(reusable);
    }
}

fn forward_body(from: &mut impl BufRead, mut to: impl Write, body: Body) -> io::Result<()> {
    match body {
        Body::Length(len) => {
            let copied = io::copy(&mut from.take(len), &mut to)?;
            if copied < len { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
        }
        Body::UntilClose => io::copy(from, &mut to).map(drop),
        Body::Chunked => loop {
            let mut line = Vec::new();
            from.read_until(b'\n', &mut line)?;
            to.write_all(&line)?;
            let text = String::from_utf8_lossy(&line);
            let size = text.trim().split(';').next().unwrap_or_default();
            let size = u64::from_str_radix(size, 16).map_err(io::Error::other)?;
            // A chunk's bytes and the line end after them. The last chunk is only the line end.
            io::copy(&mut from.take(size + 2), &mut to)?;
            if size == 0 {
                return Ok(());
            }
        },
    }
}

fn discard_body(requests: &mut impl BufRead, head: &Head) -> io::Result<()> {
    forward_body(requests, io::sink(), head.body)
}

fn refuse(mut to: &TcpStream, status: &str, code: &str, headers: &str) -> io::Result<()> {
    let body = format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>injected by the test</Message></Error>"
    );
    let text = format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Type: application/xml\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    to.write_all(text.as_bytes())
}

/// Closes the connection with an RST, as a crashed host or a middlebox does.
fn reset(client: &TcpStream) -> io::Result<()> {
    // The RST is sent when the connection is dropped.
    Ok(rustix::net::sockopt::set_socket_linger(client.as_fd(), Some(Duration::ZERO))?)
}
