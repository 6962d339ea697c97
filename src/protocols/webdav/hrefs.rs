//! Resolves the `href` elements of a listing to names in the folder. Pure.
//!
//! By the standard, an `href` is a URL or its path, with percent-escapes. Servers also leave `#`, `?` and `\\`
//! unescaped (all are parts of names here), double slashes, omit the first slash, or escape all slashes.

use std::borrow::Cow;

use url::Url;

use super::Resource;
use crate::{
    error::{Error, Kind, Result},
    protocols::place,
};

/// Resolves the `href` elements in the listing of one folder.
#[derive(Debug)]
pub(super) struct Hrefs {
    /// The URL of the folder.
    pub(super) at: Url,
    folder: Vec<Vec<u8>>,
    /// Whether an `href` without a leading slash is an absolute path.
    rooted: bool,
}

/// The position of a resource relative to the folder.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Listed {
    /// The resource is the folder.
    Itself,
    In(String),
    /// The resource is somewhere below the subfolder of this name.
    Deeper(String),
    /// The resource is in the folder, but its name cannot be requested.
    Unnamed,
}

impl Hrefs {
    pub(super) fn new(at: &Url, resources: &[Resource]) -> Self {
        let folder = parts(at.path());
        let mut relative = resources
            .iter()
            .map(|resource| whole(&resource.href))
            .filter(|href| !href.starts_with('/') && !is_url(href))
            .peekable();
        let rooted = relative.peek().is_some()
            && !folder.is_empty()
            && relative.all(|href| parts(&href).starts_with(&folder));
        Self { at: at.clone(), folder, rooted }
    }

    /// Locates the resource of `href`.
    ///
    /// # Errors
    /// `Unsupported` for a resource outside the folder.
    pub(super) fn place_of(&self, href: &str) -> Result<Listed> {
        let outside = || {
            let text =
                format!("{}: the server lists {href:?}, which is not in it", place(&self.at));
            Error::new(Kind::Unsupported, text)
        };
        let mut found = whole(href).into_owned();
        if !found.starts_with('/') && !is_url(&found) {
            // Keeps a colon in a name from being taken for the end of a scheme.
            found.insert_str(0, if self.rooted { "/" } else { "./" });
        }
        let url = self.at.join(&found).map_err(|e| outside().because(e))?;
        let found = parts(url.path());
        let Some(below) = found.strip_prefix(&*self.folder) else { return Err(outside()) };
        let named = |name: &[u8]| {
            let name = std::str::from_utf8(name).ok()?;
            (!name.contains(char::is_control)).then(|| name.to_owned())
        };
        Ok(match below {
            [] => Listed::Itself,
            [name] => named(name).map_or(Listed::Unnamed, Listed::In),
            [name, ..] => named(name).map_or(Listed::Unnamed, Listed::Deeper),
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
fn whole(href: &str) -> Cow<'_, str> {
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
fn parts(path: &str) -> Vec<Vec<u8>> {
    let parts = path.split('/').filter(|part| !part.is_empty());
    parts.map(|part| percent_encoding::percent_decode_str(part).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(folder: &str, hrefs: &[&str]) -> Vec<Result<Listed>> {
        let resource = |href: &&str| Resource { href: (*href).to_owned(), ..Resource::default() };
        let resources: Vec<_> = hrefs.iter().map(resource).collect();
        let known = Hrefs::new(&folder.parse().unwrap(), &resources);
        hrefs.iter().map(|href| known.place_of(href)).collect()
    }

    fn one(href: &str) -> Listed {
        at("http://h/top%20x/", &[href]).pop().unwrap().unwrap()
    }

    fn named(name: &str) -> Listed {
        Listed::In(name.to_owned())
    }

    #[test]
    fn names_are_what_stands_below_the_folder() {
        assert_eq!(one("/top%20x/"), Listed::Itself);
        assert_eq!(one("/top x"), Listed::Itself);
        assert_eq!(one("http://h/top%20x/a%2523.bin"), named("a%23.bin"));
        assert_eq!(one("https://proxied/top%20x/sub/"), named("sub"));
        assert_eq!(one("relative%20name"), named("relative name"));
        assert_eq!(one("/top%20x/a/b"), Listed::Deeper("a".into()));
        // The walk refuses invalid names.
        assert_eq!(one("/top%20x/..%2Fetc"), named("../etc"));
        for unnamed in ["/top%20x/a%0Ab", "/top%20x/%FF"] {
            assert_eq!(one(unnamed), Listed::Unnamed, "{unnamed}");
        }
        for outside in ["/etc/passwd", "/top%20x/../other", "/", "http://h"] {
            let error = at("http://h/top%20x/", &[outside]).pop().unwrap().unwrap_err();
            assert_eq!(error.kind(), Kind::Unsupported, "{outside}");
        }
    }

    #[test]
    fn what_servers_forget_to_escape_belongs_to_the_name() {
        assert_eq!(one("/top%20x/t #:?3.txt"), named("t #:?3.txt"));
        assert_eq!(one("http://h/top x/a?b"), named("a?b"));
        assert_eq!(one("/top x/a\\b"), named("a\\b"));
        assert_eq!(one("a:b.txt"), named("a:b.txt"));
        assert_eq!(one("/top x/50%"), named("50%"));
    }

    #[test]
    fn slashes_may_be_doubled_left_out_or_escaped() {
        let of = |hrefs: &[&str]| -> Vec<_> {
            at("http://h/dav/", hrefs).into_iter().map(Result::unwrap).collect()
        };
        let both = [Listed::Itself, named("a.txt")];
        assert_eq!(of(&["//dav//", "//dav//a.txt"]), both);
        assert_eq!(of(&["dav/", "dav/a.txt"]), both);
        assert_eq!(of(&["%2Fdav%2F", "%2fdav%2Fa.txt"]), both);
        // A folder contains a subfolder with its own name, which is listed by that name alone.
        assert_eq!(of(&["/dav/", "dav/", "b"]), [Listed::Itself, named("dav"), named("b")]);
    }
}
