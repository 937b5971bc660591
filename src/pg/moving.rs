//! Moving rows of a table to another as they are: what is read is of one moment, and what is removed fires no trigger.
//!
//! Queries run as the owner of the table, as the checks of foreign keys do: PostgreSQL leaves out the policies that the owner is forced
//! under then, and nothing of a user's (a CHECK, an expression of a generated column) has other rights than the owner's.
//! PostgreSQL's functions that are called for each row are declared raw, and called inside one guard for some rows at a time.

use std::collections::VecDeque;
use std::ffi::{CString, c_char, c_int};

use pgrx::datum::DatumWithOid;
use pgrx::spi::Error as SpiError;
use pgrx::{pg_sys, prelude::*};

use super::query::{PATH, Pinned, prepare};
use super::user::AsOwner;
use super::{running, setter, text::Text};
use crate::tenant::TenantId;

mod raw {
    use super::*;
    unsafe extern "C-unwind" {
        pub fn SPI_getbinval(
            row: pg_sys::HeapTuple,
            desc: pg_sys::TupleDesc,
            column: c_int,
            is_null: *mut bool,
        ) -> pg_sys::Datum;
        pub fn heap_fetch(
            table: pg_sys::Relation,
            snapshot: pg_sys::Snapshot,
            row: pg_sys::HeapTuple,
            buffer: *mut pg_sys::Buffer,
            is_kept: bool,
        ) -> bool;
        pub fn ReleaseBuffer(buffer: pg_sys::Buffer);
        pub fn simple_heap_delete(table: pg_sys::Relation, place: pg_sys::ItemPointer);
    }
}

/// Where a row is.
pub type Place = pg_sys::ItemPointerData;

/// An argument of type `tid[]`.
pub fn argument(places: Vec<Place>) -> DatumWithOid<'static> {
    // SAFETY: an array of places.
    unsafe { DatumWithOid::new(places, pg_sys::TIDARRAYOID) }
}

/// As many rows are read at a time.
const BATCH: usize = 1000;

/// What was committed at a moment, and what this transaction had done by then. It is kept until it is ended, or until an error ends the
/// (sub)transaction that has taken it.
pub struct Moment {
    snapshot: pg_sys::Snapshot,
    owner: pg_sys::ResourceOwner,
}

impl Moment {
    pub fn now() -> Moment {
        // SAFETY: called inside a transaction; a registered snapshot is a copy, which the resource owner releases after an error.
        unsafe {
            pg_sys::CommandCounterIncrement();
            let owner = pg_sys::CurrentResourceOwner;
            Moment { snapshot: pg_sys::RegisterSnapshotOnOwner(pg_sys::GetLatestSnapshot(), owner), owner }
        }
    }

    pub fn end(self) {
        // SAFETY: what `now` registered, with the same owner.
        unsafe { pg_sys::UnregisterSnapshotFromOwner(self.snapshot, self.owner) }
    }
}

/// Runs statements as the owner of a table, whose policies do not apply to them.
pub struct Mover {
    table: pg_sys::Oid,
}

impl Mover {
    pub fn of(table: pg_sys::Oid) -> Mover {
        Mover { table }
    }

    /// Runs a statement on what there was at a moment, and what this transaction has done by now; returns the number of rows, and the number
    /// in its first column where it returns a row.
    pub fn run(
        &self,
        at: &Moment,
        statement: &str,
        arguments: &[DatumWithOid],
    ) -> Result<(u64, Option<i64>), SpiError> {
        let _owner = AsOwner::unforced(self.table);
        let _pinned = Pinned::new(&[PATH]);
        Spi::connect_mut(|_| {
            let plan = prepare(statement, arguments)?;
            let mut values: Vec<_> = arguments
                .iter()
                .map(|one| one.datum().map_or(pg_sys::Datum::from(0), |datum| datum.sans_lifetime()))
                .collect();
            // SAFETY: a plan with as many arguments, none of which is null; the snapshot is registered.
            unsafe {
                let status = pg_sys::SPI_execute_snapshot(
                    plan,
                    values.as_mut_ptr(),
                    std::ptr::null(),
                    at.snapshot,
                    std::ptr::null_mut(),
                    false,
                    true,
                    0,
                );
                Spi::check_status(status)?;
                let first = pg_sys::SPI_tuptable.as_ref().filter(|_| pg_sys::SPI_processed > 0);
                let number = first.and_then(|table| {
                    let mut is_null = false;
                    let datum = pg_sys::SPI_getbinval(*table.vals, table.tupdesc, 1, &mut is_null);
                    (!is_null).then(|| datum.value() as i64)
                });
                Ok((pg_sys::SPI_processed, number))
            }
        })
    }

    /// Runs a command, `is_unforced` as what else runs here; returns how many rows it was about.
    pub fn command(
        &self,
        command: &str,
        is_unforced: bool,
        arguments: &[DatumWithOid],
    ) -> Result<usize, SpiError> {
        let _owner = if is_unforced { AsOwner::unforced(self.table) } else { AsOwner::of(self.table) };
        let _pinned = Pinned::new(&[PATH]);
        Spi::connect_mut(|client| Ok(client.update(command, None, arguments)?.len()))
    }

    /// Runs a statement about rows of a tenant in its context, as if the client's statement had begun with it.
    pub fn command_for(
        &self,
        tenant: &TenantId,
        command: &str,
        arguments: &[DatumWithOid],
    ) -> Result<usize, SpiError> {
        running::begin_anew();
        let done = {
            let _pinned = Pinned::new(&[PATH]);
            setter::set_for_now(tenant);
            self.command(command, false, arguments)
        };
        running::begin_anew();
        done
    }

    /// The texts that a query returns as its first column, of what the running statement sees, read as they are asked for.
    pub fn lines(&self, query: &str) -> Result<Lines, SpiError> {
        let portal = Spi::connect_mut(|_| {
            let _owner = AsOwner::unforced(self.table);
            let _pinned = Pinned::new(&[PATH]);
            // SAFETY: a plan without arguments, of which the portal keeps a copy, and the snapshot that is active. It lives until it is closed,
            // or its transaction ends.
            unsafe { open(prepare(query, &[])?) }
        })?;
        Ok(Lines { table: self.table, portal, read: VecDeque::new(), is_done: false })
    }

    /// Calls `each` on the places of the rows that a query returns, some at a time, of what there was at a moment.
    pub fn places(
        &self,
        at: &Moment,
        query: &str,
        mut each: impl FnMut(&mut [Place]) -> Result<(), SpiError>,
    ) -> Result<(), SpiError> {
        let portal = Spi::connect_mut(|_| {
            let _owner = AsOwner::unforced(self.table);
            let _pinned = Pinned::new(&[PATH]);
            let plan = prepare(query, &[])?;
            // SAFETY: a plan without arguments; the portal keeps the snapshot that is active, and a copy of the plan. It lives
            // until it is closed, or its transaction ends.
            unsafe {
                pg_sys::PushActiveSnapshot(at.snapshot);
                let portal = open(plan);
                pg_sys::PopActiveSnapshot();
                portal
            }
        })?;
        let mut places = [Place::default(); BATCH];
        loop {
            let count = Spi::connect_mut(|_| {
                let _owner = AsOwner::unforced(self.table);
                // SAFETY: an open portal, whose query returns the place of each row.
                unsafe { fetch(portal, &mut places) }
            });
            if count == 0 {
                break;
            }
            each(&mut places[..count])?;
        }
        // SAFETY: the portal that was opened above, which is not running.
        unsafe { pg_sys::SPI_cursor_close(portal) };
        Ok(())
    }
}

/// What `Mover::lines` reads.
pub struct Lines {
    table: pg_sys::Oid,
    portal: pg_sys::Portal,
    read: VecDeque<Text>,
    is_done: bool,
}

impl Iterator for Lines {
    type Item = Text;

    fn next(&mut self) -> Option<Text> {
        if self.read.is_empty() && !self.is_done {
            let read = Spi::connect_mut(|_| {
                let _owner = AsOwner::unforced(self.table);
                // SAFETY: an open portal, whose query returns texts; what is read is copied.
                unsafe { fetch_texts(self.portal) }
            });
            self.is_done = read.is_empty();
            if self.is_done {
                // SAFETY: the portal is not running.
                unsafe { pg_sys::SPI_cursor_close(self.portal) };
            }
            self.read.extend(read);
        }
        self.read.pop_front()
    }
}

unsafe fn open(plan: pg_sys::SPIPlanPtr) -> Result<pg_sys::Portal, SpiError> {
    // SAFETY: SPI is connected, and a snapshot active; the plan has no arguments.
    let portal = unsafe {
        pg_sys::SPI_cursor_open(std::ptr::null(), plan, std::ptr::null_mut(), std::ptr::null(), true)
    };
    if portal.is_null() { Err(SpiError::NoTupleTable) } else { Ok(portal) }
}

unsafe fn fetch_texts(portal: pg_sys::Portal) -> Vec<Text> {
    // SAFETY: SPI is connected; as many rows as it says.
    unsafe {
        pg_sys::SPI_cursor_fetch(portal, true, BATCH as _);
        let (table, count) = (pg_sys::SPI_tuptable, pg_sys::SPI_processed as usize);
        let text = |n: usize| {
            let mut is_null = false;
            let datum = raw::SPI_getbinval(*(*table).vals.add(n), (*table).tupdesc, 1, &mut is_null);
            Text::from_datum(datum, is_null)
        };
        pg_sys::ffi::pg_guard_ffi_boundary(|| (0..count).filter_map(text).collect())
    }
}

unsafe fn fetch(portal: pg_sys::Portal, places: &mut [Place; BATCH]) -> usize {
    // SAFETY: SPI is connected; as many rows as it says, each with a place that is not null.
    unsafe {
        pg_sys::SPI_cursor_fetch(portal, true, BATCH as _);
        let (table, count) = (pg_sys::SPI_tuptable, (pg_sys::SPI_processed as usize).min(BATCH));
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            for (n, place) in places.iter_mut().enumerate().take(count) {
                let mut is_null = false;
                let datum = raw::SPI_getbinval(*(*table).vals.add(n), (*table).tupdesc, 1, &mut is_null);
                *place = *datum.cast_mut_ptr::<Place>();
            }
        });
        count
    }
}

/// A table that is open for what concerns its rows one by one. Of PostgreSQL's own access method.
pub struct Heap(pg_sys::Relation);

impl Heap {
    /// Opens a table that this transaction has locked.
    pub fn open(table: pg_sys::Oid) -> Heap {
        // SAFETY: called inside a transaction, with the number of a table that is locked.
        Heap(unsafe { pg_sys::table_open(table, pg_sys::NoLock as i32) })
    }

    /// Whether this transaction keeps everybody else from the table.
    pub fn is_locked(&self) -> bool {
        let mode = pg_sys::AccessExclusiveLock as i32;
        // SAFETY: an open relation.
        unsafe { pg_sys::CheckRelationLockedByMe(self.0, mode, true) }
    }

    /// Puts the places first at which there was a row at that moment that is there now, and returns how many those are.
    pub fn split_at(&self, moment: &Moment, places: &mut [Place]) -> usize {
        let mut known = 0;
        // SAFETY: an open table and places of rows in it; what is alive in the frame is plain data.
        unsafe {
            pg_sys::ffi::pg_guard_ffi_boundary(|| {
                for n in 0..places.len() {
                    let mut row = pg_sys::HeapTupleData { t_self: places[n], ..Default::default() };
                    let mut buffer = 0;
                    if raw::heap_fetch(self.0, moment.snapshot, &mut row, &mut buffer, false) {
                        raw::ReleaseBuffer(buffer);
                        places.swap(known, n);
                        known += 1;
                    }
                }
            });
        }
        known
    }

    /// Removes rows, without any trigger or check. Nobody else may be able to change them.
    pub fn remove(&self, places: &mut [Place]) {
        // SAFETY: an open table and places of rows in it; what is alive in the frame is plain data.
        unsafe {
            pg_sys::ffi::pg_guard_ffi_boundary(|| {
                for place in places.iter_mut() {
                    raw::simple_heap_delete(self.0, place);
                }
            });
        }
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        // An error on the way closes it with the transaction's resources.
        if !std::thread::panicking() {
            // SAFETY: what `open` opened; the lock is kept.
            unsafe { pg_sys::table_close(self.0, pg_sys::NoLock as i32) }
        }
    }
}

/// Adds a CHECK that is known to hold for all rows of a table, by a command as ALTER TABLE takes it, without reading the table: as PostgreSQL
/// does for a new table, whoever calls answers for the rows. The caller has locked it.
pub fn add_known_check(table: pg_sys::Oid, command: &str) {
    let text = CString::new(command).unwrap_or_default();
    // SAFETY: a C string; the tags of the nodes tell their types. The table is locked and open.
    unsafe {
        let statements = pg_sys::raw_parser(text.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_DEFAULT);
        let check = super::statement::entries(statements)
            .first()
            .map(|cell| (*cell.ptr_value.cast::<pg_sys::RawStmt>()).stmt)
            .filter(|node| (**node).type_ == pg_sys::NodeTag::T_AlterTableStmt)
            .and_then(|node| super::statement::entries((*node.cast::<pg_sys::AlterTableStmt>()).cmds).first())
            .map(|cell| (*cell.ptr_value.cast::<pg_sys::AlterTableCmd>()).def)
            .filter(|node| !node.is_null() && (**node).type_ == pg_sys::NodeTag::T_Constraint)
            .filter(|node| (*node.cast::<pg_sys::Constraint>()).contype == pg_sys::ConstrType::CONSTR_CHECK);
        let Some(check) = check else {
            crate::error::Error::Internal("not a command that adds a CHECK").raise()
        };
        let relation = pg_sys::table_open(table, pg_sys::NoLock as i32);
        let checks = pg_sys::lappend(std::ptr::null_mut(), check.cast());
        pg_sys::AddRelationNewConstraints(
            relation,
            std::ptr::null_mut(),
            checks,
            false,
            true,
            false,
            text.as_ptr().cast::<c_char>(),
        );
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
        pg_sys::CommandCounterIncrement();
    }
}
