//! Text forms of bytes in CIDs and names. The first character names the base.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

const BASE16: &[u8] = b"0123456789abcdef";
const BASE32: &[u8] = b"abcdefghijklmnopqrstuvwxyz234567";
const BASE36: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";
const BASE58: &[u8] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

/// Maximum length of a text. A CID with a digest of 128 bytes has at most 280 characters, in base 16. Bases that are no
/// power of two take time quadratic in the length.
const MAX_TEXT: usize = 512;

/// Decodes `text` by the base that its first character names. `None` for an unknown base, for other characters than
/// those of the base, and for bits that are left over.
pub(in crate::protocols::ipfs) fn decode(text: &str) -> Option<Vec<u8>> {
    let (prefix, rest) = text.split_at_checked(1)?;
    if text.len() > MAX_TEXT {
        return None;
    }
    let lower = || rest.to_ascii_lowercase();
    match prefix {
        "b" | "B" => decode_bits(&lower(), BASE32, 5),
        "f" | "F" => decode_bits(&lower(), BASE16, 4),
        "k" | "K" => decode_number(&lower(), BASE36),
        "z" => decode_number(rest, BASE58),
        "m" => decode_base64(rest, &alphabet::STANDARD),
        "u" => decode_base64(rest, &alphabet::URL_SAFE),
        _ => None,
    }
}

/// Base 58 without a character for the base, as in CIDs of version 0 and in peer ids.
pub(in crate::protocols::ipfs) fn decode_base58(text: &str) -> Option<Vec<u8>> {
    if text.len() > MAX_TEXT { None } else { decode_number(text, BASE58) }
}

/// Base 58 without a character for the base.
pub(in crate::protocols::ipfs) fn encode_base58(bytes: &[u8]) -> String {
    encode_number(bytes, BASE58)
}

/// Base 32 in lower case, with `b` before it.
pub(in crate::protocols::ipfs) fn encode_base32(bytes: &[u8]) -> String {
    let (mut text, mut held, mut bits) = (String::from("b"), 0u32, 0);
    for byte in bytes {
        held = held << 8 | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(BASE32[(held >> bits & 31) as usize]));
        }
    }
    if bits > 0 {
        text.push(char::from(BASE32[(held << (5 - bits) & 31) as usize]));
    }
    text
}

/// Base 36 in lower case, with `k` before it.
pub(in crate::protocols::ipfs) fn encode_base36(bytes: &[u8]) -> String {
    format!("k{}", encode_number(bytes, BASE36))
}

/// A base of `1 << width` characters. The bits that are left over at the end must be 0, and fewer than `width`.
fn decode_bits(text: &str, alphabet: &[u8], width: u32) -> Option<Vec<u8>> {
    let (mut bytes, mut held, mut bits) = (Vec::new(), 0u32, 0);
    for c in text.bytes() {
        held = held << width | value_of(c, alphabet)?;
        bits += width;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(held >> bits & 0xff).expect("eight bits"));
        }
    }
    let left_over = held & ((1 << bits) - 1);
    (bits < width && left_over == 0).then_some(bytes)
}

fn decode_base64(text: &str, alphabet: &alphabet::Alphabet) -> Option<Vec<u8>> {
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::RequireNone);
    GeneralPurpose::new(alphabet, config).decode(text).ok()
}

/// Text as one large number. A leading zero digit is a leading zero byte.
fn decode_number(text: &str, alphabet: &[u8]) -> Option<Vec<u8>> {
    let base = u32::try_from(alphabet.len()).expect("at most 58");
    let zeros = text.bytes().take_while(|c| *c == alphabet[0]).count();
    // Least significant byte first.
    let mut number: Vec<u8> = Vec::new();
    for c in text.bytes() {
        let mut carry = value_of(c, alphabet)?;
        for byte in &mut number {
            carry += u32::from(*byte) * base;
            *byte = u8::try_from(carry & 0xff).expect("eight bits");
            carry >>= 8;
        }
        if carry > 0 {
            number.push(u8::try_from(carry).expect("less than the base"));
        }
    }
    number.extend(std::iter::repeat_n(0, zeros));
    number.reverse();
    Some(number)
}

fn encode_number(bytes: &[u8], alphabet: &[u8]) -> String {
    let base = u32::try_from(alphabet.len()).expect("at most 58");
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    // Least significant digit first.
    let mut digits: Vec<u32> = Vec::new();
    for byte in bytes {
        let mut carry = u32::from(*byte);
        for digit in &mut digits {
            carry += *digit << 8;
            *digit = carry % base;
            carry /= base;
        }
        while carry > 0 {
            digits.push(carry % base);
            carry /= base;
        }
    }
    digits.extend(std::iter::repeat_n(0, zeros));
    digits.iter().rev().map(|digit| char::from(alphabet[*digit as usize])).collect()
}

fn value_of(c: u8, alphabet: &[u8]) -> Option<u32> {
    let at = alphabet.iter().position(|known| *known == c)?;
    u32::try_from(at).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_base_is_decoded_by_its_prefix() {
        let wanted = b"yes mani !";
        for text in [
            "f796573206d616e692021",
            "F796573206D616E692021",
            "bpfsxgidnmfxgsibb",
            "BPFSXGIDNMFXGSIBB",
            "k2lcpzo5yikidynfl",
            "K2LCPZO5YIKIDYNFL",
            "z7paNL19xttacUY",
            "meWVzIG1hbmkgIQ",
            "ueWVzIG1hbmkgIQ",
        ] {
            assert_eq!(decode(text).as_deref(), Some(&wanted[..]), "{text}");
        }
        assert_eq!(encode_base32(wanted), "bpfsxgidnmfxgsibb");
        assert_eq!(encode_base36(wanted), "k2lcpzo5yikidynfl");
        assert_eq!(encode_base58(wanted), "7paNL19xttacUY");
    }

    #[test]
    fn text_that_is_no_encoding_is_refused() {
        for text in
            ["", "b", "x00", "é", "ba", "bb", "f0", "z0", "z0OIl", "bab", "bpfsxgidnmfxgsib1"]
        {
            let decoded = decode(text);
            assert!(decoded.as_ref().is_none_or(Vec::is_empty), "{text}: {decoded:?}");
        }
        assert_eq!(decode(&format!("z{}", "2".repeat(MAX_TEXT))), None);
        assert_eq!(decode_base58(&"2".repeat(MAX_TEXT + 1)), None);
    }

    proptest! {
        #[test]
        fn bytes_round_trip(bytes in prop::collection::vec(any::<u8>(), 0..140)) {
            prop_assert_eq!(decode(&encode_base32(&bytes)), Some(bytes.clone()));
            prop_assert_eq!(decode(&encode_base36(&bytes)), Some(bytes.clone()));
            prop_assert_eq!(decode_base58(&encode_base58(&bytes)), Some(bytes));
        }

        #[test]
        fn any_text_is_decoded_or_refused_without_panic(text in ".{0,80}") {
            let _ = decode(&text);
        }
    }
}
