//! Object listings, page by page. Supports servers with version 2 of the call, with version 1 only, and servers that
//! omit fields of either.
//!
//! When a server says that there is more but gives no continuation token, the next page starts after the last name. A
//! listing that breaks off, repeats in a circle, or has fewer objects than it counts is an error and never taken as
//! complete.

use aws_sdk_s3::types::Object;

use super::{
    client::{CALL_TIMEOUT, S3Client},
    errors::{S3Error, S3Op},
};

pub(super) const NO_NEXT_PAGE: &str =
    "incomplete listing: the server reports more objects without a position to continue from";
const UNREADABLE_NAME: &str = "the listing contains an object with an unreadable name";
const COMMON_PREFIXES: &str = "the listing contains common prefixes, which were not requested: objects below them are missing";
const MISSING_OBJECTS: &str = "incomplete listing: it has fewer objects than the server counts";

/// Objects in a full page, when the server does not state it.
const DEFAULT_PAGE_LEN: usize = 1000;

/// Where the next page starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextPage {
    /// The server's continuation token.
    Token(String),
    /// After this key: the server said that there is more and gave no token.
    After(String),
    /// The same, for servers that know only version 1 of the call.
    Marker(String),
}

impl NextPage {
    /// As text, which [`NextPage::parse`] reads.
    pub(super) fn encode(&self) -> String {
        match self {
            Self::Token(token) => format!("t:{token}"),
            Self::After(key) => format!("a:{key}"),
            Self::Marker(key) => format!("m:{key}"),
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let (tag, rest) = text.split_once(':')?;
        let rest = rest.to_owned();
        match tag {
            "t" => Some(Self::Token(rest)),
            "a" => Some(Self::After(rest)),
            "m" => Some(Self::Marker(rest)),
            _ => None,
        }
    }

    fn token(&self) -> Option<&str> {
        if let Self::Token(token) = self { Some(token) } else { None }
    }

    /// The key after which the page starts.
    fn key(&self) -> Option<&str> {
        if let Self::After(key) | Self::Marker(key) = self { Some(key) } else { None }
    }
}

/// One page of a listing, with the server's object names.
#[derive(Debug)]
pub(super) struct ListedPage {
    pub(super) objects: Vec<Object>,
    /// Where the next page starts; `None` on the last page.
    pub(super) next: Option<NextPage>,
}

/// A page as the server sent it.
struct RawPage {
    objects: Vec<Object>,
    prefixes: usize,
    truncated: Option<bool>,
    token: Option<String>,
    /// Name after which the next page starts, when the server gives it.
    marker: Option<String>,
    is_v1: bool,
    /// The number of objects and folders in the page, and the most that it may have, when the server states them.
    key_count: Option<i32>,
    max_keys: Option<i32>,
}

impl S3Client {
    /// The objects whose name in the bucket starts with `prefix`; with `page`, those of that page.
    pub(super) async fn list_page(
        &self,
        prefix: &str,
        page: Option<&NextPage>,
    ) -> Result<ListedPage, Box<S3Error>> {
        let subject = format!("{prefix:?}");
        let mut listed = match page {
            Some(NextPage::Marker(key)) => self.list_v1(prefix, key, &subject).await?,
            page => self.list_v2(prefix, page, &subject).await?,
        };
        // The SDK returns no name when it cannot parse the name.
        let has_name = |object: &Object| object.key.as_ref().is_some_and(|key| !key.is_empty());
        if !listed.objects.iter().all(has_name) {
            return Err(self.contradiction(S3Op::List, &subject, UNREADABLE_NAME));
        }
        if listed.prefixes > 0 {
            return Err(self.contradiction(S3Op::List, &subject, COMMON_PREFIXES));
        }
        let mut advances = page.and_then(NextPage::key).is_none_or(|key| listed.skip_through(key));
        if let Some(NextPage::After(key)) = page
            && !advances
        {
            listed = self.list_v1(prefix, key, &subject).await?;
            advances = listed.skip_through(key);
        }
        let next = if advances { listed.next_page(page) } else { Err(NO_NEXT_PAGE) };
        let next = next.map_err(|why| self.contradiction(S3Op::List, &subject, why))?;
        Ok(ListedPage { objects: listed.objects, next })
    }

    async fn list_v2(
        &self,
        prefix: &str,
        page: Option<&NextPage>,
        subject: &str,
    ) -> Result<RawPage, Box<S3Error>> {
        let request = self
            .sdk
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(prefix)
            .set_continuation_token(page.and_then(NextPage::token).map(str::to_owned))
            .set_start_after(page.and_then(NextPage::key).map(str::to_owned))
            .send();
        let found = self.call(S3Op::List, subject, CALL_TIMEOUT, request).await?;
        Ok(RawPage {
            truncated: found.is_truncated,
            token: found.next_continuation_token.filter(|token| !token.is_empty()),
            marker: None,
            is_v1: false,
            key_count: found.key_count,
            max_keys: found.max_keys,
            prefixes: found.common_prefixes.unwrap_or_default().len(),
            objects: found.contents.unwrap_or_default(),
        })
    }

    async fn list_v1(
        &self,
        prefix: &str,
        key: &str,
        subject: &str,
    ) -> Result<RawPage, Box<S3Error>> {
        let request = self.sdk.list_objects().bucket(&self.bucket).prefix(prefix);
        let found =
            self.call(S3Op::List, subject, CALL_TIMEOUT, request.marker(key).send()).await?;
        Ok(RawPage {
            truncated: found.is_truncated,
            token: None,
            marker: found.next_marker.filter(|marker| !marker.is_empty()),
            is_v1: true,
            key_count: None,
            max_keys: found.max_keys,
            prefixes: found.common_prefixes.unwrap_or_default().len(),
            objects: found.contents.unwrap_or_default(),
        })
    }
}

impl RawPage {
    fn last_key(&self) -> Option<&str> {
        self.objects.last()?.key.as_deref()
    }

    /// Removes the objects up to `key`, for servers that start with the key itself. False when the page ends with
    /// `key` and may not be the last: the server has sent the previous page again.
    fn skip_through(&mut self, key: &str) -> bool {
        let found = self.objects.iter().position(|object| object.key.as_deref() == Some(key));
        let skipped = found.map_or(0, |at| at + 1);
        if skipped > 0 && skipped == self.objects.len() && self.truncated != Some(false) {
            return false;
        }
        self.objects.drain(..skipped);
        true
    }

    /// Where the page after this one starts; `page` is the position of this one. The error says why it is unknown.
    fn next_page(&self, page: Option<&NextPage>) -> Result<Option<NextPage>, &'static str> {
        let max_keys = self
            .max_keys
            .and_then(|max_keys| usize::try_from(max_keys).ok())
            .unwrap_or(DEFAULT_PAGE_LEN);
        let is_full = max_keys > 0 && self.objects.len() >= max_keys;
        let key_count =
            self.key_count.and_then(|key_count| usize::try_from(key_count).ok()).unwrap_or(0);
        // After a key, some servers count that key too, so the count proves nothing.
        if key_count > self.objects.len() + self.prefixes && page.and_then(NextPage::key).is_none()
        {
            return Err(MISSING_OBJECTS);
        }
        let next = match (self.truncated, &self.token) {
            (Some(false), _) => return Ok(None),
            (_, Some(token)) => NextPage::Token(token.clone()),
            (None, None) if !is_full => return Ok(None),
            _ => {
                let key =
                    self.marker.as_deref().or(self.last_key()).ok_or(NO_NEXT_PAGE)?.to_owned();
                if self.is_v1 { NextPage::Marker(key) } else { NextPage::After(key) }
            }
        };
        // Names are in order. A next key that is not after the requested one leads in a circle.
        let previous = page.and_then(NextPage::key);
        let is_cycle = previous.zip(next.key()).is_some_and(|(previous, next)| next <= previous);
        if is_cycle || page == Some(&next) { Err(NO_NEXT_PAGE) } else { Ok(Some(next)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(keys: &[&str], truncated: Option<bool>, token: Option<&str>) -> RawPage {
        let object = |key: &&str| Object::builder().key(*key).size(1).build();
        RawPage {
            objects: keys.iter().map(object).collect(),
            prefixes: 0,
            truncated,
            token: token.map(str::to_owned),
            marker: None,
            is_v1: false,
            key_count: None,
            max_keys: Some(2),
        }
    }

    fn token(text: &str) -> NextPage {
        NextPage::Token(text.into())
    }

    #[test]
    fn the_next_page_starts_at_the_token_or_after_the_last_key() {
        let after = NextPage::After("b".into());
        assert_eq!(page(&["a", "b"], Some(false), Some("t")).next_page(None), Ok(None));
        assert_eq!(page(&["a"], None, None).next_page(None), Ok(None));
        assert_eq!(page(&["a", "b"], Some(true), Some("t")).next_page(None), Ok(Some(token("t"))));
        assert_eq!(page(&["a"], None, Some("t")).next_page(None), Ok(Some(token("t"))));
        assert_eq!(page(&["a", "b"], Some(true), None).next_page(None), Ok(Some(after.clone())));
        // A full page that does not say whether it is the last one.
        assert_eq!(page(&["a", "b"], None, None).next_page(None), Ok(Some(after)));
        let first = RawPage { is_v1: true, ..page(&["a", "b"], Some(true), None) };
        assert_eq!(first.next_page(None), Ok(Some(NextPage::Marker("b".into()))));
        let with_marker = RawPage { marker: Some("c".into()), ..first };
        assert_eq!(with_marker.next_page(None), Ok(Some(NextPage::Marker("c".into()))));
    }

    #[test]
    fn an_incomplete_listing_is_an_error() {
        assert_eq!(page(&[], Some(true), None).next_page(None), Err(NO_NEXT_PAGE));
        let repeated = page(&["a"], Some(true), Some("t")).next_page(Some(&token("t")));
        assert_eq!(repeated, Err(NO_NEXT_PAGE));
        let fewer = RawPage { key_count: Some(3), ..page(&["a", "b"], Some(false), None) };
        assert_eq!(fewer.next_page(None), Err(MISSING_OBJECTS));
        let circle =
            page(&["a", "b"], Some(true), None).next_page(Some(&NextPage::After("c".into())));
        assert_eq!(circle, Err(NO_NEXT_PAGE));
    }

    #[test]
    fn a_repeated_page_is_rejected_and_a_repeated_key_is_skipped() {
        assert!(!page(&["a", "b"], Some(true), None).skip_through("b"));
        let mut inclusive = page(&["b", "c"], Some(true), None);
        assert!(inclusive.skip_through("b"));
        assert_eq!((inclusive.objects.len(), inclusive.last_key()), (1, Some("c")));
        // The last page: nothing follows `b`.
        let mut end = page(&["b"], Some(false), None);
        assert!(end.skip_through("b") && end.objects.is_empty());
    }

    #[test]
    fn list_positions_survive_a_round_trip_through_text() {
        for page in [token("a:b"), NextPage::After("k".into()), NextPage::Marker(String::new())] {
            assert_eq!(NextPage::parse(&page.encode()), Some(page));
        }
        assert_eq!(NextPage::parse("k"), None);
    }
}
