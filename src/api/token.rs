//! The access token of the stream server.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;

use crate::error::{Error, Kind, Result};

/// Random bytes in a generated token: as hard to guess as a 128-bit key.
const RANDOM_BYTES: usize = 16;
/// Minimum length of a token that the user chose.
const MIN_LEN: usize = 16;

/// The token that grants access to the stream server. It is shown only in URLs that the user requests.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Generates a random token.
    ///
    /// # Errors
    /// `Internal` when the system has no randomness.
    pub fn random() -> Result<Self> {
        let mut bytes = [0; RANDOM_BYTES];
        getrandom::fill(&mut bytes)
            .map_err(|e| Error::new(Kind::Internal, format!("no randomness: {e}")))?;
        Ok(Self(bytes.iter().map(|b| format!("{b:02x}")).collect()))
    }

    /// Accepts a token that the user chose, so that URLs stay the same between runs.
    ///
    /// # Errors
    /// `InvalidInput` when it is too short, or has other characters than letters, digits, `-` and `_`: it is part of
    /// URLs. The error does not contain the token.
    pub fn from_user(text: String) -> Result<Self> {
        let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
        if text.len() >= MIN_LEN && text.bytes().all(is_allowed) {
            return Ok(Self(text));
        }
        Err(Error::new(
            Kind::InvalidInput,
            "the token of the stream server is too short or has other characters",
        )
        .hint(format!(
            "use {MIN_LEN} or more letters, digits, - and _; `openssl rand -hex 16` makes one"
        )))
    }

    /// The text of the token, for a URL.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }

    /// Compares in constant time, so that the duration does not reveal how much of `text` is right.
    pub(super) fn matches(&self, text: &str) -> bool {
        verify_slices_are_equal(self.0.as_bytes(), text.as_bytes()).is_ok()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_long_random_and_hidden_in_debug_output() {
        let (one, other) = (Token::random().unwrap(), Token::random().unwrap());
        assert_eq!(one.reveal().len(), 32);
        assert!(one.matches(one.reveal()) && !one.matches(other.reveal()) && !one.matches(""));
        assert!(!format!("{one:?}").contains(one.reveal()));
        assert!(Token::from_user(one.reveal().into()).is_ok());
        for bad in ["", "abc123", "0123456789abcde/", "with a space in it"] {
            let error = format!("{:?}", Token::from_user(bad.into()).unwrap_err());
            assert!(bad.is_empty() || !error.contains(bad), "{error}");
        }
    }
}
