//! Statements that read or write a protected table without its policies: what `tenancy.bypass_guard` tells of, or refuses.

use pgrx::{pg_sys, prelude::*};

use super::{
    distribute, hook, running,
    statement::{bypassed, entries, has_lost_policies, has_policy, is_exempt},
};

/// Judges the tables that a statement reads or writes without their policies.
#[pg_guard]
pub unsafe extern "C-unwind" fn guard(query: *const pg_sys::QueryDesc) {
    // SAFETY: a valid query.
    unsafe {
        // PostgreSQL's own checks of foreign keys see all rows by design.
        // But not what runs inside one: whoever deletes a row does not mean what a trigger of another table does with all rows.
        let is_inside = running::is_inside_check();
        if let Some(judges) = hook::judges()
            && (is_inside || !running::is_check())
            && !super::user::means_all_rows()
            && !super::user::alters_all_rows()
        {
            let plan = (*query).plannedstmt;
            for cell in entries((*plan).rtable) {
                if let Some(table) = bypassed(plan, cell.ptr_value.cast(), judges.policy) {
                    (judges.bypass)(table, is_inside);
                }
            }
        }
    }
}

/// The same for COPY of a table, which reads or writes it without a query where no policy applies.
#[pg_guard]
pub unsafe extern "C-unwind" fn guard_copy(statement: *const pg_sys::CopyStmt) {
    // SAFETY: a valid statement, of which `relation` is null or names a table.
    unsafe {
        if let Some(judges) = hook::judges()
            && let Some(table) = copied(statement)
            && (has_policy(table, judges.policy) || has_lost_policies(table))
        {
            // PostgreSQL copies nothing itself where it leaves out the policies of the owner.
            (judges.bypass)(table, running::is_check());
        }
    }
}

/// The table that COPY reads or writes itself; none where that is a query, or all rows are meant.
pub unsafe fn copied(statement: *const pg_sys::CopyStmt) -> Option<pg_sys::Oid> {
    // SAFETY: a valid statement.
    unsafe {
        if super::user::means_all_rows() {
            return None;
        }
        table_of(statement).filter(|table| is_exempt(*table, pg_sys::InvalidOid))
    }
}

/// The table that COPY names, which is locked.
unsafe fn table_of(statement: *const pg_sys::CopyStmt) -> Option<pg_sys::Oid> {
    // SAFETY: a valid statement, of which `relation` is null or names a table.
    unsafe {
        let name = (*statement).relation;
        if name.is_null() {
            return None;
        }
        let flags = pg_sys::RVROption::RVR_MISSING_OK;
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let table = pg_sys::RangeVarGetRelidExtended(name, lock, flags, None, std::ptr::null_mut());
        (table != pg_sys::InvalidOid).then_some(table)
    }
}

/// Refuses COPY into a protected table whose policies apply, in PostgreSQL's words. It does so itself where it runs the command; another extension may
/// run it in its place, and write what no policy has seen, as Citus does with a distributed table that has rows on this server. COPY from a distributed table
/// is one of each shard, by connections that no tenant is told to.
#[pg_guard]
pub unsafe extern "C-unwind" fn refuse_copy(statement: *const pg_sys::CopyStmt) {
    // SAFETY: a valid statement.
    unsafe {
        let is_from = (*statement).is_from;
        let right = if is_from { pg_sys::ACL_INSERT } else { pg_sys::ACL_SELECT };
        if (is_from || distribute::is_loaded())
            && let Some(judges) = hook::judges()
            && let Some(table) = table_of(statement)
            && has_policy(table, judges.policy)
            // Whoever has no privilege is told so; and whoever wants all rows, or none, by PostgreSQL here.
            && super::user::has_right(table, right as _)
            && pg_sys::check_enable_rls(table, pg_sys::InvalidOid, false)
                == pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32
            && (is_from || distribute::is_distributed(table))
        {
            let (text, hint) = match is_from {
                true => ("COPY FROM not supported with row-level security", "Use INSERT statements instead."),
                false => (
                    "COPY of a distributed table not supported with row-level security",
                    "Use COPY (SELECT ...) TO instead.",
                ),
            };
            super::ErrorReport::new(PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED, text, "tenancy")
                .set_hint(hint)
                .report(PgLogLevel::ERROR);
        }
    }
}

/// Reads a parameter; nothing in it raises.
pub fn is_on() -> bool {
    hook::judges().is_some_and(|judges| (judges.is_guarding)())
}
