//! Which protocol speaks for a URL.

use std::sync::Arc;

use url::Url;

use super::{FetchOptions, Protocol};
use crate::error::{Error, Kind, Result};

type Make = fn(&FetchOptions) -> Result<Arc<dyn Protocol>>;

/// Every scheme and what speaks it. A new protocol is its file and its line here.
const SCHEMES: &[(&[&str], Make)] = &[];

/// The protocols, each made when it is first asked for.
#[derive(Debug, Clone)]
pub struct Protocols {
    options: Arc<FetchOptions>,
}

impl Protocols {
    #[must_use]
    pub fn new(options: FetchOptions) -> Self {
        Self { options: Arc::new(options) }
    }

    /// All schemes there are.
    pub fn schemes() -> impl Iterator<Item = &'static str> {
        SCHEMES.iter().flat_map(|(schemes, _)| schemes.iter().copied())
    }

    /// What speaks for `url`, or, with `scheme`, for that scheme whatever the URL's own is.
    ///
    /// # Errors
    /// `Unsupported` for a scheme that is not known; what is wrong with the options.
    pub fn of(&self, url: &Url, scheme: Option<&str>) -> Result<Arc<dyn Protocol>> {
        let scheme = scheme.unwrap_or(url.scheme());
        match SCHEMES.iter().find(|(schemes, _)| schemes.contains(&scheme)) {
            Some((_, make)) => make(&self.options),
            None => {
                let known: Vec<_> = Self::schemes().collect();
                Err(Error::new(Kind::Unsupported, format!("scheme {scheme:?} is not known"))
                    .hint(format!("there are: {}", known.join(", "))))
            }
        }
    }
}
