//! Inserting a row of the extension's own as PostgreSQL inserts into its catalogs: without a query, so without the
//! privileges, policies and triggers of whoever runs. It belongs to the transaction like any other row.

use pgrx::{IntoDatum, pg_sys};

/// A value of a column.
pub enum Value<'a> {
    Text(&'a str),
    Bigint(i64),
    Boolean(bool),
    /// For a column of type `jsonb`.
    Json(&'a serde_json::Value),
    /// Microseconds since 2000-01-01 UTC.
    Timestamp(i64),
    Null,
}

impl Value<'_> {
    fn datum(&self) -> Option<pg_sys::Datum> {
        match self {
            Value::Text(text) => text.into_datum(),
            Value::Bigint(number) => number.into_datum(),
            Value::Boolean(is) => is.into_datum(),
            Value::Json(json) => pgrx::JsonB((*json).clone()).into_datum(),
            Value::Timestamp(at) => Some(pg_sys::Datum::from(*at)),
            Value::Null => None,
        }
    }
}

/// Inserts rows into a table whose columns these are, all of them, and into its indexes.
pub fn rows<'a>(table: pg_sys::Oid, rows: impl Iterator<Item = Vec<Value<'a>>>) {
    // SAFETY: called inside a transaction. The relation and its indexes stay open until all is inserted, or the error
    // that ends the transaction releases them. Values and nulls have as many entries as the table has columns.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::RowExclusiveLock as i32);
        let columns = (*(*relation).rd_att).natts as usize;
        let indexes = pg_sys::CatalogOpenIndexes(relation);
        let mut nulls = Vec::with_capacity(columns);
        let mut values = Vec::with_capacity(columns);
        for row in rows {
            assert_eq!(row.len(), columns, "a row has a value for each column");
            nulls.clear();
            values.clear();
            for value in &row {
                let datum = value.datum();
                nulls.push(datum.is_none());
                values.push(datum.unwrap_or(pg_sys::Datum::from(0)));
            }
            let tuple = pg_sys::heap_form_tuple((*relation).rd_att, values.as_mut_ptr(), nulls.as_mut_ptr());
            pg_sys::CatalogTupleInsertWithInfo(relation, tuple, indexes);
            pg_sys::heap_freetuple(tuple);
        }
        pg_sys::CatalogCloseIndexes(indexes);
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
    }
}
