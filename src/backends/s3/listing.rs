//! Object listings, page by page. Supports servers with version 2 of the call, with version 1 only, and servers that
//! omit fields of either.
//!
//! When a server says that there is more but gives no continuation token, the next page starts after the last name. A
//! listing that breaks off, repeats in a circle, or has fewer objects than it counts is an error and never taken as
//! complete.

use aws_sdk_s3::types::Object;

use super::{
    client::{PATIENCE, Wire},
    errors::{Failure, Op},
};

pub(super) const GOES_NOT_ON: &str =
    "the listing does not go on: the server says that there is more, and not where";
const NAMELESS: &str = "the listing has an object whose name cannot be read";
const FOLDERS: &str =
    "the listing has common prefixes, which were not requested: objects below them are missing";
const LACKS_SOME: &str = "the listing does not go on: it has fewer objects than the server counts";

/// Objects in a full page, when the server does not state it.
const PAGE: usize = 1000;

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
    pub(super) fn text(&self) -> String {
        match self {
            Self::Token(token) => format!("t:{token}"),
            Self::After(key) => format!("a:{key}"),
            Self::Marker(key) => format!("m:{key}"),
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let (how, rest) = text.split_once(':')?;
        let rest = rest.to_owned();
        match how {
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
pub(super) struct Listed {
    pub(super) objects: Vec<Object>,
    /// Where the next page starts; `None` on the last page.
    pub(super) next: Option<NextPage>,
}

/// A page as the server sent it.
struct Page {
    objects: Vec<Object>,
    folders: usize,
    truncated: Option<bool>,
    token: Option<String>,
    /// Name after which the next page starts, when the server gives it.
    marker: Option<String>,
    is_first_version: bool,
    /// The number of objects and folders in the page, and the most that it may have, when the server states them.
    count: Option<i32>,
    most: Option<i32>,
}

impl Wire {
    /// The objects whose name in the bucket starts with `prefix`; with `page`, those of that page.
    pub(super) async fn listed(
        &self,
        prefix: &str,
        page: Option<&NextPage>,
    ) -> Result<Listed, Box<Failure>> {
        let subject = format!("{prefix:?}");
        let mut listed = match page {
            Some(NextPage::Marker(key)) => self.page_after(prefix, key, &subject).await?,
            page => self.page(prefix, page, &subject).await?,
        };
        // The SDK returns no name when it cannot parse the name.
        let has_name = |object: &Object| object.key.as_ref().is_some_and(|key| !key.is_empty());
        if !listed.objects.iter().all(has_name) {
            return Err(self.senseless(Op::List, &subject, NAMELESS));
        }
        if listed.folders > 0 {
            return Err(self.senseless(Op::List, &subject, FOLDERS));
        }
        let mut goes_on = page.and_then(NextPage::key).is_none_or(|key| listed.goes_on_after(key));
        if let Some(NextPage::After(key)) = page
            && !goes_on
        {
            listed = self.page_after(prefix, key, &subject).await?;
            goes_on = listed.goes_on_after(key);
        }
        let next = if goes_on { listed.next(page) } else { Err(GOES_NOT_ON) };
        let next = next.map_err(|why| self.senseless(Op::List, &subject, why))?;
        Ok(Listed { objects: listed.objects, next })
    }

    async fn page(
        &self,
        prefix: &str,
        page: Option<&NextPage>,
        subject: &str,
    ) -> Result<Page, Box<Failure>> {
        let request = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(prefix)
            .set_continuation_token(page.and_then(NextPage::token).map(str::to_owned))
            .set_start_after(page.and_then(NextPage::key).map(str::to_owned))
            .send();
        let found = self.call(Op::List, subject, PATIENCE, request).await?;
        Ok(Page {
            truncated: found.is_truncated,
            token: found.next_continuation_token.filter(|token| !token.is_empty()),
            marker: None,
            is_first_version: false,
            count: found.key_count,
            most: found.max_keys,
            folders: found.common_prefixes.unwrap_or_default().len(),
            objects: found.contents.unwrap_or_default(),
        })
    }

    async fn page_after(
        &self,
        prefix: &str,
        key: &str,
        subject: &str,
    ) -> Result<Page, Box<Failure>> {
        let request = self.client.list_objects().bucket(&self.bucket).prefix(prefix);
        let found = self.call(Op::List, subject, PATIENCE, request.marker(key).send()).await?;
        Ok(Page {
            truncated: found.is_truncated,
            token: None,
            marker: found.next_marker.filter(|marker| !marker.is_empty()),
            is_first_version: true,
            count: None,
            most: found.max_keys,
            folders: found.common_prefixes.unwrap_or_default().len(),
            objects: found.contents.unwrap_or_default(),
        })
    }
}

impl Page {
    fn last(&self) -> Option<&str> {
        self.objects.last()?.key.as_deref()
    }

    /// Removes the objects up to `key`, for servers that start with the key itself. False when the page ends with
    /// `key` and may not be the last: the server has sent the previous page again.
    fn goes_on_after(&mut self, key: &str) -> bool {
        let found = self.objects.iter().position(|object| object.key.as_deref() == Some(key));
        let known = found.map_or(0, |at| at + 1);
        if known > 0 && known == self.objects.len() && self.truncated != Some(false) {
            return false;
        }
        self.objects.drain(..known);
        true
    }

    /// Where the page after this one starts; `page` is the position of this one. The error says why it is unknown.
    fn next(&self, page: Option<&NextPage>) -> Result<Option<NextPage>, &'static str> {
        let most = self.most.and_then(|most| usize::try_from(most).ok()).unwrap_or(PAGE);
        let is_full = most > 0 && self.objects.len() >= most;
        let count = self.count.and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
        // After a key, some servers count that key too, so the count proves nothing.
        if count > self.objects.len() + self.folders && page.and_then(NextPage::key).is_none() {
            return Err(LACKS_SOME);
        }
        let next = match (self.truncated, &self.token) {
            (Some(false), _) => return Ok(None),
            (_, Some(token)) => NextPage::Token(token.clone()),
            (None, None) if !is_full => return Ok(None),
            _ => {
                let key = self.marker.as_deref().or(self.last()).ok_or(GOES_NOT_ON)?.to_owned();
                if self.is_first_version { NextPage::Marker(key) } else { NextPage::After(key) }
            }
        };
        // Names are in order. A next key that is not after the requested one leads in a circle.
        let was = page.and_then(NextPage::key);
        let is_circle = was.zip(next.key()).is_some_and(|(was, is)| is <= was);
        if is_circle || page == Some(&next) { Err(GOES_NOT_ON) } else { Ok(Some(next)) }
    }
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
            marker: None,
            is_first_version: false,
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
        assert_eq!(page(&["a", "b"], Some(false), Some("t")).next(None), Ok(None));
        assert_eq!(page(&["a"], None, None).next(None), Ok(None));
        assert_eq!(page(&["a", "b"], Some(true), Some("t")).next(None), Ok(Some(token("t"))));
        assert_eq!(page(&["a"], None, Some("t")).next(None), Ok(Some(token("t"))));
        assert_eq!(page(&["a", "b"], Some(true), None).next(None), Ok(Some(after.clone())));
        // A full page that does not say whether it is the last one.
        assert_eq!(page(&["a", "b"], None, None).next(None), Ok(Some(after)));
        let first = Page { is_first_version: true, ..page(&["a", "b"], Some(true), None) };
        assert_eq!(first.next(None), Ok(Some(NextPage::Marker("b".into()))));
        let said = Page { marker: Some("c".into()), ..first };
        assert_eq!(said.next(None), Ok(Some(NextPage::Marker("c".into()))));
    }

    #[test]
    fn a_listing_that_breaks_off_is_no_whole_one() {
        assert_eq!(page(&[], Some(true), None).next(None), Err(GOES_NOT_ON));
        let again = page(&["a"], Some(true), Some("t")).next(Some(&token("t")));
        assert_eq!(again, Err(GOES_NOT_ON));
        let fewer = Page { count: Some(3), ..page(&["a", "b"], Some(false), None) };
        assert_eq!(fewer.next(None), Err(LACKS_SOME));
        let circle = page(&["a", "b"], Some(true), None).next(Some(&NextPage::After("c".into())));
        assert_eq!(circle, Err(GOES_NOT_ON));
    }

    #[test]
    fn the_same_page_again_is_known_and_a_key_that_comes_twice_is_left_out() {
        assert!(!page(&["a", "b"], Some(true), None).goes_on_after("b"));
        let mut inclusive = page(&["b", "c"], Some(true), None);
        assert!(inclusive.goes_on_after("b"));
        assert_eq!((inclusive.objects.len(), inclusive.last()), (1, Some("c")));
        // The last page: nothing follows `b`.
        let mut end = page(&["b"], Some(false), None);
        assert!(end.goes_on_after("b") && end.objects.is_empty());
    }

    #[test]
    fn where_a_listing_goes_on_can_be_written_down() {
        for page in [token("a:b"), NextPage::After("k".into()), NextPage::Marker(String::new())] {
            assert_eq!(NextPage::parse(&page.text()), Some(page));
        }
        assert_eq!(NextPage::parse("k"), None);
    }
}
