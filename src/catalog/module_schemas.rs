//! Tables of modules that have versions of their own. They are only added to the file: a bae without the module opens
//! it and leaves them alone.

use rusqlite::{Connection, OptionalExtension, params};

use super::{sql_error, sql_int, sql_u64};
use crate::error::{Error, Kind, Result};

/// A module with its migrations. Steps are never changed, only added.
struct Module {
    name: &'static str,
    migrations: &'static [&'static str],
}

const MODULES: &[Module] = &[Module { name: "queue", migrations: super::downloads::MIGRATIONS }];

/// Migrates the tables of all modules. Runs in the transaction that migrates the others.
pub(super) fn prepare(connection: &Connection) -> Result<()> {
    let sql = "CREATE TABLE IF NOT EXISTS modules(name TEXT PRIMARY KEY, version INTEGER NOT NULL)
        WITHOUT ROWID";
    connection.execute(sql, []).map_err(sql_error)?;
    for Module { name, migrations } in MODULES {
        let query = "SELECT version FROM modules WHERE name = ?";
        let version: Option<i64> =
            connection.query_row(query, [name], |row| row.get(0)).optional().map_err(sql_error)?;
        let version = usize::try_from(sql_u64(version.unwrap_or(0))).unwrap_or(usize::MAX);
        let steps = migrations.get(version..).ok_or_else(|| {
            let text = format!("the catalog has version {version} of the {name}");
            Error::new(Kind::Unsupported, text).hint("it was created by a newer bae: update bae")
        })?;
        for step in steps {
            connection.execute_batch(step).map_err(sql_error)?;
        }
        if !steps.is_empty() {
            let sql = "INSERT OR REPLACE INTO modules(name, version) VALUES(?, ?)";
            let values = params![name, sql_int(migrations.len() as u64)?];
            connection.execute(sql, values).map_err(sql_error)?;
        }
    }
    Ok(())
}
