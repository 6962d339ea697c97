//! A seeder that writes the BitTorrent protocol by hand, so that a test can make it misbehave.

use std::{
    io::{Read, Write},
    net::{SocketAddrV4, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{ports, torrents::Fixture};

/// A requested block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockRequest {
    pub(crate) piece: u32,
    pub(crate) start: u32,
    pub(crate) len: u32,
}

/// A connection to a leecher.
pub(crate) struct PeerConnection(TcpStream);

impl PeerConnection {
    /// Sends a message of this type.
    pub(crate) fn send(&mut self, kind: u8, body: &[u8]) -> std::io::Result<()> {
        let mut message = (body.len() as u32 + 1).to_be_bytes().to_vec();
        message.push(kind);
        message.extend_from_slice(body);
        self.0.write_all(&message)
    }

    /// Sends the requested block.
    pub(crate) fn send_block(
        &mut self,
        request: BlockRequest,
        block: &[u8],
    ) -> std::io::Result<()> {
        let header = [request.piece.to_be_bytes(), request.start.to_be_bytes()].concat();
        self.send(7, &[&header, block].concat())
    }

    /// Another handle of the same connection.
    pub(crate) fn try_clone(&self) -> std::io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Sends raw bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write_all(bytes)
    }

    fn read(&mut self, len: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// A running seeder that claims to have every piece.
#[derive(Debug)]
pub(crate) struct ScriptedPeer {
    addr: SocketAddrV4,
    connections: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
}

impl ScriptedPeer {
    /// `answer` is called for each requested block. When it returns an error, the connection is closed.
    pub(crate) fn start(
        torrent: &Fixture,
        pieces: u32,
        answer: impl Fn(&mut PeerConnection, BlockRequest) -> std::io::Result<()>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let addr = ports::unused();
        let listener = TcpListener::bind(addr).unwrap();
        let hash = torrent.info_hash();
        let hash: Vec<u8> =
            (0..20).map(|i| u8::from_str_radix(&hash[2 * i..2 * i + 2], 16).unwrap()).collect();
        let answer = Arc::new(answer);
        let (connections, ended) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (connection_count, ended_count) = (Arc::clone(&connections), Arc::clone(&ended));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                connection_count.fetch_add(1, Ordering::Relaxed);
                let (answer, hash, ended_count) =
                    (Arc::clone(&answer), hash.clone(), Arc::clone(&ended_count));
                thread::spawn(move || {
                    // An error means that one of the sides closed the connection.
                    let _ = serve(PeerConnection(stream), &hash, pieces, &*answer);
                    ended_count.fetch_add(1, Ordering::Release);
                });
            }
        });
        Self { addr, connections, ended }
    }

    pub(crate) fn addr(&self) -> SocketAddrV4 {
        self.addr
    }

    /// The number of connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// The number of connections that have ended, as a shared counter.
    pub(crate) fn ended(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.ended)
    }
}

fn serve(
    mut peer: PeerConnection,
    hash: &[u8],
    pieces: u32,
    answer: &(dyn Fn(&mut PeerConnection, BlockRequest) -> std::io::Result<()> + Send + Sync),
) -> std::io::Result<()> {
    peer.read(68)?;
    let mut handshake = b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0".to_vec();
    handshake.extend_from_slice(hash);
    // Each peer has an id of its own: libtorrent keeps one connection per id.
    let port = peer.0.local_addr()?.port();
    handshake.extend_from_slice(format!("-XX0001-{port:012}").as_bytes());
    peer.write(&handshake)?;
    let mut field = vec![0u8; pieces.div_ceil(8) as usize];
    for piece in 0..pieces {
        field[piece as usize / 8] |= 0x80 >> (piece % 8);
    }
    peer.send(5, &field)?;
    peer.send(1, &[])?;
    loop {
        let len = u32::from_be_bytes(peer.read(4)?.try_into().unwrap());
        if len == 0 {
            continue;
        }
        let message = peer.read(len as usize)?;
        if message[0] == 6 {
            let number = |at: usize| u32::from_be_bytes(message[at..at + 4].try_into().unwrap());
            let request = BlockRequest { piece: number(1), start: number(5), len: number(9) };
            answer(&mut peer, request)?;
        }
    }
}
