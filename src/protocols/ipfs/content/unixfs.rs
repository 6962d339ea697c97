//! UnixFS: the data of a dag-pb block that is a file, a folder or a symbolic link, or a part of one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::protobuf::{Fields, Malformed, Value, read_varint, write_bytes, write_varint};

/// What a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::protocols::ipfs) enum NodeType {
    /// A part of a file, written by old programs.
    Raw,
    Folder,
    File,
    Metadata,
    Symlink,
    /// A part of a folder whose entries are distributed by the hashes of their names.
    HamtShard,
}

impl NodeType {
    fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            0 => Self::Raw,
            1 => Self::Folder,
            2 => Self::File,
            3 => Self::Metadata,
            4 => Self::Symlink,
            5 => Self::HamtShard,
            _ => return None,
        })
    }

    fn number(self) -> u64 {
        match self {
            Self::Raw => 0,
            Self::Folder => 1,
            Self::File => 2,
            Self::Metadata => 3,
            Self::Symlink => 4,
            Self::HamtShard => 5,
        }
    }
}

/// The UnixFS data of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::protocols::ipfs) struct UnixFs {
    pub(in crate::protocols::ipfs) node_type: NodeType,
    /// Bytes of the file, the target of a link, or the bitmap of a shard.
    pub(in crate::protocols::ipfs) data: Bytes,
    pub(in crate::protocols::ipfs) file_len: Option<u64>,
    /// The lengths of the parts of the file in the linked blocks.
    pub(in crate::protocols::ipfs) block_lens: Vec<u64>,
    pub(in crate::protocols::ipfs) hash_type: Option<u64>,
    pub(in crate::protocols::ipfs) fanout: Option<u64>,
    /// Permission bits.
    pub(in crate::protocols::ipfs) mode: Option<u32>,
    pub(in crate::protocols::ipfs) modified: Option<SystemTime>,
}

impl UnixFs {
    pub(in crate::protocols::ipfs) fn new(node_type: NodeType) -> Self {
        Self {
            node_type,
            data: Bytes::new(),
            file_len: None,
            block_lens: Vec::new(),
            hash_type: None,
            fanout: None,
            mode: None,
            modified: None,
        }
    }

    /// Parses the data field of a block, and shares its memory. Unknown fields are ignored.
    ///
    /// # Errors
    /// [`Malformed`].
    pub(in crate::protocols::ipfs) fn parse(message: &Bytes) -> Result<Self, Malformed> {
        let mut node_type = None;
        let mut node = Self::new(NodeType::Raw);
        for field in Fields::of(message) {
            match field? {
                (1, value) => {
                    node_type = Some(NodeType::from_number(value.varint()?).ok_or(Malformed)?);
                }
                (2, value) => node.data = message.slice_ref(value.bytes()?),
                (3, value) => node.file_len = Some(value.varint()?),
                (4, Value::Bytes(packed)) => read_packed(packed, &mut node.block_lens)?,
                (4, value) => node.block_lens.push(value.varint()?),
                (5, value) => node.hash_type = Some(value.varint()?),
                (6, value) => node.fanout = Some(value.varint()?),
                (7, value) => {
                    // Setuid and the like are never taken over.
                    node.mode = Some(u32::try_from(value.varint()? & 0o777).expect("nine bits"));
                }
                (8, value) => node.modified = parse_time(value.bytes()?)?,
                _ => {}
            }
        }
        node.node_type = node_type.ok_or(Malformed)?;
        Ok(node)
    }

    /// The message in the form of Kubo: lengths of parts unpacked, no empty data.
    pub(in crate::protocols::ipfs) fn to_message(&self) -> Vec<u8> {
        let mut message = Vec::new();
        write_varint(1, self.node_type.number(), &mut message);
        if !self.data.is_empty() {
            write_bytes(2, &self.data, &mut message);
        }
        if let Some(len) = self.file_len {
            write_varint(3, len, &mut message);
        }
        self.block_lens.iter().for_each(|len| write_varint(4, *len, &mut message));
        for (number, value) in [(5, self.hash_type), (6, self.fanout)] {
            if let Some(value) = value {
                write_varint(number, value, &mut message);
            }
        }
        message
    }
}

fn read_packed(mut packed: &[u8], out: &mut Vec<u64>) -> Result<(), Malformed> {
    while !packed.is_empty() {
        let (value, rest) = read_varint(packed)?;
        out.push(value);
        packed = rest;
    }
    Ok(())
}

/// Seconds since 1970, which may be negative, and nanoseconds. A time that cannot be is no time.
fn parse_time(message: &[u8]) -> Result<Option<SystemTime>, Malformed> {
    let (mut seconds, mut nanos) = (None, 0);
    for field in Fields::of(message) {
        match field? {
            (1, value) => seconds = Some(value.varint()?.cast_signed()),
            (2, Value::Fixed32(value)) => nanos = value,
            (2, _) => return Err(Malformed),
            _ => {}
        }
    }
    let Some(seconds) = seconds.filter(|_| nanos < 1_000_000_000) else { return Ok(None) };
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let second = match seconds < 0 {
        true => UNIX_EPOCH.checked_sub(whole),
        false => UNIX_EPOCH.checked_add(whole),
    };
    Ok(second.and_then(|time| time.checked_add(Duration::from_nanos(nanos.into()))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_of_parts_may_be_packed() {
        let unpacked = [0x08, 2, 0x18, 7, 0x20, 3, 0x20, 4];
        let packed = [0x08, 2, 0x18, 7, 0x22, 2, 3, 4];
        for message in [&unpacked[..], &packed] {
            let node = UnixFs::parse(&Bytes::copy_from_slice(message)).unwrap();
            assert_eq!((node.node_type, node.file_len), (NodeType::File, Some(7)));
            assert_eq!(node.block_lens, [3, 4]);
            assert_eq!(node.to_message(), unpacked);
        }
    }

    #[test]
    fn mode_and_time_are_read_where_they_are_present() {
        let message = [0x08, 2, 0x38, 0xed, 0x83, 0x02, 0x42, 8, 0x08, 100, 0x15, 1, 0, 0, 0, 0x18];
        assert_eq!(UnixFs::parse(&Bytes::copy_from_slice(&message)), Err(Malformed));
        let message = [0x08, 2, 0x38, 0xed, 0x83, 0x02, 0x42, 7, 0x08, 100, 0x15, 1, 0, 0, 0];
        let node = UnixFs::parse(&Bytes::copy_from_slice(&message)).unwrap();
        assert_eq!(node.mode, Some(0o755), "0o100755 without the type");
        assert_eq!(node.modified, Some(UNIX_EPOCH + Duration::new(100, 1)));
        let before_1970 = [&[0x08, 2, 0x42, 11, 0x08][..], &[0xff; 9], &[0x01]].concat();
        let node = UnixFs::parse(&before_1970.into()).unwrap();
        assert_eq!(node.modified, Some(UNIX_EPOCH - Duration::from_secs(1)));
        let without_seconds = [0x08, 2, 0x42, 5, 0x15, 1, 0, 0, 0];
        let node = UnixFs::parse(&Bytes::copy_from_slice(&without_seconds)).unwrap();
        assert_eq!((node.modified, node.mode), (None, None));
    }

    #[test]
    fn a_message_without_a_known_type_is_refused() {
        for message in [&[][..], &[0x18, 7], &[0x08, 6], &[0x0a, 1, 2]] {
            assert_eq!(UnixFs::parse(&Bytes::copy_from_slice(message)), Err(Malformed));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = UnixFs::parse(&bytes.into());
        }
    }
}
