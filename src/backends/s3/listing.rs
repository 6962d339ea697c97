//! Listings page by page, from servers that know their second version, from those that know only the first, and from those
//! that leave out half of what either says.
//!
//! A server that says that there is more and not where is asked for the names behind the last one. What is refused: taking a
//! listing for whole that breaks off, goes round in a circle, or has fewer objects than it says.

use aws_sdk_s3::types::Object;

use super::{
    client::{PATIENCE, Wire},
    errors::{Failure, Op},
};

pub(super) const GOES_NOT_ON: &str =
    "the listing does not go on: the server says that there is more, and not where";
const NAMELESS: &str = "the listing has an object whose name cannot be read";
const LACKS_SOME: &str = "the listing does not go on: it has fewer objects than the server counts";

/// The most objects of a page, where a server does not say.
const PAGE: usize = 1000;

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

    /// The key that it is behind.
    fn key(&self) -> Option<&str> {
        if let Self::After(key) | Self::Marker(key) = self { Some(key) } else { None }
    }
}

/// Some of a listing, as the place has it.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) objects: Vec<Object>,
    /// Gives the objects that follow.
    pub(super) next: Option<NextPage>,
}

/// A page as it came.
struct Page {
    objects: Vec<Object>,
    folders: usize,
    truncated: Option<bool>,
    token: Option<String>,
    /// The name that the next page follows, where it is said.
    marker: Option<String>,
    is_first_version: bool,
    /// How many objects and folders there are in it, and the most it may have, where the server says.
    count: Option<i32>,
    most: Option<i32>,
}

impl Wire {
    /// The objects whose name in the bucket begins with `prefix`, and after `page` where that is given.
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
        // The SDK takes a name in a form that it does not read for none.
        let has_name = |object: &Object| object.key.as_ref().is_some_and(|key| !key.is_empty());
        if !listed.objects.iter().all(has_name) {
            return Err(self.senseless(Op::List, &subject, NAMELESS));
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

    /// Where the page behind this one is, which was asked for by `page`; or why it cannot be told.
    fn next(&self, page: Option<&NextPage>) -> Result<Option<NextPage>, &'static str> {
        let most = self.most.and_then(|most| usize::try_from(most).ok()).unwrap_or(PAGE);
        let is_full = most > 0 && self.objects.len() >= most;
        let count = self.count.and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
        // Behind a key, that key itself may be counted.
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
        // Names come in their order: what is not behind the key that was asked for leads in a circle.
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
        // A page as long as the server gives them, which does not say whether it is the last.
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
        // Nothing is behind it.
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
