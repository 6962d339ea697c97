//! Objects in a bucket of any S3-compatible server: AWS, the services that copy its interface, a server at home.
//!
//! The path of a byte in: the parts of a payload are hashed in memory and sent uncopied as the body of one PUT, or of
//! one part of a multipart upload. The signature covers the hash, so the server refuses bytes that changed on the
//! way. After a PUT without an answer, a HEAD finds out whether the object exists. The path of a byte out: the
//! headers of a ranged GET are checked first, then the body is collected into one buffer of exactly the requested
//! length.
//!
//! `client` sets up the SDK and makes all calls. `keys` finds the credentials and the region, `route` normalises the
//! endpoint. `cause` takes the SDK's errors apart, `errors` is the one table of what answers mean, and `quirks` holds
//! what is known of a service by its host name. `object` and `get` move whole objects and ranges, `listing` lists
//! them, `upload` makes an object of parts, `unfinished` finds and aborts abandoned uploads, and `source` reads
//! objects that bae did not write.
//!
//! This module does not retry: `Retrying` wraps it and honours `Retry-After`. It sends no checksum headers unless the
//! server asks for them, and no conditional puts (servers differ, and some ignore the condition). A success status
//! counts as an acknowledgement only when the answer looks like S3. Nothing is sent, and no AWS file is read, before
//! the first call.

mod cause;
mod client;
mod errors;
mod get;
mod keys;
mod listing;
mod names;
mod object;
mod quirks;
mod route;
mod source;
mod unfinished;
mod upload;

use std::{fmt, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_sdk_s3::presigning::PresigningConfig;
use bytes::Bytes;
use tokio::sync::OnceCell;
use url::Url;

use self::{
    client::Wire,
    errors::{Op, Place},
    quirks::Quirks,
    upload::S3Upload,
};
pub use self::{
    listing::NextPage,
    source::{S3Source, SourceObject, SourcePage},
};
use super::{
    Body, Capabilities, Key, Notes, Page, PageToken, Payload, Shape, Stamp, StorageBackend,
    Unfinished, Upload,
};
use crate::error::{Error, Kind, Result};

/// Bucket, endpoint and credentials of a storage.
#[derive(Clone, Default)]
pub struct S3Settings {
    pub bucket: String,
    /// Folder in the bucket that holds all objects.
    pub prefix: Option<String>,
    /// `None` for AWS.
    pub endpoint: Option<Url>,
    /// `None` to take it from the endpoint or the AWS configuration.
    pub region: Option<String>,
    /// `None` to decide by the endpoint.
    pub path_style: Option<bool>,
    /// Set both or neither. Without them credentials are searched as AWS tools do: environment, profile files and the
    /// `credential_process` in them, web identity, the metadata service.
    pub access_key_id: Option<String>,
    pub secret_access_key: Option<String>,
    /// Requests are not signed: for public buckets.
    pub anonymous: bool,
    /// Base URL under which the bucket is public.
    pub public_url: Option<Url>,
    /// PEM certificates of authorities to trust in addition to the system's. The caller has validated them.
    pub authorities: Vec<String>,
}

impl fmt::Debug for S3Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Settings")
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .field("endpoint", &self.endpoint.as_ref().map(Url::as_str))
            .field("region", &self.region)
            .field("path_style", &self.path_style)
            .field("keys", &self.access_key_id.as_ref().map(|_| ".."))
            .finish_non_exhaustive()
    }
}

/// Longest prefix in bytes. Together with the longest key it reaches S3's limit of 1024.
const MAX_PREFIX: usize = 1024 - Key::MAX - 1;
/// Longest validity of a signed link.
const LONGEST_LINK: Duration = Duration::from_secs(7 * 24 * 3600);

/// A bucket, or a folder in one.
#[derive(Debug)]
pub struct S3Backend {
    settings: S3Settings,
    quirks: Quirks,
    place: Arc<Place>,
    prefix: String,
    notes: Arc<dyn Notes>,
    wire: OnceCell<Arc<Wire>>,
}

impl S3Backend {
    /// What the service at `endpoint` (AWS for `None`) can do, as far as its host name tells.
    #[must_use]
    pub fn capabilities_at(endpoint: Option<&Url>) -> Capabilities {
        Quirks::of(endpoint).capabilities()
    }

    /// Checks the settings only. The first call reads the rest of the AWS configuration and connects.
    ///
    /// # Errors
    /// `InvalidInput` when the settings are invalid.
    #[allow(
        clippy::unused_async,
        reason = "opening a place is asynchronous for every kind of place"
    )]
    pub async fn open(settings: S3Settings, notes: Arc<dyn Notes>) -> Result<Self> {
        let mut settings = settings;
        settings.bucket = settings.bucket.trim().to_owned();
        let quirks = Quirks::of(settings.endpoint.as_ref());
        let place = Arc::new(Place::of(&settings));
        let bad = |what: &str| Error::new(Kind::InvalidInput, format!("{place}: {what}"));
        if settings.access_key_id.is_some() != settings.secret_access_key.is_some() {
            return Err(bad("of access_key_id and secret_access_key only one is given"));
        }
        let folder = settings.prefix.as_deref().unwrap_or_default().trim_matches('/');
        if settings.bucket.is_empty()
            || settings.bucket.contains(|c: char| c.is_control() || c == '/')
        {
            return Err(bad("the name of the bucket cannot be one"));
        }
        if folder.contains(char::is_control) {
            return Err(bad("the prefix has a control character in it"));
        }
        if folder.len() > MAX_PREFIX {
            return Err(bad(&format!("the prefix is longer than {MAX_PREFIX} bytes")));
        }
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        Ok(Self { settings, quirks, place, prefix, notes, wire: OnceCell::new() })
    }

    async fn wire(&self) -> Result<&Arc<Wire>> {
        let open = || async {
            let wire = Wire::open(&self.settings, &self.quirks, &self.prefix, &self.place).await;
            wire.map(Arc::new)
        };
        self.wire.get_or_try_init(open).await
    }
}

#[async_trait]
impl StorageBackend for S3Backend {
    async fn put(&self, key: &Key, payload: Payload) -> Result<()> {
        self.wire().await?.put(key, &payload).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.wire().await?.get(key, range).await
    }

    async fn open(&self, key: &Key, range: Range<u64>) -> Result<Body> {
        self.wire().await?.body_of(key, range.clone(), &range).await
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>> {
        Ok(self.wire().await?.head(key).await?)
    }

    async fn stamp(&self, key: &Key) -> Result<Option<Stamp>> {
        Ok(self.wire().await?.stamp(key).await?)
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.wire().await?.delete(key).await
    }

    async fn list(&self, prefix: &str, page: Option<&PageToken>) -> Result<Page> {
        self.wire().await?.list(prefix, page).await
    }

    async fn begin(&self, key: &Key, shape: Shape) -> Result<Box<dyn Upload>> {
        let (wire, notes) = (Arc::clone(self.wire().await?), Arc::clone(&self.notes));
        let copying = self.capabilities().copy;
        Ok(Box::new(S3Upload::begin(wire, notes, copying, key.clone(), shape).await?))
    }

    async fn unfinished(&self, prefix: &str) -> Result<Vec<Unfinished>> {
        self.wire().await?.unfinished(&*self.notes, prefix).await
    }

    async fn abort(&self, upload: &Unfinished) -> Result<()> {
        self.wire().await?.abort(&*self.notes, &upload.key, &upload.id.0).await
    }

    async fn url(&self, key: &Key, expiry: Duration) -> Result<Url> {
        if let Some(base) = &self.settings.public_url {
            let mut url = base.clone();
            let folder = base.path().trim_end_matches('/');
            url.set_path(&format!("{folder}/{}", names::encoded(&format!("{}{key}", self.prefix))));
            return Ok(url);
        }
        if expiry > LONGEST_LINK {
            return Err(Error::new(Kind::InvalidInput, "a signed link is good for 7 days at most")
                .hint("ask for less, or set public_url of the storage"));
        }
        let wire = self.wire().await?;
        // Signed with the server's time, because the server checks the expiry.
        let terms = PresigningConfig::builder().start_time(wire.now()).expires_in(expiry).build();
        let terms = terms.map_err(|e| {
            Error::new(Kind::InvalidInput, format!("a link for {expiry:?}")).because(e)
        })?;
        let link = wire.client.get_object().bucket(&wire.bucket).key(wire.name(key));
        let link =
            wire.call(Op::Link, key.as_str(), client::PATIENCE, link.presigned(terms)).await?;
        Url::parse(link.uri())
            // The cause is left out, because it may contain the signed link.
            .map_err(|_| Error::new(Kind::Internal, format!("link to {key} in {}", self.place)))
    }

    fn capabilities(&self) -> Capabilities {
        self.quirks.capabilities()
    }

    async fn free_room(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    fn is_remote(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::MemoryNotes;

    fn settings() -> S3Settings {
        S3Settings {
            bucket: "music".into(),
            prefix: Some("/a/b/".into()),
            endpoint: Some(Url::parse("https://127.0.0.1:9/").unwrap()),
            access_key_id: Some("id".into()),
            secret_access_key: Some("hunter2".into()),
            ..S3Settings::default()
        }
    }

    async fn open(settings: S3Settings) -> Result<S3Backend> {
        S3Backend::open(settings, Arc::new(MemoryNotes::default())).await
    }

    #[tokio::test]
    async fn settings_that_cannot_be_right_are_refused() {
        let half = S3Settings { secret_access_key: None, ..settings() };
        assert_eq!(open(half).await.unwrap_err().kind(), Kind::InvalidInput);
        let long = S3Settings { prefix: Some("x".repeat(300)), ..settings() };
        assert_eq!(open(long).await.unwrap_err().kind(), Kind::InvalidInput);
    }

    #[tokio::test]
    async fn secrets_are_not_shown() {
        let backend = open(settings()).await.unwrap();
        backend.wire().await.unwrap();
        let shown = format!("{backend:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    /// reqwest and the SDK each bring a TLS provider; neither may panic when both are in the process.
    #[tokio::test]
    async fn a_place_where_nobody_listens_is_a_network_error_that_names_it() {
        let _other = reqwest::Client::new();
        let backend = open(settings()).await.unwrap();
        let error = backend.put(&Key::new("k").unwrap(), Payload::default()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Network, "{}", error.report());
        let said = error.report();
        assert!(said.contains("put object k in bucket \"music\" at 127.0.0.1:9"), "{said}");
        assert!(said.contains("refused") && !said.contains("hunter2"), "{said}");
    }

    #[tokio::test]
    async fn links_are_public_or_signed_and_not_for_ever() {
        let key = Key::new("Björk/a b+c.flac").unwrap();
        let day = Duration::from_secs(86_400);
        let signed = open(settings()).await.unwrap();
        let link = signed.url(&key, day).await.unwrap();
        assert_eq!(link.path(), "/music/a/b/Bj%C3%B6rk/a%20b%2Bc.flac");
        assert!(link.query().unwrap().contains("X-Amz-Expires=86400"), "{:?}", link.query());
        let e = signed.url(&key, 8 * day).await.unwrap_err();
        assert!(e.kind() == Kind::InvalidInput && e.hint_text().is_some());
        let public_url = Some(Url::parse("https://cdn.example/x/").unwrap());
        let public = open(S3Settings { public_url, ..settings() }).await.unwrap();
        assert_eq!(
            public.url(&key, 8 * day).await.unwrap().as_str(),
            "https://cdn.example/x/a/b/Bj%C3%B6rk/a%20b%2Bc.flac"
        );
    }
}
