//! Fetch options of the user. They are the same for all schemes; each protocol uses those that apply to it.

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use percent_encoding::percent_decode_str;
use url::Url;

use super::{Protocol, StreamOptions, netrc::Netrc, password_source::PasswordSource};
use crate::config::{IpfsOptions, Proxy, Secret};

/// How to connect to servers. `Default` sets nothing.
#[derive(Debug, Clone, Default)]
pub struct FetchOptions {
    /// For URLs without a user. A login in the URL or in the netrc file has precedence.
    pub login: Option<Login>,
    pub netrc: Netrc,
    /// For logins without a password.
    pub passwords: PasswordSource,
    /// Header lines of HTTP and WebDAV requests. They are not sent to other hosts.
    pub headers: Vec<(String, Secret)>,
    pub user_agent: Option<String>,
    pub referer: Option<String>,
    /// A cookie file in Netscape's format.
    pub cookies: Option<PathBuf>,
    /// `None` uses the proxy settings of the environment.
    pub proxy: Option<Proxy>,
    /// A PEM file of certificates to trust in addition to the system's.
    pub cacert: Option<PathBuf>,
    /// Connect timeout.
    pub connect_timeout: Option<Duration>,
    /// Idle timeout: the maximum time without data from the server.
    pub idle_timeout: Option<Duration>,
    /// FTP active mode: the server opens the data connection.
    pub ftp_active: bool,
    /// SSH private key files. They are tried before the keys of the agent and the default key files.
    pub identities: Vec<PathBuf>,
    pub host_keys: HostKeyPolicy,
    pub outgoing: OutgoingOptions,
    pub ipfs: IpfsOptions,
    pub streams: StreamOptions,
    /// Protocols of the embedding program.
    pub custom: CustomProtocols,
}

/// Protocols of the embedding program, by scheme. They take precedence.
#[derive(Debug, Clone, Default)]
pub struct CustomProtocols(Arc<HashMap<String, Arc<dyn Protocol>>>);

impl CustomProtocols {
    /// The protocol for `scheme`.
    #[must_use]
    pub fn get(&self, scheme: &str) -> Option<&Arc<dyn Protocol>> {
        self.0.get(scheme)
    }
}

impl FromIterator<(String, Arc<dyn Protocol>)> for CustomProtocols {
    fn from_iter<I: IntoIterator<Item = (String, Arc<dyn Protocol>)>>(protocols: I) -> Self {
        Self(Arc::new(protocols.into_iter().collect()))
    }
}

/// How outgoing connections leave this machine.
#[derive(Debug, Clone, Default)]
pub struct OutgoingOptions {
    /// The interface or local address to connect from.
    pub interface: Option<String>,
    /// Refuses every address outside the public network, except the proxy's. For URLs from untrusted sources: their
    /// host names and redirects could lead to services of this machine or its network.
    pub only_public: bool,
}

impl FetchOptions {
    /// The same options without anything that is meant for the servers that the user named: logins, headers, cookies.
    #[must_use]
    pub(super) fn anonymous(&self) -> Self {
        Self {
            login: None,
            netrc: Netrc::default(),
            passwords: PasswordSource::default(),
            headers: Vec::new(),
            referer: None,
            cookies: None,
            ..self.clone()
        }
    }

    /// The login for `url`: from the URL itself, else from the netrc entry of its host, else `login`. If the URL has a
    /// user without a password, the password is taken from the netrc entry or the `login` of the same user, else from
    /// [`PasswordSource::configured`]. If all of these have none, the user is prompted when the server requires a
    /// password.
    #[must_use]
    pub fn login_for(&self, url: &Url) -> Option<Login> {
        let mut login = match url.username() {
            "" => self.netrc_login_for(url).or_else(|| self.login.clone())?,
            user => {
                let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
                let user = decode(user);
                let password = match url.password() {
                    Some(password) => Some(Secret::Text(decode(password))),
                    None => {
                        let known =
                            url.host_str().and_then(|host| self.netrc.login_for(host, Some(&user)));
                        let known =
                            known.or(self.login.as_ref().filter(|login| login.user == user));
                        known.and_then(|login| login.password.clone())
                    }
                };
                Login { user, password }
            }
        };
        login.password = login.password.or_else(|| self.passwords.configured());
        Some(login)
    }

    /// The first netrc entry for the host of `url`.
    #[must_use]
    pub fn netrc_login_for(&self, url: &Url) -> Option<Login> {
        self.netrc.login_for(url.host_str()?, None).cloned()
    }
}

/// A user name and password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    pub password: Option<Secret>,
}

/// Which SSH host keys are accepted.
#[derive(Debug, Clone, Default)]
pub struct HostKeyPolicy {
    /// Replaces `~/.ssh/known_hosts`.
    pub known_hosts: Option<PathBuf>,
    /// A fingerprint (`SHA256:…`) that is accepted although the host is unknown.
    pub accepted_fingerprint: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(user: &str, password: &str) -> Login {
        Login { user: user.into(), password: Some(Secret::Text(password.into())) }
    }

    fn secret(text: &str) -> Option<Secret> {
        Some(Secret::Text(text.into()))
    }

    #[test]
    fn a_login_in_the_url_precedes_netrc_which_precedes_the_option() {
        let options = FetchOptions {
            login: Some(login("flag", "f")),
            netrc: Netrc::parse(
                "machine known.example login net password n\n\
                 machine known.example login bob password b\n",
            ),
            ..FetchOptions::default()
        };
        let of = |url: &str| options.login_for(&url.parse().unwrap()).unwrap();
        assert_eq!(of("http://a%40b:p%3Aw@known.example/"), login("a@b", "p:w"));
        assert_eq!(of("http://known.example/"), login("net", "n"));
        assert_eq!(of("http://net@known.example/"), login("net", "n"));
        assert_eq!(of("http://bob@known.example/"), login("bob", "b"));
        assert_eq!(of("http://flag@known.example/"), login("flag", "f"));
        assert_eq!(of("http://flag@other.example/"), login("flag", "f"));
        assert_eq!(of("http://other.example/"), login("flag", "f"));
        let alone = of("http://x@other.example/");
        assert_eq!((alone.user.as_str(), alone.password), ("x", None));
    }

    #[test]
    fn a_user_without_a_password_gets_the_configured_one() {
        let passwords = PasswordSource::new(secret("given"), None);
        let netrc = Netrc::parse("machine h login bob\n");
        let options = FetchOptions { netrc, passwords, ..FetchOptions::default() };
        let of = |url: &str| options.login_for(&url.parse().unwrap());
        assert_eq!(of("ftp://me@other/").unwrap(), login("me", "given"));
        assert_eq!(of("sftp://h/").unwrap(), login("bob", "given"));
        assert_eq!(of("http://me:own@other/").unwrap(), login("me", "own"));
        assert_eq!(of("http://other/"), None);
    }

    #[test]
    fn debug_output_of_options_shows_no_secret() {
        let options = FetchOptions {
            login: Some(login("u", "hunter2")),
            netrc: Netrc::parse("machine h login u password hunter2"),
            passwords: PasswordSource::new(secret("hunter2"), None),
            headers: vec![("Cookie".into(), Secret::Text("hunter2".into()))],
            proxy: Some("http://u:hunter2@h:1".parse().unwrap()),
            ..FetchOptions::default()
        };
        assert!(!format!("{options:?}").contains("hunter2"));
    }
}
