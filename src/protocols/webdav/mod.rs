//! WebDAV: `dav://` and `davs://` (also `webdav+http://`, `webdav+https://`), which is HTTP with folders.
//!
//! Files are fetched by [`Http`], with all its features (ranges, logins, redirects, certificates). This module finds
//! out whether a URL is a file or a folder, and walks over folders one level at a time, because servers refuse deeper
//! requests. The name of a resource is the part of its URL below the URL of its folder.
//!
//! What it refuses: resources outside the requested folder, and responses of unlimited size.

mod hrefs;
mod multistatus;

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use url::Url;

use self::{
    hrefs::{Hrefs, Listed},
    multistatus::{QUESTION, Resource, parse},
};
use super::{
    Begun, ByteStream, FetchOptions, Found, Listing, Protocol, Remote, Validator, Wanted, date,
    http::{Depth, Http},
    paths::{as_folder, below_bytes, last_part},
    place,
    walk::Walk,
};
use crate::error::{Error, Kind, Result};

pub(super) const SCHEMES: &[&str] = &["dav", "davs", "webdav+http", "webdav+https"];

/// Number of files of length 0 that are probed concurrently.
const AT_ONCE: usize = 8;

/// The protocol of WebDAV URLs: files and folders.
#[derive(Debug)]
pub(super) struct WebDav {
    http: Http,
    /// Hosts whose listings have other ETags than the files themselves.
    other_tags: Mutex<HashSet<String>>,
}

pub(super) fn make(options: &Arc<FetchOptions>) -> Result<Arc<dyn Protocol>> {
    Ok(Arc::new(WebDav { http: Http::new(options)?, other_tags: Mutex::default() }))
}

impl WebDav {
    /// The properties of `url`, and of its children if `depth` is one. Also returns the URL that answered.
    async fn ask(&self, url: &Url, depth: Depth) -> Result<(Url, Vec<Resource>)> {
        let (at, answer) = self.http.propfind(url, depth, QUESTION).await?;
        let named = |e: Error| e.within(place(url));
        let text = String::from_utf8(answer)
            .map_err(|_| named(Error::new(Kind::Unsupported, "a listing that is no text")))?;
        let resources = parse(&text).map_err(named)?;
        match resources.is_empty() {
            // A folder has at least the entry of itself.
            true => Err(says_nothing(&at)),
            false => Ok((at, resources)),
        }
    }

    async fn list(&self, url: &Url) -> Result<Listing> {
        let mut walk = Walk::new(url);
        let top = as_folder(&as_http(url)?);
        while let Some(path) = walk.next_folder() {
            let folder =
                if path.is_empty() { top.clone() } else { as_folder(&below_bytes(&top, &path)) };
            let listed = walk.listed(self.ask(&folder, Depth::One).await)?;
            let Some((at, mut resources)) = listed else { continue };
            let hrefs = Hrefs::new(&at, &resources);
            self.prove_empty_files(&folder, &hrefs, &mut resources).await?;
            let folders = add(&mut walk, &hrefs, resources)?;
            folders.iter().try_for_each(|name| walk.folder(name))?;
        }
        Ok(walk.finish())
    }

    /// Probes the files of `folder` that are listed with length 0. Those that are not empty get the length of their own
    /// response. A refusal is reported when the file is fetched, so nothing may count as known of it until then.
    async fn prove_empty_files(
        &self,
        folder: &Url,
        hrefs: &Hrefs,
        resources: &mut [Resource],
    ) -> Result<()> {
        let is_empty =
            |file: &&mut Resource| !file.folder && file.refused.is_none() && file.len == Some(0);
        stream::iter(resources.iter_mut().filter(is_empty))
            .map(Ok::<_, Error>)
            .try_for_each_concurrent(AT_ONCE, |file| async move {
                let Listed::In(name) = hrefs.place_of(&file.href)? else { return Ok(()) };
                // Below the requested URL, which has the login.
                let url = below_bytes(folder, name.as_bytes());
                match self.http.probe(&url).await {
                    Ok(Found::File(found)) => file.len = found.len,
                    _ => (file.len, file.etag) = (None, None),
                }
                Ok(())
            })
            .await
    }

    /// Opens the file by its date, for servers whose listings have another ETag than the file itself. If the length or
    /// the date differ too, returns `changed`.
    async fn open_by_date(
        &self,
        remote: &Remote,
        range: Wanted,
        changed: Error,
    ) -> Result<ByteStream> {
        let Some(by_date) = by_date(remote) else { return Err(changed) };
        let Found::File(now) = self.http.probe(&remote.asked).await? else { return Err(changed) };
        if now.len != remote.len || now.modified != remote.modified {
            return Err(changed);
        }
        let stream = self.http.open(&by_date, range).await?;
        let host = remote.url.host_str().unwrap_or_default().to_owned();
        self.other_tags.lock().insert(host);
        Ok(stream)
    }
}

/// Adds the entries of a folder to the walk. Returns the names of its subfolders.
fn add(walk: &mut Walk, hrefs: &Hrefs, resources: Vec<Resource>) -> Result<BTreeSet<String>> {
    let mut folders = BTreeSet::new();
    for resource in resources {
        let refused = |at: &dyn std::fmt::Display, status: u16| {
            Error::new(
                status_kind(status),
                format!("{at}: its folder is listed with status {status}"),
            )
        };
        match (hrefs.place_of(&resource.href)?, resource.refused) {
            // For example, the folder has more entries than the server lists.
            (Listed::Itself, Some(status)) => return Err(refused(&place(&hrefs.at), status)),
            (Listed::Itself, None) => {}
            (Listed::In(name), Some(status)) => {
                walk.leave_out(&name, |url| refused(&place(&url), status))?;
            }
            (Listed::In(name), None) if resource.folder => _ = folders.insert(name),
            (Listed::In(name), None) => walk.file(&name, |url| remote(url, resource))?,
            // The entry is deeper than requested. It is listed again with the folder that contains it.
            (Listed::Deeper(name), _) => _ = folders.insert(name),
            (Listed::Unnamed, _) => {
                walk.leave_out(&resource.href.replace(['/', '\0'], "\u{fffd}"), |_| {
                    let text = format!("{}: {:?} is no name here", place(&hrefs.at), resource.href);
                    Error::new(Kind::Unsupported, text)
                        .hint("names are UTF-8 without control characters")
                })?
            }
        }
    }
    Ok(folders)
}

fn says_nothing(at: &Url) -> Error {
    Error::new(Kind::Unsupported, format!("{}: the server says nothing of it", place(at)))
}

fn status_kind(status: u16) -> Kind {
    match status {
        401 | 403 => Kind::PermissionDenied,
        404 | 410 => Kind::NotFound,
        500..=599 | 423 | 429 => Kind::Unavailable,
        _ => Kind::Unsupported,
    }
}

/// The same file, identified by its date and length.
fn by_date(remote: &Remote) -> Option<Remote> {
    let date = httpdate::fmt_http_date(remote.modified?);
    Some(Remote { validator: Some(Validator::Modified(date, remote.len?)), ..remote.clone() })
}

#[async_trait]
impl Protocol for WebDav {
    async fn probe(&self, url: &Url) -> Result<Found> {
        let web = as_http(url)?;
        let (at, resources) = self.ask(&web, Depth::Zero).await?;
        let itself = resources.into_iter().next().ok_or_else(|| says_nothing(&at))?;
        if let Some(status) = itself.refused {
            let text = format!("{}: answered with status {status}", place(&at));
            return Err(Error::new(status_kind(status), text));
        }
        if itself.folder {
            return self.list(url).await.map(Found::Folder);
        }
        let file = remote(url.clone(), itself);
        let Found::File(found) = self.http.probe(&web).await? else { return Ok(Found::File(file)) };
        // The validator of the PROPFIND is preferred, so that it equals the one in a listing of the folder.
        let validator = file.validator.or(found.validator);
        let name = found.name.or_else(|| Some(last_part(url)));
        let (asked, at) = (url.clone(), as_dav(url, found.url));
        Ok(Found::File(Remote { asked, url: at, validator, name, ..found }))
    }

    /// The file is described by its GET response, whatever ETag its listing has.
    async fn begin(&self, url: &Url) -> Result<Begun> {
        let web = as_http(url)?;
        let (_, resources) = self.ask(&web, Depth::Zero).await?;
        if resources.first().is_none_or(|itself| itself.folder) {
            return Ok(Begun { found: self.probe(url).await?, first: None });
        }
        let Begun { found, first } = self.http.begin(&web).await?;
        let Found::File(found) = found else { return Ok(Begun { found, first }) };
        let name = found.name.or_else(|| Some(last_part(url)));
        let (asked, at) = (url.clone(), as_dav(url, found.url));
        Ok(Begun { found: Found::File(Remote { asked, url: at, name, ..found }), first })
    }

    async fn open(&self, remote: &Remote, range: Wanted) -> Result<ByteStream> {
        let (asked, url) = (as_http(&remote.asked)?, as_http(&remote.url)?);
        let remote = Remote { asked, url, ..remote.clone() };
        let is_tag = matches!(remote.validator, Some(Validator::ETag(_)));
        let host = remote.url.host_str().unwrap_or_default();
        let by_date = if self.other_tags.lock().contains(host) { by_date(&remote) } else { None };
        match self.http.open(by_date.as_ref().unwrap_or(&remote), range).await {
            Err(e) if e.kind() == Kind::Changed && is_tag && by_date.is_none() => {
                self.open_by_date(&remote, range, e).await
            }
            opened => opened,
        }
    }
}

/// The URL in the scheme of HTTP. A port in the URL is kept.
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

/// The URL of a file in the requested scheme, so that this protocol opens it again. If a redirect leads to another host
/// or path, the URL keeps HTTP's scheme.
fn as_dav(asked: &Url, found: Url) -> Url {
    match as_http(asked) {
        Ok(web) if web.host() == found.host() && web.path() == found.path() => asked.clone(),
        _ => found,
    }
}

fn remote(url: Url, resource: Resource) -> Remote {
    let strong = |tag: &String| tag.starts_with('"') && tag.len() > 2;
    let len = resource.len;
    let date = resource.modified.as_deref().and_then(date::parse);
    let validator = match resource.etag.filter(strong) {
        Some(etag) => Some(Validator::ETag(etag)),
        // In the date format of requests, because listings may use other formats.
        None => {
            date.zip(len).map(|(date, len)| Validator::Modified(httpdate::fmt_http_date(date), len))
        }
    };
    Remote {
        len,
        // An empty file has no ranges.
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
    fn what_a_folder_lists_is_taken_told_or_asked_for_again() {
        let at = url("http://h/d/");
        let resource = |href: &str, refused| {
            let folder = href.ends_with('/');
            Resource { href: href.to_owned(), folder, refused, ..Resource::default() }
        };
        let listed = vec![
            resource("/d/", None),
            resource("/d/a", None),
            resource("/d/gone", Some(403)),
            resource("/d/sub/", None),
            resource("/d/deep/er/b", None),
            resource("/d/bad%0Aname", None),
        ];
        let mut walk = Walk::new(&at);
        walk.next_folder();
        let folders = add(&mut walk, &Hrefs::new(&at, &listed), listed.clone()).unwrap();
        assert_eq!(folders.into_iter().collect::<Vec<_>>(), ["deep", "sub"]);
        let listing = walk.finish();
        let files: Vec<_> = listing.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(files, ["a"]);
        let told: Vec<_> = listing.left_out.iter().map(|left_out| left_out.kind).collect();
        assert_eq!(told, [Kind::PermissionDenied, Kind::Unsupported]);
        assert!(listing.left_out[0].text.contains("h/d/gone"), "{}", listing.left_out[0].text);
        let cut = vec![resource("/d/", Some(507)), resource("/d/a", None)];
        let error = add(&mut Walk::new(&at), &Hrefs::new(&at, &cut), cut.clone()).unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{}", error.report());
    }
}
