//! Imports and their files.

use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension, Row, params, types::Type};
use serde::{Deserialize, Serialize};

use super::{
    Catalog, ImportId, hex,
    metainfo::store_metainfo,
    random_hex, sql_error, sql_int, sql_u64,
    wanted_counts::{WantedCounts, update_counts},
};
use crate::{
    error::{Error, Kind, Result},
    hints::{Operation, hint},
};

/// The state of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportState {
    /// In progress, or to be resumed.
    Importing,
    /// Every wanted byte is durable.
    Imported,
    /// Being removed; some of its objects may be deleted already.
    Removing,
    /// Hidden from the user; its objects are kept for a later import of the same torrent.
    Kept,
}

impl ImportState {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Importing => "importing",
            Self::Imported => "imported",
            Self::Removing => "removing",
            Self::Kept => "kept",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let all = [Self::Importing, Self::Imported, Self::Removing, Self::Kept];
        all.into_iter().find(|state| state.as_str() == text)
    }
}

/// How an import's bytes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayoutKind {
    /// As chunks, under keys chosen by bae.
    #[default]
    Chunks,
    /// As whole files under their own names. Each file is made as soon as it is complete.
    Files,
}

impl LayoutKind {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chunks => "chunks",
            Self::Files => "files",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Chunks, Self::Files].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// The properties of a new import.
#[derive(Debug, Clone, Default)]
pub struct NewImport {
    pub name: String,
    /// As the user gave it: a path, a magnet link, or a URL.
    pub source: String,
    pub info_hash_v1: Option<[u8; 20]>,
    pub info_hash_v2: Option<[u8; 32]>,
    /// Length in bytes, including padding.
    pub len: u64,
    /// The storage, by the name or URL that opens it again.
    pub storage: String,
    pub chunk_len: u64,
    pub layout: LayoutKind,
    /// The torrent file, or empty.
    pub metainfo: Vec<u8>,
    /// The files in order. Together they cover `[0, len)`.
    pub files: Vec<FileRow>,
    /// Indices into `files`; `None` for all.
    pub selected: Option<Vec<u32>>,
    /// Information about the servers of a URL import (see [`Catalog::source_record`]).
    pub source_record: Option<String>,
}

/// An import as recorded, without its metainfo (see [`Catalog::metainfo`]) and files ([`Catalog::files`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportRow {
    pub id: ImportId,
    pub name: String,
    pub source: String,
    pub info_hash_v1: Option<[u8; 20]>,
    pub info_hash_v2: Option<[u8; 32]>,
    /// Length in bytes, including padding.
    pub len: u64,
    pub storage: String,
    pub chunk_len: u64,
    pub layout: LayoutKind,
    pub state: ImportState,
    /// Seconds since 1970.
    pub created_at: i64,
    /// When it first became [`ImportState::Imported`], in seconds since 1970.
    pub completed_at: Option<i64>,
    pub selected: Option<Vec<u32>>,
    /// Counts of the wanted files.
    pub wanted: WantedCounts,
}

impl ImportRow {
    /// Whether it is a torrent, with an info-hash. Otherwise it came from a URL.
    #[must_use]
    pub fn is_torrent(&self) -> bool {
        self.info_hash_v1.is_some() || self.info_hash_v2.is_some()
    }

    /// The info-hash for display, in hexadecimal: v1 if present, otherwise v2, otherwise empty.
    #[must_use]
    pub fn info_hash(&self) -> String {
        let v2 = || self.info_hash_v2.as_ref().map(|h| hex(h));
        self.info_hash_v1.as_ref().map(|h| hex(h)).or_else(v2).unwrap_or_default()
    }
}

/// A file of an import, as a range of its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FileRow {
    /// Relative and `/`-separated. Starts with the torrent's name when it has several files.
    pub path: String,
    pub start: u64,
    pub len: u64,
    /// Padding: known zeros that are never stored.
    pub pad: bool,
}

const COLUMNS: &str =
    "SELECT id, name, source, info_hash_v1, info_hash_v2, len, storage, chunk_len, state,
    created_at, completed_at, selected, layout, wanted_files, wanted_bytes, wanted_stored FROM imports";

fn import_row(row: &Row<'_>) -> rusqlite::Result<ImportRow> {
    let bad = |column: usize, what: &str| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, what.into())
    };
    let state: String = row.get(8)?;
    let selected: Option<String> = row.get(11)?;
    let layout: String = row.get(12)?;
    let selected = selected.map(|text| serde_json::from_str(&text)).transpose();
    Ok(ImportRow {
        id: row.get::<_, String>(0)?.parse().map_err(|_| bad(0, "not an import id"))?,
        name: row.get(1)?,
        source: row.get(2)?,
        info_hash_v1: row.get(3)?,
        info_hash_v2: row.get(4)?,
        len: sql_u64(row.get(5)?),
        storage: row.get(6)?,
        chunk_len: sql_u64(row.get(7)?),
        layout: LayoutKind::parse(&layout).ok_or_else(|| bad(12, "not a layout"))?,
        state: ImportState::parse(&state).ok_or_else(|| bad(8, "not a state"))?,
        created_at: row.get(9)?,
        completed_at: row.get(10)?,
        selected: selected.map_err(|_| bad(11, "not a list of files"))?,
        wanted: WantedCounts {
            files: sql_u64(row.get(13)?),
            bytes: sql_u64(row.get(14)?),
            stored: row.get::<_, Option<i64>>(15)?.map(sql_u64),
        },
    })
}

pub(super) fn select(
    connection: &Connection,
    condition: &str,
    values: impl rusqlite::Params,
) -> Result<Vec<ImportRow>> {
    let query = format!("{COLUMNS} WHERE {condition} ORDER BY num");
    let mut statement = connection.prepare_cached(&query).map_err(sql_error)?;
    let rows = statement.query_map(values, import_row).map_err(sql_error)?;
    rows.collect::<rusqlite::Result<_>>().map_err(sql_error)
}

/// The row number of an import, which other tables refer to.
pub(super) fn import_num(connection: &Connection, id: &ImportId) -> Result<i64> {
    let query = "SELECT num FROM imports WHERE id = ?";
    let mut statement = connection.prepare_cached(query).map_err(sql_error)?;
    let num = statement.query_row([id.as_str()], |row| row.get(0)).optional().map_err(sql_error)?;
    num.ok_or_else(|| not_found(id.as_str()))
}

/// The lowest and the highest info-hash of 32 bytes that begin with these hexadecimal digits; `None` when they are fewer
/// than 6, more than 64, or something else.
fn hash_range(digits: &str) -> Option<([u8; 32], [u8; 32])> {
    if !(6..=64).contains(&digits.len()) {
        return None;
    }
    let (mut low, mut high) = ([0; 32], [0xff; 32]);
    for (i, digit) in digits.bytes().enumerate() {
        let digit = u8::try_from(char::from(digit).to_digit(16)?).ok()?;
        let (shift, others) = if i % 2 == 0 { (4, 0x0f) } else { (0, 0xf0) };
        low[i / 2] = low[i / 2] & others | digit << shift;
        high[i / 2] = high[i / 2] & others | digit << shift;
    }
    Some((low, high))
}

pub(super) fn not_found(import_ref: &str) -> Error {
    Error::new(Kind::NotFound, format!("no import {import_ref:?}"))
        .hint(hint![Operation::ListImports, " lists the imports"])
}

pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The files of an import, in order.
pub(super) fn select_files(connection: &Connection, import: i64) -> Result<Vec<FileRow>> {
    let query = "SELECT path, start, len, pad FROM files WHERE import = ? ORDER BY idx";
    let file = |row: &Row<'_>| {
        let (start, len) = (sql_u64(row.get(1)?), sql_u64(row.get(2)?));
        Ok(FileRow { path: row.get(0)?, start, len, pad: row.get(3)? })
    };
    let mut statement = connection.prepare_cached(query).map_err(sql_error)?;
    let rows = statement.query_map([import], file).map_err(sql_error)?;
    rows.collect::<rusqlite::Result<_>>().map_err(sql_error)
}

fn selection_text(selected: Option<&[u32]>) -> Option<String> {
    selected.map(|files| format!("{files:?}").replace(' ', ""))
}

/// Whether `after` selects files that `before` does not. Both are in ascending order; `None` is all.
fn adds_files(before: Option<&[u32]>, after: Option<&[u32]>) -> bool {
    match (before, after) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(before), Some(after)) => after.iter().any(|n| before.binary_search(n).is_err()),
    }
}

/// A random id of 32 bits.
pub(super) fn random_id() -> Result<ImportId> {
    random_hex::<4>()?.parse()
}

/// A random id that no import has. It is drawn again while it is taken, which happens once in 40,000 at 100,000 imports.
pub(super) fn unused_id(
    connection: &Connection,
    mut draw: impl FnMut() -> Result<ImportId>,
) -> Result<ImportId> {
    loop {
        let id = draw()?;
        match import_num(connection, &id) {
            Err(e) if e.kind() == Kind::NotFound => return Ok(id),
            taken => drop(taken?),
        }
    }
}

pub(super) fn insert_import(
    connection: &Connection,
    id: &ImportId,
    new: &NewImport,
) -> Result<ImportRow> {
    let selected = selection_text(new.selected.as_deref());
    let values = params![
        id.as_str(),
        new.name,
        new.source,
        new.info_hash_v1,
        new.info_hash_v2,
        sql_int(new.len)?,
        new.storage,
        sql_int(new.chunk_len)?,
        ImportState::Importing.as_str(),
        now(),
        selected,
        new.layout.as_str(),
        new.source_record
    ];
    let sql =
        "INSERT INTO imports(id, name, source, info_hash_v1, info_hash_v2, len, storage, chunk_len,
        state, created_at, selected, layout, remote)
        VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    connection.execute(sql, values).map_err(sql_error)?;
    let num = connection.last_insert_rowid();
    store_metainfo(connection, num, &new.metainfo)?;
    let sql = "INSERT INTO files(import, idx, path, start, len, pad) VALUES(?, ?, ?, ?, ?, ?)";
    let mut statement = connection.prepare_cached(sql).map_err(sql_error)?;
    for (idx, file) in new.files.iter().enumerate() {
        let (start, len) = (sql_int(file.start)?, sql_int(file.len)?);
        let idx = sql_int(idx as u64)?;
        statement.execute(params![num, idx, file.path, start, len, file.pad]).map_err(sql_error)?;
    }
    update_counts(connection, num)?;
    let mut made = select(connection, "num = ?", [num])?;
    made.pop().ok_or_else(|| Error::new(Kind::Internal, "the new import is not in the catalog"))
}

pub(super) fn update(
    connection: &Connection,
    sql: &str,
    values: impl rusqlite::Params,
    id: &ImportId,
) -> Result<()> {
    match connection.execute(sql, values).map_err(sql_error)? {
        0 => Err(not_found(id.as_str())),
        _ => Ok(()),
    }
}

impl Catalog {
    /// Records a new import, in state [`ImportState::Importing`].
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn create_import(&self, new: NewImport) -> Result<ImportRow> {
        self.write(move |connection| {
            insert_import(connection, &unused_id(connection, random_id)?, &new)
        })
        .await
    }

    /// The imports that the user sees, oldest first. Leaves out those kept and those being removed.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn list(&self) -> Result<Vec<ImportRow>> {
        self.read(|connection| select(connection, "state NOT IN ('removing', 'kept')", [])).await
    }

    /// The imports in `state`, oldest first.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn list_in_state(&self, state: ImportState) -> Result<Vec<ImportRow>> {
        self.read(move |connection| select(connection, "state = ?", [state.as_str()])).await
    }

    /// The number of an import's files and their total bytes, without padding.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn file_totals(&self, id: &ImportId) -> Result<(usize, u64)> {
        let id = id.clone();
        let query = "SELECT count(*), coalesce(sum(f.len), 0) FROM files f
            JOIN imports i ON i.num = f.import WHERE i.id = ? AND NOT f.pad";
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(query).map_err(sql_error)?;
            let row = |row: &Row<'_>| Ok((row.get::<_, u32>(0)? as usize, sql_u64(row.get(1)?)));
            statement.query_row([id.as_str()], row).map_err(sql_error)
        })
        .await
    }

    /// The import with this id, in any state.
    ///
    /// # Errors
    /// `NotFound` when it does not exist.
    pub async fn get(&self, id: &ImportId) -> Result<ImportRow> {
        let id = id.clone();
        self.read(move |connection| {
            let found = select(connection, "id = ?", [id.as_str()])?;
            found.into_iter().next().ok_or_else(|| not_found(id.as_str()))
        })
        .await
    }

    /// The import that the user names by its id, at least 6 digits of its info-hash, or its whole name.
    ///
    /// # Errors
    /// `NotFound` when none matches; `InvalidInput` naming the candidates when several match.
    pub async fn find(&self, import_ref: &str) -> Result<ImportRow> {
        let digits = import_ref.to_ascii_lowercase();
        let (low, high) = hash_range(&digits).unzip();
        let (low_v1, high_v1) = (digits.len() <= 40).then_some((low, high)).unzip();
        let condition = "state NOT IN ('removing', 'kept') AND (id = ?1 OR name = ?2
            OR info_hash_v1 BETWEEN substr(?3, 1, 20) AND substr(?4, 1, 20)
            OR info_hash_v2 BETWEEN ?5 AND ?6)";
        let values = (digits.clone(), import_ref.to_owned(), low_v1, high_v1, low, high);
        let mut all = self.read(move |connection| select(connection, condition, values)).await?;
        if let Some(at) = all.iter().position(|row| row.id.as_str() == digits) {
            return Ok(all.swap_remove(at));
        }
        match all.len() {
            0 => Err(not_found(import_ref)),
            1 => Ok(all.remove(0)),
            n => {
                let ids: Vec<_> =
                    all.iter().map(|row| format!("{} ({})", row.id, row.name)).collect();
                let text = format!("{import_ref:?} matches {n} imports: {}", ids.join(", "));
                Err(Error::new(Kind::InvalidInput, text).hint("use the id"))
            }
        }
    }

    /// The imports of a torrent, including kept ones and without those being removed. Kept ones come last; within
    /// each group the newest is first.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn find_by_info_hash(
        &self,
        v1: Option<[u8; 20]>,
        v2: Option<[u8; 32]>,
    ) -> Result<Vec<ImportRow>> {
        let condition = "state <> 'removing' AND (info_hash_v1 = ?1 OR info_hash_v2 = ?2)";
        let mut found = self.read(move |c| select(c, condition, params![v1, v2])).await?;
        found.reverse();
        found.sort_by_key(|row| row.state == ImportState::Kept);
        Ok(found)
    }

    /// Sets the state of an import. Records the time when it becomes imported for the first time.
    ///
    /// # Errors
    /// `NotFound` when the import does not exist.
    pub async fn set_state(&self, id: &ImportId, state: ImportState) -> Result<()> {
        let id = id.clone();
        let sql = "UPDATE imports SET state = ?1, completed_at =
            CASE ?1 WHEN 'imported' THEN coalesce(completed_at, ?2) ELSE completed_at END WHERE id = ?3";
        self.write(move |c| update(c, sql, params![state.as_str(), now(), id.as_str()], &id)).await
    }

    /// Records which files are wanted; `None` for all. With files that were not wanted before, a complete import is
    /// [`ImportState::Importing`] again.
    ///
    /// # Errors
    /// `NotFound` when the import does not exist.
    pub async fn set_selected(&self, id: &ImportId, selected: Option<Vec<u32>>) -> Result<()> {
        let id = id.clone();
        let sql = "UPDATE imports SET selected = ? WHERE id = ?";
        let reopen = "UPDATE imports SET state = 'importing' WHERE id = ? AND state = 'imported'";
        self.write(move |connection| {
            let before = select(connection, "id = ?", [id.as_str()])?.pop();
            let before = before.ok_or_else(|| not_found(id.as_str()))?.selected;
            let text = selection_text(selected.as_deref());
            update(connection, sql, params![text, id.as_str()], &id)?;
            if adds_files(before.as_deref(), selected.as_deref()) {
                connection.execute(reopen, [id.as_str()]).map_err(sql_error)?;
            }
            update_counts(connection, import_num(connection, &id)?)
        })
        .await
    }

    /// Records how the import's bytes are stored.
    ///
    /// # Errors
    /// `NotFound` when the import does not exist.
    pub async fn set_layout(&self, id: &ImportId, layout: LayoutKind) -> Result<()> {
        let id = id.clone();
        let sql = "UPDATE imports SET layout = ? WHERE id = ?";
        self.write(move |c| update(c, sql, params![layout.as_str(), id.as_str()], &id)).await
    }

    /// The files of an import, in order.
    ///
    /// # Errors
    /// `NotFound` when the import does not exist.
    pub async fn files(&self, id: &ImportId) -> Result<Vec<FileRow>> {
        let id = id.clone();
        self.read(move |connection| select_files(connection, import_num(connection, &id)?)).await
    }

    /// Deletes the rows of an import, its files, objects and extents. Succeeds when it does not exist.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn delete_import(&self, id: &ImportId) -> Result<()> {
        let id = id.clone();
        let sql = "DELETE FROM imports WHERE id = ?";
        self.write(move |c| c.execute(sql, [id.as_str()]).map(drop).map_err(sql_error)).await
    }
}
