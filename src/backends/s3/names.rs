//! Object names encoded for URLs and for the copy-source header.

use std::fmt::Write;

/// Percent-encodes all but `/` and unreserved characters. `+` is encoded too, because some servers read it as a
/// space.
pub(super) fn encoded(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(char::from(byte));
            }
            _ => write!(out, "%{byte:02X}").expect("a string takes all"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_special_characters_survive_a_url() {
        assert_eq!(encoded("a/Jóga (live).flac"), "a/J%C3%B3ga%20%28live%29.flac");
        assert_eq!(encoded("a+b&c=d?e#f%20"), "a%2Bb%26c%3Dd%3Fe%23f%2520");
        assert_eq!(encoded("plain-_.~/0"), "plain-_.~/0");
    }
}
