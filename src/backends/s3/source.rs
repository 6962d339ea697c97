//! Read-only access to any object in any bucket, for objects that bae did not write. `protocols` fetches from it.
//!
//! It is in this module to share the client and the table of errors. Its settings were not checked before, unlike
//! those of a storage. So when the bucket turns out to be in another region, the request is repeated there.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_sdk_s3::{primitives::DateTime, types::Object};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::{Mutex, OnceCell};

use super::{
    Quirks, S3Settings,
    client::{CALL_TIMEOUT, S3Client},
    credentials::has_no_credentials,
    errors::{BucketAddress, S3Error, S3Op},
    get::{ReceivedRange, body, total},
    listing::NextPage,
};
use crate::{
    backends::{Body, endpoint_error::is_html_type},
    error::{Error, Kind, Result},
    hints::{Setting, hint},
};

/// Concurrent HEAD requests for objects whose length the listing lacks.
const MAX_HEADS: usize = 8;

/// Metadata of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceObject {
    pub key: String,
    pub len: u64,
    /// With its quotes.
    pub etag: Option<String>,
    pub modified: Option<SystemTime>,
    pub content_type: Option<String>,
}

/// One page of a listing, and where the next page starts.
#[derive(Debug, Default)]
pub struct SourcePage {
    pub objects: Vec<SourceObject>,
    /// Why objects are missing that are listed: the server refuses to describe them.
    pub refused: Vec<Error>,
    pub next: Option<NextPage>,
}

/// A bucket to read from.
#[derive(Debug)]
pub struct S3Source {
    settings: S3Settings,
    quirks: Quirks,
    address: Arc<BucketAddress>,
    /// Made at the first call, and replaced when the bucket names another region.
    client: Mutex<Option<Arc<S3Client>>>,
    /// Whether no credentials exist. Determined at the first call.
    no_credentials: OnceCell<bool>,
}

impl S3Source {
    /// Reads the settings and the environment only; ignores `prefix`. Without a region the default is tried, and the
    /// bucket's answer corrects it.
    #[must_use]
    pub fn new(mut settings: S3Settings) -> Self {
        let quirks = Quirks::of(settings.endpoint.as_ref());
        if settings.region.is_none() && settings.endpoint.is_none() {
            let env_region =
                std::env::var("AWS_REGION").or_else(|_| std::env::var("AWS_DEFAULT_REGION"));
            let env_region = env_region.ok().filter(|region| !region.is_empty());
            settings.region = Some(env_region.unwrap_or_else(|| "us-east-1".to_owned()));
        }
        let address = Arc::new(BucketAddress::of(&settings));
        Self {
            settings,
            quirks,
            address,
            client: Mutex::new(None),
            no_credentials: OnceCell::new(),
        }
    }

    /// Metadata of the object `key`; `None` when it does not exist.
    ///
    /// # Errors
    /// When the storage cannot be reached or refuses to answer, or does not state the object's length.
    pub async fn head(&self, key: &str) -> Result<Option<SourceObject>> {
        let found = self.in_bucket_region(|client| async move {
            let request = client.sdk.head_object().bucket(&client.bucket).key(key).send();
            client.call(S3Op::Head, key, CALL_TIMEOUT, request).await
        });
        match found.await {
            Ok(found) if found.e_tag.is_none() && is_html_type(found.content_type.as_deref()) => {
                Err(S3Error::web_page(S3Op::Head, key, &self.address).into())
            }
            Ok(found) => Ok(Some(SourceObject {
                key: key.to_owned(),
                len: found.content_length().and_then(|len| u64::try_from(len).ok()).ok_or_else(
                    || {
                        let text = format!("head object {key} in {}", self.address);
                        Error::new(Kind::Unsupported, text)
                            .because("the server does not report its length")
                    },
                )?,
                etag: found.e_tag.and_then(quote_e_tag),
                modified: found.last_modified.and_then(to_system_time),
                content_type: found.content_type,
            })),
            Err(failure) if failure.is_missing() => Ok(None),
            Err(failure) => Err(self.with_credentials_hint(failure)),
        }
    }

    /// The objects whose key starts with `prefix`, in key order, one page at a time.
    ///
    /// # Errors
    /// When the storage cannot be reached or refuses to answer, or its listing breaks off.
    pub async fn list(&self, prefix: &str, page: Option<&NextPage>) -> Result<SourcePage> {
        let listed = self
            .in_bucket_region(|client| async move { client.list_page(prefix, page).await })
            .await;
        let listed = match listed {
            Ok(listed) => listed,
            Err(failure) if failure.is(S3Error::is_contradictory) => {
                let text = format!("cannot list all objects under {prefix:?} in {}", self.address);
                return Err(Error::new(Kind::Unavailable, text).because(Error::from(failure)));
            }
            Err(failure) => return Err(self.with_credentials_hint(failure)),
        };
        let described = stream::iter(listed.objects).map(|object| self.describe(object));
        let described: Vec<_> = described.buffered(MAX_HEADS).try_collect().await?;
        let mut page = SourcePage { next: listed.next, ..SourcePage::default() };
        for object in described {
            match object {
                Ok(object) => page.objects.push(object),
                Err(refused) => page.refused.push(refused),
            }
        }
        Ok(page)
    }

    /// Metadata from a listing. When the length is missing there, a HEAD fetches it. The inner error concerns this
    /// object only.
    async fn describe(&self, object: Object) -> Result<Result<SourceObject>> {
        let key = object.key.unwrap_or_default();
        // An object that a server generates on request may be listed with length 0.
        let len = object.size.and_then(|len| u64::try_from(len).ok()).filter(|len| *len > 0);
        let is_folder = key.ends_with('/') && object.size == Some(0);
        let Some(len) = len.or(is_folder.then_some(0)) else {
            let not_found =
                || Error::new(Kind::NotFound, format!("object {key} in {}", self.address));
            return match self.head(&key).await {
                Ok(object) => Ok(object.ok_or_else(not_found)),
                Err(e) if matches!(e.kind(), Kind::PermissionDenied | Kind::Unsupported) => {
                    Ok(Err(e))
                }
                Err(e) => Err(e),
            };
        };
        Ok(Ok(SourceObject {
            len,
            key,
            etag: object.e_tag.and_then(quote_e_tag),
            modified: object.last_modified.and_then(to_system_time),
            content_type: None,
        }))
    }

    /// Streams the bytes of `range`, which must not be empty, of the version with this `etag` and `len` bytes.
    /// `idle_timeout` applies between two reads of the body.
    ///
    /// # Errors
    /// `NotFound`; `Changed` when the object is another version; `Corrupt` when the object ends before the range
    /// does.
    pub async fn open(
        &self,
        key: &str,
        range: Range<u64>,
        (len, etag): (u64, Option<&str>),
        idle_timeout: Duration,
    ) -> Result<Body> {
        let subject = format!("get object {key} in {}", self.address);
        let bytes = format!("bytes={}-{}", range.start, range.end - 1);
        let bytes = bytes.as_str();
        let answer = self.in_bucket_region(|client| async move {
            let request = client
                .sdk
                .get_object()
                .bucket(&client.bucket)
                .key(key)
                .range(bytes)
                .set_if_match(etag.map(str::to_owned))
                .send();
            client.call(S3Op::Get, key, CALL_TIMEOUT, request).await
        });
        let changed =
            || Error::new(Kind::Changed, subject.clone()).because("the object has changed");
        let answer = match answer.await {
            Ok(answer) => answer,
            Err(failure) if failure.is_changed() => return Err(changed()),
            Err(failure) => return Err(self.with_credentials_hint(failure)),
        };
        // Some servers ignore `If-Match`.
        if let (Some(expected), Some(received)) = (etag, answer.e_tag())
            && bare_e_tag(expected) != bare_e_tag(received)
        {
            return Err(changed());
        }
        if answer.e_tag.is_none() && is_html_type(answer.content_type()) {
            return Err(S3Error::web_page(S3Op::Get, key, &self.address).into());
        }
        match ReceivedRange::of(&answer, &range) {
            ReceivedRange::Requested if total(&answer).is_some_and(|total| total != len) => {
                return Err(changed());
            }
            ReceivedRange::Requested => {}
            ReceivedRange::Short { len } => {
                return Err(Error::new(Kind::Corrupt, subject)
                    .because(format!("it has {len} bytes, but more were requested")));
            }
            ReceivedRange::Other(received) => {
                let error = Error::new(Kind::Unsupported, subject);
                return Err(error.because(format!("requested {range:?}, received {received}")));
            }
        }
        let to_error = move |why| Error::new(Kind::Network, subject.clone()).because(why);
        Ok(body(answer.body, range.end - range.start, idle_timeout, to_error))
    }

    async fn client(&self) -> Result<Arc<S3Client>> {
        let mut client = self.client.lock().await;
        if let Some(client) = &*client {
            return Ok(Arc::clone(client));
        }
        let opened =
            S3Client::open(&self.settings().await, &self.quirks, "", &self.address).await?;
        Ok(Arc::clone(client.insert(Arc::new(opened))))
    }

    /// The settings, with signing off when no credentials exist: many buckets are public.
    async fn settings(&self) -> S3Settings {
        let probe = || has_no_credentials(&self.settings, &self.quirks, &self.address);
        let anonymous = self.settings.anonymous || *self.no_credentials.get_or_init(probe).await;
        S3Settings { anonymous, ..self.settings.clone() }
    }

    fn with_credentials_hint(&self, failure: CallError) -> Error {
        let error = Error::from(failure);
        let refused = matches!(error.kind(), Kind::PermissionDenied | Kind::Unauthenticated);
        if !refused || self.no_credentials.get() != Some(&true) {
            return error;
        }
        error.hint(hint![
            "the request was not signed, because no credentials were found: set AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY, or give the access key with ",
            Setting::User,
        ])
    }

    /// Makes a call. When the bucket says that it is in another region, makes it again there.
    async fn in_bucket_region<T, F>(
        &self,
        call: impl Fn(Arc<S3Client>) -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, Box<S3Error>>>,
    {
        let client = self.client().await?;
        let failure = match call(Arc::clone(&client)).await {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        let Some(region) = self.bucket_region(&client, &failure).await else {
            return Err(failure.into());
        };
        tracing::debug!(region, "the bucket is in another region");
        let settings = S3Settings { region: Some(region), ..self.settings().await };
        let corrected = Arc::new(S3Client::open(&settings, &self.quirks, "", &self.address).await?);
        *self.client.lock().await = Some(Arc::clone(&corrected));
        Ok(call(corrected).await?)
    }

    /// The bucket's region, when the call failed because of it. A HEAD has no body to name it, so a listing is tried.
    async fn bucket_region(&self, client: &S3Client, failure: &S3Error) -> Option<String> {
        if let Some(region) = failure.suggested_region() {
            return Some(region.to_owned());
        }
        if !failure.may_be_wrong_region() {
            return None;
        }
        let request = client.sdk.list_objects_v2().bucket(&client.bucket).max_keys(1).send();
        let failure = client.call(S3Op::List, "\"\"", CALL_TIMEOUT, request).await.err()?;
        failure.suggested_region().map(str::to_owned)
    }
}

/// An ETag with quotes, as in headers; some servers omit them in listings. `None` when it is empty.
fn quote_e_tag(tag: String) -> Option<String> {
    match bare_e_tag(&tag) {
        "" => None,
        _ if tag.contains('"') => Some(tag),
        _ => Some(format!("\"{tag}\"")),
    }
}

/// An ETag without its quotes and without the mark of a weak one.
fn bare_e_tag(tag: &str) -> &str {
    tag.trim_start_matches("W/").trim_matches('"')
}

/// Why a call failed: by its answer, or before it could be made.
#[derive(Debug)]
enum CallError {
    Response(Box<S3Error>),
    NotSent(Error),
}

impl CallError {
    fn is(&self, predicate: fn(&S3Error) -> bool) -> bool {
        matches!(self, Self::Response(failure) if predicate(failure))
    }

    fn is_missing(&self) -> bool {
        self.is(S3Error::is_missing)
    }

    fn is_changed(&self) -> bool {
        self.is(S3Error::is_changed)
    }
}

impl From<Box<S3Error>> for CallError {
    fn from(failure: Box<S3Error>) -> Self {
        Self::Response(failure)
    }
}

impl From<Error> for CallError {
    fn from(error: Error) -> Self {
        Self::NotSent(error)
    }
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Response(failure) => failure.into(),
            CallError::NotSent(error) => error,
        }
    }
}

fn to_system_time(time: DateTime) -> Option<SystemTime> {
    SystemTime::try_from(time).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e_tags_match_with_and_without_quotes() {
        for tag in ["692", "\"692\""] {
            assert_eq!(quote_e_tag(tag.into()).as_deref(), Some("\"692\""));
        }
        assert_eq!((quote_e_tag(String::new()), quote_e_tag("\"\"".into())), (None, None));
        assert!(
            bare_e_tag("W/\"692\"") == bare_e_tag("692")
                && bare_e_tag("\"692\"") != bare_e_tag("693")
        );
    }
}
