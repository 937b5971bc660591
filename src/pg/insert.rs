//! Inserting a row of the extension's own as PostgreSQL inserts into its catalogs: without a query, so without the
//! privileges, policies and triggers of whoever runs. It belongs to the transaction like any other row.
//!
//! Every transaction that charges comes here as it commits, so PostgreSQL's functions are declared raw and called inside one
//! guard for each step. What is alive in these frames is plain data, which a longjmp may skip.

use std::ffi::{CStr, c_char, c_int};
use std::sync::OnceLock;

use pgrx::{FromDatum, pg_sys};

mod raw {
    use super::*;
    unsafe extern "C-unwind" {
        pub fn cstring_to_text_with_len(text: *const c_char, length: c_int) -> *mut pg_sys::text;
        pub fn DirectFunctionCall1Coll(
            function: unsafe extern "C-unwind" fn(pg_sys::FunctionCallInfo) -> pg_sys::Datum,
            collation: pg_sys::Oid,
            argument: pg_sys::Datum,
        ) -> pg_sys::Datum;
        pub fn jsonb_in(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum;
        pub fn heap_form_tuple(
            desc: pg_sys::TupleDesc,
            values: *mut pg_sys::Datum,
            nulls: *mut bool,
        ) -> pg_sys::HeapTuple;
        pub fn ActiveSnapshotSet() -> bool;
        pub fn GetTransactionSnapshot() -> pg_sys::Snapshot;
        pub fn PushActiveSnapshot(snapshot: pg_sys::Snapshot);
        pub fn PopActiveSnapshot();
        pub fn heap_insert(
            relation: pg_sys::Relation,
            tuple: pg_sys::HeapTuple,
            command: pg_sys::CommandId,
            options: c_int,
            state: *mut pg_sys::BulkInsertStateData,
        );
        #[cfg(feature = "pg15")]
        pub fn simple_heap_update(
            relation: pg_sys::Relation,
            place: pg_sys::ItemPointer,
            tuple: pg_sys::HeapTuple,
        );
        #[cfg(not(feature = "pg15"))]
        pub fn simple_heap_update(
            relation: pg_sys::Relation,
            place: pg_sys::ItemPointer,
            tuple: pg_sys::HeapTuple,
            indexes: *mut pg_sys::TU_UpdateIndexes::Type,
        );
        pub fn GetCurrentCommandId(is_used: bool) -> pg_sys::CommandId;
        pub fn RelationGetIndexList(relation: pg_sys::Relation) -> *mut pg_sys::List;
        pub fn RelationIdGetRelation(relation: pg_sys::Oid) -> pg_sys::Relation;
        pub fn RelationClose(relation: pg_sys::Relation);
        pub fn BuildIndexInfo(index: pg_sys::Relation) -> *mut pg_sys::IndexInfo;
        pub fn index_insert(
            index: pg_sys::Relation,
            values: *mut pg_sys::Datum,
            nulls: *mut bool,
            place: pg_sys::ItemPointer,
            relation: pg_sys::Relation,
            check: pg_sys::IndexUniqueCheck::Type,
            is_unchanged: bool,
            info: *mut pg_sys::IndexInfo,
        ) -> bool;
    }
}

/// A value of a column.
#[derive(Clone, Copy)]
pub enum Value<'a> {
    Text(&'a [u8]),
    /// For a column of type `bytea`.
    Bytes(&'a [u8]),
    Bigint(i64),
    Boolean(bool),
    /// For a column of type `jsonb`: well-formed JSON.
    Json(&'a CStr),
    /// Microseconds since 2000-01-01 UTC.
    Timestamp(i64),
    Null,
}

impl Value<'_> {
    /// Called inside a guard.
    unsafe fn datum(&self) -> Option<pg_sys::Datum> {
        // SAFETY: texts that live through the call, which copies them.
        unsafe {
            Some(match self {
                // Both are a length and bytes.
                Value::Text(bytes) | Value::Bytes(bytes) => {
                    // More than there can be is refused by the allocation.
                    let length = c_int::try_from(bytes.len()).unwrap_or(c_int::MAX);
                    raw::cstring_to_text_with_len(bytes.as_ptr().cast(), length).into()
                }
                Value::Bigint(number) => pg_sys::Datum::from(*number),
                Value::Boolean(is) => pg_sys::Datum::from(*is),
                // By PostgreSQL's own function, so that numbers keep all of their digits.
                Value::Json(json) => {
                    raw::DirectFunctionCall1Coll(raw::jsonb_in, pg_sys::InvalidOid, json.as_ptr().into())
                }
                Value::Timestamp(at) => pg_sys::Datum::from(*at),
                Value::Null => return None,
            })
        }
    }
}

/// Rows up to this length are not toasted, with any size of page. A snapshot costs each transaction that commits a hundredth.
const SHORT: u32 = pg_sys::BLCKSZ / 16;

/// Whether the server was built with assertions: it asks for a snapshot wherever the table has a TOAST table.
fn has_assertions() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        // SAFETY: a parameter that every server has; its value is a C string.
        unsafe {
            let value = pg_sys::GetConfigOption(c"debug_assertions".as_ptr(), true, false);
            !value.is_null() && CStr::from_ptr(value) == c"on"
        }
    })
}

/// The most indexes that a table may have.
const MOST: usize = 8;

/// The open indexes of a table: B-trees on columns, which are neither unique nor partial, so that each is given the columns'
/// values as they are.
#[derive(Clone, Copy)]
struct Indexes {
    all: [(pg_sys::Relation, *mut pg_sys::IndexInfo); MOST],
    count: usize,
}

impl Indexes {
    /// Called inside a guard, on an open table. The number of an index of another kind, if there is one.
    unsafe fn open(table: pg_sys::Relation) -> Result<Indexes, pg_sys::Oid> {
        let mut indexes = Indexes { all: [(std::ptr::null_mut(), std::ptr::null_mut()); MOST], count: 0 };
        // SAFETY: the list has `length` numbers of indexes, which the lock of the table keeps from being dropped.
        unsafe {
            let list = raw::RelationGetIndexList(table);
            let count = if list.is_null() { 0 } else { (*list).length as usize };
            for n in 0..count {
                let number = (*(*list).elements.add(n)).oid_value;
                // Without a lock of its own: that of the table keeps its indexes from being dropped, and whoever replaces
                // one CONCURRENTLY waits for all who hold it.
                let index = raw::RelationIdGetRelation(number);
                if index.is_null() {
                    return Err(number);
                }
                let info = raw::BuildIndexInfo(index);
                // One that is being made CONCURRENTLY waits for all who write before it reads what they wrote.
                if !(*info).ii_ReadyForInserts {
                    raw::RelationClose(index);
                    continue;
                }
                match indexes.all.get_mut(indexes.count) {
                    Some(place) if is_plain(index, info) => *place = (index, info),
                    _ => return Err(number),
                }
                indexes.count += 1;
            }
        }
        Ok(indexes)
    }

    fn iter(&self) -> impl Iterator<Item = &(pg_sys::Relation, *mut pg_sys::IndexInfo)> {
        self.all.iter().take(self.count)
    }

    /// Called inside a guard.
    unsafe fn close(&self) {
        for (index, _) in self.iter() {
            // SAFETY: what `open` opened.
            unsafe { raw::RelationClose(*index) }
        }
    }
}

/// Raises an error for an index of another kind, which only a superuser can have made.
fn refuse(index: pg_sys::Oid) -> ! {
    crate::error::Error::LedgerIndex(&super::relation_name(index)).raise()
}

unsafe fn is_plain(index: pg_sys::Relation, info: *const pg_sys::IndexInfo) -> bool {
    // SAFETY: an open index, and what PostgreSQL made of it.
    unsafe {
        let columns = &(&(*info).ii_IndexAttrNumbers)[..(*info).ii_NumIndexAttrs as usize];
        (*(*index).rd_rel).relam == pg_sys::BTREE_AM_OID
            && !(*info).ii_Unique
            && (*info).ii_Expressions.is_null()
            && (*info).ii_Predicate.is_null()
            && (*info).ii_ExclusionOps.is_null()
            && columns.iter().all(|column| *column > 0)
    }
}

/// How a row comes into a table.
enum How {
    /// With options.
    New(c_int),
    InPlaceOf(Place),
}

/// Where a row is, until it is updated or its table is rewritten, of which an invalidation tells.
#[derive(Clone, Copy)]
pub struct Place(pub(super) pg_sys::ItemPointerData);

/// Sees to it that what was inserted to stay stays when the server crashes now.
pub fn flush() {
    // SAFETY: called inside a transaction that may write; up to the end of the last record that it has written.
    unsafe { pg_sys::XLogFlush(pg_sys::XactLastRecEnd) }
}

/// A row on a page that is pinned.
struct Pinned {
    tuple: pg_sys::HeapTupleData,
    buffer: pg_sys::Buffer,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // An error on the way releases it with the transaction's resources.
        if !std::thread::panicking() {
            // SAFETY: it is pinned until here.
            unsafe { pg_sys::ReleaseBuffer(self.buffer) }
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

    /// Inserts rows, with a value for each column, also into the table's indexes. Raises an error where it has an index that this
    /// cannot do.
    pub fn insert<'a, const COLUMNS: usize>(&self, rows: impl Iterator<Item = [Value<'a>; COLUMNS]>) {
        self.insert_all(rows, 0);
    }

    /// Inserts a row that stays when the transaction is rolled back, and is visible to everybody at once: it is marked as COPY FREEZE
    /// marks rows, as inserted by a transaction that committed long ago. It must be short: what is stored outside of it would not stay.
    pub fn insert_to_stay<const COLUMNS: usize>(&self, row: [Value; COLUMNS]) -> Option<Place> {
        // A cancel in between would leave it out of the indexes. An error sets that to nothing.
        // SAFETY: PostgreSQL's own count, in the process that it belongs to.
        unsafe { pg_sys::InterruptHoldoffCount += 1 }
        let place = self.insert_all(std::iter::once(row), pg_sys::HEAP_INSERT_FROZEN as c_int);
        // SAFETY: as above.
        unsafe { pg_sys::InterruptHoldoffCount -= 1 }
        place
    }

    /// Removes a row that this transaction has inserted to stay: it stays after all where the transaction is rolled back.
    pub fn remove(&self, Place(mut place): Place) {
        // SAFETY: the relation is open. Nobody else removes a row before it is told of.
        unsafe { pg_sys::simple_heap_delete(self.0, &mut place) }
    }

    /// Inserts a row; returns where it is.
    pub fn insert_one<const COLUMNS: usize>(&self, row: [Value; COLUMNS]) -> Option<Place> {
        self.insert_all(std::iter::once(row), 0)
    }

    /// Inserts all; returns where the last is.
    fn insert_all<'a, const COLUMNS: usize>(
        &self,
        rows: impl Iterator<Item = [Value<'a>; COLUMNS]>,
        options: c_int,
    ) -> Option<Place> {
        self.check_width(COLUMNS);
        self.with_indexes(|indexes, has_pushed| {
            let mut place = None;
            for row in rows {
                // SAFETY: inside the guard of `with_indexes`.
                place = unsafe { self.put(&row, How::New(options), indexes, has_pushed) };
            }
            place
        })
    }

    /// Puts another row, short, in the place of one that only this backend changes, and which it knows by the number in a column. Raises an
    /// error where that is not there: somebody else has changed the table.
    pub fn update<const COLUMNS: usize>(&self, place: Place, is: (i32, i64), row: [Value; COLUMNS]) -> Place {
        self.check_width(COLUMNS);
        if self.number_at(place, is.0) != Some(is.1) {
            crate::error::Error::Internal("a row of the extension was changed by somebody else").raise()
        }
        // SAFETY: inside the guard of `with_indexes`.
        let put = self.with_indexes(|indexes, has_pushed| unsafe {
            self.put(&row, How::InPlaceOf(place), indexes, has_pushed)
        });
        put.unwrap_or(place)
    }

    /// Puts another row, short, in the place of the one that has a number in a column, which no other has; none where it is not there any more, or
    /// another transaction is changing it: nobody waits.
    pub fn try_update<const COLUMNS: usize>(
        &self,
        place: Place,
        is: (i32, i64),
        row: [Value; COLUMNS],
    ) -> Option<Place> {
        self.check_width(COLUMNS);
        // While its page is pinned, VACUUM lets the place be.
        let pinned = self.at(place).filter(|at| self.number(at, is.0) == Some(is.1))?;
        if !self.try_lock(&pinned) {
            return None;
        }
        // SAFETY: inside the guard of `with_indexes`.
        self.with_indexes(|indexes, has_pushed| unsafe {
            self.put(&row, How::InPlaceOf(place), indexes, has_pushed)
        })
    }

    /// The row that is there now, if one is.
    fn at(&self, place: Place) -> Option<Pinned> {
        let mut tuple = pg_sys::HeapTupleData { t_self: place.0, ..Default::default() };
        let mut buffer = 0;
        // SAFETY: the relation is open, and locked so that VACUUM does not truncate it, as it may have before.
        let is_there = unsafe {
            let block = pgrx::itemptr::item_pointer_get_block_number_no_check(place.0);
            let snapshot = std::ptr::addr_of_mut!(pg_sys::SnapshotSelfData);
            block < pg_sys::RelationGetNumberOfBlocksInFork(self.0, pg_sys::ForkNumber::MAIN_FORKNUM)
                && pg_sys::heap_fetch(self.0, snapshot, &mut tuple, &mut buffer, false)
        };
        is_there.then(|| Pinned { tuple, buffer })
    }

    fn number(&self, at: &Pinned, column: i32) -> Option<i64> {
        let (mut tuple, mut is_null) = (at.tuple, false);
        // SAFETY: the relation is open, and the page of its row pinned.
        unsafe {
            let datum = pg_sys::heap_getattr(&mut tuple, column, (*self.0).rd_att, &mut is_null);
            i64::from_datum(datum, is_null)
        }
    }

    /// Locks a row as SELECT ... FOR NO KEY UPDATE SKIP LOCKED does, which is what its update needs; false where it is locked, or another has changed it.
    fn try_lock(&self, at: &Pinned) -> bool {
        let (mut tuple, mut buffer) = (at.tuple, 0);
        let mut failure = pg_sys::TM_FailureData::default();
        // SAFETY: the relation is open, and the page of its row pinned, as it is another time by the function.
        unsafe {
            let result = pg_sys::heap_lock_tuple(
                self.0,
                &mut tuple,
                pg_sys::GetCurrentCommandId(true),
                pg_sys::LockTupleMode::LockTupleNoKeyExclusive,
                pg_sys::LockWaitPolicy::LockWaitSkip,
                false,
                &mut buffer,
                &mut failure,
            );
            pg_sys::ReleaseBuffer(buffer);
            result == pg_sys::TM_Result::TM_Ok
        }
    }

    /// The number in a column of the row that is there now, if one is.
    fn number_at(&self, place: Place, column: i32) -> Option<i64> {
        self.at(place).and_then(|at| self.number(&at, column))
    }

    fn check_width(&self, columns: usize) {
        // SAFETY: the relation is open.
        let has = unsafe { (*(*self.0).rd_att).natts as usize };
        assert_eq!(has, columns, "a row has a value for each column");
    }

    /// Calls `work` inside a guard, with the indexes of the table.
    fn with_indexes<T>(&self, work: impl FnOnce(&Indexes, &mut bool) -> T) -> T {
        // SAFETY: the relation is open. Its indexes stay open until all is inserted, or the error that ends the transaction
        // releases them.
        unsafe {
            let done = pg_sys::ffi::pg_guard_ffi_boundary(|| {
                let indexes = Indexes::open(self.0)?;
                let mut has_pushed = false;
                let result = work(&indexes, &mut has_pushed);
                indexes.close();
                if has_pushed {
                    raw::PopActiveSnapshot();
                }
                Ok(result)
            });
            done.unwrap_or_else(|index| refuse(index))
        }
    }

    /// Called inside a guard. Pushes a snapshot where the first row needs one; an error pops it with the transaction.
    unsafe fn put<const COLUMNS: usize>(
        &self,
        row: &[Value; COLUMNS],
        how: How,
        indexes: &Indexes,
        has_pushed: &mut bool,
    ) -> Option<Place> {
        let mut values = [pg_sys::Datum::from(0); COLUMNS];
        let mut nulls = [true; COLUMNS];
        // SAFETY: values and nulls have as many entries as the table has columns, and an index has columns of it.
        unsafe {
            for ((value, null), given) in values.iter_mut().zip(&mut nulls).zip(row) {
                if let Some(datum) = given.datum() {
                    (*value, *null) = (datum, false);
                }
            }
            let tuple = raw::heap_form_tuple((*self.0).rd_att, values.as_mut_ptr(), nulls.as_mut_ptr());
            // Whoever writes to a TOAST table must hold one; a transaction that commits has none any more.
            if ((*tuple).t_len > SHORT || has_assertions()) && !raw::ActiveSnapshotSet() {
                raw::PushActiveSnapshot(raw::GetTransactionSnapshot());
                *has_pushed = true;
            }
            match how {
                // `simple_heap_insert`, with options.
                How::New(options) => {
                    let command = raw::GetCurrentCommandId(true);
                    raw::heap_insert(self.0, tuple, command, options, std::ptr::null_mut())
                }
                How::InPlaceOf(Place(mut place)) => {
                    #[cfg(feature = "pg15")]
                    raw::simple_heap_update(self.0, &mut place, tuple);
                    #[cfg(not(feature = "pg15"))]
                    raw::simple_heap_update(self.0, &mut place, tuple, &mut 0);
                }
            }
            let place = Place((*tuple).t_self);
            // On the page of the one before it, with the same keys: the indexes know that one.
            if (*(*tuple).t_data).t_infomask2 & pg_sys::HEAP_ONLY_TUPLE as u16 != 0 {
                return Some(place);
            }
            for (index, info) in indexes.iter() {
                self.insert_key(&values, &nulls, &mut (*tuple).t_self, *index, *info);
            }
            Some(place)
        }
    }

    unsafe fn insert_key(
        &self,
        values: &[pg_sys::Datum],
        nulls: &[bool],
        place: &mut pg_sys::ItemPointerData,
        index: pg_sys::Relation,
        info: *mut pg_sys::IndexInfo,
    ) {
        const KEYS: usize = pg_sys::INDEX_MAX_KEYS as usize;
        let mut key = [pg_sys::Datum::from(0); KEYS];
        let mut key_nulls = [true; KEYS];
        // SAFETY: the columns of such an index count those of the table from one.
        unsafe {
            let columns = (*info).ii_NumIndexAttrs as usize;
            for (n, column) in (*info).ii_IndexAttrNumbers.iter().enumerate().take(columns) {
                (key[n], key_nulls[n]) = (values[*column as usize - 1], nulls[*column as usize - 1]);
            }
            raw::index_insert(
                index,
                key.as_mut_ptr(),
                key_nulls.as_mut_ptr(),
                place,
                self.0,
                pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO,
                false,
                info,
            );
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
