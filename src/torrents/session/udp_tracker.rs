//! Gets the message of a UDP tracker that refused an announce. libtorrent loses the message (it takes the zero bytes
//! before the text for its end). The tracker is therefore queried once more (BEP 15), as a peer that has left, which
//! registers nothing.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    net::{UdpSocket, lookup_host},
    time::timeout,
};
use url::Url;

use crate::config::SessionOptions;

/// How long to wait for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// The constant at the start of every connect request.
const MAGIC: u64 = 0x0417_2710_1980;
const CONNECT: u32 = 0;
const ANNOUNCE: u32 = 1;
const ERROR: u32 = 3;
/// The event of a peer that has left.
const STOPPED: u32 = 3;

/// The message of the tracker at `url` for an announce of the torrent `info_hash`; `None` when the tracker does not
/// answer, or accepts the announce. No request is sent when a proxy hides this machine.
pub(in crate::torrents) async fn refusal(
    url: &str,
    info_hash: &[u8],
    options: &SessionOptions,
) -> Option<String> {
    let url = Url::parse(url).ok().filter(|url| url.scheme() == "udp")?;
    if options.proxy.is_some() || info_hash.len() != 20 {
        return None;
    }
    let host = url.host_str()?.trim_matches(['[', ']']).to_owned();
    let at = lookup_host((host, url.port()?)).await.ok()?.next()?;
    let socket = open_socket(at, options.first_interface()).await.ok()?;
    let transaction = transaction()?;
    let connect = [&MAGIC.to_be_bytes()[..], &head(CONNECT, transaction)].concat();
    let connection = match send_request(&socket, &connect, transaction).await? {
        Answer::Connected(connection) => connection,
        Answer::Refused(text) => return Some(text),
        Answer::Accepted => return None,
    };
    let announce = announce(connection, transaction, info_hash);
    match send_request(&socket, &announce, transaction).await? {
        Answer::Refused(text) => Some(text),
        Answer::Connected(_) | Answer::Accepted => None,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Connected([u8; 8]),
    Refused(String),
    Accepted,
}

async fn open_socket(at: SocketAddr, interface: Option<&str>) -> io::Result<UdpSocket> {
    let any = if at.is_ipv4() { "0.0.0.0" } else { "::" };
    let address = interface.filter(|name| name.parse::<std::net::IpAddr>().is_ok());
    let socket = UdpSocket::bind((address.unwrap_or(any), 0)).await?;
    if let Some(name) = interface.filter(|_| address.is_none()) {
        bind_to(&socket, name)?;
    }
    socket.connect(at).await?;
    Ok(socket)
}

#[cfg(target_os = "linux")]
fn bind_to(socket: &UdpSocket, interface: &str) -> io::Result<()> {
    socket.bind_device(Some(interface.as_bytes()))
}

#[cfg(not(target_os = "linux"))]
fn bind_to(_: &UdpSocket, _: &str) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

async fn send_request(socket: &UdpSocket, request: &[u8], transaction: u32) -> Option<Answer> {
    socket.send(request).await.ok()?;
    let mut buffer = [0; 2048];
    let answer = async {
        loop {
            let len = socket.recv(&mut buffer).await.ok()?;
            if let Some(answer) = read(&buffer[..len], transaction) {
                return Some(answer);
            }
        }
    };
    timeout(ANSWER_TIMEOUT, answer).await.ok().flatten()
}

/// Parses the answer to the request with this transaction number; `None` for any other packet.
fn read(packet: &[u8], transaction: u32) -> Option<Answer> {
    let (head, body) = packet.split_at_checked(8)?;
    let number =
        |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    if number(4) != transaction {
        return None;
    }
    Some(match number(0) {
        ERROR => {
            let text = String::from_utf8_lossy(body);
            Answer::Refused(text.trim_end_matches('\0').trim().to_owned())
        }
        CONNECT => Answer::Connected(body.get(..8)?.try_into().ok()?),
        _ => Answer::Accepted,
    })
}

fn head(action: u32, transaction: u32) -> [u8; 8] {
    (u64::from(action) << 32 | u64::from(transaction)).to_be_bytes()
}

fn announce(connection: [u8; 8], transaction: u32, info_hash: &[u8]) -> Vec<u8> {
    let mut out = connection.to_vec();
    out.extend(head(ANNOUNCE, transaction));
    out.extend_from_slice(info_hash);
    out.extend_from_slice(b"-BA0100-000000000000");
    // Nothing downloaded, nothing left, nothing uploaded.
    out.extend([0; 24]);
    out.extend(STOPPED.to_be_bytes());
    // The sender's address, no key, no peers wanted, and port 1, on which nothing listens.
    out.extend([0; 12]);
    out.extend(1u16.to_be_bytes());
    out
}

fn transaction() -> Option<u32> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).ok()?;
    Some(u32::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_parsed_and_other_packets_ignored() {
        let packet = |action: u32, body: &[u8]| [&head(action, 7)[..], body].concat();
        let refused = Answer::Refused("unregistered torrent".into());
        assert_eq!(read(&packet(ERROR, b"unregistered torrent\0"), 7), Some(refused));
        assert_eq!(read(&packet(CONNECT, b"abcdefgh"), 7), Some(Answer::Connected(*b"abcdefgh")));
        assert_eq!(read(&packet(CONNECT, b"abc"), 7), None);
        assert_eq!(read(&packet(ANNOUNCE, &[0; 12]), 7), Some(Answer::Accepted));
        assert_eq!(read(&packet(ERROR, b"x"), 8), None);
        assert_eq!(read(b"short", 7), None);
        assert_eq!(announce([0; 8], 7, &[1; 20]).len(), 98);
    }

    #[tokio::test]
    async fn the_message_of_a_refusing_tracker_is_fetched() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let url = format!("udp://{}/announce", server.local_addr().unwrap());
        let answers = async {
            let mut buffer = [0; 256];
            for _ in 0..2 {
                let (len, from) = server.recv_from(&mut buffer).await.unwrap();
                let transaction = &buffer[12..16];
                let answer = match len {
                    16 => [&[0, 0, 0, 0], transaction, &[9; 8]].concat(),
                    _ => [&[0, 0, 0, 3], transaction, b"torrent not registered"].concat(),
                };
                server.send_to(&answer, from).await.unwrap();
            }
        };
        let options = SessionOptions::default();
        let (text, ()) = tokio::join!(refusal(&url, &[5; 20], &options), answers);
        assert_eq!(text.unwrap(), "torrent not registered");
    }
}
