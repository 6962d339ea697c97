//! A minimal HTTP client for qBittorrent's web API on loopback.

use std::{
    io::{Read, Write},
    net::{SocketAddrV4, TcpStream},
};

use super::LONG;

/// Sends one request and returns the status and the body; `None` when the request fails.
pub(crate) fn request(
    to: SocketAddrV4,
    method: &str,
    path: &str,
    content_type: &str,
    body: &[u8],
) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(to).ok()?;
    stream.set_read_timeout(Some(LONG)).ok()?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\nContent-Type: {content_type}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// A multipart form of some fields and one file: its content type and its body.
pub(crate) fn form(file: (&str, &[u8]), fields: &[(&str, &str)]) -> (String, Vec<u8>) {
    const BOUNDARY: &str = "----b4e-8f1c";
    let mut body = Vec::new();
    for (name, value) in fields {
        let part = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
        );
        body.extend_from_slice(part.as_bytes());
    }
    let part = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{}\"; filename=\"x.torrent\"\r\n\
         Content-Type: application/x-bittorrent\r\n\r\n",
        file.0
    );
    body.extend_from_slice(part.as_bytes());
    body.extend_from_slice(file.1);
    body.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
    (format!("multipart/form-data; boundary={BOUNDARY}"), body)
}
