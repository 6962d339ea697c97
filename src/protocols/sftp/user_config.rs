//! Reads `~/.ssh/config`: where a host is, how it is reached, and which login it needs.
//!
//! An `Include` is followed before the first `Host` and below `Host *`, where users usually have it. Lines below a
//! `Match` are ignored, because its conditions may be anything. If such a line may route a host through another one, a
//! warning is logged.

use std::path::{Path, PathBuf};

use ssh2_config::{HostParams, ParseRule, SshConfig};

use super::known_hosts::matches;
use crate::error::{Error, Kind, Result};

/// The keywords that are read; all others are ignored.
const READ: [&str; 8] = [
    "host",
    "hostname",
    "port",
    "user",
    "identityfile",
    "identitiesonly",
    "proxyjump",
    "proxycommand",
];
/// Maximum depth of nested includes, as in `ssh`.
const MAX_INCLUDES: usize = 16;

/// The settings; empty if there is no file.
#[derive(Debug, Default)]
pub(super) struct UserConfig(SshConfig);

/// The settings of one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct HostConfig {
    pub(super) host_name: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) user: Option<String>,
    pub(super) identities: Vec<PathBuf>,
    /// Whether the other keys of the agent are left untried.
    pub(super) identities_only: bool,
    /// The setting that routes the host through another host or a program.
    pub(super) detour: Option<String>,
}

impl UserConfig {
    /// Reads the file of the current user.
    ///
    /// # Errors
    /// The I/O error of a file that cannot be read; `InvalidInput` for a file that cannot be parsed.
    pub(super) fn read() -> Result<Self> {
        let Some(home) = std::env::home_dir() else { return Ok(Self::default()) };
        let file = home.join(".ssh/config");
        let Some(text) = text_of(&file)? else { return Ok(Self::default()) };
        Self::parse(&text, &home).map_err(|e| e.within(file.display()))
    }

    pub(super) fn parse(text: &str, home: &Path) -> Result<Self> {
        let mut lines = Lines { home, read: String::new(), unread_detours: Vec::new() };
        lines.take(text, 0)?;
        for line in &lines.unread_detours {
            tracing::warn!("~/.ssh/config: what follows Match is not read, such as {line:?}");
        }
        let config = SshConfig::default().home_dir(home);
        let rules = ParseRule::ALLOW_UNSUPPORTED_FIELDS;
        let parsed = config.parse(&mut lines.read.as_bytes(), rules);
        let bad = |e| Error::new(Kind::InvalidInput, "settings of ssh").because(e);
        parsed.map(Self).map_err(bad)
    }

    /// The settings for `host`, as the URL names it.
    pub(super) fn of(&self, host: &str) -> HostConfig {
        let params = self.0.query(host);
        let other = |name: &str| {
            let found = params.unsupported_fields.iter();
            let mut found = found.filter(|(field, _)| field.eq_ignore_ascii_case(name));
            found.next().map(|(_, words)| words.join(" "))
        };
        let is_some = |text: &String| !text.eq_ignore_ascii_case("none");
        let jump = params.proxy_jump.as_ref().map(|hosts| hosts.join(",")).filter(is_some);
        let command = other("ProxyCommand").filter(is_some);
        let detour = jump.map(|jump| format!("ProxyJump {jump}"));
        let detour = detour.or(command.map(|command| format!("ProxyCommand {command}")));
        let identities_only = other("IdentitiesOnly").is_some_and(|text| text == "yes");
        let HostParams { host_name, port, user, identity_file, .. } = params;
        let identities = identity_file.unwrap_or_default();
        HostConfig {
            host_name: host_name.map(|name| name.replace("%h", host)),
            port,
            user,
            identities: identities.into_iter().filter(|file| file != Path::new("none")).collect(),
            identities_only,
            detour,
        }
    }
}

fn text_of(file: &Path) -> Result<Option<String>> {
    match std::fs::read(file) {
        Ok(text) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(format!("cannot read {}", file.display()), e)),
    }
}

/// The lines that are read, including those of included files.
struct Lines<'a> {
    home: &'a Path,
    read: String,
    /// Lines below a `Match` that route a host through another one.
    unread_detours: Vec<String>,
}

impl Lines<'_> {
    /// Adds the lines of `text`. Lines below a `Match` are left out; they would otherwise apply to the host before it.
    fn take(&mut self, text: &str, depth: usize) -> Result<()> {
        let (mut matching, mut for_all) = (false, true);
        for line in text.lines() {
            let line = line.trim();
            let name = line.split(|c: char| c.is_whitespace() || c == '=').next();
            let name = name.unwrap_or_default();
            let value = line[name.len()..].trim_start_matches([' ', '\t', '=']);
            let name = name.to_ascii_lowercase();
            match name.as_str() {
                "match" => matching = true,
                "host" => (matching, for_all) = (false, value == "*"),
                "include" if !matching => {
                    self.include(value, depth, for_all)?;
                    continue;
                }
                "proxyjump" | "proxycommand" if matching => {
                    self.unread_detours.push(line.to_owned())
                }
                _ => {}
            }
            if !matching && READ.contains(&name.as_str()) {
                self.read.push_str(line);
                self.read.push('\n');
            }
        }
        Ok(())
    }

    fn include(&mut self, value: &str, depth: usize, for_all: bool) -> Result<()> {
        if !for_all {
            tracing::warn!("~/.ssh/config: Include below a Host is not read: {value:?}");
            return Ok(());
        }
        if depth == MAX_INCLUDES {
            return Err(Error::new(Kind::InvalidInput, "settings of ssh include one another"));
        }
        for pattern in value.split_whitespace() {
            for file in self.files(pattern.trim_matches('"')) {
                let Some(text) = text_of(&file)? else { continue };
                self.take(&text, depth + 1)?;
                // The lines after the include apply to all hosts again.
                self.read.push_str("Host *\n");
            }
        }
        Ok(())
    }

    /// The files that match a pattern, sorted. Only its last segment may have wildcards.
    fn files(&self, pattern: &str) -> Vec<PathBuf> {
        let path = match pattern.strip_prefix("~/") {
            Some(rest) => self.home.join(rest),
            None => self.home.join(".ssh").join(pattern),
        };
        let (Some(folder), Some(last)) = (path.parent(), path.file_name()) else {
            return Vec::new();
        };
        let last = last.to_string_lossy();
        if !last.contains(['*', '?']) {
            return vec![path];
        }
        let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
        let fits = |name: &str| matches(&last, name) && !name.starts_with('.');
        let fitting = entries.filter(|entry| fits(&entry.file_name().to_string_lossy()));
        let mut files: Vec<_> = fitting.map(|entry| entry.path()).collect();
        files.sort();
        files
    }
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
  ProxyJump elsewhere
Host inside
  ProxyJump bastion,other
  IdentitiesOnly yes
Host direct
  ProxyJump none
  ProxyCommand none
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
        assert_eq!(nas.detour.as_deref(), Some("ProxyCommand nc %h %p"));
        let inside = config.of("inside");
        assert_eq!(inside.detour.as_deref(), Some("ProxyJump bastion,other"));
        assert!(inside.identities_only && !nas.identities_only);
        assert_eq!(config.of("direct").detour, None);
        assert_eq!(config.of("a.lan").host_name.as_deref(), Some("a.lan.example.org"));
        assert_eq!(config.of("old.lan").host_name, None);
        let other = HostConfig { user: Some("everywhere".into()), ..HostConfig::default() };
        assert_eq!(config.of("other"), other);
        assert_eq!(UserConfig::default().of("other"), HostConfig::default());
        assert!(UserConfig::parse("Host a\n Port x\n", Path::new("/")).is_err());
    }

    #[test]
    fn included_files_are_read_as_if_they_stood_there() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join(".ssh/config.d");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("a.conf"), "Host nas\n ProxyJump bastion\nMatch all\n User x\n")
            .unwrap();
        std::fs::write(folder.join("b.conf"), "Host nas\n HostName first\n").unwrap();
        let text =
            "Include config.d/*.conf missing ~/.ssh/missing\nUser me\nHost nas\n HostName second\n";
        let config = UserConfig::parse(text, home.path()).unwrap();
        let nas = config.of("nas");
        assert_eq!(nas.detour.as_deref(), Some("ProxyJump bastion"));
        assert_eq!((nas.host_name.as_deref(), nas.user.as_deref()), (Some("first"), Some("me")));
        assert_eq!(config.of("other").user.as_deref(), Some("me"));
        std::fs::write(folder.join("a.conf"), "Include config.d/a.conf\n").unwrap();
        assert!(UserConfig::parse("Include config.d/a.conf\n", home.path()).is_err());
    }
}
