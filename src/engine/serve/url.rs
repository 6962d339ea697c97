//! `url`: links to published files, which are objects of their own.

use std::time::Duration;

use super::read::find_file;
use crate::{
    backends::Key,
    catalog::{FileRow, ImportRow},
    engine::{Engine, FileUrl, plan::publishable_files},
    error::{Error, Kind, Result},
    hints::{Operation, hint},
    storage::FileObjects,
};

impl Engine {
    /// Links to the published files of an import, or to the one at `path`. They are valid for `expiry`, where the
    /// storage supports expiry.
    ///
    /// # Errors
    /// `NotFound` when there is no such import or file, or it is not published; `Unsupported` when
    /// the storage has no links.
    pub async fn urls(
        &self,
        import_ref: &str,
        path: Option<&str>,
        expiry: Duration,
    ) -> Result<Vec<FileUrl>> {
        let row = self.catalog.find(import_ref).await?;
        let selected = publishable_files(&self.files_of(&row).await?, row.selected.as_deref());
        let objects = FileObjects::of(&self.catalog.objects(&row.id).await?);
        let published = |file: &FileRow| objects.find(file).filter(|object| object.is_stored());
        let files = match path {
            Some(_) => vec![find_file(&row, &self.catalog.files(&row.id).await?, path)?.clone()],
            None => selected.into_iter().filter(|file| published(file).is_some()).collect(),
        };
        if files.is_empty() {
            return Err(not_published(&row, "no file is"));
        }
        let storage = self.storage_of(&row).await?;
        let mut urls = Vec::with_capacity(files.len());
        for file in files {
            let object = published(&file)
                .ok_or_else(|| not_published(&row, &format!("{:?} is not", file.path)))?;
            let url = storage.backend.url(&Key::new(&object.key)?, expiry).await?;
            urls.push(FileUrl { path: file.path, url: url.into() });
        }
        Ok(urls)
    }
}

fn not_published(row: &ImportRow, what: &str) -> Error {
    let text = format!("import {}: {what} published", row.id);
    Error::new(Kind::NotFound, text)
        .hint(hint!["publish it first: ", Operation::Publish.on(&row.id)])
}
