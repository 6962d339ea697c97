//! Settings of the daemon's network interface.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use serde::Deserialize;

use super::{Env, network::OneOrMore};
use crate::error::{Error, Kind, Result};

/// Default address of the daemon.
pub const DEFAULT_LISTEN: ([u8; 4], u16) = ([127, 0, 0, 1], 7373);

/// `[api]`, resolved.
#[derive(Debug, Clone)]
pub struct ApiOptions {
    /// Addresses to listen on. Empty: only the unix socket.
    pub listen: Vec<SocketAddr>,
    /// Prefix of all paths, behind a reverse proxy: empty, or `/bae` without a slash at the end.
    pub base_path: String,
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    /// Host names of this daemon, besides `localhost` and addresses.
    pub hosts: Vec<String>,
    /// Other origins whose pages may use the API.
    pub origins: Vec<String>,
    /// Proxies whose `X-Forwarded-For`, `X-Forwarded-Host` and `X-Forwarded-Proto` are believed.
    pub trusted_proxies: Vec<IpAddr>,
    /// Folder that contains all export folders.
    pub export_root: Option<PathBuf>,
    /// Whether URLs from the API may lead to hosts outside the public network.
    pub private_hosts: bool,
    /// A folder with an unpacked web interface, served instead of the built-in page.
    pub web_ui: Option<PathBuf>,
    pub dialects: Dialects,
}

/// Which drop-in APIs are on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of its own in the config")]
pub struct Dialects {
    pub qbittorrent: bool,
    pub aria2: bool,
    pub transmission: bool,
    pub subsonic: bool,
    pub webdav: bool,
    pub s3: bool,
}

impl Default for ApiOptions {
    fn default() -> Self {
        Self {
            listen: vec![DEFAULT_LISTEN.into()],
            base_path: String::new(),
            tls_cert: None,
            tls_key: None,
            hosts: Vec::new(),
            origins: Vec::new(),
            trusted_proxies: Vec::new(),
            export_root: None,
            private_hosts: false,
            web_ui: None,
            dialects: Dialects::default(),
        }
    }
}

/// `[api]` in the config file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ApiSection {
    listen: Option<OneOrMore>,
    base_path: Option<String>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    hosts: Option<OneOrMore>,
    origins: Option<OneOrMore>,
    trusted_proxies: Option<OneOrMore>,
    export_root: Option<PathBuf>,
    private_hosts: bool,
    web_ui: Option<PathBuf>,
    qbittorrent: bool,
    aria2: bool,
    transmission: bool,
    subsonic: bool,
    webdav: bool,
    s3: bool,
}

impl ApiSection {
    pub(super) fn resolve(self, env: &Env) -> Result<ApiOptions> {
        let absolute = |path: Option<PathBuf>| path.map(|path| env.absolute(&path)).transpose();
        let listen = self.listen.map(OneOrMore::into_vec);
        let listen = listen.unwrap_or_else(|| vec![SocketAddr::from(DEFAULT_LISTEN).to_string()]);
        let listen = listen.iter().filter(|text| !text.is_empty() && *text != "none");
        let (tls_cert, tls_key) = (absolute(self.tls_cert)?, absolute(self.tls_key)?);
        if tls_cert.is_some() != tls_key.is_some() {
            let text = "api.tls_cert and api.tls_key belong together";
            return Err(Error::new(Kind::InvalidInput, text));
        }
        let proxies = self.trusted_proxies.map(OneOrMore::into_vec).unwrap_or_default();
        Ok(ApiOptions {
            listen: listen.map(|text| parse_listen(text)).collect::<Result<_>>()?,
            base_path: self.base_path.as_deref().map_or(Ok(String::new()), parse_base_path)?,
            tls_cert,
            tls_key,
            hosts: self.hosts.map(OneOrMore::into_vec).unwrap_or_default(),
            origins: self.origins.map(OneOrMore::into_vec).unwrap_or_default(),
            trusted_proxies: proxies.iter().map(|text| parse_ip(text)).collect::<Result<_>>()?,
            export_root: absolute(self.export_root)?,
            private_hosts: self.private_hosts,
            web_ui: absolute(self.web_ui)?,
            dialects: Dialects {
                qbittorrent: self.qbittorrent,
                aria2: self.aria2,
                transmission: self.transmission,
                subsonic: self.subsonic,
                webdav: self.webdav,
                s3: self.s3,
            },
        })
    }
}

/// Parses an address of the daemon. A port alone is one on loopback.
///
/// # Errors
/// `InvalidInput` when it is not an address with a port.
pub fn parse_listen(text: &str) -> Result<SocketAddr> {
    if let Ok(port) = text.parse::<u16>() {
        return Ok((DEFAULT_LISTEN.0, port).into());
    }
    text.parse().map_err(|_| {
        Error::new(Kind::InvalidInput, format!("{text:?} is not an address with a port"))
            .hint("write it like 127.0.0.1:7373 or [::1]:7373")
    })
}

fn parse_ip(text: &str) -> Result<IpAddr> {
    let bad = |_| Error::new(Kind::InvalidInput, format!("{text:?} is not an IP address"));
    text.parse().map_err(bad)
}

fn parse_base_path(text: &str) -> Result<String> {
    let trimmed = text.trim().trim_end_matches('/');
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./~".contains(c);
    let is_good = trimmed.is_empty()
        || trimmed.starts_with('/')
            && trimmed.chars().all(is_plain)
            && trimmed[1..].split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    if is_good {
        return Ok(trimmed.to_owned());
    }
    Err(Error::new(Kind::InvalidInput, format!("{text:?} is not a path"))
        .hint("write it like /bae"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(toml: &str) -> Result<ApiOptions> {
        let section: ApiSection = toml::from_str(toml).unwrap();
        section.resolve(&Env::default())
    }

    #[test]
    fn the_daemon_listens_on_loopback_unless_configured_otherwise() {
        let default = resolve("").unwrap();
        assert!(default.listen.iter().all(|address| address.ip().is_loopback()));
        assert_eq!(default.listen[0].port(), 7373);
        assert_eq!(resolve("listen = '9000'").unwrap().listen, [([127, 0, 0, 1], 9000).into()]);
        assert!(resolve("listen = 'none'").unwrap().listen.is_empty());
        let both = resolve("listen = ['0.0.0.0:1', '[::1]:2']").unwrap();
        assert_eq!(both.listen.len(), 2);
        assert!(resolve("listen = 'everywhere'").is_err());
    }

    #[test]
    fn a_base_path_has_a_slash_at_its_start_only() {
        assert_eq!(resolve("base_path = '/a/b/'").unwrap().base_path, "/a/b");
        assert_eq!(resolve("base_path = '/'").unwrap().base_path, "");
        for bad in ["a", "/a//b", "/../a", "/a b", "/a?b"] {
            assert!(resolve(&format!("base_path = '{bad}'")).is_err(), "{bad}");
        }
        assert!(resolve("tls_cert = '/c.pem'").is_err());
    }
}
