//! A TLS server that speaks only HTTP/2 and resets streams without an error code. Its frames are written by hand.

use std::{
    io::{Read, Write},
    net::{SocketAddrV4, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tempfile::TempDir;

use super::{certificates::Certificates, ports};

const PREFACE: usize = 24;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// Serves one body for every request.
#[derive(Debug)]
pub(crate) struct H2Server {
    addr: SocketAddrV4,
    certificates: Certificates,
    requests: Arc<AtomicUsize>,
    _dir: TempDir,
}

impl H2Server {
    /// `content_length` is the value of that header; `None` sends none. Answer N is reset after `cuts[N]`
    /// bytes; later answers are complete.
    pub(crate) fn start(body: Vec<u8>, content_length: Option<usize>, cuts: &[usize]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let addr = ports::unused();
        let certificates = Certificates::new(dir.path(), *addr.ip());
        let config = Arc::new(config(&certificates));
        let listener = TcpListener::bind(addr).unwrap();
        let requests = Arc::<AtomicUsize>::default();
        let (count, cuts) = (Arc::clone(&requests), cuts.to_vec());
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // An error ends only this connection, such as one of a client without HTTP/2.
                let _ = serve(stream, &config, |_| {
                    let n = count.fetch_add(1, Ordering::AcqRel);
                    answer(&body, content_length, cuts.get(n).copied())
                });
            }
        });
        Self { addr, certificates, requests, _dir: dir }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.addr)
    }

    pub(crate) fn ca(&self) -> String {
        self.certificates.ca.display().to_string()
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::Acquire)
    }
}

fn config(certificates: &Certificates) -> ServerConfig {
    let chain = CertificateDer::pem_file_iter(&certificates.certificate).unwrap();
    let chain = chain.map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(&certificates.key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

fn serve(
    stream: TcpStream,
    config: &Arc<ServerConfig>,
    mut answer: impl FnMut(u32) -> Vec<(u8, u8, Vec<u8>)>,
) -> std::io::Result<()> {
    let connection = ServerConnection::new(Arc::clone(config)).unwrap();
    let mut stream = StreamOwned::new(connection, stream);
    stream.read_exact(&mut [0; PREFACE])?;
    // The server ignores flow control: the client's initial window of some MiB is larger than any answer.
    write(&mut stream, SETTINGS, 0, 0, &[])?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (kind, flags) = (head[3], head[4]);
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        stream.read_exact(&mut vec![0; len])?;
        if kind == SETTINGS && flags & ACK == 0 {
            write(&mut stream, SETTINGS, ACK, 0, &[])?;
        }
        if kind == HEADERS {
            for (kind, flags, payload) in answer(id) {
                write(&mut stream, kind, flags, id, &payload)?;
            }
        }
    }
}

fn answer(
    body: &[u8],
    content_length: Option<usize>,
    cut: Option<usize>,
) -> Vec<(u8, u8, Vec<u8>)> {
    // HPACK: entry 8 of the static table (`:status 200`), then a literal value for entry 28 (`content-length`).
    let mut head = vec![0x88];
    if let Some(len) = content_length {
        let digits = len.to_string();
        head.extend([0x0f, 0x0d, digits.len() as u8]);
        head.extend(digits.as_bytes());
    }
    let mut frames = vec![(HEADERS, END_HEADERS, head)];
    let sent = &body[..cut.unwrap_or(body.len())];
    frames.extend(sent.chunks(16_000).map(|part| (DATA, 0, part.to_vec())));
    frames.push(match cut {
        Some(_) => (RST_STREAM, 0, vec![0; 4]),
        None => (DATA, END_STREAM, Vec::new()),
    });
    frames
}

fn write(
    stream: &mut impl Write,
    kind: u8,
    flags: u8,
    id: u32,
    payload: &[u8],
) -> std::io::Result<()> {
    let len = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![len[1], len[2], len[3], kind, flags];
    frame.extend(id.to_be_bytes());
    frame.extend(payload);
    stream.write_all(&frame)?;
    stream.flush()
}
