//! WebDAV: `dav://` and `davs://` (also `webdav+http://`, `webdav+https://`), which is HTTP with folders.
//!
//! Files are HTTP's, with all that it does (ranges, logins, redirects, certificates); what is here is the question what a
//! URL is, and the walk over folders, one level at a time: servers refuse deeper questions. A resource's name is the end
//! of its address as it stands below its folder's address.
//!
//! What it refuses: resources that are not in the folder that was asked for, and answers without bound.

mod multistatus;

use std::sync::Arc;

use async_trait::async_trait;
use url::Url;

use self::multistatus::{QUESTION, Resource, parse};
use super::{
    ByteStream, FetchOptions, Found, Listing, Protocol, Remote, Validator, Wanted,
    http::{Depth, Http},
    paths::{as_folder, below_bytes, decoded, last_part},
    place,
    walk::Walk,
};
use crate::error::{Error, Kind, Result};

pub(super) const SCHEMES: &[&str] = &["dav", "davs", "webdav+http", "webdav+https"];

/// Files and folders of WebDAV servers.
#[derive(Debug)]
pub(super) struct WebDav {
    http: Http,
}

pub(super) fn make(options: &Arc<FetchOptions>) -> Result<Arc<dyn Protocol>> {
    Ok(Arc::new(WebDav { http: Http::new(options)? }))
}

impl WebDav {
    /// What the server says of `url`, and of what is in it where `depth` is one.
    async fn ask(&self, url: &Url, depth: Depth) -> Result<(Url, Vec<Resource>)> {
        let (at, answer) = self.http.propfind(url, depth, QUESTION).await?;
        let named = |e: Error| e.within(place(url));
        let text = String::from_utf8(answer)
            .map_err(|_| named(Error::new(Kind::Unsupported, "a listing that is no text")))?;
        Ok((at, parse(&text).map_err(named)?))
    }

    async fn list(&self, url: &Url) -> Result<Listing> {
        let mut walk = Walk::new(url);
        let top = as_folder(&as_http(url)?);
        while let Some(path) = walk.next_folder() {
            let folder =
                if path.is_empty() { top.clone() } else { as_folder(&below_bytes(&top, &path)) };
            let (at, resources) = self.ask(&folder, Depth::One).await?;
            for resource in resources {
                let Some(name) = name_in(&at, &resource.href)? else { continue };
                if resource.folder {
                    walk.folder(&name)?;
                } else {
                    walk.file(&name, |url| remote(url, resource))?;
                }
            }
        }
        Ok(walk.finish())
    }
}

#[async_trait]
impl Protocol for WebDav {
    async fn probe(&self, url: &Url) -> Result<Found> {
        let web = as_http(url)?;
        let (at, resources) = self.ask(&web, Depth::Zero).await?;
        let itself = resources.into_iter().next().ok_or_else(|| {
            let text = format!("{}: the server says nothing of it", place(&at));
            Error::new(Kind::Unsupported, text)
        })?;
        if itself.folder {
            return self.list(url).await.map(Found::Folder);
        }
        let file = remote(url.clone(), itself);
        let Found::File(found) = self.http.probe(&web).await? else { return Ok(Found::File(file)) };
        // What the listing of its folder says is what it must be the same as.
        let validator = file.validator.or(found.validator);
        let name = found.name.or_else(|| Some(last_part(url)));
        let (asked, at) = (url.clone(), as_dav(url, found.url));
        Ok(Found::File(Remote { asked, url: at, validator, name, ..found }))
    }

    async fn open(&self, remote: &Remote, range: Wanted) -> Result<ByteStream> {
        let (asked, url) = (as_http(&remote.asked)?, as_http(&remote.url)?);
        self.http.open(&Remote { asked, url, ..remote.clone() }, range).await
    }
}

/// The same in HTTP's scheme. Where that has another usual port it stays what it is.
fn as_http(url: &Url) -> Result<Url> {
    let scheme = match url.scheme() {
        "dav" | "webdav+http" => "http",
        "davs" | "webdav+https" => "https",
        "http" | "https" => return Ok(url.clone()),
        other => other,
    };
    let (_, rest) = url.as_str().split_once(':').unwrap_or_default();
    Url::parse(&format!("{scheme}:{rest}")).map_err(|e| {
        Error::new(Kind::InvalidInput, format!("{} is no address", place(url))).because(e)
    })
}

/// Where a file is, in the scheme that was asked for: so it is opened by this protocol again. A redirect to somewhere else
/// stays in HTTP's.
fn as_dav(asked: &Url, found: Url) -> Url {
    match as_http(asked) {
        Ok(web) if web.host() == found.host() && web.path() == found.path() => asked.clone(),
        _ => found,
    }
}

/// What a resource in the folder `at` is called; `None` for the folder itself.
fn name_in(at: &Url, href: &str) -> Result<Option<String>> {
    let outside = || {
        let text = format!("{}: the server lists {href:?}, which is not in it", place(at));
        Error::new(Kind::Unsupported, text)
    };
    let url = at.join(href).map_err(|e| outside().because(e))?;
    let parts = |url: &Url| -> Option<Vec<String>> {
        url.path_segments()?.filter(|part| !part.is_empty()).map(decoded).collect()
    };
    let (folder, found) = (parts(at).ok_or_else(outside)?, parts(&url).ok_or_else(outside)?);
    match found.strip_prefix(&*folder) {
        Some([]) => Ok(None),
        Some([name]) => Ok(Some(name.clone())),
        _ => Err(outside()),
    }
}

fn remote(url: Url, resource: Resource) -> Remote {
    let strong = |tag: &String| tag.starts_with('"') && tag.len() > 2;
    let (len, modified) = (resource.len, resource.modified);
    let date = modified.as_deref().and_then(|text| httpdate::parse_http_date(text).ok());
    let validator = match resource.etag.filter(strong) {
        Some(etag) => Some(Validator::ETag(etag)),
        None => modified.zip(len).map(|(date, len)| Validator::Modified(date, len)),
    };
    Remote {
        len,
        // Of nothing there are no ranges.
        ranges: len != Some(0),
        validator,
        content_type: resource.content_type,
        modified: date,
        ..Remote::at(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn schemes_are_those_of_http_underneath() {
        for (given, wanted) in [
            ("dav://u:p@h/a%20b/", "http://u:p@h/a%20b/"),
            ("davs://h:8443/x", "https://h:8443/x"),
            ("webdav+https://h/x", "https://h/x"),
            ("dav://h:443/x", "http://h:443/x"),
        ] {
            assert_eq!(as_http(&url(given)).unwrap().as_str(), wanted);
        }
    }

    #[test]
    fn names_are_what_stands_below_the_folder() {
        let at = url("http://h/top%20x/");
        let name = |href: &str| name_in(&at, href);
        assert_eq!(name("/top%20x/").unwrap(), None);
        assert_eq!(name("/top x").unwrap(), None);
        assert_eq!(name("http://h/top%20x/a%2523.bin").unwrap().as_deref(), Some("a%23.bin"));
        assert_eq!(name("https://proxied/top%20x/sub/").unwrap().as_deref(), Some("sub"));
        assert_eq!(name("relative%20name").unwrap().as_deref(), Some("relative name"));
        // The walk refuses what is no name.
        assert_eq!(name("/top%20x/..%2Fetc").unwrap().as_deref(), Some("../etc"));
        for outside in ["/etc/passwd", "/top%20x/../other", "/top%20x/a/b", "/", "http://h"] {
            assert_eq!(name(outside).unwrap_err().kind(), Kind::Unsupported, "{outside}");
        }
    }
}
