//! Imports and their files.

use std::time::SystemTime;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Catalog, ImportId, hex,
    metainfo::store_metainfo,
    random_hex,
    sql::{self, Row, Sql, Value, first, scalar, values},
    sql_int,
    wanted_counts::{WantedCounts, update_counts},
};
use crate::{
    error::{Error, Kind, Result},
    hints::{Operation, hint},
};

/// The state of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
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

fn import_row(row: &Row<'_>) -> Result<ImportRow> {
    Ok(ImportRow {
        id: row.parsed(0, |text| text.parse().ok())?,
        name: row.get(1)?,
        source: row.get(2)?,
        info_hash_v1: row.get(3)?,
        info_hash_v2: row.get(4)?,
        len: row.get(5)?,
        storage: row.get(6)?,
        chunk_len: row.get(7)?,
        layout: row.parsed(12, LayoutKind::parse)?,
        state: row.parsed(8, ImportState::parse)?,
        created_at: row.get(9)?,
        completed_at: row.get(10)?,
        selected: match row.get::<Option<String>>(11)? {
            None => None,
            Some(_) => row.parsed(11, |text| serde_json::from_str(text).ok()).map(Some)?,
        },
        wanted: WantedCounts { files: row.get(13)?, bytes: row.get(14)?, stored: row.get(15)? },
    })
}

pub(super) fn select(
    db: &dyn Sql,
    condition: &str,
    values: &[Value<'_>],
) -> Result<Vec<ImportRow>> {
    let query = format!("{COLUMNS} WHERE {condition} ORDER BY num");
    sql::select(db, &query, values, import_row)
}

/// The row number of an import, which other tables refer to.
pub(super) fn import_num(db: &dyn Sql, id: &ImportId) -> Result<i64> {
    let num = scalar(db, "SELECT num FROM imports WHERE id = ?", values![id.as_str()])?;
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
pub(super) fn select_files(db: &dyn Sql, import: i64) -> Result<Vec<FileRow>> {
    let query = "SELECT path, start, len, pad FROM files WHERE import = ? ORDER BY idx";
    let file = |row: &Row<'_>| {
        Ok(FileRow { path: row.get(0)?, start: row.get(1)?, len: row.get(2)?, pad: row.get(3)? })
    };
    sql::select(db, query, values![import], file)
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
    db: &dyn Sql,
    mut draw: impl FnMut() -> Result<ImportId>,
) -> Result<ImportId> {
    loop {
        let id = draw()?;
        match import_num(db, &id) {
            Err(e) if e.kind() == Kind::NotFound => return Ok(id),
            taken => drop(taken?),
        }
    }
}

pub(super) fn insert_import(db: &dyn Sql, id: &ImportId, new: &NewImport) -> Result<ImportRow> {
    let selected = selection_text(new.selected.as_deref());
    let values = values![
        id.as_str(),
        &new.name,
        &new.source,
        new.info_hash_v1.as_ref(),
        new.info_hash_v2.as_ref(),
        sql_int(new.len)?,
        &new.storage,
        sql_int(new.chunk_len)?,
        ImportState::Importing.as_str(),
        now(),
        selected.as_deref(),
        new.layout.as_str(),
        new.source_record.as_deref(),
    ];
    let sql = "INSERT INTO storages(name) VALUES(?) ON CONFLICT DO NOTHING";
    db.execute(sql, values![&new.storage])?;
    let sql =
        "INSERT INTO imports(id, name, source, info_hash_v1, info_hash_v2, len, storage, chunk_len,
        state, created_at, selected, layout, remote)
        VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING num";
    let num: Option<i64> = scalar(db, sql, values)?;
    let lost = || Error::new(Kind::Internal, "the new import is not in the catalog");
    let num = num.ok_or_else(lost)?;
    store_metainfo(db, num, &new.metainfo)?;
    let sql = "INSERT INTO files(import, idx, path, start, len, pad) VALUES(?, ?, ?, ?, ?, ?)";
    for (idx, file) in new.files.iter().enumerate() {
        let (start, len) = (sql_int(file.start)?, sql_int(file.len)?);
        let idx = sql_int(idx as u64)?;
        db.execute(sql, values![num, idx, &file.path, start, len, file.pad])?;
    }
    update_counts(db, num)?;
    select(db, "num = ?", values![num])?.pop().ok_or_else(lost)
}

pub(super) fn update(db: &dyn Sql, sql: &str, values: &[Value<'_>], id: &ImportId) -> Result<()> {
    match db.execute(sql, values)? {
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
        self.write(move |db| insert_import(db, &unused_id(db, random_id)?, &new)).await
    }

    /// The imports that the user sees, oldest first. Leaves out those kept and those being removed.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn list(&self) -> Result<Vec<ImportRow>> {
        self.read(|db| select(db, "state NOT IN ('removing', 'kept')", values![])).await
    }

    /// The imports in `state`, oldest first.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn list_in_state(&self, state: ImportState) -> Result<Vec<ImportRow>> {
        self.read(move |db| select(db, "state = ?", values![state.as_str()])).await
    }

    /// The number of an import's files and their total bytes, without padding.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn file_totals(&self, id: &ImportId) -> Result<(usize, u64)> {
        let id = id.clone();
        let query = "SELECT count(*), CAST(coalesce(sum(f.len), 0) AS BIGINT) FROM files f
            JOIN imports i ON i.num = f.import WHERE i.id = ? AND f.pad = 0";
        self.read(move |db| {
            let row = |row: &Row<'_>| Ok((row.get::<u32>(0)? as usize, row.get(1)?));
            Ok(first(db, query, values![id.as_str()], row)?.unwrap_or_default())
        })
        .await
    }

    /// The import with this id, in any state.
    ///
    /// # Errors
    /// `NotFound` when it does not exist.
    pub async fn get(&self, id: &ImportId) -> Result<ImportRow> {
        let id = id.clone();
        self.read(move |db| {
            let found = select(db, "id = ?", values![id.as_str()])?;
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
        let range = hash_range(&digits);
        let range_v1 = range.filter(|_| digits.len() <= 40);
        let condition = "state NOT IN ('removing', 'kept') AND (id = ?1 OR name = ?2
            OR info_hash_v1 BETWEEN ?3 AND ?4
            OR info_hash_v2 BETWEEN ?5 AND ?6)";
        let (id, name) = (digits.clone(), import_ref.to_owned());
        let found = self.read(move |db| {
            let (low, high) = range.as_ref().map(|(low, high)| (low, high)).unzip();
            let v1 = range_v1.as_ref().map(|(low, high)| (&low[..20], &high[..20]));
            let (low_v1, high_v1) = v1.unzip();
            select(db, condition, values![&id, &name, low_v1, high_v1, low, high])
        });
        let mut all = found.await?;
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
        let mut found =
            self.read(move |c| select(c, condition, values![v1.as_ref(), v2.as_ref()])).await?;
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
        self.write(move |c| update(c, sql, values![state.as_str(), now(), id.as_str()], &id)).await
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
        self.write(move |db| {
            let before = select(db, "id = ?", values![id.as_str()])?.pop();
            let before = before.ok_or_else(|| not_found(id.as_str()))?.selected;
            let text = selection_text(selected.as_deref());
            update(db, sql, values![text.as_deref(), id.as_str()], &id)?;
            if adds_files(before.as_deref(), selected.as_deref()) {
                db.execute(reopen, values![id.as_str()])?;
            }
            update_counts(db, import_num(db, &id)?)
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
        self.write(move |c| update(c, sql, values![layout.as_str(), id.as_str()], &id)).await
    }

    /// The files of an import, in order.
    ///
    /// # Errors
    /// `NotFound` when the import does not exist.
    pub async fn files(&self, id: &ImportId) -> Result<Vec<FileRow>> {
        let id = id.clone();
        self.read(move |db| select_files(db, import_num(db, &id)?)).await
    }
}
