//! The endpoint in the form that the SDK takes.

use url::Url;

use super::errors::BucketAddress;
use crate::error::{Error, Kind, Result};

/// The endpoint with a slash at the end of its path, because the SDK appends to it.
///
/// # Errors
/// `InvalidInput` when it has a query or a fragment.
pub(super) fn normalize(url: &Url, address: &BucketAddress) -> Result<String> {
    if url.query().is_some() || url.fragment().is_some() {
        let text = format!("{address}: the endpoint contains a ? or a #");
        return Err(Error::new(Kind::InvalidInput, text)
            .hint("an endpoint is an address like https://host:port/path"));
    }
    let mut url = url.clone();
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    Ok(url.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::S3Settings;

    fn address() -> BucketAddress {
        BucketAddress::of(&S3Settings::default())
    }

    #[test]
    fn a_normalized_endpoint_path_ends_with_a_slash() {
        let normalized = |text: &str| normalize(&Url::parse(text).unwrap(), &address());
        assert_eq!(normalized("http://h/storage/v1/s3").unwrap(), "http://h/storage/v1/s3/");
        assert_eq!(normalized("http://h/storage/v1/s3/").unwrap(), "http://h/storage/v1/s3/");
        assert_eq!(normalized("http://h").unwrap(), "http://h/");
        assert_eq!(normalized("http://h/?x=1").unwrap_err().kind(), Kind::InvalidInput);
    }
}
