//! A request to add a download, and its checks. Everything that an API passes on from its clients is checked here.

use crate::{
    catalog::LayoutKind,
    downloads::checksum,
    engine::{SourceIdentity, identify_link, identify_torrent},
    error::{Error, Kind, Result},
    protocols::has_private_host,
};

use super::download::{FetchSettings, Settings, SourceKind};

/// What to download.
#[derive(Debug, Clone)]
pub enum NewSource {
    /// A torrent file, compressed or not.
    Torrent(Vec<u8>),
    /// A magnet link, an info-hash, or a URL.
    Link(String),
}

impl Default for NewSource {
    fn default() -> Self {
        Self::Link(String::new())
    }
}

/// A request to add a download.
#[derive(Debug, Clone, Default)]
pub struct NewDownload {
    pub source: NewSource,
    /// The name until the import has one.
    pub name: Option<String>,
    /// An empty `storage` takes the category's, then the queue's, then the default. A `category` must exist.
    pub settings: Settings,
    /// `None` takes the category's, then the queue's.
    pub layout: Option<LayoutKind>,
    pub paused: bool,
    /// In front of all downloads of the same priority.
    pub first: bool,
    /// A request with the same key is the same request, and adds nothing.
    pub idempotency_key: Option<String>,
}

impl NewDownload {
    /// A download of a magnet link, an info-hash, or a URL.
    #[must_use]
    pub fn link(text: impl Into<String>) -> Self {
        Self { source: NewSource::Link(text.into()), ..Self::default() }
    }

    /// A download of a torrent file.
    #[must_use]
    pub fn torrent(bytes: Vec<u8>) -> Self {
        Self { source: NewSource::Torrent(bytes), ..Self::default() }
    }
}

const MAX_SOURCE: usize = 64 << 10;
const MAX_KEY: usize = 255;
const MAX_NAME: usize = 1024;
const MAX_TAG: usize = 255;
const MAX_TAGS: usize = 100;
const MAX_HEADERS: usize = 64;
const MAX_HEADER: usize = 16 << 10;

/// Identifies the source.
///
/// # Errors
/// `InvalidInput` or `Unsupported` when it is no source; `PermissionDenied` when it leads to a private host and the
/// settings allow only public ones.
pub(super) fn identify(new: &NewDownload) -> Result<(SourceKind, SourceIdentity)> {
    let identity = match &new.source {
        NewSource::Torrent(bytes) => identify_torrent(bytes.clone())?,
        NewSource::Link(text) if text.len() > MAX_SOURCE => {
            return Err(invalid(format!("the source is longer than {MAX_SOURCE} bytes")));
        }
        NewSource::Link(text) => identify_link(text, new.settings.protocol.as_deref())?,
    };
    let kind = match (&identity.torrent_file, identity.host.is_some()) {
        (Some(_), _) => SourceKind::Torrent,
        (None, _) if identity.info_hash_v1.is_none() && identity.info_hash_v2.is_none() => {
            SourceKind::Url
        }
        (None, _) => SourceKind::Magnet,
    };
    let url = (kind == SourceKind::Url).then(|| url::Url::parse(&identity.source).ok()).flatten();
    if new.settings.only_public && url.is_some_and(|url| has_private_host(&url)) {
        let text = "the URL leads to a host outside the public network";
        return Err(Error::new(Kind::PermissionDenied, text)
            .hint("set api.private_hosts in the config file to allow it"));
    }
    Ok((kind, identity))
}

/// Checks everything but the storage and the category.
///
/// # Errors
/// `InvalidInput` that names the setting.
pub(super) fn check(new: &NewDownload) -> Result<()> {
    if new.idempotency_key.as_ref().is_some_and(|key| key.is_empty() || key.len() > MAX_KEY) {
        return Err(invalid(format!("an idempotency key has 1 to {MAX_KEY} bytes")));
    }
    if let Some(name) = &new.name {
        check_name(name)?;
    }
    check_settings(&new.settings)
}

/// # Errors
/// As [`check`].
pub(super) fn check_settings(settings: &Settings) -> Result<()> {
    settings.tags.iter().try_for_each(|tag| check_tag(tag))?;
    if settings.tags.len() > MAX_TAGS {
        return Err(invalid(format!("a download has at most {MAX_TAGS} tags")));
    }
    if settings.seed_limits.ratio.is_some_and(|ratio| !ratio.is_finite() || ratio < 0.0) {
        return Err(invalid("the seed ratio is not a number of 0 or more"));
    }
    check_fetch(&settings.fetch)
}

/// # Errors
/// `InvalidInput` for an empty or long name.
pub(super) fn check_name(name: &str) -> Result<()> {
    match name.trim().is_empty() || name.len() > MAX_NAME {
        true => Err(invalid(format!("a name has 1 to {MAX_NAME} bytes"))),
        false => Ok(()),
    }
}

/// # Errors
/// `InvalidInput` for a tag that lists of tags could not contain.
pub fn check_tag(tag: &str) -> Result<()> {
    let is_bad = tag.is_empty()
        || tag.len() > MAX_TAG
        || tag.trim() != tag
        || tag.chars().any(|c| c == ',' || c.is_control());
    if is_bad {
        return Err(invalid(format!("{tag:?} is not usable as a tag")));
    }
    Ok(())
}

fn check_fetch(fetch: &FetchSettings) -> Result<()> {
    let values = fetch.headers.iter().map(|(_, value)| value);
    for value in values.chain(&fetch.user_agent).chain(&fetch.referer) {
        let is_bad = |b: u8| b == b'\n' || b == b'\r' || b == 0;
        if value.len() > MAX_HEADER || value.bytes().any(is_bad) {
            return Err(invalid("a header line has a line break or is too long"));
        }
    }
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let is_name = |name: &String| !name.is_empty() && name.bytes().all(is_token);
    if fetch.headers.len() > MAX_HEADERS || !fetch.headers.iter().all(|(name, _)| is_name(name)) {
        return Err(invalid("a header has no usable name, or there are too many"));
    }
    if fetch.connections.is_some_and(|count| !(1..=64).contains(&count)) {
        return Err(invalid("the number of connections is not from 1 to 64"));
    }
    fetch.checksums.iter().try_for_each(|text| checksum::parse(text).map(drop))
}

fn invalid(text: impl Into<String>) -> Error {
    Error::new(Kind::InvalidInput, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_cannot_inject_other_headers() {
        let check = |name: &str, value: &str| {
            let headers = vec![(name.to_owned(), value.to_owned())];
            check_fetch(&FetchSettings { headers, ..FetchSettings::default() })
        };
        check("Cookie", "a=b").unwrap();
        for (name, value) in [("A", "x\r\nB: y"), ("A", "\0"), ("A:", ""), ("A\nB", ""), ("", "")] {
            assert!(check(name, value).is_err(), "{name:?}: {value:?}");
        }
        let referer = Some("http://h/\nX: y".to_owned());
        assert!(check_fetch(&FetchSettings { referer, ..FetchSettings::default() }).is_err());
    }

    #[test]
    fn settings_that_no_list_could_show_are_refused() {
        let with = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            check_settings(&settings)
        };
        with(|_| {}).unwrap();
        assert!(with(|s| s.seed_limits.ratio = Some(f64::NAN)).is_err());
        assert!(with(|s| s.seed_limits.ratio = Some(-1.0)).is_err());
        assert!(with(|s| s.tags = ["a,b".to_owned()].into()).is_err());
        assert!(with(|s| s.tags = [String::new()].into()).is_err());
        assert!(with(|s| s.fetch.connections = Some(0)).is_err());
        assert!(with(|s| s.fetch.checksums = vec!["md5=1".into()]).is_err());
    }

    #[test]
    fn private_hosts_are_refused_where_only_public_ones_are_allowed() {
        for url in ["http://127.0.0.1/x", "http://[::ffff:10.0.0.1]/x", "http://2130706433/x"] {
            let mut new = NewDownload::link(url);
            assert!(identify(&new).is_ok());
            new.settings.only_public = true;
            assert_eq!(identify(&new).unwrap_err().kind(), Kind::PermissionDenied, "{url}");
        }
    }
}
