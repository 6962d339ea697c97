//! What the user said about how to fetch; the same for all schemes, each takes what concerns it.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use percent_encoding::percent_decode_str;
use url::Url;

use crate::config::{Proxy, Secret};

/// How to reach servers. `Default` asks for nothing special.
#[derive(Debug, Clone, Default)]
pub struct FetchOptions {
    /// For URLs that name no user. What a URL or a netrc file says of its host wins.
    pub login: Option<Login>,
    /// By host name, from a netrc file; [`DEFAULT_HOST`] stands for all others.
    pub netrc: HashMap<String, Login>,
    /// Header lines of HTTP and WebDAV requests, not carried to other hosts.
    pub headers: Vec<(String, Secret)>,
    pub user_agent: Option<String>,
    pub referer: Option<String>,
    /// A cookie file in Netscape's format.
    pub cookies: Option<PathBuf>,
    /// `None` is what the environment says.
    pub proxy: Option<Proxy>,
    /// Certificates (PEM) to trust beside the system's.
    pub cacert: Option<PathBuf>,
    /// How long a connection may take, and how long a server may be silent.
    pub connect_timeout: Option<Duration>,
    pub silence: Option<Duration>,
    /// FTP: the server connects to us.
    pub ftp_active: bool,
    /// SSH: private key files tried before the agent's and the usual ones.
    pub identities: Vec<PathBuf>,
    pub host_keys: HostKeys,
    pub outgoing: Outgoing,
}

/// How connections leave this machine.
#[derive(Debug, Clone, Default)]
pub struct Outgoing {
    /// The interface, or the local address, that connections are made from.
    pub interface: Option<String>,
    /// Refuses every address that is not of the public network, unless it is the proxy's: for URLs of strangers, whose
    /// names and redirects could lead to services of this machine or its network.
    pub only_public: bool,
}

impl FetchOptions {
    /// Who to be at `url`: what the URL itself says, else what the netrc file says of its host, else `login`. A URL
    /// that names a user only is completed by whichever of these has a password for them.
    #[must_use]
    pub fn login_of(&self, url: &Url) -> Option<Login> {
        let known = || self.netrc_of(url).or_else(|| self.login.clone());
        if url.username().is_empty() {
            return known();
        }
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let user = decode(url.username());
        let password = match url.password() {
            Some(password) => Some(Secret::Text(decode(password))),
            None => known().filter(|login| login.user == user).and_then(|login| login.password),
        };
        Some(Login { user, password })
    }

    /// What the netrc file says of the host of `url`.
    #[must_use]
    pub fn netrc_of(&self, url: &Url) -> Option<Login> {
        let host = url.host_str()?;
        self.netrc.get(host).or_else(|| self.netrc.get(DEFAULT_HOST)).cloned()
    }
}

/// Stands in a netrc file for every host that has no entry of its own.
pub const DEFAULT_HOST: &str = "";

/// A user and their password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    pub password: Option<Secret>,
}

/// Which SSH servers are believed.
#[derive(Debug, Clone, Default)]
pub struct HostKeys {
    /// Instead of `~/.ssh/known_hosts`.
    pub known_hosts: Option<PathBuf>,
    /// A fingerprint (`SHA256:…`) that is accepted although the host is not known.
    pub accept: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(user: &str, password: &str) -> Login {
        Login { user: user.into(), password: Some(Secret::Text(password.into())) }
    }

    #[test]
    fn a_url_is_stronger_than_the_netrc_file_and_that_than_the_flag() {
        let options = FetchOptions {
            login: Some(login("flag", "f")),
            netrc: HashMap::from([("known.example".into(), login("net", "n"))]),
            ..FetchOptions::default()
        };
        let of = |url: &str| options.login_of(&url.parse().unwrap()).unwrap();
        assert_eq!(of("http://a%40b:p%3Aw@known.example/"), login("a@b", "p:w"));
        assert_eq!(of("http://known.example/"), login("net", "n"));
        assert_eq!(of("http://net@known.example/"), login("net", "n"));
        assert_eq!(of("http://flag@other.example/"), login("flag", "f"));
        assert_eq!(of("http://other.example/"), login("flag", "f"));
        let alone = of("http://x@other.example/");
        assert_eq!((alone.user.as_str(), alone.password), ("x", None));
    }

    #[test]
    fn debug_of_the_options_shows_no_secret() {
        let options = FetchOptions {
            login: Some(login("u", "hunter2")),
            netrc: HashMap::from([("h".into(), login("u", "hunter2"))]),
            headers: vec![("Cookie".into(), Secret::Text("hunter2".into()))],
            proxy: Some("http://u:hunter2@h:1".parse().unwrap()),
            ..FetchOptions::default()
        };
        assert!(!format!("{options:?}").contains("hunter2"));
    }
}
