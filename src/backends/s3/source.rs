//! Objects that are not ours: any key of any bucket, to be read and nothing else. What `protocols` fetches from.
//!
//! It is here because the client is: one set-up, one table of answers. What differs from a storage is that nobody has
//! checked the settings before, so a bucket that turns out to be in another region is asked again there.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_sdk_s3::{primitives::DateTime, types::Object};
use tokio::sync::{Mutex, OnceCell};

use super::{
    Quirks, S3Settings,
    client::{PATIENCE, Wire},
    errors::{Failure, Op, Place},
    get::{Sent, body},
    keys::has_no_keys,
};
use crate::{
    backends::{Body, unfit::is_page},
    error::{Error, Kind, Result},
};

/// What is told of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceObject {
    pub key: String,
    pub len: u64,
    /// Quotes included.
    pub etag: Option<String>,
    pub modified: Option<SystemTime>,
    pub content_type: Option<String>,
}

/// Some of a listing, and what gives the objects that follow.
#[derive(Debug, Clone, Default)]
pub struct SourcePage {
    pub objects: Vec<SourceObject>,
    pub next: Option<NextPage>,
}

/// Where a listing goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextPage {
    /// Where the server said.
    Token(String),
    /// Behind this key: the server said that there is more, and no more than that.
    After(String),
    /// The same, for servers that know the first version of the call only.
    Marker(String),
}

/// A bucket to read from.
#[derive(Debug)]
pub struct S3Source {
    settings: S3Settings,
    quirks: Quirks,
    place: Arc<Place>,
    /// Made at the first call, and again when the bucket says where it is.
    wire: Mutex<Option<Arc<Wire>>>,
    /// Nobody has keys: found out at the first call.
    keyless: OnceCell<bool>,
}

impl S3Source {
    /// Looks at the settings alone; `prefix` has no meaning here. Without a region, one is tried that the bucket then
    /// corrects.
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

    /// What is told of the object `key`; `None` when there is none.
    ///
    /// # Errors
    /// Only when the place cannot be asked.
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
                etag: found.e_tag.map(quoted),
                modified: found.last_modified.and_then(time),
                content_type: found.content_type,
            })),
            Err(failure) if failure.is_missing() => Ok(None),
            Err(failure) => Err(self.told(failure)),
        }
    }

    /// The objects whose key begins with `prefix`, in the order of their keys, a page at a time.
    ///
    /// # Errors
    /// When the place cannot be asked, or its listing breaks off.
    pub async fn list(&self, prefix: &str, page: Option<&NextPage>) -> Result<SourcePage> {
        let mut listed = match page {
            Some(NextPage::Marker(key)) => self.page_by_marker(prefix, key).await?,
            page => self.page(prefix, page).await?,
        };
        if let Some(NextPage::After(key)) = page
            && !listed.goes_on_after(key)
        {
            listed = self.page_by_marker(prefix, key).await?;
        }
        if let Some(NextPage::After(key) | NextPage::Marker(key)) = page
            && !listed.goes_on_after(key)
        {
            return Err(self.breaks_off(prefix));
        }
        let next = match listed.next(page) {
            Ok(next) => next,
            Err(BreaksOff) => return Err(self.breaks_off(prefix)),
        };
        let mut objects = Vec::with_capacity(listed.objects.len());
        for object in listed.objects {
            objects.push(self.told_of(object, prefix).await?);
        }
        Ok(SourcePage { objects, next })
    }

    async fn page(&self, prefix: &str, page: Option<&NextPage>) -> Result<Page> {
        let token = page.and_then(|page| match page {
            NextPage::Token(token) => Some(token.clone()),
            _ => None,
        });
        let after = page.and_then(|page| match page {
            NextPage::After(key) => Some(key.clone()),
            _ => None,
        });
        let (subject, token, after) = (&format!("{prefix:?}"), &token, &after);
        let found = self.in_its_region(|wire| async move {
            let request = wire
                .client
                .list_objects_v2()
                .bucket(&wire.bucket)
                .prefix(prefix)
                .set_continuation_token(token.clone())
                .set_start_after(after.clone())
                .send();
            wire.call(Op::List, subject, PATIENCE, request).await
        });
        let found = found.await.map_err(|failure| self.told(failure))?;
        Ok(Page {
            truncated: found.is_truncated,
            token: found.next_continuation_token.filter(|token| !token.is_empty()),
            by_marker: false,
            count: found.key_count,
            most: found.max_keys,
            folders: found.common_prefixes.unwrap_or_default().len(),
            objects: found.contents.unwrap_or_default(),
        })
    }

    async fn page_by_marker(&self, prefix: &str, marker: &str) -> Result<Page> {
        let subject = &format!("{prefix:?}");
        let found = self.in_its_region(|wire| async move {
            let request = wire
                .client
                .list_objects()
                .bucket(&wire.bucket)
                .prefix(prefix)
                .marker(marker)
                .send();
            wire.call(Op::List, subject, PATIENCE, request).await
        });
        let found = found.await.map_err(|failure| self.told(failure))?;
        Ok(Page {
            truncated: found.is_truncated,
            token: None,
            by_marker: true,
            count: None,
            most: found.max_keys,
            folders: found.common_prefixes.unwrap_or_default().len(),
            objects: found.contents.unwrap_or_default(),
        })
    }

    fn breaks_off(&self, prefix: &str) -> Error {
        let text =
            format!("listing {prefix:?} in {} does not go on: not all is listed", self.place);
        Error::new(Kind::Unavailable, text)
    }

    /// What a listing says of an object. Without a length there, the object itself is asked.
    async fn told_of(&self, object: Object, prefix: &str) -> Result<SourceObject> {
        let Some(key) = object.key else {
            let text = format!("listing {prefix:?} in {} has an object without a key", self.place);
            return Err(Error::new(Kind::Unsupported, text));
        };
        let Some(len) = object.size.and_then(|len| u64::try_from(len).ok()) else {
            let missing = || Error::new(Kind::NotFound, format!("object {key} in {}", self.place));
            return self.look(&key).await?.ok_or_else(missing);
        };
        Ok(SourceObject {
            len,
            key,
            etag: object.e_tag.map(quoted),
            modified: object.last_modified.and_then(time),
            content_type: None,
        })
    }

    /// The bytes of `range`, which is not empty, of the version that has this `etag`. Between two parts of them the
    /// server may take as long as `silence`.
    ///
    /// # Errors
    /// `NotFound`; `Changed` when it is another version; `Corrupt` when the object ends before the range does.
    pub async fn open(
        &self,
        key: &str,
        range: Range<u64>,
        etag: Option<&str>,
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
        // Some servers do not look at the condition.
        if let (Some(was), Some(is)) = (etag, answer.e_tag())
            && bare(was) != bare(is)
        {
            return Err(changed());
        }
        if answer.e_tag.is_none() && is_page(answer.content_type()) {
            return Err(Failure::page(Op::Get, key, &self.place).into());
        }
        match Sent::of(&answer, &range) {
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

    /// Without keys requests are not signed: many buckets may be read by everybody.
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

    /// Asks, and asks again in the region that the bucket says it is in.
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

    /// Where the bucket is, when the refusal was about that. An answer to a HEAD has no body to say it in.
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

/// A page as it came.
struct Page {
    objects: Vec<Object>,
    folders: usize,
    truncated: Option<bool>,
    token: Option<String>,
    by_marker: bool,
    /// How many objects and folders there are in it, and the most it may have, where the server says.
    count: Option<i32>,
    most: Option<i32>,
}

/// There is more, and no way to it.
#[derive(Debug, PartialEq)]
struct BreaksOff;

impl Page {
    fn last(&self) -> Option<&str> {
        self.objects.last()?.key.as_deref()
    }

    /// Whether it is not the page that ends with `key` again. Servers that begin with the key itself lose it here.
    fn goes_on_after(&mut self, key: &str) -> bool {
        let found = self.objects.iter().position(|object| object.key.as_deref() == Some(key));
        let known = found.map_or(0, |at| at + 1);
        if known > 0 && known == self.objects.len() && self.truncated != Some(false) {
            return false;
        }
        self.objects.drain(..known);
        true
    }

    /// Where the page behind this one is, which was asked for by `page`.
    fn next(&self, page: Option<&NextPage>) -> Result<Option<NextPage>, BreaksOff> {
        let most = self.most.and_then(|most| usize::try_from(most).ok()).unwrap_or(1000);
        let is_full = most > 0 && self.objects.len() >= most;
        let count = self.count.and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
        if count > self.objects.len() + self.folders && !matches!(page, Some(NextPage::After(_))) {
            return Err(BreaksOff);
        }
        match (self.truncated, &self.token) {
            (Some(false), _) => Ok(None),
            (_, Some(token)) => {
                let next = NextPage::Token(token.clone());
                if page == Some(&next) { Err(BreaksOff) } else { Ok(Some(next)) }
            }
            (None, None) if !is_full => Ok(None),
            _ => {
                let last = self.last().ok_or(BreaksOff)?.to_owned();
                let by_key = if self.by_marker { NextPage::Marker } else { NextPage::After };
                Ok(Some(by_key(last)))
            }
        }
    }
}

/// A tag as headers have it: some servers leave the quotes out in listings.
fn quoted(tag: String) -> String {
    match tag.contains('"') || tag.is_empty() {
        true => tag,
        false => format!("\"{tag}\""),
    }
}

/// A tag without its quotes and without the mark of a weak one.
fn bare(tag: &str) -> &str {
    tag.trim_start_matches("W/").trim_matches('"')
}

/// What became of a call: an answer that is no success, or none because nothing could be asked.
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

    fn page(keys: &[&str], truncated: Option<bool>, token: Option<&str>) -> Page {
        let object = |key: &&str| Object::builder().key(*key).size(1).build();
        Page {
            objects: keys.iter().map(object).collect(),
            folders: 0,
            truncated,
            token: token.map(str::to_owned),
            by_marker: false,
            count: None,
            most: Some(2),
        }
    }

    fn token(text: &str) -> NextPage {
        NextPage::Token(text.into())
    }

    #[test]
    fn a_listing_goes_on_where_the_server_says_or_behind_its_last_key() {
        let after = NextPage::After("b".into());
        assert_eq!(page(&["a", "b"], Some(false), None).next(None), Ok(None));
        assert_eq!(page(&["a"], None, None).next(None), Ok(None));
        assert_eq!(page(&["a", "b"], Some(true), Some("t")).next(None), Ok(Some(token("t"))));
        assert_eq!(page(&["a"], None, Some("t")).next(None), Ok(Some(token("t"))));
        assert_eq!(page(&["a", "b"], Some(true), None).next(None), Ok(Some(after.clone())));
        // As long as it may be, and nothing said of its end.
        assert_eq!(page(&["a", "b"], None, None).next(None), Ok(Some(after)));
    }

    #[test]
    fn a_listing_that_breaks_off_is_no_whole_one() {
        assert_eq!(page(&[], Some(true), None).next(None), Err(BreaksOff));
        let again = page(&["a"], Some(true), Some("t")).next(Some(&token("t")));
        assert_eq!(again, Err(BreaksOff));
        let fewer = Page { count: Some(3), ..page(&["a", "b"], Some(false), None) };
        assert_eq!(fewer.next(None), Err(BreaksOff));
    }

    #[test]
    fn the_same_page_again_is_known_and_a_key_that_comes_twice_is_left_out() {
        assert!(!page(&["a", "b"], Some(true), None).goes_on_after("b"));
        let mut inclusive = page(&["b", "c"], Some(true), None);
        assert!(inclusive.goes_on_after("b"));
        assert_eq!((inclusive.objects.len(), inclusive.last()), (1, Some("c")));
        // Nothing is behind it.
        let mut end = page(&["b"], Some(false), None);
        assert!(end.goes_on_after("b") && end.objects.is_empty());
    }

    #[test]
    fn tags_are_the_same_with_and_without_quotes() {
        assert_eq!(quoted("692".into()), "\"692\"");
        assert_eq!(quoted("\"692\"".into()), "\"692\"");
        assert!(bare("W/\"692\"") == bare("692") && bare("\"692\"") != bare("693"));
    }
}
