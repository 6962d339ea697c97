//! The values that go into statements and come out of rows.

use crate::error::{Error, Kind, Result};

/// A value of a statement or of a column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Integer(i64),
    Real(f64),
    Text(&'a str),
    Blob(&'a [u8]),
}

macro_rules! value_from {
    ($($type:ty => $convert:expr),* $(,)?) => {
        $(impl<'a> From<$type> for Value<'a> {
            fn from(value: $type) -> Self {
                $convert(value)
            }
        })*
    };
}

value_from! {
    i64 => Value::Integer,
    u32 => |value| Value::Integer(i64::from(value)),
    bool => |value| Value::Integer(i64::from(value)),
    f64 => Value::Real,
    &'a str => Value::Text,
    &'a String => |value: &'a String| Value::Text(value),
    &'a [u8] => Value::Blob,
    &'a Vec<u8> => |value: &'a Vec<u8>| Value::Blob(value),
}

impl<'a, const LEN: usize> From<&'a [u8; LEN]> for Value<'a> {
    fn from(bytes: &'a [u8; LEN]) -> Self {
        Self::Blob(bytes)
    }
}

impl<'a, T: Into<Self>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// The columns of a row, as the database has them.
pub(crate) trait Columns {
    /// # Errors
    /// When there is no such column.
    fn column(&self, index: usize) -> Result<Value<'_>>;
}

/// A row of a query.
pub(crate) struct Row<'a>(pub(crate) &'a dyn Columns);

impl Row<'_> {
    /// The value of a column, counted from 0.
    ///
    /// # Errors
    /// `Corrupt` when it has another type.
    pub(crate) fn get<T: FromValue>(&self, index: usize) -> Result<T> {
        let value = self.0.column(index)?;
        T::from_value(value).ok_or_else(|| unexpected(index, value))
    }

    /// The value of a text column, converted by `parse`.
    ///
    /// # Errors
    /// `Corrupt` when the text is none that `parse` knows.
    pub(crate) fn parsed<T>(
        &self,
        index: usize,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T> {
        let value = self.0.column(index)?;
        let parsed = if let Value::Text(text) = value { parse(text) } else { None };
        parsed.ok_or_else(|| unexpected(index, value))
    }
}

fn unexpected(index: usize, value: Value<'_>) -> Error {
    let text = match value {
        Value::Blob(bytes) => format!("column {index} has {} bytes", bytes.len()),
        value => format!("column {index} has the value {value:?}"),
    };
    Error::new(Kind::Corrupt, format!("the catalog is damaged: {text}"))
}

/// What a column can be read as.
pub(crate) trait FromValue: Sized {
    fn from_value(value: Value<'_>) -> Option<Self>;
}

impl FromValue for i64 {
    fn from_value(value: Value<'_>) -> Option<Self> {
        if let Value::Integer(n) = value { Some(n) } else { None }
    }
}

/// Lengths and counts, which are never negative.
impl FromValue for u64 {
    fn from_value(value: Value<'_>) -> Option<Self> {
        i64::from_value(value)?.try_into().ok()
    }
}

impl FromValue for u32 {
    fn from_value(value: Value<'_>) -> Option<Self> {
        i64::from_value(value)?.try_into().ok()
    }
}

impl FromValue for bool {
    fn from_value(value: Value<'_>) -> Option<Self> {
        i64::from_value(value).map(|n| n != 0)
    }
}

impl FromValue for f64 {
    fn from_value(value: Value<'_>) -> Option<Self> {
        if let Value::Real(n) = value { Some(n) } else { None }
    }
}

impl FromValue for String {
    fn from_value(value: Value<'_>) -> Option<Self> {
        if let Value::Text(text) = value { Some(text.to_owned()) } else { None }
    }
}

impl FromValue for Vec<u8> {
    fn from_value(value: Value<'_>) -> Option<Self> {
        if let Value::Blob(bytes) = value { Some(bytes.to_vec()) } else { None }
    }
}

impl<const LEN: usize> FromValue for [u8; LEN] {
    fn from_value(value: Value<'_>) -> Option<Self> {
        if let Value::Blob(bytes) = value { bytes.try_into().ok() } else { None }
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: Value<'_>) -> Option<Self> {
        if value == Value::Null { Some(None) } else { T::from_value(value).map(Some) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(Vec<Value<'static>>);

    impl Columns for Fixed {
        fn column(&self, index: usize) -> Result<Value<'_>> {
            Ok(self.0[index])
        }
    }

    #[test]
    fn a_column_of_another_type_is_an_error_that_names_it() {
        let columns = Fixed(vec![Value::Integer(-1), Value::Text("x"), Value::Null]);
        let row = Row(&columns);
        assert_eq!(row.get::<i64>(0).unwrap(), -1);
        assert_eq!(row.get::<Option<u64>>(2).unwrap(), None);
        for refused in [row.get::<u64>(0).map(drop), row.get::<[u8; 3]>(1).map(drop)] {
            assert_eq!(refused.unwrap_err().kind(), Kind::Corrupt);
        }
        let refused = row.parsed(1, |text| (text == "y").then_some(())).unwrap_err();
        assert!(refused.report().contains("column 1"), "{}", refused.report());
    }
}
