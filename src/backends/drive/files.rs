//! Files on Drive by id and by key: metadata, search, removal.

use std::collections::BTreeMap;

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Drive,
    client::DriveCall,
    limits::QuotaCost,
    names::{self, Properties},
};
use crate::{
    backends::{Key, ObjectInfo, Page, PageToken},
    error::{Error, Kind, Result},
};

/// The metadata fields that bae requests.
pub(super) const FIELDS: &str = "id,size,md5Checksum,trashed,appProperties";
/// The most files that a page can have.
const PAGE_SIZE: &str = "1000";

/// Metadata of a file.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FileMeta {
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

impl FileMeta {
    /// Whether length and MD5 are present.
    pub(super) fn is_complete(&self) -> bool {
        self.size.is_some() && self.md5_checksum.is_some()
    }

    pub(super) fn len(&self) -> u64 {
        self.size.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FileList {
    #[serde(default)]
    files: Vec<FileMeta>,
    #[serde(default)]
    next_page_token: Option<String>,
    #[serde(default)]
    incomplete_search: bool,
}

impl Drive {
    /// Metadata of the file `id`; `None` when it is gone or in the trash.
    pub(super) async fn meta(&self, id: &str, what: &str) -> Result<Option<FileMeta>> {
        let url = self.client.url(&format!("drive/v3/files/{id}"), &[("fields", FIELDS)]);
        let call = DriveCall::new(Method::GET, url, what, QuotaCost::Read);
        match self.client.json::<FileMeta>(&call, |request| request).await {
            Ok(meta) => Ok((!meta.trashed).then_some(meta)),
            Err(e) if e.kind() == Kind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The file of `key`: the saved one if it exists, otherwise the oldest file with this key in its properties.
    pub(super) async fn look_up(&self, key: &Key, what: &str) -> Result<Option<FileMeta>> {
        if let Some(id) = self.file_ids.get(key).await? {
            if let Some(meta) = self.meta(&id, what).await? {
                return Ok(Some(meta));
            }
            self.file_ids.forget(key).await;
        }
        let Some(found) = self.search_files(key, what).await?.into_iter().next() else {
            return Ok(None);
        };
        self.file_ids.remember(key, &found.id).await;
        Ok(Some(found))
    }

    /// The id of the file of `key`, from the saved ids if they have it.
    pub(super) async fn id_of(&self, key: &Key, what: &str) -> Result<Option<String>> {
        if let Some(id) = self.file_ids.get(key).await? {
            return Ok(Some(id));
        }
        Ok(self.look_up(key, what).await?.map(|meta| meta.id))
    }

    /// All files with `key` in their properties, oldest first. More than one exist only after a crash, or when two
    /// programs put the same key.
    pub(super) async fn search_files(&self, key: &Key, what: &str) -> Result<Vec<FileMeta>> {
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

    async fn query(&self, query: &str, page: Option<&str>, what: &str) -> Result<FileList> {
        let root = self.root().await?;
        let fields = format!("nextPageToken,incompleteSearch,files({FIELDS})");
        let mut params = vec![("q", query), ("fields", &fields), ("orderBy", "createdTime")];
        params.extend([("pageSize", PAGE_SIZE), ("includeItemsFromAllDrives", "true")]);
        params.extend(page.map(|token| ("pageToken", token)));
        match &root.drive {
            Some(drive) => params.extend([("corpora", "drive"), ("driveId", drive.as_str())]),
            None => params.push(("corpora", "user")),
        }
        let url = self.client.url("drive/v3/files", &params);
        let call = DriveCall::new(Method::GET, url, what, QuotaCost::List);
        let found: FileList = self.client.json(&call, |request| request).await?;
        let is_cycle = found.next_page_token.is_some() && found.next_page_token.as_deref() == page;
        if is_cycle || found.incomplete_search {
            let why =
                if is_cycle { "the listing repeats a page" } else { "the search is incomplete" };
            return Err(Error::new(Kind::Internal, format!("{what} on Google Drive: {why}")));
        }
        Ok(found)
    }

    /// Metadata of the file just created, requested when the answer lacks length or MD5.
    pub(super) async fn confirm_created(
        &self,
        created: FileMeta,
        id: &str,
        what: &str,
    ) -> Result<FileMeta> {
        if created.id != id {
            let text = format!("{what} on Google Drive: the response describes another file");
            return Err(Error::new(Kind::Internal, text));
        }
        if created.is_complete() {
            return Ok(created);
        }
        self.meta(id, what).await?.ok_or_else(|| {
            let text = format!(
                "{what} on Google Drive: the server reported success, but the file does not exist"
            );
            Error::new(Kind::Unavailable, text)
        })
    }

    /// One page of the objects whose key starts with `prefix`. Saves their ids too, so a listing restores lost ids.
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
            if self.file_ids.get(&key).await?.is_none() {
                self.file_ids.remember(&key, &meta.id).await;
            }
            objects.push(ObjectInfo { len: meta.len(), key });
        }
        Ok(Page { objects, next: files.next_page_token.map(PageToken) })
    }

    /// Removes the files of `key`: the saved one, or all that a search finds.
    pub(super) async fn delete_object(&self, key: &Key) -> Result<()> {
        let what = format!("delete of {key}");
        let ids = match self.file_ids.get(key).await? {
            Some(id) => vec![id],
            None => self.search_files(key, &what).await?.into_iter().map(|meta| meta.id).collect(),
        };
        for id in ids {
            self.delete_file(&id, &what).await?;
        }
        self.file_ids.forget(key).await;
        Ok(())
    }

    /// Deletes a file permanently, or moves it to the trash when permissions allow no more. Succeeds when it does not
    /// exist.
    pub(super) async fn delete_file(&self, id: &str, what: &str) -> Result<()> {
        let url = self.client.url(&format!("drive/v3/files/{id}"), &[]);
        let call = DriveCall::new(Method::DELETE, url.clone(), what, QuotaCost::Edit);
        match self.client.send(&call, |request| request).await {
            Err(e) if e.kind() == Kind::NotFound => Ok(()),
            // Content managers of a shared drive can only move files to the trash. Google empties it after 30 days.
            Err(e) if e.kind() == Kind::PermissionDenied => {
                let call = DriveCall::new(Method::PATCH, url, what, QuotaCost::Edit);
                let trash = json!({ "trashed": true });
                self.client.send(&call, |request| request.json(&trash)).await.map_err(|_| e)?;
                Ok(())
            }
            done => done.map(drop),
        }
    }

    /// Changes a file's metadata.
    pub(super) async fn update_metadata(&self, id: &str, change: &Value, what: &str) -> Result<()> {
        let url = self.client.url(&format!("drive/v3/files/{id}"), &[("fields", "id")]);
        let call = DriveCall::new(Method::PATCH, url, what, QuotaCost::Edit);
        self.client.send(&call, |request| request.json(change)).await.map(drop)
    }

    /// Metadata for creating the file of `key`.
    pub(super) async fn new_file_metadata(&self, key: &Key, id: &str) -> Result<Value> {
        let visible_path = names::visible_path(key);
        let parent = self.folder(&visible_path.folders).await?;
        Ok(json!({
            "id": id,
            "name": visible_path.name,
            "parents": [parent],
            "mimeType": "application/octet-stream",
        }))
    }

    /// Free space in bytes; `None` when there is no limit, or for a shared drive.
    pub(super) async fn free_space(&self) -> Result<Option<u64>> {
        if self.root().await?.drive.is_some() {
            return Ok(None);
        }
        let url = self.client.url("drive/v3/about", &[("fields", "storageQuota")]);
        let call = DriveCall::new(Method::GET, url, "free space", QuotaCost::Read);
        let about: Value = self.client.json(&call, |request| request).await?;
        let number = |name: &str| about["storageQuota"][name].as_str()?.parse::<u64>().ok();
        Ok(number("limit").map(|limit| limit.saturating_sub(number("usage").unwrap_or(0))))
    }
}

/// The error for an object whose stored bytes differ from those sent.
pub(super) fn damaged_object(key: &Key) -> Error {
    let text =
        format!("object {key} was damaged on the way to Google Drive, and was deleted there");
    Error::new(Kind::Unavailable, text)
}
