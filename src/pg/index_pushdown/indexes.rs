//! Which indexes may be given conditions of a query before the policies of their table.

use std::ffi::CStr;

use pgrx::{guc::GucEnum, pg_sys};

use super::marks::is_late;
use crate::pg::{
    leakproof::{As, function, holds},
    raw,
    statement::entries,
};

/// Which indexes conditions are given to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Indexes {
    None,
    /// Those with the tenant column: they lead to rows of the tenant only.
    OfTenant,
    All,
}

const NAMES: [(&CStr, Indexes); 9] = [
    (c"off", Indexes::None),
    (c"tenant_indexes", Indexes::OfTenant),
    (c"on", Indexes::All),
    // The other words for a boolean, which are taken and not shown.
    (c"false", Indexes::None),
    (c"no", Indexes::None),
    (c"0", Indexes::None),
    (c"true", Indexes::All),
    (c"yes", Indexes::All),
    (c"1", Indexes::All),
];

static ENTRIES: Entries = {
    let none = pg_sys::config_enum_entry { name: std::ptr::null(), val: 0, hidden: false };
    let mut entries = [none; NAMES.len() + 1];
    let mut at = 0;
    while at < NAMES.len() {
        let (name, value) = NAMES[at];
        entries[at] = pg_sys::config_enum_entry { name: name.as_ptr(), val: value as i32, hidden: at > 2 };
        at += 1;
    }
    Entries(entries)
};

struct Entries([pg_sys::config_enum_entry; NAMES.len() + 1]);
// SAFETY: pointers to texts that live for good, which nobody writes.
unsafe impl Sync for Entries {}

// SAFETY: entries that live for good, and end with one without a name.
unsafe impl GucEnum for Indexes {
    fn from_ordinal(ordinal: i32) -> Indexes {
        let named = NAMES.iter().find(|(_, value)| *value as i32 == ordinal);
        named.map_or(Indexes::None, |(_, value)| *value)
    }

    fn to_ordinal(&self) -> i32 {
        *self as i32
    }

    const CONFIG_ENUM_ENTRY: *const pg_sys::config_enum_entry = ENTRIES.0.as_ptr();
}

/// The indexes that conditions are given to.
pub unsafe fn usable_indexes(rel: *const pg_sys::RelOptInfo, which: Indexes) -> *mut pg_sys::List {
    // SAFETY: indexes of the table, which is locked.
    unsafe {
        let of_tenant =
            if which == Indexes::OfTenant { columns_of_tenant(rel) } else { std::ptr::null_mut() };
        let mut found = std::ptr::null_mut();
        for cell in entries((*rel).indexlist) {
            let index = cell.ptr_value.cast::<pg_sys::IndexOptInfo>();
            // All that is asked of the rows: the policies are among it.
            if (*index).indrestrictinfo.is_null() {
                continue;
            }
            if is_calm(index) && (which == Indexes::All || leads_to(index, of_tenant)) {
                found = raw::lappend(found, index.cast());
            }
        }
        found
    }
}

/// SP-GiST's operator family for network addresses: an index in which both IPv4 and IPv6 are loses rows (`inet_spg_picksplit` looks at as many
/// addresses as it takes to see that they have no bits in common), and which, depends on those of others.
const NETWORK_SPGIST_FAMILY: u32 = 3794;

/// Whether nothing is called because of an index that could tell of a row: not its access method, nor the functions of its operator
/// classes, nor its predicate. Where a page is looked at as a whole, the key of a partial index is computed of rows that it does not hold.
unsafe fn is_calm(index: *const pg_sys::IndexOptInfo) -> bool {
    let is_built_in = |number: pg_sys::Oid| number.to_u32() < pg_sys::FirstNormalObjectId;
    // SAFETY: an index has as many keys as it says.
    unsafe {
        let keys = (*index).nkeycolumns as usize;
        let of = |numbers: *const pg_sys::Oid| std::slice::from_raw_parts(numbers, keys).iter().copied();
        is_built_in((*index).relam)
            && of((*index).opfamily).all(|family| family.to_u32() != NETWORK_SPGIST_FAMILY)
            && (of((*index).opfamily).chain(of((*index).opcintype)).all(is_built_in)
                || is_in_c((*index).indexoid))
            && ((*index).indpred.is_null()
                || holds((*index).indpred.cast(), As::Key) && holds((*index).indexprs.cast(), As::AnyRow))
    }
}

/// Whether the functions of the operator classes of an index are in C, as a superuser's own may be no less than what is trusted.
unsafe fn is_in_c(index: pg_sys::Oid) -> bool {
    // SAFETY: the planner has the index locked; its relation has as many functions as its access method says for each key.
    unsafe {
        let relation = raw::index_open(index, pg_sys::NoLock as pg_sys::LOCKMODE);
        let each = (*(*relation).rd_indam).amsupport as usize;
        let count = (*(*relation).rd_index).indnkeyatts as usize * each;
        let functions = std::slice::from_raw_parts((*relation).rd_support, count);
        let found = functions
            .iter()
            .filter(|number| **number != pg_sys::InvalidOid)
            .all(|number| function(*number).is_some_and(|function| function.is_in_c));
        raw::index_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        found
    }
}

/// The columns that the policy's own condition is about.
unsafe fn columns_of_tenant(rel: *const pg_sys::RelOptInfo) -> *mut pg_sys::Bitmapset {
    // SAFETY: conditions of the table.
    unsafe {
        let mut columns = std::ptr::null_mut();
        for cell in entries((*rel).baserestrictinfo) {
            let condition = cell.ptr_value.cast::<pg_sys::RestrictInfo>();
            if !is_late(rel, condition) {
                pg_sys::pull_varattnos((*condition).clause.cast(), (*rel).relid, &mut columns);
            }
        }
        columns
    }
}

/// Whether an index leads to rows with certain values of columns.
unsafe fn leads_to(index: *const pg_sys::IndexOptInfo, columns: *const pg_sys::Bitmapset) -> bool {
    // SAFETY: an index has as many keys as it says.
    unsafe {
        let keys = std::slice::from_raw_parts((*index).indexkeys, (*index).nkeycolumns as usize);
        // A B-tree is entered by its first key; those that have no order, by any.
        let is_ordered = (*index).relam.to_u32() == pg_sys::BTREE_AM_OID.to_u32();
        // It leads to ranges of pages, whatever rows these have.
        if (*index).relam.to_u32() == pg_sys::BRIN_AM_OID.to_u32() {
            return false;
        }
        keys.iter().take(if is_ordered { 1 } else { keys.len() }).any(|key| {
            *key != 0 && pg_sys::bms_is_member(*key - pg_sys::FirstLowInvalidHeapAttributeNumber, columns)
        })
    }
}
