//! Reads `~/.ssh/config`: where a host is, how it is reached, and which login it needs.
//!
//! An `Include` is followed before the first `Host` and below `Host *`, where users usually have it. Lines below a
//! `Match` are ignored, because its conditions may be anything. If such a line may route a host through another one, a
//! warning is logged.

use std::path::{Path, PathBuf};

use ssh2_config::{HostParams, ParseRule, SshConfig};

use super::known_hosts::glob_matches;
use crate::error::{Error, Kind, Result};

/// The keywords that are read; all others are ignored.
const READ_KEYWORDS: [&str; 8] = [
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
    pub(super) jump: Option<String>,
}

impl UserConfig {
    /// Reads the file of the current user.
    ///
    /// # Errors
    /// The I/O error of a file that cannot be read; `InvalidInput` for a file that cannot be parsed.
    pub(super) fn read() -> Result<Self> {
        let Some(home) = std::env::home_dir() else { return Ok(Self::default()) };
        let file = home.join(".ssh/config");
        let Some(text) = read_if_exists(&file)? else { return Ok(Self::default()) };
        Self::parse(&text, &home).map_err(|e| e.with_context(file.display()))
    }

    pub(super) fn parse(text: &str, home: &Path) -> Result<Self> {
        let mut lines = ConfigLines { home, kept: String::new(), ignored_jumps: Vec::new() };
        lines.add_lines(text, 0)?;
        for line in &lines.ignored_jumps {
            tracing::warn!("~/.ssh/config: lines below Match are ignored, such as {line:?}");
        }
        let config = SshConfig::default().home_dir(home);
        let rules = ParseRule::ALLOW_UNSUPPORTED_FIELDS;
        let parsed = config.parse(&mut lines.kept.as_bytes(), rules);
        let invalid = |e| Error::new(Kind::InvalidInput, "invalid SSH settings").because(e);
        parsed.map(Self).map_err(invalid)
    }

    /// The settings for `host`, as the URL names it.
    pub(super) fn host_config(&self, host: &str) -> HostConfig {
        let params = self.0.query(host);
        let field = |name: &str| {
            let fields = params.unsupported_fields.iter();
            let mut fields = fields.filter(|(field, _)| field.eq_ignore_ascii_case(name));
            fields.next().map(|(_, words)| words.join(" "))
        };
        let is_some = |text: &String| !text.eq_ignore_ascii_case("none");
        let proxy_jump = params.proxy_jump.as_ref().map(|hosts| hosts.join(",")).filter(is_some);
        let proxy_command = field("ProxyCommand").filter(is_some);
        let jump = proxy_jump.map(|hosts| format!("ProxyJump {hosts}"));
        let jump = jump.or(proxy_command.map(|command| format!("ProxyCommand {command}")));
        let identities_only = field("IdentitiesOnly").is_some_and(|text| text == "yes");
        let HostParams { host_name, port, user, identity_file, .. } = params;
        let identities = identity_file.unwrap_or_default();
        HostConfig {
            host_name: host_name.map(|name| name.replace("%h", host)),
            port,
            user,
            identities: identities.into_iter().filter(|file| file != Path::new("none")).collect(),
            identities_only,
            jump,
        }
    }
}

fn read_if_exists(file: &Path) -> Result<Option<String>> {
    match std::fs::read(file) {
        Ok(text) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(format!("cannot read {}", file.display()), e)),
    }
}

/// The lines that are read, including those of included files.
struct ConfigLines<'a> {
    home: &'a Path,
    kept: String,
    /// Lines below a `Match` that route a host through another one.
    ignored_jumps: Vec<String>,
}

impl ConfigLines<'_> {
    /// Adds the lines of `text`. Lines below a `Match` are left out; they would otherwise apply to the host before it.
    fn add_lines(&mut self, text: &str, depth: usize) -> Result<()> {
        let (mut in_match_block, mut for_all_hosts) = (false, true);
        for line in text.lines() {
            let line = line.trim();
            let name = line.split(|c: char| c.is_whitespace() || c == '=').next();
            let name = name.unwrap_or_default();
            let value = line[name.len()..].trim_start_matches([' ', '\t', '=']);
            let name = name.to_ascii_lowercase();
            match name.as_str() {
                "match" => in_match_block = true,
                "host" => (in_match_block, for_all_hosts) = (false, value == "*"),
                "include" if !in_match_block => {
                    self.include(value, depth, for_all_hosts)?;
                    continue;
                }
                "proxyjump" | "proxycommand" if in_match_block => {
                    self.ignored_jumps.push(line.to_owned())
                }
                _ => {}
            }
            if !in_match_block && READ_KEYWORDS.contains(&name.as_str()) {
                self.kept.push_str(line);
                self.kept.push('\n');
            }
        }
        Ok(())
    }

    fn include(&mut self, value: &str, depth: usize, for_all: bool) -> Result<()> {
        if !for_all {
            tracing::warn!("~/.ssh/config: Include below a Host is ignored: {value:?}");
            return Ok(());
        }
        if depth == MAX_INCLUDES {
            return Err(Error::new(
                Kind::InvalidInput,
                "SSH settings with too many nested includes",
            ));
        }
        for pattern in value.split_whitespace() {
            for file in self.matching_files(pattern.trim_matches('"')) {
                let Some(text) = read_if_exists(&file)? else { continue };
                self.add_lines(&text, depth + 1)?;
                // The lines after the include apply to all hosts again.
                self.kept.push_str("Host *\n");
            }
        }
        Ok(())
    }

    /// The files that match a pattern, sorted. Only its last segment may have wildcards.
    fn matching_files(&self, pattern: &str) -> Vec<PathBuf> {
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
        let is_match = |name: &str| glob_matches(&last, name) && !name.starts_with('.');
        let matching = entries.filter(|entry| is_match(&entry.file_name().to_string_lossy()));
        let mut files: Vec<_> = matching.map(|entry| entry.path()).collect();
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
    fn a_host_has_its_settings_and_none_of_match_blocks() {
        let config = UserConfig::parse(TEXT, Path::new("/home/u")).unwrap();
        let nas = config.host_config("nas");
        assert_eq!(nas.host_name.as_deref(), Some("nas.example.org"));
        assert_eq!((nas.port, nas.user.as_deref()), (Some(2222), Some("everywhere")));
        assert_eq!(nas.identities, [Path::new("/home/u/.ssh/nas")]);
        assert_eq!(nas.jump.as_deref(), Some("ProxyCommand nc %h %p"));
        let inside = config.host_config("inside");
        assert_eq!(inside.jump.as_deref(), Some("ProxyJump bastion,other"));
        assert!(inside.identities_only && !nas.identities_only);
        assert_eq!(config.host_config("direct").jump, None);
        assert_eq!(config.host_config("a.lan").host_name.as_deref(), Some("a.lan.example.org"));
        assert_eq!(config.host_config("old.lan").host_name, None);
        let other = HostConfig { user: Some("everywhere".into()), ..HostConfig::default() };
        assert_eq!(config.host_config("other"), other);
        assert_eq!(UserConfig::default().host_config("other"), HostConfig::default());
        assert!(UserConfig::parse("Host a\n Port x\n", Path::new("/")).is_err());
    }

    #[test]
    fn included_files_are_read_in_place() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join(".ssh/config.d");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("a.conf"), "Host nas\n ProxyJump bastion\nMatch all\n User x\n")
            .unwrap();
        std::fs::write(folder.join("b.conf"), "Host nas\n HostName first\n").unwrap();
        let text =
            "Include config.d/*.conf missing ~/.ssh/missing\nUser me\nHost nas\n HostName second\n";
        let config = UserConfig::parse(text, home.path()).unwrap();
        let nas = config.host_config("nas");
        assert_eq!(nas.jump.as_deref(), Some("ProxyJump bastion"));
        assert_eq!((nas.host_name.as_deref(), nas.user.as_deref()), (Some("first"), Some("me")));
        assert_eq!(config.host_config("other").user.as_deref(), Some("me"));
        std::fs::write(folder.join("a.conf"), "Include config.d/a.conf\n").unwrap();
        assert!(UserConfig::parse("Include config.d/a.conf\n", home.path()).is_err());
    }
}
