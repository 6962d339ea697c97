//! The files of downloads, as the dialects list them. They are read from the catalog once, and kept for the next list.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use super::state::ApiState;
use crate::{
    error::{Error, Kind, Result},
    queue::{Download, SourceKind, State},
    torrents::metainfo::{File, Metainfo, select},
};

/// Files of all kept downloads together.
const MAX_FILES: usize = 200_000;

/// What is inside of a download.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Content {
    /// 0 for what has no pieces.
    pub(super) piece_len: u64,
    pub(super) pieces: usize,
    pub(super) files: Vec<ContentFile>,
    /// Scheme and host only: the rest of the URL may hold a passkey.
    pub(super) trackers: Vec<String>,
    pub(super) private: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ContentFile {
    /// With the name of the torrent, if that is a folder.
    pub(super) path: String,
    pub(super) bytes: u64,
    pub(super) selected: bool,
}

impl ContentFile {
    /// Stored bytes: exact for a whole download, and for one with a single file; else an estimate by the length.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate for display"
    )]
    pub(super) fn stored(&self, download: &Download) -> u64 {
        let share = match download.progress.bytes {
            Some(bytes) if bytes > 0 => shown_stored(download) as f64 / bytes as f64,
            _ => 0.0,
        };
        match (self.selected, download.state == State::Done) {
            (false, _) => 0,
            (true, true) => self.bytes,
            (true, false) => (self.bytes as f64 * share) as u64,
        }
    }
}

/// Bytes that are shown as stored. While the files are being exported, one byte is missing: clients look for the files of
/// a download that has none missing.
pub(super) fn shown_stored(download: &Download) -> u64 {
    let progress = &download.progress;
    match (&download.state, progress.bytes) {
        (State::Done, Some(bytes)) => bytes,
        (State::Exporting, Some(bytes)) => bytes.saturating_sub(1),
        (_, Some(bytes)) => progress.stored.min(bytes),
        (_, None) => progress.stored,
    }
}

/// Contents that were listed before. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Contents(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    by_key: HashMap<Key, Arc<Content>>,
    files: usize,
}

/// The content of a download changes with its import and its selection.
type Key = (u64, Option<String>, Option<String>, bool);

impl Contents {
    /// The content of a download; `None` while it is not known.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub(super) async fn of(
        &self,
        state: &ApiState,
        download: &Download,
    ) -> Result<Option<Arc<Content>>> {
        let (import, select) = (download.import.clone(), download.settings.select.clone());
        let key = (download.number, import, select, download.state.is_stored());
        if let Some(known) = self.0.lock().by_key.get(&key) {
            return Ok(Some(Arc::clone(known)));
        }
        let content = match &download.import {
            Some(import) => match state.engine().info(import).await {
                Ok(info) => Content {
                    piece_len: info.piece_length,
                    pieces: info.pieces,
                    files: info
                        .files
                        .into_iter()
                        .map(|f| ContentFile { path: f.path, bytes: f.bytes, selected: f.selected })
                        .collect(),
                    trackers: info.trackers,
                    private: info.private,
                },
                // It was removed without its download.
                Err(e) if e.kind() == Kind::NotFound => return Ok(None),
                Err(e) => return Err(e),
            },
            None if download.kind == SourceKind::Torrent => of_torrent(state, download).await?,
            None => return Ok(None),
        };
        let content = Arc::new(content);
        // A torrent may be removed between the two.
        if download.state != State::Starting {
            self.keep(key, Arc::clone(&content));
        }
        Ok(Some(content))
    }

    fn keep(&self, key: Key, content: Arc<Content>) {
        let mut kept = self.0.lock();
        let len = content.files.len().max(1);
        if kept.files + len > MAX_FILES {
            *kept = Kept::default();
        }
        if len <= MAX_FILES {
            kept.files += len;
            kept.by_key.insert(key, content);
        }
    }
}

/// A torrent that was never started: its files are those of its torrent file.
async fn of_torrent(state: &ApiState, download: &Download) -> Result<Content> {
    let bytes = state.queue().torrent_file(download).await?;
    let parse = move || Metainfo::parse(&bytes);
    let meta = tokio::task::spawn_blocking(parse)
        .await
        .map_err(|e| Error::new(Kind::Internal, "reading a torrent panicked").because(e))??;
    let spec = download.settings.select.as_deref();
    // A selection that fits no file fails when the download starts.
    let selected = spec.and_then(|spec| select::select(spec, &meta.files).ok());
    let is_selected = |index: usize| {
        let index = u32::try_from(index).ok();
        selected.as_ref().is_none_or(|all| index.is_some_and(|index| all.contains(&index)))
    };
    let files = meta.files.iter().enumerate().filter(|(_, file)| !file.pad);
    let file = |(index, file): (usize, &File)| ContentFile {
        path: file.path.clone(),
        bytes: file.range.end - file.range.start,
        selected: is_selected(index),
    };
    let trackers = meta.trackers.iter().flatten();
    Ok(Content {
        piece_len: u64::from(meta.piece_length),
        pieces: usize::try_from(meta.pieces()).unwrap_or(0),
        files: files.map(file).collect(),
        trackers: trackers.map(|url| crate::redact::tracker_origin(url)).collect(),
        private: meta.private,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::example_download;

    #[test]
    fn stored_bytes_of_files_add_up_to_those_of_the_download() {
        let file = |bytes, selected| ContentFile { path: String::new(), bytes, selected };
        let files = [file(300, true), file(100, true), file(50, false)];
        let mut download = example_download();
        download.progress.bytes = Some(400);
        download.progress.stored = 200;
        let stored = |download: &Download| files.each_ref().map(|file| file.stored(download));
        assert_eq!(stored(&download), [150, 50, 0]);
        download.state = State::Exporting;
        assert_eq!(shown_stored(&download), 399);
        assert!(stored(&download)[0] < 300);
        download.state = State::Done;
        assert_eq!((stored(&download), shown_stored(&download)), ([300, 100, 0], 400));
    }

    #[test]
    fn the_number_of_kept_files_is_bounded() {
        let contents = Contents::default();
        let file = ContentFile { path: String::new(), bytes: 1, selected: true };
        let content = Content { files: vec![file; MAX_FILES / 4], ..Content::default() };
        let content = Arc::new(content);
        for number in 0..100 {
            contents.keep((number, None, None, false), Arc::clone(&content));
            assert!(contents.0.lock().files <= MAX_FILES);
        }
        let huge = ContentFile { path: String::new(), bytes: 1, selected: true };
        let huge = Content { files: vec![huge; MAX_FILES + 1], ..Content::default() };
        contents.keep((100, None, None, false), Arc::new(huge));
        assert!(contents.0.lock().by_key.len() < 5);
    }
}
