//! Objects in a bucket of any S3-compatible server: AWS, the services that copy its interface, a server at home.
//!
//! The path of a byte in: the parts of a payload are hashed in memory and sent uncopied as the body of one PUT, or of
//! one part of a multipart upload. The signature covers the hash, so the server refuses bytes that changed on the
//! way. After a PUT without an answer, a HEAD finds out whether the object exists. The path of a byte out: the
//! headers of a ranged GET are checked first, then the body is collected into one buffer of exactly the requested
//! length.
//!
//! `client` sets up the SDK and makes all calls. `credentials` finds the credentials and the region, `endpoint`
//! normalises the endpoint. `cause` takes the SDK's errors apart, `errors` is the one table of what answers mean, and
//! `quirks` holds what is known of a service by its host name. `object` and `get` move whole objects and ranges,
//! `listing` lists them, `upload` makes an object of parts, `abandoned_uploads` finds and aborts abandoned uploads, and
//! `source` reads objects that bae did not write.
//!
//! This module does not retry: `Retrying` wraps it and honours `Retry-After`. It sends no checksum headers unless the
//! server asks for them, and no conditional puts (servers differ, and some ignore the condition). A success status
//! counts as an acknowledgement only when the answer looks like S3. Nothing is sent, and no AWS file is read, before
//! the first call.

mod abandoned_uploads;
mod cause;
mod client;
mod credentials;
mod encoding;
mod endpoint;
mod errors;
mod get;
mod listing;
mod object;
mod quirks;
mod source;
mod upload;

use std::{fmt, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_sdk_s3::presigning::PresigningConfig;
use bytes::Bytes;
use tokio::sync::OnceCell;
use url::Url;

use self::{
    client::S3Client,
    errors::{BucketAddress, S3Op},
    quirks::Quirks,
    upload::S3Upload,
};
pub use self::{
    listing::NextPage,
    source::{S3Source, SourceObject, SourcePage},
};
use super::{
    BackendState, Body, Capabilities, Key, MultipartUpload, ObjectVersion, Page, PageToken,
    Payload, StorageBackend, UnfinishedUpload, UploadLayout,
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
const MAX_LINK_EXPIRY: Duration = Duration::from_secs(7 * 24 * 3600);

/// A bucket, or a folder in one.
#[derive(Debug)]
pub struct S3Backend {
    settings: S3Settings,
    quirks: Quirks,
    address: Arc<BucketAddress>,
    prefix: String,
    backend_state: Arc<dyn BackendState>,
    client: OnceCell<Arc<S3Client>>,
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
    #[allow(clippy::unused_async, reason = "opening is asynchronous for every kind of storage")]
    pub async fn open(settings: S3Settings, backend_state: Arc<dyn BackendState>) -> Result<Self> {
        let mut settings = settings;
        settings.bucket = settings.bucket.trim().to_owned();
        let quirks = Quirks::of(settings.endpoint.as_ref());
        let address = Arc::new(BucketAddress::of(&settings));
        let invalid = |what: &str| Error::new(Kind::InvalidInput, format!("{address}: {what}"));
        if settings.access_key_id.is_some() != settings.secret_access_key.is_some() {
            return Err(invalid("only one of access_key_id and secret_access_key is set"));
        }
        let folder = settings.prefix.as_deref().unwrap_or_default().trim_matches('/');
        if settings.bucket.is_empty()
            || settings.bucket.contains(|c: char| c.is_control() || c == '/')
        {
            return Err(invalid("the bucket name is invalid"));
        }
        if folder.contains(char::is_control) {
            return Err(invalid("the prefix contains a control character"));
        }
        if folder.len() > MAX_PREFIX {
            return Err(invalid(&format!("the prefix is longer than {MAX_PREFIX} bytes")));
        }
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        Ok(Self { settings, quirks, address, prefix, backend_state, client: OnceCell::new() })
    }

    async fn client(&self) -> Result<&Arc<S3Client>> {
        let open = || async {
            let client =
                S3Client::open(&self.settings, &self.quirks, &self.prefix, &self.address).await;
            client.map(Arc::new)
        };
        self.client.get_or_try_init(open).await
    }
}

#[async_trait]
impl StorageBackend for S3Backend {
    async fn put(&self, key: &Key, payload: Payload) -> Result<()> {
        self.client().await?.put(key, &payload).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.client().await?.get(key, range).await
    }

    async fn open(&self, key: &Key, range: Range<u64>) -> Result<Body> {
        self.client().await?.body_of(key, range.clone(), &range).await
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>> {
        Ok(self.client().await?.head(key).await?)
    }

    async fn version(&self, key: &Key) -> Result<Option<ObjectVersion>> {
        Ok(self.client().await?.version(key).await?)
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.client().await?.delete(key).await
    }

    async fn list(&self, prefix: &str, page: Option<&PageToken>) -> Result<Page> {
        self.client().await?.list(prefix, page).await
    }

    async fn begin_upload(
        &self,
        key: &Key,
        layout: UploadLayout,
    ) -> Result<Box<dyn MultipartUpload>> {
        let (client, backend_state) =
            (Arc::clone(self.client().await?), Arc::clone(&self.backend_state));
        let copy_support = self.capabilities().copy;
        Ok(Box::new(
            S3Upload::begin(client, backend_state, copy_support, key.clone(), layout).await?,
        ))
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<UnfinishedUpload>> {
        self.client().await?.unfinished_uploads(&*self.backend_state, prefix).await
    }

    async fn abort_upload(&self, upload: &UnfinishedUpload) -> Result<()> {
        self.client().await?.abort(&*self.backend_state, &upload.key, &upload.id.0).await
    }

    async fn url(&self, key: &Key, expiry: Duration) -> Result<Url> {
        if let Some(base) = &self.settings.public_url {
            let mut url = base.clone();
            let folder = base.path().trim_end_matches('/');
            url.set_path(&format!(
                "{folder}/{}",
                encoding::percent_encode(&format!("{}{key}", self.prefix))
            ));
            return Ok(url);
        }
        if expiry > MAX_LINK_EXPIRY {
            return Err(Error::new(
                Kind::InvalidInput,
                "a signed link is valid for at most 7 days",
            )
            .hint("choose a shorter time, or set public_url of the storage"));
        }
        let client = self.client().await?;
        // Signed with the server's time, because the server checks the expiry.
        let presigning =
            PresigningConfig::builder().start_time(client.now()).expires_in(expiry).build();
        let presigning = presigning.map_err(|e| {
            Error::new(Kind::InvalidInput, format!("link with expiry {expiry:?}")).because(e)
        })?;
        let link = client.sdk.get_object().bucket(&client.bucket).key(client.name(key));
        let link = client
            .call(S3Op::Link, key.as_str(), client::CALL_TIMEOUT, link.presigned(presigning))
            .await?;
        Url::parse(link.uri())
            // The cause is left out, because it may contain the signed link.
            .map_err(|_| Error::new(Kind::Internal, format!("link to {key} in {}", self.address)))
    }

    fn capabilities(&self) -> Capabilities {
        self.quirks.capabilities()
    }

    async fn free_space(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    fn is_remote(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::InMemoryState;

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
        S3Backend::open(settings, Arc::new(InMemoryState::default())).await
    }

    #[tokio::test]
    async fn invalid_settings_are_rejected() {
        let incomplete = S3Settings { secret_access_key: None, ..settings() };
        assert_eq!(open(incomplete).await.unwrap_err().kind(), Kind::InvalidInput);
        let long = S3Settings { prefix: Some("x".repeat(300)), ..settings() };
        assert_eq!(open(long).await.unwrap_err().kind(), Kind::InvalidInput);
    }

    #[tokio::test]
    async fn secrets_are_not_shown() {
        let backend = open(settings()).await.unwrap();
        backend.client().await.unwrap();
        let shown = format!("{backend:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    /// reqwest and the SDK each bring a TLS provider; neither may panic when both are in the process.
    #[tokio::test]
    async fn a_refused_connection_is_a_network_error_that_names_the_bucket() {
        let _other = reqwest::Client::new();
        let backend = open(settings()).await.unwrap();
        let error = backend.put(&Key::new("k").unwrap(), Payload::default()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Network, "{}", error.report());
        let report = error.report();
        assert!(report.contains("put object k in bucket \"music\" at 127.0.0.1:9"), "{report}");
        assert!(report.contains("refused") && !report.contains("hunter2"), "{report}");
    }

    #[tokio::test]
    async fn links_are_public_or_signed_with_an_expiry() {
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
