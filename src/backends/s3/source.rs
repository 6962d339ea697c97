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
    client::{PATIENCE, Wire},
    errors::{Failure, Op, Place},
    get::{Sent, body, total},
    keys::has_no_keys,
    listing::NextPage,
};
use crate::{
    backends::{Body, unfit::is_page},
    error::{Error, Kind, Result},
};

/// Concurrent HEAD requests for objects whose length the listing lacks.
const AT_ONCE: usize = 8;

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
    place: Arc<Place>,
    /// Made at the first call, and replaced when the bucket names another region.
    wire: Mutex<Option<Arc<Wire>>>,
    /// Whether no credentials exist. Determined at the first call.
    keyless: OnceCell<bool>,
}

impl S3Source {
    /// Reads the settings and the environment only; ignores `prefix`. Without a region the default is tried, and the
    /// bucket's answer corrects it.
    #[must_use]
    pub fn new(mut settings: S3Settings) -> Self {
        let quirks = Quirks::of(settings.endpoint.as_ref());
        if settings.region.is_none() && settings.endpoint.is_none() {
            let given =
                std::env::var("AWS_REGION").or_else(|_| std::env::var("AWS_DEFAULT_REGION"));
            let given = given.ok().filter(|region| !region.is_empty());
            settings.region = Some(given.unwrap_or_else(|| "us-east-1".to_owned()));
        }
        let place = Arc::new(Place::of(&settings));
        Self { settings, quirks, place, wire: Mutex::new(None), keyless: OnceCell::new() }
    }

    /// Metadata of the object `key`; `None` when it does not exist.
    ///
    /// # Errors
    /// When the storage cannot be reached or refuses to answer, or does not state the object's length.
    pub async fn look(&self, key: &str) -> Result<Option<SourceObject>> {
        let found = self.in_its_region(|wire| async move {
            let request = wire.client.head_object().bucket(&wire.bucket).key(key).send();
            wire.call(Op::Head, key, PATIENCE, request).await
        });
        match found.await {
            Ok(found) if found.e_tag.is_none() && is_page(found.content_type.as_deref()) => {
                Err(Failure::page(Op::Head, key, &self.place).into())
            }
            Ok(found) => Ok(Some(SourceObject {
                key: key.to_owned(),
                len: found.content_length().and_then(|len| u64::try_from(len).ok()).ok_or_else(
                    || {
                        let text = format!("look at object {key} in {}", self.place);
                        Error::new(Kind::Unsupported, text).because("its length is not told")
                    },
                )?,
                etag: found.e_tag.and_then(quoted),
                modified: found.last_modified.and_then(time),
                content_type: found.content_type,
            })),
            Err(failure) if failure.is_missing() => Ok(None),
            Err(failure) => Err(self.told(failure)),
        }
    }

    /// The objects whose key starts with `prefix`, in key order, one page at a time.
    ///
    /// # Errors
    /// When the storage cannot be reached or refuses to answer, or its listing breaks off.
    pub async fn list(&self, prefix: &str, page: Option<&NextPage>) -> Result<SourcePage> {
        let listed =
            self.in_its_region(|wire| async move { wire.listed(prefix, page).await }).await;
        let listed = match listed {
            Ok(listed) => listed,
            Err(failure) if failure.is(Failure::is_senseless) => {
                let text = format!("not all is listed of {prefix:?} in {}", self.place);
                return Err(Error::new(Kind::Unavailable, text).because(Error::from(failure)));
            }
            Err(failure) => return Err(self.told(failure)),
        };
        let told = stream::iter(listed.objects).map(|object| self.told_of(object));
        let told: Vec<_> = told.buffered(AT_ONCE).try_collect().await?;
        let mut page = SourcePage { next: listed.next, ..SourcePage::default() };
        for told in told {
            match told {
                Ok(object) => page.objects.push(object),
                Err(refused) => page.refused.push(refused),
            }
        }
        Ok(page)
    }

    /// Metadata from a listing. When the length is missing there, a HEAD fetches it. The inner error concerns this
    /// object only.
    async fn told_of(&self, object: Object) -> Result<Result<SourceObject>> {
        let key = object.key.unwrap_or_default();
        // An object that a server generates on request may be listed with length 0.
        let len = object.size.and_then(|len| u64::try_from(len).ok()).filter(|len| *len > 0);
        let is_folder = key.ends_with('/') && object.size == Some(0);
        let Some(len) = len.or(is_folder.then_some(0)) else {
            let missing = || Error::new(Kind::NotFound, format!("object {key} in {}", self.place));
            return match self.look(&key).await {
                Ok(object) => Ok(object.ok_or_else(missing)),
                Err(e) if matches!(e.kind(), Kind::PermissionDenied | Kind::Unsupported) => {
                    Ok(Err(e))
                }
                Err(e) => Err(e),
            };
        };
        Ok(Ok(SourceObject {
            len,
            key,
            etag: object.e_tag.and_then(quoted),
            modified: object.last_modified.and_then(time),
            content_type: None,
        }))
    }

    /// Streams the bytes of `range`, which must not be empty, of the version with this `etag` and `len` bytes.
    /// `silence` is the idle timeout.
    ///
    /// # Errors
    /// `NotFound`; `Changed` when the object is another version; `Corrupt` when the object ends before the range
    /// does.
    pub async fn open(
        &self,
        key: &str,
        range: Range<u64>,
        (len, etag): (u64, Option<&str>),
        silence: Duration,
    ) -> Result<Body> {
        let subject = format!("get object {key} in {}", self.place);
        let bytes = format!("bytes={}-{}", range.start, range.end - 1);
        let bytes = bytes.as_str();
        let answer = self.in_its_region(|wire| async move {
            let request = wire
                .client
                .get_object()
                .bucket(&wire.bucket)
                .key(key)
                .range(bytes)
                .set_if_match(etag.map(str::to_owned))
                .send();
            wire.call(Op::Get, key, PATIENCE, request).await
        });
        let changed =
            || Error::new(Kind::Changed, subject.clone()).because("it is another object now");
        let answer = match answer.await {
            Ok(answer) => answer,
            Err(failure) if failure.is_changed() => return Err(changed()),
            Err(failure) => return Err(self.told(failure)),
        };
        // Some servers ignore `If-Match`.
        if let (Some(was), Some(is)) = (etag, answer.e_tag())
            && bare(was) != bare(is)
        {
            return Err(changed());
        }
        if answer.e_tag.is_none() && is_page(answer.content_type()) {
            return Err(Failure::page(Op::Get, key, &self.place).into());
        }
        match Sent::of(&answer, &range) {
            Sent::Asked if total(&answer).is_some_and(|total| total != len) => {
                return Err(changed());
            }
            Sent::Asked => {}
            Sent::Short { len } => {
                return Err(Error::new(Kind::Corrupt, subject)
                    .because(format!("it has {len} bytes, and more were asked for")));
            }
            Sent::Other(what) => {
                let error = Error::new(Kind::Unsupported, subject);
                return Err(error.because(format!("asked for {range:?}, sent {what}")));
            }
        }
        let cut = move |why| Error::new(Kind::Network, subject.clone()).because(why);
        Ok(body(answer.body, range.end - range.start, silence, cut))
    }

    async fn wire(&self) -> Result<Arc<Wire>> {
        let mut wire = self.wire.lock().await;
        if let Some(wire) = &*wire {
            return Ok(Arc::clone(wire));
        }
        let made = Wire::open(&self.settings().await, &self.quirks, "", &self.place).await?;
        Ok(Arc::clone(wire.insert(Arc::new(made))))
    }

    /// The settings, with signing off when no credentials exist: many buckets are public.
    async fn settings(&self) -> S3Settings {
        let look = || has_no_keys(&self.settings, &self.quirks, &self.place);
        let anonymous = self.settings.anonymous || *self.keyless.get_or_init(look).await;
        S3Settings { anonymous, ..self.settings.clone() }
    }

    fn told(&self, failure: Asked) -> Error {
        let error = Error::from(failure);
        let refused = matches!(error.kind(), Kind::PermissionDenied | Kind::Unauthenticated);
        if !refused || self.keyless.get() != Some(&true) {
            return error;
        }
        error.hint(
            "it was asked without keys, since none were found: set AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY, or give the access key with -u",
        )
    }

    /// Makes a call. When the bucket says that it is in another region, makes it again there.
    async fn in_its_region<T, F>(&self, ask: impl Fn(Arc<Wire>) -> F) -> Result<T, Asked>
    where
        F: Future<Output = Result<T, Box<Failure>>>,
    {
        let wire = self.wire().await?;
        let failure = match ask(Arc::clone(&wire)).await {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        let Some(region) = self.region_of(&wire, &failure).await else {
            return Err(failure.into());
        };
        tracing::debug!(region, "the bucket is in another region");
        let settings = S3Settings { region: Some(region), ..self.settings().await };
        let moved = Arc::new(Wire::open(&settings, &self.quirks, "", &self.place).await?);
        *self.wire.lock().await = Some(Arc::clone(&moved));
        Ok(ask(moved).await?)
    }

    /// The bucket's region, when the call failed because of it. A HEAD has no body to name it, so a listing is tried.
    async fn region_of(&self, wire: &Wire, failure: &Failure) -> Option<String> {
        if let Some(region) = failure.region() {
            return Some(region.to_owned());
        }
        if !failure.is_elsewhere() {
            return None;
        }
        let request = wire.client.list_objects_v2().bucket(&wire.bucket).max_keys(1).send();
        let failure = wire.call(Op::List, "\"\"", PATIENCE, request).await.err()?;
        failure.region().map(str::to_owned)
    }
}

/// An ETag with quotes, as in headers; some servers omit them in listings. `None` when it is empty.
fn quoted(tag: String) -> Option<String> {
    match bare(&tag) {
        "" => None,
        _ if tag.contains('"') => Some(tag),
        _ => Some(format!("\"{tag}\"")),
    }
}

/// An ETag without its quotes and without the mark of a weak one.
fn bare(tag: &str) -> &str {
    tag.trim_start_matches("W/").trim_matches('"')
}

/// Why a call failed: by its answer, or before it could be made.
#[derive(Debug)]
enum Asked {
    Failed(Box<Failure>),
    NotAsked(Error),
}

impl Asked {
    fn is(&self, what: fn(&Failure) -> bool) -> bool {
        matches!(self, Self::Failed(failure) if what(failure))
    }

    fn is_missing(&self) -> bool {
        self.is(Failure::is_missing)
    }

    fn is_changed(&self) -> bool {
        self.is(Failure::is_changed)
    }
}

impl From<Box<Failure>> for Asked {
    fn from(failure: Box<Failure>) -> Self {
        Self::Failed(failure)
    }
}

impl From<Error> for Asked {
    fn from(error: Error) -> Self {
        Self::NotAsked(error)
    }
}

impl From<Asked> for Error {
    fn from(asked: Asked) -> Self {
        match asked {
            Asked::Failed(failure) => failure.into(),
            Asked::NotAsked(error) => error,
        }
    }
}

fn time(time: DateTime) -> Option<SystemTime> {
    SystemTime::try_from(time).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_the_same_with_and_without_quotes() {
        for tag in ["692", "\"692\""] {
            assert_eq!(quoted(tag.into()).as_deref(), Some("\"692\""));
        }
        assert_eq!((quoted(String::new()), quoted("\"\"".into())), (None, None));
        assert!(bare("W/\"692\"") == bare("692") && bare("\"692\"") != bare("693"));
    }
}
