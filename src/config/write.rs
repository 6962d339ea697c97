//! Adds a storage from the command line to the config file.
//!
//! Everything else in the file stays unchanged, including comments. The file is replaced by an atomic rename, so that a
//! crash leaves either the old or the new one. A file with a secret is readable only by its owner.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use toml_edit::{DocumentMut, InlineTable, Item, Table, Value as Toml};

use super::{
    Config, Profile, Secret,
    env::as_variable,
    secret::SettingValue,
    settings::{KEYS, ProfileSettings, SECRET_KEYS},
    url::parse_storage_url,
};
use crate::{
    error::{Error, Kind, Result},
    hints::{Setting, hint},
};

const ORIGIN: &str = "command line";

/// A storage to write to the config file.
#[derive(Debug)]
pub struct NewStorage {
    name: String,
    settings: ProfileSettings,
    secret_prompts: Vec<&'static str>,
}

impl NewStorage {
    /// Parses `words`: at most one storage URL, and `KEY=VALUE` settings. A secret is `KEY=env:VARIABLE`,
    /// `KEY=command:COMMAND`, or `KEY=-` for a prompt.
    ///
    /// # Errors
    /// `InvalidInput` when the name or a word is not valid, also for a secret on the command line.
    pub fn new(name: &str, kind: Option<&str>, words: &[String]) -> Result<Self> {
        check_name(name)?;
        let mut new = Self {
            name: name.to_owned(),
            settings: ProfileSettings::default(),
            secret_prompts: Vec::new(),
        };
        for word in words {
            match word.split_once('=') {
                Some((key, value)) if !key.contains(':') => new.set(key, value)?,
                _ => new.take_url(word)?,
            }
        }
        if let Some(kind) = kind {
            new.set("type", kind)?;
        }
        // An access key id without its secret key: prompt for the secret key.
        if new.settings.has("access_key_id") && !new.settings.has("secret_access_key") {
            new.prompt_for("secret_access_key");
        }
        Profile::from_settings(name, new.settings.clone())?;
        Ok(new)
    }

    fn take_url(&mut self, word: &str) -> Result<()> {
        if !word.contains("://") {
            let text = format!("{word:?} is neither a storage URL nor KEY=VALUE");
            return Err(bad(text).hint(format!("keys: {}", KEYS.join(", "))));
        }
        let (_, settings) = parse_storage_url(word)?;
        for (key, value) in settings.values() {
            if let SettingValue::Text(text) = value {
                self.set(key, text)?;
            }
        }
        Ok(())
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        if !KEYS.contains(&key) {
            let hint = format!("keys: {}", KEYS.join(", "));
            return Err(bad(format!("unknown storage key {key:?}")).hint(hint));
        }
        if self.settings.has(key) && self.settings.text(key) != Some(value) {
            return Err(bad(format!("{key} is set twice")));
        }
        let secret = SECRET_KEYS.iter().find(|secret| **secret == key);
        // A key id is not secret, but may come from the same source as the secret key.
        if let (true, Some(found)) =
            (secret.is_some() || key == "access_key_id", parse_secret_reference(value))
        {
            self.settings.set_value(key, SettingValue::Secret(found), ORIGIN.into());
            return Ok(());
        }
        match secret {
            Some(key) if value == "-" => self.prompt_for(key),
            Some(key) => {
                return Err(bad(format!(
                    "{key} is a secret: every user of this machine can read the command line"
                ))
                .hint(format!(
                    "write {key}=- for a prompt, {key}=env:VARIABLE or {key}=command:COMMAND"
                )));
            }
            None if key == "path" => self.settings.set(key, &absolute(value)?, ORIGIN.into()),
            None => self.settings.set(key, value, ORIGIN.into()),
        }
        Ok(())
    }

    fn prompt_for(&mut self, key: &'static str) {
        self.secret_prompts.push(key);
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The secrets that the caller must prompt for.
    #[must_use]
    pub fn secret_prompts(&self) -> &[&'static str] {
        &self.secret_prompts
    }

    /// Adds a secret that the user typed.
    pub fn set_secret(&mut self, key: &str, secret: &str) {
        let secret = SettingValue::Secret(Secret::Text(secret.to_owned()));
        self.settings.set_value(key, secret, ORIGIN.into());
        self.secret_prompts.retain(|other| *other != key);
    }

    fn holds_secret(&self) -> bool {
        self.settings
            .values()
            .any(|(_, value)| matches!(value, SettingValue::Secret(Secret::Text(_))))
    }
}

impl Config {
    /// Writes the storage to the config file and returns the file's path. An existing storage of the same name is
    /// replaced only with `replace`.
    ///
    /// # Errors
    /// `AlreadyExists`; `InvalidInput` when there is no path for a config file, when another storage name has the same
    /// environment variables, or when the form of `[storage]` cannot be extended; otherwise the I/O error.
    pub fn add_storage(&self, new: &NewStorage, replace: bool) -> Result<PathBuf> {
        let variable = as_variable(&new.name);
        let same = |name: &&String| **name != new.name && as_variable(name) == variable;
        if let Some(other) = self.profiles.keys().find(same) {
            let text = format!(
                "storage {:?} would have the same environment variables as {other:?}",
                new.name
            );
            return Err(bad(text).hint("choose another name"));
        }
        let path = self.path.as_deref().ok_or_else(|| {
            bad("no config file: neither HOME nor XDG_CONFIG_HOME is set")
                .hint(hint!["give one with ", Setting::ConfigFile])
        })?;
        // A symlink is kept, and its target is replaced.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let context = |e| Error::io(format!("config file {}", path.display()), e);
        let old = match fs::read_to_string(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
            text => text.map_err(context)?,
        };
        let text = with_storage(&old, new, replace)
            .map_err(|e| e.with_context(format!("config file {}", path.display())))?;
        replace_file(&path, &text, new.holds_secret()).map_err(context)?;
        Ok(path)
    }
}

/// The text `old` with the storage's section added or replaced.
fn with_storage(old: &str, new: &NewStorage, replace: bool) -> Result<String> {
    // The parser's text is dropped: it quotes lines, and one may contain a secret.
    let mut document: DocumentMut = old.parse().map_err(|_| bad("not valid TOML"))?;
    let by_hand = || {
        bad("[storage] is not written as sections, so bae cannot add one")
            .hint(format!("write [storage.{}] by hand, or convert [storage] to sections", new.name))
    };
    let implicit = || {
        let mut table = Table::new();
        table.set_implicit(true);
        Item::Table(table)
    };
    let storages = document.entry("storage").or_insert_with(implicit).as_table_mut();
    let storages = storages.ok_or_else(by_hand)?;
    let exists = storages.contains_key(&new.name);
    if exists && !replace {
        let text = format!("storage {:?} exists already", new.name);
        return Err(Error::new(Kind::AlreadyExists, text)
            .hint(hint![Setting::ReplaceStorage, " replaces it"]));
    }
    let section = storages.entry(&new.name).or_insert_with(|| Item::Table(Table::new()));
    let section = section.as_table_mut().ok_or_else(by_hand)?;
    section.clear();
    for key in KEYS {
        if let Some((_, value)) = new.settings.values().find(|(found, _)| found == key) {
            section.insert(key, Item::Value(toml(key, value)));
        }
    }
    Ok(document.to_string())
}

fn toml(key: &str, value: &SettingValue) -> Toml {
    let table = |key: &str, value: &str| Toml::InlineTable(InlineTable::from_iter([(key, value)]));
    match value {
        SettingValue::Secret(Secret::Text(text)) => text.as_str().into(),
        SettingValue::Secret(Secret::Env(name)) => table("env", name),
        SettingValue::Secret(Secret::Command(command)) => table("command", command),
        SettingValue::Text(text) => match (key, text.parse::<bool>(), text.parse::<i64>()) {
            ("path_style", Ok(flag), _) => flag.into(),
            ("upload_concurrency", _, Ok(number)) => number.into(),
            _ => text.as_str().into(),
        },
    }
}

/// Writes a temp file in the same folder and renames it. A new file and a file with a secret get mode 0600; otherwise
/// the mode stays.
fn replace_file(path: &Path, text: &str, secret: bool) -> io::Result<()> {
    let folder = path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mode = match fs::metadata(path) {
        Ok(found) if !secret => found.permissions().mode() & 0o777,
        _ => 0o600,
    };
    let temp = folder.join(format!(".config-{}.tmp", std::process::id()));
    let written = write_new(&temp, text, mode).and_then(|()| fs::rename(&temp, path));
    if written.is_err() {
        // Ignored: the first error is returned.
        let _ = fs::remove_file(&temp);
    }
    written?;
    fs::File::open(folder)?.sync_all()
}

fn write_new(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    // Created with mode 0600, whatever the final mode is.
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()
}

/// Names appear in place of URLs, in variables and in section names. With plain characters a name has one meaning in
/// each.
fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts && name.len() <= 64 && name.chars().all(plain) {
        return Ok(());
    }
    Err(bad(format!("invalid storage name {name:?}"))
        .hint("use up to 64 letters, digits, - and _, starting with a letter or digit"))
}

/// Parses `env:VARIABLE` and `command:COMMAND`.
fn parse_secret_reference(value: &str) -> Option<Secret> {
    match value.split_once(':')? {
        ("env", name) if !name.is_empty() => Some(Secret::Env(name.to_owned())),
        ("command", command) if !command.is_empty() => Some(Secret::Command(command.to_owned())),
        _ => None,
    }
}

/// Makes a typed path absolute, from the current folder. Paths in the config file must be absolute already.
fn absolute(path: &str) -> Result<String> {
    if path.starts_with("~/") {
        return Ok(path.to_owned());
    }
    let absolute = std::path::absolute(path).map_err(|e| Error::io(format!("path {path:?}"), e))?;
    absolute.into_os_string().into_string().map_err(|_| bad(format!("path {path:?} is not UTF-8")))
}

fn bad(text: impl Into<String>) -> Error {
    Error::new(Kind::InvalidInput, text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{ConfigFile, Env, Overrides};

    fn new(name: &str, words: &[&str]) -> Result<NewStorage> {
        let words: Vec<_> = words.iter().map(|w| (*w).to_owned()).collect();
        NewStorage::new(name, None, &words)
    }

    fn written(old: &str, new: &NewStorage) -> String {
        with_storage(old, new, false).unwrap()
    }

    fn config(file: &Path) -> Config {
        let env: Env = [("HOME", "/h")].into_iter().collect();
        let overrides =
            Overrides { config: Some(file.into()), creates_config: true, ..Overrides::default() };
        Config::load(overrides, &env).unwrap()
    }

    #[test]
    fn a_section_is_added_and_everything_else_stays() {
        let old =
            "# mine\nmemory = \"64MiB\" # enough\n\n[storage.nas]\ntype = \"local\"\npath='/n'\n";
        let nas = new("music", &["s3://b/p?endpoint=http://h:9000&path_style=true", "chunk=8MiB"]);
        let text = written(old, &nas.unwrap());
        let added = "\n[storage.music]\ntype = \"s3\"\nbucket = \"b\"\nprefix = \"p\"\nendpoint = \
                     \"http://h:9000\"\npath_style = true\nchunk = \"8MiB\"\n";
        assert_eq!(text, format!("{old}{added}"));
    }

    #[test]
    fn secrets_are_referenced_or_prompted_for_but_not_typed() {
        let e = new("m", &["s3://b", "access_key_id=A", "secret_access_key=hunter2"]).unwrap_err();
        assert_eq!(e.kind(), Kind::InvalidInput);
        assert!(!format!("{e:?}").contains("hunter2"), "{e:?}");
        let mut half = new("m", &["s3://b", "access_key_id=A"]).unwrap();
        assert_eq!(half.secret_prompts(), ["secret_access_key"]);
        half.set_secret("secret_access_key", "hunter2");
        assert!(half.secret_prompts().is_empty() && half.holds_secret());
        assert!(written("", &half).contains("secret_access_key = \"hunter2\""));
        let referenced =
            new("m", &["s3://b", "access_key_id=env:ID", "secret_access_key=command:pass x"]);
        let referenced = referenced.unwrap();
        assert!(referenced.secret_prompts().is_empty() && !referenced.holds_secret());
        let text = written("", &referenced);
        assert!(text.contains("access_key_id = { env = \"ID\" }"), "{text}");
        assert!(text.contains("secret_access_key = { command = \"pass x\" }"), "{text}");
        assert_eq!(
            new("d", &["drive://F", "refresh_token=-"]).unwrap().secret_prompts(),
            ["refresh_token"]
        );
    }

    #[test]
    fn invalid_storages_are_rejected() {
        for name in ["", "a/b", "s3://b", "-a", "a b", "é", &"x".repeat(65)] {
            assert_eq!(new(name, &["file:///d"]).unwrap_err().kind(), Kind::InvalidInput, "{name}");
        }
        for words in [
            &["music"][..],
            &["bukket=b"],
            &["s3://b", "bucket=c"],
            &["type=tape"],
            &["type=local"],
            &["file:///d", "bucket=b"],
            &["file:///d", "chunk=much"],
            &["s3://b?token=x"],
        ] {
            assert_eq!(new("m", words).unwrap_err().kind(), Kind::InvalidInput, "{words:?}");
        }
    }

    #[test]
    fn an_existing_storage_is_replaced_only_with_force() {
        let old = "[storage.m]\n# why\ntype = \"local\"\npath = \"/old\"\nchunk = \"4MiB\"\n\n[network]\ndht = false\n";
        let m = new("m", &["type=local", "path=/new"]).unwrap();
        let e = with_storage(old, &m, false).unwrap_err();
        assert_eq!(e.kind(), Kind::AlreadyExists);
        let text = with_storage(old, &m, true).unwrap();
        assert!(
            text.contains("\"/new\"") && !text.contains("/old") && !text.contains("4MiB"),
            "{text}"
        );
        assert!(text.contains("[network]\ndht = false"), "{text}");
        assert_eq!(with_storage("storage = 3", &m, true).unwrap_err().kind(), Kind::InvalidInput);
    }

    #[test]
    fn the_file_is_replaced_atomically_and_protects_its_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("deep/er/config.toml");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        config(&file).add_storage(&new("a", &["file:///a"]).unwrap(), false).unwrap();
        assert_eq!(mode(&file), 0o600, "a new file");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let link = dir.path().join("link.toml");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let config_of = |path: &Path| config(path);
        config_of(&link).add_storage(&new("b", &["file:///b"]).unwrap(), false).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(mode(&file), 0o644, "no secret was added");
        let mut secret = new("c", &["s3://b", "access_key_id=A"]).unwrap();
        secret.set_secret("secret_access_key", "hunter2");
        config(&file).add_storage(&secret, false).unwrap();
        assert_eq!(mode(&file), 0o600, "a secret was added");
        assert_eq!(config(&file).storage_names(), ["file", "a", "b", "c"]);
        assert_eq!(
            fs::read_dir(file.parent().unwrap()).unwrap().count(),
            1,
            "no temp file is left"
        );
        let twin = new("C", &["file:///d"]).unwrap();
        let e = config(&file).add_storage(&twin, false).unwrap_err();
        assert!(e.report().contains("the same environment variables"), "{}", e.report());
    }

    proptest! {
        #[test]
        fn a_written_storage_is_read_back(
            prefix in "[a-zA-Z0-9 \"'\\\\=#\u{e9}]{1,20}",
            secret in "[ -~]{1,20}",
            chunk in 1u64..1000,
        ) {
            let words = [format!("prefix={prefix}"), format!("chunk={chunk}MiB"), "type=s3".into(),
                "bucket=b".into(), "secret_access_key=-".into()];
            let mut m = NewStorage::new("m", None, &words).unwrap();
            m.set_secret("secret_access_key", &secret);
            let text = written("", &m);
            let file = ConfigFile::parse(&text, Path::new("/c")).unwrap();
            let profile = Profile::from_settings("m", file.profiles["m"].clone()).unwrap();
            prop_assert_eq!(profile.chunk, chunk << 20);
            let crate::config::ProfileKind::S3(s3) = profile.kind else { panic!("not s3") };
            prop_assert_eq!(s3.prefix, Some(prefix));
            prop_assert_eq!(s3.secret_access_key, Some(Secret::Text(secret)));
        }
    }
}
