//! A seeder of any payload under any info dictionary: for torrents that no client makes.

use std::{
    io::{self, Read, Write},
    net::{SocketAddrV4, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use crate::support::ports;

/// The extended message id under which peers request metadata from this seeder (BEP 10).
const METADATA: u8 = 3;
const BLOCK: usize = 16_384;

/// A running seeder. Its threads end with the test process.
pub(crate) struct PayloadPeer {
    addr: SocketAddrV4,
    sent: Arc<AtomicU64>,
}

struct Seeded {
    info: Vec<u8>,
    payload: Vec<u8>,
    piece: usize,
    sent: Arc<AtomicU64>,
}

impl PayloadPeer {
    pub(crate) fn seed(info: &[u8], payload: &[u8], piece: usize) -> Self {
        let addr = ports::unused();
        let listener = TcpListener::bind(addr).unwrap();
        let sent = Arc::<AtomicU64>::default();
        let seeded = Arc::new(Seeded {
            info: info.to_vec(),
            payload: payload.to_vec(),
            piece,
            sent: Arc::clone(&sent),
        });
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let seeded = Arc::clone(&seeded);
                // The thread ends when the peer closes the connection.
                thread::spawn(move || seeded.serve(stream));
            }
        });
        Self { addr, sent }
    }

    pub(crate) fn addr(&self) -> SocketAddrV4 {
        self.addr
    }

    /// Payload bytes that peers have requested so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }
}

impl Seeded {
    fn serve(&self, mut peer: TcpStream) -> io::Result<()> {
        let mut handshake = [0; 68];
        peer.read_exact(&mut handshake)?;
        let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &self.info);
        let mut handshake_reply = b"\x13BitTorrent protocol\0\0\0\0\0\x10\0\0".to_vec();
        handshake_reply.extend([hash.as_ref(), b"-XX0001-", &handshake[56..]].concat());
        peer.write_all(&handshake_reply)?;
        let extended_handshake =
            format!("d1:md11:ut_metadatai{METADATA}ee13:metadata_sizei{}ee", self.info.len());
        send_message(&mut peer, 20, &[b"\0", extended_handshake.as_bytes()].concat())?;
        let pieces = self.payload.len().div_ceil(self.piece);
        let mut field = vec![0u8; pieces.div_ceil(8)];
        (0..pieces).for_each(|piece| field[piece / 8] |= 0x80 >> (piece % 8));
        send_message(&mut peer, 5, &field)?;
        send_message(&mut peer, 1, &[])?;
        let mut peer_metadata_id = 0;
        loop {
            let Some((kind, body)) = receive_message(&mut peer)? else { continue };
            match kind {
                20 if body[0] == 0 => {
                    peer_metadata_id = bencoded_number(&body, "11:ut_metadatai") as u8
                }
                20 if body[0] == METADATA => {
                    let part = bencoded_number(&body, "5:piecei");
                    let end = self.info.len().min((part + 1) * BLOCK);
                    let len = self.info.len();
                    let head = format!("d8:msg_typei1e5:piecei{part}e10:total_sizei{len}ee");
                    let bytes = &self.info[part * BLOCK..end];
                    send_message(
                        &mut peer,
                        20,
                        &[&[peer_metadata_id], head.as_bytes(), bytes].concat(),
                    )?;
                }
                6 => {
                    let u32_at =
                        |n: usize| u32::from_be_bytes(body[n..n + 4].try_into().unwrap()) as usize;
                    let start = u32_at(0) * self.piece + u32_at(4);
                    self.sent.fetch_add(u32_at(8) as u64, Ordering::SeqCst);
                    send_message(
                        &mut peer,
                        7,
                        &[&body[..8], &self.payload[start..start + u32_at(8)]].concat(),
                    )?;
                }
                _ => {}
            }
        }
    }
}

fn send_message(peer: &mut TcpStream, kind: u8, body: &[u8]) -> io::Result<()> {
    let len = u32::try_from(body.len() + 1).unwrap();
    peer.write_all(&[&len.to_be_bytes()[..], &[kind], body].concat())
}

/// Reads a message: its type and body. `None` for a keep-alive.
fn receive_message(peer: &mut TcpStream) -> io::Result<Option<(u8, Vec<u8>)>> {
    let mut len = [0; 4];
    peer.read_exact(&mut len)?;
    let mut body = vec![0; u32::from_be_bytes(len) as usize];
    peer.read_exact(&mut body)?;
    Ok((!body.is_empty()).then(|| (body[0], body[1..].to_vec())))
}

/// The integer after `key` in a bencoded text; 0 when there is none.
fn bencoded_number(body: &[u8], key: &str) -> usize {
    let text = String::from_utf8_lossy(body);
    let rest = text.split_once(key).map(|(_, rest)| rest).unwrap_or_default();
    rest.split('e').next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}
