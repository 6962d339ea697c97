//! Players: curl, and a small HTTP client for requests that curl does not make.

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::Command,
};

use serde_json::Value;

use super::{
    LONG,
    bae::{Bae, Running},
    require_program,
};

/// A bae that serves one import to players.
#[derive(Debug)]
pub(crate) struct StreamServer {
    pub(crate) running: Running,
    /// Its `streaming` event.
    pub(crate) event: Value,
}

impl StreamServer {
    pub(crate) fn start(bae: &Bae, import: &str, options: &[&str]) -> Self {
        let mut args = vec!["--json", "stream", import];
        args.extend(options);
        Self::of_running(bae.start(args))
    }

    /// The player of a running `stream` or `import --stream`.
    pub(crate) fn of_running(mut running: Running) -> Self {
        let event = running.event("streaming");
        Self { running, event }
    }

    /// The URL of the file whose path ends with `end`.
    pub(crate) fn url(&self, end: &str) -> String {
        let files = self.event["files"].as_array().unwrap();
        let file = files.iter().find(|f| f["path"].as_str().unwrap().ends_with(end));
        file.unwrap_or_else(|| panic!("no {end} in {}", self.event))["url"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// The URL of the page, with a trailing `/`.
    pub(crate) fn page(&self) -> String {
        self.event["url"].as_str().unwrap().to_owned()
    }
}

/// The body that curl downloads. Panics when curl fails.
pub(crate) fn curl(options: &[&str], url: &str) -> Vec<u8> {
    require_program("curl", "curl");
    let mut command = Command::new("curl");
    command.args(["-sSf", "--noproxy", "*", "--max-time", "100"]).args(options).arg(url);
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

/// The answer to one request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Splits a URL into `HOST:PORT` and its path and query.
fn split(url: &str) -> (&str, &str) {
    let rest = url.strip_prefix("http://").unwrap();
    rest.split_at(rest.find('/').unwrap())
}

/// Sends a request and returns the open connection.
pub(crate) fn send(method: &str, url: &str, headers: &[(&str, &str)]) -> TcpStream {
    let (host, target) = split(url);
    let mut stream = TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
    stream
}

/// Sends a request and reads the answer to the end of the connection.
pub(crate) fn request(method: &str, url: &str, headers: &[(&str, &str)]) -> Answer {
    let mut bytes = Vec::new();
    send(method, url, headers).read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let header = |line: &str| {
        let (name, value) = line.split_once(':').unwrap();
        (name.to_lowercase(), value.trim().to_owned())
    };
    Answer { status, headers: lines.map(header).collect(), body: bytes.split_off(end + 4) }
}
