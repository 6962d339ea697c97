//! Objects in S3 buckets: `s3://bucket/key`. If the URL ends with a slash, or if no object has this key, the URL means
//! all objects below it.
//!
//! The client is the one of `backends`, so it handles S3 servers in the same way as storages do. The parameters of a
//! URL locate the bucket and have the names of a storage's settings (`endpoint`, `region`, `path_style`). The login
//! supplies the keys: the user is the access key, the password is the secret key. Without a login, the keys come from
//! the sources of the AWS tools. Requests are unsigned if there are no keys, and with `anonymous=true`.
//!
//! Keys that are not valid paths (empty parts, `.`, `..`) are refused, because keys become file names. Each such key of
//! a folder is reported in [`Listing::skipped`] and the other objects are fetched. A proxy in the options is refused;
//! only the proxy of the environment is used.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use futures_util::stream;
use parking_lot::Mutex;
use url::Url;

use super::{
    ByteStream, FetchOptions, ListedFile, Listing, MAX_ENTRIES, Protocol, RangeRequest, RemoteFile,
    UrlTarget, Validator,
    timeouts::Timeouts,
    tls,
    url_paths::{
        decoded_path, last_segment_or_host, percent_decoded, url_below, with_trailing_slash,
    },
};
use crate::{
    backends::{S3Settings, S3Source, SourceObject},
    error::{Error, Kind, Result},
};

pub(super) const SCHEMES: &[&str] = &["s3"];

/// Buckets, each with its own client.
#[derive(Debug)]
pub(super) struct S3 {
    options: Arc<FetchOptions>,
    /// Authorities (PEM) that are trusted in addition to the system's.
    authorities: Vec<String>,
    /// Clients by URL without its path.
    sources: Mutex<HashMap<String, Arc<S3Source>>>,
}

pub(super) fn make(options: &Arc<FetchOptions>) -> Result<Arc<dyn Protocol>> {
    if options.proxy.is_some() {
        return Err(Error::new(Kind::Unsupported, "a proxy option does not apply to S3")
            .hint("set HTTPS_PROXY or HTTP_PROXY"));
    }
    let authorities = options.cacert.as_deref().map(tls::authority_pems).transpose()?;
    let (options, authorities) = (Arc::clone(options), authorities.unwrap_or_default());
    Ok(Arc::new(S3 { options, authorities, sources: Mutex::default() }))
}

impl S3 {
    async fn source(&self, url: &Url) -> Result<Arc<S3Source>> {
        let mut bucket_url = url.clone();
        bucket_url.set_path("");
        let known = self.sources.lock().get(bucket_url.as_str()).map(Arc::clone);
        if let Some(source) = known {
            return Ok(source);
        }
        let settings = settings_for(url, &self.options).await?;
        let authorities = self.authorities.clone();
        let source = Arc::new(S3Source::new(S3Settings { authorities, ..settings }));
        let mut sources = self.sources.lock();
        Ok(Arc::clone(sources.entry(bucket_url.into()).or_insert(source)))
    }

    async fn list_folder(
        &self,
        source: &S3Source,
        url: &Url,
        key: &str,
    ) -> Result<Option<Listing>> {
        let prefix = match key.trim_end_matches('/') {
            "" => String::new(),
            key => format!("{key}/"),
        };
        let url = with_trailing_slash(url);
        let (mut files, mut skipped, mut page) = (Vec::new(), Vec::new(), None);
        let mut found = false;
        loop {
            let listed = source.list(&prefix, page.as_ref()).await?;
            found |= !listed.objects.is_empty() || !listed.refused.is_empty();
            skipped.extend(listed.refused.into_iter().map(Into::into));
            for object in listed.objects {
                let Some(path) = object.key.strip_prefix(&prefix) else {
                    let text = format!("the key {:?} is outside the folder", object.key);
                    skipped.push(
                        Error::new(Kind::Unsupported, text)
                            .with_context(super::display_url(&url))
                            .into(),
                    );
                    continue;
                };
                // Marker objects of other tools that represent a folder.
                if (path.is_empty() || path.ends_with('/')) && object.len == 0 {
                    continue;
                }
                if let Err(e) = reject_invalid_key(path) {
                    skipped.push(e.with_context(super::display_url(&url)).into());
                    continue;
                }
                let remote = remote_file(url_below(&url, path), &object);
                files.push(ListedFile { path: path.to_owned(), remote });
            }
            if files.len() + skipped.len() > MAX_ENTRIES {
                let text = format!("{}: more than {MAX_ENTRIES} objects", super::display_url(&url));
                return Err(
                    Error::new(Kind::Unsupported, text).hint("fetch its subfolders one by one")
                );
            }
            page = listed.next;
            if page.is_none() {
                break;
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files.dedup_by(|a, b| a.path == b.path);
        // An empty bucket exists; an empty prefix does not.
        let found = found || prefix.is_empty();
        Ok(found.then(|| Listing { name: last_segment_or_host(&url), url, files, skipped }))
    }
}

#[async_trait]
impl Protocol for S3 {
    async fn probe(&self, url: &Url) -> Result<UrlTarget> {
        let (source, key) = (self.source(url).await?, object_key(url)?);
        if !key.is_empty()
            && !key.ends_with('/')
            && let Some(object) = source.head(&key).await?
        {
            let name = Some(last_segment_or_host(url));
            return Ok(UrlTarget::File(RemoteFile { name, ..remote_file(url.clone(), &object) }));
        }
        match self.list_folder(&source, url, &key).await? {
            Some(listing) => Ok(UrlTarget::Folder(listing)),
            None => {
                let text =
                    format!("{}: no object has this key or key prefix", super::display_url(url));
                Err(Error::new(Kind::NotFound, text))
            }
        }
    }

    async fn open(&self, remote: &RemoteFile, range: RangeRequest) -> Result<ByteStream> {
        let (source, key) = (self.source(&remote.url).await?, object_key(&remote.url)?);
        let len = match remote.len {
            Some(len) => len,
            None => match source.head(&key).await? {
                Some(object) => object.len,
                None => return Err(Error::new(Kind::NotFound, super::display_url(&remote.url))),
            },
        };
        let end = range.end.unwrap_or(len);
        if range.start > len || end > len {
            return Err(Error::new(Kind::Corrupt, super::display_url(&remote.url))
                .because(format!("the range exceeds the object, which has {len} bytes")));
        }
        if end <= range.start {
            return Ok(Box::pin(stream::empty()));
        }
        let etag = match &remote.validator {
            Some(Validator::ETag(etag)) => Some(etag.as_str()),
            _ => None,
        };
        let idle_timeout = Timeouts::from_options(&self.options).idle;
        source.open(&key, range.start..end, (len, etag), idle_timeout).await
    }
}

fn object_key(url: &Url) -> Result<String> {
    let path = decoded_path(url)?;
    Ok(path.strip_prefix('/').unwrap_or(&path).to_owned())
}

/// Refuses keys that cannot become a file name and a URL path: empty parts, `.`, `..` and NUL bytes.
fn reject_invalid_key(path: &str) -> Result<()> {
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) || path.contains('\0') {
        return Err(Error::new(Kind::Unsupported, format!("the key {path:?} is not a valid path")));
    }
    Ok(())
}

fn remote_file(url: Url, object: &SourceObject) -> RemoteFile {
    RemoteFile {
        len: Some(object.len),
        supports_ranges: true,
        validator: object.etag.clone().map(Validator::ETag),
        content_type: object.content_type.clone(),
        modified: object.modified,
        ..RemoteFile::from_url(url)
    }
}

async fn settings_for(url: &Url, options: &FetchOptions) -> Result<S3Settings> {
    let invalid = |text: String| Error::new(Kind::InvalidInput, text);
    let bucket = url.host_str().and_then(percent_decoded).filter(|bucket| !bucket.is_empty());
    let bucket = bucket.ok_or_else(|| invalid("an S3 URL has no bucket".into()).hint(URL_FORM))?;
    let mut settings = S3Settings { bucket, ..S3Settings::default() };
    if url.port().is_some() {
        return Err(invalid(
            "an S3 URL has a port: the server is set by the parameter endpoint".into(),
        )
        .hint(URL_FORM));
    }
    let mut endpoint = None;
    for (name, value) in url.query_pairs() {
        match &*name {
            "endpoint" => endpoint = Some(value.into_owned()),
            "region" => settings.region = Some(value.into_owned()),
            "path_style" => settings.path_style = Some(parse_flag(&name, &value)?),
            "anonymous" => settings.anonymous = parse_flag(&name, &value)?,
            // The value is omitted, because it may be a secret key.
            _ => {
                return Err(
                    invalid(format!("an S3 URL has the unknown parameter {name:?}")).hint(URL_FORM)
                );
            }
        }
    }
    let from_env = || {
        let names = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"];
        names.iter().find_map(|name| std::env::var(name).ok()).filter(|url| !url.is_empty())
    };
    if let Some(text) = endpoint.or_else(from_env) {
        let endpoint =
            Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let not_http = || {
            invalid("the endpoint of an S3 URL is not an http or https URL".into())
                .hint("use http://HOST or https://HOST, with :PORT if needed")
        };
        settings.endpoint = Some(endpoint.ok_or_else(not_http)?);
    }
    if settings.anonymous {
        return Ok(settings);
    }
    if let Some(login) = options.login_for(url) {
        let secret = match login.password {
            Some(secret) => secret.reveal()?,
            None => {
                let location = format!("S3 bucket {}", settings.bucket);
                options.passwords.password_for(&login.user, &location).await?
            }
        };
        settings.secret_access_key = Some(secret);
        settings.access_key_id = Some(login.user);
    }
    Ok(settings)
}

fn parse_flag(name: &str, value: &str) -> Result<bool> {
    value.parse().map_err(|_| {
        let text = format!("{name} of an S3 URL has the invalid value {value:?}");
        Error::new(Kind::InvalidInput, text).hint("use true or false")
    })
}

const URL_FORM: &str = "s3://bucket/key?endpoint=https://host&region=NAME&path_style=true&anonymous=true, \
     all parameters optional";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    async fn settings(url: &str) -> Result<S3Settings> {
        settings_for(&Url::parse(url).unwrap(), &FetchOptions::default()).await
    }

    #[tokio::test]
    async fn the_bucket_and_its_settings_come_from_the_url() {
        let settings =
            settings("s3://My-bucket/a/b?endpoint=http://h:9000&region=eu&path_style=true")
                .await
                .unwrap();
        assert_eq!((settings.bucket.as_str(), settings.path_style), ("My-bucket", Some(true)));
        assert_eq!(settings.endpoint.unwrap().as_str(), "http://h:9000/");
        assert_eq!(settings.region.as_deref(), Some("eu"));
        assert_eq!(object_key(&Url::parse("s3://b/a%20b/c?region=x").unwrap()).unwrap(), "a b/c");
    }

    #[tokio::test]
    async fn invalid_urls_are_refused_without_repeating_secrets() {
        for url in [
            "s3:///key",
            "s3://b:9000/key",
            "s3://b/key?secret_access_key=hunter2",
            "s3://b/key?endpoint=ftp://hunter2",
            "s3://b/key?path_style=perhaps",
            "s3://b/key?anonymous=perhaps",
        ] {
            let error = settings(url).await.unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidInput, "{url}");
            assert!(!error.report().contains("hunter2"), "{}", error.report());
        }
    }

    #[tokio::test]
    async fn a_login_supplies_the_access_keys() {
        let login = |password: Option<&str>| FetchOptions {
            login: Some(super::super::Login {
                user: "AKIA".into(),
                password: password.map(|text| Secret::Text(text.into())),
            }),
            ..FetchOptions::default()
        };
        let url = Url::parse("s3://b/k").unwrap();
        let found = settings_for(&url, &login(Some("s"))).await.unwrap();
        assert_eq!(found.access_key_id.as_deref(), Some("AKIA"));
        assert_eq!(found.secret_access_key.as_deref(), Some("s"));
        assert!(settings_for(&url, &login(None)).await.is_err());
        let anonymous = Url::parse("s3://b/k?anonymous=true").unwrap();
        let found = settings_for(&anonymous, &login(Some("s"))).await.unwrap();
        assert!(found.anonymous && found.access_key_id.is_none());
    }

    #[test]
    fn keys_that_are_invalid_paths_are_refused() {
        for path in ["a//b", "/a", "../a", "a/./b", "a\0b"] {
            assert_eq!(reject_invalid_key(path).unwrap_err().kind(), Kind::Unsupported, "{path:?}");
        }
        reject_invalid_key("a b/c#?.bin").unwrap();
    }
}
