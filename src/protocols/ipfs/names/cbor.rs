//! Reads CBOR as far as IPNS records and headers of CARs need it: numbers, bytes, text, arrays, maps and tags.

use std::collections::BTreeMap;

use bytes::Bytes;

/// Maximum number of nested arrays, maps and tags.
const MAX_DEPTH: usize = 8;

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::protocols::ipfs) enum Item {
    Uint(u64),
    Bytes(Bytes),
    Text(String),
    Array(Vec<Item>),
    Map(BTreeMap<String, Item>),
    /// A negative number, a float, a boolean or null. No format here uses them.
    Other,
}

impl Item {
    pub(in crate::protocols::ipfs) fn as_uint(&self) -> Option<u64> {
        match self {
            Self::Uint(value) => Some(*value),
            _ => None,
        }
    }

    pub(in crate::protocols::ipfs) fn as_bytes(&self) -> Option<&Bytes> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    pub(in crate::protocols::ipfs) fn into_map(self) -> Option<BTreeMap<String, Self>> {
        match self {
            Self::Map(map) => Some(map),
            _ => None,
        }
    }
}

/// The only value in `bytes`. `None` for anything else: bytes after it, lengths that are not declared, keys that are no
/// text or occur twice.
pub(in crate::protocols::ipfs) fn parse(bytes: &Bytes) -> Option<Item> {
    let mut reader = Reader { all: bytes, position: 0 };
    let item = reader.item(MAX_DEPTH)?;
    (reader.position == bytes.len()).then_some(item)
}

struct Reader<'a> {
    all: &'a Bytes,
    position: usize,
}

impl Reader<'_> {
    fn item(&mut self, depth: usize) -> Option<Item> {
        let depth = depth.checked_sub(1)?;
        let (major, value) = self.head()?;
        Some(match major {
            0 => Item::Uint(value),
            2 => Item::Bytes(self.take(value)?),
            3 => Item::Text(self.text(value)?),
            // Not reserved in advance: the count is only claimed.
            4 => Item::Array((0..value).map(|_| self.item(depth)).collect::<Option<_>>()?),
            5 => {
                let mut map = BTreeMap::new();
                for _ in 0..value {
                    let (3, len) = self.head()? else { return None };
                    let key = self.text(len)?;
                    if map.insert(key, self.item(depth)?).is_some() {
                        return None;
                    }
                }
                Item::Map(map)
            }
            6 => self.item(depth)?,
            _ => Item::Other,
        })
    }

    /// The major type of the next item, and its number or length.
    fn head(&mut self) -> Option<(u8, u64)> {
        let [first] = self.array()?;
        let value = match first & 31 {
            short @ 0..=23 => u64::from(short),
            24 => u64::from(u8::from_be_bytes(self.array()?)),
            25 => u64::from(u16::from_be_bytes(self.array()?)),
            26 => u64::from(u32::from_be_bytes(self.array()?)),
            27 => u64::from_be_bytes(self.array()?),
            _ => return None,
        };
        Some((first >> 5, value))
    }

    fn take(&mut self, len: u64) -> Option<Bytes> {
        let end = self.position.checked_add(usize::try_from(len).ok()?)?;
        if end > self.all.len() {
            return None;
        }
        let bytes = self.all.slice(self.position..end);
        self.position = end;
        Some(bytes)
    }

    fn text(&mut self, len: u64) -> Option<String> {
        String::from_utf8(self.take(len)?.to_vec()).ok()
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let bytes = self.all.get(self.position..self.position.checked_add(N)?)?;
        self.position += N;
        bytes.try_into().ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(bytes: &[u8]) -> Option<Item> {
        parse(&Bytes::copy_from_slice(bytes))
    }

    #[test]
    fn values_of_every_kind_are_read() {
        assert_eq!(of(&[0x19, 1, 0]), Some(Item::Uint(256)));
        assert_eq!(of(&[0x1b, 0, 0, 0, 1, 0, 0, 0, 0]), Some(Item::Uint(1 << 32)));
        assert_eq!(of(&[0x43, 1, 2, 3]), Some(Item::Bytes(Bytes::from_static(&[1, 2, 3]))));
        assert_eq!(
            of(&[0x82, 1, 0xd8, 42, 2]),
            Some(Item::Array(vec![Item::Uint(1), Item::Uint(2)]))
        );
        assert_eq!(of(&[0xf6]), Some(Item::Other));
        let map = of(&[0xa1, 0x61, b'a', 0x18, 99]).and_then(Item::into_map).unwrap();
        assert_eq!(map["a"].as_uint(), Some(99));
        assert_eq!(map["a"].as_bytes(), None);
    }

    #[test]
    fn other_bytes_are_refused() {
        let nested = [0x81; MAX_DEPTH + 1];
        for bytes in [
            &[][..],
            &[1, 1],
            &[0x43, 1],
            &[0x5f],
            &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0xa1, 1, 1],
            &[0xa2, 0x61, b'a', 1, 0x61, b'a', 2],
            &[0x61, 0xff],
            &nested,
        ] {
            assert_eq!(of(bytes), None, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = of(&bytes);
        }
    }
}
