//! Reading the registry as PostgreSQL reads its catalogs: by index, with a fresh snapshot, without SPI.
//!
//! So it takes no transaction id, needs no privilege of the caller, works in parallel workers and on a hot
//! standby, and sees a suspension that is newer than the snapshot of a REPEATABLE READ transaction.

use std::cell::{Cell, RefCell};
use std::ffi::CStr;

use pgrx::{FromDatum, IntoDatum, pg_sys};

use super::insert::Place;
use super::text::{Json, Text};
use super::xact::{self, Event};

fn relation(name: &CStr) -> Option<pg_sys::Oid> {
    // SAFETY: called inside a transaction; both lookups return InvalidOid where there is nothing.
    let oid = unsafe {
        let schema = pg_sys::get_namespace_oid(c"_tenancy".as_ptr(), true);
        if schema == pg_sys::InvalidOid {
            return None;
        }
        pg_sys::get_relname_relid(name.as_ptr(), schema)
    };
    (oid != pg_sys::InvalidOid).then_some(oid)
}

/// The extension's table of that name, if the extension is installed.
///
/// Where it is not, whoever may make a schema could make a table of that name, with columns of other types than they are read as.
pub fn table(name: &CStr) -> Option<pg_sys::Oid> {
    relation(name).filter(|found| is_ours(*found))
}

thread_local! {
    /// Relations that were found to be the extension's own, each until it changes: finding out takes two scans of catalogs.
    static OURS: RefCell<Vec<pg_sys::Oid>> = const { RefCell::new(Vec::new()) };
}

/// Whether a relation is the extension's own.
pub fn is_ours(relation: pg_sys::Oid) -> bool {
    if OURS.with_borrow(|ours| ours.contains(&relation)) {
        return true;
    }
    // SAFETY: called inside a transaction; both return InvalidOid where there is nothing.
    let is = unsafe {
        let extension = pg_sys::get_extension_oid(c"tenancy".as_ptr(), true);
        let owner = pg_sys::getExtensionOfObject(pg_sys::RelationRelationId, relation);
        extension != pg_sys::InvalidOid && owner == extension
    };
    if is {
        OURS.with_borrow_mut(|ours| ours.push(relation));
    }
    is
}

/// The index of that name of a table of the extension.
pub fn index(name: &CStr, table: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: called inside a transaction; returns InvalidOid where it is no index.
    relation(name).filter(|found| unsafe { pg_sys::IndexGetRelation(*found, true) } == table)
}

/// A table of the extension and the index by which it is read.
#[derive(Clone, Copy)]
pub struct Relations {
    pub table: pg_sys::Oid,
    pub key: pg_sys::Oid,
}

/// A table of the extension of which backends keep what they have read. A change of it sends an invalidation to every backend.
pub struct Cached {
    table: &'static CStr,
    key: &'static CStr,
    found: Cell<Option<Relations>>,
    /// What was read in an earlier generation may be outdated.
    generation: Cell<u64>,
}

thread_local! {
    /// What has been rolled back. What was read of it before tells no invalidation: it is sent by a trigger, which may not have fired yet.
    static UNDONE: Cell<u64> = const { Cell::new(0) };
}

/// To be called when the library is loaded.
pub fn init() {
    super::inval::listen(|changed| {
        OURS.with_borrow_mut(|ours| ours.retain(|known| changed.is_some_and(|changed| *known != changed)));
    });
    xact::listen(|event| {
        if matches!(event, Event::Aborted | Event::SubAborted(_)) && xact::has_id() {
            UNDONE.set(UNDONE.get() + 1);
            super::accessor::forget();
            super::leakproof::forget_trust();
        }
    });
}

impl Cached {
    pub const fn new(table: &'static CStr, key: &'static CStr) -> Cached {
        Cached { table, key, found: Cell::new(None), generation: Cell::new(1) }
    }

    /// Takes note that a relation has changed, or any may have; returns whether it is this one. To be called by a listener of `inval`.
    pub fn note(&self, changed: Option<pg_sys::Oid>) -> bool {
        let is_ours = self.found.get().is_none_or(|known| changed.is_none_or(|oid| oid == known.table));
        if is_ours {
            self.generation.set(self.generation.get() + 1);
            self.found.set(None);
        }
        is_ours
    }

    /// Changes whenever any row of the table may have. To be asked before a read: what arrives during it makes what was read outdated
    /// at once.
    pub fn generation(&self) -> u64 {
        // Neither ever falls.
        self.generation.get() + UNDONE.get()
    }

    /// Where the table is; none where the extension is not installed.
    pub fn relations(&self) -> Option<Relations> {
        self.found.get().or_else(|| {
            let table = table(self.table)?;
            let found = Relations { table, key: index(self.key, table)? };
            self.found.set(Some(found));
            Some(found)
        })
    }
}

/// A row that a scan has found.
pub struct Row {
    tuple: pg_sys::HeapTuple,
    desc: pg_sys::TupleDesc,
}

impl Row {
    /// The value of a column, counted from one; none where it is null.
    fn value<T: FromDatum>(&self, column: i32) -> Option<T> {
        // SAFETY: `rows` calls with a valid tuple of a relation that is open, and copies nothing that outlives the call.
        unsafe {
            let mut is_null = false;
            let datum = pg_sys::heap_getattr(self.tuple, column, self.desc, &mut is_null);
            T::from_datum(datum, is_null)
        }
    }

    pub fn place(&self) -> Place {
        // SAFETY: as above.
        Place(unsafe { (*self.tuple).t_self })
    }

    pub fn text(&self, column: i32) -> Option<Text> {
        self.value(column)
    }

    pub fn boolean(&self, column: i32) -> Option<bool> {
        self.value(column)
    }

    pub fn json(&self, column: i32) -> Option<serde_json::Value> {
        self.value::<Json>(column)?.value()
    }

    /// A `jsonb` as it is stored.
    pub fn stored_json(&self, column: i32) -> Option<Json> {
        self.value(column)
    }

    pub fn oid(&self, column: i32) -> Option<pg_sys::Oid> {
        self.value(column)
    }

    /// A `bigint`, or a moment in microseconds since 2000-01-01 UTC.
    pub fn bigint(&self, column: i32) -> Option<i64> {
        self.value(column)
    }
}

/// What `read` makes of each row whose first columns, each a `text COLLATE "C"` that leads the index, equal `keys`.
pub fn rows<T>(relations: Relations, keys: &[&[u8]], read: impl FnMut(&Row) -> T) -> Vec<T> {
    rows_in(relations, keys, std::ptr::null_mut(), read)
}

/// The same of the rows that the current query sees.
pub fn seen_rows<T>(relations: Relations, keys: &[&[u8]], read: impl FnMut(&Row) -> T) -> Vec<T> {
    // SAFETY: called inside a query, which has a snapshot.
    rows_in(relations, keys, unsafe { pg_sys::GetActiveSnapshot() }, read)
}

/// The same of all rows, in the latest snapshot, of a table that has no more than so many pages; none of a larger one.
pub fn rows_of_small<T>(relations: Relations, pages: u32, read: impl FnMut(&Row) -> T) -> Option<Vec<T>> {
    // SAFETY: called inside a transaction.
    let is_small = unsafe {
        let table = pg_sys::table_open(relations.table, pg_sys::AccessShareLock as i32);
        let count = pg_sys::RelationGetNumberOfBlocksInFork(table, pg_sys::ForkNumber::MAIN_FORKNUM);
        pg_sys::table_close(table, pg_sys::AccessShareLock as i32);
        count <= pages
    };
    is_small.then(|| rows(relations, &[], read))
}

/// In a snapshot; null for the latest.
fn rows_in<T>(
    relations: Relations,
    keys: &[&[u8]],
    snapshot: pg_sys::Snapshot,
    mut read: impl FnMut(&Row) -> T,
) -> Vec<T> {
    let mut scan_keys = vec![pg_sys::ScanKeyData::default(); keys.len()];
    let mut found = Vec::new();
    // SAFETY: called inside a transaction. The relation stays open, and so a tuple valid, until what is wanted of it is
    // copied out; an error between releases both with the transaction's resources.
    unsafe {
        let table = pg_sys::table_open(relations.table, pg_sys::AccessShareLock as i32);
        // To read a table is noted as a read of a transaction that is SERIALIZABLE, were there nothing to read.
        let is_bare =
            || pg_sys::RelationGetNumberOfBlocksInFork(table, pg_sys::ForkNumber::MAIN_FORKNUM) == 0;
        if snapshot.is_null() && is_bare() {
            pg_sys::table_close(table, pg_sys::AccessShareLock as i32);
            return found;
        }
        for (number, (scan_key, key)) in scan_keys.iter_mut().zip(keys).enumerate() {
            pg_sys::ScanKeyInit(
                scan_key,
                number as i16 + 1,
                pg_sys::BTEqualStrategyNumber as u16,
                pg_sys::Oid::from(pg_sys::F_TEXTEQ),
                key.into_datum().unwrap_or(pg_sys::Datum::from(0)),
            );
        }
        let scan = pg_sys::systable_beginscan(
            table,
            relations.key,
            true,
            snapshot,
            keys.len() as i32,
            scan_keys.as_mut_ptr(),
        );
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            found.push(read(&Row { tuple, desc: (*table).rd_att }));
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(table, pg_sys::AccessShareLock as i32);
    }
    found
}

/// Whether the relation is a table or partitioned table that is not temporary.
pub fn is_permanent_table(relation: pg_sys::Oid) -> bool {
    // SAFETY: called inside a transaction; both lookups return zero where there is no such relation.
    let (kind, persistence) =
        unsafe { (pg_sys::get_rel_relkind(relation) as u8, pg_sys::get_rel_persistence(relation) as u8) };
    matches!(kind, b'r' | b'p') && persistence != b't'
}
