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
    hrefs::{HrefResolver, HrefTarget},
    multistatus::{PROPFIND_BODY, Resource, parse},
};
use super::{
    ByteStream, FetchOptions, FirstResponse, Listing, Protocol, RangeRequest, RemoteFile,
    UrlTarget, Validator, date, display_url,
    folder_walk::FolderWalk,
    http::{Depth, Http},
    url_paths::{last_segment_or_host, url_below_bytes, with_trailing_slash},
};
use crate::error::{Error, Kind, Result};

pub(super) const SCHEMES: &[&str] = &["dav", "davs", "webdav+http", "webdav+https"];

/// Number of files of length 0 that are probed concurrently.
const MAX_CONCURRENT_PROBES: usize = 8;

/// The protocol of WebDAV URLs: files and folders.
#[derive(Debug)]
pub(super) struct WebDav {
    http: Http,
    /// Hosts whose listings have other ETags than the files themselves.
    hosts_with_other_etags: Mutex<HashSet<String>>,
}

pub(super) fn make(options: &Arc<FetchOptions>) -> Result<Arc<dyn Protocol>> {
    Ok(Arc::new(WebDav { http: Http::new(options)?, hosts_with_other_etags: Mutex::default() }))
}

impl WebDav {
    /// The properties of `url`, and of its children if `depth` is one. Also returns the URL that answered.
    async fn propfind(&self, url: &Url, depth: Depth) -> Result<(Url, Vec<Resource>)> {
        let (at, listing) = self.http.propfind(url, depth, PROPFIND_BODY).await?;
        let with_context = |e: Error| e.with_context(display_url(url));
        let text = String::from_utf8(listing)
            .map_err(|_| with_context(Error::new(Kind::Unsupported, "the listing is not UTF-8")))?;
        let resources = parse(&text).map_err(with_context)?;
        match resources.is_empty() {
            // A folder has at least the entry of itself.
            true => Err(no_properties_error(&at)),
            false => Ok((at, resources)),
        }
    }

    async fn list(&self, url: &Url) -> Result<Listing> {
        let mut walk = FolderWalk::new(url);
        let top = with_trailing_slash(&to_http_url(url)?);
        while let Some(path) = walk.next_folder() {
            let folder = if path.is_empty() {
                top.clone()
            } else {
                with_trailing_slash(&url_below_bytes(&top, &path))
            };
            let listed = walk.skip_if_refused(self.propfind(&folder, Depth::One).await)?;
            let Some((at, mut resources)) = listed else { continue };
            let hrefs = HrefResolver::new(&at, &resources);
            self.check_empty_files(&folder, &hrefs, &mut resources).await?;
            let folders = add_entries(&mut walk, &hrefs, resources)?;
            folders.iter().try_for_each(|name| walk.add_folder(name))?;
        }
        Ok(walk.finish())
    }

    /// Probes the files of `folder` that are listed with length 0. Those that are not empty get the length of their own
    /// response. A refusal is reported when the file is fetched, so nothing may count as known of it until then.
    async fn check_empty_files(
        &self,
        folder: &Url,
        hrefs: &HrefResolver,
        resources: &mut [Resource],
    ) -> Result<()> {
        let is_empty = |file: &&mut Resource| {
            !file.is_folder && file.failed_status.is_none() && file.len == Some(0)
        };
        stream::iter(resources.iter_mut().filter(is_empty))
            .map(Ok::<_, Error>)
            .try_for_each_concurrent(MAX_CONCURRENT_PROBES, |file| async move {
                let HrefTarget::Child(name) = hrefs.resolve(&file.href)? else { return Ok(()) };
                // Below the requested URL, which has the login.
                let url = url_below_bytes(folder, name.as_bytes());
                match self.http.probe(&url).await {
                    Ok(UrlTarget::File(found)) => file.len = found.len,
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
        remote: &RemoteFile,
        range: RangeRequest,
        changed: Error,
    ) -> Result<ByteStream> {
        let Some(by_date) = with_date_validator(remote) else { return Err(changed) };
        let UrlTarget::File(now) = self.http.probe(&remote.requested_url).await? else {
            return Err(changed);
        };
        if now.len != remote.len || now.modified != remote.modified {
            return Err(changed);
        }
        let stream = self.http.open(&by_date, range).await?;
        let host = remote.url.host_str().unwrap_or_default().to_owned();
        self.hosts_with_other_etags.lock().insert(host);
        Ok(stream)
    }
}

/// Adds the entries of a folder to the walk. Returns the names of its subfolders.
fn add_entries(
    walk: &mut FolderWalk,
    hrefs: &HrefResolver,
    resources: Vec<Resource>,
) -> Result<BTreeSet<String>> {
    let mut folders = BTreeSet::new();
    for resource in resources {
        let status_error = |location: &dyn std::fmt::Display, status: u16| {
            Error::new(status_kind(status), format!("{location}: listed with status {status}"))
        };
        match (hrefs.resolve(&resource.href)?, resource.failed_status) {
            // For example, the folder has more entries than the server lists.
            (HrefTarget::Itself, Some(status)) => {
                return Err(status_error(&display_url(&hrefs.base), status));
            }
            (HrefTarget::Itself, None) => {}
            (HrefTarget::Child(name), Some(status)) => {
                walk.skip(&name, |url| status_error(&display_url(&url), status))?;
            }
            (HrefTarget::Child(name), None) if resource.is_folder => _ = folders.insert(name),
            (HrefTarget::Child(name), None) => {
                walk.add_file(&name, |url| remote_file(url, resource))?
            }
            // The entry is deeper than requested. It is listed again with the folder that contains it.
            (HrefTarget::Descendant(name), _) => _ = folders.insert(name),
            (HrefTarget::InvalidName, _) => {
                walk.skip(&resource.href.replace(['/', '\0'], "\u{fffd}"), |_| {
                    let text = format!(
                        "{}: {:?} is not a valid name",
                        display_url(&hrefs.base),
                        resource.href
                    );
                    Error::new(Kind::Unsupported, text)
                        .hint("names are UTF-8 without control characters")
                })?
            }
        }
    }
    Ok(folders)
}

fn no_properties_error(at: &Url) -> Error {
    Error::new(Kind::Unsupported, format!("{}: the server sent no properties", display_url(at)))
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
fn with_date_validator(remote: &RemoteFile) -> Option<RemoteFile> {
    let date = httpdate::fmt_http_date(remote.modified?);
    Some(RemoteFile { validator: Some(Validator::Modified(date, remote.len?)), ..remote.clone() })
}

#[async_trait]
impl Protocol for WebDav {
    async fn probe(&self, url: &Url) -> Result<UrlTarget> {
        let web = to_http_url(url)?;
        let (at, resources) = self.propfind(&web, Depth::Zero).await?;
        let itself = resources.into_iter().next().ok_or_else(|| no_properties_error(&at))?;
        if let Some(status) = itself.failed_status {
            let text = format!("{}: answered with status {status}", display_url(&at));
            return Err(Error::new(status_kind(status), text));
        }
        if itself.is_folder {
            return self.list(url).await.map(UrlTarget::Folder);
        }
        let file = remote_file(url.clone(), itself);
        let UrlTarget::File(found) = self.http.probe(&web).await? else {
            return Ok(UrlTarget::File(file));
        };
        // The validator of the PROPFIND is preferred, so that it equals the one in a listing of the folder.
        let validator = file.validator.or(found.validator);
        let name = found.name.or_else(|| Some(last_segment_or_host(url)));
        let (requested_url, url) = (url.clone(), to_dav_url(url, found.url));
        Ok(UrlTarget::File(RemoteFile { requested_url, url, validator, name, ..found }))
    }

    /// The file is described by its GET response, whatever ETag its listing has.
    async fn probe_with_body(&self, url: &Url) -> Result<FirstResponse> {
        let web = to_http_url(url)?;
        let (_, resources) = self.propfind(&web, Depth::Zero).await?;
        if resources.first().is_none_or(|itself| itself.is_folder) {
            return Ok(FirstResponse { target: self.probe(url).await?, body: None });
        }
        let FirstResponse { target, body } = self.http.probe_with_body(&web).await?;
        let UrlTarget::File(found) = target else { return Ok(FirstResponse { target, body }) };
        let name = found.name.or_else(|| Some(last_segment_or_host(url)));
        let (requested_url, url) = (url.clone(), to_dav_url(url, found.url));
        let target = UrlTarget::File(RemoteFile { requested_url, url, name, ..found });
        Ok(FirstResponse { target, body })
    }

    async fn open(&self, remote: &RemoteFile, range: RangeRequest) -> Result<ByteStream> {
        let (requested_url, url) = (to_http_url(&remote.requested_url)?, to_http_url(&remote.url)?);
        let remote = RemoteFile { requested_url, url, ..remote.clone() };
        let is_tag = matches!(remote.validator, Some(Validator::ETag(_)));
        let host = remote.url.host_str().unwrap_or_default();
        let by_date = if self.hosts_with_other_etags.lock().contains(host) {
            with_date_validator(&remote)
        } else {
            None
        };
        match self.http.open(by_date.as_ref().unwrap_or(&remote), range).await {
            Err(e) if e.kind() == Kind::Changed && is_tag && by_date.is_none() => {
                self.open_by_date(&remote, range, e).await
            }
            result => result,
        }
    }
}

/// The URL in the scheme of HTTP. A port in the URL is kept.
fn to_http_url(url: &Url) -> Result<Url> {
    let scheme = match url.scheme() {
        "dav" | "webdav+http" => "http",
        "davs" | "webdav+https" => "https",
        "http" | "https" => return Ok(url.clone()),
        other => other,
    };
    let (_, rest) = url.as_str().split_once(':').unwrap_or_default();
    Url::parse(&format!("{scheme}:{rest}")).map_err(|e| {
        Error::new(Kind::InvalidInput, format!("{} is not a valid URL", display_url(url)))
            .because(e)
    })
}

/// The URL of a file in the requested scheme, so that this protocol opens it again. If a redirect leads to another host
/// or path, the URL keeps HTTP's scheme.
fn to_dav_url(requested_url: &Url, found: Url) -> Url {
    match to_http_url(requested_url) {
        Ok(web) if web.host() == found.host() && web.path() == found.path() => {
            requested_url.clone()
        }
        _ => found,
    }
}

fn remote_file(url: Url, resource: Resource) -> RemoteFile {
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
    RemoteFile {
        len,
        // An empty file has no ranges.
        supports_ranges: len != Some(0),
        validator,
        content_type: resource.content_type,
        modified: date,
        ..RemoteFile::from_url(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn dav_schemes_map_to_http_schemes() {
        for (given, wanted) in [
            ("dav://u:p@h/a%20b/", "http://u:p@h/a%20b/"),
            ("davs://h:8443/x", "https://h:8443/x"),
            ("webdav+https://h/x", "https://h/x"),
            ("dav://h:443/x", "http://h:443/x"),
        ] {
            assert_eq!(to_http_url(&url(given)).unwrap().as_str(), wanted);
        }
    }

    #[test]
    fn entries_of_a_folder_are_added_skipped_or_listed_again() {
        let at = url("http://h/d/");
        let resource = |href: &str, failed_status| {
            let is_folder = href.ends_with('/');
            Resource { href: href.to_owned(), is_folder, failed_status, ..Resource::default() }
        };
        let listed = vec![
            resource("/d/", None),
            resource("/d/a", None),
            resource("/d/private", Some(403)),
            resource("/d/sub/", None),
            resource("/d/deep/er/b", None),
            resource("/d/bad%0Aname", None),
        ];
        let mut walk = FolderWalk::new(&at);
        walk.next_folder();
        let folders =
            add_entries(&mut walk, &HrefResolver::new(&at, &listed), listed.clone()).unwrap();
        assert_eq!(folders.into_iter().collect::<Vec<_>>(), ["deep", "sub"]);
        let listing = walk.finish();
        let files: Vec<_> = listing.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(files, ["a"]);
        let kinds: Vec<_> = listing.skipped.iter().map(|entry| entry.kind).collect();
        assert_eq!(kinds, [Kind::PermissionDenied, Kind::Unsupported]);
        assert!(listing.skipped[0].text.contains("h/d/private"), "{}", listing.skipped[0].text);
        let cut = vec![resource("/d/", Some(507)), resource("/d/a", None)];
        let error =
            add_entries(&mut FolderWalk::new(&at), &HrefResolver::new(&at, &cut), cut.clone())
                .unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{}", error.report());
    }
}
