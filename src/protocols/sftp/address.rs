//! Parses an SFTP URL into a server address with a login, and a path.

use std::{fmt, path::PathBuf};

use url::Url;

use super::user_config::{HostConfig, UserConfig};
use crate::{
    error::{Error, Kind, Result},
    hints::{Setting, hint},
    protocols::{
        FetchOptions,
        url_paths::{dial_host, path_bytes},
    },
};

/// A server and a login. All transfers of one address share its connections.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct SftpAddress {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) password: Option<String>,
    /// Key files that the user's SSH settings name for this host.
    pub(super) identities: Vec<PathBuf>,
    /// Whether the other keys of the agent are left untried.
    pub(super) identities_only: bool,
}

impl SftpAddress {
    /// The server and the login for `url`. The URL and the options have precedence over the user's SSH settings.
    ///
    /// # Errors
    /// `Unsupported` for a host that is reached through another host; `InvalidInput` for a URL without a host, or
    /// without a user if the system does not know one either; the error of reading a password.
    pub(super) fn from_url(url: &Url, options: &FetchOptions, config: &UserConfig) -> Result<Self> {
        let invalid = |text: &str| Error::new(Kind::InvalidInput, text);
        let host = dial_host(url)
            .ok_or_else(|| invalid("an SFTP URL has no host").hint("use sftp://user@host/path"))?;
        let HostConfig { host_name, port, user: config_user, identities, identities_only, jump } =
            config.host_config(&host);
        if let (Some(line), None) = (jump, &options.proxy) {
            // Seen from here, the same address may belong to another machine.
            let text = format!("{host} requires a jump host ({line} in ~/.ssh/config)");
            return Err(Error::new(Kind::Unsupported, text)
                .because("bae does not support jump hosts")
                .hint(hint![
                    "run `ssh -D 1080 -N JUMPHOST` as a proxy, and use ",
                    Setting::Proxy.with("socks5h://127.0.0.1:1080"),
                ]));
        }
        let (user, password) = match options.login_for(url) {
            Some(login) => (login.user, login.password),
            None => {
                let from_env = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
                let user =
                    config_user.or(from_env).filter(|user| !user.is_empty()).ok_or_else(|| {
                        invalid("an SFTP URL has no user").hint("use sftp://user@host/path")
                    })?;
                (user, options.passwords.configured())
            }
        };
        let password = password.map(|secret| secret.reveal()).transpose()?;
        let (host, port) = (host_name.unwrap_or(host), url.port().or(port).unwrap_or(22));
        Ok(Self { host, port, user, password, identities, identities_only })
    }
}

impl fmt::Display for SftpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        if host.contains(':') {
            write!(f, "SSH server [{host}]:{port}")
        } else {
            write!(f, "SSH server {host}:{port}")
        }
    }
}

impl fmt::Debug for SftpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} as {:?}", self.user)
    }
}

/// The path for the server: absolute, or relative to the user's home after `/~/`. It is bytes, because names may have
/// any encoding.
///
/// # Errors
/// `InvalidInput` for a path with a NUL, which no system accepts.
pub(super) fn server_path(url: &Url) -> Result<Vec<u8>> {
    let path = path_bytes(url);
    if path.contains(&0) {
        let host = url.host_str().unwrap_or_default();
        let text = format!("the path of a URL of {host} contains a NUL byte");
        return Err(Error::new(Kind::InvalidInput, text));
    }
    Ok(match path.as_slice() {
        b"" => b"/".to_vec(),
        b"/~" | b"/~/" => b".".to_vec(),
        path => path.strip_prefix(b"/~/").unwrap_or(path).to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{config::Secret, protocols::PasswordSource};

    #[test]
    fn a_url_has_server_user_and_path() {
        let url = Url::parse("sftp://bob:hunter2@Host:2222/srv/a%20b").unwrap();
        let address =
            SftpAddress::from_url(&url, &FetchOptions::default(), &UserConfig::default()).unwrap();
        assert_eq!((address.host.as_str(), address.port), ("host", 2222));
        assert_eq!((address.user.as_str(), address.password.as_deref()), ("bob", Some("hunter2")));
        assert_eq!(format!("{address} {address:?}").matches("hunter2").count(), 0);
        // A password without a user is that of the user in the settings.
        let passwords = PasswordSource::new(Some(Secret::Text("hunter3".into())), None);
        let options = FetchOptions { passwords, ..FetchOptions::default() };
        let config = UserConfig::parse("Host h\n  User eve\n", Path::new("/")).unwrap();
        let address =
            SftpAddress::from_url(&Url::parse("sftp://h/x").unwrap(), &options, &config).unwrap();
        assert_eq!((address.user.as_str(), address.password.as_deref()), ("eve", Some("hunter3")));
        for (url, wanted) in [
            ("sftp://h/srv/a%20b", "/srv/a b"),
            ("sftp://h/~/x", "x"),
            ("sftp://h/~", "."),
            ("sftp://h", "/"),
        ] {
            let found = server_path(&Url::parse(url).unwrap()).unwrap();
            assert_eq!(String::from_utf8(found).unwrap(), wanted, "{url}");
        }
        assert_eq!(server_path(&Url::parse("sftp://h/na%EFve").unwrap()).unwrap(), b"/na\xefve");
        let error = server_path(&Url::parse("sftp://h/a%00").unwrap()).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidInput);
    }
}
