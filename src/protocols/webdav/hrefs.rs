//! Resolves the `href` elements of a listing to names in the folder. Pure.
//!
//! By the standard, an `href` is a URL or its path, with percent-escapes. Servers also leave `#`, `?` and `\\`
//! unescaped (all are parts of names here), double slashes, omit the first slash, or escape all slashes.

use std::borrow::Cow;

use url::Url;

use super::Resource;
use crate::{
    error::{Error, Kind, Result},
    protocols::display_url,
};

/// Resolves the `href` elements in the listing of one folder.
#[derive(Debug)]
pub(super) struct HrefResolver {
    /// The URL of the folder.
    pub(super) base: Url,
    folder: Vec<Vec<u8>>,
    /// Whether an `href` without a leading slash is an absolute path.
    without_root_slash: bool,
}

/// The position of a resource relative to the folder.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HrefTarget {
    /// The resource is the folder.
    Itself,
    Child(String),
    /// The resource is somewhere below the subfolder of this name.
    Descendant(String),
    /// The resource is in the folder, but its name cannot be requested.
    InvalidName,
}

impl HrefResolver {
    pub(super) fn new(base: &Url, resources: &[Resource]) -> Self {
        let folder = decoded_segments(base.path());
        let mut relative = resources
            .iter()
            .map(|resource| normalize(&resource.href))
            .filter(|href| !href.starts_with('/') && !is_url(href))
            .peekable();
        let without_root_slash = relative.peek().is_some()
            && !folder.is_empty()
            && relative.all(|href| decoded_segments(&href).starts_with(&folder));
        Self { base: base.clone(), folder, without_root_slash }
    }

    /// Locates the resource of `href`.
    ///
    /// # Errors
    /// `Unsupported` for a resource outside the folder.
    pub(super) fn resolve(&self, href: &str) -> Result<HrefTarget> {
        let outside = || {
            let text = format!(
                "{}: the server lists {href:?}, which is outside the folder",
                display_url(&self.base)
            );
            Error::new(Kind::Unsupported, text)
        };
        let mut normalized = normalize(href).into_owned();
        if !normalized.starts_with('/') && !is_url(&normalized) {
            // Keeps a colon in a name from being taken for the end of a scheme.
            normalized.insert_str(0, if self.without_root_slash { "/" } else { "./" });
        }
        let url = self.base.join(&normalized).map_err(|e| outside().because(e))?;
        let segments = decoded_segments(url.path());
        let Some(below) = segments.strip_prefix(&*self.folder) else { return Err(outside()) };
        let valid_name = |name: &[u8]| {
            let name = std::str::from_utf8(name).ok()?;
            (!name.contains(char::is_control)).then(|| name.to_owned())
        };
        Ok(match below {
            [] => HrefTarget::Itself,
            [name] => valid_name(name).map_or(HrefTarget::InvalidName, HrefTarget::Child),
            [name, ..] => valid_name(name).map_or(HrefTarget::InvalidName, HrefTarget::Descendant),
        })
    }
}

fn is_url(href: &str) -> bool {
    href.split_once("://").is_some_and(|(scheme, _)| {
        !scheme.is_empty()
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    })
}

/// Escapes all characters that belong to names, and reduces several leading slashes to one.
fn normalize(href: &str) -> Cow<'_, str> {
    let slashed = href.to_ascii_lowercase().starts_with("%2f") && !href.contains('/');
    let doubled = href.starts_with("//");
    if !slashed && !doubled && !href.contains(['#', '?', '\\']) {
        return Cow::Borrowed(href);
    }
    let mut text = href.replace('#', "%23").replace('?', "%3F").replace('\\', "%5C");
    if slashed {
        text = text.replace("%2F", "/").replace("%2f", "/");
    }
    match text.starts_with("//") {
        true => Cow::Owned(format!("/{}", text.trim_start_matches('/'))),
        false => Cow::Owned(text),
    }
}

/// The names in a path, without percent-escapes. Empty ones are dropped.
fn decoded_segments(path: &str) -> Vec<Vec<u8>> {
    let parts = path.split('/').filter(|part| !part.is_empty());
    parts.map(|part| percent_encoding::percent_decode_str(part).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve_all(folder: &str, hrefs: &[&str]) -> Vec<Result<HrefTarget>> {
        let resource = |href: &&str| Resource { href: (*href).to_owned(), ..Resource::default() };
        let resources: Vec<_> = hrefs.iter().map(resource).collect();
        let resolver = HrefResolver::new(&folder.parse().unwrap(), &resources);
        hrefs.iter().map(|href| resolver.resolve(href)).collect()
    }

    fn resolve_one(href: &str) -> HrefTarget {
        resolve_all("http://h/top%20x/", &[href]).pop().unwrap().unwrap()
    }

    fn child(name: &str) -> HrefTarget {
        HrefTarget::Child(name.to_owned())
    }

    #[test]
    fn names_are_the_segments_below_the_folder() {
        assert_eq!(resolve_one("/top%20x/"), HrefTarget::Itself);
        assert_eq!(resolve_one("/top x"), HrefTarget::Itself);
        assert_eq!(resolve_one("http://h/top%20x/a%2523.bin"), child("a%23.bin"));
        assert_eq!(resolve_one("https://proxied/top%20x/sub/"), child("sub"));
        assert_eq!(resolve_one("relative%20name"), child("relative name"));
        assert_eq!(resolve_one("/top%20x/a/b"), HrefTarget::Descendant("a".into()));
        // The walk refuses invalid names.
        assert_eq!(resolve_one("/top%20x/..%2Fetc"), child("../etc"));
        for unnamed in ["/top%20x/a%0Ab", "/top%20x/%FF"] {
            assert_eq!(resolve_one(unnamed), HrefTarget::InvalidName, "{unnamed}");
        }
        for outside in ["/etc/passwd", "/top%20x/../other", "/", "http://h"] {
            let error = resolve_all("http://h/top%20x/", &[outside]).pop().unwrap().unwrap_err();
            assert_eq!(error.kind(), Kind::Unsupported, "{outside}");
        }
    }

    #[test]
    fn unescaped_characters_belong_to_the_name() {
        assert_eq!(resolve_one("/top%20x/t #:?3.txt"), child("t #:?3.txt"));
        assert_eq!(resolve_one("http://h/top x/a?b"), child("a?b"));
        assert_eq!(resolve_one("/top x/a\\b"), child("a\\b"));
        assert_eq!(resolve_one("a:b.txt"), child("a:b.txt"));
        assert_eq!(resolve_one("/top x/50%"), child("50%"));
    }

    #[test]
    fn slashes_may_be_doubled_missing_or_escaped() {
        let of = |hrefs: &[&str]| -> Vec<_> {
            resolve_all("http://h/dav/", hrefs).into_iter().map(Result::unwrap).collect()
        };
        let both = [HrefTarget::Itself, child("a.txt")];
        assert_eq!(of(&["//dav//", "//dav//a.txt"]), both);
        assert_eq!(of(&["dav/", "dav/a.txt"]), both);
        assert_eq!(of(&["%2Fdav%2F", "%2fdav%2Fa.txt"]), both);
        // A folder contains a subfolder with its own name, which is listed by that name alone.
        assert_eq!(of(&["/dav/", "dav/", "b"]), [HrefTarget::Itself, child("dav"), child("b")]);
    }
}
