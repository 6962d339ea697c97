//! Files on Drive by id and by key: metadata, search, removal.

use std::collections::BTreeMap;

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Drive,
    client::Call,
    limits::Cost,
    names::{self, Properties},
};
use crate::{
    backends::{Key, ObjectInfo, Page, PageToken},
    error::{Error, Kind, Result},
};

/// The metadata fields that bae requests.
pub(super) const FIELDS: &str = "id,size,md5Checksum,trashed,appProperties";
/// The most files that a page can have.
const PAGE: &str = "1000";

/// Metadata of a file.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Meta {
    pub(super) id: String,
    /// A number in quotes, as Google writes all 64-bit numbers. Folders have none.
    #[serde(default)]
    size: Option<String>,
    #[serde(default)]
    pub(super) md5_checksum: Option<String>,
    #[serde(default)]
    pub(super) trashed: bool,
    #[serde(default)]
    app_properties: Properties,
}

impl Meta {
    /// Whether length and MD5 are present.
    pub(super) fn is_told(&self) -> bool {
        self.size.is_some() && self.md5_checksum.is_some()
    }

    pub(super) fn len(&self) -> u64 {
        self.size.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Files {
    #[serde(default)]
    files: Vec<Meta>,
    #[serde(default)]
    next_page_token: Option<String>,
    #[serde(default)]
    incomplete_search: bool,
}

impl Drive {
    /// Metadata of the file `id`; `None` when it is gone or in the trash.
    pub(super) async fn meta(&self, id: &str, what: &str) -> Result<Option<Meta>> {
        let url = self.client.url(&format!("drive/v3/files/{id}"), &[("fields", FIELDS)]);
        let call = Call::new(Method::GET, url, what, Cost::Read);
        match self.client.json::<Meta>(&call, |request| request).await {
            Ok(meta) => Ok((!meta.trashed).then_some(meta)),
            Err(e) if e.kind() == Kind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The file of `key`: the noted one if it exists, otherwise the oldest file with this key in its properties.
    pub(super) async fn look_up(&self, key: &Key, what: &str) -> Result<Option<Meta>> {
        if let Some(id) = self.known.get(key)? {
            if let Some(meta) = self.meta(&id, what).await? {
                return Ok(Some(meta));
            }
            self.known.forget(key).await;
        }
        let Some(found) = self.find(key, what).await?.into_iter().next() else { return Ok(None) };
        self.known.remember(key, &found.id).await;
        Ok(Some(found))
    }

    /// The id of the file of `key`, from the notes if they have it.
    pub(super) async fn id_of(&self, key: &Key, what: &str) -> Result<Option<String>> {
        if let Some(id) = self.known.get(key)? {
            return Ok(Some(id));
        }
        Ok(self.look_up(key, what).await?.map(|meta| meta.id))
    }

    /// All files with `key` in their properties, oldest first. More than one exist only after a crash, or when two
    /// programs put the same key.
    pub(super) async fn find(&self, key: &Key, what: &str) -> Result<Vec<Meta>> {
        let root = self.root().await?;
        let query = names::query_key(key, &root.id);
        let mut found = Vec::new();
        let mut page = None;
        loop {
            let mut files = self.query(&query, page.as_deref(), what).await?;
            found.append(&mut files.files);
            page = files.next_page_token;
            if page.is_none() {
                break;
            }
        }
        // The query compares 128 bits of the hash. A collision is very unlikely, but only the full key is proof.
        found.retain(|meta| names::key_of(&meta.app_properties).as_ref() == Some(key));
        Ok(found)
    }

    async fn query(&self, query: &str, page: Option<&str>, what: &str) -> Result<Files> {
        let root = self.root().await?;
        let fields = format!("nextPageToken,incompleteSearch,files({FIELDS})");
        let mut params = vec![("q", query), ("fields", &fields), ("orderBy", "createdTime")];
        params.extend([("pageSize", PAGE), ("includeItemsFromAllDrives", "true")]);
        params.extend(page.map(|token| ("pageToken", token)));
        match &root.drive {
            Some(drive) => params.extend([("corpora", "drive"), ("driveId", drive.as_str())]),
            None => params.push(("corpora", "user")),
        }
        let url = self.client.url("drive/v3/files", &params);
        let call = Call::new(Method::GET, url, what, Cost::List);
        let found: Files = self.client.json(&call, |request| request).await?;
        let circle = found.next_page_token.is_some() && found.next_page_token.as_deref() == page;
        if circle || found.incomplete_search {
            let why = if circle { "the listing does not go on" } else { "it is not complete" };
            return Err(Error::new(Kind::Internal, format!("{what} on Google Drive: {why}")));
        }
        Ok(found)
    }

    /// Metadata of the file just created, requested when the answer lacks length or MD5.
    pub(super) async fn told(&self, made: Meta, id: &str, what: &str) -> Result<Meta> {
        if made.id != id {
            let text = format!("{what} on Google Drive: another file was made than was asked for");
            return Err(Error::new(Kind::Internal, text));
        }
        if made.is_told() {
            return Ok(made);
        }
        self.meta(id, what).await?.ok_or_else(|| {
            let text =
                format!("{what} on Google Drive: it was answered with success, and is not there");
            Error::new(Kind::Unavailable, text)
        })
    }

    /// One page of the objects whose key starts with `prefix`. Notes their ids too, so a listing restores lost notes.
    pub(super) async fn list_page(&self, prefix: &str, page: Option<&PageToken>) -> Result<Page> {
        let root = self.root().await?;
        let query = names::query_prefix(prefix, &root.id);
        let what = format!("list of {prefix:?}");
        let files = self.query(&query, page.map(|token| token.0.as_str()), &what).await?;
        // The oldest file comes first, and it is the one that reads use.
        let mut found = BTreeMap::new();
        for meta in files.files {
            let key = names::key_of(&meta.app_properties);
            let Some(key) = key.filter(|key| key.as_str().starts_with(prefix)) else { continue };
            found.entry(key).or_insert(meta);
        }
        let mut objects = Vec::with_capacity(found.len());
        for (key, meta) in found {
            if self.known.get(&key)?.is_none() {
                self.known.remember(&key, &meta.id).await;
            }
            objects.push(ObjectInfo { len: meta.len(), key });
        }
        Ok(Page { objects, next: files.next_page_token.map(PageToken) })
    }

    /// Removes the files of `key`: the noted one, or all that a search finds.
    pub(super) async fn remove_key(&self, key: &Key) -> Result<()> {
        let what = format!("delete of {key}");
        let ids = match self.known.get(key)? {
            Some(id) => vec![id],
            None => self.find(key, &what).await?.into_iter().map(|meta| meta.id).collect(),
        };
        for id in ids {
            self.remove(&id, &what).await?;
        }
        self.known.forget(key).await;
        Ok(())
    }

    /// Deletes a file permanently, or moves it to the trash when permissions allow no more. Succeeds when it does not
    /// exist.
    pub(super) async fn remove(&self, id: &str, what: &str) -> Result<()> {
        let url = self.client.url(&format!("drive/v3/files/{id}"), &[]);
        let call = Call::new(Method::DELETE, url.clone(), what, Cost::Edit);
        match self.client.send(&call, |request| request).await {
            Err(e) if e.kind() == Kind::NotFound => Ok(()),
            // Content managers of a shared drive can only move files to the trash. Google empties it after 30 days.
            Err(e) if e.kind() == Kind::PermissionDenied => {
                let call = Call::new(Method::PATCH, url, what, Cost::Edit);
                let trash = json!({ "trashed": true });
                self.client.send(&call, |request| request.json(&trash)).await.map_err(|_| e)?;
                Ok(())
            }
            done => done.map(drop),
        }
    }

    /// Changes a file's metadata.
    pub(super) async fn patch(&self, id: &str, change: &Value, what: &str) -> Result<()> {
        let url = self.client.url(&format!("drive/v3/files/{id}"), &[("fields", "id")]);
        let call = Call::new(Method::PATCH, url, what, Cost::Edit);
        self.client.send(&call, |request| request.json(change)).await.map(drop)
    }

    /// Metadata for creating the file of `key`.
    pub(super) async fn description(&self, key: &Key, id: &str) -> Result<Value> {
        let placing = names::placing(key);
        let parent = self.folder(&placing.folders).await?;
        Ok(json!({
            "id": id,
            "name": placing.name,
            "parents": [parent],
            "mimeType": "application/octet-stream",
        }))
    }

    /// Free space in bytes; `None` when there is no limit, or for a shared drive.
    pub(super) async fn room(&self) -> Result<Option<u64>> {
        if self.root().await?.drive.is_some() {
            return Ok(None);
        }
        let url = self.client.url("drive/v3/about", &[("fields", "storageQuota")]);
        let call = Call::new(Method::GET, url, "free room", Cost::Read);
        let about: Value = self.client.json(&call, |request| request).await?;
        let number = |name: &str| about["storageQuota"][name].as_str()?.parse::<u64>().ok();
        Ok(number("limit").map(|limit| limit.saturating_sub(number("usage").unwrap_or(0))))
    }
}

/// The error for an object whose stored bytes differ from those sent.
pub(super) fn damaged(key: &Key) -> Error {
    let text = format!("object {key} arrived damaged on Google Drive, and was removed there");
    Error::new(Kind::Unavailable, text)
}
