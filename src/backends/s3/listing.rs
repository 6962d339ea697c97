//! Listings page by page, from servers that know their second version and from those that know only the first.
//!
//! A server of the first version says that there is more without a token; the names that follow are then asked for by
//! the last one. What it refuses: taking a listing for complete that says it is not.

use aws_sdk_s3::types::Object;

use super::{
    client::{PATIENCE, Wire},
    errors::{Failure, Op},
};

/// Before a token of the second version, and before the name that a page of the first follows.
const TOKEN: &str = "t:";
const MARKER: &str = "m:";

/// Some of a listing, as the place has it.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) objects: Vec<Object>,
    /// Gives the objects that follow.
    pub(super) next: Option<String>,
}

/// What a page says of those after it.
struct End {
    truncated: bool,
    token: Option<String>,
    /// The name that the next page follows, where it is said.
    marker: Option<String>,
}

impl Wire {
    /// The objects whose name in the bucket begins with `prefix`, and after `page` where that is given.
    pub(super) async fn page(
        &self,
        prefix: &str,
        page: Option<&str>,
    ) -> Result<Listed, Box<Failure>> {
        let subject = format!("{prefix:?}");
        let (objects, end) = match page.and_then(|page| page.strip_prefix(MARKER)) {
            Some(marker) => self.page_after(prefix, marker, &subject).await?,
            None => {
                let token = page.and_then(|page| page.strip_prefix(TOKEN)).map(str::to_owned);
                self.page_at(prefix, token, &subject).await?
            }
        };
        let next = next(end, &objects, page);
        let next = next.map_err(|why| self.senseless(Op::List, &subject, why))?;
        Ok(Listed { objects, next })
    }

    async fn page_at(
        &self,
        prefix: &str,
        token: Option<String>,
        subject: &str,
    ) -> Result<(Vec<Object>, End), Box<Failure>> {
        let request = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(prefix)
            .set_continuation_token(token)
            .send();
        let found = self.call(Op::List, subject, PATIENCE, request).await?;
        let (truncated, token) = (found.is_truncated == Some(true), found.next_continuation_token);
        Ok((found.contents.unwrap_or_default(), End { truncated, token, marker: None }))
    }

    async fn page_after(
        &self,
        prefix: &str,
        marker: &str,
        subject: &str,
    ) -> Result<(Vec<Object>, End), Box<Failure>> {
        let request = self.client.list_objects().bucket(&self.bucket).prefix(prefix);
        let request = request.marker(marker).send();
        let found = self.call(Op::List, subject, PATIENCE, request).await?;
        let (truncated, marker) = (found.is_truncated == Some(true), found.next_marker);
        Ok((found.contents.unwrap_or_default(), End { truncated, token: None, marker }))
    }
}

/// Where the listing goes on behind `page`, or why it cannot.
fn next(end: End, objects: &[Object], page: Option<&str>) -> Result<Option<String>, &'static str> {
    if !end.truncated {
        return Ok(None);
    }
    let next = match end.token.filter(|token| !token.is_empty()) {
        Some(token) => format!("{TOKEN}{token}"),
        None => {
            let last = objects.last().and_then(Object::key);
            let after = end.marker.as_deref().or(last).ok_or(GOES_NOT_ON)?;
            format!("{MARKER}{after}")
        }
    };
    // Names come in their order: a marker before the last one leads in a circle.
    let before = page.and_then(|page| page.strip_prefix(MARKER));
    let circle = before.zip(next.strip_prefix(MARKER)).is_some_and(|(was, is)| is <= was);
    if circle || page == Some(next.as_str()) { Err(GOES_NOT_ON) } else { Ok(Some(next)) }
}

pub(super) const GOES_NOT_ON: &str =
    "the listing does not go on: the server says that there is more, and not where";

#[cfg(test)]
mod tests {
    use super::*;

    fn end(token: Option<&str>) -> End {
        End { truncated: true, token: token.map(str::to_owned), marker: None }
    }

    fn objects(keys: &[&str]) -> Vec<Object> {
        keys.iter().map(|key| Object::builder().key(*key).build()).collect()
    }

    #[test]
    fn a_page_without_a_token_is_followed_by_the_names_after_its_last() {
        let found = objects(&["a", "b"]);
        assert_eq!(next(end(Some("x")), &found, None), Ok(Some("t:x".into())));
        assert_eq!(next(end(None), &found, None), Ok(Some("m:b".into())));
        assert_eq!(next(end(None), &found, Some("m:a")), Ok(Some("m:b".into())));
        let whole = End { truncated: false, ..end(Some("x")) };
        assert_eq!(next(whole, &found, None), Ok(None));
    }

    #[test]
    fn a_listing_that_leads_in_a_circle_or_nowhere_is_an_error() {
        let found = objects(&["a", "b"]);
        assert!(next(end(None), &found, Some("m:b")).is_err());
        assert!(next(end(Some("x")), &found, Some("t:x")).is_err());
        assert!(next(end(None), &[], None).is_err());
        assert!(next(end(Some("")), &[], Some("t:x")).is_err());
    }
}
