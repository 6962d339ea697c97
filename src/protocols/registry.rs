//! Selects the protocol for a URL.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use url::Url;

#[cfg(feature = "ftp")]
use super::ftp;
#[cfg(feature = "sftp")]
use super::sftp;
use super::{FetchOptions, Http, Protocol, dash, hls, ipfs, s3, web, webdav};
use crate::error::{Error, Kind, Result};

type Constructor = fn(&Arc<FetchOptions>) -> Result<Arc<dyn Protocol>>;

/// Every scheme with the constructor of its protocol. A new protocol needs its file and one line here.
const SCHEMES: &[(&[&str], Constructor)] = &[
    (WEB_SCHEMES, Http::make),
    #[cfg(feature = "ftp")]
    (ftp::SCHEMES, ftp::make),
    #[cfg(feature = "sftp")]
    (sftp::SCHEMES, sftp::make),
    (webdav::SCHEMES, webdav::make),
    (s3::SCHEMES, s3::make),
    (ipfs::SCHEMES, ipfs::make),
    (hls::SCHEMES, hls::make),
    (dash::SCHEMES, dash::make),
    (web::SCHEMES, web::make),
];
/// The schemes of web servers. Their URLs may be those of streams, unless the protocol is given.
const WEB_SCHEMES: &[&str] = &["http", "https"];

/// The protocols. Each is created on first use and then shared, so that its connections are shared. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Protocols {
    options: Arc<FetchOptions>,
    /// By index in [`SCHEMES`].
    instances: Arc<Mutex<HashMap<usize, Arc<dyn Protocol>>>>,
}

impl Protocols {
    #[must_use]
    pub fn new(options: FetchOptions) -> Self {
        Self { options: Arc::new(options), instances: Arc::default() }
    }

    /// All known schemes.
    pub fn schemes() -> impl Iterator<Item = &'static str> {
        SCHEMES.iter().flat_map(|(schemes, _)| schemes.iter().copied())
    }

    /// The protocol for the scheme of `url`, or for `scheme` if that is given.
    ///
    /// # Errors
    /// `Unsupported` for an unknown scheme; the errors of the constructor, for invalid options.
    pub fn for_url(&self, url: &Url, scheme: Option<&str>) -> Result<Arc<dyn Protocol>> {
        // A protocol of the embedding program for a web scheme also replaces the recognition of streams.
        let custom = self.options.custom.get(scheme.unwrap_or(url.scheme()));
        if let Some(protocol) = custom {
            return Ok(Arc::clone(protocol));
        }
        let scheme = match scheme {
            Some(scheme) => scheme,
            None if WEB_SCHEMES.contains(&url.scheme()) => web::SCHEMES[0],
            None => url.scheme(),
        };
        let Some(index) = SCHEMES.iter().position(|(schemes, _)| schemes.contains(&scheme)) else {
            let known: Vec<_> = Self::schemes().collect();
            return Err(Error::new(Kind::Unsupported, format!("unknown scheme {scheme:?}"))
                .hint(format!("known schemes: {}", known.join(", "))));
        };
        let mut instances = self.instances.lock();
        if let Some(protocol) = instances.get(&index) {
            return Ok(Arc::clone(protocol));
        }
        let protocol = SCHEMES[index].1(&self.options)?;
        instances.insert(index, Arc::clone(&protocol));
        Ok(protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protocols() -> Protocols {
        Protocols::new(FetchOptions::default())
    }

    #[test]
    fn a_protocol_is_created_once_for_all_its_schemes() {
        let protocols = protocols();
        let of = |url: &str| protocols.for_url(&url.parse().unwrap(), None).unwrap();
        assert!(Arc::ptr_eq(&of("http://a/"), &of("https://b/")));
    }

    #[test]
    fn an_unknown_scheme_is_refused_with_the_known_schemes() {
        let url = "gopher://x/".parse().unwrap();
        let e = protocols().for_url(&url, None).unwrap_err();
        assert_eq!(
            (e.kind(), e.to_string().as_str()),
            (Kind::Unsupported, "unknown scheme \"gopher\"")
        );
        assert!(e.hint_text().unwrap().contains("https"));
        assert!(protocols().for_url(&url, Some("http")).is_ok());
    }
}
