//! A minimal HTTP/1.1 server: persistent connections, bodies with a length, and all faults of [`FaultKind`].

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    thread,
};

use serde_json::{Value, json};

use super::{FaultKind, Refusal, SESSION, Shared, files, oauth, uploads};

pub(super) struct Request {
    pub(super) method: String,
    /// Path and query as received, not decoded.
    pub(super) target: String,
    pub(super) path: String,
    pub(super) query: HashMap<String, String>,
    headers: HashMap<String, String>,
    pub(super) body: Vec<u8>,
    /// Whether the body has the length that `Content-Length` declares.
    pub(super) is_complete: bool,
    pub(super) corrupt: bool,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub(super) fn param(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    pub(super) fn json(&self) -> Result<Value, Refusal> {
        serde_json::from_slice(&self.body).map_err(|_| Refusal(400, "parseError"))
    }
}

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    pub(super) fn json(value: &Value) -> Self {
        let mut answer = Self::new(200);
        answer.headers.push(("Content-Type", "application/json".into()));
        answer.body = value.to_string().into_bytes();
        answer
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// An error answer in Google's JSON format and wording.
    fn refusal(Refusal(status, reason): Refusal, retry_after: Option<u64>) -> Self {
        let message = match reason {
            "userRateLimitExceeded" => "User rate limit exceeded.",
            "storageQuotaExceeded" => "The user's Drive storage quota has been exceeded.",
            "notFound" => "File not found: .",
            "fileIdInUse" => "A file already exists with the provided ID.",
            other => other,
        };
        let error = json!({
            "code": status,
            "message": message,
            "errors": [{ "message": message, "domain": "global", "reason": reason }],
        });
        let mut answer = Self::json(&json!({ "error": error }));
        answer.status = status;
        if let Some(seconds) = retry_after {
            answer.headers.push(("Retry-After", seconds.to_string()));
        }
        answer
    }
}

/// Serves requests on a connection until one side closes it.
pub(super) fn serve(shared: &Shared, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let Ok(mut out) = stream.try_clone() else { return };
    let mut reader = BufReader::new(stream);
    while let Some(mut request) = head(&mut reader) {
        let kind = shared.lock().take_fault(&request);
        if matches!(kind, Some(FaultKind::Reset)) {
            break;
        }
        let limit = if let Some(FaultKind::CutBody(limit)) = kind { limit } else { usize::MAX };
        body(&mut reader, &mut request, limit);
        if matches!(kind, Some(FaultKind::Hold)) {
            hold(shared, &mut reader);
            break;
        }
        let answer = answer(shared, &mut request, kind.as_ref());
        let cut = match kind {
            Some(FaultKind::HoldAnswer) => {
                hold(shared, &mut reader);
                break;
            }
            Some(FaultKind::LoseAnswer) => break,
            Some(FaultKind::CutAnswer(limit)) => Some(limit),
            Some(FaultKind::Stall(time)) => {
                thread::sleep(time);
                None
            }
            _ => None,
        };
        let last = cut.is_some() || request.header("connection") == Some("close");
        // A request with an incomplete body gets no answer.
        if !request.is_complete || write(&mut out, &answer, cut).is_err() || last {
            break;
        }
    }
    let _ = out.shutdown(std::net::Shutdown::Both);
}

/// Waits until the client closes the connection.
fn hold(shared: &Shared, reader: &mut BufReader<TcpStream>) {
    shared.lock().counts.held += 1;
    // An error also means that the client is gone.
    let _ = std::io::copy(reader, &mut std::io::sink());
}

fn head(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let url = url::Url::parse(&format!("http://fake{target}")).ok()?;
    Some(Request {
        method,
        path: url.path().to_owned(),
        query: url.query_pairs().into_owned().collect(),
        target,
        headers,
        body: Vec::new(),
        is_complete: true,
        corrupt: false,
    })
}

fn body(reader: &mut BufReader<TcpStream>, request: &mut Request, limit: usize) {
    let len: usize = request.header("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
    let mut body = Vec::with_capacity(len.min(limit));
    let _ = reader.take(len.min(limit) as u64).read_to_end(&mut body);
    request.is_complete = body.len() == len;
    request.body = body;
}

fn answer(shared: &Shared, request: &mut Request, kind: Option<&FaultKind>) -> Answer {
    match kind {
        Some(FaultKind::Refuse(status, reason, wait)) => {
            return Answer::refusal(Refusal(*status, reason), *wait);
        }
        Some(FaultKind::Expire) => {
            shared.lock().sessions.remove(request.param("upload_id").unwrap_or_default());
        }
        Some(FaultKind::ExpireTokens) => shared.lock().oauth.expire(),
        Some(FaultKind::Corrupt) => request.corrupt = true,
        _ => {}
    }
    let name = request_key(request);
    *shared.lock().counts.requests.entry(name).or_default() += 1;
    let result = route(shared, request);
    result.unwrap_or_else(|refused| {
        *shared.lock().counts.refused.entry(refused.1.to_owned()).or_default() += 1;
        Answer::refusal(refused, None)
    })
}

/// Method and path with `*` for ids, such as `GET /drive/v3/files/*`: the key under which the request is counted.
fn request_key(request: &Request) -> String {
    let parts: Vec<&str> = request.path.split('/').collect();
    let path = match parts.as_slice() {
        ["", "drive", "v3", "files", "generateIds"] => request.path.clone(),
        ["", "drive", "v3", "files", _] => "/drive/v3/files/*".into(),
        ["", "drive", "v3", "files", _, rest] => format!("/drive/v3/files/*/{rest}"),
        _ if request.target.contains(SESSION) => "session".into(),
        _ => request.path.clone(),
    };
    let media = if request.param("alt") == Some("media") { "?alt=media" } else { "" };
    format!("{} {path}{media}", request.method)
}

fn route(shared: &Shared, request: &Request) -> Result<Answer, Refusal> {
    let mut state = shared.lock();
    if let Some(answer) = oauth::route(&mut state, request, &format!("http://{}", shared.address)) {
        return Ok(answer);
    }
    let token = request.header("authorization").and_then(|text| text.strip_prefix("Bearer "));
    let is_upload_session =
        request.path == "/upload/drive/v3/files" && request.param("upload_id").is_some();
    match token {
        Some(token) if !state.oauth.is_valid(token) => return Err(Refusal(401, "authError")),
        // The URL of an upload session contains a secret and needs no token.
        None if !is_upload_session => return Err(Refusal(401, "required")),
        _ => {}
    }
    if request.path.starts_with("/upload/") {
        return uploads::route(&mut state, request, &format!("http://{}", shared.address));
    }
    files::route(&mut state, request)
}

fn write(out: &mut TcpStream, answer: &Answer, cut: Option<usize>) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Fake\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", answer.body.len()));
    out.write_all(head.as_bytes())?;
    out.write_all(&answer.body[..cut.unwrap_or(usize::MAX).min(answer.body.len())])?;
    out.flush()
}
