//! Requests for the files that a list names.
//!
//! A list is input from a server and may name any URL. Only `http` and `https` URLs are fetched. If the list itself is
//! from the public network, hosts of this machine and of private networks are refused: the list could make bae read
//! from services that only this machine can reach.

use std::sync::Arc;

use tokio::sync::OnceCell;
use url::Url;

use super::{StreamOptions, tries::ListTries};
use crate::{
    error::{Error, Kind, Result},
    protocols::{
        FetchOptions, display_url, has_private_host, http::Http,
        public_addresses::is_public_address,
    },
};

/// The HTTP client for one list and the files that it names.
#[derive(Debug)]
pub(in crate::protocols) struct ListClient {
    http: Arc<Http>,
    only_public: OnceCell<Http>,
    /// The URL that the user named. Login and headers are for its host.
    pub(in crate::protocols) list_url: Url,
    is_public: bool,
    pub(in crate::protocols) options: StreamOptions,
    pub(in crate::protocols) tries: ListTries,
}

impl ListClient {
    /// A client for the list at `list_url`.
    pub(in crate::protocols) async fn new(
        http: &Arc<Http>,
        list_url: Url,
        options: &FetchOptions,
    ) -> Self {
        let is_public = is_public_host(&list_url).await;
        let options = options.streams.clone();
        Self {
            http: Arc::clone(http),
            only_public: OnceCell::new(),
            list_url,
            is_public,
            tries: ListTries::new(options.max_tries),
            options,
        }
    }

    /// The protocol for `url`.
    ///
    /// # Errors
    /// `PermissionDenied` for a URL that a list may not name.
    pub(in crate::protocols) async fn http_for(&self, url: &Url) -> Result<&Http> {
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            let text = format!("the list names a URL of scheme {:?}", url.scheme());
            return Err(
                Error::new(Kind::PermissionDenied, text).hint("only http and https are fetched")
            );
        }
        if !self.is_public {
            return Ok(&self.http);
        }
        if has_private_host(url) {
            let host = url.host_str().unwrap_or_default();
            let text = format!("the list is public and names the private host {host}");
            return Err(Error::new(Kind::PermissionDenied, text));
        }
        self.only_public.get_or_try_init(|| async { self.http.only_public() }).await
    }

    /// The URL of `uri`, relative to `base`.
    ///
    /// # Errors
    /// `Unsupported` for text that is no URL.
    pub(in crate::protocols) fn resolve(base: &Url, uri: &str) -> Result<Url> {
        base.join(uri).map_err(|e| {
            let text = format!("{}: the list has an invalid URL", display_url(base));
            Error::new(Kind::Unsupported, text).because(e)
        })
    }
}

/// Whether `url` leads to the public network. A name that cannot be resolved here counts as public: a proxy may resolve
/// it.
async fn is_public_host(url: &Url) -> bool {
    if has_private_host(url) {
        return false;
    }
    let Some(url::Host::Domain(name)) = url.host() else { return true };
    let port = url.port_or_known_default().unwrap_or(80);
    match tokio::net::lookup_host((name, port)).await {
        Ok(mut addresses) => addresses.all(|address| is_public_address(address.ip())),
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn client(list: &str) -> ListClient {
        let options = FetchOptions::default();
        let http = Arc::new(Http::new(&Arc::new(options.clone())).unwrap());
        ListClient::new(&http, list.parse().unwrap(), &options).await
    }

    async fn allows(client: &ListClient, url: &str) -> bool {
        client.http_for(&url.parse().unwrap()).await.is_ok()
    }

    #[tokio::test]
    async fn a_public_list_may_not_name_local_files_and_private_hosts() {
        let public = client("https://93.184.216.34/list.m3u8").await;
        for url in ["https://93.184.216.34/a", "http://1.1.1.1/a", "https://cdn.example/a"] {
            assert!(allows(&public, url).await, "{url}");
        }
        for url in [
            "file:///etc/passwd",
            "ftp://1.1.1.1/a",
            "http://127.0.0.1/a",
            "http://localhost/a",
            "http://[::1]:80/a",
            "http://10.0.0.1/a",
            "http://169.254.169.254/latest",
            "http://0x7f000001/a",
        ] {
            assert!(!allows(&public, url).await, "{url}");
        }
        let local = client("http://127.0.0.1:8000/list.m3u8").await;
        assert!(allows(&local, "http://127.0.0.1:9000/a").await);
        assert!(!allows(&local, "file:///etc/passwd").await);
    }
}
