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
pub(crate) struct Asked {
    pub(crate) piece: u32,
    pub(crate) start: u32,
    pub(crate) len: u32,
}

/// A connection to a leecher.
pub(crate) struct Line(TcpStream);

impl Line {
    /// Sends a message of this type.
    pub(crate) fn say(&mut self, kind: u8, body: &[u8]) -> std::io::Result<()> {
        let mut message = (body.len() as u32 + 1).to_be_bytes().to_vec();
        message.push(kind);
        message.extend_from_slice(body);
        self.0.write_all(&message)
    }

    /// Sends the requested block.
    pub(crate) fn give(&mut self, asked: Asked, block: &[u8]) -> std::io::Result<()> {
        let place = [asked.piece.to_be_bytes(), asked.start.to_be_bytes()].concat();
        self.say(7, &[&place, block].concat())
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
pub(crate) struct RawPeer {
    addr: SocketAddrV4,
    connections: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
}

impl RawPeer {
    /// `answer` is called for each requested block. When it returns an error, the connection is closed.
    pub(crate) fn start(
        torrent: &Fixture,
        pieces: u32,
        answer: impl Fn(&mut Line, Asked) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let addr = ports::own();
        let listener = TcpListener::bind(addr).unwrap();
        let hash = torrent.info_hash();
        let hash: Vec<u8> =
            (0..20).map(|i| u8::from_str_radix(&hash[2 * i..2 * i + 2], 16).unwrap()).collect();
        let answer = Arc::new(answer);
        let (connections, ended) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (count, over) = (Arc::clone(&connections), Arc::clone(&ended));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                count.fetch_add(1, Ordering::Relaxed);
                let (answer, hash, over) = (Arc::clone(&answer), hash.clone(), Arc::clone(&over));
                thread::spawn(move || {
                    // An error means that one of the sides closed the connection.
                    let _ = serve(Line(stream), &hash, pieces, &*answer);
                    over.fetch_add(1, Ordering::Release);
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
    mut line: Line,
    hash: &[u8],
    pieces: u32,
    answer: &(dyn Fn(&mut Line, Asked) -> std::io::Result<()> + Send + Sync),
) -> std::io::Result<()> {
    line.read(68)?;
    let mut hello = b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0".to_vec();
    hello.extend_from_slice(hash);
    // Each peer has an id of its own: libtorrent keeps one connection per id.
    let port = line.0.local_addr()?.port();
    hello.extend_from_slice(format!("-XX0001-{port:012}").as_bytes());
    line.write(&hello)?;
    let mut field = vec![0u8; pieces.div_ceil(8) as usize];
    for piece in 0..pieces {
        field[piece as usize / 8] |= 0x80 >> (piece % 8);
    }
    line.say(5, &field)?;
    line.say(1, &[])?;
    loop {
        let len = u32::from_be_bytes(line.read(4)?.try_into().unwrap());
        if len == 0 {
            continue;
        }
        let message = line.read(len as usize)?;
        if message[0] == 6 {
            let number = |at: usize| u32::from_be_bytes(message[at..at + 4].try_into().unwrap());
            let asked = Asked { piece: number(1), start: number(5), len: number(9) };
            answer(&mut line, asked)?;
        }
    }
}
