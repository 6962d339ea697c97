//! The PROPFIND request of WebDAV. Redirects, logins and headers work as for every other HTTP request.

use futures_util::StreamExt as _;
use hyper::{
    Method,
    header::{CONTENT_TYPE, HeaderName, HeaderValue},
};
use url::Url;

use super::{
    Http,
    client::{OtherRequest, RequestSpec},
    errors::{response_error, status_error},
};
use crate::{
    error::{Error, Kind, Result},
    protocols::display_url,
};

/// Maximum length of a response in bytes, enough for about 100,000 files in one folder.
const MAX_RESPONSE_LEN: usize = 64 << 20;

/// The `Depth` header of a PROPFIND.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::protocols) enum Depth {
    /// The resource itself.
    Zero,
    /// The resource and its direct children.
    One,
}

impl Http {
    /// Sends a PROPFIND for `url`. Returns the URL that answered, after redirects, and the body of the response.
    ///
    /// # Errors
    /// As [`Protocol::probe`](crate::protocols::Protocol::probe); `Unsupported` if the server does not support WebDAV.
    pub(in crate::protocols) async fn propfind(
        &self,
        url: &Url,
        depth: Depth,
        body: &'static str,
    ) -> Result<(Url, Vec<u8>)> {
        let depth = HeaderValue::from_static(if depth == Depth::Zero { "0" } else { "1" });
        let method = Method::from_bytes(b"PROPFIND").expect("eight letters are a method");
        let headers = vec![
            (HeaderName::from_static("depth"), depth),
            (CONTENT_TYPE, HeaderValue::from_static("application/xml")),
        ];
        let other = Some(OtherRequest { method, headers, body, is_long: false });
        let spec = RequestSpec { other, ..RequestSpec::first(url, None) };
        let (at, response) = self.client.send_following_redirects(spec).await?;
        let status = response.status();
        if status.as_u16() != 207 {
            let error = status_error(&at, status, response.headers());
            return Err(if status.is_success() || matches!(status.as_u16(), 405 | 501) {
                let text = format!("{}: WebDAV is not supported here ({status})", display_url(&at));
                Error::new(Kind::Unsupported, text).hint("use https:// to fetch a single file")
            } else {
                error
            });
        }
        let (mut listing, mut body) = (Vec::new(), response.into_body());
        while let Some(bytes) = body.next().await {
            let bytes = bytes.map_err(|failure| response_error(&at, &failure))?;
            if listing.len() + bytes.len() > MAX_RESPONSE_LEN {
                let text = format!("{}: the listing is longer than 64 MiB", display_url(&at));
                return Err(
                    Error::new(Kind::Unsupported, text).hint("fetch its subfolders one by one")
                );
            }
            listing.extend_from_slice(&bytes);
        }
        Ok((at, listing))
    }
}
