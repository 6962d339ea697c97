//! Reads and writes the fields of a protobuf message: all that dag-pb, UnixFS and IPNS need of the format.

/// A message that is not valid protobuf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::protocols::ipfs) struct Malformed;

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::protocols::ipfs) enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

impl<'a> Value<'a> {
    pub(in crate::protocols::ipfs) fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(Malformed),
        }
    }

    pub(in crate::protocols::ipfs) fn varint(self) -> Result<u64, Malformed> {
        match self {
            Self::Varint(value) => Ok(value),
            _ => Err(Malformed),
        }
    }
}

/// The fields of a message, each with its number. After an error there are no more.
#[derive(Debug)]
pub(in crate::protocols::ipfs) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(in crate::protocols::ipfs) fn of(message: &'a [u8]) -> Self {
        Self(message)
    }

    fn field(&mut self) -> Result<(u64, Value<'a>), Malformed> {
        let tag = self.varint()?;
        let number = tag >> 3;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                Value::Bytes(self.take(len)?)
            }
            5 => Value::Fixed32(u32::from_le_bytes(self.array()?)),
            // Groups, which no format here has.
            _ => return Err(Malformed),
        };
        if number == 0 { Err(Malformed) } else { Ok((number, value)) }
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let (value, rest) = read_varint(self.0)?;
        self.0 = rest;
        Ok(value)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

/// Reads a varint of protobuf, which has up to ten bytes and need not be in its shortest form.
pub(in crate::protocols::ipfs) fn read_varint(bytes: &[u8]) -> Result<(u64, &[u8]), Malformed> {
    let mut value = 0u64;
    for (at, byte) in bytes.iter().take(10).enumerate() {
        if at == 9 && *byte > 1 {
            return Err(Malformed);
        }
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok((value, &bytes[at + 1..]));
        }
    }
    Err(Malformed)
}

/// Appends a field of bytes.
pub(in crate::protocols::ipfs) fn write_bytes(number: u64, bytes: &[u8], out: &mut Vec<u8>) {
    super::varint::write(number << 3 | 2, out);
    super::varint::write(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Appends a field with a number.
pub(in crate::protocols::ipfs) fn write_varint(number: u64, value: u64, out: &mut Vec<u8>) {
    super::varint::write(number << 3, out);
    super::varint::write(value, out);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_of_every_kind_are_read() {
        let message = [
            0x08, 0x96, 0x01, // 1: 150
            0x12, 0x02, b'h', b'i', // 2: "hi"
            0x1d, 1, 0, 0, 0, // 3: fixed32
            0x21, 2, 0, 0, 0, 0, 0, 0, 0, // 4: fixed64
        ];
        let fields: Vec<_> = Fields::of(&message).map(Result::unwrap).collect();
        let wanted = [
            (1, Value::Varint(150)),
            (2, Value::Bytes(b"hi")),
            (3, Value::Fixed32(1)),
            (4, Value::Fixed64(2)),
        ];
        assert_eq!(fields, wanted);
    }

    #[test]
    fn malformed_messages_end_with_an_error() {
        for message in [
            &[0x08][..],
            &[0x12, 5, 1],
            &[0x00, 1],
            &[0x0b],
            &[0x1d, 1],
            &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
        ] {
            let last = Fields::of(message).last().unwrap();
            assert_eq!(last, Err(Malformed), "{message:?}");
        }
    }

    proptest! {
        #[test]
        fn written_fields_are_read_back(number in 1u64..1 << 20, value in 0u64..1 << 63, bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut message = Vec::new();
            write_varint(number, value, &mut message);
            write_bytes(number + 1, &bytes, &mut message);
            let fields: Vec<_> = Fields::of(&message).map(Result::unwrap).collect();
            prop_assert_eq!(fields, [(number, Value::Varint(value)), (number + 1, Value::Bytes(&bytes))]);
        }

        #[test]
        fn any_bytes_are_read_or_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            prop_assert!(Fields::of(&bytes).count() <= bytes.len());
        }
    }
}
