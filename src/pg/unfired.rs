//! Commands that weaken protection, or make a table, and fire no event trigger: somebody is told of them.

use std::sync::OnceLock;

use pgrx::{pg_guard, pg_sys};

use super::statement::entries;

/// Who is told.
#[derive(Clone, Copy)]
pub struct Listener {
    /// What these roles own in this database is about to become that of another.
    pub reassigns: fn(&[pg_sys::Oid], pg_sys::Oid),
    /// EXPLAIN ANALYZE has made a table.
    pub made: fn(pg_sys::Oid),
}

static LISTENER: OnceLock<Listener> = OnceLock::new();

/// To be called when the library is loaded.
pub fn listen(listener: Listener) {
    LISTENER.get_or_init(|| listener);
}

/// REASSIGN OWNED. A role that does not exist is for PostgreSQL to tell.
#[pg_guard]
pub(super) unsafe extern "C-unwind" fn reassigns(statement: *mut pg_sys::ReassignOwnedStmt) {
    // SAFETY: a valid statement, whose list is of roles.
    unsafe {
        let number = |role: *mut pg_sys::RoleSpec| pg_sys::get_rolespec_oid(role, true);
        let from = entries((*statement).roles).iter().map(|cell| number(cell.ptr_value.cast()));
        let from = from.filter(|role| *role != pg_sys::InvalidOid).collect::<Vec<_>>();
        if let Some(listener) = LISTENER.get() {
            (listener.reassigns)(&from, number((*statement).newrole));
        }
    }
}

/// What EXPLAIN of CREATE TABLE AS or SELECT INTO would make; null for other commands, and where there is something of that name.
pub(super) unsafe fn makes(command: *const pg_sys::Node) -> *mut pg_sys::RangeVar {
    // SAFETY: a node of the type that its tag tells. What EXPLAIN explains has been analyzed: it is a query.
    unsafe {
        let none = std::ptr::null_mut();
        if (*command).type_ != pg_sys::NodeTag::T_ExplainStmt {
            return none;
        }
        let query = (*command.cast::<pg_sys::ExplainStmt>()).query.cast::<pg_sys::Query>();
        if query.is_null() || (*query).type_ != pg_sys::NodeTag::T_Query || (*query).utilityStmt.is_null() {
            return none;
        }
        let explained = (*query).utilityStmt;
        if (*explained).type_ != pg_sys::NodeTag::T_CreateTableAsStmt {
            return none;
        }
        let name = (*(*explained.cast::<pg_sys::CreateTableAsStmt>()).into).rel;
        if find(name) == pg_sys::InvalidOid { name } else { none }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn find(name: *const pg_sys::RangeVar) -> pg_sys::Oid {
    let flags = pg_sys::RVROption::RVR_MISSING_OK;
    // SAFETY: the name of a relation, which need not be there.
    unsafe { pg_sys::RangeVarGetRelidExtended(name, pg_sys::NoLock as _, flags, None, std::ptr::null_mut()) }
}

/// EXPLAIN has ended, and may have made that.
#[pg_guard]
pub(super) unsafe extern "C-unwind" fn made(name: *const pg_sys::RangeVar) {
    // SAFETY: as above.
    let table = unsafe { find(name) };
    if let Some(listener) = LISTENER.get()
        && table != pg_sys::InvalidOid
    {
        (listener.made)(table);
    }
}
