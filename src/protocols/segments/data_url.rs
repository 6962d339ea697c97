//! `data:` URLs, which contain their bytes (RFC 2397). Pure.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use url::Url;

use crate::error::{Error, Kind, Result};

/// The bytes of a `data:` URL; `None` for any other URL.
///
/// # Errors
/// `Unsupported` for a `data:` URL that is not valid.
pub(in crate::protocols) fn bytes_of(url: &Url) -> Result<Option<Bytes>> {
    if url.scheme() != "data" {
        return Ok(None);
    }
    let invalid = || Error::new(Kind::Unsupported, "a data: URL of the list is not valid");
    let (kind, data) = url.path().split_once(',').ok_or_else(invalid)?;
    // A question mark in the data begins a query.
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    let data: Vec<u8> = percent_decode_str(&format!("{data}{query}")).collect();
    if !kind.trim_end().to_ascii_lowercase().ends_with(";base64") {
        return Ok(Some(data.into()));
    }
    let digits: Vec<u8> = data.into_iter().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let bytes = STANDARD.decode(digits).map_err(|_| invalid())?;
    Ok(Some(bytes.into()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(url: &str) -> Result<Option<Bytes>> {
        bytes_of(&url.parse().unwrap())
    }

    proptest! {
        #[test]
        fn any_data_url_gives_bytes_or_an_error(text in "[a-zA-Z0-9;,=/+%?#-]{0,40}") {
            let _ = of(&format!("data:{text}"));
        }
    }

    #[test]
    fn the_bytes_are_in_base64_or_percent_encoded() {
        assert_eq!(of("data:text/plain;base64,YWJj").unwrap().unwrap(), "abc");
        assert_eq!(of("data:;base64,YWI%3D").unwrap().unwrap(), "ab");
        assert_eq!(of("data:,a%20b?c").unwrap().unwrap(), "a b?c");
        assert_eq!(of("https://x.example/,a").unwrap(), None);
        assert!(of("data:;base64,a").is_err() && of("data:abc").is_err());
    }
}
