//! The files and pieces of a torrent, the choice of its files, and the torrent file.

use std::{collections::BTreeSet, ops::Range};

use axum::{
    http::{HeaderValue, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
};
use serde_json::json;

use super::{
    Dialect,
    answer::{Answer, Refusal, done, json as json_answer},
    params::Params,
};
use crate::{
    catalog::hex,
    engine::FileProgress,
    error::Result,
    queue::{Change, Download, SourceKind, State},
    torrents::metainfo::Metainfo,
};

/// The priorities of a file: not wanted, normal, high, maximal.
const PRIORITIES: [i64; 4] = [0, 1, 6, 7];
/// The state of a piece that is stored.
const STORED: u8 = 2;

/// The files of a torrent, as far as they are known.
#[derive(Debug, Default)]
struct Content {
    files: Vec<FileProgress>,
    piece_length: u64,
    /// Whether each piece is stored.
    pieces: Vec<bool>,
}

impl Content {
    fn of(meta: &Metainfo) -> Self {
        let files = meta.files.iter().filter(|file| !file.pad);
        let files = files.map(|file| FileProgress {
            path: file.path.clone(),
            range: file.range.clone(),
            selected: true,
            stored: 0,
        });
        Self {
            files: files.collect(),
            piece_length: u64::from(meta.piece_length),
            pieces: vec![false; meta.pieces() as usize],
        }
    }

    fn pieces_of(&self, range: &Range<u64>) -> [u64; 2] {
        let piece = |at: u64| at.checked_div(self.piece_length).unwrap_or(0);
        [piece(range.start), piece(range.end.saturating_sub(1).max(range.start))]
    }
}

impl Dialect {
    async fn content(&self, download: &Download) -> Result<Content> {
        if let Some(import) = &download.import {
            let progress = self.api().engine().content_progress(import).await?;
            let (piece_length, pieces) = (progress.piece_length, progress.pieces);
            return Ok(Content { files: progress.files, piece_length, pieces });
        }
        match download.kind {
            SourceKind::Torrent => Ok(Content::of(&self.metainfo_of(download).await?)),
            _ => Ok(Content::default()),
        }
    }

    pub(super) async fn files(&self, params: &Params) -> Answer {
        let download = self.torrent(params)?;
        let content = self.content(&download).await?;
        let wanted: Option<BTreeSet<i64>> = match params.given("indexes") {
            Some(_) => Some(indexes(&params.list("indexes", '|'))?),
            None => None,
        };
        let is_seed = download.state.is_stored();
        let rows = content.files.iter().zip(0_i64..);
        let rows = rows.filter(|(_, index)| wanted.as_ref().is_none_or(|all| all.contains(index)));
        let rows = rows.map(|(file, index)| {
            let progress = share(file, is_seed);
            let mut row = json!({
                "index": index,
                "name": file.path,
                "size": file.range.end - file.range.start,
                "progress": progress,
                "priority": i64::from(file.selected),
                "piece_range": content.pieces_of(&file.range),
                "availability": if progress >= 1.0 { 1.0 } else { 0.0 },
            });
            if index == 0 {
                row["is_seed"] = json!(is_seed);
            }
            row
        });
        Ok(json_answer(&rows.collect::<Vec<_>>()))
    }

    pub(super) async fn piece_states(&self, params: &Params) -> Answer {
        let download = self.torrent(params)?;
        let content = self.content(&download).await?;
        let states = content.pieces.iter().map(|stored| if *stored { STORED } else { 0 });
        Ok(json_answer(&states.collect::<Vec<_>>()))
    }

    pub(super) async fn piece_hashes(&self, params: &Params) -> Answer {
        let download = self.torrent(params)?;
        if download.kind != SourceKind::Torrent {
            return Ok(json_answer(&[(); 0]));
        }
        let meta = self.metainfo_of(&download).await?;
        let hashes = meta.pieces_v1().iter().map(|hash| hex(hash));
        Ok(json_answer(&hashes.collect::<Vec<_>>()))
    }

    /// The torrent file. It contains the passkeys of its trackers.
    pub(super) async fn export(&self, params: &Params) -> Answer {
        let download = self.torrent(params)?;
        if download.kind != SourceKind::Torrent {
            return Err(Refusal::conflict("the torrent was not added as a file"));
        }
        let bytes = self.queue().torrent_file(&download).await?;
        Ok(torrent_response(bytes))
    }

    /// Chooses files. The choice is made at the next start of the import, so a running one is started again.
    pub(super) async fn set_file_priority(&self, params: &Params) -> Answer {
        let download = self.torrent(params)?;
        let chosen = indexes(&split_ids(params.required("id")?))?;
        let priority = params.int("priority")?;
        if !priority.is_some_and(|priority| PRIORITIES.contains(&priority)) {
            return Err(Refusal::bad("the priority is not 0, 1, 6 or 7"));
        }
        let content = self.content(&download).await?;
        if content.files.is_empty() {
            return Err(Refusal::conflict("the files of the torrent are not known yet"));
        }
        let count = i64::try_from(content.files.len()).unwrap_or(i64::MAX);
        if chosen.iter().any(|index| !(0..count).contains(index)) {
            return Err(Refusal::conflict("the torrent has no such file"));
        }
        let is_wanted = priority != Some(0);
        let selected = content.files.iter().zip(0_i64..).filter_map(|(file, index)| {
            let selected = if chosen.contains(&index) { is_wanted } else { file.selected };
            selected.then_some(index + 1)
        });
        let selected: Vec<String> = selected.map(|number| number.to_string()).collect();
        if selected.is_empty() {
            return Err(Refusal::conflict("a torrent needs at least one file: remove the torrent"));
        }
        let all = selected.len() == content.files.len();
        let select = (!all).then(|| selected.join(","));
        self.select(&download, select).await?;
        Ok(done())
    }

    async fn select(&self, download: &Download, select: Option<String>) -> Result<()> {
        if download.settings.select == select {
            return Ok(());
        }
        let ids = std::slice::from_ref(&download.id);
        self.queue().update(ids, &Change { select: Some(select), ..Change::default() }).await?;
        match download.state {
            State::Starting | State::Downloading => {
                self.queue().pause(ids).await?;
                self.queue().resume(ids).await
            }
            State::Done => self.queue().retry(ids).await,
            _ => Ok(()),
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "a share for display")]
fn share(file: &FileProgress, is_seed: bool) -> f64 {
    let len = file.range.end - file.range.start;
    match len {
        _ if is_seed && file.selected => 1.0,
        0 => 1.0,
        len => (file.stored as f64 / len as f64).min(1.0),
    }
}

/// Ids of files, separated by `|`; some clients use commas.
fn split_ids(text: &str) -> Vec<String> {
    text.split(['|', ',']).map(|id| id.trim().to_owned()).collect()
}

fn indexes(ids: &[String]) -> Result<BTreeSet<i64>, Refusal> {
    let parse = |id: &String| {
        id.parse::<i64>().map_err(|_| Refusal::conflict("the id of a file is not a number"))
    };
    ids.iter().map(parse).collect()
}

fn torrent_response(bytes: Vec<u8>) -> Response {
    let mut response = bytes.into_response();
    let kind = HeaderValue::from_static("application/x-bittorrent");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_spans_its_pieces() {
        let content = Content { piece_length: 10, ..Content::default() };
        assert_eq!(content.pieces_of(&(0..10)), [0, 0]);
        assert_eq!(content.pieces_of(&(5..25)), [0, 2]);
        assert_eq!(content.pieces_of(&(20..20)), [2, 2], "an empty file");
        assert_eq!(Content::default().pieces_of(&(5..25)), [0, 0]);
    }

    #[test]
    fn ids_of_files_are_numbers() {
        assert_eq!(indexes(&split_ids("0|2,1")).unwrap(), [0, 1, 2].into());
        assert_eq!(indexes(&split_ids("x")).unwrap_err().status.as_u16(), 409);
        assert_eq!(indexes(&split_ids("")).unwrap_err().status.as_u16(), 409);
    }

    #[test]
    fn a_finished_torrent_has_whole_files() {
        let file =
            |selected, stored| FileProgress { path: "a".into(), range: 0..10, selected, stored };
        assert!((share(&file(true, 5), false) - 0.5).abs() < 1e-9);
        assert!((share(&file(true, 5), true) - 1.0).abs() < 1e-9);
        assert!((share(&file(false, 5), true) - 0.5).abs() < 1e-9, "a file that is not wanted");
    }
}
