//! Reading the registry as PostgreSQL reads its catalogs: by index, with a fresh snapshot, without SPI.
//!
//! So it takes no transaction id, needs no privilege of the caller, works in parallel workers and on a hot
//! standby, and sees a suspension that is newer than the snapshot of a REPEATABLE READ transaction.

use std::ffi::CStr;

use pgrx::{FromDatum, IntoDatum, pg_sys};

/// The relation of that name, if it exists.
pub fn relation(schema: &CStr, name: &CStr) -> Option<pg_sys::Oid> {
    // SAFETY: called inside a transaction; both lookups return InvalidOid where there is nothing.
    let oid = unsafe {
        let schema = pg_sys::get_namespace_oid(schema.as_ptr(), true);
        if schema == pg_sys::InvalidOid {
            return None;
        }
        pg_sys::get_relname_relid(name.as_ptr(), schema)
    };
    (oid != pg_sys::InvalidOid).then_some(oid)
}

/// The text in column `wanted` of the row whose first column, a `text COLLATE "C"` that `index` is on,
/// equals `key`.
pub fn text_by_key(relation: pg_sys::Oid, index: pg_sys::Oid, key: &str, wanted: i32) -> Option<String> {
    const FIRST_COLUMN: i16 = 1;
    // SAFETY: called inside a transaction. The relation stays open, and so the tuple valid, until the text
    // is copied out; an error between releases both with the transaction's resources.
    unsafe {
        let table = pg_sys::table_open(relation, pg_sys::AccessShareLock as i32);
        let mut scan_key = pg_sys::ScanKeyData::default();
        pg_sys::ScanKeyInit(
            &mut scan_key,
            FIRST_COLUMN,
            pg_sys::BTEqualStrategyNumber as u16,
            pg_sys::Oid::from(pg_sys::F_TEXTEQ),
            key.into_datum()?,
        );
        let scan = pg_sys::systable_beginscan(table, index, true, std::ptr::null_mut(), 1, &mut scan_key);
        let tuple = pg_sys::systable_getnext(scan);
        let text = if tuple.is_null() {
            None
        } else {
            let mut is_null = false;
            let datum = pg_sys::heap_getattr(tuple, wanted, (*table).rd_att, &mut is_null);
            String::from_datum(datum, is_null)
        };
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(table, pg_sys::AccessShareLock as i32);
        text
    }
}

/// Whether the relation is a table or partitioned table that is not temporary.
pub fn is_permanent_table(relation: pg_sys::Oid) -> bool {
    // SAFETY: called inside a transaction; both lookups return zero where there is no such relation.
    let (kind, persistence) =
        unsafe { (pg_sys::get_rel_relkind(relation) as u8, pg_sys::get_rel_persistence(relation) as u8) };
    matches!(kind, b'r' | b'p') && persistence != b't'
}
