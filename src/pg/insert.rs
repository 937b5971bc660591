//! Inserting a row of the extension's own as PostgreSQL inserts into its catalogs: without a query, so without the
//! privileges, policies and triggers of whoever runs. It belongs to the transaction like any other row.

use std::ffi::CString;

use pgrx::{IntoDatum, pg_sys};

/// A value of a column.
pub enum Value<'a> {
    Text(&'a str),
    Bigint(i64),
    Boolean(bool),
    /// For a column of type `jsonb`: well-formed JSON without NUL.
    Json(&'a str),
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
            // By PostgreSQL's own function, so that numbers keep all of their digits.
            Value::Json(json) => {
                let text = CString::new(*json).unwrap_or_default();
                // SAFETY: a C string that lives through the call.
                unsafe {
                    pgrx::direct_function_call_as_datum(pg_sys::jsonb_in, &[text.as_c_str().into_datum()])
                }
            }
            Value::Timestamp(at) => Some(pg_sys::Datum::from(*at)),
            Value::Null => None,
        }
    }
}

/// A table that is open for insertions until the transaction ends.
pub struct Table(pg_sys::Relation);

impl Table {
    /// Opens a table and locks it as INSERT does. What was committed before that is known from then on.
    pub fn open(table: pg_sys::Oid) -> Table {
        // SAFETY: called inside a transaction, with the number of a table of the extension.
        Table(unsafe { pg_sys::table_open(table, pg_sys::RowExclusiveLock as i32) })
    }

    /// Inserts rows, with a value for each column, also into the table's indexes.
    pub fn insert<'a>(&self, rows: impl Iterator<Item = Vec<Value<'a>>>) {
        // SAFETY: the relation is open. Its indexes stay open until all is inserted, or the error that ends the transaction
        // releases them. Values and nulls have as many entries as the table has columns.
        unsafe {
            let desc = (*self.0).rd_att;
            let columns = (*desc).natts as usize;
            let indexes = pg_sys::CatalogOpenIndexes(self.0);
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
                let tuple = pg_sys::heap_form_tuple(desc, values.as_mut_ptr(), nulls.as_mut_ptr());
                pg_sys::CatalogTupleInsertWithInfo(self.0, tuple, indexes);
                pg_sys::heap_freetuple(tuple);
            }
            pg_sys::CatalogCloseIndexes(indexes);
        }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // An error on the way closes it with the transaction's resources.
        if !std::thread::panicking() {
            // SAFETY: what `open` opened; the lock is kept.
            unsafe { pg_sys::table_close(self.0, pg_sys::NoLock as i32) }
        }
    }
}
