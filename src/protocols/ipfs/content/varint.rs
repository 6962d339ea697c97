//! Unsigned varints of multiformats: seven bits in each byte, the least significant first, at most nine bytes.

/// The number at the start of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::protocols::ipfs) enum Varint {
    /// The number, and how many bytes it takes.
    Value(u64, usize),
    /// The bytes end inside the number.
    Incomplete,
    /// The number is longer than nine bytes, or not in its shortest form.
    Invalid,
}

/// Nine bytes hold 63 bits. Longer numbers are not valid.
const MAX_LEN: usize = 9;

/// Reads the number at the start of `bytes`.
pub(in crate::protocols::ipfs) fn read(bytes: &[u8]) -> Varint {
    let mut value = 0;
    for (at, byte) in bytes.iter().take(MAX_LEN).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            // A last byte of 0 adds nothing: the same number has a shorter form.
            let is_shortest = *byte != 0 || at == 0;
            return if is_shortest { Varint::Value(value, at + 1) } else { Varint::Invalid };
        }
    }
    if bytes.len() < MAX_LEN { Varint::Incomplete } else { Varint::Invalid }
}

/// Appends `value`.
pub(in crate::protocols::ipfs) fn write(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).expect("seven bits") | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).expect("seven bits"));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_shortest_form_of_a_number_is_valid() {
        assert_eq!(read(&[0]), Varint::Value(0, 1));
        assert_eq!(read(&[0xac, 0x02, 0xff]), Varint::Value(300, 2));
        assert_eq!(read(&[0x80, 0x00]), Varint::Invalid);
        assert_eq!(read(&[0x80]), Varint::Incomplete);
        assert_eq!(read(&[]), Varint::Incomplete);
        assert_eq!(read(&[0xff; 9]), Varint::Invalid);
        assert_eq!(read(&[0xff; 8]), Varint::Incomplete);
    }

    proptest! {
        #[test]
        fn a_number_round_trips(value in 0u64..1 << 63, rest in prop::collection::vec(any::<u8>(), 0..4)) {
            let mut bytes = Vec::new();
            write(value, &mut bytes);
            let len = bytes.len();
            bytes.extend(rest);
            prop_assert_eq!(read(&bytes), Varint::Value(value, len));
            prop_assert_eq!(read(&bytes[..len - 1]), Varint::Incomplete);
        }
    }
}
