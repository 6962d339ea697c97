//! What the user said about how to fetch; the same for all schemes, each takes what concerns it.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use crate::config::Secret;

/// How to reach servers. `Default` asks for nothing special.
#[derive(Debug, Clone, Default)]
pub struct FetchOptions {
    /// For URLs that name no user. What a URL or a netrc file says of its host wins.
    pub login: Option<Login>,
    /// By host name, from a netrc file.
    pub netrc: HashMap<String, Login>,
    /// Header lines of HTTP and WebDAV requests, not carried to other hosts.
    pub headers: Vec<(String, Secret)>,
    pub user_agent: Option<String>,
    pub referer: Option<String>,
    /// A cookie file in Netscape's format.
    pub cookies: Option<PathBuf>,
    /// An `http`, `https` or `socks5` URL; `None` is what the environment says.
    pub proxy: Option<String>,
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
}

/// A user and their password.
#[derive(Debug, Clone)]
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
