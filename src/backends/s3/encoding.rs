//! Object names encoded for URLs and for the copy-source header.

use std::fmt::Write;

/// Percent-encodes all but `/` and unreserved characters. `+` is encoded too, because some servers read it as a
/// space.
pub(super) fn percent_encode(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(char::from(byte));
            }
            _ => write!(out, "%{byte:02X}").expect("writing to a string never fails"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_characters_are_percent_encoded() {
        assert_eq!(percent_encode("a/Jóga (live).flac"), "a/J%C3%B3ga%20%28live%29.flac");
        assert_eq!(percent_encode("a+b&c=d?e#f%20"), "a%2Bb%26c%3Dd%3Fe%23f%2520");
        assert_eq!(percent_encode("plain-_.~/0"), "plain-_.~/0");
    }
}
