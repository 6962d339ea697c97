//! Decoding of text files written by people: UTF-8, and the byte order marks and UTF-16 of Windows editors.

/// Decodes `bytes` and removes a byte order mark. A UTF-16 mark selects UTF-16; without one the text is read as UTF-8.
///
/// # Errors
/// The number of the first line that is not valid UTF-8; 1 for invalid UTF-16.
pub fn decode(bytes: &[u8]) -> Result<String, usize> {
    let decode_utf16 = |rest: &[u8], unit: fn([u8; 2]) -> u16| {
        let units: Vec<_> = rest.chunks_exact(2).map(|pair| unit([pair[0], pair[1]])).collect();
        let text: Result<String, _> = char::decode_utf16(units.iter().copied()).collect();
        text.map_err(|_| 1)
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => return decode_utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => return decode_utf16(rest, u16::from_be_bytes),
        _ => {}
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(e) => Err(1 + bytes[..e.valid_up_to()].iter().filter(|byte| **byte == b'\n').count()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_selects_the_encoding_and_is_removed() {
        assert_eq!(decode("http://é".as_bytes()).unwrap(), "http://é");
        assert_eq!(decode("\u{feff}http://x".as_bytes()).unwrap(), "http://x");
        let units = "\u{feff}é\n".encode_utf16();
        let little: Vec<_> = units.clone().flat_map(u16::to_le_bytes).collect();
        let big: Vec<_> = units.flat_map(u16::to_be_bytes).collect();
        assert_eq!(decode(&little).unwrap(), "é\n");
        assert_eq!(decode(&big).unwrap(), "é\n");
        assert_eq!(decode(b"a\nb\nc\xff\n"), Err(3));
    }
}
