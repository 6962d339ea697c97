//! A resolved storage profile: the keys common to all types, and those of its type.

use std::path::PathBuf;

use url::Url;

use super::{Secret, file::parse_rate, settings::ProfileSettings};
use crate::{
    error::{Error, Kind, Result},
    units::{ByteSize, GIB, KIB, MIB},
};

/// A storage profile.
#[derive(Debug, Clone)]
pub struct Profile {
    /// The recorded name; see [`Profile::canonical_name`].
    name: String,
    pub kind: ProfileKind,
    /// Chunk size in bytes. A chunk becomes one object.
    pub chunk: u64,
    /// Maximum objects uploaded at once.
    pub upload_concurrency: usize,
    /// Upload limit to this storage in bytes per second, for metered connections.
    pub upload_limit: Option<u64>,
}

#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ProfileKind {
    /// A local folder; absolute.
    Local {
        path: PathBuf,
    },
    S3(Box<S3Profile>),
    Drive(Box<DriveProfile>),
    /// A backend of the embedding program, which is given to the engine under the same name.
    Custom,
}

/// A bucket. `S3Profile { bucket: "b".into(), ..S3Profile::default() }` is one at AWS, with the credentials of the
/// environment.
#[derive(Debug, Clone, Default)]
pub struct S3Profile {
    pub bucket: String,
    pub prefix: Option<String>,
    pub endpoint: Option<Url>,
    pub region: Option<String>,
    /// `None` selects the style that suits the endpoint.
    pub path_style: Option<bool>,
    pub access_key_id: Option<Secret>,
    pub secret_access_key: Option<Secret>,
    pub public_url: Option<Url>,
}

/// A folder of Google Drive.
#[derive(Debug, Clone, Default)]
pub struct DriveProfile {
    pub folder: Option<String>,
    pub client_id: Option<String>,
    pub client_secret: Option<Secret>,
    pub refresh_token: Option<Secret>,
    pub token: Option<Secret>,
    pub service_account: Option<Secret>,
    pub endpoint: Option<Url>,
    pub token_uri: Option<Url>,
}

/// 16 MiB: large enough to hide the latency of a request, small enough that eight chunks fit the default memory budget.
const CHUNK: u64 = 16 * MIB;
/// Google Drive creates only a few files per second, so its chunks are larger.
const DRIVE_CHUNK: u64 = 32 * MIB;
const UPLOAD_CONCURRENCY: usize = 4;

impl Profile {
    /// The name recorded in the catalog: the profile's name, or for a URL the URL without secrets and without tuning
    /// such as `chunk`. [`Config::storage`](super::Config::storage) resolves it to the same storage again.
    #[must_use]
    pub fn canonical_name(&self) -> String {
        self.name.clone()
    }

    /// `local`, `s3`, `drive`, or `custom` for a backend of the embedding program.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match &self.kind {
            ProfileKind::Local { .. } => "local",
            ProfileKind::S3(_) => "s3",
            ProfileKind::Drive(_) => "drive",
            ProfileKind::Custom => "custom",
        }
    }

    /// The location of the objects as a storage URL, without secrets and tuning.
    #[must_use]
    pub fn location(&self) -> String {
        match &self.kind {
            ProfileKind::Local { path } => match Url::from_file_path(path) {
                Ok(url) => url.into(),
                // Only for a relative path, which no profile has.
                Err(()) => path.display().to_string(),
            },
            ProfileKind::S3(s3) => {
                let prefix = s3.prefix.as_deref().unwrap_or_default().trim_matches('/');
                let slash = if prefix.is_empty() { "" } else { "/" };
                let endpoint = s3.endpoint.as_ref().map(|url| format!("?endpoint={url}"));
                format!("s3://{}{slash}{prefix}{}", s3.bucket, endpoint.unwrap_or_default())
            }
            ProfileKind::Drive(drive) => {
                format!("drive://{}", drive.folder.as_deref().unwrap_or_default())
            }
            ProfileKind::Custom => format!("custom:{}", self.name),
        }
    }

    #[cfg(test)]
    pub(super) fn folder(&self) -> &std::path::Path {
        match &self.kind {
            ProfileKind::Local { path } => path,
            other => panic!("{other:?} is not a folder"),
        }
    }

    /// A profile with the default settings of its type.
    #[must_use]
    pub fn new(name: &str, kind: ProfileKind) -> Self {
        let chunk = if matches!(kind, ProfileKind::Drive(_)) { DRIVE_CHUNK } else { CHUNK };
        let upload_concurrency = UPLOAD_CONCURRENCY;
        Self { name: name.into(), kind, chunk, upload_concurrency, upload_limit: None }
    }

    pub(super) fn local(name: &str, path: PathBuf) -> Self {
        Self::new(name, ProfileKind::Local { path })
    }

    /// # Errors
    /// `InvalidInput` that names the storage, the key and where it is defined.
    pub(super) fn from_settings(name: &str, mut settings: ProfileSettings) -> Result<Self> {
        if let (None, Some(kind)) = (settings.text("type"), type_from_name(name)) {
            settings.set("type", kind, format!("the name {name:?}"));
        }
        Self::parse(name, settings).map_err(|e| e.with_context(format!("storage {name:?}")))
    }

    pub(super) fn parse(name: &str, mut keys: ProfileSettings) -> Result<Self> {
        let types = "one of local, s3 and drive";
        let Some(kind_name) = keys.take_text("type")? else {
            return Err(Error::new(Kind::InvalidInput, "type is missing")
                .hint(format!("set type to {types}")));
        };
        let (kind, default_chunk) = match kind_name.as_str() {
            "local" => (ProfileKind::Local { path: parse_local_path(&mut keys)? }, CHUNK),
            "s3" => (ProfileKind::S3(Box::new(parse_s3(&mut keys)?)), CHUNK),
            "drive" => (ProfileKind::Drive(Box::new(parse_drive(&mut keys)?)), DRIVE_CHUNK),
            other => {
                let text = format!("unknown type {other:?}");
                return Err(
                    Error::new(Kind::InvalidInput, text).hint(format!("set type to {types}"))
                );
            }
        };
        let profile = Self {
            name: name.into(),
            kind,
            chunk: keys.take_parsed("chunk", parse_chunk_len)?.unwrap_or(default_chunk),
            upload_concurrency: keys
                .take_parsed("upload_concurrency", parse_concurrency)?
                .unwrap_or(UPLOAD_CONCURRENCY),
            upload_limit: keys.take_parsed("upload_limit", parse_rate)?.filter(|rate| *rate > 0),
        };
        keys.finish(&kind_name)?;
        Ok(profile)
    }
}

/// The type of a profile named after one, unless it sets another. `BAE_STORAGE_S3_BUCKET` alone therefore defines a
/// storage.
pub(super) fn type_from_name(name: &str) -> Option<&'static str> {
    [("file", "local"), ("s3", "s3"), ("drive", "drive")]
        .into_iter()
        .find_map(|(word, kind)| (word == name).then_some(kind))
}

fn parse_local_path(keys: &mut ProfileSettings) -> Result<PathBuf> {
    let absolute = |text: &str| {
        let path = PathBuf::from(text);
        let bad = || Error::new(Kind::InvalidInput, format!("{text:?} is not an absolute path"));
        if path.is_absolute() { Ok(path) } else { Err(bad().hint("start it with / or ~/")) }
    };
    keys.take_parsed("path", absolute)?.ok_or_else(|| missing_key("path"))
}

fn parse_s3(keys: &mut ProfileSettings) -> Result<S3Profile> {
    Ok(S3Profile {
        bucket: keys.take_text("bucket")?.ok_or_else(|| missing_key("bucket"))?,
        prefix: keys.take_text("prefix")?,
        endpoint: keys.take_parsed("endpoint", parse_web_url)?,
        region: keys.take_text("region")?,
        path_style: keys.take_parsed("path_style", parse_bool)?,
        access_key_id: keys.take_secret("access_key_id"),
        secret_access_key: keys.take_secret("secret_access_key"),
        public_url: keys.take_parsed("public_url", parse_web_url)?,
    })
}

fn parse_drive(keys: &mut ProfileSettings) -> Result<DriveProfile> {
    Ok(DriveProfile {
        folder: keys.take_text("folder")?,
        client_id: keys.take_text("client_id")?,
        client_secret: keys.take_secret("client_secret"),
        refresh_token: keys.take_secret("refresh_token"),
        token: keys.take_secret("token"),
        service_account: keys.take_secret("service_account"),
        endpoint: keys.take_parsed("endpoint", parse_web_url)?,
        token_uri: keys.take_parsed("token_uri", parse_web_url)?,
    })
}

fn missing_key(key: &str) -> Error {
    Error::new(Kind::InvalidInput, format!("{key} is missing"))
}

/// Parses a chunk size: at least one BitTorrent block, at most what leaves free space for other data in a large memory
/// budget.
fn parse_chunk_len(text: &str) -> Result<u64> {
    let size = text.parse::<ByteSize>()?;
    if (16 * KIB..=GIB).contains(&size.0) {
        return Ok(size.0);
    }
    Err(Error::new(
        Kind::InvalidInput,
        format!("chunk size {size} is not between 16 KiB and 1 GiB"),
    ))
}

fn parse_concurrency(text: &str) -> Result<usize> {
    let number = text.parse::<usize>().ok().filter(|n| (1..=64).contains(n));
    number.ok_or_else(|| {
        Error::new(Kind::InvalidInput, format!("{text:?} is not a number from 1 to 64"))
    })
}

fn parse_bool(text: &str) -> Result<bool> {
    text.parse()
        .map_err(|_| Error::new(Kind::InvalidInput, format!("{text:?} is not true or false")))
}

/// Errors never contain the text, which may hold a password. URLs with a password are rejected, since they are
/// displayed.
fn parse_web_url(text: &str) -> Result<Url> {
    let bad = |why: &str| Error::new(Kind::InvalidInput, why);
    // `h:9000` is also a valid URL, with the scheme `h`.
    let scheme = text.split_once("://").map(|(scheme, _)| scheme.trim().to_ascii_lowercase());
    if !scheme.is_some_and(|scheme| ["http", "https"].contains(&scheme.as_str())) {
        return Err(bad("not an http or https URL")
            .hint("write http://HOST or https://HOST, with :PORT if needed"));
    }
    let url = Url::parse(text).map_err(|e| bad("not an http or https URL").because(e))?;
    match url.username().is_empty() && url.password().is_none() {
        true => Ok(url),
        false => Err(bad("a URL with a user or password, which would be displayed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(keys: &[(&str, &str)]) -> ProfileSettings {
        let mut settings = ProfileSettings::default();
        keys.iter().for_each(|(key, value)| settings.set(key, value, "c.toml, line 3".into()));
        settings
    }

    #[test]
    fn errors_name_the_storage_the_key_and_the_line() {
        let error = |keys: &[(&str, &str)]| {
            Profile::from_settings("m", settings(keys)).unwrap_err().report()
        };
        let local = ("type", "local");
        let path = ("path", "/a");
        assert_eq!(error(&[path]), "storage \"m\": type is missing");
        assert_eq!(error(&[local]), "storage \"m\": path is missing");
        assert!(
            error(&[local, ("path", "a")])
                .contains("path (c.toml, line 3): \"a\" is not an absolute")
        );
        assert!(error(&[local, path, ("chunk", "1")]).contains("chunk (c.toml, line 3)"));
        assert!(error(&[local, path, ("upload_concurrency", "0")]).contains("1 to 64"));
        assert!(
            error(&[local, path, ("bucket", "b")])
                .contains("unknown key of a storage of type \"local\"")
        );
        assert!(error(&[("type", "tape")]).contains("\"tape\""));
    }

    #[test]
    fn an_endpoint_without_a_scheme_gets_a_hint() {
        for text in ["h:9000", "h", "127.0.0.1:9000/path", "ftp://h"] {
            let e = parse_web_url(text).unwrap_err();
            assert!(e.hint_text().unwrap().contains("http://HOST"), "{text}: {e:?}");
        }
        let e = parse_web_url("http://me:hunter2@h").unwrap_err();
        assert!(!format!("{e:?}").contains("hunter2"), "{e:?}");
        assert_eq!(parse_web_url("HTTPS://h:1").unwrap().as_str(), "https://h:1/");
    }

    #[test]
    fn a_location_contains_no_secret() {
        let location =
            |keys: &[(&str, &str)]| Profile::from_settings("m", settings(keys)).unwrap().location();
        assert_eq!(
            location(&[("type", "local"), ("path", "/srv/my music")]),
            "file:///srv/my%20music"
        );
        let s3 = [("type", "s3"), ("bucket", "b"), ("secret_access_key", "hunter2")];
        assert_eq!(location(&s3), "s3://b");
        let more = [("prefix", "a/b/"), ("endpoint", "http://h:9000")];
        assert_eq!(location(&[&s3[..], &more].concat()), "s3://b/a/b?endpoint=http://h:9000/");
        assert_eq!(location(&[("type", "drive"), ("token", "t")]), "drive://");
    }

    #[test]
    fn a_profile_named_after_a_type_has_it_by_default() {
        let s3 = Profile::from_settings("s3", settings(&[("bucket", "b")])).unwrap();
        assert_eq!(s3.type_name(), "s3");
        let other = [("type", "local"), ("path", "/a")];
        assert_eq!(Profile::from_settings("s3", settings(&other)).unwrap().type_name(), "local");
    }

    #[test]
    fn drive_has_larger_chunks_and_keeps_its_keys() {
        let keys = [("type", "drive"), ("folder", "F"), ("token", "t"), ("upload_limit", "5MiB/s")];
        let profile = Profile::from_settings("d", settings(&keys)).unwrap();
        assert_eq!((profile.chunk, profile.upload_limit), (DRIVE_CHUNK, Some(5 * MIB)));
        let ProfileKind::Drive(drive) = profile.kind else { panic!("not drive") };
        assert_eq!(
            (drive.folder.as_deref(), drive.token),
            (Some("F"), Some(Secret::Text("t".into())))
        );
    }
}
