//! Storage URLs: `file:///dir`, `s3://bucket/prefix`, `drive://FOLDER`, with profile keys as query parameters.

use url::Url;

use super::{
    Profile,
    aws::AwsEndpoint,
    settings::{ProfileSettings, SECRET_KEYS},
};
use crate::error::{Error, Kind, Result};

const ORIGIN: &str = "storage URL";

/// Keys that identify the storage and are therefore recorded. All other keys only tune its use.
const IDENTITY_KEYS: &[&str] = &["endpoint", "path_style", "region"];

impl Profile {
    /// # Errors
    /// `InvalidInput`. The error contains no parameter and no user, since those may be secrets.
    pub(super) fn from_url(text: &str, aws: &AwsEndpoint) -> Result<Self> {
        let (mut url, mut settings) = parse_storage_url(text)?;
        if settings.text("type") == Some("s3") {
            // The endpoint identifies the storage. It is recorded, so that the storage is found again without the
            // variable.
            if let (false, Some(endpoint)) = (settings.has("endpoint"), aws.url()) {
                url.query_pairs_mut().append_pair("endpoint", endpoint);
            }
            aws.fill_endpoint(&mut settings);
        }
        let name = canonical_url(&url);
        Self::parse(&name, settings).map_err(|e| e.with_context(format!("storage {name}")))
    }
}

/// Parses a storage URL into settings.
///
/// # Errors
/// As [`Profile::from_url`].
pub(super) fn parse_storage_url(text: &str) -> Result<(Url, ProfileSettings)> {
    let url = Url::parse(text).map_err(|e| bad("not a storage name or URL").because(e))?;
    // `file:dir` parses as `/dir`, which is never intended.
    if url.scheme() == "file" && !text.trim_start().to_ascii_lowercase().starts_with("file:///") {
        return Err(bad("storage URL is not an absolute folder").hint(FILE_HINT));
    }
    let mut settings = location_settings(&url)?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(secret_in_url_error("a user or password"));
    }
    if url.fragment().is_some() {
        return Err(bad("storage URL contains a #").hint("write %23 for a # in a name"));
    }
    for (key, value) in url.query_pairs() {
        if SECRET_KEYS.contains(&&*key) {
            return Err(secret_in_url_error(&key));
        }
        if settings.text(&key).is_some() {
            return Err(bad(format!("storage URL: {key} is set twice")));
        }
        settings.set(&key, &value, ORIGIN.into());
    }
    Ok((url, settings))
}

/// The location: the settings in the part before the `?`.
fn location_settings(url: &Url) -> Result<ProfileSettings> {
    let mut settings = ProfileSettings::default();
    let mut set = |key: &str, value: &str| settings.set(key, value, ORIGIN.into());
    let host = url.host_str().unwrap_or_default();
    match url.scheme() {
        "file" => {
            let path =
                url.to_file_path().ok().and_then(|path| path.into_os_string().into_string().ok());
            let path =
                path.ok_or_else(|| bad("storage URL is not an absolute folder").hint(FILE_HINT))?;
            if path == "/" {
                return Err(bad("storage URL is the root folder").hint(FILE_HINT));
            }
            set("type", "local");
            set("path", &path);
        }
        "s3" if !host.is_empty() => {
            set("type", "s3");
            set("bucket", host);
            let prefix = url.path().trim_matches('/');
            if !prefix.is_empty() {
                set("prefix", prefix);
            }
        }
        "drive" if !host.is_empty() && url.path().trim_matches('/').is_empty() => {
            set("type", "drive");
            set("folder", host);
        }
        "s3" | "drive" => {
            return Err(bad("storage URL has no valid bucket or folder")
                .hint("write s3://bucket/prefix or drive://FOLDER_ID"));
        }
        other => {
            let text = format!("storage URL scheme {other:?} is not file, s3 or drive");
            return Err(bad(text).hint(FILE_HINT));
        }
    }
    Ok(settings)
}

const FILE_HINT: &str = "write a folder as file:///absolute/path";

fn bad(text: impl Into<String>) -> Error {
    Error::new(Kind::InvalidInput, text)
}

fn secret_in_url_error(what: &str) -> Error {
    bad(format!("storage URL contains {what}: URLs are recorded and displayed"))
        .hint("put it in the config file or in a BAE_STORAGE_<NAME>_<KEY> variable")
}

fn canonical_url(url: &Url) -> String {
    let mut canonical = url.clone();
    canonical.set_query(None);
    let path = url.path().trim_end_matches('/');
    canonical.set_path(path);
    let mut keys: Vec<_> =
        url.query_pairs().filter(|(key, _)| IDENTITY_KEYS.contains(&&**key)).collect();
    keys.sort();
    if !keys.is_empty() {
        canonical.query_pairs_mut().extend_pairs(keys);
    }
    canonical.into()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        config::ProfileKind,
        units::{KIB, MIB},
    };

    fn from_url(text: &str) -> Result<Profile> {
        Profile::from_url(text, &AwsEndpoint::default())
    }

    #[test]
    fn a_folder_url_records_its_path_but_no_tuning() {
        let profile = from_url("file:///srv/my%20music/?chunk=4MiB&upload_limit=10MiB").unwrap();
        assert_eq!(profile.folder(), Path::new("/srv/my music/"));
        assert_eq!((profile.chunk, profile.upload_limit), (4 * MIB, Some(10 * MIB)));
        assert_eq!(profile.canonical_name(), "file:///srv/my%20music");
        let again = from_url(&profile.canonical_name()).unwrap();
        assert_eq!(again.canonical_name(), profile.canonical_name());
        assert_eq!(from_url("file:///d?chunk=64k").unwrap().chunk, 64 * KIB);
    }

    #[test]
    fn cloud_urls_record_the_keys_that_identify_the_storage() {
        let url =
            "s3://Bucket/a/b?region=eu&endpoint=http%3A%2F%2Fh%3A9000&path_style=true&chunk=8M";
        let profile = from_url(url).unwrap();
        let ProfileKind::S3(s3) = &profile.kind else { panic!("not s3") };
        assert_eq!(
            (s3.bucket.as_str(), s3.prefix.as_deref(), s3.path_style),
            ("Bucket", Some("a/b"), Some(true))
        );
        assert_eq!(profile.chunk, 8 * MIB);
        assert_eq!(
            profile.canonical_name(),
            "s3://Bucket/a/b?endpoint=http%3A%2F%2Fh%3A9000&path_style=true&region=eu"
        );
        assert_eq!(from_url("drive://1aB_c").unwrap().canonical_name(), "drive://1aB_c");
    }

    #[test]
    fn an_endpoint_from_the_environment_is_recorded_and_the_url_overrides_it() {
        let env = [("AWS_ENDPOINT_URL", "http://h:9000")];
        let aws = AwsEndpoint::of(&env.into_iter().collect());
        let profile = Profile::from_url("s3://b/p?chunk=8M", &aws).unwrap();
        assert_eq!(profile.canonical_name(), "s3://b/p?endpoint=http%3A%2F%2Fh%3A9000");
        let again = from_url(&profile.canonical_name()).unwrap();
        assert_eq!(again.location(), profile.location());
        let given = Profile::from_url("s3://b?endpoint=http://other&region=eu", &aws).unwrap();
        assert_eq!(given.location(), "s3://b?endpoint=http://other/");
        assert!(Profile::from_url("file:///d", &aws).is_ok());
    }

    #[test]
    fn secrets_in_a_url_are_rejected_and_not_quoted() {
        for url in [
            "s3://b?secret_access_key=hunter2",
            "s3://me:hunter2@b",
            "drive://f?refresh_token=hunter2",
            "file:///d?token=hunter2",
        ] {
            let e = from_url(url).unwrap_err();
            assert_eq!(e.kind(), Kind::InvalidInput);
            assert!(!format!("{e:?}").contains("hunter2"), "{e:?}");
        }
    }

    #[test]
    fn invalid_storage_urls_are_rejected() {
        for url in [
            "file://",
            "file:dir",
            "file://host/dir",
            "s3://",
            "drive://",
            "drive://a/b",
            "ftp://h/x",
            "file:///a#b",
        ] {
            assert_eq!(from_url(url).unwrap_err().kind(), Kind::InvalidInput, "{url}");
        }
        let e = from_url("file:///d?chnk=4M").unwrap_err();
        assert!(e.report().contains("chnk"), "{}", e.report());
        assert!(from_url("file:///d?path=/x").is_err());
    }

    proptest! {
        #[test]
        fn a_recorded_url_resolves_to_the_same_storage(
            text in "(file:///|s3://|drive://|file:|)[a-zA-Z0-9_/?&=%#:@. -]{0,30}",
        ) {
            if let Ok(profile) = from_url(&text) {
                let again = from_url(&profile.canonical_name());
                prop_assert_eq!(again.unwrap().canonical_name(), profile.canonical_name());
            }
        }
    }
}
