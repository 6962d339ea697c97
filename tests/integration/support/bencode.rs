//! A bencode writer, so that a test can write torrents that no tool makes.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

/// A bencode value. `Raw` is written unchanged, well-formed or not.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Int(i64),
    Bytes(Vec<u8>),
    List(Vec<Value>),
    Dict(Vec<(&'static str, Value)>),
    Raw(Vec<u8>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Bytes(text.as_bytes().to_vec())
    }
}

impl From<i64> for Value {
    fn from(n: i64) -> Self {
        Self::Int(n)
    }
}

impl Value {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Int(n) => out.extend_from_slice(format!("i{n}e").as_bytes()),
            Self::Bytes(bytes) => string(bytes, out),
            Self::List(values) => {
                out.push(b'l');
                values.iter().for_each(|v| v.write(out));
                out.push(b'e');
            }
            Self::Dict(entries) => {
                out.push(b'd');
                for (key, value) in entries {
                    string(key.as_bytes(), out);
                    value.write(out);
                }
                out.push(b'e');
            }
            Self::Raw(bytes) => out.extend_from_slice(bytes),
        }
    }
}

/// The info dictionary of a v1 torrent with pieces of `piece` bytes, and its payload. Each file is a path and its
/// bytes.
pub(crate) fn multi_file_info(
    name: &[u8],
    files: &[(&[&[u8]], &[u8])],
    piece: usize,
) -> (Vec<u8>, Vec<u8>) {
    let payload: Vec<u8> = files.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect();
    let file = |(path, bytes): &(&[&[u8]], &[u8])| {
        let parts = path.iter().map(|part| Value::Bytes(part.to_vec())).collect();
        let len = i64::try_from(bytes.len()).unwrap();
        Value::Dict(vec![("length", Value::Int(len)), ("path", Value::List(parts))])
    };
    let info = Value::Dict(vec![
        ("files", Value::List(files.iter().map(file).collect())),
        ("name", Value::Bytes(name.to_vec())),
        ("piece length", Value::Int(i64::try_from(piece).unwrap())),
        ("pieces", Value::Bytes(piece_hashes(&payload, piece))),
    ]);
    (info.encode(), payload)
}

/// The SHA-1 hashes of the pieces of `payload`.
pub(crate) fn piece_hashes(payload: &[u8], piece: usize) -> Vec<u8> {
    payload.chunks(piece).flat_map(sha1).collect()
}

fn sha1(bytes: &[u8]) -> Vec<u8> {
    digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref().to_vec()
}

/// The info-hash in hexadecimal.
pub(crate) fn info_hash(info: &[u8]) -> String {
    sha1(info).iter().map(|b| format!("{b:02x}")).collect()
}

fn string(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{}:", bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
}
