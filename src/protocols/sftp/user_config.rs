//! What `~/.ssh/config` says of a host, as far as it says where it is and who we are there.

use std::path::{Path, PathBuf};

use ssh2_config::{HostParams, ParseRule, SshConfig};

use crate::error::{Error, Kind, Result};

/// The lines that are read; all others are passed over.
const READ: [&str; 5] = ["host", "hostname", "port", "user", "identityfile"];

/// The file, or nothing where there is none.
#[derive(Debug, Default)]
pub(super) struct UserConfig(SshConfig);

/// What it says of one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct HostConfig {
    pub(super) host_name: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) user: Option<String>,
    pub(super) identities: Vec<PathBuf>,
}

impl UserConfig {
    /// Of whoever runs this.
    ///
    /// # Errors
    /// `InvalidInput` for a file that cannot be read or understood.
    pub(super) fn read() -> Result<Self> {
        let Some(home) = std::env::home_dir() else { return Ok(Self::default()) };
        let file = home.join(".ssh/config");
        match std::fs::read_to_string(&file) {
            Ok(text) => Self::parse(&text, &home).map_err(|e| e.within(file.display())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(Error::io(format!("cannot read {}", file.display()), e)),
        }
    }

    fn parse(text: &str, home: &Path) -> Result<Self> {
        let read = what_is_read(text);
        let config = SshConfig::default().home_dir(home);
        let parsed = config.parse(&mut read.as_bytes(), ParseRule::STRICT);
        let bad = |e| Error::new(Kind::InvalidInput, "settings of ssh").because(e);
        parsed.map(Self).map_err(bad)
    }

    /// `host` is what the URL says.
    pub(super) fn of(&self, host: &str) -> HostConfig {
        let HostParams { host_name, port, user, identity_file, .. } = self.0.query(host);
        HostConfig {
            host_name: host_name.map(|name| name.replace("%h", host)),
            port,
            user,
            identities: identity_file.unwrap_or_default(),
        }
    }
}

/// Leaves out what follows a `Match`, whose conditions are not known here, and which would else be said of the host
/// before it.
fn what_is_read(text: &str) -> String {
    let mut matching = false;
    let mut read = String::new();
    for line in text.lines() {
        let name = line.trim_start().split(|c: char| c.is_whitespace() || c == '=').next();
        let name = name.unwrap_or_default().to_ascii_lowercase();
        match name.as_str() {
            "match" => matching = true,
            "host" => matching = false,
            _ => {}
        }
        if !matching && READ.contains(&name.as_str()) {
            read.push_str(line);
            read.push('\n');
        }
    }
    read
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
User everywhere
Host nas
  HostName nas.example.org
  Port=2222
  User bob
  IdentityFile ~/.ssh/nas
  ProxyCommand nc %h %p
  Ciphers whatever
Match host nas
  User nobody
Host *.lan !old.lan
  HostName %h.example.org
Include others
";

    #[test]
    fn a_host_has_what_the_file_says_of_it_and_nothing_of_matches() {
        let config = UserConfig::parse(TEXT, Path::new("/home/u")).unwrap();
        let nas = config.of("nas");
        assert_eq!(nas.host_name.as_deref(), Some("nas.example.org"));
        assert_eq!((nas.port, nas.user.as_deref()), (Some(2222), Some("everywhere")));
        assert_eq!(nas.identities, [Path::new("/home/u/.ssh/nas")]);
        assert_eq!(config.of("a.lan").host_name.as_deref(), Some("a.lan.example.org"));
        assert_eq!(config.of("old.lan").host_name, None);
        let other = HostConfig { user: Some("everywhere".into()), ..HostConfig::default() };
        assert_eq!(config.of("other"), other);
        assert_eq!(UserConfig::default().of("other"), HostConfig::default());
        assert!(UserConfig::parse("Host a\n Port x\n", Path::new("/")).is_err());
    }
}
