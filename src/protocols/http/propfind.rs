//! The PROPFIND request of WebDAV. Redirects, logins and headers work as for every other HTTP request.

use futures_util::StreamExt as _;
use hyper::{Method, header::HeaderValue};
use url::Url;

use super::{
    Http,
    client::{Ask, Question},
    errors::{broken, refused},
};
use crate::{
    error::{Error, Kind, Result},
    protocols::place,
};

/// Maximum length of a response in bytes, enough for about 100,000 files in one folder.
const LONGEST: usize = 64 << 20;

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
        let question = Some(Question { method, depth, body });
        let ask = Ask { asked: url, url, range: None, validator: None, question };
        let (at, response) = self.wire.get(ask).await?;
        let status = response.status();
        if status.as_u16() != 207 {
            let error = refused(&at, status, response.headers());
            return Err(if status.is_success() || matches!(status.as_u16(), 405 | 501) {
                let text = format!("{}: WebDAV is not spoken here ({status})", place(&at));
                Error::new(Kind::Unsupported, text).hint("a file alone is fetched by https://")
            } else {
                error
            });
        }
        let (mut answer, mut body) = (Vec::new(), response.into_body());
        while let Some(bytes) = body.next().await {
            let bytes = bytes.map_err(|lost| broken(&at, &lost))?;
            if answer.len() + bytes.len() > LONGEST {
                let text = format!("{}: its listing is longer than 64 MiB", place(&at));
                return Err(
                    Error::new(Kind::Unsupported, text).hint("fetch the folders in it one by one")
                );
            }
            answer.extend_from_slice(&bytes);
        }
        Ok((at, answer))
    }
}
