//! [`Sql`] by a connection of SQLite. Statements are prepared once per connection.

use rusqlite::{
    Connection,
    types::{ToSql, ToSqlOutput, ValueRef},
};

use super::errors::sql_error;
use crate::{
    catalog::sql::{Columns, Row, Sql, Value},
    error::Result,
};

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match *self {
            Self::Null => ValueRef::Null,
            Self::Integer(n) => ValueRef::Integer(n),
            Self::Real(n) => ValueRef::Real(n),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

impl Columns for rusqlite::Row<'_> {
    fn column(&self, index: usize) -> Result<Value<'_>> {
        Ok(match self.get_ref(index).map_err(sql_error)? {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(n) => Value::Integer(n),
            ValueRef::Real(n) => Value::Real(n),
            // Text that is not UTF-8 has the wrong type for every reader.
            ValueRef::Text(bytes) => {
                std::str::from_utf8(bytes).map_or(Value::Blob(bytes), Value::Text)
            }
            ValueRef::Blob(bytes) => Value::Blob(bytes),
        })
    }
}

impl Sql for Connection {
    fn execute(&self, statement: &str, values: &[Value<'_>]) -> Result<usize> {
        let mut statement = self.prepare_cached(statement).map_err(sql_error)?;
        statement.execute(rusqlite::params_from_iter(values)).map_err(sql_error)
    }

    fn query(
        &self,
        query: &str,
        values: &[Value<'_>],
        each: &mut dyn FnMut(&Row<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut statement = self.prepare_cached(query).map_err(sql_error)?;
        let mut rows = statement.query(rusqlite::params_from_iter(values)).map_err(sql_error)?;
        while let Some(row) = rows.next().map_err(sql_error)? {
            each(&Row(row))?;
        }
        Ok(())
    }

    fn execute_script(&self, script: &str) -> Result<()> {
        self.execute_batch(script).map_err(sql_error)
    }

    fn skip_numbers(&self, table: &str, seen: i64) -> Result<()> {
        let sql = "INSERT INTO sqlite_sequence(name, seq) SELECT ?1, 0
            WHERE NOT EXISTS(SELECT 1 FROM sqlite_sequence WHERE name = ?1)";
        Sql::execute(self, sql, &[table.into()])?;
        let sql = "UPDATE sqlite_sequence SET seq = max(seq, ?2) WHERE name = ?1";
        Sql::execute(self, sql, &[table.into(), seen.into()]).map(drop)
    }
}
