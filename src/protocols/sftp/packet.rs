//! Packets of SFTP version 3 (draft-ietf-secsh-filexfer-02), as far as reading needs them. Pure.
//!
//! Handles and names stay byte strings: a handle belongs to the server, and a name may have any encoding.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The protocol version. All servers support it.
pub(super) const VERSION: u32 = 3;
/// Maximum length of a packet in bytes, as in OpenSSH. No request has a longer answer.
const MAX_PACKET_LEN: usize = 256 << 10;

pub(super) const INIT: u8 = 1;
pub(super) const SSH_FXP_VERSION: u8 = 2;
pub(super) const OPEN: u8 = 3;
pub(super) const CLOSE: u8 = 4;
pub(super) const READ: u8 = 5;
pub(super) const LSTAT: u8 = 7;
pub(super) const FSTAT: u8 = 8;
pub(super) const OPENDIR: u8 = 11;
pub(super) const READDIR: u8 = 12;
pub(super) const REALPATH: u8 = 16;
pub(super) const STAT: u8 = 17;

const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRS: u8 = 105;

/// A packet under construction. [`Packet::finish`] fills in its length.
#[derive(Debug)]
pub(super) struct Packet(BytesMut);

impl Packet {
    pub(super) fn new(kind: u8, id: u32) -> Self {
        let mut bytes = BytesMut::with_capacity(64);
        bytes.put_u32(0);
        bytes.put_u8(kind);
        bytes.put_u32(id);
        Self(bytes)
    }

    /// Appends a string, which may contain any bytes.
    pub(super) fn string(mut self, text: &[u8]) -> Self {
        self.0.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.0.put_slice(text);
        self
    }

    pub(super) fn u32(mut self, number: u32) -> Self {
        self.0.put_u32(number);
        self
    }

    pub(super) fn u64(mut self, number: u64) -> Self {
        self.0.put_u64(number);
        self
    }

    pub(super) fn finish(mut self) -> Bytes {
        let len = u32::try_from(self.0.len() - 4).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&len.to_be_bytes());
        self.0.freeze()
    }
}

/// Removes the first packet from `buffer` and returns it without its length. `None` until the packet is complete.
///
/// # Errors
/// The start of `buffer`, if it is not a packet.
pub(super) fn take_packet(buffer: &mut BytesMut) -> Result<Option<Bytes>, String> {
    let Some(head) = buffer.first_chunk::<4>() else { return Ok(None) };
    let len = u32::from_be_bytes(*head) as usize;
    if len == 0 || len > MAX_PACKET_LEN {
        let shown = &buffer[..buffer.len().min(60)];
        return Err(String::from_utf8_lossy(shown).into_owned());
    }
    if buffer.len() < 4 + len {
        buffer.reserve(4 + len - buffer.len());
        return Ok(None);
    }
    buffer.advance(4);
    Ok(Some(buffer.split_to(len).freeze()))
}

/// The attributes of a file, as the server reports them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Attributes {
    pub(super) len: Option<u64>,
    pub(super) permissions: Option<u32>,
    /// Seconds since 1970-01-01 UTC.
    pub(super) modified: Option<u32>,
}

/// The type of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileKind {
    File,
    Folder,
    Link,
    /// A device, a pipe or a socket.
    Other,
    /// The server does not report the type.
    Unknown,
}

impl Attributes {
    pub(super) fn kind(&self) -> FileKind {
        match self.permissions.unwrap_or_default() & 0o170_000 {
            0 => FileKind::Unknown,
            0o100_000 => FileKind::File,
            0o040_000 => FileKind::Folder,
            0o120_000 => FileKind::Link,
            _ => FileKind::Other,
        }
    }
}

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FolderEntry {
    pub(super) name: Bytes,
    pub(super) attributes: Attributes,
}

/// A status, which may also report success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) code: u32,
    pub(super) message: String,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Response {
    Status(Status),
    Handle(Bytes),
    Data(Bytes),
    Names(Vec<FolderEntry>),
    Attributes(Attributes),
}

/// Parses a response. Returns the id of its request and the response; `None` if the packet is not a response.
pub(super) fn parse_response(mut packet: Bytes) -> Option<(u32, Response)> {
    let bytes = &mut packet;
    let kind = read_u8(bytes)?;
    let id = read_u32(bytes)?;
    let response = match kind {
        STATUS => {
            let code = read_u32(bytes)?;
            // Old servers omit the message.
            let message = read_string(bytes).unwrap_or_default();
            Response::Status(Status { code, message: String::from_utf8_lossy(&message).into() })
        }
        HANDLE => Response::Handle(read_string(bytes)?),
        // Copied, so that the data does not keep the whole read buffer in memory until the stream returns it.
        DATA => Response::Data(Bytes::copy_from_slice(&read_string(bytes)?)),
        NAME => {
            let count = read_u32(bytes)?;
            let entry = |_| {
                let name = read_string(bytes)?;
                // The line that `ls -l` would show. It is not used.
                read_string(bytes)?;
                Some(FolderEntry { name, attributes: read_attributes(bytes)? })
            };
            Response::Names((0..count).map(entry).collect::<Option<_>>()?)
        }
        ATTRS => Response::Attributes(read_attributes(bytes)?),
        _ => return None,
    };
    Some((id, response))
}

/// The version in the server's first packet.
pub(super) fn parse_version(mut packet: Bytes) -> Option<u32> {
    let kind = read_u8(&mut packet)?;
    if kind == SSH_FXP_VERSION { read_u32(&mut packet) } else { None }
}

fn read_attributes(bytes: &mut Bytes) -> Option<Attributes> {
    let flags = read_u32(bytes)?;
    let has = |flag: u32| flags & flag != 0;
    let mut found = Attributes::default();
    if has(1) {
        found.len = Some(read_u64(bytes)?);
    }
    if has(2) {
        // The ids of the user and the group.
        read_u64(bytes)?;
    }
    if has(4) {
        found.permissions = Some(read_u32(bytes)?);
    }
    if has(8) {
        read_u32(bytes)?;
        found.modified = Some(read_u32(bytes)?);
    }
    if has(1 << 31) {
        for _ in 0..read_u32(bytes)? {
            read_string(bytes)?;
            read_string(bytes)?;
        }
    }
    Some(found)
}

fn read_u8(bytes: &mut Bytes) -> Option<u8> {
    bytes.try_get_u8().ok()
}

fn read_u32(bytes: &mut Bytes) -> Option<u32> {
    bytes.try_get_u32().ok()
}

fn read_u64(bytes: &mut Bytes) -> Option<u64> {
    bytes.try_get_u64().ok()
}

fn read_string(bytes: &mut Bytes) -> Option<Bytes> {
    let len = read_u32(bytes)? as usize;
    (len <= bytes.len()).then(|| bytes.split_to(len))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn first_packet(bytes: &[u8]) -> Bytes {
        let mut buffer = BytesMut::from(bytes);
        take_packet(&mut buffer).unwrap().unwrap()
    }

    #[test]
    fn a_handle_of_any_bytes_round_trips() {
        let handle = b"\x00\x00\x00\x80\xff";
        let sent = Packet::new(HANDLE, 7).string(handle).finish();
        let (id, found) = parse_response(first_packet(&sent)).unwrap();
        assert_eq!((id, found), (7, Response::Handle(Bytes::from_static(handle))));
        let read = Packet::new(READ, 8).string(handle).u64(1 << 40).u32(9).finish();
        assert_eq!(&read[9..18], b"\x00\x00\x00\x05\x00\x00\x00\x80\xff");
    }

    #[test]
    fn optional_attributes_are_parsed() {
        let entry = |name: &[u8], flags: u32| {
            Packet::new(NAME, 1).u32(1).string(name).string(b"-rw-r--r-- x").u32(flags)
        };
        let names = |packet: Packet| match parse_response(first_packet(&packet.finish())) {
            Some((1, Response::Names(names))) => names[0].clone(),
            other => panic!("{other:?}"),
        };
        let all = entry(b"na\xefve", 0x8000_000f).u64(5).u32(1).u32(2).u32(0o100_644).u32(3);
        let all = names(all.u32(4).u32(1).string(b"x@y").string(b"z"));
        let (len, permissions, modified) = (Some(5), Some(0o100_644), Some(4));
        assert_eq!(all.attributes, Attributes { len, permissions, modified });
        assert_eq!((&all.name[..], all.attributes.kind()), (&b"na\xefve"[..], FileKind::File));
        assert_eq!(names(entry(b"a", 0)).attributes, Attributes::default());
        let typeless = names(entry(b"a", 4).u32(0o644));
        assert_eq!(typeless.attributes.kind(), FileKind::Unknown);
    }

    #[test]
    fn a_status_may_have_no_message() {
        let found = parse_response(first_packet(&Packet::new(STATUS, 3).u32(4).finish()));
        let status = Status { code: 4, message: String::new() };
        assert_eq!(found, Some((3, Response::Status(status))));
    }

    #[test]
    fn data_that_is_not_a_packet_is_refused_with_its_start() {
        let mut buffer = BytesMut::from(&b"Welcome to this host!\n"[..]);
        assert_eq!(take_packet(&mut buffer).unwrap_err(), "Welcome to this host!\n");
        let mut buffer = BytesMut::from(&b"\0\0\0"[..]);
        assert_eq!(take_packet(&mut buffer), Ok(None));
        let mut buffer = BytesMut::from(&b"\0\0\0\x02a"[..]);
        assert_eq!(take_packet(&mut buffer), Ok(None));
        buffer.put_slice(b"bc");
        assert_eq!(take_packet(&mut buffer), Ok(Some(Bytes::from_static(b"ab"))));
        assert_eq!(&buffer[..], b"c");
    }

    proptest! {
        #[test]
        fn any_packet_is_parsed_or_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 100u8..107) {
            let _ = parse_response(Bytes::from(bytes.clone()));
            let mut typed = vec![kind];
            typed.extend(bytes);
            let _ = parse_response(Bytes::from(typed.clone()));
            let _ = parse_version(Bytes::from(typed));
        }
    }
}
