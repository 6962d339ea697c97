//! Objects in a bucket of anything that speaks S3: AWS, the services that copy its interface, a server at home.
//!
//! The path of a byte: a payload's parts are hashed where they lie in memory and sent as they are, as the body of one
//! PUT (or of one part of a multipart upload) whose signature covers the hash, so that the server refuses bytes that
//! changed on their way; a ranged GET comes back into one buffer of exactly the length asked for, its head checked
//! first. After a PUT that got no answer the object is looked for before anything is said.
//!
//! [`client`](self) sets the SDK up and is the one way to call it, with `keys` and by a `route`; `cause` takes its errors
//! apart and `errors` is the one table of what answers mean, `quirks` what is known of a place by its host; `object` and
//! `get` move whole objects and ranges, `listing` lists them, `upload` makes an object of parts, `unfinished` finds and
//! frees what was begun and left; `source` reads objects that others keep.
//!
//! What it refuses: retrying (`Retrying` is around it and honours `Retry-After`), checksum headers where they are not
//! asked for and conditional puts (places differ, some lie), taking a good status for an acknowledgement where nothing
//! of a storage is in the answer, asking anything of the network or reading any AWS file before it must.

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

/// Which bucket, where, and with which keys.
#[derive(Clone, Default)]
pub struct S3Settings {
    pub bucket: String,
    /// The folder in the bucket that everything goes into.
    pub prefix: Option<String>,
    /// `None` for AWS.
    pub endpoint: Option<Url>,
    /// `None` for what the endpoint or the AWS configuration says.
    pub region: Option<String>,
    /// `None` for what suits the endpoint.
    pub path_style: Option<bool>,
    /// Both or neither; without them keys are looked for the way AWS tools do: environment, profile files, the command
    /// in them, web identity, the metadata service.
    pub access_key_id: Option<String>,
    pub secret_access_key: Option<String>,
    /// Requests are not signed: for buckets that everybody may read.
    pub anonymous: bool,
    /// Where the bucket can be read by everyone.
    pub public_url: Option<Url>,
    /// Certificates (PEM) of authorities to trust beside the system's, each of which was looked at before.
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

/// The longest prefix: with the longest key it is as long a name as S3 takes.
const MAX_PREFIX: usize = 1024 - Key::MAX - 1;
/// Links that are signed are good for so long at most.
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
    /// What the service at `endpoint` (AWS without one) can do, as far as its name tells.
    #[must_use]
    pub fn capabilities_at(endpoint: Option<&Url>) -> Capabilities {
        Quirks::of(endpoint).capabilities()
    }

    /// Looks at the settings alone. The first call reads what else there is of AWS configuration, and connects.
    ///
    /// # Errors
    /// `InvalidInput` when the settings cannot be right.
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
        // By the server's clock: a link is checked by it.
        let terms = PresigningConfig::builder().start_time(wire.now()).expires_in(expiry).build();
        let terms = terms.map_err(|e| {
            Error::new(Kind::InvalidInput, format!("a link for {expiry:?}")).because(e)
        })?;
        let link = wire.client.get_object().bucket(&wire.bucket).key(wire.name(key));
        let link =
            wire.call(Op::Link, key.as_str(), client::PATIENCE, link.presigned(terms)).await?;
        Url::parse(link.uri())
            // Without the cause, which may show the link.
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

    /// reqwest and the SDK in one process: each brings its TLS, and neither may panic for want of a provider.
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
