//! `bae daemon`, and a client of its REST API that can say anything.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, SocketAddrV4, TcpStream},
};

use serde_json::Value;

use super::{
    LONG,
    bae::{Bae, Running},
};

/// A running daemon of a home.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) process: Running,
    addr: SocketAddr,
    token: String,
}

/// The answer to a request.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// The status line and the headers.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// Panics unless the status is `status`.
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}\n{}", self.head, self.text());
        self
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// The value of a header; the name is in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// Writes the config file of a home: a storage `main` in the home's storage folder, which the queue uses, URLs on this
/// machine are allowed, and `more`, which begins with further keys of `[api]`.
pub(crate) fn write_config(bae: &Bae, more: &str) {
    let dir = bae.home().join("config/bae");
    fs::create_dir_all(&dir).unwrap();
    fs::create_dir_all(bae.storage_dir()).unwrap();
    let path = bae.storage_dir().display();
    let text = format!(
        "[storage.main]\ntype = \"local\"\npath = \"{path}\"\nchunk = \"1MiB\"\n[queue]\nstorage = \"main\"\nseed = false\n\
         [api]\nprivate_hosts = true\n{more}\n"
    );
    fs::write(dir.join("config.toml"), text).unwrap();
}

impl Daemon {
    /// Starts the daemon of a home with a config file, on a port of the system's choice.
    pub(crate) fn start(bae: &Bae, peers: &[SocketAddrV4]) -> Self {
        let mut args: Vec<String> = ["--json", "daemon", "--api-port", "0"].map(Into::into).into();
        args.extend(["--listen".into(), bae.listen.to_string()]);
        args.extend(["--no-dht", "--no-lsd", "--no-utp"].map(Into::into));
        for peer in peers {
            args.extend(["--peer".into(), peer.to_string()]);
        }
        let mut process = bae.start(args);
        let ready = process.event("ready");
        let url = ready["listening"][0].as_str().unwrap().to_owned();
        let addr = url.split('/').nth(2).unwrap().parse().unwrap();
        let token = fs::read_to_string(ready["token_file"].as_str().unwrap()).unwrap();
        Self { process, addr, token: token.trim().to_owned() }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// Sends a request with the token.
    pub(crate) fn call(&self, method: &str, path: &str, body: &str) -> Reply {
        let token = format!("Authorization: Bearer {}", self.token);
        let json = "Content-Type: application/json".to_owned();
        let host = format!("Host: {}", self.addr);
        self.call_with(method, path, &[host, token, json], body.as_bytes())
    }

    /// Sends a request with exactly these header lines, and the length of the body.
    pub(crate) fn call_with(
        &self,
        method: &str,
        path: &str,
        headers: &[String],
        body: &[u8],
    ) -> Reply {
        let mut stream = self.send(method, path, headers, body);
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("{:?}", String::from_utf8_lossy(&answer)));
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Reply { status, head, body: answer[end + 4..].to_vec() }
    }

    /// Sends a request, and reads no answer. A server that refuses the head may close before it read the body.
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[String],
        body: &[u8],
    ) -> TcpStream {
        let mut stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        headers.iter().for_each(|line| head.push_str(&format!("{line}\r\n")));
        head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        stream.write_all(head.as_bytes()).unwrap();
        let _ = stream.write_all(body);
        stream
    }

    /// Adds a download and returns it.
    pub(crate) fn add(&self, request: &Value) -> Value {
        let reply = self.call("POST", "/api/v1/downloads", &request.to_string());
        reply.expect(201).json()
    }

    pub(crate) fn download(&self, id: &str) -> Value {
        self.call("GET", &format!("/api/v1/downloads/{id}"), "").expect(200).json()
    }

    /// The events after number `since`; all that come from now on without it.
    pub(crate) fn events(&self, since: Option<u64>) -> Events {
        let mut stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let query = since.map(|since| format!("?since={since}")).unwrap_or_default();
        // HTTP/1.0: the body has no chunks.
        let head = format!(
            "GET /api/v1/events{query} HTTP/1.0\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\r\n",
            self.addr, self.token
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut lines = BufReader::new(stream);
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert!(line.contains(" 200 "), "{line}");
        while line != "\r\n" {
            line.clear();
            assert!(lines.read_line(&mut line).unwrap() > 0, "the head ended");
        }
        Events(lines)
    }

    /// Waits until a download is in a state, and returns it.
    pub(crate) fn wait_for_state(&self, id: &str, state: &str) -> Value {
        let mut events = self.events(None);
        loop {
            let download = self.download(id);
            if download["state"] == state {
                return download;
            }
            assert!(state == "failed" || download["state"] != "failed", "{download:#}");
            events.next_where(|event| event["event"] == "download" && event["download"] == id);
        }
    }

    /// Waits until a download has stored at least so many bytes.
    pub(crate) fn wait_until_stored(&self, id: &str, bytes: u64) {
        let mut events = self.events(None);
        loop {
            let download = self.download(id);
            if download["progress"]["stored"].as_u64().unwrap() >= bytes {
                return;
            }
            assert!(download["state"] != "failed", "{download:#}");
            events.next_where(|event| event["event"] == "progress" || event["event"] == "download");
        }
    }

    /// Stops the daemon as a service manager does, and expects success.
    pub(crate) fn stop(self) {
        self.process.0.signal(libc::SIGTERM);
        self.process.wait(LONG).expect(0);
    }
}

/// Server-sent events.
#[derive(Debug)]
pub(crate) struct Events(BufReader<TcpStream>);

impl Events {
    /// The next event; `None` when the server ended the stream.
    pub(crate) fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.0.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            if let Some(data) = line.strip_prefix("data:") {
                return Some(serde_json::from_str(data.trim()).unwrap());
            }
        }
    }

    pub(crate) fn next_where(&mut self, mut wanted: impl FnMut(&Value) -> bool) -> Value {
        loop {
            let event = self.next().expect("the stream of events ended");
            if wanted(&event) {
                return event;
            }
        }
    }
}
