//! The port between the catalog and its database: portable statements go in, rows come out.
//!
//! Everything above it uses only [`Sql`], so the logic of the catalog exists once, whatever the database is. Below it is
//! one folder per database, today `sqlite`. A statement above the port uses only what all of them understand: `?` or
//! `?1` for values, `RETURNING`, `ON CONFLICT`, and `"end"` and `"offset"` in quotes. `tests/integration/layers.rs` searches the
//! statements for words of one database.
//!
//! Transactions belong to the database: a read or a write of the catalog is one closure, which gets a `&dyn Sql` and
//! runs in one transaction.

mod value;

pub(crate) use value::{Columns, FromValue, Row, Value};

use crate::error::Result;

/// A connection within a transaction.
pub(crate) trait Sql {
    /// Runs a statement without rows. Returns the number of rows that it changed.
    ///
    /// # Errors
    /// When the database refuses it.
    fn execute(&self, statement: &str, values: &[Value<'_>]) -> Result<usize>;

    /// Runs a query, and hands each row to `each`.
    ///
    /// # Errors
    /// When the database refuses it, or the error of `each`.
    fn query(
        &self,
        query: &str,
        values: &[Value<'_>],
        each: &mut dyn FnMut(&Row<'_>) -> Result<()>,
    ) -> Result<()>;

    /// Runs several statements without values, separated by `;`.
    ///
    /// # Errors
    /// When the database refuses one of them.
    fn execute_script(&self, script: &str) -> Result<()>;

    /// Makes sure that no new row of `table` gets a number up to `seen`, where the database numbers its rows.
    ///
    /// # Errors
    /// When the database cannot be written.
    fn skip_numbers(&self, table: &str, seen: i64) -> Result<()>;
}

/// All rows of a query.
///
/// # Errors
/// As [`Sql::query`].
pub(crate) fn select<T>(
    db: &dyn Sql,
    query: &str,
    values: &[Value<'_>],
    row: impl Fn(&Row<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let mut rows = Vec::new();
    db.query(query, values, &mut |found| {
        rows.push(row(found)?);
        Ok(())
    })?;
    Ok(rows)
}

/// The first row of a query.
///
/// # Errors
/// As [`Sql::query`].
pub(crate) fn first<T>(
    db: &dyn Sql,
    query: &str,
    values: &[Value<'_>],
    row: impl Fn(&Row<'_>) -> Result<T>,
) -> Result<Option<T>> {
    Ok(select(db, query, values, row)?.into_iter().next())
}

/// The one column of the first row of a query.
///
/// # Errors
/// As [`Sql::query`].
pub(crate) fn scalar<T: FromValue>(
    db: &dyn Sql,
    query: &str,
    values: &[Value<'_>],
) -> Result<Option<T>> {
    first(db, query, values, |row| row.get(0))
}

/// The values of a statement, in the order of their numbers.
macro_rules! values {
    ($($value:expr),* $(,)?) => {
        &[$($crate::catalog::sql::Value::from($value)),*] as &[$crate::catalog::sql::Value<'_>]
    };
}
pub(crate) use values;
