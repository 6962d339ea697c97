//! The secrets file, which bae itself writes: the results of `bae storage login`.
//!
//! It is next to the config file and has the same form, `[storage.NAME]` with keys of a profile, so that a key can be
//! moved between the two by hand. bae may rewrite it, unlike the config file with its comments. Only its owner can read
//! it.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{Secret, settings::ProfileSettings};
use crate::{
    error::{Error, Kind, Result},
    hints::{Operation, hint},
};

/// File name in the config folder.
pub(super) const FILE_NAME: &str = "secrets.toml";

/// Profile → key → secret.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    #[serde(default)]
    storage: BTreeMap<String, BTreeMap<String, String>>,
}

/// Applies the secrets in the file at `path` over `profiles`. A missing file has no secrets. Secrets of a removed
/// profile add an entry that `Config::resolve` drops.
pub(super) fn apply_to(
    profiles: &mut BTreeMap<String, ProfileSettings>,
    path: &Path,
) -> Result<()> {
    for (name, keys) in read(path)?.storage {
        let settings = profiles.entry(name).or_default();
        for (key, secret) in keys {
            settings.set(&key, &secret, path.display().to_string());
        }
    }
    Ok(())
}

/// Saves a profile's secret for later runs. The file is replaced by an atomic rename, so that a crash leaves the old
/// one.
pub(super) fn save(path: &Path, profile: &str, key: &str, secret: &Secret) -> Result<()> {
    let mut content = read(path)?;
    content.storage.entry(profile.to_owned()).or_default().insert(key.into(), secret.reveal()?);
    let text = toml::to_string(&content)
        .map_err(|e| Error::new(Kind::Internal, "cannot encode the secrets as TOML").because(e))?;
    let context = |e| Error::io(format!("secrets file {}", path.display()), e);
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(context)?;
    }
    let temp = path.with_extension("toml.new");
    write_new(&temp, text.as_bytes()).and_then(|()| fs::rename(&temp, path)).map_err(context)
}

fn write_new(path: &PathBuf, bytes: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn read(path: &Path) -> Result<Content> {
    let text = match fs::read_to_string(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Content::default()),
        text => text.map_err(|e| Error::io(format!("secrets file {}", path.display()), e))?,
    };
    if fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0) {
        let path = path.display();
        tracing::warn!("other users can read the secrets file: run `chmod 600 {path}`");
    }
    // Not the parser's message: it quotes the line, and the line contains a secret.
    toml::from_str(&text).map_err(|_| {
        let text = format!("secrets file {} is not valid", path.display());
        Error::new(Kind::InvalidInput, text)
            .hint(hint!["remove it and sign in again with ", Operation::StorageLogin.on("NAME")])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::Text(text.into())
    }

    #[test]
    fn secrets_are_saved_by_profile_and_readable_only_by_their_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made/secrets.toml");
        save(&path, "music", "refresh_token", &secret("one")).unwrap();
        save(&path, "films", "refresh_token", &secret("two")).unwrap();
        save(&path, "music", "refresh_token", &secret("three")).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut profiles = BTreeMap::from([("music".to_owned(), ProfileSettings::default())]);
        profiles.get_mut("music").unwrap().set("refresh_token", "old", "c".into());
        apply_to(&mut profiles, &path).unwrap();
        let text = |name: &str| profiles[name].text("refresh_token").map(str::to_owned);
        assert_eq!(
            (text("music").as_deref(), text("films").as_deref()),
            (Some("three"), Some("two"))
        );
    }

    #[test]
    fn an_invalid_file_is_not_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        fs::write(&path, "hunter2 = = 1").unwrap();
        let error = apply_to(&mut BTreeMap::new(), &path).unwrap_err();
        assert!(!error.report().contains("hunter2"));
        assert!(apply_to(&mut BTreeMap::new(), &dir.path().join("none")).is_ok());
    }
}
