//! The tables of the catalog in SQLite's dialect, and the migration of older files.
//!
//! The version of these tables is SQLite's `user_version`, which an older bae checks before it reads anything. Tables of
//! other modules are counted in the table `migrations` (`catalog/modules.rs`).

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::errors::sql_error;
use crate::{
    catalog::{random_hex, sql_int},
    error::{Error, Kind, Result},
    hints::{Operation, hint},
};

/// Each step migrates the file from the version of its index to the next. Steps are never changed, only added.
pub(in crate::catalog) const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE imports(
        num INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL,
        source TEXT NOT NULL,
        info_hash_v1 BLOB CHECK(length(info_hash_v1) = 20),
        info_hash_v2 BLOB CHECK(length(info_hash_v2) = 32),
        len INTEGER NOT NULL,
        storage TEXT NOT NULL,
        chunk_len INTEGER NOT NULL,
        metainfo BLOB NOT NULL,
        state TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        completed_at INTEGER,
        selected TEXT
    );
    CREATE TABLE files(
        import INTEGER NOT NULL REFERENCES imports(num) ON DELETE CASCADE,
        idx INTEGER NOT NULL,
        path TEXT NOT NULL,
        start INTEGER NOT NULL,
        len INTEGER NOT NULL,
        pad INTEGER NOT NULL,
        PRIMARY KEY(import, idx)
    ) WITHOUT ROWID;
    CREATE TABLE objects(
        num INTEGER PRIMARY KEY AUTOINCREMENT,
        import INTEGER NOT NULL REFERENCES imports(num) ON DELETE CASCADE,
        key TEXT NOT NULL,
        len INTEGER NOT NULL,
        state TEXT NOT NULL CHECK(state IN ('intent', 'stored')),
        packed INTEGER NOT NULL
    );
    CREATE INDEX objects_by_import ON objects(import);
    CREATE TABLE extents(
        import INTEGER NOT NULL REFERENCES imports(num) ON DELETE CASCADE,
        start INTEGER NOT NULL,
        end INTEGER NOT NULL,
        object INTEGER NOT NULL REFERENCES objects(num) ON DELETE CASCADE,
        offset INTEGER NOT NULL,
        PRIMARY KEY(import, start)
    ) WITHOUT ROWID;
    CREATE INDEX extents_by_object ON extents(object);
",
    "
    ALTER TABLE imports ADD COLUMN layout TEXT NOT NULL DEFAULT 'chunks';
    ALTER TABLE objects ADD COLUMN role TEXT NOT NULL DEFAULT 'chunk';
    CREATE TABLE notes(
        storage TEXT NOT NULL,
        name TEXT NOT NULL,
        value TEXT NOT NULL,
        PRIMARY KEY(storage, name)
    ) WITHOUT ROWID;
",
    "
    ALTER TABLE imports ADD COLUMN manifest TEXT;
    CREATE INDEX objects_by_key ON objects(key);
    CREATE TABLE adopted(
        storage TEXT NOT NULL,
        catalog TEXT NOT NULL,
        PRIMARY KEY(storage, catalog)
    ) WITHOUT ROWID;
",
    "
    CREATE TABLE streamed(
        object INTEGER PRIMARY KEY REFERENCES objects(num) ON DELETE CASCADE,
        start INTEGER NOT NULL,
        end INTEGER NOT NULL
    );
",
    "
    CREATE TABLE stamps(
        object INTEGER PRIMARY KEY REFERENCES objects(num) ON DELETE CASCADE,
        tag TEXT NOT NULL
    );
",
    // No foreign key to `imports`: costs stay recorded after the import is removed.
    "
    CREATE TABLE traffic(
        month TEXT NOT NULL,
        storage TEXT NOT NULL,
        import TEXT NOT NULL,
        gets INTEGER NOT NULL,
        fetched INTEGER NOT NULL,
        kept INTEGER NOT NULL,
        served INTEGER NOT NULL,
        seconds INTEGER NOT NULL,
        PRIMARY KEY(month, storage, import)
    ) WITHOUT ROWID;
    CREATE INDEX traffic_by_import ON traffic(import);
",
    "
    ALTER TABLE imports ADD COLUMN remote TEXT;
",
    // A goal that is NULL comes from the config; 0 is never reached.
    "
    CREATE TABLE goals(
        import INTEGER PRIMARY KEY REFERENCES imports(num) ON DELETE CASCADE,
        ratio REAL,
        seconds INTEGER
    );
",
    // A table of its own, because the metainfo makes rows of `imports` long, and listing imports reads whole rows.
    "
    CREATE TABLE metainfo(
        import INTEGER PRIMARY KEY REFERENCES imports(num) ON DELETE CASCADE,
        bytes BLOB NOT NULL
    );
    INSERT INTO metainfo SELECT num, metainfo FROM imports WHERE length(metainfo) > 0;
    ALTER TABLE imports DROP COLUMN metainfo;
    ALTER TABLE imports ADD COLUMN wanted_files INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE imports ADD COLUMN wanted_bytes INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE imports ADD COLUMN wanted_stored INTEGER;
    UPDATE imports SET (wanted_files, wanted_bytes) = (
        SELECT count(*), coalesce(sum(len), 0) FROM files
        WHERE import = imports.num AND NOT pad AND (imports.selected IS NULL
            OR idx IN (SELECT value FROM json_each(imports.selected)))
    );
",
    "
    ALTER TABLE traffic ADD COLUMN read_gets INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE traffic ADD COLUMN read_fetched INTEGER NOT NULL DEFAULT 0;
",
    // Without these, finding an import by its torrent, name or URL reads every row.
    "
    CREATE INDEX imports_by_info_hash_v1 ON imports(info_hash_v1) WHERE info_hash_v1 IS NOT NULL;
    CREATE INDEX imports_by_info_hash_v2 ON imports(info_hash_v2) WHERE info_hash_v2 IS NOT NULL;
    CREATE INDEX imports_by_name ON imports(name);
    CREATE INDEX imports_by_source ON imports(source);
",
    "
    CREATE TABLE migrations(
        module TEXT NOT NULL,
        step INTEGER NOT NULL,
        applied_at INTEGER NOT NULL,
        PRIMARY KEY(module, step)
    ) WITHOUT ROWID;
",
    // Objects belong to a storage, no longer to one import, so they need a new table: SQLite drops no foreign key. `home`
    // has none, because the catalog gives an object another home before its import is deleted.
    "
    CREATE TABLE storages(num INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
    INSERT INTO storages(name) SELECT storage FROM imports GROUP BY storage ORDER BY min(num);
    CREATE TABLE new_objects(
        num INTEGER PRIMARY KEY AUTOINCREMENT,
        storage INTEGER NOT NULL REFERENCES storages(num),
        home INTEGER NOT NULL,
        key TEXT NOT NULL,
        len INTEGER NOT NULL,
        state TEXT NOT NULL CHECK(state IN ('intent', 'stored', 'dying')),
        packed INTEGER NOT NULL,
        role TEXT NOT NULL,
        format INTEGER NOT NULL DEFAULT 0,
        header BLOB,
        root BLOB CHECK(length(root) = 32)
    );
    INSERT INTO new_objects(num, storage, home, key, len, state, packed, role)
        SELECT o.num, s.num, o.import, o.key, o.len, o.state, o.packed, o.role
        FROM objects o JOIN imports i ON i.num = o.import JOIN storages s ON s.name = i.storage
        ORDER BY o.num;
    DELETE FROM sqlite_sequence WHERE name = 'new_objects';
    INSERT INTO sqlite_sequence(name, seq)
        SELECT 'new_objects', seq FROM sqlite_sequence WHERE name = 'objects';
    DROP TABLE objects;
    ALTER TABLE new_objects RENAME TO objects;
    CREATE INDEX objects_by_home ON objects(home);
    CREATE INDEX objects_by_key ON objects(key);
",
];

/// Migrates the file to the current version and returns the catalog's id.
pub(in crate::catalog) fn prepare(connection: &mut Connection, path: &Path) -> Result<String> {
    // A table is replaced by one of the same name, to which others refer.
    connection.pragma_update(None, "foreign_keys", false).map_err(sql_error)?;
    // Immediate, so that two processes opening a new folder at once do not both create the tables.
    let tx =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql_error)?;
    let version = known_version(&tx, path)?;
    for step in &MIGRATIONS[version..] {
        tx.execute_batch(step).map_err(sql_error)?;
    }
    tx.pragma_update(None, "user_version", sql_int(MIGRATIONS.len() as u64)?).map_err(sql_error)?;
    let fresh = random_hex::<8>()?;
    tx.execute("INSERT OR IGNORE INTO meta VALUES('catalog_id', ?)", [fresh]).map_err(sql_error)?;
    let id = catalog_id(&tx, path)?;
    tx.commit().map_err(sql_error)?;
    connection.pragma_update(None, "foreign_keys", true).map_err(sql_error)?;
    if (1..MIGRATIONS.len()).contains(&version) {
        vacuum_if_sparse(connection);
    }
    Ok(id)
}

/// Frees the pages that a migration emptied, when they are more than a quarter of the file. When this fails, the file
/// stays larger and later writes reuse the pages.
fn vacuum_if_sparse(connection: &Connection) {
    let count = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let is_sparse = || Ok(count("freelist_count")? > count("page_count")? / 4);
    let done = is_sparse()
        .and_then(|is_sparse| if is_sparse { connection.execute_batch("VACUUM") } else { Ok(()) });
    if let Err(e) = done {
        tracing::info!("the catalog file was not shrunk: {e}");
    }
}

/// Refuses a file of another version, and returns the catalog's id.
pub(super) fn check(connection: &Connection, path: &Path) -> Result<String> {
    if known_version(connection, path)? < MIGRATIONS.len() {
        let text = format!("catalog {} has the schema of an older bae", path.display());
        return Err(Error::new(Kind::Unsupported, text).hint(hint![
            "run an operation that writes, such as ",
            Operation::FindLeftovers,
            ", to migrate it",
        ]));
    }
    catalog_id(connection, path)
}

fn known_version(connection: &Connection, path: &Path) -> Result<usize> {
    let version: i64 =
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(sql_error)?;
    match usize::try_from(version) {
        Ok(version) if version <= MIGRATIONS.len() => Ok(version),
        _ => {
            let text = format!("catalog {} has version {version}", path.display());
            Err(Error::new(Kind::Unsupported, text)
                .hint("it was created by a newer bae: update bae"))
        }
    }
}

fn catalog_id(connection: &Connection, path: &Path) -> Result<String> {
    let id = connection
        .query_row("SELECT value FROM meta WHERE key = 'catalog_id'", [], |row| row.get(0))
        .optional()
        .map_err(sql_error)?;
    id.ok_or_else(|| Error::new(Kind::Corrupt, format!("catalog {} has no id", path.display())))
}
