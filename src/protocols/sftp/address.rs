//! Where an SFTP URL points.

use std::{fmt, path::PathBuf};

use url::Url;

use super::user_config::{HostConfig, UserConfig};
use crate::{
    error::{Error, Kind, Result},
    protocols::{
        FetchOptions,
        paths::{decoded_path, host},
    },
};

/// A server and who we are there: all ranges of all files of one address come by one connection.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) password: Option<String>,
    /// Key files that the user's settings name for it.
    pub(super) identities: Vec<PathBuf>,
}

impl Address {
    /// What the URL and the options say wins over the user's settings.
    ///
    /// # Errors
    /// `InvalidInput` for a URL without a host, or without a user where the system does not know one either; what is
    /// wrong with a password.
    pub(super) fn of(url: &Url, options: &FetchOptions, config: &UserConfig) -> Result<Self> {
        let bad = |what: &str| Error::new(Kind::InvalidInput, what);
        let host = host(url)
            .ok_or_else(|| bad("an SFTP URL names no server").hint("sftp://user@host/path"))?;
        let HostConfig { host_name, port, user: usual, identities } = config.of(&host);
        let (user, password) = match options.login_of(url) {
            Some(login) => (login.user, login.password),
            None => {
                let from_env = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
                let user = usual.or(from_env).filter(|user| !user.is_empty()).ok_or_else(|| {
                    bad("who to be at an SFTP server is not given").hint("sftp://user@host/path")
                })?;
                (user, None)
            }
        };
        let password = password.map(|secret| secret.reveal()).transpose()?;
        let (host, port) = (host_name.unwrap_or(host), url.port().or(port).unwrap_or(22));
        Ok(Self { host, port, user, password, identities })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        if host.contains(':') {
            write!(f, "SSH server [{host}]:{port}")
        } else {
            write!(f, "SSH server {host}:{port}")
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} as {:?}", self.user)
    }
}

/// The path that the server is asked for: absolute, or relative to the user's home after `/~/`.
///
/// # Errors
/// `InvalidInput` for control characters and for what is no UTF-8.
pub(super) fn path(url: &Url) -> Result<String> {
    let path = decoded_path(url)?;
    Ok(match path.as_str() {
        "" => "/".to_owned(),
        "/~" | "/~/" => ".".to_owned(),
        path => path.strip_prefix("/~/").unwrap_or(path).to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_server_user_and_path() {
        let url = Url::parse("sftp://bob:hunter2@Host:2222/srv/a%20b").unwrap();
        let address = Address::of(&url, &FetchOptions::default(), &UserConfig::default()).unwrap();
        assert_eq!((address.host.as_str(), address.port), ("host", 2222));
        assert_eq!((address.user.as_str(), address.password.as_deref()), ("bob", Some("hunter2")));
        assert_eq!(format!("{address} {address:?}").matches("hunter2").count(), 0);
        for (url, wanted) in [
            ("sftp://h/srv/a%20b", "/srv/a b"),
            ("sftp://h/~/x", "x"),
            ("sftp://h/~", "."),
            ("sftp://h", "/"),
        ] {
            assert_eq!(path(&Url::parse(url).unwrap()).unwrap(), wanted, "{url}");
        }
    }
}
