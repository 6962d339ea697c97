//! Parses an FTP URL into a server address with a login, and a path.

use std::fmt;

use url::Url;

use crate::{
    error::{Error, Kind, Result},
    protocols::{
        FetchOptions,
        url_paths::{dial_host, path_bytes},
    },
};

/// How the connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Security {
    /// `ftp://`: no encryption.
    Plain,
    /// `ftpes://`: TLS after `AUTH TLS`. If the server refuses it, no login is sent.
    Explicit,
    /// `ftps://`: TLS from the first byte.
    Implicit,
}

impl Security {
    fn from_scheme(scheme: &str) -> Self {
        match scheme {
            "ftps" => Self::Implicit,
            "ftpes" => Self::Explicit,
            _ => Self::Plain,
        }
    }

    fn default_port(self) -> u16 {
        if self == Self::Implicit { 990 } else { 21 }
    }
}

const ANONYMOUS: &str = "anonymous";

/// A server and a login. Connections with equal addresses are interchangeable.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct FtpAddress {
    pub(super) security: Security,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    /// `None` for a user without a password.
    pub(super) password: Option<String>,
}

impl FtpAddress {
    /// The server and the login for `url`.
    ///
    /// # Errors
    /// `InvalidInput` for a URL without a host, or for control characters in the login; the error of reading a
    /// password.
    pub(super) fn from_url(url: &Url, options: &FetchOptions) -> Result<Self> {
        let security = Security::from_scheme(url.scheme());
        let host = dial_host(url).ok_or_else(|| {
            Error::new(Kind::InvalidInput, "an FTP URL has no host").hint("use ftp://host/path")
        })?;
        let port = url.port().unwrap_or_else(|| security.default_port());
        let (user, mut password) = match options.login_for(url) {
            Some(login) => (login.user, login.password.map(|secret| secret.reveal()).transpose()?),
            None => (ANONYMOUS.to_owned(), None),
        };
        if user.eq_ignore_ascii_case(ANONYMOUS) || user.eq_ignore_ascii_case("ftp") {
            // Anonymous servers want an e-mail address and accept any text.
            password.get_or_insert_with(|| "bae@".to_owned());
        }
        let address = Self { security, host, port, user, password };
        address.reject_control_chars(&address.user)?;
        address
            .password
            .as_deref()
            .map_or(Ok(()), |password| address.reject_control_chars(password))?;
        Ok(address)
    }

    /// Refuses control characters in a user or password: a line break would start a second command.
    ///
    /// # Errors
    /// `InvalidInput`.
    pub(super) fn reject_control_chars(&self, text: &str) -> Result<()> {
        if !text.chars().any(char::is_control) {
            return Ok(());
        }
        let host = &self.host;
        let text = format!("the user or the password for {host} contains a control character");
        Err(Error::new(Kind::InvalidInput, text))
    }
}

impl fmt::Display for FtpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        if host.contains(':') {
            write!(f, "FTP server [{host}]:{port}")
        } else {
            write!(f, "FTP server {host}:{port}")
        }
    }
}

impl fmt::Debug for FtpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} as {:?}", self.user)
    }
}

/// The path as FTP commands contain it: relative to the login folder, or absolute after a doubled slash
/// (`ftp://h//etc/x`). It is bytes, because names may have any encoding. A transfer type at its end (`;type=i`) is
/// ignored: files are always fetched in binary.
///
/// # Errors
/// `InvalidInput` for a path with a line break or a NUL, which cannot be part of a command.
pub(super) fn command_path(url: &Url) -> Result<Vec<u8>> {
    let path = path_bytes(url);
    if path.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)) {
        let host = url.host_str().unwrap_or_default();
        let text = format!("the path of a URL of {host} contains a line break");
        return Err(Error::new(Kind::InvalidInput, text)
            .because("an FTP server would read it as a second command"));
    }
    let path = path.strip_prefix(b"/").unwrap_or(&path);
    let types = [&b";type=i"[..], b";type=a", b";type=d"];
    let plain = types.iter().find_map(|end| path.strip_suffix(*end));
    Ok(plain.unwrap_or(path).to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> Result<FtpAddress> {
        FtpAddress::from_url(&Url::parse(url).unwrap(), &FetchOptions::default())
    }

    #[test]
    fn schemes_select_encryption_and_port() {
        for (url, security, port) in [
            ("ftp://h/", Security::Plain, 21),
            ("ftpes://h/", Security::Explicit, 21),
            ("ftps://h/", Security::Implicit, 990),
            ("ftps://h:2990/", Security::Implicit, 2990),
        ] {
            let address = address(url).unwrap();
            assert_eq!((address.security, address.port), (security, port), "{url}");
        }
    }

    #[test]
    fn the_default_user_is_anonymous_and_no_password_is_shown() {
        let anonymous = address("ftp://h/").unwrap();
        assert_eq!(
            (anonymous.user.as_str(), anonymous.password.as_deref()),
            ("anonymous", Some("bae@"))
        );
        assert_eq!(address("ftp://ftp@h/").unwrap().password.as_deref(), Some("bae@"));
        let bob = address("ftp://bob:hunter2@h/").unwrap();
        assert_eq!(bob.password.as_deref(), Some("hunter2"));
        assert_eq!(format!("{bob:?} {bob}").matches("hunter2").count(), 0);
        assert_eq!(address("ftp://bob@h/").unwrap().password, None);
    }

    #[test]
    fn a_login_with_a_line_break_is_refused() {
        for url in ["ftp://a%0d%0aDELE%20x:p@h/", "ftp://a:p%0aDELE%20x@h/"] {
            assert_eq!(address(url).unwrap_err().kind(), Kind::InvalidInput, "{url}");
        }
    }

    #[test]
    fn paths_are_relative_to_the_login_folder_unless_the_slash_is_doubled() {
        for (url, wanted) in [
            ("ftp://h/a/b%20c", "a/b c"),
            ("ftp://h//etc/x", "/etc/x"),
            ("ftp://h/%2Fetc/x", "/etc/x"),
            ("ftp://h/x.bin;type=i", "x.bin"),
            ("ftp://h", ""),
        ] {
            let found = command_path(&Url::parse(url).unwrap()).unwrap();
            assert_eq!(String::from_utf8(found).unwrap(), wanted, "{url}");
        }
        assert_eq!(command_path(&Url::parse("ftp://h/na%EFve").unwrap()).unwrap(), b"na\xefve");
    }

    #[test]
    fn a_path_with_a_line_break_is_refused() {
        for url in ["ftp://h/a%0d%0aDELE%20b", "ftp://h/a%0AX", "ftp://h/a%00"] {
            let error = command_path(&Url::parse(url).unwrap()).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidInput, "{url}");
        }
    }
}
