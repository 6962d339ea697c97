//! The folders of a storage on Drive: the root, and those below it, which are created on first use.

use std::collections::HashMap;

use parking_lot::Mutex;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Drive,
    client::DriveCall,
    errors::FOLDER_NOT_VISIBLE,
    limits::QuotaCost,
    names::{FOLDER_MIME_TYPE, query_folder},
};
use crate::error::{Error, Kind, Result};

/// Name of the root folder when the settings give none.
const DEFAULT_FOLDER: &str = "bae";
/// Empty pages of a search before it counts as endless.
const MAX_PAGES: usize = 100;
/// Name of the saved entry with the root folder's id.
const ROOT_ENTRY: &str = "root";

/// The root folder of a storage.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RootFolder {
    pub(super) id: String,
    /// Id of the shared drive that contains it.
    #[serde(default, rename = "driveId")]
    pub(super) drive: Option<String>,
    #[serde(default)]
    mime_type: String,
    #[serde(default)]
    trashed: bool,
}

/// Ids of folders by path, as far as this process has used them.
#[derive(Debug, Default)]
pub(super) struct FolderIds {
    ids: Mutex<HashMap<String, String>>,
    /// Held while a folder is created. Creation is slow and rare, and two callers may need the same folder.
    create_lock: tokio::sync::Mutex<()>,
}

impl Drive {
    /// The root folder, looked up once.
    pub(super) async fn root(&self) -> Result<&RootFolder> {
        self.root.get_or_try_init(|| self.find_root()).await
    }

    async fn find_root(&self) -> Result<RootFolder> {
        if let Some(id) = &self.configured_folder {
            return self.fetch_root(id).await;
        }
        if let Some(id) = self.backend_state.get(ROOT_ENTRY).await? {
            match self.fetch_root(&id).await {
                Err(e) if e.kind() == Kind::NotFound => {}
                found => return found,
            }
        }
        let id = self.find_or_create_folder("root", DEFAULT_FOLDER, None).await?;
        self.try_save(ROOT_ENTRY, Some(id.clone())).await;
        self.fetch_root(&id).await
    }

    async fn fetch_root(&self, id: &str) -> Result<RootFolder> {
        let fields = ("fields", "id,driveId,mimeType,trashed");
        let url = self.client.url(&format!("drive/v3/files/{id}"), &[fields]);
        let call = DriveCall::new(Method::GET, url, format!("folder {id}"), QuotaCost::Read);
        let root: RootFolder =
            self.client.json(&call, |request| request).await.map_err(|e| {
                if e.kind() == Kind::NotFound { e.hint(FOLDER_NOT_VISIBLE) } else { e }
            })?;
        if root.trashed {
            let text = format!("folder {id} on Google Drive is in the trash");
            return Err(Error::new(Kind::NotFound, text).hint("restore it, or set another folder"));
        }
        if root.mime_type != FOLDER_MIME_TYPE {
            let text = format!("{id} on Google Drive is not a folder");
            return Err(Error::new(Kind::InvalidInput, text)
                .hint("a folder's id is the last part of its address in the browser"));
        }
        Ok(root)
    }

    /// The id of the folder at `path` below the root. Creates missing folders.
    pub(super) async fn folder(&self, path: &[String]) -> Result<String> {
        let root = self.root().await?;
        let mut parent = root.id.clone();
        for depth in 0..path.len() {
            parent = self.child_folder(&parent, path, depth, root.drive.as_deref()).await?;
        }
        Ok(parent)
    }

    async fn child_folder(
        &self,
        parent: &str,
        path: &[String],
        depth: usize,
        drive: Option<&str>,
    ) -> Result<String> {
        let name = path[..=depth].join("/");
        if let Some(id) = self.known_folder(&name).await? {
            return Ok(id);
        }
        let _one_at_a_time = self.folders.create_lock.lock().await;
        if let Some(id) = self.known_folder(&name).await? {
            return Ok(id);
        }
        let id = self.find_or_create_folder(parent, &path[depth], drive).await?;
        self.try_save(&folder_entry(&name), Some(id.clone())).await;
        self.folders.ids.lock().insert(name, id.clone());
        Ok(id)
    }

    async fn known_folder(&self, name: &str) -> Result<Option<String>> {
        let known = self.folders.ids.lock().get(name).cloned();
        match known {
            Some(id) => Ok(Some(id)),
            None => self.backend_state.get(&folder_entry(name)).await,
        }
    }

    /// Forgets the ids of the folders on `path`, because one of them is gone.
    pub(super) async fn forget_folders(&self, path: &[String]) {
        for depth in 0..path.len() {
            let name = path[..=depth].join("/");
            self.folders.ids.lock().remove(&name);
            self.try_save(&folder_entry(&name), None).await;
        }
    }

    /// Finds or creates a folder. When two programs create the same folder at once, later searches find the older
    /// one.
    async fn find_or_create_folder(
        &self,
        parent: &str,
        name: &str,
        drive: Option<&str>,
    ) -> Result<String> {
        let what = format!("folder {name:?}");
        if let Some(id) = self.find_folder(parent, name, drive, &what).await? {
            return Ok(id);
        }
        let url = self.client.url("drive/v3/files", &[("fields", "id")]);
        let call = DriveCall::new(Method::POST, url, what, QuotaCost::Create);
        let folder = json!({ "name": name, "mimeType": FOLDER_MIME_TYPE, "parents": [parent] });
        let created: Value = self.client.json(&call, |request| request.json(&folder)).await?;
        let id = created["id"].as_str().map(str::to_owned);
        id.ok_or_else(|| {
            Error::new(Kind::Unavailable, "Google Drive created a folder without an id")
        })
    }

    async fn find_folder(
        &self,
        parent: &str,
        name: &str,
        drive: Option<&str>,
        what: &str,
    ) -> Result<Option<String>> {
        let query = query_folder(name, parent);
        let mut params = vec![
            ("q", query.as_str()),
            ("fields", "nextPageToken,files(id)"),
            ("orderBy", "createdTime"),
            ("pageSize", "1"),
            ("includeItemsFromAllDrives", "true"),
        ];
        match drive {
            Some(drive) => params.extend([("corpora", "drive"), ("driveId", drive)]),
            None => params.push(("corpora", "user")),
        }
        let mut page: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let token = page.as_deref().map(|token| ("pageToken", token));
            let params: Vec<_> = params.iter().copied().chain(token).collect();
            let url = self.client.url("drive/v3/files", &params);
            let call = DriveCall::new(Method::GET, url, what, QuotaCost::List);
            let found: Value = self.client.json(&call, |request| request).await?;
            if let Some(id) = found["files"][0]["id"].as_str() {
                return Ok(Some(id.to_owned()));
            }
            // A page can be empty without being the last.
            page = found["nextPageToken"].as_str().map(str::to_owned);
            if page.is_none() {
                return Ok(None);
            }
        }
        let text = format!("{what} on Google Drive: the search does not end");
        Err(Error::new(Kind::Internal, text))
    }
}

fn folder_entry(path: &str) -> String {
    format!("folder:{path}")
}
