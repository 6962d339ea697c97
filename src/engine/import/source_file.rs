//! Reads a torrent from a local file, a pipe or standard input, and recognises its form: a torrent, a compressed
//! torrent, or the text of a magnet link.

use std::{
    fs::File,
    io::{self, ErrorKind, Read},
    path::PathBuf,
    time::Duration,
};

use flate2::read::{GzDecoder, ZlibDecoder};
use tokio::sync::mpsc;

use super::{
    magnet::Magnet,
    source::{ImportSource, too_large},
};
use crate::{
    error::{Error, Kind, Result},
    torrents::metainfo::bencode::MAX_INPUT,
};

/// Bytes per read.
const STEP: usize = 64 << 10;
/// Longest text that is considered as a magnet link.
const MAX_LINK: usize = 64 << 10;

/// A local input.
#[derive(Debug, Clone)]
pub(in crate::engine) enum Input {
    Path(PathBuf),
    Stdin,
}

impl Input {
    fn name(&self) -> String {
        match self {
            Self::Path(path) => format!("torrent file {}", path.display()),
            Self::Stdin => "standard input".to_owned(),
        }
    }

    fn open(&self) -> io::Result<(Box<dyn Read>, u64)> {
        match self {
            Self::Path(path) => {
                let file = File::open(path)?;
                let len = file.metadata()?.len();
                Ok((Box::new(file), len))
            }
            Self::Stdin => Ok((Box::new(io::stdin()), 0)),
        }
    }
}

/// Reads the whole input, up to the largest torrent. `idle_timeout` is for pipes without a writer.
pub(in crate::engine) async fn read(
    input: Input,
    idle_timeout: Option<Duration>,
) -> Result<Vec<u8>> {
    let name = input.name();
    let (tx, mut parts) = mpsc::channel(4);
    // A thread of its own: a blocking read of a pipe cannot be interrupted, and the runtime must not wait for it.
    std::thread::spawn(move || {
        if let Err(e) = read_into(&input, &tx) {
            let _ = tx.blocking_send(Err(e));
        }
    });
    let mut bytes = Vec::new();
    loop {
        let part = match idle_timeout {
            Some(idle_timeout) => {
                tokio::time::timeout(idle_timeout, parts.recv()).await.map_err(|_| {
                    let text = format!("{name}: no data for {} s", idle_timeout.as_secs_f64());
                    Error::new(Kind::Network, text).hint("is a program writing to it?")
                })?
            }
            None => parts.recv().await,
        };
        match part {
            None => return Ok(bytes),
            Some(Ok(ReadItem::Bytes(part))) => bytes.extend_from_slice(&part),
            Some(Ok(ReadItem::Len(len))) if len <= MAX_INPUT as u64 => {}
            Some(Ok(ReadItem::Len(len))) => return Err(too_large(&name, len)),
            Some(Err(e)) => return Err(Error::io(name, e)),
        }
        if bytes.len() > MAX_INPUT {
            return Err(too_large(&name, bytes.len() as u64));
        }
    }
}

enum ReadItem {
    /// The length that the file system reports.
    Len(u64),
    Bytes(Vec<u8>),
}

/// Reads until the end of the input, or until the receiver is dropped.
fn read_into(input: &Input, to: &mpsc::Sender<io::Result<ReadItem>>) -> io::Result<()> {
    let (mut from, len) = input.open()?;
    if to.blocking_send(Ok(ReadItem::Len(len))).is_err() {
        return Ok(());
    }
    loop {
        let mut part = vec![0; STEP];
        match from.read(&mut part) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                part.truncate(n);
                if to.blocking_send(Ok(ReadItem::Bytes(part))).is_err() {
                    return Ok(());
                }
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Recognises a torrent, compressed or not, or the text of a magnet link. Sites offer all of them as `.torrent` files.
pub(in crate::engine) fn recognise(bytes: Vec<u8>) -> Result<ImportSource> {
    let unpacked = decompressor(&bytes).map(decompress).transpose()?;
    let bytes = unpacked.unwrap_or(bytes);
    match as_magnet_link(&bytes) {
        Some(link) => {
            let magnet = Magnet::parse(link)?;
            Ok(ImportSource::Magnet(magnet.link(), magnet))
        }
        None => Ok(ImportSource::Torrent(bytes)),
    }
}

/// The magnet link, when the text is exactly one link.
pub(super) fn as_magnet_link(bytes: &[u8]) -> Option<&str> {
    let text = bytes.trim_ascii();
    let is_link = text.get(..8)?.eq_ignore_ascii_case(b"magnet:?")
        && text.len() <= MAX_LINK
        && !text.iter().any(u8::is_ascii_whitespace);
    std::str::from_utf8(text).ok().filter(|_| is_link)
}

/// Whether a file that begins with `head` may be a compressed torrent or the text of a magnet link.
pub(super) fn may_be_source(head: &[u8]) -> bool {
    let text = head.trim_ascii_start();
    let is_link = text.get(..8).is_some_and(|start| start.eq_ignore_ascii_case(b"magnet:?"));
    is_link || decompressor(head).is_some()
}

/// The decompressor for the first two bytes: gzip, or zlib as servers send it for `deflate`.
/// No torrent begins with them.
fn decompressor(bytes: &[u8]) -> Option<Box<dyn Read + '_>> {
    match bytes {
        [0x1f, 0x8b, ..] => Some(Box::new(GzDecoder::new(bytes))),
        [0x78, flags, ..] if (0x7800 + u16::from(*flags)).is_multiple_of(31) => {
            Some(Box::new(ZlibDecoder::new(bytes)))
        }
        _ => None,
    }
}

fn decompress(from: Box<dyn Read + '_>) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    match from.take(MAX_INPUT as u64 + 1).read_to_end(&mut out) {
        Ok(_) if out.len() > MAX_INPUT => {
            Err(too_large("the torrent, decompressed,", out.len() as u64))
        }
        Ok(_) => Ok(out),
        Err(e) => {
            let text = "the compressed torrent is damaged";
            Err(Error::new(Kind::InvalidInput, text).because(e))
        }
    }
}

/// The first bytes (at most 64) of the decompressed `head`; `head` itself where it is not compressed.
pub(super) fn decompressed_head(head: &[u8]) -> Vec<u8> {
    let Some(mut from) = decompressor(head) else { return head.to_owned() };
    let (mut out, mut len) = ([0; 64], 0);
    // The decompressor fails where the head is cut off.
    while let Ok(n @ 1..) = from.read(&mut out[len..]) {
        len += n;
    }
    out[..len].to_vec()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{
        Compression,
        write::{GzEncoder, ZlibEncoder},
    };

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut to = GzEncoder::new(Vec::new(), Compression::default());
        to.write_all(bytes).unwrap();
        to.finish().unwrap()
    }

    #[test]
    fn a_compressed_torrent_is_decompressed() {
        let torrent = b"d4:infod4:name1:xee".to_vec();
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(&torrent).unwrap();
        let zlib = zlib.finish().unwrap();
        for bytes in
            [torrent.clone(), zlib, gzip(&torrent), [gzip(&torrent), b"junk".to_vec()].concat()]
        {
            assert_eq!(decompressed_head(&bytes), torrent);
            let ImportSource::Torrent(found) = recognise(bytes).unwrap() else {
                panic!("a torrent")
            };
            assert_eq!(found, torrent);
        }
        let cut = &gzip(&torrent)[..20];
        assert_eq!(recognise(cut.to_vec()).unwrap_err().kind(), Kind::InvalidInput);
    }

    #[test]
    fn a_decompression_bomb_is_refused() {
        let bomb = gzip(&vec![0; MAX_INPUT + 1]);
        assert!(bomb.len() < 1 << 20);
        assert!(recognise(bomb).unwrap_err().to_string().contains("80000000"));
    }

    #[test]
    fn a_file_with_a_magnet_link_is_the_link() {
        let link = format!("Magnet:?xt=urn:btih:{}\n", "ab".repeat(20));
        let ImportSource::Magnet(_, magnet) = recognise(link.into_bytes()).unwrap() else {
            panic!()
        };
        assert_eq!(magnet.v1, Some([0xab; 20]));
        // A text with several links is a list; none of them is chosen.
        let list = b"magnet:?xt=urn:btih:ab\nmagnet:?xt=urn:btih:cd".to_vec();
        assert!(matches!(recognise(list), Ok(ImportSource::Torrent(_))));
    }

    #[tokio::test]
    async fn a_pipe_without_a_writer_ends_with_the_timeout() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        let ended = read(Input::Path(pipe), Some(Duration::from_millis(50))).await;
        let e = ended.unwrap_err();
        assert_eq!(e.kind(), Kind::Network);
        assert!(e.to_string().contains("pipe: no data for 0.05 s"), "{e}");
    }

    #[tokio::test]
    async fn an_endless_file_is_read_up_to_the_limit() {
        let e = read(Input::Path("/dev/zero".into()), None).await.unwrap_err();
        assert!(e.to_string().contains("80000000"), "{e}");
        let e = read(Input::Path("/nonexistent.torrent".into()), None).await.unwrap_err();
        assert_eq!(
            (e.kind(), e.to_string().as_str()),
            (Kind::NotFound, "torrent file /nonexistent.torrent")
        );
    }
}
